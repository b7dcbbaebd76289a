//! What a request's headers say, and what the pool's gate is told of it. For [`crate::stream`].

use crate::abi::callbacks::{Headers, Stream};
use crate::admission::Standing;
use crate::clock;
use crate::pools::PoolState;
use crate::request::{hash_of, Api};
use crate::settings::PoolSettings;
use crate::tenant;
use scheduler::admission::Decision;
use std::sync::Arc;

/// What the headers say.
#[derive(Debug)]
pub struct Ask {
    pub arrived: f64,
    pub pool: Arc<PoolState>,
    pub settings: Arc<PoolSettings>,
    pub cluster: String,
    pub api: Option<Api>,
    pub declared_bytes: f64,
    pub session: Option<u64>,
    pub standing: Standing,
}

impl Ask {
    pub fn read(stream: Stream<'_>, pool: Arc<PoolState>, cluster: String) -> Self {
        let settings = pool.settings();
        let named = |name: &str| {
            if name.is_empty() {
                None
            } else {
                stream.header(Headers::Request, name)
            }
        };
        let standing = settings.admission.as_ref().map(|admission| {
            let priority = named(&admission.priority_header).unwrap_or_default();
            let deadline = named(&admission.first_token_deadline_header).and_then(|text| whole_number(&text));
            let tenant = tenant::name_of(stream, &admission.tenant);
            Standing::of(admission, &priority, &tenant, deadline)
        });
        let path = stream.header(Headers::Request, ":path").unwrap_or_default();
        let length = stream
            .header(Headers::Request, "content-length")
            .and_then(|text| whole_number(&text));
        Ask {
            arrived: clock::now(),
            api: Api::of_path(&path),
            declared_bytes: length.unwrap_or(0.0),
            session: named(&settings.session_header).map(|value| hash_of(&value)),
            standing: standing.unwrap_or_default(),
            pool,
            settings: settings.clone(),
            cluster,
        }
    }

    /// Whether the body is worth waiting for: of a known API, JSON as far as said, not encoded, not too long.
    pub fn is_readable(&self, stream: Stream<'_>) -> bool {
        let kind = stream.header(Headers::Request, "content-type");
        self.api.is_some()
            && self.declared_bytes <= self.settings.max_body_bytes as f64
            && kind.map_or(true, |kind| {
                kind.to_ascii_lowercase().windows(4).any(|word| word == b"json")
            })
            && stream.header(Headers::Request, "content-encoding").is_none()
    }

    /// Whether it shall ask for its place only when its body is whole or too long to be kept: else whoever sends slowly what
    /// nobody reads would have a place so long. Not where both sides may speak at once: upgrades, and gRPC of no known API.
    pub fn comes_whole(&self, stream: Stream<'_>) -> bool {
        let kind = stream.header(Headers::Request, "content-type").unwrap_or_default();
        let grpc = self.api.is_none() && kind.starts_with(b"application/grpc");
        self.settings.admission.is_some() && !grpc && !is_upgrade(stream)
    }

    pub fn decide(&self, id: u64, tokens: f64, now: f64) -> Decision {
        if self.settings.admission.is_none() {
            return Decision::Admit;
        }
        let prefill = self.settings.config.cost.prefill(tokens, 0.0);
        let group = hash_of(self.cluster.as_bytes());
        self.pool
            .admission()
            .arrive(&self.standing.arrival(id, group, tokens, prefill), now)
    }
}

/// Whether a client wants another protocol on this stream, which then has no end of a body: what Envoy calls an upgrade.
fn is_upgrade(stream: Stream<'_>) -> bool {
    let wants = |connection: &[u8]| {
        let mut words = connection.split(|&byte| byte == b',');
        words.any(|word| {
            let word: Vec<u8> = word.iter().copied().filter(|byte| !b" \t".contains(byte)).collect();
            word.eq_ignore_ascii_case(b"upgrade")
        })
    };
    let connects = stream.header(Headers::Request, ":method").as_deref() == Some(b"CONNECT");
    let upgrade = stream.header(Headers::Request, "upgrade").is_some();
    connects || (upgrade && stream.read_header(Headers::Request, "connection", wants) == Some(true))
}

pub fn whole_number(text: &[u8]) -> Option<f64> {
    let number: u64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(number as f64)
}
