//! What caches had to forget, and requests came back for: from it a pool learns what it costs to drop a block.

use crate::cost::CostModel;
use crate::residency::{ByBlock, Dropped};
use std::collections::VecDeque;

/// Dropped blocks that the price remembers.
const REMEMBERED: f64 = 1000.0;
/// What a pool takes for granted before it has seen anything: of so many dropped blocks ...
const PRIOR_BLOCKS: f64 = 200.0;
/// ... this share is wanted again.
const PRIOR_SHARE: f64 = 0.3;
/// Drops that the average age remembers.
const AGES: f64 = 500.0;

/// Blocks that were dropped lately, and what it cost that they were.
#[derive(Debug, Clone)]
pub(crate) struct Forgotten {
    blocks: ByBlock<(u64, u32)>,
    order: VecDeque<(u64, u64)>,
    clock: u64,
    dropped: f64,
    lost_seconds: f64,
    age: f64,
}

impl Forgotten {
    /// `cost`, `block_tokens`: what computing a block costs, before anything is known.
    pub(crate) fn new(cost: &CostModel, block_tokens: f64) -> Self {
        Forgotten {
            blocks: ByBlock::default(),
            order: VecDeque::new(),
            clock: 0,
            dropped: PRIOR_BLOCKS,
            lost_seconds: PRIOR_BLOCKS * PRIOR_SHARE * seconds_of(cost, block_tokens, 8.0),
            age: 0.0,
        }
    }

    /// Blocks were dropped, `age` seconds after they were used last; at most `most` are remembered.
    pub(crate) fn dropped(&mut self, dropped: &[Dropped], age: f64, most: usize) {
        for one in dropped {
            self.clock += 1;
            let _ = self.blocks.insert(one.block, (self.clock, one.place));
            self.order.push_back((one.block, self.clock));
            self.dropped += 1.0 - self.dropped / REMEMBERED;
            self.lost_seconds -= self.lost_seconds / REMEMBERED;
            self.age += (age - self.age) / if self.age > 0.0 { AGES } else { 1.0 };
        }
        while self.blocks.len() > most || self.order.len() > 2 * most + 64 {
            match self.order.pop_front() {
                Some((block, clock)) => {
                    if self.blocks.get(&block).map_or(false, |one| one.0 == clock) {
                        let _ = self.blocks.remove(&block);
                    }
                }
                None => return,
            }
        }
    }

    /// These blocks must be computed again.
    pub(crate) fn wanted(&mut self, blocks: &[u64], cost: &CostModel, block_tokens: f64) {
        for block in blocks {
            if let Some((_, place)) = self.blocks.remove(block) {
                self.lost_seconds += seconds_of(cost, block_tokens, f64::from(place));
            }
        }
    }

    /// Seconds of computing that dropping a block costs, where the one that goes first was last used `oldest` seconds
    /// ago. What was used long ago is wanted again less often.
    pub(crate) fn price(&self, oldest: f64) -> f64 {
        let young = if self.age > 0.0 {
            (self.age / oldest.max(1e-3)).sqrt().min(2.0)
        } else {
            1.0
        };
        young * self.lost_seconds / self.dropped
    }
}

fn seconds_of(cost: &CostModel, block_tokens: f64, place: f64) -> f64 {
    block_tokens * (cost.token_seconds + place * block_tokens * cost.pair_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: CostModel = CostModel {
        token_seconds: 1e-3,
        pair_seconds: 0.0,
    };

    fn drops(from: u64) -> Vec<Dropped> {
        (from..from + 100).map(|block| Dropped { block, place: 0 }).collect()
    }

    #[test]
    fn the_price_follows_how_many_come_back() {
        let mut forgotten = Forgotten::new(&COST, 10.0);
        for round in 0..100 {
            forgotten.dropped(&drops(round * 100), 5.0, 1000);
            let back: Vec<u64> = (round * 100..round * 100 + 50).collect();
            forgotten.wanted(&back, &COST, 10.0);
        }
        assert!(
            (forgotten.price(5.0) / 0.005 - 1.0).abs() < 0.1,
            "{}",
            forgotten.price(5.0)
        );
        assert!(forgotten.price(500.0) < forgotten.price(5.0));
        for round in 100..200 {
            forgotten.dropped(&drops(round * 100), 5.0, 1000);
        }
        assert!(forgotten.price(5.0) < 1e-4);
    }

    #[test]
    fn memory_is_bounded_and_what_came_back_is_not_counted_twice() {
        let mut forgotten = Forgotten::new(&COST, 10.0);
        for round in 0..1000 {
            forgotten.dropped(&drops(round % 7 * 100), 1.0, 50);
            assert!(forgotten.blocks.len() <= 50 && forgotten.order.len() <= 164);
        }
        let before = forgotten.lost_seconds;
        let all: Vec<u64> = (0..700).collect();
        forgotten.wanted(&all, &COST, 10.0);
        let once = forgotten.lost_seconds;
        forgotten.wanted(&all, &COST, 10.0);
        assert!(once > before && forgotten.lost_seconds == once);
    }
}
