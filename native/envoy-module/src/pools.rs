//! The pools of this proxy, shared by all its workers: settings, books, and which cluster belongs to which pool.
//!
//! The load-balancing policy's configuration brings a pool into being, its workers' balancers tell the endpoints, the
//! filter tells how requests fare. Locks are short, and never held while Envoy is called.

mod books;

use crate::admission::{self, Admission};
use crate::clock;
use crate::faults;
use crate::loads::{self, Heard, Load};
use crate::places::Places;
use crate::sessions::Sessions;
use crate::settings::PoolSettings;
use books::{limit_of, Books};
use scheduler::{Observed, OwnLoad, Pick, Pool};
use std::collections::{HashMap, HashSet};
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
    /// Hash of the model's name that it asks for.
    pub model: Option<u64>,
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
                heard: Heard::default(),
                places: Places::default(),
                limit: limit_of(&settings),
                overfull: 0,
                adapters: HashSet::new(),
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

    fn change(self: &Arc<Self>, settings: PoolSettings) {
        let now = clock::now();
        let mut books = locked(&self.books);
        books.pool.set_config(settings.config);
        books.limit = limit_of(&settings);
        self.tell_capacity(&books, now); // before anybody goes by the new settings
        self.admission
            .configure(settings.admission.as_ref(), books.places.usable(), now);
        self.tell_capacity(&books, now); // in case the gate is new
        drop(books);
        *locked(&self.settings) = Arc::new(settings);
        admission::settle(self, now);
    }

    /// A balancer of the cluster begins its work.
    pub fn join(&self, cluster: &str) {
        locked(&self.books)
            .clusters
            .entry(cluster.to_string())
            .or_default()
            .balancers += 1;
    }

    /// A balancer of the cluster ended; with the last one its endpoints go, and with the last cluster who waits for one.
    pub fn leave(self: &Arc<Self>, cluster: &str, now: f64) {
        let mut books = locked(&self.books);
        if let Some(entry) = books.clusters.get_mut(cluster) {
            entry.balancers = entry.balancers.saturating_sub(1);
            if entry.balancers == 0 {
                let _ = books.clusters.remove(cluster);
                self.endpoints_changed(books, now);
            }
        }
    }

    /// The cluster's endpoints from now on, and those of them to which requests are sent.
    pub fn set_hosts(self: &Arc<Self>, cluster: &str, mut names: Vec<u64>, mut usable: Vec<u64>, now: f64) {
        names.sort_unstable();
        names.dedup();
        usable.sort_unstable();
        let mut books = locked(&self.books);
        if let Some(entry) = books.clusters.get_mut(cluster) {
            if entry.names != names || entry.usable != usable {
                entry.names = names;
                entry.usable = usable;
                self.endpoints_changed(books, now);
            }
        }
    }

    /// All endpoints of the cluster get requests.
    #[cfg(test)]
    pub fn set_endpoints(self: &Arc<Self>, cluster: &str, names: Vec<u64>, now: f64) {
        self.set_hosts(cluster, names.clone(), names, now);
    }

    fn endpoints_changed(self: &Arc<Self>, mut books: MutexGuard<'_, Books>, now: f64) {
        books.unite(now);
        if books.clusters.is_empty() {
            self.admission.close(now);
        } else {
            self.tell_capacity(&books, now);
        }
        drop(books);
        admission::settle(self, now);
    }

    /// Called with the books locked, so that the last that was told is the last that was true.
    fn tell_capacity(&self, books: &Books, now: f64) {
        let places = &books.places;
        self.admission.set_rooms(&books.rooms(), now);
        self.admission.set_capacity(places.usable(), places.stranded(), now);
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
    ///
    /// An endpoint with as many requests as it may have is left out. If all have (a race, or a retry), the request goes
    /// to one with the fewest; [`PoolState::take_overfull`] tells how often.
    pub fn dispatch(self: &Arc<Self>, wanted: &Wanted<'_>, now: f64, random: f64) -> Option<Pick> {
        let mut books = locked(&self.books);
        faults::at("choose");
        let Books { heard, pool, .. } = &mut *books;
        heard.expire(now, |name| {
            pool.observe_then(name, Observed::default(), OwnLoad::default(), None)
        });
        if books.places.free(wanted.id) {
            self.tell_capacity(&books, now);
        }
        let mut pick = books.choose(wanted, wanted.tried, (now, random));
        if pick.is_none() && !wanted.tried.is_empty() {
            pick = books.choose(wanted, &[], (now, random));
        }
        let pick = pick?;
        books.enter(wanted, pick.endpoint, now);
        let rooms = books.rooms();
        self.admission.placed(wanted.id, &rooms, now);
        drop(books);
        if !rooms.is_empty() {
            admission::settle(self, now);
        }
        Some(pick)
    }

    /// How often, since somebody asked, an endpoint got a request beyond its limit because every one was full.
    pub fn take_overfull(&self) -> u64 {
        std::mem::take(&mut locked(&self.books).overfull)
    }

    /// This proxy has so many requests at the endpoints (names), in the books or not.
    pub fn set_active(&self, endpoints: impl Iterator<Item = (u64, u64)>) {
        let mut books = locked(&self.books);
        endpoints.for_each(|(name, active)| books.pool.set_active(name, active));
    }

    /// The request, which was sent, will be answered as a whole.
    pub fn expect_no_first_token(&self, id: u64) {
        locked(&self.books).pool.expect_no_first_token(id);
    }

    /// The first token of the request's answer came.
    pub fn first_token(&self, id: u64, now: f64) {
        locked(&self.books).pool.first_token(id, now);
    }

    /// A later token of the request's answer came.
    pub fn token(&self, id: u64, now: f64) {
        locked(&self.books).pool.token(id, now);
    }

    /// The request's answer came whole.
    pub fn answered(&self, id: u64, now: f64) {
        locked(&self.books).pool.answered(id, now);
    }

    /// The request ended, whatever way.
    pub fn finish(&self, id: u64, now: f64) {
        let mut books = locked(&self.books);
        books.pool.finish(id, now);
        if books.places.free(id) {
            self.tell_capacity(&books, now);
        } else if books.has_rooms() {
            self.admission.set_rooms(&books.rooms(), now);
        }
    }

    /// What an engine said of itself, when `then` was what this pool had there (None: now). What it did not say is taken
    /// to be as before.
    pub fn observe(&self, name: u64, load: &Load, then: Option<OwnLoad>) {
        let mut books = locked(&self.books);
        let Books { pool, adapters, .. } = &mut *books;
        let own = match then.or_else(|| pool.own_load(name)) {
            Some(own) => own,
            None => return,
        };
        if load.slots.is_some() {
            pool.set_places(name, load.slots.map(|slots| slots as u32));
        }
        if load.most_adapters.is_some() || !load.adapters.is_empty() {
            let room = MOST_ADAPTERS.saturating_sub(adapters.len());
            adapters.extend(load.adapters.iter().copied().take(room));
            pool.observe_adapters(name, &load.adapters, load.most_adapters.map(|most| most as usize));
        }
        if let Some(tokens) = load.kv_tokens {
            pool.set_kv_tokens(name, tokens);
        }
        match (load.waiting, load.running) {
            (Some(waiting), None) => pool.observe_waiting(name, waiting, own),
            (None, None) => {}
            (waiting, Some(running)) => {
                let observed = Observed {
                    waiting: waiting.unwrap_or(0.0),
                    running,
                    kv_used: load.kv_used.unwrap_or(0.0),
                };
                pool.observe_then(name, observed, own, None);
            }
        }
    }

    /// What an engine said in an answer's headers. It counts for a few seconds, or until something newer is heard: a pool
    /// that kept away for longer would get no answers that say otherwise.
    pub fn hear(&self, name: u64, load: &Load, now: f64) {
        self.observe(name, load, None);
        locked(&self.books).heard.note(name, now);
    }

    /// What an engine said counts no more.
    pub fn forget_load(&self, name: u64) {
        locked(&self.books)
            .pool
            .observe_then(name, Observed::default(), OwnLoad::default(), None);
    }

    /// Shows the most that this pool had at each of its endpoints since the last time.
    pub fn take_peaks(&self, mut show: impl FnMut(u64, OwnLoad)) {
        let pool = &mut locked(&self.books).pool;
        pool.take_peaks().for_each(|(name, own)| show(name, own));
    }

    /// Requests in flight, by the books.
    pub fn in_flight(&self) -> usize {
        locked(&self.books).pool.in_flight()
    }
}

/// Adapters whose names are known at most, of one pool.
const MOST_ADAPTERS: usize = 4096;

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
mod tests;
