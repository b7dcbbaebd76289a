//! The C functions by which Envoy 1.40 calls this module (dynamic modules ABI v0.2.0, HTTP filters).
//!
//! Envoy resolves every event hook of an HTTP filter when it loads the module, used or not, so all of them stand here.
//! Envoy's pointers are opaque to us; ours are boxes that Envoy hands back until it calls the matching `destroy`.
//! A hook that runs code of ours runs it under [`guarded`]: a panic becomes "let it pass", never an abort of Envoy.

use std::os::raw::{c_char, c_int, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::slice;

use crate::filter::FilterConfig;

/// The ABI version behind a mark that tools find in the file without loading it (headrace.envoy.module does).
/// Envoy gets the very same bytes from `program_init`, so the two cannot differ.
static ABI: &[u8] = b"headrace-module-abi=v0.2.0\0";
const ABI_MARK: usize = b"headrace-module-abi=".len();

/// Answer of every request, response and local reply hook: go on. It is 0 in each of the ABI's status enums.
type Status = c_int;
const CONTINUE: Status = 0;

/// Bytes that Envoy owns and lends for the time of one call.
#[repr(C)]
pub struct EnvoyBuffer {
    data: *const u8,
    length: usize,
}

impl EnvoyBuffer {
    /// # Safety
    /// The buffer must come from Envoy in this call, and the bytes must not be kept beyond it.
    unsafe fn bytes<'call>(&self) -> &'call [u8] {
        if self.data.is_null() || self.length == 0 {
            return &[];
        }
        // SAFETY: Envoy lends `length` readable bytes at `data` until the hook returns (the caller's promise).
        unsafe { slice::from_raw_parts(self.data, self.length) }
    }
}

/// Runs code of ours; where it panics (the message has gone to standard error), the answer is `fallback`.
fn guarded<R>(fallback: R, code: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(code)).unwrap_or(fallback)
}

#[no_mangle]
extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    ABI[ABI_MARK..].as_ptr().cast()
}

/// # Safety
/// Envoy calls it on the main thread with buffers that are valid during the call.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_new(
    _config: *mut c_void,
    name: EnvoyBuffer,
    settings: EnvoyBuffer,
) -> *const c_void {
    guarded(ptr::null(), || {
        // SAFETY: both buffers are Envoy's for this call, and `parse` keeps copies only.
        let parsed = unsafe { FilterConfig::parse(name.bytes(), settings.bytes()) };
        match parsed {
            Ok(config) => Box::into_raw(Box::new(config)) as *const c_void,
            Err(problem) => {
                eprintln!("headrace module: {problem}");
                ptr::null()
            }
        }
    })
}

/// # Safety
/// `config` is what `config_new` returned, and Envoy uses it no more.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_destroy(config: *const c_void) {
    guarded((), || {
        if !config.is_null() {
            // SAFETY: the pointer is the box made by `config_new`, given back exactly once.
            drop(unsafe { Box::from_raw(config as *mut FilterConfig) });
        }
    });
}

/// A route's own settings: there are none to give, so any are refused (null rejects the route).
#[no_mangle]
extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_new(
    _name: EnvoyBuffer,
    _settings: EnvoyBuffer,
) -> *const c_void {
    ptr::null()
}

#[no_mangle]
extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_destroy(_config: *const c_void) {}

/// `noop` keeps nothing per stream: its configuration's pointer serves as the (never null) pointer of each stream.
#[no_mangle]
extern "C" fn envoy_dynamic_module_on_http_filter_new(config: *const c_void, _stream: *mut c_void) -> *const c_void {
    config
}

#[no_mangle]
extern "C" fn envoy_dynamic_module_on_http_filter_destroy(_filter: *const c_void) {}

/// Hooks that are asked what to do, and answer "go on".
macro_rules! passing {
    ($($hook:ident($($kind:ty),*);)*) => { $(
        #[no_mangle]
        extern "C" fn $hook($(_: $kind),*) -> Status { CONTINUE }
    )* };
}

/// Hooks that are told something, and do nothing.
macro_rules! ignoring {
    ($($hook:ident($($kind:ty),*);)*) => { $(
        #[no_mangle]
        extern "C" fn $hook($(_: $kind),*) {}
    )* };
}

type Envoy = *mut c_void;
type Ours = *const c_void;
type Headers = *const c_void;
type Chunks = *const c_void;

passing! {
    envoy_dynamic_module_on_http_filter_request_headers(Envoy, Ours, bool);
    envoy_dynamic_module_on_http_filter_request_body(Envoy, Ours, bool);
    envoy_dynamic_module_on_http_filter_request_trailers(Envoy, Ours);
    envoy_dynamic_module_on_http_filter_response_headers(Envoy, Ours, bool);
    envoy_dynamic_module_on_http_filter_response_body(Envoy, Ours, bool);
    envoy_dynamic_module_on_http_filter_response_trailers(Envoy, Ours);
    envoy_dynamic_module_on_http_filter_local_reply(Envoy, Ours, u32, EnvoyBuffer, bool);
}

ignoring! {
    envoy_dynamic_module_on_http_filter_stream_complete(Envoy, Ours);
    envoy_dynamic_module_on_http_filter_scheduled(Envoy, Ours, u64);
    envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(Envoy, Ours);
    envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(Envoy, Ours);
    envoy_dynamic_module_on_http_filter_http_callout_done(Envoy, Ours, u64, c_int, Headers, usize, Chunks, usize);
    envoy_dynamic_module_on_http_filter_http_stream_headers(Envoy, Ours, u64, Headers, usize, bool);
    envoy_dynamic_module_on_http_filter_http_stream_data(Envoy, Ours, u64, Chunks, usize, bool);
    envoy_dynamic_module_on_http_filter_http_stream_trailers(Envoy, Ours, u64, Headers, usize);
    envoy_dynamic_module_on_http_filter_http_stream_complete(Envoy, Ours, u64);
    envoy_dynamic_module_on_http_filter_http_stream_reset(Envoy, Ours, u64, c_int);
    envoy_dynamic_module_on_http_filter_config_scheduled(Envoy, Ours, u64);
    envoy_dynamic_module_on_http_filter_config_http_callout_done(Envoy, Ours, u64, c_int, Headers, usize, Chunks, usize);
    envoy_dynamic_module_on_http_filter_config_http_stream_headers(Envoy, Ours, u64, Headers, usize, bool);
    envoy_dynamic_module_on_http_filter_config_http_stream_data(Envoy, Ours, u64, Chunks, usize, bool);
    envoy_dynamic_module_on_http_filter_config_http_stream_trailers(Envoy, Ours, u64, Headers, usize);
    envoy_dynamic_module_on_http_filter_config_http_stream_complete(Envoy, Ours, u64);
    envoy_dynamic_module_on_http_filter_config_http_stream_reset(Envoy, Ours, u64, c_int);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn lend(bytes: &[u8]) -> EnvoyBuffer {
        EnvoyBuffer {
            data: bytes.as_ptr(),
            length: bytes.len(),
        }
    }

    #[test]
    fn the_abi_version_is_the_one_of_envoy_1_40() {
        // SAFETY: the pointer is to a static that ends with a zero byte.
        let version = unsafe { CStr::from_ptr(envoy_dynamic_module_on_program_init()) };
        assert_eq!(version.to_bytes(), b"v0.2.0");
    }

    #[test]
    fn a_known_filter_gets_a_pointer_that_can_be_destroyed() {
        // SAFETY: the buffers outlive the calls; the pointer is destroyed once.
        unsafe {
            let config = envoy_dynamic_module_on_http_filter_config_new(ptr::null_mut(), lend(b"noop"), lend(b""));
            assert!(!config.is_null());
            assert_eq!(envoy_dynamic_module_on_http_filter_new(config, ptr::null_mut()), config);
            envoy_dynamic_module_on_http_filter_config_destroy(config);
        }
    }

    #[test]
    fn an_unknown_filter_and_a_null_buffer_are_refused_with_null() {
        // SAFETY: a null buffer of length 0 is what Envoy passes for an empty string.
        unsafe {
            let empty = || EnvoyBuffer {
                data: ptr::null(),
                length: 0,
            };
            assert!(envoy_dynamic_module_on_http_filter_config_new(ptr::null_mut(), lend(b"other"), empty()).is_null());
            assert!(envoy_dynamic_module_on_http_filter_config_new(ptr::null_mut(), empty(), empty()).is_null());
        }
    }

    #[test]
    fn a_panic_becomes_the_fallback() {
        assert_eq!(guarded(7, || panic!("on purpose")), 7);
        assert_eq!(guarded(7, || 8), 8);
    }
}
