//! AUTHENTICATE: the exchange of challenges and responses, in base64 lines.
//! RFC 3501 section 6.2.2, RFC 4959 for the initial response. The mechanisms are [`crate::sasl`]'s.

use super::encode::push;
use super::event::{Event, Keys};
use super::lexer::Fault;
use super::response::{Code, Completion};
use super::session::{Imap, Pending, PendingKind, Reading};
use crate::sasl::{Exchange, Failure, Mechanism, Progress, ScramKeys};
use crate::{Outbox, Step, Ticket};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// An exchange that waits for the client, or for its keys.
#[derive(Debug)]
pub(super) struct Sasl {
    tag: Vec<u8>,
    exchange: Exchange,
}

impl Imap {
    pub(super) fn start_sasl<'i>(
        &mut self,
        tag: Vec<u8>,
        mechanism: &str,
        initial: Option<&[u8]>,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let Some(mechanism) = Mechanism::named(mechanism.as_bytes()) else {
            let refusal = Completion::No(Some(Code::Cannot), "That mechanism is not offered");
            refusal.write(output.buffer(), &tag);
            return None;
        };
        let sends_password = match mechanism {
            Mechanism::Plain | Mechanism::Login => true,
            Mechanism::ScramSha256 => false,
        };
        if sends_password && !self.may_send_passwords() {
            let refusal = Completion::No(Some(Code::PrivacyRequired), "Start TLS first");
            refusal.write(output.buffer(), &tag);
            return None;
        }
        let (exchange, challenge) = Exchange::start(mechanism);
        let sasl = Sasl { tag, exchange };
        match initial {
            // An empty initial response is written `=`.
            Some(b"=") => self.sasl_response(sasl, b"", output),
            Some(response) => self.sasl_line(sasl, response, output),
            None => {
                self.challenge(sasl, challenge, output);
                None
            }
        }
    }

    /// Takes a line of the client's.
    pub(super) fn sasl_line<'i>(
        &mut self,
        sasl: Sasl,
        line: &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if line == b"*" {
            self.bad(Some(&sasl.tag), Fault("Cancelled"), output);
            return None;
        }
        match STANDARD.decode(line) {
            Ok(response) => self.sasl_response(sasl, &response, output),
            Err(_) => {
                self.bad(Some(&sasl.tag), Fault("That is not base64"), output);
                None
            }
        }
    }

    fn sasl_response<'i>(
        &mut self,
        mut sasl: Sasl,
        response: &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let progress = sasl.exchange.respond(response);
        let ticket = Ticket::issue();
        let (kind, event) = match progress {
            Progress::Challenge(challenge) => {
                self.challenge(sasl, &challenge, output);
                return None;
            }
            Progress::Keys { user } => {
                self.reading = Reading::Sasl(sasl);
                return Some(Step::Event(Event::ScramKeys { user, ticket: Ticket::issue() }));
            }
            Progress::Failed(Failure::Malformed) => {
                self.bad(Some(&sasl.tag), Fault("Malformed response"), output);
                return None;
            }
            Progress::Password(credentials) => {
                let (user, password) = (credentials.user, credentials.password);
                (PendingKind::Login, Event::Login { user, password, ticket })
            }
            Progress::Verified { user } => (PendingKind::Login, Event::Verified { user, ticket }),
            Progress::Failed(Failure::Wrong) => (PendingKind::Login, Event::LoginFailed { ticket }),
        };
        self.good();
        self.pending = Some(Pending { tag: sasl.tag, kind });
        Some(Step::Event(event))
    }

    fn challenge(&mut self, sasl: Sasl, challenge: &[u8], output: &mut Outbox) {
        push(output.buffer(), format_args!("+ {}\r\n", STANDARD.encode(challenge)));
        self.reading = Reading::Sasl(sasl);
    }

    /// Gives the keys of a user, and a nonce that is fresh and printable.
    pub fn answer_keys(
        &mut self,
        ticket: Ticket<Keys>,
        keys: ScramKeys,
        nonce: &str,
        output: &mut Outbox,
    ) {
        drop(ticket);
        let Reading::Sasl(mut sasl) = std::mem::replace(&mut self.reading, Reading::Commands)
        else {
            return;
        };
        match sasl.exchange.keys(keys, nonce) {
            Progress::Challenge(challenge) => self.challenge(sasl, &challenge, output),
            Progress::Keys { .. }
            | Progress::Password(_)
            | Progress::Verified { .. }
            | Progress::Failed(_) => {
                self.bad(Some(&sasl.tag), Fault("Malformed response"), output);
            }
        }
    }
}
