//! What has been decided and not yet been told.

use super::config::Event;
use std::collections::{BTreeMap, HashMap};

/// Events that have not been polled, in order, each found by its ticket.
#[derive(Debug, Clone, Default)]
pub(super) struct News {
    events: BTreeMap<u64, Event>,
    by_id: HashMap<u64, u64>,
    next: u64,
}

impl News {
    pub(super) fn push(&mut self, event: Event) {
        let _ = self.by_id.insert(event.id(), self.next);
        let _ = self.events.insert(self.next, event);
        self.next += 1;
    }

    pub(super) fn forget(&mut self, id: u64) {
        if let Some(at) = self.by_id.remove(&id) {
            let _ = self.events.remove(&at);
        }
    }

    pub(super) fn take(&mut self) -> Vec<Event> {
        self.by_id.clear();
        std::mem::take(&mut self.events).into_values().collect()
    }
    pub(super) fn contains(&self, id: u64) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}
