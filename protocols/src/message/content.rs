//! What the Content-* fields say of a MIME entity. RFC 2045 section 5, RFC 2183, RFC 3282.
//!
//! Reading never fails: what can't be understood is left out, and what is missing has the RFC's
//! default. Bounded by [`PARAMETERS_MAX`] and [`VALUE_BYTES_MAX`].

use super::field::unfold;

/// Parameters kept of one field.
pub const PARAMETERS_MAX: usize = 32;
/// Bytes kept of one value.
pub const VALUE_BYTES_MAX: usize = 2048;

pub type Parameters<T = Vec<u8>> = Vec<(T, T)>;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disposition<T = Vec<u8>> {
    pub kind: T,
    pub parameters: Parameters<T>,
}

/// The fields of one entity. Names and values as the message writes them, compare without case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content<T = Vec<u8>> {
    pub main: T,
    pub sub: T,
    pub parameters: Parameters<T>,
    pub id: Option<T>,
    pub description: Option<T>,
    /// `None` stands for 7bit.
    pub encoding: Option<T>,
    pub md5: Option<T>,
    pub disposition: Option<Disposition<T>>,
    pub languages: Vec<T>,
    pub location: Option<T>,
}

impl<T: AsRef<[u8]>> Content<T> {
    #[must_use]
    pub fn is(&self, main: &str) -> bool {
        self.main.as_ref().eq_ignore_ascii_case(main.as_bytes())
    }
}

impl Content {
    #[must_use]
    pub fn of_type(main: &str, sub: &str) -> Content {
        Content { main: main.into(), sub: sub.into(), ..Content::default() }
    }

    /// RFC 2045 section 5.2: what an entity without a Content-Type is.
    #[must_use]
    pub fn plain_text() -> Content {
        let charset = (b"charset".to_vec(), b"us-ascii".to_vec());
        Content { parameters: vec![charset], ..Content::of_type("text", "plain") }
    }

    /// A message whose bytes stand in the body as they are, so that they can be looked into.
    #[must_use]
    pub fn is_embedded_message(&self) -> bool {
        let plain = |encoding: &[u8]| {
            [b"7bit".as_slice(), b"8bit", b"binary"]
                .iter()
                .any(|known| encoding.eq_ignore_ascii_case(known))
        };
        self.is("message")
            && (self.sub.eq_ignore_ascii_case(b"rfc822")
                || self.sub.eq_ignore_ascii_case(b"global"))
            && self.encoding.as_deref().is_none_or(plain)
    }

    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        let found = self.parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()));
        found.map(|(_, value)| value.as_slice())
    }

    /// Sets type and parameters from the value of a Content-Type field.
    pub fn read_type(&mut self, value: &[u8]) {
        let mut lexer = Lexer::new(value);
        let main = lexer.token();
        let slash = lexer.take(b'/');
        let sub = lexer.token();
        if main.is_empty() || !slash || sub.is_empty() {
            return;
        }
        self.main = main.to_vec();
        self.sub = sub.to_vec();
        self.parameters = lexer.parameters();
    }

    pub fn read_disposition(&mut self, value: &[u8]) {
        let mut lexer = Lexer::new(value);
        let kind = lexer.token().to_vec();
        if !kind.is_empty() {
            self.disposition = Some(Disposition { kind, parameters: lexer.parameters() });
        }
    }

    pub fn read_encoding(&mut self, value: &[u8]) {
        let token = Lexer::new(value).token();
        self.encoding = (!token.is_empty()).then(|| token.to_vec());
    }

    pub fn read_languages(&mut self, value: &[u8]) {
        let mut lexer = Lexer::new(value);
        loop {
            let tag = lexer.token();
            if !tag.is_empty() && self.languages.len() < PARAMETERS_MAX {
                self.languages.push(tag.to_vec());
            }
            if !lexer.take(b',') {
                return;
            }
        }
    }
}

/// A value on one line and of bounded length; `None` when nothing is left.
#[must_use]
pub fn bounded(value: &[u8]) -> Option<Vec<u8>> {
    let mut text = unfold(value);
    text.truncate(VALUE_BYTES_MAX);
    (!text.is_empty()).then_some(text)
}

/// RFC 2045 tokens, quoted strings and comments.
struct Lexer<'v> {
    rest: &'v [u8],
}

impl<'v> Lexer<'v> {
    fn new(value: &'v [u8]) -> Lexer<'v> {
        Lexer { rest: value }
    }

    fn bump(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// White space, line ends and comments.
    fn skip(&mut self) {
        loop {
            self.rest = self.rest.trim_ascii_start();
            if self.rest.first() != Some(&b'(') {
                return;
            }
            let mut depth = 0_u32;
            while let Some(byte) = self.bump() {
                match byte {
                    b'(' => depth = depth.saturating_add(1),
                    b')' => depth = depth.saturating_sub(1),
                    b'\\' => {
                        self.bump();
                    }
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
        }
    }

    fn token(&mut self) -> &'v [u8] {
        self.skip();
        let special = |byte: &u8| b"()<>@,;:\\\"/[]?= \t\r\n\0".contains(byte);
        let length = self.rest.iter().position(special).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at_checked(length).unwrap_or((b"", self.rest));
        self.rest = rest;
        token.get(..VALUE_BYTES_MAX).unwrap_or(token)
    }

    fn take(&mut self, wanted: u8) -> bool {
        self.skip();
        let found = self.rest.first() == Some(&wanted);
        if found {
            self.bump();
        }
        found
    }

    /// A token or a quoted string. Unquoted values with specials in them are common: up to `;`.
    fn value(&mut self) -> Vec<u8> {
        self.skip();
        let mut value = Vec::new();
        if self.rest.first() == Some(&b'"') {
            self.bump();
            while let Some(byte) = self.bump() {
                match byte {
                    b'"' => break,
                    b'\\' => value.extend(self.bump()),
                    b'\r' | b'\n' | 0 => {}
                    other => value.push(other),
                }
            }
        } else {
            let end = |byte: &u8| b"; \t\r\n\0".contains(byte);
            let length = self.rest.iter().position(end).unwrap_or(self.rest.len());
            let (text, rest) = self.rest.split_at_checked(length).unwrap_or((b"", self.rest));
            self.rest = rest;
            value.extend_from_slice(text);
        }
        value.truncate(VALUE_BYTES_MAX);
        value
    }

    fn parameters(&mut self) -> Parameters {
        let mut parameters = Vec::new();
        while parameters.len() < PARAMETERS_MAX {
            // Skip junk up to the next `;`, so that one bad parameter does not hide the others.
            let Some(at) = memchr::memchr(b';', self.rest) else { break };
            self.rest = self.rest.get(at.saturating_add(1)..).unwrap_or_default();
            let name = self.token();
            if !name.is_empty() && self.take(b'=') {
                let value = self.value();
                parameters.push((name.to_vec(), value));
            }
        }
        parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_parameters_in_every_spelling() {
        let mut content = Content::plain_text();
        content
            .read_type(b" text/HTML; charset=\"utf-8\" (really); x = y z; bad; name=\"a\\\"b;c\"");
        assert_eq!((content.main.as_slice(), content.sub.as_slice()), (&b"text"[..], &b"HTML"[..]));
        assert_eq!(content.parameter("CHARSET"), Some(&b"utf-8"[..]));
        assert_eq!(content.parameter("x"), Some(&b"y"[..]));
        assert_eq!(content.parameter("name"), Some(&b"a\"b;c"[..]));
    }

    #[test]
    fn a_type_that_cannot_be_read_leaves_the_default() {
        let mut content = Content::plain_text();
        content.read_type(b"text");
        assert_eq!(content, Content::plain_text());
    }
}
