//! Commands: from what was collected to a keyword with its arguments. RFC 5804 section 2.

use crate::sieve::is_script_name;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Mechanism, and initial response in base64.
    Authenticate {
        mechanism: Vec<u8>,
        initial: Option<Vec<u8>>,
    },
    StartTls,
    Logout,
    Capability,
    HaveSpace {
        name: String,
        octets: u64,
    },
    PutScript {
        name: String,
        script: Vec<u8>,
    },
    ListScripts,
    SetActive(Option<String>),
    GetScript(String),
    DeleteScript(String),
    RenameScript {
        from: String,
        to: String,
    },
    CheckScript(Vec<u8>),
    Noop(Option<Vec<u8>>),
    Unauthenticate,
}

/// What is wrong with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Keyword,
    Arguments,
    /// No script can have this name.
    Name,
}

#[derive(Debug, PartialEq, Eq)]
enum Argument {
    Text(Vec<u8>),
    Number(u64),
}

pub(super) fn parse(collected: &[u8]) -> Result<Command, Syntax> {
    let end = collected.iter().position(|byte| *byte == b' ').unwrap_or(collected.len());
    let (keyword, rest) = collected.split_at_checked(end).unwrap_or((collected, b""));
    let keyword = keyword.to_ascii_uppercase();
    let known = [
        "AUTHENTICATE",
        "STARTTLS",
        "LOGOUT",
        "CAPABILITY",
        "HAVESPACE",
        "PUTSCRIPT",
        "LISTSCRIPTS",
        "SETACTIVE",
        "GETSCRIPT",
        "DELETESCRIPT",
        "RENAMESCRIPT",
        "CHECKSCRIPT",
        "NOOP",
        "UNAUTHENTICATE",
    ];
    if !known.iter().any(|known| known.as_bytes() == keyword) {
        return Err(Syntax::Keyword);
    }
    let mut arguments = arguments(rest)?.into_iter();
    let command = match keyword.as_slice() {
        b"AUTHENTICATE" => Command::Authenticate {
            mechanism: text(arguments.next())?,
            initial: arguments.next().map(|argument| text(Some(argument))).transpose()?,
        },
        b"STARTTLS" => Command::StartTls,
        b"LOGOUT" => Command::Logout,
        b"CAPABILITY" => Command::Capability,
        b"HAVESPACE" => {
            let name = name(arguments.next())?;
            match arguments.next() {
                Some(Argument::Number(octets)) => Command::HaveSpace { name, octets },
                Some(Argument::Text(_)) | None => return Err(Syntax::Arguments),
            }
        }
        b"PUTSCRIPT" => {
            let name = name(arguments.next())?;
            Command::PutScript { name, script: text(arguments.next())? }
        }
        b"LISTSCRIPTS" => Command::ListScripts,
        b"SETACTIVE" => match arguments.next() {
            Some(Argument::Text(text)) if text.is_empty() => Command::SetActive(None),
            argument => Command::SetActive(Some(name(argument)?)),
        },
        b"GETSCRIPT" => Command::GetScript(name(arguments.next())?),
        b"DELETESCRIPT" => Command::DeleteScript(name(arguments.next())?),
        b"RENAMESCRIPT" => {
            let from = name(arguments.next())?;
            Command::RenameScript { from, to: name(arguments.next())? }
        }
        b"CHECKSCRIPT" => Command::CheckScript(text(arguments.next())?),
        b"NOOP" => {
            Command::Noop(arguments.next().map(|argument| text(Some(argument))).transpose()?)
        }
        _ => Command::Unauthenticate,
    };
    if arguments.next().is_some() { Err(Syntax::Arguments) } else { Ok(command) }
}

/// A response of the client's in an exchange: one string.
pub(super) fn response(collected: &[u8]) -> Result<Vec<u8>, Syntax> {
    let mut arguments = arguments(collected)?.into_iter();
    let response = text(arguments.next())?;
    if arguments.next().is_some() { Err(Syntax::Arguments) } else { Ok(response) }
}

/// Whether the command that begins like this carries a script.
pub(super) fn carries_script(collected: &[u8]) -> bool {
    [b"PUTSCRIPT ".as_slice(), b"CHECKSCRIPT "].iter().any(|verb| {
        collected.get(..verb.len()).is_some_and(|start| start.eq_ignore_ascii_case(verb))
    })
}

fn text(argument: Option<Argument>) -> Result<Vec<u8>, Syntax> {
    match argument {
        Some(Argument::Text(text)) => Ok(text),
        Some(Argument::Number(_)) | None => Err(Syntax::Arguments),
    }
}

fn name(argument: Option<Argument>) -> Result<String, Syntax> {
    let name = String::from_utf8(text(argument)?).map_err(|_| Syntax::Name)?;
    if is_script_name(&name) { Ok(name) } else { Err(Syntax::Name) }
}

fn arguments(text: &[u8]) -> Result<Vec<Argument>, Syntax> {
    /// More than any command takes.
    const ARGUMENTS_MAX: usize = 4;
    let mut found = Vec::new();
    let mut rest = text.trim_ascii_start();
    while let Some((first, after)) = rest.split_first() {
        let (argument, behind) = match first {
            b'"' => quoted(after)?,
            b'{' => literal(after)?,
            _ => number(rest)?,
        };
        found.push(argument);
        // Something must stand between two arguments.
        if !behind.is_empty() && !behind.starts_with(b" ") || found.len() > ARGUMENTS_MAX {
            return Err(Syntax::Arguments);
        }
        rest = behind.trim_ascii_start();
    }
    Ok(found)
}

/// After the opening quote.
fn quoted(text: &[u8]) -> Result<(Argument, &[u8]), Syntax> {
    let mut value = Vec::new();
    let mut rest = text;
    loop {
        match rest {
            [b'"', after @ ..] => return Ok((Argument::Text(value), after)),
            [b'\\', escaped, after @ ..] => {
                value.push(*escaped);
                rest = after;
            }
            [byte, after @ ..] => {
                value.push(*byte);
                rest = after;
            }
            [] => return Err(Syntax::Arguments),
        }
    }
}

/// After the opening brace.
fn literal(text: &[u8]) -> Result<(Argument, &[u8]), Syntax> {
    let end = memchr::memchr(b'+', text).ok_or(Syntax::Arguments)?;
    let (digits, rest) = text.split_at_checked(end).ok_or(Syntax::Arguments)?;
    let digits = std::str::from_utf8(digits).map_err(|_| Syntax::Arguments)?;
    let length: usize = digits.parse().map_err(|_| Syntax::Arguments)?;
    let rest = rest.strip_prefix(b"+}\r\n").ok_or(Syntax::Arguments)?;
    let (value, rest) = rest.split_at_checked(length).ok_or(Syntax::Arguments)?;
    Ok((Argument::Text(value.to_vec()), rest))
}

fn number(text: &[u8]) -> Result<(Argument, &[u8]), Syntax> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end).ok_or(Syntax::Arguments)?;
    let digits = std::str::from_utf8(digits).map_err(|_| Syntax::Arguments)?;
    // More than 32 bits are asked for by nobody, and are too many all the same.
    let number = match digits.parse::<u64>() {
        Ok(number) => number,
        Err(_) if digits.is_empty() => return Err(Syntax::Arguments),
        Err(_) => u64::MAX,
    };
    Ok((Argument::Number(number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_in_any_case_and_with_strings_of_both_kinds() {
        for (collected, command) in [
            (&b"logout"[..], Command::Logout),
            (b"NOOP \"a\\\"b\"", Command::Noop(Some(b"a\"b".to_vec()))),
            (b"NOOP", Command::Noop(None)),
            (b"SetActive \"\"", Command::SetActive(None)),
            (b"GETSCRIPT {3+}\r\na b", Command::GetScript("a b".into())),
            (
                b"PUTSCRIPT \"x\" {6+}\r\nkeep;\n",
                Command::PutScript { name: "x".into(), script: b"keep;\n".to_vec() },
            ),
            (
                b"HAVESPACE {1+}\r\nx 99999999999999999999",
                Command::HaveSpace { name: "x".into(), octets: u64::MAX },
            ),
            (
                b"RENAMESCRIPT \"a\"  \"b\" ",
                Command::RenameScript { from: "a".into(), to: "b".into() },
            ),
            (
                b"AUTHENTICATE \"PLAIN\" \"\"",
                Command::Authenticate { mechanism: b"PLAIN".to_vec(), initial: Some(vec![]) },
            ),
        ] {
            assert_eq!(parse(collected), Ok(command), "{}", collected.escape_ascii());
        }
        assert_eq!(response(b"\"eA==\""), Ok(b"eA==".to_vec()));
    }

    #[test]
    fn odd_commands_are_told_apart() {
        for collected in [&b""[..], b"XYZZY", b" LOGOUT", b"NOOP\"x\""] {
            assert_eq!(parse(collected), Err(Syntax::Keyword), "{}", collected.escape_ascii());
        }
        for collected in [
            &b"LOGOUT now"[..],
            b"LOGOUT \"x\"",
            b"GETSCRIPT",
            b"GETSCRIPT 1",
            b"GETSCRIPT \"x",
            b"GETSCRIPT \"x\"\"y\"",
            b"GETSCRIPT {4+}\r\nabc",
            b"GETSCRIPT {3}\r\nabc",
            b"HAVESPACE \"x\" \"1\"",
            b"PUTSCRIPT \"x\"",
            b"NOOP \"a\" \"b\" \"c\" \"d\" \"e\" \"f\"",
        ] {
            assert_eq!(parse(collected), Err(Syntax::Arguments), "{}", collected.escape_ascii());
        }
        for collected in [&b"GETSCRIPT \"\""[..], b"GETSCRIPT \"\xff\"", b"GETSCRIPT {2+}\r\na\n"] {
            assert_eq!(parse(collected), Err(Syntax::Name), "{}", collected.escape_ascii());
        }
    }
}
