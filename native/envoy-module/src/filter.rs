//! The HTTP filters that this module offers, chosen by the `filter_name` of Envoy's configuration.

use crate::abi::callbacks::FilterConfigHandle;
use crate::guard;
use crate::report::Statistics;
use crate::settings::FilterSettings;
use std::fmt;

/// What one `DynamicModuleFilter` of Envoy's configuration asks for; lives as long as that configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Lets everything pass, takes no settings.
    Noop,
    /// Looks after the requests of pools.
    Pool(FilterSettings),
    /// Withholds the headers of answers, between router and endpoint; takes no settings.
    Attempt,
    /// Ends requests to servers that are revoked; takes no settings.
    Guard,
    /// Lends its voice to `pool`; takes no settings.
    Keepalive,
}

/// Why a configuration is refused. Envoy then rejects the listener that carries it and keeps the one before.
#[derive(Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The module has no filter of this name.
    UnknownFilter(String),
    /// The filter takes no settings, but some were given (its name, their length in bytes).
    UnexpectedSettings(&'static str, usize),
    /// The settings are wrong.
    Refused(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFilter(name) => write!(
                out,
                "no filter is called {name:?}; this module has: attempt, guard, keepalive, noop, pool"
            ),
            Self::UnexpectedSettings(name, bytes) => {
                write!(out, "filter {name} takes no settings, {bytes} bytes given")
            }
            Self::Refused(why) => write!(out, "filter pool: {why}"),
        }
    }
}

impl Wish {
    /// Reads the name and the settings that Envoy passes; neither need be UTF-8.
    pub fn parse(name: &[u8], settings: &[u8]) -> Result<Self, ConfigError> {
        match name {
            b"noop" if settings.is_empty() => Ok(Self::Noop),
            b"noop" => Err(ConfigError::UnexpectedSettings("noop", settings.len())),
            b"attempt" if settings.is_empty() => Ok(Self::Attempt),
            b"attempt" => Err(ConfigError::UnexpectedSettings("attempt", settings.len())),
            b"guard" if settings.is_empty() => Ok(Self::Guard),
            b"guard" => Err(ConfigError::UnexpectedSettings("guard", settings.len())),
            b"keepalive" if settings.is_empty() => Ok(Self::Keepalive),
            b"keepalive" => Err(ConfigError::UnexpectedSettings("keepalive", settings.len())),
            b"pool" => FilterSettings::parse(settings)
                .map(Self::Pool)
                .map_err(ConfigError::Refused),
            other => Err(ConfigError::UnknownFilter(String::from_utf8_lossy(other).into_owned())),
        }
    }
}

/// A filter as configured.
#[derive(Debug)]
pub enum Filter {
    /// Lets everything pass.
    Noop,
    /// Looks after the requests of pools.
    Pool(Box<PoolFilter>),
    /// Withholds the headers of answers.
    Attempt,
    /// Ends requests to servers that are revoked.
    Guard,
    /// Lends its voice to `pool`.
    Keepalive,
}

/// The filter `pool` as configured.
#[derive(Debug)]
pub struct PoolFilter {
    /// Its settings.
    pub settings: FilterSettings,
    /// What it counts.
    pub statistics: Statistics,
}

impl Filter {
    /// Makes what was wished for.
    pub fn new(wish: Wish, envoy: &FilterConfigHandle<'_>) -> Self {
        match wish {
            Wish::Noop => Filter::Noop,
            Wish::Attempt => Filter::Attempt,
            Wish::Keepalive => Filter::Keepalive,
            Wish::Guard => {
                guard::begin();
                Filter::Guard
            }
            Wish::Pool(settings) => Filter::Pool(Box::new(PoolFilter {
                settings,
                statistics: Statistics::define(envoy),
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_filters_are_known() {
        assert_eq!(Wish::parse(b"noop", b""), Ok(Wish::Noop));
        assert_eq!(Wish::parse(b"attempt", b""), Ok(Wish::Attempt));
        assert_eq!(Wish::parse(b"guard", b""), Ok(Wish::Guard));
        assert_eq!(Wish::parse(b"pool", b""), Ok(Wish::Pool(FilterSettings::default())));
    }

    #[test]
    fn wrong_settings_are_refused() {
        assert_eq!(
            Wish::parse(b"noop", b"{}"),
            Err(ConfigError::UnexpectedSettings("noop", 2))
        );
        assert_eq!(
            Wish::parse(b"attempt", b"{}").unwrap_err().to_string(),
            "filter attempt takes no settings, 2 bytes given"
        );
        let error = Wish::parse(b"pool", b"{\"x\":1}").unwrap_err();
        assert_eq!(error.to_string(), "filter pool: x is unknown");
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_names_there_are() {
        let error = Wish::parse(b"no\xffne", b"").unwrap_err();
        assert_eq!(
            error.to_string(),
            "no filter is called \"no\u{fffd}ne\"; this module has: attempt, guard, keepalive, noop, pool"
        );
    }
}
