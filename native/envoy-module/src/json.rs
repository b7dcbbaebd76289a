//! JSON that is whole (settings, events of answers): its fields as they stand in the text, without copying or decoding.
//! Nesting is bounded, nothing recurses over untrusted input. Bodies of requests are read by [`crate::reader`].

/// How deep objects and arrays may be nested.
pub const DEEPEST: u32 = 64;

/// The fields of a JSON object as they stand in the text: raw key (between its quotes) and raw value. Ends early where
/// the text is no JSON; [`Fields::complete`] tells.
pub struct Fields<'a> {
    text: &'a [u8],
    at: usize,
    started: bool,
    complete: bool,
}

impl<'a> Fields<'a> {
    /// Over the object that `text` holds (white space around it is fine).
    pub fn of(text: &'a [u8]) -> Self {
        Fields {
            text,
            at: 0,
            started: false,
            complete: false,
        }
    }

    /// Whether the object was read to its closing brace.
    pub fn complete(&self) -> bool {
        self.complete
    }

    fn byte(&mut self) -> Option<u8> {
        self.at = skip_space(self.text, self.at);
        self.text.get(self.at).copied()
    }

    fn expect(&mut self, wanted: u8) -> Option<()> {
        if self.byte()? != wanted {
            return None;
        }
        self.at += 1;
        Some(())
    }

    fn field(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let first = !self.started;
        if first {
            self.expect(b'{')?;
            self.started = true;
        }
        match self.byte()? {
            b'}' => {
                self.complete = true;
                return None;
            }
            b',' if !first => self.at += 1,
            _ if first => {}
            _ => return None,
        }
        self.expect(b'"')?;
        let end = string_end(self.text, self.at)?;
        let key = &self.text[self.at..end];
        self.at = end + 1;
        self.expect(b':')?;
        let start = skip_space(self.text, self.at);
        self.at = value_end(self.text, start)?;
        Some((key, &self.text[start..self.at]))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.complete {
            return None;
        }
        self.field()
    }
}

/// The text of a raw JSON string without its quotes; None for another value. Escapes stay as they are.
pub fn raw_string(value: &[u8]) -> Option<&[u8]> {
    match value {
        [b'"', inner @ .., b'"'] => Some(inner),
        _ => None,
    }
}

/// The number that a raw JSON value is.
pub fn number(value: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(value).ok()?;
    let number: f64 = text.parse().ok()?;
    let begins = text.starts_with('-') || text.starts_with(|c: char| c.is_ascii_digit());
    if begins && number.is_finite() {
        Some(number)
    } else {
        None
    }
}

fn skip_space(text: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = text.get(at) {
        at += 1;
    }
    at
}

/// Where the closing quote of a string stands whose content begins at `at`.
fn string_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += find_quote_or_backslash(text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Where the first quote or backslash stands. Prompts are long: 32 bytes are looked at together, in a form of which the
/// compiler makes vector instructions (half the time of eight bytes in a word).
pub fn find_quote_or_backslash(text: &[u8]) -> Option<usize> {
    const LANES: usize = 32;
    let mut start = 0;
    for lane in text.chunks_exact(LANES) {
        let mut found = 0u8;
        for &byte in lane {
            found |= u8::from(byte == b'"') | u8::from(byte == b'\\');
        }
        if found != 0 {
            break;
        }
        start += LANES;
    }
    let here = text[start..].iter().position(|&byte| byte == b'"' || byte == b'\\')?;
    Some(start + here)
}

/// Where the value that begins at `at` ends. Inside containers only strings and brackets are looked at: whoever gets
/// the request judges the rest.
fn value_end(text: &[u8], mut at: usize) -> Option<usize> {
    match text.get(at)? {
        b'"' => Some(string_end(text, at + 1)? + 1),
        b'{' | b'[' => container_end(text, at),
        b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
            while let Some(b'+' | b'-' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E') = text.get(at) {
                at += 1;
            }
            Some(at)
        }
        _ => None,
    }
}

fn container_end(text: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0;
    let mut arrays: u64 = 0; // one bit per open container, the innermost lowest: whether it is an array
    loop {
        match text.get(at)? {
            b'"' => at = string_end(text, at + 1)?,
            open @ (b'{' | b'[') => {
                depth += 1;
                if depth > DEEPEST {
                    return None;
                }
                arrays = arrays << 1 | u64::from(*open == b'[');
            }
            close @ (b'}' | b']') => {
                if (arrays & 1 == 1) != (*close == b']') {
                    return None;
                }
                arrays >>= 1;
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> (Vec<(String, String)>, bool) {
        let mut fields = Fields::of(text.as_bytes());
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let found = fields.by_ref().map(|(key, value)| (text(key), text(value))).collect();
        (found, fields.complete())
    }

    #[test]
    fn fields_come_as_they_stand_in_the_text() {
        let (found, complete) = fields(" {\"a\" : 1.5e3 ,\"b\":[1,{\"x\":\"]}\"}] , \"c\":\"q\\\"\\\\\", \"d\":null}");
        let expected = [
            ("a", "1.5e3"),
            ("b", "[1,{\"x\":\"]}\"}]"),
            ("c", "\"q\\\"\\\\\""),
            ("d", "null"),
        ];
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(found, expected);
        assert!(complete);
    }

    #[test]
    fn what_is_no_object_never_completes() {
        for text in [
            "",
            " ",
            "[]",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":}",
            "{\"a\":1",
            "{\"a\":1,",
            "{,}",
            "{\"a\":\"x",
            "{\"a\":\"x\\",
            "{\"a\":[}",
            "{\"a\":[1}}",
            "{\"a\":1 \"b\":2}",
            "{a:1}",
            "\"x\"",
            "{\"a\":!}",
        ] {
            assert!(!fields(text).1, "{:?}", text);
        }
        assert!(fields("{}").1);
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(fields(&deep(64)).1);
        assert!(!fields(&deep(65)).1);
        assert!(!fields(&format!("{{\"a\":{}", "[".repeat(1_000_000))).1);
    }

    #[test]
    fn quotes_are_found_wherever_they_stand() {
        for length in 0..200 {
            let mut text = vec![0xffu8; length];
            assert_eq!(find_quote_or_backslash(&text), None);
            for at in 0..length {
                text[at] = if at % 2 == 0 { b'"' } else { b'\\' };
                assert_eq!(find_quote_or_backslash(&text), Some(at));
                text[at] = b'!';
            }
        }
    }

    #[test]
    fn numbers_are_json_s_only() {
        assert_eq!(number(b"-1.5e2"), Some(-150.0));
        for text in ["inf", "nan", "+1", ".5", "1e999", "", "\"1\""] {
            assert_eq!(number(text.as_bytes()), None, "{}", text);
        }
    }
}
