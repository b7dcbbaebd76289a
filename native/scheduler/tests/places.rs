//! How many requests engines run at once, learned from what their streams show: servers with few places, with many, and
//! with none to speak of; servers that come back with other places; requests of others; slow clients.

mod random;

use random::Random;
use scheduler::{Observed, Pool, PoolConfig, Request};
use std::collections::{BTreeMap, VecDeque};

/// A server that runs `places` requests at once, first come, first served. A prompt takes `prefill` seconds, with others
/// or alone, or they are computed one after the other (`in_turn`).
#[derive(Debug, Clone, Default)]
struct Server {
    places: usize,
    waiting: VecDeque<u64>,
    running: Vec<u64>,
    prompts_until: f64,
    in_turn: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    First,
    End,
}

struct World {
    pool: Pool,
    servers: BTreeMap<u64, Server>,
    events: Vec<(f64, u64, u64, What)>,
    sent: BTreeMap<u64, f64>,
    answers: f64,
    prefill: f64,
    hung: u64,
    /// Seconds by which the pool hears of ends late, at most.
    lag: f64,
    waits: Vec<f64>,
    now: f64,
    next: u64,
}

impl World {
    fn new(places: &[usize], answers: f64, prefill: f64) -> Self {
        let mut pool = Pool::new(PoolConfig::default());
        let names: Vec<u64> = (1..=places.len() as u64).collect();
        pool.set_endpoints(&names, 0.0);
        let server = |&places: &usize| Server {
            places,
            ..Server::default()
        };
        World {
            pool,
            servers: names.iter().copied().zip(places.iter().map(server)).collect(),
            events: Vec::new(),
            sent: BTreeMap::new(),
            answers,
            prefill,
            hung: 0,
            lag: 0.0,
            waits: Vec::new(),
            now: 0.0,
            next: 0,
        }
    }

    /// Requests at `rate` a second for `seconds`.
    fn run(&mut self, rate: f64, seconds: f64, random: &mut Random) {
        self.waits.clear();
        let until = self.now + seconds;
        let mut arrival = self.now + random.exponential(1.0 / rate);
        loop {
            self.events.sort_by(|one, other| other.0.total_cmp(&one.0));
            let event = self.events.last().map_or(f64::INFINITY, |event| event.0);
            if arrival.min(event) > until {
                self.now = until;
                return;
            }
            if arrival < event {
                self.now = arrival;
                self.arrive(random);
                arrival += random.exponential(1.0 / rate);
            } else if let Some((at, id, server, what)) = self.events.pop() {
                self.now = at;
                self.happen(id, server, what, random);
            }
        }
    }

    fn arrive(&mut self, random: &mut Random) {
        self.next += 1;
        let request = Request {
            tokens: 20.0,
            ..Request::default()
        };
        let pick = self.pool.pick(&request, self.now, random.unit()).unwrap();
        self.pool.start(self.next, pick.endpoint, &request, self.now);
        if pick.endpoint != self.hung {
            self.sent.insert(self.next, self.now);
            self.servers
                .get_mut(&pick.endpoint)
                .unwrap()
                .waiting
                .push_back(self.next);
            self.admit(pick.endpoint, random);
        }
    }

    fn admit(&mut self, name: u64, random: &mut Random) {
        let server = self.servers.get_mut(&name).unwrap();
        while server.running.len() < server.places {
            let id = match server.waiting.pop_front() {
                Some(id) => id,
                None => return,
            };
            server.running.push(id);
            let begins = if server.in_turn {
                server.prompts_until.max(self.now)
            } else {
                self.now
            };
            let first = begins + self.prefill * (0.5 + random.unit());
            server.prompts_until = first;
            self.events.push((first, id, name, What::First));
            let answer = self.answers * (0.5 + random.unit());
            self.events.push((first + answer, id, name, What::End));
        }
    }

    fn happen(&mut self, id: u64, name: u64, what: What, random: &mut Random) {
        if what == What::First {
            self.waits.push(self.now - self.sent[&id]);
            self.pool.first_token(id, self.now);
            return;
        }
        let server = self.servers.get_mut(&name).unwrap();
        if let Some(at) = server.running.iter().position(|&one| one == id) {
            let _ = server.running.remove(at);
            self.admit(name, random);
            if self.lag > 0.0 {
                let heard = self.now + self.lag * random.unit();
                self.events.push((heard, id, name, What::End));
                return;
            }
        }
        self.pool.finish(id, self.now);
    }

    fn percentile(&mut self, share: f64) -> f64 {
        self.waits.sort_by(f64::total_cmp);
        self.waits[(share * (self.waits.len() - 1) as f64) as usize]
    }

    fn places(&self) -> Vec<Option<u32>> {
        self.servers.keys().map(|&name| self.pool.places(name)).collect()
    }
}

#[test]
fn places_are_learned_to_the_request_where_requests_wait_for_them() {
    for (places, answers) in [(1, 0.3), (4, 1.0), (8, 1.0), (16, 4.0), (32, 10.0)] {
        for seed in 0..4 {
            let random = &mut Random::new(seed);
            let mut world = World::new(&[places; 4], answers, 0.01);
            let rate = 4.0 * places as f64 / answers;
            world.run(1.05 * rate, 20.0 * answers, random);
            assert_eq!(world.places(), [Some(places as u32); 4], "seed {seed}");
        }
    }
}

#[test]
fn each_server_has_its_own() {
    let random = &mut Random::new(3);
    let mut world = World::new(&[4, 12], 1.0, 0.01);
    world.run(18.0, 60.0, random);
    assert_eq!(world.places(), [Some(4), Some(12)]);
}

#[test]
fn a_server_that_is_gone_does_not_fill_the_others_beyond_their_places_while_one_has_room() {
    for seed in 0..6 {
        let random = &mut Random::new(seed);
        let mut world = World::new(&[8; 4], 1.0, 0.01);
        world.run(16.0, 10.0, random);
        world.hung = 1;
        world.run(16.0, 10.0, random);
        let first = world.percentile(0.99);
        world.run(16.0, 20.0, random);
        let later = world.percentile(0.99);
        println!("seed {seed}: p99 of first tokens {first:.3} s, once it is known {later:.3} s");
        assert!(later < 0.2, "seed {seed}: {later}");
    }
}

#[test]
fn servers_with_many_places_are_not_taken_for_servers_with_few() {
    // Busy with prompts, one after the other: requests wait a lot, but for no place.
    for load in [0.5, 0.9, 1.02] {
        for seed in 0..4 {
            let random = &mut Random::new(seed);
            let mut world = World::new(&[256; 4], 2.0, 0.05);
            world.servers.values_mut().for_each(|server| server.in_turn = true);
            world.run(load * 4.0 / 0.05, 30.0, random);
            for (name, places) in world.servers.keys().zip(world.places()) {
                let has = world.pool.in_flight_on(*name);
                assert!(
                    places.map_or(true, |places| places > 20),
                    "load {load}, seed {seed}: {places:?} with {has}"
                );
            }
        }
    }
}

#[test]
fn first_tokens_that_take_their_time_are_no_sign_of_few_places() {
    for rate in [20.0, 60.0] {
        for seed in 0..6 {
            let random = &mut Random::new(seed);
            let mut world = World::new(&[256; 4], 1.0, 0.05);
            for _ in 0..30 {
                world.run(rate, 1.0, random);
                let places = world.places();
                assert!(
                    places.iter().all(Option::is_none),
                    "rate {rate}, seed {seed}: {places:?}"
                );
            }
        }
    }
}

#[test]
fn ends_that_are_heard_of_late_change_little() {
    for seed in 0..4 {
        let random = &mut Random::new(seed);
        let mut world = World::new(&[8; 3], 1.0, 0.02);
        world.lag = 0.015;
        world.run(26.0, 40.0, random);
        for places in world.places() {
            let places = places.unwrap();
            assert!((8..=10).contains(&places), "seed {seed}: {places}");
        }
    }
}

#[test]
fn a_server_that_comes_back_with_other_places_is_known_anew() {
    for (before, after) in [(8, 3), (3, 8)] {
        let random = &mut Random::new(9);
        let mut world = World::new(&[before; 2], 1.0, 0.01);
        world.run(2.2 * before as f64, 30.0, random);
        assert_eq!(world.places(), [Some(before as u32); 2]);
        world.servers.values_mut().for_each(|server| server.places = after);
        world.run(2.2 * after as f64, 60.0, random);
        assert_eq!(world.places(), [Some(after as u32); 2]);
    }
}

#[test]
fn what_an_engine_says_of_its_places_is_enough() {
    let random = &mut Random::new(1);
    let mut world = World::new(&[8; 4], 1.0, 0.01);
    world.pool.set_places(2, Some(8));
    assert_eq!(world.places(), [Some(8); 4]); // the others are probably alike
    world.hung = 1;
    world.run(16.0, 20.0, random);
    assert!(world.percentile(0.99) < 0.2);
    world.pool.set_places(2, None);
    assert_eq!(world.places()[1], world.places()[2]);
}

#[test]
fn places_that_requests_of_others_take_are_not_ours_to_learn() {
    let random = &mut Random::new(4);
    let mut world = World::new(&[8; 2], 1.0, 0.01);
    let others = Observed {
        running: 30.0,
        ..Observed::default()
    };
    for _ in 0..300 {
        for name in [1, 2] {
            world.pool.observe(name, others, None);
        }
        world.run(17.0, 0.1, random);
    }
    assert_eq!(world.places(), [None, None]);
}
