//! Decoded text, for searching: encoded words, transfer encodings and charsets by mail-parser.
//!
//! Only leaves are ever handed to mail-parser, one at a time and with a header of our own making,
//! so that nothing a message declares can make it recurse.

use super::content::Content;
use super::field::unfold;
use mail_parser::parsers::MessageStream;
use mail_parser::{HeaderValue, MessageParser};

/// Bytes of one part that are decoded for a search; the rest is not looked at.
pub const PART_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The value of a header field with its encoded words decoded (RFC 2047).
#[must_use]
pub fn decode_field(value: &[u8]) -> String {
    let mut line = unfold(value);
    if memchr::memmem::find(&line, b"=?").is_none() {
        return String::from_utf8_lossy(&line).into_owned();
    }
    line.push(b'\n');
    match MessageStream::new(&line).parse_unstructured() {
        HeaderValue::Text(text) => text.into_owned(),
        _ => String::from_utf8_lossy(&line).into_owned(),
    }
}

/// The text of a leaf in Unicode; `None` when it is not text.
#[must_use]
pub fn decode_part(content: &Content, body: &[u8]) -> Option<String> {
    if !content.is("text") {
        return None;
    }
    let body = body.get(..PART_BYTES_MAX).unwrap_or(body);
    let encoding = content.encoding.as_deref().unwrap_or(b"7bit");
    let encoded = [b"base64".as_slice(), b"quoted-printable"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(encoding));
    let charset = content.parameter("charset").unwrap_or(b"utf-8");
    let utf8 = [b"utf-8".as_slice(), b"us-ascii", b"utf8"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(charset));
    if !encoded && utf8 {
        return Some(String::from_utf8_lossy(body).into_owned());
    }
    let mut message = Vec::with_capacity(body.len().saturating_add(128));
    message.extend_from_slice(b"Content-Type: text/plain; charset=\"");
    message.extend(charset.iter().filter(|byte| byte.is_ascii_graphic() && **byte != b'"'));
    message.extend_from_slice(b"\"\r\nContent-Transfer-Encoding: ");
    message.extend(encoding.iter().filter(|byte| byte.is_ascii_graphic()));
    message.extend_from_slice(b"\r\n\r\n");
    message.extend_from_slice(body);
    let parser = MessageParser::new().with_mime_headers();
    let parsed = parser.parse(&message)?;
    let text = parsed.parts.first()?.text_contents()?;
    Some(text.to_owned())
}

/// Folded for comparison without regard to case.
#[must_use]
pub fn fold(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_lowercase() } else { text.to_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_words_are_decoded() {
        assert_eq!(
            decode_field(b" =?utf-8?q?caf=C3=A9?=\r\n =?utf-8?b?IGF1IGxhaXQ=?=\r\n"),
            "café au lait"
        );
        assert_eq!(decode_field(b" plain \xff"), "plain \u{fffd}");
        assert_eq!(decode_field(b"=?broken?q?"), "=?broken?q?");
    }

    #[test]
    fn parts_are_decoded_whatever_they_declare() {
        let mut content = Content::plain_text();
        content.read_type(b"text/plain; charset=iso-8859-1");
        content.encoding = Some(b"quoted-printable".to_vec());
        assert_eq!(decode_part(&content, b"caf=E9=\r\n!").unwrap(), "café!");
        content.encoding = Some(b"BASE64".to_vec());
        content.read_type(b"text/html; charset=utf-8");
        assert_eq!(decode_part(&content, b"Y2Fmw6k=\r\n").unwrap(), "café");
        content.read_type(b"text/html; charset=\"no such\r\nX: y\"");
        content.encoding = Some(b"x-unknown".to_vec());
        assert_eq!(decode_part(&content, b"--abc").unwrap(), "--abc");
        assert!(decode_part(&Content::of_type("image", "png"), b"").is_none());
    }
}
