//! Whatever comes in whatever order, a gate keeps its bounds and its books. Random settings and random events, checked
//! against plain counts kept beside the gate.

mod random;

use random::Random;
use scheduler::admission::{Arrival, Decision, Event, Gate, GateConfig, QueueBounds, Rate};
use std::collections::HashMap;

const RUNS: u64 = 300;
const STEPS: u32 = 400;

/// What happened, in order: (ticket, seconds waited in millionths, how).
type History = Vec<(u64, u64, String)>;

fn config(random: &mut Random) -> GateConfig {
    let some = |random: &mut Random, most: u64| Some(random.below(most) as u32 + 1).filter(|_| random.below(2) == 0);
    GateConfig {
        rate: Some(Rate {
            per_second: [0.5, 3.0, 20.0, 1.0 / 3.0, 1000.0][random.below(5) as usize],
            burst: 1 + random.below(5) as u32,
        })
        .filter(|_| random.below(3) > 0),
        concurrency: some(random, 6),
        concurrency_per_endpoint: some(random, 3),
        queue: QueueBounds {
            depth: random.below(12) as u32,
            tokens: [500, 2000, u64::MAX][random.below(3) as usize],
            wait: [0.5, 3.0, f64::INFINITY][random.below(3) as usize],
            tenant_depth: [2, 5, u32::MAX][random.below(3) as usize],
            tenant_tokens: [700, u64::MAX][random.below(2) as usize],
        },
        highest_priority: random.below(4) as u8,
        starvation: [1.0, f64::INFINITY][random.below(2) as usize],
        ..GateConfig::default()
    }
}

fn arrival(random: &mut Random, id: u64) -> Arrival {
    Arrival {
        id,
        tenant: random.below(4),
        weight: [0.5, 1.0, 3.0][random.below(3) as usize],
        group: 0,
        priority: random.below(5) as u8,
        tokens: [0.0, 10.0, 100.0, 600.0][random.below(4) as usize],
        prefill: random.unit(),
        deadline: Some(random.unit() * 4.0).filter(|_| random.below(3) == 0),
    }
}

/// The counts beside the gate.
struct Books {
    config: GateConfig,
    waiting: HashMap<u64, Arrival>,
    running: Vec<u64>,
    starts: Vec<f64>,
    history: History,
}

impl Books {
    fn begin(&mut self, id: u64, at: f64) {
        self.running.push(id);
        self.starts.push(at);
    }

    fn note(&mut self, events: &[Event], arrived: &HashMap<u64, f64>) {
        for event in events {
            let id = event.id();
            assert!(self.waiting.remove(&id).is_some(), "told of {} that does not wait", id);
            let (waited, how) = match *event {
                Event::Released { waited, .. } => {
                    self.begin(id, arrived[&id] + waited);
                    (waited, "released")
                }
                Event::Refused { waited, refusal, .. } => (waited, refusal.reason.name()),
            };
            assert!(waited <= self.config.queue.wait + 1e-6, "{} waited {}", id, waited);
            self.history.push((id, (waited * 1e6) as u64, how.to_string()));
        }
    }

    fn check(&self, gate: &Gate, endpoints: u32, now: f64) {
        let (load, bounds) = (gate.load(), self.config.queue);
        assert_eq!((load.waiting, load.running), (self.waiting.len(), self.running.len()));
        let tokens: f64 = self.waiting.values().map(|ticket| ticket.tokens).sum();
        assert_eq!(load.waiting_tokens, tokens as u64);
        assert!(load.waiting <= bounds.depth as usize && load.waiting_tokens <= bounds.tokens);
        for tenant in 0..4 {
            let own = self.waiting.values().filter(|ticket| ticket.tenant == tenant);
            assert!(own.clone().count() <= bounds.tenant_depth as usize);
            assert!(own.map(|ticket| ticket.tokens as u64).sum::<u64>() <= bounds.tenant_tokens);
        }
        let each = self.config.concurrency_per_endpoint.map(|each| each * endpoints);
        let slots = each.into_iter().chain(self.config.concurrency).min();
        assert!(load.running <= slots.unwrap_or(u32::MAX) as usize);
        // Nothing waits that could go: there is no place, or a wake-up is due when the rate allows the next one.
        let place = load.running < slots.unwrap_or(u32::MAX) as usize;
        if load.waiting > 0 && place {
            assert!(self.config.rate.is_some());
            assert!(gate.next_wake(now).map_or(false, |wake| wake > now));
        }
    }

    /// In no stretch of time did more begin than the rate allows.
    fn check_rate(&self) {
        if let Some(rate) = self.config.rate {
            let mut starts = self.starts.clone();
            starts.sort_by(f64::total_cmp);
            for (first, &from) in starts.iter().enumerate() {
                for (last, &until) in starts.iter().enumerate().skip(first) {
                    let allowed = (until - from) * rate.per_second + f64::from(rate.burst) + 1e-3;
                    assert!((last - first + 1) as f64 <= allowed);
                }
            }
        }
    }
}

/// One run of random events. `polls`: how many more polls than needed between two events.
fn run(seed: u64, polls: u32) -> History {
    let random = &mut Random::new(seed);
    let endpoints = 1 + random.below(3) as u32;
    let mut books = Books {
        config: config(random),
        waiting: HashMap::new(),
        running: Vec::new(),
        starts: Vec::new(),
        history: Vec::new(),
    };
    let mut gate = Gate::new(books.config, endpoints, 0.0);
    let (mut now, mut arrived) = (0.0, HashMap::new());
    for id in 0..u64::from(STEPS) {
        let next = now + random.exponential(0.1);
        for poll in 0..polls {
            now += (next - now) * f64::from(poll) / f64::from(polls);
            books.note(&gate.poll(now), &arrived);
        }
        now = next;
        books.note(&gate.poll(now), &arrived);
        match random.below(10) {
            0..=5 => {
                let arrival = arrival(random, id);
                let _ = arrived.insert(id, now);
                match gate.arrive(&arrival, now) {
                    Decision::Admit => {
                        assert!(books.waiting.is_empty());
                        books.begin(id, now);
                    }
                    Decision::Hold { predicted } => {
                        assert!(predicted >= 0.0);
                        let _ = books.waiting.insert(id, arrival);
                    }
                    Decision::Reject(refusal) => {
                        assert!(refusal.retry_after.map_or(true, |after| (0.0..=60.0).contains(&after)));
                        books.history.push((id, 0, refusal.reason.name().to_string()));
                    }
                }
            }
            6..=8 if !books.running.is_empty() => {
                let at = random.below(books.running.len() as u64) as usize;
                gate.finished(books.running.swap_remove(at), now);
            }
            _ => {
                let id = random.below(u64::from(STEPS));
                let _ = books.waiting.remove(&id);
                books.running.retain(|&running| running != id);
                gate.leave(id, now);
            }
        }
        books.note(&gate.poll(now), &arrived);
        books.check(&gate, endpoints, now);
    }
    books.check_rate();
    books.history
}

#[test]
fn bounds_hold_and_books_balance_whatever_comes() {
    let mut outcomes: HashMap<String, u32> = HashMap::new();
    for seed in 0..RUNS {
        for (_, _, how) in run(seed, 0) {
            *outcomes.entry(how).or_insert(0) += 1;
        }
    }
    // The runs have been everywhere.
    for how in [
        "released",
        "rate",
        "concurrency",
        "queue-full",
        "queue-tokens",
        "tenant-full",
        "queue-timeout",
        "deadline",
        "displaced",
    ] {
        assert!(outcomes.get(how).copied().unwrap_or(0) > 50, "{}: {:?}", how, outcomes);
    }
}

#[test]
fn what_happens_does_not_depend_on_how_often_it_is_polled() {
    for seed in 0..RUNS / 3 {
        assert_eq!(run(seed, 0), run(seed, 7), "seed {}", seed);
    }
}

#[test]
fn each_wake_up_brings_something_and_they_end() {
    for seed in 0..RUNS {
        let random = &mut Random::new(seed);
        let config = config(random);
        for origin in [0.0, 1_795_000_000.0] {
            let mut gate = Gate::new(config, 2, origin);
            for id in 0..40 {
                let _ = gate.arrive(&arrival(random, id), origin + id as f64 * 0.01);
            }
            let (mut now, mut wakes) = (origin + 0.4, 0);
            let _ = gate.poll(now);
            while let Some(wake) = gate.next_wake(now) {
                assert!(wake > now);
                now = wake;
                assert!(!gate.poll(now).is_empty(), "woken for nothing");
                wakes += 1;
                assert!(wakes <= 40);
            }
        }
    }
}
