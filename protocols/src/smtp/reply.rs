//! Replies: codes of RFC 5321 section 4.2, enhanced codes of RFC 3463 and 5248.
//!
//! Whatever the text holds, it is one line of at most 512 octets (RFC 5321 section 4.5.3.1.5), and
//! ASCII unless the client has asked for SMTPUTF8 in this transaction (RFC 6531 section 3.7.4).

use crate::Outbox;
use std::borrow::Cow;
use std::fmt::Write;

/// Leaves room for both codes and the CRLF in a line of 512.
const TEXT_OCTETS_MAX: usize = 490;

/// RFC 3463: class, subject, detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enhanced(pub u8, pub u16, pub u16);

impl Enhanced {
    /// At the start of a reply's text: the code, and the text behind it.
    #[must_use]
    pub fn read(text: &[u8]) -> Option<(Enhanced, &[u8])> {
        let end = text.iter().position(|&byte| byte == b' ').unwrap_or(text.len());
        let (word, rest) = text.split_at_checked(end)?;
        let mut numbers = word.split(|&byte| byte == b'.').map(|digits| {
            let fine = (1..=3).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
            fine.then(|| std::str::from_utf8(digits).ok()?.parse::<u16>().ok()).flatten()
        });
        let class = match numbers.next()?? {
            2 => 2,
            4 => 4,
            5 => 5,
            _ => return None,
        };
        let (subject, detail) = (numbers.next()??, numbers.next()??);
        let rest = rest.strip_prefix(b" ").unwrap_or(rest);
        numbers.next().is_none().then_some((Enhanced(class, subject, detail), rest))
    }
}

/// `5.1.1`
impl std::fmt::Display for Enhanced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Enhanced(class, subject, detail) = self;
        write!(f, "{class}.{subject}.{detail}")
    }
}

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
        let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        text.truncate(text.floor_char_boundary(TEXT_OCTETS_MAX));
        Reply { text: Cow::Owned(text), ..self }
    }

    #[must_use]
    pub fn code(&self) -> u16 {
        self.code
    }

    /// To a client that has not asked for SMTPUTF8.
    pub(super) fn write(&self, output: &mut Outbox) {
        self.write_in(false, output);
    }

    pub(super) fn write_in(&self, smtp_utf8: bool, output: &mut Outbox) {
        // Writing to an outbox can't fail.
        let _ = write!(output, "{} ", self.code);
        if let Some(enhanced) = self.enhanced {
            let _ = write!(output, "{enhanced} ");
        }
        if smtp_utf8 || self.text.is_ascii() {
            output.push(self.text.as_bytes());
        } else {
            let ascii = self.text.chars().map(|c| if c.is_ascii() { c } else { '?' });
            output.push(ascii.collect::<String>().as_bytes());
        }
        output.push(b"\r\n");
    }
}

/// RFC 3463 section 2: the class says the same as the first digit of the code.
const fn class(code: u16) -> u8 {
    if code >= 500 { 5 } else { 4 }
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal $subject:literal $detail:literal $text:literal;)*) => {
        impl Refusal {
            $($(#[$doc])* pub const $name: Refusal =
                Refusal(Reply::new($code, Enhanced(class($code), $subject, $detail), $text));)*

            /// All of them, for tests.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$name),*];
        }
    };
}

refusals! {
    /// The store is behind: try again.
    BUSY = 451 3 0 "Too busy, try again later";
    /// A shard has halted, or another core did not answer.
    NO_STORE = 451 3 0 "Mail store not available, try again later";
    /// Greylisting.
    COME_AGAIN = 451 7 1 "Please try again in a few minutes";
    /// An account has sent as much as it may for now. What, and until when, goes in its place.
    TOO_MUCH = 450 7 1 "Too much was sent lately";
    DISK_FULL = 452 3 1 "Insufficient system storage";
    MAILBOX_FULL = 452 2 2 "Mailbox full";
    TOO_MANY_RECIPIENTS = 452 5 3 "Too many recipients";
    TOO_BIG = 552 3 4 "Message too big";
    NO_SUCH_USER = 550 1 1 "No such user here";
    RELAY_DENIED = 550 7 1 "Relaying denied";
    /// What the policy says goes in its place.
    POLICY = 550 7 1 "Refused by policy";
    LOOP = 554 4 6 "Mail is going in circles";
    NOT_OWN_SENDER = 550 7 1 "Sender address does not belong to this account";
    LINE_ENDS = 554 6 0 "Message holds a CR or LF that is not CRLF";
    HOLDS_NUL = 554 6 0 "Message holds a NUL";
    TEXT_LINE_TOO_LONG = 554 6 0 "Message holds a line that is too long";
    STOPPING = 421 3 2 "Shutting down";
}

/// As it goes out: `550 No such user here`.
impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.0.code, self.0.text)
    }
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
    fn enhanced_codes_are_read_as_they_are_written() {
        let code = Enhanced(5, 7, 30);
        assert_eq!(Enhanced::read(format!("{code} x y").as_bytes()), Some((code, &b"x y"[..])));
        assert_eq!(Enhanced::read(b"4.0.0"), Some((Enhanced(4, 0, 0), &b""[..])));
        for none in ["", "5", "5.1", "5.1.1.1 x", "3.1.1 x", "5.1.1000 x", "5..1 x", "5.1.a x"] {
            assert_eq!(Enhanced::read(none.as_bytes()), None, "{none}");
        }
    }

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

    #[test]
    fn a_reply_is_one_line_of_ascii_unless_utf8_was_asked_for() {
        let reply = Refusal::BUSY.saying("größer als 1 €".into());
        let mut output = Outbox::new();
        reply.reply().write(&mut output);
        reply.reply().write_in(true, &mut output);
        let expected = "451 4.3.0 gr??er als 1 ?\r\n451 4.3.0 größer als 1 €\r\n";
        assert_eq!(output.as_bytes(), expected.as_bytes());
    }

    #[test]
    fn a_reply_fits_its_line() {
        for letter in ["x", "ö", "€"] {
            let mut output = Outbox::new();
            let long = Refusal::BUSY.saying(letter.repeat(2000));
            long.reply().write_in(true, &mut output);
            assert!((490..=512).contains(&output.len()), "{}", output.len());
            assert!(std::str::from_utf8(output.as_bytes()).is_ok());
        }
    }
}
