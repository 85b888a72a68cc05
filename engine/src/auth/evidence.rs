//! What of a message is verified: its bytes, or its header and the hashes of its body.
//!
//! A message that fits the session's buffer is looked at as a whole. Of a larger one, which streams
//! into the log while it arrives, the header stays, and the body is hashed on its way through, once
//! for each canonicalization that a signature in the header asks for.

use super::dkim::signature::{Form, Signature};
use bytes::Bytes;
use mail_auth::common::crypto::{HashContext, HashImpl, Sha256};
use mail_auth::dkim::Canonicalization;
use mail_auth::dkim::canonicalize::BodyHasher;
use protocols::message::field::{self, Fields};

/// Signatures that are verified; RFC 6376 section 6.1 lets verifiers limit them.
pub const SIGNATURES_MAX: usize = 10;

/// A message, without our own trace fields.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// All of it; or, with `hashed`, its header and the blank line behind it.
    pub message: Bytes,
    pub hashed: Option<BodyHashes>,
}

/// SHA-256 of the canonical body; SHA-1 is of no worth (RFC 8301 section 3.1).
#[derive(Debug, Clone, Default)]
pub struct BodyHashes {
    pub known: Vec<(Canonicalization, Vec<u8>)>,
    /// The header did not fit the buffer: nothing can be said of signatures.
    pub header_cut: bool,
}

impl BodyHashes {
    /// Whether the body has this hash in this form.
    pub fn has(&self, method: Canonicalization, hash: &[u8]) -> bool {
        self.known.iter().any(|(known, found)| *known == method && found == hash)
    }
}

impl Evidence {
    /// Of the body that a signature in the header could speak of.
    pub fn body_hashes(&self) -> BodyHashes {
        match &self.hashed {
            Some(hashed) => hashed.clone(),
            None => {
                // Without a blank line there is no body; the header is whole all the same.
                let end = header_end(&self.message).unwrap_or(self.message.len());
                Hashing::behind(&self.message, end).finish().hashed.unwrap_or_default()
            }
        }
    }
}

type Hasher = BodyHasher<<Sha256 as HashImpl>::Context>;

/// A message that streams by.
pub struct Hashing {
    header: Bytes,
    hashers: Vec<(Canonicalization, Hasher)>,
    header_cut: bool,
}

impl std::fmt::Debug for Hashing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hashing").field("hashers", &self.hashers.len()).finish()
    }
}

impl Hashing {
    /// `first` is the message's beginning, as much as fits the session's buffer.
    pub fn begin(first: &Bytes) -> Hashing {
        let Some(end) = header_end(first) else {
            return Hashing { header: first.clone(), hashers: Vec::new(), header_cut: true };
        };
        Hashing::behind(first, end)
    }

    /// `end` is where the header ends.
    fn behind(first: &Bytes, end: usize) -> Hashing {
        let header = first.slice(..end);
        let hasher = |method| (method, Hasher::new(Sha256::hasher(), method, 0));
        let hashers = asked_for(&header).into_iter().map(hasher).collect();
        let mut hashing = Hashing { header, hashers, header_cut: false };
        hashing.push(&first[end..]);
        hashing
    }

    pub fn push(&mut self, piece: &[u8]) {
        self.hashers.iter_mut().for_each(|(_, hasher)| hasher.write(piece));
    }

    pub fn finish(self) -> Evidence {
        let hash = |(method, hasher): (_, Hasher)| {
            (method, hasher.finish().0.complete().as_ref().to_vec())
        };
        let known = self.hashers.into_iter().map(hash).collect();
        let hashed = BodyHashes { known, header_cut: self.header_cut };
        Evidence { message: self.header, hashed: Some(hashed) }
    }
}

/// Behind the blank line.
fn header_end(message: &[u8]) -> Option<usize> {
    let header = field::header(message).len();
    message[header..].starts_with(b"\r\n").then_some(header + 2)
}

/// The canonicalizations of the body that signatures in `header` use.
fn asked_for(header: &[u8]) -> Vec<Canonicalization> {
    let mut found = Vec::new();
    let mut signatures = 0;
    for field in Fields::new(header) {
        let methods = if field.is("DKIM-Signature") && signatures < SIGNATURES_MAX {
            signatures += 1;
            Signature::read(Form::Dkim, field.value).map_or(vec![], |read| vec![read.body])
        } else if field.is("ARC-Message-Signature") {
            vec![Canonicalization::Simple, Canonicalization::Relaxed]
        } else {
            vec![]
        };
        for method in methods {
            if !found.contains(&method) {
                found.push(method);
            }
        }
        if found.len() == 2 {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail_auth::common::crypto::HashAlgorithm;

    const SIGNED: &str = "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=a.test; s=s; h=From; bh=AAAA; b=AAAA\r\n\
        DKIM-Signature: v=1; a=rsa-sha256; d=a.test; s=s; h=From; bh=AAAA; b=AAAA\r\nFrom: x@a.test\r\n\r\n";

    #[test]
    fn a_body_that_streams_has_the_hashes_that_it_has_as_a_whole() {
        let body = "a  b \r\n\r\nc\t \r\n.\r\n\r\n\r\n".repeat(9);
        let message = Bytes::from(format!("{SIGNED}{body}"));
        for first in [SIGNED.len(), SIGNED.len() + 1, SIGNED.len() + 7, message.len()] {
            for step in [1, 3, 1000] {
                let mut hashing = Hashing::begin(&message.slice(..first));
                message[first..].chunks(step).for_each(|piece| hashing.push(piece));
                let evidence = hashing.finish();
                assert_eq!(evidence.message, SIGNED);
                let hashed = evidence.hashed.unwrap();
                assert_eq!(hashed.known.len(), 2);
                for (method, hash) in hashed.known {
                    let whole =
                        HashAlgorithm::Sha256.hash(method.canonical_body(body.as_bytes(), 0));
                    assert_eq!(hash, whole.as_ref(), "{method:?} {first} {step}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_hashed_without_a_signature_nor_behind_a_header_without_end() {
        let hashing = Hashing::begin(&Bytes::from_static(b"From: x@a.test\r\n\r\nbody"));
        assert!(hashing.finish().hashed.is_some_and(|h| h.known.is_empty() && !h.header_cut));
        let hashing = Hashing::begin(&Bytes::from_static(b"From: x@a.test\r\n"));
        assert!(hashing.finish().hashed.is_some_and(|h| h.known.is_empty() && h.header_cut));
    }
}
