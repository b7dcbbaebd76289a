//! The events: a request arrives, a worker's step ends.

use crate::chance::Chance;
use crate::forecast::{Forecasts, Truth};
use crate::outcome::Outcome;
use crate::router::{Router, RouterConfig, Scraped, Seen};
use engine::{Engine, EngineConfig, Job, Produced};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// One request of a workload.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// When it arrives, in seconds.
    pub at: f64,
    /// Tokens of its prompt.
    pub prompt: usize,
    /// Tokens of its answer.
    pub answer: usize,
    /// Chained hashes of the prompt's blocks, as long as the engine's blocks.
    pub blocks: Arc<[u64]>,
}

/// Settings of a simulation.
#[derive(Debug, Clone)]
pub struct Config {
    /// Model servers.
    pub workers: usize,
    /// Routers that share nothing; requests come to them in turn.
    pub routers: usize,
    /// How they choose.
    pub router: RouterConfig,
    /// The model servers' engines.
    pub engine: EngineConfig,
    /// How many times slower than `engine` each worker is; missing ones are 1.
    pub slowness: Vec<f64>,
    /// Routers see token counts that are off by up to this share, either way.
    pub token_error: f64,
    /// Seed of all chance.
    pub seed: u64,
}

/// A request can never be served: it needs more of the KV cache than an engine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid {
    /// Its place in the workload, from 0.
    pub request: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct StepEnd {
    at: f64,
    worker: usize,
}

impl Eq for StepEnd {}

impl Ord for StepEnd {
    /// The earliest is the greatest, as the heap wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then(other.worker.cmp(&self.worker))
    }
}

impl PartialOrd for StepEnd {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A simulation under way. [`Simulation::advance`] until it says that it is over, then [`Simulation::outcome`].
#[derive(Debug)]
pub struct Simulation {
    config: Config,
    arrivals: Vec<Arrival>,
    next: usize,
    now: f64,
    engines: Vec<Engine>,
    step_ends: Vec<Option<f64>>,
    heap: BinaryHeap<StepEnd>,
    routers: Vec<Router>,
    forecasts: Forecasts,
    chance: Chance,
    scrapes: f64,
    produced: Vec<Produced>,
    last_token: Vec<f64>,
    outcome: Outcome,
    done: usize,
}

impl Simulation {
    /// A simulation of a workload, whose arrivals are sorted by time first.
    pub fn new(config: Config, mut arrivals: Vec<Arrival>) -> Result<Self, Invalid> {
        let room = config.engine.kv_tokens;
        let page = config.engine.page_tokens.max(1);
        if let Some(request) = arrivals
            .iter()
            .position(|one| one.prompt.max(1) + one.answer.max(1) + page > room)
        {
            return Err(Invalid { request });
        }
        arrivals.sort_by(|one, other| one.at.total_cmp(&other.at));
        let workers = config.workers.max(1);
        let routers = config.routers.max(1);
        let engines = (0..workers).map(|worker| {
            let slowness = config.slowness.get(worker).copied().unwrap_or(1.0);
            Engine::new(EngineConfig {
                timing: config.engine.timing.slowed(slowness),
                ..config.engine
            })
        });
        let count = arrivals.len();
        Ok(Simulation {
            engines: engines.collect(),
            routers: vec![Router::new(&config.router, workers, config.engine.kv_tokens, routers > 1); routers],
            forecasts: Forecasts::new(workers),
            step_ends: vec![None; workers],
            heap: BinaryHeap::new(),
            next: 0,
            now: arrivals.first().map_or(0.0, |first| first.at),
            chance: Chance::new(config.seed),
            scrapes: f64::NEG_INFINITY,
            produced: Vec::new(),
            last_token: vec![0.0; count],
            outcome: Outcome {
                first_token: vec![0.0; count],
                between: vec![0.0; count],
                worker: vec![0; count],
                ..Outcome::default()
            },
            done: 0,
            arrivals,
            config,
        })
    }

    /// Go through at most `events` events; true when all is over.
    pub fn advance(&mut self, events: usize) -> bool {
        for _ in 0..events {
            let arrival = self.arrivals.get(self.next).map(|one| one.at);
            match (self.heap.peek().copied(), arrival) {
                (Some(end), None) => self.step_ended(end),
                (Some(end), Some(at)) if end.at <= at => self.step_ended(end),
                (_, Some(at)) => self.arrived(at),
                (None, None) => return true,
            }
        }
        false
    }

    /// Requests that are done.
    pub fn done(&self) -> usize {
        self.done
    }

    /// What was found so far.
    pub fn outcome(&self) -> Outcome {
        let prompts: f64 = self.arrivals.iter().map(|one| one.prompt as f64).sum();
        let hits: u64 = self.engines.iter().map(Engine::hit_tokens).sum();
        Outcome {
            preemptions: self.engines.iter().map(Engine::preemptions).sum(),
            hit_share: hits as f64 / prompts.max(1.0),
            span: self.now - self.arrivals.first().map_or(0.0, |first| first.at),
            ..self.outcome.clone()
        }
    }

    fn arrived(&mut self, at: f64) {
        self.scrape(at);
        self.now = at;
        let id = self.next;
        self.next += 1;
        let arrival = &self.arrivals[id];
        let job = Job {
            id: id as u64,
            prompt: arrival.prompt,
            answer: arrival.answer,
            blocks: Arc::clone(&arrival.blocks),
        };
        let whole = (arrival.prompt / self.config.engine.block_tokens).min(arrival.blocks.len());
        let error = 1.0 + self.config.token_error * (2.0 * self.chance.uniform() - 1.0);
        let seen = Seen {
            id: job.id,
            tokens: arrival.prompt.max(1) as f64 * error,
            blocks: &arrival.blocks[..whole],
        };
        let random = self.chance.uniform();
        let mut truth = Truth {
            job: &job,
            engines: &self.engines,
            step_ends: &self.step_ends,
            forecasts: &mut self.forecasts,
        };
        let router = id % self.routers.len();
        let worker = self.routers[router].send(&seen, at, random, &mut truth);
        self.outcome.worker[id] = worker;
        self.forecasts.sent(worker, &job);
        let accepted = self.engines[worker].submit(job);
        debug_assert!(accepted.is_ok());
        if self.step_ends[worker].is_none() {
            self.begin(worker);
        }
    }

    fn step_ended(&mut self, end: StepEnd) {
        self.scrape(end.at);
        self.now = end.at;
        let _ = self.heap.pop();
        let mut produced = std::mem::take(&mut self.produced);
        self.engines[end.worker].end_step(&mut produced);
        for token in produced.drain(..) {
            self.book(token);
        }
        self.produced = produced;
        self.begin(end.worker);
    }

    fn book(&mut self, token: Produced) {
        let id = token.id as usize;
        let routers = self.routers.len();
        let router = &mut self.routers[id % routers];
        if token.index == 0 {
            self.outcome.first_token[id] = self.now - self.arrivals[id].at;
            router.first_token(token.id, self.now);
        } else {
            self.outcome.gaps.add(self.now - self.last_token[id]);
            router.token(token.id, self.now);
        }
        self.last_token[id] = self.now;
        if token.last {
            router.finish(token.id, self.now);
            self.done += 1;
            let answering = self.now - self.arrivals[id].at - self.outcome.first_token[id];
            self.outcome.between[id] = answering / (token.index.max(1)) as f64;
        }
    }

    fn begin(&mut self, worker: usize) {
        self.step_ends[worker] = self.engines[worker].begin_step().map(|seconds| self.now + seconds);
        if let Some(at) = self.step_ends[worker] {
            self.heap.push(StepEnd { at, worker });
        }
    }

    /// Metrics are read at whole multiples of the interval; between events nothing changes, so it is enough to look
    /// when the first event after such a moment comes.
    fn scrape(&mut self, now: f64) {
        let due = (now / self.config.router.scrape.max(1e-3)).floor();
        if due > self.scrapes {
            self.scrapes = due;
            let scraped: Vec<Scraped> = self
                .engines
                .iter()
                .map(|engine| Scraped {
                    waiting: engine.waiting(),
                    running: engine.running(),
                    kv_used: engine.kv_used(),
                })
                .collect();
            for router in &mut self.routers {
                router.scraped(&scraped);
            }
        }
    }
}
