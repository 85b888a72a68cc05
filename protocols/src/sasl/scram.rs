//! SCRAM-SHA-256, server side: RFC 5802 with RFC 7677. No channel binding yet: a client that says
//! that it could have bound (`y`) is taken at its word, one that insists (`p=`) is refused.

use super::{Failure, Progress};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// What is stored of a password: enough to check a proof, not enough to make one.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    pub salt: Vec<u8>,
    pub iterations: u32,
    pub stored_key: [u8; 32],
    pub server_key: [u8; 32],
}

impl std::fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScramKeys").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) enum Scram {
    ClientFirst,
    Keys {
        user: String,
        gs2_header: Vec<u8>,
        first_bare: Vec<u8>,
        client_nonce: Vec<u8>,
    },
    ClientFinal {
        user: String,
        gs2_header: Vec<u8>,
        so_far: Vec<u8>,
        nonce: Vec<u8>,
        keys: ScramKeys,
    },
    Verified {
        user: String,
    },
    Over,
}

impl Scram {
    pub(super) fn new() -> Scram {
        Scram::ClientFirst
    }

    pub(super) fn respond(&mut self, response: &[u8]) -> Progress {
        let (next, progress) = match std::mem::replace(self, Scram::Over) {
            Scram::ClientFirst => client_first(response),
            Scram::ClientFinal { user, gs2_header, so_far, nonce, keys } => {
                match client_final(response, &gs2_header, &so_far, &nonce, &keys) {
                    Ok(signature) => {
                        let text = format!("v={}", STANDARD.encode(signature));
                        (Scram::Verified { user }, Progress::Challenge(text.into_bytes()))
                    }
                    Err(failure) => (Scram::Over, Progress::Failed(failure)),
                }
            }
            // The server's signature went as a challenge; the peer acknowledges it.
            Scram::Verified { user } if response.is_empty() => {
                (Scram::Over, Progress::Verified { user })
            }
            Scram::Verified { .. } | Scram::Keys { .. } | Scram::Over => {
                (Scram::Over, Progress::Failed(Failure::Malformed))
            }
        };
        *self = next;
        progress
    }

    pub(super) fn keys(&mut self, keys: ScramKeys, server_nonce: &str) -> Progress {
        let Scram::Keys { user, gs2_header, first_bare, client_nonce } =
            std::mem::replace(self, Scram::Over)
        else {
            return Progress::Failed(Failure::Malformed);
        };
        let nonce = [&client_nonce, server_nonce.as_bytes()].concat();
        let server_first = [
            b"r=".as_slice(),
            &nonce,
            format!(",s={},i={}", STANDARD.encode(&keys.salt), keys.iterations).as_bytes(),
        ]
        .concat();
        let so_far = [&first_bare, b",".as_slice(), &server_first].concat();
        *self = Scram::ClientFinal { user, gs2_header, so_far, nonce, keys };
        Progress::Challenge(server_first)
    }
}

/// `gs2-header n=user,r=nonce[,extensions]`
fn client_first(message: &[u8]) -> (Scram, Progress) {
    let malformed = (Scram::Over, Progress::Failed(Failure::Malformed));
    let mut fields = message.splitn(3, |&byte| byte == b',');
    let (Some(binding), Some(acting_as), Some(bare)) =
        (fields.next(), fields.next(), fields.next())
    else {
        return malformed;
    };
    if binding != b"n" && binding != b"y" {
        return malformed;
    }
    let mut attributes = bare.split(|&byte| byte == b',');
    let name = attributes.next().and_then(|field| field.strip_prefix(b"n="));
    let nonce = attributes.next().and_then(|field| field.strip_prefix(b"r="));
    let (Some(name), Some(nonce)) = (name, nonce) else { return malformed };
    let printable = |byte: &u8| (0x21..=0x7e).contains(byte) && *byte != b',';
    let Some(user) = unescape(name) else { return malformed };
    if nonce.is_empty() || nonce.len() > 256 || !nonce.iter().all(printable) {
        return malformed;
    }
    let asked_for = acting_as.strip_prefix(b"a=").map_or(Some(String::new()), unescape);
    match asked_for {
        Some(other) if other.is_empty() || other == user => {}
        Some(_) => return (Scram::Over, Progress::Failed(Failure::Wrong)),
        None => return malformed,
    }
    let gs2_header = [binding, b",", acting_as, b","].concat();
    let next = Scram::Keys {
        user: user.clone(),
        gs2_header,
        first_bare: bare.to_vec(),
        client_nonce: nonce.to_vec(),
    };
    (next, Progress::Keys { user })
}

/// RFC 5802 section 5.1: `=2C` is a comma, `=3D` an equals sign, any other `=` is an error.
fn unescape(name: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(name).ok()?;
    let escapes = text.matches('=').count();
    let known = text.matches("=2C").count().checked_add(text.matches("=3D").count())?;
    let user = text.replace("=2C", ",").replace("=3D", "=");
    let fine = escapes == known && !user.is_empty() && user.len() <= 512;
    (fine && !user.chars().any(char::is_control)).then_some(user)
}

/// `c=binding,r=nonce[,extensions],p=proof`; gives the server's signature.
fn client_final(
    message: &[u8],
    gs2_header: &[u8],
    so_far: &[u8],
    nonce: &[u8],
    keys: &ScramKeys,
) -> Result<[u8; 32], Failure> {
    let at = memchr::memmem::rfind(message, b",p=").ok_or(Failure::Malformed)?;
    let (without_proof, proof) = message.split_at(at);
    let proof =
        proof.get(3..).and_then(|text| STANDARD.decode(text).ok()).ok_or(Failure::Malformed)?;
    let proof: [u8; 32] = proof.try_into().map_err(|_| Failure::Malformed)?;
    let mut attributes = without_proof.split(|&byte| byte == b',');
    let binding = attributes.next().and_then(|field| field.strip_prefix(b"c="));
    let echoed = attributes.next().and_then(|field| field.strip_prefix(b"r="));
    let binding = binding.and_then(|text| STANDARD.decode(text).ok()).ok_or(Failure::Malformed)?;
    if binding != gs2_header || echoed != Some(nonce) {
        return Err(Failure::Wrong);
    }
    let auth_message = [so_far, b",", without_proof].concat();
    let client_signature = hmac(&keys.stored_key, &auth_message);
    let mut client_key = proof;
    client_key.iter_mut().zip(client_signature).for_each(|(key, signature)| *key ^= signature);
    let stored: [u8; 32] = Sha256::digest(client_key).into();
    if !equal(&stored, &keys.stored_key) {
        return Err(Failure::Wrong);
    }
    Ok(hmac(&keys.server_key, &auth_message))
}

pub(super) fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    // HMAC takes keys of any length: this can't fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// In a time that does not depend on where they differ.
fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasl::client::Derivation;
    use crate::sasl::{Exchange, Mechanism};

    /// RFC 7677 section 3.
    const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SERVER_FIRST: &[u8] =
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn keys() -> ScramKeys {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let derivation = Derivation { password: "pencil".into(), salt, iterations: 4096 };
        let salted = derivation.run();
        let Derivation { salt, .. } = derivation;
        ScramKeys {
            salt,
            iterations: 4096,
            stored_key: Sha256::digest(hmac(salted.octets(), b"Client Key")).into(),
            server_key: hmac(salted.octets(), b"Server Key"),
        }
    }

    fn exchange(first: &[u8]) -> (Exchange, Progress) {
        let (mut exchange, _) = Exchange::start(Mechanism::ScramSha256);
        let progress = exchange.respond(first);
        (exchange, progress)
    }

    #[test]
    fn the_example_of_rfc_7677_verifies() {
        let (mut exchange, progress) = exchange(CLIENT_FIRST);
        assert_eq!(progress, Progress::Keys { user: "user".into() });
        assert_eq!(exchange.keys(keys(), SERVER_NONCE), Progress::Challenge(SERVER_FIRST.into()));
        assert_eq!(exchange.respond(CLIENT_FINAL), Progress::Challenge(SERVER_FINAL.into()));
        assert_eq!(exchange.respond(b""), Progress::Verified { user: "user".into() });
    }

    #[test]
    fn any_flipped_octet_of_the_last_message_fails() {
        for at in 0..CLIENT_FINAL.len() {
            let mut message = CLIENT_FINAL.to_vec();
            message[at] ^= 1;
            let (mut exchange, _) = exchange(CLIENT_FIRST);
            let _ = exchange.keys(keys(), SERVER_NONCE);
            assert!(matches!(exchange.respond(&message), Progress::Failed(_)), "octet {at}");
        }
    }

    #[test]
    fn odd_first_messages_fail() {
        for odd in [
            &b""[..],
            b"n,,",
            b"n,,n=user",
            b"n,,r=x,n=user",
            b"p=tls-exporter,,n=user,r=x",
            b"n,,n=us=er,r=x",
            b"n,,n=,r=x",
            b"n,,n=user,r=",
            b"n,,m=x,n=user,r=y",
        ] {
            assert_eq!(exchange(odd).1, Progress::Failed(Failure::Malformed), "{odd:?}");
        }
        assert_eq!(exchange(b"n,a=bob,n=user,r=x").1, Progress::Failed(Failure::Wrong));
        assert_eq!(exchange(b"n,,n=a=2Cb=3D,r=x").1, Progress::Keys { user: "a,b=".into() });
    }
}
