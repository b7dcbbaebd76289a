//! What a request's body says that matters for its place: model, length of the prompt, hashes of its blocks, streaming.
//!
//! Knows OpenAI's chat completions, completions, responses and embeddings, and Anthropic's messages. Nothing is decoded:
//! lengths and hashes are of the text as it stands, which is the same for the same client's next turn.

use crate::clock;
use crate::json::{number, raw_string};
use crate::reader::{Fields, Kept, Reader, Text};

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

/// A body that is being read.
#[derive(Debug)]
pub struct Reading {
    reader: Reader,
    found: Found,
    /// Bytes so far.
    seen: usize,
    /// Where the first field may be inserted.
    opened: Option<usize>,
}

#[derive(Debug)]
struct Found {
    api: Api,
    model: Vec<u8>,
    before: [Text; 2],
    prompt: Option<Text>,
    stream: bool,
    stream_options: bool,
    max_tokens: Option<f64>,
    strange: bool,
}

impl Fields for Found {
    fn wants(&mut self, key: &[u8]) -> Kept {
        match key {
            b"model" | b"stream" | b"max_tokens" | b"max_completion_tokens" | b"max_output_tokens" => Kept::Short,
            b"tools" | b"system" | b"instructions" => Kept::Blocks,
            b"stream_options" => {
                self.stream_options = true;
                Kept::Nothing
            }
            _ if self.is_prompt(key) => Kept::Blocks,
            _ => Kept::Nothing,
        }
    }

    fn short(&mut self, key: &[u8], value: &[u8]) {
        match key {
            b"model" => match raw_string(value) {
                Some(model) => self.model = model.to_vec(),
                None => self.strange = true,
            },
            b"stream" => self.stream = value == b"true",
            _ => self.max_tokens = number(value),
        }
    }

    fn text(&mut self, key: &[u8], text: Text) {
        match key {
            b"tools" => self.before[0] = text,
            b"system" | b"instructions" => self.before[1] = text,
            _ => self.prompt = Some(text),
        }
    }
}

impl Found {
    fn is_prompt(&self, key: &[u8]) -> bool {
        match self.api {
            Api::Chat | Api::Messages => key == b"messages",
            Api::Completions => key == b"prompt",
            Api::Responses | Api::Embeddings => key == b"input",
        }
    }
}

impl Reading {
    /// Nothing was read yet. `block_tokens`: tokens of one block.
    pub fn new(api: Api, block_tokens: f64) -> Self {
        Reading {
            reader: Reader::new((block_tokens * BYTES_PER_TOKEN) as usize, MOST_BLOCKS),
            found: Found {
                api,
                model: Vec::new(),
                before: Default::default(),
                prompt: None,
                stream: false,
                stream_options: false,
                max_tokens: None,
                strange: false,
            },
            seen: 0,
            opened: None,
        }
    }

    /// The next bytes of the body.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.opened.is_none() {
            let brace = bytes.iter().position(|&byte| byte == b'{');
            self.opened = brace.map(|brace| self.seen + brace + 1);
        }
        self.reader.feed(bytes, &mut self.found);
        self.seen += bytes.len();
    }

    /// What the body said; None where it was not understood, or is not whole.
    pub fn finish(self) -> Option<Understood> {
        let found = self.found;
        let prompt = found.prompt.filter(|_| self.reader.is_complete() && !found.strange)?;
        let texts = [&found.before[0], &found.before[1], &prompt];
        let model = &found.model[..found.model.len().min(LONGEST_MODEL)];
        let asks = found.stream && !found.stream_options && matches!(found.api, Api::Chat | Api::Completions);
        Some(Understood {
            model: String::from_utf8_lossy(model).into_owned(),
            tokens: tokens(&texts),
            blocks: blocks(&found.model, &texts),
            max_tokens: found.max_tokens,
            stream: found.stream,
            usage_insertion: self.opened.filter(|_| asks),
        })
    }
}

fn tokens(texts: &[&Text; 3]) -> f64 {
    let of = |text: &&Text| (text.bytes - text.inline.1 + text.inline.0 * DATA_BYTES) as f64;
    (texts.iter().map(of).sum::<f64>() / BYTES_PER_TOKEN).max(1.0)
}

/// Hashes of whole blocks of the last text, and of all blocks of those before it, each chained to the one before.
fn blocks(model: &[u8], texts: &[&Text; 3]) -> Vec<u64> {
    let mut chain = hash_of(model) ^ clock::secret();
    let count: usize = texts.iter().map(|text| text.blocks.len() + 1).sum();
    let mut found = Vec::with_capacity(count.min(MOST_BLOCKS));
    for (at, text) in texts.iter().enumerate() {
        let rest = text.rest.filter(|_| at < texts.len() - 1);
        for block in text.blocks.iter().copied().chain(rest).take(MOST_BLOCKS - found.len()) {
            chain = mix(chain ^ block, 0x9e37_79b9_7f4a_7c15);
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

    fn understand(api: Api, body: &[u8], block_tokens: f64) -> Option<Understood> {
        let mut whole = Reading::new(api, block_tokens);
        whole.feed(body);
        whole.finish()
    }

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
    fn a_body_means_the_same_however_it_is_cut() {
        let body = format!(
            " {{\"tools\":[{{\"x\":\"\\\"]}}\"}}],\"stream\" : true,\"model\":\"m\\u0041\",\"n\":-1.5e3,\
             \"messages\":[{{\"content\":\"{}\",\"url\":\"data:image/png;base64,AAAA\"}},\"data\"],\"max_tokens\":7}} ",
            "caf\u{e9} \\\\ ".repeat(40)
        );
        let whole = understand(Api::Chat, body.as_bytes(), 8.0).unwrap();
        assert!(whole.blocks.len() > 10 && whole.stream && whole.max_tokens == Some(7.0));
        for size in 1..body.len() {
            let mut pieces = Reading::new(Api::Chat, 8.0);
            body.as_bytes().chunks(size).for_each(|piece| pieces.feed(piece));
            assert_eq!(pieces.seen, body.len());
            assert_eq!(pieces.finish().as_ref(), Some(&whole), "pieces of {}", size);
        }
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
