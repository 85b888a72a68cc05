//! Actions, flags and header edits.

use super::super::address;
use super::super::compile::is_field_name;
use super::super::fault::shown;
use super::super::header::Header;
use super::super::limits::WORK_OF_A_VALUE;
use super::super::matching::Match;
use super::super::outcome::Action;
use super::super::program::{Filing, FlagChange, Text};
use super::tests::is_at;
use super::{Halt, Run};
use crate::message::text::decode_field;
use std::rc::Rc;

const SYSTEM_FLAGS: [&str; 5] = ["\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft"];
const FLAG_BYTES_MAX: usize = 100;

impl Run<'_> {
    pub(super) fn keep(&mut self, flags: Option<&[Text]>) -> Result<(), Halt> {
        let flags = self.flags_for(flags)?;
        self.implicit_keep = false;
        let header = self.edited_header()?;
        self.deliver(Action::Keep { flags, header })
    }

    pub(super) fn file(&mut self, filing: &Filing, copy: bool) -> Result<(), Halt> {
        let mailbox = self.mailbox(&filing.mailbox)?;
        let flags = self.flags_for(filing.flags.as_deref())?;
        let special_use = filing.special_use.as_ref().map(|text| self.expand(text)).transpose()?;
        let special_use = special_use.map(|text| text.into_owned());
        if !copy {
            self.implicit_keep = false;
        }
        let header = self.edited_header()?;
        if mailbox.eq_ignore_ascii_case("inbox") && special_use.is_none() {
            return self.deliver(Action::Keep { flags, header });
        }
        let create = filing.create;
        self.deliver(Action::FileInto { mailbox, flags, create, special_use, copy, header })
    }

    pub(super) fn mailbox(&mut self, name: &Text) -> Result<String, Halt> {
        let name = self.expand(name)?;
        if name.is_empty() || name.contains(char::is_control) {
            return Err(self.halt(format!("\"{}\" is no name for a mailbox", shown(&name))));
        }
        Ok(name.into_owned())
    }

    pub(super) fn redirect(&mut self, address: &Text, copy: bool) -> Result<(), Halt> {
        let text = self.expand(address)?;
        let Some((_, address)) = address::single(&text) else {
            return Err(self.halt(format!("\"{}\" is no address", shown(&text))));
        };
        if !copy {
            self.implicit_keep = false;
        }
        let is_redirect = |action: &&Action| matches!(action, Action::Redirect { .. });
        let count = self.actions.iter().filter(is_redirect).count();
        let header = self.edited_header()?;
        let action = Action::Redirect { address, copy, header };
        if count >= self.limits.redirects_max && !self.is_done(&action) {
            return Err(self.halt("redirected to too many addresses"));
        }
        self.deliver(action)
    }

    /// RFC 5429 section 2.4: with nothing else that leaves a trace of the message or answers it.
    pub(super) fn reject(&mut self, text: &Text, extended: bool) -> Result<(), Halt> {
        let text = self.expand(text)?.into_owned();
        self.implicit_keep = false;
        if self.is_rejected() {
            return Err(self.halt("the message was rejected already"));
        }
        if !self.actions.is_empty() || self.has_vacation {
            return Err(self
                .halt("a message that is kept, filed, redirected or answered can't be rejected"));
        }
        self.push(Action::Reject { text, extended })
    }

    pub(super) fn is_rejected(&self) -> bool {
        self.actions.iter().any(|action| matches!(action, Action::Reject { .. }))
    }

    /// Does it once: no mailbox and no address gets a message twice (RFC 5228 section 2.10.3).
    fn deliver(&mut self, action: Action) -> Result<(), Halt> {
        if self.is_rejected() {
            return Err(self.halt("a message that was rejected can't be kept, filed or redirected"));
        }
        if self.is_done(&action) {
            return Ok(());
        }
        self.push(action)
    }

    fn is_done(&self, wanted: &Action) -> bool {
        self.actions.iter().any(|done| match (done, wanted) {
            (Action::Keep { .. }, Action::Keep { .. }) => true,
            (
                Action::FileInto { mailbox, special_use, .. },
                Action::FileInto { mailbox: other, special_use: other_use, .. },
            ) => mailbox == other && special_use == other_use,
            (Action::Redirect { address, .. }, Action::Redirect { address: other, .. }) => {
                address.local() == other.local()
                    && address.domain().eq_ignore_ascii_case(other.domain())
            }
            (_, _) => false,
        })
    }

    pub(super) fn push(&mut self, action: Action) -> Result<(), Halt> {
        if self.actions.len() >= self.limits.actions_max {
            return Err(self.halt("too many actions"));
        }
        self.actions.push(action);
        Ok(())
    }

    // ── flags ───────────────────────────────────────────────────────────────────────────────────

    /// Those that an action names, or the current ones (RFC 5232 section 2).
    pub(super) fn flags_for(&mut self, flags: Option<&[Text]>) -> Result<Vec<String>, Halt> {
        match flags {
            Some(flags) => self.named_flags(flags),
            None => Ok(self.flags.clone()),
        }
    }

    fn named_flags(&mut self, flags: &[Text]) -> Result<Vec<String>, Halt> {
        let mut found = Vec::new();
        for text in flags {
            let text = self.expand(text)?;
            // Each word is looked for among those that are there.
            self.spend(text.len().saturating_mul(8))?;
            add_flags(&mut found, &text, self.limits.flags_max);
        }
        Ok(found)
    }

    /// RFC 5232 section 3.
    pub(super) fn change_flags(
        &mut self,
        change: FlagChange,
        variable: Option<&str>,
        flags: &[Text],
    ) -> Result<(), Halt> {
        let named = self.named_flags(flags)?;
        let mut current = match (change, variable) {
            (FlagChange::Set, _) => Vec::new(),
            (FlagChange::Add | FlagChange::Remove, None) => self.flags.clone(),
            (FlagChange::Add | FlagChange::Remove, Some(name)) => {
                flags_of(self.value_of(name), self.limits.flags_max)
            }
        };
        match change {
            FlagChange::Set | FlagChange::Add => {
                for flag in named {
                    add_flags(&mut current, &flag, self.limits.flags_max);
                }
            }
            FlagChange::Remove => {
                current.retain(|flag| !named.iter().any(|gone| gone.eq_ignore_ascii_case(flag)))
            }
        }
        match variable {
            Some(name) => self.assign(name, &current.join(" ")),
            None => {
                self.flags = current;
                Ok(())
            }
        }
    }

    // ── header edits ────────────────────────────────────────────────────────────────────────────

    fn field_name(&mut self, name: &Text) -> Result<String, Halt> {
        let name = self.expand(name)?;
        if !is_field_name(&name) {
            return Err(self.halt(format!("no header field can be called \"{}\"", shown(&name))));
        }
        if self.header.edits() >= self.limits.edits_max {
            return Err(self.halt("the header is changed too often"));
        }
        Ok(name.into_owned())
    }

    /// Fields that are protected are left alone, which is no error (RFC 5293 section 6).
    pub(super) fn add_header(&mut self, name: &Text, value: &Text, last: bool) -> Result<(), Halt> {
        let name = self.field_name(name)?;
        let value = self.expand(value)?;
        if !Header::may_edit(&name) {
            return Ok(());
        }
        self.spend(value.len())?;
        Rc::make_mut(&mut self.header).add(&name, &value, last);
        if self.header.octets() > self.limits.header_bytes_max {
            return Err(self.halt("the header gets too long"));
        }
        Ok(())
    }

    pub(super) fn delete_header(
        &mut self,
        name: &Text,
        patterns: &[Text],
        spec: &Match,
    ) -> Result<(), Halt> {
        let name = self.field_name(name)?;
        if !Header::may_edit(&name) {
            return Ok(());
        }
        let header = Rc::clone(&self.header);
        self.spend(header.count())?;
        let count = header.values(&name).count();
        let mut places = Vec::new();
        let mut matcher = self.matcher(spec, patterns, true)?;
        for (place, value) in header.values(&name).enumerate() {
            if spec.index.is_some_and(|index| !is_at(index, place, count)) {
                continue;
            }
            self.spend(value.len().saturating_add(WORK_OF_A_VALUE))?;
            matcher.restart();
            if patterns.is_empty()
                || self.offer(&mut matcher, &decode_field(value))?
                || matcher.counts()
            {
                places.push(place);
            }
        }
        drop(header);
        Rc::make_mut(&mut self.header).remove(&name, &places);
        Ok(())
    }
}

/// The flags in a text, each once; what can't be one is left out (RFC 5232 section 2).
pub(super) fn flags_of(text: &str, flags_max: usize) -> Vec<String> {
    let mut flags = Vec::new();
    add_flags(&mut flags, text, flags_max);
    flags
}

fn add_flags(flags: &mut Vec<String>, text: &str, flags_max: usize) {
    for word in text.split_ascii_whitespace() {
        let Some(flag) = flag(word) else { continue };
        let known = flags.iter().any(|known| known.eq_ignore_ascii_case(&flag));
        if !known && flags.len() < flags_max {
            flags.push(flag);
        }
    }
}

/// A system flag as IMAP writes it, or a keyword.
fn flag(word: &str) -> Option<String> {
    if word.starts_with('\\') {
        let system = SYSTEM_FLAGS.iter().find(|flag| flag.eq_ignore_ascii_case(word));
        return system.map(|flag| (*flag).to_owned());
    }
    let atom = |byte: u8| byte.is_ascii_graphic() && !b"(){%*\"\\]".contains(&byte);
    let fine = !word.is_empty() && word.len() <= FLAG_BYTES_MAX && word.bytes().all(atom);
    fine.then(|| word.to_owned())
}
