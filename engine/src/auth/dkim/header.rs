//! A message's header, as signatures see it: which fields are signed, and in what form.

use super::tags::is_space;
use mail_auth::dkim::Canonicalization;
use protocols::message::field::{Field, Fields};
use std::collections::HashMap;

/// The fields of a message, found by name from the bottom up.
#[derive(Debug, Default)]
pub struct Header<'m> {
    fields: Vec<Field<'m>>,
    by_name: HashMap<Vec<u8>, Vec<usize>>,
}

impl<'m> Header<'m> {
    pub fn read(message: &'m [u8]) -> Header<'m> {
        let mut header = Header::default();
        for field in Fields::new(message) {
            let name = field.name.to_ascii_lowercase();
            header.by_name.entry(name).or_default().push(header.fields.len());
            header.fields.push(field);
        }
        header
    }

    /// Those with this name (in lower case), from the top.
    pub fn named(&self, name: &str) -> impl Iterator<Item = Field<'m>> {
        let found = self.by_name.get(name.as_bytes()).map(Vec::as_slice).unwrap_or_default();
        found.iter().map(|&at| self.fields[at])
    }

    /// What a signature over `names` signs, with the field that carries it (RFC 6376 section 3.7).
    /// Each field is taken once at most, so the result is no longer than the header and a few
    /// octets for each field.
    pub fn signed(&self, names: &[Vec<u8>], how: Canonicalization, carrier: &Field<'_>) -> Vec<u8> {
        let mut data = Vec::new();
        let mut taken: HashMap<&[u8], usize> = HashMap::new();
        for name in names {
            let Some(found) = self.by_name.get(name) else { continue };
            let taken = taken.entry(name).or_default();
            let below = found.len().checked_sub(*taken + 1);
            let Some(&at) = below.and_then(|below| found.get(below)) else { continue };
            *taken += 1;
            push(&mut data, &self.fields[at], how);
            data.extend_from_slice(b"\r\n");
        }
        push_carrier(&mut data, carrier, how);
        data
    }
}

/// One field in its canonical form (section 3.4), without its final line end.
pub fn push(data: &mut Vec<u8>, field: &Field<'_>, how: Canonicalization) {
    match how {
        Canonicalization::Simple => data.extend_from_slice(without_end(field.whole)),
        Canonicalization::Relaxed => {
            data.extend(field.name.iter().map(u8::to_ascii_lowercase));
            data.push(b':');
            let mut is_gap = false;
            let start = field.value.iter().position(|&byte| !is_space(byte));
            for &byte in &field.value[start.unwrap_or(field.value.len())..] {
                match byte {
                    b'\r' | b'\n' => {}
                    // One space for all of them, and none at the end.
                    b' ' | b'\t' => is_gap = true,
                    _ => {
                        if std::mem::take(&mut is_gap) {
                            data.push(b' ');
                        }
                        data.push(byte);
                    }
                }
            }
        }
    }
}

/// The field that carries the signature: without it.
pub fn push_carrier(data: &mut Vec<u8>, carrier: &Field<'_>, how: Canonicalization) {
    let start = carrier.whole.len() - carrier.value.len();
    let (name, value) = carrier.whole.split_at(start);
    let whole = [name, &without_signature(value)].concat();
    let (_, value) = whole.split_at(start);
    push(data, &Field { name: carrier.name, value, whole: &whole }, how);
}

/// A list of tags whose `b=` is empty.
fn without_signature(value: &[u8]) -> Vec<u8> {
    let mut at = 0;
    for spec in value.split(|&byte| byte == b';') {
        if let Some(equals) = spec.iter().position(|&byte| byte == b'=')
            && spec[..equals].trim_ascii() == b"b"
        {
            let (front, behind) = (at + equals + 1, at + spec.len());
            // At the very end stands the field's line end, which is no part of the value.
            let end = if behind == value.len() { without_end(value).len() } else { behind };
            return [&value[..front], &value[end.max(front)..]].concat();
        }
        at += spec.len() + 1;
    }
    value.to_vec()
}

fn without_end(field: &[u8]) -> &[u8] {
    let field = field.strip_suffix(b"\n").unwrap_or(field);
    field.strip_suffix(b"\r").unwrap_or(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_signed_from_the_bottom_up_and_each_once() {
        let message = b"A: 1\r\nB : x\t \r\n  y \r\na: 2\r\nS: v=1; b=AA\r\n BB; d=x\r\n\r\n";
        let header = Header::read(message);
        let carrier = header.named("s").next().unwrap();
        let names: Vec<Vec<u8>> =
            ["a", "b", "a", "a", "nowhere"].iter().map(|name| name.as_bytes().to_vec()).collect();
        let text = |how| String::from_utf8(header.signed(&names, how, &carrier)).unwrap();
        assert_eq!(text(Canonicalization::Relaxed), "a:2\r\nb:x y\r\na:1\r\ns:v=1; b=; d=x");
        assert_eq!(
            text(Canonicalization::Simple),
            "a: 2\r\nB : x\t \r\n  y \r\nA: 1\r\nS: v=1; b=; d=x"
        );
        for (value, expected) in [
            (&b" b=AA\r\n"[..], &b" b=\r\n"[..]),
            (b" bh=x; b = AA \r\n A", b" bh=x; b ="),
            (b" bh=x;b=", b" bh=x;b="),
            (b" d=b=x; e=b", b" d=b=x; e=b"),
        ] {
            assert_eq!(without_signature(value), expected);
        }
    }
}
