//! Limits of the time that an answer takes: until its first token, between two, and in all; and of the time that the rest
//! of a request takes to come, once it has a place.
//!
//! A stream has one deadline, moved on by whatever comes; one alarm follows it, however many tokens there are.

use crate::clock;
use crate::requests::Facts;
use crate::settings::Timeouts;
use crate::timers;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// The event by which a stream learns that its time is over.
pub const TIME_IS_OVER: u64 = 2;

/// The deadline of a stream.
#[derive(Debug)]
pub struct Deadline {
    limits: Timeouts,
    sent: AtomicU64,
    at: AtomicU64,
    /// Seconds for the rest of the request's body; 0 for no limit.
    upload: f64,
    upload_until: AtomicU64,
    uploaded: AtomicBool,
    watched: AtomicBool,
}

fn or_never(seconds: f64) -> f64 {
    if seconds > 0.0 {
        seconds
    } else {
        f64::INFINITY
    }
}

impl Deadline {
    /// No deadline before the request is sent.
    pub fn new(limits: Timeouts, upload: f64) -> Self {
        Deadline {
            limits,
            sent: AtomicU64::new(0),
            at: AtomicU64::new(f64::INFINITY.to_bits()),
            upload,
            upload_until: AtomicU64::new(f64::INFINITY.to_bits()),
            uploaded: AtomicBool::new(upload <= 0.0),
            watched: AtomicBool::new(false),
        }
    }

    fn any(&self) -> bool {
        self.limits != Timeouts::default() || !self.uploaded.load(Ordering::Acquire)
    }

    /// When the time is over.
    pub fn at(&self) -> f64 {
        f64::from_bits(self.at.load(Ordering::Acquire)).min(self.upload_end())
    }

    fn upload_end(&self) -> f64 {
        if self.uploaded.load(Ordering::Acquire) {
            f64::INFINITY
        } else {
            f64::from_bits(self.upload_until.load(Ordering::Acquire))
        }
    }

    /// The request is whole, or nobody waits for the rest of it.
    pub fn uploaded(&self) {
        self.uploaded.store(true, Ordering::Release);
    }

    /// Whether the rest of the request did not come in time.
    pub fn upload_is_over(&self, now: f64) -> bool {
        self.upload_end() <= now
    }

    /// The request was sent (again): its first token is due. The total counts from the first time.
    fn sent(&self, now: f64) {
        let again = self.at.load(Ordering::Acquire) != f64::INFINITY.to_bits();
        if !again {
            self.sent.store(now.to_bits(), Ordering::Release);
        }
        let until = f64::from_bits(self.upload_until.load(Ordering::Acquire)).min(now + or_never(self.upload));
        self.upload_until.store(until.to_bits(), Ordering::Release);
        let total = f64::from_bits(self.sent.load(Ordering::Acquire)) + or_never(self.limits.total);
        let at = (now + or_never(self.limits.first_token)).min(total);
        self.at.store(at.to_bits(), Ordering::Release);
    }

    /// A token came: the next is due.
    fn token(&self, now: f64) {
        if self.any() {
            let sent = f64::from_bits(self.sent.load(Ordering::Acquire));
            let next = (now + or_never(self.limits.between_tokens)).min(sent + or_never(self.limits.total));
            self.at.store(next.to_bits(), Ordering::Release);
        }
    }

    /// The answer has begun, and is no stream of tokens: only the whole is limited.
    pub fn whole_answer(&self) {
        if self.any() {
            let sent = f64::from_bits(self.sent.load(Ordering::Acquire));
            self.at
                .store((sent + or_never(self.limits.total)).to_bits(), Ordering::Release);
        }
    }
}

/// The request was sent to an endpoint: watch its deadline.
pub fn sent(facts: &Arc<Facts>, now: f64) {
    let deadline = &facts.deadline;
    if !deadline.any() {
        return;
    }
    deadline.sent(now);
    if !deadline.watched.swap(true, Ordering::AcqRel) {
        watch(Arc::downgrade(facts), deadline.at());
    }
}

/// A token of an answer came: watch until the next is due, also where nothing was due before.
pub fn token(facts: &Arc<Facts>, now: f64) {
    let deadline = &facts.deadline;
    if !deadline.any() {
        return;
    }
    deadline.token(now);
    if deadline.at().is_finite() && !deadline.watched.swap(true, Ordering::AcqRel) {
        watch(Arc::downgrade(facts), deadline.at());
    }
}

fn watch(facts: Weak<Facts>, at: f64) {
    if at.is_finite() {
        let at = timers::within_reach(at, clock::now());
        timers::set(at, Box::new(move |now| look(&facts, now)));
    } else if let Some(facts) = facts.upgrade() {
        facts.deadline.watched.store(false, Ordering::Release);
    }
}

fn look(facts: &Weak<Facts>, now: f64) {
    if let Some(there) = facts.upgrade() {
        let at = there.deadline.at();
        if at > now {
            watch(facts.clone(), at);
        } else {
            there.wake(TIME_IS_OVER);
        }
    }
}

/// The stream was woken: whether its time is really over. If not, it is watched on.
pub fn is_over(facts: &Arc<Facts>) -> bool {
    let at = facts.deadline.at();
    if at > clock::now() {
        watch(Arc::downgrade(facts), at);
        return false;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_moves_with_the_tokens_up_to_the_total() {
        let deadline = Deadline::new(
            Timeouts {
                first_token: 1.0,
                between_tokens: 2.0,
                total: 5.0,
            },
            0.0,
        );
        assert_eq!(deadline.at(), f64::INFINITY);
        deadline.sent(10.0);
        assert_eq!(deadline.at(), 11.0);
        deadline.token(10.5);
        assert_eq!(deadline.at(), 12.5);
        deadline.token(14.0);
        assert_eq!(deadline.at(), 15.0);
        deadline.sent(11.0); // again: the total goes on
        assert_eq!(deadline.at(), 12.0);
        deadline.whole_answer();
        assert_eq!(deadline.at(), 15.0);
    }

    #[test]
    fn an_upload_is_limited_from_the_first_attempt_until_it_is_whole() {
        let limits = Timeouts {
            total: 100.0,
            ..Timeouts::default()
        };
        let deadline = Deadline::new(limits, 3.0);
        assert_eq!(deadline.at(), f64::INFINITY);
        deadline.sent(10.0);
        deadline.sent(11.0);
        assert_eq!(deadline.at(), 13.0);
        assert!(!deadline.upload_is_over(12.9) && deadline.upload_is_over(13.0));
        deadline.uploaded();
        assert_eq!(deadline.at(), 110.0);
        assert!(!deadline.upload_is_over(1e9));
        let whole = Deadline::new(Timeouts::default(), 3.0);
        whole.uploaded();
        whole.sent(1.0);
        assert_eq!(whole.at(), f64::INFINITY);
    }

    #[test]
    fn without_limits_there_is_none() {
        let deadline = Deadline::new(Timeouts::default(), 0.0);
        deadline.token(1.0);
        deadline.whole_answer();
        assert_eq!(deadline.at(), f64::INFINITY);
        let only_first = Deadline::new(
            Timeouts {
                first_token: 1.0,
                ..Timeouts::default()
            },
            0.0,
        );
        only_first.sent(1.0);
        only_first.token(1.5);
        assert_eq!(only_first.at(), f64::INFINITY);
    }
}
