//! Commands: from a line to a keyword with its arguments. RFC 1939 sections 3 to 7.

/// A number of a message as the client counts: from one.
pub(super) type Number = usize;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    User(String),
    /// The rest of the line, spaces included.
    Pass(Vec<u8>),
    /// Mechanism and initial response, still in base64 (RFC 5034).
    Auth {
        mechanism: Vec<u8>,
        initial: Option<Vec<u8>>,
    },
    Stls,
    Capa,
    Stat,
    List(Option<Number>),
    Uidl(Option<Number>),
    Retr(Number),
    Top(Number, u64),
    Dele(Number),
    Noop,
    Rset,
    Quit,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Keyword,
    Arguments,
}

const USER_BYTES_MAX: usize = 512;

pub(super) fn parse(line: &[u8]) -> Result<Command, Syntax> {
    let end = memchr::memchr(b' ', line).unwrap_or(line.len());
    let (keyword, rest) = line.split_at_checked(end).unwrap_or((line, b""));
    let raw = rest.get(1..).unwrap_or_default();
    let arguments = Arguments(raw);
    match keyword.to_ascii_uppercase().as_slice() {
        b"USER" => user(raw),
        b"PASS" if raw.is_empty() => Err(Syntax::Arguments),
        b"PASS" => Ok(Command::Pass(raw.to_vec())),
        b"AUTH" => arguments.auth(),
        b"STLS" => arguments.none(Command::Stls),
        b"CAPA" => arguments.none(Command::Capa),
        b"STAT" => arguments.none(Command::Stat),
        b"LIST" => arguments.perhaps_number().map(Command::List),
        b"UIDL" => arguments.perhaps_number().map(Command::Uidl),
        b"RETR" => arguments.number().map(Command::Retr),
        b"TOP" => arguments.number_and_lines(),
        b"DELE" => arguments.number().map(Command::Dele),
        b"NOOP" => arguments.none(Command::Noop),
        b"RSET" => arguments.none(Command::Rset),
        b"QUIT" => arguments.none(Command::Quit),
        _ => Err(Syntax::Keyword),
    }
}

fn user(raw: &[u8]) -> Result<Command, Syntax> {
    let name = std::str::from_utf8(raw).map_err(|_| Syntax::Arguments)?.trim_matches(' ');
    let fine =
        !name.is_empty() && name.len() <= USER_BYTES_MAX && !name.chars().any(char::is_control);
    if fine { Ok(Command::User(name.to_owned())) } else { Err(Syntax::Arguments) }
}

/// Words between spaces; clients that add one at the end are forgiven.
struct Arguments<'l>(&'l [u8]);

impl<'l> Arguments<'l> {
    fn words(&self) -> impl Iterator<Item = &'l [u8]> {
        self.0.split(|&byte| byte == b' ').filter(|word| !word.is_empty())
    }

    fn none(&self, command: Command) -> Result<Command, Syntax> {
        if self.words().next().is_none() { Ok(command) } else { Err(Syntax::Arguments) }
    }

    fn number(&self) -> Result<Number, Syntax> {
        self.perhaps_number()?.ok_or(Syntax::Arguments)
    }

    fn perhaps_number(&self) -> Result<Option<Number>, Syntax> {
        let mut words = self.words();
        match (words.next(), words.next()) {
            (None, _) => Ok(None),
            (Some(word), None) => number(word).map(Some),
            (Some(_), Some(_)) => Err(Syntax::Arguments),
        }
    }

    fn number_and_lines(&self) -> Result<Command, Syntax> {
        let mut words = self.words();
        match (words.next(), words.next(), words.next()) {
            (Some(message), Some(lines), None) => {
                let lines = u64::try_from(number(lines)?).unwrap_or(u64::MAX);
                Ok(Command::Top(number(message)?, lines))
            }
            (_, _, _) => Err(Syntax::Arguments),
        }
    }

    fn auth(&self) -> Result<Command, Syntax> {
        let mut words = self.words();
        match (words.next(), words.next(), words.next()) {
            (Some(mechanism), initial, None) => Ok(Command::Auth {
                mechanism: mechanism.to_vec(),
                initial: initial.map(<[u8]>::to_vec),
            }),
            (_, _, _) => Err(Syntax::Arguments),
        }
    }
}

/// Digits only; more than fits is more than there are messages.
fn number(word: &[u8]) -> Result<usize, Syntax> {
    let digits = word.len() <= 20 && word.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(word).ok().filter(|_| digits).ok_or(Syntax::Arguments)?;
    Ok(text.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_in_any_case() {
        for (line, command) in [
            ("user ann@example.test", Command::User("ann@example.test".into())),
            ("PASS  two words ", Command::Pass(b" two words ".to_vec())),
            ("List", Command::List(None)),
            ("LIST 2", Command::List(Some(2))),
            ("uidl ", Command::Uidl(None)),
            ("TOP 1 0", Command::Top(1, 0)),
            ("RETR 99999999999999999999", Command::Retr(usize::MAX)),
            ("QUIT ", Command::Quit),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(command), "{line}");
        }
        let auth = Command::Auth { mechanism: b"PLAIN".to_vec(), initial: Some(b"=".to_vec()) };
        assert_eq!(parse(b"AUTH PLAIN ="), Ok(auth));
    }

    #[test]
    fn odd_lines_are_told_apart() {
        for line in ["", "LAST", "APOP a b", "XYZZY", " QUIT"] {
            assert_eq!(parse(line.as_bytes()), Err(Syntax::Keyword), "{line:?}");
        }
        for line in [
            "USER",
            "USER  ",
            "PASS",
            "AUTH",
            "AUTH a b c",
            "STAT 1",
            "LIST x",
            "LIST -1",
            "LIST 1 2",
            "RETR",
            "TOP 1",
            "TOP 1 -1",
            "TOP 1 2 3",
            "DELE one",
            "QUIT now",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(Syntax::Arguments), "{line:?}");
        }
        assert_eq!(parse(b"USER \xff"), Err(Syntax::Arguments));
    }
}
