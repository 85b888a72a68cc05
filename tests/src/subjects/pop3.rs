//! POP3 with a maildrop of five messages; the fourth is damaged, the fifth gone.

use super::{SCRAM_NONCE, Verdict, check, scram_keys};
use crate::laws::Subject;
use crate::transcript::Witness;
use protocols::Outbox;
use protocols::pop3::{Config, Entry, Event, LoginOutcome, Pop3, Refusal};
use std::sync::Arc;

const MESSAGES: [&[u8]; 5] = [
    b"Subject: one\r\n\r\nFirst line\r\n.second line\r\n",
    b"Subject: two\r\n\r\nNo end of line",
    b"Subject: three\n\nBare ends\n.\nof lines\n",
    b"Subject: four\r\n\r\nDamaged\r\n",
    b"Subject: five\r\n\r\nGone\r\n",
];

pub struct Pop3Subject {
    machine: Pop3,
    /// What was removed at QUIT.
    pub removed: Option<Vec<usize>>,
}

impl Pop3Subject {
    #[must_use]
    pub fn new(tls: bool, plaintext_auth: bool) -> Pop3Subject {
        let hostname = "mx.example.test".into();
        let config = Config { hostname, tls_available: true, plaintext_auth };
        Pop3Subject { machine: Pop3::new(Arc::new(config), tls), removed: None }
    }
}

fn outcome(verdict: Verdict) -> LoginOutcome {
    match verdict {
        Verdict::Welcome => LoginOutcome::Welcome,
        Verdict::Wrong => LoginOutcome::Wrong,
        Verdict::Busy => LoginOutcome::Busy,
    }
}

fn maildrop() -> Vec<Entry> {
    let entry = |(index, message): (usize, &&[u8])| Entry {
        octets: message.len() as u64,
        unique: format!("1.{}", index + 1),
    };
    MESSAGES.iter().enumerate().map(entry).collect()
}

impl Subject for Pop3Subject {
    type Machine = Pop3;

    fn machine(&mut self) -> &mut Pop3 {
        &mut self.machine
    }

    fn answer(&mut self, event: Event, output: &mut Outbox) -> Option<String> {
        let told = format!("{event:?}");
        match event {
            Event::Login(credentials, ticket) => {
                let outcome = outcome(check(&credentials));
                self.machine.answer_login(ticket, outcome, &credentials.user, output);
            }
            Event::ScramKeys(_, ticket) => {
                self.machine.answer_keys(ticket, scram_keys(), SCRAM_NONCE, output);
            }
            Event::Proved(user, ticket) => {
                self.machine.answer_login(ticket, LoginOutcome::Welcome, &user, output);
            }
            Event::Disproved(ticket) => {
                self.machine.answer_login(ticket, LoginOutcome::Wrong, "", output);
            }
            Event::Open(ticket) => self.machine.answer_open(ticket, Ok(maildrop()), output),
            Event::Retrieve { index: 3, ticket, .. } => {
                self.machine.answer_failed(ticket, &Refusal::CORRUPT, output);
            }
            Event::Retrieve { index: 4, ticket, .. } => {
                self.machine.answer_failed(ticket, &Refusal::GONE, output);
            }
            Event::Retrieve { index, ticket, .. } => {
                let message = MESSAGES[index];
                self.machine.begin_message(message.len() as u64, output);
                let mut pieces = message.chunks(7);
                while pieces.next().is_some_and(|piece| self.machine.write_message(piece, output)) {
                }
                self.machine.end_message(ticket, output);
            }
            Event::Commit { deleted, ticket } => {
                self.removed = Some(deleted);
                self.machine.answer_commit(ticket, Ok(()), output);
            }
            Event::Relieve => {}
        }
        Some(told)
    }

    fn retained_bytes(&self) -> usize {
        self.machine.retained_bytes()
    }

    /// One AUTH line, whose buffer may have doubled once too often, and the list of five messages.
    fn retained_bytes_max(&self) -> usize {
        2 * 12_288 + 1024
    }
}

impl Witness for Pop3Subject {
    fn removed(&self) -> Option<String> {
        let text = |index: &usize| index.to_string();
        self.removed.as_ref().map(|removed| removed.iter().map(text).collect::<Vec<_>>().join(","))
    }
}
