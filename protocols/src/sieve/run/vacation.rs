//! Whether the sender gets an automatic reply, and which. RFC 5230 sections 4.2 to 4.7.
//!
//! Nobody is answered who did not write to the user, or who is a program: that is decided here, by
//! the message. Whether the sender had such a reply lately is the caller's to know, by the key.

use super::super::address;
use super::super::limits::WORK_OF_A_VALUE;
use super::super::outcome::{Action, Reply, ReplyCopy};
use super::super::program::{Filing, Vacation};
use super::tests::digest;
use super::{Halt, Run};
use crate::message::text::decode_field;
use std::rc::Rc;
use std::time::Duration;

/// Senders that are programs.
const PROGRAMS: [&str; 3] = ["mailer-daemon", "listserv", "majordomo"];
const RECIPIENT_FIELDS: [&str; 6] = ["to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc"];
const ADDRESSES_MAX: usize = 2000;
const IDS_BYTES_MAX: usize = 2000;

impl Run<'_> {
    pub(super) fn vacation(&mut self, vacation: &Vacation) -> Result<(), Halt> {
        if self.has_vacation {
            return Err(self.halt("`vacation` was said already"));
        }
        if self.is_rejected() {
            return Err(self.halt("a message that was rejected can't be answered"));
        }
        self.has_vacation = true;
        let Some(to) = self.mail.sender else { return Ok(()) };
        let own = self.expand_all(&vacation.addresses)?;
        let own: Vec<String> = own.iter().map(|address| address.trim().to_owned()).collect();
        let sender = to.as_str().to_owned();
        if is_program(to.local())
            || self.is_own(&sender, &own)
            || self.is_automatic()?
            || !self.is_addressed(&own)?
        {
            return Ok(());
        }
        let from = match &vacation.from {
            Some(text) => {
                let text = self.expand(text)?;
                let from = address::single(&text);
                Some(from.ok_or_else(|| self.halt("`:from` is no address"))?)
            }
            None => None,
        };
        let subject = match &vacation.subject {
            Some(text) => Some(self.expand(text)?.into_owned()),
            None => None,
        };
        let text = self.expand(&vacation.reason)?.into_owned();
        let key = match &vacation.handle {
            Some(handle) => {
                let handle = self.expand(handle)?;
                digest(&[b"handle", sender.to_lowercase().as_bytes(), handle.as_bytes()])
            }
            None => {
                let from = from.as_ref().map_or("", |(_, from)| from.as_str());
                let subject = subject.as_deref().unwrap_or_default();
                let mime: &[u8] = if vacation.mime { b"mime" } else { b"text" };
                let sender = sender.to_lowercase();
                digest(&[
                    b"reply",
                    sender.as_bytes(),
                    from.as_bytes(),
                    subject.as_bytes(),
                    mime,
                    text.as_bytes(),
                ])
            }
        };
        let subject = match subject {
            Some(subject) => subject,
            None => match self.first_value("subject")? {
                Some(subject) => format!("Auto: {}", decode_field(&subject)),
                None => "Auto: your message".into(),
            },
        };
        let in_reply_to = self.ids("message-id")?;
        let references = match self.ids("references")? {
            Some(references) => Some(references),
            None => self.ids("in-reply-to")?,
        };
        let copy_to = vacation.fcc.as_ref().map(|fcc| self.reply_copy(fcc)).transpose()?;
        let least = self.limits.vacation_seconds_min;
        let seconds = vacation.seconds.max(least).min(self.limits.vacation_seconds_max.max(least));
        self.push(Action::Vacation(Box::new(Reply {
            to: to.clone(),
            from,
            subject,
            text,
            mime: vacation.mime,
            in_reply_to,
            references,
            key,
            period: Duration::from_secs(seconds),
            copy_to,
        })))
    }

    fn reply_copy(&mut self, fcc: &Filing) -> Result<ReplyCopy, Halt> {
        let flags = match &fcc.flags {
            Some(flags) => self.flags_for(Some(flags))?,
            None => Vec::new(),
        };
        let special_use = fcc.special_use.as_ref().map(|text| self.expand(text)).transpose()?;
        let special_use = special_use.map(|text| text.into_owned());
        let mailbox = self.mailbox(&fcc.mailbox)?;
        Ok(ReplyCopy { mailbox, flags, create: fcc.create, special_use })
    }

    /// Message identifiers of a field, if they are fit to be quoted.
    fn ids(&mut self, name: &str) -> Result<Option<String>, Halt> {
        let value = self.first_value(name)?;
        let text = value.and_then(|value| String::from_utf8(value).ok());
        Ok(text.filter(|text| {
            let fine = |byte: u8| byte == b' ' || byte == b'\t' || byte.is_ascii_graphic();
            !text.is_empty() && text.len() <= IDS_BYTES_MAX && text.bytes().all(fine)
        }))
    }

    /// From a list, in bulk, or an automatic reply itself.
    fn is_automatic(&mut self) -> Result<bool, Halt> {
        self.spend(self.header.count())?;
        if self.header.has_prefix("list-") {
            return Ok(true);
        }
        if let Some(value) = self.first_value("auto-submitted")? {
            let word = value.split(|byte| b"; (\t".contains(byte)).next().unwrap_or_default();
            if !word.eq_ignore_ascii_case(b"no") {
                return Ok(true);
            }
        }
        let Some(value) = self.first_value("precedence")? else { return Ok(false) };
        let bulk = [b"bulk".as_slice(), b"junk", b"list"];
        Ok(bulk.iter().any(|word| value.eq_ignore_ascii_case(word)))
    }

    /// Whether one of the user's addresses stands in a field of recipients.
    fn is_addressed(&mut self, own: &[String]) -> Result<bool, Halt> {
        let header = Rc::clone(&self.header);
        for name in RECIPIENT_FIELDS {
            self.spend(header.count())?;
            for value in header.values(name) {
                self.spend(value.len().saturating_mul(own.len().saturating_add(1)))?;
                for address in address::of_field(value, ADDRESSES_MAX) {
                    self.spend(WORK_OF_A_VALUE)?;
                    if self.is_own(&address, own) {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    fn is_own(&self, address: &str, own: &[String]) -> bool {
        let recipient = self.mail.recipient.as_str();
        recipient.eq_ignore_ascii_case(address)
            || own.iter().any(|own| own.eq_ignore_ascii_case(address))
            || self.world.is_own_address(address)
    }
}

fn is_program(local: &str) -> bool {
    let local = local.to_ascii_lowercase();
    PROGRAMS.contains(&local.as_str()) || local.starts_with("owner-") || local.ends_with("-request")
}
