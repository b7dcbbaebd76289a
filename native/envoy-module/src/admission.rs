//! Who goes and who waits: between the scheduler's gate, which decides, and the streams that are held.
//!
//! The gate says when to ask again; the timers do. Streams are woken after all locks are released.

use crate::abi::guarded;
use crate::clock;
use crate::faults;
use crate::pools::{locked, PoolState};
use crate::request::hash_of;
use crate::requests::find;
use crate::settings::AdmissionSettings;
use crate::timers;
use scheduler::admission::{Arrival, Decision, Event, Gate, GateConfig, QueueBounds, Rate, Room};
use std::sync::{Arc, Mutex, Weak};

/// The event by which a held stream learns that there is a verdict.
pub const VERDICT: u64 = 1;

/// A pool's gate, if it has admission.
#[derive(Debug, Default)]
pub struct Admission {
    gate: Mutex<Option<Gate>>,
    alarm: Mutex<Option<f64>>,
}

/// A request's standing among those that wait. What a client can write is not kept: its tenant is a hash.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standing {
    priority: u8,
    tenant: u64,
    weight: f64,
    deadline: Option<f64>,
}

impl Standing {
    /// From the names of its priority (the lowest, where that is unknown) and its tenant, and its own deadline in
    /// milliseconds.
    pub fn of(settings: &AdmissionSettings, priority: &[u8], tenant: &[u8], deadline_ms: Option<f64>) -> Self {
        let known = |name: &String| name.as_bytes() == priority;
        let rank = settings.priorities.iter().position(known);
        let default_deadline = Some(settings.first_token_deadline_seconds).filter(|&seconds| seconds > 0.0);
        Standing {
            priority: rank.map_or(0, |rank| (settings.priorities.len() - rank) as u8),
            tenant: hash_of(tenant),
            weight: settings.weights.get(tenant).copied().unwrap_or(1.0),
            deadline: deadline_ms.map(|ms| ms / 1000.0).or(default_deadline),
        }
    }

    /// What the gate is told. `group`: the cluster of its route, by its hash.
    pub fn arrival(&self, id: u64, group: u64, tokens: f64, prefill: f64) -> Arrival {
        Arrival {
            id,
            tenant: self.tenant,
            weight: self.weight,
            group,
            priority: self.priority,
            tokens,
            prefill,
            deadline: self.deadline,
        }
    }
}

fn gate_config(settings: &AdmissionSettings) -> GateConfig {
    let or_no_bound = |seconds: f64| if seconds > 0.0 { seconds } else { f64::INFINITY };
    let or_no_tokens = |tokens: f64| if tokens > 0.0 { tokens as u64 } else { u64::MAX };
    let or_none = |count: u32| Some(count).filter(|&count| count > 0);
    GateConfig {
        rate: Some(settings.rate_per_second)
            .filter(|&per_second| per_second > 0.0)
            .map(|per_second| Rate {
                per_second,
                burst: settings.burst as u32,
            }),
        concurrency: or_none(settings.concurrency),
        concurrency_per_endpoint: or_none(settings.concurrency_per_endpoint),
        queue: QueueBounds {
            depth: settings.queue.requests,
            tokens: or_no_tokens(settings.queue.tokens),
            wait: or_no_bound(settings.queue.seconds),
            tenant_depth: or_none(settings.queue.tenant_requests).unwrap_or(u32::MAX),
            tenant_tokens: or_no_tokens(settings.queue.tenant_tokens),
        },
        highest_priority: settings.priorities.len() as u8,
        starvation: or_no_bound(settings.starvation_seconds),
        token_cost: settings.token_cost,
        ..GateConfig::default()
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

    /// The pool has so many endpoints to which requests are sent, and so many run at others.
    pub fn set_capacity(&self, endpoints: u32, stranded: u32, now: f64) {
        if let Some(gate) = locked(&self.gate).as_mut() {
            gate.set_capacity(endpoints, stranded, now);
        }
    }

    /// So much room there is for the requests of each cluster.
    pub fn set_rooms(&self, rooms: &[(u64, Room)], now: f64) {
        if let Some(gate) = locked(&self.gate).as_mut() {
            gate.set_rooms(rooms.iter().copied(), now);
        }
    }

    /// A request has come to its endpoint, and so much room is left.
    pub fn placed(&self, id: u64, rooms: &[(u64, Room)], now: f64) {
        if let Some(gate) = locked(&self.gate).as_mut() {
            gate.placed(id, rooms.iter().copied(), now);
        }
    }

    /// The pool has nothing left: who waits is refused.
    pub fn close(&self, now: f64) {
        if let Some(gate) = locked(&self.gate).as_mut() {
            gate.close(now);
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
        let mut alarm = locked(&self.alarm);
        let wake = gate.next_wake(now).map(|wake| timers::within_reach(wake, now));
        let wake = wake.filter(|wake| alarm.map_or(true, |set| *wake < set));
        if wake.is_some() {
            *alarm = wake;
        }
        (events, wake)
    }

    /// The alarm for this time rings. Whether it is the one that was set last.
    fn rings(&self, at: f64) -> bool {
        let mut alarm = locked(&self.alarm);
        let own = *alarm == Some(at);
        if own {
            *alarm = None;
        }
        own
    }
}

/// Tells held streams what was decided, and sets the next alarm. Called after everything that may change the gate. Where
/// it fails by a bug, it is tried again soon: others wait for it.
pub fn settle(pool: &Arc<PoolState>, now: f64) {
    if !guarded(false, || tell_all(pool, now)) {
        let again = now + AGAIN;
        *locked(&pool.admission().alarm) = Some(again);
        set_alarm(Arc::downgrade(pool), again);
    }
}

/// True.
fn tell_all(pool: &Arc<PoolState>, now: f64) -> bool {
    loop {
        faults::at("settle");
        let (events, wake) = pool.admission().due(now);
        if let Some(at) = wake {
            set_alarm(Arc::downgrade(pool), at);
        }
        let mut somebody_was_gone = false;
        for event in events {
            if let Some(facts) = find(event.id()) {
                *locked(&facts.verdict) = Some(event);
                facts.wake(VERDICT);
            } else {
                somebody_was_gone |= pool.admission().leave(event.id(), now);
            }
        }
        if !somebody_was_gone {
            return true; // else its place may be another's
        }
    }
}

fn set_alarm(pool: Weak<PoolState>, at: f64) {
    let ring = move |now: f64| {
        if let Some(pool) = pool.upgrade().filter(|pool| pool.admission().rings(at)) {
            settle(&pool, now.max(at));
        }
    };
    timers::set(at, Box::new(ring));
}

/// Seconds until the next try.
const AGAIN: f64 = 0.1;

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
    use crate::pools::pool_of;
    use crate::settings::PoolSettings;

    #[test]
    fn priorities_are_ranked_and_tenants_weighted() {
        let settings = AdmissionSettings {
            priorities: vec!["high".to_string(), "low".to_string()],
            weights: [(b"a".to_vec(), 3.0)].into(),
            first_token_deadline_seconds: 2.0,
            ..AdmissionSettings::default()
        };
        let ask = |priority: &[u8], tenant: &[u8], deadline_ms| {
            Standing::of(&settings, priority, tenant, deadline_ms).arrival(1, 0, 10.0, 0.1)
        };
        let high = ask(b"high", b"a", Some(500.0));
        assert_eq!((high.priority, high.weight, high.deadline), (2, 3.0, Some(0.5)));
        let low = ask(b"low", b"b", None);
        assert_eq!((low.priority, low.weight, low.deadline), (1, 1.0, Some(2.0)));
        assert_eq!(ask(b"other", b"", None).priority, 0);
        assert_ne!(high.tenant, low.tenant);
    }

    fn pool(name: &str, admission: &str) -> Arc<PoolState> {
        let text = format!("{{\"pool\":\"{name}\",\"admission\":{admission}}}");
        let pool = pool_of(PoolSettings::parse(text.as_bytes()).unwrap());
        pool.join("c");
        pool.set_endpoints("c", vec![1], clock::now());
        pool
    }

    fn arrive(pool: &PoolState, id: u64) -> Decision {
        pool.admission()
            .arrive(&Standing::default().arrival(id, 0, 1.0, 0.0), clock::now())
    }

    #[test]
    fn a_place_for_who_is_gone_goes_to_the_next() {
        let pool = pool("gone-meanwhile", "{\"concurrency\":1,\"queue\":{\"requests\":9}}");
        assert_eq!(arrive(&pool, 1), Decision::Admit);
        for id in 2..=5 {
            assert!(matches!(arrive(&pool, id), Decision::Hold { .. })); // without streams: as if all had just gone
        }
        leave(&pool, 1);
        assert_eq!((pool.admission().waiting(), arrive(&pool, 6)), (0, Decision::Admit));
    }

    #[test]
    fn a_change_of_settings_lets_go_who_waits_though_nothing_else_happens() {
        let pool = pool("changed", "{\"rate_per_second\":0.001,\"queue\":{\"requests\":9}}");
        let _ = (arrive(&pool, 1), arrive(&pool, 2));
        assert_eq!(pool.admission().waiting(), 1);
        drop(pool_of(PoolSettings::parse(br#"{"pool":"changed"}"#).unwrap()));
        assert_eq!(pool.admission().waiting(), 0);
    }

    #[test]
    fn alarms_do_not_pile_up() {
        let pool = pool("alarms", "{\"concurrency\":1,\"queue\":{\"requests\":1000}}");
        let _ = arrive(&pool, 0);
        let before = timers::waiting();
        for id in 1..500 {
            let standing = Standing {
                deadline: Some(1e9 - id as f64), // each ends before those that wait
                ..Standing::default()
            };
            let now = clock::now();
            let _ = pool.admission().arrive(&standing.arrival(id, 0, 1.0, 0.0), now);
            settle(&pool, now);
        }
        assert!(timers::waiting() < before + 20, "{}", timers::waiting());
    }

    #[test]
    fn zero_means_no_bound_except_for_the_queue() {
        let config = gate_config(&AdmissionSettings::default());
        assert_eq!(
            (config.rate, config.concurrency, config.concurrency_per_endpoint),
            (None, None, None)
        );
        let queue = config.queue;
        assert_eq!(
            (queue.depth, queue.tokens, queue.tenant_depth, queue.tenant_tokens),
            (0, u64::MAX, u32::MAX, u64::MAX)
        );
        assert!(config.queue.wait.is_infinite() && config.starvation.is_infinite());
    }
}
