//! What is in the maildrop, and what is done with each message. RFC 1939 sections 5 to 7.
//!
//! Servers lie about sizes, repeat identifiers and count wrongly: a size is a hint, identifiers
//! that are not alone are told apart in [`Listing`], and the listing is what UIDL says,
//! whatever STAT said.

use super::event::{Asked, Entry, Event, Listing, Next, Refusal, Stage};
use super::heard::{number, numbered};
use super::session::{Awaited, Client, Phase};
use crate::machine::Ticket;
use crate::wire::dots::{Unstuffed, Unstuffer};
use crate::wire::remote::Trouble;
use crate::{Outbox, Step};

/// RFC 1939 section 7 has 70.
const IDENTIFIER_OCTETS_MAX: usize = 255;

impl Client {
    /// Answers what the events ask; the next step does it.
    pub fn answer_next(&mut self, _: Ticket<Asked>, next: Next) {
        if matches!(self.phase, Phase::Asked) {
            self.phase = Phase::Do(next);
        }
    }

    pub(super) fn begin(&mut self, next: Next, output: &mut Outbox) {
        match next {
            Next::Retrieve { number, octets_max } => {
                let awaited = Awaited::Retrieve { number, octets_max };
                self.say(&format!("RETR {number}"), awaited, output);
            }
            Next::Delete(number) => {
                self.say(&format!("DELE {number}"), Awaited::Delete(number), output);
            }
            Next::Quit => self.say("QUIT", Awaited::Quit, output),
        }
    }

    // ── the listing ─────────────────────────────────────────────────────────────────────────────

    /// `2 320`
    pub(super) fn counted<'i>(
        &mut self,
        text: &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let word = text.split(|&byte| byte == b' ').next().unwrap_or_default();
        match number(word) {
            None => self.fail(Stage::Count, Trouble::Garbage("no number of messages"), None),
            Some(0) => self.listed(),
            Some(count) if usize::try_from(count).is_ok_and(|one| one <= self.messages_max()) => {
                self.say("UIDL", Awaited::Identifiers, output);
                None
            }
            Some(_) => {
                let trouble = Trouble::TooMuch("messages in the maildrop");
                self.fail_politely(Stage::Count, trouble, None, output)
            }
        }
    }

    fn messages_max(&self) -> usize {
        self.config.messages_max
    }

    pub(super) fn identifier<'i>(
        &mut self,
        line: &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if line == b"." {
            self.listing.entries.sort_by_key(|entry| entry.number);
            let same = |pair: &[Entry]| matches!(pair, [one, next] if one.number == next.number);
            if self.listing.entries.windows(2).any(same) {
                let trouble = Trouble::Garbage("a listing that names a message twice");
                return self.fail(Stage::Identifiers, trouble, None);
            }
            self.say("LIST", Awaited::Sizes, output);
            return None;
        }
        let entry = numbered(line).and_then(|(number, unique)| {
            let fine = (1..=IDENTIFIER_OCTETS_MAX).contains(&unique.len())
                && unique.iter().all(u8::is_ascii_graphic);
            let unique = fine.then(|| String::from_utf8_lossy(unique).into_owned())?;
            Some(Entry { number, octets: None, unique })
        });
        let Some(entry) = entry else {
            let trouble = Trouble::Garbage("a malformed line of its listing");
            return self.fail(Stage::Identifiers, trouble, None);
        };
        if self.listing.entries.len() >= self.messages_max() {
            let trouble = Trouble::TooMuch("messages in the maildrop");
            return self.fail(Stage::Identifiers, trouble, None);
        }
        self.listing.entries.push(entry);
        self.patience.renew();
        self.phase = Phase::Awaiting(Awaited::IdentifierLines);
        None
    }

    pub(super) fn size<'i>(&mut self, line: &[u8]) -> Option<Step<Event<'i>>> {
        if line == b"." {
            self.patience.answered();
            return self.listed();
        }
        let sized = numbered(line).and_then(|(message, text)| {
            let word = text.split(|&byte| byte == b' ').next()?;
            Some((message, number(word)?))
        });
        let Some((message, octets)) = sized else {
            let trouble = Trouble::Garbage("a malformed line of its listing");
            return self.fail(Stage::Sizes, trouble, None);
        };
        let entries = &mut self.listing.entries;
        let at = entries.binary_search_by_key(&message, |entry| entry.number);
        // A size of what has no identifier is nobody's, and gains no time.
        let entry = at.ok().and_then(|at| entries.get_mut(at));
        if entry.is_some_and(|entry| entry.octets.replace(octets).is_none()) {
            self.patience.renew();
        }
        self.phase = Phase::Awaiting(Awaited::SizeLines);
        None
    }

    pub(super) fn listed<'i>(&mut self) -> Option<Step<Event<'i>>> {
        let Listing { mut entries, .. } = std::mem::take(&mut self.listing);
        entries.sort_by(|one, other| one.unique.cmp(&other.unique));
        let mut listing = Listing::default();
        for group in entries.chunk_by(|one, other| one.unique == other.unique) {
            match group {
                [one] => listing.entries.push(one.clone()),
                several => listing.repeated.extend_from_slice(several),
            }
        }
        listing.entries.sort_by_key(|entry| entry.number);
        listing.repeated.sort_by_key(|entry| entry.number);
        self.phase = Phase::Asked;
        Some(Step::Event(Event::Listed(listing, Ticket::issue())))
    }

    // ── a message ───────────────────────────────────────────────────────────────────────────────

    /// `Err`: more of it is awaited.
    pub(super) fn message<'i>(
        &mut self,
        number: u32,
        octets_max: u64,
        octets: u64,
        mut unstuffer: Unstuffer,
        input: &mut &'i [u8],
    ) -> Result<Option<Step<Event<'i>>>, Awaited> {
        match unstuffer.next(input) {
            Unstuffed::NeedInput => Err(Awaited::Message { number, octets_max, octets, unstuffer }),
            Unstuffed::End => {
                self.patience.answered();
                self.phase = Phase::Asked;
                let ticket = Ticket::issue();
                Ok(Some(Step::Event(Event::Retrieved { number, octets, ticket })))
            }
            Unstuffed::Body(piece) => {
                self.patience.renew();
                let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
                let octets = octets.saturating_add(length);
                if octets > octets_max {
                    let trouble = Trouble::TooMuch("octets of a message");
                    return Ok(self.fail(Stage::Retrieve(number), trouble, None));
                }
                let awaited = Awaited::Message { number, octets_max, octets, unstuffer };
                self.phase = Phase::Awaiting(awaited);
                Ok(Some(Step::Event(Event::Piece(piece))))
            }
        }
    }

    pub(super) fn deleted<'i>(&mut self, number: u32) -> Option<Step<Event<'i>>> {
        self.phase = Phase::Asked;
        Some(Step::Event(Event::Deleted { number, ticket: Ticket::issue() }))
    }

    pub(super) fn refused<'i>(&mut self, number: u32, refusal: Refusal) -> Option<Step<Event<'i>>> {
        self.phase = Phase::Asked;
        Some(Step::Event(Event::Refused { number, refusal, ticket: Ticket::issue() }))
    }
}
