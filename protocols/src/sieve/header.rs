//! The header of the message as the script sees it, with what it has changed. RFC 5293.

use super::words::encode_words;
use crate::message::field::Fields;
use std::borrow::Cow;

/// Fields that no script may add or remove: those by which loops are seen (RFC 5293 section
/// 6), those that delivery writes, and those by which the body is understood, since the
/// body stays as it is.
const PROTECTED: [&str; 5] =
    ["received", "auto-submitted", "return-path", "delivered-to", "mime-version"];
/// Where a line of a field that is added is folded, if it can be.
const LINE_BYTES: usize = 76;

#[derive(Debug, Clone)]
struct Entry<'m> {
    name: Cow<'m, [u8]>,
    value: Cow<'m, [u8]>,
    /// With its line end.
    whole: Cow<'m, [u8]>,
}

#[derive(Debug, Clone)]
pub(super) struct Header<'m> {
    entries: Vec<Entry<'m>>,
    /// What follows the fields that are looked at: more fields, the blank line.
    tail: &'m [u8],
    edits: usize,
    octets: usize,
}

impl<'m> Header<'m> {
    /// `header` ends with its blank line, or with its last field.
    pub(super) fn new(header: &'m [u8], fields_max: usize) -> Header<'m> {
        let mut looked_at = 0_usize;
        let mut entries = Vec::new();
        for field in Fields::new(header).take(fields_max) {
            looked_at = looked_at.saturating_add(field.whole.len());
            entries.push(Entry {
                name: Cow::Borrowed(field.name),
                value: Cow::Borrowed(field.value),
                whole: Cow::Borrowed(field.whole),
            });
        }
        let tail = header.get(looked_at..).unwrap_or_default();
        Header { entries, tail, edits: 0, octets: header.len() }
    }

    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    /// How often it was changed.
    pub(super) fn edits(&self) -> usize {
        self.edits
    }

    pub(super) fn octets(&self) -> usize {
        self.octets
    }

    /// Raw values of the fields of a name, from the top.
    pub(super) fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        let named = self.entries.iter().filter(move |entry| is_named(&entry.name, name));
        named.map(|entry| entry.value.as_ref())
    }

    /// Whether a field's name begins like this.
    pub(super) fn has_prefix(&self, prefix: &str) -> bool {
        let start =
            |entry: &Entry<'_>| entry.name.get(..prefix.len()).map(<[u8]>::to_ascii_lowercase);
        self.entries.iter().any(|entry| start(entry).as_deref() == Some(prefix.as_bytes()))
    }

    /// Whether a script may add or remove fields of this name.
    pub(super) fn may_edit(name: &str) -> bool {
        let lower = name.to_ascii_lowercase();
        !PROTECTED.contains(&lower.as_str()) && !lower.starts_with("content-")
    }

    pub(super) fn add(&mut self, name: &str, value: &str, last: bool) {
        let value = format!(" {}", encode_words(value));
        let whole = folded(name, &value).into_bytes();
        self.octets = self.octets.saturating_add(whole.len());
        self.edits = self.edits.saturating_add(1);
        let entry = Entry {
            name: Cow::Owned(name.as_bytes().to_vec()),
            value: Cow::Owned(value.into_bytes()),
            whole: Cow::Owned(whole),
        };
        if last {
            self.entries.push(entry);
        } else {
            self.entries.insert(0, entry);
        }
    }

    /// Removes those fields of a name whose places among them are listed, rising.
    pub(super) fn remove(&mut self, name: &str, places: &[usize]) {
        let mut place = 0_usize;
        let mut removed = 0_usize;
        self.entries.retain(|entry| {
            if !is_named(&entry.name, name) {
                return true;
            }
            let goes = places.binary_search(&place).is_ok();
            place = place.saturating_add(1);
            if goes {
                removed = removed.saturating_add(entry.whole.len());
            }
            !goes
        });
        if !places.is_empty() {
            self.edits = self.edits.saturating_add(1);
        }
        self.octets = self.octets.saturating_sub(removed);
    }

    /// All of it, the blank line included.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.octets);
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.whole);
            if !entry.whole.ends_with(b"\n") {
                bytes.extend_from_slice(b"\r\n");
            }
        }
        bytes.extend_from_slice(if self.tail.is_empty() { b"\r\n" } else { self.tail });
        bytes
    }
}

fn is_named(name: &[u8], wanted: &str) -> bool {
    !name.is_empty() && name.eq_ignore_ascii_case(wanted.as_bytes())
}

/// `value` begins with a space; lines are folded at spaces.
fn folded(name: &str, value: &str) -> String {
    let mut field = format!("{name}:");
    let mut line_bytes = field.len();
    for (index, word) in value.split(' ').enumerate() {
        // Before the first space there is nothing.
        if index > 0 {
            let room = LINE_BYTES.saturating_sub(line_bytes);
            if word.len() >= room && index > 1 && !word.is_empty() {
                field.push_str("\r\n");
                line_bytes = 0;
            }
            field.push(' ');
        }
        field.push_str(word);
        line_bytes = line_bytes.saturating_add(word.len()).saturating_add(1);
    }
    field.push_str("\r\n");
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_added_and_removed() {
        let mut header = Header::new(b"A: 1\r\nB: 2\r\nnot a field\r\na: 3\r\n\r\n", 100);
        header.add("C", "4", false);
        header.add("D", "5", true);
        header.remove("A", &[1]);
        assert_eq!(header.values("a").collect::<Vec<_>>(), [b" 1\r\n"]);
        assert_eq!(header.to_bytes(), b"C: 4\r\nA: 1\r\nB: 2\r\nnot a field\r\nD: 5\r\n\r\n");
        assert_eq!(header.octets(), header.to_bytes().len());
        assert_eq!(header.edits(), 3);
    }

    #[test]
    fn fields_beyond_the_limit_stay() {
        let mut header = Header::new(b"A: 1\r\nB: 2\r\nC: 3\r\n\r\n", 1);
        header.remove("A", &[0]);
        header.add("D", "4", true);
        assert_eq!(header.to_bytes(), b"D: 4\r\nB: 2\r\nC: 3\r\n\r\n");
    }

    #[test]
    fn long_values_are_folded_and_unfold_to_themselves() {
        let value = "word ".repeat(60);
        let mut header = Header::new(b"", 100);
        header.add("X", value.trim_end(), false);
        let bytes = header.to_bytes();
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.lines().all(|line| line.len() <= 78), "{text}");
        let read = Header::new(&bytes, 100);
        let unfolded = crate::message::field::unfold(read.values("x").next().unwrap());
        assert_eq!(String::from_utf8(unfolded).unwrap(), value.trim_end());
    }

    #[test]
    fn what_loops_and_bodies_hang_on_is_protected() {
        for name in ["Received", "AUTO-SUBMITTED", "Content-Type", "MIME-Version"] {
            assert!(!Header::may_edit(name), "{name}");
        }
        assert!(Header::may_edit("Subject"));
    }
}
