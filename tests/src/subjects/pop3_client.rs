//! The POP3 client, with a plan: every message with an identifier of its own is retrieved and
//! deleted, then QUIT.

use super::{login, tls_of};
use crate::laws::Subject;
use crate::transcript::Witness;
use protocols::Outbox;
use protocols::pop3::client::{Client, Config, Event, Next};
use std::collections::VecDeque;
use std::sync::Arc;

const MESSAGES_MAX: usize = 1000;
const OCTETS_MAX: u64 = 1000;

pub struct Pop3ClientSubject {
    machine: Client,
    plan: VecDeque<Next>,
    message: Vec<u8>,
    taken: Option<Vec<u8>>,
}

impl Pop3ClientSubject {
    /// `login` as [`login`] reads it.
    #[must_use]
    pub fn new(tls: &str, secret: &str) -> Pop3ClientSubject {
        let config = Config { tls: tls_of(tls), login: login(secret), messages_max: MESSAGES_MAX };
        Pop3ClientSubject {
            machine: Client::new(Arc::new(config)),
            plan: VecDeque::new(),
            message: Vec::new(),
            taken: None,
        }
    }

    fn next(&mut self) -> Next {
        self.message.clear();
        self.plan.pop_front().unwrap_or(Next::Quit)
    }
}

impl Subject for Pop3ClientSubject {
    type Machine = Client;

    fn machine(&mut self) -> &mut Client {
        &mut self.machine
    }

    fn answer(&mut self, event: Event<'_>, _: &mut Outbox) -> Option<String> {
        let (told, ticket) = match event {
            Event::Piece(piece) => {
                self.message.extend_from_slice(piece);
                return None;
            }
            Event::Failed(failure) => {
                let wrong = if failure.is_wrong_login() { ", wrong login" } else { "" };
                return Some(format!("Failed{wrong}, {failure}"));
            }
            Event::Left { committed } => return Some(format!("Left, committed: {committed}")),
            Event::Listed(listing, ticket) => {
                let both = |number| {
                    [Next::Retrieve { number, octets_max: OCTETS_MAX }, Next::Delete(number)]
                };
                let shown = |entries: &[protocols::pop3::client::Entry]| {
                    let entries = entries.iter().map(|entry| {
                        let octets = entry.octets.map_or("?".to_owned(), |one| one.to_string());
                        format!("{}={} {octets}", entry.number, entry.unique)
                    });
                    entries.collect::<Vec<_>>().join(", ")
                };
                self.plan = listing.entries.iter().flat_map(|entry| both(entry.number)).collect();
                let told = format!(
                    "Listed [{}], repeated [{}]",
                    shown(&listing.entries),
                    shown(&listing.repeated)
                );
                (told, ticket)
            }
            Event::Retrieved { number, octets, ticket } => {
                let message = std::mem::take(&mut self.message);
                let told = format!("Retrieved {number}, {octets}: {}", message.escape_ascii());
                self.taken = Some(message);
                (told, ticket)
            }
            Event::Deleted { number, ticket } => (format!("Deleted {number}"), ticket),
            Event::Refused { number, refusal, ticket } => {
                (format!("Refused {number}: {refusal}"), ticket)
            }
        };
        let next = self.next();
        self.machine.answer_next(ticket, next);
        Some(told)
    }

    fn retained_bytes(&self) -> usize {
        self.machine.retained_bytes()
    }

    /// A line, whose buffer may have doubled once too often, and the listing's entries.
    fn retained_bytes_max(&self) -> usize {
        2 * 4096 + 2 * MESSAGES_MAX * (64 + 255)
    }
}

impl Witness for Pop3ClientSubject {
    fn message(&self) -> Option<&[u8]> {
        self.taken.as_deref()
    }

    fn lost(&mut self) {
        self.machine.lost();
    }
}
