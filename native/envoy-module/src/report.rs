//! What is told of a request: Envoy's statistics, and dynamic metadata for access logs (docs/reference/module-config.md).

use crate::abi::callbacks::{FilterConfigHandle, Metric, Stream};
use crate::abi::take_panics;
use crate::answer::Usage;

/// The namespace of the metadata.
const NAMESPACE: &str = "headrace";

/// The statistics of one filter configuration.
#[derive(Debug, Clone, Copy)]
pub struct Statistics {
    requests: Metric,
    picks: Metric,
    tokens_in: Metric,
    tokens_out: Metric,
    panics: Metric,
    queue: Metric,
    first_token: Metric,
    between_tokens: Metric,
}

/// How a request fared.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Account {
    /// The pool's name.
    pub pool: String,
    /// The model's name, as the request says.
    pub model: String,
    /// Why it was sent where it was; "" where it was not.
    pub reason: &'static str,
    /// The endpoint's address.
    pub endpoint: String,
    /// How often it was sent.
    pub attempts: usize,
    /// Seconds that it waited in the mesh.
    pub queued: f64,
    /// Seconds from its arrival in the proxy to its first token, for streams.
    pub first_token: Option<f64>,
    /// Seconds until the first token that were predicted when it was sent.
    pub predicted: f64,
    /// Tokens of its prompt, as estimated.
    pub estimated: f64,
    /// Of those, how many the endpoint probably had in its cache.
    pub cached: f64,
    /// What the server reported.
    pub usage: Usage,
    /// Tokens that were seen to pass, for streams.
    pub seen: u64,
    /// How it ended.
    pub outcome: &'static str,
}

fn milliseconds(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1000.0).round() as u64
}

impl Statistics {
    /// Defines them; Envoy allows that only while the configuration is made.
    pub fn define(envoy: &FilterConfigHandle<'_>) -> Self {
        Statistics {
            requests: envoy.counter("headrace_requests", &["pool", "outcome"]),
            picks: envoy.counter("headrace_picks", &["pool", "reason"]),
            tokens_in: envoy.counter("headrace_tokens_in", &["pool"]),
            tokens_out: envoy.counter("headrace_tokens_out", &["pool"]),
            panics: envoy.counter("headrace_panics", &[]),
            queue: envoy.histogram("headrace_queue_ms", &["pool"]),
            first_token: envoy.histogram("headrace_first_token_ms", &["pool"]),
            between_tokens: envoy.histogram("headrace_between_tokens_us", &[]),
        }
    }

    /// Two events of a stream came so many seconds apart.
    pub fn gap(&self, stream: Stream<'_>, seconds: f64) {
        stream.record(self.between_tokens, &[], (seconds.max(0.0) * 1e6) as u64);
    }

    /// A request ended.
    pub fn tell(&self, stream: Stream<'_>, account: &Account) {
        let pool = account.pool.as_str();
        stream.count(self.requests, &[pool, account.outcome], 1);
        if !account.reason.is_empty() {
            stream.count(self.picks, &[pool, account.reason], account.attempts as u64);
        }
        let tokens_in = account.usage.input.unwrap_or(0.0) as u64;
        let tokens_out = account.usage.output.map_or(account.seen, |tokens| tokens as u64);
        stream.count(self.tokens_in, &[pool], tokens_in);
        stream.count(self.tokens_out, &[pool], tokens_out);
        stream.record(self.queue, &[pool], milliseconds(account.queued));
        if let Some(seconds) = account.first_token {
            stream.record(self.first_token, &[pool], milliseconds(seconds));
        }
        let panics = take_panics();
        if panics > 0 {
            stream.count(self.panics, &[], panics);
        }
        account.write(stream);
    }
}

impl Account {
    fn write(&self, stream: Stream<'_>) {
        let texts = [
            ("pool", self.pool.as_str()),
            ("model", &self.model),
            ("reason", self.reason),
            ("endpoint", &self.endpoint),
            ("outcome", self.outcome),
        ];
        let rounded = |seconds: f64| (seconds * 1e6).round() / 1000.0;
        let mut numbers = vec![
            ("attempts", self.attempts as f64),
            ("queue_ms", rounded(self.queued)),
            ("tokens_estimated", self.estimated.round()),
            ("tokens_cached", self.cached.round()),
            ("predicted_ms", rounded(self.predicted)),
        ];
        numbers.extend(self.first_token.map(|seconds| ("ttft_ms", rounded(seconds))));
        numbers.extend(self.usage.input.map(|tokens| ("tokens_in", tokens)));
        let tokens_out = self
            .usage
            .output
            .or(if self.seen > 0 { Some(self.seen as f64) } else { None });
        numbers.extend(tokens_out.map(|tokens| ("tokens_out", tokens)));
        numbers.extend(self.usage.cached.map(|tokens| ("tokens_cached_by_server", tokens)));
        stream.set_metadata(NAMESPACE, &texts, &numbers);
    }
}
