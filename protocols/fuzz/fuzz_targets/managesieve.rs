//! The ManageSieve machine: no panic, bounded memory, cuts do not matter.
#![no_main]

use fuzzing::subjects::ManageSieveSubject;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    fuzzing::dialogue(data, |world| ManageSieveSubject::new(world & 2 != 0, world & 4 != 0));
});
