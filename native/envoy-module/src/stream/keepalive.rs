//! Signs of life for clients of streams that wait long: headers and comments, so that nobody on the way takes the
//! silence for a failure.
//!
//! Once they went out, the answer is a stream with status 200, whatever comes: the server's own headers are swallowed,
//! and what is no stream, or an error of ours, is told in an event. Envoy shows this filter what it says itself, too.

use super::{PoolStream, CONTINUE, DROP, STOP};
use crate::abi::answering::Voice;
use crate::abi::callbacks::{Body, Headers, Stream};
use crate::abi::guarded;
use crate::clock;
use crate::flight::Flight;
use crate::request::Api;
use crate::requests::Facts;
use crate::timers;
use std::cell::{Cell, RefCell};
use std::rc::Weak;
use std::sync::Arc;

/// The event by which a stream learns that it is time for a sign of life.
pub const SIGN_IS_DUE: u64 = 3;
/// The event by which it learns that the answer was over with its headers.
pub const ANSWER_IS_EMPTY: u64 = 4;

/// Says nothing to clients: a comment of server-sent events.
const SIGN: &[u8] = b": waiting\n\n";
/// The same, where a stream ends without anything else.
const END: &[u8] = b": end\n\n";
/// What goes before the first.
const HEADERS: [(&str, &str); 3] = [
    (":status", "200"),
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache"),
];
/// So much of an answer that is no stream is told.
const MOST_TOLD: usize = 16 * 1024;

/// What was said so far.
#[derive(Debug)]
pub struct SignsOfLife {
    /// By what anything can be said: Envoy shows a filter nothing more once it has spoken itself.
    voice: Weak<Voice>,
    /// Headers went out.
    begun: Cell<bool>,
    /// What passes now is ours.
    ours: Cell<bool>,
    /// The server's answer is no stream; what it is.
    strange: RefCell<Option<Vec<u8>>>,
}

impl SignsOfLife {
    /// Nothing was said yet. `voice`: of the filter `keepalive`, if there is one.
    pub fn new(voice: Weak<Voice>) -> Self {
        SignsOfLife {
            voice,
            begun: Cell::new(false),
            ours: Cell::new(false),
            strange: RefCell::new(None),
        }
    }

    fn say(&self, speak: impl FnOnce(&Voice)) {
        if let Some(voice) = self.voice.upgrade() {
            self.ours.set(true);
            speak(&voice);
            self.ours.set(false);
        }
    }
}

/// Wakes the stream when its next sign of life is due.
pub fn watch(facts: &Arc<Facts>, seconds: f64) {
    if seconds > 0.0 {
        let facts = Arc::downgrade(facts);
        let wake = move |_| {
            if let Some(facts) = facts.upgrade() {
                facts.wake(SIGN_IS_DUE);
            }
        };
        timers::set(clock::now() + seconds, Box::new(wake));
    }
}

/// An event that says what went wrong, in the form of the API.
fn error_event(api: Option<Api>, code: &str, message: &str) -> Vec<u8> {
    let error = format!("{{\"message\":\"{message}\",\"type\":\"overloaded\",\"code\":\"{code}\"}}");
    match api {
        Some(Api::Messages) => {
            let error = format!("{{\"type\":\"overloaded_error\",\"message\":\"{message}\"}}");
            format!("event: error\ndata: {{\"type\":\"error\",\"error\":{error}}}\n\n").into_bytes()
        }
        Some(Api::Responses) => {
            format!("event: error\ndata: {{\"type\":\"error\",\"code\":\"{code}\",\"message\":\"{message}\"}}\n\n")
                .into_bytes()
        }
        _ => format!("data: {{\"error\":{error}}}\n\n").into_bytes(),
    }
}

/// The server's own words as an event: each line of them is data.
fn as_event(text: &[u8]) -> Vec<u8> {
    let mut event = b"event: error\n".to_vec();
    for line in text.split(|&byte| byte == b'\n') {
        event.extend_from_slice(b"data: ");
        event.extend(line.iter().filter(|&&byte| byte != b'\r'));
        event.push(b'\n');
    }
    event.push(b'\n');
    event
}

impl PoolStream {
    /// Whether the client has headers already, without an answer.
    pub(super) fn has_signs_of_life(&self) -> bool {
        self.signs.begun.get()
    }

    /// A sign of life is due, unless the server says something itself by now.
    pub(super) fn give_sign(&self) {
        let facts = self.with_flight(|flight| {
            let silent = !flight.ended && !flight.answered && flight.outcome == "reset";
            if silent {
                Some(flight.entry.facts().clone())
            } else {
                None
            }
        });
        let facts = facts.flatten().filter(|_| self.signs.voice.strong_count() > 0);
        if let Some(facts) = facts {
            if self.may_go_elsewhere() {
                return watch(&facts, facts.pool.settings().keepalive);
            }
            if !self.signs.begun.replace(true) {
                let headers: Vec<_> = HEADERS.into_iter().chain(self.detour_header()).collect();
                self.signs.say(|voice| voice.send_headers(&headers));
            }
            self.signs.say(|voice| voice.send_data(SIGN, false));
            watch(&facts, facts.pool.settings().keepalive);
        }
    }

    /// What is wrong, in an event; `end`: the stream is over with it.
    pub(super) fn tell_error(&self, code: &str, message: &str, end: bool) {
        let api = self.with_flight(|flight| flight.api).flatten();
        self.signs
            .say(|voice| voice.send_data(&error_event(api, code, message), end));
    }

    /// The server's headers came, or our own: whether they pass.
    pub(super) fn pass_headers(&self, stream: Stream<'_>, end: bool) -> u32 {
        if !self.signs.begun.get() || self.signs.ours.get() {
            return CONTINUE;
        }
        let good = stream.read_header(Headers::Response, ":status", |status| status.starts_with(b"2"));
        let kind = stream.read_header(Headers::Response, "content-type", |kind| {
            kind.starts_with(b"text/event-stream")
        });
        let strange = good != Some(true) || kind != Some(true);
        if end {
            let api = self.with_flight(|flight| flight.api).flatten();
            let error = || error_event(api, "no-answer", "the model server answered without a stream");
            stream.add_to_answer(&if strange { error() } else { END.to_vec() });
            stream.waker().wake(ANSWER_IS_EMPTY); // an answer cannot go on before its headers have stopped
        } else if strange {
            *self.signs.strange.borrow_mut() = Some(Vec::new());
        }
        STOP
    }

    /// A piece of the server's answer came: what becomes of it, if it is not part of the stream that the client awaits.
    pub(super) fn pass_strange(&self, stream: Stream<'_>, end: bool) -> Option<u32> {
        if self.signs.ours.get() {
            return Some(CONTINUE);
        }
        let mut strange = self.signs.strange.borrow_mut();
        let text = strange.as_mut()?;
        stream.body(Body::ReceivedResponse, |pieces| {
            for piece in pieces.iter() {
                let room = MOST_TOLD.saturating_sub(text.len());
                text.extend_from_slice(&piece[..piece.len().min(room)]);
            }
        });
        if !end {
            return Some(DROP);
        }
        let event = as_event(text);
        drop(strange);
        stream.replace_body(Body::ReceivedResponse, &event);
        let _ = self.with_flight(Flight::complete);
        Some(CONTINUE)
    }

    /// Envoy answers in the server's stead: where it can no longer, because headers went out, it breaks the stream. Before
    /// that, the client is told why.
    pub(super) fn explain_break(&self) {
        let told = self.signs.begun.get() && self.with_flight(|flight| !flight.answered) == Some(true);
        if told {
            guarded((), || {
                self.tell_error("no-answer", "no model server answered", false);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_form_of_the_api() {
        let text = |api| String::from_utf8(error_event(api, "queue-timeout", "later")).unwrap();
        assert!(text(Some(Api::Chat)).starts_with("data: {\"error\":{\"message\":\"later\""));
        assert!(text(Some(Api::Messages)).starts_with("event: error\ndata: {\"type\":\"error\",\"error\":{"));
        assert!(text(Some(Api::Responses)).contains("\"code\":\"queue-timeout\""));
        assert!(text(None).ends_with("}\n\n"));
    }

    #[test]
    fn every_line_of_a_strange_answer_is_data() {
        assert_eq!(as_event(b"{\r\n}"), b"event: error\ndata: {\ndata: }\n\n");
    }
}
