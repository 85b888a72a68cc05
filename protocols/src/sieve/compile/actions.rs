//! Actions and their arguments.

use super::super::address::single;
use super::super::capability::Capability;
use super::super::fault::{Fault, Position};
use super::super::matching::{Comparator, Match, MatchKind};
use super::super::program::{CommandKind, Filing, FlagChange, Modifiers, Text, Vacation};
use super::Compiler;
use super::arguments::{self, Arguments};
use super::texts::identifier;

const DAY: u64 = 86_400;
/// RFC 5230 section 4.1 leaves it to us.
const VACATION_DAYS: u64 = 7;

impl Compiler {
    pub(super) fn action(&mut self, arguments: &mut Arguments<'_>) -> Result<CommandKind, Fault> {
        let (name, at) = (arguments.name(), arguments.at);
        match name {
            "keep" => Ok(CommandKind::Keep { flags: self.flags_tag(arguments)? }),
            "discard" => Ok(CommandKind::Discard),
            "fileinto" => {
                self.need(Capability::FileInto, name, at)?;
                let copy = arguments.flag(self, "copy", Some(Capability::Copy))?;
                let filing = self.filing_tags(arguments)?;
                let mailbox = self.one_text(arguments.next("the name of a mailbox")?)?;
                Ok(CommandKind::FileInto { filing: filing(mailbox), copy })
            }
            "redirect" => {
                let copy = arguments.flag(self, "copy", Some(Capability::Copy))?;
                let address = self.one_text(arguments.next("an address")?)?;
                check_address(&address)?;
                Ok(CommandKind::Redirect { address, copy })
            }
            "reject" | "ereject" => {
                let extended = name == "ereject";
                let needs = if extended { Capability::EReject } else { Capability::Reject };
                self.need(needs, name, at)?;
                let text = self.one_text(arguments.next("the reason, as a string")?)?;
                Ok(CommandKind::Reject { text, extended })
            }
            "vacation" => self.vacation(arguments),
            "set" => self.set(arguments),
            "setflag" => self.flags_command(arguments, FlagChange::Set),
            "addflag" => self.flags_command(arguments, FlagChange::Add),
            "removeflag" => self.flags_command(arguments, FlagChange::Remove),
            "addheader" => self.add_header(arguments),
            "deleteheader" => self.delete_header(arguments),
            _ => Err(Fault::new(at, format!("unknown command `{name}`"))),
        }
    }

    fn flags_tag(&self, arguments: &mut Arguments<'_>) -> Result<Option<Vec<Text>>, Fault> {
        arguments.texts_after(self, "flags", Some(Capability::Imap4Flags))
    }

    /// `:flags`, `:create` and `:specialuse`, of `fileinto` and of `:fcc`; the mailbox
    /// is read elsewhere.
    fn filing_tags(
        &self,
        arguments: &mut Arguments<'_>,
    ) -> Result<impl FnOnce(Text) -> Filing + use<>, Fault> {
        let flags = self.flags_tag(arguments)?;
        let create = arguments.flag(self, "create", Some(Capability::Mailbox))?;
        let special_use = arguments.text_after(self, "specialuse", Some(Capability::SpecialUse))?;
        Ok(move |mailbox| Filing { mailbox, flags, create, special_use })
    }

    fn vacation(&self, arguments: &mut Arguments<'_>) -> Result<CommandKind, Fault> {
        let at = arguments.at;
        self.need(Capability::Vacation, "vacation", at)?;
        let days = arguments.number_after(self, "days", None)?;
        let needs = Some(Capability::VacationSeconds);
        let seconds = arguments.number_after(self, "seconds", needs)?;
        let seconds = match (days, seconds) {
            (Some(_), Some(_)) => {
                return Err(Fault::new(at, "either `:days` or `:seconds`, not both"));
            }
            (None, Some(seconds)) => seconds,
            (days, None) => days.unwrap_or(VACATION_DAYS).max(1).saturating_mul(DAY),
        };
        let subject = arguments.text_after(self, "subject", None)?;
        let from = arguments.text_after(self, "from", None)?;
        if let Some(from) = &from {
            check_address(from)?;
        }
        let addresses = arguments.texts_after(self, "addresses", None)?.unwrap_or_default();
        let mime = arguments.flag(self, "mime", None)?;
        let handle = arguments.text_after(self, "handle", None)?;
        let fcc = match arguments.text_after(self, "fcc", Some(Capability::Fcc))? {
            Some(mailbox) => {
                let filing = self.filing_tags(arguments)?;
                Some(filing(mailbox))
            }
            None => None,
        };
        let reason = self.one_text(arguments.next("the text of the reply")?)?;
        let vacation = Vacation { seconds, subject, from, addresses, mime, handle, fcc, reason };
        Ok(CommandKind::Vacation(Box::new(vacation)))
    }

    /// RFC 5229 section 4.
    fn set(&self, arguments: &mut Arguments<'_>) -> Result<CommandKind, Fault> {
        let at = arguments.at;
        self.need(Capability::Variables, "set", at)?;
        let modifiers = Modifiers {
            upper: arguments.flag(self, "upper", None)?,
            lower: arguments.flag(self, "lower", None)?,
            upper_first: arguments.flag(self, "upperfirst", None)?,
            lower_first: arguments.flag(self, "lowerfirst", None)?,
            quote_wildcard: arguments.flag(self, "quotewildcard", None)?,
            length: arguments.flag(self, "length", None)?,
        };
        if modifiers.upper && modifiers.lower {
            return Err(Fault::new(at, "either `:upper` or `:lower`, not both"));
        }
        if modifiers.upper_first && modifiers.lower_first {
            return Err(Fault::new(at, "either `:upperfirst` or `:lowerfirst`, not both"));
        }
        let (name, name_at) = arguments::string(arguments.next("the name of a variable")?)?;
        let name = self.variable(name, name_at)?;
        let value = self.one_text(arguments.next("the value")?)?;
        Ok(CommandKind::Set { name, modifiers, value })
    }

    /// A variable that can be written: its name, with `global.` in front of one that is.
    pub(super) fn variable(&self, name: &str, at: Position) -> Result<String, Fault> {
        let global = name.split_once('.').filter(|(space, _)| space.eq_ignore_ascii_case("global"));
        let plain = identifier(global.map_or(name, |(_, name)| name))
            .ok_or_else(|| Fault::new(at, "no variable can have this name"))?;
        if global.is_some() {
            self.need(Capability::Include, "global.", at)?;
        }
        if global.is_some() || self.globals.contains(&plain) {
            return Ok(format!("global.{plain}"));
        }
        Ok(plain)
    }

    /// RFC 5232 section 3.
    fn flags_command(
        &self,
        arguments: &mut Arguments<'_>,
        change: FlagChange,
    ) -> Result<CommandKind, Fault> {
        self.need(Capability::Imap4Flags, arguments.name(), arguments.at)?;
        let variable = match arguments.count() {
            0 | 1 => None,
            _ => {
                let (name, at) = arguments::string(arguments.next("the name of a variable")?)?;
                self.need(Capability::Variables, "the name of a variable", at)?;
                Some(self.variable(name, at)?)
            }
        };
        let flags = self.texts(arguments.next("flags")?)?;
        Ok(CommandKind::Flags { change, variable, flags })
    }

    /// RFC 5293 section 4.
    fn add_header(&self, arguments: &mut Arguments<'_>) -> Result<CommandKind, Fault> {
        self.need(Capability::EditHeader, "addheader", arguments.at)?;
        let last = arguments.flag(self, "last", None)?;
        let name = self.one_text(arguments.next("the name of a header field")?)?;
        check_field_name(&name)?;
        let value = self.one_text(arguments.next("the value of the field")?)?;
        Ok(CommandKind::AddHeader { name, value, last })
    }

    /// RFC 5293 section 5.
    fn delete_header(&mut self, arguments: &mut Arguments<'_>) -> Result<CommandKind, Fault> {
        self.need(Capability::EditHeader, "deleteheader", arguments.at)?;
        let index = self.index(arguments, None)?;
        let spec = self.match_spec(arguments)?;
        let name = self.one_text(arguments.next("the name of a header field")?)?;
        check_field_name(&name)?;
        let patterns = match arguments.count() {
            0 => {
                if spec.kind != MatchKind::Is || spec.comparator != Comparator::AsciiCasemap {
                    let text = "a match type or comparator wants patterns to compare with";
                    return Err(Fault::new(arguments.at, text));
                }
                Vec::new()
            }
            _ => self.texts(arguments.next("patterns of values")?)?,
        };
        Ok(CommandKind::DeleteHeader { name, patterns, spec: Match { index, ..spec } })
    }
}

fn check_address(text: &Text) -> Result<(), Fault> {
    match text.constant() {
        Some(address) if single(address).is_none() => {
            Err(Fault::new(text.at, "this is no address: write it as in \"ann@example.test\""))
        }
        Some(_) | None => Ok(()),
    }
}

pub(super) fn check_field_name(text: &Text) -> Result<(), Fault> {
    match text.constant() {
        Some(name) if !is_field_name(name) => Err(Fault::new(
            text.at,
            "no header field can have this name: leave out colon and blanks",
        )),
        Some(_) | None => Ok(()),
    }
}

/// RFC 5322 section 2.2.
pub(in super::super) fn is_field_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (33..127).contains(&byte) && byte != b':')
}
