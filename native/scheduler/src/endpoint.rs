//! One endpoint as a pool sees it: what is outstanding there by its own books, corrected by what the engine says.

use crate::cost::{CostModel, Learned};
use crate::prefix::PrefixIndex;
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

/// Whether an endpoint takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointState {
    /// It takes requests.
    Ready,
    /// It takes none any more, but ends those it has.
    Draining,
}

/// A prompt that is being (or waits to be) prefilled.
#[derive(Debug, Clone, Copy)]
struct Prefill {
    request: u64,
    seconds: f64,
}

#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) name: u64,
    pub(crate) state: EndpointState,
    pub(crate) since: f64,
    pub(crate) prefix: PrefixIndex,
    pub(crate) learned: Learned,
    pub(crate) in_flight: u32,
    pub(crate) resident_tokens: f64,
    pub(crate) kv_tokens: f64,
    prefills: VecDeque<Prefill>,
    head_since: f64,
    outside_running: f64,
}

/// The head of the queue counts at least this share of its cost until its first token is seen.
const LEAST_LEFT: f64 = 0.1;

impl Endpoint {
    pub(crate) fn new(name: u64, prefix_blocks: usize, now: f64) -> Self {
        Endpoint {
            name,
            state: EndpointState::Ready,
            since: now,
            prefix: PrefixIndex::new(prefix_blocks),
            learned: Learned::default(),
            in_flight: 0,
            resident_tokens: 0.0,
            kv_tokens: 0.0,
            prefills: VecDeque::new(),
            head_since: now,
            outside_running: 0.0,
        }
    }

    /// Seconds of prefill that are left there, by the books: everything that waits, and what is left of the one that
    /// runs, given how long it has been running.
    pub(crate) fn drain_seconds(&self, now: f64) -> f64 {
        let factor = self.learned.factor();
        let mut total = 0.0;
        for (at, prefill) in self.prefills.iter().enumerate() {
            let whole = prefill.seconds * factor;
            total += if at == 0 {
                (whole - (now - self.head_since)).max(whole * LEAST_LEFT)
            } else {
                whole
            };
        }
        total
    }

    /// Requests there, with those that other routers sent as far as the engine told.
    pub(crate) fn load(&self) -> f64 {
        f64::from(self.in_flight) + self.outside_running
    }

    pub(crate) fn start(&mut self, request: u64, seconds: f64, tokens: f64, now: f64) {
        if self.prefills.is_empty() {
            self.head_since = now;
        }
        self.prefills.push_back(Prefill { request, seconds });
        self.in_flight += 1;
        self.resident_tokens += tokens;
    }

    /// The request's first token came, or it ended without one: its prefill is over. `learn`: the time it took says
    /// something of the endpoint's rate.
    pub(crate) fn prefilled(&mut self, request: u64, now: f64, learn: bool) {
        if let Some(at) = self.prefills.iter().position(|prefill| prefill.request == request) {
            if at == 0 {
                if learn {
                    self.learned.observe(self.prefills[0].seconds, now - self.head_since);
                }
                self.head_since = now;
            }
            let _ = self.prefills.remove(at);
        }
    }

    pub(crate) fn finish(&mut self, request: u64, tokens: f64, now: f64) {
        self.prefilled(request, now, false);
        self.in_flight = self.in_flight.saturating_sub(1);
        self.resident_tokens = (self.resident_tokens - tokens).max(0.0);
    }

    /// What the engine says: requests beyond our own are other routers'.
    pub(crate) fn observe(&mut self, observed: Observed) {
        let told = (observed.waiting + observed.running).max(0.0);
        self.outside_running = if told.is_finite() {
            (told - f64::from(self.in_flight)).max(0.0)
        } else {
            0.0
        };
    }

    /// Seconds of prefill for a prompt of which `cached` tokens are in the endpoint's cache.
    pub(crate) fn own_seconds(&self, model: &CostModel, tokens: f64, cached: f64) -> f64 {
        model.prefill(tokens, cached) * self.learned.factor()
    }
}
