//! Why a message is kept back, and since when: a field of ours beside its body.
//!
//! ```text
//! X-Spam-Quarantine: virus, since 2026-11-26T16:46:39Z
//! ```
//!
//! It is in the placement's prefix, where no sender writes, so what is read there is believed; it
//! stays when the message is released. One that a message brings along is renamed
//! (`filter::verdict::disarm`).

use super::Reason;
use crate::when::{parse_time, time_text};
use protocols::message::field::{Fields, unfold};

pub const FIELD: &str = "X-Spam-Quarantine";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    pub reason: Reason,
    /// Unix milliseconds, to the second.
    pub since: u64,
}

impl Note {
    /// The field, with its CRLF.
    pub fn field(&self) -> String {
        format!("{FIELD}: {}\r\n", self.value())
    }

    pub fn value(&self) -> String {
        format!("{}, since {}", self.reason.name(), time_text(self.since))
    }

    /// From a placement's prefix.
    pub fn read(prefix: &[u8]) -> Option<Note> {
        let field = Fields::new(prefix).find(|field| field.is(FIELD))?;
        let value = unfold(field.value);
        let value = std::str::from_utf8(&value).ok()?.trim();
        let (reason, since) = value.split_once(", since ")?;
        Some(Note { reason: Reason::named(reason)?, since: parse_time(since, 0).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_is_damaged_is_nothing() {
        for reason in Reason::ALL {
            let note = Note { reason, since: 1_795_711_599_000 };
            let prefix = format!("Delivered-To: a@b.test\r\n{}", note.field());
            assert_eq!(Note::read(prefix.as_bytes()), Some(note));
        }
        for odd in ["", "X-Spam-Quarantine: spam\r\n", "X-Spam-Quarantine: x, since 2026\r\n"] {
            assert_eq!(Note::read(odd.as_bytes()), None);
        }
    }
}
