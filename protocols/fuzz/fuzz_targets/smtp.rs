//! The SMTP machine as MX, for a gateway and for submission: no panic, bounded memory,
//! cuts do not matter.
#![no_main]

use fuzzing::subjects::SmtpSubject;
use libfuzzer_sys::fuzz_target;
use protocols::smtp::Role;

fuzz_target!(|data: &[u8]| {
    fuzzing::dialogue(data, |world| {
        if world & 8 != 0 {
            return SmtpSubject::for_gateway();
        }
        let role = if world & 1 == 0 { Role::Mx } else { Role::Submission };
        SmtpSubject::new(role, world & 2 != 0, world & 4 != 0)
    });
});
