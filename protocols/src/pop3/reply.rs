//! Refusals: `-ERR`, with the response codes of RFC 2449 section 8 and RFC 3206.

use crate::Outbox;
use std::borrow::Cow;
use std::fmt::Write;

/// The code in brackets, by which a client knows whom to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// The credentials are wrong (RFC 3206 section 5).
    Auth,
    /// Try again later (RFC 3206 section 4).
    SysTemp,
    /// Needs a human (RFC 3206 section 4).
    SysPerm,
}

impl Code {
    fn text(self) -> &'static str {
        match self {
            Code::Auth => "[AUTH] ",
            Code::SysTemp => "[SYS/TEMP] ",
            Code::SysPerm => "[SYS/PERM] ",
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
    pub const BUSY: Refusal = Refusal::coded(Code::SysTemp, "Too busy, try again later");
    /// A shard has halted, or another core did not answer.
    pub const NO_STORE: Refusal =
        Refusal::coded(Code::SysTemp, "Mail store not available, try again later");
    /// Another session has expunged it.
    pub const GONE: Refusal = Refusal::plain("That message is gone");
    /// Its record does not verify.
    pub const CORRUPT: Refusal = Refusal::coded(Code::SysPerm, "That message is damaged");
    /// Some of what was marked could not be removed at QUIT.
    pub const NOT_DELETED: Refusal =
        Refusal::coded(Code::SysTemp, "Some deleted messages were not removed");

    pub(super) const fn plain(text: &'static str) -> Refusal {
        Refusal { code: None, text: Cow::Borrowed(text) }
    }

    pub(super) const fn coded(code: Code, text: &'static str) -> Refusal {
        Refusal { code: Some(code), text: Cow::Borrowed(text) }
    }

    /// The same refusal in other words.
    #[must_use]
    pub fn saying(self, text: &str) -> Refusal {
        // What came from elsewhere must not end the line.
        let text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect();
        Refusal { text: Cow::Owned(text), ..self }
    }

    pub(super) fn write(&self, output: &mut Outbox) {
        // Writing to an outbox can't fail.
        let _ = write!(output, "-ERR {}{}\r\n", self.code.map_or("", Code::text), self.text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_one_line_with_their_code() {
        let mut output = Outbox::new();
        Refusal::BUSY.saying("a\r\n+OK fine").write(&mut output);
        Refusal::GONE.write(&mut output);
        assert_eq!(
            output.as_bytes(),
            b"-ERR [SYS/TEMP] a  +OK fine\r\n-ERR That message is gone\r\n"
        );
    }
}
