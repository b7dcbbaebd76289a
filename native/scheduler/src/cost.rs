//! What a prompt costs an endpoint: seconds of prefill from token counts, and a factor learned from what is observed.

/// Seconds of prefill. A token costs `token_seconds`, and `pair_seconds` for each token before it (attention), so the
/// cost of a prompt grows with the square of its length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CostModel {
    /// Seconds for one token of prompt.
    pub token_seconds: f64,
    /// Seconds for one pair of a token and one before it.
    pub pair_seconds: f64,
}

impl Default for CostModel {
    /// An 8B model on one H100: about 30,000 tokens a second, attention adding a quarter at 8k tokens.
    fn default() -> Self {
        CostModel {
            token_seconds: 33e-6,
            pair_seconds: 1.06e-9,
        }
    }
}

impl CostModel {
    /// Seconds to prefill a prompt of `tokens`, of which the first `cached` need not be computed.
    pub fn prefill(&self, tokens: f64, cached: f64) -> f64 {
        let cached = cached.clamp(0.0, tokens);
        let computed = tokens - cached;
        computed * self.token_seconds + 0.5 * (tokens * tokens - cached * cached) * self.pair_seconds
    }
}

/// How much slower (or faster) than the cost model an endpoint really is: an average of observed ratios, in which no
/// single observation counts for much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learned {
    factor: f64,
    seen: u32,
}

impl Default for Learned {
    fn default() -> Self {
        Learned { factor: 1.0, seen: 0 }
    }
}

/// Predictions below this are mostly overhead and say nothing of the rate.
const LEAST_PREDICTION: f64 = 0.01;
/// Bounds of one observation relative to the present factor, and of the factor itself.
const STEP: f64 = 4.0;
const RANGE: f64 = 100.0;
/// Weight of one observation once there are many.
const WEIGHT: f64 = 0.02;

impl Learned {
    /// Note that work predicted (with factor 1) to take `predicted` seconds took `observed`.
    pub fn observe(&mut self, predicted: f64, observed: f64) {
        let ratio = observed / predicted;
        if predicted < LEAST_PREDICTION || !ratio.is_finite() || ratio <= 0.0 {
            return;
        }
        self.seen = self.seen.saturating_add(1);
        let bounded = ratio.clamp(self.factor / STEP, self.factor * STEP);
        let weight = WEIGHT.max(1.0 / f64::from(self.seen.min(1000) + 1));
        self.factor = (self.factor + weight * (bounded - self.factor)).clamp(1.0 / RANGE, RANGE);
    }

    /// The factor to multiply the cost model's seconds with.
    pub fn factor(&self) -> f64 {
        self.factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tokens_are_free_but_still_attended_to() {
        let model = CostModel::default();
        let whole = model.prefill(8000.0, 0.0);
        let half = model.prefill(8000.0, 4000.0);
        assert!(half < whole);
        assert!(half > model.prefill(4000.0, 0.0));
        assert_eq!(model.prefill(100.0, 100.0), 0.0);
        assert_eq!(model.prefill(100.0, 500.0), 0.0);
    }

    #[test]
    fn the_factor_converges_to_what_is_observed() {
        let mut learned = Learned::default();
        for _ in 0..500 {
            learned.observe(0.5, 1.5);
        }
        assert!((learned.factor() - 3.0).abs() < 0.1);
    }

    #[test]
    fn one_wild_observation_changes_little() {
        let mut learned = Learned::default();
        for _ in 0..200 {
            learned.observe(0.5, 0.5);
        }
        learned.observe(0.5, 1e9);
        assert!(learned.factor() < 1.1);
    }

    #[test]
    fn nonsense_is_ignored() {
        let mut learned = Learned::default();
        for (predicted, observed) in [
            (0.0, 1.0),
            (f64::NAN, 1.0),
            (1.0, f64::NAN),
            (1.0, -1.0),
            (1.0, f64::INFINITY),
        ] {
            learned.observe(predicted, observed);
        }
        assert_eq!(learned.factor(), 1.0);
    }
}
