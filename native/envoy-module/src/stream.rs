//! One request on its way through the filter `pool`: read, let in, held or refused, sent, watched, reported.
//!
//! Envoy may call a hook of this stream while it is being called from one, so the state is borrowed only between
//! callbacks that could do that (`respond`, `continue_request`, `reset`).

use crate::abi::callbacks::{Body, Headers, Stream};
use crate::abi::guarded;
use crate::abi::http::StreamHooks;
use crate::admission::{self, VERDICT};
use crate::answer::{Events, Whole};
use crate::ask::Ask;
use crate::balancer::REQUEST_HEADER;
use crate::clock;
use crate::filter::{Filter, PoolFilter};
use crate::flight::{Answer, Flight, Standpoint};
use crate::limits::{self, Deadline, TIME_IS_OVER};
use crate::pools::{locked, pool_of_cluster, PoolState};
use crate::report::{Account, Statistics};
use crate::request::{understand, Understood, USAGE_REQUEST};
use crate::requests::{new_id, reason_word, Entry, Facts, Sent};
use scheduler::admission::Decision;
use std::cell::{Cell, RefCell};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

mod body;
mod turned_away;

use body::read_body;
use turned_away::Detour;

/// What Envoy does next, as numbers of the ABI: for headers and for bodies.
const CONTINUE: u32 = 0;
const STOP: u32 = 1;
const STOP_ALL_AND_KEEP: u32 = 4;
const KEEP_ALL: u32 = 1;
const KEEP_SOME: u32 = 2;
const DROP: u32 = 3;

/// The request header that limits the time of each attempt; the router takes it out.
const TRY_LIMIT_HEADER: &str = "x-envoy-upstream-rq-per-try-timeout-ms";

/// Seconds that Envoy's router has to send a request again whose first token is late, before this filter gives it up.
const ROUTER_FIRST: f64 = 0.25;

/// Room that Envoy is given beyond the longest body that is read.
const MARGIN: u64 = 64 * 1024;

/// A stream of the filter `pool`.
#[derive(Debug)]
pub struct PoolStream {
    filter: Arc<Filter>,
    state: RefCell<State>,
    /// Envoy was told to stop, and goes on only when told so.
    stopped: Cell<bool>,
    /// The pool that the request was meant for did not take it.
    detour: RefCell<Option<Detour>>,
}

#[derive(Debug)]
enum State {
    /// Not a pool's business.
    Passing,
    /// The body is being kept until it is whole.
    Collecting(Box<Ask>),
    /// Let in, held or refused.
    Entered(Box<Flight>),
    /// Sent to what is no pool, because its pool did not take it: what there is to report.
    Elsewhere(Box<Account>),
}

impl StreamHooks for PoolStream {
    fn request_headers(&self, stream: Stream<'_>, end: bool) -> u32 {
        self.carefully(|| self.see_request_headers(stream, end))
    }

    fn request_body(&self, stream: Stream<'_>, end: bool) -> u32 {
        self.carefully(|| self.see_request_body(stream, end))
    }

    fn request_trailers(&self, stream: Stream<'_>) -> u32 {
        self.carefully(|| self.see_request_trailers(stream))
    }

    fn response_headers(&self, stream: Stream<'_>, end: bool) -> u32 {
        self.see_response_headers(stream, end);
        CONTINUE
    }

    fn response_body(&self, stream: Stream<'_>, end: bool) -> u32 {
        self.see_response_body(stream, end);
        CONTINUE
    }

    fn response_trailers(&self, _stream: Stream<'_>) {
        let _ = self.with_flight(Flight::complete);
    }

    fn local_reply(&self, _stream: Stream<'_>, details: &[u8]) {
        let timeout = details.ends_with(b"_timeout");
        let _ = self.with_flight(|flight| {
            if flight.outcome == "reset" {
                flight.outcome = match (flight.answered, timeout) {
                    (_, true) => "timeout",
                    (true, false) => "cut",
                    (false, false) => "local_reply",
                };
            }
        });
    }

    fn complete(&self, stream: Stream<'_>) {
        if let Some((mut account, pool)) = self.account() {
            if let Some(detour) = &*self.detour.borrow() {
                account.redirected_from = detour.pool.name().to_string();
            }
            Statistics::note(&self.filter, &pool, Some(&account));
            account.write(stream);
        }
    }

    fn scheduled(&self, stream: Stream<'_>, event: u64) {
        match event {
            VERDICT => self.hear_verdict(stream),
            TIME_IS_OVER => self.give_up(stream),
            _ => {}
        }
    }
}

impl PoolStream {
    /// A stream of which nothing is known yet.
    pub fn new(filter: Arc<Filter>) -> Self {
        PoolStream {
            filter,
            state: RefCell::new(State::Passing),
            stopped: Cell::new(false),
            detour: RefCell::new(None),
        }
    }

    /// Does what a hook does of a request's way to a pool; where that panics, the request goes on, and no pool knows it.
    fn carefully(&self, see: impl FnOnce() -> u32) -> u32 {
        let status = guarded(None, || Some(see())).unwrap_or_else(|| {
            guarded((), || drop(self.state.replace(State::Passing)));
            CONTINUE
        });
        self.stopped.set(status != CONTINUE);
        status
    }

    /// Lets the request go on, if it was stopped.
    fn let_go(&self, stream: Stream<'_>) {
        if self.stopped.replace(false) {
            stream.continue_request();
        }
    }

    /// What there is to report, and for which pool.
    fn account(&self) -> Option<(Account, Arc<PoolState>)> {
        match &mut *self.state.borrow_mut() {
            State::Entered(flight) => {
                flight.end();
                Some((flight.account(), flight.entry.facts().pool.clone()))
            }
            State::Elsewhere(account) => {
                let detour = self.detour.borrow();
                Some(((**account).clone(), detour.as_ref()?.pool.clone()))
            }
            State::Passing | State::Collecting(_) => None,
        }
    }

    fn filter(&self) -> Option<&PoolFilter> {
        match &*self.filter {
            Filter::Pool(filter) => Some(filter),
            Filter::Noop | Filter::Attempt => None,
        }
    }

    /// The request's headers came.
    fn see_request_headers(&self, stream: Stream<'_>, end: bool) -> u32 {
        turned_away::forget_the_client_s(stream);
        let cluster = match stream.cluster() {
            Some(cluster) => cluster,
            None => return CONTINUE,
        };
        let pool = match pool_of_cluster(&cluster) {
            Some(pool) => pool,
            None => return CONTINUE,
        };
        let ask = Ask::read(stream, pool, cluster);
        if !end && ask.is_readable(stream) {
            stream.allow_buffering(ask.settings.max_body_bytes as u64 + MARGIN);
            *self.state.borrow_mut() = State::Collecting(Box::new(ask));
            return STOP;
        }
        match self.enter(stream, ask, None) {
            Standpoint::Sent => CONTINUE,
            Standpoint::Held => STOP_ALL_AND_KEEP,
            Standpoint::Refused => STOP,
        }
    }

    /// A piece of the request's body came.
    fn see_request_body(&self, stream: Stream<'_>, end: bool) -> u32 {
        let longest = match &*self.state.borrow() {
            State::Passing | State::Elsewhere(_) => return CONTINUE,
            State::Entered(flight) => return body_status(flight.standpoint, KEEP_SOME),
            State::Collecting(ask) => ask.settings.max_body_bytes,
        };
        let received = stream.body_size(Body::ReceivedRequest);
        let together = stream.received_is_buffered();
        let kept = if together {
            0
        } else {
            stream.body_size(Body::BufferedRequest)
        };
        if kept + received > longest {
            stream.allow_buffering((kept + received) as u64 + MARGIN); // Envoy moves it all to the next filter at once
            return match self.take_ask() {
                Some(ask) => body_status(self.enter(stream, *ask, None), KEEP_SOME),
                None => CONTINUE,
            };
        }
        if !end {
            return KEEP_ALL;
        }
        self.enter_with_body(stream, kept > 0, true)
            .map_or(CONTINUE, |standpoint| body_status(standpoint, KEEP_ALL))
    }

    /// The request ended with trailers.
    fn see_request_trailers(&self, stream: Stream<'_>) -> u32 {
        if let State::Entered(flight) = &*self.state.borrow() {
            return if flight.standpoint == Standpoint::Sent {
                CONTINUE
            } else {
                STOP
            };
        }
        match self.enter_with_body(stream, true, false) {
            None | Some(Standpoint::Sent) => CONTINUE,
            Some(_) => STOP,
        }
    }

    fn take_ask(&self) -> Option<Box<Ask>> {
        match self.state.replace(State::Passing) {
            State::Collecting(ask) => Some(ask),
            other => {
                *self.state.borrow_mut() = other;
                None
            }
        }
    }

    /// The body is whole: read it, and let the request in. `kept`, `received`: where Envoy has parts of it.
    fn enter_with_body(&self, stream: Stream<'_>, kept: bool, received: bool) -> Option<Standpoint> {
        let ask = self.take_ask()?;
        let api = ask.api?;
        let settings = ask.settings.clone();
        let read = |body: &[u8]| {
            let understood = understand(api, body, settings.config.block_tokens);
            let insertion = understood.as_ref().and_then(|understood| understood.usage_insertion);
            let with_usage = insertion.filter(|_| settings.inject_usage).map(|at| {
                let mut changed = Vec::with_capacity(body.len() + USAGE_REQUEST.len());
                changed.extend_from_slice(&body[..at]);
                changed.extend_from_slice(USAGE_REQUEST);
                changed.extend_from_slice(&body[at..]);
                changed
            });
            (understood, with_usage)
        };
        let (understood, with_usage) = read_body(stream, kept, received, read);
        let injected = with_usage.is_some();
        if let Some(body) = with_usage {
            let (filled, emptied) = if received {
                (Body::ReceivedRequest, Body::BufferedRequest)
            } else {
                (Body::BufferedRequest, Body::ReceivedRequest)
            };
            if kept && received {
                stream.replace_body(emptied, b"");
            }
            stream.replace_body(filled, &body);
            if stream.header(Headers::Request, "content-length").is_some() {
                let length = body.len().to_string();
                stream.set_header(Headers::Request, "content-length", Some(length.as_bytes()));
            }
            stream.set_header(Headers::Request, "accept-encoding", None);
        }
        let standpoint = self.enter(stream, *ask, understood);
        if let State::Entered(flight) = &mut *self.state.borrow_mut() {
            flight.usage_injected = injected;
        }
        Some(standpoint)
    }

    /// Asks for admission, and notes the request under its number.
    fn enter(&self, stream: Stream<'_>, ask: Ask, understood: Option<Understood>) -> Standpoint {
        let now = clock::now();
        let id = new_id();
        stream.set_header(
            Headers::Request,
            REQUEST_HEADER,
            Some(format!("{:016x}", id).as_bytes()),
        );
        let streams = understood.as_ref().map(|understood| understood.stream);
        let resend = ask.settings.resend && understood.is_some();
        let mut limits = ask.settings.timeouts.of(streams == Some(true));
        if resend && limits.first_token > 0.0 {
            set_try_limit(stream, limits.first_token);
            limits.first_token += ROUTER_FIRST;
        }
        let tokens = understood
            .as_ref()
            .map_or(ask.declared_bytes / 4.0, |understood| understood.tokens);
        let (model, blocks) =
            understood.map_or_else(Default::default, |understood| (understood.model, understood.blocks));
        let wakes = ask.settings.admission.is_some() || ask.settings.timeouts != Default::default();
        let entry = Entry::new(Facts {
            id,
            pool: ask.pool.clone(),
            cluster: ask.cluster.clone(),
            tokens,
            blocks,
            session: ask.session,
            sent: Mutex::new(Sent::default()),
            deadline: Deadline::new(limits),
            verdict: Mutex::new(None),
            waker: if wakes { Some(stream.waker()) } else { None },
            api: ask.api,
            resend,
            begun: AtomicU32::new(0),
        });
        let decision = ask.decide(id, tokens, now);
        let standpoint = match decision {
            Decision::Admit => Standpoint::Sent,
            Decision::Hold { .. } => Standpoint::Held,
            Decision::Reject(_) => Standpoint::Refused,
        };
        *self.state.borrow_mut() = State::Entered(Box::new(Flight {
            entry,
            api: ask.api,
            arrived: ask.arrived,
            queued: 0.0,
            standpoint,
            model,
            streams,
            usage_injected: false,
            answer: Answer::None,
            answered: false,
            first_token: None,
            last_token: now,
            ended: false,
            outcome: "reset",
        }));
        if ask.settings.admission.is_some() {
            admission::settle(&ask.pool, now);
        }
        if let Decision::Reject(refusal) = decision {
            return self.turn_away(stream, &refusal);
        }
        if standpoint == Standpoint::Held {
            Statistics::note(&self.filter, &ask.pool, None);
        }
        standpoint
    }

    fn with_flight<R>(&self, change: impl FnOnce(&mut Flight) -> R) -> Option<R> {
        match &mut *self.state.borrow_mut() {
            State::Entered(flight) => Some(change(flight)),
            _ => None,
        }
    }

    fn give_up(&self, stream: Stream<'_>) {
        let answered = self.with_flight(|flight| {
            if flight.ended || !limits::is_over(flight.entry.facts()) {
                return None;
            }
            flight.outcome = "timeout";
            flight.end();
            Some(flight.answered)
        });
        match answered.flatten() {
            Some(true) => stream.reset("headrace_timeout"),
            Some(false) => {
                let mut headers = vec![("content-type", "text/plain"), ("x-headrace-reason", "timeout")];
                headers.extend(self.detour_header());
                stream.respond(504, &headers, b"the model server took too long\n", "headrace_timeout");
            }
            None => {}
        }
    }

    /// The answer's headers came.
    fn see_response_headers(&self, stream: Stream<'_>, end: bool) {
        self.tell_of_detour(stream);
        if !matches!(&*self.state.borrow(), State::Entered(_)) {
            return;
        }
        let status = stream.header(Headers::Response, ":status").unwrap_or_default();
        let kind = stream.header(Headers::Response, "content-type").unwrap_or_default();
        let plain = stream
            .header(Headers::Response, "content-encoding")
            .map_or(true, |coding| coding == b"identity");
        let events = kind.starts_with(b"text/event-stream");
        let timed_out = status == b"504" && self.with_flight(|flight| flight.outcome == "timeout") == Some(true);
        let strips = self.with_flight(|flight| {
            flight.answered = true;
            let from_server = flight.outcome == "reset";
            if from_server && !status.starts_with(b"2") {
                flight.outcome = "error";
            }
            let strips = events && plain && flight.usage_injected;
            if from_server && plain {
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
    fn see_response_body(&self, stream: Stream<'_>, end: bool) {
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

/// Tells the router how long an attempt may take, which counts until it sees the answer's headers.
fn set_try_limit(stream: Stream<'_>, seconds: f64) {
    let milliseconds = format!("{:.0}", (seconds * 1000.0).max(1.0));
    stream.set_header(Headers::Request, TRY_LIMIT_HEADER, Some(milliseconds.as_bytes()));
}

fn body_status(standpoint: Standpoint, when_held: u32) -> u32 {
    match standpoint {
        Standpoint::Sent => CONTINUE,
        Standpoint::Held => when_held,
        Standpoint::Refused => DROP,
    }
}
