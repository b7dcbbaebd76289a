//! How long a model server takes, step by step: continuous batching, chunked prefill, KV blocks with prefix caching,
//! preemption by recompute. Pure: no I/O, no clock, no randomness; who calls it says what time it is. Used by the
//! simulator and, through the Python binding, by `headrace model-server --timing engine`.
//!
//! An [`Engine`] takes jobs ([`Engine::submit`]); [`Engine::begin_step`] says how long the next step takes and
//! [`Engine::end_step`] what came out of it. The model and its figures stand in docs/reference/engine-model.md.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod blocks;
mod engine;
mod timing;

pub use blocks::BlockPool;
pub use engine::{Engine, EngineConfig, Job, Produced, Refused};
pub use timing::{StepLoad, Timing};
