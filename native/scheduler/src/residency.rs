//! What an endpoint's KV cache holds, mirrored from what was sent there: blocks that requests in flight hold or wait
//! for, blocks that nobody holds any more but that are still there, and what each request has alone.
//!
//! Hashes are chained (each one covers all blocks before it), so a block can only match where its whole prefix does.
//! Engines admit in the order of arrival, so a request's room counts as taken when it is sent. The mirror forgets as
//! engines do: what nobody holds goes when its room is needed, least recently released first, the end of a prompt
//! before its beginning.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// Blocks are hashes already: multiplying spreads those that are small numbers. (Who sends prompts must not be able to
/// foresee them; the caller's hashes begin with a secret.)
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spread(u64);

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

/// A map by block.
pub(crate) type ByBlock<T> = HashMap<u64, T, BuildHasherDefault<Spread>>;

#[derive(Debug, Clone, Copy)]
struct Block {
    /// Requests in flight that use it.
    holders: u32,
    /// Its place in prompts, from 0.
    place: u32,
    /// One of them computed it: it stays when they end.
    computed: bool,
    released: u64,
    /// The last request in flight that uses it.
    last: u64,
}

/// A request in flight.
#[derive(Debug, Clone, Copy)]
struct Sent {
    number: u64,
    /// Blocks that no later request uses.
    blocks: usize,
    /// Tokens in no block.
    private: f64,
}

/// A block that nobody holds, since when.
#[derive(Debug, Clone, Copy)]
struct Idle {
    block: u64,
    released: u64,
    since: f64,
}

/// A block that was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) block: u64,
    /// Its place in prompts, from 0.
    pub(crate) place: u32,
}

/// One endpoint's cache, as far as it can be known from here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Residency {
    blocks: ByBlock<Block>,
    idle: VecDeque<Idle>,
    idle_count: usize,
    private: f64,
    releases: u64,
    sent: VecDeque<Sent>,
    sends: u64,
    dropped: Vec<Dropped>,
}

/// The size of a cache: its tokens, the tokens of a block, and how many blocks are remembered at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheSize {
    pub(crate) tokens: f64,
    pub(crate) block_tokens: f64,
    pub(crate) most_blocks: usize,
}

impl CacheSize {
    /// How many blocks there is room for beside `private` tokens.
    fn blocks(&self, private: f64) -> usize {
        let room = ((self.tokens - private) / self.block_tokens.max(1.0)).max(0.0) as usize;
        room.min(self.most_blocks)
    }
}

impl Residency {
    /// How many leading blocks of a prompt are there, or will be.
    pub(crate) fn matching(&self, blocks: &[u64]) -> usize {
        blocks
            .iter()
            .take_while(|block| self.blocks.contains_key(block))
            .count()
    }

    /// How many leading blocks of a prompt will be there by the time a request sent now is admitted. Where requests in
    /// flight need more room than there is, each takes the room of those before it: what was used last stays.
    pub(crate) fn surviving(&self, blocks: &[u64], size: CacheSize) -> usize {
        let matching = self.matching(blocks);
        if self.claimed_tokens(size.block_tokens) <= size.tokens {
            return matching;
        }
        let (mut at, mut newer) = (self.sent.len(), 0.0);
        let (mut user, mut room) = (u64::MAX, 0.0);
        for (kept, block) in blocks[..matching].iter().enumerate() {
            let last = self.blocks.get(block).map_or(0, |entry| entry.last);
            if last < user {
                // Whoever uses a block uses those before it: users get older along a prompt. Beyond a full cache it does
                // not matter how many more are newer.
                user = last;
                while at > 0 && newer <= size.tokens && self.sent[at - 1].number > user {
                    at -= 1;
                    newer += self.sent[at].blocks as f64 * size.block_tokens + self.sent[at].private;
                }
                room = (size.tokens - newer) / size.block_tokens.max(1.0);
            }
            room -= 1.0;
            if room < 0.0 {
                return kept;
            }
        }
        matching
    }

    /// How many blocks of a prompt no request in flight uses: room for them must be found.
    pub(crate) fn unclaimed(&self, blocks: &[u64]) -> usize {
        let claimed = |block: &&u64| self.blocks.get(block).map_or(false, |entry| entry.holders > 0);
        blocks.len() - blocks.iter().take_while(claimed).count()
    }

    /// Tokens that requests in flight hold or wait for, which nothing can take from them.
    pub(crate) fn claimed_tokens(&self, block_tokens: f64) -> f64 {
        (self.blocks.len() - self.idle_count) as f64 * block_tokens + self.private
    }

    /// Blocks that nobody holds and that would have to go for `tokens` more.
    pub(crate) fn evictions(&self, tokens: f64, size: CacheSize) -> f64 {
        let needed = self.blocks.len() as f64 + tokens / size.block_tokens.max(1.0);
        (needed - size.blocks(self.private) as f64).clamp(0.0, self.idle_count as f64)
    }

    /// Seconds for which nobody held the block that would go first; 0 where there is none.
    pub(crate) fn oldest(&self, now: f64) -> f64 {
        self.idle.front().map_or(0.0, |one| (now - one.since).max(0.0))
    }

    /// What was dropped since this was asked last.
    pub(crate) fn take_dropped(&mut self) -> Vec<Dropped> {
        std::mem::take(&mut self.dropped)
    }

    /// A request was sent there, `private` tokens of it in no block. Returns the number to end it with.
    pub(crate) fn sent(&mut self, blocks: &[u64], private: f64, size: CacheSize) -> u64 {
        self.sends += 1;
        let number = self.sends;
        self.sent.push_back(Sent {
            number,
            blocks: blocks.len(),
            private,
        });
        for (place, &block) in blocks.iter().enumerate() {
            let entry = self.blocks.entry(block).or_insert(Block {
                holders: 0,
                place: place as u32,
                computed: false,
                released: 0,
                last: number,
            });
            if entry.holders > 0 {
                if let Ok(at) = self.sent.binary_search_by_key(&entry.last, |one| one.number) {
                    self.sent[at].blocks -= 1;
                }
            } else if entry.computed {
                self.idle_count -= 1;
            }
            entry.holders += 1;
            entry.last = number;
        }
        self.private += private;
        self.evict(size);
        number
    }

    /// The request's prompt is computed.
    pub(crate) fn computed(&mut self, blocks: &[u64]) {
        for block in blocks {
            if let Some(entry) = self.blocks.get_mut(block) {
                entry.computed = true;
            }
        }
    }

    /// The request called `number` ended; its blocks that were computed stay until their room is needed.
    pub(crate) fn ended(&mut self, number: u64, blocks: &[u64], size: CacheSize, now: f64) {
        let private = match self.sent.binary_search_by_key(&number, |one| one.number) {
            Ok(at) => self.sent.remove(at).map_or(0.0, |one| one.private),
            Err(_) => return,
        };
        for &block in blocks.iter().rev() {
            if let Some(entry) = self.blocks.get_mut(&block) {
                entry.holders = entry.holders.saturating_sub(1);
                if entry.holders == 0 && entry.computed {
                    self.releases += 1;
                    entry.released = self.releases;
                    self.idle_count += 1;
                    self.idle.push_back(Idle {
                        block,
                        released: self.releases,
                        since: now,
                    });
                } else if entry.holders == 0 {
                    let _ = self.blocks.remove(&block);
                }
            }
        }
        self.private = if self.sent.is_empty() {
            0.0
        } else {
            (self.private - private).max(0.0)
        };
        self.evict(size);
        if self.idle.len() > 2 * self.idle_count + 64 {
            let blocks = &self.blocks;
            self.idle.retain(|one| is_idle(blocks, one));
        }
    }

    /// Drop blocks that nobody holds, the longest released first, until everything fits.
    fn evict(&mut self, size: CacheSize) {
        let most = size.blocks(self.private);
        while self.blocks.len() > most {
            match self.idle.pop_front() {
                Some(one) => {
                    if is_idle(&self.blocks, &one) {
                        self.idle_count -= 1;
                        if let Some(entry) = self.blocks.remove(&one.block) {
                            self.dropped.push(Dropped {
                                block: one.block,
                                place: entry.place,
                            });
                        }
                    }
                }
                None => return,
            }
        }
    }
}

fn is_idle(blocks: &ByBlock<Block>, one: &Idle) -> bool {
    blocks
        .get(&one.block)
        .map_or(false, |entry| entry.holders == 0 && entry.released == one.released)
}

#[cfg(test)]
mod tests;
