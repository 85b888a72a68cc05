//! The POP3 client: no panic, bounded memory, cuts do not matter.
#![no_main]

use fuzzing::subjects::Pop3ClientSubject;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    fuzzing::dialogue(data, |world| {
        let tls = if world & 2 != 0 { "active" } else { "offered" };
        Pop3ClientSubject::new(tls, if world & 4 != 0 { "token" } else { "careless" })
    });
});
