//! What the fuzz targets share. The laws, and the small worlds around the machines, are those of
//! `tests/src`: taken in by path, so that fuzzing does not depend on all that tests depend on.

#[path = "../../../tests/src/laws.rs"]
pub mod laws;
#[path = "../../../tests/src/random.rs"]
pub mod random;
#[path = "../../../tests/src/subjects/mod.rs"]
pub mod subjects;
#[path = "../../../tests/src/transcript.rs"]
pub mod transcript;

use laws::{Subject, Talk, cut_at_random, play, whole};
use random::Random;

/// Stands in an input where a TLS handshake is made.
pub const HANDSHAKE: &[u8] = b"\x1dTLS\x1d";

/// An input for a machine: an octet for the world, an octet for the cuts, then what the client
/// sends. Whole and cut it must come to the same.
pub fn dialogue<S: Subject>(data: &[u8], make: impl Fn(u8) -> S) {
    let [world, seed, sent @ ..] = data else { return };
    let talk = streams(sent);
    let once = play(make(*world), &talk, whole);
    let mut random = Random::new(u64::from(*seed));
    let again = play(make(*world), &talk, |stream| cut_at_random(stream, &mut random));
    assert_eq!(again.trace, once.trace, "cuts matter");
}

fn streams(sent: &[u8]) -> Talk {
    let mut talk = Vec::new();
    let mut rest = sent;
    while let Some(at) = rest.windows(HANDSHAKE.len()).position(|octets| octets == HANDSHAKE) {
        talk.push(rest[..at].to_vec());
        rest = &rest[at + HANDSHAKE.len()..];
    }
    talk.push(rest.to_vec());
    talk
}
