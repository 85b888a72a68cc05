//! The POP3 server machine: which command is legal when, and what it is answered.
//!
//! | state | legal, beside CAPA and QUIT | otherwise |
//! |---|---|---|
//! | authorization | USER, PASS, AUTH, STLS | `-ERR`, a strike |
//! | transaction | STAT, LIST, UIDL, RETR, TOP, DELE, NOOP, RSET | `-ERR`, a strike |
//!
//! A good login is not answered at once: the session may have to move to the core that owns the
//! account, and only there can the maildrop be opened. So [`Pop3::answer_login`] writes nothing when
//! it welcomes; the next step asks [`Event::Open`], and its answer is the reply to the login. The
//! maildrop is what it was then: numbers never change (RFC 1939 section 3), a message that has gone
//! meanwhile is refused one by one.
//!
//! QUIT in the transaction state asks [`Event::Commit`]. A session that ends in any other way,
//! autologout included, removes nothing (section 6).
//!
//! Strikes: each faulty command is one, a failed login is three; at [`STRIKES_MAX`] the session ends.

use super::command::{self, Command, Number, Syntax};
use super::encode::Encoder;
use super::reply::{Code, Refusal};
use crate::machine::Ticket;
pub use crate::sasl::LoginOutcome;
use crate::sasl::{self, Attempt, Challenge, Credentials, Fault, Mechanism, ScramKeys, Turn};
use crate::wire::line::{Framed, LineFault, LineReader};
use crate::{Machine, Outbox, Step, Tick};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Faults after which the peer is not worth listening to.
pub const STRIKES_MAX: u32 = 20;
const LOGIN_STRIKES: u32 = 3;
/// Before a login, good commands included: who has nothing to say but CAPA is not a client.
const STRANGER_COMMANDS_MAX: u32 = 100;
/// RFC 2449 section 4 says 255.
const COMMAND_OCTETS_MAX: usize = 1024;
/// RFC 1939 section 3: ten minutes at least. Only a whole command starts them anew.
const AUTOLOGOUT: Duration = Duration::from_secs(600);
/// Lines of listings between two chances to send them.
const LISTED_LINES_MAX: usize = 1000;

#[derive(Debug, Clone)]
pub struct Config {
    pub hostname: String,
    /// STLS can be offered while TLS is not active.
    pub tls_available: bool,
    /// Passwords are taken without TLS, too.
    pub plaintext_auth: bool,
}

/// What the machine asks of the engine. The tickets' types are these questions.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A password to check: [`Pop3::answer_login`].
    Login(Credentials, Ticket<Login>),
    /// Keys to look up: [`Pop3::answer_keys`].
    ScramKeys(String, Ticket<Keys>),
    /// A proof was right: [`Pop3::answer_login`] lets the engine still say no.
    Proved(String, Ticket<Login>),
    /// A proof was wrong: count it, delay it, then [`Pop3::answer_login`].
    Disproved(Ticket<Login>),
    /// The maildrop of [`Pop3::user`]: [`Pop3::answer_open`]. Asked on the core that owns it.
    Open(Ticket<Maildrop>),
    /// [`Pop3::begin_message`], [`Pop3::write_message`], [`Pop3::end_message`]; or, before the first
    /// octet, [`Pop3::answer_failed`]. `index` counts from zero; `lines`: header and so many of the body.
    Retrieve { index: usize, lines: Option<u64>, ticket: Ticket<Message> },
    /// Remove these (indices from zero, rising), for good: [`Pop3::answer_commit`].
    Commit { deleted: Vec<usize>, ticket: Ticket<Committed> },
    /// A long listing is under way: send what is in the outbox, then go on.
    Relieve,
}

#[derive(Debug)]
pub enum Login {}
#[derive(Debug)]
pub enum Keys {}
#[derive(Debug)]
pub enum Maildrop {}
#[derive(Debug)]
pub enum Message {}
#[derive(Debug)]
pub enum Committed {}

/// A message of the maildrop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub octets: u64,
    /// For UIDL: 1 to 70 printable octets, the same in every session (RFC 1939 section 7).
    pub unique: String,
}

#[derive(Debug)]
enum Phase {
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
enum Question {
    Login,
    Keys(Attempt),
    Open,
    Message(Encoder),
    Commit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listing {
    Octets,
    Unique,
}

#[derive(Debug)]
enum State {
    /// The name that USER gave.
    Authorization(Option<String>),
    Transaction(Vec<Slot>),
}

#[derive(Debug)]
struct Slot {
    entry: Entry,
    deleted: bool,
}

/// One session.
#[derive(Debug)]
pub struct Pop3 {
    config: Arc<Config>,
    phase: Phase,
    state: State,
    lines: LineReader,
    tls: bool,
    user: Option<String>,
    strikes: u32,
    stranger_commands: u32,
    listed_lines: usize,
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

    // ── answers ─────────────────────────────────────────────────────────────────────────────────

    /// A welcome is not written yet: [`Event::Open`] comes first.
    pub fn answer_login(
        &mut self,
        _: Ticket<Login>,
        outcome: LoginOutcome,
        user: &str,
        output: &mut Outbox,
    ) {
        self.phase = Phase::Command;
        match outcome {
            LoginOutcome::Welcome => {
                self.user = Some(user.to_owned());
                self.phase = Phase::Opening;
            }
            LoginOutcome::Wrong => {
                self.strike(LOGIN_STRIKES);
                self.say(&Refusal::coded(Code::Auth, "Wrong user name or password"), output);
            }
            LoginOutcome::Busy => {
                let text = "Too many logins at once, try again";
                self.say(&Refusal::coded(Code::SysTemp, text), output);
            }
        }
    }

    /// `nonce` is fresh, random and printable; keys of users who don't exist are made up.
    pub fn answer_keys(
        &mut self,
        _: Ticket<Keys>,
        keys: ScramKeys,
        nonce: &str,
        output: &mut Outbox,
    ) {
        let Phase::Asked(Question::Keys(attempt)) =
            std::mem::replace(&mut self.phase, Phase::Command)
        else {
            return;
        };
        match attempt.keys(keys, nonce) {
            Ok(challenge) => self.challenge(challenge, output),
            Err(fault) => self.login_fault(fault, output),
        }
    }

    /// The maildrop, oldest first; a refusal ends the session.
    pub fn answer_open(
        &mut self,
        _: Ticket<Maildrop>,
        answer: Result<Vec<Entry>, Refusal>,
        output: &mut Outbox,
    ) {
        match answer {
            Ok(entries) => {
                let slots: Vec<Slot> =
                    entries.into_iter().map(|entry| Slot { entry, deleted: false }).collect();
                let _ = write!(output, "+OK {} messages\r\n", slots.len());
                self.state = State::Transaction(slots);
                self.phase = Phase::Command;
            }
            Err(refusal) => {
                refusal.write(output);
                self.phase = Phase::Closing;
            }
        }
    }

    /// The message is there; its octets follow.
    pub fn begin_message(&mut self, octets: u64, output: &mut Outbox) {
        match &self.phase {
            Phase::Asked(Question::Message(encoder)) if encoder.is_top() => {
                output.push(b"+OK The top of it\r\n");
            }
            Phase::Asked(_)
            | Phase::Greeting
            | Phase::Command
            | Phase::Sasl(_)
            | Phase::Opening
            | Phase::Listing { .. }
            | Phase::Closing => {
                let _ = write!(output, "+OK {octets} octets\r\n");
            }
        }
    }

    /// The next octets of the message. False once no more are wanted (TOP).
    pub fn write_message(&mut self, piece: &[u8], output: &mut Outbox) -> bool {
        let Phase::Asked(Question::Message(encoder)) = &mut self.phase else { return false };
        encoder.write(piece, output.buffer());
        encoder.wants_more()
    }

    pub fn end_message(&mut self, _: Ticket<Message>, output: &mut Outbox) {
        if let Phase::Asked(Question::Message(encoder)) =
            std::mem::replace(&mut self.phase, Phase::Command)
        {
            encoder.finish(output.buffer());
        }
    }

    /// In the place of [`Pop3::begin_message`].
    pub fn answer_failed(&mut self, _: Ticket<Message>, refusal: &Refusal, output: &mut Outbox) {
        self.phase = Phase::Command;
        refusal.write(output);
    }

    /// The rest of the message can't be had: the session ends, so that nobody takes what was sent for
    /// a whole message.
    pub fn abandon_message(&mut self, _: Ticket<Message>) {
        self.phase = Phase::Closing;
    }

    /// Ends the session; a refusal says that not all could be removed.
    pub fn answer_commit(
        &mut self,
        _: Ticket<Committed>,
        answer: Result<(), Refusal>,
        output: &mut Outbox,
    ) {
        match answer {
            Ok(()) => output.push(b"+OK Goodbye\r\n"),
            Err(refusal) => refusal.write(output),
        }
        self.phase = Phase::Closing;
    }

    // ── inside ──────────────────────────────────────────────────────────────────────────────────

    fn strike(&mut self, strikes: u32) {
        self.strikes = self.strikes.saturating_add(strikes);
    }

    /// Writes a refusal; in its place the farewell, once there have been too many faults.
    fn say(&mut self, refusal: &Refusal, output: &mut Outbox) {
        if self.strikes >= STRIKES_MAX {
            Refusal::plain("Too many errors, goodbye").write(output);
            self.phase = Phase::Closing;
        } else {
            refusal.write(output);
        }
    }

    fn fault(&mut self, text: &'static str, output: &mut Outbox) {
        self.strike(1);
        self.say(&Refusal::plain(text), output);
    }

    fn ask(&mut self, question: Question, event: Event) -> Option<Step<Event>> {
        self.phase = Phase::Asked(question);
        Some(Step::Event(event))
    }

    fn passwords_taken(&self) -> bool {
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

    fn capabilities(&self, output: &mut Outbox) {
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

    fn tls_offered(&self) -> bool {
        self.config.tls_available && !self.tls && matches!(self.state, State::Authorization(_))
    }

    // ── authorization ───────────────────────────────────────────────────────────────────────────

    fn authorization(&mut self, command: Command, output: &mut Outbox) -> Option<Step<Event>> {
        self.stranger_commands = self.stranger_commands.saturating_add(1);
        if self.stranger_commands > STRANGER_COMMANDS_MAX {
            self.strikes = STRIKES_MAX;
            self.fault("Log in first", output);
            return None;
        }
        match command {
            Command::Capa => self.capabilities(output),
            Command::User(_) | Command::Pass(_) | Command::Auth { .. }
                if !self.passwords_taken() =>
            {
                self.fault("Start TLS first", output);
            }
            // Whether there is such a user is not told (section 7).
            Command::User(name) => {
                self.state = State::Authorization(Some(name));
                output.push(b"+OK Now the password\r\n");
            }
            Command::Pass(password) => return self.pass(password, output),
            Command::Auth { mechanism, initial } => return self.auth(&mechanism, initial, output),
            Command::Stls if self.tls_offered() => {
                output.push(b"+OK Begin TLS\r\n");
                return Some(Step::StartTls);
            }
            Command::Stls => self.fault("TLS is not available", output),
            Command::Quit => {
                output.push(b"+OK Goodbye\r\n");
                self.phase = Phase::Closing;
            }
            Command::Stat
            | Command::List(_)
            | Command::Uidl(_)
            | Command::Retr(_)
            | Command::Top(..)
            | Command::Dele(_)
            | Command::Noop
            | Command::Rset => self.fault("Log in first", output),
        }
        None
    }

    fn pass(&mut self, password: Vec<u8>, output: &mut Outbox) -> Option<Step<Event>> {
        match std::mem::replace(&mut self.state, State::Authorization(None)) {
            State::Authorization(Some(user)) => {
                let credentials = Credentials { user, password };
                self.ask(Question::Login, Event::Login(credentials, Ticket::issue()))
            }
            State::Authorization(None) => {
                self.fault("Say USER first", output);
                None
            }
            transaction @ State::Transaction(_) => {
                self.state = transaction;
                self.fault("Already logged in", output);
                None
            }
        }
    }

    fn auth(
        &mut self,
        mechanism: &[u8],
        initial: Option<Vec<u8>>,
        output: &mut Outbox,
    ) -> Option<Step<Event>> {
        let Some(mechanism) = Mechanism::named(mechanism) else {
            self.fault("Mechanism not known", output);
            return None;
        };
        self.login_turn(Attempt::start(mechanism, initial.as_deref()), output)
    }

    fn login_turn(&mut self, turn: Turn, output: &mut Outbox) -> Option<Step<Event>> {
        match turn {
            Turn::Challenge(challenge) => {
                self.challenge(challenge, output);
                None
            }
            Turn::Password(credentials) => {
                self.ask(Question::Login, Event::Login(credentials, Ticket::issue()))
            }
            Turn::Keys(attempt, user) => {
                self.ask(Question::Keys(attempt), Event::ScramKeys(user, Ticket::issue()))
            }
            Turn::Proved(user) => self.ask(Question::Login, Event::Proved(user, Ticket::issue())),
            Turn::Disproved => self.ask(Question::Login, Event::Disproved(Ticket::issue())),
            Turn::Fault(fault) => {
                self.login_fault(fault, output);
                None
            }
        }
    }

    fn challenge(&mut self, challenge: Challenge, output: &mut Outbox) {
        let _ = write!(output, "+ {}\r\n", challenge.base64);
        self.phase = Phase::Sasl(challenge.attempt);
    }

    fn login_fault(&mut self, fault: Fault, output: &mut Outbox) {
        let text = match fault {
            Fault::Cancelled => "Login cancelled",
            Fault::NotBase64 => "That is not base64",
            Fault::Malformed => "Malformed authentication",
        };
        self.fault(text, output);
    }

    // ── transaction ─────────────────────────────────────────────────────────────────────────────

    fn transaction(&mut self, command: Command, output: &mut Outbox) -> Option<Step<Event>> {
        match command {
            Command::Capa => self.capabilities(output),
            Command::Stat => {
                let octets =
                    self.left().fold(0, |sum, (_, entry)| entry.octets.saturating_add(sum));
                let _ = write!(output, "+OK {} {octets}\r\n", self.left().count());
            }
            Command::List(number) => self.list(Listing::Octets, number, output),
            Command::Uidl(number) => self.list(Listing::Unique, number, output),
            Command::Retr(number) => return self.retrieve(number, None, output),
            Command::Top(number, lines) => return self.retrieve(number, Some(lines), output),
            Command::Dele(number) => match self.slot(number) {
                Some(slot) => {
                    slot.deleted = true;
                    let _ = write!(output, "+OK Message {number} deleted\r\n");
                }
                None => self.no_such_message(output),
            },
            Command::Noop => output.push(b"+OK\r\n"),
            Command::Rset => {
                if let State::Transaction(slots) = &mut self.state {
                    slots.iter_mut().for_each(|slot| slot.deleted = false);
                    let _ = write!(output, "+OK {} messages\r\n", slots.len());
                }
            }
            Command::Quit => {
                let deleted = self.deleted();
                let event = Event::Commit { deleted, ticket: Ticket::issue() };
                return self.ask(Question::Commit, event);
            }
            Command::User(_) | Command::Pass(_) | Command::Auth { .. } | Command::Stls => {
                self.fault("Already logged in", output);
            }
        }
        None
    }

    fn slots(&self) -> &[Slot] {
        match &self.state {
            State::Transaction(slots) => slots,
            State::Authorization(_) => &[],
        }
    }

    /// What is not marked as deleted, by index.
    fn left(&self) -> impl Iterator<Item = (usize, &Entry)> {
        let left = self.slots().iter().enumerate().filter(|(_, slot)| !slot.deleted);
        left.map(|(index, slot)| (index, &slot.entry))
    }

    fn deleted(&self) -> Vec<usize> {
        let marked = self.slots().iter().enumerate().filter(|(_, slot)| slot.deleted);
        marked.map(|(index, _)| index).collect()
    }

    /// The message with this number, unless it is marked as deleted.
    fn slot(&mut self, number: Number) -> Option<&mut Slot> {
        match &mut self.state {
            State::Transaction(slots) => {
                slots.get_mut(number.checked_sub(1)?).filter(|slot| !slot.deleted)
            }
            State::Authorization(_) => None,
        }
    }

    fn no_such_message(&mut self, output: &mut Outbox) {
        self.fault("No such message", output);
    }

    fn list(&mut self, listing: Listing, number: Option<Number>, output: &mut Outbox) {
        match number {
            None => {
                let _ = write!(output, "+OK {} messages\r\n", self.left().count());
                self.phase = Phase::Listing { listing, next: 0 };
            }
            Some(number) => match self.slot(number) {
                Some(slot) => {
                    output.push(b"+OK ");
                    listing.write(number, &slot.entry, output);
                }
                None => self.no_such_message(output),
            },
        }
    }

    /// The lines of a listing from index `next` on, as far as they may go out in one piece.
    fn list_on(
        &mut self,
        listing: Listing,
        next: usize,
        output: &mut Outbox,
    ) -> Option<Step<Event>> {
        let room = LISTED_LINES_MAX.saturating_sub(self.listed_lines);
        let mut lines = 0_usize;
        let mut rest = self.slots().iter().enumerate().skip(next);
        for (index, slot) in rest.by_ref().take(room) {
            lines = lines.saturating_add(1);
            if !slot.deleted {
                listing.write(index.saturating_add(1), &slot.entry, output);
            }
        }
        let complete = rest.next().is_none();
        self.listed_lines = self.listed_lines.saturating_add(lines);
        if complete {
            output.push(b".\r\n");
            self.phase = Phase::Command;
        } else {
            self.phase = Phase::Listing { listing, next: next.saturating_add(lines) };
        }
        if self.listed_lines < LISTED_LINES_MAX {
            return None;
        }
        self.listed_lines = 0;
        Some(Step::Event(Event::Relieve))
    }

    fn retrieve(
        &mut self,
        number: Number,
        lines: Option<u64>,
        output: &mut Outbox,
    ) -> Option<Step<Event>> {
        let index = number.checked_sub(1).filter(|_| self.slot(number).is_some());
        let Some(index) = index else {
            self.no_such_message(output);
            return None;
        };
        let event = Event::Retrieve { index, lines, ticket: Ticket::issue() };
        self.ask(Question::Message(Encoder::new(lines)), event)
    }
}

impl Listing {
    fn write(self, number: Number, entry: &Entry, output: &mut Outbox) {
        let _ = match self {
            Listing::Octets => write!(output, "{number} {}\r\n", entry.octets),
            Listing::Unique => write!(output, "{number} {}\r\n", entry.unique),
        };
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
