//! One engine: a queue, a batch of running sequences, and the steps that serve both.
//!
//! Scheduling is that of vLLM's present engine: running sequences first, in the order of their admission (a token each
//! for those that decode, a chunk of the prompt for those that do not yet), then the queue, first come, first served,
//! as far as the step's token budget, the number of sequences and the KV cache allow.

use crate::blocks::BlockPool;
use crate::timing::{StepLoad, Timing};
use std::collections::VecDeque;
use std::sync::Arc;

/// Settings of an engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineConfig {
    /// How long steps take.
    pub timing: Timing,
    /// Tokens that one step computes at most.
    pub step_tokens: usize,
    /// Sequences that run at once at most.
    pub sequences: usize,
    /// Tokens that the KV cache holds.
    pub kv_tokens: usize,
    /// Tokens of a page, the least that a sequence takes of the KV cache.
    pub page_tokens: usize,
    /// Tokens of a block of a prompt that requests can share (a whole number of pages).
    pub block_tokens: usize,
}

impl Default for EngineConfig {
    /// vLLM with Llama-3.1-8B on an H100 with 80 GB; blocks of 512 tokens, as published traces have them.
    fn default() -> Self {
        EngineConfig {
            timing: Timing::H100_8B,
            step_tokens: 2048,
            sequences: 256,
            kv_tokens: 400_000,
            page_tokens: 16,
            block_tokens: 512,
        }
    }
}

/// A request as an engine sees it.
#[derive(Debug, Clone)]
pub struct Job {
    /// The caller's name for it.
    pub id: u64,
    /// Tokens of the prompt; 0 counts as 1.
    pub prompt: usize,
    /// Tokens of the answer; 0 counts as 1.
    pub answer: usize,
    /// Chained hashes of the prompt's blocks, first block first. A last block that is not full is never shared.
    pub blocks: Arc<[u64]>,
}

/// A job needs more of the KV cache than there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// A token that a step made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// Whose.
    pub id: u64,
    /// Which of the answer, from 0.
    pub index: usize,
    /// It is the answer's last: the job is done.
    pub last: bool,
}

#[derive(Debug, Clone)]
struct Sequence {
    job: Job,
    /// Tokens whose keys and values are computed.
    computed: usize,
    /// Tokens of the answer that are made.
    generated: usize,
    /// Leading blocks of the prompt that it holds as shared ones.
    shared: usize,
    /// Pages that it has alone.
    pages: usize,
    /// Tokens it computes in the step under way.
    planned: usize,
    cancelled: bool,
}

impl Sequence {
    /// Tokens to compute before the next one can be made.
    fn wanted(&self) -> usize {
        self.job.prompt + self.generated
    }

    fn shareable(&self, block_tokens: usize) -> usize {
        self.job.blocks.len().min(self.job.prompt / block_tokens)
    }
}

/// One model server's engine.
#[derive(Debug, Clone)]
pub struct Engine {
    config: EngineConfig,
    cache: BlockPool,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    stepping: bool,
    admitted: Vec<u64>,
    preemptions: u64,
    hit_tokens: u64,
}

impl Engine {
    /// An idle engine with an empty cache.
    pub fn new(config: EngineConfig) -> Self {
        let page = config.page_tokens.max(1);
        let block_pages = (config.block_tokens / page).max(1);
        let config = EngineConfig {
            page_tokens: page,
            block_tokens: block_pages * page,
            step_tokens: config.step_tokens.max(1),
            sequences: config.sequences.max(1),
            ..config
        };
        Engine {
            config,
            cache: BlockPool::new(config.kv_tokens / page, block_pages),
            waiting: VecDeque::new(),
            running: Vec::new(),
            stepping: false,
            admitted: Vec::new(),
            preemptions: 0,
            hit_tokens: 0,
        }
    }

    /// Queue a job. Refused where it could never run.
    pub fn submit(&mut self, job: Job) -> Result<(), Refused> {
        let job = Job {
            prompt: job.prompt.max(1),
            answer: job.answer.max(1),
            ..job
        };
        if self.pages(job.prompt + job.answer) > self.cache.capacity() {
            return Err(Refused);
        }
        self.waiting.push_back(Sequence {
            job,
            computed: 0,
            generated: 0,
            shared: 0,
            pages: 0,
            planned: 0,
            cancelled: false,
        });
        Ok(())
    }

    /// Forget a job: its client went away. One in the step under way leaves at the step's end.
    pub fn cancel(&mut self, id: u64) {
        self.waiting.retain(|sequence| sequence.job.id != id);
        for sequence in &mut self.running {
            sequence.cancelled |= sequence.job.id == id;
        }
        if !self.stepping {
            self.sweep();
        }
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Jobs that run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Jobs that left the queue for the step under way.
    pub fn admitted(&self) -> &[u64] {
        &self.admitted
    }

    /// Share of the KV cache that running jobs hold, 0 to 1.
    pub fn kv_used(&self) -> f64 {
        self.cache.held() as f64 / self.cache.capacity().max(1) as f64
    }

    /// Pages of the KV cache.
    pub fn kv_pages(&self) -> usize {
        self.cache.capacity()
    }

    /// How often a job had to give its pages back and start over.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Prompt tokens that came from the cache.
    pub fn hit_tokens(&self) -> u64 {
        self.hit_tokens
    }

    /// The settings, as they are in force.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// How many tokens at the beginning of a prompt are in the cache.
    pub fn cached_tokens(&self, blocks: &[u64]) -> usize {
        self.cache.matching(blocks) * self.config.block_tokens
    }

    /// Plan the next step and say how many seconds it takes; None where there is nothing to do. The same step goes on
    /// until [`Engine::end_step`].
    pub fn begin_step(&mut self) -> Option<f64> {
        let mut load = StepLoad::default();
        let mut budget = self.config.step_tokens;
        self.admitted.clear();
        let preempted = self.plan_running(&mut budget, &mut load);
        if !preempted {
            self.admit(&mut budget, &mut load);
        }
        self.stepping = load != StepLoad::default();
        if self.stepping {
            Some(self.config.timing.seconds(&load))
        } else {
            None
        }
    }

    /// The step is over: what it made is added to `produced`, in the order of admission.
    pub fn end_step(&mut self, produced: &mut Vec<Produced>) {
        self.stepping = false;
        let mut ended = false;
        for sequence in &mut self.running {
            sequence.computed += sequence.planned;
            let made = sequence.planned > 0 && sequence.computed == sequence.wanted();
            sequence.planned = 0;
            if sequence.cancelled {
                ended = true;
                continue;
            }
            let full = (sequence.computed / self.config.block_tokens).min(sequence.shareable(self.config.block_tokens));
            while sequence.shared < full {
                self.cache.publish(sequence.job.blocks[sequence.shared]);
                sequence.shared += 1;
                sequence.pages -= self.config.block_tokens / self.config.page_tokens;
            }
            if made {
                let index = sequence.generated;
                sequence.generated += 1;
                let last = sequence.generated == sequence.job.answer;
                sequence.cancelled = last;
                ended |= last;
                produced.push(Produced {
                    id: sequence.job.id,
                    index,
                    last,
                });
            }
        }
        if ended {
            self.sweep();
        }
    }

    fn pages(&self, tokens: usize) -> usize {
        (tokens + self.config.page_tokens - 1) / self.config.page_tokens
    }

    /// Give running sequences their tokens. A sequence that finds no page for its next token takes those of the newest
    /// one, which goes back to the queue's head; true where that happened.
    fn plan_running(&mut self, budget: &mut usize, load: &mut StepLoad) -> bool {
        let mut preempted = false;
        let mut at = 0;
        while at < self.running.len() && *budget > 0 {
            let needed = self.missing_pages(&self.running[at]);
            if needed > 0 && !self.cache.take(needed) {
                preempted = true;
                self.preempt_newest();
                continue;
            }
            let sequence = &mut self.running[at];
            sequence.pages += needed;
            plan(sequence, budget, load);
            at += 1;
        }
        preempted
    }

    /// Pages a sequence lacks for everything it has to compute now.
    fn missing_pages(&self, sequence: &Sequence) -> usize {
        let alone = sequence.wanted() - sequence.shared * self.config.block_tokens;
        self.pages(alone).saturating_sub(sequence.pages)
    }

    fn preempt_newest(&mut self) {
        if let Some(mut sequence) = self.running.pop() {
            self.free(&sequence);
            self.preemptions += 1;
            sequence.computed = 0;
            sequence.shared = 0;
            sequence.pages = 0;
            self.waiting.push_front(sequence);
        }
    }

    fn admit(&mut self, budget: &mut usize, load: &mut StepLoad) {
        while *budget > 0 && self.running.len() < self.config.sequences {
            let (shared, pages) = match self.waiting.front() {
                Some(sequence) => {
                    // At least one token is computed, else there is nothing to make the first one from.
                    let most = sequence
                        .shareable(self.config.block_tokens)
                        .min((sequence.wanted() - 1) / self.config.block_tokens);
                    let shared = self.cache.matching(&sequence.job.blocks[..most]);
                    let pages = self.pages(sequence.wanted() - shared * self.config.block_tokens);
                    let taken = self.cache.unheld_pages(&sequence.job.blocks[..shared]);
                    if pages + taken > self.cache.room() {
                        return;
                    }
                    (shared, pages)
                }
                None => return,
            };
            if let Some(mut sequence) = self.waiting.pop_front() {
                for &hash in &sequence.job.blocks[..shared] {
                    self.cache.hold(hash);
                }
                let taken = self.cache.take(pages);
                debug_assert!(taken);
                sequence.shared = shared;
                sequence.pages = pages;
                sequence.computed = shared * self.config.block_tokens;
                self.hit_tokens += sequence.computed as u64;
                plan(&mut sequence, budget, load);
                self.admitted.push(sequence.job.id);
                self.running.push(sequence);
            }
        }
    }

    fn free(&mut self, sequence: &Sequence) {
        self.cache.release(&sequence.job.blocks[..sequence.shared]);
        self.cache.give_back(sequence.pages);
    }

    /// Let ended and cancelled sequences go.
    fn sweep(&mut self) {
        let running = std::mem::take(&mut self.running);
        let (gone, kept): (Vec<Sequence>, Vec<Sequence>) = running.into_iter().partition(|one| one.cancelled);
        for sequence in &gone {
            self.free(sequence);
        }
        self.running = kept;
    }
}

/// Give a sequence its part of a step.
fn plan(sequence: &mut Sequence, budget: &mut usize, load: &mut StepLoad) {
    let tokens = (sequence.wanted() - sequence.computed).min(*budget);
    if tokens == 1 && sequence.generated > 0 {
        load.add_decode(sequence.computed as f64);
    } else {
        load.add_chunk(sequence.computed as f64, tokens as f64);
    }
    sequence.planned = tokens;
    *budget -= tokens;
}

#[cfg(test)]
mod tests;
