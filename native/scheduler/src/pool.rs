//! A pool of endpoints that serve the same models, and the choice among them.

use crate::cost::{CostModel, Learned, StepModel};
use crate::endpoint::{Endpoint, EndpointState, Observed, OwnLoad, Work};
use crate::predict::{predict, Prediction};
use crate::residency::CacheSize;
use std::collections::HashMap;

/// How a pool chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The endpoint where the first token will come soonest: seconds of prefill outstanding there, plus the request's
    /// own seconds there (less where its prefix is cached), plus what its company costs.
    PredictedDrain,
    /// The fewest requests in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// The longest cached prefix, then the fewest requests in flight.
    Prefix,
    /// The less loaded of two random ones.
    RandomTwo,
}

/// Why an endpoint was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its prefix cache made it the best.
    Prefix,
    /// Its load made it the best.
    Load,
    /// It was its turn (round robin), or chance.
    Turn,
    /// The request's session is there.
    Session,
    /// There was no other.
    Only,
}

/// What the choice needs to know of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Tokens of the prompt (an estimate will do: an error of a half costs little).
    pub tokens: f64,
    /// Chained hashes of the prompt's full blocks, first block first.
    pub blocks: &'a [u64],
    /// Endpoints (names) that must not be picked: those that failed this request already.
    pub excluded: &'a [u64],
    /// The endpoint that the request's session was on, if any.
    pub session: Option<u64>,
}

/// An answer of the pool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pick {
    /// The endpoint's name.
    pub endpoint: u64,
    /// Why this one.
    pub reason: Reason,
    /// Tokens of the prompt that its cache probably holds.
    pub cached_tokens: f64,
    /// Seconds until the first token, as predicted (0 for policies that do not predict).
    pub predicted: f64,
}

/// Settings of a pool.
#[derive(Debug, Clone, Copy)]
pub struct PoolConfig {
    /// How to choose.
    pub policy: Policy,
    /// What a prompt costs.
    pub cost: CostModel,
    /// Tokens of one block of the hashes.
    pub block_tokens: f64,
    /// Blocks that an endpoint's prefix index remembers.
    pub prefix_blocks: usize,
    /// Tokens that an endpoint's KV cache holds where it does not say.
    pub kv_tokens: f64,
    /// Seconds that one more request in flight costs the others.
    pub company_seconds: f64,
    /// Seconds for which a new endpoint's load is scaled up, to warm it gently (0: at once).
    pub warmup: f64,
    /// What the engines' steps are like.
    pub steps: StepModel,
    /// How much a second of its own computing counts beside a second of waiting: it keeps others waiting too, and takes
    /// their room in caches.
    pub work_weight: f64,
    /// What is added to it for each second that requests wait now (the median endpoint): the fuller a pool, the more
    /// it costs everybody to compute again what another endpoint has in its cache.
    pub work_weight_growth: f64,
}

impl PoolConfig {
    /// How much a request's own work counts, where requests wait `wait` seconds on average.
    fn weight_of_work(&self, wait: f64) -> f64 {
        (self.work_weight + self.work_weight_growth * wait).min(MOST_WORK_WEIGHT)
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig {
            policy: Policy::PredictedDrain,
            cost: CostModel::default(),
            block_tokens: 512.0,
            prefix_blocks: 4096,
            kv_tokens: 400_000.0,
            company_seconds: 0.003,
            warmup: 0.0,
            steps: StepModel::default(),
            work_weight: 1.2,
            work_weight_growth: 2.0,
        }
    }
}

#[derive(Debug, Clone)]
struct Flight {
    endpoint: u64,
    tokens: f64,
    /// Tokens of the prompt that are in no block.
    private: f64,
    blocks: Box<[u64]>,
    /// When its first token came.
    began: Option<f64>,
}

/// Endpoints, their books, and the choice. Names of endpoints and requests are the caller's.
#[derive(Debug, Clone)]
pub struct Pool {
    config: PoolConfig,
    endpoints: Vec<Endpoint>,
    flights: HashMap<u64, Flight>,
    /// What all endpoints together are like.
    learned: Learned,
    turn: usize,
}

/// The most that a second of a request's own computing counts.
const MOST_WORK_WEIGHT: f64 = 8.0;
/// Scores this close (relative) are the same; the fewer requests decide.
const SAME: f64 = 1e-9;

impl Pool {
    /// A pool without endpoints.
    pub fn new(config: PoolConfig) -> Self {
        Pool {
            config,
            endpoints: Vec::new(),
            flights: HashMap::new(),
            learned: Learned::default(),
            turn: 0,
        }
    }

    /// Other settings from now on; books stay, prefix indexes keep their size until their endpoint is new.
    pub fn set_config(&mut self, config: PoolConfig) {
        self.config = config;
    }

    /// The endpoints from now on: names that were there keep their books, new ones begin with empty ones.
    pub fn set_endpoints(&mut self, names: &[u64], now: f64) {
        self.endpoints.retain(|endpoint| names.contains(&endpoint.name));
        for &name in names {
            if self.position(name).is_none() {
                self.endpoints.push(Endpoint::new(name, now));
            }
        }
        self.endpoints.sort_by_key(|endpoint| endpoint.name);
        let endpoints = &self.endpoints;
        self.flights
            .retain(|_, flight| endpoints.iter().any(|endpoint| endpoint.name == flight.endpoint));
    }

    /// Let an endpoint drain, or take requests again.
    pub fn set_state(&mut self, name: u64, state: EndpointState) {
        if let Some(at) = self.position(name) {
            self.endpoints[at].state = state;
        }
    }

    /// What an engine says of itself now. `kv_tokens`: the size of its KV cache, if it says.
    pub fn observe(&mut self, name: u64, observed: Observed, kv_tokens: Option<f64>) {
        if let Some(own) = self.own_load(name) {
            self.observe_then(name, observed, own, kv_tokens);
        }
    }

    /// What an engine said of itself a moment ago, when `own` was what this pool had there.
    pub fn observe_then(&mut self, name: u64, observed: Observed, own: OwnLoad, kv_tokens: Option<f64>) {
        if let Some(at) = self.position(name) {
            if let Some(tokens) = kv_tokens {
                self.set_kv_tokens(name, tokens);
            }
            let tokens = self.cache_size(at).tokens;
            self.endpoints[at].observe(observed, own, tokens);
        }
    }

    /// How many tokens an engine's KV cache holds.
    pub fn set_kv_tokens(&mut self, name: u64, tokens: f64) {
        if let Some(at) = self.position(name) {
            self.endpoints[at].kv_tokens = tokens.max(0.0);
        }
    }

    /// What an engine said of its queue alone; what it said of its batch stands.
    pub fn observe_waiting(&mut self, name: u64, waiting: f64, own: OwnLoad) {
        if let Some(at) = self.position(name) {
            self.endpoints[at].observe_waiting(waiting, own);
        }
    }

    /// What this pool has at an endpoint now; None where it is not known.
    pub fn own_load(&self, name: u64) -> Option<OwnLoad> {
        self.position(name).map(|at| self.endpoints[at].own_load())
    }

    /// The most that this pool had at each endpoint since the last time that somebody asked.
    pub fn take_peaks(&mut self) -> impl Iterator<Item = (u64, OwnLoad)> + '_ {
        self.endpoints
            .iter_mut()
            .map(|endpoint| (endpoint.name, endpoint.take_peak()))
    }

    /// This proxy has so many requests at the endpoint: those beyond the books count in its load until it says so again.
    pub fn set_active(&mut self, name: u64, active: u64) {
        if let Some(at) = self.position(name) {
            self.endpoints[at].set_active(active);
        }
    }

    /// Requests in flight, by the books.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Requests in flight on one endpoint (0 where it is not known).
    pub fn in_flight_on(&self, name: u64) -> u32 {
        self.position(name).map_or(0, |at| self.endpoints[at].in_flight)
    }

    /// The endpoint for a request; None where none takes requests. `random` is uniform in 0..1 and used only by
    /// policies that need chance.
    pub fn pick(&mut self, request: &Request<'_>, now: f64, random: f64) -> Option<Pick> {
        self.settle_silent(now);
        let open: Vec<usize> = (0..self.endpoints.len())
            .filter(|&at| {
                let endpoint = &self.endpoints[at];
                endpoint.state == EndpointState::Ready && !request.excluded.contains(&endpoint.name)
            })
            .collect();
        match open.len() {
            0 => return None,
            1 => return Some(self.answer(open[0], request, Reason::Only, now)),
            _ => {}
        }
        if let Some(at) = request
            .session
            .and_then(|name| open.iter().copied().find(|&at| self.endpoints[at].name == name))
        {
            return Some(self.answer(at, request, Reason::Session, now));
        }
        let (at, reason) = match self.config.policy {
            Policy::PredictedDrain => self.soonest(&open, request, now),
            Policy::LeastRequest => (self.least_loaded(&open, random), Reason::Load),
            Policy::RoundRobin => {
                self.turn = self.turn.wrapping_add(1);
                (open[self.turn % open.len()], Reason::Turn)
            }
            Policy::Prefix => self.longest_prefix(&open, request, random),
            Policy::RandomTwo => (self.better_of_two(&open, random), Reason::Turn),
        };
        Some(self.answer(at, request, reason, now))
    }

    /// A request was sent to an endpoint. A request that is in the books already is moved (a retry).
    pub fn start(&mut self, id: u64, name: u64, request: &Request<'_>, now: f64) {
        if self.flights.contains_key(&id) {
            self.finish(id, now);
        }
        if let Some(at) = self.position(name) {
            let tokens = tokens_of(request, self.config.block_tokens);
            let flight = Flight {
                endpoint: name,
                tokens,
                private: tokens - request.blocks.len() as f64 * self.config.block_tokens,
                blocks: request.blocks.into(),
                began: None,
            };
            let work = self.work(at, request);
            let burden = self.burden(at, now);
            let endpoint = &mut self.endpoints[at];
            endpoint.start(id, work, burden, now);
            endpoint.residency.coming(&flight.blocks);
            let _ = self.flights.insert(id, flight);
        }
    }

    /// The first token of a request's answer came.
    pub fn first_token(&mut self, id: u64, now: f64) {
        self.settle_overtaken(id, now);
        self.begin(id, now, true);
    }

    /// A request's whole answer came at once: its prompt is in the cache, but nobody saw how long the prefill took.
    pub fn answered(&mut self, id: u64, now: f64) {
        self.begin(id, now, false);
    }

    fn begin(&mut self, id: u64, now: f64, learn: bool) {
        let at = match self.flights.get(&id) {
            Some(flight) if flight.began.is_none() => self.position(flight.endpoint),
            _ => None,
        };
        if let Some(at) = at {
            let burden = self.burden(at, now);
            let size = self.cache_size(at);
            if let Some(flight) = self.flights.get_mut(&id) {
                flight.began = Some(now);
                let endpoint = &mut self.endpoints[at];
                if let Some((predicted, observed)) = endpoint.prefilled(id, burden, now, learn) {
                    self.learned.observe(predicted, observed);
                }
                endpoint.began(flight.tokens, now);
                endpoint.residency.arrived(&flight.blocks, flight.private, size);
            }
        }
    }

    /// A request ended, whatever way.
    pub fn finish(&mut self, id: u64, now: f64) {
        if let Some(flight) = self.flights.remove(&id) {
            if let Some(at) = self.position(flight.endpoint) {
                let burden = self.burden(at, now);
                let size = self.cache_size(at);
                let endpoint = &mut self.endpoints[at];
                endpoint.in_flight = endpoint.in_flight.saturating_sub(1);
                match flight.began {
                    Some(began) => {
                        endpoint.ended(flight.tokens, began, now);
                        endpoint.residency.released(&flight.blocks, flight.private, size);
                    }
                    None => {
                        let _ = endpoint.prefilled(id, burden, now, false);
                        endpoint.residency.gone(&flight.blocks);
                    }
                }
            }
        }
    }

    fn position(&self, name: u64) -> Option<usize> {
        self.endpoints.iter().position(|endpoint| endpoint.name == name)
    }

    fn cached_tokens(&self, at: usize, request: &Request<'_>) -> f64 {
        let blocks = self.endpoints[at].residency.matching(request.blocks);
        blocks as f64 * self.config.block_tokens
    }

    fn cache_size(&self, at: usize) -> CacheSize {
        let told = self.endpoints[at].kv_tokens;
        CacheSize {
            tokens: if told > 0.0 { told } else { self.config.kv_tokens },
            block_tokens: self.config.block_tokens,
            most_blocks: self.config.prefix_blocks,
        }
    }

    fn burden(&self, at: usize, now: f64) -> f64 {
        self.endpoints[at].burden(&self.config.cost, &self.config.steps, now)
    }

    fn work(&self, at: usize, request: &Request<'_>) -> Work {
        self.work_with(request, self.cached_tokens(at, request))
    }

    fn work_with(&self, request: &Request<'_>, cached: f64) -> Work {
        let tokens = tokens_of(request, self.config.block_tokens);
        Work {
            tokens: (tokens - cached).max(0.0),
            seconds: self.config.cost.prefill(tokens, cached),
        }
    }

    fn answer(&self, at: usize, request: &Request<'_>, reason: Reason, now: f64) -> Pick {
        let cached_tokens = self.cached_tokens(at, request);
        let predicted = match self.config.policy {
            Policy::PredictedDrain => self.predict(at, request, cached_tokens, now).first_token(),
            _ => 0.0,
        };
        Pick {
            endpoint: self.endpoints[at].name,
            reason,
            cached_tokens,
            predicted,
        }
    }

    /// What sending the request there now would mean.
    fn predict(&self, at: usize, request: &Request<'_>, cached: f64, now: f64) -> Prediction {
        let endpoint = &self.endpoints[at];
        let own = self.work_with(request, cached);
        predict(&self.config, endpoint, own, self.cache_size(at), &self.learned, now)
    }

    fn soonest(&self, open: &[usize], request: &Request<'_>, now: f64) -> (usize, Reason) {
        let predicted: Vec<Prediction> = open
            .iter()
            .map(|&at| self.predict(at, request, self.cached_tokens(at, request), now))
            .collect();
        let mut waits: Vec<f64> = predicted.iter().map(|one| one.wait).collect();
        waits.sort_by(f64::total_cmp);
        let weight = self.config.weight_of_work(waits[(waits.len() - 1) / 2]);
        let mut best = (0, f64::INFINITY);
        for (place, prediction) in predicted.iter().enumerate() {
            let score = prediction.score(weight);
            let fewer = self.endpoints[open[place]].load() < self.endpoints[open[best.0]].load();
            if score < best.1 * (1.0 - SAME) || (score <= best.1 * (1.0 + SAME) && fewer) {
                best = (place, score);
            }
        }
        let winner = open[best.0];
        // Had nobody anything of it in the cache, would another have been as good?
        let plain = |at: usize| self.predict(at, request, 0.0, now).score(weight);
        let bar = plain(winner) * (1.0 + SAME);
        let owes_it_to_cache =
            self.cached_tokens(winner, request) > 0.0 && open.iter().any(|&at| at != winner && plain(at) <= bar);
        (winner, if owes_it_to_cache { Reason::Prefix } else { Reason::Load })
    }

    fn least_loaded(&self, open: &[usize], random: f64) -> usize {
        let least = open
            .iter()
            .map(|&at| self.endpoints[at].load())
            .fold(f64::INFINITY, f64::min);
        let equal: Vec<usize> = open
            .iter()
            .copied()
            .filter(|&at| self.endpoints[at].load() <= least)
            .collect();
        equal[index_of(random, equal.len())]
    }

    fn longest_prefix(&self, open: &[usize], request: &Request<'_>, random: f64) -> (usize, Reason) {
        let longest = open
            .iter()
            .map(|&at| self.cached_tokens(at, request))
            .fold(0.0, f64::max);
        if longest <= 0.0 {
            return (self.least_loaded(open, random), Reason::Load);
        }
        let equal: Vec<usize> = open
            .iter()
            .copied()
            .filter(|&at| self.cached_tokens(at, request) >= longest)
            .collect();
        (self.least_loaded(&equal, random), Reason::Prefix)
    }

    fn better_of_two(&self, open: &[usize], random: f64) -> usize {
        let pairs = open.len() * (open.len() - 1);
        let pair = index_of(random, pairs);
        let first = pair / (open.len() - 1);
        let rest = pair % (open.len() - 1);
        let second = if rest >= first { rest + 1 } else { rest };
        let (first, second) = (open[first], open[second]);
        if self.endpoints[second].load() < self.endpoints[first].load() {
            second
        } else {
            first
        }
    }
}

/// Tokens of a prompt: not fewer than its full blocks have, whatever was estimated.
fn tokens_of(request: &Request<'_>, block_tokens: f64) -> f64 {
    request.tokens.max(request.blocks.len() as f64 * block_tokens)
}

/// A uniform index below `count` from a uniform number in 0..1.
fn index_of(random: f64, count: usize) -> usize {
    ((random * count as f64) as usize).min(count - 1)
}

mod silent;
#[cfg(test)]
mod tests;
