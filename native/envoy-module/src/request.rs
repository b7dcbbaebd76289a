//! What a request's body says that matters for its place: model, length of the prompt, hashes of its blocks, streaming.
//!
//! Knows OpenAI's chat completions, completions, responses and embeddings, and Anthropic's messages. Nothing is decoded:
//! lengths and hashes are of the text as it stands, which is the same for the same client's next turn.

use crate::clock;
use crate::json::{number, raw_string, Fields, Inline};

/// Which API a path belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// OpenAI chat completions.
    Chat,
    /// OpenAI completions.
    Completions,
    /// OpenAI responses.
    Responses,
    /// OpenAI embeddings.
    Embeddings,
    /// Anthropic messages.
    Messages,
}

impl Api {
    /// By the end of the path, query left out; None for paths of no model.
    pub fn of_path(path: &[u8]) -> Option<Api> {
        let path = path.split(|&byte| byte == b'?').next()?;
        let ends = |end: &[u8]| path.ends_with(end);
        match () {
            () if ends(b"/chat/completions") => Some(Api::Chat),
            () if ends(b"/completions") => Some(Api::Completions),
            () if ends(b"/responses") => Some(Api::Responses),
            () if ends(b"/embeddings") => Some(Api::Embeddings),
            () if ends(b"/messages") => Some(Api::Messages),
            () => None,
        }
    }
}

/// What the body said.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Understood {
    /// The model's name as it stands in the text, at most 256 bytes of it.
    pub model: String,
    /// Estimated tokens of the prompt: bytes of text / 4.
    pub tokens: f64,
    /// Chained hashes of the prompt's blocks, first first.
    pub blocks: Vec<u64>,
    /// Tokens that the answer may have, if said.
    pub max_tokens: Option<f64>,
    /// The client wants a stream.
    pub stream: bool,
    /// Where `stream_options` could be inserted so that the stream tells its usage; None where the client said
    /// something about it, or it does not apply.
    pub usage_insertion: Option<usize>,
}

/// What is inserted at `usage_insertion`.
pub const USAGE_REQUEST: &[u8] = br#""stream_options":{"include_usage":true},"#;

const BYTES_PER_TOKEN: f64 = 4.0;
/// An inline image or sound counts like so many bytes of text, whatever its size.
const DATA_BYTES: usize = 1024;
/// Blocks beyond this are not hashed: the beginning of so long a prompt decides.
const MOST_BLOCKS: usize = 4096;
const LONGEST_MODEL: usize = 256;

#[derive(Default)]
struct Parts<'a> {
    model: &'a [u8],
    before: [&'a [u8]; 2],
    prompt: Option<&'a [u8]>,
    stream: bool,
    stream_options: bool,
    max_tokens: Option<f64>,
}

/// Reads a body; None where it is not understood. `block_tokens`: tokens of one block.
pub fn understand(api: Api, body: &[u8], block_tokens: f64) -> Option<Understood> {
    let mut parts = Parts::default();
    let mut fields = Fields::of(body);
    let mut inline = Inline::default();
    while let Some((key, value)) = fields.next() {
        inline.count += fields.inline().count;
        inline.bytes += fields.inline().bytes;
        match key {
            b"model" => parts.model = raw_string(value)?,
            b"tools" => parts.before[0] = value,
            b"system" | b"instructions" => parts.before[1] = value,
            b"messages" if matches!(api, Api::Chat | Api::Messages) => parts.prompt = Some(value),
            b"prompt" if api == Api::Completions => parts.prompt = Some(value),
            b"input" if matches!(api, Api::Responses | Api::Embeddings) => parts.prompt = Some(value),
            b"stream" => parts.stream = value == b"true",
            b"stream_options" => parts.stream_options = true,
            b"max_tokens" | b"max_completion_tokens" | b"max_output_tokens" => parts.max_tokens = number(value),
            _ => {}
        }
    }
    if !fields.complete() {
        return None;
    }
    let prompt = parts.prompt?;
    let texts = [parts.before[0], parts.before[1], prompt];
    let model = &parts.model[..parts.model.len().min(LONGEST_MODEL)];
    let asks = parts.stream && !parts.stream_options && matches!(api, Api::Chat | Api::Completions);
    Some(Understood {
        model: String::from_utf8_lossy(model).into_owned(),
        tokens: tokens(texts.iter().map(|text| text.len()).sum(), inline),
        blocks: blocks(parts.model, &texts, block_tokens),
        max_tokens: parts.max_tokens,
        stream: parts.stream,
        usage_insertion: if asks { opening_brace(body) } else { None },
    })
}

fn opening_brace(body: &[u8]) -> Option<usize> {
    Some(body.iter().position(|&byte| byte == b'{')? + 1)
}

fn tokens(bytes: usize, inline: Inline) -> f64 {
    let text = bytes.saturating_sub(inline.bytes) + inline.count * DATA_BYTES;
    (text as f64 / BYTES_PER_TOKEN).max(1.0)
}

/// Hashes of whole blocks of the last text, and of all blocks of those before it, each chained to the one before.
fn blocks(model: &[u8], texts: &[&[u8]; 3], block_tokens: f64) -> Vec<u64> {
    let size = ((block_tokens * BYTES_PER_TOKEN) as usize).max(1);
    let mut chain = hash_of(model) ^ clock::secret();
    let mut found = Vec::with_capacity((texts[2].len() / size + 2).min(MOST_BLOCKS));
    for (at, text) in texts.iter().enumerate() {
        for block in text.chunks(size) {
            let partial = block.len() < size;
            if found.len() == MOST_BLOCKS || (partial && at == texts.len() - 1) {
                return found;
            }
            chain = mix(chain ^ hash_of(block), 0x9e37_79b9_7f4a_7c15);
            found.push(chain);
        }
    }
    found
}

fn mix(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    (product as u64) ^ (product >> 64) as u64
}

/// A quick hash (multiply and fold, 32 bytes a step). Who could make two prompts collide gains nothing but a bad pick.
pub fn hash_of(bytes: &[u8]) -> u64 {
    const FIRST: u64 = 0xa076_1d64_78bd_642f;
    const SECOND: u64 = 0xe703_7ed1_a0b4_28db;
    let mut left = mix(bytes.len() as u64 ^ FIRST, SECOND);
    let mut right = left;
    let mut pieces = bytes.chunks_exact(32);
    for piece in &mut pieces {
        left = mix(word(piece, 0) ^ SECOND, word(piece, 8) ^ left);
        right = mix(word(piece, 16) ^ FIRST, word(piece, 24) ^ right);
    }
    let rest = pieces.remainder();
    if !rest.is_empty() {
        let mut padded = [0; 32];
        padded[..rest.len()].copy_from_slice(rest);
        left = mix(word(&padded, 0) ^ SECOND, word(&padded, 8) ^ left);
        right = mix(word(&padded, 16) ^ FIRST, word(&padded, 24) ^ right);
    }
    mix(left ^ SECOND, right ^ FIRST)
}

/// The eight bytes from `at` on.
#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(content: &str) -> String {
        format!(
            "{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"{}\"}}]}}",
            content
        )
    }

    #[test]
    fn every_api_is_understood() {
        for (path, body) in [
            ("/v1/chat/completions?x=1", chat("hello")),
            (
                "/openai/v1/completions",
                "{\"model\":\"m\",\"prompt\":\"hello\"}".to_string(),
            ),
            (
                "/v1/responses",
                "{\"model\":\"m\",\"instructions\":\"be\",\"input\":\"hello\"}".to_string(),
            ),
            (
                "/v1/embeddings",
                "{\"model\":\"m\",\"input\":[\"a\",\"b\"]}".to_string(),
            ),
            (
                "/v1/messages",
                "{\"system\":\"s\",\"messages\":[],\"model\":\"m\",\"max_tokens\":9}".to_string(),
            ),
        ] {
            let api = Api::of_path(path.as_bytes()).unwrap();
            let understood = understand(api, body.as_bytes(), 16.0).unwrap();
            assert_eq!(understood.model, "m");
            assert!(understood.tokens >= 1.0 && !understood.stream);
        }
        assert_eq!(Api::of_path(b"/v1/models"), None);
    }

    #[test]
    fn what_is_malformed_is_not_understood() {
        let whole = chat("hello");
        for end in 0..whole.len() {
            assert_eq!(understand(Api::Chat, &whole.as_bytes()[..end], 16.0), None);
        }
        assert_eq!(understand(Api::Completions, whole.as_bytes(), 16.0), None);
        assert_eq!(understand(Api::Chat, b"{\"model\":7,\"messages\":[]}", 16.0), None);
    }

    #[test]
    fn a_longer_conversation_begins_with_the_blocks_of_the_shorter() {
        let first = "word ".repeat(400);
        let short = understand(Api::Chat, chat(&first).as_bytes(), 16.0).unwrap();
        let long = understand(Api::Chat, chat(&format!("{}and then", first)).as_bytes(), 16.0).unwrap();
        assert!(short.blocks.len() > 30);
        assert_eq!(
            long.blocks[..short.blocks.len() - 1],
            short.blocks[..short.blocks.len() - 1]
        );
        let other = understand(Api::Chat, chat(&format!("X{}", first)).as_bytes(), 16.0).unwrap();
        assert!(other.blocks.iter().all(|block| !short.blocks.contains(block)));
    }

    #[test]
    fn other_models_have_other_blocks() {
        let body = chat(&"word ".repeat(400));
        let one = understand(Api::Chat, body.as_bytes(), 16.0).unwrap();
        let other = understand(Api::Chat, body.replace("\"m\"", "\"n\"").as_bytes(), 16.0).unwrap();
        assert!(other.blocks.iter().all(|block| !one.blocks.contains(block)));
    }

    #[test]
    fn an_inline_image_is_not_a_million_tokens() {
        let body = chat(&format!("\",\"u\":\"data:image/png;base64,{}", "A".repeat(1_000_000)));
        assert!(understand(Api::Chat, body.as_bytes(), 16.0).unwrap().tokens < 500.0);
    }

    #[test]
    fn usage_is_asked_for_only_where_the_client_said_nothing() {
        let body = " {\"stream\":true,\"model\":\"m\",\"prompt\":\"p\"}";
        let understood = understand(Api::Completions, body.as_bytes(), 16.0).unwrap();
        assert_eq!(understood.usage_insertion, Some(2));
        for body in [
            "{\"stream\":true,\"model\":\"m\",\"prompt\":\"p\",\"stream_options\":{}}",
            "{\"stream\":false,\"model\":\"m\",\"prompt\":\"p\"}",
        ] {
            assert_eq!(
                understand(Api::Completions, body.as_bytes(), 16.0)
                    .unwrap()
                    .usage_insertion,
                None
            );
        }
    }

    #[test]
    fn hashes_differ_by_every_byte_and_by_length() {
        let mut seen = std::collections::HashSet::new();
        for length in 0..70usize {
            assert!(seen.insert(hash_of(&vec![0; length])));
            for at in 0..length {
                let mut bytes = vec![0; length];
                bytes[at] = 1;
                assert!(seen.insert(hash_of(&bytes)));
            }
        }
    }
}
