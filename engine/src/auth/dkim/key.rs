//! A key in DNS (RFC 6376 section 3.6.1, RFC 8463), and what it says of a signature.
//!
//! ring does the arithmetic, and looks at nothing but RSA keys from 1,024 to 8,192 bits (RFC 8301)
//! and Ed25519: a larger key costs nobody any time.

use super::signature::Algorithm;
use super::tags::{self, Tags};
use crate::auth::verdict::Outcome;
use ring::signature::{ED25519, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, UnparsedPublicKey};
use sha2::{Digest, Sha256};

const RSA_BITS_MIN: usize = 1024;
const RSA_BITS_MAX: usize = 8192;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    algorithm: Algorithm,
    /// PKCS #1 for RSA, 32 octets for Ed25519.
    bytes: Vec<u8>,
    /// `t=s`: `i=` must name the same domain as `d=`.
    pub is_strict: bool,
}

/// What is wrong with it, and what that makes of the signature.
pub type Fault = (Outcome, &'static str);

impl Key {
    pub fn read(text: &[u8]) -> Result<Key, Fault> {
        let broken = |reason| (Outcome::PermError, reason);
        let tags = Tags::read(text).ok_or(broken("malformed key"))?;
        if tags.get("v").is_some() && tags.first("v") != Some(b"DKIM1") {
            return Err(broken("unknown version of key"));
        }
        let algorithm = match tags.get("k") {
            None | Some(b"rsa") => Algorithm::RsaSha256,
            Some(b"ed25519") => Algorithm::Ed25519Sha256,
            Some(_) => return Err(broken("unknown type of key")),
        };
        let has = |tag, wanted: &[&[u8]]| {
            tags.get(tag).is_none_or(|value| tags::items(value).any(|item| wanted.contains(&item)))
        };
        if !has("h", &[b"sha256"]) {
            return Err(broken("key is not for sha256"));
        }
        if !has("s", &[b"*", b"email"]) {
            return Err(broken("key is not for mail"));
        }
        let bytes = tags.get("p").ok_or(broken("malformed key"))?;
        if bytes.is_empty() {
            return Err(broken("key revoked"));
        }
        let bytes = tags::base64(bytes).ok_or(broken("malformed key"))?;
        let bytes = match algorithm {
            Algorithm::RsaSha256 => rsa(&bytes)?,
            Algorithm::Ed25519Sha256 if bytes.len() == 32 => bytes,
            Algorithm::Ed25519Sha256 => return Err(broken("malformed key")),
        };
        let is_strict = tags.get("t").is_some_and(|t| tags::items(t).any(|flag| flag == b"s"));
        Ok(Key { algorithm, bytes, is_strict })
    }

    /// Whether it has signed `data`.
    pub fn verify(&self, algorithm: Algorithm, data: &[u8], signature: &[u8]) -> Result<(), Fault> {
        if algorithm != self.algorithm {
            return Err((Outcome::PermError, "key is of another type"));
        }
        let verified = match algorithm {
            Algorithm::RsaSha256 => {
                UnparsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, &self.bytes)
                    .verify(data, signature)
            }
            // RFC 8463 section 3: the hash is what is signed.
            Algorithm::Ed25519Sha256 => UnparsedPublicKey::new(&ED25519, &self.bytes)
                .verify(&Sha256::digest(data), signature),
        };
        verified.map_err(|_| (Outcome::Fail, "signature does not verify"))
    }
}

/// The key within a SubjectPublicKeyInfo (RFC 5280), or one that stands there without (RFC 8017).
fn rsa(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let malformed = (Outcome::PermError, "malformed key");
    let (outer, _) = der(bytes, 0x30).ok_or(malformed)?;
    let pkcs1 = match der(outer, 0x30) {
        Some((_, behind)) => {
            let (bits, _) = der(behind, 0x03).ok_or(malformed)?;
            bits.strip_prefix(&[0]).ok_or(malformed)?
        }
        None => bytes,
    };
    let (numbers, _) = der(pkcs1, 0x30).ok_or(malformed)?;
    let (modulus, _) = der(numbers, 0x02).ok_or(malformed)?;
    let first = modulus.iter().position(|&byte| byte != 0).ok_or(malformed)?;
    let significant = &modulus[first..];
    let bits = significant.len() * 8 - significant[0].leading_zeros() as usize;
    if bits < RSA_BITS_MIN {
        return Err((Outcome::Policy, "RSA key below 1024 bits, RFC 8301"));
    }
    if bits > RSA_BITS_MAX {
        return Err((Outcome::Policy, "RSA key above 8192 bits"));
    }
    Ok(pkcs1.to_vec())
}

/// The contents of one DER element with this tag, and what stands behind it.
fn der(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = bytes.split_first()?;
    let (&length, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), rest.get(2..)?),
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;

    fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
        let length = u16::try_from(contents.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], &length[..], contents].concat()
    }

    /// A key of so many bits, as DNS would have it.
    fn record(bits: usize) -> String {
        let mut modulus = vec![0xff; bits / 8];
        modulus.insert(0, 0);
        let numbers = [element(2, &modulus), vec![2, 3, 1, 0, 1]].concat();
        let key = element(0x30, &numbers);
        format!("v=DKIM1; p={}", base64::engine::general_purpose::STANDARD.encode(key))
    }

    #[test]
    fn keys_out_of_bounds_cost_no_arithmetic() {
        for (bits, reason) in [
            (512, Some("RSA key below 1024 bits, RFC 8301")),
            (1016, Some("RSA key below 1024 bits, RFC 8301")),
            (1024, None),
            (4096, None),
            (8192, None),
            (8200, Some("RSA key above 8192 bits")),
            (16_384, Some("RSA key above 8192 bits")),
        ] {
            let read = Key::read(record(bits).as_bytes());
            assert_eq!(read.err().map(|(_, reason)| reason), reason, "{bits}");
        }
        let zero = element(0x30, &[element(2, &[0; 200]), vec![2, 1, 0]].concat());
        let zero = base64::engine::general_purpose::STANDARD.encode(zero);
        assert!(Key::read(format!("p={zero}").as_bytes()).is_err());
    }

    #[test]
    fn what_a_key_is_for_is_minded() {
        let good = record(2048);
        for (old, new, reason) in [
            ("v=DKIM1", "v=DKIM2", "unknown version of key"),
            ("v=DKIM1", "h=sha1", "key is not for sha256"),
            ("v=DKIM1", "s=tlsrpt", "key is not for mail"),
            ("v=DKIM1", "k=dsa", "unknown type of key"),
            ("v=DKIM1", "k=ed25519", "malformed key"),
            ("v=DKIM1;", "n=x; v=DKIM1;", "unknown version of key"),
            ("p=", "p=; x=", "key revoked"),
            ("p=", "q=", "malformed key"),
            ("p=", "p=AA", "malformed key"),
        ] {
            let text = good.replacen(old, new, 1);
            assert_eq!(Key::read(text.as_bytes()).unwrap_err().1, reason, "{old} -> {new}");
        }
        let strict = Key::read(good.replacen("v=DKIM1", "t=y:s; s=*:x", 1).as_bytes()).unwrap();
        assert!(strict.is_strict);
        let wrong = strict.verify(Algorithm::RsaSha256, b"data", b"junk").unwrap_err();
        assert_eq!(wrong.0, Outcome::Fail);
        assert_eq!(
            strict.verify(Algorithm::Ed25519Sha256, b"", b"").unwrap_err().0,
            Outcome::PermError
        );
    }
}
