//! What an engine says of requests that others sent there. It may be old, or a lie: it only adds to the pool's own
//! books, within bounds, fades, and counts less where first tokens come sooner than it would have them.

use crate::endpoint::{Observed, OwnLoad};

/// Seconds after which what was said counts half.
const HALF_LIFE: f64 = 5.0;
/// Requests sent elsewhere after which an endpoint gets one in spite of what it says, to see whether it is so.
const TRY_AGAIN: u32 = 100;
/// Requests of others that are believed at most, waiting and running each.
const MOST: f64 = 256.0;
/// Seconds of waiting that it must have foretold to be judged by them.
const MATERIAL: f64 = 0.2;
/// What came in less than this share of them was no honest guess.
const GROSSLY: f64 = 0.1;
/// Belief does not fall below this.
const LEAST_BELIEF: f64 = 1.0 / 1024.0;

/// Requests of others at one endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outside {
    waiting: f64,
    running: f64,
    /// Share of the KV cache that those hold.
    held: f64,
    /// When the pool chose for the first time since it was said; infinite before.
    said_at: f64,
    belief: f64,
}

/// What counts of it at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Counted {
    /// Requests that wait.
    pub(crate) waiting: f64,
    /// Requests that run.
    pub(crate) running: f64,
    /// Share of the KV cache that those hold.
    pub(crate) held: f64,
}

impl Default for Outside {
    fn default() -> Self {
        Outside {
            waiting: 0.0,
            running: 0.0,
            held: 0.0,
            said_at: 0.0,
            belief: 1.0,
        }
    }
}

/// A count that an engine says, whatever it says.
fn sound(value: f64) -> f64 {
    if value.is_finite() {
        value.max(0.0)
    } else {
        0.0
    }
}

impl Outside {
    /// What an engine says of all requests there, when `own` was what the pool itself had there: a page that is a second
    /// old would else count what ended since as somebody else's.
    pub(crate) fn observe(&mut self, observed: Observed, own: OwnLoad) {
        let (waiting, running) = (sound(observed.waiting), sound(observed.running));
        let outside = (waiting + running - f64::from(own.in_flight)).max(0.0);
        let theirs = outside.min((waiting - f64::from(own.prefilling)).max(0.0));
        self.waiting = theirs.min(MOST);
        self.running = (outside - theirs).min(MOST);
        let share = (outside - theirs) / running.max(1.0);
        self.held = share.clamp(0.0, 1.0) * sound(observed.kv_used).min(1.0);
        self.said_at = f64::INFINITY;
    }

    /// The engine says only how many requests wait.
    pub(crate) fn observe_waiting(&mut self, waiting: f64, own: OwnLoad) {
        self.waiting = (sound(waiting) - f64::from(own.prefilling)).clamp(0.0, MOST);
        self.said_at = f64::INFINITY;
    }

    /// The pool chooses now: what was said since the last time begins to fade.
    pub(crate) fn considered(&mut self, now: f64) {
        self.said_at = self.said_at.min(now);
    }

    /// What counts now, where the pool sent `elsewhere` requests since the last one there.
    pub(crate) fn counted(&self, elsewhere: u32, now: f64) -> Counted {
        if self.waiting + self.running <= 0.0 || elsewhere > TRY_AGAIN {
            return Counted::default();
        }
        let share = self.belief * (-(now - self.said_at).max(0.0) * std::f64::consts::LN_2 / HALF_LIFE).exp();
        Counted {
            waiting: share * self.waiting,
            running: share * self.running,
            held: share * self.held,
        }
    }

    /// A first token came after `seconds`; `without` and `with` it was foretold without and with what counted.
    pub(crate) fn proved(&mut self, seconds: f64, without: f64, with: f64) {
        let said = with - without;
        if said < MATERIAL {
            return;
        }
        if seconds - without < GROSSLY * said {
            self.belief = (self.belief / 4.0).max(LEAST_BELIEF);
        } else if seconds - without > said / 4.0 {
            self.belief = (self.belief * 4.0).min(1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: OwnLoad = OwnLoad {
        in_flight: 0,
        prefilling: 0,
    };

    fn said(waiting: f64) -> Outside {
        let mut outside = Outside::default();
        let observed = Observed {
            waiting,
            running: 10.0,
            kv_used: 0.5,
        };
        outside.observe(observed, OWN);
        outside.considered(100.0);
        outside
    }

    #[test]
    fn it_fades_is_bounded_and_is_tried_again() {
        let outside = said(1e12);
        let fresh = outside.counted(0, 100.0);
        assert_eq!((fresh.waiting, fresh.running, fresh.held), (MOST, 10.0, 0.5));
        let old = outside.counted(0, 105.0);
        assert!((old.waiting / MOST - 0.5).abs() < 1e-9);
        assert_eq!(outside.counted(101, 100.0), Counted::default());
    }

    #[test]
    fn what_first_tokens_contradict_is_believed_less_until_they_bear_it_out() {
        let mut outside = said(100.0);
        for _ in 0..20 {
            outside.proved(0.1, 0.1, 10.0);
        }
        assert!(outside.counted(0, 100.0).waiting < 2.0);
        for _ in 0..20 {
            outside.proved(9.0, 0.1, 10.0);
        }
        assert_eq!(outside.counted(0, 100.0).waiting, 100.0);
    }

    #[test]
    fn nonsense_counts_as_nothing() {
        for value in [f64::NAN, f64::INFINITY, -5.0] {
            let mut outside = Outside::default();
            let observed = Observed {
                waiting: value,
                running: value,
                kv_used: value,
            };
            outside.observe(observed, OWN);
            outside.observe_waiting(value, OWN);
            assert_eq!(outside.counted(0, 0.0), Counted::default());
        }
    }
}
