//! How one request fared, and what of it is written into the stream's dynamic metadata, for access logs
//! (docs/reference/module-config.md).

use crate::abi::callbacks::Stream;
use crate::answer::Usage;

/// The namespace of the metadata.
const NAMESPACE: &str = "headrace";

/// How a request fared.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Account {
    /// The pool's name.
    pub pool: String,
    /// The model's name, as the request says.
    pub model: String,
    /// Why it was sent where it was; "" where it was not.
    pub reason: &'static str,
    /// The endpoint's address.
    pub endpoint: String,
    /// How often it was sent.
    pub attempts: usize,
    /// Seconds that it waited in the mesh.
    pub queued: f64,
    /// Seconds from its arrival in the proxy to its first token, for streams.
    pub first_token: Option<f64>,
    /// Seconds until the first token that were predicted when it was sent.
    pub predicted: f64,
    /// Tokens of its prompt, as estimated.
    pub estimated: f64,
    /// Of those, how many the endpoint probably had in its cache.
    pub cached: f64,
    /// What the server reported.
    pub usage: Usage,
    /// Tokens that were seen to pass, for streams.
    pub seen: u64,
    /// How it ended.
    pub outcome: &'static str,
    /// The pool that did not take it, if it was redirected.
    pub redirected_from: String,
}

impl Account {
    /// How often it was sent again.
    pub fn resent(&self) -> u64 {
        self.attempts.saturating_sub(1) as u64
    }

    /// Writes it into the stream's dynamic metadata.
    pub fn write(&self, stream: Stream<'_>) {
        let mut texts = vec![
            ("pool", self.pool.as_str()),
            ("model", &self.model),
            ("reason", self.reason),
            ("endpoint", &self.endpoint),
            ("outcome", self.outcome),
        ];
        if !self.redirected_from.is_empty() {
            texts.push(("redirected_from", &self.redirected_from));
        }
        let rounded = |seconds: f64| (seconds * 1e6).round() / 1000.0;
        let mut numbers = vec![
            ("attempts", self.attempts as f64),
            ("resent", self.resent() as f64),
            ("queue_ms", rounded(self.queued)),
            ("tokens_estimated", self.estimated.round()),
            ("tokens_cached", self.cached.round()),
            ("predicted_ms", rounded(self.predicted)),
        ];
        numbers.extend(self.first_token.map(|seconds| ("ttft_ms", rounded(seconds))));
        numbers.extend(self.usage.input.map(|tokens| ("tokens_in", tokens)));
        let tokens_out = self
            .usage
            .output
            .or(if self.seen > 0 { Some(self.seen as f64) } else { None });
        numbers.extend(tokens_out.map(|tokens| ("tokens_out", tokens)));
        numbers.extend(self.usage.cached.map(|tokens| ("tokens_cached_by_server", tokens)));
        stream.set_metadata(NAMESPACE, &as_struct(&texts, &numbers));
    }
}

/// A `google.protobuf.Struct` as it goes over the wire: Envoy takes it in one call, where each field by itself costs it as
/// much as all of them together.
fn as_struct(texts: &[(&str, &str)], numbers: &[(&str, f64)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    for (key, text) in texts {
        let length = field_length(text.len());
        begin_entry(&mut bytes, key, length);
        add_bytes(&mut bytes, 3, text.as_bytes()); // Value.string_value
    }
    for (key, number) in numbers {
        begin_entry(&mut bytes, key, 9);
        bytes.push(2 << 3 | 1); // Value.number_value, of eight bytes
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes
}

/// An entry of the map `fields`, up to the content of its value, which is so long.
fn begin_entry(bytes: &mut Vec<u8>, key: &str, value: usize) {
    bytes.push(1 << 3 | 2); // Struct.fields
    add_number(bytes, field_length(key.len()) + field_length(value));
    add_bytes(bytes, 1, key.as_bytes());
    bytes.push(2 << 3 | 2); // the entry's value
    add_number(bytes, value);
}

fn add_bytes(bytes: &mut Vec<u8>, field: u8, content: &[u8]) {
    bytes.push(field << 3 | 2);
    add_number(bytes, content.len());
    bytes.extend_from_slice(content);
}

fn add_number(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Bytes of a field with a content of so many bytes.
fn field_length(content: usize) -> usize {
    let bits = (usize::BITS - content.leading_zeros()).max(1) as usize;
    1 + (bits + 6) / 7 + content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_numbers_are_written_as_protobuf_wants_them() {
        let bytes = as_struct(&[("a", "bc")], &[("n", 1.0)]);
        let text = [0x0a, 9, 0x0a, 1, b'a', 0x12, 4, 0x1a, 2, b'b', b'c'];
        let number = [0x0a, 14, 0x0a, 1, b'n', 0x12, 9, 0x11, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f];
        assert_eq!(bytes, [&text[..], &number[..]].concat());
    }

    #[test]
    fn lengths_of_fields_are_those_that_are_written() {
        for content in [0, 1, 127, 128, 16_383, 16_384, 3_000_000] {
            let mut written = Vec::new();
            add_bytes(&mut written, 1, &vec![0; content]);
            assert_eq!(field_length(content), written.len());
        }
    }

    #[test]
    fn long_texts_have_long_lengths() {
        let text = "x".repeat(300);
        let bytes = as_struct(&[("a", &text)], &[]);
        assert_eq!(
            bytes[..12],
            [0x0a, 0xb5, 0x02, 0x0a, 1, b'a', 0x12, 0xaf, 0x02, 0x1a, 0xac, 0x02]
        );
        assert_eq!(bytes.len(), 312);
    }
}
