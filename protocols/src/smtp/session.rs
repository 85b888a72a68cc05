//! The SMTP server machine: which command is legal when, and what it is answered.
//!
//! | phase | legal, beside NOOP, HELP, QUIT, RSET, VRFY, EXPN | otherwise |
//! |---|---|---|
//! | fresh | HELO, EHLO (LHLO in LMTP), XCLIENT | 503 |
//! | ready | hello again, STARTTLS, AUTH, XCLIENT, MAIL | 503 |
//! | mail (sender known) | hello, MAIL (503), RCPT | 503 |
//! | recipients | hello, RCPT, DATA, BDAT | 503 |
//! | chunks (between BDATs) | hello, BDAT | 503 |
//!
//! STARTTLS and AUTH reset nothing but are refused inside a transaction, STARTTLS behind XCLIENT,
//! too; a hello ends one. The end of data is answered through [`Smtp::answer_end`], whose positive
//! form takes a proof `P`: the engine makes it the store's receipt, so no reply of ours says `250`
//! to what is not on stable media.
//!
//! Octets behind a BDAT that can't be read are not commands: the session ends there. So it does
//! behind a spoiled line that could have been one, which is any line once a sender was named.
//!
//! Strikes: each faulty command is one, a failed login is three; at [`STRIKES_MAX`] the session
//! ends. What we put off (4xx) is no fault of the peer's, nor is what it had sent behind that
//! before it knew (RFC 2920): such commands are counted apart, up to [`PUT_OFF_MAX`].
//!
//! Time (RFC 5321 section 4.5.3.2): a command must be complete [`COMMAND_TIMEOUT`] after the one
//! before it was answered, however it drips. Within a message the clock starts anew with each
//! piece, and [`MESSAGE_TIMEOUT`] bounds the whole. A step without input moves no deadline.

use super::data::Scanner;
use super::reply::{Enhanced, Reply};
use super::transaction::Transaction;
use crate::sasl::Attempt;
use crate::wire::line::LineReader;
use crate::{Machine, Outbox, Step, Tick};
use std::fmt::Write;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use super::event::{Answer, Config, Event, Role};
pub use crate::sasl::LoginOutcome;

/// Faults after which the peer is not worth listening to.
pub const STRIKES_MAX: u32 = 20;
pub(super) const LOGIN_STRIKES: u32 = 3;
/// Commands for nothing because we take no mail now, until a message is taken: who goes on had
/// better come later.
pub const PUT_OFF_MAX: u32 = 1000;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
const DATA_TIMEOUT: Duration = Duration::from_secs(180);
/// However slowly it drips, a message must be complete by then.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(3600);

pub(super) const TOO_MANY_ERRORS: Reply =
    Reply::new(421, Enhanced(4, 7, 0), "Too many errors, goodbye");

const NOT_NOW: Reply = Reply::new(421, Enhanced(4, 3, 2), "No mail is taken now, come again later");

#[derive(Debug)]
pub(super) enum Phase {
    Greeting,
    Command,
    Sasl(Attempt),
    /// A command's question is open; what becomes of the transaction hangs on the answer.
    Asked(Question),
    Data(Scanner),
    Chunk {
        scanner: Scanner,
        left: u64,
        last: bool,
    },
    /// A chunk that nobody wants: its octets must not be taken for commands.
    Swallow {
        left: u64,
        reply: Reply,
    },
    Ended,
    Closing,
}

#[derive(Debug)]
pub(super) enum Question {
    Login,
    Keys(Attempt),
    /// Its address, and what it has said as its hello, as far as that was said.
    Client(Option<IpAddr>, Option<String>),
    Mail,
    Recipient,
    Data,
    FirstChunk {
        octets: u64,
        last: bool,
    },
}

/// One session.
#[derive(Debug)]
pub struct Smtp<P> {
    pub(super) config: Arc<Config>,
    pub(super) phase: Phase,
    pub(super) transaction: Transaction,
    pub(super) lines: LineReader,
    pub(super) hello: String,
    /// On whose behalf a gateway speaks.
    pub(super) client: Option<IpAddr>,
    /// What a gateway has said of its client's hello.
    pub(super) clients_hello: Option<String>,
    pub(super) extended: bool,
    pub(super) tls: bool,
    pub(super) user: Option<String>,
    pub(super) smtp_utf8: bool,
    pub(super) strikes: u32,
    /// The transaction that is under way, or would be, has been put off by us.
    pub(super) is_put_off: bool,
    pub(super) put_off_commands: u32,
    pub(super) idle_commands: u32,
    /// A MAIL was sent, well-formed or not, since the last message, RSET or hello:
    /// chunks may follow.
    pub(super) sender_named: bool,
    pub(super) reset_due: bool,
    /// A command, an answer or a piece of a message was completed since the deadline was set.
    pub(super) clock_due: bool,
    deadline: Option<Tick>,
    pub(super) message_deadline: Option<Tick>,
    proof: PhantomData<fn(P)>,
}

impl<P> Smtp<P> {
    /// `tls`: the connection is encrypted already.
    #[must_use]
    pub fn new(config: Arc<Config>, tls: bool) -> Smtp<P> {
        Smtp {
            config,
            phase: Phase::Greeting,
            transaction: Transaction::Fresh,
            lines: LineReader::new(),
            hello: String::new(),
            client: None,
            clients_hello: None,
            extended: false,
            tls,
            user: None,
            smtp_utf8: false,
            strikes: 0,
            is_put_off: false,
            put_off_commands: 0,
            idle_commands: 0,
            sender_named: false,
            reset_due: false,
            clock_due: true,
            deadline: None,
            message_deadline: None,
            proof: PhantomData,
        }
    }

    // ── facts for the trace header ──────────────────────────────────────────────────────────────

    /// The argument of the last hello; of a gateway's client, its own.
    #[must_use]
    pub fn hello(&self) -> &str {
        self.clients_hello.as_deref().unwrap_or(&self.hello)
    }

    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The `with` keyword of RFC 3848 and 6531.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        let secured = (self.tls, self.user.is_some());
        match (self.config.role, self.smtp_utf8, secured) {
            (Role::Lmtp, true, (false, _)) => "UTF8LMTP",
            (Role::Lmtp, true, (true, _)) => "UTF8LMTPS",
            (Role::Lmtp, false, (false, _)) => "LMTP",
            (Role::Lmtp, false, (true, _)) => "LMTPS",
            (Role::Mx | Role::Submission, true, (false, false)) => "UTF8SMTP",
            (Role::Mx | Role::Submission, true, (false, true)) => "UTF8SMTPA",
            (Role::Mx | Role::Submission, true, (true, false)) => "UTF8SMTPS",
            (Role::Mx | Role::Submission, true, (true, true)) => "UTF8SMTPSA",
            (Role::Mx | Role::Submission, false, _) if !self.extended => "SMTP",
            (Role::Mx | Role::Submission, false, (false, false)) => "ESMTP",
            (Role::Mx | Role::Submission, false, (false, true)) => "ESMTPA",
            (Role::Mx | Role::Submission, false, (true, false)) => "ESMTPS",
            (Role::Mx | Role::Submission, false, (true, true)) => "ESMTPSA",
        }
    }

    /// Heap octets held between steps; bounded by one line.
    #[must_use]
    pub fn retained_bytes(&self) -> usize {
        let hellos = self.clients_hello.as_ref().map_or(0, String::capacity);
        let hellos = hellos.saturating_add(self.hello.capacity());
        self.lines.retained_bytes().saturating_add(hellos)
    }

    /// Whether a gateway speaks for somebody.
    pub(super) fn speaks_for_another(&self) -> bool {
        self.client.is_some() || self.clients_hello.is_some()
    }

    // ── inside ──────────────────────────────────────────────────────────────────────────────────

    pub(super) fn strike(&mut self, strikes: u32) {
        self.strikes = self.strikes.saturating_add(strikes);
    }

    /// Writes a reply; in its place the farewell, once there have been too many faults.
    pub(super) fn say(&mut self, reply: Reply, output: &mut Outbox) {
        if self.strikes >= STRIKES_MAX {
            self.hang_up(&TOO_MANY_ERRORS, output);
        } else {
            reply.write_in(self.smtp_utf8, output);
        }
    }

    pub(super) fn fault(
        &mut self,
        code: u16,
        enhanced: Enhanced,
        text: &'static str,
        output: &mut Outbox,
    ) {
        self.strike(1);
        self.say(Reply::new(code, enhanced, text), output);
    }

    /// Says that a command is out of place. Behind a refusal of ours that could not be known yet,
    /// that is no fault.
    pub(super) fn out_of_place(
        &mut self,
        code: u16,
        enhanced: Enhanced,
        text: &'static str,
        output: &mut Outbox,
    ) {
        if self.is_put_off {
            self.say_put_off(Reply::new(code, enhanced, text), output);
        } else {
            self.fault(code, enhanced, text, output);
        }
    }

    /// Writes a reply to what is for nothing because of us; in its place the farewell, once there
    /// has been too much of it.
    pub(super) fn say_put_off(&mut self, reply: Reply, output: &mut Outbox) {
        self.put_off_commands = self.put_off_commands.saturating_add(1);
        if self.put_off_commands >= PUT_OFF_MAX {
            self.hang_up(&NOT_NOW, output);
        } else {
            self.say(reply, output);
        }
    }

    /// Writes the last reply of the session.
    pub(super) fn hang_up(&mut self, reply: &Reply, output: &mut Outbox) {
        reply.write(output);
        self.end_transaction();
        self.phase = Phase::Closing;
    }

    pub(super) fn out_of_order(&mut self, text: &'static str, output: &mut Outbox) {
        self.fault(503, Enhanced(5, 5, 1), text, output);
    }

    pub(super) fn ask<'i>(
        &mut self,
        question: Question,
        event: Event<'i>,
    ) -> Option<Step<Event<'i>>> {
        self.phase = Phase::Asked(question);
        Some(Step::Event(event))
    }

    /// Past the deadline: farewell.
    fn timed_out(&mut self, now: Tick, output: &mut Outbox) -> bool {
        let late = |deadline: Option<Tick>| deadline.is_some_and(|deadline| deadline <= now);
        // Our own time to answer is not the peer's.
        let late = (!self.clock_due && late(self.deadline)) || late(self.message_deadline);
        if late {
            Reply::new(421, Enhanced(4, 4, 2), "Too slow, goodbye").write(output);
            self.phase = Phase::Closing;
        }
        late
    }

    fn set_deadlines(&mut self, now: Tick) {
        let in_message = self.takes_octets();
        if std::mem::take(&mut self.clock_due) {
            let timeout = if in_message { DATA_TIMEOUT } else { COMMAND_TIMEOUT };
            self.deadline = Some(now.after(timeout));
        }
        if in_message && self.message_deadline.is_none() {
            self.message_deadline = Some(now.after(MESSAGE_TIMEOUT));
        }
    }
}

impl<P> Machine for Smtp<P> {
    type Event<'i> = Event<'i>;

    fn step<'i>(
        &mut self,
        now: Tick,
        input: &mut &'i [u8],
        output: &mut Outbox,
    ) -> Step<Event<'i>> {
        if input.is_empty() && self.timed_out(now, output) {
            return Step::Close;
        }
        self.clock_due |= !input.is_empty() && self.takes_octets();
        loop {
            if std::mem::take(&mut self.reset_due) {
                return Step::Event(Event::Reset);
            }
            let step = match std::mem::replace(&mut self.phase, Phase::Command) {
                Phase::Greeting => {
                    let kind = if self.config.role == Role::Lmtp { "LMTP" } else { "ESMTP" };
                    let _ = write!(output, "220 {} {kind} Kura\r\n", self.config.hostname);
                    None
                }
                Phase::Command => self.line(None, input, output),
                Phase::Sasl(attempt) => self.line(Some(attempt), input, output),
                Phase::Data(scanner) => self.receive(scanner, input, output),
                Phase::Chunk { scanner, left, last } => {
                    self.receive_chunk(scanner, left, last, input, output)
                }
                Phase::Swallow { left, reply } => self.swallow(left, reply, input, output),
                // The driver owes an answer: nothing goes on before it.
                waiting @ (Phase::Asked(_) | Phase::Ended) => {
                    self.phase = waiting;
                    Some(Step::NeedInput)
                }
                Phase::Closing => {
                    self.phase = Phase::Closing;
                    Some(Step::Close)
                }
            };
            if let Some(step) = step {
                if step == Step::NeedInput {
                    self.set_deadlines(now);
                }
                return step;
            }
        }
    }

    fn deadline(&self) -> Option<Tick> {
        match (self.deadline, self.message_deadline) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// RFC 3207 section 4.2: all that was learned in the clear is forgotten.
    fn tls_started(&mut self, now: Tick) {
        self.tls = true;
        self.transaction = Transaction::Fresh;
        self.phase = Phase::Command;
        self.lines.clear();
        self.hello.clear();
        self.sender_named = false;
        self.user = None;
        self.clock_due = true;
        self.set_deadlines(now);
    }
}
