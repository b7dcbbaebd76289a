//! Whose request it is: by a header, by the client's certificate, or by a claim of its token. For [`crate::ask`].
//!
//! Only a hash of the name is kept, so names of any length and number cost nothing.

use crate::abi::callbacks::{Headers, Stream};
use crate::json::{raw_string, Fields};
use crate::settings::TenantKey;
use crate::text::unescaped;

/// The tenant of requests whose client has not shown who it is.
pub const ANONYMOUS: &[u8] = b"anonymous";

/// The filter state in which translation puts the verified claims (docs/reference/module-config.md).
const CLAIMS: &str = "headrace.claims";
/// Claims longer than this are not read.
const MOST_CLAIMS: usize = 64 * 1024;

/// The tenant's name.
pub fn name_of(stream: Stream<'_>, key: &TenantKey) -> Vec<u8> {
    match key {
        TenantKey::None => Vec::new(),
        TenantKey::Header(name) => stream.header(Headers::Request, name).unwrap_or_default(),
        TenantKey::Identity => stream
            .peer_uri()
            .filter(|uri| uri.starts_with(b"spiffe://"))
            .unwrap_or_else(|| ANONYMOUS.to_vec()),
        TenantKey::Claim(path) => stream
            .filter_state(CLAIMS)
            .and_then(|claims| claim(&claims, path))
            .unwrap_or_else(|| ANONYMOUS.to_vec()),
    }
}

/// The claim at a path of names with dots between them, of which the longest that fit are taken.
fn claim(claims: &[u8], path: &str) -> Option<Vec<u8>> {
    if claims.len() > MOST_CLAIMS {
        return None;
    }
    let mut found: Option<(usize, &[u8])> = None;
    for (raw, value) in Fields::of(claims) {
        let name = unescaped(raw)?;
        let rest = path.as_bytes().strip_prefix(name.as_slice());
        let fits = rest.map_or(false, |rest| rest.is_empty() || rest[0] == b'.');
        if fits && found.map_or(true, |(longest, _)| name.len() > longest) {
            found = Some((name.len(), value));
        }
    }
    let (length, value) = found?;
    if length == path.len() {
        return scalar(value);
    }
    claim(value, &path[length + 1..])
}

/// The text of a value that is a text, a whole number, true or false.
fn scalar(value: &[u8]) -> Option<Vec<u8>> {
    match value {
        b"true" | b"false" => Some(value.to_vec()),
        [b'"', ..] => unescaped(raw_string(value)?),
        _ if value.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-') => Some(value.to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_found_by_their_path() {
        let claims = br#"{"sub":"anna","org":{"team":"red","n":7,"deep":{"x":true}},"org.team":"blue","list":["a"],
            "https://example.com/t":"m\u00fcde","none":null,"half":0.5,"":"empty"}"#;
        for (path, value) in [
            ("sub", Some("anna")),
            ("org.team", Some("blue")), // the longest name that is there
            ("org.n", Some("7")),
            ("org.deep.x", Some("true")),
            ("https://example.com/t", Some("müde")),
            ("org", None),
            ("org.deep", None),
            ("org.missing", None),
            ("sub.x", None),
            ("su", None),
            ("list", None),
            ("none", None),
            ("half", None),
            ("org.", None),
        ] {
            assert_eq!(
                claim(claims, path),
                value.map(|text| text.as_bytes().to_vec()),
                "{path}"
            );
        }
    }

    #[test]
    fn what_is_no_object_has_no_claims() {
        for claims in ["", "-", "[]", "\"x\"", "{\"\\x\":1}"] {
            assert_eq!(claim(claims.as_bytes(), "x"), None);
        }
        let long = format!("{{\"x\":\"{}\"}}", "a".repeat(MOST_CLAIMS));
        assert_eq!(claim(long.as_bytes(), "x"), None);
    }
}
