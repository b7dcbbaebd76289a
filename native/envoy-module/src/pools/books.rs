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
    pub(super) limit: Limit,
    pub(super) overfull: u64,
    /// Names (hashes) that an engine of the pool said to be adapters.
    pub(super) adapters: HashSet<u64>,
}

/// How many requests may be at one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// As many as come.
    None,
    /// So many.
    Each(u32),
    /// As many as it is known to run, and [`AHEAD`]; where that is not known, as many as come.
    Learned,
}

/// Requests beyond those that an endpoint runs: so it never waits for the mesh, and shows if it runs more.
const AHEAD: u32 = 1;

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
        match self.limit {
            Limit::None => false,
            Limit::Each(_) => self.clusters.len() > 1,
            Limit::Learned => true,
        }
    }

    /// How much room each cluster has (none are named where [`Books::has_rooms`] is false).
    pub(super) fn rooms(&self) -> Vec<(u64, Room)> {
        if !self.has_rooms() {
            return Vec::new();
        }
        let room = |cluster: &Cluster| {
            let mut room = Room { free: 0, all: 0 };
            for &name in &cluster.usable {
                let limit = self.limit_at(name);
                room.all = room.all.saturating_add(limit);
                room.free = room.free.saturating_add(limit.saturating_sub(self.places.taken(name)));
            }
            room
        };
        let clusters = self.clusters.iter();
        clusters
            .map(|(name, cluster)| (hash_of(name.as_bytes()), room(cluster)))
            .collect()
    }

    /// Requests that may be at this endpoint.
    fn limit_at(&self, name: u64) -> u32 {
        match self.limit {
            Limit::None => u32::MAX,
            Limit::Each(limit) => limit,
            Limit::Learned => self
                .pool
                .places(name)
                .map_or(u32::MAX, |places| places.saturating_add(AHEAD)),
        }
    }

    fn is_full(&self, name: u64) -> bool {
        self.places.taken(name) >= self.limit_at(name)
    }

    pub(super) fn choose(&mut self, wanted: &Wanted<'_>, tried: &[u64], (now, random): (f64, f64)) -> Option<Pick> {
        let mut request = wanted.request(self);
        let mut excluded = [wanted.absent, tried].concat();
        let unfit = excluded.len();
        if self.limit != Limit::None {
            excluded.extend(self.places.busy().filter(|&name| self.is_full(name)));
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
            let full = |home: u64| self.places.is_usable(home) && self.is_full(home);
            if !self.sessions.get(session).map_or(false, full) {
                self.sessions.set(session, endpoint);
            }
        }
        let request = wanted.request(self);
        self.pool.start(wanted.id, endpoint, &request, now);
        self.places.put(wanted.id, endpoint);
    }
}

pub(super) fn limit_of(settings: &PoolSettings) -> Limit {
    match &settings.admission {
        Some(admission) if admission.concurrency_per_endpoint > 0 => Limit::Each(admission.concurrency_per_endpoint),
        Some(admission) if admission.learned_concurrency => Limit::Learned,
        _ => Limit::None,
    }
}
