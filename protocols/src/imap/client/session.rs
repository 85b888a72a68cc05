//! The IMAP client machine: one command at a time, and what becomes of its responses.
//!
//! | to | yes | no |
//! |---|---|---|
//! | the connection | CAPABILITY | the end |
//! | CAPABILITY | STARTTLS as configured, the login; after it [`Event::Ready`] | the end |
//! | STARTTLS | the handshake, CAPABILITY again: what was heard before is forgotten | on without it, unless it is required |
//! | the login | CAPABILITY again, since more may be offered now | the end |
//! | LIST, SELECT, SEARCH, FETCH, STORE, EXPUNGE | their events, the next one | [`Event::Refused`], the next one |
//! | LOGOUT | [`Event::Left`] | the same |
//!
//! A message's octets are streamed; everything else of a response is collected, up to
//! [`RESPONSE_OCTETS_MAX`] (a search: what its UIDs take). What nobody asked for is passed over, up
//! to [`UNASKED_OCTETS_MAX`] for a command. What can't be understood ends the session, as does BYE.
//! [`Client::lost`] tells that the peer has closed: what it said last is still looked at.
//!
//! Time: [`REPLY_TIMEOUT`] for a command; it starts anew with each response that was asked for and
//! each piece of a message, and an hour bounds the whole.

use super::event::{Config, Event, Failure, Next, Refusal, Stage};
use super::heard::Fetched;
use super::say::Say;
use crate::imap::framing::Framing;
use crate::sasl::client::{Exchange, Hidden, Offered};
use crate::wire::remote::{Patience, Tls, Trouble};
use crate::{Machine, Outbox, Step, Tick};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub const REPLY_TIMEOUT: Duration = Duration::from_secs(300);
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(30);
/// A port that speaks TLS from its first octet says nothing, and who waits for it
/// should hear why soon.
const GREETING_TIMEOUT: Duration = Duration::from_secs(60);
pub const RESPONSE_OCTETS_MAX: usize = 64 << 10;
pub const UNASKED_OCTETS_MAX: usize = 16 << 20;

/// What is awaited, until its tagged response.
#[derive(Debug)]
pub(super) enum Awaited {
    Greeting,
    Capabilities,
    StartTls,
    Login,
    /// The response that is sent once the server asks for it.
    Authenticate(Option<Hidden>),
    List {
        count: usize,
    },
    Open(super::Opened),
    Search {
        first: u32,
        found: Vec<u32>,
    },
    Survey {
        first: u32,
        last: u32,
        count: usize,
    },
    Fetch {
        uid: u32,
        octets_max: u64,
        /// Octets that came; `None`: nothing yet.
        octets: Option<u64>,
        /// What the response said beside them.
        fetched: Option<Fetched>,
    },
    Flag,
    Expunge,
    Logout,
}

impl Awaited {
    pub(super) fn stage(&self) -> Stage {
        match self {
            Awaited::Greeting => Stage::Greeting,
            Awaited::Capabilities => Stage::Capabilities,
            Awaited::StartTls => Stage::StartTls,
            Awaited::Login | Awaited::Authenticate(_) => Stage::Login,
            Awaited::List { .. } => Stage::List,
            Awaited::Open(_) => Stage::Open,
            Awaited::Search { .. } => Stage::Search,
            Awaited::Survey { .. } => Stage::Survey,
            Awaited::Fetch { uid, .. } => Stage::Fetch(*uid),
            Awaited::Flag => Stage::Flag,
            Awaited::Expunge => Stage::Expunge,
            Awaited::Logout => Stage::Logout,
        }
    }
}

#[derive(Debug)]
pub(super) enum Phase {
    Awaiting(Awaited),
    /// CAPABILITY is to be written.
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
    pub(super) login_disabled: bool,
    pub(super) initial_response: bool,
    pub(super) uid_plus: bool,
    pub(super) logins: Offered,
}

/// One session.
#[derive(Debug)]
pub struct Client {
    pub(super) config: Arc<Config>,
    pub(super) phase: Phase,
    pub(super) framing: Framing,
    /// Octets of the message's literal that are still to come.
    pub(super) literal_left: u32,
    /// Parts of the command that wait until the server asks for them.
    pub(super) parts: VecDeque<Hidden>,
    tag: u32,
    pub(super) offers: Offers,
    pub(super) encrypted: bool,
    tls_refused: bool,
    pub(super) logged_in: bool,
    pub(super) exchange: Option<Box<Exchange>>,
    /// Of responses to nothing, since the command.
    pub(super) unasked_octets: usize,
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
            framing: Framing::default(),
            literal_left: 0,
            parts: VecDeque::new(),
            tag: 0,
            offers: Offers::default(),
            encrypted,
            tls_refused: false,
            logged_in: false,
            exchange: None,
            unasked_octets: 0,
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

    /// Heap octets held between steps: a response, a command's literals, the UIDs of a search.
    #[must_use]
    pub fn retained_bytes(&self) -> usize {
        let found = match &self.phase {
            Phase::Awaiting(Awaited::Search { found, .. }) => found.capacity(),
            _ => 0,
        };
        let parts = self.parts.iter().map(|part| part.0.capacity()).fold(0, usize::saturating_add);
        let found = found.saturating_mul(size_of::<u32>());
        self.framing.retained_bytes().saturating_add(parts).saturating_add(found)
    }

    // ── inside ──────────────────────────────────────────────────────────────────────────────────

    /// Begins a command.
    pub(super) fn tagged(&mut self) -> Say {
        self.tag = self.tag.wrapping_add(1);
        Say::new(&format!("{} ", self.tag_text()))
    }

    pub(super) fn tag_text(&self) -> String {
        format!("k{}", self.tag)
    }

    pub(super) fn say(&mut self, say: Say, awaited: Awaited, output: &mut Outbox) {
        self.parts = say.finish();
        self.say_part(output);
        self.unasked_octets = 0;
        self.patience.answered();
        self.phase = Phase::Awaiting(awaited);
    }

    /// Sends the next part of the command; false when there is none.
    pub(super) fn say_part(&mut self, output: &mut Outbox) -> bool {
        match self.parts.pop_front() {
            Some(part) => {
                output.push(&part.0);
                true
            }
            None => false,
        }
    }

    pub(super) fn say_word(&mut self, word: &str, awaited: Awaited, output: &mut Outbox) {
        let say = self.tagged().text(word);
        self.say(say, awaited, output);
    }

    pub(super) fn fail<'i>(
        &mut self,
        stage: Stage,
        trouble: Trouble,
        refusal: Option<Refusal>,
    ) -> Option<Step<Event<'i>>> {
        self.phase = Phase::Closing;
        self.framing.forget();
        let failed = Event::Failed(Failure { stage, trouble, refusal });
        Some(Step::Event(if stage == Stage::Logout { Event::Left } else { failed }))
    }

    /// The same, and the server is told that we leave.
    pub(super) fn fail_politely<'i>(
        &mut self,
        stage: Stage,
        trouble: Trouble,
        refusal: Option<Refusal>,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let goodbye = self.tagged().text("LOGOUT").finish();
        goodbye.iter().for_each(|part| output.push(&part.0));
        self.fail(stage, trouble, refusal)
    }

    pub(super) fn out_of_input<'i>(
        &mut self,
        now: Tick,
        awaited: Awaited,
    ) -> Option<Step<Event<'i>>> {
        let stage = awaited.stage();
        if self.gone {
            return self.fail(stage, Trouble::Lost, None);
        }
        let timeout = match stage {
            Stage::Greeting => GREETING_TIMEOUT,
            Stage::Logout => LOGOUT_TIMEOUT,
            _ => REPLY_TIMEOUT,
        };
        self.patience.waits(now, timeout);
        self.phase = Phase::Awaiting(awaited);
        Some(Step::NeedInput)
    }

    pub(super) fn capability(&mut self, text: &[u8]) {
        for word in text.split(|&byte| byte == b' ') {
            match word.to_ascii_uppercase().as_slice() {
                b"STARTTLS" => self.offers.start_tls = true,
                b"LOGINDISABLED" => self.offers.login_disabled = true,
                b"SASL-IR" => self.offers.initial_response = true,
                b"UIDPLUS" => self.offers.uid_plus = true,
                word => {
                    if let Some(name) = word.strip_prefix(b"AUTH=") {
                        self.offers.logins.add(name);
                    }
                }
            }
        }
    }

    /// The capabilities are known: TLS as configured, then the login, then whatever is wanted.
    pub(super) fn introduced<'i>(&mut self, output: &mut Outbox) -> Option<Step<Event<'i>>> {
        if self.logged_in {
            self.phase = Phase::Asked;
            return Some(Step::Event(Event::Ready(crate::Ticket::issue())));
        }
        if !self.encrypted && !self.tls_refused {
            match (self.config.tls, self.offers.start_tls) {
                (Tls::WhenOffered | Tls::Required, true) => {
                    self.say_word("STARTTLS", Awaited::StartTls, output);
                    return None;
                }
                (Tls::Required, false) => {
                    return self.fail_politely(Stage::StartTls, Trouble::NoTls, None, output);
                }
                (Tls::Active | Tls::Never | Tls::WhenOffered, _) => {}
            }
        }
        self.log_in(output)
    }

    /// STARTTLS was refused.
    pub(super) fn tls_refused<'i>(
        &mut self,
        refusal: Refusal,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if self.config.tls == Tls::WhenOffered {
            self.tls_refused = true;
            return self.introduced(output);
        }
        self.fail_politely(Stage::StartTls, Trouble::Refused, Some(refusal), output)
    }

    /// `PREAUTH`: nobody is to log in any more, and TLS can't be had any more (RFC
    /// 9051 section 7.1.4).
    pub(super) fn preauthenticated<'i>(&mut self, output: &mut Outbox) -> Option<Step<Event<'i>>> {
        if self.config.tls == Tls::Required {
            return self.fail_politely(Stage::Greeting, Trouble::NoTls, None, output);
        }
        self.logged_in = true;
        self.phase = Phase::Hello;
        None
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
                    self.say_word("CAPABILITY", Awaited::Capabilities, output);
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
                Phase::Do(next) => self.begin(next, output),
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

    /// RFC 3501 section 6.2.1: all that was learned in the clear is forgotten.
    fn tls_started(&mut self, _: Tick) {
        self.encrypted = true;
        self.framing.clear();
        self.parts.clear();
        self.patience.answered();
        self.phase = Phase::Hello;
    }
}
