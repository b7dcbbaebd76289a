//! What an endpoint's KV cache holds, mirrored from what was sent there: blocks that requests in flight hold, blocks
//! that nobody holds any more but that are still there, and what each request has alone.
//!
//! Hashes are chained (each one covers all blocks before it), so a block can only match where its whole prefix does.
//! The mirror forgets as engines do: what nobody holds goes when its room is needed, least recently released first,
//! the end of a prompt before its beginning.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// Blocks are hashes already: multiplying spreads those that are small numbers. (Who sends prompts must not be able to
/// foresee them; the caller's hashes begin with a secret.)
#[derive(Debug, Clone, Copy, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, block: u64) {
        self.0 = (self.0.rotate_left(32) ^ block)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(20);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Blocks = HashMap<u64, Block, BuildHasherDefault<Spread>>;

#[derive(Debug, Clone, Copy, Default)]
struct Block {
    /// Requests that wait or are prefilled, which will bring or use it.
    coming: u32,
    /// Requests that hold it.
    holders: u32,
    /// It is in the cache.
    present: bool,
    released: u64,
}

/// One endpoint's cache, as far as it can be known from here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Residency {
    blocks: Blocks,
    idle: VecDeque<(u64, u64)>,
    present: usize,
    idle_count: usize,
    private: f64,
    clock: u64,
}

/// The size of a cache: its tokens, the tokens of a block, and how many blocks are remembered at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheSize {
    pub(crate) tokens: f64,
    pub(crate) block_tokens: f64,
    pub(crate) most_blocks: usize,
}

impl Residency {
    /// How many leading blocks of a prompt are there, or will be by the time a request sent now is prefilled.
    pub(crate) fn matching(&self, blocks: &[u64]) -> usize {
        blocks
            .iter()
            .take_while(|block| self.blocks.contains_key(block))
            .count()
    }

    /// Tokens that requests hold, which nothing can take from them.
    pub(crate) fn held_tokens(&self, block_tokens: f64) -> f64 {
        (self.present - self.idle_count) as f64 * block_tokens + self.private
    }

    /// A request with these blocks was sent there.
    pub(crate) fn coming(&mut self, blocks: &[u64]) {
        for &block in blocks {
            self.blocks.entry(block).or_default().coming += 1;
        }
    }

    /// The request's prompt is in the cache now, `private` tokens of it in no block.
    pub(crate) fn arrived(&mut self, blocks: &[u64], private: f64, size: CacheSize) {
        for &block in blocks {
            let entry = self.blocks.entry(block).or_default();
            entry.coming = entry.coming.saturating_sub(1);
            if !entry.present {
                entry.present = true;
                self.present += 1;
            } else if entry.holders == 0 {
                self.idle_count -= 1;
            }
            entry.holders += 1;
        }
        self.private += private;
        self.evict(size);
    }

    /// The request ended before its prompt was computed.
    pub(crate) fn gone(&mut self, blocks: &[u64]) {
        for &block in blocks {
            if let Some(entry) = self.blocks.get_mut(&block) {
                entry.coming = entry.coming.saturating_sub(1);
                if entry.coming == 0 && !entry.present {
                    let _ = self.blocks.remove(&block);
                }
            }
        }
    }

    /// The request ended; its blocks stay until their room is needed.
    pub(crate) fn released(&mut self, blocks: &[u64], private: f64, size: CacheSize) {
        for &block in blocks.iter().rev() {
            if let Some(entry) = self.blocks.get_mut(&block) {
                entry.holders = entry.holders.saturating_sub(1);
                if entry.holders == 0 && entry.present {
                    self.clock += 1;
                    entry.released = self.clock;
                    self.idle_count += 1;
                    self.idle.push_back((block, self.clock));
                }
            }
        }
        self.private = (self.private - private).max(0.0);
        self.evict(size);
        if self.idle.len() > 2 * self.idle_count + 64 {
            let blocks = &self.blocks;
            self.idle.retain(|(block, at)| is_idle(blocks, *block, *at));
        }
    }

    /// Drop blocks that nobody holds, the longest released first, until everything fits.
    fn evict(&mut self, size: CacheSize) {
        let room = ((size.tokens - self.private) / size.block_tokens.max(1.0)).max(0.0) as usize;
        let most = room.min(size.most_blocks);
        while self.present > most {
            match self.idle.pop_front() {
                Some((block, at)) => {
                    if is_idle(&self.blocks, block, at) {
                        self.drop_idle(block);
                    }
                }
                None => return,
            }
        }
    }

    fn drop_idle(&mut self, block: u64) {
        self.present -= 1;
        self.idle_count -= 1;
        if let Some(entry) = self.blocks.get_mut(&block) {
            entry.present = false;
            if entry.coming == 0 {
                let _ = self.blocks.remove(&block);
            }
        }
    }
}

fn is_idle(blocks: &Blocks, block: u64, at: u64) -> bool {
    blocks.get(&block).map_or(false, |entry| {
        entry.present && entry.holders == 0 && entry.released == at
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: CacheSize = CacheSize {
        tokens: 40.0,
        block_tokens: 10.0,
        most_blocks: 100,
    };

    fn serve(residency: &mut Residency, blocks: &[u64]) {
        residency.coming(blocks);
        residency.arrived(blocks, 0.0, SIZE);
        residency.released(blocks, 0.0, SIZE);
    }

    #[test]
    fn what_is_being_computed_counts_and_what_failed_does_not() {
        let mut residency = Residency::default();
        residency.coming(&[1, 2]);
        assert_eq!(residency.matching(&[1, 2, 3]), 2);
        residency.gone(&[1, 2]);
        assert_eq!(residency.matching(&[1, 2, 3]), 0);
        assert!(residency.blocks.is_empty());
    }

    #[test]
    fn ends_of_old_prompts_go_first_and_held_blocks_never() {
        let mut residency = Residency::default();
        serve(&mut residency, &[1, 2, 3]);
        residency.coming(&[10, 11]);
        residency.arrived(&[10, 11], 0.0, SIZE);
        assert_eq!(residency.matching(&[1, 2, 3]), 2);
        serve(&mut residency, &[20, 21, 22]);
        assert_eq!(residency.matching(&[10, 11]), 2);
        assert_eq!(residency.held_tokens(10.0), 20.0);
    }

    #[test]
    fn what_requests_have_alone_takes_room_from_blocks() {
        let mut residency = Residency::default();
        serve(&mut residency, &[1, 2, 3]);
        residency.arrived(&[], 25.0, SIZE);
        assert_eq!(residency.matching(&[1, 2, 3]), 1);
        residency.released(&[], 25.0, SIZE);
        assert_eq!(residency.held_tokens(10.0), 0.0);
    }

    #[test]
    fn memory_stays_bounded_whatever_comes() {
        let mut residency = Residency::default();
        for round in 0..20_000u64 {
            serve(&mut residency, &[round % 3, 10 + round % 7, 100 + round]);
            assert!(residency.blocks.len() <= 4);
            assert!(residency.idle.len() <= 2 * 4 + 64 + 3);
        }
    }

    #[test]
    fn a_hot_block_survives_many_cold_ones() {
        let mut residency = Residency::default();
        for round in 0..1000u64 {
            serve(&mut residency, &[7, 1000 + round]);
            assert_eq!(residency.matching(&[7]), 1);
        }
    }
}
