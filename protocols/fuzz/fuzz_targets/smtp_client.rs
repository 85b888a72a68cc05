//! The SMTP client, and as LMTP: no panic, bounded memory, cuts do not matter.
#![no_main]

use fuzzing::subjects::{SmtpClientFacts, SmtpClientSubject, parcel};
use libfuzzer_sys::fuzz_target;

const PARCELS: [&str; 6] = ["several", "dots", "nobody", "crowd", "utf8", "unreadable"];

fuzz_target!(|data: &[u8]| {
    fuzzing::dialogue(data, |world| {
        SmtpClientSubject::new(SmtpClientFacts {
            lmtp: world & 1 != 0,
            tls: if world & 2 != 0 { "active" } else { "offered" }.into(),
            login: match world & 12 {
                0 => None,
                4 => Some("careless".into()),
                8 => Some("token".into()),
                _ => Some("password".into()),
            },
            parcels: PARCELS.into_iter().map(parcel).collect(),
        })
    });
});
