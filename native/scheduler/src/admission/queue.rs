//! What waits: in fair order, with the times at which tickets expire or rise, and the bounds.

use super::config::RefusalReason;
use super::levels::Levels;
use super::moment::Moment;
use std::collections::{BTreeSet, HashMap};

/// A ticket that waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    pub(super) id: u64,
    pub(super) tenant: u64,
    pub(super) weight: u64,
    pub(super) group: u64,
    pub(super) priority: u8,
    pub(super) tokens: u64,
    pub(super) cost: u64,
    /// The credit that its tenant may have, in tickets.
    pub(super) burst: u32,
    pub(super) arrived: Moment,
    /// When it is no use to wait on, and why.
    pub(super) expires: Moment,
    pub(super) then: RefusalReason,
    /// When it counts as of the highest priority.
    pub(super) rises: Moment,
}

/// What one tenant has waiting, of all priorities.
#[derive(Debug, Clone, Copy)]
pub(super) struct TenantLoad {
    pub(super) count: u32,
    pub(super) tokens: u64,
    /// Until when its refused requests have been told to stay away.
    pub(super) promised: Moment,
}

type Timer = (Moment, u64, u64);

#[derive(Debug, Clone)]
struct Entry {
    ticket: Ticket,
    seq: u64,
    level: u8,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    levels: Levels,
    entries: HashMap<u64, Entry>,
    tenants: HashMap<u64, TenantLoad>,
    expiries: BTreeSet<Timer>,
    rises: BTreeSet<Timer>,
    tokens: u64,
    next_seq: u64,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.entries.contains_key(&id)
    }

    pub(super) fn tenant(&mut self, tenant: u64) -> Option<&mut TenantLoad> {
        self.tenants.get_mut(&tenant)
    }

    /// Put a ticket in; its name must be new.
    pub(super) fn push(&mut self, ticket: Ticket) {
        let seq = self.next_seq;
        self.next_seq += 1;
        let _ = self.expiries.insert((ticket.expires, seq, ticket.id));
        if ticket.rises != Moment::NEVER {
            let _ = self.rises.insert((ticket.rises, seq, ticket.id));
        }
        let load = self.tenants.entry(ticket.tenant).or_insert(TenantLoad {
            count: 0,
            tokens: 0,
            promised: Moment::at(0.0),
        });
        load.count += 1;
        load.tokens = load.tokens.saturating_add(ticket.tokens);
        self.tokens = self.tokens.saturating_add(ticket.tokens);
        self.levels.push(ticket.priority, seq, &ticket);
        let level = ticket.priority;
        let _ = self.entries.insert(ticket.id, Entry { ticket, seq, level });
    }

    /// Take a ticket out, wherever it stands.
    pub(super) fn remove(&mut self, id: u64) -> Option<Ticket> {
        let entry = self.entries.remove(&id)?;
        self.levels.remove(entry.level, entry.seq, &entry.ticket);
        self.forget(&entry);
        Some(entry.ticket)
    }

    /// Take out the ticket whose turn it is, of the groups that are `open`. Those that have waited long enough rise to
    /// level `highest` before.
    pub(super) fn pop(&mut self, now: Moment, highest: u8, open: impl Fn(u64) -> bool) -> Option<Ticket> {
        self.raise(now, highest);
        let id = self.levels.pop(open)?;
        let entry = self.entries.remove(&id)?;
        self.levels.left(entry.level, &entry.ticket);
        self.forget(&entry);
        Some(entry.ticket)
    }

    /// By priority and group.
    pub(super) fn levels(&self) -> &Levels {
        &self.levels
    }

    /// Other times from now on: nothing expires after `latest`, and what has waited for `starvation` seconds since it
    /// came rises to level `highest`.
    pub(super) fn retime(&mut self, latest: Moment, starvation: f64, highest: u8) {
        self.expiries.clear();
        self.rises.clear();
        for (&id, entry) in &mut self.entries {
            let ticket = &mut entry.ticket;
            if ticket.expires > latest {
                ticket.expires = latest;
                ticket.then = RefusalReason::QueueTimeout;
            }
            ticket.rises = Moment::NEVER;
            if entry.level < highest {
                ticket.rises = ticket.arrived.after(starvation);
            }
            let _ = self.expiries.insert((ticket.expires, entry.seq, id));
            if ticket.rises != Moment::NEVER {
                let _ = self.rises.insert((ticket.rises, entry.seq, id));
            }
        }
    }

    /// When the first ticket expires, and which; of those that expire together the one that came first.
    pub(super) fn first_expiry(&self) -> Option<(Moment, u64)> {
        self.expiries.iter().next().map(|&(at, _, id)| (at, id))
    }

    /// Keep the books of a ticket that has left its fair queue for good.
    fn forget(&mut self, entry: &Entry) {
        let ticket = &entry.ticket;
        let _ = self.expiries.remove(&(ticket.expires, entry.seq, ticket.id));
        let _ = self.rises.remove(&(ticket.rises, entry.seq, ticket.id));
        self.tokens = self.tokens.saturating_sub(ticket.tokens);
        if let Some(load) = self.tenants.get_mut(&ticket.tenant) {
            load.count -= 1;
            load.tokens = load.tokens.saturating_sub(ticket.tokens);
            if load.count == 0 {
                let _ = self.tenants.remove(&ticket.tenant);
            }
        }
    }

    fn raise(&mut self, now: Moment, highest: u8) {
        while let Some(&(at, seq, id)) = self.rises.iter().next() {
            if at > now {
                return;
            }
            let _ = self.rises.remove(&(at, seq, id));
            let (ticket, from) = match self.entries.get_mut(&id) {
                Some(entry) if entry.level < highest => {
                    let from = entry.level;
                    entry.level = highest;
                    (entry.ticket, from)
                }
                _ => continue,
            };
            self.levels.remove(from, seq, &ticket);
            self.levels.push(highest, seq, &ticket);
        }
    }
}
