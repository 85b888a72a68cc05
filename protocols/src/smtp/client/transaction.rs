//! A transaction: MAIL, RCPT, DATA or BDAT, as many at once as the server lets, and what their
//! replies make of each recipient.
//!
//! | reply | to | the recipients |
//! |---|---|---|
//! | no | MAIL | all are decided by it |
//! | yes, no | RCPT | this one goes on, is decided |
//! | no | DATA, BDAT | those that go on are decided |
//! | yes, no | the end | the same; in LMTP the first of them, and the next reply decides the next |
//! | 421 | anything | what is undecided is tried later |
//!
//! With PIPELINING, MAIL, RCPT… and DATA leave together, at most [`WINDOW`] of them unanswered, so
//! that neither side waits for the other to read (RFC 2920 section 3.1). With CHUNKING as well, a
//! message of up to [`CHUNKED_OCTETS_MAX`] follows at once: one round trip for all. Larger ones
//! wait, since they may be sent in vain. Without any recipient left, DATA that was granted ends
//! with its dot alone.

use super::body::Transfer;
use super::event::{Envelope, Event, Failure, Outcome, Report, Stage, Verdict};
use super::heard::{Class, Heard};
use super::offers::Offers;
use super::session::{Client, Phase, Sent};
use crate::machine::Ticket;
use crate::wire::remote::Trouble;
use crate::{Outbox, Step};

/// Commands without a reply at one time: their replies fit any socket's buffer.
pub const WINDOW: usize = 64;
/// Larger messages wait until a recipient was taken.
pub const CHUNKED_OCTETS_MAX: u64 = 64 * 1024;

/// What is written next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Reset,
    Mail,
    Recipient(usize),
    Transfer,
    Body,
    Nothing,
}

#[derive(Debug)]
enum Standing {
    Unanswered,
    Taken,
    Decided(Verdict),
}

#[derive(Debug)]
pub(super) struct Transaction {
    envelope: Envelope,
    standings: Vec<Standing>,
    pub(super) next: Next,
    pub(super) transfer: Transfer,
    /// The end of a message that is somebody's was written.
    pub(super) end_written: bool,
    /// The server has forgotten the transaction.
    over: bool,
    /// The server was told of it.
    begun: bool,
    /// An earlier one stands in its way.
    reset_owed: bool,
}

impl Transaction {
    pub(super) fn new(
        envelope: Envelope,
        offers: &Offers,
        encrypted: bool,
        reset: bool,
    ) -> Transaction {
        let refused = offers.refuse(&envelope, encrypted);
        let standing = |index| {
            let verdict = refused.clone().or_else(|| offers.refuse_recipient(&envelope, index));
            verdict.map_or(Standing::Unanswered, Standing::Decided)
        };
        let standings = (0..envelope.recipients.len()).map(standing).collect();
        let chunks = offers.pipelining && offers.chunking;
        let chunked = chunks && envelope.octets <= CHUNKED_OCTETS_MAX;
        let transfer = if chunked { Transfer::chunks() } else { Transfer::data() };
        Transaction {
            envelope,
            standings,
            next: if reset { Next::Reset } else { Next::Mail },
            transfer,
            end_written: false,
            over: false,
            begun: false,
            reset_owed: reset,
        }
    }

    fn is_decided(&self) -> bool {
        self.standings.iter().all(|standing| matches!(standing, Standing::Decided(_)))
    }

    fn decide(&mut self, which: impl Fn(&Standing) -> bool, verdict: &Verdict) {
        for standing in self.standings.iter_mut().filter(|standing| which(standing)) {
            *standing = Standing::Decided(verdict.clone());
        }
    }

    pub(super) fn has_taken(&self) -> bool {
        self.standings.iter().any(is_taken)
    }

    fn report(self, offers: &Offers, reusable: bool) -> Report {
        let missing = Failure { stage: Stage::Mail, trouble: Trouble::Lost, heard: None };
        let verdicts = self.standings.into_iter().map(|standing| match standing {
            Standing::Decided(verdict) => verdict,
            Standing::Unanswered | Standing::Taken => Verdict::of_failure(Outcome::Later, &missing),
        });
        Report { verdicts: verdicts.collect(), reusable, dsn: offers.dsn }
    }

    /// The session ended before the transaction did.
    pub(super) fn broken(mut self, failure: &Failure, offers: &Offers) -> Report {
        // A server that says why has not taken the message.
        let in_doubt = self.end_written && failure.trouble != Trouble::Refused;
        let outcome = if in_doubt { Outcome::InDoubt } else { Outcome::Later };
        let verdict = Verdict::of_failure(outcome, failure);
        self.decide(is_open, &verdict);
        self.report(offers, false)
    }

    pub(super) fn retained_bytes(&self) -> usize {
        let address = |address: &crate::Address| address.as_str().len();
        let recipients = self.envelope.recipients.iter().map(|recipient| {
            let original = recipient.params.original.as_ref();
            let original = original.map_or(0, |(kind, text)| kind.len().saturating_add(text.len()));
            address(&recipient.address).saturating_add(original)
        });
        let texts = self.standings.iter().map(|standing| match standing {
            Standing::Decided(verdict) => {
                verdict.heard.as_ref().map_or(0, |heard| heard.text.len())
            }
            Standing::Unanswered | Standing::Taken => 0,
        });
        let each = size_of::<Standing>().saturating_add(size_of::<super::Recipient>());
        let fixed = each.saturating_mul(self.standings.len()).saturating_add(size_of::<Self>());
        recipients.chain(texts).fold(fixed, usize::saturating_add)
    }
}

fn is_taken(standing: &Standing) -> bool {
    matches!(standing, Standing::Taken)
}

fn is_open(standing: &Standing) -> bool {
    !matches!(standing, Standing::Decided(_))
}

impl Client {
    /// Writes as far as it goes without a reply; an event when a piece of the message is due.
    pub(super) fn advance(&mut self, output: &mut Outbox) -> Option<Step<Event>> {
        let window = if self.offers.pipelining { WINDOW } else { 1 };
        loop {
            let transaction = self.transaction.as_mut()?;
            if transaction.is_decided() {
                // Nobody wants what is left to say; the replies that are due come first.
                if self.sent.is_empty() {
                    self.finish();
                }
                return None;
            }
            if self.sent.len() >= window {
                return None;
            }
            match transaction.next {
                Next::Reset => {
                    transaction.next = Next::Mail;
                    transaction.reset_owed = false;
                    self.say("RSET\r\n", Sent::Reset, output);
                }
                Next::Mail => {
                    transaction.next = Next::Recipient(0);
                    transaction.begun = true;
                    let line = self.offers.mail_line(&transaction.envelope);
                    self.say(&line, Sent::Mail, output);
                }
                Next::Recipient(index) => match transaction.standings.get(index) {
                    Some(Standing::Decided(_)) => {
                        transaction.next = Next::Recipient(index.saturating_add(1));
                    }
                    Some(Standing::Unanswered | Standing::Taken) => {
                        transaction.next = Next::Recipient(index.saturating_add(1));
                        let line = self.offers.recipient_line(&transaction.envelope, index);
                        self.say(&line, Sent::Recipient(index), output);
                    }
                    None => transaction.next = Next::Transfer,
                },
                Next::Transfer if transaction.transfer.is_chunks() => transaction.next = Next::Body,
                Next::Transfer => {
                    transaction.next = Next::Nothing;
                    self.say("DATA\r\n", Sent::Data, output);
                }
                Next::Body if self.gone => self.cut_off(),
                Next::Body => {
                    self.phase = Phase::Asked;
                    return Some(Step::Event(Event::Body(Ticket::issue())));
                }
                Next::Nothing => return None,
            }
        }
    }

    fn finish(&mut self) {
        let Some(transaction) = self.transaction.take() else { return };
        self.reset_due = transaction.reset_owed || (transaction.begun && !transaction.over);
        self.phase = Phase::Idle;
        self.patience.answered();
        let reusable = !self.gone;
        self.due = Some(Event::Done(transaction.report(&self.offers, reusable)));
    }

    pub(super) fn heard_in_transaction(&mut self, sent: Sent, heard: Heard, output: &mut Outbox) {
        let class = heard.class();
        let out_of_step = match (sent, class) {
            (Sent::Data, Class::Yes) => Some("yes to DATA, and no leave to send"),
            (Sent::Data, Class::GoOn) | (_, Class::Yes | Class::No) => None,
            (_, Class::GoOn) => Some("a reply of 3xx to what has no more"),
        };
        if let Some(why) = out_of_step {
            self.fail(sent.stage(), Trouble::OutOfStep(why), Some(heard));
            return;
        }
        match (sent, class) {
            (Sent::Reset, Class::No) => {
                self.fail(sent.stage(), Trouble::Refused, Some(heard));
                return;
            }
            (Sent::Cut, Class::Yes) => {
                self.fail(sent.stage(), Trouble::Lost, None);
                return;
            }
            (_, _) => {}
        }
        let Some(transaction) = self.transaction.as_mut() else { return };
        let verdict = || Verdict::of_reply(sent.stage(), &heard);
        match (sent, class) {
            (Sent::Mail, Class::No) => transaction.decide(is_open, &verdict()),
            (Sent::Recipient(index), _) => {
                if let Some(standing @ Standing::Unanswered) = transaction.standings.get_mut(index)
                {
                    *standing = match class {
                        Class::Yes => Standing::Taken,
                        Class::No | Class::GoOn => Standing::Decided(verdict()),
                    };
                }
            }
            (Sent::Data | Sent::Chunk | Sent::Cut, Class::No) => {
                transaction.decide(is_taken, &verdict());
            }
            (Sent::Data, Class::Yes | Class::GoOn) if transaction.has_taken() => {
                transaction.next = Next::Body;
            }
            // RFC 2920 section 3.1: there is nobody to send it to.
            (Sent::Data, Class::Yes | Class::GoOn) => self.say(".\r\n", Sent::End, output),
            (Sent::End, _) => self.heard_end(&verdict()),
            (_, _) => {}
        }
        if heard.is_farewell() {
            self.fail(sent.stage(), Trouble::Refused, Some(heard));
        }
    }

    fn heard_end(&mut self, verdict: &Verdict) {
        let Some(transaction) = self.transaction.as_mut() else { return };
        // RFC 3030 section 2: where a chunk was refused, the server may hold to the transaction.
        let taken = verdict.outcome == Outcome::Delivered;
        transaction.over = taken || !transaction.transfer.is_chunks();
        if !self.config.lmtp {
            transaction.decide(is_taken, verdict);
        } else if let Some(first) = transaction.standings.iter_mut().find(|one| is_taken(one)) {
            *first = Standing::Decided(verdict.clone());
            if transaction.has_taken() {
                self.sent.push_front(Sent::End);
            }
        }
    }

    /// The message can't be sent to its end.
    pub(super) fn cut_off(&mut self) {
        if let Some(transaction) = self.transaction.as_mut() {
            transaction.next = Next::Nothing;
            self.sent.push_back(Sent::Cut);
            self.phase = Phase::Sending;
        } else {
            self.phase = Phase::Opening;
            self.sent.push_front(Sent::Auth);
        }
    }
}
