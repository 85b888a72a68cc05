//! ARC sets (RFC 8617 section 5.1) on mail that is passed on: what we found when it came, what we
//! pass on, and a seal over the chain so far, with the domain's RSA key and its DKIM selector.
//! Whoever trusts the domain then knows that the message was fine when it came here, although its
//! own SPF fails there.
//!
//! A chain that we found broken is sealed as such (`cv=fail`) once, over our set alone; nothing is
//! added to one that says so already, to one of fifty sets, or where it could not be verified.

use super::keys::{DkimKeys, KeyAlgorithm, KeyError};
use super::signing::{Digest, names, push_folded, push_signature};
use crate::auth::arc;
use crate::auth::dkim::header::{Header, push, push_carrier};
use crate::auth::verdict::{Method, Outcome, Verdict};
use crate::auth::{results, verdict};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_auth::dkim::Canonicalization;
use protocols::message::field::Field;

/// Octets of our results within a set: it stands beside the message.
const RESULTS_BYTES_MAX: usize = 1024;

/// What was found out about a message when it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Behind the instance.
    results: String,
    chain: Outcome,
}

impl Found {
    pub fn of(hostname: &str, verdict: &Verdict) -> Found {
        let field = results::field(hostname, verdict, RESULTS_BYTES_MAX);
        let value = field.split_once(": ").map_or("", |(_, value)| value);
        let arc = |one: &&verdict::Finding| one.method == Method::Arc;
        let chain = verdict.findings.iter().find(arc).map_or(Outcome::None, |one| one.outcome);
        Found { results: value.trim_end().to_owned(), chain }
    }
}

impl Digest {
    /// The set, in front of the message. Empty: there is nothing to be sealed, or nothing
    /// to seal it with.
    pub fn seal(
        &self,
        found: &Found,
        domain: &str,
        keys: &DkimKeys,
        now: u64,
    ) -> Result<Vec<u8>, KeyError> {
        let header = Header::read(&self.header);
        let key = keys.signing().find(|key| key.algorithm == KeyAlgorithm::Rsa);
        let sets = arc::sets(&header);
        let (Some(key), Some(before)) = (key, sets) else { return Ok(Vec::new()) };
        let status = match (found.chain, before.len()) {
            (Outcome::None, 0) => "none",
            (Outcome::Pass, 1..) => "pass",
            (Outcome::Fail, 1..) => "fail",
            _ => return Ok(Vec::new()),
        };
        let instance = before.len() + 1;
        let relaxed = Canonicalization::Relaxed;
        let names = names(&header);
        let lower: Vec<Vec<u8>> =
            names.iter().map(|name| name.to_ascii_lowercase().into_bytes()).collect();

        let results = format!("ARC-Authentication-Results: i={instance}; {}\r\n", found.results);
        let mut message = format!(
            "ARC-Message-Signature: i={instance}; a=rsa-sha256; c=relaxed/relaxed; d={domain};\r\n\ts={}; t={now};\r\n\th=",
            key.selector
        );
        push_folded(&mut message, &names);
        message += &format!(";\r\n\tbh={};\r\n\tb=", STANDARD.encode(&self.body_hash));
        let data = header.signed(&lower, relaxed, &field(&message));
        push_signature(&mut message, &key.sign(&data)?);

        let mut seal = format!(
            "ARC-Seal: i={instance}; a=rsa-sha256; cv={status}; d={domain};\r\n\ts={}; t={now};\r\n\tb=",
            key.selector
        );
        // Section 5.1.2: of a broken chain nothing but the last set can be sealed.
        let before = if status == "fail" { &[][..] } else { &before };
        let own = [field(&results), field(&message)];
        let mut data = Vec::new();
        for one in before.iter().flatten().chain(&own) {
            push(&mut data, one, relaxed);
            data.extend_from_slice(b"\r\n");
        }
        push_carrier(&mut data, &field(&seal), relaxed);
        push_signature(&mut seal, &key.sign(&data)?);
        Ok((seal + &message + &results).into_bytes())
    }
}

/// Of a field that we write ourselves.
fn field(text: &str) -> Field<'_> {
    let at = text.find(':').unwrap_or_default();
    Field {
        name: &text.as_bytes()[..at],
        value: &text.as_bytes()[at + 1..],
        whole: text.as_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::dns::{Resolver, Zone};
    use crate::auth::evidence::Evidence;
    use bytes::Bytes;
    use hickory_resolver::proto::rr::rdata::TXT;
    use hickory_resolver::proto::rr::{RData, RecordType};

    const NOW: u64 = 1_795_711_599;
    const TEXT: &str =
        "From: Eve <eve@there.test>\r\nTo: ann@a.test\r\nSubject: one\r\n two\r\n\r\na  b \r\n\r\n";

    fn keys() -> DkimKeys {
        let mut keys = DkimKeys::default();
        keys.add_pair(NOW).unwrap();
        keys
    }

    /// By the verifier that looks at mail of others.
    fn outcome(keys: &DkimKeys, message: &[u8]) -> (Outcome, usize) {
        let mut zone = Zone::new();
        for key in &keys.keys {
            let name = key.record_name("a.test") + ".";
            let text = RData::TXT(TXT::new(vec![key.record_text()]));
            zone.insert((name, RecordType::TXT), vec![text]);
        }
        let evidence = Evidence { message: Bytes::copy_from_slice(message), hashed: None };
        let (header, hashes) = (Header::read(message), evidence.body_hashes());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let resolver = Resolver::from_zone(zone);
        let (found, chain) = runtime.block_on(arc::verify(&resolver, &header, &hashes));
        (found.map_or(Outcome::None, |found| found.outcome), chain.links.len())
    }

    fn sealed(keys: &DkimKeys, chain: Outcome, message: &[u8]) -> Vec<u8> {
        let found = Found { results: "mx.a.test;\r\n\tdmarc=pass header.from=a".to_owned(), chain };
        let set = Digest::of(message).seal(&found, "a.test", keys, NOW).unwrap();
        assert!(String::from_utf8(set.clone()).unwrap().lines().all(|line| line.len() <= 90));
        assert!(set.len() < 2900, "beside a message there is no more room: {}", set.len());
        [&set, message].concat()
    }

    #[test]
    fn chains_verify_up_to_fifty_sets_and_no_longer() {
        let keys = keys();
        let mut message = sealed(&keys, Outcome::None, TEXT.as_bytes());
        assert_eq!(outcome(&keys, &message), (Outcome::Pass, 1));
        for sets in 2..=50 {
            message = sealed(&keys, Outcome::Pass, &message);
            if sets < 4 || sets == 50 {
                assert_eq!(outcome(&keys, &message), (Outcome::Pass, sets));
            }
        }
        assert_eq!(sealed(&keys, Outcome::Pass, &message), message, "a fifty-first");
        // Trace fields change on the way, the message does not.
        let passed_on = [b"Received: from x by y\r\n", message.as_slice()].concat();
        assert_eq!(outcome(&keys, &passed_on).0, Outcome::Pass);
        let text = String::from_utf8(message).unwrap();
        for (old, new) in
            [("Subject: one", "Subject: two"), ("a  b", "a  c"), ("dmarc=pass", "dmarc=none")]
        {
            assert_eq!(outcome(&keys, text.replacen(old, new, 1).as_bytes()).0, Outcome::Fail);
        }
    }

    #[test]
    fn a_broken_chain_is_sealed_as_such_once() {
        let keys = keys();
        let message = sealed(&keys, Outcome::None, TEXT.as_bytes());
        let broken = String::from_utf8(message).unwrap().replace("a  b", "a  c").into_bytes();
        let said = sealed(&keys, Outcome::Fail, &broken);
        assert!(
            String::from_utf8_lossy(&said).starts_with("ARC-Seal: i=2; a=rsa-sha256; cv=fail;")
        );
        assert_eq!(outcome(&keys, &said).0, Outcome::Fail);
        assert_eq!(sealed(&keys, Outcome::Fail, &said), said);
    }

    #[test]
    fn nothing_is_sealed_that_was_not_verified_or_without_a_key() {
        let keys = keys();
        let once = sealed(&keys, Outcome::None, TEXT.as_bytes());
        for (chain, message) in [
            (Outcome::TempError, once.as_slice()),
            (Outcome::None, &once),
            (Outcome::Pass, TEXT.as_bytes()),
            (Outcome::TempError, TEXT.as_bytes()),
        ] {
            assert_eq!(sealed(&keys, chain, message), message);
        }
        assert_eq!(sealed(&DkimKeys::default(), Outcome::None, TEXT.as_bytes()), TEXT.as_bytes());
    }
}
