//! ARC (RFC 8617): a chain of those who have handled a message, each with its word
//! about how it came.
//!
//! Section 5.2, in its order: the sets are whole and in sequence, the newest message signature
//! verifies, and so does every seal. Bounded by [`SETS_MAX`] and [`CHAIN_BYTES_MAX`]; what is
//! beyond is no verdict.

use super::dkim::header::{Header, push, push_carrier};
use super::dkim::signature::{Form, Signature};
use super::dkim::tags;
use super::dkim::{check, find};
use super::dns::Resolver;
use super::evidence::BodyHashes;
use super::verdict::{Finding, Method, Outcome};
use mail_auth::dkim::Canonicalization;
use protocols::message::field::Field;

/// Section 4.2.1.
const SETS_MAX: usize = 50;
/// Octets of all fields of a chain. Each seal covers all before it: the work grows with the square.
const CHAIN_BYTES_MAX: usize = 256 * 1024;

const RESULTS: &str = "arc-authentication-results";
const MESSAGE: &str = "arc-message-signature";
const SEAL: &str = "arc-seal";

/// A chain that passes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    pub links: Vec<Link>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub sealer: String,
    /// Whether it says that DMARC passed when the message came to it.
    pub says_dmarc_pass: bool,
}

impl Chain {
    /// Who vouches for the message: trusted domains have sealed without a gap up to us, and one of
    /// them has seen DMARC pass.
    pub fn voucher(&self, trusted: &[String]) -> Option<&str> {
        let known = self.links.iter().rev().take_while(|link| trusted.contains(&link.sealer));
        known.filter(|link| link.says_dmarc_pass).map(|link| link.sealer.as_str()).next()
    }
}

struct Set<'m> {
    results: Field<'m>,
    message: (Field<'m>, Signature),
    seal: (Field<'m>, Signature),
}

/// What is wrong with a chain.
type Fault = (Outcome, String);

/// The finding, none where there is no chain; and the chain, if it passes.
pub async fn verify(
    resolver: &Resolver,
    header: &Header<'_>,
    hashes: &BodyHashes,
) -> (Option<Finding>, Chain) {
    let found = |outcome| Finding::new(Method::Arc, outcome);
    let sets = match read(header, hashes) {
        Ok(sets) if sets.is_empty() => return (None, Chain::default()),
        Ok(sets) => sets,
        Err((outcome, reason)) => return (Some(found(outcome).because(reason)), Chain::default()),
    };
    let sealer = sets.last().map(|set| set.seal.1.domain.clone()).unwrap_or_default();
    match validate(resolver, header, hashes, &sets).await {
        Ok(()) => {
            let link = |set: &Set<'_>| Link {
                sealer: set.seal.1.domain.clone(),
                says_dmarc_pass: says_dmarc_pass(set.results.value),
            };
            let chain = Chain { links: sets.iter().map(link).collect() };
            (Some(found(Outcome::Pass).of("header.d", sealer)), chain)
        }
        Err((outcome, reason)) => {
            (Some(found(outcome).because(reason).of("header.d", sealer)), Chain::default())
        }
    }
}

/// The sets, in sequence.
fn read<'m>(header: &Header<'m>, hashes: &BodyHashes) -> Result<Vec<Set<'m>>, Fault> {
    let fields = || [RESULTS, MESSAGE, SEAL].into_iter().flat_map(|name| header.named(name));
    if fields().next().is_none() {
        return Ok(Vec::new());
    }
    if hashes.header_cut {
        return Err((Outcome::None, "header too large".to_owned()));
    }
    if fields().map(|field| field.whole.len()).sum::<usize>() > CHAIN_BYTES_MAX {
        return Err((Outcome::None, "chain too large".to_owned()));
    }
    let fault = |reason: &str| (Outcome::Fail, reason.to_owned());
    let numbered = |name: &str| -> Result<Vec<(u64, Field<'m>)>, Fault> {
        let mut found = Vec::new();
        for field in header.named(name) {
            if found.len() == SETS_MAX {
                return Err(fault("too many sets"));
            }
            let instance = instance(name, field.value).ok_or(fault("malformed instance"))?;
            found.push((instance, field));
        }
        found.sort_by_key(|(instance, _)| *instance);
        Ok(found)
    };
    let (results, messages, seals) = (numbered(RESULTS)?, numbered(MESSAGE)?, numbered(SEAL)?);
    if results.len() != seals.len() || messages.len() != seals.len() {
        return Err(fault("a set is not whole"));
    }
    let mut sets = Vec::new();
    for (((first, results), (second, message)), (third, seal)) in
        results.into_iter().zip(messages).zip(seals)
    {
        let expected = sets.len() as u64 + 1;
        if [first, second, third] != [expected; 3] {
            return Err(fault("sets are not in sequence"));
        }
        let signed = Signature::read(Form::ArcMessage, message.value);
        let sealed = Signature::read(Form::ArcSeal, seal.value);
        let (signed, sealed) = match (signed, sealed) {
            (Ok(signed), Ok(sealed)) => (signed, sealed),
            (Err(why), _) | (_, Err(why)) => return Err(fault(why.reason)),
        };
        let chain: &[u8] = if expected == 1 { b"none" } else { b"pass" };
        if sealed.chain != chain {
            return Err(fault("a sealer has found the chain broken"));
        }
        sets.push(Set { results, message: (message, signed), seal: (seal, sealed) });
    }
    Ok(sets)
}

/// The fields of all sets in sequence, for whoever seals the next one. `None`: there is none after
/// these, since they are not whole, too many, or say that the chain is broken.
pub fn sets<'m>(header: &Header<'m>) -> Option<Vec<[Field<'m>; 3]>> {
    let count = header.named(SEAL).count();
    if count >= SETS_MAX
        || [RESULTS, MESSAGE].iter().any(|name| header.named(name).count() != count)
    {
        return None;
    }
    let fields = || [RESULTS, MESSAGE, SEAL].into_iter().flat_map(|name| header.named(name));
    if fields().map(|field| field.whole.len()).sum::<usize>() > CHAIN_BYTES_MAX {
        return None;
    }
    let of = |name: &str, wanted: u64| {
        header.named(name).find(|field| instance(name, field.value) == Some(wanted))
    };
    let set = |wanted: u64| Some([of(RESULTS, wanted)?, of(MESSAGE, wanted)?, of(SEAL, wanted)?]);
    let sets = (1..=count as u64).map(set).collect::<Option<Vec<_>>>()?;
    let is_broken = sets.last().is_some_and(|[_, _, seal]| {
        let status = tags::Tags::read(seal.value).and_then(|tags| tags.get("cv"));
        status.is_none_or(|status| status.eq_ignore_ascii_case(b"fail"))
    });
    (!is_broken).then_some(sets)
}

/// `i=`, which comes first in results and anywhere in the others.
fn instance(name: &str, value: &[u8]) -> Option<u64> {
    let number = if name == RESULTS {
        let first = value.split(|&byte| byte == b';').next()?;
        let (tag, number) = first.split_at_checked(first.iter().position(|&b| b == b'=')?)?;
        (tag.trim_ascii() == b"i").then(|| number.get(1..).unwrap_or_default().trim_ascii())?
    } else {
        tags::Tags::read(value)?.get("i")?
    };
    tags::number(number).filter(|instance| (1..=SETS_MAX as u64).contains(instance))
}

async fn validate(
    resolver: &Resolver,
    header: &Header<'_>,
    hashes: &BodyHashes,
    sets: &[Set<'_>],
) -> Result<(), Fault> {
    let of = |instance: usize, (outcome, reason): (Outcome, &str)| {
        // RFC 8617 section 5.2 knows one way to be wrong.
        let outcome = if outcome == Outcome::TempError { outcome } else { Outcome::Fail };
        (outcome, format!("{reason}, i={instance}"))
    };
    let Some(newest) = sets.last() else { return Ok(()) };
    let (field, signature) = &newest.message;
    check(resolver, header, hashes, field, signature)
        .await
        .map_err(|fault| of(sets.len(), fault))?;
    for instance in (1..=sets.len()).rev() {
        let (sealed, before) = match sets.get(..instance) {
            Some([before @ .., sealed]) => (sealed, before),
            _ => continue,
        };
        let relaxed = Canonicalization::Relaxed;
        let mut data = Vec::new();
        for set in before {
            for field in [&set.results, &set.message.0, &set.seal.0] {
                push(&mut data, field, relaxed);
                data.extend_from_slice(b"\r\n");
            }
        }
        for field in [&sealed.results, &sealed.message.0] {
            push(&mut data, field, relaxed);
            data.extend_from_slice(b"\r\n");
        }
        let (field, seal) = &sealed.seal;
        push_carrier(&mut data, field, relaxed);
        let key = find(resolver, seal).await.map_err(|fault| of(instance, fault))?;
        let verified = key.verify(seal.algorithm, &data, &seal.signature);
        verified.map_err(|fault| of(instance, fault))?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Whether a result among these is `dmarc=pass`. Comments count for nothing.
fn says_dmarc_pass(value: &[u8]) -> bool {
    let mut plain = Vec::new();
    let mut depth = 0_usize;
    for &byte in value {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(byte.to_ascii_lowercase()),
            _ => {}
        }
    }
    plain.split(|&byte| byte == b';').any(|result| {
        let result = result.trim_ascii();
        let behind = result.strip_prefix(b"dmarc").map(<[u8]>::trim_ascii_start);
        let behind = behind.and_then(|rest| rest.strip_prefix(b"=")).map(<[u8]>::trim_ascii_start);
        behind
            .and_then(|rest| rest.strip_prefix(b"pass"))
            .is_some_and(|rest| rest.first().is_none_or(|byte| byte.is_ascii_whitespace()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_sealers_without_a_gap_vouch() {
        let link =
            |sealer: &str, says_dmarc_pass| Link { sealer: sealer.to_owned(), says_dmarc_pass };
        let trusted = ["list.test".to_owned(), "other.test".to_owned()];
        for (links, expected) in [
            (vec![link("list.test", true)], Some("list.test")),
            (vec![link("list.test", false)], None),
            (vec![link("list.test", true), link("other.test", false)], Some("list.test")),
            (vec![link("list.test", true), link("evil.test", true)], None),
            (vec![link("evil.test", true), link("list.test", false)], None),
            (vec![], None),
        ] {
            assert_eq!(Chain { links }.voucher(&trusted), expected);
        }
    }

    #[test]
    fn results_are_read_without_their_comments() {
        for (value, expected) in [
            (" i=1; mx.test; spf=pass; dmarc=pass header.from=a.test", true),
            (" i=1; mx.test; DMARC = PASS", true),
            (" i=1; mx.test; dmarc=pass (p=none)", true),
            (" i=1; mx.test; spf=pass (; dmarc=pass;)", false),
            (" i=1; mx.test; dmarc=passed", false),
            (" i=1; mx.test; dmarc=fail; x=dmarc=pass", false),
        ] {
            assert_eq!(says_dmarc_pass(value.as_bytes()), expected, "{value}");
        }
    }
}
