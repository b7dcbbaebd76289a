//! The request's body: read as it arrives, while Envoy keeps it, and changed where its answer shall tell more.

use crate::abi::callbacks::{Body, Headers, Stream};
use crate::ask::Ask;
use crate::inflate::Coding;
use crate::request::Reading;

/// A request of which the body is not whole yet.
#[derive(Debug)]
pub(super) struct Collecting {
    /// What its headers said.
    pub ask: Ask,
    /// What its body said so far.
    pub reading: Option<Reading>,
    bytes: usize,
}

impl Collecting {
    /// Of the body nothing is known yet. `readable`: it is read, not only kept.
    pub fn new(ask: Ask, readable: bool) -> Self {
        let api = ask.api.filter(|_| readable);
        Collecting {
            reading: api.map(|api| Reading::new(api, ask.settings.config.block_tokens)),
            ask,
            bytes: 0,
        }
    }

    /// Reads what came. Whether something came before, and how much there is in all if that is too much to be kept.
    pub fn read(&mut self, stream: Stream<'_>) -> (bool, Option<u64>) {
        let before = self.bytes;
        stream.body(Body::ReceivedRequest, |pieces| {
            self.bytes += pieces.bytes();
            if let Some(reading) = &mut self.reading {
                pieces.iter().for_each(|piece| reading.feed(piece));
            }
        });
        let too_long = self.bytes > self.ask.settings.max_body_bytes;
        (before > 0, if too_long { Some(self.bytes as u64) } else { None })
    }
}

/// Has the server answer only in codings that can be read here, if the client takes others too.
pub(super) fn narrow_codings(stream: Stream<'_>) {
    let narrowed = stream.read_header(Headers::Request, "accept-encoding", |wanted| {
        let readable = |coding: &&[u8]| {
            let name = coding.split(|&byte| byte == b';').next().unwrap_or(b"");
            let name: Vec<u8> = name.iter().copied().filter(|byte| *byte != b' ').collect();
            name == b"identity" || Coding::of(&name).is_some()
        };
        let all: Vec<&[u8]> = wanted.split(|&byte| byte == b',').collect();
        let kept: Vec<&[u8]> = all.iter().copied().filter(readable).collect();
        if kept.len() == all.len() {
            None
        } else {
            Some(kept.join(&b','))
        }
    });
    if let Some(kept) = narrowed.flatten() {
        let kept = if kept.is_empty() { b"identity".to_vec() } else { kept };
        stream.set_header(Headers::Request, "accept-encoding", Some(&kept));
    }
}

/// Where Envoy has parts of a body: kept from events before, received with this one.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    pub kept: bool,
    pub received: bool,
}

/// Inserts something into the request's body, and corrects the length that the headers say.
pub(super) fn insert(stream: Stream<'_>, parts: Parts, at: usize, inserted: &[u8]) {
    let mut body = Vec::new();
    for (there, part) in [
        (parts.kept, Body::BufferedRequest),
        (parts.received, Body::ReceivedRequest),
    ] {
        if there {
            stream.body(part, |pieces| {
                pieces.iter().for_each(|piece| body.extend_from_slice(piece))
            });
        }
    }
    let rest = body.split_off(at.min(body.len()));
    body.extend_from_slice(inserted);
    body.extend_from_slice(&rest);
    if parts.kept && parts.received {
        stream.replace_body(Body::BufferedRequest, b"");
    }
    let filled = if parts.received {
        Body::ReceivedRequest
    } else {
        Body::BufferedRequest
    };
    stream.replace_body(filled, &body);
    if stream.header(Headers::Request, "content-length").is_some() {
        let length = body.len().to_string();
        stream.set_header(Headers::Request, "content-length", Some(length.as_bytes()));
    }
}
