//! What a request's headers say, and what the pool's gate is told of it. For [`crate::stream`].

use crate::abi::callbacks::{Headers, Stream};
use crate::admission::{self, Standing};
use crate::clock;
use crate::pools::PoolState;
use crate::request::{hash_of, Api};
use crate::settings::{AdmissionSettings, PoolSettings};
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
    pub priority: Vec<u8>,
    pub tenant: Vec<u8>,
    pub deadline_ms: Option<f64>,
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
        let none = AdmissionSettings::default();
        let admission = settings.admission.as_ref().unwrap_or(&none);
        let path = stream.header(Headers::Request, ":path").unwrap_or_default();
        let length = stream
            .header(Headers::Request, "content-length")
            .and_then(|text| whole_number(&text));
        Ask {
            arrived: clock::now(),
            api: Api::of_path(&path),
            declared_bytes: length.unwrap_or(0.0),
            session: named(&settings.session_header).map(|value| hash_of(&value)),
            priority: named(&admission.priority_header).unwrap_or_default(),
            tenant: named(&admission.tenant_header).unwrap_or_default(),
            deadline_ms: named(&admission.first_token_deadline_header).and_then(|text| whole_number(&text)),
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

    pub fn decide(&self, id: u64, tokens: f64, now: f64) -> Decision {
        let settings = match &self.settings.admission {
            Some(settings) => settings,
            None => return Decision::Admit,
        };
        let standing = Standing {
            priority: &self.priority,
            tenant: &self.tenant,
            deadline_ms: self.deadline_ms,
        };
        let prefill = self.settings.config.cost.prefill(tokens, 0.0);
        let arrival = admission::arrival(settings, &standing, id, tokens, prefill);
        self.pool.admission().arrive(&arrival, now)
    }
}

pub fn whole_number(text: &[u8]) -> Option<f64> {
    let number: u64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(number as f64)
}
