//! One attempt of a request at an endpoint, in the chain of filters between Envoy's router and that endpoint.
//!
//! Model servers send the headers of an answer before they begin to work, and Envoy's router sends nothing again once
//! headers passed it. So this filter withholds them until the answer says something: what breaks or hangs before that
//! is for the router as if nothing had come, and its retries hold. Called by [`crate::abi`] for the filter `attempt`.

use crate::abi::callbacks::{Body, Headers, Pieces, Stream};
use crate::abi::http::StreamHooks;
use crate::answer::Events;
use crate::balancer::{is_marked, request_number, REQUEST_HEADER};
use crate::inflate::{Coding, Inflate};
use crate::requests::{find, Facts};
use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// What Envoy does next, as numbers of the ABI: for headers and for bodies.
const CONTINUE: u32 = 0;
const STOP: u32 = 1;
const KEEP_ALL: u32 = 1;

/// So much of an answer is withheld at most; Envoy keeps no more than its buffers allow.
const MOST_WITHHELD: usize = 16 * 1024;

/// An attempt of a request.
#[derive(Debug, Default)]
pub struct Attempt {
    phase: RefCell<Phase>,
}

#[derive(Debug, Default)]
enum Phase {
    /// Whatever comes passes.
    #[default]
    Passing,
    /// Sent; nothing came yet.
    Waiting(Arc<Facts>),
    /// Headers came, and wait for the first token, or the first byte of what is no stream.
    Withholding(Box<Withheld>),
}

/// What is withheld of an answer.
#[derive(Debug)]
struct Withheld {
    /// Reads it, if it is a stream of events that can be read.
    events: Option<Events>,
    inflate: Option<Inflate>,
    bytes: usize,
}

impl Withheld {
    /// More came: whether the answer says something by now.
    fn says_something(&mut self, pieces: Pieces<'_>) -> bool {
        self.bytes += pieces.bytes();
        let events = match &mut self.events {
            Some(events) => events,
            None => return self.bytes > 0,
        };
        for piece in pieces.iter() {
            let piece = match &mut self.inflate {
                Some(inflate) => inflate.feed(piece),
                None => piece,
            };
            let _ = events.feed(piece, &mut Vec::new());
        }
        events.tokens > 0 || self.bytes > MOST_WITHHELD
    }
}

impl StreamHooks for Attempt {
    fn request_headers(&self, stream: Stream<'_>, _end: bool) -> u32 {
        let facts = stream
            .read_header(Headers::Request, REQUEST_HEADER, request_number)
            .flatten()
            .and_then(find);
        if let Some(facts) = facts.filter(|facts| facts.resend) {
            if stream.read_header(Headers::Request, ":authority", is_marked) == Some(true) {
                return CONTINUE; // a mirror's copy, whose answer nobody awaits
            }
            *self.phase.borrow_mut() = Phase::Waiting(facts);
        }
        CONTINUE
    }

    fn response_headers(&self, stream: Stream<'_>, end: bool) -> u32 {
        let facts = match self.phase.take() {
            Phase::Waiting(facts) => facts,
            _ => return CONTINUE,
        };
        let status = stream.header(Headers::Response, ":status").unwrap_or_default();
        if end || !status.starts_with(b"2") {
            return CONTINUE;
        }
        let _ = facts.begun.fetch_add(1, Ordering::Relaxed);
        let kind = stream.header(Headers::Response, "content-type").unwrap_or_default();
        let coding = stream.header(Headers::Response, "content-encoding");
        let plain = coding.as_ref().map_or(true, |coding| coding == b"identity");
        let inflate = coding.as_deref().and_then(Coding::of);
        let events = kind.starts_with(b"text/event-stream") && (plain || inflate.is_some());
        *self.phase.borrow_mut() = Phase::Withholding(Box::new(Withheld {
            events: if events {
                Some(Events::new(facts.api, false))
            } else {
                None
            },
            inflate: inflate.map(Inflate::new),
            bytes: 0,
        }));
        STOP
    }

    fn response_body(&self, stream: Stream<'_>, end: bool) -> u32 {
        let mut phase = self.phase.borrow_mut();
        let says_something = match &mut *phase {
            Phase::Withholding(withheld) => {
                stream.body(Body::ReceivedResponse, |pieces| withheld.says_something(pieces))
            }
            _ => return CONTINUE,
        };
        if end || says_something {
            *phase = Phase::Passing;
            return CONTINUE;
        }
        KEEP_ALL
    }
}
