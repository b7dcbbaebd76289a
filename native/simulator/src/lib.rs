//! Model servers behind routers, simulated event by event: arrivals and the steps of each engine. No wall time, no
//! I/O; the same seed gives the same result. The routers are the scheduler that runs live, or one of the comparators.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod chance;
mod comparators;
mod forecast;
mod outcome;
mod router;
mod simulation;

pub use outcome::{Gaps, Objectives, Outcome, Summary};
pub use router::{Choice, RouterConfig};
pub use simulation::{Arrival, Config, Invalid, Simulation};
