//! Several scripts in turn: what goes on to the next one, and what an error costs.

use super::limits_tests::Nothing;
use super::*;
use crate::Address;
use crate::message::Summary;

const MESSAGE: &str = "Subject: hello\r\nTo: ann@here.test\r\n\r\nbody\r\n";

fn turns(scripts: &[&str]) -> Outcome {
    let limits = Limits::default();
    let scripts: Vec<Script> =
        scripts.iter().map(|text| Script::compile(text.as_bytes(), &limits).unwrap()).collect();
    let summary = Summary::compute(MESSAGE.as_bytes());
    let recipient = Address::parse(b"ann@here.test").unwrap();
    let mail = Mail {
        raw: MESSAGE.as_bytes(),
        summary: &summary,
        octets: MESSAGE.len() as u64,
        sender: None,
        recipient: &recipient,
    };
    run_in_turn(&scripts.iter().collect::<Vec<_>>(), &mail, &Nothing(Vec::new()), &limits)
}

/// Mailboxes in their order, `INBOX` for a keep, with flags and whether the header was edited.
fn told(outcome: &Outcome) -> Vec<String> {
    let with = |name: &str, flags: &[String], header: &Edited| {
        let edited = if header.is_some() { "*" } else { "" };
        format!("{name}{edited}{}", flags.iter().map(|flag| format!(" {flag}")).collect::<String>())
    };
    let told = |action: &Action| match action {
        Action::Keep { flags, header } => with("INBOX", flags, header),
        Action::FileInto { mailbox, flags, header, .. } => with(mailbox, flags, header),
        Action::Redirect { address, .. } => address.to_string(),
        Action::Reject { text, .. } => format!("reject {text}"),
        Action::Vacation(_) => "vacation".into(),
    };
    outcome.actions.iter().map(told).collect()
}

#[test]
fn what_is_kept_goes_on_and_what_is_not_ends_the_turn() {
    let lists = "require \"fileinto\"; fileinto \"Lists\";";
    let copied = "require [\"fileinto\", \"copy\"]; fileinto :copy \"Audit\";";
    for (scripts, expected) in [
        (&["", lists][..], &["Lists"][..]),
        (&[lists, "require \"fileinto\"; fileinto \"Never\";"], &["Lists"]),
        (&["discard;", lists], &[]),
        (&["stop;", lists], &["Lists"]),
        (&["keep;", lists], &["Lists"]),
        (&["keep;", "keep;", ""], &["INBOX"]),
        (&[copied, ""], &["Audit", "INBOX"]),
        (&[copied, copied, lists], &["Audit", "Lists"]),
        (&["redirect \"x@y.test\"; keep;", "discard;"], &["x@y.test"]),
        (&["require \"reject\"; reject \"no\";", lists], &["reject no"]),
        (&[], &["INBOX"]),
    ] {
        let outcome = turns(scripts);
        assert_eq!(
            (told(&outcome), outcome.error),
            (expected.iter().map(|&e| e.into()).collect(), None)
        );
    }
}

#[test]
fn flags_and_header_edits_are_handed_on() {
    let before = "require [\"imap4flags\", \"editheader\"]; addheader \"X-Seen\" \"yes\"; keep :flags \"one\";";
    let user = "require [\"fileinto\", \"imap4flags\"];
        if header \"x-seen\" \"yes\" { addflag \"two\"; fileinto \"Seen\"; }";
    assert_eq!(told(&turns(&[before, user])), ["Seen* one two"]);
}

#[test]
fn an_error_costs_its_own_script_alone() {
    let before = "require [\"fileinto\", \"copy\", \"editheader\"];
        fileinto :copy \"Audit\"; addheader \"X\" \"y\";";
    let faulty = "require [\"fileinto\", \"editheader\", \"reject\"]; fileinto \"Gone\";
        addheader \"Z\" \"z\"; reject \"both\";";
    let after = "require \"fileinto\"; if not exists \"Z\" { fileinto \"After\"; }";
    let outcome = turns(&[before, faulty, after]);
    assert_eq!(told(&outcome), ["Audit", "After*"]);
    assert_eq!(outcome.error.unwrap().turn, 1);
    let outcome = turns(&[before, faulty]);
    assert_eq!(told(&outcome), ["Audit", "INBOX*"]);
    assert!(outcome.implicit_keep);
}
