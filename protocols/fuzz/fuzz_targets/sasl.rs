//! SASL exchanges: any responses, in any order, end in a bounded number of steps, and nobody is
//! verified without a proof.
#![no_main]

use fuzzing::subjects::{SCRAM_NONCE, scram_keys};
use libfuzzer_sys::fuzz_target;
use protocols::sasl::{Exchange, Mechanism, Progress};

/// Responses stand between these.
const SEPARATOR: u8 = 0x1e;

fuzz_target!(|data: &[u8]| {
    let [mechanism, responses @ ..] = data else { return };
    let mechanism = Mechanism::ALL[usize::from(*mechanism) % Mechanism::ALL.len()];
    let (mut exchange, _) = Exchange::start(mechanism);
    let mut proof_was_good = false;
    for response in responses.split(|octet| *octet == SEPARATOR) {
        let mut progress = exchange.respond(response);
        if let Progress::Keys { .. } = progress {
            progress = exchange.keys(scram_keys(), SCRAM_NONCE);
            assert!(matches!(progress, Progress::Challenge(_)), "keys are followed by a challenge");
        }
        match progress {
            Progress::Challenge(challenge) => {
                proof_was_good = challenge.starts_with(b"v=");
            }
            Progress::Verified { .. } => {
                assert!(proof_was_good, "verified without a proof");
                return;
            }
            Progress::Password(credentials) => {
                assert!(mechanism != Mechanism::ScramSha256, "SCRAM gives no password");
                assert!(!credentials.user.contains(|c: char| c.is_control()));
                return;
            }
            Progress::Keys { .. } | Progress::Failed(_) => return,
        }
    }
});
