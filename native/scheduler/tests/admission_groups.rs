//! Groups of requests that can go to some of a pool's endpoints only: subsets of a service, of which one may be full while
//! another has room.

mod random;

use random::Random;
use scheduler::admission::{Arrival, Decision, Event, Gate, GateConfig, QueueBounds, Rate, Room};
use std::collections::HashMap;

fn of(group: u64, id: u64) -> Arrival {
    Arrival {
        id,
        tenant: 1,
        weight: 1.0,
        group,
        priority: 0,
        tokens: 0.0,
        prefill: 0.0,
        deadline: None,
    }
}

fn config() -> GateConfig {
    GateConfig {
        concurrency_per_endpoint: Some(1),
        queue: QueueBounds {
            depth: 1000,
            wait: f64::INFINITY,
            ..QueueBounds::default()
        },
        ..GateConfig::default()
    }
}

fn room(free: u32, all: u32) -> Room {
    Room { free, all }
}

fn released(gate: &mut Gate, now: f64) -> Vec<u64> {
    gate.poll(now).iter().map(Event::id).collect()
}

#[test]
fn a_group_without_room_waits_and_keeps_nobody_else_waiting() {
    let mut gate = Gate::new(config(), 3, 0.0);
    gate.set_rooms([(1, room(1, 1)), (2, room(2, 2))], 0.0);
    assert_eq!(gate.arrive(&of(1, 1), 0.0), Decision::Admit);
    assert!(matches!(gate.arrive(&of(1, 2), 0.0), Decision::Hold { .. })); // one is on its way there
    assert_eq!(gate.arrive(&of(2, 3), 0.0), Decision::Admit);
    gate.placed(1, [(1, room(0, 1)), (2, room(2, 2))], 0.0);
    assert_eq!(gate.arrive(&of(2, 4), 0.0), Decision::Admit);
    assert!(matches!(gate.arrive(&of(2, 5), 0.0), Decision::Hold { .. }));
    assert!(released(&mut gate, 1.0).is_empty());
    gate.set_rooms([(1, room(1, 1)), (2, room(2, 2))], 2.0);
    gate.finished(1, 2.0);
    assert_eq!(released(&mut gate, 2.0), [2]);
    gate.finished(3, 3.0); // it never came to its place: that is free again
    assert_eq!(released(&mut gate, 3.0), [5]);
}

#[test]
fn groups_that_are_not_named_have_no_bounds_of_their_own() {
    let mut gate = Gate::new(config(), 2, 0.0);
    gate.set_rooms([(1, room(0, 1))], 0.0);
    assert_eq!(gate.arrive(&of(7, 1), 0.0), Decision::Admit);
    assert!(matches!(gate.arrive(&of(1, 2), 0.0), Decision::Hold { .. }));
    gate.set_rooms([], 1.0);
    assert_eq!(released(&mut gate, 1.0), [2]);
    assert!(matches!(gate.arrive(&of(1, 3), 1.0), Decision::Hold { .. })); // the pool's two places are taken
}

#[test]
fn what_groups_share_is_shared_fairly_and_by_priority() {
    let mut slow = config();
    slow.concurrency_per_endpoint = None;
    slow.highest_priority = 1;
    slow.rate = Some(Rate {
        per_second: 1.0,
        burst: 1,
    });
    let mut gate = Gate::new(slow, 2, 0.0);
    gate.set_rooms([(1, room(99, 99)), (2, room(99, 99))], 0.0);
    assert_eq!(gate.arrive(&of(1, 0), 0.0), Decision::Admit);
    for id in 1..=10 {
        let _ = gate.arrive(&of(1, id), 0.0); // one tenant fills the first group
    }
    for id in 11..=13 {
        let other = Arrival { tenant: 2, ..of(2, id) };
        let _ = gate.arrive(&other, 0.5);
    }
    let high = Arrival {
        priority: 1,
        ..of(2, 20)
    };
    let _ = gate.arrive(&high, 0.5);
    let order: Vec<u64> = (1..=7)
        .flat_map(|second| released(&mut gate, f64::from(second)))
        .collect();
    assert_eq!(order, [20, 1, 11, 2, 12, 3, 13]);
}

#[test]
fn a_full_group_is_refused_with_its_own_prospects() {
    let mut gate = Gate::new(config(), 9, 0.0);
    gate.set_rooms([(1, room(0, 1)), (2, room(8, 8))], 0.0);
    let hurried = |group, id| Arrival {
        deadline: Some(0.5),
        ..of(group, id)
    };
    assert!(matches!(gate.arrive(&hurried(1, 1), 0.0), Decision::Reject(_))); // a place is free after a second
    assert_eq!(gate.arrive(&hurried(2, 2), 0.0), Decision::Admit);
}

/// Whatever comes: of no group more are under way than it has places, nobody waits whose group has a free one, and
/// once there is room for all, nobody waits.
#[test]
fn groups_keep_to_their_rooms_and_nobody_hangs() {
    for seed in 0..300 {
        let random = &mut Random::new(seed);
        let places = [1, 2 + random.below(3) as u32];
        let mut free = GateConfig {
            concurrency_per_endpoint: None,
            ..config()
        };
        free.concurrency = Some(4).filter(|_| random.below(2) == 0);
        let mut gate = Gate::new(free, 2, 0.0);
        let (mut now, mut waiting, mut sent) = (0.0, HashMap::new(), HashMap::<u64, (u64, bool)>::new());
        let rooms = |sent: &HashMap<u64, (u64, bool)>| {
            let taken = |group| sent.values().filter(|at| **at == (group, true)).count() as u32;
            [0, 1].map(|group| {
                let all = places[group as usize];
                (group, room(all - taken(group), all))
            })
        };
        gate.set_rooms(rooms(&sent), now);
        for id in 0..300 {
            now += random.unit();
            match random.below(4) {
                0 | 1 => {
                    let group = random.below(2);
                    match gate.arrive(&of(group, id), now) {
                        Decision::Admit => drop(sent.insert(id, (group, false))),
                        Decision::Hold { .. } => drop(waiting.insert(id, group)),
                        Decision::Reject(refusal) => panic!("{:?}", refusal),
                    }
                }
                2 => {
                    let coming: Vec<u64> = sent.iter().filter(|(_, at)| !at.1).map(|(&id, _)| id).collect();
                    for id in coming {
                        sent.get_mut(&id).unwrap().1 = true;
                        gate.placed(id, rooms(&sent), now);
                    }
                }
                _ => {
                    let ended: Vec<u64> = sent.keys().copied().filter(|id| id % 3 == random.below(3)).collect();
                    for id in ended {
                        let _ = sent.remove(&id);
                        gate.set_rooms(rooms(&sent), now);
                        gate.finished(id, now);
                    }
                }
            }
            for event in gate.poll(now) {
                let group = waiting.remove(&event.id()).unwrap();
                let _ = sent.insert(event.id(), (group, false));
            }
            for group in 0..2 {
                let under_way = sent.values().filter(|at| at.0 == group).count() as u32;
                assert!(under_way <= places[group as usize], "seed {}", seed);
                let waits = waiting.values().any(|&own| own == group);
                let pool_has_place = free.concurrency.map_or(true, |most| sent.len() < most as usize);
                assert!(
                    !waits || under_way == places[group as usize] || !pool_has_place,
                    "seed {}",
                    seed
                );
            }
        }
        gate.configure(GateConfig::default(), now);
        gate.set_rooms([], now);
        assert_eq!(released(&mut gate, now).len(), waiting.len(), "seed {}", seed);
    }
}
