//! The hooks of HTTP filters. Envoy resolves every one of them when it loads the module, so all of them stand here.

use super::answering::Voice;
use super::callbacks::{FilterConfigHandle, Stream};
use super::{guarded, Envoy, EnvoyBuffer, Ours};
use crate::attempt::Attempt;
use crate::filter::{Filter, Wish};
use crate::guard_stream::GuardStream;
use crate::stream::PoolStream;
use std::os::raw::{c_int, c_void};
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;

/// Answer of the hooks that are asked what to do. 0 is "go on" in each of the ABI's enums.
type Status = c_int;
const CONTINUE: Status = 0;

/// # Safety
/// Envoy calls it on the main thread with buffers that are valid during the call.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_new(
    config: Envoy,
    name: EnvoyBuffer,
    settings: EnvoyBuffer,
) -> Ours {
    guarded(ptr::null(), || {
        // SAFETY: both buffers are Envoy's for this call, and `parse` keeps copies only.
        let parsed = unsafe { Wish::parse(name.bytes(), settings.bytes()) };
        match parsed {
            Ok(wish) => {
                // SAFETY: `config` is alive during this call.
                let envoy = unsafe { FilterConfigHandle::new(config) };
                Box::into_raw(Box::new(Arc::new(Filter::new(wish, &envoy)))) as Ours
            }
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
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_destroy(config: Ours) {
    guarded((), || {
        if !config.is_null() {
            // SAFETY: the pointer is the box made by `config_new`, given back exactly once.
            drop(unsafe { Box::from_raw(config as *mut Arc<Filter>) });
        }
    });
}

/// A route's own settings: there are none to give, so any are refused (null rejects the route).
#[no_mangle]
extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_new(
    _name: EnvoyBuffer,
    _settings: EnvoyBuffer,
) -> Ours {
    ptr::null()
}

#[no_mangle]
extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_destroy(_config: Ours) {}

/// What a filter does at each event of a stream. Answers say what Envoy does next, as numbers of the ABI: 0 is "go on".
pub trait StreamHooks {
    /// The request's headers came.
    fn request_headers(&self, _stream: Stream<'_>, _end: bool) -> u32 {
        0
    }
    /// A piece of the request's body came.
    fn request_body(&self, _stream: Stream<'_>, _end: bool) -> u32 {
        0
    }
    /// The request ended with trailers.
    fn request_trailers(&self, _stream: Stream<'_>) -> u32 {
        0
    }
    /// The answer's headers came.
    fn response_headers(&self, _stream: Stream<'_>, _end: bool) -> u32 {
        0
    }
    /// A piece of the answer's body came.
    fn response_body(&self, _stream: Stream<'_>, _end: bool) -> u32 {
        0
    }
    /// The answer ended with trailers.
    fn response_trailers(&self, _stream: Stream<'_>) {}
    /// Envoy, or the module, answers in the server's stead.
    fn local_reply(&self, _stream: Stream<'_>, _details: &[u8]) {}
    /// The stream is over, whatever way.
    fn complete(&self, _stream: Stream<'_>) {}
    /// Somebody woke the stream.
    fn scheduled(&self, _stream: Stream<'_>, _event: u64) {}
}

/// One box per stream; None where everything passes. A hook that runs shares what is in it: Envoy may destroy the box in
/// its midst, when the hook ends the stream.
type PerStream = Option<Rc<dyn StreamHooks>>;

/// # Safety
/// `config` is what `config_new` returned.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_new(config: Ours, stream: Envoy) -> Ours {
    guarded(ptr::null(), || {
        // SAFETY: Envoy keeps the configuration longer than its streams; only shared references are made to it.
        let filter = unsafe { &*config.cast::<Arc<Filter>>() };
        let per_stream: PerStream = match **filter {
            Filter::Noop => None,
            Filter::Pool(_) => Some(Rc::new(PoolStream::new(filter.clone()))),
            Filter::Attempt => Some(Rc::new(Attempt::default())),
            // SAFETY: Envoy hands the box back when it destroys the stream, and that drops the voice.
            Filter::Keepalive => Some(unsafe { Voice::new(stream) }),
            Filter::Guard => Some(Rc::new(GuardStream::default())),
        };
        Box::into_raw(Box::new(per_stream)) as Ours
    })
}

/// # Safety
/// `ours` is what `filter_new` returned, and Envoy uses it no more.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_destroy(ours: Ours) {
    guarded((), || {
        if !ours.is_null() {
            // SAFETY: the box made by `filter_new`, given back exactly once.
            drop(unsafe { Box::from_raw(ours as *mut PerStream) });
        }
    });
}

/// Runs a hook's code for streams that have some.
///
/// # Safety
/// `stream` is alive during the call; `ours` is what `filter_new` returned.
unsafe fn on_stream<R>(stream: Envoy, ours: Ours, pass: R, code: impl FnOnce(&dyn StreamHooks, Stream<'_>) -> R) -> R
where
    R: Copy,
{
    if ours.is_null() {
        return pass;
    }
    guarded(pass, || {
        // SAFETY: the box made by `filter_new`, not yet destroyed; only shared references are ever made to it, and none
        // is kept while the code runs.
        match unsafe { &*ours.cast::<PerStream>() }.clone() {
            // SAFETY: the stream is alive during this hook.
            Some(ours) => code(&*ours, unsafe { Stream::new(stream) }),
            None => pass,
        }
    })
}

/// Hooks that have code: Envoy's arguments after the two pointers, and what is done with them.
macro_rules! hooks {
    ($($hook:ident($($argument:ident: $kind:ty),*) -> $answer:ty = $pass:expr, $code:expr;)*) => { $(
        /// # Safety
        /// Envoy calls it with a stream that is alive and the pointer that `filter_new` returned for it.
        #[no_mangle]
        unsafe extern "C" fn $hook(stream: Envoy, ours: Ours, $($argument: $kind),*) -> $answer {
            // SAFETY: as promised by Envoy.
            unsafe { on_stream(stream, ours, $pass, $code($($argument),*)) }
        }
    )* };
}

hooks! {
    envoy_dynamic_module_on_http_filter_request_headers(end: bool) -> Status = CONTINUE,
        |end| move |ours: &dyn StreamHooks, stream: Stream<'_>| ours.request_headers(stream, end) as Status;
    envoy_dynamic_module_on_http_filter_request_body(end: bool) -> Status = CONTINUE,
        |end| move |ours: &dyn StreamHooks, stream: Stream<'_>| ours.request_body(stream, end) as Status;
    envoy_dynamic_module_on_http_filter_request_trailers() -> Status = CONTINUE,
        || |ours: &dyn StreamHooks, stream: Stream<'_>| ours.request_trailers(stream) as Status;
    envoy_dynamic_module_on_http_filter_response_headers(end: bool) -> Status = CONTINUE,
        |end| move |ours: &dyn StreamHooks, stream: Stream<'_>| ours.response_headers(stream, end) as Status;
    envoy_dynamic_module_on_http_filter_response_body(end: bool) -> Status = CONTINUE,
        |end| move |ours: &dyn StreamHooks, stream: Stream<'_>| ours.response_body(stream, end) as Status;
    envoy_dynamic_module_on_http_filter_response_trailers() -> Status = CONTINUE,
        || |ours: &dyn StreamHooks, stream: Stream<'_>| { ours.response_trailers(stream); CONTINUE };
    envoy_dynamic_module_on_http_filter_local_reply(_code: u32, details: EnvoyBuffer, _reset: bool) -> Status = CONTINUE,
        |_, details: EnvoyBuffer, _| move |ours: &dyn StreamHooks, stream: Stream<'_>| { ours.local_reply(stream, details.bytes()); CONTINUE };
    envoy_dynamic_module_on_http_filter_stream_complete() -> () = (),
        || |ours: &dyn StreamHooks, stream: Stream<'_>| ours.complete(stream);
    envoy_dynamic_module_on_http_filter_scheduled(event: u64) -> () = (),
        |event| move |ours: &dyn StreamHooks, stream: Stream<'_>| ours.scheduled(stream, event);
}

/// # Safety
/// Envoy calls it on the main thread, with the configuration and what `config_new` returned for it.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_scheduled(config: Envoy, ours: Ours, _event: u64) {
    guarded((), || {
        if !ours.is_null() {
            // SAFETY: the box made by `config_new`, not yet destroyed; only shared references are made to it.
            if let Filter::Pool(filter) = unsafe { &**ours.cast::<Arc<Filter>>() } {
                // SAFETY: the configuration is alive during this hook.
                filter.statistics.tell(&unsafe { FilterConfigHandle::new(config) });
            }
        }
    });
}

/// Hooks that are told something, and do nothing.
macro_rules! ignoring {
    ($($hook:ident($($kind:ty),*);)*) => { $(
        #[no_mangle]
        extern "C" fn $hook($(_: $kind),*) {}
    )* };
}

type Headers = *const c_void;
type Chunks = *const c_void;

ignoring! {
    envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(Envoy, Ours);
    envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(Envoy, Ours);
    envoy_dynamic_module_on_http_filter_http_callout_done(Envoy, Ours, u64, c_int, Headers, usize, Chunks, usize);
    envoy_dynamic_module_on_http_filter_http_stream_headers(Envoy, Ours, u64, Headers, usize, bool);
    envoy_dynamic_module_on_http_filter_http_stream_data(Envoy, Ours, u64, Chunks, usize, bool);
    envoy_dynamic_module_on_http_filter_http_stream_trailers(Envoy, Ours, u64, Headers, usize);
    envoy_dynamic_module_on_http_filter_http_stream_complete(Envoy, Ours, u64);
    envoy_dynamic_module_on_http_filter_http_stream_reset(Envoy, Ours, u64, c_int);
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

    fn lend(bytes: &[u8]) -> EnvoyBuffer {
        EnvoyBuffer {
            data: bytes.as_ptr(),
            length: bytes.len(),
        }
    }

    #[test]
    fn the_filter_noop_lives_and_dies_and_lets_pass() {
        // SAFETY: the buffers outlive the calls; each pointer is destroyed once; noop never looks at Envoy's pointers.
        unsafe {
            let config = envoy_dynamic_module_on_http_filter_config_new(ptr::null_mut(), lend(b"noop"), lend(b""));
            assert!(!config.is_null());
            let stream = envoy_dynamic_module_on_http_filter_new(config, ptr::null_mut());
            assert!(!stream.is_null());
            assert_eq!(
                envoy_dynamic_module_on_http_filter_request_headers(ptr::null_mut(), stream, true),
                CONTINUE
            );
            envoy_dynamic_module_on_http_filter_stream_complete(ptr::null_mut(), stream);
            envoy_dynamic_module_on_http_filter_destroy(stream);
            envoy_dynamic_module_on_http_filter_config_destroy(config);
        }
    }

    #[test]
    fn an_unknown_filter_and_a_null_buffer_are_refused_with_null() {
        // SAFETY: a null buffer of length 0 is what Envoy passes for an empty string.
        unsafe {
            let new = envoy_dynamic_module_on_http_filter_config_new;
            assert!(new(ptr::null_mut(), lend(b"other"), EnvoyBuffer::EMPTY).is_null());
            assert!(new(ptr::null_mut(), EnvoyBuffer::EMPTY, EnvoyBuffer::EMPTY).is_null());
        }
    }
}
