//! One engine, for `headrace model-server --timing engine`.

use engine::{Engine, EngineConfig, Job, Timing};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The step-based engine: `begin_step` says how long the next step takes, `end_step` what came out of it.
#[pyclass(module = "headrace._native.core")]
pub struct EngineTiming {
    engine: Engine,
}

#[pymethods]
impl EngineTiming {
    #[new]
    #[pyo3(signature = (*, sequences=256, step_tokens=2048, kv_tokens=400_000, block_tokens=16, slowness=1.0))]
    fn new(
        sequences: usize,
        step_tokens: usize,
        kv_tokens: usize,
        block_tokens: usize,
        slowness: f64,
    ) -> PyResult<Self> {
        let positive = sequences > 0 && step_tokens > 0 && kv_tokens > 0 && block_tokens > 0;
        if !positive || !slowness.is_finite() || slowness <= 0.0 {
            return Err(PyValueError::new_err("every setting of an engine is above 0"));
        }
        Ok(EngineTiming {
            engine: Engine::new(EngineConfig {
                timing: Timing::H100_8B.slowed(slowness),
                step_tokens,
                sequences,
                kv_tokens,
                page_tokens: block_tokens.min(16),
                block_tokens,
            }),
        })
    }

    /// Queue a job; False where it could never run (more tokens than the KV cache holds).
    fn submit(&mut self, id: u64, prompt: usize, answer: usize, blocks: Vec<u64>) -> bool {
        let job = Job {
            id,
            prompt,
            answer,
            blocks: blocks.into(),
        };
        self.engine.submit(job).is_ok()
    }

    /// Forget a job whose client went away.
    fn cancel(&mut self, id: u64) {
        self.engine.cancel(id);
    }

    /// Seconds of the next step; None where there is nothing to do.
    fn begin_step(&mut self) -> Option<f64> {
        self.engine.begin_step()
    }

    /// Jobs that left the queue for the step under way.
    #[getter]
    fn admitted(&self) -> Vec<u64> {
        self.engine.admitted().to_vec()
    }

    /// The step's tokens: (job, index from 0, whether it is the last).
    fn end_step(&mut self) -> Vec<(u64, usize, bool)> {
        let mut produced = Vec::new();
        self.engine.end_step(&mut produced);
        produced.iter().map(|one| (one.id, one.index, one.last)).collect()
    }

    #[getter]
    fn waiting(&self) -> usize {
        self.engine.waiting()
    }

    #[getter]
    fn running(&self) -> usize {
        self.engine.running()
    }

    /// Share of the KV cache that running jobs hold.
    #[getter]
    fn kv_used(&self) -> f64 {
        self.engine.kv_used()
    }

    /// Blocks that the KV cache holds.
    #[getter]
    fn kv_blocks(&self) -> usize {
        let config = self.engine.config();
        self.engine.kv_pages() * config.page_tokens / config.block_tokens
    }

    /// Tokens of one block.
    #[getter]
    fn block_tokens(&self) -> usize {
        self.engine.config().block_tokens
    }

    #[getter]
    fn preemptions(&self) -> u64 {
        self.engine.preemptions()
    }

    /// Prompt tokens that came from the cache, since the start.
    #[getter]
    fn hit_tokens(&self) -> u64 {
        self.engine.hit_tokens()
    }
}
