//! Time inside a gate: whole nanoseconds, so that sums are exact, moments have an order, and twenty times a twentieth of
//! a second is a second. Seconds as floating-point numbers end here.

/// Nanoseconds since the caller's origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

const NANOSECONDS: f64 = 1e9;

impl Moment {
    /// Later than all others.
    pub(super) const NEVER: Moment = Moment(u64::MAX);

    /// The moment nearest to these seconds; what is before the origin, or no number, is the origin.
    pub(super) fn at(seconds: f64) -> Moment {
        Moment((seconds * NANOSECONDS).round() as u64)
    }

    pub(super) fn from_nanoseconds(nanoseconds: u128) -> Moment {
        Moment(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    pub(super) fn nanoseconds(self) -> u64 {
        self.0
    }

    /// This many seconds later (infinite: never; negative or no number: now).
    pub(super) fn after(self, seconds: f64) -> Moment {
        Moment(self.0.saturating_add(Moment::at(seconds).0))
    }

    /// Seconds that have passed since an earlier moment; 0 where it is not earlier.
    pub(super) fn since(self, earlier: Moment) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / NANOSECONDS
    }

    /// The least number of seconds that is not before this moment: whoever comes back then finds it reached.
    pub(super) fn seconds(self) -> f64 {
        let mut seconds = self.0 as f64 / NANOSECONDS;
        while Moment::at(seconds) < self {
            seconds = f64::from_bits(seconds.to_bits() + 1);
        }
        seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_lead_back_to_the_moment_or_just_after_it() {
        for origin in [0.0, 1.0, 12_345.678_9, 1_795_000_000.123] {
            for step in 0..1000 {
                let moment = Moment::at(origin).after(f64::from(step) * 0.012_345_678_9);
                let back = Moment::at(moment.seconds());
                assert!(back >= moment);
                assert!(back.since(moment) < 1e-6);
            }
        }
    }

    #[test]
    fn twenty_times_a_twentieth_is_a_second() {
        let mut moment = Moment::at(3.0);
        for _ in 0..20 {
            moment = moment.after(0.05);
        }
        assert_eq!(moment, Moment::at(4.0));
    }

    #[test]
    fn nonsense_is_bounded() {
        assert_eq!(Moment::at(f64::NAN), Moment::at(0.0));
        assert_eq!(Moment::at(-1.0), Moment::at(0.0));
        assert_eq!(Moment::at(1.0).after(f64::INFINITY), Moment::NEVER);
        assert_eq!(Moment::at(1.0).after(f64::NAN), Moment::at(1.0));
        assert!(Moment::NEVER.seconds() > 1e10);
    }
}
