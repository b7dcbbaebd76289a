//! What an endpoint's prefix cache probably holds: the newest block hashes that were sent there.
//!
//! Hashes are chained (each one covers all blocks before it), so a block can only match where its whole prefix does.

use std::collections::{HashMap, VecDeque};

/// The last `capacity` distinct block hashes, least recently used first to go. Memory is bounded by a small multiple of
/// the capacity.
#[derive(Debug, Clone)]
pub struct PrefixIndex {
    capacity: usize,
    clock: u64,
    used: HashMap<u64, u64>,
    order: VecDeque<(u64, u64)>,
}

impl PrefixIndex {
    /// An empty index for at most `capacity` blocks.
    pub fn new(capacity: usize) -> Self {
        PrefixIndex {
            capacity,
            clock: 0,
            used: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// How many blocks it holds.
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    /// How many leading blocks of `blocks` it holds.
    pub fn matching(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|block| self.used.contains_key(block)).count()
    }

    /// Note that a request with these blocks went there. The first blocks count as used last: they are shared most,
    /// and an engine's cache drops the ends of prefixes first.
    pub fn touch(&mut self, blocks: &[u64]) {
        let kept = &blocks[..blocks.len().min(self.capacity)];
        for &block in kept.iter().rev() {
            self.clock += 1;
            self.used.insert(block, self.clock);
            self.order.push_back((block, self.clock));
        }
        while self.used.len() > self.capacity || self.order.len() > 2 * self.capacity + 16 {
            self.drop_oldest();
        }
    }

    /// Forget everything (the endpoint restarted).
    pub fn clear(&mut self) {
        self.used.clear();
        self.order.clear();
    }

    /// Take the oldest entry off the order; where it is still the block's newest use, that block is forgotten if the
    /// index is too full, else moved to the end without changing its age among the others.
    fn drop_oldest(&mut self) {
        if let Some((block, tick)) = self.order.pop_front() {
            if self.used.get(&block) == Some(&tick) {
                if self.used.len() > self.capacity {
                    self.used.remove(&block);
                } else {
                    self.compact(block, tick);
                }
            }
        }
    }

    /// Rebuild the order from the blocks that are held, oldest first (the one just taken off included).
    fn compact(&mut self, block: u64, tick: u64) {
        let mut held: Vec<(u64, u64)> = self.used.iter().map(|(&block, &tick)| (block, tick)).collect();
        debug_assert!(held.contains(&(block, tick)));
        held.sort_unstable_by_key(|&(_, tick)| tick);
        self.order = held.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_only_a_whole_prefix() {
        let mut index = PrefixIndex::new(10);
        index.touch(&[1, 2, 3]);
        assert_eq!(index.matching(&[1, 2, 9, 3]), 2);
        assert_eq!(index.matching(&[9, 1, 2, 3]), 0);
        assert_eq!(index.matching(&[]), 0);
    }

    #[test]
    fn ends_of_old_prefixes_go_first() {
        let mut index = PrefixIndex::new(4);
        index.touch(&[1, 2, 3]);
        index.touch(&[10, 11]);
        assert_eq!(index.matching(&[1, 2, 3]), 2);
        assert_eq!(index.matching(&[10, 11]), 2);
    }

    #[test]
    fn memory_stays_bounded_whatever_comes() {
        let mut index = PrefixIndex::new(8);
        for round in 0..10_000u64 {
            index.touch(&[round % 3, round % 7, round]);
            assert!(index.len() <= 8);
            assert!(index.order.len() <= 2 * 8 + 16 + 3);
        }
    }

    #[test]
    fn a_hot_block_survives_many_cold_ones() {
        let mut index = PrefixIndex::new(8);
        for round in 0..1000u64 {
            index.touch(&[7, 1000 + round]);
            assert_eq!(index.matching(&[7]), 1);
        }
    }

    #[test]
    fn a_prefix_longer_than_the_index_keeps_its_beginning() {
        let mut index = PrefixIndex::new(4);
        let blocks: Vec<u64> = (0..100).collect();
        index.touch(&blocks);
        assert_eq!(index.matching(&blocks), 4);
    }

    #[test]
    fn an_index_of_capacity_zero_holds_nothing() {
        let mut index = PrefixIndex::new(0);
        index.touch(&[1, 2]);
        assert!(index.is_empty());
    }
}
