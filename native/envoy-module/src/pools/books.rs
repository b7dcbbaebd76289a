//! The books of one pool: endpoints, places, sessions, and the choice. For [`super::PoolState`], which locks them.

use super::Wanted;
use crate::loads::Heard;
use crate::places::Places;
use crate::request::hash_of;
use crate::sessions::Sessions;
use crate::settings::PoolSettings;
use scheduler::admission::Room;
use scheduler::{Pick, Pool, Request};
use std::collections::{HashMap, HashSet};

#[derive(Debug)]
pub(super) struct Books {
    pub(super) pool: Pool,
    pub(super) clusters: HashMap<String, Cluster>,
    pub(super) union: Vec<u64>,
    pub(super) version: u64,
    pub(super) sessions: Sessions,
    /// Endpoints that told their load in answers' headers.
    pub(super) heard: Heard,
    pub(super) places: Places,
    /// Requests that may be at one endpoint.
    pub(super) limit: Option<u32>,
    pub(super) overfull: u64,
    /// Names (hashes) that an engine of the pool said to be adapters.
    pub(super) adapters: HashSet<u64>,
}

/// A cluster of the pool.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    /// Balancers that serve it, one per worker.
    pub(super) balancers: usize,
    /// Its endpoints.
    pub(super) names: Vec<u64>,
    /// Those to which requests are sent: healthy, not draining, of the priority in use.
    pub(super) usable: Vec<u64>,
}

impl<'a> Wanted<'a> {
    fn request(&self, books: &Books) -> Request<'a> {
        Request {
            tokens: self.tokens,
            blocks: self.blocks,
            excluded: &[],
            session: self.session.and_then(|session| books.sessions.get(session)),
            adapter: self.model.filter(|model| books.adapters.contains(model)),
        }
    }
}

impl Books {
    pub(super) fn unite(&mut self, now: f64) {
        let mut union: Vec<u64> = Vec::new();
        let mut usable = Vec::new();
        for cluster in self.clusters.values() {
            union.extend_from_slice(&cluster.names);
            usable.extend_from_slice(&cluster.usable);
        }
        union.sort_unstable();
        union.dedup();
        self.places.set_usable(usable);
        self.pool.set_endpoints(&union, now);
        self.union = union;
        self.version += 1;
    }

    /// Whether clusters of the pool have places of their own to wait for.
    pub(super) fn has_rooms(&self) -> bool {
        self.limit.is_some() && self.clusters.len() > 1
    }

    /// How much room each cluster has (none are named where [`Books::has_rooms`] is false).
    pub(super) fn rooms(&self) -> Vec<(u64, Room)> {
        let limit = match self.limit {
            Some(limit) if self.has_rooms() => limit,
            _ => return Vec::new(),
        };
        let room = |cluster: &Cluster| {
            let free = |&name: &u64| limit.saturating_sub(self.places.taken(name));
            Room {
                free: cluster.usable.iter().map(free).fold(0, u32::saturating_add),
                all: limit.saturating_mul(cluster.usable.len() as u32),
            }
        };
        let clusters = self.clusters.iter();
        clusters
            .map(|(name, cluster)| (hash_of(name.as_bytes()), room(cluster)))
            .collect()
    }

    pub(super) fn choose(&mut self, wanted: &Wanted<'_>, tried: &[u64], (now, random): (f64, f64)) -> Option<Pick> {
        let mut request = wanted.request(self);
        let mut excluded = [wanted.absent, tried].concat();
        let unfit = excluded.len();
        if let Some(limit) = self.limit {
            excluded.extend(self.places.full(limit));
        }
        request.excluded = &excluded;
        let pick = self.pool.pick(&request, now, random);
        if pick.is_some() || excluded.len() == unfit {
            return pick;
        }
        excluded.truncate(unfit);
        let open: Vec<u64> = self
            .union
            .iter()
            .copied()
            .filter(|name| !excluded.contains(name))
            .collect();
        let least = open.iter().map(|&name| self.places.taken(name)).min()?;
        excluded.extend(open.iter().filter(|&&name| self.places.taken(name) > least));
        let mut request = wanted.request(self);
        request.excluded = &excluded;
        let pick = self.pool.pick(&request, now, random)?;
        self.overfull += 1;
        Some(pick)
    }

    /// A session whose endpoint is only full comes back to it.
    pub(super) fn enter(&mut self, wanted: &Wanted<'_>, endpoint: u64, now: f64) {
        if let Some(session) = wanted.session {
            let full = |home: u64| {
                self.places.is_usable(home) && self.limit.map_or(false, |limit| self.places.taken(home) >= limit)
            };
            if !self.sessions.get(session).map_or(false, full) {
                self.sessions.set(session, endpoint);
            }
        }
        let request = wanted.request(self);
        self.pool.start(wanted.id, endpoint, &request, now);
        self.places.put(wanted.id, endpoint);
    }
}

pub(super) fn limit_of(settings: &PoolSettings) -> Option<u32> {
    let each = settings.admission.as_ref()?.concurrency_per_endpoint;
    Some(each).filter(|&each| each > 0)
}
