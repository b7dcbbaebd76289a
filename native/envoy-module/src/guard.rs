//! Who is revoked, and the end of connections with them.
//!
//! The agent of this host writes who is revoked into one small file, named by the environment variable
//! `HEADRACE_REVOKED` (docs/reference/identity.md). One thread looks at it ten times a second; when somebody came to it,
//! every live connection is woken in its own worker, and closed if its peer is among them. New handshakes are refused by
//! the revocation list; the guard looks at each connection once all the same, for a list may be withheld.
//! A file that cannot be read changes nothing.

use crate::abi::guarded;
use crate::abi::network::{Attribute, Connection, Waker};
use crate::pools::locked;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The environment variable that names the file.
pub const VARIABLE: &str = "HEADRACE_REVOKED";
const HEAD: &[u8] = b"headrace-revoked 1";
const PERIOD: Duration = Duration::from_millis(100);
const MOST_BYTES: u64 = 16 << 20;
const O_NONBLOCK: i32 = 0o4000;

/// Who is revoked: identities (SPIFFE URIs) and certificates (SHA-256 in lower-case hex).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    identities: HashSet<Vec<u8>>,
    certificates: HashSet<Vec<u8>>,
}

impl Revoked {
    /// Reads the file's contents; None where it is of another kind or version. Lines of other kinds are passed over.
    fn parse(text: &[u8]) -> Option<Self> {
        let mut lines = text.split(|&byte| byte == b'\n');
        if lines.next()? != HEAD {
            return None;
        }
        let mut found = Revoked::default();
        for line in lines {
            if let Some(name) = line.strip_prefix(b"identity ") {
                let _ = found.identities.insert(name.to_vec());
            } else if let Some(digest) = line.strip_prefix(b"certificate ") {
                let _ = found.certificates.insert(digest.to_ascii_lowercase());
            }
        }
        Some(found)
    }

    /// Whether somebody is in it who is not in `before`.
    fn adds_to(&self, before: &Revoked) -> bool {
        !self.identities.is_subset(&before.identities) || !self.certificates.is_subset(&before.certificates)
    }

    fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.certificates.is_empty()
    }

    fn has_identity(&self, uri: &[u8]) -> bool {
        self.identities.contains(uri)
    }

    /// Whether a digest is in it, written in hex of either case, with or without colons.
    fn has_certificate(&self, digest: &[u8]) -> bool {
        let plain: Vec<u8> = digest.iter().filter(|&&byte| byte != b':').copied().collect();
        self.certificates.contains(&plain.to_ascii_lowercase())
    }
}

static REVOKED: Mutex<Option<Arc<Revoked>>> = Mutex::new(None);
/// Whether anybody is revoked at all: nearly always nobody is, and then a connection costs no lock.
static ANY: AtomicBool = AtomicBool::new(false);
static LIVE: Mutex<Option<HashMap<u64, Arc<Waker>>>> = Mutex::new(None);
static NEXT: AtomicU64 = AtomicU64::new(0);

fn revoked() -> Option<Arc<Revoked>> {
    if ANY.load(Ordering::Acquire) {
        locked(&REVOKED).clone()
    } else {
        None
    }
}

/// Whether the server of a request is revoked, by URI names of its certificate (with commas between) and its digest.
pub fn is_revoked(uris: Option<&[u8]>, digest: Option<&[u8]>) -> bool {
    revoked().map_or(false, |revoked| {
        let named = uris.map_or(false, |uris| {
            uris.split(|&byte| byte == b',').any(|uri| revoked.has_identity(uri))
        });
        named || digest.map_or(false, |digest| revoked.has_certificate(digest))
    })
}

/// What is to become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may go on.
    Pass,
    /// Its peer is revoked.
    Revoked,
}

/// The guard of one connection.
#[derive(Debug)]
pub struct Guard {
    number: u64,
    new: Cell<bool>,
}

impl Guard {
    /// A guard that is woken by `waker` when somebody is revoked.
    pub fn new(waker: Waker) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let _ = locked(&LIVE)
            .get_or_insert_with(HashMap::new)
            .insert(number, Arc::new(waker));
        Guard {
            number,
            new: Cell::new(true),
        }
    }

    /// Whether the peer has not been looked at yet.
    pub fn is_new(&self) -> bool {
        self.new.get()
    }

    /// Looks at both ends of the connection: its client, and for TCP also the endpoint that it leads to.
    pub fn judge(&self, connection: &Connection<'_>) -> Verdict {
        self.new.set(false);
        let revoked = match revoked() {
            Some(revoked) => revoked,
            None => return Verdict::Pass,
        };
        let client = connection.is_tls()
            && (connection.any_peer_uri(|uri| revoked.has_identity(uri))
                || connection.attribute(Attribute::PeerDigest, |digest| revoked.has_certificate(digest)) == Some(true));
        let server = |attribute| connection.attribute(attribute, |value| value.to_vec());
        if client
            || is_revoked(
                server(Attribute::UpstreamUris).as_deref(),
                server(Attribute::UpstreamDigest).as_deref(),
            )
        {
            Verdict::Revoked
        } else {
            Verdict::Pass
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The waker is dropped after the lock is released: deleting it calls Envoy.
        let waker = locked(&LIVE).as_mut().and_then(|live| live.remove(&self.number));
        drop(waker);
    }
}

fn take_note(newest: Revoked) {
    let newest = Arc::new(newest);
    let before = locked(&REVOKED).replace(newest.clone());
    ANY.store(!newest.is_empty(), Ordering::Release);
    if newest.adds_to(&before.unwrap_or_default()) {
        let wakers: Vec<Arc<Waker>> = locked(&LIVE).iter().flat_map(HashMap::values).cloned().collect();
        wakers.iter().for_each(|waker| waker.wake());
        crate::guard_stream::wake_all();
    }
}

static BEGUN: AtomicBool = AtomicBool::new(false);

/// Begins to follow the file, once a process, where the environment names one. What it says at that time holds at once.
pub fn begin() {
    if BEGUN.swap(true, Ordering::Relaxed) {
        return;
    }
    if let Some(file) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) {
        let file = PathBuf::from(file);
        let mut seen = None;
        look(&file, &mut seen);
        let begun = thread::Builder::new()
            .name("headrace-guard".to_string())
            .spawn(move || loop {
                thread::sleep(PERIOD);
                guarded((), || look(&file, &mut seen));
            });
        if let Err(error) = begun {
            eprintln!("headrace module: who is revoked is not followed: {error}");
        }
    }
}

static TOLD: AtomicBool = AtomicBool::new(false);

type Seen = Option<(u64, i64, i64, u64)>;

fn look(file: &Path, seen: &mut Seen) {
    let about = match fs::metadata(file) {
        Ok(about) => (about.ino(), about.mtime(), about.mtime_nsec(), about.size()),
        Err(_) => return,
    };
    if *seen == Some(about) {
        return;
    }
    *seen = Some(about);
    match read(file).map(|text| Revoked::parse(&text)) {
        Ok(Some(newest)) => take_note(newest),
        Ok(None) => eprintln!("headrace module: {} is of another version", file.display()),
        Err(error) => {
            *seen = None; // tried again: its rights may come after it
            if !TOLD.swap(true, Ordering::Relaxed) {
                eprintln!("headrace module: {} cannot be used: {error}", file.display());
            }
        }
    }
}

/// A regular file of this process's user, or root's, that nobody else may write.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    let about = file.metadata()?;
    let own = fs::metadata("/proc/self")?.uid();
    let trusted = about.uid() == own || about.uid() == 0;
    if !about.is_file() || !trusted || about.mode() & 0o022 != 0 || about.size() > MOST_BYTES {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut text = Vec::with_capacity(about.size() as usize);
    let _ = Read::take(&file as &File, MOST_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Revoked {
        Revoked::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_file_is_understood_and_what_is_newer_passed_over() {
        let found = parsed("headrace-revoked 1\nidentity spiffe://a/ns/b/sa/c\ncertificate AB01\nhost x\n\n");
        assert!(found.has_identity(b"spiffe://a/ns/b/sa/c"));
        assert!(!found.has_identity(b"spiffe://a/ns/b/sa"));
        assert!(found.has_certificate(b"ab01") && found.has_certificate(b"AB:01"));
        assert!(!found.has_certificate(b"ab"));
        assert!(parsed("headrace-revoked 1").is_empty());
        for other in [
            "",
            "headrace-revoked 2\nidentity a",
            "{}",
            "identity a\nheadrace-revoked 1",
        ] {
            assert_eq!(Revoked::parse(other.as_bytes()), None);
        }
    }

    #[test]
    fn only_additions_wake() {
        let one = parsed("headrace-revoked 1\nidentity a\n");
        let two = parsed("headrace-revoked 1\nidentity a\ncertificate 00\n");
        assert!(two.adds_to(&one) && one.adds_to(&Revoked::default()));
        assert!(!one.adds_to(&two) && !one.adds_to(&one));
    }

    #[test]
    fn a_file_that_others_may_write_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("headrace-guard-{}", std::process::id()));
        fs::write(&path, "headrace-revoked 1\n").unwrap();
        assert!(read(&path).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read(&path).is_err());
        fs::remove_file(&path).unwrap();
        assert!(read(&std::env::temp_dir()).is_err());
    }
}
