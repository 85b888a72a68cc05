//! Header fields: splitting a header block, unfolding values, picking fields by name.
//!
//! Accepts what arrives: bare LF, whitespace before the colon, lines without a colon (skipped by
//! name but kept in place). RFC 5322 section 2.2.

/// Whole lines of a message's header, without the blank line; all of the message
/// where there is none.
#[must_use]
pub fn header(message: &[u8]) -> &[u8] {
    if message.starts_with(b"\r\n") {
        return &[];
    }
    let end = memchr::memmem::find(message, b"\r\n\r\n").and_then(|at| at.checked_add(2));
    end.and_then(|end| message.get(..end)).unwrap_or(message)
}

/// One field of a header block, as slices of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'h> {
    /// Without trailing whitespace; empty when the line has no colon.
    pub name: &'h [u8],
    /// Everything after the colon, folds and final line end included.
    pub value: &'h [u8],
    /// The whole field, final line end included.
    pub whole: &'h [u8],
}

impl Field<'_> {
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The fields of a header block, in order. Ends at the blank line or at the end of the bytes.
#[derive(Debug, Clone)]
pub struct Fields<'h> {
    rest: &'h [u8],
}

impl<'h> Fields<'h> {
    #[must_use]
    pub fn new(header: &'h [u8]) -> Fields<'h> {
        Fields { rest: header }
    }
}

impl<'h> Iterator for Fields<'h> {
    type Item = Field<'h>;

    fn next(&mut self) -> Option<Field<'h>> {
        if self.rest.is_empty() || self.rest.starts_with(b"\r\n") || self.rest.starts_with(b"\n") {
            return None;
        }
        let end = field_end(self.rest);
        let (whole, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        let colon = memchr::memchr(b':', whole);
        let (name, value) = match colon.and_then(|at| whole.split_at_checked(at)) {
            Some((name, value)) => (name.trim_ascii_end(), value.get(1..).unwrap_or_default()),
            None => (b"".as_slice(), whole),
        };
        // A colon behind a fold or a space-ridden "name" means that the line is not a field.
        let name = if name.iter().all(|byte| (33..127).contains(byte)) { name } else { b"" };
        Some(Field { name, value, whole })
    }
}

/// Where the first field ends: after a line end that no space or tab follows.
fn field_end(bytes: &[u8]) -> usize {
    for newline in memchr::memchr_iter(b'\n', bytes) {
        let after = newline.saturating_add(1);
        match bytes.get(after) {
            Some(b' ' | b'\t') => {}
            Some(_) | None => return after,
        }
    }
    bytes.len()
}

/// A value on one line: line ends and NUL gone, outer whitespace trimmed (RFC 5322 section 2.2.3).
#[must_use]
pub fn unfold(value: &[u8]) -> Vec<u8> {
    let value = value.trim_ascii();
    if memchr::memchr3(b'\r', b'\n', 0, value).is_none() {
        return value.to_vec();
    }
    value.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)).collect()
}

/// Appends to `output` the fields of `header` whose names are in `names` (or, with `not`, are not),
/// then the blank line. For BODY[HEADER.FIELDS …], RFC 3501 section 6.4.5.
pub fn pick(header: &[u8], names: &[Vec<u8>], not: bool, output: &mut Vec<u8>) {
    // Both may be many, and both come from peers.
    let mut names: Vec<Vec<u8>> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    for field in Fields::new(header) {
        let lower = || field.name.iter().map(u8::to_ascii_lowercase);
        let listed = names.binary_search_by(|name| name.iter().copied().cmp(lower())).is_ok();
        if !field.name.is_empty() && listed != not {
            output.extend_from_slice(field.whole);
            if !field.whole.ends_with(b"\n") {
                output.extend_from_slice(b"\r\n");
            }
        }
    }
    output.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_ends_before_the_blank_line() {
        for (message, whole) in [
            (&b"A: b\r\n\r\n\xff"[..], &b"A: b\r\n"[..]),
            (b"A: b\r\n\r\nC: d\r\n\r\n", b"A: b\r\n"),
            (b"A: b\r\nC: d", b"A: b\r\nC: d"),
            (b"\r\nA: b\r\n\r\n", b""),
            (b"", b""),
        ] {
            assert_eq!(header(message), whole);
        }
    }

    #[test]
    fn folded_fields_stay_whole_and_the_blank_line_ends_the_header() {
        let header = b"Subject: one\r\n two\r\nTo : a@b\nnot a field\r\n\r\nBody: x\r\n";
        let names: Vec<_> = Fields::new(header).map(|field| field.name.to_vec()).collect();
        assert_eq!(names, [b"Subject".to_vec(), b"To".to_vec(), b"".to_vec()]);
        let subject = Fields::new(header).next().unwrap();
        assert_eq!(unfold(subject.value), b"one two");
    }

    #[test]
    fn picking_fields_keeps_their_bytes_and_order() {
        let header = b"B: 2\r\nA: 1\r\n x\r\nC: 3\r\n\r\n";
        let mut picked = Vec::new();
        pick(header, &[b"a".to_vec(), b"b".to_vec()], false, &mut picked);
        assert_eq!(picked, b"B: 2\r\nA: 1\r\n x\r\n\r\n");
        picked.clear();
        pick(header, &[b"a".to_vec()], true, &mut picked);
        assert_eq!(picked, b"B: 2\r\nC: 3\r\n\r\n");
    }
}
