//! The message that a run sends, prepared once.
//!
//! Invariant: the text has CRLF line ends only, no line that starts with a dot (so it needs no
//! stuffing, RFC 5321 section 4.5.2), lines of at most 78 bytes, and exactly `--bytes` bytes. Its
//! Message-ID is the only part that differs from message to message, so that a checker which finds
//! N different ones has seen N different messages.

use super::{Error, Options};
use protocols::message::date::field_text;
use std::time::{SystemTime, UNIX_EPOCH};

/// Digits of the number inside a Message-ID.
const NUMBER_DIGITS: usize = 10;
const LINE_BYTES: usize = 76;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[derive(Debug)]
pub(super) struct Message {
    run_id: u64,
    head: Vec<u8>,
    /// Where the number stands in `head`.
    number_at: usize,
    /// The text after the header, and the line with the final dot.
    rest: Vec<u8>,
    bytes: usize,
}

impl Message {
    pub(super) fn new(options: &Options, run_id: u64) -> Result<Message, Error> {
        let to = options.to.first().map_or("", String::as_str);
        let from = if options.from.is_empty() { "postmaster@example.net" } else { &options.from };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let date = field_text(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let zeroes = "0".repeat(NUMBER_DIGITS);
        let before = format!(
            "Date: {date}\r\nFrom: \"Bench, Load\" <{from}>\r\nTo: <{to}>\r\nMessage-ID: <{run_id:016x}."
        );
        let after = "@bench.example.net>\r\nSubject: =?utf-8?q?A_message_of_the_load_program?=\r\n\
            MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
            Content-Transfer-Encoding: 7bit\r\nX-Mailer: kura bench smtp\r\n\r\n";
        let head = format!("{before}{zeroes}{after}").into_bytes();
        let least = head.len() + 2;
        if options.bytes < least {
            let problem = format!("must be at least {least}, for the header and a line end");
            return Err(Error::Option { option: "bytes", problem });
        }
        let rest_bytes = options.bytes - head.len();
        let mut rest = text(rest_bytes, options.seed);
        rest.extend_from_slice(b".\r\n");
        Ok(Message { run_id, number_at: before.len(), head, rest, bytes: options.bytes })
    }

    /// Size without the final dot.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes the header of message `number` over `head`.
    pub(super) fn write_head(&self, number: u64, head: &mut Vec<u8>) {
        head.clear();
        head.extend_from_slice(&self.head);
        let digits = format!("{number:0NUMBER_DIGITS$}");
        let place = self.number_at..self.number_at + NUMBER_DIGITS;
        head[place].copy_from_slice(&digits.as_bytes()[..NUMBER_DIGITS]);
    }

    pub(super) fn rest(&self) -> &[u8] {
        &self.rest
    }

    pub(super) fn message_id(&self, number: u64) -> String {
        format!("<{:016x}.{number:0NUMBER_DIGITS$}@bench.example.net>", self.run_id)
    }
}

/// `bytes` bytes (at least two) of lines that do not compress well, as base64 of random data.
fn text(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut text = Vec::with_capacity(bytes + 8);
    while text.len() < bytes {
        let left = bytes - text.len();
        // The last line takes what is left; a tail too short for a line end joins the one before.
        let line = if left <= LINE_BYTES + 4 { left.saturating_sub(2) } else { LINE_BYTES };
        for _ in 0..line {
            // xorshift64: not for secrets, only for text that a compressor cannot guess.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push(ALPHABET[(state >> 32) as usize % 64]);
        }
        text.extend_from_slice(b"\r\n");
    }
    text
}

/// Base64 of `\0user\0password` from `user:password` (RFC 4616).
pub(super) fn plain_credentials(auth: &str) -> String {
    let (user, password) = auth.split_once(':').unwrap_or((auth, ""));
    let mut out = String::new();
    for chunk in format!("\0{user}\0{password}").as_bytes().chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let sextet = (word >> (18 - 6 * i)) as usize & 63;
            out.push(if i <= chunk.len() { char::from(ALPHABET[sextet]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_exactly_the_bytes_asked_for_in_short_crlf_lines() {
        for bytes in (2..500).chain([4096, 100 * 1024]) {
            let text = text(bytes, 7);
            assert_eq!(text.len(), bytes);
            assert!(text.ends_with(b"\r\n"), "{bytes}");
            let lines = text[..bytes - 2].split(|b| *b == b'\n');
            for line in lines {
                assert!(line.len() <= 79 && !line.starts_with(b"."), "{bytes}");
            }
        }
    }

    #[test]
    fn credentials_are_base64_with_padding() {
        assert_eq!(plain_credentials("a:b"), "AGEAYg==");
        assert_eq!(plain_credentials("ab:c"), "AGFiAGM=");
        assert_eq!(plain_credentials("ab:cd"), "AGFiAGNk");
    }
}
