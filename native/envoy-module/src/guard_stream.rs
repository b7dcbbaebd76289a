//! The end of requests to servers that are revoked: the HTTP half of the guard, on the way out of a proxy.
//!
//! A revoked server leaves the endpoints, so nothing new goes there, but answers that are under way would go on: Envoy
//! has no network filters towards endpoints that a module could be. So this filter looks who serves each request, and is
//! woken by [`crate::guard`] when somebody is revoked. Called by [`crate::abi`] for the HTTP filter `guard`.

use crate::abi::callbacks::{Stream, Waker};
use crate::abi::http::StreamHooks;
use crate::guard::is_revoked;
use crate::pools::locked;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const DETAILS: &str = "revoked_server_certificate";
const CONTINUE: u32 = 0;
const STOP: u32 = 1;

static LIVE: Mutex<Option<HashMap<u64, Arc<Waker>>>> = Mutex::new(None);
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Has every request that is under way look at its server again.
pub fn wake_all() {
    let wakers: Vec<Arc<Waker>> = locked(&LIVE).iter().flat_map(HashMap::values).cloned().collect();
    wakers.iter().for_each(|waker| waker.wake(0));
}

/// The guard of one request.
#[derive(Debug, Default)]
pub struct GuardStream {
    number: Cell<u64>,
    ended: Cell<bool>,
    /// Headers of an answer have passed.
    answering: Cell<bool>,
}

impl GuardStream {
    /// Ends the stream where its server is revoked; whether it did.
    fn judge(&self, stream: Stream<'_>) -> bool {
        if self.ended.get() || !is_revoked(stream.upstream_uris().as_deref(), stream.upstream_digest().as_deref()) {
            return false;
        }
        self.ended.set(true);
        if self.answering.get() {
            stream.reset(DETAILS);
        } else {
            stream.respond(503, &[], b"the server's certificate is revoked", DETAILS);
        }
        true
    }

    fn forget(&self) {
        let number = self.number.replace(0);
        if number != 0 {
            // Dropped after the lock is released: deleting a waker calls Envoy.
            let waker = locked(&LIVE).as_mut().and_then(|live| live.remove(&number));
            drop(waker);
        }
    }
}

impl StreamHooks for GuardStream {
    fn request_headers(&self, stream: Stream<'_>, _end: bool) -> u32 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.number.set(number);
        let waker = Arc::new(stream.waker());
        let _ = locked(&LIVE).get_or_insert_with(HashMap::new).insert(number, waker);
        CONTINUE
    }

    fn response_headers(&self, stream: Stream<'_>, _end: bool) -> u32 {
        if self.judge(stream) {
            return STOP;
        }
        self.answering.set(true);
        CONTINUE
    }

    fn local_reply(&self, _stream: Stream<'_>, _details: &[u8]) {
        self.ended.set(true);
    }

    fn complete(&self, _stream: Stream<'_>) {
        self.ended.set(true);
        self.forget();
    }

    fn scheduled(&self, stream: Stream<'_>, _event: u64) {
        let _ = self.judge(stream);
    }
}

impl Drop for GuardStream {
    fn drop(&mut self) {
        self.forget();
    }
}
