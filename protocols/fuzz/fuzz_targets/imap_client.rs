//! The IMAP client: no panic, bounded memory, cuts do not matter.
#![no_main]

use fuzzing::subjects::ImapClientSubject;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    fuzzing::dialogue(data, |world| {
        let tls = if world & 2 != 0 { "active" } else { "offered" };
        let secret = if world & 4 != 0 { "token" } else { "careless" };
        ImapClientSubject::new(tls, secret, if world & 1 != 0 { "odd" } else { "" })
    });
});
