//! Tickets that wait, by priority and group: a fair queue for each. A group's tickets can go only where that group's
//! requests can; groups of one priority share one virtual time, so that what they share is shared fairly.

use super::fair::{FairQueue, Place};
use super::queue::Ticket;
use std::collections::{BTreeMap, HashMap};

#[derive(Debug, Clone, Default)]
pub(super) struct Levels {
    /// A level stays when it is empty, as it remembers its tenants.
    levels: BTreeMap<(u8, u64), Level>,
    /// Tickets of each group.
    groups: HashMap<u64, usize>,
}

#[derive(Debug, Clone, Default)]
struct Level {
    fair: FairQueue,
    tokens: u64,
}

/// What is less goes sooner.
type Turn = (u128, bool, u64);

/// Levels beyond this are forgotten when they are empty.
const MOST_LEVELS: usize = 256;

impl Levels {
    /// Whether a ticket waits of a group that is `open`.
    pub(super) fn any(&self, open: impl Fn(u64) -> bool) -> bool {
        self.groups.keys().any(|&group| open(group))
    }

    /// Tickets of a group.
    pub(super) fn of_group(&self, group: u64) -> usize {
        self.groups.get(&group).copied().unwrap_or(0)
    }

    /// Put a ticket in, at this priority.
    pub(super) fn push(&mut self, at: u8, seq: u64, ticket: &Ticket) {
        if self.levels.len() > MOST_LEVELS {
            self.levels.retain(|_, level| level.fair.len() > 0);
        }
        let clock = self.clock(at);
        let level = self.levels.entry((at, ticket.group)).or_default();
        level.fair.advance(clock);
        let place = Place {
            id: ticket.id,
            cost: ticket.cost,
        };
        level
            .fair
            .push((ticket.tenant, ticket.weight), ticket.burst, seq, place);
        level.tokens = level.tokens.saturating_add(ticket.tokens);
        *self.groups.entry(ticket.group).or_insert(0) += 1;
    }

    /// Take a ticket out, wherever it stands at this priority.
    pub(super) fn remove(&mut self, at: u8, seq: u64, ticket: &Ticket) {
        if let Some(level) = self.levels.get_mut(&(at, ticket.group)) {
            if level.fair.remove(ticket.tenant, seq).is_some() {
                self.left(at, ticket);
            }
        }
    }

    /// The name of the ticket whose turn it is, of the groups that are `open`. It is out of its fair queue; the caller
    /// calls [`Levels::left`].
    pub(super) fn pop(&mut self, open: impl Fn(u64) -> bool) -> Option<u64> {
        let mut best: Option<((u8, u64), Turn)> = None;
        for (&(at, group), level) in self.levels.iter().rev() {
            if best.map_or(false, |((highest, _), _)| at < highest) {
                break;
            }
            if let Some(turn) = level.fair.head().filter(|_| open(group)) {
                if best.map_or(true, |(_, least)| turn < least) {
                    best = Some(((at, group), turn));
                }
            }
        }
        let (key, _) = best?;
        Some(self.levels.get_mut(&key)?.fair.pop()?.id)
    }

    /// A ticket has left its fair queue: keep the books.
    pub(super) fn left(&mut self, at: u8, ticket: &Ticket) {
        if let Some(level) = self.levels.get_mut(&(at, ticket.group)) {
            level.tokens = level.tokens.saturating_sub(ticket.tokens);
        }
        if let Some(count) = self.groups.get_mut(&ticket.group) {
            *count -= 1;
            if *count == 0 {
                let _ = self.groups.remove(&ticket.group);
            }
        }
    }

    /// Tickets that will probably go before a new one; of `group` alone, or of all.
    pub(super) fn ahead(&self, priority: u8, group: Option<u64>, tenant: u64, weight: u64) -> usize {
        self.levels
            .range((priority, 0)..)
            .filter(|((_, own), _)| group.map_or(true, |group| group == *own))
            .map(|(&(at, _), level)| {
                if at == priority {
                    level.fair.ahead(tenant, weight)
                } else {
                    level.fair.len()
                }
            })
            .sum()
    }

    /// The share of service that a tenant gets on its level while those who wait now do.
    pub(super) fn share(&self, priority: u8, group: u64, tenant: u64, weight: u64) -> f64 {
        self.levels
            .get(&(priority, group))
            .map_or(1.0, |level| level.fair.share(tenant, weight))
    }

    /// The ticket that gives its place to a new one in a full queue: the newest of the tenant with the most on the
    /// lowest priority, if that is below the new one's, or that tenant has more for its weight there.
    pub(super) fn gives_way(&self, priority: u8, tenant: u64, weight: u64) -> Option<u64> {
        let waiting = || self.levels.iter().filter(|(_, level)| level.fair.len() > 0);
        let (&(lowest, _), _) = waiting().next()?;
        let (_, level) = waiting()
            .take_while(|((at, _), _)| *at == lowest)
            .filter(|(_, level)| {
                lowest < priority || (lowest == priority && level.fair.someone_is_heavier(tenant, weight))
            })
            .max_by_key(|(_, level)| level.fair.heaviest())?;
        level.fair.newest_of_heaviest()
    }

    /// Tokens that wait at priorities below this one.
    pub(super) fn tokens_below(&self, priority: u8) -> u64 {
        self.levels.range(..(priority, 0)).map(|(_, level)| level.tokens).sum()
    }

    /// Virtual time of a priority.
    fn clock(&self, at: u8) -> u128 {
        let levels = self.levels.range((at, 0)..=(at, u64::MAX));
        levels.map(|(_, level)| level.fair.clock()).max().unwrap_or(0)
    }
}
