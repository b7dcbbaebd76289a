//! The requests that are under way, by the number that the filter gives each: so the load-balancing policy, which sees
//! only headers, finds what the filter learned from the body, and tells it what it picked.
//!
//! An entry lives as long as its stream: the filter's guard takes it out when Envoy destroys the stream.

use crate::abi::callbacks::Waker;
use crate::admission;
use crate::clock;
use crate::limits::Deadline;
use crate::pools::{locked, PoolState};
use crate::request::Api;
use scheduler::admission::Event;
use scheduler::{Pick, Reason};
use std::collections::hash_map::RandomState;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What the filter knows of a request.
#[derive(Debug)]
pub struct Facts {
    /// The request's number.
    pub id: u64,
    /// The pool that its route leads to.
    pub pool: Arc<PoolState>,
    /// The cluster that its route names.
    pub cluster: String,
    /// Estimated tokens of its prompt.
    pub tokens: f64,
    /// Hashes of its prompt's blocks.
    pub blocks: Vec<u64>,
    /// Hash of its session.
    pub session: Option<u64>,
    /// Hash of the model's name that it asks for.
    pub model: Option<u64>,
    /// What the policy did with it.
    pub sent: Mutex<Sent>,
    /// When its time is over.
    pub deadline: Deadline,
    /// What the gate decided, once it was held.
    pub verdict: Mutex<Option<Event>>,
    /// Wakes its stream, if it may have to be woken.
    pub waker: Option<Waker>,
    /// Which API it is of.
    pub api: Option<Api>,
    /// Its answer will come whole, so nobody sees its first token.
    pub silent: bool,
    /// It may be sent again while nothing of an answer has reached the client.
    pub resend: bool,
    /// Answers that began, of all attempts.
    pub begun: AtomicU32,
}

/// What the policy did with a request.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    /// Endpoints that it was sent to, in order.
    pub tried: Vec<u64>,
    /// Address of the last one.
    pub address: String,
    /// When it was sent there.
    pub at: f64,
    /// Why there, and what was expected.
    pub pick: Option<Pick>,
}

impl Facts {
    /// Has Envoy call the stream's `scheduled` hook.
    pub fn wake(&self, event: u64) {
        if let Some(waker) = &self.waker {
            waker.wake(event);
        }
    }

    /// Whether answers of two endpoints began, so that it must not be sent once more.
    pub fn is_spent(&self) -> bool {
        self.begun.load(Ordering::Relaxed) >= 2
    }

    /// Note a pick.
    pub fn note(&self, pick: Pick, address: String, at: f64) {
        let mut sent = locked(&self.sent);
        sent.tried.push(pick.endpoint);
        sent.address = address;
        sent.at = at;
        sent.pick = Some(pick);
    }
}

/// The word for a reason, in headers, metadata and statistics.
pub fn reason_word(reason: Reason) -> &'static str {
    match reason {
        Reason::Prefix => "prefix",
        Reason::Load => "load",
        Reason::Turn => "turn",
        Reason::Session => "session",
        Reason::Only => "only",
    }
}

type Shard = Mutex<Option<HashMap<u64, Arc<Facts>>>>;
const SHARDS: usize = 16;
#[allow(clippy::declare_interior_mutable_const)]
const EMPTY: Shard = Mutex::new(None);
static REQUESTS: [Shard; SHARDS] = [EMPTY; SHARDS];
static LAST: AtomicU64 = AtomicU64::new(0);
static SECRET: Mutex<Option<RandomState>> = Mutex::new(None);

thread_local! {
    static OWN_SECRET: RandomState = locked(&SECRET).get_or_insert_with(RandomState::new).clone();
}

/// A number that no client can guess, so none can speak of another's request.
pub fn new_id() -> u64 {
    let mut hasher = OWN_SECRET.with(RandomState::build_hasher);
    hasher.write_u64(LAST.fetch_add(1, Ordering::Relaxed));
    hasher.finish()
}

fn shard(id: u64) -> &'static Shard {
    &REQUESTS[id as usize % SHARDS]
}

/// The facts of a request under way.
pub fn find(id: u64) -> Option<Arc<Facts>> {
    locked(shard(id)).as_ref()?.get(&id).cloned()
}

/// Keeps a request in the table, and takes it out of everything when it goes.
#[derive(Debug)]
pub struct Entry {
    facts: Arc<Facts>,
}

impl Entry {
    /// Enters a request.
    pub fn new(facts: Facts) -> Self {
        let facts = Arc::new(facts);
        let _ = locked(shard(facts.id))
            .get_or_insert_with(HashMap::new)
            .insert(facts.id, facts.clone());
        Entry { facts }
    }

    /// What is known of it.
    pub fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(requests) = locked(shard(self.facts.id)).as_mut() {
            let _ = requests.remove(&self.facts.id);
        }
        self.facts.pool.finish(self.facts.id, clock::now());
        admission::leave(&self.facts.pool, self.facts.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pools::{pool_of, Wanted};
    use crate::settings::{PoolSettings, Timeouts};

    #[test]
    fn a_request_is_found_until_its_entry_goes_and_leaves_no_trace() {
        let pool = pool_of(PoolSettings::parse(br#"{"pool":"entries"}"#).unwrap());
        pool.join("c");
        pool.set_endpoints("c", vec![1], 0.0);
        let id = new_id();
        let entry = Entry::new(Facts {
            id,
            pool: pool.clone(),
            cluster: "c".to_string(),
            tokens: 5.0,
            blocks: vec![1],
            session: None,
            model: None,
            sent: Mutex::new(Sent::default()),
            deadline: Deadline::new(Timeouts::default(), 0.0),
            verdict: Mutex::new(None),
            waker: None,
            api: None,
            silent: false,
            resend: false,
            begun: AtomicU32::new(0),
        });
        let facts = find(id).unwrap();
        let wanted = Wanted {
            id,
            tokens: facts.tokens,
            blocks: &facts.blocks,
            session: None,
            model: None,
            tried: &[],
            absent: &[],
        };
        let pick = pool.dispatch(&wanted, 1.0, 0.5).unwrap();
        facts.note(pick, "address".to_string(), 1.0);
        assert_eq!(locked(&facts.sent).tried, [1]);
        assert_eq!(pool.in_flight(), 1);
        drop(entry);
        assert!(find(id).is_none());
        assert_eq!(pool.in_flight(), 0);
    }

    #[test]
    fn numbers_do_not_repeat() {
        let numbers: std::collections::HashSet<u64> = (0..10_000).map(|_| new_id()).collect();
        assert_eq!(numbers.len(), 10_000);
    }
}
