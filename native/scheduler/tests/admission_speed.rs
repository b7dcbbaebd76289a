//! What an event costs with 100,000 tickets waiting, and that memory is given back. Prints nanoseconds an event
//! (`cargo test --release --test admission_speed -- --nocapture`); fails only where the cost grows like the queue.

mod random;

use random::Random;
use scheduler::admission::{Arrival, Decision, Gate, GateConfig, QueueBounds};
use std::time::Instant;

/// Nanoseconds for each of: an arrival that is held; one that ends, with the release of another; one that leaves.
fn costs(waiting: u64) -> [f64; 3] {
    const EVENTS: u64 = 20_000;
    let config = GateConfig {
        concurrency: Some(64),
        starvation: 3600.0,
        queue: QueueBounds {
            depth: u32::MAX,
            wait: 3600.0,
            ..QueueBounds::default()
        },
        ..GateConfig::default()
    };
    let random = &mut Random::new(1);
    let mut gate = Gate::new(config, 1, 0.0);
    let arrive = |gate: &mut Gate, random: &mut Random, id: u64| {
        let arrival = Arrival {
            id,
            tenant: random.below(100),
            weight: 1.0,
            group: 0,
            priority: random.below(3) as u8,
            tokens: random.below(8000) as f64,
            prefill: 0.1,
            deadline: None,
        };
        gate.arrive(&arrival, id as f64 * 1e-6)
    };
    let mut running: Vec<u64> = (0..64).collect();
    for id in 0..64 + waiting {
        let _ = arrive(&mut gate, random, id);
    }
    let (mut id, mut now) = (64 + waiting, 1.0);
    let each = |started: Instant| started.elapsed().as_nanos() as f64 / EVENTS as f64;
    let started = Instant::now();
    for _ in 0..EVENTS {
        assert!(matches!(arrive(&mut gate, random, id), Decision::Hold { .. }));
        id += 1;
    }
    let held = each(started);
    let started = Instant::now();
    for event in 0..EVENTS {
        now += 1e-6;
        let at = (event % 64) as usize;
        gate.finished(running[at], now);
        running[at] = gate.poll(now)[0].id();
    }
    let released = each(started);
    let started = Instant::now();
    for _ in 0..EVENTS {
        gate.leave(random.below(id), now);
    }
    [held, released, each(started)]
}

#[test]
fn an_event_costs_the_logarithm_of_the_queue() {
    let (few, many) = (costs(1_000), costs(100_000));
    println!("ns an event (held, ended and released, left): 1,000 waiting {few:.0?}, 100,000 waiting {many:.0?}");
    // A hundred times the tickets: a linear cost would be a hundred times as high; caches miss more, so not five.
    for (few, many) in few.iter().zip(many) {
        assert!(many < few * 20.0 + 20_000.0);
    }
}
