//! Strings: encoded characters first (RFC 5228 section 2.4.2.4), then places for variables
//! (RFC 5229 section 3). What does not have the form of a reference stands for itself.

use super::super::capability::Capability;
use super::super::fault::{Fault, Position, shown};
use super::super::limits::MATCH_VARIABLES_MAX;
use super::super::parser::Argument;
use super::super::program::{Piece, Text};
use super::Compiler;
use super::arguments;

impl Compiler {
    pub(super) fn one_text(&self, argument: &Argument) -> Result<Text, Fault> {
        let (text, at) = arguments::string(argument)?;
        self.text(text, at)
    }

    pub(super) fn texts(&self, argument: &Argument) -> Result<Vec<Text>, Fault> {
        let strings = arguments::strings(argument)?;
        strings.into_iter().map(|(text, at)| self.text(text, at)).collect()
    }

    pub(super) fn text(&self, text: &str, at: Position) -> Result<Text, Fault> {
        let decoded;
        let text = if self.has(Capability::EncodedCharacter) {
            decoded = decode(text, at)?;
            decoded.as_str()
        } else {
            text
        };
        if !self.has(Capability::Variables) {
            let pieces = vec![Piece::Literal(text.to_owned())];
            return Ok(Text { at, pieces });
        }
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, reference) = rest.split_at_checked(start).unwrap_or((rest, ""));
            literal.push_str(before);
            match self.reference(reference, at)? {
                Some((piece, length)) => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    pieces.push(piece);
                    rest = reference.get(length..).unwrap_or_default();
                }
                None => {
                    literal.push_str("${");
                    rest = reference.get(2..).unwrap_or_default();
                }
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Text { at, pieces })
    }

    /// `${name}` at the front, and its length.
    fn reference(&self, text: &str, at: Position) -> Result<Option<(Piece, usize)>, Fault> {
        let Some(end) = text.find('}') else { return Ok(None) };
        let name = text.get(2..end).unwrap_or_default();
        let length = end.saturating_add(1);
        if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
            let number = name.parse().ok().filter(|number| *number < MATCH_VARIABLES_MAX);
            let Some(number) = number else {
                let most = MATCH_VARIABLES_MAX.saturating_sub(1);
                return Err(Fault::new(
                    at,
                    format!("`${{{name}}}`: the last one is `${{{most}}}`"),
                ));
            };
            return Ok(Some((Piece::Match(number), length)));
        }
        if let Some(name) = identifier(name) {
            let global = self.globals.contains(&name);
            let piece = if global { Piece::Global(name) } else { Piece::Variable(name) };
            return Ok(Some((piece, length)));
        }
        let Some((space, name)) = name.split_once('.') else { return Ok(None) };
        let all_named = name.split('.').all(|part| identifier(part).is_some());
        if identifier(space).is_none() || !all_named {
            return Ok(None);
        }
        match identifier(name) {
            Some(name) if space.eq_ignore_ascii_case("global") => {
                self.need(Capability::Include, &format!("${{global.{name}}}"), at)?;
                Ok(Some((Piece::Global(name), length)))
            }
            Some(_) | None => {
                let text = format!("no variables are called `{}.…`", shown(space));
                Err(Fault::new(at, text))
            }
        }
    }
}

/// The name in lower case, if it is one (RFC 5229 section 3).
pub(super) fn identifier(name: &str) -> Option<String> {
    const BYTES_MAX: usize = 64;
    let first = name.bytes().next()?;
    let fine = (first.is_ascii_alphabetic() || first == b'_')
        && name.len() <= BYTES_MAX
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    fine.then(|| name.to_ascii_lowercase())
}

fn decode(text: &str, at: Position) -> Result<String, Fault> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, reference) = rest.split_at_checked(start).unwrap_or((rest, ""));
        octets.extend_from_slice(before.as_bytes());
        let end = reference.find('}');
        let inside = end.and_then(|end| reference.get(2..end)).and_then(|t| t.split_once(':'));
        let decoded = match inside {
            Some((kind, digits)) if kind.eq_ignore_ascii_case("hex") => hex(digits),
            Some((kind, digits)) if kind.eq_ignore_ascii_case("unicode") => unicode(digits, at)?,
            Some(_) | None => None,
        };
        match (decoded, end) {
            (Some(decoded), Some(end)) => {
                octets.extend(decoded);
                rest = reference.get(end.saturating_add(1)..).unwrap_or_default();
            }
            (_, _) => {
                octets.extend_from_slice(b"${");
                rest = reference.get(2..).unwrap_or_default();
            }
        }
    }
    octets.extend_from_slice(rest.as_bytes());
    String::from_utf8(octets)
        .map_err(|_| Fault::new(at, "the octets of `${hex:…}` do not come to UTF-8"))
}

fn words(digits: &str) -> Option<Vec<&str>> {
    let words: Vec<&str> = digits.split_ascii_whitespace().collect();
    let fine = !words.is_empty()
        && words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_hexdigit()));
    fine.then_some(words)
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let octet = |word: &str| match word.len() {
        1 | 2 => u8::from_str_radix(word, 16).ok(),
        _ => None,
    };
    words(digits)?.into_iter().map(octet).collect()
}

fn unicode(digits: &str, at: Position) -> Result<Option<Vec<u8>>, Fault> {
    let Some(words) = words(digits) else { return Ok(None) };
    let mut text = String::new();
    for word in words {
        let character = u32::from_str_radix(word, 16).ok().and_then(char::from_u32);
        let Some(character) = character else {
            return Err(Fault::new(at, format!("`{}` is no character of Unicode", shown(word))));
        };
        text.push(character);
    }
    Ok(Some(text.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(source: &str) -> Result<Vec<Piece>, Fault> {
        let required =
            vec![Capability::EncodedCharacter, Capability::Variables, Capability::Include];
        let compiler = Compiler { required, globals: vec!["g".into()], ..Compiler::default() };
        compiler.text(source, Position::START).map(|text| text.pieces)
    }

    fn literal(text: &str) -> Piece {
        Piece::Literal(text.into())
    }

    #[test]
    fn references_are_found_and_the_rest_stands_for_itself() {
        for (source, expected) in [
            ("&%${}!", vec![literal("&%${}!")]),
            ("${doh!}", vec![literal("${doh!}")]),
            ("a${B}c", vec![literal("a"), Piece::Variable("b".into()), literal("c")]),
            ("${1}${G}", vec![Piece::Match(1), Piece::Global("g".into())]),
            ("${global.x}", vec![Piece::Global("x".into())]),
            ("${${a}", vec![literal("${"), Piece::Variable("a".into())]),
            ("${a", vec![literal("${a")]),
            ("$${hex:40}", vec![literal("$@")]),
            ("${hex: 40 }${HEX:c3}${hex:a9}", vec![literal("@é")]),
            ("${unicode:40 e9}", vec![literal("@é")]),
            ("${hex:400}${hex:}${hex:4 x}", vec![literal("${hex:400}${hex:}${hex:4 x}")]),
            ("${unicode:24}{a}", vec![Piece::Variable("a".into())]),
        ] {
            assert_eq!(text(source).unwrap(), expected, "{source}");
        }
        for source in ["${hex:ff}", "${unicode:d800}", "${unicode:110000}", "${32}", "${x.y}"] {
            assert!(text(source).is_err(), "{source}");
        }
    }
}
