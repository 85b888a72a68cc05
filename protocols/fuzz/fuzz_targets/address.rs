//! Addresses and paths: what is read can be written, and reads the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocols::Address;
use protocols::address::path;

fn reads_again(address: &Address) {
    let written = address.to_string();
    let again = Address::parse(written.as_bytes());
    assert_eq!(again.as_ref(), Some(address), "written as {written:?}");
    assert!(!written.contains(|c: char| c.is_control()), "{written:?} would break a header");
    let in_path = format!("<{written}> SIZE=1");
    let (read, rest) = path(in_path.as_bytes(), Some("us.test")).expect("a path");
    assert_eq!((read.as_ref(), rest), (Some(address), &b" SIZE=1"[..]), "{in_path:?}");
}

fuzz_target!(|data: &[u8]| {
    if let Some(address) = Address::parse(data) {
        reads_again(&address);
    }
    if let Some((Some(address), _)) = path(data, Some("us.test")) {
        reads_again(&address);
    }
});
