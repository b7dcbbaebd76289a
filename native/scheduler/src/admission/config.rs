//! What a gate is told, and what it answers.

use super::rate::Rate;

/// Settings of a gate. All seconds may be infinite, all numbers as large as their type: that means no bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GateConfig {
    /// Requests that may begin; None: as many as come.
    pub rate: Option<Rate>,
    /// Requests that may run at once in the whole pool; None: as many as come.
    pub concurrency: Option<u32>,
    /// Requests that may run at once for each endpoint that there is (their sum counts); None: as many as come.
    pub concurrency_per_endpoint: Option<u32>,
    /// What may wait.
    pub queue: QueueBounds,
    /// The highest priority there is (levels are 0, the lowest, to this; more counts as this).
    pub highest_priority: u8,
    /// Seconds of waiting after which a request counts as one of the highest priority.
    pub starvation: f64,
    /// What a request costs in fair sharing beside its tokens, in tokens.
    pub request_cost: f64,
    /// What a token costs in fair sharing: 1, or 0 to share by requests.
    pub token_cost: f64,
    /// Requests of average cost by which a tenant that asked for less than its share may go ahead of the others.
    pub tenant_burst: u32,
    /// Seconds that a request is taken to run until some have been observed.
    pub expected_run: f64,
    /// The longest Retry-After, in seconds.
    pub longest_retry: f64,
}

/// Bounds of what waits in the gate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueueBounds {
    /// Requests; 0: nothing waits.
    pub depth: u32,
    /// Tokens of their prompts, in sum.
    pub tokens: u64,
    /// Seconds; a request whose turn comes at exactly this time still goes.
    pub wait: f64,
    /// Requests of one tenant.
    pub tenant_depth: u32,
    /// Tokens of one tenant's prompts, in sum.
    pub tenant_tokens: u64,
}

impl Default for GateConfig {
    /// No rate and no concurrency limit: everything is admitted at once.
    fn default() -> Self {
        GateConfig {
            rate: None,
            concurrency: None,
            concurrency_per_endpoint: None,
            queue: QueueBounds::default(),
            highest_priority: u8::MAX,
            starvation: f64::INFINITY,
            request_cost: 256.0,
            token_cost: 1.0,
            tenant_burst: 16,
            expected_run: 1.0,
            longest_retry: 60.0,
        }
    }
}

impl Default for QueueBounds {
    /// 1,000 requests, 30 s, any number of tokens, no bound for a tenant.
    fn default() -> Self {
        QueueBounds {
            depth: 1000,
            tokens: u64::MAX,
            wait: 30.0,
            tenant_depth: u32::MAX,
            tenant_tokens: u64::MAX,
        }
    }
}

/// A request that asks to be let in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrival {
    /// The caller's name for it, unique among those that wait or run.
    pub id: u64,
    /// Who shares fairly with whom (a hash of an identity, a header or a claim).
    pub tenant: u64,
    /// The tenant's weight; 1 is usual.
    pub weight: f64,
    /// Requests of one group can go to the same endpoints, and wait for places there. 0 where all can go everywhere.
    pub group: u64,
    /// 0 is the lowest.
    pub priority: u8,
    /// Tokens of the prompt, estimated.
    pub tokens: f64,
    /// Seconds from the moment it is let in to its first token, predicted (0 where nothing is known).
    pub prefill: f64,
    /// Seconds from now within which the first token must come, if there is such a limit.
    pub deadline: Option<f64>,
}

/// The answer to an arrival.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decision {
    /// It goes now; it runs until [`Gate::finished`](super::Gate::finished) or [`Gate::leave`](super::Gate::leave).
    Admit,
    /// It waits; an [`Event`] will say when it goes, or that it does not.
    Hold {
        /// Seconds that it will probably wait, as far as can be told now.
        predicted: f64,
    },
    /// It does not go, and is forgotten.
    Reject(Refusal),
}

/// Why a request does not go, and when to try again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Refusal {
    /// Why.
    pub reason: RefusalReason,
    /// Seconds after which another try may succeed, computed from what waits, the rate, the concurrency and the
    /// observed running times. Callers that are refused one after the other are told times one after the other. None
    /// where it cannot be told, or where the same request would never succeed.
    pub retry_after: Option<f64>,
}

impl Refusal {
    /// The value of a Retry-After header: whole seconds, never earlier than computed, at least 1.
    pub fn retry_after_header(&self) -> Option<u64> {
        self.retry_after.map(|seconds| (seconds.ceil() as u64).max(1))
    }
}

/// Why a request does not go. The names are stable: headers, statistics and dashboards use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// The rate is used up, and nothing may wait (`depth` is 0).
    Rate,
    /// Every place is taken, and nothing may wait (`depth` is 0).
    Concurrency,
    /// As many requests wait as may.
    QueueFull,
    /// As many tokens wait as may.
    QueueTokens,
    /// As many of this tenant's requests, or tokens, wait as may.
    TenantFull,
    /// It waited as long as it may.
    QueueTimeout,
    /// Its first token cannot come in time.
    Deadline,
    /// It gave its place in a full queue to a request of higher priority, or of a tenant with fewer.
    Displaced,
    /// The pool has no endpoint.
    NoEndpoint,
    /// A request of this name waits or runs already: an error of the caller.
    Duplicate,
}

impl RefusalReason {
    /// Every reason, in the order of their declaration.
    pub const ALL: [RefusalReason; 10] = [
        RefusalReason::Rate,
        RefusalReason::Concurrency,
        RefusalReason::QueueFull,
        RefusalReason::QueueTokens,
        RefusalReason::TenantFull,
        RefusalReason::QueueTimeout,
        RefusalReason::Deadline,
        RefusalReason::Displaced,
        RefusalReason::NoEndpoint,
        RefusalReason::Duplicate,
    ];

    /// Its name in headers and statistics.
    pub fn name(self) -> &'static str {
        match self {
            RefusalReason::Rate => "rate",
            RefusalReason::Concurrency => "concurrency",
            RefusalReason::QueueFull => "queue-full",
            RefusalReason::QueueTokens => "queue-tokens",
            RefusalReason::TenantFull => "tenant-full",
            RefusalReason::QueueTimeout => "queue-timeout",
            RefusalReason::Deadline => "deadline",
            RefusalReason::Displaced => "displaced",
            RefusalReason::NoEndpoint => "no-endpoint",
            RefusalReason::Duplicate => "duplicate",
        }
    }

    /// The HTTP status that says so: 503 where nothing is there to serve, 500 for an error of the caller, else 429.
    pub fn status(self) -> u16 {
        match self {
            RefusalReason::NoEndpoint => 503,
            RefusalReason::Duplicate => 500,
            _ => 429,
        }
    }
}

/// What became of a request that waited.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// It goes now, and runs.
    Released {
        /// Its name.
        id: u64,
        /// Seconds that it waited.
        waited: f64,
    },
    /// It does not go, and is forgotten.
    Refused {
        /// Its name.
        id: u64,
        /// Seconds that it waited.
        waited: f64,
        /// Why, and when to try again.
        refusal: Refusal,
    },
}

impl Event {
    /// The name of the request.
    pub fn id(&self) -> u64 {
        match *self {
            Event::Released { id, .. } | Event::Refused { id, .. } => id,
        }
    }
}
