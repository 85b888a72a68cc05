//! A domain's DKIM keys (RFC 6376, 8301, 8463): RSA of 2,048 bits and Ed25519, always as a pair,
//! since verifiers that know the second one only are as rare as those that know the first one
//! only are common.
//!
//! A key's life: it *waits* until its record is in DNS, then *signs*, then is *retired*: it signs
//! no more, but its record has to stay until the last signature has expired
//! ([`SIGNATURE_SECONDS`]). Then it is forgotten at the next change. The first pair of a domain
//! signs at once: a signature whose key is not in DNS yet is worth as much as none.
//!
//! They are kept in the directory's key space, `k:DOMAIN`, as JSON ([`DkimKeys`]), private keys
//! included; so backups have them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocols::message::date::Day;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use rsa::pkcs1::EncodeRsaPrivateKey;
use rsa::pkcs8::EncodePublicKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// What every verifier takes (RFC 8301), and what fits a DNS answer over UDP.
pub const RSA_BITS: usize = 2048;
/// A signature is good for so long (`x=`). A message waits less than that to leave: `relay.expire`
/// is limited by it.
pub const SIGNATURE_SECONDS: u64 = 21 * 86_400;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DkimKeys {
    /// In the order in which they were made.
    pub keys: Vec<DkimKey>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DkimKey {
    /// With the day on which it was made: `rsa20260131`.
    pub selector: String,
    pub algorithm: KeyAlgorithm,
    private: Secret,
    /// As DNS has it: base64 of a SubjectPublicKeyInfo (RSA), or of 32 octets (Ed25519).
    pub public: String,
    pub created_unix: u64,
    /// Since when it signs; absent while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_unix: Option<u64>,
    /// Since when it signs no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_unix: Option<u64>,
    /// Ready to sign, once it has been asked to.
    #[serde(skip)]
    loaded: OnceLock<Arc<Loaded>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyAlgorithm {
    Rsa,
    Ed25519,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Waiting,
    Signing,
    Retired,
}

/// Base64 of PKCS #1 (RSA) or PKCS #8 (Ed25519); not for anybody's eyes.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[derive(Debug)]
enum Loaded {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("DKIM key {selector}: {what}")]
pub struct KeyError {
    selector: String,
    what: String,
}

impl KeyAlgorithm {
    /// In `a=` of a signature.
    pub fn signature_name(self) -> &'static str {
        match self {
            KeyAlgorithm::Rsa => "rsa-sha256",
            KeyAlgorithm::Ed25519 => "ed25519-sha256",
        }
    }

    /// In `k=` of a record.
    pub fn name(self) -> &'static str {
        match self {
            KeyAlgorithm::Rsa => "rsa",
            KeyAlgorithm::Ed25519 => "ed25519",
        }
    }

    fn selector_prefix(self) -> &'static str {
        match self {
            KeyAlgorithm::Rsa => "rsa",
            KeyAlgorithm::Ed25519 => "ed",
        }
    }
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Signing => "signing",
            State::Retired => "retired",
        }
    }
}

impl DkimKeys {
    pub fn signing(&self) -> impl Iterator<Item = &DkimKey> {
        self.keys.iter().filter(|key| key.state() == State::Signing)
    }

    pub fn has(&self, state: State) -> bool {
        self.keys.iter().any(|key| key.state() == state)
    }

    /// Those whose records DNS has to have: all but what has expired.
    pub fn published(&self, now: u64) -> impl Iterator<Item = &DkimKey> {
        self.keys.iter().filter(move |key| key.until().is_none_or(|until| now < until))
    }

    /// Adds a pair that waits, or that signs if nothing else does. Takes a second: not on a core.
    pub fn add_pair(&mut self, now: u64) -> Result<(), KeyError> {
        self.forget_expired(now);
        let active = (!self.has(State::Signing)).then_some(now);
        for algorithm in [KeyAlgorithm::Rsa, KeyAlgorithm::Ed25519] {
            let selector = self.free_selector(algorithm, now);
            let mut key = DkimKey::make(algorithm, selector, now)?;
            key.active_unix = active;
            self.keys.push(key);
        }
        Ok(())
    }

    /// What waits signs from now on, in the place of what did. `false`: nothing waits.
    pub fn activate(&mut self, now: u64) -> bool {
        if !self.has(State::Waiting) {
            return false;
        }
        self.forget_expired(now);
        for key in &mut self.keys {
            match key.state() {
                State::Waiting => key.active_unix = Some(now),
                State::Signing => key.retired_unix = Some(now),
                State::Retired => {}
            }
        }
        true
    }

    fn forget_expired(&mut self, now: u64) {
        self.keys.retain(|key| key.until().is_none_or(|until| now < until));
    }

    /// Several on one day are told apart by a letter.
    fn free_selector(&self, algorithm: KeyAlgorithm, now: u64) -> String {
        let (year, month, day) = Day::of_unix_millis(now * 1000).civil();
        let name = format!("{}{year:04}{month:02}{day:02}", algorithm.selector_prefix());
        let is_free = |name: &String| self.keys.iter().all(|key| key.selector != *name);
        let others = ('b'..='z').map(|letter| format!("{name}{letter}"));
        let of_second = format!("{name}-{now}");
        std::iter::once(name.clone()).chain(others).find(is_free).unwrap_or(of_second)
    }
}

impl DkimKey {
    fn make(algorithm: KeyAlgorithm, selector: String, now: u64) -> Result<DkimKey, KeyError> {
        let made = match algorithm {
            KeyAlgorithm::Rsa => rsa_pair(),
            KeyAlgorithm::Ed25519 => ed25519_pair(),
        };
        let (private, public) =
            made.map_err(|what| KeyError { selector: selector.clone(), what })?;
        Ok(DkimKey {
            selector,
            algorithm,
            private: Secret(STANDARD.encode(private)),
            public: STANDARD.encode(public),
            created_unix: now,
            active_unix: None,
            retired_unix: None,
            loaded: OnceLock::new(),
        })
    }

    pub fn state(&self) -> State {
        match (self.active_unix, self.retired_unix) {
            (_, Some(_)) => State::Retired,
            (Some(_), None) => State::Signing,
            (None, None) => State::Waiting,
        }
    }

    /// When the last signature of a retired key has expired.
    pub fn until(&self) -> Option<u64> {
        self.retired_unix.map(|retired| retired + SIGNATURE_SECONDS)
    }

    /// Under which the record stands.
    pub fn record_name(&self, domain: &str) -> String {
        format!("{}._domainkey.{domain}", self.selector)
    }

    /// RFC 6376 section 3.6.1.
    pub fn record_text(&self) -> String {
        format!("v=DKIM1; k={}; p={}", self.algorithm.name(), self.public)
    }

    /// RSA takes most of a millisecond: not on a core.
    pub fn sign(&self, data: &[u8]) -> Result<Vec<u8>, KeyError> {
        let fault =
            |what: &str| KeyError { selector: self.selector.clone(), what: what.to_owned() };
        let loaded = match self.loaded.get() {
            Some(loaded) => loaded,
            None => {
                let loaded = self.load().ok_or_else(|| fault("can't be read"))?;
                self.loaded.get_or_init(|| Arc::new(loaded))
            }
        };
        match &**loaded {
            Loaded::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), data, &mut signature)
                    .map_err(|_| fault("can't sign"))?;
                Ok(signature)
            }
            // RFC 8463 section 3: the hash is what is signed.
            Loaded::Ed25519(pair) => Ok(pair.sign(&Sha256::digest(data)).as_ref().to_vec()),
        }
    }

    fn load(&self) -> Option<Loaded> {
        let private = STANDARD.decode(&self.private.0).ok()?;
        match self.algorithm {
            KeyAlgorithm::Rsa => RsaKeyPair::from_der(&private).ok().map(Loaded::Rsa),
            KeyAlgorithm::Ed25519 => Ed25519KeyPair::from_pkcs8(&private).ok().map(Loaded::Ed25519),
        }
    }
}

/// Private and public. ring makes no RSA keys; it signs with them, several times as fast as the
/// one who makes them.
fn rsa_pair() -> Result<(Vec<u8>, Vec<u8>), String> {
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, RSA_BITS)
        .map_err(|error| error.to_string())?;
    let private = key.to_pkcs1_der().map_err(|error| error.to_string())?;
    let public = key.to_public_key().to_public_key_der().map_err(|error| error.to_string())?;
    Ok((private.as_bytes().to_vec(), public.as_bytes().to_vec()))
}

fn ed25519_pair() -> Result<(Vec<u8>, Vec<u8>), String> {
    let private = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
        .map_err(|_| "no random numbers".to_owned())?;
    let pair = Ed25519KeyPair::from_pkcs8(private.as_ref()).map_err(|error| error.to_string())?;
    Ok((private.as_ref().to_vec(), pair.public_key().as_ref().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::dkim::key::Key;
    use crate::auth::dkim::signature::Algorithm;

    const DAY: u64 = 86_400;
    /// 2026-01-31.
    const NOW: u64 = 1_769_860_000;

    fn selectors(keys: &DkimKeys, state: State) -> Vec<&str> {
        let found = keys.keys.iter().filter(|key| key.state() == state);
        found.map(|key| key.selector.as_str()).collect()
    }

    #[test]
    fn a_key_waits_signs_is_retired_and_forgotten_and_nothing_is_named_twice() {
        let mut keys = DkimKeys::default();
        keys.add_pair(NOW).unwrap();
        assert_eq!(selectors(&keys, State::Signing), ["rsa20260131", "ed20260131"]);
        assert!(!keys.activate(NOW), "nothing waits");
        keys.add_pair(NOW + 60).unwrap();
        assert_eq!(selectors(&keys, State::Waiting), ["rsa20260131b", "ed20260131b"]);
        assert_eq!(keys.signing().count(), 2);
        assert!(keys.activate(NOW + DAY));
        assert_eq!(selectors(&keys, State::Signing), ["rsa20260131b", "ed20260131b"]);
        assert_eq!(selectors(&keys, State::Retired), ["rsa20260131", "ed20260131"]);
        let over = NOW + DAY + SIGNATURE_SECONDS;
        assert_eq!((keys.published(over - 1).count(), keys.published(over).count()), (4, 2));
        keys.add_pair(over).unwrap();
        assert_eq!(selectors(&keys, State::Retired).len(), 0);
        assert_eq!(keys.keys.len(), 4);
        // What is recorded is read again, and nothing else shows the secret.
        let text = serde_json::to_string(&keys).unwrap();
        let again: DkimKeys = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
        let shown = format!("{again:?}");
        assert!(again.keys.iter().all(|key| !shown.contains(&key.private.0)));
    }

    #[test]
    fn what_a_key_signs_verifies_with_its_record_and_nothing_else_does() {
        let mut keys = DkimKeys::default();
        keys.add_pair(NOW).unwrap();
        for (key, algorithm) in
            keys.keys.iter().zip([Algorithm::RsaSha256, Algorithm::Ed25519Sha256])
        {
            let public = Key::read(key.record_text().as_bytes()).unwrap();
            let signature = key.sign(b"data").unwrap();
            assert_eq!(public.verify(algorithm, b"data", &signature), Ok(()));
            assert!(public.verify(algorithm, b"date", &signature).is_err());
        }
        let mut spoiled = keys.keys[0].clone();
        spoiled.private = Secret("AAAA".to_owned());
        spoiled.loaded = OnceLock::new();
        assert!(spoiled.sign(b"data").unwrap_err().to_string().contains("rsa20260131"));
    }
}
