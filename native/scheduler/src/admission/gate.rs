//! The gate: it lets in, holds, releases and refuses.

mod prospects;

use super::config::{Arrival, Decision, Event, GateConfig, Refusal, RefusalReason};
use super::estimate::RunTime;
use super::fair::whole_weight;
use super::moment::Moment;
use super::news::News;
use super::queue::{Queue, Ticket};
use super::rate::Bucket;
use super::rooms::{Room, Rooms};
use std::collections::HashMap;

/// Decides who may go to one pool. Bounded memory: at most `queue.depth` tickets wait, and as many run as the caller
/// has let run; events are kept until they are polled.
#[derive(Debug, Clone)]
pub struct Gate {
    config: GateConfig,
    bucket: Option<Bucket>,
    endpoints: u32,
    stranded: u32,
    rooms: Rooms,
    queue: Queue,
    running: HashMap<u64, Running>,
    news: News,
    run_time: RunTime,
    promised: Moment,
    now: Moment,
}

/// What a gate holds at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Requests that wait.
    pub waiting: usize,
    /// Tokens of their prompts.
    pub waiting_tokens: u64,
    /// Requests that run.
    pub running: usize,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    since: Moment,
    group: u64,
    /// Its endpoint is known, and a place there is no longer free.
    placed: bool,
}

/// No prompt counts as more tokens than this.
const MOST_TOKENS: f64 = 1e12;

impl Gate {
    /// A gate with nothing in it, before a pool of so many endpoints.
    pub fn new(config: GateConfig, endpoints: u32, now: f64) -> Self {
        let now = Moment::at(now);
        Gate {
            config,
            bucket: config.rate.map(|rate| Bucket::new(rate, now)),
            endpoints,
            stranded: 0,
            rooms: Rooms::default(),
            queue: Queue::default(),
            running: HashMap::new(),
            news: News::default(),
            run_time: RunTime::new(config.expected_run),
            promised: now,
            now,
        }
    }

    /// Other settings from now on. What waits keeps its place, even where fewer may wait now, and goes as soon as the
    /// new rate and concurrency let it. Nobody waits longer than the new bound from now on.
    pub fn configure(&mut self, config: GateConfig, now: f64) {
        self.advance(now);
        match (&mut self.bucket, config.rate) {
            (Some(bucket), Some(rate)) => bucket.change(rate, self.now),
            (bucket, rate) => *bucket = rate.map(|rate| Bucket::new(rate, self.now)),
        }
        self.config = config;
        let latest = self.now.after(config.queue.wait);
        self.queue.retime(latest, config.starvation, config.highest_priority);
        self.settle();
    }

    /// The pool has so many endpoints from now on. With none, arrivals are refused at once, and what waits goes on
    /// waiting for one.
    pub fn set_endpoints(&mut self, endpoints: u32, now: f64) {
        self.set_capacity(endpoints, self.stranded, now);
    }

    /// The same, and so many of the requests that run do so where nothing is sent any more (an endpoint that drains, or
    /// is gone): they take no place of the endpoints that are there. When such a request ends, tell this first.
    pub fn set_capacity(&mut self, endpoints: u32, stranded: u32, now: f64) {
        self.advance(now);
        self.endpoints = endpoints;
        self.stranded = stranded;
        self.settle();
    }

    /// Groups of requests that can go to some of the endpoints only, and how much room there is for them now. Those that
    /// are not named have no bounds of their own. Tell it whenever a place became free.
    pub fn set_rooms(&mut self, rooms: impl IntoIterator<Item = (u64, Room)>, now: f64) {
        self.advance(now);
        self.rooms.set(rooms);
        self.settle();
    }

    /// A request that runs has come to its endpoint, and `rooms` is what is left. Until then a place is kept for it.
    pub fn placed(&mut self, id: u64, rooms: impl IntoIterator<Item = (u64, Room)>, now: f64) {
        self.advance(now);
        if let Some(running) = self.running.get_mut(&id).filter(|running| !running.placed) {
            running.placed = true;
            self.rooms.arrived(running.group);
        }
        self.rooms.set(rooms);
        self.settle();
    }

    /// The pool is gone: what waits is refused. It may come back.
    pub fn close(&mut self, now: f64) {
        self.advance(now);
        self.endpoints = 0;
        while let Some(ticket) = self.queue.pop(self.now, self.config.highest_priority, |_| true) {
            self.refuse(&ticket, RefusalReason::NoEndpoint);
        }
    }

    /// A request asks to be let in.
    pub fn arrive(&mut self, arrival: &Arrival, now: f64) -> Decision {
        self.advance(now);
        let id = arrival.id;
        if self.queue.contains(id) || self.running.contains_key(&id) || self.news.contains(id) {
            return reject(RefusalReason::Duplicate, None);
        }
        if self.endpoints == 0 {
            return reject(RefusalReason::NoEndpoint, None);
        }
        let spare = arrival
            .deadline
            .filter(|deadline| !deadline.is_nan())
            .map(|deadline| deadline - not_negative(arrival.prefill));
        if spare.map_or(false, |spare| spare < 0.0) {
            return reject(RefusalReason::Deadline, None);
        }
        if !self.somebody_could_go() && self.rooms.open(arrival.group) && self.has_slot() && self.pass() {
            self.begin(id, arrival.group);
            return Decision::Admit;
        }
        self.hold(arrival, spare)
    }

    /// What has happened to requests that were held, in order, each told once. Call it after every other call, and at
    /// [`Gate::next_wake`].
    pub fn poll(&mut self, now: f64) -> Vec<Event> {
        self.advance(now);
        self.news.take()
    }

    /// A request's client has gone away: if it waits, its place is free; if it runs (or is being released), it ended.
    pub fn leave(&mut self, id: u64, now: f64) {
        self.advance(now);
        self.news.forget(id);
        if self.queue.remove(id).is_none() {
            self.end(id);
        }
        self.settle();
    }

    /// A request that was let in has ended, whatever way. What it does not know is ignored.
    pub fn finished(&mut self, id: u64, now: f64) {
        self.leave(id, now);
    }

    /// When to poll if nothing else happens before: never earlier than `now`; None where there is nothing to wait for.
    pub fn next_wake(&self, now: f64) -> Option<f64> {
        let now = Moment::at(now).max(self.now);
        if !self.news.is_empty() {
            return Some(now.seconds());
        }
        let expiry = self.queue.first_expiry().map_or(Moment::NEVER, |(at, _)| at);
        match self.next_release().min(expiry) {
            Moment::NEVER => None,
            moment => Some(moment.max(now).seconds()),
        }
    }

    /// What waits and runs.
    pub fn load(&self) -> Load {
        Load {
            waiting: self.queue.len(),
            waiting_tokens: self.queue.tokens(),
            running: self.running.len(),
        }
    }

    fn hold(&mut self, arrival: &Arrival, spare: Option<f64>) -> Decision {
        let ticket = self.ticket(arrival, spare);
        if let Err(reason) = self.has_room(&ticket) {
            let retry_after = match reason {
                RefusalReason::TenantFull => self.tenant_retry_after(&ticket),
                _ => self.retry_after(ticket.group),
            };
            return reject(reason, retry_after);
        }
        let ahead = self.ahead(ticket.priority, ticket.group, ticket.tenant, ticket.weight);
        let predicted = self.outlook(ticket.group).wait(ahead);
        if let Some(too_long) = spare.map(|spare| predicted - spare).filter(|&too_long| too_long > 0.0) {
            let retry_after = Some(too_long.min(self.config.longest_retry)).filter(|_| predicted.is_finite());
            return reject(RefusalReason::Deadline, retry_after);
        }
        self.make_room(&ticket);
        self.queue.push(ticket);
        Decision::Hold { predicted }
    }

    fn ticket(&self, arrival: &Arrival, spare: Option<f64>) -> Ticket {
        let config = &self.config;
        let tokens = not_negative(arrival.tokens).min(MOST_TOKENS);
        let cost = config.request_cost + config.token_cost * tokens;
        let timeout = self.now.after(config.queue.wait);
        let useless = spare.map_or(Moment::NEVER, |spare| self.now.after(spare));
        let (expires, then) = if useless < timeout {
            (useless, RefusalReason::Deadline)
        } else {
            (timeout, RefusalReason::QueueTimeout)
        };
        let priority = arrival.priority.min(config.highest_priority);
        Ticket {
            id: arrival.id,
            tenant: arrival.tenant,
            weight: whole_weight(arrival.weight),
            group: arrival.group,
            priority,
            tokens: tokens as u64,
            cost: (not_negative(cost).min(MOST_TOKENS) as u64).max(1),
            burst: config.tenant_burst,
            arrived: self.now,
            expires,
            then,
            rises: if priority < config.highest_priority {
                self.now.after(config.starvation)
            } else {
                Moment::NEVER
            },
        }
    }

    /// Whether a ticket has room in the queue, perhaps after others have given way; if not, why.
    fn has_room(&mut self, ticket: &Ticket) -> Result<(), RefusalReason> {
        let bounds = self.config.queue;
        if bounds.depth == 0 {
            return Err(if self.has_slot() && self.rooms.open(ticket.group) {
                RefusalReason::Rate
            } else {
                RefusalReason::Concurrency
            });
        }
        let (count, tokens) = self
            .queue
            .tenant(ticket.tenant)
            .map_or((0, 0), |load| (load.count, load.tokens));
        if count >= bounds.tenant_depth || tokens.saturating_add(ticket.tokens) > bounds.tenant_tokens {
            return Err(RefusalReason::TenantFull);
        }
        let whole = self.queue.tokens().saturating_add(ticket.tokens);
        let below = self.queue.levels().tokens_below(ticket.priority);
        if ticket.tokens > bounds.tokens || whole.saturating_sub(bounds.tokens) > below {
            return Err(RefusalReason::QueueTokens);
        }
        let full = self.queue.len() >= bounds.depth as usize;
        if full && self.gives_way(ticket).is_none() {
            return Err(RefusalReason::QueueFull);
        }
        Ok(())
    }

    /// Displace who must give way to a ticket that has room.
    fn make_room(&mut self, ticket: &Ticket) {
        let bounds = self.config.queue;
        while self.queue.len() >= bounds.depth as usize
            || self.queue.tokens().saturating_add(ticket.tokens) > bounds.tokens
        {
            match self.gives_way(ticket).and_then(|id| self.queue.remove(id)) {
                Some(displaced) => self.refuse(&displaced, RefusalReason::Displaced),
                None => return,
            }
        }
    }

    fn gives_way(&self, ticket: &Ticket) -> Option<u64> {
        let levels = self.queue.levels();
        levels.gives_way(ticket.priority, ticket.tenant, ticket.weight)
    }

    /// Do what is due until now, each thing as of when it was due; at one moment releases come before expiries.
    fn advance(&mut self, now: f64) {
        let now = Moment::at(now).max(self.now);
        loop {
            let release = self.next_release();
            let expiry = self.queue.first_expiry();
            let expires = expiry.map_or(Moment::NEVER, |(at, _)| at);
            let next = release.min(expires);
            if next > now || next == Moment::NEVER {
                break;
            }
            self.now = self.now.max(next);
            if release <= expires {
                self.release();
            } else if let Some(ticket) = expiry.and_then(|(_, id)| self.queue.remove(id)) {
                let reason = if self.endpoints == 0 {
                    RefusalReason::NoEndpoint
                } else {
                    ticket.then
                };
                self.refuse(&ticket, reason);
            }
        }
        self.now = now;
        if let Some(bucket) = &mut self.bucket {
            bucket.fill(now);
        }
    }

    /// Release what a change has made room for.
    fn settle(&mut self) {
        while self.next_release() <= self.now {
            self.release();
        }
    }

    fn release(&mut self) {
        if !self.pass() {
            return;
        }
        let rooms = &self.rooms;
        if let Some(ticket) = self
            .queue
            .pop(self.now, self.config.highest_priority, |group| rooms.open(group))
        {
            self.begin(ticket.id, ticket.group);
            self.news.push(Event::Released {
                id: ticket.id,
                waited: self.now.since(ticket.arrived),
            });
        }
    }

    fn refuse(&mut self, ticket: &Ticket, reason: RefusalReason) {
        let retry_after = self.retry_after(ticket.group);
        self.news.push(Event::Refused {
            id: ticket.id,
            waited: self.now.since(ticket.arrived),
            refusal: Refusal { reason, retry_after },
        });
    }

    fn begin(&mut self, id: u64, group: u64) {
        let running = Running {
            since: self.now,
            group,
            placed: false,
        };
        let _ = self.running.insert(id, running);
        self.rooms.sent(group);
    }

    fn end(&mut self, id: u64) {
        if let Some(running) = self.running.remove(&id) {
            self.run_time.observe(self.now.since(running.since));
            if !running.placed {
                self.rooms.arrived(running.group);
            }
        }
    }

    fn pass(&mut self) -> bool {
        let now = self.now;
        self.bucket.as_mut().map_or(true, |bucket| bucket.take(now))
    }

    fn has_slot(&self) -> bool {
        self.slots().map_or(true, |slots| (self.running.len() as u64) < slots)
    }

    /// Whether one of those that wait could go but for the rate and the places of the whole pool.
    fn somebody_could_go(&self) -> bool {
        self.queue.levels().any(|group| self.rooms.open(group))
    }

    fn slots(&self) -> Option<u64> {
        let config = &self.config;
        let each = config
            .concurrency_per_endpoint
            .map(|each| u64::from(each) * u64::from(self.endpoints) + u64::from(self.stranded));
        let whole = config.concurrency.map(u64::from);
        match (each, whole) {
            _ if self.endpoints == 0 => Some(0),
            (Some(each), Some(whole)) => Some(each.min(whole)),
            (each, whole) => each.or(whole),
        }
    }

    fn next_release(&self) -> Moment {
        if !self.has_slot() || !self.somebody_could_go() {
            return Moment::NEVER;
        }
        self.bucket
            .as_ref()
            .map_or(self.now, |bucket| bucket.ready(1).max(self.now))
    }
}

fn reject(reason: RefusalReason, retry_after: Option<f64>) -> Decision {
    Decision::Reject(Refusal { reason, retry_after })
}

/// The number, or 0 where it is negative or none.
fn not_negative(number: f64) -> f64 {
    number.max(0.0)
}
