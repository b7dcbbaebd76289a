//! One object of the settings, read field by field; complains about what was not asked for.

use super::Refusal;
use crate::json::{number, raw_string, Fields};
use crate::text::unescaped;

/// An object and where it stands, for complaints (`admission.queue.`, or "" for the whole).
pub struct Object<'a> {
    path: &'a str,
    fields: Vec<(String, &'a [u8])>,
}

impl<'a> Object<'a> {
    /// The object that the text holds.
    pub fn read(path: &'a str, text: &'a [u8]) -> Result<Self, Refusal> {
        let mut fields = Fields::of(text);
        let mut found: Vec<(String, &[u8])> = Vec::new();
        for (raw, value) in &mut fields {
            let key = unescaped(raw).and_then(|key| String::from_utf8(key).ok());
            let key = key.ok_or_else(|| format!("{path}{} is no name", String::from_utf8_lossy(raw)))?;
            if found.iter().any(|(earlier, _)| *earlier == key) {
                return Err(format!("{path}{key} stands there twice"));
            }
            found.push((key, value));
        }
        if !fields.complete() {
            return Err(format!(
                "{} is no JSON object",
                if path.is_empty() {
                    "it"
                } else {
                    path.trim_end_matches('.')
                }
            ));
        }
        Ok(Object { path, fields: found })
    }

    /// The raw value of a field, which is then no longer there.
    pub fn take(&mut self, name: &str) -> Option<&'a [u8]> {
        let at = self.fields.iter().position(|(key, _)| key == name)?;
        Some(self.fields.swap_remove(at).1)
    }

    /// All fields that are still there.
    pub fn into_fields(self) -> Vec<(String, &'a [u8])> {
        self.fields
    }

    /// A number within bounds.
    pub fn number(&mut self, name: &str, default: f64, bounds: (f64, f64)) -> Result<f64, Refusal> {
        let value = match self.take(name) {
            Some(value) => number(value),
            None => return Ok(default),
        };
        match value {
            Some(value) if value >= bounds.0 && value <= bounds.1 => Ok(value),
            _ => Err(format!(
                "{}{name} must be a number from {} to {}",
                self.path, bounds.0, bounds.1
            )),
        }
    }

    /// A whole number within bounds.
    pub fn whole(&mut self, name: &str, default: u32, bounds: (u32, u32)) -> Result<u32, Refusal> {
        let bounds = (f64::from(bounds.0), f64::from(bounds.1));
        let value = self.number(name, f64::from(default), bounds)?;
        if value.fract() != 0.0 {
            return Err(format!("{}{name} must be a whole number", self.path));
        }
        Ok(value as u32)
    }

    /// Seconds, up to a day; 0 where nothing is said.
    pub fn seconds(&mut self, name: &str) -> Result<f64, Refusal> {
        self.number(name, 0.0, (0.0, 86_400.0))
    }

    /// A text of at most 256 bytes; "" where nothing is said.
    pub fn text(&mut self, name: &str) -> Result<String, Refusal> {
        match self.take(name) {
            None => Ok(String::new()),
            Some(value) => short_text(value).ok_or_else(|| format!("{}{name} must be plain text", self.path)),
        }
    }

    /// A header's name, in lower case.
    pub fn header(&mut self, name: &str) -> Result<String, Refusal> {
        Ok(self.text(name)?.to_ascii_lowercase())
    }

    /// True or false; false where nothing is said.
    pub fn truth(&mut self, name: &str) -> Result<bool, Refusal> {
        match self.take(name) {
            None | Some(b"false") => Ok(false),
            Some(b"true") => Ok(true),
            Some(_) => Err(format!("{}{name} must be true or false", self.path)),
        }
    }

    /// The object of this name; an empty one where nothing is said.
    pub fn object<'b>(&mut self, name: &str, path: &'b str) -> Result<Object<'b>, Refusal>
    where
        'a: 'b,
    {
        Object::read(path, self.take(name).unwrap_or(b"{}"))
    }

    /// Complains if something was not taken.
    pub fn end(self) -> Result<(), Refusal> {
        match self.fields.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!("{}{name} is unknown", self.path)),
        }
    }
}

/// A JSON string of at most 256 bytes.
pub fn short_text(value: &[u8]) -> Option<String> {
    let text = unescaped(raw_string(value)?)?;
    if text.len() > 256 {
        return None;
    }
    String::from_utf8(text).ok()
}
