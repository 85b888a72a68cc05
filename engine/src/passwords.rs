//! Passwords: made, hashed, checked.
//!
//! Two forms are kept of each password, since no one form serves all mechanisms: an argon2id
//! hash (RFC 9106) for mechanisms that send the password, and the SCRAM-SHA-256 keys (RFC 5802,
//! 7677) for those that don't. Neither gives the password back. Everything here but [`Proved`]
//! burns CPU on purpose and is called off the executors (`glommio::spawn_blocking`, or a
//! command's own thread).

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A longer password is nobody's: hashing it would only cost.
pub const BYTES_MAX: usize = 1000;

/// RFC 7677 asks for at least 4096; OWASP's current advice would slow phones down for little gain
/// beside argon2id, which guards the more exposed form.
const SCRAM_ITERATIONS: u32 = 10_000;

/// What is stored of one password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPassword {
    /// PHC string, `$argon2id$…`.
    pub argon2id: String,
    pub scram: ScramKeys,
}

/// RFC 5802 section 3: enough to check a proof, not enough to make one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScramKeys {
    pub salt: [u8; 16],
    pub iterations: u32,
    pub stored_key: [u8; 32],
    pub server_key: [u8; 32],
}

impl StoredPassword {
    /// Hashes `password`: tens of milliseconds of CPU.
    pub fn new(password: &[u8]) -> StoredPassword {
        let salt = SaltString::encode_b64(&random::<16>()).expect("16 bytes are a valid salt");
        let argon2id = argon2()
            .hash_password(password, &salt)
            .expect("parameters are constant and valid")
            .to_string();
        StoredPassword { argon2id, scram: ScramKeys::new(password, random()) }
    }

    /// Whether `password` is the one: tens of milliseconds of CPU, in constant time.
    pub fn verify(&self, password: &[u8]) -> bool {
        PasswordHash::new(&self.argon2id)
            .is_ok_and(|hash| argon2().verify_password(password, &hash).is_ok())
    }

    /// Costs as much as a real check: an unknown user must not answer faster than a known one.
    pub fn verify_nobody(password: &[u8]) {
        let salt = SaltString::encode_b64(&[0; 16]).expect("16 bytes are a valid salt");
        let _ = argon2().hash_password(password, &salt);
    }
}

impl ScramKeys {
    fn new(password: &[u8], salt: [u8; 16]) -> ScramKeys {
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(password, &salt, SCRAM_ITERATIONS, &mut salted);
        let client_key = hmac_sha256(&salted, b"Client Key");
        ScramKeys {
            salt,
            iterations: SCRAM_ITERATIONS,
            stored_key: Sha256::digest(client_key).into(),
            server_key: hmac_sha256(&salted, b"Server Key"),
        }
    }

    /// Keys for a user who does not exist: always the same salt for the same name, so that asking
    /// twice tells nothing; no password matches them (RFC 5802 section 9 on enumeration).
    pub fn nobody(user: &str, secret: &[u8; 32]) -> ScramKeys {
        let seed = hmac_sha256(secret, user.as_bytes());
        let mut salt = [0; 16];
        salt.copy_from_slice(&seed[..16]);
        ScramKeys {
            salt,
            iterations: SCRAM_ITERATIONS,
            stored_key: hmac_sha256(&seed, b"stored"),
            server_key: hmac_sha256(&seed, b"server"),
        }
    }
}

/// So long a password that proved right need not prove it again, from that time on, and of so
/// many at the most.
const PROVED_FOR: Duration = Duration::from_mins(10);
const PROVED_MAX: usize = 10_000;

/// Passwords that proved right a short while ago: mail programs and applications connect again and
/// again, and each time argon2id would burn what a thousand messages cost.
///
/// Of each a digest of what is stored and what was sent, under a key of this process: it gives no
/// password back, and one that has been changed has another digest, so that nothing here has to be
/// told. What was wrong is not remembered.
#[derive(Debug)]
pub struct Proved {
    key: [u8; 32],
    since: HashMap<[u8; 32], Instant>,
}

impl Default for Proved {
    fn default() -> Proved {
        Proved { key: random(), since: HashMap::new() }
    }
}

impl Proved {
    /// Whether `password` has lately been the one of `stored`.
    pub fn knows(&self, stored: &StoredPassword, password: &[u8], now: Instant) -> bool {
        let since = self.since.get(&self.digest(stored, password));
        since.is_some_and(|since| now.duration_since(*since) < PROVED_FOR)
    }

    /// `password` has just been verified.
    pub fn remember(&mut self, stored: &StoredPassword, password: &[u8], now: Instant) {
        if self.since.len() >= PROVED_MAX {
            self.since.retain(|_, since| now.duration_since(*since) < PROVED_FOR);
        }
        if self.since.len() < PROVED_MAX {
            self.since.insert(self.digest(stored, password), now);
        }
    }

    fn digest(&self, stored: &StoredPassword, password: &[u8]) -> [u8; 32] {
        // There is no NUL in a PHC string, so no two pairs are one message.
        hmac_sha256(&self.key, &[stored.argon2id.as_bytes(), b"\0", password].concat())
    }
}

/// OWASP's second choice: 19 MiB, two passes, one lane.
fn argon2() -> Argon2<'static> {
    let params = Params::new(19 * 1024, 2, 1, None).expect("constant parameters are valid");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// Bytes from the operating system's generator.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel has a random source");
    bytes
}

/// A password of 100 bits that can be read aloud: no 0, O, 1 or l.
pub fn generate() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    random::<20>().iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_password_verifies_and_others_do_not() {
        let stored = StoredPassword::new(b"correct horse");
        assert!(stored.verify(b"correct horse"));
        assert!(!stored.verify(b"correct horsf"));
        assert!(!stored.verify(b""));
    }

    #[test]
    fn a_password_is_known_for_a_while_and_no_longer_than_it_is_the_one() {
        let (stored, changed) = (StoredPassword::new(b"old"), StoredPassword::new(b"new"));
        let now = Instant::now();
        let mut proved = Proved::default();
        assert!(!proved.knows(&stored, b"old", now));
        proved.remember(&stored, b"old", now);
        assert!(proved.knows(&stored, b"old", now + PROVED_FOR / 2));
        assert!(!proved.knows(&stored, b"new", now));
        assert!(!proved.knows(&changed, b"old", now), "it was changed");
        assert!(!proved.knows(&stored, b"old", now + PROVED_FOR));
        assert!(
            !Proved::default().knows(&stored, b"old", now),
            "each process has a key of its own"
        );
    }

    #[test]
    fn as_many_are_known_as_there_is_room_for() {
        let stored = StoredPassword::new(b"one");
        let (now, mut proved) = (Instant::now(), Proved::default());
        for number in 0..=PROVED_MAX {
            proved.remember(&stored, &number.to_le_bytes(), now);
        }
        assert!(!proved.knows(&stored, &PROVED_MAX.to_le_bytes(), now));
        // Those whose time is over make room.
        proved.remember(&stored, b"one", now + PROVED_FOR);
        assert!(proved.knows(&stored, b"one", now + PROVED_FOR) && proved.since.len() == 1);
    }

    /// RFC 7677 section 3's example, checked through the proof that a client would send.
    #[test]
    fn scram_keys_follow_rfc_7677() {
        // The example's salt happens to be 16 bytes; its iteration count is 4096.
        let salt: [u8; 16] = *b"\x5b\x6d\x99\x68\x9d\x12\x35\x8e\xec\xa0\x4b\x14\x12\x36\xfa\x81";
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(b"pencil", &salt, 4096, &mut salted);
        let server_key = hmac_sha256(&salted, b"Server Key");
        let message = b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature = hmac_sha256(&server_key, message);
        // v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=
        assert_eq!(signature[..6], [0xea, 0xba, 0xe2, 0x4d, 0x10, 0x62]);
    }

    #[test]
    fn nobody_is_the_same_each_time_and_differs_by_name() {
        let secret = [7; 32];
        assert_eq!(ScramKeys::nobody("a", &secret), ScramKeys::nobody("a", &secret));
        assert_ne!(ScramKeys::nobody("a", &secret).salt, ScramKeys::nobody("b", &secret).salt);
    }
}
