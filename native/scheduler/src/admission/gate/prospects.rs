//! What a gate foretells: how long a request will wait, and when a refused one may come again.

use super::{not_negative, Gate};
use crate::admission::estimate::{promise, Outlook};
use crate::admission::fair::whole_weight;
use crate::admission::queue::Ticket;

impl Gate {
    /// Seconds that a new request would probably wait.
    pub fn predicted_wait(&self, priority: u8, group: u64, tenant: u64, weight: f64) -> f64 {
        let priority = priority.min(self.config.highest_priority);
        let ahead = self.ahead(priority, group, tenant, whole_weight(weight));
        self.outlook(group).wait(ahead)
    }

    /// Seconds that requests run, on average, of late.
    pub fn run_seconds(&self) -> f64 {
        self.run_time.mean()
    }

    pub(super) fn outlook(&self, group: u64) -> Outlook<'_> {
        let mut slots = self.slots();
        let mut running = self.running.len() as u64;
        if let Some((all, taken)) = self.rooms.taken(group) {
            if slots.map_or(true, |slots| all < slots) {
                slots = Some(all);
                running = taken;
            }
        }
        Outlook {
            now: self.now,
            bucket: self.bucket.as_ref(),
            slots,
            running,
            run_time: self.run_time.mean(),
        }
    }

    /// Tickets that will probably go before a new one: of its group, if that has places of its own.
    pub(super) fn ahead(&self, priority: u8, group: u64, tenant: u64, weight: u64) -> usize {
        let own = Some(group).filter(|&group| self.rooms.bounds(group));
        self.queue.levels().ahead(priority, own, tenant, weight)
    }

    /// When one more refused request may find room: once the queue is short enough to be passed in time, and after
    /// those that were refused before it.
    pub(super) fn retry_after(&mut self, group: u64) -> Option<f64> {
        let outlook = self.outlook(group);
        let waiting = if self.rooms.bounds(group) {
            self.queue.levels().of_group(group)
        } else {
            self.queue.len()
        };
        let (wait, interval) = (outlook.wait(waiting), outlook.interval());
        let base = not_negative(wait - self.config.queue.wait);
        let (now, longest) = (self.now, self.config.longest_retry);
        Some(wait)
            .filter(|wait| wait.is_finite())
            .map(|_| promise(&mut self.promised, now, base, interval, longest))
    }

    /// The same for a request whose tenant has too many waiting: they go at the tenant's share.
    pub(super) fn tenant_retry_after(&mut self, ticket: &Ticket) -> Option<f64> {
        let levels = self.queue.levels();
        let share = levels.share(ticket.priority, ticket.group, ticket.tenant, ticket.weight);
        let interval = self.outlook(ticket.group).interval() / share;
        let (now, longest) = (self.now, self.config.longest_retry);
        let load = self.queue.tenant(ticket.tenant)?;
        Some(interval)
            .filter(|interval| interval.is_finite())
            .map(|interval| promise(&mut load.promised, now, 0.0, interval, longest))
    }
}
