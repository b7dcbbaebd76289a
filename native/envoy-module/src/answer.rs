//! What an answer says while it passes: when tokens come, how many, and the usage that the server reports.
//!
//! Memory is bounded: lines and events longer than a limit pass unread.

use crate::json::{number, Fields};
use crate::request::Api;

/// Token counts as the server reports them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub input: Option<f64>,
    /// Tokens of the answer.
    pub output: Option<f64>,
    /// Tokens of the prompt that came from the server's cache.
    pub cached: Option<f64>,
}

impl Usage {
    /// Takes over what the last `"usage"` object in `text` says.
    fn read(&mut self, text: &[u8]) {
        let name = b"\"usage\"";
        let mut at = text.len();
        while let Some(found) = text[..at].windows(name.len()).rposition(|window| window == name) {
            at = found;
            let rest = &text[found + name.len()..];
            let colon = rest.iter().position(|byte| !byte.is_ascii_whitespace());
            if colon.map(|colon| rest[colon]) == Some(b':') && self.take(&rest[colon.unwrap_or(0) + 1..]) {
                return;
            }
        }
    }

    fn take(&mut self, text: &[u8]) -> bool {
        let mut fields = Fields::of(text);
        let mut found = false;
        for (key, value) in &mut fields {
            let (place, value) = match key {
                b"prompt_tokens" | b"input_tokens" => (&mut self.input, number(value)),
                b"completion_tokens" | b"output_tokens" => (&mut self.output, number(value)),
                b"cache_read_input_tokens" => (&mut self.cached, number(value)),
                b"prompt_tokens_details" | b"input_tokens_details" => (&mut self.cached, cached_in(value)),
                _ => continue,
            };
            if value.is_some() {
                *place = value;
                found = true;
            }
        }
        found
    }
}

/// Whether a chunk of a chat brings more than the role, which some servers send before they begin.
fn chat_token(data: &[u8]) -> bool {
    const NAME: &[u8] = b"\"delta\"";
    let at = match data.windows(NAME.len()).position(|window| window == NAME) {
        Some(at) => at + NAME.len(),
        None => return true,
    };
    let brace = match data[at..].iter().position(|&byte| byte == b'{') {
        Some(brace) => at + brace,
        None => return true,
    };
    Fields::of(&data[brace..]).any(|(key, value)| key != b"role" && !matches!(value, b"\"\"" | b"null" | b"[]" | b"{}"))
}

fn cached_in(details: &[u8]) -> Option<f64> {
    Fields::of(details)
        .find(|(key, _)| *key == b"cached_tokens")
        .and_then(|(_, value)| number(value))
}

const LONGEST_LINE: usize = 256 * 1024;
const TAIL: usize = 16 * 1024;

/// A stream of server-sent events on its way to the client.
#[derive(Debug)]
pub struct Events {
    api: Option<Api>,
    strip: bool,
    line: Vec<u8>,
    line_too_long: bool,
    event: Vec<u8>,
    event_is_usage_only: bool,
    /// What the server reported so far.
    pub usage: Usage,
    /// Events that carried a token.
    pub tokens: u64,
}

impl Events {
    /// `strip`: leave out the event that has nothing but the usage (it was asked for in the client's name).
    pub fn new(api: Option<Api>, strip: bool) -> Self {
        Events {
            api,
            strip,
            line: Vec::new(),
            line_too_long: false,
            event: Vec::new(),
            event_is_usage_only: false,
            usage: Usage::default(),
            tokens: 0,
        }
    }

    /// Whether the stream is rewritten: then what [`Events::feed`] returns goes on, and not what came.
    pub fn rewrites(&self) -> bool {
        self.strip
    }

    /// Bytes came. Returns how many tokens they carried; what goes on to the client is appended to `out` where the
    /// stream is rewritten.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> u64 {
        let before = self.tokens;
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let whole = piece.last() == Some(&b'\n');
            if whole && self.line.is_empty() && !self.line_too_long {
                self.end_line(piece);
            } else {
                self.keep(piece);
                if whole {
                    let line = std::mem::take(&mut self.line);
                    self.end_line(&line);
                    self.line = line;
                    self.line.clear();
                    self.line_too_long = false;
                }
            }
            if self.strip {
                self.forward(piece, whole, out);
            }
        }
        self.tokens - before
    }

    /// The stream ended: what was kept of an unfinished event goes on.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if self.strip {
            out.append(&mut self.event);
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.line.len() + piece.len() > LONGEST_LINE {
            self.line_too_long = true;
            self.line.clear();
        } else if !self.line_too_long {
            self.line.extend_from_slice(piece);
        }
    }

    fn end_line(&mut self, line: &[u8]) {
        let data = match line.strip_prefix(b"data:") {
            Some(data) if !self.line_too_long => data,
            _ => {
                self.tokens += u64::from(self.line_too_long);
                return;
            }
        };
        let start = data
            .iter()
            .position(|byte| !byte.is_ascii_whitespace())
            .unwrap_or(data.len());
        let data = &data[start..];
        if data.starts_with(b"[DONE]") || data.is_empty() {
            return;
        }
        let usage_only = self.look_at_usage(data);
        self.event_is_usage_only = usage_only;
        self.tokens += u64::from(!usage_only && self.carries_token(data));
    }

    /// Reads the usage if the event has one; whether it has nothing else.
    fn look_at_usage(&mut self, data: &[u8]) -> bool {
        const NAME: &[u8] = b"\"usage\"";
        if !data.windows(NAME.len()).any(|window| window == NAME) {
            return false;
        }
        self.usage.read(data);
        let mut no_choices = false;
        let mut has_usage = false;
        for (key, value) in Fields::of(data) {
            no_choices |= key == b"choices" && value == b"[]";
            has_usage |= key == b"usage" && value.first() == Some(&b'{');
        }
        no_choices && has_usage
    }

    fn carries_token(&self, data: &[u8]) -> bool {
        let head = &data[..data.len().min(128)];
        let says = |part: &[u8]| head.windows(part.len()).any(|window| window == part);
        match self.api {
            Some(Api::Messages) => says(b"content_block_delta"),
            Some(Api::Responses) => says(b".delta\""),
            Some(Api::Chat) => chat_token(data),
            _ => true,
        }
    }

    fn forward(&mut self, piece: &[u8], whole: bool, out: &mut Vec<u8>) {
        let blank = whole && self.at_blank_line(piece);
        self.event.extend_from_slice(piece);
        if blank {
            if self.event_is_usage_only {
                self.event.clear();
            } else {
                out.append(&mut self.event);
            }
            self.event_is_usage_only = false;
        } else if self.event.len() > LONGEST_LINE {
            out.append(&mut self.event);
        }
    }

    /// Whether the piece ends an event: an empty line, whose beginning is not part of a longer one.
    fn at_blank_line(&self, piece: &[u8]) -> bool {
        let starts_line = self.event.is_empty() || self.event.last() == Some(&b'\n');
        (piece == b"\n" && (starts_line || self.event.ends_with(b"\n\r"))) || (piece == b"\r\n" && starts_line)
    }
}

/// A whole answer on its way to the client: its end is kept, where servers report the usage.
#[derive(Debug, Default)]
pub struct Whole {
    tail: Vec<u8>,
}

impl Whole {
    /// Bytes came.
    pub fn feed(&mut self, bytes: &[u8]) {
        let kept = &bytes[bytes.len().saturating_sub(TAIL)..];
        let too_many = (self.tail.len() + kept.len()).saturating_sub(2 * TAIL);
        if too_many > 0 {
            let drop = (self.tail.len()).min(too_many.max(TAIL));
            self.tail.drain(..drop);
        }
        self.tail.extend_from_slice(kept);
    }

    /// What it reported.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        usage.read(&self.tail);
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n\
        : comment\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\": {}\"}}]}\r\n\r\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,\
        \"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\ndata: [DONE]\n\n";
    const USAGE: Usage = Usage {
        input: Some(7.0),
        output: Some(2.0),
        cached: Some(4.0),
    };

    #[test]
    fn tokens_and_usage_are_read_however_the_bytes_are_cut() {
        for size in 1..STREAM.len() {
            let mut events = Events::new(Some(Api::Chat), false);
            let mut out = Vec::new();
            for piece in STREAM.as_bytes().chunks(size) {
                let _ = events.feed(piece, &mut out);
            }
            assert_eq!((events.tokens, events.usage), (2, USAGE), "pieces of {}", size);
            assert!(out.is_empty());
        }
    }

    #[test]
    fn only_the_usage_event_is_stripped_however_the_bytes_are_cut() {
        let start = STREAM.find("data: {\"choices\":[],").unwrap();
        let end = STREAM.find("data: [DONE]").unwrap();
        let expected = format!("{}{}", &STREAM[..start], &STREAM[end..]);
        for size in 1..STREAM.len() {
            let mut events = Events::new(Some(Api::Chat), true);
            let mut out = Vec::new();
            for piece in STREAM.as_bytes().chunks(size) {
                let _ = events.feed(piece, &mut out);
            }
            events.end(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "pieces of {}", size);
            assert_eq!((events.tokens, events.usage), (2, USAGE));
        }
    }

    #[test]
    fn the_role_alone_is_no_token() {
        let mut events = Events::new(Some(Api::Chat), false);
        for (delta, tokens) in [
            ("{\"role\": \"assistant\"}", 0),
            ("{\"role\":\"assistant\",\"content\":\"\"}", 0),
            ("{}", 0),
            ("{\"content\": \"a\"}", 1),
            ("{\"content\":null,\"tool_calls\":[{\"index\":0}]}", 1),
        ] {
            let event = format!("data: {{\"choices\": [{{\"index\": 0, \"delta\": {}}}]}}\n\n", delta);
            assert_eq!(events.feed(event.as_bytes(), &mut Vec::new()), tokens, "{}", delta);
        }
    }

    #[test]
    fn an_endless_line_passes_and_is_not_kept() {
        let mut events = Events::new(None, true);
        let mut out = Vec::new();
        let mut sent = 0;
        for _ in 0..100 {
            let _ = events.feed(&[b'x'; 50_000], &mut out);
            sent += 50_000;
            assert!(events.line.len() <= LONGEST_LINE && events.event.len() <= LONGEST_LINE + 50_000);
        }
        events.end(&mut out);
        assert_eq!(out.len(), sent);
    }

    #[test]
    fn anthropic_s_and_responses_events_are_counted_by_their_deltas() {
        let mut events = Events::new(Some(Api::Messages), false);
        let text =
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":5}}}\n\n\
            event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"a\"}}\n\n\
            event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":3}}\n\n";
        let _ = events.feed(text.as_bytes(), &mut Vec::new());
        assert_eq!(
            (events.tokens, events.usage.input, events.usage.output),
            (1, Some(5.0), Some(3.0))
        );
        let mut events = Events::new(Some(Api::Responses), false);
        let text = "data: {\"type\":\"response.created\"}\n\ndata: {\"type\":\"response.output_text.delta\"}\n\n\
            data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":5,\"output_tokens\":1}}}\n\n";
        let _ = events.feed(text.as_bytes(), &mut Vec::new());
        assert_eq!((events.tokens, events.usage.output), (1, Some(1.0)));
    }

    #[test]
    fn the_usage_at_the_end_of_a_long_answer_is_found() {
        let mut whole = Whole::default();
        whole.feed(b"{\"content\":\"");
        for _ in 0..1000 {
            whole.feed(&[b'x'; 1000]);
            assert!(whole.tail.len() <= 2 * TAIL);
        }
        whole.feed(b"\",\"usage\": {\"prompt_tokens\":7,");
        whole.feed(b"\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":4}}}");
        assert_eq!(whole.usage(), USAGE);
        assert_eq!(Whole::default().usage(), Usage::default());
    }
}
