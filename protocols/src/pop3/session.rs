//! The POP3 server machine: which command is legal when, and what it is answered.
//!
//! | state | legal, beside CAPA and QUIT | otherwise |
//! |---|---|---|
//! | authorization | USER, PASS, AUTH, STLS | `-ERR`, a strike |
//! | transaction | STAT, LIST, UIDL, RETR, TOP, DELE, NOOP, RSET | `-ERR`, a strike |
//!
//! A good login is not answered at once: the session may have to move to the core that owns the
//! account, and only there can the maildrop be opened. So [`Pop3::answer_login`] writes nothing
//! when it welcomes; the next step asks [`Event::Open`], and its answer is the reply to the login.
//! The maildrop is what it was then: numbers never change (RFC 1939 section 3), a message that has
//! gone meanwhile is refused one by one.
//!
//! QUIT in the transaction state asks [`Event::Commit`]. A session that ends in any other way,
//! autologout included, removes nothing (section 6).
//!
//! Strikes: each faulty command is one, a failed login is three; at [`STRIKES_MAX`]
//! the session ends.

use super::command::{self, Syntax};
use super::encode::Encoder;
use super::event::{Config, Event};
use super::reply::Refusal;
use super::transaction::{Listing, Slot};
use crate::machine::Ticket;
use crate::sasl::{self, Attempt, Mechanism};
use crate::wire::line::{Framed, LineFault, LineReader};
use crate::{Machine, Outbox, Step, Tick};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Faults after which the peer is not worth listening to.
pub const STRIKES_MAX: u32 = 20;
pub(super) const LOGIN_STRIKES: u32 = 3;
/// RFC 2449 section 4 says 255.
const COMMAND_OCTETS_MAX: usize = 1024;
/// RFC 1939 section 3: ten minutes at least. Only a whole command starts them anew.
const AUTOLOGOUT: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) enum Phase {
    Greeting,
    Command,
    Sasl(Attempt),
    /// The login is good; the maildrop is to be opened.
    Opening,
    Asked(Question),
    Listing {
        listing: Listing,
        next: usize,
    },
    Closing,
}

#[derive(Debug)]
pub(super) enum Question {
    Login,
    Keys(Attempt),
    Open,
    Message(Encoder),
    Commit,
}

#[derive(Debug)]
pub(super) enum State {
    /// The name that USER gave.
    Authorization(Option<String>),
    Transaction(Vec<Slot>),
}

/// One session.
#[derive(Debug)]
pub struct Pop3 {
    config: Arc<Config>,
    pub(super) phase: Phase,
    pub(super) state: State,
    lines: LineReader,
    tls: bool,
    pub(super) user: Option<String>,
    pub(super) strikes: u32,
    pub(super) stranger_commands: u32,
    pub(super) listed_lines: usize,
    /// A whole command has come since the deadline was set.
    heard: bool,
    deadline: Option<Tick>,
}

impl Pop3 {
    /// `tls`: the connection is encrypted already.
    #[must_use]
    pub fn new(config: Arc<Config>, tls: bool) -> Pop3 {
        Pop3 {
            config,
            phase: Phase::Greeting,
            state: State::Authorization(None),
            lines: LineReader::new(),
            tls,
            user: None,
            strikes: 0,
            stranger_commands: 0,
            listed_lines: 0,
            heard: true,
            deadline: None,
        }
    }

    /// Who has logged in.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Heap octets held between steps: one line, and the maildrop's list.
    #[must_use]
    pub fn retained_bytes(&self) -> usize {
        let listed = match &self.state {
            State::Authorization(name) => name.as_ref().map_or(0, String::capacity),
            State::Transaction(slots) => slots
                .iter()
                .map(|slot| size_of::<Slot>().saturating_add(slot.entry.unique.capacity()))
                .fold(0, usize::saturating_add),
        };
        self.lines.retained_bytes().saturating_add(listed)
    }

    // ── inside ──────────────────────────────────────────────────────────────────────────────────

    pub(super) fn strike(&mut self, strikes: u32) {
        self.strikes = self.strikes.saturating_add(strikes);
    }

    /// Writes a refusal; in its place the farewell, once there have been too many faults.
    pub(super) fn say(&mut self, refusal: &Refusal, output: &mut Outbox) {
        if self.strikes >= STRIKES_MAX {
            Refusal::plain("Too many errors, goodbye").write(output);
            self.phase = Phase::Closing;
        } else {
            refusal.write(output);
        }
    }

    pub(super) fn fault(&mut self, text: &'static str, output: &mut Outbox) {
        self.strike(1);
        self.say(&Refusal::plain(text), output);
    }

    pub(super) fn ask(&mut self, question: Question, event: Event) -> Option<Step<Event>> {
        self.phase = Phase::Asked(question);
        Some(Step::Event(event))
    }

    pub(super) fn passwords_taken(&self) -> bool {
        self.tls || self.config.plaintext_auth
    }

    fn line(
        &mut self,
        attempt: Option<Attempt>,
        input: &mut &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event>> {
        let logging_in = matches!(self.state, State::Authorization(_)) && self.passwords_taken();
        let octets_max = if logging_in { sasl::LINE_OCTETS_MAX } else { COMMAND_OCTETS_MAX };
        let mut lines = std::mem::take(&mut self.lines);
        let step = match (lines.next(input, octets_max), attempt) {
            (Framed::Incomplete, None) => Some(Step::NeedInput),
            (Framed::Incomplete, Some(attempt)) => {
                self.phase = Phase::Sasl(attempt);
                Some(Step::NeedInput)
            }
            (Framed::Fault(fault), _) => {
                self.line_fault(fault, output);
                None
            }
            (Framed::Line(line), attempt) => {
                self.heard = true;
                match attempt {
                    Some(attempt) => self.login_turn(attempt.line(line), output),
                    None => self.command(line, output),
                }
            }
        };
        self.lines = lines;
        step
    }

    fn line_fault(&mut self, fault: LineFault, output: &mut Outbox) {
        let text = match fault {
            LineFault::TooLong => "Line too long",
            LineFault::BareCr | LineFault::BareLf => "Lines must end with CRLF",
            LineFault::Nul => "NUL in a command",
            LineFault::Hopeless => {
                self.strikes = STRIKES_MAX;
                "Lines must end with CRLF"
            }
        };
        self.fault(text, output);
    }

    fn command(&mut self, line: &[u8], output: &mut Outbox) -> Option<Step<Event>> {
        match (command::parse(line), &self.state) {
            (Ok(command), State::Authorization(_)) => self.authorization(command, output),
            (Ok(command), State::Transaction(_)) => self.transaction(command, output),
            (Err(Syntax::Keyword), _) => {
                self.fault("Command not known", output);
                None
            }
            (Err(Syntax::Arguments), _) => {
                self.fault("Wrong arguments", output);
                None
            }
        }
    }

    pub(super) fn capabilities(&self, output: &mut Outbox) {
        output.push(b"+OK Capabilities\r\nTOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\nEXPIRE NEVER\r\n");
        if self.passwords_taken() {
            let names: Vec<&str> = Mechanism::ALL.iter().map(|one| one.name()).collect();
            let _ = write!(output, "USER\r\nSASL {}\r\n", names.join(" "));
        }
        if self.tls_offered() {
            output.push(b"STLS\r\n");
        }
        output.push(b"IMPLEMENTATION Kura\r\n.\r\n");
    }

    pub(super) fn tls_offered(&self) -> bool {
        self.config.tls_available && !self.tls && matches!(self.state, State::Authorization(_))
    }
}

impl Machine for Pop3 {
    type Event<'i> = Event;

    fn step(&mut self, now: Tick, input: &mut &[u8], output: &mut Outbox) -> Step<Event> {
        // RFC 1939 section 3: the autologout says nothing and removes nothing.
        if input.is_empty() && !self.heard && self.deadline.is_some_and(|deadline| deadline <= now)
        {
            self.phase = Phase::Closing;
        }
        loop {
            let step = match std::mem::replace(&mut self.phase, Phase::Command) {
                Phase::Greeting => {
                    let _ = write!(output, "+OK {} POP3 Kura\r\n", self.config.hostname);
                    None
                }
                Phase::Command => self.line(None, input, output),
                Phase::Sasl(attempt) => self.line(Some(attempt), input, output),
                Phase::Opening => self.ask(Question::Open, Event::Open(Ticket::issue())),
                Phase::Listing { listing, next } => self.list_on(listing, next, output),
                // The driver owes an answer: nothing goes on before it.
                Phase::Asked(question) => {
                    self.phase = Phase::Asked(question);
                    return Step::NeedInput;
                }
                Phase::Closing => {
                    self.phase = Phase::Closing;
                    Some(Step::Close)
                }
            };
            if let Some(step) = step {
                if step == Step::NeedInput && std::mem::take(&mut self.heard) {
                    self.deadline = Some(now.after(AUTOLOGOUT));
                }
                return step;
            }
        }
    }

    fn deadline(&self) -> Option<Tick> {
        self.deadline
    }

    /// RFC 2595 section 4: what was learned in the clear is forgotten.
    fn tls_started(&mut self, now: Tick) {
        self.tls = true;
        self.state = State::Authorization(None);
        self.phase = Phase::Command;
        self.lines.clear();
        self.deadline = Some(now.after(AUTOLOGOUT));
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
