//! What the classifier sees of a message: a set of hashed tokens.
//!
//! Words of the text and of the subject, alone and in pairs; where links lead; what the header
//! tells of the program that made the message; numbers, roughly; and the rules that match, which
//! the classifier thereby learns to weigh. Fields that a receiving host has written are left out:
//! they tell where mail was stored, not what it is.

use super::Hit;
use super::facts;
use super::limits::{TOKENS_MAX, WORD_BYTES_MAX};
use super::mail::{Mail, plain_value};
use super::url::site;
use protocols::message::field::Fields;
use protocols::message::summary::Kind;
use serde::{Deserialize, Serialize};

/// Fields that say where a message has been, and those that the filter itself has written.
const OTHERS_FIELDS: [&str; 30] = [
    "received",
    "return-path",
    "delivered-to",
    "x-original-to",
    "envelope-to",
    "x-envelope-to",
    "delivery-date",
    "status",
    "x-status",
    "x-keywords",
    "x-uid",
    "x-mozilla-status",
    "x-mozilla-status2",
    "authentication-results",
    "x-claimed-auth-results",
    "received-spf",
    "x-spam-status",
    "x-spam-flag",
    "x-spam-level",
    "x-spam-checker-version",
    "x-said-status",
    "x-said-flag",
    "x-spam-sender",
    "x-said-sender",
    "x-spam-account",
    "x-said-account",
    "x-virus-scanned",
    "x-virus-claimed",
    "x-received",
    "lines",
];
/// Fields whose words count, and the mark that keeps them apart.
const FIELD_WORDS: [(&str, &str); 8] = [
    ("From", "f"),
    ("To", "t"),
    ("Reply-To", "r"),
    ("X-Mailer", "m"),
    ("User-Agent", "m"),
    ("Content-Type", "c"),
    ("List-Id", "l"),
    ("Message-ID", "i"),
];

/// Of a body, for its fingerprint.
const FINGERPRINT_BYTES: usize = 16 << 10;

/// Tokens by their hashes, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens(pub Vec<u32>);

impl Tokens {
    /// `text` is the visible text, white space in single blanks; `hits` the rules that match,
    /// `counted` the facts.
    pub fn of(mail: &Mail<'_>, text: &str, hits: &[Hit], counted: &[f64]) -> Tokens {
        let mut found = Collector { hashes: Vec::with_capacity(2048) };
        found.words("s", &mail.subject);
        for (name, mark) in FIELD_WORDS {
            if let Some(value) = mail.field(name) {
                found.field(mark, &plain_value(value));
            }
        }
        let mut before = String::new();
        for field in &mail.fields {
            let name = String::from_utf8_lossy(field.name).to_ascii_lowercase();
            if OTHERS_FIELDS.contains(&name.as_str()) || name.len() > WORD_BYTES_MAX {
                continue;
            }
            // Which fields there are, and in which order: the hand of the program that wrote them.
            found.add(&["h", &name]);
            found.add(&["o", &before, &name]);
            before = name;
        }
        for link in &mail.links {
            found.add(&["u", site(&link.host)]);
            found.add(&["u", &link.host]);
            let path = link.url.split("//").nth(1).and_then(|rest| rest.split_once('/'));
            let path = path.map_or("", |(_, path)| path);
            let pieces = path.split(|c: char| !c.is_ascii_alphanumeric());
            for piece in pieces.filter(|piece| (3..=20).contains(&piece.len())).take(8) {
                found.add(&["p", piece]);
            }
        }
        for part in mail.summary.parts.iter().take(50) {
            let content = &part.content;
            let kind = String::from_utf8_lossy(&content.main).into_owned()
                + "/"
                + &String::from_utf8_lossy(&content.sub);
            let encoding = content.encoding.as_deref().unwrap_or_default();
            let leaf = if part.kind == Kind::Leaf { "leaf" } else { "tree" };
            found.add(&["k", leaf, &kind.to_ascii_lowercase()]);
            found.add(&["e", &String::from_utf8_lossy(encoding).to_ascii_lowercase()]);
            if let Some(charset) = content.parameter("charset") {
                found.add(&["x", &String::from_utf8_lossy(charset).to_ascii_lowercase()]);
            }
        }
        for hit in hits.iter().filter(|hit| hit.of_content) {
            found.add(&["!", &hit.rule]);
        }
        for (index, ((name, _), value)) in facts::all().zip(counted).enumerate() {
            if facts::is_of_content(index) {
                found.add(&["#", name, &bucket(*value)]);
            }
        }
        // Last, since a long one takes all the room that is left.
        found.words("", text);
        found.finish()
    }
}

/// A message, however often it is stored: what stands in front of its own header, and how the last
/// hosts have delivered it, does not count.
pub fn fingerprint(message: &[u8]) -> u64 {
    let mut hash = Hash::default();
    let mut header_bytes = 0;
    for field in Fields::new(message) {
        header_bytes += field.whole.len();
        if ["From", "Date", "Subject", "Message-ID"].iter().any(|name| field.is(name)) {
            hash.push(field.whole);
        }
    }
    let body = message.get(header_bytes..).unwrap_or_default();
    hash.push(&body[..body.len().min(FINGERPRINT_BYTES)]);
    hash.0
}

/// Numbers in steps of a doubling.
fn bucket(value: f64) -> String {
    if value == 0.0 { "0".to_owned() } else { format!("{:.0}", value.abs().log2().copysign(value)) }
}

struct Collector {
    hashes: Vec<u32>,
}

impl Collector {
    fn add(&mut self, parts: &[&str]) {
        let mut hash = Hash::default();
        for part in parts {
            hash.push(part.as_bytes());
            hash.push(b"\0");
        }
        self.push(hash);
    }

    fn push(&mut self, hash: Hash) {
        // Twice as many as are kept: doubles are dropped at the end.
        if self.hashes.len() < 2 * TOKENS_MAX {
            self.hashes.push(hash.finish());
        }
    }

    /// Words and pairs of neighbours, as the text has them but in lower case.
    fn words(&mut self, mark: &str, text: &str) {
        let mut before: Option<Hash> = None;
        let mut lower = String::new();
        for word in text.split(|c: char| !(c.is_alphanumeric() || "'$!%-".contains(c))) {
            let word = word.trim_matches(['\'', '-', '%']);
            if word.is_empty() {
                continue;
            }
            lower.clear();
            if word.len() > WORD_BYTES_MAX {
                // What is so long is no word, but that it is there tells something.
                lower.push_str("long ");
                lower.extend(word.chars().next());
            } else if word.bytes().all(|byte| byte.is_ascii_digit()) {
                lower.push_str(&"0".repeat(word.len()));
            } else {
                lower.extend(word.chars().flat_map(char::to_lowercase));
            }
            let mut alone = Hash::default();
            alone.push(mark.as_bytes());
            alone.push(b"\0");
            alone.push(lower.as_bytes());
            if let Some(mut pair) = before {
                pair.push(b" ");
                pair.push(lower.as_bytes());
                self.push(pair);
            }
            before = Some(alone);
            self.push(alone);
        }
    }

    fn field(&mut self, mark: &str, value: &str) {
        let lower = value.to_lowercase();
        let words = lower.split(|c: char| !(c.is_alphanumeric() || "._-".contains(c)));
        for word in words.filter(|word| !word.is_empty()).take(60) {
            // Numbers and random marks by their shape.
            let digits = word.bytes().filter(u8::is_ascii_digit).count();
            if digits * 3 > word.len() {
                let shape: String = word.chars().take(24).map(shape_of).collect();
                self.add(&[mark, "shape", &shape]);
            } else if word.len() <= WORD_BYTES_MAX {
                self.add(&[mark, word]);
            }
        }
    }

    fn finish(mut self) -> Tokens {
        self.hashes.sort_unstable();
        self.hashes.dedup();
        if self.hashes.len() > TOKENS_MAX {
            // Which ones stay must not depend on the order: every so many, by hash.
            let step = self.hashes.len().div_ceil(TOKENS_MAX);
            self.hashes = self.hashes.into_iter().step_by(step).collect();
        }
        Tokens(self.hashes)
    }
}

fn shape_of(letter: char) -> char {
    match letter {
        '0'..='9' => '0',
        'a'..='f' => 'a',
        letter if letter.is_alphabetic() => 'z',
        other => other,
    }
}

/// FNV-1a: small, and the same on every host, since what is learned is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hash(u64);

impl Default for Hash {
    fn default() -> Hash {
        Hash(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    pub(super) fn of_lower_case(word: &str) -> u32 {
        let mut hash = Hash::default();
        for letter in word.chars().flat_map(char::to_lowercase) {
            hash.push(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
        hash.finish()
    }

    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    /// FNV's low bits are weak: mixed (the finalizer of MurmurHash3), and cut.
    fn finish(self) -> u32 {
        let mut hash = self.0;
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        u32::try_from((hash ^ (hash >> 33)) >> 32).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(message: &str) -> Tokens {
        let mail = Mail::read(message.as_bytes());
        Tokens::of(&mail, &super::super::evaluate::visible_text(&mail), &[], &[])
    }

    /// What is learned is kept for years: a hash that changes forgets it all.
    #[test]
    fn hashes_stay_as_they_are() {
        let mut hash = Hash::default();
        hash.push(b"\0viagra");
        assert_eq!(hash.finish(), 106_792_008);
    }

    #[test]
    fn tokens_are_a_set_that_fields_of_receiving_hosts_do_not_change() {
        let one = tokens("From: a@a.test\r\nSubject: x\r\n\r\nhello hello world\r\n");
        let two = tokens(
            "Received: by z\r\nDelivered-To: q\r\nX-Spam-Status: Yes\r\nFrom: a@a.test\r\nSubject: x\r\n\r\nhello hello world\r\n",
        );
        assert_eq!(one, two);
        assert!(one.0.windows(2).all(|pair| pair[0] < pair[1]));
        assert_ne!(one, tokens("From: a@a.test\r\nSubject: x\r\n\r\nhello world\r\n"));
    }

    #[test]
    fn a_fingerprint_is_of_the_message_and_not_of_its_delivery() {
        let message = "From: a@a.test\r\nSubject: x\r\n\r\nhello\r\n";
        let stored = format!("Delivered-To: b\r\nReceived: by z\r\n{message}");
        assert_eq!(fingerprint(message.as_bytes()), fingerprint(stored.as_bytes()));
        let other = message.replace("hello", "hallo");
        assert_ne!(fingerprint(message.as_bytes()), fingerprint(other.as_bytes()));
    }

    #[test]
    fn a_huge_message_has_no_more_than_so_many() {
        let text: String = (0..60_000).map(|n| format!("w{n} ")).collect();
        let found = tokens(&format!("Subject: x\r\n\r\n{text}"));
        assert!(found.0.len() <= TOKENS_MAX);
        let other = tokens(&format!("Subject: y\r\n\r\n{text}"));
        assert_ne!(found, other, "a long text has left no room for what the header tells");
    }
}
