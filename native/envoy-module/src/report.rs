//! What is told of requests in Envoy's statistics (docs/reference/module-config.md).

use crate::abi::callbacks::{ConfigWaker, FilterConfigHandle, Metric};
use crate::abi::take_panics;
use crate::account::Account;
use crate::clock;
use crate::filter::Filter;
use crate::pools::{locked, PoolState};
use crate::timers;
use std::sync::{Arc, Mutex, Weak};

/// The statistics of one filter configuration. Workers only note what happened; the main thread hands the sums to Envoy
/// a few times a second, because a statistic with labels costs Envoy microseconds each time.
#[derive(Debug)]
pub struct Statistics {
    metrics: Metrics,
    waker: ConfigWaker,
    noted: Mutex<Noted>,
}

#[derive(Debug, Clone, Copy)]
struct Metrics {
    requests: Metric,
    picks: Metric,
    tokens_in: Metric,
    tokens_out: Metric,
    resent: Metric,
    redirects: Metric,
    overfull: Metric,
    panics: Metric,
    in_flight: Metric,
    waiting: Metric,
    queue: Metric,
    first_token: Metric,
    between_tokens: Metric,
}

/// What was noted since the last time that Envoy was told.
#[derive(Debug, Default)]
struct Noted {
    pools: Vec<(Arc<PoolState>, Sums)>,
    gaps: Vec<u64>,
    flush_is_due: bool,
}

#[derive(Debug, Default)]
struct Sums {
    outcomes: Vec<(&'static str, u64)>,
    picks: Vec<(&'static str, u64)>,
    tokens_in: u64,
    tokens_out: u64,
    resent: u64,
    redirects: u64,
    queued: Vec<u64>,
    first_token: Vec<u64>,
}

/// Seconds between two tellings.
const PERIOD: f64 = 0.2;
/// Values of one histogram that are kept until then; more are left out.
const MOST_VALUES: usize = 20_000;

fn milliseconds(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1000.0).round() as u64
}

fn add(sums: &mut Vec<(&'static str, u64)>, word: &'static str, by: u64) {
    match sums.iter_mut().find(|(known, _)| *known == word) {
        Some((_, sum)) => *sum += by,
        None => sums.push((word, by)),
    }
}

fn keep(values: &mut Vec<u64>, value: u64) {
    if values.len() < MOST_VALUES {
        values.push(value);
    }
}

impl Statistics {
    /// Defines them; Envoy allows that only while the configuration is made.
    pub fn define(envoy: &FilterConfigHandle<'_>) -> Self {
        let metrics = Metrics {
            requests: envoy.counter("headrace_requests", &["pool", "outcome"]),
            picks: envoy.counter("headrace_picks", &["pool", "reason"]),
            tokens_in: envoy.counter("headrace_tokens_in", &["pool"]),
            tokens_out: envoy.counter("headrace_tokens_out", &["pool"]),
            resent: envoy.counter("headrace_resent", &["pool"]),
            redirects: envoy.counter("headrace_redirects", &["pool"]),
            overfull: envoy.counter("headrace_overfull", &["pool"]),
            panics: envoy.counter("headrace_panics", &[]),
            in_flight: envoy.gauge("headrace_in_flight", &["pool"]),
            waiting: envoy.gauge("headrace_waiting", &["pool"]),
            queue: envoy.histogram("headrace_queue_ms", &["pool"]),
            first_token: envoy.histogram("headrace_first_token_ms", &["pool"]),
            between_tokens: envoy.histogram("headrace_between_tokens_us", &[]),
        };
        Statistics {
            metrics,
            waker: envoy.waker(),
            noted: Mutex::default(),
        }
    }

    /// Two events of a stream came so many seconds apart.
    pub fn gap(&self, seconds: f64) {
        keep(&mut locked(&self.noted).gaps, (seconds.max(0.0) * 1e6) as u64);
    }

    /// A request began to wait, was sent, or ended: soon Envoy will be told. `account`: how it fared, where it ended.
    pub fn note(filter: &Arc<Filter>, pool: &Arc<PoolState>, account: Option<&Account>) {
        Self::change(filter, pool, |sums| {
            if let Some(account) = account {
                sums.add(account);
            }
        });
    }

    /// A request that the pool did not take went elsewhere.
    pub fn redirected(filter: &Arc<Filter>, pool: &Arc<PoolState>) {
        Self::change(filter, pool, |sums| sums.redirects += 1);
    }

    fn change(filter: &Arc<Filter>, pool: &Arc<PoolState>, change: impl FnOnce(&mut Sums)) {
        let statistics = match &**filter {
            Filter::Pool(filter) => &filter.statistics,
            _ => return,
        };
        let mut noted = locked(&statistics.noted);
        let at = noted.pools.iter().position(|(known, _)| Arc::ptr_eq(known, pool));
        let at = at.unwrap_or_else(|| {
            noted.pools.push((pool.clone(), Sums::default()));
            noted.pools.len() - 1
        });
        change(&mut noted.pools[at].1);
        if !std::mem::replace(&mut noted.flush_is_due, true) {
            drop(noted);
            let filter = Arc::downgrade(filter);
            timers::set(clock::now() + PERIOD, Box::new(move |_| wake(&filter)));
        }
    }

    /// Tells Envoy what was noted. On the main thread.
    pub fn tell(&self, envoy: &FilterConfigHandle<'_>) {
        let noted = std::mem::take(&mut *locked(&self.noted));
        let metrics = self.metrics;
        for (pool, sums) in &noted.pools {
            let name = pool.name();
            for (outcome, sum) in &sums.outcomes {
                envoy.count(metrics.requests, &[name, outcome], *sum);
            }
            for (reason, sum) in &sums.picks {
                envoy.count(metrics.picks, &[name, reason], *sum);
            }
            envoy.count(metrics.tokens_in, &[name], sums.tokens_in);
            envoy.count(metrics.tokens_out, &[name], sums.tokens_out);
            envoy.count(metrics.resent, &[name], sums.resent);
            envoy.count(metrics.redirects, &[name], sums.redirects);
            envoy.count(metrics.overfull, &[name], pool.take_overfull());
            for value in &sums.queued {
                envoy.record(metrics.queue, &[name], *value);
            }
            for value in &sums.first_token {
                envoy.record(metrics.first_token, &[name], *value);
            }
            envoy.set(metrics.in_flight, &[name], pool.in_flight() as u64);
            envoy.set(metrics.waiting, &[name], pool.admission().waiting() as u64);
        }
        for gap in &noted.gaps {
            envoy.record(metrics.between_tokens, &[], *gap);
        }
        envoy.count(metrics.panics, &[], take_panics());
    }
}

fn wake(filter: &Weak<Filter>) {
    if let Some(filter) = filter.upgrade() {
        if let Filter::Pool(filter) = &*filter {
            filter.statistics.waker.wake();
        }
    }
}

impl Sums {
    fn add(&mut self, account: &Account) {
        add(&mut self.outcomes, account.outcome, 1);
        if !account.reason.is_empty() {
            add(&mut self.picks, account.reason, account.attempts as u64);
        }
        self.tokens_in += account.usage.input.unwrap_or(0.0) as u64;
        self.tokens_out += account.usage.output.map_or(account.seen, |tokens| tokens as u64);
        self.resent += account.resent();
        keep(&mut self.queued, milliseconds(account.queued));
        if let Some(seconds) = account.first_token {
            keep(&mut self.first_token, milliseconds(seconds));
        }
    }
}
