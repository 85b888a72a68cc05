//! Text for header fields: encoded words where it is not ASCII. RFC 2047.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Octets of text in one encoded word: 60 of base64, so that the word is within its 75.
const WORD_BYTES: usize = 45;

/// One line without control characters; encoded as a whole if any of it needs it.
pub(super) fn encode_words(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect();
    let line = line.trim();
    // What looks like an encoded word and is none would be decoded.
    if line.is_ascii() && !line.contains("=?") {
        return line.to_owned();
    }
    let mut words = Vec::new();
    let mut word = String::new();
    for character in line.chars() {
        if word.len().saturating_add(character.len_utf8()) > WORD_BYTES {
            words.push(std::mem::take(&mut word));
        }
        word.push(character);
    }
    words.push(word);
    let encoded = words.iter().map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word)));
    encoded.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::text::decode_field;

    #[test]
    fn text_comes_back_as_it_was() {
        for text in ["plain text", "café", "=?utf-8?q?no?=", &"日本語のとても長い件名".repeat(20)]
        {
            let encoded = encode_words(text);
            assert!(encoded.is_ascii());
            assert!(encoded.split(' ').all(|word| word.len() <= 75));
            assert_eq!(decode_field(encoded.as_bytes()), text);
        }
        assert_eq!(encode_words("a\r\nBcc: x"), "a  Bcc: x");
    }
}
