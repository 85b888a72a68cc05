//! DKIM signatures of a message that leaves: relaxed/relaxed, with each key of the
//! domain that signs.
//!
//! Signed is what a reader is shown and what says how to read it ([`OVERSIGNED`]): each such field
//! as often as it is there and once more, so that none can be added (RFC 6376 section 8.15); and
//! what says who has passed the message on and how to leave a list ([`SIGNED`]), as often as it is
//! there. Trace fields are not signed.
//!
//! Hashing goes with the message as it streams by; signing is for a thread that is not a core.

use super::keys::{DkimKeys, KeyError, SIGNATURE_SECONDS};
use crate::auth::dkim::header::Header;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_auth::common::crypto::{HashContext, HashImpl, Sha256};
use mail_auth::dkim::Canonicalization;
use mail_auth::dkim::canonicalize::BodyHasher;
use protocols::message::field::{Field, Fields};
use std::fmt;

const OVERSIGNED: [&str; 12] = [
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "Reply-To",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];
const SIGNED: [&str; 10] = [
    "Sender",
    "Resent-From",
    "Resent-To",
    "Resent-Cc",
    "Resent-Date",
    "Resent-Message-ID",
    "List-Id",
    "List-Post",
    "List-Unsubscribe",
    // RFC 8058 section 4 wants it signed.
    "List-Unsubscribe-Post",
];
/// Of one name; nobody has as many fields of these but who tries what happens.
const OF_ONE_NAME_MAX: usize = 8;
/// Characters of base64 on one line.
const LINE: usize = 72;

/// A message on its way: its header, and its body's hash as far as it has come.
pub struct Signing {
    header: Vec<u8>,
    hasher: BodyHasher<<Sha256 as HashImpl>::Context>,
}

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signing").field("header", &self.header.len()).finish()
    }
}

/// What is to be signed of a message.
#[derive(Debug)]
pub struct Digest {
    pub(super) header: Vec<u8>,
    pub(super) body_hash: Vec<u8>,
}

impl Signing {
    /// `first` is the message's beginning. `None`: its header does not end there, and it is to
    /// be sent unsigned.
    pub fn begin(first: &[u8]) -> Option<Signing> {
        let end = match first.starts_with(b"\r\n") {
            true => 0,
            false => memchr::memmem::find(first, b"\r\n\r\n")? + 2,
        };
        let hasher = BodyHasher::new(Sha256::hasher(), Canonicalization::Relaxed, 0);
        let mut signing = Signing { header: first[..end].to_vec(), hasher };
        signing.push(&first[end + 2..]);
        Some(signing)
    }

    pub fn push(&mut self, piece: &[u8]) {
        self.hasher.write(piece);
    }

    pub fn finish(self) -> Digest {
        let body_hash = self.hasher.finish().0.complete().as_ref().to_vec();
        Digest { header: self.header, body_hash }
    }
}

impl Digest {
    /// Of a message that is at hand; without a blank line it has no body.
    pub fn of(message: &[u8]) -> Digest {
        let whole =
            || Signing::begin(b"\r\n").map(|begun| Signing { header: message.to_vec(), ..begun });
        let signing = Signing::begin(message).or_else(whole);
        signing
            .map_or_else(|| Digest { header: Vec::new(), body_hash: Vec::new() }, Signing::finish)
    }

    /// One field for each key that signs, with their line ends. `now` in Unix seconds.
    pub fn sign(&self, domain: &str, keys: &DkimKeys, now: u64) -> Result<Vec<u8>, KeyError> {
        let header = Header::read(&self.header);
        let names = names(&header);
        let lower: Vec<Vec<u8>> =
            names.iter().map(|name| name.to_ascii_lowercase().into_bytes()).collect();
        let mut fields = String::new();
        for key in keys.signing() {
            let mut field = format!(
                "DKIM-Signature: v=1; a={}; c=relaxed/relaxed; d={domain};\r\n\ts={}; t={now}; x={};\r\n\th=",
                key.algorithm.signature_name(),
                key.selector,
                now + SIGNATURE_SECONDS,
            );
            push_folded(&mut field, &names);
            field += &format!(";\r\n\tbh={};\r\n\tb=", STANDARD.encode(&self.body_hash));
            let at = "DKIM-Signature:".len();
            let carrier = Field {
                name: b"DKIM-Signature",
                value: &field.as_bytes()[at..],
                whole: field.as_bytes(),
            };
            let data = header.signed(&lower, Canonicalization::Relaxed, &carrier);
            push_signature(&mut field, &key.sign(&data)?);
            fields += &field;
        }
        Ok(fields.into_bytes())
    }
}

/// In base64, in lines, with the field's end.
pub(super) fn push_signature(field: &mut String, signature: &[u8]) {
    let signature = STANDARD.encode(signature);
    let mut rest = signature.as_str();
    while let Some((line, more)) = rest.split_at_checked(LINE) {
        *field += line;
        *field += "\r\n\t";
        rest = more;
    }
    *field += rest;
    *field += "\r\n";
}

/// What stands in `h=`.
pub(super) fn names(header: &Header<'_>) -> Vec<&'static str> {
    let count = |name: &str| header.named(&name.to_ascii_lowercase()).count().min(OF_ONE_NAME_MAX);
    let mut names = Vec::new();
    for name in OVERSIGNED {
        names.extend(std::iter::repeat_n(name, count(name) + 1));
    }
    for name in SIGNED {
        names.extend(std::iter::repeat_n(name, count(name)));
    }
    names
}

/// With colons, in lines that every program can take.
pub(super) fn push_folded(field: &mut String, names: &[&str]) {
    let mut column = 4;
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            field.push(':');
            if column + name.len() > 76 {
                field.push_str("\r\n\t ");
                column = 2;
            }
        }
        field.push_str(name);
        column += name.len() + 1;
    }
}

/// The addresses in From; `None` where there are more than anybody has.
pub fn authors(message: &[u8]) -> Option<Vec<String>> {
    const AUTHORS_MAX: usize = 32;
    let mut authors = Vec::new();
    for field in Fields::new(message).filter(|field| field.is("From")) {
        let found = protocols::message::envelope::addresses(field.value, AUTHORS_MAX);
        if found.len() >= AUTHORS_MAX || authors.len() >= AUTHORS_MAX {
            return None;
        }
        for author in found {
            if let (Some(user), Some(host)) = (author.mailbox, author.host) {
                let [user, host] =
                    [user, host].map(|text| String::from_utf8_lossy(&text).into_owned());
                authors.push(format!("{}@{}", user.trim(), host.trim()));
            }
        }
    }
    Some(authors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::dkim::{self, Verified};
    use crate::auth::dns::{Resolver, Zone};
    use crate::auth::evidence::Evidence;
    use crate::auth::verdict::Outcome;
    use bytes::Bytes;
    use hickory_resolver::proto::rr::rdata::TXT;
    use hickory_resolver::proto::rr::{RData, RecordType};
    use std::time::{SystemTime, UNIX_EPOCH};

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    fn keys() -> DkimKeys {
        let mut keys = DkimKeys::default();
        keys.add_pair(now()).unwrap();
        keys
    }

    /// By the verifier that looks at mail of others.
    fn outcomes(keys: &DkimKeys, message: &[u8]) -> Vec<Outcome> {
        let mut zone = Zone::new();
        for key in &keys.keys {
            let name = key.record_name("a.test") + ".";
            let text = RData::TXT(TXT::new(vec![key.record_text()]));
            zone.insert((name, RecordType::TXT), vec![text]);
        }
        let evidence = Evidence { message: Bytes::copy_from_slice(message), hashed: None };
        let header = Header::read(message);
        let mut verified: Vec<Verified> = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(dkim::verify(
            &Resolver::from_zone(zone),
            &header,
            &evidence.body_hashes(),
            &mut verified,
        ));
        verified.iter().map(|one| one.finding.outcome).collect()
    }

    fn signed(keys: &DkimKeys, message: &[u8]) -> Vec<u8> {
        let fields = Digest::of(message).sign("a.test", keys, now()).unwrap();
        [&fields, message].concat()
    }

    #[test]
    fn both_signatures_verify_and_any_change_that_matters_spoils_both() {
        let keys = keys();
        let text = "Received: from x by y;\r\n\tdate\r\nFrom: Ann <ann@a.test>\r\nTo: bob@b.test\r\n\
            Subject: one\r\n two\r\nDate: Mon, 31 Jan 1994 07:06:40 +0000\r\nList-Id: <l.a.test>\r\n\r\n\
            a  b \r\n\r\n.\r\n\r\n\r\n";
        let message = signed(&keys, text.as_bytes());
        assert_eq!(outcomes(&keys, &message), [Outcome::Pass, Outcome::Pass]);
        let head = String::from_utf8(message[..message.len() - text.len()].to_vec()).unwrap();
        assert_eq!(head.matches("From:From:").count(), 2, "{head}");
        assert!(head.contains("c=relaxed/relaxed") && head.contains("List-Id"), "{head}");
        assert!(head.lines().all(|line| line.len() <= 78), "{head}");
        assert!(head.len() < 4096, "beside a large body there is no more room");
        let text = String::from_utf8(message).unwrap();
        for (old, new, outcome) in [
            // A trace field, folding, and white space may change on the way.
            ("Received: from x", "Received: from z", Outcome::Pass),
            ("Subject: one\r\n two", "subject:  one  two", Outcome::Pass),
            ("a  b \r\n", "a b\r\n", Outcome::Pass),
            ("Subject: one", "Subject: two", Outcome::Fail),
            ("From: Ann", "From: Eve <eve@b.test>\r\nFrom: Ann", Outcome::Fail),
            ("From: Ann", "Cc: eve@b.test\r\nFrom: Ann", Outcome::Fail),
            ("From: Ann", "Reply-To: eve@b.test\r\nFrom: Ann", Outcome::Fail),
            ("a  b", "a  c", Outcome::Fail),
        ] {
            let changed = text.replacen(old, new, 1);
            assert_ne!(changed, text);
            assert_eq!(outcomes(&keys, changed.as_bytes()), [outcome; 2], "{old} -> {new}");
        }
    }

    #[test]
    fn odd_messages_and_pieces_of_any_size_are_signed_alike() {
        let keys = keys();
        for text in [
            "From: ann@a.test\r\n",
            "From: ann@a.test\r\n\r\n",
            "\r\nNo header at all.\r\n",
            "From: ann@a.test\r\nFrom: ann@a.test\r\n\r\nx",
        ] {
            let message = signed(&keys, text.as_bytes());
            assert_eq!(outcomes(&keys, &message), [Outcome::Pass, Outcome::Pass], "{text:?}");
        }
        let text = b"From: ann@a.test\r\nSubject: x\r\n\r\nbody \r\n \r\n\tmore\r\n\r\n";
        let whole = Digest::of(text);
        for cut in 32..text.len() {
            let mut signing = Signing::begin(&text[..cut]).unwrap();
            signing.push(&text[cut..]);
            let digest = signing.finish();
            assert_eq!((&digest.header, &digest.body_hash), (&whole.header, &whole.body_hash));
        }
        assert!(Signing::begin(b"From: ann@a.test\r\n").is_none(), "a header without an end");
    }

    #[test]
    fn authors_are_who_the_reader_is_shown() {
        let of = |text: &str| authors(text.as_bytes());
        assert_eq!(
            of("From: \"A, b\" <ann@a.test>, bob@b.test\r\n\r\n").unwrap(),
            ["ann@a.test", "bob@b.test"]
        );
        assert_eq!(
            of("From: a@a.test\r\nfrom: b@b.test\r\n\r\nFrom: c@c.test").unwrap(),
            ["a@a.test", "b@b.test"]
        );
        assert_eq!(of("To: a@a.test\r\n\r\n").unwrap(), [""; 0]);
        assert_eq!(of(&format!("From: {}\r\n\r\n", "a@a.test, ".repeat(40))), None);
    }
}
