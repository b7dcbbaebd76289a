//! The load-balancing policy `pool`: for every attempt of a request, the endpoint that the pool's scheduler picks.
//!
//! One [`Balancer`] per cluster and worker. It knows Envoy's order of hosts; everything else is the pool's.

use crate::abi::balancing::{Balancing, Choosing};
use crate::clock;
use crate::limits;
use crate::pools::{locked, set_cluster, PoolState, Wanted};
use crate::request::hash_of;
use crate::requests::{find, Facts};
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// The request header by which the policy finds what the filter knows.
pub const REQUEST_HEADER: &str = "x-headrace-request";

/// Seconds for which Envoy's word holds of what hosts have.
const COUNTS_LAST: f64 = 0.005;

/// What there is to say of a request.
pub enum Choice {
    /// It goes to the host of this priority, with this index among the healthy.
    Host(u32, u32),
    /// It goes nowhere: it was sent again already.
    Nowhere,
    /// Nothing is known of it.
    Unknown,
}

/// A host of the priority in use.
#[derive(Debug, Clone)]
struct Host {
    name: u64,
    address: String,
    /// Its place among all hosts of the priority, healthy or not.
    among_all: usize,
}

/// The healthy hosts of the first priority that has any, in Envoy's order.
#[derive(Debug, Default)]
struct Hosts {
    priority: u32,
    healthy: Vec<Host>,
    absent: Vec<u64>,
    version: u64,
}

/// One cluster of a pool, in one worker.
#[derive(Debug)]
pub struct Balancer {
    pool: Arc<PoolState>,
    cluster: String,
    hosts: RefCell<Hosts>,
    /// When Envoy was asked last what the hosts have.
    asked: Cell<f64>,
}

impl Balancer {
    /// Begins the work for a cluster.
    pub fn new(pool: Arc<PoolState>, envoy: &Balancing<'_>) -> Self {
        let cluster = envoy.cluster();
        set_cluster(&cluster, &pool);
        pool.join(&cluster);
        let balancer = Balancer {
            pool,
            cluster,
            hosts: RefCell::default(),
            asked: Cell::new(f64::NEG_INFINITY),
        };
        balancer.update(envoy);
        balancer
    }

    /// Hosts came, went, or changed their health.
    pub fn update(&self, envoy: &Balancing<'_>) {
        let mut names = Vec::new();
        let mut used: Option<Hosts> = None;
        for priority in 0..envoy.priorities() {
            let all = envoy.hosts(priority);
            names.extend(all.iter().map(|address| hash_of(address.as_bytes())));
            if used.is_none() && envoy.healthy_count(priority) > 0 {
                let place = |address: &String| all.iter().position(|other| other == address).unwrap_or(0);
                let host = |address: String| Host {
                    name: hash_of(address.as_bytes()),
                    among_all: place(&address),
                    address,
                };
                used = Some(Hosts {
                    priority,
                    healthy: envoy.healthy_hosts(priority).into_iter().map(host).collect(),
                    ..Hosts::default()
                });
            }
        }
        let used = used.unwrap_or_default();
        let usable = used.healthy.iter().map(|host| host.name).collect();
        *self.hosts.borrow_mut() = used;
        self.pool.set_hosts(&self.cluster, names, usable, clock::now());
    }

    /// The host for a request, as the scheduler says.
    pub fn choose(&self, envoy: &Balancing<'_>, request: &Choosing<'_>) -> Choice {
        let number = request.header(REQUEST_HEADER, request_number).flatten();
        let facts = match number.and_then(find) {
            // Of another cluster: a mirror's copy, or another cluster in its place. That is not the request in the books.
            Some(facts) if facts.cluster == self.cluster => facts,
            _ => return Choice::Unknown,
        };
        if is_copy(&facts, request) {
            return Choice::Unknown;
        }
        if facts.is_spent() {
            return Choice::Nowhere;
        }
        if self.hosts.borrow().healthy.len() != envoy.healthy_count(self.hosts.borrow().priority) {
            self.update(envoy);
        }
        self.look_for_absent();
        let hosts = self.hosts.borrow();
        self.count_all(envoy, &hosts);
        self.dispatch(&hosts, &facts)
            .map_or(Choice::Unknown, |(priority, index)| Choice::Host(priority, index))
    }

    /// Tells the pool what the hosts have, with the requests that are in no books. They last, so now and then will do.
    fn count_all(&self, envoy: &Balancing<'_>, hosts: &Hosts) {
        let now = clock::now();
        if now - self.asked.get() < COUNTS_LAST {
            return;
        }
        self.asked.set(now);
        let active = |host: &Host| (host.name, envoy.active_requests(hosts.priority, host.among_all));
        let active: Vec<(u64, u64)> = hosts.healthy.iter().map(active).collect();
        self.pool.set_active(active.into_iter());
    }

    fn look_for_absent(&self) {
        let mut hosts = self.hosts.borrow_mut();
        let present: Vec<u64> = hosts.healthy.iter().map(|host| host.name).collect();
        if let Some((absent, version)) = self.pool.absent(&present, hosts.version) {
            hosts.absent = absent;
            hosts.version = version;
        }
    }

    fn dispatch(&self, hosts: &Hosts, facts: &Arc<Facts>) -> Option<(u32, u32)> {
        let now = clock::now();
        let tried = locked(&facts.sent).tried.clone();
        let wanted = Wanted {
            id: facts.id,
            tokens: facts.tokens,
            blocks: &facts.blocks,
            session: facts.session,
            model: facts.model,
            tried: &tried,
            absent: &hosts.absent,
        };
        let pick = self.pool.dispatch(&wanted, now, clock::random())?;
        let index = hosts.healthy.iter().position(|host| host.name == pick.endpoint);
        match index {
            Some(index) => {
                facts.note(pick, hosts.healthy[index].address.clone(), now);
                limits::sent(facts, now);
                if facts.silent {
                    self.pool.expect_no_first_token(facts.id);
                }
                Some((hosts.priority, index as u32))
            }
            None => {
                self.pool.finish(facts.id, now); // the pool changed meanwhile
                None
            }
        }
    }

    /// The healthy host with the fewest requests in flight, for requests of which nothing is known.
    pub fn least_loaded(&self, envoy: &Balancing<'_>) -> Option<(u32, u32)> {
        if self.hosts.borrow().healthy.len() != envoy.healthy_count(self.hosts.borrow().priority) {
            self.update(envoy);
        }
        let hosts = self.hosts.borrow();
        let load = |host: &Host| envoy.active_requests(hosts.priority, host.among_all);
        let loads: Vec<u64> = hosts.healthy.iter().map(load).collect();
        let least = *loads.iter().min()?;
        let equal: Vec<usize> = (0..loads.len()).filter(|&at| loads[at] == least).collect();
        let at = ((clock::random() * equal.len() as f64) as usize).min(equal.len() - 1);
        Some((hosts.priority, equal[at] as u32))
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.pool.leave(&self.cluster, clock::now());
    }
}

/// Whether it is the copy that a mirror makes of the request: sent to the same cluster when that one was sent already, for
/// a host that Envoy marks.
fn is_copy(facts: &Facts, request: &Choosing<'_>) -> bool {
    !locked(&facts.sent).tried.is_empty() && request.header(":authority", is_marked) == Some(true)
}

/// Whether Envoy marks a request as a mirror's copy: its host is `host-shadow`, or `host-shadow:port`.
pub fn is_marked(host: &[u8]) -> bool {
    host.split(|&byte| byte == b':')
        .next()
        .map_or(false, |name| name.ends_with(b"-shadow"))
}

/// The number in the header's value: 16 hexadecimal digits.
pub fn request_number(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    if text.len() == 16 {
        u64::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_known_by_their_host() {
        assert!(is_marked(b"chat.example-shadow") && is_marked(b"127.0.0.1-shadow:80"));
        assert!(!is_marked(b"chat.example:80") && !is_marked(b"-shadow.example") && !is_marked(b""));
    }

    #[test]
    fn only_sixteen_digits_are_a_number() {
        assert_eq!(request_number(b"00000000000000ff"), Some(255));
        for text in ["", "ff", "zz000000000000ff", "00000000000000fff"] {
            assert_eq!(request_number(text.as_bytes()), None);
        }
    }
}
