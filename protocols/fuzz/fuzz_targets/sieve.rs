//! Sieve: any script compiles or is refused, its faults lie within it, its run on a fixed
//! message ends within the limits, and comes to the same twice. A NUL parts the script from one
//! that it may include.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocols::Address;
use protocols::message::Summary;
use protocols::sieve::{Action, Include, Limits, Mail, Missing, Script, World, run};

const MESSAGE: &[u8] = b"Received: from a by b; Fri, 13 Feb 2009 17:59:59 -0500\r\n\
    From: =?utf-8?q?B=C3=B6b?= <bob@there.test>\r\nTo: Ann <ann+x@here.test>, g: c@d.test;\r\n\
    Subject: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab\r\nSubject: two\r\nDate: Fri, 13 Feb 2009 17:59:50 -0500\r\n\
    Message-ID: <1@there.test>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=B\r\n\r\n\
    before\r\n--B\r\nContent-Type: text/html\r\n\r\n<p>Hello <b>all</b>\r\n--B\r\n\
    Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
    Caf=E9\r\n--B\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\nit\r\n--B--\r\nafter\r\n";

struct Account {
    included: Option<Script>,
}

impl World for Account {
    fn script(&self, include: &Include) -> Result<&Script, Missing> {
        match &self.included {
            Some(script) if include.name.len() < 4 => Ok(script),
            Some(_) | None => Err(Missing::NotFound),
        }
    }

    fn mailbox_exists(&self, mailbox: &str) -> bool {
        mailbox.len() % 2 == 0
    }

    fn special_use_exists(&self, mailbox: Option<&str>, _: &str) -> bool {
        mailbox.is_none()
    }

    fn is_duplicate(&self, key: &[u8; 32]) -> bool {
        key[0] % 2 == 0
    }

    fn unix_seconds(&self) -> i64 {
        1_234_567_890
    }

    fn is_own_address(&self, _: &str) -> bool {
        false
    }

    fn spam_percent(&self) -> Option<u8> {
        Some(50)
    }

    fn virus(&self) -> Option<u8> {
        None
    }

    fn environment(&self, item: &str) -> Option<String> {
        Some(item.to_owned())
    }
}

fuzz_target!(|data: &[u8]| {
    let limits = Limits::default();
    let mut sources = data.splitn(2, |byte| *byte == 0);
    let source = sources.next().unwrap_or_default();
    let script = match Script::compile(source, &limits) {
        Ok(script) => script,
        Err(faults) => {
            assert!(!faults.is_empty() && faults.len() <= 10);
            let lines = source.iter().filter(|byte| **byte == b'\n').count() + 1;
            assert!(faults.iter().all(|fault| (1..=lines).contains(&(fault.at.line as usize))));
            return;
        }
    };
    let included = sources.next().and_then(|source| Script::compile(source, &limits).ok());
    let account = Account { included };
    let summary = Summary::compute(MESSAGE);
    let sender = Address::parse(b"bob@there.test");
    let recipient = Address::parse(b"ann+x@here.test").expect("an address");
    let mail = Mail {
        raw: MESSAGE,
        summary: &summary,
        octets: MESSAGE.len() as u64,
        sender: sender.as_ref(),
        recipient: &recipient,
    };
    let outcome = run(&script, &mail, &account, &limits);
    assert!(outcome.actions.len() <= limits.actions_max + 1);
    assert!(outcome.duplicates.len() <= limits.duplicates_max);
    assert!(outcome.work <= limits.work_max);
    assert!(outcome.error.is_none() || matches!(outcome.actions.as_slice(), [Action::Keep { .. }]));
    for action in &outcome.actions {
        if let Action::Vacation(reply) = action {
            let message = reply.message(&recipient, 0, "1@here.test");
            let fields = Summary::compute(&message).header_bytes();
            assert!(fields > 0);
        }
    }
    assert_eq!(run(&script, &mail, &account, &limits), outcome);
});
