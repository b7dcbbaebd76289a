//! One thread that wakes pools and streams when their time has come: Envoy offers modules no timers of their own.
//!
//! The thread begins with the first alarm and holds nothing alive: an alarm for what is gone does nothing.

use crate::abi::guarded;
use crate::clock;
use crate::pools::locked;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What is done when the time has come; gets the time.
pub type Action = Box<dyn FnOnce(f64) + Send>;

struct Alarm {
    at: f64,
    action: Action,
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at) // the earliest is the greatest
    }
}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Alarm {}

struct Alarms {
    waiting: Option<BinaryHeap<Alarm>>,
    running: bool,
}

static ALARMS: Mutex<Alarms> = Mutex::new(Alarms {
    waiting: None,
    running: false,
});
static CHANGED: Condvar = Condvar::new();

/// Alarms are set no further ahead than this: what ends before its alarm rings would stay in memory until then, and
/// clients choose how many requests end.
const REACH: f64 = 5.0;

/// This time, or the latest for which an alarm may be set now; who is woken too early looks at the clock and sets another.
pub fn within_reach(at: f64, now: f64) -> f64 {
    at.min(now + REACH)
}

/// Does `action` at the time `at` ([`clock::now`]), on the timer's thread.
pub fn set(at: f64, action: Action) {
    let mut alarms = locked(&ALARMS);
    alarms
        .waiting
        .get_or_insert_with(BinaryHeap::new)
        .push(Alarm { at, action });
    if !alarms.running {
        alarms.running = thread::Builder::new()
            .name("headrace-timers".to_string())
            .spawn(run)
            .is_ok();
    }
    drop(alarms);
    CHANGED.notify_one();
}

/// Alarms that have not rung.
#[cfg(test)]
pub fn waiting() -> usize {
    locked(&ALARMS).waiting.as_ref().map_or(0, BinaryHeap::len)
}

fn run() {
    loop {
        let alarm = next();
        guarded((), || (alarm.action)(clock::now()));
    }
}

fn next() -> Alarm {
    let mut alarms = locked(&ALARMS);
    loop {
        let wait = match alarms.waiting.as_ref().and_then(BinaryHeap::peek) {
            None => 3600.0,
            Some(alarm) => alarm.at - clock::now(),
        };
        if wait <= 0.0 {
            if let Some(alarm) = alarms.waiting.as_mut().and_then(BinaryHeap::pop) {
                return alarm;
            }
        }
        let wait = Duration::from_secs_f64(wait.clamp(0.0, 3600.0));
        alarms = CHANGED
            .wait_timeout(alarms, wait)
            .map_or_else(|poisoned| PoisonError::into_inner(poisoned).0, |(alarms, _)| alarms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn alarms_ring_in_the_order_of_their_times() {
        let (send, receive) = channel();
        let start = clock::now();
        for (delay, name) in [(0.06, "last"), (0.02, "first"), (0.04, "second")] {
            let send = send.clone();
            set(
                start + delay,
                Box::new(move |now| {
                    assert!(now >= start + delay);
                    send.send(name).unwrap();
                }),
            );
        }
        set(start, Box::new(|_| panic!("on purpose")));
        let heard: Vec<&str> = (0..3)
            .map(|_| receive.recv_timeout(Duration::from_secs(10)).unwrap())
            .collect();
        assert_eq!(heard, ["first", "second", "last"]);
    }
}
