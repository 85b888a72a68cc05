//! The IMAP machine: one TCP life from greeting to BYE. RFC 3501 section 3.
//!
//! # States and what may happen in them
//!
//! | state | commands |
//! |---|---|
//! | any | CAPABILITY NOOP LOGOUT ID |
//! | not authenticated | STARTTLS AUTHENTICATE LOGIN |
//! | authenticated | ENABLE NAMESPACE SELECT EXAMINE CREATE DELETE RENAME SUBSCRIBE UNSUBSCRIBE LIST LSUB STATUS APPEND IDLE GETQUOTA GETQUOTAROOT SETQUOTA |
//! | selected | all of those, and CHECK CLOSE UNSELECT EXPUNGE SEARCH FETCH STORE COPY MOVE, and their UID forms |
//!
//! Anything else is answered BAD. Invariants: between steps the machine keeps at most
//! [`Config::command_bytes_max`] of a command, and the view; one tagged reply per command; what
//! follows a refused literal is swallowed, never read as a command. Message octets of an APPEND
//! pass through as slices of the input. A peer that only errs is closed with BYE after
//! [`Config::bad_commands_max`] in a row.
//!
//! Time: from word to word [`Config::idle_timeout`]. Within APPEND's message, which others' room is
//! taken for, it is as in SMTP: the clock starts anew with each piece ([`PIECE_TIMEOUT`]), and
//! [`MESSAGE_TIMEOUT`] bounds the whole. Our own time to answer is not the peer's.

use super::authenticate::Sasl;
use super::encode::push;
use super::event::{Completed, Credentials, Event, LoginAnswer, Selection};
use super::framing::{Frame, Framing};
use super::lexer::Fault;
use super::response::{Code, Completion};
use super::view::{News, Selected, View};
use crate::wire::line::LineFault;
use crate::wire::literal::Announced;
use crate::{Machine, Outbox, Step, Tick, Ticket};
use std::sync::Arc;
use std::time::Duration;

/// Between pieces of a message.
const PIECE_TIMEOUT: Duration = Duration::from_secs(180);
/// However slowly it drips, a message must be complete by then.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(3600);

/// What is the same for all sessions of a listener.
#[derive(Debug, Clone)]
pub struct Config {
    /// For the greeting.
    pub host: String,
    /// A certificate is there: STARTTLS is offered.
    pub tls_available: bool,
    /// LOGIN, PLAIN are allowed without TLS; for trials on loopback only.
    pub plaintext_login: bool,
    pub append_bytes_max: u32,
    /// Text and literals of one command, APPEND's message apart.
    pub command_bytes_max: usize,
    /// Refused literals that were sent without waiting are swallowed up to this; past it, BYE.
    pub swallow_bytes_max: u32,
    pub bad_commands_max: u32,
    pub login_failures_max: u32,
    /// From connecting to having logged in.
    pub login_timeout: Duration,
    /// Without a word from the client; RFC 3501 section 5.4 asks for half an hour at least.
    pub idle_timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            host: "localhost".into(),
            tls_available: true,
            plaintext_login: false,
            append_bytes_max: 50 << 20,
            command_bytes_max: 64 << 10,
            swallow_bytes_max: 100 << 20,
            bad_commands_max: 20,
            login_failures_max: 10,
            login_timeout: Duration::from_secs(180),
            idle_timeout: Duration::from_secs(31 * 60),
        }
    }
}

#[derive(Debug)]
pub(super) enum State {
    /// Nothing has been sent yet.
    Greeting,
    NotAuthenticated,
    Authenticated,
    Selected(Box<View>),
    /// BYE has been written.
    Logout,
}

/// What the next input octets are.
#[derive(Debug)]
pub(super) enum Reading {
    Commands,
    /// A response to a challenge.
    Sasl(Sasl),
    /// DONE is awaited.
    Idle {
        tag: Vec<u8>,
    },
    /// Octets of a message; `spoiled` once a NUL was among them.
    Message {
        left: u32,
        spoiled: bool,
    },
    /// What follows the message: the end of the line.
    MessageEnd {
        spoiled: bool,
    },
    /// Octets of a refused literal, then the rest of its command.
    Refused {
        left: u32,
    },
    RefusedLine,
}

/// A command whose event is out.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) tag: Vec<u8>,
    pub(super) kind: PendingKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PendingKind {
    Plain,
    /// FETCH, STORE, SEARCH by message number: no EXPUNGE while it runs (RFC 3501 section 7.4.1).
    ByNumber,
    /// The mailbox is left when it succeeds.
    Close,
    Select {
        read_only: bool,
    },
    Login,
    Append(Announced),
    /// Ends IDLE with what the client should have sent.
    IdleFault,
}

/// The machine; see the module's text.
#[derive(Debug)]
pub struct Imap {
    pub(super) config: Arc<Config>,
    pub(super) state: State,
    pub(super) reading: Reading,
    pub(super) framing: Framing,
    pub(super) pending: Option<Pending>,
    pub(super) tls: bool,
    strikes: u32,
    login_failures: u32,
    started: Tick,
    heard: Tick,
    /// An event is out, or was answered just now.
    answering: bool,
    /// When the message that is coming must be complete.
    message_deadline: Option<Tick>,
}

impl Imap {
    /// `tls`: the connection began with a handshake (RFC 8314).
    #[must_use]
    pub fn new(config: Arc<Config>, tls: bool) -> Imap {
        Imap {
            config,
            state: State::Greeting,
            reading: Reading::Commands,
            framing: Framing::default(),
            pending: None,
            tls,
            strikes: 0,
            login_failures: 0,
            started: Tick::default(),
            heard: Tick::default(),
            answering: false,
            message_deadline: None,
        }
    }

    /// The selected mailbox.
    #[must_use]
    pub fn view(&self) -> Option<&View> {
        match &self.state {
            State::Selected(view) => Some(view),
            State::Greeting | State::NotAuthenticated | State::Authenticated | State::Logout => {
                None
            }
        }
    }

    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.reading, Reading::Idle { .. })
    }

    /// Farewell has been said: nothing is left but to close.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Logout)
    }

    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Tag of the command that is being answered.
    #[must_use]
    pub fn tag(&self) -> &[u8] {
        self.pending.as_ref().map_or(b"*", |pending| &pending.tag)
    }

    /// Heap octets held.
    #[must_use]
    pub fn retained_bytes(&self) -> usize {
        let view = self.view().map_or(0, |view| view.uids().len().saturating_mul(4));
        self.framing.retained_bytes().saturating_add(view)
    }

    // ── answers ─────────────────────────────────────────────────────────────────────────────────

    /// Ends a command.
    pub fn answer(
        &mut self,
        ticket: Ticket<Completed>,
        completion: &Completion,
        output: &mut Outbox,
    ) {
        drop(ticket);
        let Some(pending) = self.pending.take() else { return };
        let fault = Completion::Bad("Expected DONE");
        let completion = match pending.kind {
            PendingKind::IdleFault => &fault,
            PendingKind::Close => {
                if matches!(completion, Completion::Ok(..)) {
                    self.state = State::Authenticated;
                }
                completion
            }
            PendingKind::Plain
            | PendingKind::ByNumber
            | PendingKind::Select { .. }
            | PendingKind::Login
            | PendingKind::Append(_) => completion,
        };
        completion.write(output.buffer(), &pending.tag);
    }

    pub fn answer_login(
        &mut self,
        ticket: Ticket<Credentials>,
        answer: LoginAnswer,
        output: &mut Outbox,
    ) {
        drop(ticket);
        let Some(pending) = self.pending.take() else { return };
        let refused = Completion::No(Some(Code::AuthenticationFailed), "Authentication failed");
        match answer {
            LoginAnswer::Accepted => {
                self.state = State::Authenticated;
                self.login_failures = 0;
                let capabilities = self.capabilities();
                let tag = String::from_utf8_lossy(&pending.tag);
                let out = output.buffer();
                push(out, format_args!("{tag} OK [CAPABILITY {capabilities}] Logged in\r\n"));
            }
            LoginAnswer::Refused => {
                refused.write(output.buffer(), &pending.tag);
                self.login_failures = self.login_failures.saturating_add(1);
                if self.login_failures >= self.config.login_failures_max {
                    self.bye("Too many failed logins", output);
                }
            }
            LoginAnswer::Unavailable => {
                let text = "The account can't be used now; try again later";
                Completion::No(Some(Code::Unavailable), text).write(output.buffer(), &pending.tag);
            }
        }
    }

    /// # Errors
    /// An `Err` is a refusal, to be given as the completion to write.
    pub fn answer_select(
        &mut self,
        ticket: Ticket<Selection>,
        answer: Result<Selected, Completion>,
        output: &mut Outbox,
    ) {
        drop(ticket);
        let Some(pending) = self.pending.take() else { return };
        let PendingKind::Select { read_only } = pending.kind else { return };
        let out = output.buffer();
        match answer {
            Ok(selected) => {
                let read_only = read_only || selected.read_only;
                let view = View::select(selected, read_only, out);
                self.state = State::Selected(Box::new(view));
                let code = if read_only { Code::ReadOnly } else { Code::ReadWrite };
                Completion::Ok(Some(code), "Selected").write(out, &pending.tag);
            }
            Err(refusal) => refusal.write(out, &pending.tag),
        }
    }

    /// Tells what happened in the selected mailbox, as far as the command in progress allows.
    pub fn tell(&mut self, news: &News, output: &mut Outbox) {
        let by_number = |pending: &Pending| pending.kind == PendingKind::ByNumber;
        let may_expunge = !self.pending.as_ref().is_some_and(by_number);
        if let State::Selected(view) = &mut self.state {
            view.tell(output.buffer(), news, may_expunge);
        }
    }

    /// Tells of new keywords, before flags are sent that hold one; `open`: whether there
    /// is room for more.
    pub fn tell_keywords(&mut self, keywords: &[String], open: bool, output: &mut Outbox) {
        if let State::Selected(view) = &mut self.state {
            view.tell_keywords(output.buffer(), keywords, open);
        }
    }

    /// The client has been sent the flags of a message as of `modseq`.
    pub fn note_told(&mut self, uid: u32, modseq: u64) {
        if let State::Selected(view) = &mut self.state {
            view.note_told(uid, modseq);
        }
    }

    /// The selected mailbox is no more, by this client's own hand.
    pub fn deselect(&mut self) {
        if matches!(self.state, State::Selected(_)) {
            self.state = State::Authenticated;
        }
    }

    /// Says farewell; the next step closes.
    pub fn bye(&mut self, text: &str, output: &mut Outbox) {
        push(output.buffer(), format_args!("* BYE {text}\r\n"));
        self.state = State::Logout;
        self.pending = None;
    }

    // ── what the connection can do ──────────────────────────────────────────────────────────────

    pub(super) fn may_send_passwords(&self) -> bool {
        self.tls || self.config.plaintext_login
    }

    pub(super) fn may_start_tls(&self) -> bool {
        self.config.tls_available && !self.tls
    }

    pub(super) fn capabilities(&self) -> String {
        let mut list = "IMAP4rev1 LITERAL+ SASL-IR ID ENABLE".to_owned();
        match self.state {
            State::Greeting | State::NotAuthenticated => {
                if self.may_start_tls() {
                    list.push_str(" STARTTLS");
                }
                list.push_str(if self.may_send_passwords() {
                    " AUTH=SCRAM-SHA-256 AUTH=PLAIN AUTH=LOGIN"
                } else {
                    " AUTH=SCRAM-SHA-256 LOGINDISABLED"
                });
            }
            State::Authenticated | State::Selected(_) | State::Logout => {
                list.push_str(
                    " NAMESPACE CHILDREN UIDPLUS MOVE UNSELECT IDLE ESEARCH SPECIAL-USE \
                     CREATE-SPECIAL-USE LIST-EXTENDED LIST-STATUS STATUS=SIZE QUOTA \
                     QUOTA=RES-STORAGE QUOTA=RES-MESSAGE",
                );
                let limit = self.config.append_bytes_max;
                list.push_str(&format!(" APPENDLIMIT={limit}"));
            }
        }
        list
    }

    // ── faults ──────────────────────────────────────────────────────────────────────────────────

    /// A fault of the client's: BAD, and a strike.
    pub(super) fn bad(&mut self, tag: Option<&[u8]>, fault: Fault, output: &mut Outbox) {
        Completion::Bad(fault.0).write(output.buffer(), tag.unwrap_or(b"*"));
        self.strikes = self.strikes.saturating_add(1);
        if self.strikes >= self.config.bad_commands_max {
            self.bye("Too many bad commands", output);
        }
    }

    pub(super) fn good(&mut self) {
        self.strikes = 0;
    }

    fn line_fault(&mut self, fault: LineFault, output: &mut Outbox) {
        let fault = match fault {
            LineFault::TooLong => Fault("The command is too long"),
            LineFault::BareCr => Fault("A CR without LF"),
            LineFault::BareLf => Fault("Lines must end with CRLF, not with LF alone"),
            LineFault::Nul => Fault("NUL in a command"),
            LineFault::Hopeless => {
                self.bye("Lines must end with CRLF", output);
                return;
            }
        };
        self.bad(None, fault, output);
    }

    // ── reading ─────────────────────────────────────────────────────────────────────────────────

    fn read_command<'i>(
        &mut self,
        input: &mut &'i [u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        match self.framing.next(input, self.config.command_bytes_max) {
            Frame::Incomplete => Some(Step::NeedInput),
            Frame::Fault(fault) => {
                self.line_fault(fault, output);
                None
            }
            Frame::Literal(announced) => self.read_literal(announced, output),
            Frame::Command => {
                let command = self.framing.take();
                self.run(&command, output)
            }
        }
    }

    fn read_idle<'i>(
        &mut self,
        tag: Vec<u8>,
        input: &mut &'i [u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let kind = match self.framing.next(input, self.config.command_bytes_max) {
            Frame::Incomplete => {
                self.reading = Reading::Idle { tag };
                return Some(Step::NeedInput);
            }
            Frame::Command if self.framing.collected().eq_ignore_ascii_case(b"DONE") => {
                self.good();
                PendingKind::Plain
            }
            Frame::Command | Frame::Fault(_) | Frame::Literal(_) => {
                self.strikes = self.strikes.saturating_add(1);
                PendingKind::IdleFault
            }
        };
        self.framing.forget();
        if self.strikes >= self.config.bad_commands_max {
            self.bye("Too many bad commands", output);
            return None;
        }
        self.pending = Some(Pending { tag, kind });
        Some(Step::Event(Event::Sync { ticket: Ticket::issue() }))
    }

    fn read_sasl<'i>(
        &mut self,
        sasl: Sasl,
        input: &mut &'i [u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        match self.framing.next(input, self.config.command_bytes_max) {
            Frame::Incomplete => {
                self.reading = Reading::Sasl(sasl);
                Some(Step::NeedInput)
            }
            Frame::Fault(fault) => {
                self.line_fault(fault, output);
                None
            }
            Frame::Command | Frame::Literal(_) => {
                let response = self.framing.take();
                self.sasl_line(sasl, &response, output)
            }
        }
    }

    /// A message is coming, or its end is awaited.
    fn is_in_message(&self) -> bool {
        matches!(self.reading, Reading::Message { .. } | Reading::MessageEnd { .. })
    }

    fn greet(&mut self, now: Tick, output: &mut Outbox) {
        self.started = now;
        self.heard = now;
        let (capabilities, host) = (self.capabilities(), self.config.host.clone());
        let out = output.buffer();
        push(out, format_args!("* OK [CAPABILITY {capabilities}] {host} Kura ready\r\n"));
        self.state = State::NotAuthenticated;
    }
}

impl Machine for Imap {
    type Event<'i> = Event<'i>;

    fn step<'i>(
        &mut self,
        now: Tick,
        input: &mut &'i [u8],
        output: &mut Outbox,
    ) -> Step<Event<'i>> {
        if matches!(self.state, State::Greeting) {
            self.greet(now, output);
        }
        if std::mem::take(&mut self.answering) || !input.is_empty() {
            self.heard = now;
        }
        if input.is_empty() && self.deadline().is_some_and(|deadline| now >= deadline) {
            let in_message = self.is_in_message();
            self.bye(if in_message { "Too slow" } else { "Idle for too long" }, output);
        }
        loop {
            if matches!(self.state, State::Logout) {
                return Step::Close;
            }
            let step = match std::mem::replace(&mut self.reading, Reading::Commands) {
                Reading::Commands => self.read_command(input, output),
                Reading::Sasl(sasl) => self.read_sasl(sasl, input, output),
                Reading::Idle { tag } => self.read_idle(tag, input, output),
                Reading::Message { left, spoiled } => {
                    self.reading = Reading::Message { left, spoiled };
                    self.read_message(left, spoiled, input)
                }
                Reading::MessageEnd { spoiled } => {
                    self.reading = Reading::MessageEnd { spoiled };
                    self.read_message_end(spoiled, input, output)
                }
                Reading::Refused { left } => self.read_refused(left, input),
                Reading::RefusedLine => {
                    self.reading = Reading::RefusedLine;
                    self.read_refused_line(input, output)
                }
            };
            if let Some(step) = step {
                self.answering = matches!(step, Step::Event(_));
                self.message_deadline = match self.is_in_message() {
                    true => self.message_deadline.or(Some(now.after(MESSAGE_TIMEOUT))),
                    false => None,
                };
                return step;
            }
        }
    }

    fn deadline(&self) -> Option<Tick> {
        match self.state {
            State::Greeting | State::Logout => None,
            State::NotAuthenticated => Some(self.started.after(self.config.login_timeout)),
            State::Authenticated | State::Selected(_) => {
                let idle = self.config.idle_timeout;
                let in_message = self.is_in_message();
                let next =
                    self.heard.after(if in_message { idle.min(PIECE_TIMEOUT) } else { idle });
                Some(self.message_deadline.map_or(next, |whole| whole.min(next)))
            }
        }
    }

    fn tls_started(&mut self, now: Tick) {
        // RFC 3501 section 6.2.1: nothing said in the clear counts.
        self.tls = true;
        self.started = now;
        self.heard = now;
        self.framing.clear();
        self.reading = Reading::Commands;
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
