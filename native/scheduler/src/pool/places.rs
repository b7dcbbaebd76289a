//! How many requests each endpoint runs at once: what endpoints show of it, and what others of the pool lend them.

use super::Pool;
use crate::places::Prompt;

/// Requests that need more than this share of a KV cache may wait for room there instead of a place.
const ROOMY: f64 = 0.5;
/// Requests of others that count as none.
const OTHERS: f64 = 0.5;

impl Pool {
    /// How many requests an engine says that it runs at once; None where it does not say.
    pub fn set_places(&mut self, name: u64, places: Option<u32>) {
        if let Some(at) = self.position(name) {
            self.endpoints[at].places.tell(places);
            self.compare_places_if_news(at);
        }
    }

    /// How many requests an endpoint runs at once, where that is certain: it says so, or has shown it, or others of the
    /// pool have and it has not shown that it runs more.
    pub fn places(&self, name: u64) -> Option<u32> {
        let at = self.position(name)?;
        let own = self.endpoints[at].places.certain();
        own.or_else(|| self.lent(at).filter(|_| self.certain_places))
    }

    /// How many requests an endpoint is taken to run at once.
    pub(crate) fn places_at(&self, at: usize) -> f64 {
        let endpoint = &self.endpoints[at];
        let known = endpoint.places.known().or_else(|| self.lent(at));
        let most = self.config.steps.sequences;
        known.map_or(most, |known| f64::from(known.max(endpoint.places.running())).min(most))
    }

    fn lent(&self, at: usize) -> Option<u32> {
        self.common_places
            .filter(|&places| self.endpoints[at].places.proven() <= places)
    }

    /// What those that are known have in common: the most that one of them runs.
    pub(crate) fn compare_places(&mut self) {
        let places = || self.endpoints.iter().map(|endpoint| &endpoint.places);
        let certain = places().filter_map(|one| one.certain()).max();
        let known = places().filter_map(|one| one.known()).max();
        self.common_places = certain.or(known);
        self.certain_places = certain.is_some();
    }

    /// The same, if something new is known of this one.
    pub(crate) fn compare_places_if_news(&mut self, at: usize) {
        if self.endpoints[at].places.take_news() {
            self.compare_places();
        }
    }

    /// A stream's first token comes: whether the request waited for a place until now.
    pub(crate) fn waits_for_place(&mut self, at: usize, id: u64, now: f64) -> bool {
        let factor = self.learned.factor();
        let clear = self.is_clear(at, now);
        let prompt = self.flights.get(&id).filter(|_| clear).map(|flight| Prompt {
            sent: flight.sent_at,
            alone: factor * flight.alone,
            whole: factor * self.config.cost.prefill(flight.tokens, 0.0),
        });
        let places = self.places_at(at);
        let endpoint = &mut self.endpoints[at];
        let waited = endpoint.places.began(prompt, now);
        let many = f64::from(endpoint.in_flight) > places;
        self.compare_places_if_news(at);
        waited || many
    }

    /// Whether nothing but a lack of places is known that could hold up a stream there.
    fn is_clear(&self, at: usize, now: f64) -> bool {
        let (endpoint, size) = (&self.endpoints[at], self.cache_size(at));
        let held = endpoint.residency.claimed_tokens(size.block_tokens)
            + endpoint.answered(&self.config.cost, &self.config.steps, now);
        let others = endpoint.others(now);
        endpoint.silent == 0 && others.waiting + others.running < OTHERS && held < ROOMY * size.tokens
    }
}
