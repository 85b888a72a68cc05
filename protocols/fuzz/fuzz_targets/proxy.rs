//! The PROXY protocol: whatever comes, cuts do not matter, a fault stays one, and nothing is read
//! beyond the bound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocols::proxy::{HEADER_BYTES_MAX, Read, read};

fuzz_target!(|data: &[u8]| {
    let all = read(data);
    let mut needed = 0;
    for end in 0..=data.len() {
        match read(&data[..end]) {
            Ok(Read::Needs(more)) => {
                assert!(more > end && more >= needed && more <= HEADER_BYTES_MAX);
                needed = more;
            }
            // From here on more octets change nothing.
            decided => return assert_eq!(decided, all, "at {end}"),
        }
    }
});
