//! Readers of untrusted bytes under mutated input, the same for every run: they neither panic nor grow, and say the same
//! however the bytes are cut.

use crate::answer::{Events, Whole};
use crate::json::Fields;
use crate::request::{Api, Reading, Understood};

/// A small generator (PCG's multiplier): tests must say the same tomorrow.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    /// Bytes changed, left out, repeated or put in, such as matter to parsers.
    fn mutated(&mut self, text: &[u8]) -> Vec<u8> {
        const TELLING: &[u8] = b"\"\\{}[],:\n\r d\0\xff\xc3tfn-0e";
        let mut bytes = text.to_vec();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes[at] = TELLING[self.below(TELLING.len())],
                1 => {
                    let _ = bytes.remove(at);
                }
                2 => bytes.insert(at, TELLING[self.below(TELLING.len())]),
                _ => {
                    let end = (at + self.below(40)).min(bytes.len());
                    let again = bytes[at..end].to_vec();
                    let _ = bytes.splice(at..at, again);
                }
            }
            if bytes.is_empty() {
                bytes.push(b'{');
            }
        }
        bytes
    }

    fn pieces<'a>(&mut self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut rest = bytes;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(1 + self.below(rest.len().min(60)));
            pieces.push(piece);
            rest = later;
        }
        pieces
    }
}

const REQUEST: &str = r#" {"model":"m\"x","stream":true,"tools":[{"a":{"b":[1,2,{"c":"d]}"}]}}],"n":-1.5e3,"stop":null,
    "messages":[{"role":"system","content":"be brief \\ and \u00e9 exact"},{"role":"user","content":[{"type":"image_url",
    "image_url":{"url":"data:image/png;base64,AAAABBBB"}},{"type":"text","text":"what is this, and what does it hold?"}]}],
    "max_tokens":64,"metadata":{"k":"v"}} "#;
const EVENTS: &str = "event: message\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}],\"usage\":null}\n\n: c\n\n\
    data:{\"choices\":[{\"delta\":{\"content\":\"caf\u{e9} \\\"usage\\\": {}\"}}]}\r\n\r\ndata: {\"choices\":[{\"delta\":\n\
    data: {\"content\":\"x\"}}]}\nid: 7\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n\
    data: [DONE]\n\n";

fn read(pieces: &[&[u8]]) -> Option<Understood> {
    let mut reading = Reading::new(Api::Chat, 4.0);
    pieces.iter().for_each(|piece| reading.feed(piece));
    reading.finish()
}

#[test]
fn mutated_requests_mean_the_same_however_they_are_cut() {
    let mut random = Random(1);
    assert!(read(&[REQUEST.as_bytes()]).is_some());
    let mut understood = 0;
    for _ in 0..20_000 {
        let bytes = random.mutated(REQUEST.as_bytes());
        let whole = read(&[&bytes]);
        assert_eq!(
            whole,
            read(&random.pieces(&bytes)),
            "{}",
            String::from_utf8_lossy(&bytes)
        );
        understood += u32::from(whole.is_some());
    }
    assert!((1000..19_000).contains(&understood), "{understood}");
}

#[test]
fn what_is_understood_of_a_request_is_what_its_fields_say() {
    let mut random = Random(2);
    for _ in 0..20_000 {
        let bytes = random.mutated(REQUEST.as_bytes());
        let mut fields = Fields::of(&bytes);
        let stream = fields
            .by_ref()
            .filter(|(key, _)| *key == b"stream")
            .last()
            .map_or(false, |(_, value)| value == b"true");
        if let Some(understood) = read(&[&bytes]) {
            assert!(fields.complete());
            assert_eq!(understood.stream, stream);
        }
    }
}

#[test]
fn mutated_streams_are_counted_the_same_however_they_are_cut_and_lose_at_most_what_is_stripped() {
    let mut random = Random(3);
    for _ in 0..20_000 {
        let bytes = random.mutated(EVENTS.as_bytes());
        let (mut whole, mut cut) = (Events::new(Some(Api::Chat), false), Events::new(Some(Api::Chat), true));
        let (mut nothing, mut out) = (Vec::new(), Vec::new());
        let _ = whole.feed(&bytes, &mut nothing);
        for piece in random.pieces(&bytes) {
            let _ = cut.feed(piece, &mut out);
        }
        cut.end(&mut out);
        assert!(nothing.is_empty());
        assert_eq!((whole.tokens, whole.usage), (cut.tokens, cut.usage));
        assert!(out.len() <= bytes.len());
        let mut rest = bytes.iter();
        assert!(
            out.iter().all(|byte| rest.any(|other| other == byte)),
            "out of order, or made up"
        );
    }
}

#[test]
fn mutated_whole_answers_are_read_without_harm() {
    let mut random = Random(4);
    let text =
        r#"{"choices":[{"message":{"content":"\"usage\": {"}}],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;
    for _ in 0..20_000 {
        let bytes = random.mutated(text.as_bytes());
        let (mut whole, mut cut) = (Whole::default(), Whole::default());
        whole.feed(&bytes);
        for piece in random.pieces(&bytes) {
            cut.feed(piece);
        }
        assert_eq!(whole.usage(), cut.usage());
    }
}

#[test]
fn work_is_bounded_whatever_is_repeated() {
    let begun = std::time::Instant::now();
    for part in [
        "\"usage\":{\"a\":",
        "\"usage\"",
        "{",
        "[",
        "\\",
        "\"",
        "data: \"usage\":{\n",
        "data:\n",
        "\n",
        "{\"a\":",
    ] {
        let long = part.repeat((4 << 20) / part.len());
        let mut events = Events::new(Some(Api::Chat), true);
        let mut whole = Whole::default();
        for piece in long.as_bytes().chunks(16 * 1024) {
            let _ = events.feed(piece, &mut Vec::new());
            whole.feed(piece);
        }
        let _ = (whole.usage(), read(&[long.as_bytes()]));
    }
    // Quadratic work would take hours; this takes a second or two without optimization.
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
}
