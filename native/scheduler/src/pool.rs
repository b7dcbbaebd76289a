//! A pool of endpoints that serve the same models, and the choice among them.

use crate::cost::CostModel;
use crate::endpoint::{Endpoint, EndpointState, Observed};
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
    /// Chained hashes of the prompt's blocks, first block first.
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
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig {
            policy: Policy::PredictedDrain,
            cost: CostModel::default(),
            block_tokens: 512.0,
            prefix_blocks: 4096,
            kv_tokens: 400_000.0,
            company_seconds: 0.01,
            warmup: 0.0,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    endpoint: u64,
    tokens: f64,
    began: bool,
}

/// Endpoints, their books, and the choice. Names of endpoints and requests are the caller's.
#[derive(Debug, Clone)]
pub struct Pool {
    config: PoolConfig,
    endpoints: Vec<Endpoint>,
    flights: HashMap<u64, Flight>,
    turn: usize,
}

/// A penalty in seconds per token that does not fit into the KV cache: about what a decoded token takes.
const OVERFLOW_SECONDS: f64 = 1e-4;
/// Scores this close (relative) are the same; the fewer requests decide.
const SAME: f64 = 1e-9;

impl Pool {
    /// A pool without endpoints.
    pub fn new(config: PoolConfig) -> Self {
        Pool {
            config,
            endpoints: Vec::new(),
            flights: HashMap::new(),
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
                self.endpoints.push(Endpoint::new(name, self.config.prefix_blocks, now));
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

    /// What an engine says of itself. `kv_tokens`: the size of its KV cache, if it says.
    pub fn observe(&mut self, name: u64, observed: Observed, kv_tokens: Option<f64>) {
        if let Some(at) = self.position(name) {
            self.endpoints[at].observe(observed);
            if let Some(tokens) = kv_tokens {
                self.endpoints[at].kv_tokens = tokens.max(0.0);
            }
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
            let cached = self.cached_tokens(at, request);
            let seconds = self.config.cost.prefill(request.tokens, cached);
            let endpoint = &mut self.endpoints[at];
            endpoint.start(id, seconds, request.tokens, now);
            endpoint.prefix.touch(request.blocks);
            let _ = self.flights.insert(
                id,
                Flight {
                    endpoint: name,
                    tokens: request.tokens,
                    began: false,
                },
            );
        }
    }

    /// The first token of a request's answer came.
    pub fn first_token(&mut self, id: u64, now: f64) {
        if let Some(flight) = self.flights.get_mut(&id) {
            if !flight.began {
                flight.began = true;
                let name = flight.endpoint;
                if let Some(at) = self.position(name) {
                    self.endpoints[at].prefilled(id, now, true);
                }
            }
        }
    }

    /// A request ended, whatever way.
    pub fn finish(&mut self, id: u64, now: f64) {
        if let Some(flight) = self.flights.remove(&id) {
            if let Some(at) = self.position(flight.endpoint) {
                self.endpoints[at].finish(id, flight.tokens, now);
            }
        }
    }

    fn position(&self, name: u64) -> Option<usize> {
        self.endpoints.iter().position(|endpoint| endpoint.name == name)
    }

    fn cached_tokens(&self, at: usize, request: &Request<'_>) -> f64 {
        let blocks = self.endpoints[at].prefix.matching(request.blocks);
        (blocks as f64 * self.config.block_tokens).min(request.tokens)
    }

    fn answer(&self, at: usize, request: &Request<'_>, reason: Reason, now: f64) -> Pick {
        let cached_tokens = self.cached_tokens(at, request);
        let predicted = match self.config.policy {
            Policy::PredictedDrain => self.seconds(at, request, cached_tokens, now),
            _ => 0.0,
        };
        Pick {
            endpoint: self.endpoints[at].name,
            reason,
            cached_tokens,
            predicted,
        }
    }

    /// Predicted seconds until the first token, were the request sent there now.
    fn seconds(&self, at: usize, request: &Request<'_>, cached: f64, now: f64) -> f64 {
        let endpoint = &self.endpoints[at];
        let own = endpoint.own_seconds(&self.config.cost, request.tokens, cached);
        let room = if endpoint.kv_tokens > 0.0 {
            endpoint.kv_tokens
        } else {
            self.config.kv_tokens
        };
        let overflow = (endpoint.resident_tokens + request.tokens - cached - room).max(0.0);
        let mut seconds = endpoint.drain_seconds(now)
            + own
            + self.config.company_seconds * endpoint.load()
            + OVERFLOW_SECONDS * overflow;
        let age = now - endpoint.since;
        if age < self.config.warmup {
            seconds = (seconds + self.config.company_seconds) * self.config.warmup / age.max(self.config.warmup * 0.1);
        }
        seconds
    }

    fn soonest(&self, open: &[usize], request: &Request<'_>, now: f64) -> (usize, Reason) {
        let mut best = (open[0], f64::INFINITY);
        for &at in open {
            let seconds = self.seconds(at, request, self.cached_tokens(at, request), now);
            let closer = seconds < best.1 * (1.0 - SAME)
                || (seconds <= best.1 * (1.0 + SAME) && self.endpoints[at].load() < self.endpoints[best.0].load());
            if closer {
                best = (at, seconds);
            }
        }
        // Had the winner no cache, would another have been as good?
        let plain = self.seconds(best.0, request, 0.0, now) * (1.0 + SAME);
        let owes_it_to_cache = self.cached_tokens(best.0, request) > 0.0
            && open
                .iter()
                .any(|&at| at != best.0 && self.seconds(at, request, 0.0, now) <= plain);
        (best.0, if owes_it_to_cache { Reason::Prefix } else { Reason::Load })
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
            .map(|&at| self.endpoints[at].prefix.matching(request.blocks))
            .max()
            .unwrap_or(0);
        if longest == 0 {
            return (self.least_loaded(open, random), Reason::Load);
        }
        let equal: Vec<usize> = open
            .iter()
            .copied()
            .filter(|&at| self.endpoints[at].prefix.matching(request.blocks) == longest)
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

/// A uniform index below `count` from a uniform number in 0..1.
fn index_of(random: f64, count: usize) -> usize {
    ((random * count as f64) as usize).min(count - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(policy: Policy, endpoints: &[u64]) -> Pool {
        let mut pool = Pool::new(PoolConfig {
            policy,
            ..PoolConfig::default()
        });
        pool.set_endpoints(endpoints, 0.0);
        pool
    }

    fn request(tokens: f64, blocks: &[u64]) -> Request<'_> {
        Request {
            tokens,
            blocks,
            excluded: &[],
            session: None,
        }
    }

    #[test]
    fn a_heavy_prompt_keeps_others_away_until_its_first_token() {
        let mut pool = pool(Policy::PredictedDrain, &[1, 2]);
        pool.start(1, 1, &request(50_000.0, &[]), 0.0);
        for id in 2..6 {
            let pick = pool.pick(&request(500.0, &[]), 0.0, 0.5).unwrap();
            assert_eq!(pick.endpoint, 2);
            pool.start(id, pick.endpoint, &request(500.0, &[]), 0.0);
        }
        pool.first_token(1, 2.5);
        assert_eq!(pool.pick(&request(500.0, &[]), 2.5, 0.5).unwrap().endpoint, 1);
    }

    #[test]
    fn a_long_cached_prefix_is_worth_a_short_queue_but_not_a_long_one() {
        let mut pool = pool(Policy::PredictedDrain, &[1, 2]);
        let blocks: Vec<u64> = (0..20).collect();
        let prompt = request(20.0 * 512.0, &blocks);
        pool.start(1, 1, &prompt, 0.0);
        pool.finish(1, 1.0);
        let pick = pool.pick(&prompt, 1.0, 0.5).unwrap();
        assert_eq!((pick.endpoint, pick.reason), (1, Reason::Prefix));
        for id in 2..10 {
            pool.start(id, 1, &request(40_000.0, &[]), 1.0);
        }
        let pick = pool.pick(&prompt, 1.0, 0.5).unwrap();
        assert_eq!((pick.endpoint, pick.reason), (2, Reason::Load));
    }

    #[test]
    fn draining_and_excluded_endpoints_are_never_picked() {
        for policy in [
            Policy::PredictedDrain,
            Policy::LeastRequest,
            Policy::RoundRobin,
            Policy::Prefix,
            Policy::RandomTwo,
        ] {
            let mut pool = pool(policy, &[1, 2, 3]);
            pool.set_state(1, EndpointState::Draining);
            for step in 0..20 {
                let request = Request {
                    excluded: &[2],
                    ..request(10.0, &[5])
                };
                let pick = pool.pick(&request, 0.0, f64::from(step) / 20.0).unwrap();
                assert_eq!(pick.endpoint, 3);
            }
            let none = Request {
                excluded: &[2, 3],
                ..request(10.0, &[])
            };
            assert_eq!(pool.pick(&none, 0.0, 0.0), None);
        }
    }

    #[test]
    fn round_robin_visits_everybody() {
        let mut pool = pool(Policy::RoundRobin, &[1, 2, 3]);
        let mut seen: Vec<u64> = (0..6)
            .map(|_| pool.pick(&request(1.0, &[]), 0.0, 0.0).unwrap().endpoint)
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, [1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn random_two_never_compares_an_endpoint_with_itself() {
        let mut pool = pool(Policy::RandomTwo, &[1, 2]);
        pool.start(1, 1, &request(1.0, &[]), 0.0);
        for step in 0..100 {
            assert_eq!(
                pool.pick(&request(1.0, &[]), 0.0, f64::from(step) / 100.0)
                    .unwrap()
                    .endpoint,
                2
            );
        }
    }

    #[test]
    fn books_balance_whatever_order_events_come_in() {
        let mut pool = pool(Policy::PredictedDrain, &[1, 2]);
        for id in 0..100 {
            pool.start(id, 1 + id % 2, &request(100.0, &[id]), id as f64);
        }
        for id in (0..100).rev() {
            pool.finish(id, 200.0);
            pool.finish(id, 200.0);
            pool.first_token(id, 200.0);
        }
        assert_eq!(pool.in_flight(), 0);
        for endpoint in &pool.endpoints {
            assert_eq!(endpoint.in_flight, 0);
            assert_eq!(endpoint.drain_seconds(200.0), 0.0);
            assert_eq!(endpoint.resident_tokens, 0.0);
        }
    }

    #[test]
    fn a_retry_moves_a_request_in_the_books() {
        let mut pool = pool(Policy::LeastRequest, &[1, 2]);
        pool.start(7, 1, &request(100.0, &[]), 0.0);
        pool.start(7, 2, &request(100.0, &[]), 1.0);
        assert_eq!((pool.in_flight_on(1), pool.in_flight_on(2)), (0, 1));
    }

    #[test]
    fn an_endpoint_that_goes_takes_its_requests_out_of_the_books() {
        let mut pool = pool(Policy::LeastRequest, &[1, 2]);
        pool.start(7, 1, &request(100.0, &[]), 0.0);
        pool.set_endpoints(&[2, 3], 1.0);
        assert_eq!(pool.in_flight(), 0);
        pool.finish(7, 2.0);
        assert_eq!(pool.pick(&request(1.0, &[]), 2.0, 0.0).unwrap().endpoint, 2);
    }

    #[test]
    fn a_slow_endpoint_is_learned_and_gets_less() {
        let mut pool = pool(Policy::PredictedDrain, &[1, 2]);
        let mut now = 0.0;
        for id in 0..400u64 {
            let name = 1 + id % 2;
            let prompt = request(10_000.0, &[]);
            pool.start(id, name, &prompt, now);
            let takes = CostModel::default().prefill(10_000.0, 0.0) * if name == 1 { 5.0 } else { 1.0 };
            now += takes;
            pool.first_token(id, now);
            pool.finish(id, now);
        }
        assert_eq!(pool.pick(&request(10_000.0, &[]), now, 0.5).unwrap().endpoint, 2);
    }
}
