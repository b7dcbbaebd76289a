//! Who may go to a pool, and when: request rates, late binding (a request waits here until it can start, not in the
//! queue of a model server), bounded queues, strict priorities, fair shares between tenants, first-token deadlines.
//! The Envoy module has a [`Gate`] for each pool with an InferencePolicy; the simulator has the same one.
//!
//! Time is in seconds from any origin that is not later, and should not run backwards (if it does, it stands still).
//! The gate has no clock: after any call, and when [`Gate::next_wake`] says, the caller calls [`Gate::poll`] and acts
//! on what has happened. A late poll changes nothing in the books: what was due is done as of when it was due, so a
//! rate is kept exactly although timers are coarse. No operation takes more than logarithmic time for each ticket that
//! it moves.
//!
//! ```
//! use scheduler::admission::{Arrival, Decision, Event, Gate, GateConfig, QueueBounds, Rate};
//!
//! let config = GateConfig {
//!     rate: Some(Rate { per_second: 20.0, burst: 1 }),
//!     concurrency_per_endpoint: Some(4),
//!     queue: QueueBounds { depth: 30, wait: 1.0, ..QueueBounds::default() },
//!     ..GateConfig::default()
//! };
//! let mut gate = Gate::new(config, 8, 0.0); // 8 endpoints, at time 0
//! let arrival = |id| Arrival {
//!     id, tenant: 1, weight: 1.0, group: 0, priority: 0, tokens: 300.0, prefill: 0.02, deadline: None,
//! };
//! assert_eq!(gate.arrive(&arrival(1), 0.0), Decision::Admit);
//! assert!(matches!(gate.arrive(&arrival(2), 0.0), Decision::Hold { .. }));
//! let wake = gate.next_wake(0.0).unwrap(); // set a timer
//! assert_eq!(wake, 0.05);
//! for event in gate.poll(wake) {
//!     match event {
//!         Event::Released { id, .. } => assert_eq!(id, 2), // send it on
//!         Event::Refused { refusal, .. } => panic!("{}: {}", refusal.reason.status(), refusal.reason.name()),
//!     }
//! }
//! gate.finished(1, 0.4); // its answer ended; poll again: this may have released another
//! assert!(gate.poll(0.4).is_empty());
//! gate.leave(2, 0.5); // its client went away, whether it waited or ran
//! ```

mod config;
mod estimate;
mod fair;
mod gate;
mod levels;
mod moment;
mod news;
mod queue;
mod rate;
mod rooms;

pub use config::{Arrival, Decision, Event, GateConfig, QueueBounds, Refusal, RefusalReason};
pub use gate::{Gate, Load};
pub use rate::Rate;
pub use rooms::Room;
