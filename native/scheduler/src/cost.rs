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
            token_seconds: 33.4e-6,
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

/// What an engine's steps are like: each serves those that decode first, and fills up with prompts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepModel {
    /// Tokens that one step computes at most.
    pub tokens: f64,
    /// What a step costs before it computes anything, in tokens of prompt.
    pub overhead_tokens: f64,
    /// What reading one token of context costs a decoding request in each step, in tokens of prompt.
    pub read_share: f64,
    /// Tokens that answers have at most, where it is not known how far they are.
    pub answer_tokens: f64,
    /// Requests that run at once at most.
    pub sequences: f64,
}

impl Default for StepModel {
    /// An 8B model on one H100 behind vLLM's defaults.
    fn default() -> Self {
        StepModel {
            tokens: 2048.0,
            overhead_tokens: 230.0,
            read_share: 1.6e-3,
            answer_tokens: 1000.0,
            sequences: 256.0,
        }
    }
}

/// How much slower (or faster) than the cost model an endpoint really is: seconds observed over seconds predicted, of
/// which old ones fade, and in which no single observation counts for much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learned {
    predicted: f64,
    observed: f64,
}

impl Default for Learned {
    fn default() -> Self {
        Learned {
            predicted: PRIOR,
            observed: PRIOR,
        }
    }
}

/// Seconds for which the cost model's word stands before anything is observed.
const PRIOR: f64 = 2.0;
/// Seconds of work after which an observation counts a third of what it did.
const MEMORY: f64 = 60.0;
/// What each observation leaves of those before it.
const EACH_FADES: f64 = 0.98;
/// An observation counts as at most this many times what is expected by now, plus a moment.
const STEP: f64 = 4.0;
const MOMENT: f64 = 0.02;
/// How many times slower or faster than all others an endpoint must be to count as different.
const CLEARLY: f64 = 1.25;
/// Bounds of the factor.
const RANGE: f64 = 1000.0;

impl Learned {
    /// Note that work predicted (with factor 1) to take `predicted` seconds took `observed`.
    pub fn observe(&mut self, predicted: f64, observed: f64) {
        if !(predicted > 0.0 && observed > 0.0 && predicted.is_finite() && observed.is_finite()) {
            return;
        }
        let bounded = observed.min(STEP * self.factor() * predicted + MOMENT);
        let fade = EACH_FADES * (-predicted.max(bounded) / MEMORY).exp();
        self.predicted = self.predicted * fade + predicted;
        self.observed = self.observed * fade + bounded;
    }

    /// The factor of one endpoint among others of a pool, of which `all` was learned: theirs, unless this one is
    /// clearly different. Small differences are chance, and would send requests to and fro.
    pub fn factor_among(&self, all: &Learned) -> f64 {
        let common = all.factor();
        let ratio = self.factor() / common;
        common * (ratio / CLEARLY).max(1.0) * (ratio * CLEARLY).min(1.0)
    }

    /// The factor to multiply the cost model's seconds with.
    pub fn factor(&self) -> f64 {
        (self.observed / self.predicted).clamp(1.0 / RANGE, RANGE)
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
    fn an_engine_hundreds_of_times_slower_is_learned_too() {
        let mut learned = Learned::default();
        for _ in 0..300 {
            learned.observe(0.003, 1.0);
        }
        assert!((200.0..400.0).contains(&learned.factor()), "{}", learned.factor());
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
