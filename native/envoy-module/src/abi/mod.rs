//! The C functions between Envoy 1.40 and this module (dynamic modules ABI v0.2.0): those that Envoy calls (`http`,
//! `balancer`) and those that it offers (`callbacks`, `balancing`). The only place with unsafe code.
//!
//! Envoy's pointers are opaque to us; ours are boxes that Envoy hands back until it calls the matching `destroy`.
//! A hook that runs code of ours runs it under [`guarded`]: a panic becomes "let it pass", never an abort of Envoy.
//! Callbacks may call hooks of the same stream before they return, so hooks get shared references only.

/// Declares Envoy's functions. In tests, which run without Envoy, they exist and must not be called.
macro_rules! offered {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) $(-> $answer:ty)?;)*) => {
        #[cfg(not(test))]
        extern "C" { $(fn $name($($argument: $kind),*) $(-> $answer)?;)* }
        $(#[cfg(test)]
        unsafe extern "C" fn $name($(_: $kind),*) $(-> $answer)? { unreachable!("there is no Envoy in tests") })*
    };
}

pub mod answering;
mod balancer;
pub mod balancing;
pub mod callbacks;
mod context;
pub mod http;
pub mod network;

use std::os::raw::{c_char, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

/// The ABI version behind a mark that tools find in the file without loading it (headrace.envoy.module does).
/// Envoy gets the very same bytes from `program_init`, so the two cannot differ.
static ABI: &[u8] = b"headrace-module-abi=v0.2.0\0";
const ABI_MARK: usize = b"headrace-module-abi=".len();

/// A pointer of Envoy's.
type Envoy = *mut c_void;
/// A pointer of ours.
type Ours = *const c_void;

/// Bytes that Envoy owns and lends for the time of one call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct EnvoyBuffer {
    data: *const u8,
    length: usize,
}

impl EnvoyBuffer {
    const EMPTY: EnvoyBuffer = EnvoyBuffer {
        data: std::ptr::null(),
        length: 0,
    };

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

/// Bytes of ours that Envoy reads (and copies) during one call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ModuleBuffer {
    data: *const u8,
    length: usize,
}

impl ModuleBuffer {
    const NOTHING: ModuleBuffer = ModuleBuffer {
        data: std::ptr::null(),
        length: 0,
    };

    fn of(bytes: &[u8]) -> Self {
        ModuleBuffer {
            data: bytes.as_ptr(),
            length: bytes.len(),
        }
    }
}

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Panics since the last time that somebody asked.
pub fn take_panics() -> u64 {
    if PANICS.load(Ordering::Relaxed) == 0 {
        return 0;
    }
    PANICS.swap(0, Ordering::Relaxed)
}

/// Runs code of ours; where it panics (the message has gone to standard error), the answer is `fallback`.
pub fn guarded<R>(fallback: R, code: impl FnOnce() -> R) -> R {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(answer) => answer,
        Err(_) => {
            let _ = PANICS.fetch_add(1, Ordering::Relaxed);
            fallback
        }
    }
}

#[no_mangle]
extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    ABI[ABI_MARK..].as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn the_abi_version_is_the_one_of_envoy_1_40() {
        // SAFETY: the pointer is to a static that ends with a zero byte.
        let version = unsafe { CStr::from_ptr(envoy_dynamic_module_on_program_init()) };
        assert_eq!(version.to_bytes(), b"v0.2.0");
    }

    #[test]
    fn a_panic_becomes_the_fallback_and_is_counted() {
        let _ = take_panics();
        assert_eq!(guarded(7, || panic!("on purpose")), 7);
        assert_eq!(guarded(7, || 8), 8);
        assert_eq!(take_panics(), 1);
    }
}
