//! Predicted drain: what sending a request to an endpoint now would mean, for it and for those after it.

use crate::adapters::Place;
use crate::cost::Learned;
use crate::endpoint::{Endpoint, Work};
use crate::outside::Counted;
use crate::pool::PoolConfig;
use crate::residency::CacheSize;

/// What sending a request there would mean, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Prediction {
    /// Until the engine turns to it.
    pub(crate) wait: f64,
    /// For computing its prompt.
    pub(crate) work: f64,
    /// What its company costs others.
    pub(crate) company: f64,
    /// Share of the KV cache that requests in flight hold or wait for; above 1 where they wait for room.
    pub(crate) full: f64,
    /// Blocks of others that would have to go for it.
    pub(crate) evictions: f64,
}

impl Prediction {
    /// Seconds until its first token.
    pub(crate) fn first_token(&self) -> f64 {
        self.wait + self.work
    }
}

/// What a prediction needs beside the endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) config: &'a PoolConfig,
    pub(crate) learned: &'a Learned,
    pub(crate) cache: CacheSize,
    /// Requests that it runs at once.
    pub(crate) places: f64,
    /// What computing a prompt usually means.
    pub(crate) usual: Work,
    pub(crate) now: f64,
}

/// Seconds that a full KV cache costs its company: the next ones may have to wait.
const CACHE_SECONDS: f64 = 0.2;

/// What dropping an adapter costs, as a share of loading one, where it was just used; half after so many seconds.
const DROPPED: f64 = 0.5;
const DROPPED_FADES: f64 = 10.0;

/// The prediction for a request whose prompt means `own` work there, with requests of `others` beside the pool's.
pub(crate) fn predict(
    facts: &Facts<'_>,
    endpoint: &Endpoint,
    own: Work,
    adapter: Option<Place>,
    others: Counted,
) -> Prediction {
    let (config, cache, now) = (facts.config, facts.cache, facts.now);
    let size = cache.tokens.max(1.0);
    let factor = endpoint.learned.factor_among(facts.learned);
    let burden = endpoint.burden(&config.cost, &config.steps, now);
    let step = endpoint.step(&config.cost, &config.steps, now) * factor;
    let left = endpoint.left(now);
    let alone = (own.seconds + own.tokens * burden) * factor;
    // What others sent is known only by number; it is taken to be as usual.
    let theirs = (facts.usual.seconds + facts.usual.tokens * burden) * others.waiting;
    let queue = (left.seconds + left.tokens * burden + theirs) * factor;
    let held = endpoint.residency.claimed_tokens(cache.block_tokens)
        + endpoint.answered(&config.cost, &config.steps, now)
        + others.held * size;
    let overflow = (held + own.claim - size).max(0.0);
    let load = endpoint.load_with(others);
    let excess = (load + 1.0 - facts.places).max(0.0);
    let room = overflow / held.max(1.0);
    let places = excess / facts.places;
    let loading = match adapter {
        None | Some(Place::Loaded) => 0.0,
        Some(Place::Free) => config.adapter_seconds,
        // Somebody may want the other one back: likely if it was used a moment ago.
        Some(Place::Drops(idle)) => config.adapter_seconds * (1.0 + DROPPED / (1.0 + idle / DROPPED_FADES)),
        Some(Place::Full) => config.adapter_seconds + endpoint.answering(),
    };
    Prediction {
        wait: endpoint.rest_of_step(step, now)
            + queue.max(endpoint.answering() * room.max(places))
            + endpoint.late(facts.places, now)
            + loading,
        work: alone + step,
        company: config.company_seconds * load + CACHE_SECONDS * held / size,
        full: held / size,
        evictions: endpoint.residency.evictions(own.tokens, cache),
    }
}
