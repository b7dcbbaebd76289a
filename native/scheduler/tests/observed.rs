//! What engines say of themselves corrects a pool's own books, and never counts its own requests twice.

use scheduler::{Observed, OwnLoad, Policy, Pool, PoolConfig, Request};

const PROMPT: Request<'static> = Request {
    tokens: 500.0,
    blocks: &[],
    excluded: &[],
    session: None,
    adapter: None,
};

fn pool(policy: Policy) -> Pool {
    let mut pool = Pool::new(PoolConfig {
        policy,
        ..PoolConfig::default()
    });
    pool.set_endpoints(&[1, 2], 0.0);
    pool
}

fn busy(waiting: f64, running: f64) -> Observed {
    Observed {
        waiting,
        running,
        kv_used: 0.0,
    }
}

#[test]
fn requests_of_others_keep_ours_away_until_they_are_gone() {
    for policy in [Policy::PredictedDrain, Policy::LeastRequest] {
        let mut pool = pool(policy);
        pool.observe(1, busy(40.0, 8.0), None);
        for id in 0..5 {
            assert_eq!(pool.pick(&PROMPT, 0.0, 0.0).unwrap().endpoint, 2);
            pool.start(id, 2, &PROMPT, 0.0);
        }
        pool.observe(1, busy(0.0, 0.0), None);
        assert_eq!(pool.pick(&PROMPT, 0.0, 0.0).unwrap().endpoint, 1);
    }
}

#[test]
fn our_own_requests_are_not_counted_twice() {
    let mut pool = pool(Policy::LeastRequest);
    for id in 0..4 {
        pool.start(id, 1, &PROMPT, 0.0);
    }
    let then = pool.own_load(1).unwrap();
    assert_eq!(
        then,
        OwnLoad {
            in_flight: 4,
            prefilling: 4
        }
    );
    for id in 0..4 {
        pool.first_token(id, 1.0);
        pool.finish(id, 1.0);
    }
    pool.start(9, 2, &PROMPT, 1.0);
    pool.observe_then(1, busy(0.0, 4.0), then, None);
    assert_eq!(pool.pick(&PROMPT, 1.0, 0.0).unwrap().endpoint, 1);
    pool.observe(1, busy(0.0, 4.0), None);
    assert_eq!(pool.pick(&PROMPT, 1.0, 0.0).unwrap().endpoint, 2);
}

#[test]
fn what_is_no_number_counts_as_nothing_and_who_is_not_known_is_passed_over() {
    let mut pool = pool(Policy::LeastRequest);
    pool.observe(1, busy(f64::NAN, f64::INFINITY), Some(-1.0));
    pool.observe(1, busy(-5.0, -7.0), None);
    pool.observe_then(7, busy(5.0, 7.0), OwnLoad::default(), None);
    pool.start(0, 2, &PROMPT, 0.0);
    assert_eq!(pool.pick(&PROMPT, 0.0, 0.0).unwrap().endpoint, 1);
    let peaks =
        |pool: &mut Pool| -> Vec<(u64, u32)> { pool.take_peaks().map(|(name, own)| (name, own.in_flight)).collect() };
    pool.start(1, 1, &PROMPT, 0.0);
    pool.finish(1, 0.1);
    assert_eq!(peaks(&mut pool), [(1, 1), (2, 1)]);
    assert_eq!(peaks(&mut pool), [(1, 0), (2, 1)]);
}

#[test]
fn what_others_hold_in_a_cache_leaves_less_room() {
    let mut pool = pool(Policy::PredictedDrain);
    pool.set_kv_tokens(1, 10_000.0);
    pool.set_kv_tokens(2, 10_000.0);
    pool.start(0, 2, &PROMPT, 0.0);
    pool.first_token(0, 0.1);
    let full = Observed {
        kv_used: 1.0,
        ..busy(0.0, 1.0)
    };
    pool.observe(1, full, None);
    let heavy = Request {
        tokens: 4000.0,
        ..PROMPT
    };
    assert_eq!(pool.pick(&heavy, 0.1, 0.0).unwrap().endpoint, 2);
    pool.observe(1, Observed { kv_used: 0.01, ..full }, None);
    pool.observe_waiting(2, 9.0, pool.own_load(2).unwrap());
    assert_eq!(pool.pick(&heavy, 0.1, 0.0).unwrap().endpoint, 1);
}

#[test]
fn requests_beyond_the_books_count_until_they_are_gone() {
    let mut pool = Pool::new(PoolConfig {
        policy: Policy::LeastRequest,
        ..PoolConfig::default()
    });
    pool.set_endpoints(&[1, 2], 0.0);
    let request = Request {
        tokens: 10.0,
        blocks: &[],
        excluded: &[],
        session: None,
        ..Request::default()
    };
    pool.start(7, 1, &request, 0.0);
    pool.set_active(1, 1);
    pool.set_active(2, 2); // both of them copies
    for random in [0.1, 0.9] {
        assert_eq!(pool.pick(&request, 0.0, random).unwrap().endpoint, 1);
    }
    pool.set_active(2, 0);
    assert_eq!(pool.pick(&request, 0.0, 0.5).unwrap().endpoint, 2);
}
