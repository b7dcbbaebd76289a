//! What a gate promises, one promise a test, to the request.

use scheduler::admission::{Arrival, Decision, Event, Gate, GateConfig, QueueBounds, Rate, RefusalReason};

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

fn of(tenant: u64, id: u64) -> Arrival {
    Arrival { tenant, ..arrival(id) }
}

/// One place, a queue of `depth`, no time limit; place 0 is taken.
fn busy(depth: u32) -> Gate {
    let mut gate = Gate::new(one_place(depth), 1, 0.0);
    assert_eq!(gate.arrive(&arrival(0), 0.0), Decision::Admit);
    gate
}

fn one_place(depth: u32) -> GateConfig {
    GateConfig {
        concurrency: Some(1),
        queue: QueueBounds {
            depth,
            wait: f64::INFINITY,
            ..QueueBounds::default()
        },
        ..GateConfig::default()
    }
}

fn paced(burst: u32) -> Gate {
    let config = GateConfig {
        rate: Some(Rate {
            per_second: 20.0,
            burst,
        }),
        queue: QueueBounds {
            depth: 30,
            wait: 1.0,
            ..QueueBounds::default()
        },
        ..GateConfig::default()
    };
    Gate::new(config, 1, 100.0)
}

fn hold(gate: &mut Gate, arrival: Arrival, now: f64) {
    let decision = gate.arrive(&arrival, now);
    assert!(matches!(decision, Decision::Hold { .. }), "{:?}", decision);
}

fn refused(decision: Decision) -> (RefusalReason, Option<f64>) {
    match decision {
        Decision::Reject(refusal) => (refusal.reason, refusal.retry_after),
        other => panic!("{:?}", other),
    }
}

fn released(events: &[Event]) -> Vec<u64> {
    events
        .iter()
        .filter(|event| matches!(event, Event::Released { .. }))
        .map(Event::id)
        .collect()
}

/// The order in which tickets go when one at a time ends.
fn drain(gate: &mut Gate, first: u64, from: f64) -> Vec<u64> {
    let (mut order, mut running) = (Vec::new(), first);
    for step in 1..10_000 {
        let now = from + f64::from(step);
        gate.finished(running, now);
        match released(&gate.poll(now)).first() {
            Some(&id) => running = id,
            None => return order,
        }
        order.push(running);
    }
    panic!("no end");
}

/// Admitted at once, rejected at once, released later, timed out; polling only when the gate wants to be woken.
fn burst_of(gate: &mut Gate, count: u64) -> [usize; 4] {
    let decisions: Vec<Decision> = (0..count).map(|id| gate.arrive(&arrival(id), 100.0)).collect();
    let admitted = decisions.iter().filter(|&&d| d == Decision::Admit).count();
    let rejected = decisions.iter().filter(|d| matches!(d, Decision::Reject(_))).count();
    let (mut later, mut timed_out, mut now) = (0, 0, 100.0);
    while let Some(wake) = gate.next_wake(now) {
        now = wake;
        for event in gate.poll(now) {
            match event {
                Event::Released { waited, .. } => {
                    later += 1;
                    assert!((waited - 0.05 * later as f64).abs() < 1e-6, "{}", waited);
                }
                Event::Refused { waited, refusal, .. } => {
                    timed_out += 1;
                    assert_eq!(refusal.reason, RefusalReason::QueueTimeout);
                    assert!((waited - 1.0).abs() < 1e-6, "{}", waited);
                }
            }
        }
    }
    [admitted, rejected, later, timed_out]
}

#[test]
fn a_burst_is_paced_held_and_shed_exactly() {
    // 20 a second, 30 deep, 1 s: of 60 at once
    assert_eq!(burst_of(&mut paced(1), 60), [1, 29, 20, 10]);
    assert_eq!(burst_of(&mut paced(20), 60), [20, 10, 20, 10]);
    assert_eq!(burst_of(&mut paced(20), 50), [20, 0, 20, 10]);
    assert_eq!(burst_of(&mut paced(20), 40), [20, 0, 20, 0]);
    assert_eq!(burst_of(&mut paced(100), 60), [60, 0, 0, 0]);
}

#[test]
fn late_polls_change_nothing_in_what_is_released_and_what_times_out() {
    let mut gate = paced(1);
    for id in 0..60 {
        let _ = gate.arrive(&arrival(id), 100.0);
    }
    let events = [gate.poll(100.333), gate.poll(250.0)].concat();
    assert_eq!(released(&events), (1..=20).collect::<Vec<u64>>());
    assert_eq!(events.len(), 30);
    assert!(matches!(events[20], Event::Refused { waited, .. } if waited == 1.0));
}

#[test]
fn requests_wait_here_until_an_endpoint_has_a_place() {
    let config = GateConfig {
        concurrency_per_endpoint: Some(4),
        ..GateConfig::default()
    };
    let mut gate = Gate::new(config, 2, 0.0);
    let admitted = (0..12).filter(|&id| gate.arrive(&arrival(id), 0.0) == Decision::Admit);
    assert_eq!(admitted.count(), 8);
    gate.finished(3, 1.0);
    assert_eq!(released(&gate.poll(1.0)), [8]);
    gate.set_endpoints(3, 2.0);
    assert_eq!(released(&gate.poll(2.0)), [9, 10, 11]);
    gate.set_endpoints(1, 3.0);
    hold(&mut gate, arrival(12), 3.0);
    for id in [0, 1, 2, 4, 5, 6, 7] {
        gate.finished(id, 4.0);
    }
    assert_eq!(released(&gate.poll(4.0)), []);
    gate.finished(8, 5.0);
    assert_eq!(released(&gate.poll(5.0)), [12]);
}

#[test]
fn the_narrower_of_both_concurrencies_and_the_rate_counts() {
    let config = GateConfig {
        rate: Some(Rate {
            per_second: 1.0,
            burst: 100,
        }),
        concurrency: Some(5),
        concurrency_per_endpoint: Some(4),
        ..GateConfig::default()
    };
    let mut gate = Gate::new(config, 2, 0.0);
    let admitted = (0..12).filter(|&id| gate.arrive(&arrival(id), 0.0) == Decision::Admit);
    assert_eq!(admitted.count(), 5);
}

#[test]
fn a_full_queue_refuses_by_requests_and_by_tokens() {
    let mut gate = busy(3);
    for id in 1..=3 {
        hold(&mut gate, arrival(id), 0.0);
    }
    assert_eq!(refused(gate.arrive(&arrival(4), 0.0)).0, RefusalReason::QueueFull);

    let mut config = one_place(10);
    config.queue.tokens = 250;
    let mut gate = Gate::new(config, 1, 0.0);
    let _ = gate.arrive(&arrival(0), 0.0);
    hold(&mut gate, arrival(1), 0.0);
    hold(&mut gate, arrival(2), 0.0);
    assert_eq!(refused(gate.arrive(&arrival(3), 0.0)).0, RefusalReason::QueueTokens);
    gate.leave(1, 1.0);
    hold(&mut gate, arrival(3), 1.0);

    assert_eq!(refused(busy(0).arrive(&arrival(1), 0.0)).0, RefusalReason::Concurrency);
    let mut config = GateConfig::default();
    config.queue.depth = 0;
    config.rate = Some(Rate {
        per_second: 4.0,
        burst: 2,
    });
    let mut gate = Gate::new(config, 1, 0.0);
    let decisions: Vec<Decision> = (0..4).map(|id| gate.arrive(&arrival(id), 0.0)).collect();
    assert_eq!(decisions[..2], [Decision::Admit, Decision::Admit]);
    assert_eq!(refused(decisions[2]), (RefusalReason::Rate, Some(0.25)));
    assert_eq!(refused(decisions[3]), (RefusalReason::Rate, Some(0.5)));
}

#[test]
fn a_tenant_cannot_fill_the_queue() {
    let mut config = one_place(10);
    config.queue.tenant_depth = 4;
    let mut gate = Gate::new(config, 1, 0.0);
    let _ = gate.arrive(&of(9, 0), 0.0);
    for id in 1..=4 {
        hold(&mut gate, of(1, id), 0.0);
    }
    assert_eq!(refused(gate.arrive(&of(1, 5), 0.0)).0, RefusalReason::TenantFull);
    hold(&mut gate, of(2, 6), 0.0);

    // Even where no bound is set: in a full queue the heaviest tenant's newest gives way, until shares are equal.
    let mut gate = busy(10);
    for id in 1..=10 {
        hold(&mut gate, of(1, id), 0.0);
    }
    for id in 11..=15 {
        hold(&mut gate, of(2, id), 0.0);
    }
    assert_eq!(refused(gate.arrive(&of(2, 16), 0.0)).0, RefusalReason::QueueFull);
    assert_eq!(refused(gate.arrive(&of(1, 17), 0.0)).0, RefusalReason::QueueFull);
    let displaced: Vec<u64> = gate.poll(0.0).iter().map(Event::id).collect();
    assert_eq!(displaced, [10, 9, 8, 7, 6]);
    assert_eq!(drain(&mut gate, 0, 0.0), [1, 11, 2, 12, 3, 13, 4, 14, 5, 15]);
}

#[test]
fn higher_priorities_go_first_and_take_places_in_a_full_queue() {
    let with = |priority, id| Arrival {
        priority,
        ..arrival(id)
    };
    let mut gate = busy(4);
    hold(&mut gate, with(0, 1), 0.0);
    hold(&mut gate, with(5, 2), 0.0);
    hold(&mut gate, with(9, 3), 0.0);
    hold(&mut gate, with(5, 4), 0.0);
    hold(&mut gate, with(5, 5), 0.0);
    let events = gate.poll(0.0);
    assert!(matches!(events[..], [Event::Refused { id: 1, refusal, .. }]
        if refusal.reason == RefusalReason::Displaced));
    assert_eq!(refused(gate.arrive(&with(0, 6), 0.0)).0, RefusalReason::QueueFull);
    assert_eq!(drain(&mut gate, 0, 0.0), [3, 2, 4, 5]);
}

#[test]
fn after_the_starvation_bound_a_request_counts_as_the_highest() {
    let mut config = one_place(1000);
    config.starvation = 10.0;
    config.highest_priority = 3;
    let mut gate = Gate::new(config, 1, 0.0);
    let _ = gate.arrive(&arrival(0), 0.0);
    hold(&mut gate, of(7, 1), 0.5);
    let mut running = 0;
    let mut went_at = None;
    for step in 1..100 {
        let now = f64::from(step);
        let busy_tenant = Arrival {
            priority: 3,
            ..of(1, 1000 + step as u64)
        };
        hold(&mut gate, busy_tenant, now - 0.1);
        gate.finished(running, now);
        running = released(&gate.poll(now))[0];
        if running == 1 {
            went_at = Some(now);
        }
    }
    assert_eq!(went_at, Some(11.0));
}

#[test]
fn a_first_token_that_cannot_come_in_time_is_refused_at_once() {
    let with = |deadline, prefill, id| Arrival {
        deadline: Some(deadline),
        prefill,
        ..arrival(id)
    };
    let mut gate = busy(100);
    gate.finished(0, 2.0); // requests run for 2 s
    assert_eq!(gate.arrive(&arrival(1), 2.0), Decision::Admit);
    hold(&mut gate, arrival(2), 2.0);
    hold(&mut gate, arrival(3), 2.0);
    // Three must end before a newcomer goes: 6 s.
    let (reason, retry_after) = refused(gate.arrive(&with(6.4, 0.5, 4), 2.0));
    assert_eq!(reason, RefusalReason::Deadline);
    assert!((retry_after.unwrap() - 0.1).abs() < 1e-6);
    assert_eq!(
        refused(gate.arrive(&with(0.4, 0.5, 5), 2.0)),
        (RefusalReason::Deadline, None)
    );
    hold(&mut gate, with(6.6, 0.5, 6), 2.0);
    // Its turn does not come in time after all: it is told as soon as that is certain.
    assert_eq!(gate.next_wake(2.0).map(|wake| (wake * 1e6).round() / 1e6), Some(8.1));
    let events = gate.poll(8.1);
    assert!(matches!(events[..], [Event::Refused { id: 6, refusal, .. }] if refusal.reason == RefusalReason::Deadline));
}

#[test]
fn who_leaves_frees_its_place() {
    let mut gate = busy(2);
    hold(&mut gate, arrival(1), 0.0);
    hold(&mut gate, arrival(2), 0.0);
    gate.leave(1, 0.1);
    hold(&mut gate, arrival(3), 0.1);
    gate.leave(0, 0.2);
    assert_eq!(released(&gate.poll(0.2)), [2]);
    gate.leave(2, 0.3); // 3 is released, but goes before it is told
    gate.leave(3, 0.3);
    assert_eq!(gate.poll(0.3), []);
    let load = gate.load();
    assert_eq!((load.waiting, load.waiting_tokens, load.running), (0, 0, 0));
    gate.leave(77, 0.4);
    assert_eq!(gate.next_wake(0.4), None);
}

#[test]
fn without_an_endpoint_arrivals_are_refused_and_who_waits_may_wait_for_one() {
    let mut config = one_place(10);
    config.queue.wait = 5.0;
    let mut gate = Gate::new(config, 1, 0.0);
    let _ = gate.arrive(&arrival(0), 0.0);
    hold(&mut gate, arrival(1), 0.0);
    hold(&mut gate, arrival(2), 1.0);
    gate.set_endpoints(0, 1.0);
    gate.finished(0, 1.5);
    let (reason, retry_after) = refused(gate.arrive(&arrival(3), 2.0));
    assert_eq!((reason.status(), retry_after), (503, None));
    let events = gate.poll(5.0);
    assert!(
        matches!(events[..], [Event::Refused { id: 1, refusal, .. }] if refusal.reason == RefusalReason::NoEndpoint)
    );
    gate.set_endpoints(1, 5.5);
    assert_eq!(released(&gate.poll(5.5)), [2]);
}

#[test]
fn a_name_can_wait_or_run_only_once() {
    let mut gate = busy(10);
    assert_eq!(refused(gate.arrive(&arrival(0), 0.0)).0, RefusalReason::Duplicate);
    hold(&mut gate, arrival(1), 0.0);
    assert_eq!(refused(gate.arrive(&arrival(1), 0.0)).0, RefusalReason::Duplicate);
    gate.finished(0, 1.0);
    assert_eq!(released(&gate.poll(1.0)), [1]);
}

#[test]
fn who_comes_back_when_told_gets_in() {
    let mut gate = paced(1);
    let mut told = Vec::new();
    for id in 0..90 {
        if let Decision::Reject(refusal) = gate.arrive(&arrival(id), 100.0) {
            told.push((100.0 + refusal.retry_after.unwrap(), id));
            assert!(refusal.retry_after_header() >= Some(1));
        }
    }
    assert_eq!(told.len(), 59);
    assert!(told.windows(2).all(|pair| pair[0].0 < pair[1].0));
    for &(when, id) in &told {
        let _ = gate.poll(when);
        let decision = gate.arrive(&arrival(id), when);
        assert!(
            !matches!(decision, Decision::Reject(_)),
            "{} at {}: {:?}",
            id,
            when,
            decision
        );
    }
}

#[test]
fn the_predicted_wait_is_what_comes() {
    let config = GateConfig {
        concurrency: Some(4),
        queue: QueueBounds {
            wait: f64::INFINITY,
            ..QueueBounds::default()
        },
        ..GateConfig::default()
    };
    let mut gate = Gate::new(config, 1, 0.0);
    let mut ends: Vec<(f64, u64)> = Vec::new();
    let mut predictions = std::collections::HashMap::new();
    let (mut worst, mut sum, mut count, mut next) = (0.0_f64, 0.0, 0, 0_u64);
    for step in 0..40_000_u32 {
        let now = f64::from(step) * 0.01;
        while let Some(at) = ends.iter().position(|&(end, _)| end <= now) {
            let (_, id) = ends.remove(at);
            gate.finished(id, now);
        }
        if step % 100 == 0 {
            for _ in 0..if step % 2000 == 0 { 15 } else { 1 } {
                next += 1;
                match gate.arrive(&of(next % 3, next), now) {
                    Decision::Admit => ends.push((now + 2.0, next)),
                    Decision::Hold { predicted } => {
                        let _ = predictions.insert(next, predicted);
                    }
                    Decision::Reject(refusal) => panic!("{:?}", refusal),
                }
            }
        }
        for event in gate.poll(now) {
            if let Event::Released { id, waited } = event {
                ends.push((now + 2.0, id));
                if now > 100.0 {
                    let error: f64 = predictions[&id] - waited;
                    worst = worst.max(error.abs());
                    sum += error;
                    count += 1;
                }
            }
        }
    }
    // Requests of 2 s, four at a time: half a second is one place in the queue. Those that began together end together,
    // so the last of four wait as foretold and the first of four up to three places longer; newcomers of other tenants
    // may go before.
    assert!(count > 300, "{}", count);
    assert!(worst <= 2.5, "{}", worst);
    assert!((sum / f64::from(count)).abs() < 1.0, "{}", sum / f64::from(count));
}

#[test]
fn settings_can_change_while_requests_wait() {
    let mut gate = busy(10);
    for id in 1..=5 {
        hold(&mut gate, arrival(id), 0.0);
    }
    let mut wider = one_place(2);
    wider.concurrency = Some(3);
    wider.rate = Some(Rate {
        per_second: 1.0,
        burst: 1,
    });
    gate.configure(wider, 1.0);
    assert_eq!(released(&gate.poll(1.0)), [1]);
    assert_eq!(gate.next_wake(1.0), Some(2.0));
    assert_eq!(released(&gate.poll(2.0)), [2]);
    assert_eq!(refused(gate.arrive(&arrival(9), 2.0)).0, RefusalReason::QueueFull);
    gate.configure(GateConfig::default(), 3.0);
    assert_eq!(released(&gate.poll(3.0)), [3, 4, 5]);
}

#[test]
fn nonsense_is_bounded_and_harms_nobody() {
    let mut gate = busy(10);
    let nonsense = Arrival {
        id: 1,
        tenant: 0,
        weight: f64::NAN,
        group: 0,
        priority: 255,
        tokens: f64::NAN,
        prefill: f64::NAN,
        deadline: Some(f64::NAN),
    };
    let _ = gate.arrive(&nonsense, f64::NAN);
    let infinite = Arrival {
        id: 2,
        weight: f64::INFINITY,
        tokens: f64::INFINITY,
        prefill: -1.0,
        deadline: Some(f64::INFINITY),
        ..nonsense
    };
    let _ = gate.arrive(&infinite, -5.0);
    hold(&mut gate, arrival(3), 1.0);
    gate.finished(0, 2.0);
    assert_eq!(gate.poll(0.5).len(), 1); // time that runs backwards stands still
    for id in 1..=3 {
        gate.leave(id, 3.0);
    }
    assert_eq!(gate.load().waiting + gate.load().running, 0);
}

#[test]
fn reasons_have_names_of_their_own() {
    let mut names: Vec<&str> = RefusalReason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names[3], "queue-tokens");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), RefusalReason::ALL.len());
}
