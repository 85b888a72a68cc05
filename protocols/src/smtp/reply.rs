//! Replies: codes of RFC 5321 section 4.2, enhanced codes of RFC 3463 and 5248.

use crate::Outbox;
use std::borrow::Cow;
use std::fmt::Write;

/// RFC 3463: class, subject, detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enhanced(pub u8, pub u16, pub u16);

/// A reply of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    enhanced: Option<Enhanced>,
    text: Cow<'static, str>,
}

/// A negative reply. Only these can be made outside of this crate for the end of data: the positive
/// one needs a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(Reply);

impl Reply {
    #[must_use]
    pub(super) const fn new(code: u16, enhanced: Enhanced, text: &'static str) -> Reply {
        Reply { code, enhanced: Some(enhanced), text: Cow::Borrowed(text) }
    }

    /// Greetings and 354 carry no enhanced code (RFC 2034 section 4).
    pub(super) const fn bare(code: u16, text: &'static str) -> Reply {
        Reply { code, enhanced: None, text: Cow::Borrowed(text) }
    }

    #[must_use]
    pub(super) fn with_text(self, text: String) -> Reply {
        // What came from elsewhere must not end the line.
        let text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect();
        Reply { text: Cow::Owned(text), ..self }
    }

    #[must_use]
    pub fn code(&self) -> u16 {
        self.code
    }

    pub(super) fn write(&self, output: &mut Outbox) {
        // Writing to an outbox can't fail.
        let _ = match self.enhanced {
            Some(Enhanced(class, subject, detail)) => {
                write!(output, "{} {class}.{subject}.{detail} {}\r\n", self.code, self.text)
            }
            None => write!(output, "{} {}\r\n", self.code, self.text),
        };
    }
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal $class:literal $subject:literal $detail:literal $text:literal;)*) => {
        impl Refusal {
            $($(#[$doc])* pub const $name: Refusal =
                Refusal(Reply::new($code, Enhanced($class, $subject, $detail), $text));)*

            /// All of them, for tests.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$name),*];
        }
    };
}

refusals! {
    /// The store is behind: try again.
    BUSY = 451 4 3 0 "Too busy, try again later";
    /// A shard has halted, or another core did not answer.
    NO_STORE = 451 4 3 0 "Mail store not available, try again later";
    DISK_FULL = 452 4 3 1 "Insufficient system storage";
    MAILBOX_FULL = 452 4 2 2 "Mailbox full";
    TOO_MANY_RECIPIENTS = 452 4 5 3 "Too many recipients";
    TOO_BIG = 552 5 3 4 "Message too big";
    NO_SUCH_USER = 550 5 1 1 "No such user here";
    RELAY_DENIED = 550 5 7 1 "Relaying denied";
    LOOP = 554 5 4 6 "Mail is going in circles";
    NOT_OWN_SENDER = 550 5 7 1 "Sender address does not belong to this account";
    LINE_ENDS = 554 5 6 0 "Message holds a CR or LF that is not CRLF";
    HOLDS_NUL = 554 5 6 0 "Message holds a NUL";
    TEXT_LINE_TOO_LONG = 554 5 6 0 "Message holds a line that is too long";
    STOPPING = 421 4 3 2 "Shutting down";
}

impl Refusal {
    /// The same refusal in other words.
    #[must_use]
    pub fn saying(self, text: String) -> Refusal {
        Refusal(self.0.with_text(text))
    }

    pub(super) fn reply(&self) -> &Reply {
        &self.0
    }

    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.0.code >= 500
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_negative_and_its_class_matches() {
        for refusal in Refusal::ALL {
            let reply = refusal.reply();
            assert!((400..600).contains(&reply.code()), "{reply:?}");
            assert_eq!(reply.enhanced.map(|e| u16::from(e.0)), Some(reply.code / 100), "{reply:?}");
        }
    }

    #[test]
    fn text_from_elsewhere_stays_on_its_line() {
        let mut output = Outbox::new();
        Refusal::BUSY.saying("a\r\n250 fine".into()).reply().write(&mut output);
        assert_eq!(output.as_bytes(), b"451 4.3.0 a  250 fine\r\n");
    }
}
