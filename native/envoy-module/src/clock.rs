//! Time and chance for the scheduler, which has neither: seconds since the module was first asked, and numbers in 0..1.

use crate::pools::locked;
use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Mutex;
use std::time::Instant;

static ORIGIN: Mutex<Option<Instant>> = Mutex::new(None);

thread_local! {
    static OWN_ORIGIN: Instant = *locked(&ORIGIN).get_or_insert_with(Instant::now);
    static STATE: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish() | 1);
}

static SECRET: Mutex<Option<u64>> = Mutex::new(None);

thread_local! {
    static OWN_SECRET: u64 = *locked(&SECRET).get_or_insert_with(|| RandomState::new().build_hasher().finish());
}

/// A number of this process that no client knows.
pub fn secret() -> u64 {
    OWN_SECRET.with(|secret| *secret)
}

/// Seconds since the module was first asked, the same in all threads.
pub fn now() -> f64 {
    OWN_ORIGIN.with(Instant::elapsed).as_secs_f64()
}

/// A uniform number in 0..1 (xorshift: nobody's secrets depend on it).
pub fn random() -> f64 {
    STATE.with(|state| {
        let mut value = state.get();
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
        state.set(value);
        (value >> 11) as f64 / (1u64 << 53) as f64
    })
}
