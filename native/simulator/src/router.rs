//! A router: who gets the next request. Either the scheduler that runs live, or a comparator.

use crate::comparators::{Gie, TokenAware};
use crate::forecast::Truth;
use scheduler::{Observed, Policy, Pool, PoolConfig, Request};

/// How a router chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The scheduler that runs live, with one of its policies.
    Live(Policy),
    /// The default of the Gateway API Inference Extension: scraped queue and KV use, and its own prefix index.
    Gie,
    /// llm-d's token-aware choice.
    TokenAware,
    /// Perfect information: every engine's present state rolled forward to the request's first token, the soonest wins.
    Greedy,
}

/// Settings of routers.
#[derive(Debug, Clone, Copy)]
pub struct RouterConfig {
    /// How to choose.
    pub choice: Choice,
    /// Seconds between two looks at the engines' metrics, for choices that use them.
    pub scrape: f64,
    /// Settings of the live scheduler (its policy is that of `choice`).
    pub pool: PoolConfig,
}

/// What an engine's metrics said when they were last read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Scraped {
    pub(crate) waiting: usize,
    pub(crate) running: usize,
    pub(crate) kv_used: f64,
}

/// A request as a router sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) id: u64,
    pub(crate) tokens: f64,
    pub(crate) blocks: &'a [u64],
}

#[derive(Debug, Clone)]
enum Mind {
    Live(Box<Pool>),
    Gie(Gie),
    TokenAware(TokenAware),
    Greedy,
}

/// One router and what it knows. It sees what it sent, first tokens and ends; nothing of other routers.
#[derive(Debug, Clone)]
pub(crate) struct Router {
    mind: Mind,
    correct: bool,
}

impl Router {
    /// `correct`: there are other routers, so that metrics tell the live scheduler what they sent.
    pub(crate) fn new(config: &RouterConfig, workers: usize, kv_tokens: usize, correct: bool) -> Self {
        let blocks = (kv_tokens as f64 / config.pool.block_tokens) as usize;
        let mind = match config.choice {
            Choice::Live(policy) => {
                let mut pool = Pool::new(PoolConfig { policy, ..config.pool });
                let names: Vec<u64> = (0..workers as u64).collect();
                pool.set_endpoints(&names, 0.0);
                for &name in &names {
                    pool.observe(name, Observed::default(), Some(kv_tokens as f64));
                }
                Mind::Live(Box::new(pool))
            }
            Choice::Gie => Mind::Gie(Gie::new(workers, blocks)),
            Choice::TokenAware => Mind::TokenAware(TokenAware::new(workers, blocks, config.pool.block_tokens)),
            Choice::Greedy => Mind::Greedy,
        };
        Router { mind, correct }
    }

    /// Metrics were read.
    pub(crate) fn scraped(&mut self, scraped: &[Scraped]) {
        match &mut self.mind {
            Mind::Gie(gie) => gie.scraped(scraped),
            Mind::Live(pool) if self.correct => {
                for (name, one) in scraped.iter().enumerate() {
                    let observed = Observed {
                        waiting: one.waiting as f64,
                        running: one.running as f64,
                        kv_used: one.kv_used,
                    };
                    pool.observe(name as u64, observed, None);
                }
            }
            _ => {}
        }
    }

    /// The worker for a request, which is sent there.
    pub(crate) fn send(&mut self, seen: &Seen<'_>, now: f64, random: f64, truth: &mut Truth<'_>) -> usize {
        match &mut self.mind {
            Mind::Live(pool) => {
                let request = Request {
                    tokens: seen.tokens,
                    blocks: seen.blocks,
                    ..Request::default()
                };
                let name = pool.pick(&request, now, random).map_or(0, |pick| pick.endpoint);
                pool.start(seen.id, name, &request, now);
                name as usize
            }
            Mind::Gie(gie) => gie.send(seen, random),
            Mind::TokenAware(aware) => aware.send(seen, random),
            Mind::Greedy => truth.soonest(now),
        }
    }

    pub(crate) fn first_token(&mut self, id: u64, now: f64) {
        match &mut self.mind {
            Mind::Live(pool) => pool.first_token(id, now),
            Mind::TokenAware(aware) => aware.first_token(id),
            _ => {}
        }
    }

    /// A token that is not an answer's first.
    pub(crate) fn token(&mut self, id: u64, now: f64) {
        if let Mind::Live(pool) = &mut self.mind {
            pool.token(id, now);
        }
    }

    pub(crate) fn finish(&mut self, id: u64, now: f64) {
        if let Mind::Live(pool) = &mut self.mind {
            pool.finish(id, now);
        }
    }
}
