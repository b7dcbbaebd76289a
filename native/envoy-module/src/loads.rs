//! What the engines say of themselves, as the agent of this host writes it into one small file
//! (docs/reference/engine-loads.md); named by the environment variable `HEADRACE_ENGINE_LOADS`.
//!
//! One thread, begun with the first pool where the variable is set, looks at the file four times a second and corrects
//! the pools' books. It never calls Envoy. Whatever stands in the file, requests go on: what is no load is passed over,
//! and what is too old counts no more.

use crate::abi::guarded;
use crate::clock;
use crate::pools::{all_pools, PoolState};
use crate::request::hash_of;
use scheduler::OwnLoad;
use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The environment variable that names the file.
pub const VARIABLE: &str = "HEADRACE_ENGINE_LOADS";
const FIRST_WORD: &str = "headrace-engine-loads";
const VERSION: &str = "1";
/// Seconds between two looks at the file.
const PERIOD: f64 = 0.25;
/// Seconds after which what an engine said counts no more.
const STALE: f64 = 5.0;
const MOST_BYTES: u64 = 1 << 20;
const MOST_LINES: usize = 8192;
const MOST_REQUESTS: f64 = 1e6;
const MOST_TOKENS: f64 = 1e9;
const MOST_ADAPTERS: usize = 64;
/// What the pool had at an endpoint when its engine was asked is known within this many seconds.
const WINDOW: f64 = 0.3;
const O_NONBLOCK: i32 = 0o4000;

/// What an engine says of itself; None where it does not say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Load {
    /// Requests in its queue.
    pub waiting: Option<f64>,
    /// Requests in its batch.
    pub running: Option<f64>,
    /// Share of its KV cache in use.
    pub kv_used: Option<f64>,
    /// Tokens that its KV cache holds.
    pub kv_tokens: Option<f64>,
    /// Requests that it can run at once.
    pub slots: Option<f64>,
    /// Adapters that it can run at once.
    pub most_adapters: Option<f64>,
    /// Adapters that run now, by the hashes of their names.
    pub adapters: Vec<u64>,
}

impl Load {
    /// Takes note of one value; whether it is one.
    pub fn note(&mut self, key: &str, value: f64) -> bool {
        let (field, most) = match key {
            "waiting" => (&mut self.waiting, MOST_REQUESTS),
            "running" => (&mut self.running, MOST_REQUESTS),
            "kv_used" => (&mut self.kv_used, 1.0),
            "kv_tokens" => (&mut self.kv_tokens, MOST_TOKENS),
            "slots" => (&mut self.slots, MOST_REQUESTS),
            "most_adapters" => (&mut self.most_adapters, MOST_REQUESTS),
            _ => return true, // of a newer agent
        };
        if !(value.is_finite() && value >= 0.0) {
            return false;
        }
        *field = Some(value.min(most));
        true
    }
}

/// One line of the file: which endpoint, seconds since it said so when the file was written, and what.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    name: u64,
    age: f64,
    load: Load,
}

#[derive(Debug, PartialEq)]
struct Page {
    /// Seconds since 1970, by the clock of this machine.
    written: f64,
    lines: Vec<Line>,
}

/// The file's contents; None where it is of another kind or version. Lines that cannot be understood are passed over.
fn parse(text: &[u8]) -> Option<Page> {
    let mut lines = text.split(|&byte| byte == b'\n');
    let mut head = std::str::from_utf8(lines.next()?).ok()?.split(' ');
    if head.next()? != FIRST_WORD || head.next()? != VERSION {
        return None;
    }
    let written: u64 = head.next()?.parse().ok()?;
    Some(Page {
        written: written as f64 / 1000.0,
        lines: joined(lines.take(MOST_LINES).filter_map(parse_line)),
    })
}

/// Adapters stand in a line of their own, after the endpoint's other line.
fn joined(lines: impl Iterator<Item = Line>) -> Vec<Line> {
    let mut found: Vec<Line> = Vec::new();
    for mut line in lines {
        match found.last_mut() {
            Some(last) if last.name == line.name && !line.load.adapters.is_empty() => {
                last.load.adapters.append(&mut line.load.adapters);
                last.load.adapters.truncate(MOST_ADAPTERS);
            }
            _ => found.push(line),
        }
    }
    found
}

fn parse_line(line: &[u8]) -> Option<Line> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let address = words.next().filter(|address| !address.is_empty())?;
    let mut age = None;
    let mut load = Load::default();
    for word in words {
        let (key, value) = word.split_once('=')?;
        if key == "adapters" {
            let names = value.split(',').take(MOST_ADAPTERS);
            load.adapters = names.map(|name| hash_of(&unquoted(name))).collect();
            continue;
        }
        let value: f64 = value.parse().ok()?;
        if key == "age_ms" {
            age = Some(value / 1000.0).filter(|age| *age >= 0.0);
        } else if !load.note(key, value) {
            return None;
        }
    }
    Some(Line {
        name: hash_of(address.as_bytes()),
        age: age?,
        load,
    })
}

/// The bytes that a name stands for: `%` and two hexadecimal digits are one.
fn unquoted(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| first == b'%');
        let coded = digits.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        bytes.push(coded.unwrap_or(first));
        rest = &after[if coded.is_some() { 2 } else { 0 }..];
    }
    bytes
}

/// The most that pools had at their endpoints between two looks, during the last seconds, so that what an engine said is
/// compared with what was there when it said it.
#[derive(Debug, Default)]
struct History {
    moments: VecDeque<(f64, Moment)>,
}

/// By pool and endpoint.
type Moment = HashMap<(u64, u64), OwnLoad>;

impl History {
    fn note(&mut self, pools: &[Arc<PoolState>], now: f64) {
        let mut moment = Moment::new();
        for pool in pools {
            let key = hash_of(pool.name().as_bytes());
            pool.take_peaks(|name, own| {
                let _ = moment.insert((key, name), own);
            });
        }
        self.moments.push_back((now, moment));
        while self
            .moments
            .front()
            .map_or(false, |(at, _)| *at < now - STALE - 2.0 * WINDOW)
        {
            let _ = self.moments.pop_front();
        }
    }

    /// The most that the pool had there around that time; None where nothing is known.
    fn around(&self, at: f64, pool: u64, name: u64) -> Option<OwnLoad> {
        let about = at - WINDOW..=at + WINDOW + PERIOD; // a moment tells of the time since the one before
        let near = self.moments.iter().filter(|(time, _)| about.contains(time));
        near.filter_map(|(_, moment)| moment.get(&(pool, name)).copied())
            .reduce(|one, other| OwnLoad {
                in_flight: one.in_flight.max(other.in_flight),
                prefilling: one.prefilling.max(other.prefilling),
            })
    }
}

/// What was said last of an endpoint, and when ([`clock::now`]).
#[derive(Debug, Clone)]
struct Said {
    at: f64,
    load: Load,
}

/// What the thread knows.
#[derive(Debug, Default)]
struct Reader {
    history: History,
    said: HashMap<u64, Said>,
    seen: Option<(u64, i64, i64, u64)>,
}

impl Reader {
    /// One look: new words reach the pools, old ones are taken back.
    fn look(&mut self, file: &Path, now: f64) {
        let pools = all_pools();
        self.history.note(&pools, now);
        self.greet(&pools);
        if let Some(page) = self.changed(file) {
            self.hear(&page, unix_now(), &pools, now);
        }
        self.forget(&pools, now);
    }

    /// The file's contents, if it is another one than last time.
    fn changed(&mut self, file: &Path) -> Option<Page> {
        let seen = fs::symlink_metadata(file).ok().map(|found| identity(&found))?;
        if self.seen == Some(seen) {
            return None;
        }
        self.seen = Some(seen);
        parse(&read(file).ok()?)
    }

    fn hear(&mut self, page: &Page, unix: f64, pools: &[Arc<PoolState>], now: f64) {
        let since = (unix - page.written).max(0.0);
        for line in &page.lines {
            let age = line.age + since;
            if age > STALE {
                continue;
            }
            let said = Said {
                at: now - age,
                load: line.load.clone(),
            };
            let known = self.said.insert(line.name, said.clone());
            let same = known.map_or(false, |known| {
                known.load == said.load && (known.at - said.at).abs() < PERIOD / 2.0
            });
            if same {
                continue; // another endpoint's news made the file new
            }
            for pool in pools {
                let then = self.history.around(said.at, hash_of(pool.name().as_bytes()), line.name);
                pool.observe(line.name, &said.load, then);
            }
        }
    }

    /// Endpoints that came since the last look hear what was said before they came.
    fn greet(&self, pools: &[Arc<PoolState>]) {
        let mut moments = self.history.moments.iter().rev().map(|(_, moment)| moment);
        let (newest, before) = match (moments.next(), moments.next()) {
            (Some(newest), Some(before)) => (newest, before),
            _ => return,
        };
        for pool in pools {
            let key = hash_of(pool.name().as_bytes());
            for (&name, said) in &self.said {
                if newest.contains_key(&(key, name)) && !before.contains_key(&(key, name)) {
                    pool.observe(name, &said.load, None);
                }
            }
        }
    }

    fn forget(&mut self, pools: &[Arc<PoolState>], now: f64) {
        self.said.retain(|&name, said| {
            let fresh = now - said.at <= STALE;
            if !fresh {
                pools.iter().for_each(|pool| pool.forget_load(name));
            }
            fresh
        });
    }
}

/// Endpoints of which something was heard outside the file, and since when; it counts as long as the file's.
#[derive(Debug, Default)]
pub struct Heard {
    since: HashMap<u64, f64>,
    /// No entry is older.
    oldest: f64,
}

impl Heard {
    /// Something was heard.
    pub fn note(&mut self, name: u64, now: f64) {
        if self.since.is_empty() {
            self.oldest = now;
        }
        let _ = self.since.insert(name, now);
    }

    /// Gives up what is too old.
    pub fn expire(&mut self, now: f64, mut give_up: impl FnMut(u64)) {
        if self.since.is_empty() || now - self.oldest <= STALE {
            return;
        }
        self.since.retain(|&name, since| {
            let fresh = now - *since <= STALE;
            if !fresh {
                give_up(name);
            }
            fresh
        });
        self.oldest = self.since.values().copied().fold(now, f64::min);
    }
}

fn identity(file: &Metadata) -> (u64, i64, i64, u64) {
    (file.ino(), file.mtime(), file.mtime_nsec(), file.size())
}

/// A regular file of this process's own user, that nobody else may write.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    let about = file.metadata()?;
    let own = fs::metadata("/proc/self")?.uid();
    if !about.is_file() || about.uid() != own || about.mode() & 0o022 != 0 || about.size() > MOST_BYTES {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut text = Vec::with_capacity(about.size() as usize);
    let _ = Read::take(&file as &File, MOST_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

fn unix_now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

static BEGUN: AtomicBool = AtomicBool::new(false);

/// Begins to follow the file, once a process, where the environment names one.
pub fn begin() {
    if BEGUN.swap(true, Ordering::Relaxed) {
        return;
    }
    if let Some(file) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) {
        let file = PathBuf::from(file);
        let begun = thread::Builder::new()
            .name("headrace-loads".to_string())
            .spawn(move || follow(&file));
        if let Err(error) = begun {
            eprintln!("headrace module: engines' loads are not followed: {error}");
        }
    }
}

fn follow(file: &Path) {
    let mut reader = Reader::default();
    loop {
        guarded((), || reader.look(file, clock::now()));
        thread::sleep(Duration::from_secs_f64(PERIOD));
    }
}

#[cfg(test)]
#[path = "loads_tests.rs"]
mod tests;
