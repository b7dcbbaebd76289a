//! Settings of the filter and the policy `pool`, read from the JSON of Envoy's configuration (docs/reference/module-config.md).

mod admission;
mod object;

pub use admission::{AdmissionSettings, TenantKey};
use object::Object;
use scheduler::{CostModel, Policy, PoolConfig};

/// Why settings are refused: one line for the log of Envoy.
pub type Refusal = String;

/// Settings of the HTTP filter `pool`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilterSettings {
    /// Answers say which endpoint was picked and why.
    pub debug_headers: bool,
    /// Nobody reads the metadata of requests, so none are written.
    pub without_metadata: bool,
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
    /// Ask servers for their load in the headers of their answers.
    pub orca: bool,
    /// Withhold an answer's headers until it says something, so that until then the request can be sent again.
    pub resend: bool,
    /// A stream that waits so many seconds gets comments so often; 0: none.
    pub keepalive: f64,
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

impl FilterSettings {
    /// Reads the filter's settings; nothing at all stands for the defaults.
    pub fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let mut object = Object::read("", if text.is_empty() { b"{}" } else { text })?;
        let debug_headers = object.truth("debug_headers")?;
        let without_metadata = match object.text("metadata")?.as_str() {
            "" | "write" => false,
            "none" => true,
            _ => return Err("metadata must be \"write\" or \"none\"".to_string()),
        };
        object.end()?;
        Ok(FilterSettings {
            debug_headers,
            without_metadata,
        })
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
            orca: object.truth("orca")?,
            resend: object.whole("resend", 0, (0, 1))? == 1,
            keepalive: object.seconds("keepalive_seconds")?,
            timeouts: timeouts(object.object("timeouts", "timeouts.")?)?,
            admission: match object.take("admission") {
                Some(text) => Some(admission::admission(text)?),
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
            "admission": {"rate_per_second": 20, "tenant_header": "T"}}"#,
        )
        .unwrap();
        assert_eq!(settings.session_header, "x-session");
        assert_eq!(settings.timeouts.between_tokens, 2.0);
        assert_eq!(settings.admission.unwrap().rate_per_second, 20.0);
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
            (r#"{"pool":"p","admission":{"x":1}}"#, "admission.x is unknown"),
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
        assert!(
            FilterSettings::parse(br#"{"metadata":"none"}"#)
                .unwrap()
                .without_metadata
        );
        assert!(FilterSettings::parse(br#"{"metadata":"some"}"#).is_err());
        assert!(FilterSettings::parse(br#"{"pool":"p"}"#).is_err());
    }
}
