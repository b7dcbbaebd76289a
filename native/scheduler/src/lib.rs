//! Which model server takes a request. Pure algorithms: no Envoy, no I/O, no clock, no global state; time (seconds, any
//! origin) and random numbers are passed in. Used live by the Envoy module, and by tests and the simulator, which run
//! the same code.
//!
//! A [`Pool`] knows its endpoints and the requests it sent them. [`Pool::pick`] answers for one request;
//! [`Pool::start`], [`Pool::first_token`] and [`Pool::finish`] keep the books.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod adapters;
pub mod admission;
mod choice;
mod cost;
mod endpoint;
mod forgotten;
mod outside;
mod places;
mod pool;
mod predict;
mod prefix;
mod residency;

pub use cost::{CostModel, Learned, StepModel};
pub use endpoint::{EndpointState, Observed, OwnLoad};
pub use pool::{Pick, Policy, Pool, PoolConfig, Reason, Request};
pub use prefix::PrefixIndex;
