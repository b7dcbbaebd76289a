//! Headrace inside Envoy: the native module that every proxy of the mesh loads.
//!
//! Filter `noop` lets every request pass. Filter `pool` looks after requests to pools of model servers: it reads what
//! they ask ([`request`]), holds or refuses them ([`admission`]), watches the answers ([`answer`], [`limits`]) and
//! tells how they fared ([`report`]); filter `attempt` stands between router and endpoint ([`attempt`]). The load-balancing policy `pool` ([`balancer`]) sends each attempt where the
//! scheduler says. All workers share the [`pools`] and the table of [`requests`]; [`loads`] brings what the engines say of
//! themselves. Network filter `guard` and HTTP filter `guard` end connections and requests with peers that are revoked
//! ([`guard`], [`guard_stream`]). Envoy calls through the C functions of [`abi`], the only place with unsafe code.

#![deny(unsafe_code, unsafe_op_in_unsafe_fn)]
#![warn(missing_docs, clippy::all, clippy::undocumented_unsafe_blocks)]

#[allow(unsafe_code)]
mod abi;
mod account;
mod admission;
mod answer;
mod ask;
mod attempt;
mod balancer;
mod clock;
mod faults;
mod filter;
mod flight;
#[cfg(test)]
mod fuzz;
mod guard;
mod guard_stream;
mod inflate;
mod json;
mod limits;
mod loads;
mod orca;
mod places;
mod pools;
mod reader;
mod report;
mod request;
mod requests;
mod sessions;
mod settings;
mod stream;
mod tenant;
mod text;
mod timers;
