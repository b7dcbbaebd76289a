//! One endpoint as a pool sees it: what is outstanding there by its own books, corrected by what the engine says.

use crate::cost::{CostModel, Learned, StepModel};
use crate::residency::Residency;
use std::collections::VecDeque;

/// What an engine says of itself (its /metrics, or load headers in its answers). Only corrects the pool's own books.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Observed {
    /// Requests that wait in the engine.
    pub waiting: f64,
    /// Requests that run in the engine.
    pub running: f64,
    /// Share of the KV cache in use, 0 to 1.
    pub kv_used: f64,
}

/// What a pool itself has at an endpoint at one moment, by its books.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnLoad {
    /// Requests that were sent there and have not ended.
    pub in_flight: u32,
    /// Those of them whose first token has not come.
    pub prefilling: u32,
}

impl OwnLoad {
    fn most(self, other: OwnLoad) -> OwnLoad {
        OwnLoad {
            in_flight: self.in_flight.max(other.in_flight),
            prefilling: self.prefilling.max(other.prefilling),
        }
    }
}

/// Whether an endpoint takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointState {
    /// It takes requests.
    Ready,
    /// It takes none any more, but ends those it has.
    Draining,
}

/// Computing a prompt: tokens of it that are in no cache, and seconds for them on an engine that does nothing else.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Work {
    pub(crate) tokens: f64,
    pub(crate) seconds: f64,
}

/// A prompt that is being (or waits to be) prefilled.
#[derive(Debug, Clone, Copy)]
struct Prefill {
    request: u64,
    work: Work,
    /// Nobody will see when it ends.
    silent: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) name: u64,
    pub(crate) state: EndpointState,
    pub(crate) since: f64,
    pub(crate) residency: Residency,
    pub(crate) learned: Learned,
    pub(crate) in_flight: u32,
    pub(crate) kv_tokens: f64,
    /// Prompts in the queue, first sent first.
    prefills: VecDeque<Prefill>,
    queued: Work,
    head_since: f64,
    /// Seconds that the present head takes, as predicted when it became the head.
    head_seconds: f64,
    /// Work that ended since `span_since`, as predicted, to compare with the time it took.
    span: f64,
    span_since: f64,
    /// Requests that decode, the tokens of their prompts, and the sum of the times of their first tokens.
    decoding: f64,
    decoding_context: f64,
    decoding_since: f64,
    /// Seconds from a first token to the end, on average.
    answering: f64,
    answers: f64,
    outside_waiting: f64,
    outside_running: f64,
    /// Tokens that those hold in the KV cache.
    outside_held: f64,
    /// The most that the pool had there since somebody asked.
    peak: OwnLoad,
    /// Requests that this proxy has there without an entry in the books (copies of a mirror).
    unbooked: f64,
}

/// A count that an engine says, whatever it says.
fn sound(value: f64) -> f64 {
    if value.is_finite() {
        value.max(0.0)
    } else {
        0.0
    }
}

/// The head of the queue counts at least this share of its cost until its first token is seen.
const LEAST_LEFT: f64 = 0.1;
/// Predicted seconds of work over which a rate is learned, unless the queue is empty before.
const SPAN: f64 = 0.5;
/// Answers that the average of their duration remembers.
const REMEMBERED: f64 = 200.0;
/// Seconds that an answer is supposed to take before one was seen.
const FIRST_GUESS: f64 = 5.0;

impl Endpoint {
    pub(crate) fn new(name: u64, now: f64) -> Self {
        Endpoint {
            name,
            state: EndpointState::Ready,
            since: now,
            residency: Residency::default(),
            learned: Learned::default(),
            in_flight: 0,
            kv_tokens: 0.0,
            prefills: VecDeque::new(),
            queued: Work::default(),
            head_since: now,
            head_seconds: 0.0,
            span: 0.0,
            span_since: now,
            decoding: 0.0,
            decoding_context: 0.0,
            decoding_since: 0.0,
            answering: FIRST_GUESS,
            answers: 0.0,
            outside_waiting: 0.0,
            outside_running: 0.0,
            outside_held: 0.0,
            peak: OwnLoad::default(),
            unbooked: 0.0,
        }
    }

    /// Tokens of prompt that cost as much as serving those that decode does in each step.
    fn decode_tokens(&self, cost: &CostModel, steps: &StepModel, now: f64) -> f64 {
        let step = cost.token_seconds * (steps.overhead_tokens + self.decoding);
        let answered = (self.decoding * now - self.decoding_since).max(0.0) / step.max(1e-6);
        let context = self.decoding_context + answered.min(self.decoding * steps.answer_tokens);
        self.decoding + context * steps.read_share
    }

    /// Seconds that each token of prefill takes longer because others decode meanwhile: every step serves them first.
    pub(crate) fn burden(&self, cost: &CostModel, steps: &StepModel, now: f64) -> f64 {
        let each_step = cost.token_seconds * self.decode_tokens(cost, steps, now);
        each_step / (steps.tokens - self.decoding).max(0.25 * steps.tokens)
    }

    /// What is left of the queue's work, given how long its head has been computed.
    pub(crate) fn left(&self, now: f64) -> Work {
        let head = match self.prefills.front() {
            Some(prefill) => prefill.work,
            None => return Work::default(),
        };
        let whole = (self.head_seconds * self.learned.factor()).max(1e-9);
        let done = ((now - self.head_since) / whole).clamp(0.0, 1.0 - LEAST_LEFT);
        Work {
            tokens: (self.queued.tokens - done * head.tokens).max(0.0),
            seconds: (self.queued.seconds - done * head.seconds).max(0.0),
        }
    }

    /// Requests there, with those that are not in the books: as far as the engine told, or this proxy knows besides.
    pub(crate) fn load(&self) -> f64 {
        let outside = self.outside_waiting + self.outside_running;
        f64::from(self.in_flight) + outside.max(self.unbooked)
    }

    /// This proxy has so many requests there, in the books or not.
    pub(crate) fn set_active(&mut self, active: u64) {
        self.unbooked = (active as f64 - f64::from(self.in_flight)).max(0.0);
    }

    /// Prompts of others in the queue, as far as the engine told.
    pub(crate) fn outside_waiting(&self) -> f64 {
        self.outside_waiting
    }

    /// Tokens that requests of others hold in the KV cache, as far as the engine told.
    pub(crate) fn outside_held(&self) -> f64 {
        self.outside_held
    }

    /// Tokens of prompts in the queue that are in no cache.
    pub(crate) fn queued_tokens(&self) -> f64 {
        self.queued.tokens
    }

    /// Seconds that an answer takes after its first token, on average.
    pub(crate) fn answering(&self) -> f64 {
        self.answering
    }

    pub(crate) fn start(&mut self, request: u64, work: Work, burden: f64, now: f64) {
        self.prefills.push_back(Prefill {
            request,
            work,
            silent: false,
        });
        self.queued.tokens += work.tokens;
        self.queued.seconds += work.seconds;
        self.in_flight += 1;
        self.peak = self.peak.most(self.own_load());
        if self.prefills.len() == 1 {
            self.span = 0.0;
            self.span_since = now;
            self.new_head(burden, now);
        }
    }

    /// The request's first token came, or it ended without one: its prefill is over. `learn`: the time it took says
    /// something of the endpoint's rate. Rates are learned over spans of several prompts, since prompts that share a
    /// step end together.
    pub(crate) fn prefilled(&mut self, request: u64, burden: f64, now: f64, learn: bool) -> Option<(f64, f64)> {
        let mut learnt = None;
        if let Some(at) = self.prefills.iter().position(|prefill| prefill.request == request) {
            let head_seconds = self.head_seconds;
            if let Some(gone) = self.prefills.remove(at) {
                self.queued.tokens -= gone.work.tokens;
                self.queued.seconds -= gone.work.seconds;
            }
            if at == 0 {
                self.new_head(burden, now);
            }
            if at == 0 && learn {
                self.span += head_seconds;
                if self.span >= SPAN || self.prefills.is_empty() {
                    self.learned.observe(self.span, now - self.span_since);
                    learnt = Some((self.span, now - self.span_since));
                    self.span = 0.0;
                    self.span_since = now;
                }
            } else {
                self.span = 0.0;
                self.span_since = now;
            }
        }
        learnt
    }

    /// Nobody will see when the request's prefill ends.
    pub(crate) fn silence(&mut self, request: u64) {
        let mut prefills = self.prefills.iter_mut();
        if let Some(prefill) = prefills.find(|prefill| prefill.request == request) {
            prefill.silent = true;
        }
    }

    /// The request at the head of the queue, if nobody will see when its prefill ends.
    pub(crate) fn silent_head(&self) -> Option<u64> {
        self.prefills
            .front()
            .filter(|head| head.silent)
            .map(|head| head.request)
    }

    /// That request, and when its prefill ended, if it should have by now.
    pub(crate) fn overdue(&self, now: f64) -> Option<(u64, f64)> {
        let ends = self.head_since + self.head_seconds * self.learned.factor();
        self.silent_head()
            .filter(|_| ends <= now)
            .map(|request| (request, ends))
    }

    pub(crate) fn began(&mut self, context: f64, now: f64) {
        self.decoding += 1.0;
        self.decoding_context += context;
        self.decoding_since += now;
    }

    pub(crate) fn ended(&mut self, context: f64, began: f64, now: f64) {
        self.decoding -= 1.0;
        self.decoding_context -= context;
        self.decoding_since -= began;
        if self.decoding < 0.5 {
            self.decoding = 0.0;
            self.decoding_context = 0.0;
            self.decoding_since = 0.0;
        }
        self.answers = (self.answers + 1.0).min(REMEMBERED);
        self.answering += ((now - began).max(0.0) - self.answering) / self.answers;
    }

    fn new_head(&mut self, burden: f64, now: f64) {
        self.head_since = now;
        match self.prefills.front() {
            Some(head) => self.head_seconds = head.work.seconds + head.work.tokens * burden,
            None => {
                self.head_seconds = 0.0;
                self.queued = Work::default();
            }
        }
    }

    /// What the pool itself has there now.
    pub(crate) fn own_load(&self) -> OwnLoad {
        OwnLoad {
            in_flight: self.in_flight,
            prefilling: self.prefills.len() as u32,
        }
    }

    /// The most that the pool had there since the last time that somebody asked.
    pub(crate) fn take_peak(&mut self) -> OwnLoad {
        let now = self.own_load();
        std::mem::replace(&mut self.peak, now).most(now)
    }

    /// What the engine says: requests beyond our own are other routers'. `own` is what the pool itself had there when
    /// the engine said it, or a page that is a second old would count what ended since as somebody else's. `tokens`: the
    /// size of its KV cache.
    pub(crate) fn observe(&mut self, observed: Observed, own: OwnLoad, tokens: f64) {
        let (waiting, running) = (sound(observed.waiting), sound(observed.running));
        let outside = (waiting + running - f64::from(own.in_flight)).max(0.0);
        self.outside_waiting = outside.min((waiting - f64::from(own.prefilling)).max(0.0));
        self.outside_running = outside - self.outside_waiting;
        let share = self.outside_running / running.max(1.0);
        self.outside_held = share.min(1.0) * sound(observed.kv_used).min(1.0) * tokens;
    }

    /// The engine says only how many requests wait.
    pub(crate) fn observe_waiting(&mut self, waiting: f64, own: OwnLoad) {
        self.outside_waiting = (sound(waiting) - f64::from(own.prefilling)).max(0.0);
    }
}
