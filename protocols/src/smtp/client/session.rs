//! The SMTP client machine: what is said when, and what becomes of the answers.
//!
//! | the server says | to | then |
//! |---|---|---|
//! | yes | the connection | EHLO (LHLO in LMTP) |
//! | no, for good | EHLO | HELO, unless TLS or a login is wanted |
//! | yes | a hello | STARTTLS as configured, AUTH as configured, [`Event::Ready`] |
//! | yes | STARTTLS | the handshake, EHLO again: what was heard before is forgotten |
//! | no | STARTTLS | on without it, unless it is required |
//! | no | the connection, HELO, AUTH | QUIT, [`Event::Failed`] |
//! | anything | MAIL and what follows | `transaction.rs` |
//! | 421 | anything | the end: what is undecided is tried later |
//!
//! Commands and replies are matched in order (`sent`). A machine writes as far as it may before it
//! looks at any input, so that what it does hangs on the replies and not on when they come; a
//! reply that comes before the message is out counts as the one to its end. What can't be
//! understood, or was not asked for, ends the session: after it no reply could be believed to
//! belong to its command.
//!
//! [`Client::lost`] tells that the peer has closed, or that nothing can be sent any more: what it
//! said last is still looked at. Once the end of a message was written, a session that breaks
//! leaves its recipients [`super::Outcome::InDoubt`].
//!
//! Time: RFC 5321 section 4.5.3.2 for each reply; its octets gain nothing. Between messages a
//! session is left after [`IDLE_TIMEOUT`].

use super::event::{Config, Envelope, Event, Failure, Stage};
use super::heard::{Class, Found, Heard, Reader};
use super::offers::Offers;
use super::transaction::Transaction;
use crate::sasl::client::{Exchange, Hidden};
use crate::wire::remote::{Patience, Tls, Trouble};
use crate::{Machine, Outbox, Step, Tick};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A server of ours may wait longer; others close after five minutes (RFC 5321 section 4.5.3.2.7).
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// A command that awaits its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// Nothing was said yet.
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Auth,
    Reset,
    Mail,
    Recipient(usize),
    Data,
    Chunk,
    /// The message was cut off by a connection that broke; the server may have said why.
    Cut,
    End,
    Quit,
}

impl Sent {
    pub(super) fn stage(self) -> Stage {
        match self {
            Sent::Greeting => Stage::Greeting,
            Sent::Ehlo | Sent::Helo => Stage::Hello,
            Sent::StartTls => Stage::StartTls,
            Sent::Auth => Stage::Login,
            Sent::Reset => Stage::Reset,
            Sent::Mail => Stage::Mail,
            Sent::Recipient(_) => Stage::Recipient,
            Sent::Data => Stage::Data,
            Sent::Chunk | Sent::Cut => Stage::Body,
            Sent::End => Stage::End,
            Sent::Quit => Stage::Quit,
        }
    }

    fn timeout(self) -> Duration {
        Duration::from_secs(match self {
            Sent::Greeting
            | Sent::Ehlo
            | Sent::Helo
            | Sent::StartTls
            | Sent::Auth
            | Sent::Reset
            | Sent::Mail
            | Sent::Recipient(_) => 300,
            Sent::Data => 120,
            Sent::Chunk | Sent::Cut => 180,
            Sent::End => 600,
            Sent::Quit => 30,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// What is awaited stands in `sent`.
    Opening,
    /// A hello is to be written.
    Hello,
    StartTls,
    Idle,
    /// A message is under way.
    Sending,
    /// The engine owes an answer.
    Asked,
    /// QUIT is to be written.
    Leave,
    Leaving,
    Closing,
}

/// One session.
#[derive(Debug)]
pub struct Client {
    pub(super) config: Arc<Config>,
    pub(super) phase: Phase,
    pub(super) sent: VecDeque<Sent>,
    reader: Reader,
    pub(super) offers: Offers,
    pub(super) encrypted: bool,
    /// STARTTLS was refused, and we may go on without it.
    pub(super) tls_refused: bool,
    pub(super) exchange: Option<Box<Exchange>>,
    /// Sent once the server asks for it.
    pub(super) first_response: Option<Hidden>,
    pub(super) logged_in: bool,
    pub(super) transaction: Option<Box<Transaction>>,
    /// The last transaction has not come to the end of a message.
    pub(super) reset_due: bool,
    /// Nothing more will come than what is in the input.
    pub(super) gone: bool,
    pub(super) patience: Patience,
    /// Told at the next step.
    pub(super) due: Option<Event>,
}

impl Client {
    #[must_use]
    pub fn new(config: Arc<Config>) -> Client {
        let encrypted = config.tls == Tls::Active;
        Client {
            config,
            phase: Phase::Opening,
            sent: VecDeque::from([Sent::Greeting]),
            reader: Reader::default(),
            offers: Offers::default(),
            encrypted,
            tls_refused: false,
            exchange: None,
            first_response: None,
            logged_in: false,
            transaction: None,
            reset_due: false,
            gone: false,
            patience: Patience::default(),
            due: None,
        }
    }

    /// What the server has offered, in its last hello.
    #[must_use]
    pub fn offers(&self) -> &Offers {
        &self.offers
    }

    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Whether [`Client::begin`] would take a message.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Idle && self.due.is_none() && !self.gone
    }

    /// A message to be brought; the next step begins with it. It comes back when the session is not
    /// idle.
    ///
    /// # Errors
    /// The envelope, unless [`Client::is_idle`].
    pub fn begin(&mut self, envelope: Envelope) -> Result<(), Envelope> {
        if !self.is_idle() {
            return Err(envelope);
        }
        let reset = std::mem::take(&mut self.reset_due);
        self.transaction =
            Some(Box::new(Transaction::new(envelope, &self.offers, self.encrypted, reset)));
        self.phase = Phase::Sending;
        self.patience.answered();
        Ok(())
    }

    /// No more messages; the next step says QUIT. Only from an idle session; others go on.
    pub fn quit(&mut self) {
        if self.is_idle() {
            self.phase = Phase::Leave;
        }
    }

    /// The connection has ended, or can't be written to; also in the place of an answer to
    /// [`Event::Body`]. Give the next step what was received last.
    pub fn lost(&mut self) {
        self.gone = true;
        if self.phase == Phase::Asked {
            self.cut_off();
        }
    }

    /// Heap octets held between steps: a reply, and the message's envelope with its verdicts.
    #[must_use]
    pub fn retained_bytes(&self) -> usize {
        let transaction = self.transaction.as_ref().map_or(0, |one| one.retained_bytes());
        let sent = self.sent.capacity().saturating_mul(size_of::<Sent>());
        self.reader.retained_bytes().saturating_add(transaction).saturating_add(sent)
    }

    // ── inside ──────────────────────────────────────────────────────────────────────────────────

    /// A whole line, or nothing in front of octets that are written already. What is in it came
    /// from configuration, store and peers: if it would be two commands, nothing is said.
    pub(super) fn say(&mut self, line: &str, sent: Sent, output: &mut Outbox) {
        if line.strip_suffix("\r\n").unwrap_or(line).contains(char::is_control) {
            self.fail(sent.stage(), Trouble::Ours("a control character in a command"), None);
            return;
        }
        if self.sent.is_empty() {
            self.patience.renew();
        }
        output.push(line.as_bytes());
        self.sent.push_back(sent);
    }

    fn stage(&self) -> Stage {
        match (self.sent.front(), self.phase) {
            (Some(sent), _) => sent.stage(),
            (None, Phase::Sending | Phase::Asked) => Stage::Body,
            (None, _) => Stage::Idle,
        }
    }

    /// The session has come to nothing.
    pub(super) fn fail(&mut self, stage: Stage, trouble: Trouble, heard: Option<Heard>) {
        let failure = Failure { stage, trouble, heard };
        let leaving = self.phase == Phase::Leaving;
        self.phase = Phase::Closing;
        self.sent.clear();
        self.due = match self.transaction.take() {
            Some(transaction) => Some(Event::Done(transaction.broken(&failure, &self.offers))),
            // Whoever says goodbye does not care how.
            None if leaving => None,
            None => Some(Event::Failed(failure)),
        };
    }

    fn heard(&mut self, heard: Heard, output: &mut Outbox) {
        let Some(sent) = self.sent.pop_front() else {
            let trouble = match heard.class() {
                Class::No => Trouble::Refused,
                Class::Yes | Class::GoOn => Trouble::OutOfStep("a reply that nobody asked for"),
            };
            self.fail(Stage::Idle, trouble, Some(heard));
            return;
        };
        self.patience.answered();
        match sent {
            Sent::Greeting | Sent::Ehlo | Sent::Helo | Sent::StartTls => {
                self.opened(sent, heard, output);
            }
            Sent::Auth => self.heard_login(heard, output),
            Sent::Quit => self.phase = Phase::Closing,
            Sent::Reset
            | Sent::Mail
            | Sent::Recipient(_)
            | Sent::Data
            | Sent::Chunk
            | Sent::Cut
            | Sent::End => self.heard_in_transaction(sent, heard, output),
        }
    }

    /// Nothing more to read.
    fn out_of_input(&mut self, now: Tick) -> Option<Step<Event>> {
        match (self.gone, self.phase) {
            (true, Phase::Idle | Phase::Leaving) => self.phase = Phase::Closing,
            (true, _) => self.fail(self.stage(), Trouble::Lost, None),
            (false, _) => {
                let timeout = self.sent.front().map_or(IDLE_TIMEOUT, |sent| sent.timeout());
                self.patience.waits(now, timeout);
                return Some(Step::NeedInput);
            }
        }
        None
    }

    fn timed_out(&mut self, output: &mut Outbox) {
        match self.phase {
            Phase::Idle => {
                output.push(b"QUIT\r\n");
                self.phase = Phase::Closing;
            }
            Phase::Leaving => self.phase = Phase::Closing,
            Phase::Opening
            | Phase::Hello
            | Phase::StartTls
            | Phase::Sending
            | Phase::Asked
            | Phase::Leave
            | Phase::Closing => self.fail(self.stage(), Trouble::Silent, None),
        }
    }

    fn read(&mut self, now: Tick, input: &mut &[u8], output: &mut Outbox) -> Option<Step<Event>> {
        let ehlo = self.sent.front() == Some(&Sent::Ehlo);
        let offers = &mut self.offers;
        let found = self.reader.next(input, |index, line| {
            if ehlo && index > 0 {
                offers.add(line);
            }
        });
        match found {
            Found::NeedInput => return self.out_of_input(now),
            Found::Reply(heard) => self.heard(heard, output),
            Found::Fault(trouble) => self.fail(self.stage(), trouble, None),
        }
        None
    }
}

impl Machine for Client {
    type Event<'i> = Event;

    fn step(&mut self, now: Tick, input: &mut &[u8], output: &mut Outbox) -> Step<Event> {
        let waits = !matches!(self.phase, Phase::Asked | Phase::Closing) && self.due.is_none();
        if input.is_empty() && waits && self.patience.is_over(now) {
            self.timed_out(output);
        }
        loop {
            if let Some(event) = self.due.take() {
                return Step::Event(event);
            }
            let step = match self.phase {
                Phase::Closing => Some(Step::Close),
                Phase::StartTls => Some(Step::StartTls),
                Phase::Asked => Some(Step::NeedInput),
                Phase::Hello => {
                    self.say_hello(output);
                    None
                }
                Phase::Leave => {
                    self.phase = Phase::Leaving;
                    self.say("QUIT\r\n", Sent::Quit, output);
                    None
                }
                Phase::Sending => match self.advance(output) {
                    Some(step) => Some(step),
                    None if self.due.is_some() => None,
                    None => self.read(now, input, output),
                },
                Phase::Opening | Phase::Idle | Phase::Leaving => self.read(now, input, output),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn deadline(&self) -> Option<Tick> {
        match self.phase {
            // The engine's time, not the peer's.
            Phase::Asked | Phase::Closing => None,
            _ => self.patience.deadline(),
        }
    }

    /// RFC 3207 section 4.2: all that was learned in the clear is forgotten.
    fn tls_started(&mut self, _: Tick) {
        self.encrypted = true;
        self.reader = Reader::default();
        self.sent.clear();
        self.offers = Offers::default();
        self.patience.answered();
        self.phase = Phase::Hello;
    }
}
