//! What a model server says of its load in the headers of its answers (ORCA: vLLM and Triton, where they are asked).
//!
//! The filter asks where the pool's settings say so, hears what comes, and keeps it from clients that did not ask.

use crate::abi::callbacks::{Headers, Stream};
use crate::json::{number, Fields};
use crate::loads::Load;
use crate::text::trimmed;

/// The request header that asks.
const ASKS: &str = "endpoint-load-metrics-format";
/// The header of the answer.
const SAYS: &str = "endpoint-load-metrics";
const FORMAT: &[u8] = b"json";
const MOST_BYTES: usize = 8 * 1024;
const MOST_FIELDS: usize = 64;

/// Who asked for the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Asked {
    /// Nobody.
    #[default]
    Nobody,
    /// The client, in whatever format; it gets the answer.
    Client,
    /// This filter, on its own behalf.
    Filter,
}

/// Asks the server, unless the client does.
pub fn ask(stream: Stream<'_>) -> Asked {
    if stream.header(Headers::Request, ASKS).is_some() {
        return Asked::Client;
    }
    stream.set_header(Headers::Request, ASKS, Some(FORMAT));
    Asked::Filter
}

/// What the answer says, which the client gets only if it asked.
pub fn hear(stream: Stream<'_>, asked: Asked) -> Option<Load> {
    if asked == Asked::Nobody {
        return None;
    }
    let text = stream.header(Headers::Response, SAYS)?;
    if asked == Asked::Filter {
        stream.set_header(Headers::Response, SAYS, None);
    }
    parse(&text)
}

/// `JSON {"named_metrics": {...}}` or `TEXT named_metrics.NAME=VALUE, ...`; the first word may be missing. None where
/// nothing of it is known.
fn parse(text: &[u8]) -> Option<Load> {
    if text.len() > MOST_BYTES {
        return None;
    }
    let text = trimmed(text);
    let text = [&b"JSON "[..], b"TEXT "]
        .iter()
        .find(|word| text.len() >= word.len() && text[..word.len()].eq_ignore_ascii_case(word))
        .map_or(text, |word| &text[word.len()..]);
    let mut load = Load::default();
    if trimmed(text).first() == Some(&b'{') {
        note_fields(text, &mut load);
    } else {
        text.split(|&byte| byte == b',')
            .take(MOST_FIELDS)
            .for_each(|pair| note_pair(pair, &mut load));
    }
    if load == Load::default() {
        None
    } else {
        Some(load)
    }
}

fn note_fields(text: &[u8], load: &mut Load) {
    for (key, value) in Fields::of(text).take(MOST_FIELDS) {
        if key == b"named_metrics" {
            for (key, value) in Fields::of(value).take(MOST_FIELDS) {
                note(key, number(value), load);
            }
        }
    }
}

fn note_pair(pair: &[u8], load: &mut Load) {
    let mut parts = pair.splitn(2, |&byte| byte == b'=').map(trimmed);
    if let (Some(key), Some(value)) = (parts.next(), parts.next()) {
        if let Some(key) = key.strip_prefix(b"named_metrics.") {
            note(key, number(value), load);
        }
    }
}

/// By the names of vLLM (`num_requests_...`, `kv_cache_usage_perc`) and Triton.
fn note(key: &[u8], value: Option<f64>, load: &mut Load) {
    let key = match key {
        b"num_requests_waiting" => "waiting",
        b"num_requests_running" => "running",
        b"kv_cache_usage_perc" | b"gpu_cache_usage_perc" | b"kv_cache_utilization" => "kv_used",
        b"max_token_capacity" => "kv_tokens",
        _ => return,
    };
    if let Some(value) = value {
        let _ = load.note(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vllm() -> Load {
        Load {
            waiting: Some(3.0),
            kv_used: Some(0.25),
            ..Load::default()
        }
    }

    #[test]
    fn both_formats_are_read_with_and_without_their_names() {
        for text in [
            "JSON {\"named_metrics\": {\"kv_cache_usage_perc\": 0.25, \"num_requests_waiting\": 3.0}}",
            "json {\"cpu_utilization\":0.3,\"named_metrics\":{\"num_requests_waiting\":3,\"kv_cache_usage_perc\":0.25}}",
            "{\"named_metrics\":{\"kv_cache_usage_perc\":0.25,\"num_requests_waiting\":3}}",
            "TEXT named_metrics.kv_cache_usage_perc=0.25, named_metrics.num_requests_waiting=3.0",
            "named_metrics.kv_cache_usage_perc=0.25,named_metrics.num_requests_waiting=3",
        ] {
            assert_eq!(parse(text.as_bytes()), Some(vllm()), "{text}");
        }
        let triton = "JSON {\"named_metrics\": {\"kv_cache_utilization\": 0.5, \"max_token_capacity\": 4096}}";
        let expected = Load {
            kv_used: Some(0.5),
            kv_tokens: Some(4096.0),
            ..Load::default()
        };
        assert_eq!(parse(triton.as_bytes()), Some(expected));
    }

    #[test]
    fn what_says_nothing_of_it_is_nothing() {
        for text in [
            "",
            "JSON",
            "JSON {",
            "JSON {\"named_metrics\": 5}",
            "JSON {\"named_metrics\": {\"num_requests_waiting\": \"many\"}}",
            "TEXT num_requests_waiting=3",
            "TEXT named_metrics.num_requests_waiting=-3",
            "TEXT named_metrics.num_requests_waiting=NaN",
            "TEXT named_metrics.num_requests_waiting",
            "BIN CZqZmZmZmdk/",
            "TEXT rps_fractional=10.0, eps=1",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(&[0xff; 100]), None);
        assert_eq!(parse(&vec![b','; MOST_BYTES + 1]), None);
        let late = ",".repeat(MOST_FIELDS) + "named_metrics.num_requests_waiting=3";
        assert_eq!(parse(late.as_bytes()), None);
    }
}
