//! The words of IMAP: atoms, strings, literals, lists. RFC 3501 section 9.
//!
//! Works on one whole command as the framing hands it over: lines with their literals in place,
//! each as `{n}` CRLF and `n` octets. Nothing here copies more than the command holds.

use super::flags::FlagList;
use super::mailbox::{MailboxName, NameFault};
use super::sequence::SequenceSet;
use std::borrow::Cow;

/// What the command does wrong: the text of a BAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub &'static str);

pub type Parsed<T> = Result<T, Fault>;

/// `ATOM-CHAR`: anything printable but `( ) { SP % * " \ ]`.
#[must_use]
pub fn is_atom_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"(){%*\"\\]".contains(&byte)
}

#[must_use]
pub fn is_atom(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_atom_byte(*byte))
}

#[derive(Debug, Clone)]
pub struct Lexer<'c> {
    rest: &'c [u8],
}

impl<'c> Lexer<'c> {
    #[must_use]
    pub fn new(command: &'c [u8]) -> Lexer<'c> {
        Lexer { rest: command }
    }

    #[must_use]
    pub fn rest(&self) -> &'c [u8] {
        self.rest
    }

    #[must_use]
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Takes `byte` when it is next.
    pub fn take(&mut self, byte: u8) -> bool {
        match self.rest.split_first() {
            Some((first, rest)) if *first == byte => {
                self.rest = rest;
                true
            }
            Some(_) | None => false,
        }
    }

    pub fn expect(&mut self, byte: u8, fault: &'static str) -> Parsed<()> {
        if self.take(byte) { Ok(()) } else { Err(Fault(fault)) }
    }

    /// One space. More than one is common enough to be forgiven.
    pub fn space(&mut self) -> Parsed<()> {
        self.expect(b' ', "expected a space")?;
        while self.take(b' ') {}
        Ok(())
    }

    pub fn end(&mut self) -> Parsed<()> {
        while self.take(b' ') {}
        if self.rest.is_empty() { Ok(()) } else { Err(Fault("too many arguments")) }
    }

    /// Takes the longest run of bytes that `wanted` likes.
    pub fn run(&mut self, wanted: impl Fn(u8) -> bool) -> &'c [u8] {
        let length = self.rest.iter().position(|byte| !wanted(*byte)).unwrap_or(self.rest.len());
        let (run, rest) = self.rest.split_at_checked(length).unwrap_or((b"", self.rest));
        self.rest = rest;
        run
    }

    pub fn atom(&mut self) -> Parsed<&'c [u8]> {
        let atom = self.run(is_atom_byte);
        if atom.is_empty() { Err(Fault("expected an atom")) } else { Ok(atom) }
    }

    /// Takes `word` when it is the next atom, whatever its case.
    pub fn keyword(&mut self, word: &str) -> bool {
        let mut ahead = self.clone();
        let found = ahead.run(is_atom_byte).eq_ignore_ascii_case(word.as_bytes());
        if found {
            *self = ahead;
        }
        found
    }

    pub fn number(&mut self) -> Parsed<u32> {
        let digits = self.run(|byte| byte.is_ascii_digit());
        let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
        number.ok_or(Fault("expected a number"))
    }

    pub fn number64(&mut self) -> Parsed<u64> {
        let digits = self.run(|byte| byte.is_ascii_digit());
        let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
        number.ok_or(Fault("expected a number"))
    }

    pub fn string(&mut self) -> Parsed<Cow<'c, [u8]>> {
        match self.peek() {
            Some(b'"') => self.quoted(),
            Some(b'{') => self.literal().map(Cow::Borrowed),
            Some(_) | None => Err(Fault("expected a string")),
        }
    }

    pub fn astring(&mut self) -> Parsed<Cow<'c, [u8]>> {
        match self.peek() {
            Some(b'"' | b'{') => self.string(),
            Some(_) | None => {
                // Bytes beyond ASCII are not allowed, but clients send mailbox names that way.
                let word = self.run(|byte| is_atom_byte(byte) || byte == b']' || byte >= 0x80);
                if word.is_empty() {
                    return Err(Fault("expected an atom or a string"));
                }
                Ok(Cow::Borrowed(word))
            }
        }
    }

    /// `None` for NIL.
    pub fn nstring(&mut self) -> Parsed<Option<Cow<'c, [u8]>>> {
        if self.keyword("NIL") { Ok(None) } else { self.string().map(Some) }
    }

    fn quoted(&mut self) -> Parsed<Cow<'c, [u8]>> {
        self.expect(b'"', "expected a quote")?;
        let plain = self.run(|byte| byte != b'"' && byte != b'\\');
        if self.take(b'"') {
            return Ok(Cow::Borrowed(plain));
        }
        let mut text = plain.to_vec();
        loop {
            text.extend_from_slice(self.run(|byte| byte != b'"' && byte != b'\\'));
            if self.take(b'"') {
                return Ok(Cow::Owned(text));
            }
            self.expect(b'\\', "the quoted string does not end")?;
            match self.rest.split_first() {
                Some((escaped @ (b'"' | b'\\'), rest)) => {
                    text.push(*escaped);
                    self.rest = rest;
                }
                Some(_) | None => return Err(Fault("only \" and \\ can be escaped")),
            }
        }
    }

    fn literal(&mut self) -> Parsed<&'c [u8]> {
        const FAULT: &str = "malformed literal";
        self.expect(b'{', FAULT)?;
        let length = usize::try_from(self.number()?).map_err(|_| Fault(FAULT))?;
        self.take(b'+');
        for byte in *b"}\r\n" {
            self.expect(byte, FAULT)?;
        }
        let (text, rest) = self.rest.split_at_checked(length).ok_or(Fault(FAULT))?;
        self.rest = rest;
        if memchr::memchr(0, text).is_some() { Err(Fault("NUL in a literal")) } else { Ok(text) }
    }

    /// `( item SP item … )`, possibly empty.
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        self.expect(b'(', "expected a parenthesis")?;
        let mut items = Vec::new();
        while self.take(b' ') {}
        while !self.take(b')') {
            items.push(item(self)?);
            if self.peek() != Some(b')') {
                self.space()?;
            }
        }
        Ok(items)
    }

    pub fn flag(&mut self) -> Parsed<&'c [u8]> {
        let start = self.rest;
        self.take(b'\\');
        self.atom()?;
        let length = start.len().saturating_sub(self.rest.len());
        Ok(start.get(..length).unwrap_or_default())
    }

    /// A parenthesised list of flags, or (`bare`) flags one after the other.
    pub fn flags(&mut self, bare: bool) -> Parsed<FlagList> {
        let mut flags = FlagList::default();
        let mut add = |name: &[u8]| {
            if flags.add(name) { Ok(()) } else { Err(Fault("that flag can't be set")) }
        };
        if self.peek() == Some(b'(') {
            self.list(|lexer| lexer.flag().and_then(&mut add))?;
        } else if bare {
            loop {
                add(self.flag()?)?;
                if self.peek() != Some(b' ') {
                    break;
                }
                self.space()?;
            }
        } else {
            return Err(Fault("expected a list of flags"));
        }
        Ok(flags)
    }

    pub fn sequence_set(&mut self) -> Parsed<SequenceSet> {
        let text = self.run(|byte| byte.is_ascii_digit() || b":,*".contains(&byte));
        SequenceSet::read(text).ok_or(Fault("expected a sequence set"))
    }

    /// A mailbox name; whether it could exist is part of the result.
    pub fn mailbox(&mut self) -> Parsed<Result<MailboxName, NameFault>> {
        Ok(MailboxName::from_wire(&self.astring()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_in_three_spellings() {
        let mut lexer = Lexer::new(b"atom] \"q\\\"uo\\\\ted\" {3}\r\na\r\n {2+}\r\nxy NIL");
        assert_eq!(lexer.astring().unwrap().as_ref(), b"atom]");
        lexer.space().unwrap();
        assert_eq!(lexer.astring().unwrap().as_ref(), b"q\"uo\\ted");
        lexer.space().unwrap();
        assert_eq!(lexer.astring().unwrap().as_ref(), b"a\r\n");
        lexer.space().unwrap();
        assert_eq!(lexer.string().unwrap().as_ref(), b"xy");
        lexer.space().unwrap();
        assert_eq!(lexer.nstring().unwrap(), None);
        lexer.end().unwrap();
    }

    #[test]
    fn broken_words_are_faults() {
        for bad in ["\"open", "\"a\\b\"", "{5}\r\nabc", "{5}", "{x}\r\n", "{1}\r\n\0", "(", ""] {
            assert!(Lexer::new(bad.as_bytes()).astring().is_err(), "{bad:?}");
        }
    }
}
