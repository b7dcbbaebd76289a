//! What the module says to clients in the servers' stead, piece by piece.
//!
//! Envoy shows a filter nothing more of an answer once that filter has said something itself. So the filter `keepalive`
//! lends its voice to the filter `pool` of the same stream, which goes on to see everything.

use super::callbacks::{pairs, Header, Stream};
use super::http::StreamHooks;
use super::{Envoy, ModuleBuffer};
use std::cell::RefCell;
use std::os::raw::c_int;
use std::rc::{Rc, Weak};

offered! {
    fn envoy_dynamic_module_callback_http_append_body(stream: Envoy, body: c_int, data: ModuleBuffer) -> bool;
    fn envoy_dynamic_module_callback_http_filter_continue_encoding(stream: Envoy);
    fn envoy_dynamic_module_callback_http_send_response_headers(stream: Envoy, headers: *mut Header, count: usize, end: bool);
    fn envoy_dynamic_module_callback_http_send_response_data(stream: Envoy, data: ModuleBuffer, end: bool);
}

/// A stream of the filter `keepalive`. It lives until Envoy destroys the stream.
#[derive(Debug)]
pub struct Voice {
    stream: Envoy,
}

impl StreamHooks for Voice {}

impl Stream<'_> {
    /// Adds to the body of an answer of headers alone, when those are stopped: it goes on with [`Stream::continue_answer`].
    pub fn add_to_answer(&self, data: &[u8]) {
        const BUFFERED_RESPONSE: c_int = 3;
        // SAFETY: the stream is alive, Envoy copies the bytes during the call.
        let _ = unsafe {
            envoy_dynamic_module_callback_http_append_body(self.envoy, BUFFERED_RESPONSE, ModuleBuffer::of(data))
        };
    }

    /// Lets a stopped answer go on.
    pub fn continue_answer(&self) {
        // SAFETY: the stream is alive.
        unsafe { envoy_dynamic_module_callback_http_filter_continue_encoding(self.envoy) }
    }
}

thread_local! {
    /// The voice of the chain of filters that is being made.
    static NEWEST: RefCell<Weak<Voice>> = RefCell::new(Weak::new());
}

impl Voice {
    /// # Safety
    /// What is returned must be dropped when Envoy destroys the stream.
    pub(super) unsafe fn new(stream: Envoy) -> Rc<Self> {
        let voice = Rc::new(Voice { stream });
        NEWEST.with(|newest| newest.replace(Rc::downgrade(&voice)));
        voice
    }

    /// The voice of the chain that is being made, if it has one; to be taken once.
    pub fn take_newest() -> Weak<Voice> {
        NEWEST.with(RefCell::take)
    }

    /// Sends headers (with `:status`) to the client, through all filters.
    pub fn send_headers(&self, headers: &[(&str, &str)]) {
        let mut headers = pairs(headers);
        // SAFETY: the stream is alive as long as this object, Envoy copies everything during the call.
        unsafe {
            envoy_dynamic_module_callback_http_send_response_headers(
                self.stream,
                headers.as_mut_ptr(),
                headers.len(),
                false,
            );
        }
    }

    /// Sends a piece of a body after those headers; `end`: it was the last, and the stream is over when this returns.
    pub fn send_data(&self, data: &[u8], end: bool) {
        // SAFETY: the stream is alive as long as this object, Envoy copies the bytes during the call.
        unsafe {
            envoy_dynamic_module_callback_http_send_response_data(self.stream, ModuleBuffer::of(data), end);
        }
    }
}
