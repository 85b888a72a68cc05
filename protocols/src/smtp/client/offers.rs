//! What EHLO offers, and what a message needs of it.
//!
//! | a message with | needs | without it |
//! |---|---|---|
//! | octets above 127 | 8BITMIME | fails for good, 5.6.3 (RFC 6152 section 3) |
//! | UTF-8 in its header or an address | SMTPUTF8 | fails for good, 5.6.7 (RFC 6531 section 3.2) |
//! | require_tls | TLS and REQUIRETLS | fails for good, 5.7.30 (RFC 8689 section 4.2.1) |
//! | more octets than SIZE allows | | fails for good, 5.3.4 (RFC 1870 section 6.1) |
//!
//! Nothing is converted or left out in silence. Another server of the same domain may offer more:
//! to try it is the caller's affair.

use super::event::{Envelope, Outcome, Stage, Verdict};
use crate::sasl::client::Offered;
use crate::smtp::params::{write_notify, write_xtext};
use crate::smtp::reply::Enhanced;
use crate::wire::remote::Trouble;
use std::fmt::Write;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offers {
    pub pipelining: bool,
    pub chunking: bool,
    pub eight_bit: bool,
    pub smtp_utf8: bool,
    pub start_tls: bool,
    pub require_tls: bool,
    pub dsn: bool,
    /// `Some(0)`: offered without a limit.
    pub size: Option<u64>,
    pub logins: Offered,
}

impl Offers {
    /// One line of the reply, behind the first.
    pub(super) fn add(&mut self, line: &[u8]) {
        let mut words = line.split(|&byte| byte == b' ' || byte == b'=');
        let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
        match keyword.as_slice() {
            b"PIPELINING" => self.pipelining = true,
            b"CHUNKING" => self.chunking = true,
            b"8BITMIME" => self.eight_bit = true,
            b"SMTPUTF8" => self.smtp_utf8 = true,
            b"STARTTLS" => self.start_tls = true,
            b"REQUIRETLS" => self.require_tls = true,
            b"DSN" => self.dsn = true,
            b"SIZE" => {
                let octets = words.next().and_then(|text| std::str::from_utf8(text).ok());
                self.size = Some(octets.and_then(|text| text.parse().ok()).unwrap_or(0));
            }
            // `AUTH=PLAIN` is what some old servers say.
            b"AUTH" => words.for_each(|name| self.logins.add(name)),
            _ => {}
        }
    }

    /// Why the message can't go here at all.
    pub(super) fn refuse(&self, envelope: &Envelope, encrypted: bool) -> Option<Verdict> {
        let no = |trouble, status| {
            let (outcome, stage) = (Outcome::Failed, Stage::Mail);
            Some(Verdict { outcome, stage, trouble: Some(trouble), heard: None, status })
        };
        let utf8_sender = envelope.sender.as_ref().is_some_and(|sender| !sender.is_ascii());
        if envelope.require_tls && !(encrypted && self.require_tls) {
            return no(Trouble::NotOffered("REQUIRETLS"), Enhanced(5, 7, 30));
        }
        if (envelope.smtp_utf8 || utf8_sender) && !self.smtp_utf8 {
            return no(Trouble::NotOffered("SMTPUTF8"), Enhanced(5, 6, 7));
        }
        if envelope.eight_bit && !self.eight_bit {
            return no(Trouble::NotOffered("8BITMIME"), Enhanced(5, 6, 3));
        }
        if self.size.is_some_and(|most| most > 0 && envelope.octets > most) {
            return no(Trouble::NotOffered("room for a message of this size"), Enhanced(5, 3, 4));
        }
        None
    }

    /// Why this recipient can't be named here.
    pub(super) fn refuse_recipient(&self, envelope: &Envelope, index: usize) -> Option<Verdict> {
        let ascii = envelope.recipients.get(index).is_none_or(|one| one.address.is_ascii());
        (!ascii && !self.smtp_utf8).then_some(Verdict {
            outcome: Outcome::Failed,
            stage: Stage::Recipient,
            trouble: Some(Trouble::NotOffered("SMTPUTF8")),
            heard: None,
            status: Enhanced(5, 6, 7),
        })
    }

    pub(super) fn mail_line(&self, envelope: &Envelope) -> String {
        let utf8 = self.names_utf8(envelope);
        let mut line = match &envelope.sender {
            Some(sender) => format!("MAIL FROM:<{sender}>"),
            None => "MAIL FROM:<>".to_owned(),
        };
        // Writing to a string can't fail.
        if self.size.is_some() {
            let _ = write!(line, " SIZE={}", envelope.octets);
        }
        if envelope.eight_bit {
            line.push_str(" BODY=8BITMIME");
        }
        if utf8 {
            line.push_str(" SMTPUTF8");
        }
        if envelope.require_tls {
            line.push_str(" REQUIRETLS");
        }
        if let (true, Some(ret)) = (self.dsn, envelope.ret) {
            let _ = write!(line, " RET={}", ret.word());
        }
        if let (true, Some(envid)) = (self.dsn, &envelope.envid) {
            line.push_str(" ENVID=");
            write_xtext(envid, false, &mut line);
        }
        line.push_str("\r\n");
        line
    }

    pub(super) fn recipient_line(&self, envelope: &Envelope, index: usize) -> String {
        let Some(recipient) = envelope.recipients.get(index) else { return String::new() };
        let mut line = format!("RCPT TO:<{}>", recipient.address);
        if let (true, Some(notify)) = (self.dsn, recipient.params.notify) {
            line.push_str(" NOTIFY=");
            write_notify(notify, &mut line);
        }
        if let (true, Some((kind, address))) = (self.dsn, &recipient.params.original) {
            let _ = write!(line, " ORCPT={kind};");
            write_xtext(address, self.names_utf8(envelope), &mut line);
        }
        line.push_str("\r\n");
        line
    }

    /// UTF-8 may stand in this transaction's commands.
    fn names_utf8(&self, envelope: &Envelope) -> bool {
        let mut addresses =
            envelope.recipients.iter().map(|one| &one.address).chain(&envelope.sender);
        self.smtp_utf8 && (envelope.smtp_utf8 || addresses.any(|address| !address.is_ascii()))
    }
}
