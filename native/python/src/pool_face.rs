//! The live scheduler's pool: tests in Python run the very code that runs in Envoy.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use scheduler::{EndpointState, Observed, Policy, Pool, PoolConfig, Reason, Request};

const POLICIES: [(&str, Policy); 5] = [
    ("predicted-drain", Policy::PredictedDrain),
    ("least-request", Policy::LeastRequest),
    ("round-robin", Policy::RoundRobin),
    ("prefix", Policy::Prefix),
    ("random-two", Policy::RandomTwo),
];

pub fn names() -> Vec<&'static str> {
    POLICIES.iter().map(|(name, _)| *name).collect()
}

pub fn policy(wanted: &str) -> Option<Policy> {
    POLICIES
        .iter()
        .find(|(name, _)| *name == wanted)
        .map(|(_, policy)| *policy)
}

/// A pool of endpoints (called by number) and the requests (called by number) that it sent them.
#[pyclass(module = "headrace._native.core")]
pub struct SchedulerPool {
    pool: Pool,
}

#[pymethods]
impl SchedulerPool {
    #[new]
    #[pyo3(signature = (policy="predicted-drain", *, block_tokens=512.0, kv_tokens=400_000.0))]
    fn new(policy: &str, block_tokens: f64, kv_tokens: f64) -> PyResult<Self> {
        let known = self::policy(policy)
            .ok_or_else(|| PyValueError::new_err(format!("no policy called '{policy}': {}", names().join(", "))))?;
        Ok(SchedulerPool {
            pool: Pool::new(PoolConfig {
                policy: known,
                block_tokens,
                kv_tokens,
                ..PoolConfig::default()
            }),
        })
    }

    fn set_endpoints(&mut self, names: Vec<u64>, now: f64) {
        self.pool.set_endpoints(&names, now);
    }

    fn set_draining(&mut self, name: u64, draining: bool) {
        let state = if draining {
            EndpointState::Draining
        } else {
            EndpointState::Ready
        };
        self.pool.set_state(name, state);
    }

    fn observe(&mut self, name: u64, waiting: f64, running: f64, kv_used: f64) {
        let observed = Observed {
            waiting,
            running,
            kv_used,
        };
        self.pool.observe(name, observed, None);
    }

    /// (endpoint, reason, cached tokens, predicted seconds to the first token) or None.
    #[pyo3(signature = (tokens, blocks, now, *, random=0.0, excluded=Vec::new(), session=None))]
    fn pick(
        &mut self,
        tokens: f64,
        blocks: Vec<u64>,
        now: f64,
        random: f64,
        excluded: Vec<u64>,
        session: Option<u64>,
    ) -> Option<(u64, &'static str, f64, f64)> {
        let request = Request {
            tokens,
            blocks: &blocks,
            excluded: &excluded,
            session,
            ..Request::default()
        };
        let pick = self.pool.pick(&request, now, random)?;
        Some((pick.endpoint, word(pick.reason), pick.cached_tokens, pick.predicted))
    }

    fn start(&mut self, id: u64, name: u64, tokens: f64, blocks: Vec<u64>, now: f64) {
        let request = Request {
            tokens,
            blocks: &blocks,
            ..Request::default()
        };
        self.pool.start(id, name, &request, now);
    }

    fn first_token(&mut self, id: u64, now: f64) {
        self.pool.first_token(id, now);
    }

    fn finish(&mut self, id: u64, now: f64) {
        self.pool.finish(id, now);
    }

    #[getter]
    fn in_flight(&self) -> usize {
        self.pool.in_flight()
    }
}

fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::Prefix => "prefix",
        Reason::Load => "load",
        Reason::Turn => "turn",
        Reason::Session => "session",
        Reason::Only => "only",
    }
}
