//! A gate whose settings and endpoints change while requests wait: nobody hangs, nobody is lost, places are neither given
//! twice nor kept by requests that run where nothing is sent any more.

mod random;

use random::Random;
use scheduler::admission::{Arrival, Decision, Event, Gate, GateConfig, QueueBounds, Rate, RefusalReason};
use std::collections::HashMap;

fn arrival(id: u64) -> Arrival {
    Arrival {
        id,
        tenant: 1,
        weight: 1.0,
        group: 0,
        priority: 0,
        tokens: 100.0,
        prefill: 0.0,
        deadline: None,
    }
}

/// `each` places at each endpoint, ten may wait, without bound in time.
fn places(each: u32) -> GateConfig {
    GateConfig {
        concurrency_per_endpoint: Some(each),
        queue: QueueBounds {
            depth: 10,
            wait: f64::INFINITY,
            ..QueueBounds::default()
        },
        ..GateConfig::default()
    }
}

fn released(gate: &mut Gate, now: f64) -> Vec<u64> {
    let event = |event: &Event| match *event {
        Event::Released { id, .. } => id,
        Event::Refused { id, refusal, .. } => panic!("{} was refused: {:?}", id, refusal),
    };
    gate.poll(now).iter().map(event).collect()
}

/// Runs 1 to `running`, the others up to `last` wait.
fn filled(config: GateConfig, endpoints: u32, last: u64, running: u64) -> Gate {
    let mut gate = Gate::new(config, endpoints, 0.0);
    for id in 1..=last {
        let decision = gate.arrive(&arrival(id), 0.0);
        assert_eq!(decision == Decision::Admit, id <= running, "{}: {:?}", id, decision);
    }
    gate
}

#[test]
fn a_new_bound_of_waiting_holds_from_the_change_on() {
    let mut gate = filled(places(1), 1, 3, 1);
    assert_eq!(gate.next_wake(5.0), None);
    let mut config = places(1);
    config.queue.wait = 2.0;
    gate.configure(config, 5.0);
    assert_eq!(gate.next_wake(5.0), Some(7.0));
    let events = gate.poll(7.0);
    assert_eq!(events.len(), 2);
    for event in events {
        match event {
            Event::Refused { waited, refusal, .. } => {
                assert_eq!((waited, refusal.reason), (7.0, RefusalReason::QueueTimeout))
            }
            Event::Released { .. } => panic!("{:?}", event),
        }
    }
}

#[test]
fn a_longer_bound_of_waiting_holds_for_newcomers_only() {
    let mut config = places(1);
    config.queue.wait = 1.0;
    let mut gate = filled(config, 1, 2, 1);
    config.queue.wait = 9.0;
    gate.configure(config, 0.5);
    assert_eq!(gate.next_wake(0.5), Some(1.0));
}

#[test]
fn a_shorter_queue_keeps_who_waits() {
    let mut gate = filled(places(1), 1, 6, 1);
    let mut config = places(1);
    config.queue.depth = 0;
    gate.configure(config, 1.0);
    assert!(matches!(gate.arrive(&arrival(9), 1.0), Decision::Reject(_)));
    for (ended, next) in (1..6).zip(2..) {
        gate.finished(ended, 1.0);
        assert_eq!(released(&mut gate, 1.0), [next]);
    }
}

#[test]
fn a_starvation_bound_holds_for_who_waits_already() {
    let mut config = places(1);
    config.highest_priority = 1;
    let mut gate = filled(config, 1, 2, 1);
    let high = Arrival {
        priority: 1,
        ..arrival(3)
    };
    assert!(matches!(gate.arrive(&high, 1.0), Decision::Hold { .. }));
    config.starvation = 2.0;
    gate.configure(config, 3.0);
    gate.finished(1, 3.0);
    assert_eq!(released(&mut gate, 3.0), [2]); // both count as of the highest priority now
    gate.finished(2, 3.0);
    assert_eq!(released(&mut gate, 3.0), [3]);
}

#[test]
fn who_runs_where_nothing_is_sent_any_more_takes_no_place() {
    let mut gate = filled(places(2), 2, 6, 4);
    gate.set_capacity(1, 2, 1.0); // one drains, with two requests
    assert!(released(&mut gate, 1.0).is_empty());
    gate.finished(1, 2.0); // on the one that is there
    assert_eq!(released(&mut gate, 2.0), [5]);
    gate.set_capacity(1, 1, 3.0); // one of those on the one that drains
    gate.finished(3, 3.0);
    assert!(released(&mut gate, 3.0).is_empty());
}

#[test]
fn a_pool_that_is_gone_refuses_who_waits_and_may_come_back() {
    let mut gate = filled(places(1), 1, 3, 1);
    gate.close(1.0);
    let events = gate.poll(1.0);
    assert_eq!(events.iter().map(Event::id).collect::<Vec<_>>(), [2, 3]);
    for event in events {
        assert!(matches!(event, Event::Refused { refusal, .. } if refusal.reason == RefusalReason::NoEndpoint));
    }
    assert!(matches!(gate.arrive(&arrival(4), 1.0), Decision::Reject(refusal) if refusal.reason.status() == 503));
    gate.set_endpoints(2, 2.0);
    assert_eq!(gate.arrive(&arrival(5), 2.0), Decision::Admit);
}

fn any_config(random: &mut Random) -> GateConfig {
    let maybe = |random: &mut Random, most: u64| Some(random.below(most) as u32 + 1).filter(|_| random.below(2) == 0);
    GateConfig {
        rate: maybe(random, 30).map(|per_second| Rate {
            per_second: f64::from(per_second),
            burst: 1,
        }),
        concurrency: maybe(random, 5),
        concurrency_per_endpoint: maybe(random, 3),
        queue: QueueBounds {
            depth: random.below(10) as u32,
            wait: [0.3, 2.0, f64::INFINITY][random.below(3) as usize],
            ..QueueBounds::default()
        },
        highest_priority: random.below(3) as u8,
        starvation: [0.2, f64::INFINITY][random.below(2) as usize],
        ..GateConfig::default()
    }
}

/// Every request that is held is told exactly once what became of it, or went away by itself; once all limits are
/// lifted, nobody waits.
#[test]
fn nobody_hangs_and_nobody_is_lost_whatever_changes() {
    for seed in 0..400 {
        let random = &mut Random::new(seed);
        let mut gate = Gate::new(any_config(random), 2, 0.0);
        let (mut now, mut held, mut running) = (0.0, HashMap::new(), Vec::new());
        let hear = |gate: &mut Gate, now: f64, held: &mut HashMap<u64, f64>, running: &mut Vec<u64>| {
            for event in gate.poll(now) {
                assert!(held.remove(&event.id()).is_some(), "{} was told twice", event.id());
                if let Event::Released { id, .. } = event {
                    running.push(id);
                }
            }
        };
        for id in 0..300 {
            now += random.exponential(0.05);
            hear(&mut gate, now, &mut held, &mut running);
            match random.below(12) {
                0 => gate.configure(any_config(random), now),
                1 => gate.set_endpoints(random.below(4) as u32, now),
                2 => gate.set_capacity(2, random.below(running.len() as u64 + 1) as u32, now),
                3 if random.below(5) == 0 => gate.close(now),
                4 | 5 if !running.is_empty() => {
                    let at = random.below(running.len() as u64) as usize;
                    gate.finished(running.swap_remove(at), now);
                }
                _ => {
                    let arrival = Arrival {
                        priority: random.below(3) as u8,
                        tenant: random.below(3),
                        ..arrival(id)
                    };
                    match gate.arrive(&arrival, now) {
                        Decision::Admit => running.push(id),
                        Decision::Hold { .. } => assert!(held.insert(id, now).is_none()),
                        Decision::Reject(_) => {}
                    }
                }
            }
            hear(&mut gate, now, &mut held, &mut running);
            assert_eq!((gate.load().waiting, gate.load().running), (held.len(), running.len()));
        }
        gate.set_endpoints(1, now);
        gate.configure(GateConfig::default(), now);
        hear(&mut gate, now, &mut held, &mut running);
        assert!(held.is_empty(), "seed {}: {:?} hang", seed, held);
    }
}
