//! Who goes and who waits: between the scheduler's gate, which decides, and the streams that are held.
//!
//! The gate says when to ask again; the timers do. Streams are woken after all locks are released.

use crate::clock;
use crate::pools::{locked, PoolState};
use crate::request::hash_of;
use crate::requests::find;
use crate::settings::AdmissionSettings;
use crate::timers;
use scheduler::admission::{Arrival, Decision, Event, Gate, GateConfig, QueueBounds, Rate};
use std::sync::{Arc, Mutex};

/// The event by which a held stream learns that there is a verdict.
pub const VERDICT: u64 = 1;

/// A pool's gate, if it has admission.
#[derive(Debug, Default)]
pub struct Admission {
    gate: Mutex<Option<Gate>>,
    alarm: Mutex<Option<f64>>,
}

/// What the headers say of a request's standing.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Its priority's name.
    pub priority: &'a [u8],
    /// Its tenant.
    pub tenant: &'a [u8],
    /// Its own deadline for the first token, in milliseconds.
    pub deadline_ms: Option<f64>,
}

fn gate_config(settings: &AdmissionSettings) -> GateConfig {
    let or_no_bound = |seconds: f64| if seconds > 0.0 { seconds } else { f64::INFINITY };
    GateConfig {
        rate: if settings.rate_per_second > 0.0 {
            Some(Rate {
                per_second: settings.rate_per_second,
                burst: settings.burst as u32,
            })
        } else {
            None
        },
        concurrency_per_endpoint: Some(settings.concurrency_per_endpoint).filter(|&limit| limit > 0),
        queue: QueueBounds {
            depth: settings.queue_requests as u32,
            tokens: if settings.queue_tokens > 0.0 {
                settings.queue_tokens as u64
            } else {
                u64::MAX
            },
            wait: or_no_bound(settings.queue_seconds),
            ..QueueBounds::default()
        },
        highest_priority: settings.priorities.len() as u8,
        starvation: or_no_bound(settings.starvation_seconds),
        ..GateConfig::default()
    }
}

/// What the gate is told of a request. Without a known priority it has the lowest.
pub fn arrival(settings: &AdmissionSettings, standing: &Standing<'_>, id: u64, tokens: f64, prefill: f64) -> Arrival {
    let rank = settings
        .priorities
        .iter()
        .position(|name| name.as_bytes() == standing.priority);
    let weight = settings
        .weights
        .iter()
        .find(|(tenant, _)| tenant.as_bytes() == standing.tenant);
    let default_deadline = Some(settings.first_token_deadline_seconds).filter(|&seconds| seconds > 0.0);
    Arrival {
        id,
        tenant: hash_of(standing.tenant),
        weight: weight.map_or(1.0, |(_, weight)| *weight),
        priority: rank.map_or(0, |rank| (settings.priorities.len() - rank) as u8),
        tokens,
        prefill,
        deadline: standing.deadline_ms.map(|ms| ms / 1000.0).or(default_deadline),
    }
}

impl Admission {
    /// Takes over settings; None: nobody waits any more.
    pub fn configure(&self, settings: Option<&AdmissionSettings>, endpoints: u32, now: f64) {
        let mut gate = locked(&self.gate);
        match (gate.as_mut(), settings) {
            (Some(gate), Some(settings)) => gate.configure(gate_config(settings), now),
            (Some(gate), None) => gate.configure(GateConfig::default(), now),
            (None, Some(settings)) => *gate = Some(Gate::new(gate_config(settings), endpoints, now)),
            (None, None) => {}
        }
    }

    /// The pool has so many endpoints.
    pub fn set_endpoints(&self, endpoints: u32, now: f64) {
        if let Some(gate) = locked(&self.gate).as_mut() {
            gate.set_endpoints(endpoints, now);
        }
    }

    /// A request asks to go. The caller calls [`settle`] afterwards.
    pub fn arrive(&self, arrival: &Arrival, now: f64) -> Decision {
        locked(&self.gate)
            .as_mut()
            .map_or(Decision::Admit, |gate| gate.arrive(arrival, now))
    }

    /// A request ended or its client went away. The caller calls [`settle`] afterwards. Whether there is a gate.
    pub fn leave(&self, id: u64, now: f64) -> bool {
        let mut gate = locked(&self.gate);
        if let Some(gate) = gate.as_mut() {
            gate.leave(id, now);
        }
        gate.is_some()
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        locked(&self.gate).as_ref().map_or(0, |gate| gate.load().waiting)
    }

    /// What was decided meanwhile, and when to ask again if no alarm is set for then or before.
    fn due(&self, now: f64) -> (Vec<Event>, Option<f64>) {
        let mut gate = locked(&self.gate);
        let gate = match gate.as_mut() {
            Some(gate) => gate,
            None => return (Vec::new(), None),
        };
        let events = gate.poll(now);
        let wake = gate.next_wake(now);
        let mut alarm = locked(&self.alarm);
        match (wake, *alarm) {
            (Some(wake), set) if set.map_or(true, |set| wake < set) => {
                *alarm = Some(wake);
                (events, Some(wake))
            }
            _ => (events, None),
        }
    }
}

/// Tells held streams what was decided, and sets the next alarm. Called after everything that may change the gate.
pub fn settle(pool: &Arc<PoolState>, now: f64) {
    let (events, wake) = pool.admission().due(now);
    for event in events {
        if let Some(facts) = find(event.id()) {
            *locked(&facts.verdict) = Some(event);
            facts.wake(VERDICT);
        } else {
            let _ = pool.admission().leave(event.id(), now);
        }
    }
    if let Some(at) = wake {
        let pool = Arc::downgrade(pool);
        timers::set(
            at,
            Box::new(move |now| {
                if let Some(pool) = pool.upgrade() {
                    *locked(&pool.admission().alarm) = None;
                    settle(&pool, now.max(at));
                }
            }),
        );
    }
}

/// Takes a request out of the gate, and lets others go in its place.
pub fn leave(pool: &Arc<PoolState>, id: u64) {
    let now = clock::now();
    if pool.admission().leave(id, now) {
        settle(pool, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_are_ranked_and_tenants_weighted() {
        let settings = AdmissionSettings {
            priorities: vec!["high".to_string(), "low".to_string()],
            weights: vec![("a".to_string(), 3.0)],
            first_token_deadline_seconds: 2.0,
            ..AdmissionSettings::default()
        };
        let standing = |priority, tenant, deadline_ms| Standing {
            priority,
            tenant,
            deadline_ms,
        };
        let ask = |standing| arrival(&settings, &standing, 1, 10.0, 0.1);
        let high = ask(standing(b"high", b"a", Some(500.0)));
        assert_eq!((high.priority, high.weight, high.deadline), (2, 3.0, Some(0.5)));
        let low = ask(standing(b"low", b"b", None));
        assert_eq!((low.priority, low.weight, low.deadline), (1, 1.0, Some(2.0)));
        assert_eq!(ask(standing(b"other", b"", None)).priority, 0);
        assert_ne!(high.tenant, low.tenant);
    }

    #[test]
    fn zero_means_no_bound_except_for_the_queue() {
        let config = gate_config(&AdmissionSettings::default());
        assert_eq!(
            (config.rate, config.concurrency_per_endpoint, config.queue.depth),
            (None, None, 0)
        );
        assert!(config.queue.wait.is_infinite() && config.starvation.is_infinite());
    }
}
