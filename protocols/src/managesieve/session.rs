//! The ManageSieve server machine: which command is legal when, and what it is answered.
//!
//! | state | legal, beside CAPABILITY, NOOP and LOGOUT | otherwise |
//! |---|---|---|
//! | not authenticated | AUTHENTICATE, STARTTLS | `NO`, a strike |
//! | authenticated | HAVESPACE, PUTSCRIPT, LISTSCRIPTS, SETACTIVE, GETSCRIPT, DELETESCRIPT, RENAMESCRIPT, CHECKSCRIPT, UNAUTHENTICATE | `NO`, a strike |
//!
//! A script comes as a literal that does not wait to be asked for. One that is larger than
//! [`Config::script_bytes_max`], or comes before a login, is refused before its first octet and
//! swallowed with the rest of its command, so that none of it is read as one; one that is larger
//! than [`Config::swallow_bytes_max`] ends the session. Between commands nothing of them is kept.
//!
//! Strikes: each faulty command is one, a failed login is three; at [`STRIKES_MAX`]
//! the session ends.

use super::command;
use super::event::{Config, Event};
use super::framing::{Frame, Framing};
use super::reply::{Refusal, string};
use crate::sasl::{Attempt, LINE_OCTETS_MAX, Mechanism};
use crate::wire::line::LineFault;
use crate::wire::literal::Announced;
use crate::{Machine, Outbox, Step, Tick};
use std::sync::Arc;
use std::time::Duration;

/// Faults after which the peer is not worth listening to.
pub const STRIKES_MAX: u32 = 20;
pub(super) const LOGIN_STRIKES: u32 = 3;
/// Octets of a line: a response of a login, in base64 and quotes, behind its command.
pub const LINE_BYTES_MAX: usize = LINE_OCTETS_MAX + 128;
/// Octets of a command beside its script.
const ARGUMENT_BYTES_MAX: usize = 16 << 10;
/// From connecting to having logged in.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(180);
/// RFC 5804 wants half an hour at least. Only a whole command starts it anew.
const IDLE_TIMEOUT: Duration = Duration::from_secs(31 * 60);

#[derive(Debug)]
pub(super) enum Phase {
    Greeting,
    Command,
    Sasl(Attempt),
    /// Octets of a refused literal, then the rest of its command.
    Refused {
        left: u32,
    },
    RefusedLine,
    Asked(Question),
    Closing,
}

#[derive(Debug)]
pub(super) enum Question {
    Login,
    Keys(Attempt),
    Scripts,
}

/// One session.
#[derive(Debug)]
pub struct ManageSieve {
    pub(super) config: Arc<Config>,
    pub(super) phase: Phase,
    framing: Framing,
    pub(super) tls: bool,
    pub(super) user: Option<String>,
    pub(super) strikes: u32,
    /// A whole command has come since the deadline was set.
    heard: bool,
    deadline: Option<Tick>,
}

impl ManageSieve {
    /// `tls`: the connection is encrypted already.
    #[must_use]
    pub fn new(config: Arc<Config>, tls: bool) -> ManageSieve {
        ManageSieve {
            config,
            phase: Phase::Greeting,
            framing: Framing::default(),
            tls,
            user: None,
            strikes: 0,
            heard: false,
            deadline: None,
        }
    }

    /// Who has logged in.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Heap octets held between steps: one command, with its script.
    #[must_use]
    pub fn retained_bytes(&self) -> usize {
        let user = self.user.as_ref().map_or(0, String::capacity);
        self.framing.retained_bytes().saturating_add(user)
    }

    // ── inside ──────────────────────────────────────────────────────────────────────────────────

    pub(super) fn strike(&mut self, strikes: u32) {
        self.strikes = self.strikes.saturating_add(strikes);
    }

    /// Writes a refusal; in its place the farewell, once there have been too many faults.
    pub(super) fn say(&mut self, refusal: &Refusal, output: &mut Outbox) {
        if self.strikes >= STRIKES_MAX {
            self.bye("Too many errors", output);
        } else {
            refusal.write("NO", output);
        }
    }

    pub(super) fn fault(&mut self, refusal: &Refusal, output: &mut Outbox) {
        self.strike(1);
        self.say(refusal, output);
    }

    fn bye(&mut self, text: &'static str, output: &mut Outbox) {
        Refusal::plain(text).write("BYE", output);
        self.phase = Phase::Closing;
    }

    pub(super) fn may_start_tls(&self) -> bool {
        self.config.tls_available && !self.tls && self.user.is_none()
    }

    pub(super) fn passwords_taken(&self) -> bool {
        self.tls || self.config.plaintext_auth
    }

    /// RFC 5804 section 1.7.
    pub(super) fn capabilities(&self, output: &mut Outbox) {
        let mut line = |name: &str, value: Option<&str>| {
            string(name.as_bytes(), output);
            if let Some(value) = value {
                output.push(b" ");
                string(value.as_bytes(), output);
            }
            output.push(b"\r\n");
        };
        line("IMPLEMENTATION", Some("Kura"));
        line("SIEVE", Some(&crate::sieve::extensions()));
        let mechanisms = match (self.user.is_some(), self.passwords_taken()) {
            (true, _) => String::new(),
            (false, true) => {
                format!("{} {}", Mechanism::ScramSha256.name(), Mechanism::Plain.name())
            }
            (false, false) => Mechanism::ScramSha256.name().to_owned(),
        };
        line("SASL", Some(&mechanisms));
        if self.may_start_tls() {
            line("STARTTLS", None);
        }
        if let Some(user) = &self.user {
            line("OWNER", Some(user));
        }
        line("UNAUTHENTICATE", None);
        line("MAXREDIRECTS", Some(&self.config.redirects_max.to_string()));
        line("VERSION", Some("1.0"));
    }

    // ── reading ─────────────────────────────────────────────────────────────────────────────────

    fn read(
        &mut self,
        attempt: Option<Attempt>,
        input: &mut &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event>> {
        match self.framing.next(input, LINE_BYTES_MAX) {
            Frame::Incomplete => {
                if let Some(attempt) = attempt {
                    self.phase = Phase::Sasl(attempt);
                }
                Some(Step::NeedInput)
            }
            Frame::Fault(fault) => {
                self.line_fault(fault, output);
                None
            }
            Frame::Literal(announced) => {
                if let Some(attempt) = attempt {
                    self.phase = Phase::Sasl(attempt);
                }
                self.literal(announced, output);
                None
            }
            Frame::Command => {
                self.heard = true;
                let collected = self.framing.take();
                match attempt {
                    Some(attempt) => self.response(attempt, &collected, output),
                    None => self.command(&collected, output),
                }
            }
        }
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
        self.fault(&Refusal::plain(text), output);
    }

    /// Decides about a literal before its first octet.
    fn literal(&mut self, announced: Announced, output: &mut Outbox) {
        if announced.synchronizing {
            // Whether its octets come is anybody's guess: they must not be taken for commands.
            self.framing.clear();
            self.bye("A literal from a client is {n+}", output);
            return;
        }
        let collected = self.framing.collected();
        let carries_script = self.user.is_some() && command::carries_script(collected);
        let script_bytes = usize::try_from(self.config.script_bytes_max).unwrap_or(usize::MAX);
        let most = ARGUMENT_BYTES_MAX.saturating_add(if carries_script { script_bytes } else { 0 });
        let room = most.saturating_sub(collected.len());
        let bytes = announced.bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let fits = |bytes: &usize| *bytes <= room && (!carries_script || *bytes <= script_bytes);
        if let Some(bytes) = bytes.filter(fits) {
            self.framing.take_literal(bytes);
            return;
        }
        self.phase = Phase::Command;
        let refusal = match (carries_script, self.user.is_some()) {
            (true, _) => Refusal::TOO_LARGE,
            (false, true) => Refusal::plain("The literal is too large"),
            (false, false) => Refusal::plain("Log in first"),
        };
        // A script that is too large is nobody's misdeed.
        if !carries_script {
            self.strike(1);
        }
        self.say(&refusal, output);
        self.refuse_literal(announced, output);
    }

    fn refuse_literal(&mut self, announced: Announced, output: &mut Outbox) {
        self.framing.take();
        match self.phase {
            Phase::Closing => {}
            Phase::Greeting
            | Phase::Command
            | Phase::Sasl(_)
            | Phase::Refused { .. }
            | Phase::RefusedLine
            | Phase::Asked(_) => {
                let most = self.config.swallow_bytes_max;
                match announced.bytes.filter(|bytes| *bytes <= most && !announced.synchronizing) {
                    Some(left) => self.phase = Phase::Refused { left },
                    None => self.bye("The literal is far too large", output),
                }
            }
        }
    }

    fn read_refused(&mut self, left: u32, input: &mut &[u8]) -> Option<Step<Event>> {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX);
        let (taken, rest) = input.split_at_checked(wanted).unwrap_or((input, b""));
        *input = rest;
        let left = left.saturating_sub(u32::try_from(taken.len()).unwrap_or(u32::MAX));
        if left > 0 {
            self.phase = Phase::Refused { left };
            return Some(Step::NeedInput);
        }
        self.phase = Phase::RefusedLine;
        None
    }

    fn read_refused_line(&mut self, input: &mut &[u8], output: &mut Outbox) -> Option<Step<Event>> {
        match self.framing.next(input, LINE_BYTES_MAX) {
            Frame::Incomplete => {
                self.phase = Phase::RefusedLine;
                return Some(Step::NeedInput);
            }
            Frame::Command | Frame::Fault(_) => {
                self.heard = true;
                self.framing.take();
            }
            Frame::Literal(announced) => self.refuse_literal(announced, output),
        }
        None
    }
}

impl Machine for ManageSieve {
    type Event<'i> = Event;

    fn step(&mut self, now: Tick, input: &mut &[u8], output: &mut Outbox) -> Step<Event> {
        if input.is_empty() && !self.heard && self.deadline.is_some_and(|deadline| deadline <= now)
        {
            self.bye("Idle for too long", output);
        }
        loop {
            let step = match std::mem::replace(&mut self.phase, Phase::Command) {
                Phase::Greeting => {
                    self.capabilities(output);
                    output.push(b"OK \"Kura ready\"\r\n");
                    self.deadline = Some(now.after(LOGIN_TIMEOUT));
                    None
                }
                Phase::Command => self.read(None, input, output),
                Phase::Sasl(attempt) => self.read(Some(attempt), input, output),
                Phase::Refused { left } => self.read_refused(left, input),
                Phase::RefusedLine => self.read_refused_line(input, output),
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
                if step == Step::NeedInput && std::mem::take(&mut self.heard) && self.user.is_some()
                {
                    self.deadline = Some(now.after(IDLE_TIMEOUT));
                }
                return step;
            }
        }
    }

    fn deadline(&self) -> Option<Tick> {
        self.deadline
    }

    /// RFC 5804 section 2.2: what was said in the clear is forgotten, the
    /// capabilities are told anew.
    fn tls_started(&mut self, now: Tick) {
        self.tls = true;
        self.user = None;
        self.framing.clear();
        // As at the beginning: the next step tells what can be done now.
        self.phase = Phase::Greeting;
        self.heard = false;
        self.deadline = Some(now.after(LOGIN_TIMEOUT));
    }
}
