//! One endpoint as a pool sees it: what is outstanding there by its own books, corrected by what the engine says.

use crate::adapters::Adapters;
use crate::cost::{CostModel, Learned, StepModel};
use crate::outside::{Counted, Outside};
use crate::places::Places;
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
    /// Tokens of the KV cache that it will hold and that no request holds or waits for now.
    pub(crate) claim: f64,
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
    /// The engine has begun with the head.
    head_begun: bool,
    /// When a token came from there last: a step ended and the next one began.
    step_since: f64,
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
    /// Adapters that are loaded there.
    pub(crate) adapters: Adapters,
    /// What the engine said of requests of others.
    pub(crate) outside: Outside,
    /// How many requests it runs at once, as far as it is known.
    pub(crate) places: Places,
    /// Requests whose first token nobody sees.
    pub(crate) silent: u32,
    /// The most that the pool had there since somebody asked.
    peak: OwnLoad,
    /// Requests that this proxy has there without an entry in the books (copies of a mirror).
    unbooked: f64,
    /// Requests that were sent elsewhere since the last one there.
    pub(crate) elsewhere: u32,
}

/// The head of the queue counts at least this share of its cost until its first token is seen.
const LEAST_LEFT: f64 = 0.1;
/// Predicted seconds of work over which a rate is learned, unless the queue is empty before.
const SPAN: f64 = 0.5;
/// Answers that the average of their duration remembers.
const REMEMBERED: f64 = 200.0;
/// The head of the queue is late after this many times what it should take, and a moment.
const LATE: f64 = 2.0;
const LATE_SECONDS: f64 = 0.2;
/// Steps without a token seen after which it is not known when one began.
const STEPS_UNSEEN: f64 = 3.0;
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
            head_begun: true,
            step_since: f64::NEG_INFINITY,
            head_seconds: 0.0,
            span: 0.0,
            span_since: now,
            decoding: 0.0,
            decoding_context: 0.0,
            decoding_since: 0.0,
            answering: FIRST_GUESS,
            answers: 0.0,
            adapters: Adapters::default(),
            outside: Outside::default(),
            places: Places::default(),
            silent: 0,
            peak: OwnLoad::default(),
            unbooked: 0.0,
            elsewhere: 0,
        }
    }

    /// Tokens of the answers that are being written, as far as they can be guessed.
    pub(crate) fn answered(&self, cost: &CostModel, steps: &StepModel, now: f64) -> f64 {
        let step = cost.token_seconds * (steps.overhead_tokens + self.decoding) * self.learned.factor();
        let answered = (self.decoding * now - self.decoding_since).max(0.0) / step.max(1e-6);
        answered.min(self.decoding * steps.answer_tokens)
    }

    /// Tokens of prompt that cost as much as serving those that decode does in each step.
    fn decode_tokens(&self, cost: &CostModel, steps: &StepModel, now: f64) -> f64 {
        let step = cost.token_seconds * (steps.overhead_tokens + self.decoding);
        let answered = (self.decoding * now - self.decoding_since).max(0.0) / step.max(1e-6);
        let context = self.decoding_context + answered.min(self.decoding * steps.answer_tokens);
        self.decoding + context * steps.read_share
    }

    /// Seconds of a step that computes no prompt.
    pub(crate) fn step(&self, cost: &CostModel, steps: &StepModel, now: f64) -> f64 {
        cost.token_seconds * (steps.overhead_tokens + self.decode_tokens(cost, steps, now))
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
        let since = if self.head_begun { self.head_since } else { now };
        let done = ((now - since) / whole).clamp(0.0, 1.0 - LEAST_LEFT);
        Work {
            tokens: (self.queued.tokens - done * head.tokens).max(0.0),
            seconds: (self.queued.seconds - done * head.seconds).max(0.0),
            claim: 0.0,
        }
    }

    /// Seconds for which the head of the queue has been waited for beyond what it could take: something there is not as
    /// the books have it, and may last as long again. It may wait for one of `places`.
    pub(crate) fn late(&self, places: f64, now: f64) -> f64 {
        if self.prefills.is_empty() {
            return 0.0;
        }
        let place = if self.decoding > places - 0.5 {
            self.answering
        } else {
            0.0
        };
        let allowed = LATE * self.head_seconds * self.learned.factor() + LATE_SECONDS + place;
        (now - self.head_since - allowed).max(0.0)
    }

    /// Seconds until the step under way ends, of steps that take `step`, unless the queue's head is in it.
    pub(crate) fn rest_of_step(&self, step: f64, now: f64) -> f64 {
        let elapsed = now - self.step_since;
        if self.decoding < 0.5 || (self.head_begun && !self.prefills.is_empty()) {
            0.0
        } else if elapsed > STEPS_UNSEEN * step {
            0.5 * step
        } else {
            (step - elapsed).max(0.0)
        }
    }

    /// Requests of others there, as far as the engine told and it counts.
    pub(crate) fn others(&self, now: f64) -> Counted {
        self.outside.counted(self.elsewhere, now)
    }

    /// Requests there, with those that are not in the books: as far as the engine told, or this proxy knows besides.
    pub(crate) fn load(&self, now: f64) -> f64 {
        self.load_with(self.others(now))
    }

    /// The same, with so many requests of others.
    pub(crate) fn load_with(&self, others: Counted) -> f64 {
        f64::from(self.in_flight) + (others.waiting + others.running).max(self.unbooked)
    }

    /// This proxy has so many requests there, in the books or not.
    pub(crate) fn set_active(&mut self, active: u64) {
        self.unbooked = (active as f64 - f64::from(self.in_flight)).max(0.0);
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
        self.elsewhere = 0;
        if self.prefills.len() == 1 {
            self.span = 0.0;
            self.span_since = now;
            self.new_head(burden, now);
            self.head_begun = self.decoding < 0.5;
        }
    }

    /// A token came from there: a step ended, and the next one begins.
    pub(crate) fn stepped(&mut self, now: f64) {
        self.step_since = now;
        if !self.head_begun {
            self.head_begun = true;
            self.head_since = now;
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

    /// That request, and when its prefill ended, if it should have by now. `factor`: of all endpoints.
    pub(crate) fn overdue(&self, factor: f64, now: f64) -> Option<(u64, f64)> {
        let ends = self.head_since + self.head_seconds * self.learned.factor().max(factor);
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
        self.head_begun = true;
        self.step_since = now;
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
}
