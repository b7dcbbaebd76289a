//! The filters that this module offers, chosen by the `filter_name` of Envoy's configuration.

use std::fmt;

/// What one `DynamicModuleFilter` of Envoy's configuration asks for; lives as long as that configuration.
#[derive(Debug, PartialEq, Eq)]
pub enum FilterConfig {
    /// Lets everything pass, takes no settings.
    Noop,
}

/// Why a configuration is refused. Envoy then rejects the listener that carries it and keeps the one before.
#[derive(Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The module has no filter of this name.
    UnknownFilter(String),
    /// The filter takes no settings, but some were given (their length in bytes).
    UnexpectedSettings(usize),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFilter(name) => write!(out, "no filter is called {name:?}; this module has: noop"),
            Self::UnexpectedSettings(bytes) => write!(out, "filter noop takes no settings, {bytes} bytes given"),
        }
    }
}

impl FilterConfig {
    /// Reads the name and the settings that Envoy passes; neither need be UTF-8.
    pub fn parse(name: &[u8], settings: &[u8]) -> Result<Self, ConfigError> {
        match name {
            b"noop" if settings.is_empty() => Ok(Self::Noop),
            b"noop" => Err(ConfigError::UnexpectedSettings(settings.len())),
            other => Err(ConfigError::UnknownFilter(String::from_utf8_lossy(other).into_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noop_without_settings_is_accepted() {
        assert_eq!(FilterConfig::parse(b"noop", b""), Ok(FilterConfig::Noop));
    }

    #[test]
    fn settings_of_noop_are_refused() {
        assert_eq!(
            FilterConfig::parse(b"noop", b"{}"),
            Err(ConfigError::UnexpectedSettings(2))
        );
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_names_there_are() {
        let error = FilterConfig::parse(b"no\xffne", b"").unwrap_err();
        assert_eq!(
            error.to_string(),
            "no filter is called \"no\u{fffd}ne\"; this module has: noop"
        );
    }
}
