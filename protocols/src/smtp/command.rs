//! Commands: from a line to a verb with its arguments. RFC 5321 section 4.1.

use super::params::{MailParams, ParamFault, RecipientParams};
use super::xclient::{self, Client};
use crate::address::{Address, path};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Helo(String),
    Ehlo(String),
    Lhlo(String),
    Mail {
        from: Option<Address>,
        params: MailParams,
    },
    Rcpt {
        to: Address,
        params: RecipientParams,
    },
    Data,
    Bdat {
        octets: u64,
        last: bool,
    },
    Rset,
    Noop,
    Help,
    Vrfy,
    Expn,
    Quit,
    StartTls,
    /// Mechanism and initial response, still in base64.
    Auth {
        mechanism: Vec<u8>,
        initial: Option<Vec<u8>>,
    },
    Xclient(Client),
}

/// What is wrong with a line. `Verb`: no such command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Verb,
    Arguments,
    Address,
    Param(ParamFault),
    /// A BDAT, or something like it, that does not say how many octets follow.
    Chunk,
    /// A request of HTTP: a browser was made to talk to us, and its body would be commands.
    Http,
}

const HELLO_BYTES_MAX: usize = 255;

pub(super) fn parse(line: &[u8], postmaster_domain: &str) -> Result<Command, Syntax> {
    let end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
    let (verb, rest) = line.split_at_checked(end).unwrap_or((line, b""));
    let arguments = rest.trim_ascii();
    match verb.to_ascii_uppercase().as_slice() {
        b"HELO" => Ok(Command::Helo(hello(arguments)?)),
        b"EHLO" => Ok(Command::Ehlo(hello(arguments)?)),
        b"LHLO" => Ok(Command::Lhlo(hello(arguments)?)),
        b"MAIL" => mail(arguments),
        b"RCPT" => recipient(arguments, postmaster_domain),
        b"DATA" => bare(arguments, Command::Data),
        b"BDAT" => bdat(arguments),
        b"RSET" => bare(arguments, Command::Rset),
        // RFC 5321 sections 4.1.1.6 to 4.1.1.9: an argument is allowed, and ignored.
        b"NOOP" => Ok(Command::Noop),
        b"HELP" => Ok(Command::Help),
        b"VRFY" if arguments.is_empty() => Err(Syntax::Arguments),
        b"VRFY" => Ok(Command::Vrfy),
        b"EXPN" => Ok(Command::Expn),
        b"QUIT" => bare(arguments, Command::Quit),
        b"STARTTLS" => bare(arguments, Command::StartTls),
        b"AUTH" => auth(arguments),
        b"XCLIENT" => Ok(Command::Xclient(xclient::parse(arguments)?)),
        b"GET" | b"POST" | b"PUT" | b"HEAD" | b"OPTIONS" | b"CONNECT" | b"DELETE" | b"PATCH" => {
            Err(Syntax::Http)
        }
        // `BDAT47`, ` BDAT 47`: whoever reads these more kindly than we do sends
        // octets behind them.
        _ if keyword(line.trim_ascii_start(), b"BDAT").is_some() => Err(Syntax::Chunk),
        _ => Err(Syntax::Verb),
    }
}

fn bare(arguments: &[u8], command: Command) -> Result<Command, Syntax> {
    if arguments.is_empty() { Ok(command) } else { Err(Syntax::Arguments) }
}

/// Clients say all sorts of things here; what matters is that it fits into a header and a log.
fn hello(arguments: &[u8]) -> Result<String, Syntax> {
    let name = std::str::from_utf8(arguments).map_err(|_| Syntax::Arguments)?;
    let name = name.split(' ').next().unwrap_or_default();
    let fine =
        !name.is_empty() && name.len() <= HELLO_BYTES_MAX && !name.chars().any(char::is_control);
    if fine { Ok(name.to_owned()) } else { Err(Syntax::Arguments) }
}

fn mail(arguments: &[u8]) -> Result<Command, Syntax> {
    let rest = keyword(arguments, b"FROM:").ok_or(Syntax::Arguments)?;
    let (from, rest) = path(rest, None).ok_or(Syntax::Address)?;
    Ok(Command::Mail { from, params: MailParams::parse(rest).map_err(Syntax::Param)? })
}

fn recipient(arguments: &[u8], postmaster_domain: &str) -> Result<Command, Syntax> {
    let rest = keyword(arguments, b"TO:").ok_or(Syntax::Arguments)?;
    let (to, rest) = path(rest, Some(postmaster_domain)).ok_or(Syntax::Address)?;
    let to = to.ok_or(Syntax::Address)?;
    Ok(Command::Rcpt { to, params: RecipientParams::parse(rest).map_err(Syntax::Param)? })
}

/// What follows a keyword like `FROM:`. A space after the colon is wrong but widespread.
fn keyword<'l>(arguments: &'l [u8], keyword: &[u8]) -> Option<&'l [u8]> {
    let (head, rest) = arguments.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| rest.trim_ascii_start())
}

/// RFC 3030 section 2.
fn bdat(arguments: &[u8]) -> Result<Command, Syntax> {
    let mut words = arguments.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let digits =
        words.next().filter(|word| word.len() <= 18 && word.iter().all(u8::is_ascii_digit));
    let octets = digits.and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
    let octets = octets.ok_or(Syntax::Chunk)?;
    match (words.next(), words.next()) {
        (None, None) => Ok(Command::Bdat { octets, last: false }),
        (Some(word), None) if word.eq_ignore_ascii_case(b"LAST") => {
            Ok(Command::Bdat { octets, last: true })
        }
        (_, _) => Err(Syntax::Chunk),
    }
}

/// RFC 4954 section 4.
fn auth(arguments: &[u8]) -> Result<Command, Syntax> {
    let mut words = arguments.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let mechanism = words.next().ok_or(Syntax::Arguments)?.to_vec();
    let initial = words.next().map(<[u8]>::to_vec);
    if words.next().is_some() {
        return Err(Syntax::Arguments);
    }
    Ok(Command::Auth { mechanism, initial })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, Syntax> {
        parse(line.as_bytes(), "us.test")
    }

    #[test]
    fn commands_are_read_in_any_case() {
        assert_eq!(read("ehlo a.test"), Ok(Command::Ehlo("a.test".into())));
        assert_eq!(read("Data "), Ok(Command::Data));
        assert_eq!(read("bdat 10 last"), Ok(Command::Bdat { octets: 10, last: true }));
        assert_eq!(read("NOOP whatever"), Ok(Command::Noop));
        let from = Address::parse(b"a@b");
        assert_eq!(
            read("MAIL From: <a@b>"),
            Ok(Command::Mail { from, params: MailParams::default() })
        );
    }

    #[test]
    fn odd_lines_are_told_apart() {
        for (line, fault) in [
            ("", Syntax::Verb),
            ("XYZZY", Syntax::Verb),
            ("EHLO", Syntax::Arguments),
            ("DATA now", Syntax::Arguments),
            ("MAIL TO:<a@b>", Syntax::Arguments),
            ("MAIL FROM:a@b", Syntax::Address),
            ("RCPT TO:<>", Syntax::Address),
            ("MAIL FROM:<postmaster>", Syntax::Address),
            ("BDAT", Syntax::Chunk),
            ("BDAT -1", Syntax::Chunk),
            ("BDAT 99999999999999999999", Syntax::Chunk),
            ("BDAT 1 FIRST", Syntax::Chunk),
            ("bdat1", Syntax::Chunk),
            ("\tBDAT 1", Syntax::Chunk),
            ("VRFY", Syntax::Arguments),
            ("POST / HTTP/1.1", Syntax::Http),
            ("connect mx.test:25 HTTP/1.1", Syntax::Http),
        ] {
            assert_eq!(read(line), Err(fault), "{line:?}");
        }
    }
}
