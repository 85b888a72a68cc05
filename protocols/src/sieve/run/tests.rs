//! Tests. RFC 5228 section 5 and its extensions.

use super::super::address;
use super::super::date;
use super::super::limits::WORK_OF_A_VALUE;
use super::super::matching::{Index, Match, MatchKind, Spent};
use super::super::outcome::DuplicateMark;
use super::super::program::{
    AddressPart, DatePart, DateSource, Duplicate, DuplicateId, Test, TestKind, Text, Zone,
};
use super::{Halt, Run};
use crate::message::field::unfold;
use crate::message::text::decode_field;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

/// Addresses of one field that are looked at.
const ADDRESSES_MAX: usize = 2000;

/// The keys of a test, and how many values they were offered.
pub(super) struct Matcher<'t> {
    spec: Match,
    keys: Vec<Cow<'t, str>>,
    count: usize,
    /// Matches set `${1}` and on; `body` does not (RFC 5173 section 6).
    captures: bool,
}

impl Matcher<'_> {
    /// Begins to count anew.
    pub(super) fn restart(&mut self) {
        self.count = 0;
    }

    /// Whether the number of values is what a test of counts wants.
    pub(super) fn counts(&self) -> bool {
        self.keys.iter().any(|key| self.spec.counts(self.count, key) == Some(true))
    }
}

impl Run<'_> {
    pub(super) fn test(&mut self, test: &Test) -> Result<bool, Halt> {
        self.step(test.at)?;
        match &test.kind {
            TestKind::True => Ok(true),
            TestKind::False => Ok(false),
            TestKind::Not(test) => Ok(!self.test(test)?),
            TestKind::AllOf(tests) => {
                for test in tests {
                    if !self.test(test)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            TestKind::AnyOf(tests) => {
                for test in tests {
                    if self.test(test)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            TestKind::Exists(names) => {
                for name in names {
                    let name = self.expand(name)?;
                    self.spend(self.header.count())?;
                    if self.header.values(&name).next().is_none() {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            TestKind::Size { over: true, octets } => Ok(self.mail.octets > *octets),
            TestKind::Size { over: false, octets } => Ok(self.mail.octets < *octets),
            TestKind::Header { names, keys, spec } => {
                let mut matcher = self.matcher(spec, keys, true)?;
                self.each_field(names, spec.index, |run, value| {
                    run.offer(&mut matcher, &decode_field(value))
                })
                .map(|held| held || matcher.counts())
            }
            TestKind::Address { part, names, keys, spec } => {
                let mut matcher = self.matcher(spec, keys, true)?;
                self.each_field(names, spec.index, |run, value| {
                    for address in address::of_field(value, ADDRESSES_MAX) {
                        run.spend(WORK_OF_A_VALUE)?;
                        if run.offer_part(&mut matcher, *part, &address)? {
                            return Ok(true);
                        }
                    }
                    Ok(false)
                })
                .map(|held| held || matcher.counts())
            }
            TestKind::Envelope { part, parts, keys, spec } => {
                let mut matcher = self.matcher(spec, keys, true)?;
                for name in parts {
                    let address = match self.expand(name)?.to_ascii_lowercase().as_str() {
                        "from" => self.mail.sender,
                        "to" => Some(self.mail.recipient),
                        _ => continue,
                    };
                    let address = address.map_or("", |address| address.as_str());
                    if self.offer_part(&mut matcher, *part, address)? {
                        return Ok(true);
                    }
                }
                Ok(matcher.counts())
            }
            TestKind::Body { transform, keys, spec } => {
                let mut matcher = self.matcher(spec, keys, false)?;
                Ok(self.body(transform, &mut matcher)? || matcher.counts())
            }
            TestKind::Date { zone, source, part, keys, spec } => {
                let mut matcher = self.matcher(spec, keys, true)?;
                match self.date_part(zone, source, *part, spec.index)? {
                    Some(value) => Ok(self.offer(&mut matcher, &value)? || matcher.counts()),
                    None => Ok(matcher.counts()),
                }
            }
            TestKind::HasFlag { variables, flags, spec } => self.has_flag(variables, flags, spec),
            TestKind::Strings { sources, keys, spec } => {
                let mut matcher = self.matcher(spec, keys, true)?;
                for source in sources {
                    let source = self.expand(source)?;
                    // RFC 5229 section 5: an empty string counts for nothing.
                    let counts = matches!(spec.kind, MatchKind::Count(_));
                    if !(counts && source.is_empty()) && self.offer(&mut matcher, &source)? {
                        return Ok(true);
                    }
                }
                Ok(matcher.counts())
            }
            TestKind::Environment { item, keys, spec } => {
                let mut matcher = self.matcher(spec, keys, true)?;
                let item = self.expand(item)?.to_ascii_lowercase();
                let value = match item.as_str() {
                    "name" => Some("Kura".to_owned()),
                    item => self.world.environment(item),
                };
                match value {
                    Some(value) => Ok(self.offer(&mut matcher, &value)? || matcher.counts()),
                    None => Ok(false),
                }
            }
            TestKind::Spam { percent, key, spec } => {
                let found = self.world.spam_percent().map(|percent| percent.min(100));
                let value = match (found, percent) {
                    (None, _) => 0,
                    (Some(found), true) => u16::from(found),
                    // RFC 5235: from 1, surely not, to 10, surely.
                    (Some(found), false) => {
                        (u16::from(found).saturating_mul(9) / 100).saturating_add(1)
                    }
                };
                self.verdict(found.is_some(), value, key, spec)
            }
            TestKind::Virus { key, spec } => {
                let found = self.world.virus();
                self.verdict(found.is_some(), u16::from(found.unwrap_or(0)), key, spec)
            }
            TestKind::MailboxExists(names) => {
                for name in names {
                    let name = self.expand(name)?;
                    if !self.world.mailbox_exists(&name) {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            TestKind::SpecialUseExists { mailbox, attributes } => {
                let mailbox = mailbox.as_ref().map(|mailbox| self.expand(mailbox)).transpose()?;
                for attribute in attributes {
                    let attribute = self.expand(attribute)?;
                    if !self.world.special_use_exists(mailbox.as_deref(), &attribute) {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            TestKind::Duplicate(duplicate) => self.duplicate(duplicate),
        }
    }

    pub(super) fn matcher<'t>(
        &mut self,
        spec: &Match,
        keys: &'t [Text],
        captures: bool,
    ) -> Result<Matcher<'t>, Halt> {
        Ok(Matcher { spec: *spec, keys: self.expand_all(keys)?, count: 0, captures })
    }

    /// Whether the value goes with one of the keys.
    pub(super) fn offer(&mut self, matcher: &mut Matcher<'_>, value: &str) -> Result<bool, Halt> {
        matcher.count = matcher.count.saturating_add(1);
        if let MatchKind::Count(_) = matcher.spec.kind {
            return Ok(false);
        }
        let wanted = matcher.captures && matcher.spec.kind == MatchKind::Matches;
        for key in &matcher.keys {
            let mut captures = Vec::new();
            let into = wanted.then_some(&mut captures);
            let held = matcher.spec.holds(value, key, into, &mut self.work);
            if held.map_err(|Spent| self.spent())? {
                if wanted {
                    self.remember_matches(captures);
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn offer_part(
        &mut self,
        matcher: &mut Matcher<'_>,
        part: AddressPart,
        address: &str,
    ) -> Result<bool, Halt> {
        match address::part(part, address) {
            Some(part) => self.offer(matcher, part),
            None => Ok(false),
        }
    }

    /// Goes through the fields of these names, or the one of each that the index
    /// wants, until `holds`.
    fn each_field(
        &mut self,
        names: &[Text],
        index: Option<Index>,
        mut holds: impl FnMut(&mut Self, &[u8]) -> Result<bool, Halt>,
    ) -> Result<bool, Halt> {
        let header = Rc::clone(&self.header);
        for name in names {
            let name = self.expand(name)?;
            self.spend(header.count())?;
            let count = match index {
                Some(Index { last: true, .. }) => header.values(&name).count(),
                Some(Index { last: false, .. }) | None => 0,
            };
            for (place, value) in header.values(&name).enumerate() {
                if index.is_some_and(|index| !is_at(index, place, count)) {
                    continue;
                }
                self.spend(value.len().saturating_add(WORK_OF_A_VALUE))?;
                if holds(self, value)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn date_part(
        &mut self,
        zone: &Zone,
        source: &DateSource,
        part: DatePart,
        index: Option<Index>,
    ) -> Result<Option<String>, Halt> {
        let (unix_seconds, original) = match source {
            DateSource::Now => (self.world.unix_seconds(), self.world.zone_minutes()),
            DateSource::Field(name) => {
                let first = index.unwrap_or(Index { number: 1, last: false });
                let mut sent = None;
                self.each_field(std::slice::from_ref(name), Some(first), |_, value| {
                    sent = date::of_field(value);
                    Ok(true)
                })?;
                match sent {
                    Some(sent) => (sent.unix_seconds, sent.offset_minutes),
                    None => return Ok(None),
                }
            }
        };
        let offset = match zone {
            Zone::Local => self.world.zone_minutes(),
            Zone::Original => original,
            Zone::Fixed(zone) => {
                let zone = self.expand(zone)?;
                date::zone(&zone).ok_or_else(|| self.halt("this is no zone: as in \"+0100\""))?
            }
        };
        Ok(Some(date::part(part, unix_seconds, offset)))
    }

    fn has_flag(
        &mut self,
        variables: &[String],
        flags: &[Text],
        spec: &Match,
    ) -> Result<bool, Halt> {
        let keys = self.expand_all(flags)?;
        let keys = keys.iter().flat_map(|key| key.split_ascii_whitespace());
        let keys = keys.map(|key| Cow::Owned(key.to_owned())).collect();
        let mut matcher = Matcher { spec: *spec, keys, count: 0, captures: true };
        let mut found = Vec::new();
        if variables.is_empty() {
            found.clone_from(&self.flags);
        }
        for name in variables {
            found.extend(super::actions::flags_of(self.value_of(name), self.limits.flags_max));
        }
        for flag in found {
            if self.offer(&mut matcher, &flag)? {
                return Ok(true);
            }
        }
        Ok(matcher.counts())
    }

    /// A scanner's verdict; one that is missing is 0, and counts for nothing (RFC 5235).
    fn verdict(&mut self, found: bool, value: u16, key: &Text, spec: &Match) -> Result<bool, Halt> {
        let mut matcher = self.matcher(spec, std::slice::from_ref(key), true)?;
        let held = self.offer(&mut matcher, &value.to_string())?;
        if !found {
            matcher.count = 0;
        }
        Ok(held || matcher.counts())
    }

    /// RFC 7352. The answer is the world's; what a run leaves behind is a mark.
    fn duplicate(&mut self, duplicate: &Duplicate) -> Result<bool, Halt> {
        let id = match &duplicate.id {
            DuplicateId::Unique(text) => Some(self.expand(text)?.into_owned().into_bytes()),
            DuplicateId::MessageId => self.first_value("message-id")?,
            DuplicateId::Field(name) => {
                let name = self.expand(name)?;
                self.first_value(&name)?
            }
        };
        // Without an identity nothing is a duplicate.
        let Some(id) = id else { return Ok(false) };
        let handle = duplicate.handle.as_ref().map(|handle| self.expand(handle)).transpose()?;
        let key = digest(&[b"duplicate", handle.unwrap_or_default().as_bytes(), &id]);
        let seen = self.world.is_duplicate(&key);
        let marked = self.duplicates.iter().any(|mark| mark.key == key);
        if !marked && (!seen || duplicate.last) {
            if self.duplicates.len() >= self.limits.duplicates_max {
                return Err(self.halt("too many different duplicate tests"));
            }
            let seconds = duplicate.seconds.min(self.limits.duplicate_seconds_max);
            self.duplicates.push(DuplicateMark { key, period: Duration::from_secs(seconds) });
        }
        Ok(seen)
    }

    /// The first field of a name, on one line.
    pub(super) fn first_value(&mut self, name: &str) -> Result<Option<Vec<u8>>, Halt> {
        let header = Rc::clone(&self.header);
        let Some(value) = header.values(name).next() else { return Ok(None) };
        self.spend(header.count().saturating_add(value.len()))?;
        Ok(Some(unfold(value)))
    }
}

/// `place` counts from zero.
pub(super) fn is_at(index: Index, place: usize, count: usize) -> bool {
    let from_front = place.saturating_add(1);
    let place = if index.last { count.saturating_sub(place) } else { from_front };
    u64::try_from(place) == Ok(index.number)
}

/// SHA-256 over parts, each with its length so that none runs into the next.
pub(super) fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}
