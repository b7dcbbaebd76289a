//! One request on its way through the filter `pool`: read, let in, held or refused, sent, watched, reported.
//!
//! Envoy may call a hook of this stream while it is being called from one, so the state is borrowed only between
//! callbacks that could do that (`respond`, `continue_request`, `reset`).

use crate::abi::answering::Voice;
use crate::abi::callbacks::{Headers, Stream};
use crate::abi::guarded;
use crate::abi::http::StreamHooks;
use crate::account::Account;
use crate::admission::{self, VERDICT};
use crate::ask::Ask;
use crate::balancer::REQUEST_HEADER;
use crate::clock;
use crate::faults;
use crate::filter::{Filter, PoolFilter};
use crate::flight::{Answer, Flight, Standpoint};
use crate::limits::{Deadline, TIME_IS_OVER};
use crate::orca::{self, Asked};
use crate::pools::{pool_of_cluster, PoolState};
use crate::report::Statistics;
use crate::request::{hash_of, Api, Reading, Understood, USAGE_REQUEST};
use crate::requests::{new_id, Entry, Facts, Sent};
use scheduler::admission::Decision;
use std::cell::{Cell, RefCell};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

mod body;
mod keepalive;
mod reply;
mod turned_away;

use body::{insert, narrow_codings, Collecting, Parts};
use keepalive::{SignsOfLife, ANSWER_IS_EMPTY, SIGN_IS_DUE};
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
    /// Nothing more of the request's body is to come.
    whole: Cell<bool>,
    /// The pool that the request was meant for did not take it.
    detour: RefCell<Option<Detour>>,
    /// What was said to a client that waits.
    signs: SignsOfLife,
    /// Who asked the server for its load.
    load: Cell<Asked>,
}

#[derive(Debug)]
enum State {
    /// Not a pool's business.
    Passing,
    /// The body is being kept until it is whole.
    Collecting(Box<Collecting>),
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
        if self.pass_headers(stream, end) == STOP {
            self.see_response_headers(stream, end);
            return STOP;
        }
        if !self.has_signs_of_life() {
            self.see_response_headers(stream, end);
        }
        CONTINUE
    }

    fn response_body(&self, stream: Stream<'_>, end: bool) -> u32 {
        let status = self.pass_strange(stream, end);
        if status.is_none() {
            self.see_response_body(stream, end);
        }
        status.unwrap_or(CONTINUE)
    }

    fn response_trailers(&self, _stream: Stream<'_>) {
        let _ = self.with_flight(Flight::complete);
    }

    fn local_reply(&self, _stream: Stream<'_>, details: &[u8]) {
        self.explain_break();
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
        faults::at("end");
        if let Some((mut account, pool)) = self.account() {
            if let Some(detour) = &*self.detour.borrow() {
                account.redirected_from = detour.pool.name().to_string();
            }
            Statistics::note(&self.filter, &pool, Some(&account));
            if !self.filter().map_or(false, |filter| filter.settings.without_metadata) {
                account.write(stream);
            }
        }
    }

    fn scheduled(&self, stream: Stream<'_>, event: u64) {
        match event {
            VERDICT => self.hear_verdict(stream),
            TIME_IS_OVER => self.give_up(stream),
            SIGN_IS_DUE => self.give_sign(),
            ANSWER_IS_EMPTY => stream.continue_answer(),
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
            whole: Cell::new(false),
            detour: RefCell::new(None),
            signs: SignsOfLife::new(Voice::take_newest()),
            load: Cell::default(),
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
            _ => None,
        }
    }

    /// The request's headers came.
    fn see_request_headers(&self, stream: Stream<'_>, end: bool) -> u32 {
        turned_away::forget_the_client_s(stream);
        faults::at("headers");
        let cluster = match stream.cluster() {
            Some(cluster) => cluster,
            None => return CONTINUE,
        };
        let pool = match pool_of_cluster(&cluster) {
            Some(pool) => pool,
            None => return CONTINUE,
        };
        let ask = Ask::read(stream, pool, cluster);
        self.whole.set(end);
        let readable = ask.is_readable(stream);
        if !end && (readable || ask.comes_whole(stream)) {
            stream.allow_buffering(ask.settings.max_body_bytes as u64 + MARGIN);
            *self.state.borrow_mut() = State::Collecting(Box::new(Collecting::new(ask, readable)));
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
        if end {
            self.note_whole();
        }
        let (kept, too_long) = match &mut *self.state.borrow_mut() {
            State::Passing | State::Elsewhere(_) => return CONTINUE,
            State::Entered(flight) => return body_status(flight.standpoint, KEEP_SOME),
            State::Collecting(collecting) => collecting.read(stream),
        };
        if let Some(bytes) = too_long {
            stream.allow_buffering(bytes + MARGIN); // Envoy moves it all to the next filter at once
            return match self.take_collecting() {
                Some(collecting) => body_status(self.enter(stream, collecting.ask, None), KEEP_SOME),
                None => CONTINUE,
            };
        }
        if !end {
            return KEEP_ALL;
        }
        self.enter_with_body(stream, Parts { kept, received: true })
            .map_or(CONTINUE, |standpoint| body_status(standpoint, KEEP_ALL))
    }

    /// The request ended with trailers.
    fn see_request_trailers(&self, stream: Stream<'_>) -> u32 {
        self.note_whole();
        if let State::Entered(flight) = &*self.state.borrow() {
            return if flight.standpoint == Standpoint::Sent {
                CONTINUE
            } else {
                STOP
            };
        }
        match self.enter_with_body(
            stream,
            Parts {
                kept: true,
                received: false,
            },
        ) {
            None | Some(Standpoint::Sent) => CONTINUE,
            Some(_) => STOP,
        }
    }

    fn note_whole(&self) {
        self.whole.set(true);
        let _ = self.with_flight(|flight| flight.entry.facts().deadline.uploaded());
    }

    fn take_collecting(&self) -> Option<Box<Collecting>> {
        match self.state.replace(State::Passing) {
            State::Collecting(collecting) => Some(collecting),
            other => {
                *self.state.borrow_mut() = other;
                None
            }
        }
    }

    /// The body is whole, and was read: let the request in.
    fn enter_with_body(&self, stream: Stream<'_>, parts: Parts) -> Option<Standpoint> {
        let Collecting { ask, reading, .. } = *self.take_collecting()?;
        faults::at("body");
        let understood = reading.and_then(Reading::finish);
        let insertion = understood.as_ref().and_then(|understood| understood.usage_insertion);
        let injected = insertion.filter(|_| ask.settings.inject_usage);
        if let Some(at) = injected {
            insert(stream, parts, at, USAGE_REQUEST);
            stream.set_header(Headers::Request, "accept-encoding", None);
        } else if understood.is_some() {
            narrow_codings(stream);
        }
        let standpoint = self.enter(stream, ask, understood);
        if let State::Entered(flight) = &mut *self.state.borrow_mut() {
            flight.usage_injected = injected.is_some();
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
        if ask.settings.orca && self.load.get() == Asked::Nobody {
            self.load.set(orca::ask(stream));
        }
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
        let keepalive = if streams == Some(true) {
            ask.settings.keepalive
        } else {
            0.0
        };
        if keepalive > 0.0 {
            stream.set_header(Headers::Request, "accept-encoding", None); // what went out says that nothing is encoded
        }
        let admission = ask.settings.admission.as_ref().filter(|_| !self.whole.get());
        let upload = admission.map_or(0.0, |admission| admission.upload_seconds);
        let wakes = keepalive > 0.0 || ask.settings.admission.is_some() || ask.settings.timeouts != Default::default();
        let entry = Entry::new(Facts {
            id,
            pool: ask.pool.clone(),
            cluster: ask.cluster.clone(),
            tokens,
            blocks,
            session: ask.session,
            model: Some(hash_of(model.as_bytes())).filter(|_| !model.is_empty()),
            sent: Mutex::new(Sent::default()),
            deadline: Deadline::new(limits, upload),
            verdict: Mutex::new(None),
            waker: if wakes { Some(stream.waker()) } else { None },
            api: ask.api,
            silent: streams != Some(true) && ask.api != Some(Api::Embeddings),
            resend,
            begun: AtomicU32::new(0),
        });
        keepalive::watch(entry.facts(), keepalive);
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
            inflate: None,
            answered: false,
            first_token: None,
            last_token: now,
            ended: false,
            outcome: "reset",
        }));
        if ask.settings.admission.is_some() {
            admission::settle(&ask.pool, now);
        }
        faults::at("entered");
        if let Decision::Reject(refusal) = decision {
            return self.turn_away(stream, &refusal);
        }
        Statistics::note(&self.filter, &ask.pool, None);
        standpoint
    }

    fn with_flight<R>(&self, change: impl FnOnce(&mut Flight) -> R) -> Option<R> {
        match &mut *self.state.borrow_mut() {
            State::Entered(flight) => Some(change(flight)),
            _ => None,
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
