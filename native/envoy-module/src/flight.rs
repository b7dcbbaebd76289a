//! A request that asked to go, until it is over: where it stands, what its answer brought, how it fared. For
//! [`crate::stream`].

use crate::abi::callbacks::Pieces;
use crate::account::Account;
use crate::admission;
use crate::answer::{Events, Usage, Whole};
use crate::clock;
use crate::inflate::Inflate;
use crate::limits;
use crate::pools::locked;
use crate::request::Api;
use crate::requests::{reason_word, Entry};

/// Where a request stands that asked to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standpoint {
    Held,
    Sent,
    Refused,
}

#[derive(Debug)]
pub struct Flight {
    pub entry: Entry,
    pub api: Option<Api>,
    pub arrived: f64,
    pub queued: f64,
    pub standpoint: Standpoint,
    pub model: String,
    /// Whether it asks for a stream, where its body was understood.
    pub streams: Option<bool>,
    pub usage_injected: bool,
    pub answer: Answer,
    pub inflate: Option<Box<Inflate>>,
    pub answered: bool,
    pub first_token: Option<f64>,
    pub last_token: f64,
    pub ended: bool,
    pub outcome: &'static str,
}

#[derive(Debug)]
pub enum Answer {
    None,
    Events(Events),
    Whole(Whole),
}

/// What a piece of an answer brought.
pub struct Seen {
    pub rewrites: bool,
    pub gap: Option<f64>,
}

impl Flight {
    pub fn hear(&mut self, pieces: Pieces<'_>, end: bool, now: f64, out: &mut Vec<u8>) -> Seen {
        let mut seen = Seen {
            rewrites: false,
            gap: None,
        };
        let mut tokens = 0;
        for piece in pieces.iter() {
            let piece = match &mut self.inflate {
                Some(inflate) => inflate.feed(piece),
                None => piece,
            };
            match &mut self.answer {
                Answer::None => {}
                Answer::Whole(whole) => whole.feed(piece),
                Answer::Events(events) => tokens += events.feed(piece, out),
            }
        }
        if let Answer::Events(events) = &mut self.answer {
            seen.rewrites = events.rewrites();
            if end {
                events.end(out);
            }
        }
        if tokens > 0 {
            seen.gap = self.token(now);
        }
        if end {
            self.complete();
        }
        seen
    }

    /// A token came; seconds since the one before.
    pub fn token(&mut self, now: f64) -> Option<f64> {
        let facts = self.entry.facts();
        limits::token(facts, now);
        let gap = now - self.last_token;
        self.last_token = now;
        if self.first_token.is_some() {
            facts.pool.token(facts.id, now);
            return Some(gap);
        }
        self.first_token = Some(now);
        facts.pool.first_token(facts.id, now);
        None
    }

    /// The whole answer passed.
    pub fn complete(&mut self) {
        if self.outcome == "reset" {
            self.outcome = "ok";
            if self.first_token.is_none() {
                let facts = self.entry.facts();
                if self.api == Some(Api::Embeddings) {
                    facts.pool.first_token(facts.id, clock::now()); // there is nothing but the prompt to compute
                } else {
                    facts.pool.answered(facts.id, clock::now());
                }
            }
        }
        self.end();
    }

    /// The request is over: out of the books, others may go.
    pub fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            if self.standpoint == Standpoint::Held && self.outcome == "reset" {
                self.outcome = "left";
            }
            let facts = self.entry.facts();
            facts.pool.finish(facts.id, clock::now());
            admission::leave(&facts.pool, facts.id);
        }
    }

    pub fn account(&self) -> Account {
        let facts = self.entry.facts();
        let sent = locked(&facts.sent).clone();
        let (usage, seen) = match &self.answer {
            Answer::None => (Usage::default(), 0),
            Answer::Whole(whole) => (whole.usage(), 0),
            Answer::Events(events) => (events.usage, events.tokens),
        };
        Account {
            pool: facts.pool.name().to_string(),
            model: self.model.clone(),
            reason: sent.pick.map_or("", |pick| reason_word(pick.reason)),
            endpoint: sent.address,
            attempts: sent.tried.len(),
            queued: self.queued,
            first_token: self.first_token.map(|at| at - self.arrived),
            predicted: sent.pick.map_or(0.0, |pick| pick.predicted),
            estimated: facts.tokens,
            cached: sent.pick.map_or(0.0, |pick| pick.cached_tokens),
            usage,
            seen,
            outcome: self.outcome,
            redirected_from: String::new(),
        }
    }
}
