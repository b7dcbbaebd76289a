//! The picker against servers that work through their queues: draining, slow start, adapters, retries, and engines that
//! lie about themselves.

mod random;

use random::Random;
use scheduler::{EndpointState, Observed, Pool, PoolConfig, Request};
use std::collections::BTreeMap;

/// Servers that prefill one prompt after the other, each at its own speed, and then answer in no time.
struct Servers {
    pool: Pool,
    free_at: BTreeMap<u64, f64>,
    pending: Vec<(f64, u64)>,
    sent: BTreeMap<u64, u32>,
    waits: Vec<f64>,
    now: f64,
    next: u64,
}

const TOKENS: f64 = 3000.0;

impl Servers {
    fn new(config: PoolConfig, names: &[u64]) -> Self {
        let mut pool = Pool::new(config);
        pool.set_endpoints(names, 0.0);
        Servers {
            pool,
            free_at: names.iter().map(|&name| (name, 0.0)).collect(),
            pending: Vec::new(),
            sent: BTreeMap::new(),
            waits: Vec::new(),
            now: 0.0,
            next: 0,
        }
    }

    /// Requests at a share `load` of what the servers can do, for `seconds`.
    fn run(&mut self, load: f64, seconds: f64, random: &mut Random, mut each: impl FnMut(&mut Pool, f64)) {
        let end = self.now + seconds;
        let service = PoolConfig::default().cost.prefill(TOKENS, 0.0);
        let between = service / load / self.free_at.len() as f64;
        self.sent.clear();
        self.waits.clear();
        loop {
            self.now += random.exponential(between);
            if self.now >= end {
                return;
            }
            self.settle();
            each(&mut self.pool, self.now);
            self.send(random.unit());
        }
    }

    fn send(&mut self, random: f64) {
        let request = Request {
            tokens: TOKENS,
            ..Request::default()
        };
        let pick = self.pool.pick(&request, self.now, random).unwrap();
        self.next += 1;
        self.pool.start(self.next, pick.endpoint, &request, self.now);
        let begin = self.free_at[&pick.endpoint].max(self.now);
        let end = begin + PoolConfig::default().cost.prefill(TOKENS, 0.0);
        self.free_at.insert(pick.endpoint, end);
        self.pending.push((end, self.next));
        self.waits.push(end - self.now);
        *self.sent.entry(pick.endpoint).or_default() += 1;
    }

    fn settle(&mut self) {
        self.pending.sort_by(|one, other| one.0.total_cmp(&other.0));
        let due = self.pending.iter().take_while(|one| one.0 <= self.now).count();
        for (at, id) in self.pending.drain(..due) {
            self.pool.first_token(id, at);
            self.pool.finish(id, at);
        }
    }

    fn share(&self, name: u64) -> f64 {
        let all: u32 = self.sent.values().sum();
        f64::from(self.sent.get(&name).copied().unwrap_or(0)) / f64::from(all)
    }

    fn mean_wait(&self) -> f64 {
        self.waits.iter().sum::<f64>() / self.waits.len() as f64
    }
}

fn honest(load: f64) -> f64 {
    let mut servers = Servers::new(PoolConfig::default(), &[1, 2, 3, 4]);
    servers.run(load, 200.0, &mut Random::new(5), |_, _| {});
    servers.mean_wait()
}

#[test]
fn a_liar_that_says_it_is_swamped_is_neither_starved_nor_a_catastrophe() {
    let most_waits = [(0.3, 1.3), (0.6, 1.4), (0.8, 1.6)];
    for (load, times) in most_waits {
        let mut servers = Servers::new(PoolConfig::default(), &[1, 2, 3, 4]);
        let lie = Observed {
            waiting: 1e6,
            running: 1e6,
            kv_used: 1.0,
        };
        servers.run(load, 200.0, &mut Random::new(5), |pool, _| pool.observe(1, lie, None));
        let (share, wait) = (servers.share(1), servers.mean_wait() / honest(load));
        println!("load {load}: says it is swamped: share {share:.3}, mean wait {wait:.2} times that of honest servers");
        assert!(share > 0.005, "load {load}: starved, {share}");
        assert!(wait < times, "load {load}: {wait}");
    }
}

#[test]
fn a_liar_that_says_it_is_idle_attracts_nothing() {
    for load in [0.3, 0.8] {
        let mut servers = Servers::new(PoolConfig::default(), &[1, 2, 3, 4]);
        servers.run(load, 200.0, &mut Random::new(5), |pool, _| {
            pool.observe(1, Observed::default(), None);
        });
        let wait = servers.mean_wait() / honest(load);
        println!(
            "load {load}: says it is idle: share {:.3}, wait {wait:.2}",
            servers.share(1)
        );
        assert!((wait - 1.0).abs() < 1e-9, "load {load}: {wait}");
    }
}

#[test]
fn what_was_said_once_fades() {
    let mut servers = Servers::new(PoolConfig::default(), &[1, 2, 3, 4]);
    let busy = Observed {
        waiting: 200.0,
        running: 200.0,
        kv_used: 0.9,
    };
    servers.pool.observe(1, busy, None);
    servers.run(0.6, 10.0, &mut Random::new(5), |_, _| {});
    let first = servers.share(1);
    servers.run(0.6, 100.0, &mut Random::new(6), |_, _| {});
    servers.run(0.6, 50.0, &mut Random::new(7), |_, _| {});
    println!("share while it is fresh {first:.3}, later {:.3}", servers.share(1));
    assert!(first < 0.15 && servers.share(1) > 0.15);
}

#[test]
fn a_new_endpoint_is_warmed_gently() {
    let config = PoolConfig {
        warmup: 60.0,
        ..PoolConfig::default()
    };
    let random = &mut Random::new(9);
    let mut servers = Servers::new(config, &[1, 2, 3]);
    servers.run(0.7, 100.0, random, |_, _| {});
    servers.free_at.insert(4, servers.now);
    servers.pool.set_endpoints(&[1, 2, 3, 4], servers.now);
    let mut shares = Vec::new();
    for _ in 0..4 {
        servers.run(0.7, 20.0, random, |_, _| {});
        shares.push(servers.share(4));
    }
    println!("shares of a new endpoint in periods of a third of its warm-up: {shares:.3?}");
    // A sixth, a half and five sixths of a fair share, and then all of it.
    for (share, fair) in shares.iter().zip([0.04, 0.125, 0.21, 0.25]) {
        assert!((0.6 * fair..1.5 * fair).contains(share), "{shares:?}");
    }
}

#[test]
fn a_draining_endpoint_gets_nothing_and_ends_what_it_has() {
    let random = &mut Random::new(11);
    let mut servers = Servers::new(PoolConfig::default(), &[1, 2, 3]);
    servers.run(0.8, 20.0, random, |_, _| {});
    servers.pool.set_state(2, EndpointState::Draining);
    servers.run(0.5, 20.0, random, |_, _| {});
    assert_eq!(servers.share(2), 0.0);
    assert_eq!(servers.pool.in_flight_on(2), 0);
    servers.pool.set_state(2, EndpointState::Ready);
    servers.run(0.8, 20.0, random, |_, _| {});
    assert!(servers.share(2) > 0.2);
}

#[test]
fn an_adapter_goes_where_it_is_loaded_until_that_costs_more_than_loading_it() {
    let mut pool = Pool::new(PoolConfig::default());
    pool.set_endpoints(&[1, 2], 0.0);
    let wanted = |adapter| Request {
        tokens: 500.0,
        adapter: Some(adapter),
        ..Request::default()
    };
    pool.start(1, 2, &wanted(7), 0.0);
    pool.first_token(1, 0.1);
    pool.finish(1, 0.2);
    assert_eq!(pool.pick(&wanted(7), 1.0, 0.0).unwrap().endpoint, 2);
    pool.observe_adapters(1, &[8], None);
    assert_eq!(pool.pick(&wanted(8), 1.0, 0.0).unwrap().endpoint, 1);
    for id in 2..12 {
        pool.start(
            id,
            2,
            &Request {
                tokens: 4000.0,
                ..Request::default()
            },
            1.0,
        );
    }
    assert_eq!(pool.pick(&wanted(7), 1.0, 0.0).unwrap().endpoint, 1);
    // An engine whose adapters are all in use makes others wait for an answer to end.
    let mut pool = Pool::new(PoolConfig::default());
    pool.set_endpoints(&[1, 2], 0.0);
    pool.observe_adapters(1, &[], Some(1));
    pool.start(1, 1, &wanted(5), 0.0);
    pool.first_token(1, 0.1);
    for id in 2..8 {
        pool.start(
            id,
            2,
            &Request {
                tokens: 4000.0,
                ..Request::default()
            },
            0.1,
        );
    }
    assert_eq!(pool.pick(&wanted(6), 0.1, 0.0).unwrap().endpoint, 2);
    assert_eq!(pool.pick(&wanted(5), 0.1, 0.0).unwrap().endpoint, 1);
}
