//! The hooks of network filters, and what Envoy offers to them, as far as it is used here.

use super::{guarded, Envoy, EnvoyBuffer, ModuleBuffer, Ours};
use crate::guard::{Guard, Verdict};
use std::marker::PhantomData;
use std::os::raw::{c_int, c_void};
use std::ptr;

offered! {
    fn envoy_dynamic_module_callback_network_filter_is_ssl(connection: Envoy) -> bool;
    fn envoy_dynamic_module_callback_network_filter_get_ssl_uri_sans_size(connection: Envoy) -> usize;
    fn envoy_dynamic_module_callback_network_filter_get_ssl_uri_sans(connection: Envoy, names: *mut EnvoyBuffer) -> bool;
    fn envoy_dynamic_module_callback_network_filter_get_attribute_string(connection: Envoy, attribute: c_int, value: *mut EnvoyBuffer) -> bool;
    fn envoy_dynamic_module_callback_network_filter_close_with_details(connection: Envoy, kind: c_int, details: ModuleBuffer);
    fn envoy_dynamic_module_callback_network_filter_scheduler_new(connection: Envoy) -> *mut c_void;
    fn envoy_dynamic_module_callback_network_filter_scheduler_commit(scheduler: *mut c_void, event: u64);
    fn envoy_dynamic_module_callback_network_filter_scheduler_delete(scheduler: *mut c_void);
    fn envoy_dynamic_module_callback_network_filter_config_define_counter(config: Envoy, name: ModuleBuffer, id: *mut usize) -> c_int;
    fn envoy_dynamic_module_callback_network_filter_increment_counter(connection: Envoy, id: usize, by: u64) -> c_int;
}

/// Attributes of a connection, as numbers of the ABI.
#[derive(Clone, Copy)]
pub enum Attribute {
    /// URI names in the certificate of the endpoint's side.
    UpstreamUris = UPSTREAM_URIS,
    /// SHA-256 of the client's certificate, hex.
    PeerDigest = PEER_DIGEST,
    /// SHA-256 of the endpoint's certificate, hex.
    UpstreamDigest = UPSTREAM_DIGEST,
}

/// The number of `connection.sha256_peer_certificate_digest`.
pub const PEER_DIGEST: isize = 38;
/// The number of `upstream.uri_san_peer_certificate`.
pub const UPSTREAM_URIS: isize = 49;
/// The number of `upstream.sha256_peer_certificate_digest`.
pub const UPSTREAM_DIGEST: isize = 50;

const CLOSE_AT_ONCE: c_int = 1;
const CONTINUE: c_int = 0;
const STOP: c_int = 1;
const CONNECTED: c_int = 2;

/// A connection, for the time of one hook.
#[derive(Clone, Copy)]
pub struct Connection<'call> {
    envoy: Envoy,
    call: PhantomData<&'call ()>,
}

impl Connection<'_> {
    /// # Safety
    /// `envoy` is the filter that Envoy passed to the hook now running.
    unsafe fn new(envoy: Envoy) -> Self {
        Connection {
            envoy,
            call: PhantomData,
        }
    }

    /// Whether it is TLS.
    pub fn is_tls(&self) -> bool {
        // SAFETY: the connection is alive.
        unsafe { envoy_dynamic_module_callback_network_filter_is_ssl(self.envoy) }
    }

    /// Whether `test` is true of one of the URI names in the client's certificate.
    pub fn any_peer_uri(&self, test: impl Fn(&[u8]) -> bool) -> bool {
        // SAFETY: the connection is alive.
        let count = unsafe { envoy_dynamic_module_callback_network_filter_get_ssl_uri_sans_size(self.envoy) };
        if count == 0 {
            return false;
        }
        let mut names = vec![EnvoyBuffer::EMPTY; count];
        // SAFETY: there is room for as many names as Envoy has; they live as long as the connection.
        unsafe {
            envoy_dynamic_module_callback_network_filter_get_ssl_uri_sans(self.envoy, names.as_mut_ptr())
                && names.iter().any(|name| test(name.bytes()))
        }
    }

    /// Calls `read` with an attribute, where there is one.
    pub fn attribute<R>(&self, attribute: Attribute, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let mut value = EnvoyBuffer::EMPTY;
        // SAFETY: the connection is alive, the buffer is ours, and the bytes are read at once.
        unsafe {
            let there = envoy_dynamic_module_callback_network_filter_get_attribute_string(
                self.envoy,
                attribute as c_int,
                &mut value,
            );
            if there {
                Some(read(value.bytes()))
            } else {
                None
            }
        }
    }

    /// Closes it at once; `details` stand in the access log.
    pub fn close(&self, details: &str) {
        let details = ModuleBuffer::of(details.as_bytes());
        // SAFETY: the connection is alive, Envoy copies the text.
        unsafe {
            envoy_dynamic_module_callback_network_filter_close_with_details(self.envoy, CLOSE_AT_ONCE, details);
        }
    }

    /// Adds 1 to a counter.
    fn count(&self, counter: Option<usize>) {
        if let Some(id) = counter {
            // SAFETY: the connection is alive, its configuration defined the counter.
            let _ = unsafe { envoy_dynamic_module_callback_network_filter_increment_counter(self.envoy, id, 1) };
        }
    }

    /// A handle by which other threads can wake this connection.
    pub fn waker(&self) -> Waker {
        // SAFETY: the connection is alive.
        Waker(unsafe { envoy_dynamic_module_callback_network_filter_scheduler_new(self.envoy) })
    }
}

/// Wakes a connection from any thread; does nothing once it is gone.
#[derive(Debug)]
pub struct Waker(*mut c_void);

// SAFETY: Envoy's scheduler objects are made for other threads: `commit` posts to the worker and holds the filter weakly.
unsafe impl Send for Waker {}
// SAFETY: as above; `commit` may be called from several threads at once.
unsafe impl Sync for Waker {}

impl Waker {
    /// Has Envoy call the `scheduled` hook of the connection.
    pub fn wake(&self) {
        if !self.0.is_null() {
            // SAFETY: the scheduler lives until `drop`.
            unsafe { envoy_dynamic_module_callback_network_filter_scheduler_commit(self.0, 0) }
        }
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by `scheduler_new`, deleted exactly once.
            unsafe { envoy_dynamic_module_callback_network_filter_scheduler_delete(self.0) }
        }
    }
}

/// A configuration of the filter `guard`: what it counts.
struct Config {
    refused: Option<usize>,
    closed: Option<usize>,
}

/// # Safety
/// `config` is alive during the call.
unsafe fn counter(config: Envoy, name: &str) -> Option<usize> {
    let mut id = 0;
    // SAFETY: the configuration is alive, Envoy copies the name.
    let result = unsafe {
        let name = ModuleBuffer::of(name.as_bytes());
        envoy_dynamic_module_callback_network_filter_config_define_counter(config, name, &mut id)
    };
    if result == 0 {
        Some(id)
    } else {
        None
    }
}

/// One box per connection.
struct PerConnection {
    guard: Guard,
    refused: Option<usize>,
    closed: Option<usize>,
}

impl PerConnection {
    /// Looks at the peer; whether the connection was closed. `begun`: it has been in use before.
    fn judge(&self, connection: &Connection<'_>, begun: bool) -> bool {
        match self.guard.judge(connection) {
            Verdict::Pass => false,
            Verdict::Revoked => {
                connection.count(if begun { self.closed } else { self.refused });
                connection.close("revoked_peer_certificate");
                true
            }
        }
    }
}

/// # Safety
/// Envoy calls it on the main thread with buffers that are valid during the call.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_config_new(
    config: Envoy,
    name: EnvoyBuffer,
    settings: EnvoyBuffer,
) -> Ours {
    guarded(ptr::null(), || {
        // SAFETY: both buffers are Envoy's for this call.
        let (name, settings) = unsafe { (name.bytes(), settings.bytes()) };
        if name != b"guard" || !settings.is_empty() {
            eprintln!("headrace module: the network filter is called guard and takes no settings");
            return ptr::null();
        }
        crate::guard::begin();
        // SAFETY: the configuration is alive during this call.
        let config = unsafe {
            Config {
                refused: counter(config, "headrace_guard_refused"),
                closed: counter(config, "headrace_guard_closed"),
            }
        };
        Box::into_raw(Box::new(config)) as Ours
    })
}

/// # Safety
/// `config` is what `config_new` returned, and Envoy uses it no more.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_config_destroy(config: Ours) {
    guarded((), || {
        if !config.is_null() {
            // SAFETY: the box made by `config_new`, given back exactly once.
            drop(unsafe { Box::from_raw(config as *mut Config) });
        }
    });
}

/// # Safety
/// `config` is what `config_new` returned; `connection` is alive.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_new(config: Ours, connection: Envoy) -> Ours {
    guarded(ptr::null(), || {
        // SAFETY: Envoy keeps the configuration longer than its connections; only shared references are made to it.
        let (config, connection) = unsafe { (&*config.cast::<Config>(), Connection::new(connection)) };
        let ours = PerConnection {
            guard: Guard::new(connection.waker()),
            refused: config.refused,
            closed: config.closed,
        };
        Box::into_raw(Box::new(ours)) as Ours
    })
}

/// # Safety
/// `ours` is what `filter_new` returned, and Envoy uses it no more.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_destroy(ours: Ours) {
    guarded((), || {
        if !ours.is_null() {
            // SAFETY: the box made by `filter_new`, given back exactly once.
            drop(unsafe { Box::from_raw(ours as *mut PerConnection) });
        }
    });
}

/// Runs a hook's code.
///
/// # Safety
/// `connection` is alive during the call; `ours` is what `filter_new` returned.
unsafe fn on_connection<R: Copy>(
    connection: Envoy,
    ours: Ours,
    pass: R,
    code: impl FnOnce(&PerConnection, &Connection<'_>) -> R,
) -> R {
    if ours.is_null() {
        return pass;
    }
    guarded(pass, || {
        // SAFETY: the box made by `filter_new`; Envoy destroys a filter later than the hook that closes its connection.
        unsafe { code(&*ours.cast::<PerConnection>(), &Connection::new(connection)) }
    })
}

#[no_mangle]
extern "C" fn envoy_dynamic_module_on_network_filter_new_connection(_connection: Envoy, _ours: Ours) -> c_int {
    CONTINUE // the handshake is to come
}

/// # Safety
/// Envoy calls it with a connection that is alive and the pointer that `filter_new` returned for it.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_read(
    connection: Envoy,
    ours: Ours,
    _length: usize,
    _end: bool,
) -> c_int {
    // SAFETY: as promised by Envoy.
    unsafe {
        on_connection(connection, ours, CONTINUE, |ours, connection| {
            if ours.guard.is_new() && ours.judge(connection, false) {
                STOP
            } else {
                CONTINUE
            }
        })
    }
}

#[no_mangle]
extern "C" fn envoy_dynamic_module_on_network_filter_write(
    _connection: Envoy,
    _ours: Ours,
    _length: usize,
    _end: bool,
) -> c_int {
    CONTINUE
}

/// # Safety
/// Envoy calls it with a connection that is alive and the pointer that `filter_new` returned for it.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_event(connection: Envoy, ours: Ours, event: c_int) {
    // SAFETY: as promised by Envoy.
    unsafe {
        on_connection(connection, ours, (), |ours, connection| {
            if event == CONNECTED && ours.guard.is_new() {
                let _ = ours.judge(connection, false);
            }
        });
    }
}

/// # Safety
/// Envoy calls it with a connection that is alive and the pointer that `filter_new` returned for it.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_network_filter_scheduled(connection: Envoy, ours: Ours, _event: u64) {
    // SAFETY: as promised by Envoy.
    unsafe {
        on_connection(connection, ours, (), |ours, connection| {
            let _ = ours.judge(connection, !ours.guard.is_new());
        });
    }
}
