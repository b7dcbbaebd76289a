//! Settings of a pool's admission: rates, bounds, priorities, tenants, overflow.

use super::object::{short_text, Object};
use super::Refusal;
use crate::json::{number, raw_string};
use crate::text::{trimmed, unescaped};
use std::collections::HashMap;

/// Rates, queue and shares of a pool.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AdmissionSettings {
    /// Requests that start per second; 0 for no limit.
    pub rate_per_second: f64,
    /// Requests that may start at once after a pause.
    pub burst: f64,
    /// Requests in flight in the whole pool; 0 for no limit.
    pub concurrency: u32,
    /// Requests in flight per endpoint; 0 for no limit.
    pub concurrency_per_endpoint: u32,
    /// As many requests per endpoint as it is known to run, and one more.
    pub learned_concurrency: bool,
    /// What may wait.
    pub queue: QueueSettings,
    /// Header with the name of the request's priority.
    pub priority_header: String,
    /// Names of the priorities, first first.
    pub priorities: Vec<String>,
    /// After this many seconds of waiting a request goes before higher priorities; 0 for never.
    pub starvation_seconds: f64,
    /// What tells tenants apart.
    pub tenant: TenantKey,
    /// Tenants with a weight other than 1.
    pub weights: HashMap<Vec<u8>, f64>,
    /// What a token counts in the fair share, beside the request itself.
    pub token_cost: f64,
    /// Header with the request's own deadline of the first token, in milliseconds.
    pub first_token_deadline_header: String,
    /// The deadline of those without one; 0 for none.
    pub first_token_deadline_seconds: f64,
    /// Longest time that the rest of a body may take once its request has a place; 0 for no bound.
    pub upload_seconds: f64,
    /// Where refused requests go instead, as the value of the header by which routes know them; None: nowhere.
    pub redirect_to: Option<String>,
}

/// Bounds of what waits; 0 for none, except for `requests`: with 0 nothing waits.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct QueueSettings {
    /// Requests that may wait.
    pub requests: u32,
    /// Tokens of prompt that may wait.
    pub tokens: f64,
    /// Longest wait in seconds.
    pub seconds: f64,
    /// Requests of one tenant that may wait.
    pub tenant_requests: u32,
    /// Tokens of one tenant's prompts that may wait.
    pub tenant_tokens: f64,
}

/// What tells tenants apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TenantKey {
    /// Nothing: all requests are of one tenant.
    #[default]
    None,
    /// The value of a request header.
    Header(String),
    /// The SPIFFE id that the listener's mutual TLS has verified.
    Identity,
    /// A claim of a JWT that Envoy has verified.
    Claim(String),
}

const MOST_WEIGHTS: usize = 1024;
const MOST_PRIORITIES: usize = 16;
const MOST_AT_ONCE: u32 = 1_000_000;
const MOST_TOKENS: f64 = 1e12;
const UPLOAD_SECONDS: f64 = 60.0;
const LONGEST_UPLOAD: f64 = 86_400.0;
/// Of a destination: names of clusters are longer than other texts.
const LONGEST_NAME: usize = 1024;

/// Reads the field `admission` of a pool.
pub fn admission(text: &[u8]) -> Result<AdmissionSettings, Refusal> {
    let mut object = Object::read("admission.", text)?;
    let settings = AdmissionSettings {
        rate_per_second: object.number("rate_per_second", 0.0, (0.0, 1e6))?,
        burst: object.number("burst", 1.0, (1.0, 1e6))?,
        concurrency: object.whole("concurrency", 0, (0, MOST_AT_ONCE))?,
        concurrency_per_endpoint: object.whole("concurrency_per_endpoint", 0, (0, MOST_AT_ONCE))?,
        learned_concurrency: object.truth("learned_concurrency")?,
        queue: queue(&mut object)?,
        priority_header: object.header("priority_header")?,
        priorities: priorities(object.take("priorities"))?,
        starvation_seconds: object.seconds("starvation_seconds")?,
        tenant: tenant(&mut object)?,
        weights: weights(object.object("weights", "admission.weights.")?)?,
        token_cost: object.number("token_cost", 1.0, (0.0, 1000.0))?,
        first_token_deadline_header: object.header("first_token_deadline_header")?,
        first_token_deadline_seconds: object.seconds("first_token_deadline_seconds")?,
        upload_seconds: object.number("upload_seconds", UPLOAD_SECONDS, (0.0, LONGEST_UPLOAD))?,
        redirect_to: redirect_to(object.object("overflow", "admission.overflow.")?)?,
    };
    object.end()?;
    Ok(settings)
}

fn queue(object: &mut Object<'_>) -> Result<QueueSettings, Refusal> {
    let mut queue = object.object("queue", "admission.queue.")?;
    let mut tenant = object.object("tenant_limits", "admission.tenant_limits.")?;
    let settings = QueueSettings {
        requests: queue.whole("requests", 0, (0, MOST_AT_ONCE))?,
        tokens: queue.number("tokens", 0.0, (0.0, MOST_TOKENS))?,
        seconds: queue.seconds("seconds")?,
        tenant_requests: tenant.whole("requests", 0, (0, MOST_AT_ONCE))?,
        tenant_tokens: tenant.number("tokens", 0.0, (0.0, MOST_TOKENS))?,
    };
    queue.end()?;
    tenant.end()?;
    Ok(settings)
}

fn tenant(object: &mut Object<'_>) -> Result<TenantKey, Refusal> {
    let header = object.header("tenant_header")?;
    let text = match object.take("tenant") {
        None if header.is_empty() => return Ok(TenantKey::None),
        None => return Ok(TenantKey::Header(header)),
        Some(_) if !header.is_empty() => {
            return Err("admission.tenant and admission.tenant_header say the same: give one".to_string())
        }
        Some(text) => text,
    };
    let mut tenant = Object::read("admission.tenant.", text)?;
    let key = match (
        tenant.header("header")?,
        tenant.truth("identity")?,
        tenant.text("claim")?,
    ) {
        (header, false, claim) if claim.is_empty() && !header.is_empty() => TenantKey::Header(header),
        (header, true, claim) if claim.is_empty() && header.is_empty() => TenantKey::Identity,
        (header, false, claim) if header.is_empty() && !claim.is_empty() => TenantKey::Claim(claim),
        _ => {
            return Err(
                "admission.tenant must be one of {\"header\": NAME}, {\"identity\": true}, {\"claim\": NAME}"
                    .to_string(),
            )
        }
    };
    tenant.end()?;
    Ok(key)
}

fn weights(object: Object<'_>) -> Result<HashMap<Vec<u8>, f64>, Refusal> {
    let mut weights = HashMap::new();
    for (tenant, weight) in object.into_fields() {
        match number(weight) {
            Some(weight) if weight > 0.0 && weight <= 1e6 => {
                let _ = weights.insert(tenant.into_bytes(), weight);
            }
            _ => {
                return Err(format!(
                    "admission.weights.{tenant} must be a number above 0, up to 1000000"
                ))
            }
        }
    }
    if weights.len() > MOST_WEIGHTS {
        return Err(format!("admission.weights has more than {MOST_WEIGHTS} tenants"));
    }
    Ok(weights)
}

fn redirect_to(mut object: Object<'_>) -> Result<Option<String>, Refusal> {
    let action = object.text("action")?;
    let to = object
        .take("to")
        .map_or(Some(Vec::new()), |value| unescaped(raw_string(value)?))
        .and_then(|to| String::from_utf8(to).ok())
        .filter(|to| to.len() <= LONGEST_NAME && to.bytes().all(|byte| byte.is_ascii_graphic()));
    let to = to.ok_or_else(|| {
        format!("admission.overflow.to must be a name of 1 to {LONGEST_NAME} visible ASCII characters")
    })?;
    object.end()?;
    match (action.as_str(), to.is_empty()) {
        ("" | "reject", true) => Ok(None),
        ("redirect", false) => Ok(Some(to)),
        ("redirect", true) => Err("admission.overflow.to must say where to redirect".to_string()),
        ("" | "reject", false) => Err("admission.overflow.to goes with the action \"redirect\"".to_string()),
        _ => Err("admission.overflow.action must be \"reject\" or \"redirect\"".to_string()),
    }
}

/// A list of at most 16 texts.
fn priorities(value: Option<&[u8]>) -> Result<Vec<String>, Refusal> {
    let refusal = || format!("admission.priorities must be a list of at most {MOST_PRIORITIES} names");
    let inner = match value {
        None | Some(b"[]") => return Ok(Vec::new()),
        Some([b'[', inner @ .., b']']) => inner,
        Some(_) => return Err(refusal()),
    };
    let names: Option<Vec<String>> = inner
        .split(|&byte| byte == b',')
        .map(|name| short_text(trimmed(name)))
        .collect();
    names.filter(|names| names.len() <= MOST_PRIORITIES).ok_or_else(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_can_be_said() {
        let settings = admission(
            br#"{"rate_per_second": 20, "burst": 2, "concurrency": 64, "concurrency_per_endpoint": 4,
              "queue": {"requests": 30, "tokens": 1e6, "seconds": 1}, "tenant_limits": {"requests": 5, "tokens": 9},
              "priority_header": "p", "priorities": ["high", "low"], "starvation_seconds": 5,
              "tenant": {"header": "T"}, "weights": {"a": 2.5, "m\u00fcller": 3}, "token_cost": 0,
              "overflow": {"action": "redirect", "to": "spill.example:8000"},
              "first_token_deadline_header": "d", "first_token_deadline_seconds": 4, "upload_seconds": 7}"#,
        )
        .unwrap();
        assert_eq!((settings.concurrency, settings.concurrency_per_endpoint), (64, 4));
        assert_eq!((settings.queue.requests, settings.queue.tenant_requests), (30, 5));
        assert_eq!(settings.priorities, ["high", "low"]);
        assert_eq!(settings.tenant, TenantKey::Header("t".to_string()));
        assert_eq!(settings.weights.get("müller".as_bytes()), Some(&3.0));
        assert_eq!((settings.token_cost, settings.upload_seconds), (0.0, 7.0));
        assert_eq!(admission(b"{}").unwrap().upload_seconds, UPLOAD_SECONDS);
        assert_eq!(settings.redirect_to.as_deref(), Some("spill.example:8000"));
    }

    #[test]
    fn each_kind_of_tenant_can_be_said() {
        let tenant = |text: &str| admission(text.as_bytes()).unwrap().tenant;
        assert_eq!(tenant("{}"), TenantKey::None);
        assert_eq!(
            tenant(r#"{"tenant_header":"X-T"}"#),
            TenantKey::Header("x-t".to_string())
        );
        assert_eq!(tenant(r#"{"tenant":{"identity":true}}"#), TenantKey::Identity);
        assert_eq!(
            tenant(r#"{"tenant":{"claim":"org.team"}}"#),
            TenantKey::Claim("org.team".to_string())
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let many: Vec<String> = (0..1025).map(|tenant| format!("\"{tenant}\":1")).collect();
        let many = format!("{{\"weights\":{{{}}}}}", many.join(","));
        for (text, complaint) in [
            (
                r#"{"queue":{"requests":1.5}}"#,
                "admission.queue.requests must be a whole number",
            ),
            (r#"{"queue":[]}"#, "admission.queue is no JSON object"),
            (r#"{"weights":{"a":0}}"#, "admission.weights.a must be a number above 0"),
            (many.as_str(), "admission.weights has more than 1024 tenants"),
            (r#"{"priorities":[1]}"#, "admission.priorities must be a list"),
            (r#"{"concurrency":-1}"#, "admission.concurrency must be a number from 0"),
            (r#"{"token_cost":-1}"#, "admission.token_cost must be a number from 0"),
            (
                r#"{"tenant_limits":{"bytes":1}}"#,
                "admission.tenant_limits.bytes is unknown",
            ),
            (r#"{"tenant":{}}"#, "admission.tenant must be one of"),
            (r#"{"tenant":{"identity":false}}"#, "admission.tenant must be one of"),
            (
                r#"{"tenant":{"header":"a","claim":"b"}}"#,
                "admission.tenant must be one of",
            ),
            (
                r#"{"tenant":{"header":"a"},"tenant_header":"b"}"#,
                "admission.tenant and",
            ),
            (
                r#"{"overflow":{"action":"redirect"}}"#,
                "admission.overflow.to must say",
            ),
            (
                r#"{"overflow":{"action":"redirect","to":"a b"}}"#,
                "admission.overflow.to must be a name",
            ),
            (r#"{"overflow":{"to":"a"}}"#, "admission.overflow.to goes with"),
            (
                r#"{"overflow":{"action":"spill"}}"#,
                "admission.overflow.action must be",
            ),
            (r#"{"\ud800":1}"#, "admission.\\ud800 is no name"),
        ] {
            let refusal = admission(text.as_bytes()).unwrap_err();
            assert!(refusal.starts_with(complaint), "{}: {}", text, refusal);
        }
    }
}
