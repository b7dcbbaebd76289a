//! How much room there is for each group of requests, where groups can go to some of a pool's endpoints only.

use std::collections::HashMap;

/// Places of the endpoints to which the requests of one group go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Those that nobody has.
    pub free: u32,
    /// All.
    pub all: u32,
}

/// The rooms, as told, and how many are on their way to a place there.
#[derive(Debug, Clone, Default)]
pub(super) struct Rooms {
    rooms: HashMap<u64, Room>,
    coming: HashMap<u64, u32>,
}

impl Rooms {
    pub(super) fn set(&mut self, rooms: impl IntoIterator<Item = (u64, Room)>) {
        self.rooms.clear();
        self.rooms.extend(rooms);
    }

    /// Whether the group has bounds of its own.
    pub(super) fn bounds(&self, group: u64) -> bool {
        self.rooms.contains_key(&group)
    }

    /// Whether one more of the group can go.
    pub(super) fn open(&self, group: u64) -> bool {
        self.rooms
            .get(&group)
            .map_or(true, |room| room.free > self.coming(group))
    }

    /// Places of a group with bounds, and how many of them are taken or soon will be.
    pub(super) fn taken(&self, group: u64) -> Option<(u64, u64)> {
        let room = self.rooms.get(&group)?;
        let taken = room.all.saturating_sub(room.free).saturating_add(self.coming(group));
        Some((u64::from(room.all), u64::from(taken)))
    }

    /// A request of the group was let go; it is on its way.
    pub(super) fn sent(&mut self, group: u64) {
        *self.coming.entry(group).or_insert(0) += 1;
    }

    /// It has its place, or wants none any more.
    pub(super) fn arrived(&mut self, group: u64) {
        if let Some(coming) = self.coming.get_mut(&group) {
            *coming -= 1;
            if *coming == 0 {
                let _ = self.coming.remove(&group);
            }
        }
    }

    fn coming(&self, group: u64) -> u32 {
        self.coming.get(&group).copied().unwrap_or(0)
    }
}
