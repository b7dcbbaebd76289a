//! Choices of other gateways, as their documents describe them, to compare with.

use crate::router::{Scraped, Seen};
use scheduler::PrefixIndex;
use std::collections::HashMap;

/// The default scorers of the Gateway API Inference Extension: 2 x queue (min-max) + 2 x (1 - KV use) + 3 x share of
/// the prompt's blocks that it sent there before.
#[derive(Debug, Clone)]
pub(crate) struct Gie {
    scraped: Vec<Scraped>,
    sent: Vec<PrefixIndex>,
}

impl Gie {
    pub(crate) fn new(workers: usize, blocks: usize) -> Self {
        Gie {
            scraped: vec![Scraped::default(); workers],
            sent: vec![PrefixIndex::new(blocks); workers],
        }
    }

    pub(crate) fn scraped(&mut self, scraped: &[Scraped]) {
        self.scraped.copy_from_slice(scraped);
    }

    pub(crate) fn send(&mut self, seen: &Seen<'_>, random: f64) -> usize {
        let queues = self.scraped.iter().map(|one| one.waiting as f64);
        let (least, most) = (queues.clone().fold(f64::INFINITY, f64::min), queues.fold(0.0, f64::max));
        let scores: Vec<f64> = self
            .scraped
            .iter()
            .zip(&self.sent)
            .map(|(one, sent)| {
                let queue = if most > least {
                    (most - one.waiting as f64) / (most - least)
                } else {
                    1.0
                };
                let prefix = sent.matching(seen.blocks) as f64 / seen.blocks.len().max(1) as f64;
                2.0 * queue + 2.0 * (1.0 - one.kv_used) + 3.0 * prefix
            })
            .collect();
        let at = best(&scores, random);
        self.sent[at].touch(seen.blocks);
        at
    }
}

/// Share of a prompt's blocks from which on an endpoint counts as having it.
const AFFINITY: f64 = 0.8;
/// Seconds that endpoints with the prefix may be slower to the first token than the best other one.
const PENALTY: f64 = 5.0;
/// Tokens a second, to make seconds of tokens.
const PREFILL_RATE: f64 = 28_000.0;

/// llm-d's token-aware choice: endpoints that have at least 0.8 of the prompt, unless all of them are slower to the
/// first token by a bound; among those left, the fewest uncached tokens in flight.
#[derive(Debug, Clone)]
pub(crate) struct TokenAware {
    sent: Vec<PrefixIndex>,
    tokens: Vec<f64>,
    flights: HashMap<u64, (usize, f64)>,
    block_tokens: f64,
}

impl TokenAware {
    pub(crate) fn new(workers: usize, blocks: usize, block_tokens: f64) -> Self {
        TokenAware {
            sent: vec![PrefixIndex::new(blocks); workers],
            tokens: vec![0.0; workers],
            flights: HashMap::new(),
            block_tokens,
        }
    }

    pub(crate) fn send(&mut self, seen: &Seen<'_>, random: f64) -> usize {
        let matching: Vec<usize> = self.sent.iter().map(|sent| sent.matching(seen.blocks)).collect();
        let wanted = AFFINITY * seen.blocks.len() as f64;
        let warm: Vec<bool> = matching
            .iter()
            .map(|&count| count > 0 && count as f64 >= wanted)
            .collect();
        let least = |among: bool| {
            let tokens = self.tokens.iter().zip(&warm).filter(|(_, &is_warm)| is_warm == among);
            tokens.map(|(&tokens, _)| tokens).fold(f64::INFINITY, f64::min)
        };
        let stay = least(true) <= least(false) + PENALTY * PREFILL_RATE && warm.contains(&true);
        let scores: Vec<f64> = (0..self.tokens.len())
            .map(|at| {
                if stay && !warm[at] {
                    f64::NEG_INFINITY
                } else {
                    -self.tokens[at]
                }
            })
            .collect();
        let at = best(&scores, random);
        let uncached = (seen.tokens - matching[at] as f64 * self.block_tokens).max(0.0);
        self.tokens[at] += uncached;
        let _ = self.flights.insert(seen.id, (at, uncached));
        self.sent[at].touch(seen.blocks);
        at
    }

    pub(crate) fn first_token(&mut self, id: u64) {
        if let Some((at, tokens)) = self.flights.remove(&id) {
            self.tokens[at] = (self.tokens[at] - tokens).max(0.0);
        }
    }
}

/// The index of the highest score; chance decides among equals.
fn best(scores: &[f64], random: f64) -> usize {
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let equal: Vec<usize> = (0..scores.len()).filter(|&at| scores[at] >= most).collect();
    equal[((random * equal.len() as f64) as usize).min(equal.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(id: u64, tokens: f64, blocks: &[u64]) -> Seen<'_> {
        Seen { id, tokens, blocks }
    }

    #[test]
    fn gie_prefers_a_prefix_to_a_queue_but_not_to_queue_and_cache_together() {
        let mut gie = Gie::new(2, 100);
        let first = gie.send(&seen(1, 1024.0, &[1, 2]), 0.0);
        let busy = |waiting, kv_used| Scraped {
            waiting,
            running: 0,
            kv_used,
        };
        let mut scraped = [Scraped::default(); 2];
        scraped[first] = busy(5, 0.4);
        gie.scraped(&scraped);
        assert_eq!(gie.send(&seen(2, 1024.0, &[1, 2]), 0.0), first);
        scraped[first] = busy(5, 0.9);
        gie.scraped(&scraped);
        assert_ne!(gie.send(&seen(3, 512.0, &[7]), 0.0), first);
    }

    #[test]
    fn token_aware_stays_with_the_prefix_until_it_costs_too_much() {
        let mut aware = TokenAware::new(2, 1000, 512.0);
        let first = aware.send(&seen(1, 1024.0, &[1, 2]), 0.0);
        assert_eq!(aware.send(&seen(2, 1024.0, &[1, 2]), 0.0), first);
        aware.tokens[first] += 2.0 * PENALTY * PREFILL_RATE;
        assert_ne!(aware.send(&seen(3, 1024.0, &[1, 2]), 0.0), first);
        aware.first_token(1);
        aware.first_token(1);
        assert!(aware.tokens.iter().all(|&tokens| tokens >= 0.0));
    }
}
