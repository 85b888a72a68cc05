//! Replies: OK, NO or BYE, a response code, a text. RFC 5804 sections 1.3 and 4.

use crate::Outbox;
use crate::sieve::Fault;
use std::borrow::Cow;
use std::fmt::Write;

/// What is wrong, for programs. RFC 5804 section 1.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    AuthTooWeak,
    EncryptNeeded,
    Quota,
    QuotaMaxScripts,
    QuotaMaxSize,
    TryLater,
    Active,
    NonExistent,
    AlreadyExists,
}

impl Code {
    fn name(self) -> &'static str {
        match self {
            Code::AuthTooWeak => "AUTH-TOO-WEAK",
            Code::EncryptNeeded => "ENCRYPT-NEEDED",
            Code::Quota => "QUOTA",
            Code::QuotaMaxScripts => "QUOTA/MAXSCRIPTS",
            Code::QuotaMaxSize => "QUOTA/MAXSIZE",
            Code::TryLater => "TRYLATER",
            Code::Active => "ACTIVE",
            Code::NonExistent => "NONEXISTENT",
            Code::AlreadyExists => "ALREADYEXISTS",
        }
    }
}

/// A negative reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    code: Option<Code>,
    text: Cow<'static, str>,
}

impl Refusal {
    pub const BUSY: Refusal = Refusal::coded(Code::TryLater, "Too busy, try again later");
    /// A shard has halted, or another core did not answer.
    pub const NO_STORE: Refusal =
        Refusal::coded(Code::TryLater, "The scripts are not available, try again later");
    pub const NO_ROOM: Refusal = Refusal::coded(Code::Quota, "There is no room for this script");
    pub const TOO_MANY: Refusal =
        Refusal::coded(Code::QuotaMaxScripts, "There are too many scripts: delete one first");
    pub const TOO_LARGE: Refusal = Refusal::coded(Code::QuotaMaxSize, "The script is too large");
    pub const ACTIVE: Refusal =
        Refusal::coded(Code::Active, "The script is active: activate another one first");
    pub const NOT_FOUND: Refusal = Refusal::coded(Code::NonExistent, "There is no such script");
    pub const EXISTS: Refusal =
        Refusal::coded(Code::AlreadyExists, "There is a script of that name already");

    pub(super) const fn plain(text: &'static str) -> Refusal {
        Refusal { code: None, text: Cow::Borrowed(text) }
    }

    pub(super) const fn coded(code: Code, text: &'static str) -> Refusal {
        Refusal { code: Some(code), text: Cow::Borrowed(text) }
    }

    /// The script does not compile: its faults, a line for each.
    #[must_use]
    pub fn faulty(faults: &[Fault]) -> Refusal {
        Refusal { code: None, text: Cow::Owned(lines(faults)) }
    }

    pub(super) fn write(&self, word: &str, output: &mut Outbox) {
        // Writing to an outbox can't fail.
        let _ = match self.code {
            Some(code) => write!(output, "{word} ({}) ", code.name()),
            None => write!(output, "{word} "),
        };
        string(self.text.as_bytes(), output);
        output.push(b"\r\n");
    }
}

/// One fault or warning on each line.
pub(super) fn lines(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\r\n")
}

/// A string to a client: quoted, or a literal where it must be (RFC 5804 section 4).
pub(super) fn string(text: &[u8], output: &mut Outbox) {
    const QUOTED_BYTES_MAX: usize = 1024;
    let printable = std::str::from_utf8(text).is_ok_and(|text| !text.contains(char::is_control));
    if !printable || text.len() > QUOTED_BYTES_MAX {
        let _ = write!(output, "{{{}}}\r\n", text.len());
        output.push(text);
        return;
    }
    let out = output.buffer();
    out.push(b'"');
    for &byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sieve::{Limits, Script};

    #[test]
    fn replies_can_be_read_whatever_they_say() {
        let mut output = Outbox::new();
        Refusal::ACTIVE.write("NO", &mut output);
        string(b"a \"b\" \\c", &mut output);
        string(b"a\r\nOK", &mut output);
        string(b"\xff", &mut output);
        assert_eq!(
            output.as_bytes(),
            b"NO (ACTIVE) \"The script is active: activate another one first\"\r\n\
              \"a \\\"b\\\" \\\\c\"{5}\r\na\r\nOK{1}\r\n\xff"
        );
    }

    #[test]
    fn faults_are_told_a_line_for_each() {
        let faults = Script::compile(b"kep;\nfileinto \"x\";", &Limits::default()).unwrap_err();
        let mut output = Outbox::new();
        Refusal::faulty(&faults).write("NO", &mut output);
        let said = String::from_utf8(output.take()).unwrap();
        let (head, text) = said.split_once("\r\n").unwrap();
        assert_eq!(head, format!("NO {{{}}}", text.len() - 2));
        assert_eq!(text.lines().count(), 2);
        assert!(text.starts_with("line 1, column 1: unknown command `kep`; did you mean `keep`?"));
    }
}
