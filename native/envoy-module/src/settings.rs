//! Settings of the filter and the policy `pool`, read from the JSON of Envoy's configuration (docs/reference/module-config.md).

use crate::json::{number, raw_string, Fields};
use scheduler::{CostModel, Policy, PoolConfig};

/// Why settings are refused: one line for the log of Envoy.
pub type Refusal = String;

/// Settings of the HTTP filter `pool`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilterSettings {
    /// Answers say which endpoint was picked and why.
    pub debug_headers: bool,
}

/// Settings of a pool, from the load-balancing policy of its clusters.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// The pool's name, unique in the proxy.
    pub name: String,
    /// How to choose, and what a prompt costs.
    pub config: PoolConfig,
    /// Longest request body that is read.
    pub max_body_bytes: usize,
    /// Header whose value binds a session to an endpoint; "" for none.
    pub session_header: String,
    /// Ask streams for their usage where the client did not.
    pub inject_usage: bool,
    /// Limits of the time that an answer takes.
    pub timeouts: Timeouts,
    /// Who waits and who is refused; None: nobody.
    pub admission: Option<AdmissionSettings>,
}

/// Limits in seconds, from the moment the request goes to an endpoint; 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timeouts {
    /// Until the first token.
    pub first_token: f64,
    /// Between two events of a stream.
    pub between_tokens: f64,
    /// Until the end.
    pub total: f64,
}

impl Timeouts {
    /// Those that hold for a request: what is no stream has no first token that could be seen, only an end.
    pub fn of(self, streams: bool) -> Timeouts {
        if streams {
            self
        } else {
            Timeouts {
                total: self.total,
                ..Timeouts::default()
            }
        }
    }
}

/// Rates, queue and shares of a pool.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AdmissionSettings {
    /// Requests that start per second; 0 for no limit.
    pub rate_per_second: f64,
    /// Requests that may start at once after a pause.
    pub burst: f64,
    /// Requests in flight per endpoint; 0 for no limit.
    pub concurrency_per_endpoint: u32,
    /// Requests that may wait.
    pub queue_requests: usize,
    /// Tokens of prompt that may wait; 0 for no bound.
    pub queue_tokens: f64,
    /// Longest wait in seconds; 0 for no bound.
    pub queue_seconds: f64,
    /// Header with the name of the request's priority.
    pub priority_header: String,
    /// Names of the priorities, first first.
    pub priorities: Vec<String>,
    /// After this many seconds of waiting a request goes before higher priorities; 0 for never.
    pub starvation_seconds: f64,
    /// Header whose value is the tenant.
    pub tenant_header: String,
    /// Tenants with a weight other than 1.
    pub weights: Vec<(String, f64)>,
    /// Header with the request's own deadline of the first token, in milliseconds.
    pub first_token_deadline_header: String,
    /// The deadline of those without one; 0 for none.
    pub first_token_deadline_seconds: f64,
}

/// One object of the settings; complains about what was not asked for.
struct Object<'a> {
    path: &'a str,
    fields: Vec<(String, &'a [u8])>,
}

impl<'a> Object<'a> {
    fn read(path: &'a str, text: &'a [u8]) -> Result<Self, Refusal> {
        let mut fields = Fields::of(text);
        let mut found: Vec<(String, &[u8])> = Vec::new();
        for (key, value) in &mut fields {
            let key = String::from_utf8_lossy(key).into_owned();
            if found.iter().any(|(earlier, _)| *earlier == key) {
                return Err(format!("{path}{key} stands there twice"));
            }
            found.push((key, value));
        }
        if !fields.complete() {
            return Err(format!(
                "{} is no JSON object",
                if path.is_empty() { "it" } else { path }
            ));
        }
        Ok(Object { path, fields: found })
    }

    fn take(&mut self, name: &str) -> Option<&'a [u8]> {
        let at = self.fields.iter().position(|(key, _)| key == name)?;
        Some(self.fields.swap_remove(at).1)
    }

    fn number(&mut self, name: &str, default: f64, bounds: (f64, f64)) -> Result<f64, Refusal> {
        let value = match self.take(name) {
            Some(value) => number(value),
            None => return Ok(default),
        };
        match value {
            Some(value) if value >= bounds.0 && value <= bounds.1 => Ok(value),
            _ => Err(format!(
                "{}{name} must be a number from {} to {}",
                self.path, bounds.0, bounds.1
            )),
        }
    }

    fn whole(&mut self, name: &str, default: u32, bounds: (u32, u32)) -> Result<u32, Refusal> {
        let bounds = (f64::from(bounds.0), f64::from(bounds.1));
        let value = self.number(name, f64::from(default), bounds)?;
        if value.fract() != 0.0 {
            return Err(format!("{}{name} must be a whole number", self.path));
        }
        Ok(value as u32)
    }

    fn seconds(&mut self, name: &str) -> Result<f64, Refusal> {
        self.number(name, 0.0, (0.0, 86_400.0))
    }

    fn text(&mut self, name: &str) -> Result<String, Refusal> {
        match self.take(name) {
            None => Ok(String::new()),
            Some(value) => plain_text(value).ok_or_else(|| format!("{}{name} must be plain text", self.path)),
        }
    }

    fn header(&mut self, name: &str) -> Result<String, Refusal> {
        Ok(self.text(name)?.to_ascii_lowercase())
    }

    fn truth(&mut self, name: &str) -> Result<bool, Refusal> {
        match self.take(name) {
            None | Some(b"false") => Ok(false),
            Some(b"true") => Ok(true),
            Some(_) => Err(format!("{}{name} must be true or false", self.path)),
        }
    }

    fn object<'b>(&mut self, name: &str, path: &'b str) -> Result<Object<'b>, Refusal>
    where
        'a: 'b,
    {
        Object::read(path, self.take(name).unwrap_or(b"{}"))
    }

    fn end(self) -> Result<(), Refusal> {
        match self.fields.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!("{}{name} is unknown", self.path)),
        }
    }
}

/// A JSON string of at most 256 bytes without escapes.
fn plain_text(value: &[u8]) -> Option<String> {
    let text = raw_string(value)?;
    if text.len() > 256 || text.contains(&b'\\') {
        return None;
    }
    String::from_utf8(text.to_vec()).ok()
}

impl FilterSettings {
    /// Reads the filter's settings; nothing at all stands for the defaults.
    pub fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let mut object = Object::read("", if text.is_empty() { b"{}" } else { text })?;
        let debug_headers = object.truth("debug_headers")?;
        object.end()?;
        Ok(FilterSettings { debug_headers })
    }
}

impl PoolSettings {
    /// Reads the policy's settings.
    pub fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let mut object = Object::read("", text)?;
        let name = object.text("pool")?;
        if name.is_empty() {
            return Err("pool must have a name".to_string());
        }
        let inject_usage = match object.text("usage")?.as_str() {
            "" | "observe" => false,
            "inject" => true,
            _ => return Err("usage must be \"observe\" or \"inject\"".to_string()),
        };
        let settings = PoolSettings {
            name,
            config: pool_config(&mut object)?,
            max_body_bytes: object.whole("max_body_bytes", 1 << 20, (0, 16 << 20))? as usize,
            session_header: object.header("session_header")?,
            inject_usage,
            timeouts: timeouts(object.object("timeouts", "timeouts.")?)?,
            admission: match object.take("admission") {
                Some(text) => Some(admission(Object::read("admission.", text)?)?),
                None => None,
            },
        };
        object.end()?;
        Ok(settings)
    }
}

fn pool_config(object: &mut Object<'_>) -> Result<PoolConfig, Refusal> {
    let policy = match object.text("policy")?.as_str() {
        "" | "predicted-drain" => Policy::PredictedDrain,
        "least-request" => Policy::LeastRequest,
        "round-robin" => Policy::RoundRobin,
        "prefix" => Policy::Prefix,
        "random-two" => Policy::RandomTwo,
        other => return Err(format!("policy {other:?} is unknown")),
    };
    let default = PoolConfig::default();
    let mut cost = object.object("cost", "cost.")?;
    let model = CostModel {
        token_seconds: cost.number("token_seconds", default.cost.token_seconds, (0.0, 10.0))?,
        pair_seconds: cost.number("pair_seconds", default.cost.pair_seconds, (0.0, 1.0))?,
    };
    let company_seconds = cost.number("company_seconds", default.company_seconds, (0.0, 10.0))?;
    cost.end()?;
    Ok(PoolConfig {
        policy,
        cost: model,
        block_tokens: object.number("block_tokens", 128.0, (1.0, 65_536.0))?,
        prefix_blocks: object.whole("prefix_blocks", 8192, (0, 1 << 20))? as usize,
        kv_tokens: object.number("kv_tokens", default.kv_tokens, (1.0, 1e9))?,
        company_seconds,
        warmup: object.seconds("warmup_seconds")?,
        ..default
    })
}

fn timeouts(mut object: Object<'_>) -> Result<Timeouts, Refusal> {
    let timeouts = Timeouts {
        first_token: object.seconds("first_token_seconds")?,
        between_tokens: object.seconds("between_tokens_seconds")?,
        total: object.seconds("total_seconds")?,
    };
    object.end()?;
    Ok(timeouts)
}

fn admission(mut object: Object<'_>) -> Result<AdmissionSettings, Refusal> {
    let mut queue = object.object("queue", "admission.queue.")?;
    let mut weights = Vec::new();
    let shares = object.object("weights", "admission.weights.")?;
    for (tenant, weight) in shares.fields {
        match number(weight) {
            Some(weight) if weight > 0.0 && weight <= 1e6 => weights.push((tenant, weight)),
            _ => {
                return Err(format!(
                    "admission.weights.{tenant} must be a number above 0, up to 1000000"
                ))
            }
        }
    }
    let settings = AdmissionSettings {
        rate_per_second: object.number("rate_per_second", 0.0, (0.0, 1e6))?,
        burst: object.number("burst", 1.0, (1.0, 1e6))?,
        concurrency_per_endpoint: object.whole("concurrency_per_endpoint", 0, (0, 1_000_000))?,
        queue_requests: queue.whole("requests", 0, (0, 1_000_000))? as usize,
        queue_tokens: queue.number("tokens", 0.0, (0.0, 1e12))?,
        queue_seconds: queue.seconds("seconds")?,
        priority_header: object.header("priority_header")?,
        priorities: texts(object.take("priorities"))?,
        starvation_seconds: object.seconds("starvation_seconds")?,
        tenant_header: object.header("tenant_header")?,
        weights,
        first_token_deadline_header: object.header("first_token_deadline_header")?,
        first_token_deadline_seconds: object.seconds("first_token_deadline_seconds")?,
    };
    queue.end()?;
    object.end()?;
    Ok(settings)
}

/// A list of at most 16 plain texts.
fn texts(value: Option<&[u8]>) -> Result<Vec<String>, Refusal> {
    let refusal = || "admission.priorities must be a list of at most 16 names".to_string();
    let inner = match value {
        None | Some(b"[]") => return Ok(Vec::new()),
        Some([b'[', inner @ .., b']']) => inner,
        Some(_) => return Err(refusal()),
    };
    let names: Option<Vec<String>> = inner
        .split(|&byte| byte == b',')
        .map(|name| plain_text(trimmed(name)))
        .collect();
    names.filter(|names| names.len() <= 16).ok_or_else(refusal)
}

fn trimmed(text: &[u8]) -> &[u8] {
    let space = |byte: &u8| byte.is_ascii_whitespace();
    let start = text.iter().take_while(|&byte| space(byte)).count();
    let end = text.iter().rev().take_while(|&byte| space(byte)).count();
    &text[start..text.len().saturating_sub(end).max(start)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_enough() {
        let settings = PoolSettings::parse(br#"{"pool": "default/llama"}"#).unwrap();
        assert_eq!(settings.name, "default/llama");
        assert_eq!(settings.config.policy, Policy::PredictedDrain);
        assert_eq!(settings.max_body_bytes, 1 << 20);
        assert!(settings.admission.is_none() && !settings.inject_usage);
    }

    #[test]
    fn everything_can_be_said() {
        let settings = PoolSettings::parse(
            br#"{"pool": "p", "policy": "prefix", "block_tokens": 16, "prefix_blocks": 0, "kv_tokens": 1000,
            "cost": {"token_seconds": 0.001, "pair_seconds": 0, "company_seconds": 0.5}, "warmup_seconds": 3,
            "max_body_bytes": 10, "session_header": "X-Session", "usage": "inject",
            "timeouts": {"first_token_seconds": 1.5, "between_tokens_seconds": 2, "total_seconds": 60},
            "admission": {"rate_per_second": 20, "burst": 2, "concurrency_per_endpoint": 4,
              "queue": {"requests": 30, "tokens": 1e6, "seconds": 1}, "priority_header": "p",
              "priorities": ["high", "low"], "starvation_seconds": 5, "tenant_header": "T", "weights": {"a": 2.5},
              "first_token_deadline_header": "d", "first_token_deadline_seconds": 4}}"#,
        )
        .unwrap();
        assert_eq!(settings.session_header, "x-session");
        assert_eq!(settings.timeouts.between_tokens, 2.0);
        let admission = settings.admission.unwrap();
        assert_eq!(admission.queue_requests, 30);
        assert_eq!(admission.priorities, ["high", "low"]);
        assert_eq!(admission.weights, [("a".to_string(), 2.5)]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, complaint) in [
            ("", "it is no JSON object"),
            ("{}", "pool must have a name"),
            (r#"{"pool":1}"#, "pool must be plain text"),
            (r#"{"pool":"p","extra":1}"#, "extra is unknown"),
            (r#"{"pool":"p","pool":"q"}"#, "pool stands there twice"),
            (r#"{"pool":"p","policy":"best"}"#, "policy \"best\" is unknown"),
            (
                r#"{"pool":"p","block_tokens":0}"#,
                "block_tokens must be a number from 1 to 65536",
            ),
            (r#"{"pool":"p","cost":{"x":1}}"#, "cost.x is unknown"),
            (
                r#"{"pool":"p","admission":{"queue":{"requests":1.5}}}"#,
                "admission.queue.requests must be a whole number",
            ),
            (
                r#"{"pool":"p","admission":{"weights":{"a":0}}}"#,
                "admission.weights.a must be a number above 0",
            ),
            (
                r#"{"pool":"p","admission":{"priorities":[1]}}"#,
                "admission.priorities must be a list",
            ),
        ] {
            let refusal = PoolSettings::parse(text.as_bytes()).unwrap_err();
            assert!(refusal.starts_with(complaint), "{}: {}", text, refusal);
        }
    }

    #[test]
    fn the_filter_s_settings_may_be_left_out() {
        assert_eq!(FilterSettings::parse(b""), Ok(FilterSettings::default()));
        assert!(
            FilterSettings::parse(br#"{"debug_headers":true}"#)
                .unwrap()
                .debug_headers
        );
        assert!(FilterSettings::parse(br#"{"pool":"p"}"#).is_err());
    }
}
