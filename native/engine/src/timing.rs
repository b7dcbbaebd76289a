//! How long one step takes: a sum of what the hardware has to do, calibrated on published figures.

/// What one step computes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepLoad {
    /// Sequences that decode one token each.
    pub decodes: f64,
    /// Tokens in the KV cache of those sequences, which each step reads.
    pub context: f64,
    /// Prompt tokens that the step computes.
    pub prompt: f64,
    /// Pairs of a prompt token and one before it (attention).
    pub pairs: f64,
}

impl StepLoad {
    /// Add a chunk of `tokens` of a prompt of which `before` tokens are computed already.
    pub fn add_chunk(&mut self, before: f64, tokens: f64) {
        self.prompt += tokens;
        self.pairs += tokens * before + 0.5 * tokens * tokens;
    }

    /// Add a sequence of `context` tokens that decodes one more.
    pub fn add_decode(&mut self, context: f64) {
        self.decodes += 1.0;
        self.context += context;
    }
}

/// Seconds for each thing a step does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// Every step: reading the weights, launching kernels, scheduling.
    pub step: f64,
    /// Each token computed, of a prompt or an answer.
    pub token: f64,
    /// Each token of context that a decoding sequence reads from the KV cache.
    pub read: f64,
    /// Each pair of a prompt token and one before it.
    pub pair: f64,
}

impl Timing {
    /// Llama-3.1-8B (16-bit) on one H100 with 80 GB.
    pub const H100_8B: Timing = Timing {
        step: 7.72e-3,
        token: 29.6e-6,
        read: 52.7e-9,
        pair: 1.06e-9,
    };

    /// The seconds that a step takes.
    pub fn seconds(&self, load: &StepLoad) -> f64 {
        self.step + (load.decodes + load.prompt) * self.token + load.context * self.read + load.pairs * self.pair
    }

    /// The same hardware, `factor` times as slow.
    pub fn slowed(&self, factor: f64) -> Timing {
        Timing {
            step: self.step * factor,
            token: self.token * factor,
            read: self.read * factor,
            pair: self.pair * factor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inter-token latency in ms at 1k context, by batch (H100, Llama-3.1-8B).
    const PUBLISHED: [(u32, f64); 6] = [(1, 7.8), (8, 8.4), (32, 10.3), (64, 13.0), (128, 18.3), (256, 28.8)];

    #[test]
    fn decoding_is_within_two_percent_of_the_published_figures() {
        for (batch, milliseconds) in PUBLISHED {
            let mut load = StepLoad::default();
            for _ in 0..batch {
                load.add_decode(1000.0);
            }
            let predicted = Timing::H100_8B.seconds(&load) * 1e3;
            let error = (predicted / milliseconds - 1.0).abs();
            assert!(
                error < 0.02,
                "batch {batch}: {predicted:.2} ms, published {milliseconds} ms"
            );
        }
    }

    #[test]
    fn prefill_is_thirty_thousand_tokens_a_second_less_attention() {
        let mut load = StepLoad::default();
        load.add_chunk(0.0, 2048.0);
        let rate = 2048.0 / Timing::H100_8B.seconds(&load);
        assert!((28_500.0..30_500.0).contains(&rate), "{rate}");
        let mut late = StepLoad::default();
        late.add_chunk(30_000.0, 2048.0);
        let rate = 2048.0 / Timing::H100_8B.seconds(&late);
        assert!((14_000.0..17_000.0).contains(&rate), "{rate}");
    }
}
