//! Octets as hexadecimal digits.

use std::fmt::Write;

pub fn text(octets: impl AsRef<[u8]>) -> String {
    let mut text = String::new();
    for octet in octets.as_ref() {
        let _ = write!(text, "{octet:02x}");
    }
    text
}

/// `None`: these are not the digits of so many.
pub fn octets<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let digit =
        |octet: u8| char::from(octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut octets = [0; N];
    for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
        *octet = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::{octets, text};

    #[test]
    fn digits_are_read_as_they_are_written() {
        assert_eq!(text([0, 0x9a, 0xff]), "009aff");
        assert_eq!(octets("009aFF"), Some([0, 0x9a, 0xff]));
        for bad in ["", "009af", "009aff0", "009ag0", "+09aff", "00 aff", "0\u{e9}9af"] {
            assert_eq!(octets::<3>(bad), None, "{bad}");
        }
    }
}
