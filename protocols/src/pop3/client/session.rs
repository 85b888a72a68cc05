//! The POP3 client machine: one command at a time, and what becomes of its reply.
//!
//! | to | yes | no |
//! |---|---|---|
//! | the connection | CAPA | the end |
//! | CAPA | STLS as configured, then the login | a server without capabilities: the same |
//! | STLS | the handshake, CAPA again: what was heard before is forgotten | on without it, unless it is required |
//! | the login | STAT, UIDL, LIST, then [`Event::Listed`] | the end |
//! | UIDL | | the end: without it nobody knows what was collected before |
//! | LIST | | sizes are unknown |
//! | RETR, DELE | the next one | [`Event::Refused`], the next one |
//! | QUIT | [`Event::Left`] | the same, not committed |
//!
//! What can't be understood ends the session. [`Client::lost`] tells that the peer has closed: what
//! it said last is still looked at.
//!
//! Time: [`REPLY_TIMEOUT`] for a reply, whose octets gain nothing; within a message and a listing
//! it starts anew with what comes, and an hour bounds the whole. Memory: a line and the listing.

use super::event::{Config, Event, Failure, Listing, Next, Refusal, Stage};
use super::heard::{self, Heard};
use crate::sasl::client::{Exchange, Hidden, Offered};
use crate::wire::dots::Unstuffer;
use crate::wire::line::{Framed, LineFault, LineReader};
use crate::wire::remote::{Patience, Tls, Trouble};
use crate::{Machine, Outbox, Step, Tick};
use std::sync::Arc;
use std::time::Duration;

pub const REPLY_TIMEOUT: Duration = Duration::from_secs(300);
const QUIT_TIMEOUT: Duration = Duration::from_secs(30);
/// A port that speaks TLS from its first octet says nothing, and who waits for it
/// should hear why soon.
const GREETING_TIMEOUT: Duration = Duration::from_secs(60);
/// RFC 2449 section 4 has 512.
pub const LINE_OCTETS_MAX: usize = 4096;

/// What is awaited.
#[derive(Debug)]
pub(super) enum Awaited {
    Greeting,
    Capabilities,
    CapabilityLines(u32),
    StartTls,
    User,
    Password,
    /// The response that is sent once the server asks for it.
    Auth(Option<Hidden>),
    Count,
    Identifiers,
    IdentifierLines,
    Sizes,
    SizeLines,
    Retrieve {
        number: u32,
        octets_max: u64,
    },
    Message {
        number: u32,
        octets_max: u64,
        octets: u64,
        unstuffer: Unstuffer,
    },
    Delete(u32),
    Quit,
}

impl Awaited {
    fn stage(&self) -> Stage {
        match self {
            Awaited::Greeting => Stage::Greeting,
            Awaited::Capabilities | Awaited::CapabilityLines(_) => Stage::Capabilities,
            Awaited::StartTls => Stage::StartTls,
            Awaited::User | Awaited::Password | Awaited::Auth(_) => Stage::Login,
            Awaited::Count => Stage::Count,
            Awaited::Identifiers | Awaited::IdentifierLines => Stage::Identifiers,
            Awaited::Sizes | Awaited::SizeLines => Stage::Sizes,
            Awaited::Retrieve { number, .. } | Awaited::Message { number, .. } => {
                Stage::Retrieve(*number)
            }
            Awaited::Delete(number) => Stage::Delete(*number),
            Awaited::Quit => Stage::Quit,
        }
    }
}

#[derive(Debug)]
pub(super) enum Phase {
    Awaiting(Awaited),
    /// CAPA is to be written.
    Hello,
    StartTls,
    /// The engine owes an answer.
    Asked,
    Do(Next),
    Closing,
}

#[derive(Debug, Default)]
pub(super) struct Offers {
    pub(super) start_tls: bool,
    pub(super) user: bool,
    pub(super) logins: Offered,
}

/// One session.
#[derive(Debug)]
pub struct Client {
    pub(super) config: Arc<Config>,
    pub(super) phase: Phase,
    lines: LineReader,
    pub(super) offers: Offers,
    pub(super) encrypted: bool,
    pub(super) tls_refused: bool,
    pub(super) exchange: Option<Box<Exchange>>,
    pub(super) listing: Listing,
    gone: bool,
    pub(super) patience: Patience,
}

impl Client {
    #[must_use]
    pub fn new(config: Arc<Config>) -> Client {
        let encrypted = config.tls == Tls::Active;
        Client {
            config,
            phase: Phase::Awaiting(Awaited::Greeting),
            lines: LineReader::new(),
            offers: Offers::default(),
            encrypted,
            tls_refused: false,
            exchange: None,
            listing: Listing::default(),
            gone: false,
            patience: Patience::default(),
        }
    }

    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// The connection has ended, or can't be written to. Give the next step what was received last.
    pub fn lost(&mut self) {
        self.gone = true;
    }

    /// Heap octets held between steps: a line, and the listing until it is handed over.
    #[must_use]
    pub fn retained_bytes(&self) -> usize {
        let entries = &self.listing.entries;
        let texts = entries.iter().map(|entry| entry.unique.capacity());
        let listing = entries.capacity().saturating_mul(size_of::<super::Entry>());
        texts.fold(listing, usize::saturating_add).saturating_add(self.lines.retained_bytes())
    }

    // ── inside ──────────────────────────────────────────────────────────────────────────────────

    pub(super) fn say(&mut self, line: &str, awaited: Awaited, output: &mut Outbox) {
        output.push(line.as_bytes());
        output.push(b"\r\n");
        self.patience.answered();
        self.phase = Phase::Awaiting(awaited);
    }

    pub(super) fn fail<'i>(
        &mut self,
        stage: Stage,
        trouble: Trouble,
        refusal: Option<Refusal>,
    ) -> Option<Step<Event<'i>>> {
        self.phase = Phase::Closing;
        self.listing = Listing::default();
        let left = Event::Left { committed: false };
        let failed = Event::Failed(Failure { stage, trouble, refusal });
        Some(Step::Event(if stage == Stage::Quit { left } else { failed }))
    }

    /// The same, and the server is told that we leave.
    pub(super) fn fail_politely<'i>(
        &mut self,
        stage: Stage,
        trouble: Trouble,
        refusal: Option<Refusal>,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        output.push(b"QUIT\r\n");
        self.fail(stage, trouble, refusal)
    }

    fn out_of_input<'i>(&mut self, now: Tick, awaited: Awaited) -> Option<Step<Event<'i>>> {
        let stage = awaited.stage();
        if self.gone {
            return self.fail(stage, Trouble::Lost, None);
        }
        let timeout = match stage {
            Stage::Greeting => GREETING_TIMEOUT,
            Stage::Quit => QUIT_TIMEOUT,
            _ => REPLY_TIMEOUT,
        };
        self.patience.waits(now, timeout);
        self.phase = Phase::Awaiting(awaited);
        Some(Step::NeedInput)
    }

    fn read<'i>(
        &mut self,
        now: Tick,
        awaited: Awaited,
        input: &mut &'i [u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let awaited = match awaited {
            Awaited::Message { number, octets_max, octets, unstuffer } => {
                return match self.message(number, octets_max, octets, unstuffer, input) {
                    Ok(step) => step,
                    Err(awaited) => self.out_of_input(now, awaited),
                };
            }
            other => other,
        };
        let stage = awaited.stage();
        let mut lines = std::mem::take(&mut self.lines);
        let step = match lines.next(input, LINE_OCTETS_MAX) {
            Framed::Incomplete => self.out_of_input(now, awaited),
            Framed::Fault(LineFault::TooLong) => {
                self.fail(stage, Trouble::TooMuch("a reply's line"), None)
            }
            Framed::Fault(_) => {
                let trouble = Trouble::Garbage("lines that do not end with CRLF");
                self.fail(stage, trouble, None)
            }
            Framed::Line(line) => self.line(awaited, line, output),
        };
        self.lines = lines;
        step
    }

    fn line<'i>(
        &mut self,
        awaited: Awaited,
        line: &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        match awaited {
            Awaited::CapabilityLines(count) => return self.capability(count, line, output),
            Awaited::IdentifierLines => return self.identifier(line, output),
            Awaited::SizeLines => return self.size(line),
            _ => {}
        }
        let stage = awaited.stage();
        let Some(heard) = heard::read(line) else {
            return self.fail(stage, Trouble::Garbage("what is not a reply"), None);
        };
        self.patience.answered();
        match (awaited, heard) {
            (Awaited::Auth(response), Heard::Challenge(challenge)) => {
                self.challenged(response, challenge, output)
            }
            (_, Heard::Challenge(_)) => {
                self.fail(stage, Trouble::OutOfStep("a challenge outside of a login"), None)
            }
            (awaited, Heard::Yes(text)) => self.yes(awaited, text, output),
            (awaited, Heard::No(refusal)) => self.no(awaited, refusal, output),
        }
    }

    fn yes<'i>(
        &mut self,
        awaited: Awaited,
        text: &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let next = match awaited {
            Awaited::Greeting => Phase::Hello,
            Awaited::Capabilities => Phase::Awaiting(Awaited::CapabilityLines(0)),
            Awaited::StartTls => Phase::StartTls,
            Awaited::User => return self.say_password(output),
            Awaited::Password | Awaited::Auth(_) => return self.logged_in(output),
            Awaited::Count => return self.counted(text, output),
            Awaited::Identifiers => Phase::Awaiting(Awaited::IdentifierLines),
            Awaited::Sizes => Phase::Awaiting(Awaited::SizeLines),
            Awaited::Retrieve { number, octets_max } => Phase::Awaiting(Awaited::Message {
                number,
                octets_max,
                octets: 0,
                unstuffer: Unstuffer::default(),
            }),
            Awaited::Delete(number) => return self.deleted(number),
            Awaited::Quit => {
                self.phase = Phase::Closing;
                return Some(Step::Event(Event::Left { committed: true }));
            }
            Awaited::CapabilityLines(_)
            | Awaited::IdentifierLines
            | Awaited::SizeLines
            | Awaited::Message { .. } => Phase::Closing,
        };
        self.phase = next;
        None
    }

    fn no<'i>(
        &mut self,
        awaited: Awaited,
        refusal: Refusal,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let stage = awaited.stage();
        match awaited {
            Awaited::Capabilities => self.introduced(output),
            Awaited::StartTls if self.config.tls == Tls::WhenOffered => {
                self.tls_refused = true;
                self.introduced(output)
            }
            Awaited::Identifiers => {
                self.fail_politely(stage, Trouble::NotOffered("UIDL"), None, output)
            }
            Awaited::Sizes => self.listed(),
            Awaited::Retrieve { number, .. } | Awaited::Delete(number) => {
                self.refused(number, refusal)
            }
            Awaited::Auth(_) => self.login_refused(refusal, output),
            Awaited::Greeting | Awaited::Quit => self.fail(stage, Trouble::Refused, Some(refusal)),
            Awaited::StartTls
            | Awaited::User
            | Awaited::Password
            | Awaited::Count
            | Awaited::CapabilityLines(_)
            | Awaited::IdentifierLines
            | Awaited::SizeLines
            | Awaited::Message { .. } => {
                self.fail_politely(stage, Trouble::Refused, Some(refusal), output)
            }
        }
    }
}

impl Machine for Client {
    type Event<'i> = Event<'i>;

    fn step<'i>(
        &mut self,
        now: Tick,
        input: &mut &'i [u8],
        output: &mut Outbox,
    ) -> Step<Event<'i>> {
        loop {
            let step = match std::mem::replace(&mut self.phase, Phase::Closing) {
                Phase::Awaiting(awaited) if input.is_empty() && self.patience.is_over(now) => {
                    self.fail(awaited.stage(), Trouble::Silent, None)
                }
                Phase::Awaiting(awaited) => self.read(now, awaited, input, output),
                Phase::Hello => {
                    self.offers = Offers::default();
                    self.say("CAPA", Awaited::Capabilities, output);
                    None
                }
                Phase::StartTls => {
                    self.phase = Phase::StartTls;
                    Some(Step::StartTls)
                }
                Phase::Asked => {
                    self.phase = Phase::Asked;
                    Some(Step::NeedInput)
                }
                Phase::Do(next) => {
                    self.begin(next, output);
                    None
                }
                Phase::Closing => Some(Step::Close),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn deadline(&self) -> Option<Tick> {
        match self.phase {
            Phase::Awaiting(_) => self.patience.deadline(),
            Phase::Hello | Phase::StartTls | Phase::Asked | Phase::Do(_) | Phase::Closing => None,
        }
    }

    /// RFC 2595 section 4: all that was learned in the clear is forgotten.
    fn tls_started(&mut self, _: Tick) {
        self.encrypted = true;
        self.lines.clear();
        self.patience.answered();
        self.phase = Phase::Hello;
    }
}
