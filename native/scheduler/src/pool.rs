//! A pool of endpoints that serve the same models, and the choice among them.

use crate::cost::{CostModel, Learned, StepModel};
use crate::endpoint::{Endpoint, EndpointState, Observed, OwnLoad, Work};
use crate::forgotten::Forgotten;
use crate::outside::Counted;
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
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// Tokens of the prompt (an estimate will do: an error of a half costs little).
    pub tokens: f64,
    /// Chained hashes of the prompt's full blocks, first block first.
    pub blocks: &'a [u64],
    /// Endpoints (names) that must not be picked: those that failed this request already.
    pub excluded: &'a [u64],
    /// The endpoint that the request's session was on, if any.
    pub session: Option<u64>,
    /// The adapter (LoRA) that it asks for, if any.
    pub adapter: Option<u64>,
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
    /// Seconds in which a new endpoint's share grows to that of the others (0: at once).
    pub warmup: f64,
    /// What the engines' steps are like.
    pub steps: StepModel,
    /// How much a second of its own computing counts beside a second of waiting: it keeps others waiting too, and takes
    /// their room in caches.
    pub work_weight: f64,
    /// What is added to it for each second that requests wait now (the median endpoint, in seconds of an endpoint as fast
    /// as the cost model): the fuller a pool, the more it costs everybody to compute again what another has in its cache.
    pub work_weight_growth: f64,
    /// Seconds to load an adapter.
    pub adapter_seconds: f64,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig {
            policy: Policy::PredictedDrain,
            cost: CostModel::default(),
            block_tokens: 512.0,
            prefix_blocks: 4096,
            kv_tokens: 400_000.0,
            company_seconds: 0.0003,
            warmup: 0.0,
            steps: StepModel::default(),
            work_weight: 1.2,
            work_weight_growth: 3.0,
            adapter_seconds: 0.5,
        }
    }
}

#[derive(Debug, Clone)]
struct Flight {
    endpoint: u64,
    tokens: f64,
    blocks: Box<[u64]>,
    /// Its number in the endpoint's mirror of the cache.
    number: u64,
    adapter: Option<u64>,
    sent_at: f64,
    /// What was foretold without and with the requests of others, where they counted.
    foretold: Option<(f64, f64)>,
    /// When its first token came.
    began: Option<f64>,
    /// Seconds that its prompt takes by the cost model, where nothing else is under way.
    alone: f64,
    /// Nobody will see its first token.
    silent: bool,
    /// Its first token was seen: it runs.
    runs: bool,
}

/// Endpoints, their books, and the choice. Names of endpoints and requests are the caller's.
#[derive(Debug, Clone)]
pub struct Pool {
    pub(crate) config: PoolConfig,
    pub(crate) endpoints: Vec<Endpoint>,
    flights: HashMap<u64, Flight>,
    /// What all endpoints together are like.
    pub(crate) learned: Learned,
    pub(crate) forgotten: Forgotten,
    /// What computing a prompt means where it is sent, on average.
    pub(crate) usual: Work,
    pub(crate) turn: usize,
    /// Requests that endpoints run at once which did not show it themselves, and whether that is certain.
    common_places: Option<u32>,
    certain_places: bool,
}

/// Prompts that the average of their work remembers, and what they are taken to be before one was seen.
const USUAL: f64 = 200.0;
const USUAL_TOKENS: f64 = 2000.0;

impl Pool {
    /// A pool without endpoints.
    pub fn new(config: PoolConfig) -> Self {
        Pool {
            config,
            endpoints: Vec::new(),
            flights: HashMap::new(),
            learned: Learned::default(),
            forgotten: Forgotten::new(&config.cost, config.block_tokens),
            usual: Work {
                tokens: USUAL_TOKENS,
                seconds: config.cost.prefill(USUAL_TOKENS, 0.0),
                claim: 0.0,
            },
            turn: 0,
            common_places: None,
            certain_places: false,
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
            if !self.endpoints.iter().any(|endpoint| endpoint.name == name) {
                self.endpoints.push(Endpoint::new(name, now));
            }
        }
        self.endpoints.sort_by_key(|endpoint| endpoint.name);
        self.compare_places();
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
            let endpoint = &mut self.endpoints[at];
            endpoint.outside.observe(observed, own);
            endpoint
                .places
                .say(observed.waiting, observed.running, observed.kv_used);
            self.compare_places_if_news(at);
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
            self.endpoints[at].outside.observe_waiting(waiting, own);
        }
    }

    /// Which adapters an engine says that it runs, and how many it can run at once, if it says.
    pub fn observe_adapters(&mut self, name: u64, loaded: &[u64], most: Option<usize>) {
        if let Some(at) = self.position(name) {
            self.endpoints[at].adapters.observe(loaded, most);
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

    /// A request was sent to an endpoint. A request that is in the books already is moved (a retry).
    pub fn start(&mut self, id: u64, name: u64, request: &Request<'_>, now: f64) {
        if self.flights.contains_key(&id) {
            self.finish(id, now);
        }
        let at = match self.position(name) {
            Some(at) => at,
            None => return,
        };
        let foretold = self.foretell(at, request, now);
        let work = self.work_with(at, request, self.cached_tokens(at, request));
        let burden = self.burden(at, now);
        let size = self.cache_size(at);
        let tokens = self.tokens_of(at, request);
        let private = tokens - request.blocks.len() as f64 * self.config.block_tokens;
        for endpoint in &mut self.endpoints {
            endpoint.elsewhere = endpoint.elsewhere.saturating_add(1);
        }
        let endpoint = &mut self.endpoints[at];
        let there = endpoint.residency.matching(request.blocks);
        endpoint.start(id, work, burden, now);
        if let Some(adapter) = request.adapter {
            endpoint.adapters.started(adapter, now);
        }
        self.usual.tokens += (work.tokens - self.usual.tokens) / USUAL;
        self.usual.seconds += (work.seconds - self.usual.seconds) / USUAL;
        let number = endpoint.residency.sent(request.blocks, private, size);
        self.forgotten
            .wanted(&request.blocks[there..], &self.config.cost, self.config.block_tokens);
        let flight = Flight {
            endpoint: name,
            tokens,
            blocks: request.blocks.into(),
            number,
            adapter: request.adapter,
            sent_at: now,
            foretold,
            began: None,
            alone: work.seconds,
            silent: false,
            runs: false,
        };
        let _ = self.flights.insert(id, flight);
        self.note_dropped(at, now);
    }

    /// The first token of a request's answer came.
    pub fn first_token(&mut self, id: u64, now: f64) {
        self.settle_overtaken(id, now);
        self.begin(id, now, true);
    }

    /// A later token of a request's answer came. The more of them are told, the better it is known when an engine's
    /// next step begins; nothing depends on it.
    pub fn token(&mut self, id: u64, now: f64) {
        if let Some(at) = self.flights.get(&id).and_then(|flight| self.position(flight.endpoint)) {
            self.endpoints[at].stepped(now);
        }
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
            // Where prompts wait for room or a place, the time they take says nothing of the rate.
            let waited = learn && self.waits_for_place(at, id, now);
            let learn_rate = learn && !waited && !self.crowded(at, now);
            if let Some(flight) = self.flights.get_mut(&id) {
                flight.began = Some(now);
                flight.runs = learn;
                let endpoint = &mut self.endpoints[at];
                if let Some((predicted, observed)) = endpoint.prefilled(id, burden, now, learn_rate) {
                    self.learned.observe(predicted, observed);
                }
                endpoint.began(flight.tokens, now);
                endpoint.residency.computed(&flight.blocks);
                if let (Some((without, with)), true) = (flight.foretold, learn) {
                    endpoint.outside.proved(now - flight.sent_at, without, with);
                }
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
                    Some(began) => endpoint.ended(flight.tokens, began, now),
                    None => {
                        let _ = endpoint.prefilled(id, burden, now, false);
                    }
                }
                if let Some(adapter) = flight.adapter {
                    endpoint.adapters.ended(adapter, now);
                }
                endpoint.residency.ended(flight.number, &flight.blocks, size, now);
                endpoint.silent = endpoint.silent.saturating_sub(u32::from(flight.silent));
                if flight.runs {
                    let waiting = endpoint.own_load().prefilling > 0;
                    endpoint.places.ended(waiting, now);
                }
                self.compare_places_if_news(at);
                self.note_dropped(at, now);
            }
        }
    }

    /// What is foretold without and with what the engine said of requests of others, if it said any.
    fn foretell(&self, at: usize, request: &Request<'_>, now: f64) -> Option<(f64, f64)> {
        let others = self.endpoints[at].outside.counted(0, now);
        if others == Counted::default() {
            return None;
        }
        let cached = self.cached_tokens(at, request);
        let foretold = |others| self.predict_with(at, request, cached, others, now).first_token();
        Some((foretold(Counted::default()), foretold(others)))
    }

    fn note_dropped(&mut self, at: usize, now: f64) {
        let dropped = self.endpoints[at].residency.take_dropped();
        if !dropped.is_empty() {
            let size = self.cache_size(at);
            let most = (size.tokens / size.block_tokens.max(1.0)).min(size.most_blocks as f64) as usize;
            let age = self.endpoints[at].residency.oldest(now);
            self.forgotten.dropped(&dropped, age, most * self.endpoints.len());
        }
    }

    /// Whether requests there wait for room in the KV cache.
    fn crowded(&self, at: usize, now: f64) -> bool {
        let (endpoint, size) = (&self.endpoints[at], self.cache_size(at));
        let held = endpoint.residency.claimed_tokens(size.block_tokens);
        held + endpoint.answered(&self.config.cost, &self.config.steps, now) > size.tokens
    }

    fn position(&self, name: u64) -> Option<usize> {
        self.endpoints
            .binary_search_by_key(&name, |endpoint| endpoint.name)
            .ok()
    }

    pub(crate) fn cached_tokens(&self, at: usize, request: &Request<'_>) -> f64 {
        let blocks = self.endpoints[at]
            .residency
            .surviving(request.blocks, self.cache_size(at));
        blocks as f64 * self.config.block_tokens
    }

    pub(crate) fn cache_size(&self, at: usize) -> CacheSize {
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

    pub(crate) fn work_with(&self, at: usize, request: &Request<'_>, cached: f64) -> Work {
        let tokens = self.tokens_of(at, request);
        let private = tokens - request.blocks.len() as f64 * self.config.block_tokens;
        let unclaimed = self.endpoints[at].residency.unclaimed(request.blocks) as f64;
        Work {
            tokens: (tokens - cached).max(0.0),
            seconds: self.config.cost.prefill(tokens, cached),
            claim: private + unclaimed * self.config.block_tokens,
        }
    }

    /// Tokens of a prompt: not fewer than its full blocks have, whatever was estimated, and else not more than a cache
    /// holds, as engines refuse those. Clients may declare any length, and sums must survive it.
    fn tokens_of(&self, at: usize, request: &Request<'_>) -> f64 {
        let most = self.config.kv_tokens.max(self.endpoints[at].kv_tokens);
        let blocks = request.blocks.len() as f64 * self.config.block_tokens;
        request.tokens.min(most).max(blocks)
    }
}

mod places;
mod silent;
#[cfg(test)]
mod tests;
