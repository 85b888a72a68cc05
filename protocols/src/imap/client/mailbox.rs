//! The commands that collecting takes, and what their responses mean. RFC 3501
//! sections 6.3, 6.4 and 7.
//!
//! Messages are named by UID only, since sequence numbers move. A response about a message that was
//! not asked for is passed over (other sessions change things); one that brings another message's
//! text in the place of the one that was asked for ends the session.

use super::event::{Asked, Event, Message, Next, Opened, Refusal, Stage};
use super::heard::{self, Heard};
use super::session::{Awaited, Client, Phase};
use crate::imap::flags;
use crate::imap::sequence;
use crate::machine::Ticket;
use crate::wire::remote::Trouble;
use crate::{Outbox, Step};
use std::borrow::Cow;

const MAILBOXES_MAX: usize = 10_000;

impl Client {
    /// Answers what the events ask; the next step does it.
    pub fn answer_next(&mut self, _: Ticket<Asked>, next: Next) {
        if matches!(self.phase, Phase::Asked) {
            self.phase = Phase::Do(next);
        }
    }

    pub(super) fn begin<'i>(&mut self, next: Next, output: &mut Outbox) -> Option<Step<Event<'i>>> {
        match next {
            Next::List => {
                self.say_word("LIST \"\" \"*\"", Awaited::List { count: 0 }, output);
            }
            Next::Open { wire_name, read_only } => {
                let verb = if read_only { "EXAMINE " } else { "SELECT " };
                let Some(say) = self.tagged().text(verb).string(&wire_name) else {
                    return self.refuse("No mailbox has a NUL in its name");
                };
                self.say(say, Awaited::Open(Opened::default()), output);
            }
            Next::Search { first } => {
                let awaited = Awaited::Search { first, found: Vec::new() };
                self.say_word(&format!("UID SEARCH UID {first}:*"), awaited, output);
            }
            Next::Survey { first, last } => {
                let items = "(UID RFC822.SIZE FLAGS INTERNALDATE)";
                let awaited = Awaited::Survey { first, last, count: 0 };
                self.say_word(&format!("UID FETCH {first}:{last} {items}"), awaited, output);
            }
            Next::Fetch { uid, octets_max } => {
                let items = "(UID RFC822.SIZE FLAGS INTERNALDATE BODY.PEEK[])";
                let awaited = Awaited::Fetch { uid, octets_max, octets: None, fetched: None };
                self.say_word(&format!("UID FETCH {uid} {items}"), awaited, output);
            }
            Next::Flag { uids, flags } => {
                let (uids, flags) = (sequence::text(&uids), flags::names(flags, &[], false));
                let command = format!("UID STORE {uids} +FLAGS.SILENT ({flags})");
                self.say_word(&command, Awaited::Flag, output);
            }
            Next::Expunge { .. } if !self.offers.uid_plus => {
                return self.refuse("The server lacks UIDPLUS");
            }
            Next::Expunge { uids } => {
                let command = format!("UID EXPUNGE {}", sequence::text(&uids));
                self.say_word(&command, Awaited::Expunge, output);
            }
            Next::Logout => self.say_word("LOGOUT", Awaited::Logout, output),
        }
        None
    }

    /// In the server's place.
    fn refuse<'i>(&mut self, text: &str) -> Option<Step<Event<'i>>> {
        self.phase = Phase::Asked;
        let refusal = Refusal { code: None, text: text.into() };
        Some(Step::Event(Event::Refused(refusal, Ticket::issue())))
    }

    // ── untagged ────────────────────────────────────────────────────────────────────────────────

    pub(super) fn untagged<'i>(
        &mut self,
        awaited: Awaited,
        heard: Heard<'_>,
        octets: usize,
    ) -> Option<Step<Event<'i>>> {
        match (awaited, heard) {
            (awaited @ Awaited::Capabilities, Heard::Capabilities(text)) => {
                self.capability(text);
                self.pass_over(awaited, octets)
            }
            (Awaited::List { count }, Heard::Mailbox(text)) => self.mailbox(count, text),
            (Awaited::Open(mut opened), heard) => {
                match heard {
                    Heard::Exists(messages) => opened.messages = messages,
                    // RFC 4315 section 3: what was seen before will come again under other UIDs.
                    Heard::Status(None, _, text) if heard::has_code(text, b"UIDNOTSTICKY") => {
                        return self.fail(Stage::Open, Trouble::NotOffered("UIDs that last"), None);
                    }
                    Heard::Status(None, _, text) => {
                        if let Some(number) = heard::coded_number(text, b"UIDVALIDITY") {
                            opened.uid_validity = number;
                        }
                        let next = heard::coded_number(text, b"UIDNEXT");
                        opened.uid_next = next.or(opened.uid_next);
                    }
                    _ => {}
                }
                self.pass_over(Awaited::Open(opened), octets)
            }
            (Awaited::Search { first, found }, Heard::Search(text)) => {
                self.found(first, found, text)
            }
            (Awaited::Survey { first, last, count }, Heard::Fetch(text)) => {
                self.surveyed((first, last, count), text, octets)
            }
            (awaited @ Awaited::Fetch { .. }, Heard::Fetch(text)) => {
                self.fetched(awaited, text, octets)
            }
            (awaited, _) => self.pass_over(awaited, octets),
        }
    }

    fn mailbox<'i>(&mut self, count: usize, text: &[u8]) -> Option<Step<Event<'i>>> {
        let Some(mailbox) = heard::mailbox(text) else {
            return self.fail(Stage::List, Trouble::Garbage("a malformed LIST"), None);
        };
        if count >= MAILBOXES_MAX {
            return self.fail(Stage::List, Trouble::TooMuch("mailboxes"), None);
        }
        self.patience.renew();
        self.phase = Phase::Awaiting(Awaited::List { count: count.saturating_add(1) });
        Some(Step::Event(Event::Mailbox(mailbox)))
    }

    fn found<'i>(
        &mut self,
        first: u32,
        mut found: Vec<u32>,
        text: &[u8],
    ) -> Option<Step<Event<'i>>> {
        let Some(mut numbers) = heard::numbers(text) else {
            return self.fail(Stage::Search, Trouble::Garbage("a malformed SEARCH"), None);
        };
        // `7:*` names the last message even if its UID is lower (RFC 3501 section 6.4.8).
        numbers.retain(|uid| *uid >= first);
        if numbers.len().saturating_add(found.len()) > self.config.messages_max {
            return self.fail(Stage::Search, Trouble::TooMuch("messages in the mailbox"), None);
        }
        if !numbers.is_empty() {
            self.patience.renew();
        }
        found.extend(numbers);
        self.phase = Phase::Awaiting(Awaited::Search { first, found });
        None
    }

    fn surveyed<'i>(
        &mut self,
        (first, last, count): (u32, u32, usize),
        text: &[u8],
        octets: usize,
    ) -> Option<Step<Event<'i>>> {
        let Some(fetched) = heard::fetched(text) else {
            return self.fail(Stage::Survey, Trouble::Garbage("a malformed FETCH"), None);
        };
        // Without a size it tells of a change by another session.
        let asked = fetched.uid.is_some_and(|uid| (first..=last).contains(&uid))
            && fetched.message.octets.is_some();
        if !asked {
            return self.pass_over(Awaited::Survey { first, last, count }, octets);
        }
        if count >= self.config.messages_max {
            return self.fail(Stage::Survey, Trouble::TooMuch("messages in the mailbox"), None);
        }
        self.patience.renew();
        let count = count.saturating_add(1);
        self.phase = Phase::Awaiting(Awaited::Survey { first, last, count });
        Some(Step::Event(Event::Message(fetched.message)))
    }

    fn fetched<'i>(
        &mut self,
        mut awaited: Awaited,
        text: &[u8],
        length: usize,
    ) -> Option<Step<Event<'i>>> {
        let stage = awaited.stage();
        let Some(mut one) = heard::fetched(text) else {
            return self.fail(stage, Trouble::Garbage("a malformed FETCH"), None);
        };
        let Awaited::Fetch { uid, octets_max, octets, fetched } = &mut awaited else { return None };
        // In the place of the literal that was streamed stands an empty string.
        let streamed = octets.is_some() && fetched.is_none();
        let Some(body) = one.body.take() else {
            return self.pass_over(awaited, length);
        };
        if fetched.is_some() {
            let trouble = Trouble::OutOfStep("a second message in one response");
            return self.fail(stage, trouble, None);
        }
        if one.uid != Some(*uid) {
            let trouble = Trouble::OutOfStep("another message than was asked for");
            return self.fail(stage, trouble, None);
        }
        *fetched = Some(one);
        self.patience.renew();
        if streamed {
            self.phase = Phase::Awaiting(awaited);
            return None;
        }
        let count = u64::try_from(body.len()).unwrap_or(u64::MAX);
        if count > *octets_max {
            return self.fail(stage, Trouble::TooMuch("octets of a message"), None);
        }
        *octets = Some(count);
        self.phase = Phase::Awaiting(awaited);
        Some(Step::Event(Event::Piece(Cow::Owned(body))))
    }

    // ── tagged ──────────────────────────────────────────────────────────────────────────────────

    pub(super) fn yes<'i>(
        &mut self,
        awaited: Awaited,
        text: &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let stage = awaited.stage();
        let event = match awaited {
            Awaited::Greeting => return None,
            Awaited::Capabilities => return self.introduced(output),
            Awaited::StartTls => {
                self.phase = Phase::StartTls;
                return None;
            }
            Awaited::Login | Awaited::Authenticate(_) => return self.let_in(),
            Awaited::Open(mut opened) => {
                opened.read_only = heard::has_code(text, b"READ-ONLY");
                if opened.uid_validity == 0 {
                    return self.fail(stage, Trouble::NotOffered("UIDVALIDITY"), None);
                }
                Event::Opened(opened, Ticket::issue())
            }
            Awaited::Search { mut found, .. } => {
                found.sort_unstable();
                found.dedup();
                Event::Found(found, Ticket::issue())
            }
            Awaited::Fetch { uid, octets, fetched, .. } => match (octets, fetched) {
                (Some(octets), Some(fetched)) => {
                    let message = Message { uid, ..fetched.message };
                    Event::Fetched { message, octets, ticket: Ticket::issue() }
                }
                (_, _) => Event::Gone { uid, ticket: Ticket::issue() },
            },
            Awaited::List { .. } | Awaited::Survey { .. } | Awaited::Flag | Awaited::Expunge => {
                Event::Completed(Ticket::issue())
            }
            Awaited::Logout => {
                self.phase = Phase::Closing;
                return Some(Step::Event(Event::Left));
            }
        };
        self.phase = Phase::Asked;
        Some(Step::Event(event))
    }
}
