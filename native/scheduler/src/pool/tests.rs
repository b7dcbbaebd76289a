//! The pool's behaviour, choice by choice.

use super::*;

fn pool(policy: Policy, endpoints: &[u64]) -> Pool {
    let mut pool = Pool::new(PoolConfig {
        policy,
        ..PoolConfig::default()
    });
    pool.set_endpoints(endpoints, 0.0);
    pool
}

fn request(tokens: f64, blocks: &[u64]) -> Request<'_> {
    Request {
        tokens,
        blocks,
        ..Request::default()
    }
}

#[test]
fn a_heavy_prompt_keeps_others_away_until_its_first_token() {
    let mut pool = pool(Policy::PredictedDrain, &[1, 2]);
    pool.start(1, 1, &request(50_000.0, &[]), 0.0);
    for id in 2..6 {
        let pick = pool.pick(&request(500.0, &[]), 0.0, 0.5).unwrap();
        assert_eq!(pick.endpoint, 2);
        pool.start(id, pick.endpoint, &request(500.0, &[]), 0.0);
    }
    pool.first_token(1, 2.5);
    assert_eq!(pool.pick(&request(500.0, &[]), 2.5, 0.5).unwrap().endpoint, 1);
}

#[test]
fn a_long_cached_prefix_is_worth_a_short_queue_but_not_a_long_one() {
    let mut pool = pool(Policy::PredictedDrain, &[1, 2]);
    let blocks: Vec<u64> = (0..20).collect();
    let prompt = request(20.0 * 512.0, &blocks);
    pool.start(1, 1, &prompt, 0.0);
    pool.first_token(1, 0.4);
    pool.finish(1, 1.0);
    let pick = pool.pick(&prompt, 1.0, 0.5).unwrap();
    assert_eq!((pick.endpoint, pick.reason), (1, Reason::Prefix));
    for id in 2..10 {
        pool.start(id, 1, &request(40_000.0, &[]), 1.0);
    }
    let pick = pool.pick(&prompt, 1.0, 0.5).unwrap();
    assert_eq!((pick.endpoint, pick.reason), (2, Reason::Load));
}

#[test]
fn draining_and_excluded_endpoints_are_never_picked() {
    for policy in [
        Policy::PredictedDrain,
        Policy::LeastRequest,
        Policy::RoundRobin,
        Policy::Prefix,
        Policy::RandomTwo,
    ] {
        let mut pool = pool(policy, &[1, 2, 3]);
        pool.set_state(1, EndpointState::Draining);
        for step in 0..20 {
            let request = Request {
                excluded: &[2],
                ..request(10.0, &[5])
            };
            let pick = pool.pick(&request, 0.0, f64::from(step) / 20.0).unwrap();
            assert_eq!(pick.endpoint, 3);
        }
        let none = Request {
            excluded: &[2, 3],
            ..request(10.0, &[])
        };
        assert_eq!(pool.pick(&none, 0.0, 0.0), None);
    }
}

#[test]
fn round_robin_visits_everybody() {
    let mut pool = pool(Policy::RoundRobin, &[1, 2, 3]);
    let mut seen: Vec<u64> = (0..6)
        .map(|_| pool.pick(&request(1.0, &[]), 0.0, 0.0).unwrap().endpoint)
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [1, 1, 2, 2, 3, 3]);
}

#[test]
fn random_two_never_compares_an_endpoint_with_itself() {
    let mut pool = pool(Policy::RandomTwo, &[1, 2]);
    pool.start(1, 1, &request(1.0, &[]), 0.0);
    for step in 0..100 {
        assert_eq!(
            pool.pick(&request(1.0, &[]), 0.0, f64::from(step) / 100.0)
                .unwrap()
                .endpoint,
            2
        );
    }
}

#[test]
fn books_balance_whatever_order_events_come_in() {
    let mut pool = pool(Policy::PredictedDrain, &[1, 2]);
    for id in 0..100 {
        pool.start(id, 1 + id % 2, &request(100.0, &[id]), id as f64);
    }
    for id in (0..100).rev() {
        pool.finish(id, 200.0);
        pool.finish(id, 200.0);
        pool.first_token(id, 200.0);
    }
    assert_eq!(pool.in_flight(), 0);
    for endpoint in &pool.endpoints {
        assert_eq!(endpoint.in_flight, 0);
        assert_eq!(endpoint.left(200.0), Work::default());
        assert_eq!(endpoint.residency.claimed_tokens(512.0), 0.0);
    }
}

#[test]
fn a_retry_moves_a_request_in_the_books() {
    let mut pool = pool(Policy::LeastRequest, &[1, 2]);
    pool.start(7, 1, &request(100.0, &[]), 0.0);
    pool.start(7, 2, &request(100.0, &[]), 1.0);
    assert_eq!((pool.in_flight_on(1), pool.in_flight_on(2)), (0, 1));
}

#[test]
fn an_endpoint_that_goes_takes_its_requests_out_of_the_books() {
    let mut pool = pool(Policy::LeastRequest, &[1, 2]);
    pool.start(7, 1, &request(100.0, &[]), 0.0);
    pool.set_endpoints(&[2, 3], 1.0);
    assert_eq!(pool.in_flight(), 0);
    pool.finish(7, 2.0);
    assert_eq!(pool.pick(&request(1.0, &[]), 2.0, 0.0).unwrap().endpoint, 2);
}

#[test]
fn a_slow_endpoint_is_learned_and_gets_less() {
    let mut pool = pool(Policy::PredictedDrain, &[1, 2]);
    let mut now = 0.0;
    for id in 0..400u64 {
        let name = 1 + id % 2;
        let prompt = request(10_000.0, &[]);
        pool.start(id, name, &prompt, now);
        let takes = CostModel::default().prefill(10_000.0, 0.0) * if name == 1 { 5.0 } else { 1.0 };
        now += takes;
        pool.first_token(id, now);
        pool.finish(id, now);
    }
    assert_eq!(pool.pick(&request(10_000.0, &[]), now, 0.5).unwrap().endpoint, 2);
}

#[test]
fn what_failed_before_its_first_token_is_in_no_cache() {
    let mut pool = pool(Policy::PredictedDrain, &[1, 2]);
    let blocks: Vec<u64> = (0..20).collect();
    let prompt = request(20.0 * 512.0, &blocks);
    pool.start(1, 1, &prompt, 0.0);
    pool.finish(1, 1.0);
    assert_eq!(pool.pick(&prompt, 1.0, 0.5).unwrap().cached_tokens, 0.0);
}

#[test]
fn what_no_longer_fits_into_the_cache_is_not_believed_to_be_there() {
    let mut pool = Pool::new(PoolConfig {
        kv_tokens: 30.0 * 512.0,
        ..PoolConfig::default()
    });
    pool.set_endpoints(&[1], 0.0);
    for round in 0..3u64 {
        let blocks: Vec<u64> = (0..20).map(|at| round * 100 + at).collect();
        let prompt = request(20.0 * 512.0, &blocks);
        pool.start(round, 1, &prompt, 0.0);
        pool.first_token(round, 1.0);
        pool.finish(round, 2.0);
        assert_eq!(pool.pick(&prompt, 2.0, 0.5).unwrap().cached_tokens, 20.0 * 512.0);
    }
    let first: Vec<u64> = (0..20).collect();
    assert_eq!(
        pool.pick(&request(20.0 * 512.0, &first), 2.0, 0.5)
            .unwrap()
            .cached_tokens,
        0.0
    );
}

#[test]
fn a_full_cache_is_a_wait() {
    let mut pool = pool(Policy::PredictedDrain, &[1, 2]);
    for id in 0..7 {
        pool.start(id, 1, &request(60_000.0, &[]), 0.0);
        pool.first_token(id, 1.0);
    }
    pool.start(10, 2, &request(5_000.0, &[]), 1.0);
    assert_eq!(pool.pick(&request(1000.0, &[]), 1.0, 0.5).unwrap().endpoint, 2);
}

#[test]
fn prompts_whose_first_token_nobody_sees_are_done_when_they_should_be() {
    let mut pool = pool(Policy::PredictedDrain, &[1, 2]);
    let one = CostModel::default().prefill(20_000.0, 0.0);
    let all_start = |pool: &mut Pool, now| {
        for id in 0..4 {
            pool.start(id, 1, &request(20_000.0, &[]), now);
            pool.expect_no_first_token(id);
        }
    };
    all_start(&mut pool, -10.0 * one);
    let _ = pool.pick(&request(20_000.0, &[]), 0.0, 0.5);
    assert_eq!(pool.own_load(1).unwrap().prefilling, 4); // nothing is known of the engine's speed
    (0..4).for_each(|id| pool.finish(id, -one));
    pool.start(9, 1, &request(20_000.0, &[]), -one);
    pool.first_token(9, 0.0);
    pool.finish(9, 0.0);
    all_start(&mut pool, 0.0);
    let wait = |pool: &mut Pool, now| {
        let pick = pool.pick(
            &Request {
                excluded: &[2],
                ..request(20_000.0, &[])
            },
            now,
            0.5,
        );
        pick.unwrap().predicted / one - 1.0
    };
    assert!((wait(&mut pool, 0.0) - 4.0).abs() < 0.1);
    assert!((wait(&mut pool, 2.5 * one) - 1.5).abs() < 0.3);
    assert!(wait(&mut pool, 6.0 * one) < 0.3); // others decode meanwhile, which costs a little
    assert_eq!(pool.in_flight_on(1), 4);
    for id in 0..4 {
        pool.answered(id, 10.0 * one);
        pool.finish(id, 10.0 * one);
    }
    assert_eq!(pool.in_flight(), 0);
}

#[test]
fn a_first_token_says_that_the_silent_prompts_before_it_are_done() {
    let mut pool = pool(Policy::PredictedDrain, &[1, 2]);
    for id in 0..3 {
        pool.start(id, 1, &request(50_000.0, &[]), 0.0);
    }
    pool.expect_no_first_token(0);
    pool.first_token(1, 0.01);
    assert_eq!(pool.own_load(1).unwrap().prefilling, 1);
    pool.first_token(2, 0.02);
    assert_eq!(pool.own_load(1).unwrap().prefilling, 0);
}

#[test]
fn a_forged_length_leaves_nothing_in_the_books() {
    let mut pool = pool(Policy::PredictedDrain, &[1, 2]);
    pool.start(1, 1, &request(1e19, &[]), 0.0); // content-length: 2^64 - 1, of a body that nobody reads
    pool.start(2, 1, &request(20_000.0, &[]), 0.0);
    pool.start(3, 2, &request(10_000.0, &[]), 0.0);
    pool.finish(1, 0.0);
    assert_eq!(pool.pick(&request(500.0, &[]), 0.0, 0.5).unwrap().endpoint, 2);
    assert!(pool.usual.seconds < 1.0, "{}", pool.usual.seconds);
}
