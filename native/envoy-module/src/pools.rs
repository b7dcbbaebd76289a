//! The pools of this proxy, shared by all its workers: settings, books, and which cluster belongs to which pool.
//!
//! The load-balancing policy's configuration brings a pool into being, its workers' balancers tell the endpoints, the
//! filter tells how requests fare. Locks are short, and never held while Envoy is called.

use crate::admission::Admission;
use crate::clock;
use crate::loads::{self, Load};
use crate::settings::PoolSettings;
use scheduler::{Observed, OwnLoad, Pick, Pool, Request};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A lock that a panic elsewhere does not spoil: what it guards is books, which right themselves as requests end.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pool and everything that is known of it.
#[derive(Debug)]
pub struct PoolState {
    name: String,
    settings: Mutex<Arc<PoolSettings>>,
    books: Mutex<Books>,
    admission: Admission,
}

#[derive(Debug)]
struct Books {
    pool: Pool,
    /// Endpoints by cluster, with the number of balancers (one per worker) that serve it.
    clusters: HashMap<String, (usize, Vec<u64>)>,
    union: Vec<u64>,
    version: u64,
    sessions: Sessions,
}

/// Which endpoint a session was on; bounded by forgetting the older half.
#[derive(Debug, Default)]
struct Sessions {
    new: HashMap<u64, u64>,
    old: HashMap<u64, u64>,
}

const MOST_SESSIONS: usize = 32_768;

impl Sessions {
    fn get(&self, session: u64) -> Option<u64> {
        self.new.get(&session).or_else(|| self.old.get(&session)).copied()
    }

    fn set(&mut self, session: u64, endpoint: u64) {
        if self.new.len() >= MOST_SESSIONS {
            self.old = std::mem::take(&mut self.new);
        }
        let _ = self.new.insert(session, endpoint);
    }
}

/// A request that wants an endpoint.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The request's number.
    pub id: u64,
    /// Tokens of its prompt.
    pub tokens: f64,
    /// Hashes of its blocks.
    pub blocks: &'a [u64],
    /// Hash of its session.
    pub session: Option<u64>,
    /// Endpoints that it was sent to already.
    pub tried: &'a [u64],
    /// Endpoints of the pool that cannot be chosen now: of other clusters, or unhealthy.
    pub absent: &'a [u64],
}

impl PoolState {
    fn new(settings: PoolSettings) -> Self {
        let admission = Admission::default();
        admission.configure(settings.admission.as_ref(), 0, 0.0);
        PoolState {
            admission,
            name: settings.name.clone(),
            books: Mutex::new(Books {
                pool: Pool::new(settings.config),
                clusters: HashMap::new(),
                union: Vec::new(),
                version: 0,
                sessions: Sessions::default(),
            }),
            settings: Mutex::new(Arc::new(settings)),
        }
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<PoolSettings> {
        locked(&self.settings).clone()
    }

    /// The pool's gate.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    fn change(&self, settings: PoolSettings) {
        let config = settings.config;
        let endpoints = locked(&self.books).union.len() as u32;
        self.admission
            .configure(settings.admission.as_ref(), endpoints, clock::now());
        *locked(&self.settings) = Arc::new(settings);
        locked(&self.books).pool.set_config(config);
    }

    /// A balancer of the cluster begins its work.
    pub fn join(&self, cluster: &str) {
        locked(&self.books).clusters.entry(cluster.to_string()).or_default().0 += 1;
    }

    /// A balancer of the cluster ended; with the last one its endpoints go.
    pub fn leave(&self, cluster: &str, now: f64) {
        let mut books = locked(&self.books);
        if let Some(entry) = books.clusters.get_mut(cluster) {
            entry.0 = entry.0.saturating_sub(1);
            if entry.0 == 0 {
                let _ = books.clusters.remove(cluster);
                let endpoints = books.unite(now);
                drop(books);
                self.admission.set_endpoints(endpoints, now);
            }
        }
    }

    /// The cluster's endpoints from now on.
    pub fn set_endpoints(&self, cluster: &str, mut names: Vec<u64>, now: f64) {
        names.sort_unstable();
        names.dedup();
        let mut books = locked(&self.books);
        if let Some(entry) = books.clusters.get_mut(cluster) {
            if entry.1 != names {
                entry.1 = names;
                let endpoints = books.unite(now);
                drop(books);
                self.admission.set_endpoints(endpoints, now);
            }
        }
    }

    /// The pool's endpoints that are not among `present`, if the pool changed since `version`; and its version.
    pub fn absent(&self, present: &[u64], version: u64) -> Option<(Vec<u64>, u64)> {
        let books = locked(&self.books);
        if books.version == version {
            return None;
        }
        let absent = books
            .union
            .iter()
            .copied()
            .filter(|name| !present.contains(name))
            .collect();
        Some((absent, books.version))
    }

    /// Picks an endpoint and enters the request into the books there (a retry is moved). None where there is none.
    pub fn dispatch(&self, wanted: &Wanted<'_>, now: f64, random: f64) -> Option<Pick> {
        let mut books = locked(&self.books);
        let mut excluded = wanted.absent.to_vec();
        excluded.extend_from_slice(wanted.tried);
        let mut request = Request {
            tokens: wanted.tokens,
            blocks: wanted.blocks,
            excluded: &excluded,
            session: wanted.session.and_then(|session| books.sessions.get(session)),
        };
        let mut pick = books.pool.pick(&request, now, random);
        if pick.is_none() && !wanted.tried.is_empty() {
            request.excluded = wanted.absent;
            pick = books.pool.pick(&request, now, random);
        }
        let pick = pick?;
        if let Some(session) = wanted.session {
            books.sessions.set(session, pick.endpoint);
        }
        books.pool.start(wanted.id, pick.endpoint, &request, now);
        Some(pick)
    }

    /// The first token of the request's answer came.
    pub fn first_token(&self, id: u64, now: f64) {
        locked(&self.books).pool.first_token(id, now);
    }

    /// The request's answer came whole.
    pub fn answered(&self, id: u64, now: f64) {
        locked(&self.books).pool.answered(id, now);
    }

    /// The request ended, whatever way.
    pub fn finish(&self, id: u64, now: f64) {
        locked(&self.books).pool.finish(id, now);
    }

    /// What an engine said of itself, when `then` was what this pool had there (None: now). What it did not say is taken
    /// to be the pool's own.
    pub fn observe(&self, name: u64, load: &Load, then: Option<OwnLoad>) {
        let mut books = locked(&self.books);
        let own = match then.or_else(|| books.pool.own_load(name)) {
            Some(own) => own,
            None => return,
        };
        let observed = Observed {
            waiting: load.waiting.unwrap_or(0.0),
            running: load.running.unwrap_or_else(|| match load.waiting {
                Some(_) => f64::from(own.in_flight.saturating_sub(own.prefilling)),
                None => f64::from(own.in_flight),
            }),
            kv_used: load.kv_used.unwrap_or(0.0),
        };
        books.pool.observe_then(name, observed, own, load.kv_tokens);
    }

    /// Shows what this pool has at each of its endpoints now.
    pub fn own_loads(&self, mut show: impl FnMut(u64, OwnLoad)) {
        locked(&self.books)
            .pool
            .own_loads()
            .for_each(|(name, own)| show(name, own));
    }

    /// Requests in flight, by the books.
    pub fn in_flight(&self) -> usize {
        locked(&self.books).pool.in_flight()
    }
}

impl Books {
    fn unite(&mut self, now: f64) -> u32 {
        let mut union: Vec<u64> = self
            .clusters
            .values()
            .flat_map(|(_, names)| names.iter().copied())
            .collect();
        union.sort_unstable();
        union.dedup();
        self.pool.set_endpoints(&union, now);
        self.union = union;
        self.version += 1;
        self.union.len() as u32
    }
}

static POOLS: Mutex<Vec<Weak<PoolState>>> = Mutex::new(Vec::new());
static CLUSTERS: Mutex<Option<HashMap<String, Weak<PoolState>>>> = Mutex::new(None);

/// The pool of these settings: the one of this name, with the new settings, or a new one. It lives as long as somebody
/// holds it.
pub fn pool_of(settings: PoolSettings) -> Arc<PoolState> {
    let mut pools = locked(&POOLS);
    pools.retain(|pool| pool.strong_count() > 0);
    if let Some(pool) = pools
        .iter()
        .filter_map(Weak::upgrade)
        .find(|pool| pool.name == settings.name)
    {
        drop(pools);
        pool.change(settings);
        return pool;
    }
    let pool = Arc::new(PoolState::new(settings));
    pools.push(Arc::downgrade(&pool));
    drop(pools);
    loads::begin();
    pool
}

/// Every pool that lives.
pub fn all_pools() -> Vec<Arc<PoolState>> {
    locked(&POOLS).iter().filter_map(Weak::upgrade).collect()
}

/// Note that the cluster belongs to the pool.
pub fn set_cluster(cluster: &str, pool: &Arc<PoolState>) {
    let mut clusters = locked(&CLUSTERS);
    let clusters = clusters.get_or_insert_with(HashMap::new);
    clusters.retain(|_, pool| pool.strong_count() > 0);
    let _ = clusters.insert(cluster.to_string(), Arc::downgrade(pool));
}

/// The pool that the cluster belongs to.
pub fn pool_of_cluster(cluster: &str) -> Option<Arc<PoolState>> {
    locked(&CLUSTERS).as_ref()?.get(cluster)?.upgrade()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(name: &str, more: &str) -> PoolSettings {
        PoolSettings::parse(format!("{{\"pool\":\"{}\"{}}}", name, more).as_bytes()).unwrap()
    }

    fn wanted(id: u64) -> Wanted<'static> {
        Wanted {
            id,
            tokens: 100.0,
            blocks: &[],
            session: None,
            tried: &[],
            absent: &[],
        }
    }

    #[test]
    fn a_pool_is_found_by_its_clusters_as_long_as_it_lives() {
        let pool = pool_of(settings("found", ""));
        set_cluster("found-cluster", &pool);
        assert!(Arc::ptr_eq(&pool_of(settings("found", ",\"max_body_bytes\":7")), &pool));
        assert_eq!(pool_of_cluster("found-cluster").unwrap().settings().max_body_bytes, 7);
        drop(pool);
        assert!(pool_of_cluster("found-cluster").is_none());
    }

    #[test]
    fn clusters_of_one_pool_share_its_books_but_not_their_endpoints() {
        let pool = pool_of(settings("shared", ""));
        for (cluster, names) in [("a", vec![1, 2]), ("b", vec![2, 3])] {
            pool.join(cluster);
            pool.set_endpoints(cluster, names, 0.0);
        }
        let (absent, version) = pool.absent(&[1, 2], 0).unwrap();
        assert_eq!(absent, [3]);
        assert_eq!(pool.absent(&[1, 2], version), None);
        for id in 0..10 {
            let pick = pool
                .dispatch(
                    &Wanted {
                        absent: &[3],
                        ..wanted(id)
                    },
                    0.0,
                    0.5,
                )
                .unwrap();
            assert!(pick.endpoint < 3);
        }
        assert_eq!(pool.in_flight(), 10);
        pool.leave("a", 1.0);
        assert_eq!(pool.absent(&[], version).unwrap().0, [2, 3]);
    }

    #[test]
    fn who_was_tried_is_tried_again_only_where_there_is_no_other() {
        let pool = pool_of(settings("tried", ""));
        pool.join("a");
        pool.set_endpoints("a", vec![1, 2], 0.0);
        let mut retry = wanted(1);
        retry.tried = &[1];
        assert_eq!(pool.dispatch(&retry, 0.0, 0.5).unwrap().endpoint, 2);
        retry.tried = &[1, 2];
        assert!(pool.dispatch(&retry, 0.0, 0.5).is_some());
        assert_eq!(pool.in_flight(), 1);
        retry.absent = &[1, 2];
        assert!(pool.dispatch(&retry, 0.0, 0.5).is_none());
        pool.finish(1, 1.0);
        assert_eq!(pool.in_flight(), 0);
    }

    #[test]
    fn sessions_stay_where_they_are_and_are_bounded() {
        let pool = pool_of(settings("sessions", ",\"policy\":\"round-robin\""));
        pool.join("a");
        pool.set_endpoints("a", vec![1, 2, 3], 0.0);
        let mut request = wanted(1);
        request.session = Some(42);
        let first = pool.dispatch(&request, 0.0, 0.5).unwrap().endpoint;
        for id in 2..20 {
            request.id = id;
            assert_eq!(pool.dispatch(&request, 0.0, 0.5).unwrap().endpoint, first);
        }
        let mut sessions = Sessions::default();
        for session in 0..200_000 {
            sessions.set(session, 1);
            assert!(sessions.new.len() + sessions.old.len() <= 2 * MOST_SESSIONS);
        }
        assert_eq!(sessions.get(199_999), Some(1));
    }
}
