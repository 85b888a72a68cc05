//! The SMTP machine as LMTP: no panic, bounded memory, cuts do not matter.
#![no_main]

use fuzzing::subjects::SmtpSubject;
use libfuzzer_sys::fuzz_target;
use protocols::smtp::Role;

fuzz_target!(|data: &[u8]| {
    fuzzing::dialogue(data, |world| SmtpSubject::new(Role::Lmtp, world & 2 != 0, false));
});
