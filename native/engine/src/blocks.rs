//! The KV cache: pages that running sequences hold, and blocks of prompts that later requests can share.
//!
//! A block is known by the chained hash of its tokens and all before them. Blocks that nobody holds stay until their
//! room is needed; the least recently used go first, the end of a prompt before its beginning.

use std::collections::{HashMap, VecDeque};

#[derive(Debug, Clone, Copy)]
struct Block {
    holders: u32,
    freed: u64,
}

/// Pages of a KV cache. `block_pages` pages make one shareable block.
#[derive(Debug, Clone)]
pub struct BlockPool {
    capacity: usize,
    block_pages: usize,
    blocks: HashMap<u64, Block>,
    unheld: VecDeque<(u64, u64)>,
    unheld_blocks: usize,
    private: usize,
    clock: u64,
}

impl BlockPool {
    /// An empty cache of `capacity` pages.
    pub fn new(capacity: usize, block_pages: usize) -> Self {
        BlockPool {
            capacity,
            block_pages: block_pages.max(1),
            blocks: HashMap::new(),
            unheld: VecDeque::new(),
            unheld_blocks: 0,
            private: 0,
            clock: 0,
        }
    }

    /// Pages in all.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Pages that running sequences hold.
    pub fn held(&self) -> usize {
        self.private + (self.blocks.len() - self.unheld_blocks) * self.block_pages
    }

    /// Pages that could be given out, were every block that nobody holds dropped.
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.held())
    }

    /// How many leading blocks of `hashes` are here.
    pub fn matching(&self, hashes: &[u64]) -> usize {
        hashes.iter().take_while(|hash| self.blocks.contains_key(hash)).count()
    }

    /// Pages of room that holding these blocks, which are here, would take away.
    pub fn unheld_pages(&self, hashes: &[u64]) -> usize {
        let unheld = |hash: &&u64| self.blocks.get(hash).map_or(false, |block| block.holders == 0);
        hashes.iter().filter(unheld).count() * self.block_pages
    }

    /// Hold one of the blocks that are here.
    pub fn hold(&mut self, hash: u64) {
        if let Some(block) = self.blocks.get_mut(&hash) {
            if block.holders == 0 {
                self.unheld_blocks -= 1;
            }
            block.holders += 1;
        }
    }

    /// Let go of blocks, the first block of a prompt first in `hashes`. They stay for others to share.
    pub fn release(&mut self, hashes: &[u64]) {
        for &hash in hashes.iter().rev() {
            if let Some(block) = self.blocks.get_mut(&hash) {
                block.holders -= 1;
                if block.holders == 0 {
                    self.clock += 1;
                    block.freed = self.clock;
                    self.unheld_blocks += 1;
                    self.unheld.push_back((hash, self.clock));
                }
            }
        }
        if self.unheld.len() > 2 * self.unheld_blocks + 64 {
            let blocks = &self.blocks;
            self.unheld.retain(|(hash, freed)| is_unheld(blocks, *hash, *freed));
        }
    }

    /// Take `pages` for one sequence alone. False, and nothing taken, where there is no room.
    pub fn take(&mut self, pages: usize) -> bool {
        if pages > self.room() {
            return false;
        }
        self.private += pages;
        self.evict();
        true
    }

    /// Give back pages of one sequence.
    pub fn give_back(&mut self, pages: usize) {
        self.private = self.private.saturating_sub(pages);
    }

    /// A block's pages, taken by one sequence, are computed: from now on they are a block to share, held once.
    pub fn publish(&mut self, hash: u64) {
        self.give_back(self.block_pages);
        let block = self.blocks.entry(hash).or_insert(Block { holders: 0, freed: 0 });
        if block.holders == 0 && block.freed > 0 {
            self.unheld_blocks -= 1; // it was computed before, and is one copy again
        }
        block.holders += 1;
    }

    /// Drop blocks that nobody holds, oldest first, until everything fits.
    fn evict(&mut self) {
        while self.private + self.blocks.len() * self.block_pages > self.capacity {
            match self.unheld.pop_front() {
                Some((hash, freed)) => {
                    if is_unheld(&self.blocks, hash, freed) {
                        let _ = self.blocks.remove(&hash);
                        self.unheld_blocks -= 1;
                    }
                }
                None => return,
            }
        }
    }
}

fn is_unheld(blocks: &HashMap<u64, Block>, hash: u64, freed: u64) -> bool {
    blocks
        .get(&hash)
        .map_or(false, |block| block.holders == 0 && block.freed == freed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compute(pool: &mut BlockPool, hashes: &[u64]) {
        assert!(pool.take(hashes.len() * 2));
        for &hash in hashes {
            pool.publish(hash);
        }
    }

    #[test]
    fn released_blocks_stay_until_room_is_needed_and_ends_go_first() {
        let mut pool = BlockPool::new(8, 2);
        compute(&mut pool, &[1, 2, 3]);
        pool.release(&[1, 2, 3]);
        assert_eq!((pool.room(), pool.matching(&[1, 2, 3])), (8, 3));
        assert!(pool.take(4));
        assert_eq!(pool.matching(&[1, 2, 3]), 2);
        assert!(!pool.take(5));
        assert_eq!(pool.matching(&[1, 2, 3]), 2);
    }

    #[test]
    fn held_blocks_are_never_dropped() {
        let mut pool = BlockPool::new(8, 2);
        compute(&mut pool, &[1, 2]);
        pool.hold(1);
        pool.release(&[1, 2]);
        assert_eq!(pool.held(), 2);
        assert_eq!(pool.unheld_pages(&[1, 2]), 2);
        assert!(pool.take(6));
        assert_eq!(pool.matching(&[1, 2]), 1);
        assert!(!pool.take(1));
    }

    #[test]
    fn the_same_block_computed_twice_is_kept_once() {
        let mut pool = BlockPool::new(8, 2);
        compute(&mut pool, &[1]);
        compute(&mut pool, &[1]);
        assert_eq!(pool.held(), 2);
        pool.release(&[1]);
        assert_eq!(pool.held(), 2);
        pool.release(&[1]);
        assert_eq!(pool.held(), 0);
    }

    #[test]
    fn books_balance_and_memory_is_bounded_whatever_comes() {
        let mut pool = BlockPool::new(40, 2);
        let mut held: Vec<Vec<u64>> = Vec::new();
        for round in 0..20_000u64 {
            let hashes: Vec<u64> = (0..=(round % 5)).map(|at| at * 100 + round % (7 + at)).collect();
            if pool.take(hashes.len() * 2) {
                for &hash in &hashes {
                    pool.publish(hash);
                }
                held.push(hashes);
            }
            if held.len() > 3 {
                let old = held.remove((round % 3) as usize);
                pool.release(&old);
            }
            assert!(pool.held() <= 40 && pool.blocks.len() * 2 <= 40);
            assert!(pool.unheld.len() <= 2 * 20 + 64);
        }
        for hashes in held {
            pool.release(&hashes);
        }
        assert_eq!(pool.room(), 40);
    }
}
