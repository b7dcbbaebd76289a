//! Predicted drain: what sending a request to an endpoint now would mean, for it and for those after it.

use crate::cost::Learned;
use crate::endpoint::{Endpoint, Work};
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
    company: f64,
    /// A new endpoint counts for more than it is.
    warming: f64,
}

impl Prediction {
    /// Seconds until its first token.
    pub(crate) fn first_token(&self) -> f64 {
        self.wait + self.work
    }

    /// What the choice weighs; less is better. `weight`: how much its work counts.
    pub(crate) fn score(&self, weight: f64) -> f64 {
        (self.wait + weight * self.work + self.company) * self.warming
    }
}

/// Seconds that a full KV cache costs its company: the next ones may have to wait, and blocks of others go.
const CACHE_SECONDS: f64 = 0.2;

/// The prediction for a request whose prompt means `own` work there.
pub(crate) fn predict(
    config: &PoolConfig,
    endpoint: &Endpoint,
    own: Work,
    cache: CacheSize,
    learned: &Learned,
    now: f64,
) -> Prediction {
    let factor = endpoint.learned.factor_among(learned);
    let burden = endpoint.burden(&config.cost, &config.steps, now);
    let left = endpoint.left(now);
    let queue = (left.seconds + left.tokens * burden) * factor;
    let work = (own.seconds + own.tokens * burden) * factor;
    // What others sent is known only by number; it is taken to be like this one.
    let queue = queue + endpoint.outside_waiting() * work;
    let held = endpoint.residency.held_tokens(cache.block_tokens) + endpoint.outside_held();
    let overflow = held + endpoint.queued_tokens() + own.tokens - cache.tokens;
    let room_wait = overflow.max(0.0) / cache.tokens.max(1.0) * endpoint.answering();
    let excess = endpoint.load() + 1.0 - config.steps.sequences;
    let slot_wait = excess.max(0.0) / config.steps.sequences * endpoint.answering();
    let wait = queue.max(room_wait).max(slot_wait);
    let company = config.company_seconds * endpoint.load() + CACHE_SECONDS * held / cache.tokens.max(1.0);
    let age = now - endpoint.since;
    Prediction {
        wait,
        work,
        company: company
            + if age < config.warmup {
                config.company_seconds
            } else {
                0.0
            },
        warming: if age < config.warmup {
            config.warmup / age.max(config.warmup * 0.1)
        } else {
            1.0
        },
    }
}
