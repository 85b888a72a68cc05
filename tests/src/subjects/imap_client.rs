//! The IMAP client, with a plan: list, open INBOX, search from UID 5, survey and fetch what was
//! found, mark it as deleted and expunge it, LOGOUT.

use super::{login, tls_of};
use crate::laws::Subject;
use crate::transcript::Witness;
use protocols::Outbox;
use protocols::imap::client::{Client, Config, Event, Next};
use protocols::imap::flags::FlagBits;
use protocols::imap::sequence::runs;
use std::collections::VecDeque;
use std::sync::Arc;

const MESSAGES_MAX: usize = 1000;
const OCTETS_MAX: u64 = 1000;

pub struct ImapClientSubject {
    machine: Client,
    plan: VecDeque<Next>,
    message: Vec<u8>,
    taken: Option<Vec<u8>>,
}

impl ImapClientSubject {
    /// `secret` as [`login`] reads it; a plan of `list`, `open`, `search`, or all of it.
    #[must_use]
    pub fn new(tls: &str, secret: &str, plan: &str) -> ImapClientSubject {
        let config = Config { tls: tls_of(tls), login: login(secret), messages_max: MESSAGES_MAX };
        let inbox = |read_only| Next::Open { wire_name: b"INBOX".to_vec(), read_only };
        let plan = match plan {
            "list" => vec![Next::List],
            "odd" => vec![
                Next::Open { wire_name: "\"Größe\"".into(), read_only: true },
                Next::Open { wire_name: b"a\0b".to_vec(), read_only: true },
            ],
            "open" => vec![inbox(true)],
            _ => vec![Next::List, inbox(false), Next::Search { first: 5 }],
        };
        ImapClientSubject {
            machine: Client::new(Arc::new(config)),
            plan: plan.into(),
            message: Vec::new(),
            taken: None,
        }
    }

    fn collect(&mut self, found: &[u32]) {
        let (Some(first), Some(last)) = (found.first(), found.last()) else { return };
        let uids = runs(found.iter().copied());
        self.plan.push_back(Next::Survey { first: *first, last: *last });
        let fetch = |uid: &u32| Next::Fetch { uid: *uid, octets_max: OCTETS_MAX };
        self.plan.extend(found.iter().map(fetch));
        self.plan.push_back(Next::Flag { uids: uids.clone(), flags: FlagBits::DELETED });
        self.plan.push_back(Next::Expunge { uids });
    }
}

impl Subject for ImapClientSubject {
    type Machine = Client;

    fn machine(&mut self) -> &mut Client {
        &mut self.machine
    }

    fn answer(&mut self, event: Event<'_>, _: &mut Outbox) -> Option<String> {
        let (told, ticket) = match event {
            Event::Piece(piece) => {
                self.message.extend_from_slice(&piece);
                return None;
            }
            Event::Failed(failure) => {
                let wrong = if failure.is_wrong_login() { ", wrong login" } else { "" };
                return Some(format!("Failed{wrong}, {failure}"));
            }
            Event::Left => return Some("Left".into()),
            Event::Mailbox(mailbox) => {
                let delimiter = mailbox.delimiter.map_or("none".into(), |one| one.to_string());
                let attributes = mailbox.attributes.join(" ");
                let selectable = mailbox.selectable;
                let name = mailbox.name;
                return Some(format!("Mailbox {name} ({attributes}) {delimiter} {selectable}"));
            }
            Event::Message(message) => return Some(format!("{message:?}")),
            Event::Ready(ticket) => ("Ready".into(), ticket),
            Event::Opened(opened, ticket) => (format!("{opened:?}"), ticket),
            Event::Found(found, ticket) => {
                self.collect(&found);
                (format!("Found {found:?}"), ticket)
            }
            Event::Fetched { message, octets, ticket } => {
                let text = std::mem::take(&mut self.message);
                let told = format!("Fetched {message:?}, {octets}: {}", text.escape_ascii());
                self.taken = Some(text);
                (told, ticket)
            }
            Event::Gone { uid, ticket } => (format!("Gone {uid}"), ticket),
            Event::Completed(ticket) => ("Completed".into(), ticket),
            Event::Refused(refusal, ticket) => (format!("Refused: {refusal}"), ticket),
        };
        self.message.clear();
        let next = self.plan.pop_front().unwrap_or(Next::Logout);
        self.machine.answer_next(ticket, next);
        Some(told)
    }

    fn retained_bytes(&self) -> usize {
        self.machine.retained_bytes()
    }

    /// A response and its line, whose buffers may have doubled once too often, and UIDs.
    fn retained_bytes_max(&self) -> usize {
        4 * (64 << 10) + 8 * MESSAGES_MAX + 2048
    }
}

impl Witness for ImapClientSubject {
    fn message(&self) -> Option<&[u8]> {
        self.taken.as_deref()
    }

    fn lost(&mut self) {
        self.machine.lost();
    }
}
