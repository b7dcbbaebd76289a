//! What a simulation found: when each request got its first and last token, and the times between tokens.

/// Times between tokens, counted in buckets half a percent wide: memory does not grow with the run.
#[derive(Debug, Clone)]
pub struct Gaps {
    counts: Vec<u64>,
    total: u64,
}

const SHORTEST: f64 = 1e-4;
const WIDTH: f64 = 1.005;
const BUCKETS: usize = 4000;

impl Default for Gaps {
    fn default() -> Self {
        Gaps {
            counts: vec![0; BUCKETS],
            total: 0,
        }
    }
}

impl Gaps {
    /// Count a gap of `seconds`.
    pub fn add(&mut self, seconds: f64) {
        let at = ((seconds / SHORTEST).max(1.0).ln() / WIDTH.ln()) as usize;
        self.counts[at.min(BUCKETS - 1)] += 1;
        self.total += 1;
    }

    /// The gap below which a share of all gaps lies; 0 where there is none.
    pub fn quantile(&self, share: f64) -> f64 {
        let wanted = (share * self.total as f64).ceil() as u64;
        let mut below = 0;
        for (at, count) in self.counts.iter().enumerate() {
            below += count;
            if *count > 0 && below >= wanted {
                return SHORTEST * WIDTH.powf(at as f64 + 0.5);
            }
        }
        0.0
    }
}

/// What a request must keep to count as good.
#[derive(Debug, Clone, Copy)]
pub struct Objectives {
    /// Seconds until the first token, at most.
    pub first_token: f64,
    /// Mean seconds between the tokens of an answer, at most.
    pub between_tokens: f64,
}

/// All that is kept of a run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Seconds from arrival to first token, a request (in the order of arrival).
    pub first_token: Vec<f64>,
    /// Mean seconds between tokens, a request (0 for an answer of one token).
    pub between: Vec<f64>,
    /// The worker that served a request.
    pub worker: Vec<usize>,
    /// Times between tokens of all requests.
    pub gaps: Gaps,
    /// When the last token came, in seconds from the first arrival.
    pub span: f64,
    /// How often an engine had to start a job over.
    pub preemptions: u64,
    /// Share of prompt tokens that came from caches.
    pub hit_share: f64,
}

/// A run in a few figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Requests served.
    pub requests: usize,
    /// Mean seconds to the first token.
    pub mean: f64,
    /// Median seconds to the first token.
    pub p50: f64,
    /// 99th percentile of seconds to the first token.
    pub p99: f64,
    /// 99th percentile of seconds between tokens, over all gaps of all requests.
    pub gap_p99: f64,
    /// Share of requests that kept the objectives.
    pub goodput: f64,
}

impl Outcome {
    /// The figures of the run.
    pub fn summary(&self, objectives: Objectives) -> Summary {
        let requests = self.first_token.len();
        let mut sorted = self.first_token.clone();
        sorted.sort_by(f64::total_cmp);
        let good = self
            .first_token
            .iter()
            .zip(&self.between)
            .filter(|(first, between)| **first <= objectives.first_token && **between <= objectives.between_tokens)
            .count();
        let count = requests.max(1) as f64;
        Summary {
            requests,
            mean: sorted.iter().sum::<f64>() / count,
            p50: rank(&sorted, 0.5),
            p99: rank(&sorted, 0.99),
            gap_p99: self.gaps.quantile(0.99),
            goodput: good as f64 / count,
        }
    }
}

/// The smallest value that at least a share of all values does not exceed.
fn rank(sorted: &[f64], share: f64) -> f64 {
    let at = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_gaps_are_within_half_a_percent() {
        let mut gaps = Gaps::default();
        for at in 1..=1000 {
            gaps.add(f64::from(at) * 1e-3);
        }
        for (share, wanted) in [(0.5, 0.5), (0.99, 0.99), (1.0, 1.0)] {
            assert!((gaps.quantile(share) / wanted - 1.0).abs() < 0.006);
        }
        assert_eq!(Gaps::default().quantile(0.99), 0.0);
    }

    #[test]
    fn ranks_are_values_that_occurred() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((rank(&values, 0.5), rank(&values, 0.99)), (50.0, 99.0));
        assert_eq!(rank(&[], 0.5), 0.0);
    }

    #[test]
    fn good_means_both_objectives() {
        let outcome = Outcome {
            first_token: vec![1.0, 1.0, 3.0],
            between: vec![0.01, 0.5, 0.01],
            ..Outcome::default()
        };
        let summary = outcome.summary(Objectives {
            first_token: 2.0,
            between_tokens: 0.1,
        });
        assert!((summary.goodput - 1.0 / 3.0).abs() < 1e-9);
    }
}
