//! An exact token bucket: whole numbers only, so that 20 requests a second are 20, not 19 or 21.

use super::moment::Moment;

/// A request rate. In any stretch of W seconds at most `per_second` × W + `burst` requests pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Requests a second (counted in millionths of a request; 0, negative or no number: none ever passes once the
    /// burst is spent).
    pub per_second: f64,
    /// Requests that may pass at once after a quiet time; at least 1 (which means evenly paced).
    pub burst: u32,
}

/// Level units: one request is a million times a thousand million, so that a millionth of a request a second is one
/// unit a nanosecond.
const REQUEST: u128 = 1_000_000_000_000_000;
const PER_SECOND: f64 = 1e6;

#[derive(Debug, Clone)]
pub(super) struct Bucket {
    speed: u128,
    full: u128,
    level: u128,
    at: Moment,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(rate: Rate, now: Moment) -> Self {
        let full = u128::from(rate.burst.max(1)) * REQUEST;
        Bucket {
            speed: speed(rate),
            full,
            level: full,
            at: now,
        }
    }

    /// Another rate from now on; what is in the bucket stays there as far as it fits.
    pub(super) fn change(&mut self, rate: Rate, now: Moment) {
        self.fill(now);
        self.speed = speed(rate);
        self.full = u128::from(rate.burst.max(1)) * REQUEST;
        self.level = self.level.min(self.full);
    }

    /// Take one request out, if there is one.
    pub(super) fn take(&mut self, now: Moment) -> bool {
        self.fill(now);
        let enough = self.level >= REQUEST;
        if enough {
            self.level -= REQUEST;
        }
        enough
    }

    /// When the `count`th request from now on can pass, if each passes as soon as it can.
    pub(super) fn ready(&self, count: u64) -> Moment {
        let missing = (u128::from(count) * REQUEST).saturating_sub(self.level);
        match (missing, self.speed) {
            (0, _) => self.at,
            (_, 0) => Moment::NEVER,
            (missing, speed) => {
                let wait = (missing + speed - 1) / speed;
                Moment::from_nanoseconds(u128::from(self.at.nanoseconds()) + wait)
            }
        }
    }

    /// What has come in until now.
    pub(super) fn fill(&mut self, now: Moment) {
        let passed = now.nanoseconds().saturating_sub(self.at.nanoseconds());
        self.level = (self.level + u128::from(passed) * self.speed).min(self.full);
        self.at = self.at.max(now);
    }
}

fn speed(rate: Rate) -> u128 {
    u128::from((rate.per_second * PER_SECOND).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(per_second: f64, burst: u32) -> Bucket {
        Bucket::new(Rate { per_second, burst }, Moment::at(0.0))
    }

    /// Requests that pass in `seconds` when each is taken as soon as it is ready.
    fn passed(bucket: &mut Bucket, seconds: f64) -> usize {
        let mut count = 0;
        loop {
            let ready = bucket.ready(1);
            if ready > Moment::at(seconds) {
                return count;
            }
            assert!(bucket.take(ready));
            count += 1;
        }
    }

    #[test]
    fn exactly_the_rate_and_the_burst_pass() {
        assert_eq!(passed(&mut bucket(20.0, 1), 1.0), 21);
        assert_eq!(passed(&mut bucket(20.0, 1), 0.999_999_999), 20);
        assert_eq!(passed(&mut bucket(20.0, 20), 1.0), 40);
        assert_eq!(passed(&mut bucket(0.1, 1), 100.0), 11);
        assert_eq!(passed(&mut bucket(20.0, 1), 3600.0), 72_001);
    }

    #[test]
    fn nothing_is_ready_before_it_is() {
        let mut bucket = bucket(20.0, 1);
        assert!(bucket.take(Moment::at(0.0)));
        assert!(!bucket.take(Moment::at(0.049_999_999)));
        assert!(bucket.take(Moment::at(0.05)));
    }

    #[test]
    fn a_rate_of_nothing_lets_only_the_burst_pass() {
        for nothing in [0.0, -1.0, f64::NAN] {
            let mut bucket = bucket(nothing, 3);
            assert_eq!(passed(&mut bucket, 1e6), 3);
            assert_eq!(bucket.ready(1), Moment::NEVER);
        }
    }

    #[test]
    fn a_quiet_time_fills_no_more_than_the_burst() {
        let mut bucket = bucket(1000.0, 5);
        let mut count = 0;
        while bucket.take(Moment::at(3600.0)) {
            count += 1;
        }
        assert_eq!(count, 5);
    }

    #[test]
    fn ready_foretells_the_times_at_which_requests_pass() {
        let mut bucket = bucket(7.0, 2);
        let foretold: Vec<Moment> = (1..=50).map(|count| bucket.ready(count)).collect();
        for moment in foretold {
            assert!(bucket.take(moment.max(bucket.at)));
        }
    }
}
