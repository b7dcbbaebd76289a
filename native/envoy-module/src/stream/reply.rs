//! The answer's side of a stream: when it came, what it says, and what is said in its stead when it takes too long.

use super::{PoolStream, State};
use crate::abi::callbacks::{Body, Headers, Stream};
use crate::answer::{Events, Whole};
use crate::clock;
use crate::faults;
use crate::flight::Answer;
use crate::inflate::{Coding, Inflate};
use crate::limits;
use crate::orca;
use crate::pools::locked;
use crate::requests::reason_word;

impl PoolStream {
    pub(super) fn give_up(&self, stream: Stream<'_>) {
        let mut uploads = false;
        let answered = self.with_flight(|flight| {
            if flight.ended || !limits::is_over(flight.entry.facts()) {
                return None;
            }
            flight.outcome = "timeout";
            flight.end();
            uploads = flight.entry.facts().deadline.upload_is_over(clock::now());
            Some(flight.answered)
        });
        match answered.flatten() {
            Some(false) if uploads => {
                let mut headers = vec![("content-type", "text/plain"), ("x-headrace-reason", "upload-timeout")];
                headers.extend(self.detour_header());
                stream.respond(
                    408,
                    &headers,
                    b"the request took too long to come\n",
                    "headrace_upload_timeout",
                );
            }
            Some(true) => stream.reset("headrace_timeout"),
            Some(false) if self.has_signs_of_life() => {
                self.tell_error("timeout", "the model server took too long", true);
            }
            Some(false) => {
                let mut headers = vec![("content-type", "text/plain"), ("x-headrace-reason", "timeout")];
                headers.extend(self.detour_header());
                stream.respond(504, &headers, b"the model server took too long\n", "headrace_timeout");
            }
            None => {}
        }
    }

    /// Takes note of what the server says of its load.
    fn hear_load(&self, stream: Stream<'_>) {
        if let Some(load) = orca::hear(stream, self.load.get()) {
            let _ = self.with_flight(|flight| {
                let facts = flight.entry.facts();
                let endpoint = locked(&facts.sent).tried.last().copied();
                if let Some(endpoint) = endpoint {
                    facts.pool.hear(endpoint, &load, clock::now());
                }
            });
        }
    }

    /// The answer's headers came.
    pub(super) fn see_response_headers(&self, stream: Stream<'_>, end: bool) {
        self.tell_of_detour(stream);
        faults::at("answer");
        if !matches!(&*self.state.borrow(), State::Entered(_)) {
            return;
        }
        self.hear_load(stream);
        let status = stream.header(Headers::Response, ":status").unwrap_or_default();
        let kind = stream.header(Headers::Response, "content-type").unwrap_or_default();
        let coding = stream.header(Headers::Response, "content-encoding");
        let plain = coding.as_ref().map_or(true, |coding| coding == b"identity");
        let inflate = coding.as_deref().and_then(Coding::of);
        let readable = plain || inflate.is_some();
        let events = kind.starts_with(b"text/event-stream");
        let timed_out = status == b"504" && self.with_flight(|flight| flight.outcome == "timeout") == Some(true);
        let strips = self.with_flight(|flight| {
            flight.answered = true;
            let from_server = flight.outcome == "reset";
            flight.entry.facts().deadline.uploaded(); // the server did not wait for the rest
            if from_server && !status.starts_with(b"2") {
                flight.outcome = "error";
            }
            let strips = events && plain && flight.usage_injected;
            if from_server && readable {
                flight.inflate = inflate.map(|coding| Box::new(Inflate::new(coding)));
                flight.answer = if events {
                    Answer::Events(Events::new(flight.api, strips))
                } else {
                    flight.entry.facts().deadline.whole_answer();
                    Answer::Whole(Whole::default())
                };
            }
            if end {
                flight.complete();
            }
            strips && from_server
        });
        if strips == Some(true) {
            stream.set_header(Headers::Response, "content-length", None);
        }
        if timed_out {
            stream.set_header(Headers::Response, "x-headrace-reason", Some(b"timeout"));
        }
        if self.filter().map_or(false, |filter| filter.settings.debug_headers) {
            self.write_debug_headers(stream);
        }
    }

    fn write_debug_headers(&self, stream: Stream<'_>) {
        let found = self.with_flight(|flight| {
            let sent = locked(&flight.entry.facts().sent).clone();
            let reason = sent.pick.map_or("none", |pick| reason_word(pick.reason));
            (sent.address, reason, flight.queued * 1000.0)
        });
        if let Some((address, reason, queued)) = found {
            stream.set_header(Headers::Response, "x-headrace-endpoint", Some(address.as_bytes()));
            stream.set_header(Headers::Response, "x-headrace-pick", Some(reason.as_bytes()));
            stream.set_header(
                Headers::Response,
                "x-headrace-queue-ms",
                Some(format!("{:.0}", queued).as_bytes()),
            );
        }
    }

    /// A piece of the answer's body came.
    pub(super) fn see_response_body(&self, stream: Stream<'_>, end: bool) {
        let now = clock::now();
        let mut out = Vec::new();
        let seen = stream.body(Body::ReceivedResponse, |pieces| {
            self.with_flight(|flight| flight.hear(pieces, end, now, &mut out))
        });
        let seen = match seen {
            Some(seen) => seen,
            None => return,
        };
        if seen.rewrites {
            stream.replace_body(Body::ReceivedResponse, &out);
        }
        if let (Some(gap), Some(filter)) = (seen.gap, self.filter()) {
            filter.statistics.gap(gap);
        }
    }
}
