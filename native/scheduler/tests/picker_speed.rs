//! What a pick costs, printed (`cargo test --release --test picker_speed -- --nocapture`). It is made under a lock that
//! all workers of a proxy share, so it must stay far below the time between two requests.

mod random;

use random::Random;
use scheduler::{Pool, PoolConfig, Request};
use std::time::Instant;

const ENDPOINTS: u64 = 32;
const BLOCKS: u64 = 200;
const PICKS: u64 = 3000;

/// Mean microseconds of a pick, and of all else that a request brings, with sessions of 200 blocks on 32 endpoints whose
/// caches are full; `held`: requests in flight.
fn costs(held: u64) -> (f64, f64) {
    let random = &mut Random::new(3);
    let mut pool = Pool::new(PoolConfig::default());
    pool.set_endpoints(&(0..ENDPOINTS).collect::<Vec<u64>>(), 0.0);
    let blocks = |session: u64| -> Vec<u64> {
        (0..BLOCKS)
            .map(|at| if at < 8 { at } else { session << 20 | at })
            .collect()
    };
    let (mut picking, mut rest, mut now) = (0.0, 0.0, 0.0);
    for id in 0..held + PICKS {
        now += 0.01;
        let blocks = blocks(random.below(500));
        let request = Request {
            tokens: BLOCKS as f64 * 512.0 + 100.0,
            blocks: &blocks,
            ..Request::default()
        };
        let began = Instant::now();
        let pick = pool.pick(&request, now, 0.5).unwrap();
        let picked = began.elapsed().as_secs_f64();
        let began = Instant::now();
        pool.start(id, pick.endpoint, &request, now);
        if id >= held {
            pool.first_token(id - held, now);
            pool.finish(id - held, now);
            picking += picked;
            rest += began.elapsed().as_secs_f64();
        }
    }
    assert_eq!(pool.in_flight(), held as usize);
    (picking / PICKS as f64 * 1e6, rest / PICKS as f64 * 1e6)
}

#[test]
fn a_pick_takes_microseconds() {
    for held in [10, 200] {
        let (pick, rest) = costs(held);
        println!("{ENDPOINTS} endpoints, {BLOCKS} blocks, {held} in flight: pick {pick:.1} us, books {rest:.1} us");
        let most = if cfg!(debug_assertions) { 20_000.0 } else { 2_000.0 };
        assert!(pick < most && rest < most);
    }
}
