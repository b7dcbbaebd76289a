//! A simulation, for `headrace simulate`.

use crate::pool_face;
use engine::{EngineConfig, Timing};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use scheduler::PoolConfig;
use simulator::{Arrival, Choice, Config, Objectives, RouterConfig, Simulation};

const COMPARATORS: [(&str, Choice); 3] = [
    ("gie", Choice::Gie),
    ("token-aware", Choice::TokenAware),
    ("greedy", Choice::Greedy),
];

/// Every policy that can be simulated.
pub fn names() -> Vec<&'static str> {
    let mut all = pool_face::names();
    all.extend(COMPARATORS.iter().map(|(name, _)| *name));
    all
}

fn choice(wanted: &str) -> PyResult<Choice> {
    pool_face::policy(wanted)
        .map(Choice::Live)
        .or_else(|| {
            COMPARATORS
                .iter()
                .find(|(name, _)| *name == wanted)
                .map(|(_, choice)| *choice)
        })
        .ok_or_else(|| PyValueError::new_err(format!("no policy called '{wanted}': {}", names().join(", "))))
}

/// What is simulated, as keyword arguments.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Settings {
    policy: String,
    workers: usize,
    routers: usize,
    seed: u64,
    scrape: f64,
    sequences: usize,
    step_tokens: usize,
    kv_tokens: usize,
    block_tokens: usize,
    token_error: f64,
    slowness: Vec<f64>,
}

impl Settings {
    fn config(&self) -> PyResult<Config> {
        let counts = [
            self.workers,
            self.routers,
            self.sequences,
            self.step_tokens,
            self.kv_tokens,
            self.block_tokens,
        ];
        let sound = self.scrape > 0.0 && (0.0..1.0).contains(&self.token_error);
        if counts.contains(&0) || !sound || self.slowness.iter().any(|one| !one.is_finite() || *one <= 0.0) {
            return Err(PyValueError::new_err(
                "every setting of a simulation is above 0, token_error below 1",
            ));
        }
        Ok(Config {
            workers: self.workers,
            routers: self.routers,
            router: RouterConfig {
                choice: choice(&self.policy)?,
                scrape: self.scrape,
                pool: PoolConfig {
                    block_tokens: self.block_tokens as f64,
                    kv_tokens: self.kv_tokens as f64,
                    ..PoolConfig::default()
                },
            },
            engine: EngineConfig {
                timing: Timing::H100_8B,
                step_tokens: self.step_tokens,
                sequences: self.sequences,
                kv_tokens: self.kv_tokens,
                page_tokens: 16,
                block_tokens: self.block_tokens,
            },
            slowness: self.slowness.clone(),
            token_error: self.token_error,
            seed: self.seed,
        })
    }
}

/// A simulation under way: `advance` until it says True.
#[pyclass(module = "headrace._native.core")]
pub struct TrafficSimulation {
    simulation: Simulation,
}

#[pymethods]
impl TrafficSimulation {
    /// `arrivals`: (seconds, prompt tokens, answer tokens, hashes of the prompt's blocks). ValueError where a setting
    /// makes no sense; IndexError-free: a request that can never run is named by its place in the message.
    #[new]
    fn new(arrivals: Vec<(f64, usize, usize, Vec<u64>)>, settings: Settings) -> PyResult<Self> {
        let arrivals = arrivals.into_iter().map(|(at, prompt, answer, blocks)| Arrival {
            at,
            prompt,
            answer,
            blocks: blocks.into(),
        });
        let simulation = Simulation::new(settings.config()?, arrivals.collect()).map_err(|invalid| {
            PyValueError::new_err(format!("request {} needs more than the KV cache", invalid.request))
        })?;
        Ok(TrafficSimulation { simulation })
    }

    /// Go through at most `events` events, without holding up other threads; True when all is over.
    fn advance(&mut self, python: Python<'_>, events: usize) -> bool {
        let simulation = &mut self.simulation;
        python.detach(|| simulation.advance(events))
    }

    /// Requests that are done.
    #[getter]
    fn done(&self) -> usize {
        self.simulation.done()
    }

    /// Figures of the run (seconds and shares).
    fn summary<'py>(&self, python: Python<'py>, slo_ttft: f64, slo_itl: f64) -> PyResult<Bound<'py, PyDict>> {
        let outcome = self.simulation.outcome();
        let summary = outcome.summary(Objectives {
            first_token: slo_ttft,
            between_tokens: slo_itl,
        });
        let figures = PyDict::new(python);
        figures.set_item("requests", summary.requests)?;
        figures.set_item("ttft_mean_s", summary.mean)?;
        figures.set_item("ttft_p50_s", summary.p50)?;
        figures.set_item("ttft_p99_s", summary.p99)?;
        figures.set_item("itl_p99_s", summary.gap_p99)?;
        figures.set_item("goodput", summary.goodput)?;
        figures.set_item("cached_share", outcome.hit_share)?;
        figures.set_item("preemptions", outcome.preemptions)?;
        figures.set_item("span_s", outcome.span)?;
        Ok(figures)
    }

    /// Seconds to the first token of each request, in the order of arrival.
    fn first_tokens(&self) -> Vec<f64> {
        self.simulation.outcome().first_token
    }

    /// The worker that served each request, in the order of arrival.
    fn workers(&self) -> Vec<usize> {
        self.simulation.outcome().worker
    }
}
