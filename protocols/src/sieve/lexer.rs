//! Tokens of a script. RFC 5228 section 8.1.

use super::fault::{Fault, Position, shown};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// In lower case: identifiers do not mind it.
    Identifier(String),
    /// In lower case, without its colon.
    Tag(String),
    Number(u64),
    Text(String),
    /// One of `[ ] ( ) { } , ;`.
    Mark(char),
    End,
}

impl Token {
    /// For messages: what was found.
    pub(super) fn shown(&self) -> String {
        match self {
            Token::Identifier(name) => format!("`{}`", shown(name)),
            Token::Tag(name) => format!("`:{}`", shown(name)),
            Token::Number(number) => format!("the number {number}"),
            Token::Text(text) => format!("the string \"{}\"", shown(text)),
            Token::Mark(mark) => format!("`{mark}`"),
            Token::End => "the end of the script".into(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Lexer<'s> {
    rest: &'s str,
    at: Position,
}

impl<'s> Lexer<'s> {
    /// # Errors
    /// When the octets are not UTF-8, or hold a NUL.
    pub(super) fn new(source: &'s [u8]) -> Result<Lexer<'s>, Fault> {
        // Some editors begin a file with a mark of its byte order.
        let source = source.strip_prefix("\u{feff}".as_bytes()).unwrap_or(source);
        match std::str::from_utf8(source) {
            Ok(rest) => Ok(Lexer { rest, at: Position::START }),
            Err(error) => {
                let good = source.get(..error.valid_up_to()).unwrap_or_default();
                let good = std::str::from_utf8(good).unwrap_or_default();
                let mut lexer = Lexer { rest: good, at: Position::START };
                while lexer.bump().is_some() {}
                Err(Fault::new(lexer.at, "not UTF-8: save the script in that encoding"))
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let mut characters = self.rest.chars();
        let character = characters.next()?;
        self.rest = characters.as_str();
        if character == '\n' {
            self.at.line = self.at.line.saturating_add(1);
            self.at.column = 1;
        } else {
            self.at.column = self.at.column.saturating_add(1);
        }
        Some(character)
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(character) = self.peek().filter(|character| wanted(*character)) {
            taken.push(character);
            self.bump();
        }
        taken
    }

    /// The next token, and where it begins.
    pub(super) fn next(&mut self) -> Result<(Token, Position), Fault> {
        self.skip_blanks()?;
        let at = self.at;
        let Some(first) = self.peek() else { return Ok((Token::End, at)) };
        let token = match first {
            '[' | ']' | '(' | ')' | '{' | '}' | ',' | ';' => {
                self.bump();
                Token::Mark(first)
            }
            '"' => {
                self.bump();
                Token::Text(self.quoted(at)?)
            }
            ':' => {
                self.bump();
                let name = self.take_while(is_word);
                if name.is_empty() {
                    return Err(Fault::new(at, "a name must follow `:`, as in `:is`"));
                }
                Token::Tag(name.to_ascii_lowercase())
            }
            '0'..='9' => self.number(at)?,
            first if is_word(first) => {
                let name = self.take_while(is_word).to_ascii_lowercase();
                if name == "text" && self.peek() == Some(':') {
                    self.bump();
                    Token::Text(self.multi_line(at)?)
                } else {
                    Token::Identifier(name)
                }
            }
            other if other.is_control() => {
                return Err(Fault::new(at, "a character that can't be seen: remove it"));
            }
            other => {
                let text = format!("`{}` has no meaning here", shown(&other.to_string()));
                return Err(Fault::new(at, text));
            }
        };
        Ok((token, at))
    }

    fn skip_blanks(&mut self) -> Result<(), Fault> {
        loop {
            let at = self.at;
            match self.peek() {
                Some(' ' | '\t' | '\r' | '\n') => {
                    self.bump();
                }
                Some('#') => {
                    self.take_while(|character| character != '\n');
                }
                Some('/') if self.rest.starts_with("/*") => {
                    let Some(end) = self.rest.find("*/").filter(|end| *end >= 2) else {
                        // `/*/` opens and does not close.
                        if self.close_comment() {
                            continue;
                        }
                        return Err(Fault::new(at, "this comment is not closed: add `*/`"));
                    };
                    let left = self.rest.len().saturating_sub(end).saturating_sub(2);
                    while self.rest.len() > left && self.bump().is_some() {}
                }
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Skips a comment whose opening is followed by `/`.
    fn close_comment(&mut self) -> bool {
        self.bump();
        self.bump();
        while !self.rest.is_empty() {
            if self.rest.starts_with("*/") {
                self.bump();
                self.bump();
                return true;
            }
            self.bump();
        }
        false
    }

    fn number(&mut self, at: Position) -> Result<Token, Fault> {
        let digits = self.take_while(|character| character.is_ascii_digit());
        let unit = self.take_while(is_word);
        let shift = match unit.as_str() {
            "" => 0,
            "k" | "K" => 10,
            "m" | "M" => 20,
            "g" | "G" => 30,
            other => {
                let text = format!(
                    "`{digits}{}` is no number: only K, M or G may follow the digits",
                    shown(other)
                );
                return Err(Fault::new(at, text));
            }
        };
        let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
        match number {
            // RFC 5228 section 2.4.1 asks for 31 bits; sizes of messages fit well.
            Some(number) if number <= u64::from(u32::MAX) => Ok(Token::Number(number)),
            Some(_) | None => Err(Fault::new(at, "this number is too large: at most 4294967295")),
        }
    }

    /// Lines within end with CRLF whatever the script's do.
    fn quoted(&mut self, at: Position) -> Result<String, Fault> {
        let mut text = String::new();
        while let Some(character) = self.bump() {
            match character {
                '"' => return Ok(text),
                // Before any character a backslash stands for that character.
                '\\' => text.extend(self.bump()),
                '\0' => return Err(Fault::new(at, "a NUL in this string: remove it")),
                '\n' if !text.ends_with('\r') => text.push_str("\r\n"),
                other => text.push(other),
            }
        }
        Err(Fault::new(at, "this string is not closed: add `\"`"))
    }

    /// After `text:`. Lines end with CRLF whatever the script's do; a doubled dot comes off.
    fn multi_line(&mut self, at: Position) -> Result<String, Fault> {
        self.take_while(|character| matches!(character, ' ' | '\t'));
        if self.peek() == Some('#') {
            self.take_while(|character| character != '\n');
        }
        self.take_while(|character| character == '\r');
        if self.bump() != Some('\n') {
            return Err(Fault::new(at, "the text begins on the line after `text:`"));
        }
        let mut text = String::new();
        while !self.rest.is_empty() {
            let line = self.take_while(|character| character != '\n');
            let ended = self.bump().is_some();
            let line = line.strip_suffix('\r').unwrap_or(&line);
            if line == "." {
                return Ok(text);
            }
            if line.contains('\0') {
                return Err(Fault::new(at, "a NUL in this text: remove it"));
            }
            if !ended {
                break;
            }
            text.push_str(if line.starts_with("..") {
                line.get(1..).unwrap_or(line)
            } else {
                line
            });
            text.push_str("\r\n");
        }
        Err(Fault::new(at, "this text is not closed: add a line with a single dot"))
    }
}

fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(source: &str) -> Result<Vec<Token>, Fault> {
        let mut lexer = Lexer::new(source.as_bytes())?;
        let mut tokens = Vec::new();
        loop {
            match lexer.next()?.0 {
                Token::End => return Ok(tokens),
                token => tokens.push(token),
            }
        }
    }

    fn text(text: &str) -> Token {
        Token::Text(text.into())
    }

    #[test]
    fn tokens_of_every_kind_are_read() {
        let read = tokens(
            "IF :Over 2K /* a * b */ \"a\\\"b\\c\" # end\r\n[text: # note\r\na\r\n..b\r\n.\r\n]",
        );
        let expected = vec![
            Token::Identifier("if".into()),
            Token::Tag("over".into()),
            Token::Number(2048),
            text("a\"bc"),
            Token::Mark('['),
            text("a\r\n.b\r\n"),
            Token::Mark(']'),
        ];
        assert_eq!(read.unwrap(), expected);
        assert_eq!(tokens("/*/ x */ a").unwrap(), [Token::Identifier("a".into())]);
        assert_eq!(tokens("text:\nx\n.\n").unwrap(), [text("x\r\n")]);
        assert_eq!(tokens("\"a\nb\r\nc\"").unwrap(), [text("a\r\nb\r\nc")]);
    }

    #[test]
    fn faults_name_their_place() {
        for (source, expected) in [
            ("keep;\n  \"abc", "line 2, column 3: this string is not closed: add `\"`"),
            ("/* é */ €", "line 1, column 9: `€` has no meaning here"),
            ("a /*", "line 1, column 3: this comment is not closed: add `*/`"),
            ("/*/", "line 1, column 1: this comment is not closed: add `*/`"),
            ("5000M", "line 1, column 1: this number is too large: at most 4294967295"),
            ("5KB", "line 1, column 1: `5KB` is no number: only K, M or G may follow the digits"),
            ("text: x", "line 1, column 1: the text begins on the line after `text:`"),
            (
                "text:\nx\n",
                "line 1, column 1: this text is not closed: add a line with a single dot",
            ),
            ("text:\n.", ""),
        ] {
            match tokens(source) {
                Err(fault) => assert_eq!(fault.to_string(), expected, "{source:?}"),
                Ok(_) => assert_eq!(expected, "", "{source:?}"),
            }
        }
        let fault = Lexer::new(b"keep;\nk\xff").unwrap_err();
        assert_eq!(fault.at, Position { line: 2, column: 2 });
    }
}
