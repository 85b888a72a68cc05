//! Beside the transcripts (`tests/transcripts/smtp_client`): what the driver does, which
//! they can't show.

use super::{Client, Config, Envelope, Event, Outcome, Piece, Recipient, Report, Stage};
use crate::sasl::client::{Login, Secret};
use crate::smtp::RecipientParams;
use crate::wire::remote::Tls;
use crate::{Address, Machine, Outbox, Step, Tick};
use std::sync::Arc;

const NOW: Tick = Tick(1_000);

fn config() -> Config {
    Config { hello: "here.test".into(), lmtp: false, tls: Tls::Never, login: None }
}

fn client() -> Client {
    Client::new(Arc::new(config()))
}

fn envelope(octets: u64) -> Envelope {
    let address = Address::parse(b"ann@there.test").unwrap();
    Envelope {
        sender: None,
        recipients: vec![Recipient { address, params: RecipientParams::default() }],
        octets,
        eight_bit: false,
        smtp_utf8: false,
        require_tls: false,
        ret: None,
        envid: None,
    }
}

/// Until an event, or until there is nothing left to do.
fn hear(client: &mut Client, text: &str, output: &mut Outbox) -> Step<Event> {
    client.step(NOW, &mut text.as_bytes(), output)
}

/// A client that has been asked for the first piece of a message.
fn sending(offers: &str) -> (Client, Outbox, crate::Ticket<super::event::Body>) {
    let (mut client, mut output) = (client(), Outbox::new());
    assert_eq!(hear(&mut client, "220 mx\r\n", &mut output), Step::NeedInput);
    let hello = format!("250-mx\r\n250-{offers}\r\n");
    let hello = format!("{hello}250 HELP\r\n");
    assert_eq!(hear(&mut client, &hello, &mut output), Step::Event(Event::Ready));
    client.begin(envelope(10)).unwrap();
    let replies = if offers.contains("CHUNKING") { "" } else { "250 a\r\n250 b\r\n354 c\r\n" };
    let Step::Event(Event::Body(ticket)) = hear(&mut client, replies, &mut output) else {
        panic!("no body asked for");
    };
    (client, output, ticket)
}

fn report(step: Step<Event>) -> Report {
    match step {
        Step::Event(Event::Done(report)) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_begins_only_between_messages() {
    let mut client = client();
    let mut output = Outbox::new();
    assert!(client.begin(envelope(1)).is_err());
    client.quit();
    let _ = hear(&mut client, "220 mx\r\n", &mut output);
    let ready = hear(&mut client, "250 mx\r\n", &mut output);
    assert_eq!(ready, Step::Event(Event::Ready));
    assert!(client.is_idle());
    client.begin(envelope(1)).unwrap();
    assert!(client.begin(envelope(1)).is_err());
}

#[test]
fn why_a_server_broke_off_is_heard() {
    let (mut client, mut output, ticket) = sending("PIPELINING");
    client.answer_body(ticket, Piece::More(b"half"), &mut output);
    let Step::Event(Event::Body(_)) = hear(&mut client, "", &mut output) else { panic!() };
    client.lost();
    let last_words = "552 5.3.4 Too big\r\n";
    let report = report(hear(&mut client, last_words, &mut output));
    let verdict = &report.verdicts[0];
    assert_eq!((verdict.outcome, verdict.stage), (Outcome::Failed, Stage::Body));
    assert!(!report.reusable);
    assert_eq!(hear(&mut client, "", &mut output), Step::Close);
}

#[test]
fn a_server_that_broke_off_without_a_word_has_nothing() {
    let (mut client, mut output, ticket) = sending("PIPELINING");
    client.answer_body(ticket, Piece::More(b"half"), &mut output);
    client.lost();
    let report = report(hear(&mut client, "", &mut output));
    let verdict = &report.verdicts[0];
    assert_eq!((verdict.outcome, verdict.stage), (Outcome::Later, Stage::Body));
}

#[test]
fn a_last_chunk_that_is_out_leaves_doubt_whatever_was_answered() {
    let (mut client, mut output, ticket) = sending("PIPELINING\r\n250-CHUNKING");
    client.answer_body(ticket, Piece::Last(b"whole"), &mut output);
    assert!(output.as_bytes().ends_with(b"BDAT 7 LAST\r\nwhole\r\n"));
    let mut step = hear(&mut client, "250 a\r\n", &mut output);
    assert_eq!(step, Step::NeedInput);
    client.lost();
    step = hear(&mut client, "", &mut output);
    assert_eq!(report(step).verdicts[0].outcome, Outcome::InDoubt);
}

#[test]
fn a_farewell_before_the_end_was_answered_is_no_doubt() {
    let (mut client, mut output, ticket) = sending("PIPELINING\r\n250-CHUNKING");
    client.answer_body(ticket, Piece::Last(b"whole"), &mut output);
    let report = report(hear(&mut client, "421 4.3.2 Bye\r\n", &mut output));
    assert_eq!(report.verdicts[0].outcome, Outcome::Later);
    assert_eq!(report.verdicts[0].stage, Stage::Mail);
}

#[test]
fn an_idle_session_is_left_in_time_and_its_end_is_no_failure() {
    let (mut client, mut output) = (client(), Outbox::new());
    let _ = hear(&mut client, "220 mx\r\n", &mut output);
    let _ = hear(&mut client, "250 mx\r\n", &mut output);
    assert_eq!(hear(&mut client, "", &mut output), Step::NeedInput);
    let deadline = client.deadline().unwrap();
    assert_eq!(deadline, NOW.after(super::session::IDLE_TIMEOUT));
    output.clear();
    assert_eq!(client.step(deadline, &mut &b""[..], &mut output), Step::Close);
    assert_eq!(output.as_bytes(), b"QUIT\r\n");
}

#[test]
fn an_idle_session_may_be_begun_upon_however_late() {
    let (mut client, mut output) = (client(), Outbox::new());
    let _ = hear(&mut client, "220 mx\r\n", &mut output);
    let _ = hear(&mut client, "250 mx\r\n", &mut output);
    assert_eq!(hear(&mut client, "", &mut output), Step::NeedInput);
    let late = client.deadline().unwrap();
    client.begin(envelope(1)).unwrap();
    output.clear();
    assert_eq!(client.step(late, &mut &b""[..], &mut output), Step::NeedInput);
    assert_eq!(output.as_bytes(), b"MAIL FROM:<>\r\n");
}

#[test]
fn without_recipients_nothing_is_said() {
    let (mut client, mut output) = (client(), Outbox::new());
    let _ = hear(&mut client, "220 mx\r\n", &mut output);
    let _ = hear(&mut client, "250 mx\r\n", &mut output);
    output.clear();
    client.begin(Envelope { recipients: Vec::new(), ..envelope(1) }).unwrap();
    let report = report(hear(&mut client, "", &mut output));
    assert!(report.verdicts.is_empty() && report.reusable && output.is_empty());
}

#[test]
fn what_would_be_two_commands_is_not_said() {
    let (mut client, mut output) = (client(), Outbox::new());
    let _ = hear(&mut client, "220 mx\r\n", &mut output);
    let _ = hear(&mut client, "250-mx\r\n250 DSN\r\n", &mut output);
    let mut odd = envelope(1);
    let kind = "rfc822;x\r\nRCPT TO:<eve@evil.test>\r\nX".to_owned();
    odd.recipients[0].params.original = Some((kind, "ann@there.test".into()));
    client.begin(odd).unwrap();
    assert_eq!(hear(&mut client, "", &mut output), Step::NeedInput);
    output.clear();
    let report = report(hear(&mut client, "250 fine\r\n", &mut output));
    assert_eq!(report.verdicts[0].outcome, Outcome::Later);
    assert!(output.is_empty() && !report.reusable, "{:?}", output.as_bytes().escape_ascii());

    let config = Config { hello: "here\r\nRSET".into(), ..config() };
    let mut client = Client::new(Arc::new(config));
    let step = hear(&mut client, "220 mx\r\n", &mut output);
    assert!(matches!(step, Step::Event(Event::Failed(_))) && output.is_empty(), "{step:?}");
}

#[test]
fn a_full_mailbox_is_not_a_crowd() {
    for (reply, outcome) in [
        ("552 Too many", Outcome::Later),
        ("552 5.5.3 Too many", Outcome::Later),
        ("552 5.2.2 Mailbox full", Outcome::Failed),
    ] {
        let (mut client, mut output) = (client(), Outbox::new());
        let _ = hear(&mut client, "220 mx\r\n", &mut output);
        let _ = hear(&mut client, "250 mx\r\n", &mut output);
        client.begin(envelope(1)).unwrap();
        let report = report(hear(&mut client, &format!("250 a\r\n{reply}\r\n"), &mut output));
        assert_eq!(report.verdicts[0].outcome, outcome, "{reply}");
    }
}

/// RFC 4954 section 4: tokens are often longer than a command may be.
#[test]
fn a_long_first_response_waits_until_it_is_asked_for() {
    for (octets, at_once) in [(10, true), (600, false)] {
        let login = Login {
            user: "user".into(),
            secret: Secret::Token("t".repeat(octets)),
            nonce: "n".into(),
            in_clear: false,
        };
        let config = Config { tls: Tls::Active, login: Some(login), ..config() };
        let (mut client, mut output) = (Client::new(Arc::new(config)), Outbox::new());
        let _ = hear(&mut client, "220 mx\r\n", &mut output);
        output.clear();
        let _ = hear(&mut client, "250-mx\r\n250 AUTH XOAUTH2\r\n", &mut output);
        assert_eq!(output.as_bytes() != b"AUTH XOAUTH2\r\n", at_once);
        assert!(output.len() <= 512);
        if !at_once {
            output.clear();
            let shown = format!("{client:?}");
            assert!(shown.contains("Hidden("), "{shown}");
            assert!(!shown.contains(&format!("{0}, {0}, {0}", b't')), "{shown}");
            assert_eq!(hear(&mut client, "334 \r\n", &mut output), Step::NeedInput);
            assert!(output.len() > octets && output.as_bytes().starts_with(b"dXNlcj11c2Vy"));
        }
        assert_eq!(hear(&mut client, "235 in\r\n", &mut output), Step::Event(Event::Ready));
    }
}
