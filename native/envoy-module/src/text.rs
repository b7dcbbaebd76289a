//! Strings of JSON, decoded: names in settings and claims, which may be written with escapes. For [`crate::settings`] and
//! [`crate::tenant`].

/// The text of a raw JSON string (between its quotes); None where an escape is none of JSON's.
pub fn unescaped(raw: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        text.extend_from_slice(&rest[..at]);
        let escape = *rest.get(at + 1)?;
        rest = &rest[at + 2..];
        match escape {
            b'"' | b'\\' | b'/' => text.push(escape),
            b'b' => text.push(8),
            b'f' => text.push(12),
            b'n' => text.push(b'\n'),
            b'r' => text.push(b'\r'),
            b't' => text.push(b'\t'),
            b'u' => {
                let (character, length) = character(rest)?;
                rest = &rest[length..];
                text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return None,
        }
    }
    text.extend_from_slice(rest);
    Some(text)
}

/// The character whose digits come next (the `\u` is behind us), and how many bytes it takes; half a pair is unreadable.
fn character(digits: &[u8]) -> Option<(char, usize)> {
    let first = unit(digits)?;
    if let Some(character) = char::from_u32(first) {
        return Some((character, 4));
    }
    let second = match digits.get(4..6)? {
        b"\\u" => unit(&digits[6..])?,
        _ => return None,
    };
    if !(0xd800..0xdc00).contains(&first) || !(0xdc00..0xe000).contains(&second) {
        return None;
    }
    let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    Some((char::from_u32(code)?, 10))
}

fn unit(digits: &[u8]) -> Option<u32> {
    let digits = digits.get(..4)?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Without white space around it.
pub fn trimmed(text: &[u8]) -> &[u8] {
    let start = text.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let end = text.iter().rev().take_while(|byte| byte.is_ascii_whitespace()).count();
    &text[start..text.len().saturating_sub(end).max(start)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_become_what_they_stand_for() {
        for (raw, text) in [
            ("plain", "plain"),
            (r#"a\"b\\c\/d"#, "a\"b\\c/d"),
            (r"\b\f\n\r\t", "\u{8}\u{c}\n\r\t"),
            (r"m\u00fcde \u20ac", "müde €"),
            (r"\ud83d\ude00!", "😀!"),
            ("", ""),
        ] {
            assert_eq!(unescaped(raw.as_bytes()), Some(text.as_bytes().to_vec()), "{raw}");
        }
    }

    #[test]
    fn what_is_no_escape_is_refused() {
        for raw in [
            "\\",
            r"\x",
            r"\u12",
            r"\u+123",
            r"\ud83d",
            r"\ud83dabcdef",
            r"\ud83d\u0041",
            r"\ude00\ud83d",
        ] {
            assert_eq!(unescaped(raw.as_bytes()), None, "{raw}");
        }
    }
}
