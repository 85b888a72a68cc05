//! IMAP with an account whose mailbox INBOX holds the UIDs 3, 5 and 9. Other names exist unless
//! they begin with `no`; messages go anywhere but to `full`. Commands that would show data end
//! without it: what answers look like is for other tests.

use super::{SCRAM_NONCE, Verdict, check, scram_keys};
use crate::laws::Subject;
use crate::transcript::Witness;
use protocols::Outbox;
use protocols::imap::{Code, Completion, Config, Event, Imap, LoginAnswer, Selected};
use protocols::sasl::Credentials;
use std::sync::Arc;
use std::time::Duration;

const COMMAND_BYTES_MAX: usize = 16 << 10;

pub struct ImapSubject {
    machine: Imap,
    message: Vec<u8>,
    /// The last message that was taken.
    pub taken: Option<Vec<u8>>,
}

impl ImapSubject {
    #[must_use]
    pub fn new(tls: bool, plaintext_login: bool) -> ImapSubject {
        let config = Config {
            host: "mx.example.test".into(),
            tls_available: true,
            plaintext_login,
            append_bytes_max: 100_000,
            command_bytes_max: COMMAND_BYTES_MAX,
            swallow_bytes_max: 200_000,
            bad_commands_max: 20,
            login_failures_max: 6,
            login_timeout: Duration::from_secs(180),
            idle_timeout: Duration::from_secs(31 * 60),
        };
        ImapSubject { machine: Imap::new(Arc::new(config), tls), message: Vec::new(), taken: None }
    }
}

fn answer(verdict: Verdict) -> LoginAnswer {
    match verdict {
        Verdict::Welcome => LoginAnswer::Accepted,
        Verdict::Wrong => LoginAnswer::Refused,
        Verdict::Busy => LoginAnswer::Unavailable,
    }
}

fn inbox() -> Selected {
    Selected {
        uids: vec![3, 5, 9],
        recent_from: 9,
        unseen_first: Some(5),
        uid_next: 10,
        uid_validity: 1,
        modseq: 7,
        ..Selected::default()
    }
}

impl Subject for ImapSubject {
    type Machine = Imap;

    fn machine(&mut self) -> &mut Imap {
        &mut self.machine
    }

    fn answer(&mut self, event: Event<'_>, output: &mut Outbox) -> Option<String> {
        let told = match &event {
            Event::AppendPiece(_) => None,
            Event::AppendEnd { .. } => {
                Some(format!("AppendEnd of {}", self.message.escape_ascii()))
            }
            event => Some(format!("{event:?}")),
        };
        match event {
            Event::Login { user, password, ticket } => {
                let verdict = check(&Credentials { user, password });
                self.machine.answer_login(ticket, answer(verdict), output);
            }
            Event::ScramKeys { ticket, .. } => {
                self.machine.answer_keys(ticket, scram_keys(), SCRAM_NONCE, output);
            }
            Event::Verified { ticket, .. } => {
                self.machine.answer_login(ticket, LoginAnswer::Accepted, output);
            }
            Event::LoginFailed { ticket } => {
                self.machine.answer_login(ticket, LoginAnswer::Refused, output);
            }
            Event::Select { mailbox, ticket, .. } => {
                let missing = format!("{mailbox:?}").contains("no");
                let refusal = Completion::No(Some(Code::NonExistent), "No such mailbox");
                let answer = if missing { Err(refusal) } else { Ok(inbox()) };
                self.machine.answer_select(ticket, answer, output);
            }
            Event::AppendStart { mailbox, ticket, .. } => {
                let full = format!("{mailbox:?}").contains("full");
                let refusal = Completion::No(Some(Code::OverQuota), "The mailbox is full");
                let answer = if full { Err(refusal) } else { Ok(()) };
                self.machine.answer_append(ticket, answer, output);
            }
            Event::AppendPiece(piece) => self.message.extend_from_slice(piece),
            Event::AppendEnd { ticket } => {
                self.taken = Some(std::mem::take(&mut self.message));
                self.machine.answer(ticket, &Completion::DONE, output);
            }
            Event::AppendAbort => self.message.clear(),
            Event::IdleStart => {}
            Event::Create { ticket, .. }
            | Event::Delete { ticket, .. }
            | Event::Rename { ticket, .. }
            | Event::Subscribe { ticket, .. }
            | Event::List { ticket, .. }
            | Event::Status { ticket, .. }
            | Event::GetQuota { ticket }
            | Event::GetQuotaRoot { ticket, .. }
            | Event::Sync { ticket }
            | Event::Close { ticket, .. }
            | Event::Expunge { ticket, .. }
            | Event::Search { ticket, .. }
            | Event::Fetch { ticket, .. }
            | Event::Store { ticket, .. }
            | Event::Copy { ticket, .. }
            | Event::Move { ticket, .. } => {
                self.machine.answer(ticket, &Completion::DONE, output);
            }
        }
        told
    }

    fn retained_bytes(&self) -> usize {
        self.machine.retained_bytes()
    }

    /// A command and its line, whose buffers may have doubled once too often, and the view.
    fn retained_bytes_max(&self) -> usize {
        4 * COMMAND_BYTES_MAX + 64
    }
}

impl Witness for ImapSubject {
    fn message(&self) -> Option<&[u8]> {
        self.taken.as_deref()
    }
}
