//! Reads a request's body piece by piece as it arrives, and keeps nothing of it but what matters: short values, hashes of
//! blocks, lengths. So reading goes on while the rest is on its way, and costs no memory. For [`crate::request`].
//!
//! It walks over the fields of the outermost object. Inside their values only strings and brackets are looked at: whoever
//! gets the request judges the rest.

use crate::json::{find_quote_or_backslash, DEEPEST};
use crate::request::hash_of;

/// The longest key and the longest short value that is kept.
const LONGEST: usize = 4096;
/// An inline image or sound begins like this.
const DATA: &[u8] = b"data:";

/// What somebody wants of the fields that a [`Reader`] comes by.
pub trait Fields {
    /// What shall be kept of this field's value?
    fn wants(&mut self, key: &[u8]) -> Kept;
    /// A value that was to be kept as it is, which it is unless it is longer than 4096 bytes.
    fn short(&mut self, key: &[u8], value: &[u8]);
    /// A value of which the blocks were to be hashed.
    fn text(&mut self, key: &[u8], text: Text);
}

/// What is kept of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    Nothing,
    /// The value as it stands, if it is short.
    Short,
    /// Its length and the hashes of its blocks.
    Blocks,
}

/// What is kept of a long value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// Its length in bytes.
    pub bytes: usize,
    /// Hashes of its whole blocks.
    pub blocks: Vec<u64>,
    /// Hash of what is left of it, if anything is.
    pub rest: Option<u64>,
    /// Strings of inline data (an image, a sound) in it, and their bytes.
    pub inline: (usize, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before the outermost object.
    Start,
    /// Before a key, or the object's end if it may come here.
    Key { may_end: bool },
    /// In a key.
    InKey,
    /// Between key and value.
    Colon,
    /// Before a value.
    Value,
    /// In a number or a word.
    InWord,
    /// In a string that is a field's value.
    InString,
    /// In an object or a list, outside of strings.
    InContainer,
    /// In a string inside of those.
    InInnerString,
    /// Between a value and what follows.
    After,
    /// After the outermost object.
    Done,
    /// This is no such JSON.
    Bad,
}

/// A body that is being read.
#[derive(Debug)]
pub struct Reader {
    at: At,
    /// The byte that comes is escaped.
    escaped: bool,
    key: Vec<u8>,
    kept: Kept,
    short: Vec<u8>,
    text: Text,
    /// The beginning of a block that the pieces so far did not fill.
    partial: Vec<u8>,
    block_bytes: usize,
    most_blocks: usize,
    depth: u32,
    /// One bit per open container, the innermost lowest: whether it is a list.
    lists: u64,
    /// Length of the inner string so far, and whether it begins as inline data does.
    string: usize,
    string_is_data: bool,
}

impl Reader {
    /// Nothing was read yet. `block_bytes`: length of a block; `most_blocks`: beyond so many of a value none is hashed.
    pub fn new(block_bytes: usize, most_blocks: usize) -> Self {
        Reader {
            at: At::Start,
            escaped: false,
            key: Vec::new(),
            kept: Kept::Nothing,
            short: Vec::new(),
            text: Text::default(),
            partial: Vec::new(),
            block_bytes: block_bytes.max(1),
            most_blocks,
            depth: 0,
            lists: 0,
            string: 0,
            string_is_data: true,
        }
    }

    /// Whether a whole object was read.
    pub fn is_complete(&self) -> bool {
        self.at == At::Done
    }

    /// Whether more of the body could still tell something.
    pub fn wants_more(&self) -> bool {
        !matches!(self.at, At::Done | At::Bad)
    }

    /// The next bytes of the body.
    pub fn feed(&mut self, bytes: &[u8], fields: &mut impl Fields) {
        let mut at = 0;
        while at < bytes.len() && self.wants_more() {
            at = match self.at {
                At::InKey => self.in_key(bytes, at, fields),
                At::InWord | At::InString | At::InContainer | At::InInnerString => self.in_value(bytes, at, fields),
                _ => self.between(bytes, at),
            };
        }
    }

    /// White space and what may stand between values.
    fn between(&mut self, bytes: &[u8], at: usize) -> usize {
        let byte = bytes[at];
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return at + 1;
        }
        self.at = match (self.at, byte) {
            (At::Start, b'{') => At::Key { may_end: true },
            (At::Key { .. }, b'"') => {
                self.key.clear();
                At::InKey
            }
            (At::Key { may_end: true } | At::After, b'}') => At::Done,
            (At::After, b',') => At::Key { may_end: false },
            (At::Colon, b':') => At::Value,
            (At::Value, b'"') => At::InString,
            (At::Value, b'{' | b'[') => At::InContainer,
            (At::Value, b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => At::InWord,
            _ => At::Bad,
        };
        match self.at {
            At::InContainer | At::InWord => at, // the byte belongs to the value, and is looked at there
            At::InString => {
                self.keep(&bytes[at..=at]);
                at + 1
            }
            _ => at + 1,
        }
    }

    fn in_key(&mut self, bytes: &[u8], at: usize, fields: &mut impl Fields) -> usize {
        let (end, closed) = self.string_end(bytes, at);
        if self.key.len() + (end - at) > LONGEST {
            self.at = At::Bad;
            return end;
        }
        self.key.extend_from_slice(&bytes[at..end]);
        if closed {
            self.at = At::Colon;
            self.kept = fields.wants(&self.key);
            self.short.clear();
            self.text = Text::default();
            self.partial.clear();
            return end + 1;
        }
        end
    }

    /// As much of the field's value as there is.
    fn in_value(&mut self, bytes: &[u8], start: usize, fields: &mut impl Fields) -> usize {
        let mut at = start;
        let mut over = false;
        while at < bytes.len() && !over && self.at != At::Bad {
            match self.at {
                At::InString => {
                    let (end, closed) = self.string_end(bytes, at);
                    at = end + usize::from(closed);
                    over = closed;
                }
                At::InInnerString => at = self.in_inner_string(bytes, at),
                At::InContainer => {
                    at = self.in_container(bytes, at);
                    over = self.depth == 0;
                }
                _ => {
                    let word = |byte: &&u8| matches!(**byte, b'+' | b'-' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E');
                    at += bytes[at..].iter().take_while(word).count();
                    over = at < bytes.len();
                }
            }
        }
        self.keep(&bytes[start..at]);
        if over {
            self.at = At::After;
            self.hand_over(fields);
        }
        at
    }

    fn in_inner_string(&mut self, bytes: &[u8], at: usize) -> usize {
        let (end, closed) = self.string_end(bytes, at);
        let known = self.string.min(DATA.len());
        let new = (end - at).min(DATA.len() - known);
        self.string_is_data &= bytes[at..at + new] == DATA[known..known + new];
        self.string += end - at;
        if !closed {
            return end;
        }
        if self.string_is_data && self.string >= DATA.len() {
            self.text.inline.0 += 1;
            self.text.inline.1 += self.string;
        }
        self.at = At::InContainer;
        end + 1
    }

    /// Goes on to the next string, or to the end of the outermost container of the value.
    fn in_container(&mut self, bytes: &[u8], start: usize) -> usize {
        for (offset, byte) in bytes[start..].iter().enumerate() {
            match byte {
                b'"' => {
                    self.string = 0;
                    self.string_is_data = true;
                    self.at = At::InInnerString;
                    return start + offset + 1;
                }
                b'{' | b'[' => {
                    self.depth += 1;
                    self.lists = self.lists << 1 | u64::from(*byte == b'[');
                    if self.depth > DEEPEST {
                        self.at = At::Bad;
                        return start + offset;
                    }
                }
                b'}' | b']' => {
                    if (self.lists & 1 == 1) != (*byte == b']') {
                        self.at = At::Bad;
                        return start + offset;
                    }
                    self.lists >>= 1;
                    self.depth -= 1;
                    if self.depth == 0 {
                        return start + offset + 1;
                    }
                }
                _ => {}
            }
        }
        bytes.len()
    }

    /// Where the closing quote of the string stands that goes on at `at`, and whether it is among these bytes.
    fn string_end(&mut self, bytes: &[u8], mut at: usize) -> (usize, bool) {
        if self.escaped {
            at += 1;
            self.escaped = false;
        }
        while let Some(found) = bytes.get(at..).and_then(find_quote_or_backslash) {
            at += found;
            if bytes[at] == b'"' {
                return (at, true);
            }
            at += 2;
        }
        self.escaped = at > bytes.len();
        (bytes.len(), false)
    }

    fn keep(&mut self, value: &[u8]) {
        match self.kept {
            Kept::Nothing => {}
            Kept::Short => {
                let room = (LONGEST + 1).saturating_sub(self.short.len());
                self.short.extend_from_slice(&value[..value.len().min(room)]);
            }
            Kept::Blocks => {
                self.text.bytes += value.len();
                self.hash(value);
            }
        }
    }

    fn hash(&mut self, mut value: &[u8]) {
        if !self.partial.is_empty() {
            let missing = self.block_bytes - self.partial.len();
            self.partial.extend_from_slice(&value[..value.len().min(missing)]);
            value = &value[value.len().min(missing)..];
            if self.partial.len() == self.block_bytes {
                let hash = hash_of(&self.partial);
                self.add_block(hash);
                self.partial.clear();
            }
        }
        let mut blocks = value.chunks_exact(self.block_bytes);
        for block in &mut blocks {
            if self.text.blocks.len() < self.most_blocks {
                self.add_block(hash_of(block));
            }
        }
        self.partial.extend_from_slice(blocks.remainder());
    }

    fn add_block(&mut self, hash: u64) {
        if self.text.blocks.len() < self.most_blocks {
            self.text.blocks.push(hash);
        }
    }

    fn hand_over(&mut self, fields: &mut impl Fields) {
        match self.kept {
            Kept::Nothing => {}
            Kept::Short if self.short.len() > LONGEST => {}
            Kept::Short => fields.short(&self.key, &self.short),
            Kept::Blocks => {
                if !self.partial.is_empty() {
                    self.text.rest = Some(hash_of(&self.partial));
                }
                fields.text(&self.key, std::mem::take(&mut self.text));
            }
        }
    }
}
