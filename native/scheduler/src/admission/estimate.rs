//! How long waiting takes: from the rate, the places and how long requests have been running.

use super::moment::Moment;
use super::rate::Bucket;

/// Seconds for which requests hold their place: an average in which the last twenty or so count.
#[derive(Debug, Clone)]
pub(super) struct RunTime {
    mean: f64,
    seen: u32,
}

const WEIGHT: f64 = 0.05;

impl RunTime {
    pub(super) fn new(expected: f64) -> Self {
        let mean = if expected.is_finite() { expected.max(0.0) } else { 0.0 };
        RunTime { mean, seen: 0 }
    }

    /// A request has run for `seconds` (a length of time, so never negative or infinite).
    pub(super) fn observe(&mut self, seconds: f64) {
        self.seen = self.seen.saturating_add(1);
        let weight = WEIGHT.max(1.0 / f64::from(self.seen));
        self.mean += weight * (seconds - self.mean);
    }

    pub(super) fn mean(&self) -> f64 {
        self.mean
    }
}

/// What the waiting time depends on, at one moment.
pub(super) struct Outlook<'a> {
    pub(super) now: Moment,
    pub(super) bucket: Option<&'a Bucket>,
    /// Requests that may run at once (None: any number) and those that do.
    pub(super) slots: Option<u64>,
    pub(super) running: u64,
    pub(super) run_time: f64,
}

impl Outlook<'_> {
    /// Seconds until a request goes that has `ahead` others before it; infinite where none goes.
    pub(super) fn wait(&self, ahead: usize) -> f64 {
        let ahead = ahead as u64;
        let paced = match self.bucket.map(|bucket| bucket.ready(ahead + 1)) {
            None => 0.0,
            Some(Moment::NEVER) => f64::INFINITY,
            Some(moment) => moment.since(self.now),
        };
        let placed = match self.slots {
            None => 0.0,
            Some(0) => f64::INFINITY,
            Some(slots) => {
                let ends = (self.running + ahead + 1).saturating_sub(slots);
                ends as f64 * self.run_time / slots as f64
            }
        };
        paced.max(placed)
    }

    /// Seconds between two that go, while many wait.
    pub(super) fn interval(&self) -> f64 {
        const MANY: usize = 1000;
        let many = MANY + usize::try_from(self.slots.unwrap_or(0)).unwrap_or(0);
        (self.wait(2 * many) - self.wait(many)) / many as f64
    }
}

/// A time promised to one more refused request: no earlier than `base` seconds from now, and `interval` after the one
/// promised before. Answers seconds from now, at most `longest`.
pub(super) fn promise(promised: &mut Moment, now: Moment, base: f64, interval: f64, longest: f64) -> f64 {
    let latest = now.after(longest);
    let next = (*promised).max(now.after(base)).after(interval).min(latest);
    *promised = next;
    next.since(now)
}

#[cfg(test)]
mod tests {
    use super::super::rate::Rate;
    use super::*;

    fn outlook(bucket: Option<&Bucket>, slots: Option<u64>, running: u64) -> Outlook<'_> {
        Outlook {
            now: Moment::at(0.0),
            bucket,
            slots,
            running,
            run_time: 2.0,
        }
    }

    #[test]
    fn the_slower_of_rate_and_places_decides() {
        let mut bucket = Bucket::new(
            Rate {
                per_second: 10.0,
                burst: 1,
            },
            Moment::at(0.0),
        );
        assert!(bucket.take(Moment::at(0.0)));
        assert!((outlook(Some(&bucket), None, 50).wait(9) - 1.0).abs() < 1e-9);
        assert!((outlook(None, Some(4), 4).wait(9) - 5.0).abs() < 1e-9);
        assert!((outlook(Some(&bucket), Some(4), 4).wait(9) - 5.0).abs() < 1e-9);
        assert!((outlook(Some(&bucket), Some(100), 4).wait(9) - 1.0).abs() < 1e-9);
        assert_eq!(outlook(None, None, 50).wait(9), 0.0);
        assert_eq!(outlook(None, Some(0), 0).wait(0), f64::INFINITY);
        assert_eq!(outlook(None, Some(4), 3).wait(0), 0.0);
    }

    #[test]
    fn the_interval_is_that_of_the_slower() {
        assert!((outlook(None, Some(4), 1).interval() - 0.5).abs() < 1e-9);
        assert_eq!(outlook(None, None, 1).interval(), 0.0);
    }

    #[test]
    fn running_times_are_learned_from_the_first_on() {
        let mut run_time = RunTime::new(30.0);
        run_time.observe(2.0);
        assert_eq!(run_time.mean(), 2.0);
        for _ in 0..200 {
            run_time.observe(4.0);
        }
        assert!((run_time.mean() - 4.0).abs() < 0.01);
    }

    #[test]
    fn promises_follow_one_another_up_to_a_bound() {
        let (mut promised, now) = (Moment::at(0.0), Moment::at(100.0));
        let mut next = || promise(&mut promised, now, 1.0, 0.5, 2.0);
        assert_eq!([next(), next(), next()], [1.5, 2.0, 2.0]);
        assert_eq!(promise(&mut Moment::at(0.0), now, f64::INFINITY, f64::NAN, 9.0), 9.0);
    }
}
