//! A signature field: `DKIM-Signature` (RFC 6376 section 3.5), `ARC-Message-Signature` and
//! `ARC-Seal` (RFC 8617 section 4.1).
//!
//! Read strictly and within bounds: what is not in the grammar is nobody's signature.

use super::tags::{self, Tags};
use crate::auth::verdict::Outcome;
use mail_auth::dkim::Canonicalization;

/// Longest field; with a key of 8,192 bits and forty names a signature has 3 KiB.
pub const FIELD_BYTES_MAX: usize = 16 * 1024;
/// Names of fields in `h=`.
const NAMES_MAX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    RsaSha256,
    Ed25519Sha256,
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::RsaSha256 => "rsa-sha256",
            Algorithm::Ed25519Sha256 => "ed25519-sha256",
        }
    }
}

/// Which field it is, and with that: which tags it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Dkim,
    ArcMessage,
    ArcSeal,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub algorithm: Algorithm,
    pub domain: String,
    pub selector: String,
    /// The domain in `i=`.
    pub agent_domain: Option<String>,
    pub header: Canonicalization,
    pub body: Canonicalization,
    /// The signed fields, lower case, in order.
    pub names: Vec<Vec<u8>>,
    pub body_hash: Vec<u8>,
    pub signature: Vec<u8>,
    /// Seconds since 1970.
    pub expires: Option<u64>,
    /// Of ARC.
    pub instance: u64,
    /// `cv=`, of a seal.
    pub chain: Vec<u8>,
}

/// Why a signature is not looked at any further; with what can be told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub outcome: Outcome,
    pub reason: &'static str,
    pub domain: Option<String>,
}

impl Signature {
    pub fn read(form: Form, value: &[u8]) -> Result<Signature, Fault> {
        let fault = |outcome, reason| Fault { outcome, reason, domain: None };
        if value.len() > FIELD_BYTES_MAX {
            return Err(fault(Outcome::Neutral, "signature too long"));
        }
        let malformed = |reason| fault(Outcome::Neutral, reason);
        let tags = Tags::read(value).ok_or(malformed("malformed signature"))?;
        let domain = tags.get("d").and_then(tags::domain).ok_or(malformed("no domain in d="))?;
        let malformed =
            |reason| Fault { outcome: Outcome::Neutral, reason, domain: Some(domain.clone()) };
        if form == Form::Dkim && tags.get("v") != Some(b"1") {
            return Err(malformed("unknown version"));
        }
        let algorithm = match tags.get("a").unwrap_or_default().to_ascii_lowercase().as_slice() {
            b"rsa-sha256" => Algorithm::RsaSha256,
            b"ed25519-sha256" => Algorithm::Ed25519Sha256,
            b"rsa-sha1" => {
                let reason = "rsa-sha1, RFC 8301";
                return Err(Fault { outcome: Outcome::Policy, reason, domain: Some(domain) });
            }
            _ => return Err(malformed("unknown algorithm")),
        };
        let selector =
            tags.get("s").and_then(tags::domain).ok_or(malformed("no selector in s="))?;
        let signature = tags.get("b").and_then(tags::base64).ok_or(malformed("malformed b="))?;
        let instance = match form {
            Form::Dkim => 0,
            Form::ArcMessage | Form::ArcSeal => {
                tags.get("i").and_then(tags::number).ok_or(malformed("malformed i="))?
            }
        };
        if form == Form::ArcSeal {
            let chain = tags.get("cv").unwrap_or_default().to_ascii_lowercase();
            // RFC 8617 section 4.1.3.
            if tags.get("h").is_some() || tags.get("bh").is_some() {
                return Err(malformed("a seal with h= or bh="));
            }
            let relaxed = Canonicalization::Relaxed;
            return Ok(Signature {
                algorithm,
                domain,
                selector,
                agent_domain: None,
                header: relaxed,
                body: relaxed,
                names: Vec::new(),
                body_hash: Vec::new(),
                signature,
                expires: None,
                instance,
                chain,
            });
        }
        if tags.get("l").is_some() {
            // Whatever is appended would pass (RFC 6376 section 8.2).
            let reason = "l= leaves a part unsigned";
            return Err(Fault { outcome: Outcome::Policy, reason, domain: Some(domain) });
        }
        let body_hash = tags.get("bh").and_then(tags::base64).ok_or(malformed("malformed bh="))?;
        let (header, body) = match tags.get("c") {
            None => (Canonicalization::Simple, Canonicalization::Simple),
            Some(value) => canonicalizations(value).ok_or(malformed("unknown c="))?,
        };
        let names: Vec<Vec<u8>> = tags::items(tags.get("h").unwrap_or_default())
            .take(NAMES_MAX + 1)
            .map(<[u8]>::to_ascii_lowercase)
            .collect();
        if names.len() > NAMES_MAX {
            return Err(malformed("too many names in h="));
        }
        let is_name = |name: &Vec<u8>| {
            !name.is_empty() && name.iter().all(|&byte| byte.is_ascii_graphic() && byte != b':')
        };
        if !names.iter().all(is_name) {
            return Err(malformed("malformed h="));
        }
        if form == Form::Dkim && !names.iter().any(|name| name == b"from") {
            return Err(malformed("From is not signed"));
        }
        if form == Form::ArcMessage && names.iter().any(|name| name == b"arc-seal") {
            return Err(malformed("a seal is signed"));
        }
        if let Some(methods) = tags.get("q")
            && !tags::items(methods).any(|method| method.eq_ignore_ascii_case(b"dns/txt"))
        {
            return Err(malformed("unknown q="));
        }
        let agent_domain = match tags.get("i").filter(|_| form == Form::Dkim) {
            None => None,
            Some(agent) => {
                let at = agent.iter().rposition(|&byte| byte == b'@');
                let agent = at.and_then(|at| agent.get(at + 1..)).and_then(tags::domain);
                let agent = agent.filter(|agent| is_within(agent, &domain));
                Some(agent.ok_or(malformed("i= is not within d="))?)
            }
        };
        let time = |tag| match tags.get(tag) {
            None => Ok(None),
            Some(value) => tags::number(value).map(Some).ok_or(malformed("malformed time")),
        };
        let (signed, expires) = (time("t")?, time("x")?);
        if let (Some(signed), Some(expires)) = (signed, expires)
            && expires <= signed
        {
            return Err(malformed("x= before t="));
        }
        Ok(Signature {
            algorithm,
            domain: domain.clone(),
            selector,
            agent_domain,
            header,
            body,
            names,
            body_hash,
            signature,
            expires,
            instance,
            chain: Vec::new(),
        })
    }

    /// Where the key is published.
    pub fn key_name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }
}

fn canonicalizations(value: &[u8]) -> Option<(Canonicalization, Canonicalization)> {
    let one = |name: &[u8]| match name.trim_ascii().to_ascii_lowercase().as_slice() {
        b"simple" => Some(Canonicalization::Simple),
        b"relaxed" => Some(Canonicalization::Relaxed),
        _ => None,
    };
    match value.iter().position(|&byte| byte == b'/') {
        Some(at) => Some((one(value.get(..at)?)?, one(value.get(at + 1..)?)?)),
        None => Some((one(value)?, Canonicalization::Simple)),
    }
}

/// Whether `name` is `domain` or below it.
pub fn is_within(name: &str, domain: &str) -> bool {
    name == domain || name.strip_suffix(domain).is_some_and(|front| front.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "v=1; a=rsa-sha256; c=relaxed/simple; d=A.test; s=s; h=From : To; i=x@b.a.test; bh=QUI=; b=QUI=";

    #[test]
    fn a_signature_is_read_and_each_fault_has_its_reason() {
        let read = |text: &str| Signature::read(Form::Dkim, text.as_bytes());
        let good = read(GOOD).unwrap();
        assert_eq!(
            (good.domain.as_str(), good.key_name().as_str()),
            ("a.test", "s._domainkey.a.test")
        );
        assert_eq!(good.names, [b"from".to_vec(), b"to".to_vec()]);
        assert_eq!(good.agent_domain.as_deref(), Some("b.a.test"));
        for (old, new, reason) in [
            ("v=1", "v=2", "unknown version"),
            ("v=1; ", "", "unknown version"),
            ("rsa-sha256", "rsa-sha1", "rsa-sha1, RFC 8301"),
            ("rsa-sha256", "md5", "unknown algorithm"),
            ("d=A.test", "d=A..test", "no domain in d="),
            ("s=s", "s=", "no selector in s="),
            ("h=From : To", "h=To", "From is not signed"),
            ("h=From", "h=From:", "malformed h="),
            ("b.a.test", "ba.test", "i= is not within d="),
            ("b=QUI=", "b=*", "malformed b="),
            ("bh=QUI=", "bh=Q", "malformed bh="),
            ("c=relaxed", "c=nofws", "unknown c="),
            ("s=s", "s=s; l=0", "l= leaves a part unsigned"),
            ("s=s", "s=s; x=1; t=2", "x= before t="),
            ("s=s", "s=s; x=soon", "malformed time"),
            ("s=s", "s=s; q=http", "unknown q="),
            ("s=s", "s=s; s=s", "malformed signature"),
        ] {
            assert!(GOOD.contains(old));
            let fault = read(&GOOD.replacen(old, new, 1)).unwrap_err();
            assert_eq!(fault.reason, reason, "{old} -> {new}");
        }
        let names = GOOD.replacen("h=From", &format!("h=From{}", ":x".repeat(300)), 1);
        assert_eq!(read(&names).unwrap_err().reason, "too many names in h=");
        let long = format!("{GOOD}{}", " ".repeat(FIELD_BYTES_MAX));
        assert_eq!(read(&long).unwrap_err().reason, "signature too long");
    }
}
