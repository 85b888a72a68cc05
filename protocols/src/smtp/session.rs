//! The SMTP server machine: which command is legal when, and what it is answered.
//!
//! | phase | legal, beside NOOP, HELP, QUIT, RSET, VRFY, EXPN | otherwise |
//! |---|---|---|
//! | fresh | HELO, EHLO (LHLO in LMTP) | 503 |
//! | ready | hello again, STARTTLS, AUTH, MAIL | 503 |
//! | mail (sender known) | hello, MAIL (503), RCPT | 503 |
//! | recipients | hello, RCPT, DATA, BDAT | 503 |
//! | chunks (between BDATs) | hello, BDAT | 503 |
//!
//! STARTTLS and AUTH reset nothing but are refused inside a transaction; a hello ends one. The end of
//! data is answered through [`Smtp::answer_end`], whose positive form takes a proof `P`: the engine
//! makes it the store's receipt, so no reply of ours says `250` to what is not on stable media.
//!
//! Octets behind a BDAT that can't be read are not commands: the session ends there. So it does
//! behind a spoiled line that could have been one, which is any line once a sender was named.
//!
//! Strikes: each faulty command is one, a failed login is three; at [`STRIKES_MAX`] the session ends.
//!
//! Time (RFC 5321 section 4.5.3.2): a command must be complete [`COMMAND_TIMEOUT`] after the one
//! before it was answered, however it drips. Within a message the clock starts anew with each piece,
//! and [`MESSAGE_TIMEOUT`] bounds the whole. A step without input moves no deadline.

use super::command::{self, Command, Syntax};
use super::data::{Found, Scanner};
use super::params::{MailParams, ParamFault, RecipientParams};
use super::reply::{Enhanced, Refusal, Reply};
use crate::address::Address;
use crate::machine::Ticket;
pub use crate::sasl::LoginOutcome;
use crate::sasl::{self, Attempt, Challenge, Credentials, Fault, Mechanism, ScramKeys, Turn};
use crate::wire::line::{Framed, LineFault, LineReader};
use crate::{Machine, Outbox, Step, Tick};
use std::fmt::Write;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

/// Faults after which the peer is not worth listening to.
pub const STRIKES_MAX: u32 = 20;
const LOGIN_STRIKES: u32 = 3;
/// NOOP, VRFY, hellos, senders and their like between two messages; more is idling at our cost.
const IDLE_COMMANDS_MAX: u32 = 200;
/// RFC 5321 section 4.5.3.1.4 says 512; extensions add to it (RFC 1870, 3461, 6531), clients exceed it.
const COMMAND_OCTETS_MAX: usize = 2048;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
const DATA_TIMEOUT: Duration = Duration::from_secs(180);
/// However slowly it drips, a message must be complete by then.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(3600);

const TOO_MANY_ERRORS: Reply = Reply::new(421, Enhanced(4, 7, 0), "Too many errors, goodbye");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Port 25: mail from other servers for our own users.
    Mx,
    /// Ports 587 and 465: our users send; they log in first (RFC 6409 section 4.3).
    Submission,
    /// RFC 2033: a gateway on this host; one reply for each recipient.
    Lmtp,
}

#[derive(Debug, Clone)]
pub struct Config {
    pub hostname: String,
    /// Whose postmaster `RCPT TO:<postmaster>` means (RFC 5321 section 4.1.1.3): a domain that we
    /// serve, which the host name need not be. The engine gives its first domain, or the host name
    /// while it has none.
    pub postmaster_domain: String,
    pub role: Role,
    pub message_octets_max: u64,
    pub recipients_max: usize,
    /// STARTTLS can be offered while TLS is not active.
    pub tls_available: bool,
    /// Passwords are taken without TLS, too.
    pub plaintext_auth: bool,
}

/// What the machine asks of the engine. The tickets' types are these questions.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'i> {
    /// A password to check: [`Smtp::answer_login`].
    Login(Credentials, Ticket<Login>),
    /// Keys to look up: [`Smtp::answer_keys`].
    ScramKeys(String, Ticket<Keys>),
    /// A proof was right: [`Smtp::answer_login`] lets the engine still say no.
    Proved(String, Ticket<Login>),
    /// A proof was wrong: count it, delay it, then [`Smtp::answer_login`].
    Disproved(Ticket<Login>),
    /// A sender, `None` being the null path: [`Smtp::answer_command`].
    Mail(Option<Address>, MailParams, Ticket<Asked>),
    Recipient(Address, RecipientParams, Ticket<Asked>),
    /// The message is about to come: take it or refuse it before its first octet.
    Data(Ticket<Asked>),
    /// Octets of the message, as sent, without stuffing.
    Body(&'i [u8]),
    /// The message is complete: [`Smtp::answer_end`].
    End(Ticket<Ended>),
    /// The transaction is over without a message, for whatever reason.
    Reset,
}

#[derive(Debug)]
pub enum Login {}
#[derive(Debug)]
pub enum Keys {}
#[derive(Debug)]
pub enum Asked {}
#[derive(Debug)]
pub enum Ended {}

/// The answer for the message, or for one recipient of it in LMTP.
#[derive(Debug)]
pub enum Answer<P> {
    /// Only with the proof that it is on stable media; the text names it for both sides' logs.
    Accepted(P, String),
    Refused(Refusal),
}

#[derive(Debug)]
enum Phase {
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
enum Question {
    Login,
    Keys(Attempt),
    Mail,
    Recipient,
    Data,
    FirstChunk { octets: u64, last: bool },
}

/// How far the transaction is.
#[derive(Debug)]
enum Transaction {
    Fresh,
    Ready,
    Mail,
    Recipients(usize),
    /// Between chunks; the scanner remembers line ends across them.
    Chunks(usize, Scanner),
}

/// One session.
#[derive(Debug)]
pub struct Smtp<P> {
    config: Arc<Config>,
    phase: Phase,
    transaction: Transaction,
    lines: LineReader,
    hello: String,
    extended: bool,
    tls: bool,
    user: Option<String>,
    smtp_utf8: bool,
    strikes: u32,
    idle_commands: u32,
    /// A MAIL was sent, well-formed or not, since the last message, RSET or hello: chunks may follow.
    sender_named: bool,
    reset_due: bool,
    /// A command, an answer or a piece of a message was completed since the deadline was set.
    clock_due: bool,
    deadline: Option<Tick>,
    message_deadline: Option<Tick>,
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
            extended: false,
            tls,
            user: None,
            smtp_utf8: false,
            strikes: 0,
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

    /// The argument of the last hello.
    #[must_use]
    pub fn hello(&self) -> &str {
        &self.hello
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

    /// Whether a message is on its way: a stopping server waits for it.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        !matches!(self.transaction, Transaction::Fresh | Transaction::Ready)
    }

    /// Heap octets held between steps; bounded by one line.
    #[must_use]
    pub fn retained_bytes(&self) -> usize {
        self.lines.retained_bytes().saturating_add(self.hello.capacity())
    }

    // ── answers ─────────────────────────────────────────────────────────────────────────────────

    pub fn answer_login(
        &mut self,
        _: Ticket<Login>,
        outcome: LoginOutcome,
        user: &str,
        output: &mut Outbox,
    ) {
        self.clock_due = true;
        self.phase = Phase::Command;
        match outcome {
            LoginOutcome::Welcome => {
                self.user = Some(user.to_owned());
                Reply::new(235, Enhanced(2, 7, 0), "Welcome").write(output);
            }
            LoginOutcome::Wrong => {
                self.strike(LOGIN_STRIKES);
                self.say(Reply::new(535, Enhanced(5, 7, 8), "Wrong user name or password"), output);
            }
            LoginOutcome::Busy => {
                Reply::new(454, Enhanced(4, 7, 0), "Too many logins at once, try again")
                    .write(output);
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
        self.clock_due = true;
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

    /// Answers [`Event::Mail`], [`Event::Recipient`] and [`Event::Data`].
    pub fn answer_command(
        &mut self,
        _: Ticket<Asked>,
        answer: Result<(), Refusal>,
        output: &mut Outbox,
    ) {
        self.clock_due = true;
        let Phase::Asked(question) = std::mem::replace(&mut self.phase, Phase::Command) else {
            return;
        };
        match (question, answer) {
            (Question::Mail, Ok(())) => {
                self.transaction = Transaction::Mail;
                Reply::new(250, Enhanced(2, 1, 0), "Sender fine").write(output);
            }
            (Question::Recipient, Ok(())) => {
                let count = match self.transaction {
                    Transaction::Recipients(count) => count,
                    Transaction::Fresh | Transaction::Ready | Transaction::Mail => 0,
                    Transaction::Chunks(count, _) => count,
                };
                self.transaction = Transaction::Recipients(count.saturating_add(1));
                Reply::new(250, Enhanced(2, 1, 5), "Recipient fine").write(output);
            }
            (Question::Data, Ok(())) => {
                self.phase = Phase::Data(Scanner::new(self.config.message_octets_max));
                Reply::bare(354, "End data with <CR><LF>.<CR><LF>").write(output);
            }
            (Question::FirstChunk { octets, last }, Ok(())) => {
                let scanner = Scanner::new(self.config.message_octets_max);
                self.phase = Phase::Chunk { scanner, left: octets, last };
            }
            (Question::FirstChunk { octets, .. }, Err(refusal)) => {
                self.end_transaction();
                self.phase = Phase::Swallow { left: octets, reply: refusal.reply().clone() };
            }
            (Question::Data, Err(refusal)) => {
                self.end_transaction();
                self.say(refusal.reply().clone(), output);
            }
            // Unknown recipients are how addresses are guessed.
            (Question::Recipient, Err(refusal)) => {
                if refusal.is_permanent() {
                    self.strike(1);
                }
                self.say(refusal.reply().clone(), output);
            }
            (Question::Mail, Err(refusal)) => self.say(refusal.reply().clone(), output),
            // A login has answers of its own.
            (Question::Login | Question::Keys(_), _) => {}
        }
    }

    /// Answers [`Event::End`]: one answer, or in LMTP one for each recipient that was taken, in order.
    /// The peer gets exactly as many: in place of one that is missing, 451.
    pub fn answer_end(&mut self, _: Ticket<Ended>, answers: Vec<Answer<P>>, output: &mut Outbox) {
        self.clock_due = true;
        let mut answers = answers.into_iter();
        for _ in 0..self.answers_due() {
            let reply = match answers.next() {
                Some(Answer::Accepted(_proof, text)) => {
                    Reply::new(250, Enhanced(2, 0, 0), "").with_text(text)
                }
                Some(Answer::Refused(refusal)) => refusal.reply().clone(),
                None => Refusal::NO_STORE.reply().clone(),
            };
            reply.write_in(self.smtp_utf8, output);
        }
        self.idle_commands = 0;
        self.sender_named = false;
        self.transaction = Transaction::Ready;
        self.phase = Phase::Command;
    }

    /// RFC 2033 section 4.2: LMTP answers the end of data once for each recipient that was taken.
    fn answers_due(&self) -> usize {
        match (self.config.role, &self.transaction) {
            (Role::Lmtp, Transaction::Recipients(count) | Transaction::Chunks(count, _)) => *count,
            (Role::Lmtp, Transaction::Fresh | Transaction::Ready | Transaction::Mail) => 1,
            (Role::Mx | Role::Submission, _) => 1,
        }
    }

    // ── inside ──────────────────────────────────────────────────────────────────────────────────

    fn strike(&mut self, strikes: u32) {
        self.strikes = self.strikes.saturating_add(strikes);
    }

    /// Writes a reply; in its place the farewell, once there have been too many faults.
    fn say(&mut self, reply: Reply, output: &mut Outbox) {
        if self.strikes >= STRIKES_MAX {
            self.hang_up(&TOO_MANY_ERRORS, output);
        } else {
            reply.write_in(self.smtp_utf8, output);
        }
    }

    fn fault(&mut self, code: u16, enhanced: Enhanced, text: &'static str, output: &mut Outbox) {
        self.strike(1);
        self.say(Reply::new(code, enhanced, text), output);
    }

    /// Writes the last reply of the session.
    fn hang_up(&mut self, reply: &Reply, output: &mut Outbox) {
        reply.write(output);
        self.end_transaction();
        self.phase = Phase::Closing;
    }

    fn out_of_order(&mut self, text: &'static str, output: &mut Outbox) {
        self.fault(503, Enhanced(5, 5, 1), text, output);
    }

    /// Forgets the transaction; the engine is told before anything else happens.
    fn end_transaction(&mut self) {
        self.reset_due = self.reset_due || self.in_transaction();
        if self.in_transaction() {
            self.transaction = Transaction::Ready;
        }
        self.message_deadline = None;
    }

    fn ask<'i>(&mut self, question: Question, event: Event<'i>) -> Option<Step<Event<'i>>> {
        self.phase = Phase::Asked(question);
        Some(Step::Event(event))
    }

    fn line<'i>(&mut self, input: &mut &[u8], output: &mut Outbox) -> Option<Step<Event<'i>>> {
        let octets_max = match self.phase {
            Phase::Sasl(_) => sasl::LINE_OCTETS_MAX,
            _ => self.command_octets_max(),
        };
        let mut lines = std::mem::take(&mut self.lines);
        let step = match lines.next(input, octets_max) {
            Framed::Incomplete => Some(Step::NeedInput),
            Framed::Fault(fault) => {
                self.clock_due = true;
                self.line_fault(fault, lines.spoiled_line_may_begin_with(b"BDAT"), output);
                None
            }
            Framed::Line(line) => {
                self.clock_due = true;
                match std::mem::replace(&mut self.phase, Phase::Command) {
                    Phase::Sasl(attempt) => self.login_turn(attempt.line(line), output),
                    _ => self.command(line, output),
                }
            }
        };
        self.lines = lines;
        step
    }

    /// AUTH may carry a long initial response.
    fn command_octets_max(&self) -> usize {
        if self.auth_offered() { sasl::LINE_OCTETS_MAX } else { COMMAND_OCTETS_MAX }
    }

    fn line_fault(&mut self, fault: LineFault, may_be_bdat: bool, output: &mut Outbox) {
        self.phase = Phase::Command;
        let text = match fault {
            LineFault::TooLong => "Line too long",
            LineFault::BareCr | LineFault::BareLf => "Lines must end with CRLF",
            LineFault::Nul => "NUL in a command",
            LineFault::Hopeless => {
                self.strikes = STRIKES_MAX;
                "Lines must end with CRLF"
            }
        };
        if may_be_bdat || self.sender_named {
            self.hang_up(&Reply::new(500, Enhanced(5, 5, 2), text), output);
        } else {
            self.fault(500, Enhanced(5, 5, 2), text, output);
        }
    }

    fn command<'i>(&mut self, line: &[u8], output: &mut Outbox) -> Option<Step<Event<'i>>> {
        self.sender_named |= line.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"MAIL"));
        match command::parse(line, &self.config.postmaster_domain) {
            Ok(command) => self.obey(command, output),
            Err(fault) => {
                let (code, enhanced, text) = match fault {
                    Syntax::Verb => (500, Enhanced(5, 5, 1), "Command not known"),
                    Syntax::Arguments => (501, Enhanced(5, 5, 4), "Wrong arguments"),
                    Syntax::Address => (501, Enhanced(5, 1, 3), "Malformed address"),
                    Syntax::Param(ParamFault::Value) => (501, Enhanced(5, 5, 4), "Wrong parameter"),
                    Syntax::Param(ParamFault::Unknown) => {
                        (555, Enhanced(5, 5, 4), "Parameter not known")
                    }
                    Syntax::Chunk => {
                        let text = "A chunk without a size: nothing behind it can be read";
                        self.hang_up(&Reply::new(501, Enhanced(5, 5, 4), text), output);
                        return None;
                    }
                    Syntax::Http => {
                        let text = "This is a mail server, goodbye";
                        self.hang_up(&Reply::new(421, Enhanced(4, 7, 0), text), output);
                        return None;
                    }
                };
                self.fault(code, enhanced, text, output);
                None
            }
        }
    }

    fn obey<'i>(&mut self, command: Command, output: &mut Outbox) -> Option<Step<Event<'i>>> {
        match command {
            Command::Helo(name) => self.hello_said(name, false, output),
            Command::Ehlo(name) => self.hello_said(name, true, output),
            Command::Lhlo(name) => self.lhlo_said(name, output),
            Command::Mail { from, params } => return self.mail(from, params, output),
            Command::Rcpt { to, params } => return self.recipient(to, params, output),
            Command::Data => return self.data(output),
            Command::Bdat { octets, last } => return self.bdat(octets, last, output),
            Command::StartTls => return self.start_tls(output),
            Command::Auth { mechanism, initial } => return self.auth(&mechanism, initial, output),
            Command::Rset => {
                self.end_transaction();
                self.sender_named = false;
                self.smtp_utf8 = false;
                self.idle(Reply::new(250, Enhanced(2, 0, 0), "Forgotten"), output);
            }
            Command::Noop => self.idle(Reply::new(250, Enhanced(2, 0, 0), "Fine"), output),
            Command::Help => {
                self.idle(Reply::new(214, Enhanced(2, 0, 0), "RFC 5321 says it all"), output);
            }
            // RFC 5321 section 7.3: guessing addresses is not helped.
            Command::Vrfy => {
                let text = "Can't say, but will take mail and try";
                self.idle(Reply::new(252, Enhanced(2, 5, 0), text), output);
            }
            Command::Expn => self.fault(502, Enhanced(5, 5, 1), "Lists are not shown", output),
            Command::Quit => {
                self.hang_up(&Reply::new(221, Enhanced(2, 0, 0), "Goodbye"), output);
            }
        }
        None
    }

    fn idle(&mut self, reply: Reply, output: &mut Outbox) {
        self.count_idle();
        self.say(reply, output);
    }

    /// False, and the farewell is said, when there has been too much of it.
    fn may_idle(&mut self, output: &mut Outbox) -> bool {
        self.count_idle();
        let worn_out = self.strikes >= STRIKES_MAX;
        if worn_out {
            self.hang_up(&TOO_MANY_ERRORS, output);
        }
        !worn_out
    }

    fn count_idle(&mut self) {
        self.idle_commands = self.idle_commands.saturating_add(1);
        if self.idle_commands > IDLE_COMMANDS_MAX {
            self.strikes = STRIKES_MAX;
        }
    }

    fn hello_said(&mut self, name: String, extended: bool, output: &mut Outbox) {
        match self.config.role {
            Role::Lmtp => self.fault(500, Enhanced(5, 5, 1), "This is LMTP: say LHLO", output),
            Role::Mx | Role::Submission => self.welcome(name, extended, output),
        }
    }

    fn lhlo_said(&mut self, name: String, output: &mut Outbox) {
        match self.config.role {
            Role::Lmtp => self.welcome(name, true, output),
            Role::Mx | Role::Submission => {
                self.fault(500, Enhanced(5, 5, 1), "This is SMTP: say EHLO", output);
            }
        }
    }

    fn welcome(&mut self, name: String, extended: bool, output: &mut Outbox) {
        self.end_transaction();
        if !self.may_idle(output) {
            return;
        }
        self.sender_named = false;
        self.smtp_utf8 = false;
        self.transaction = Transaction::Ready;
        (self.hello, self.extended) = (name, extended);
        if !extended {
            Reply::bare(250, "").with_text(self.config.hostname.clone()).write(output);
            return;
        }
        let _ = write!(output, "250-{}\r\n", self.config.hostname);
        output
            .push(b"250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n250-DSN\r\n");
        if self.config.tls_available && !self.tls {
            output.push(b"250-STARTTLS\r\n");
        }
        if self.auth_offered() {
            let names: Vec<&str> = Mechanism::ALL.iter().map(|one| one.name()).collect();
            let _ = write!(output, "250-AUTH {}\r\n", names.join(" "));
        }
        let _ = write!(output, "250-SIZE {}\r\n", self.config.message_octets_max);
        output.push(b"250 ENHANCEDSTATUSCODES\r\n");
    }

    fn auth_offered(&self) -> bool {
        self.config.role == Role::Submission && (self.tls || self.config.plaintext_auth)
    }

    fn mail<'i>(
        &mut self,
        from: Option<Address>,
        params: MailParams,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        match self.transaction {
            Transaction::Ready => {}
            Transaction::Fresh => {
                self.out_of_order("Say hello first", output);
                return None;
            }
            Transaction::Mail | Transaction::Recipients(_) | Transaction::Chunks(..) => {
                self.out_of_order("A message is under way", output);
                return None;
            }
        }
        if self.config.role == Role::Submission && self.user.is_none() {
            self.fault(530, Enhanced(5, 7, 0), "Log in first", output);
            return None;
        }
        if params.size.is_some_and(|size| size > self.config.message_octets_max) {
            self.say(Refusal::TOO_BIG.reply().clone(), output);
            return None;
        }
        if !params.smtp_utf8 && from.as_ref().is_some_and(|from| !from.is_ascii()) {
            self.fault(553, Enhanced(5, 6, 7), "That address needs SMTPUTF8", output);
            return None;
        }
        if !self.may_idle(output) {
            return None;
        }
        self.smtp_utf8 = params.smtp_utf8;
        self.ask(Question::Mail, Event::Mail(from, params, Ticket::issue()))
    }

    fn recipient<'i>(
        &mut self,
        to: Address,
        params: RecipientParams,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let taken = match self.transaction {
            Transaction::Mail => 0,
            Transaction::Recipients(count) => count,
            Transaction::Fresh | Transaction::Ready => {
                self.out_of_order("Say MAIL first", output);
                return None;
            }
            Transaction::Chunks(..) => {
                self.out_of_order("The message is under way", output);
                return None;
            }
        };
        if taken >= self.config.recipients_max {
            // RFC 5321 section 4.5.3.1.10: the client sends the rest in another transaction.
            self.say(Refusal::TOO_MANY_RECIPIENTS.reply().clone(), output);
            return None;
        }
        if !self.smtp_utf8 && !to.is_ascii() {
            self.fault(553, Enhanced(5, 6, 7), "That address needs SMTPUTF8", output);
            return None;
        }
        self.ask(Question::Recipient, Event::Recipient(to, params, Ticket::issue()))
    }

    fn data<'i>(&mut self, output: &mut Outbox) -> Option<Step<Event<'i>>> {
        match self.transaction {
            Transaction::Recipients(_) => self.ask(Question::Data, Event::Data(Ticket::issue())),
            Transaction::Mail => {
                self.fault(554, Enhanced(5, 5, 1), "No valid recipients", output);
                None
            }
            Transaction::Fresh | Transaction::Ready => {
                self.out_of_order("Say MAIL first", output);
                None
            }
            Transaction::Chunks(..) => {
                self.out_of_order("The message comes by BDAT", output);
                None
            }
        }
    }

    /// RFC 3030 section 2: whatever the answer, the announced octets are not commands.
    fn bdat<'i>(
        &mut self,
        octets: u64,
        last: bool,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        match std::mem::replace(&mut self.transaction, Transaction::Ready) {
            Transaction::Recipients(count) => {
                self.transaction = Transaction::Recipients(count);
                self.ask(Question::FirstChunk { octets, last }, Event::Data(Ticket::issue()))
            }
            Transaction::Chunks(count, scanner) => {
                self.transaction = Transaction::Recipients(count);
                self.phase = Phase::Chunk { scanner, left: octets, last };
                None
            }
            other => {
                self.transaction = other;
                self.strike(1);
                let reply = match self.transaction {
                    Transaction::Mail => Reply::new(554, Enhanced(5, 5, 1), "No valid recipients"),
                    Transaction::Fresh
                    | Transaction::Ready
                    | Transaction::Recipients(_)
                    | Transaction::Chunks(..) => {
                        Reply::new(503, Enhanced(5, 5, 1), "Say MAIL first")
                    }
                };
                let _ = output;
                self.phase = Phase::Swallow { left: octets, reply };
                None
            }
        }
    }

    fn start_tls<'i>(&mut self, output: &mut Outbox) -> Option<Step<Event<'i>>> {
        if !self.config.tls_available || self.tls {
            self.fault(502, Enhanced(5, 5, 1), "TLS is not available", output);
        } else if self.in_transaction() {
            self.out_of_order("A message is under way", output);
        } else {
            Reply::new(220, Enhanced(2, 0, 0), "Ready to start TLS").write(output);
            return Some(Step::StartTls);
        }
        None
    }

    // ── AUTH ────────────────────────────────────────────────────────────────────────────────────

    fn auth<'i>(
        &mut self,
        mechanism: &[u8],
        initial: Option<Vec<u8>>,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if self.config.role != Role::Submission {
            self.fault(502, Enhanced(5, 5, 1), "No logins here; use the submission port", output);
        } else if !self.auth_offered() {
            self.fault(538, Enhanced(5, 7, 11), "Start TLS first", output);
        } else if self.user.is_some()
            || matches!(self.transaction, Transaction::Fresh)
            || self.in_transaction()
        {
            self.out_of_order("No login now", output);
        } else if let Some(mechanism) = Mechanism::named(mechanism) {
            return self.login_turn(Attempt::start(mechanism, initial.as_deref()), output);
        } else {
            self.fault(504, Enhanced(5, 5, 4), "Mechanism not known", output);
        }
        None
    }

    fn login_turn<'i>(&mut self, turn: Turn, output: &mut Outbox) -> Option<Step<Event<'i>>> {
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
        let _ = write!(output, "334 {}\r\n", challenge.base64);
        self.phase = Phase::Sasl(challenge.attempt);
    }

    fn login_fault(&mut self, fault: Fault, output: &mut Outbox) {
        let (enhanced, text) = match fault {
            Fault::Cancelled => (Enhanced(5, 7, 0), "Login cancelled"),
            Fault::NotBase64 => (Enhanced(5, 5, 2), "That is not base64"),
            Fault::Malformed => (Enhanced(5, 5, 2), "Malformed authentication"),
        };
        self.fault(501, enhanced, text, output);
    }

    // ── message bytes ───────────────────────────────────────────────────────────────────────────

    fn receive<'i>(
        &mut self,
        mut scanner: Scanner,
        input: &mut &'i [u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let found = scanner.data(input);
        let (phase, step) = match found {
            Found::Body(bytes) => {
                let step = (!bytes.is_empty()).then_some(Step::Event(Event::Body(bytes)));
                (Phase::Data(scanner), step)
            }
            Found::NeedInput => (Phase::Data(scanner), Some(Step::NeedInput)),
            Found::End => return self.message_ended(&scanner, output),
        };
        self.phase = phase;
        step
    }

    fn receive_chunk<'i>(
        &mut self,
        mut scanner: Scanner,
        left: u64,
        last: bool,
        input: &mut &'i [u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if left == 0 {
            return self.chunk_ended(scanner, last, output);
        }
        if input.is_empty() {
            self.phase = Phase::Chunk { scanner, left, last };
            return Some(Step::NeedInput);
        }
        let taken = take(input, left);
        let found = scanner.chunk(taken);
        let left = left.saturating_sub(octets(taken));
        self.phase = Phase::Chunk { scanner, left, last };
        match found {
            Found::Body(bytes) if !bytes.is_empty() => Some(Step::Event(Event::Body(bytes))),
            Found::Body(_) | Found::NeedInput | Found::End => None,
        }
    }

    fn chunk_ended<'i>(
        &mut self,
        mut scanner: Scanner,
        last: bool,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if last {
            scanner.end_of_chunks();
            return self.message_ended(&scanner, output);
        }
        if let Some(fault) = scanner.fault() {
            let reply = fault.reply().clone();
            self.end_transaction();
            self.phase = Phase::Command;
            self.say(reply, output);
            return None;
        }
        let count = match self.transaction {
            Transaction::Recipients(count) | Transaction::Chunks(count, _) => count,
            Transaction::Fresh | Transaction::Ready | Transaction::Mail => 0,
        };
        self.transaction = Transaction::Chunks(count, scanner);
        self.phase = Phase::Command;
        Reply::new(250, Enhanced(2, 0, 0), "Chunk taken, go on").write(output);
        None
    }

    fn message_ended<'i>(
        &mut self,
        scanner: &Scanner,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        self.message_deadline = None;
        let Some(fault) = scanner.fault() else {
            self.phase = Phase::Ended;
            return Some(Step::Event(Event::End(Ticket::issue())));
        };
        for _ in 0..self.answers_due() {
            fault.reply().write(output);
        }
        self.end_transaction();
        self.sender_named = false;
        self.phase = Phase::Command;
        self.strike(1);
        None
    }

    fn swallow<'i>(
        &mut self,
        left: u64,
        reply: Reply,
        input: &mut &'i [u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let left = left.saturating_sub(octets(take(input, left)));
        if left > 0 {
            self.phase = Phase::Swallow { left, reply };
            return Some(Step::NeedInput);
        }
        self.phase = Phase::Command;
        if !self.in_transaction() {
            self.message_deadline = None;
        }
        self.say(reply, output);
        None
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

    /// Whether input is message octets, not commands.
    fn takes_octets(&self) -> bool {
        match self.phase {
            Phase::Data(_) | Phase::Chunk { .. } | Phase::Swallow { .. } => true,
            Phase::Greeting
            | Phase::Command
            | Phase::Sasl(_)
            | Phase::Asked(_)
            | Phase::Ended
            | Phase::Closing => false,
        }
    }
}

/// Takes at most `most` octets from the front of the input.
fn take<'i>(input: &mut &'i [u8], most: u64) -> &'i [u8] {
    let count = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
    let (taken, rest) = input.split_at_checked(count).unwrap_or((input, b""));
    *input = rest;
    taken
}

fn octets(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
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
                Phase::Command => self.line(input, output),
                Phase::Sasl(attempt) => {
                    self.phase = Phase::Sasl(attempt);
                    self.line(input, output)
                }
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
