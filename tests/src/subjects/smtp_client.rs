//! The SMTP client, with a queue of messages known by name, and the user `user` with the password
//! of RFC 7677's example.

use super::{CLIENT_NONCE, tls_of};
use crate::laws::Subject;
use crate::transcript::Witness;
use protocols::sasl::client::{Login, Secret};
use protocols::smtp::client::{Client, Config, Envelope, Event, Piece, Recipient, Report};
use protocols::smtp::{Notify, RecipientParams, Ret};
use protocols::{Address, Outbox};
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;

const PIECE_OCTETS: usize = 7;

/// A message to bring.
#[derive(Debug, Clone)]
pub struct Parcel {
    pub envelope: Envelope,
    pub message: Vec<u8>,
    readable: bool,
}

#[derive(Debug, Clone, Default)]
pub struct SmtpClientFacts {
    pub lmtp: bool,
    /// As [`tls_of`] reads it.
    pub tls: String,
    /// `password` or `token`.
    pub login: Option<String>,
    pub parcels: Vec<Parcel>,
}

pub struct SmtpClientSubject {
    machine: Client,
    parcels: VecDeque<Parcel>,
    current: Option<Parcel>,
    sent: usize,
    pub reports: Vec<Report>,
}

/// A message by its name.
///
/// # Panics
/// When nothing is known by it: these are tests.
#[must_use]
pub fn parcel(name: &str) -> Parcel {
    let mut recipients = vec!["ann@example.test"];
    let mut sender = "a@here.test";
    let mut message = b"Subject: one\r\n\r\nHello\r\n".to_vec();
    let (mut eight_bit, mut smtp_utf8, mut require_tls) = (false, false, false);
    let (mut ret, mut envid, mut params) = (None, None, RecipientParams::default());
    let mut readable = true;
    match name {
        "one" => {}
        "bounce" => sender = "",
        "several" => {
            recipients = vec!["ann@example.test", "nobody@example.test", "bob@example.test"];
        }
        "late" => {
            recipients = vec!["ann@example.test", "late@example.test", "bob@example.test"];
        }
        "nobody" => recipients = vec!["nobody@example.test", "full@example.test"],
        "busy" => sender = "busy@here.test",
        "full" => sender = "full@here.test",
        "loop" => sender = "loop@here.test",
        "dots" => message = b".\r\n..\n.\nbare\rcr\r\n.end".to_vec(),
        "empty" => message.clear(),
        "eight_bit" => {
            message = "Subject: one\r\n\r\nGr\u{fc}\u{df}e\r\n".into();
            eight_bit = true;
        }
        "utf8" => {
            message = "Subject: Gr\u{fc}\u{df}e\r\n\r\nHello\r\n".into();
            (eight_bit, smtp_utf8) = (true, true);
        }
        "utf8_recipient" => {
            recipients = vec!["ann@example.test", "j\u{f6}rg@example.test"];
        }
        "require_tls" => require_tls = true,
        "notices" => {
            ret = Some(Ret::Headers);
            envid = Some("no 1+".into());
            let notify = Notify { success: true, failure: true, delay: false };
            let original = Some(("rfc822".into(), "ann=x@there.test".into()));
            params = RecipientParams { notify: Some(notify), original };
        }
        "large" => message = b"0123456789abcde\r\n".repeat(5000),
        "crowd" => recipients = vec!["ann@example.test"; 150],
        "unreadable" => readable = false,
        other => panic!("no message is known as {other}"),
    }
    let recipient = |text: &str| Recipient {
        address: Address::parse(text.as_bytes()).unwrap(),
        params: params.clone(),
    };
    let envelope = Envelope {
        sender: Address::parse(sender.as_bytes()),
        recipients: recipients.into_iter().map(recipient).collect(),
        octets: message.len() as u64,
        eight_bit,
        smtp_utf8,
        require_tls,
        ret,
        envid,
    };
    Parcel { envelope, message, readable }
}

/// Who we are on another server.
///
/// # Panics
/// When it is neither `password` nor `token`.
#[must_use]
pub fn login(kind: &str) -> Login {
    let secret = match kind {
        "password" | "careless" => Secret::Password("pencil".into()),
        "token" => Secret::Token("tok3n".into()),
        other => panic!("login: {other}"),
    };
    let in_clear = kind == "careless";
    Login { user: "user".into(), secret, nonce: CLIENT_NONCE.into(), in_clear }
}

impl SmtpClientSubject {
    #[must_use]
    pub fn new(facts: SmtpClientFacts) -> SmtpClientSubject {
        let config = Config {
            hello: "here.test".into(),
            lmtp: facts.lmtp,
            tls: tls_of(&facts.tls),
            login: facts.login.as_deref().map(login),
        };
        SmtpClientSubject {
            machine: Client::new(Arc::new(config)),
            parcels: facts.parcels.into(),
            current: None,
            sent: 0,
            reports: Vec::new(),
        }
    }

    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.machine.is_encrypted()
    }

    fn next(&mut self) {
        self.current = self.parcels.pop_front();
        self.sent = 0;
        match &self.current {
            Some(parcel) => self.machine.begin(parcel.envelope.clone()).expect("idle"),
            None => self.machine.quit(),
        }
    }

    fn piece(&mut self) -> Piece<'_> {
        let Some(parcel) = &self.current else { return Piece::Last(b"") };
        let left = &parcel.message[self.sent..];
        // Large ones in larger pieces: the tests have no week.
        let most = PIECE_OCTETS.max(parcel.message.len() / 20);
        let piece = &left[..left.len().min(most)];
        self.sent += piece.len();
        match (parcel.readable, piece.len() == left.len()) {
            (false, _) if self.sent > PIECE_OCTETS => Piece::Unreadable,
            (_, false) => Piece::More(piece),
            (_, true) => Piece::Last(piece),
        }
    }

    fn told(&self, report: &Report) -> String {
        let reusable = if report.reusable { "reusable" } else { "not reusable" };
        let mut told = format!("Done, {reusable}");
        let recipients = self.current.iter().flat_map(|parcel| &parcel.envelope.recipients);
        for (recipient, verdict) in recipients.zip(&report.verdicts) {
            let (address, outcome, status) = (&recipient.address, verdict.outcome, verdict.status);
            write!(told, "\n{address} {outcome:?} {status}, {verdict}").unwrap();
        }
        told
    }
}

impl Subject for SmtpClientSubject {
    type Machine = Client;

    fn machine(&mut self) -> &mut Client {
        &mut self.machine
    }

    fn answer(&mut self, event: Event, output: &mut Outbox) -> Option<String> {
        match event {
            Event::Ready => {
                self.next();
                Some("Ready".into())
            }
            Event::Derive(derivation, ticket) => {
                self.machine.answer_derived(ticket, &derivation.run(), output);
                Some(format!("{derivation:?}"))
            }
            Event::Body(ticket) => {
                // The machine is borrowed by nobody while the piece is cut.
                let piece = match self.piece() {
                    Piece::More(octets) => (octets.to_vec(), Some(false)),
                    Piece::Last(octets) => (octets.to_vec(), Some(true)),
                    Piece::Unreadable => (Vec::new(), None),
                };
                let piece = match &piece {
                    (octets, Some(false)) => Piece::More(octets),
                    (octets, Some(true)) => Piece::Last(octets),
                    (_, None) => Piece::Unreadable,
                };
                self.machine.answer_body(ticket, piece, output);
                None
            }
            Event::Done(report) => {
                let told = self.told(&report);
                let reusable = report.reusable;
                self.reports.push(report);
                if reusable {
                    self.next();
                }
                Some(told)
            }
            Event::Failed(failure) => Some(format!("Failed, {failure}")),
        }
    }

    fn retained_bytes(&self) -> usize {
        self.machine.retained_bytes()
    }

    /// A reply's line and text, and an envelope whose recipients may each have a reply's text.
    fn retained_bytes_max(&self) -> usize {
        let recipients = self.current.as_ref().map_or(0, |one| one.envelope.recipients.len());
        24_000 + recipients * 2048
    }
}

impl Witness for SmtpClientSubject {
    fn lost(&mut self) {
        self.machine.lost();
    }
}
