//! The SMTP machine driven by hand: what the peer sends, what the engine answers, what comes back.

use super::params::{MailParams, RecipientParams};
use super::session::LoginOutcome;
use super::{Answer, Config, Event, Refusal, Role, Smtp};
use crate::sasl::ScramKeys;
use crate::{Machine, Outbox, Step, Tick};
use std::fmt::Write as _;
use std::sync::Arc;

mod limits;

/// One session with an engine of few words: it takes all mail but that for `nobody@…` and
/// `later@…` and from `refused@…` and `full@…`, knows the password `secret`, and writes down
/// what it was asked.
struct Peer {
    machine: Smtp<()>,
    now: Tick,
    events: String,
    body: Vec<u8>,
    /// What `answer_end` is given; one acceptance for each recipient when `None`.
    answers: Option<usize>,
    recipients: usize,
    accepted_text: String,
    closed: bool,
    lmtp: bool,
    /// No message is taken.
    is_full: bool,
}

fn config(role: Role) -> Config {
    Config {
        hostname: "mx.test".into(),
        postmaster_domain: "served.test".into(),
        role,
        message_octets_max: 1000,
        recipients_max: 3,
        tls_available: true,
        plaintext_auth: false,
        future_release: None,
        xclient: false,
    }
}

impl Peer {
    /// Greeted, nothing said.
    fn fresh(role: Role) -> Peer {
        Peer::over(role, false)
    }

    fn over(role: Role, tls: bool) -> Peer {
        let mut peer = Peer {
            machine: Smtp::new(Arc::new(config(role)), tls),
            now: Tick(0),
            events: String::new(),
            body: Vec::new(),
            answers: None,
            recipients: 0,
            accepted_text: "ok".into(),
            closed: false,
            lmtp: role == Role::Lmtp,
            is_full: false,
        };
        let greeting = if role == Role::Lmtp { "220 mx.test LMTP" } else { "220 mx.test ESMTP" };
        assert!(peer.say("").starts_with(greeting));
        peer
    }

    /// Has said hello.
    fn ready(role: Role) -> Peer {
        let mut peer = Peer::fresh(role);
        let hello = if role == Role::Lmtp { "LHLO c.test\r\n" } else { "EHLO c.test\r\n" };
        assert!(peer.say(hello).ends_with("250 ENHANCEDSTATUSCODES\r\n"));
        peer
    }

    /// Has named a sender and one recipient.
    fn addressed(role: Role) -> Peer {
        let mut peer = Peer::ready(role);
        peer.say("MAIL FROM:<a@c.test>\r\nRCPT TO:<b@mx.test>\r\n");
        assert_eq!(peer.take_events(), "mail a@c.test; rcpt b@mx.test; ");
        peer
    }

    fn say(&mut self, text: &str) -> String {
        self.send(text.as_bytes())
    }

    /// The codes of the replies, without continuation lines.
    fn codes(&mut self, text: &str) -> Vec<String> {
        let replies = self.say(text);
        let last_lines = replies.lines().filter(|line| line.as_bytes().get(3) == Some(&b' '));
        last_lines.map(|line| line[..3].to_owned()).collect()
    }

    fn send(&mut self, bytes: &[u8]) -> String {
        let mut output = Outbox::new();
        let mut input = bytes;
        loop {
            match self.machine.step(self.now, &mut input, &mut output) {
                Step::NeedInput => break,
                Step::Close => {
                    self.closed = true;
                    break;
                }
                Step::StartTls => {
                    self.machine.tls_started(self.now);
                    break;
                }
                Step::Event(event) => self.answer(event, &mut output),
            }
        }
        String::from_utf8(output.take()).unwrap()
    }

    fn answer(&mut self, event: Event<'_>, output: &mut Outbox) {
        match event {
            Event::Mail(from, MailParams { .. }, ticket) => {
                let from = from.map_or("<>".to_owned(), |from| from.to_string());
                let _ = write!(self.events, "mail {from}; ");
                self.recipients = 0;
                let answer = match from.split('@').next() {
                    Some("refused") => Err(Refusal::NOT_OWN_SENDER),
                    Some("full") => Err(Refusal::DISK_FULL),
                    _ => Ok(()),
                };
                self.machine.answer_command(ticket, answer, output);
            }
            Event::Recipient(to, RecipientParams { .. }, ticket) => {
                let _ = write!(self.events, "rcpt {to}; ");
                let answer = match to.local() {
                    "nobody" => Err(Refusal::NO_SUCH_USER),
                    "later" => Err(Refusal::COME_AGAIN),
                    _ => Ok(()),
                };
                self.recipients += usize::from(answer.is_ok());
                self.machine.answer_command(ticket, answer, output);
            }
            Event::Data(ticket) => {
                self.events.push_str("data; ");
                let answer = if self.is_full { Err(Refusal::DISK_FULL) } else { Ok(()) };
                self.machine.answer_command(ticket, answer, output);
            }
            Event::Body(bytes) => self.body.extend_from_slice(bytes),
            Event::End(ticket) => {
                self.events.push_str("end; ");
                let wanted = if self.lmtp { self.recipients } else { 1 };
                let answers = (0..self.answers.unwrap_or(wanted))
                    .map(|_| Answer::Accepted((), self.accepted_text.clone()));
                self.machine.answer_end(ticket, answers.collect(), output);
            }
            Event::Client(client, ticket) => {
                let _ = write!(self.events, "client {:?}; ", client.address);
                self.machine.answer_command(ticket, Ok(()), output);
            }
            Event::Reset => self.events.push_str("reset; "),
            Event::Login(credentials, ticket) => {
                let fine = credentials.password == b"secret";
                let outcome = if fine { LoginOutcome::Welcome } else { LoginOutcome::Wrong };
                self.machine.answer_login(ticket, outcome, &credentials.user, output);
            }
            Event::ScramKeys(_, ticket) => {
                let keys = ScramKeys {
                    salt: b"salt".to_vec(),
                    iterations: 4096,
                    stored_key: [1; 32],
                    server_key: [2; 32],
                };
                self.machine.answer_keys(ticket, keys, "nonce", output);
            }
            Event::Proved(user, ticket) => {
                self.machine.answer_login(ticket, LoginOutcome::Welcome, &user, output);
            }
            Event::Disproved(ticket) => {
                self.machine.answer_login(ticket, LoginOutcome::Wrong, "", output);
            }
        }
    }

    fn take_events(&mut self) -> String {
        std::mem::take(&mut self.events)
    }
}

// ── nothing that follows a BDAT is a command ────────────────────────────────────────────────────

const INNER: &str = "RSET\r\nMAIL FROM:<evil@x.test>\r\nRCPT TO:<v@mx.test>\r\nDATA\r\nx\r\n.\r\n";

#[test]
fn a_bdat_that_cannot_be_read_ends_the_session() {
    for command in [
        "BDAT",
        "BDAT 9999999999999999999 LAST",
        "BDAT 71 LAST x",
        "BDAT +71 LAST",
        "bdat 71,",
        "BDAT\t71 LAST",
        " BDAT 71 LAST",
    ] {
        let mut peer = Peer::addressed(Role::Mx);
        let replies = peer.say(&format!("{command}\r\n{INNER}"));
        assert_eq!(replies, "501 5.5.4 A chunk without a size: nothing behind it can be read\r\n");
        assert!(peer.closed, "{command:?}");
        assert_eq!(peer.take_events(), "reset; ", "{command:?}");
    }
}

#[test]
fn a_spoiled_line_that_may_have_been_a_bdat_ends_the_session() {
    let long = format!("BDAT {}71 LAST", "0".repeat(20_000));
    for command in [
        "BDAT 71\0 LAST",
        "BDAT 71 LAST\rx",
        "BDAT 71 LAST\nx",
        "B\0DAT 71 LAST",
        "NOOP\nBDAT 71",
        &long,
    ] {
        let mut peer = Peer::addressed(Role::Mx);
        let replies = peer.say(&format!("{command}\r\n{INNER}"));
        assert!(replies.starts_with("500 5.5.2 ") && replies.lines().count() == 1, "{replies}");
        assert!(peer.closed, "{command:?}");
        assert_eq!(peer.take_events(), "reset; ", "{command:?}");
    }
    // Named a sender or not: its octets follow all the same.
    let mut peer = Peer::ready(Role::Mx);
    assert_eq!(peer.codes("bdat 71\0 LAST\r\nNOOP\r\n"), ["500"]);
    assert!(peer.closed);
    // A sender who was refused may have its chunks on the way already.
    let mut peer = Peer::ready(Role::Mx);
    assert_eq!(peer.codes("MAIL FROM:<refused@c.test>\r\nNOOP\n\r\n"), ["550", "500"]);
    assert!(peer.closed);
}

#[test]
fn other_spoiled_lines_cost_a_strike_only() {
    for line in ["NOOP\nQUIT", "NOOP\rQUIT", "NO\0OP", &"x".repeat(20_000)] {
        let mut peer = Peer::ready(Role::Mx);
        assert_eq!(peer.codes(&format!("{line}\r\nNOOP\r\n")), ["500", "250"], "{line:?}");
        assert!(!peer.closed);
        // A transaction that is over casts no shadow.
        peer.say("MAIL FROM:<a@c.test>\r\nRSET\r\n");
        assert_eq!(peer.codes(&format!("{line}\r\nNOOP\r\n")), ["500", "250"], "{line:?}");
    }
}

/// Where the input is cut must not decide what a spoiled line began with.
#[test]
fn a_spoiled_bdat_is_known_in_any_pieces() {
    let bytes = b"NOOP\r\nBDAT 7\0 LAST\r\nNOOP\r\n";
    for cut in 0..=bytes.len() {
        let mut peer = Peer::ready(Role::Mx);
        let mut replies = peer.send(&bytes[..cut]);
        if !peer.closed {
            replies += &peer.send(&bytes[cut..]);
        }
        assert_eq!(replies, "250 2.0.0 Fine\r\n500 5.5.2 NUL in a command\r\n", "cut at {cut}");
        assert!(peer.closed);
    }
}

// ── time ────────────────────────────────────────────────────────────────────────────────────────

const SECOND: u64 = 1000;

impl Peer {
    fn at(&mut self, seconds: u64, text: &str) -> String {
        self.now = Tick(seconds * SECOND);
        self.say(text)
    }
}

#[test]
fn a_command_that_drips_does_not_hold_the_session() {
    let mut peer = Peer::ready(Role::Mx);
    for second in (0..300).step_by(60) {
        assert_eq!(peer.at(second, "N"), "");
        assert_eq!(peer.machine.deadline(), Some(Tick(300 * SECOND)));
    }
    assert_eq!(peer.at(300, ""), "421 4.4.2 Too slow, goodbye\r\n");
    assert!(peer.closed);
}

#[test]
fn a_step_without_input_moves_no_deadline() {
    for said in ["", "EHLO c", "EHLO c\r\n", "NO\0OP"] {
        let mut peer = Peer::fresh(Role::Mx);
        peer.at(10, said);
        let deadline = peer.machine.deadline();
        peer.at(200, "");
        assert_eq!(peer.machine.deadline(), deadline, "{said:?}");
    }
    let mut peer = Peer::addressed(Role::Mx);
    peer.at(10, "DATA\r\nabc");
    peer.at(100, "");
    assert_eq!(peer.machine.deadline(), Some(Tick(190 * SECOND)));
}

#[test]
fn each_complete_command_starts_the_clock_anew() {
    let mut peer = Peer::ready(Role::Mx);
    for second in [299, 598, 897] {
        assert_eq!(peer.at(second, "NOOP\r\n"), "250 2.0.0 Fine\r\n");
        assert_eq!(peer.machine.deadline(), Some(Tick((second + 300) * SECOND)));
    }
}

/// The engine may take its time with an answer: the peer is not late for that.
#[test]
fn the_clock_stands_still_while_the_engine_answers() {
    let mut peer = Peer::ready(Role::Mx);
    peer.now = Tick(299 * SECOND);
    let (mut output, mut input) = (Outbox::new(), &b"MAIL FROM:<a@c.test>\r\n"[..]);
    let Step::Event(event) = peer.machine.step(peer.now, &mut input, &mut output) else { panic!() };
    peer.answer(event, &mut output);
    assert_eq!(peer.at(400, ""), "");
    assert_eq!(peer.machine.deadline(), Some(Tick(700 * SECOND)));
}

#[test]
fn a_message_has_three_minutes_for_a_piece_and_an_hour_for_all() {
    let mut peer = Peer::addressed(Role::Mx);
    peer.say("DATA\r\n");
    for second in (0..3600).step_by(179) {
        assert_eq!(peer.at(second, "x"), "");
    }
    assert_eq!(peer.at(3600, ""), "421 4.4.2 Too slow, goodbye\r\n");
    // Octets that nobody wants have no more time.
    let mut peer = Peer::ready(Role::Mx);
    peer.say("BDAT 1000000\r\n");
    for second in (0..3600).step_by(179) {
        assert_eq!(peer.at(second, "x"), "");
    }
    assert_eq!(peer.at(3600, ""), "421 4.4.2 Too slow, goodbye\r\n");
}

// ── the message ─────────────────────────────────────────────────────────────────────────────────

/// What was lent of a refused message, by DATA and by BDAT, must not depend on the cuts.
#[test]
fn cuts_do_not_show_in_a_refused_message() {
    for (tail, lent) in [
        ("DATA\r\nabc\r\ndef\nghi\r\n.\r\n", "abc\r\ndef"),
        ("BDAT 13 LAST\r\nabc\r\ndef\nghi\r", "abc\r\ndef"),
        ("BDAT 5 LAST\r\nabcd\r", "abcd\r"),
        ("BDAT 3\r\nab\rBDAT 3 LAST\r\nc\r\n", "ab\r"),
        ("BDAT 1002 LAST\r\n", ""),
    ] {
        let filler = if tail.contains("1002") { "x".repeat(1002) } else { String::new() };
        let lent = if filler.is_empty() { lent.to_owned() } else { "x".repeat(1000) };
        let bytes = format!("{tail}{filler}");
        for cut in 0..=bytes.len() {
            let mut peer = Peer::addressed(Role::Mx);
            let replies = peer.say(&bytes[..cut]) + &peer.say(&bytes[cut..]);
            assert!(replies.lines().last().unwrap().starts_with("55"), "{replies}");
            assert_eq!(String::from_utf8_lossy(&peer.body), lent, "{tail:?} cut at {cut}");
            assert!(peer.take_events().ends_with("reset; "));
        }
    }
}

// ── answers ─────────────────────────────────────────────────────────────────────────────────────

const TWO_OF_THREE: &str = "MAIL FROM:<a@c.test>\r\nRCPT TO:<b@mx.test>\r\n\
    RCPT TO:<nobody@mx.test>\r\nRCPT TO:<c@mx.test>\r\n";

#[test]
fn the_end_of_data_is_answered_exactly_once_or_once_for_each_recipient() {
    for (role, due) in [(Role::Mx, 1), (Role::Lmtp, 2)] {
        for given in 0..4 {
            for message in ["DATA\r\nx\r\n.\r\n", "BDAT 3 LAST\r\nx\r\n"] {
                let mut peer = Peer::ready(role);
                peer.answers = Some(given);
                peer.say(TWO_OF_THREE);
                let replies = peer.say(message);
                let go_on = "354 End data with <CR><LF>.<CR><LF>\r\n";
                let replies = replies.strip_prefix(go_on).unwrap_or(&replies);
                let expected = "250 2.0.0 ok\r\n".repeat(given.min(due))
                    + &"451 4.3.0 Mail store not available, try again later\r\n"
                        .repeat(due.saturating_sub(given));
                assert_eq!(replies, expected, "{role:?} {given}");
                assert_eq!(peer.codes("NOOP\r\n"), ["250"]);
            }
        }
    }
}

#[test]
fn lmtp_refuses_a_bad_message_once_for_each_recipient() {
    let mut peer = Peer::ready(Role::Lmtp);
    peer.say(TWO_OF_THREE);
    assert_eq!(peer.codes("DATA\r\na\nb\r\n.\r\nNOOP\r\n"), ["354", "554", "554", "250"]);
    peer.say(TWO_OF_THREE);
    assert_eq!(peer.codes("BDAT 2 LAST\r\na\nNOOP\r\n"), ["554", "554", "250"]);
}

#[test]
fn replies_are_ascii_until_smtputf8_is_asked_for() {
    let transaction = |params: &str| {
        format!("MAIL FROM:<a@c.test>{params}\r\nRCPT TO:<b@mx.test>\r\nDATA\r\nx\r\n.\r\n")
    };
    let mut peer = Peer::ready(Role::Mx);
    peer.accepted_text = "größer\r\n".into();
    assert!(peer.say(&transaction("")).ends_with("250 2.0.0 gr??er  \r\n"));
    assert!(peer.say(&transaction(" SMTPUTF8")).ends_with("250 2.0.0 größer  \r\n"));
    assert!(peer.say(&transaction("")).ends_with("250 2.0.0 gr??er  \r\n"));
}

// ── the order of commands ───────────────────────────────────────────────────────────────────────

/// The table at the head of `session.rs`, pair by pair.
#[test]
fn the_legal_order() {
    const FRESH: &str = "";
    const READY: &str = "EHLO c\r\n";
    const MAIL: &str = "EHLO c\r\nMAIL FROM:<a@c.test>\r\n";
    const RECIPIENTS: &str = "EHLO c\r\nMAIL FROM:<a@c.test>\r\nRCPT TO:<b@mx.test>\r\n";
    const CHUNKS: &str = "EHLO c\r\nMAIL FROM:<a@c.test>\r\nRCPT TO:<b@mx.test>\r\nBDAT 2\r\n\r\n";
    let phases = [FRESH, READY, MAIL, RECIPIENTS, CHUNKS];
    for (command, codes) in [
        ("EHLO c", ["250"; 5]),
        ("HELO c", ["250"; 5]),
        ("LHLO c", ["500"; 5]),
        ("MAIL FROM:<a@c.test>", ["503", "250", "503", "503", "503"]),
        ("RCPT TO:<b@mx.test>", ["503", "503", "250", "250", "503"]),
        ("DATA", ["503", "503", "554", "354", "503"]),
        ("BDAT 0", ["503", "503", "554", "250", "250"]),
        ("BDAT 0 LAST", ["503", "503", "554", "250", "250"]),
        ("STARTTLS", ["220", "220", "503", "503", "503"]),
        ("AUTH PLAIN", ["502"; 5]),
        ("RSET", ["250"; 5]),
        ("NOOP", ["250"; 5]),
        ("HELP", ["214"; 5]),
        ("VRFY b", ["252"; 5]),
        ("EXPN b", ["502"; 5]),
        ("QUIT", ["221"; 5]),
    ] {
        for (phase, code) in phases.into_iter().zip(codes) {
            let mut peer = Peer::fresh(Role::Mx);
            peer.say(phase);
            assert_eq!(peer.codes(&format!("{command}\r\n")), [code], "{command} after {phase:?}");
        }
    }
}

#[test]
fn pipelining_changes_nothing() {
    let script = "EHLO c\r\nMAIL FROM:<a@c.test>\r\nRCPT TO:<nobody@mx.test>\r\n\
        RCPT TO:<b@mx.test>\r\nDATA\r\nx\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<b@mx.test>\r\n\
        BDAT 3\r\nabcBDAT 2 LAST\r\n\r\nWHAT\r\nQUIT\r\n";
    let mut whole = Peer::fresh(Role::Mx);
    let replies = whole.say(script);
    let mut single = Peer::fresh(Role::Mx);
    let one_by_one: String = script.bytes().map(|octet| single.send(&[octet])).collect();
    assert_eq!(replies, one_by_one);
    assert_eq!((whole.events, whole.body), (single.events, single.body));
}

#[test]
fn a_transaction_that_is_given_up_is_reported_once() {
    for command in ["RSET", "EHLO c", "HELO c", "QUIT"] {
        let mut peer = Peer::addressed(Role::Mx);
        peer.say(&format!("{command}\r\n"));
        assert_eq!(peer.take_events(), "reset; ", "{command}");
    }
}

#[test]
fn recipients_beyond_the_limit_are_put_off() {
    let mut peer = Peer::ready(Role::Mx);
    peer.say("MAIL FROM:<a@c.test>\r\n");
    let codes = peer.codes(&"RCPT TO:<b@mx.test>\r\n".repeat(5));
    assert_eq!(codes, ["250", "250", "250", "452", "452"]);
    assert_eq!(peer.codes("DATA\r\nx\r\n.\r\n"), ["354", "250"]);
}

/// RFC 5321 section 4.5.1: every server takes mail for it.
#[test]
fn a_postmaster_without_domain_is_that_of_a_domain_that_we_serve() {
    let mut peer = Peer::ready(Role::Mx);
    assert_eq!(peer.codes("MAIL FROM:<postmaster>\r\n"), ["501"]);
    peer.say("MAIL FROM:<>\r\nRCPT TO:<Postmaster>\r\n");
    assert_eq!(peer.take_events(), "mail <>; rcpt postmaster@served.test; ");
}

// ── BDAT ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn chunks_make_a_message_and_are_taken_as_they_are() {
    let mut peer = Peer::addressed(Role::Mx);
    let codes = peer.codes("BDAT 5\r\na\r\n.\rBDAT 3\r\n\nb\rBDAT 1 LAST\r\n\nNOOP\r\n");
    assert_eq!(codes, ["250", "250", "250", "250"]);
    assert_eq!(peer.body, b"a\r\n.\r\nb\r\n");
    assert_eq!(peer.take_events(), "data; end; ");
}

#[test]
fn chunks_out_of_order_are_swallowed() {
    for phase in ["", "MAIL FROM:<a@c.test>\r\n", "MAIL FROM:<a@c.test>\r\nRCPT TO:<nobody@c>\r\n"]
    {
        let mut peer = Peer::ready(Role::Mx);
        peer.say(phase);
        let codes = peer.codes("BDAT 6\r\nQUIT\r\nNOOP\r\n");
        assert!(matches!(&codes[..], [refused, fine] if refused.starts_with('5') && fine == "250"));
        assert!(!peer.closed);
    }
}

// ── STARTTLS and AUTH ───────────────────────────────────────────────────────────────────────────

#[test]
fn tls_forgets_what_was_said_in_the_clear() {
    let mut peer = Peer::ready(Role::Mx);
    // What was pipelined behind it is dropped by the driver (here: the rest of `send`).
    assert_eq!(peer.codes("STARTTLS\r\nMAIL FROM:<evil@x.test>\r\n"), ["220"]);
    assert_eq!(peer.machine.hello(), "");
    assert_eq!(peer.codes("MAIL FROM:<a@c.test>\r\n"), ["503"]);
    let replies = peer.say("EHLO c.test\r\n");
    assert!(!replies.contains("STARTTLS"));
    assert_eq!(peer.codes("STARTTLS\r\n"), ["502"]);
    assert_eq!(peer.codes("MAIL FROM:<a@c.test>\r\n"), ["250"]);
    assert_eq!(peer.machine.protocol(), "ESMTPS");
    assert_eq!(peer.take_events(), "mail a@c.test; ");
}

fn submission() -> Peer {
    let mut peer = Peer::over(Role::Submission, true);
    assert!(peer.say("EHLO c.test\r\n").contains("250-AUTH SCRAM-SHA-256 PLAIN LOGIN\r\n"));
    peer
}

/// `\0ann\0secret`, `\0ann\0wrong`, `ann`, `secret`.
const PLAIN: &str = "AGFubgBzZWNyZXQ=";
const PLAIN_WRONG: &str = "AGFubgB3cm9uZw==";
const ANN: &str = "YW5u";
const SECRET: &str = "c2VjcmV0";

#[test]
fn every_way_to_log_in() {
    for (said, codes) in [
        (format!("AUTH PLAIN {PLAIN}\r\n"), &["235"][..]),
        (format!("auth plain\r\n{PLAIN}\r\n"), &["334", "235"]),
        (format!("AUTH LOGIN\r\n{ANN}\r\n{SECRET}\r\n"), &["334", "334", "235"]),
        (format!("AUTH LOGIN {ANN}\r\n{SECRET}\r\n"), &["334", "235"]),
        (format!("AUTH PLAIN {PLAIN_WRONG}\r\n"), &["535"]),
        ("AUTH PLAIN\r\n*\r\n".into(), &["334", "501"]),
        ("AUTH PLAIN =\r\n".into(), &["501"]),
        ("AUTH PLAIN !\r\n".into(), &["501"]),
        ("AUTH PLAIN\r\nNO\0OP\r\n".into(), &["334", "500"]),
        ("AUTH\r\n".into(), &["501"]),
        ("AUTH CRAM-MD5\r\n".into(), &["504"]),
        // `n,,n=ann,r=x`, then a final message whose proof is zeros.
        (
            "AUTH SCRAM-SHA-256 biwsbj1hbm4scj14\r\n\
             Yz1iaXdzLHI9eG5vbmNlLHA9QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQT0=\r\n"
                .into(),
            &["334", "535"],
        ),
    ] {
        let mut peer = submission();
        assert_eq!(peer.codes(&said), codes, "{said:?}");
        let welcome = codes.last() == Some(&"235");
        assert_eq!(peer.machine.user(), welcome.then_some("ann"), "{said:?}");
        let expected = if welcome { "250" } else { "530" };
        assert_eq!(peer.codes("MAIL FROM:<a@c.test>\r\n"), [expected], "{said:?}");
    }
}

#[test]
fn a_login_comes_once_behind_tls_outside_of_a_transaction() {
    let login = format!("AUTH PLAIN {PLAIN}\r\n");
    let mut peer = Peer::ready(Role::Submission);
    assert_eq!(peer.codes(&login), ["538"]);
    let mut peer = Peer::over(Role::Submission, true);
    assert_eq!(peer.codes(&login), ["503"]);
    let mut peer = submission();
    assert_eq!(peer.codes(&login), ["235"]);
    assert_eq!(peer.codes(&login), ["503"]);
    assert_eq!(peer.codes("MAIL FROM:<a@c.test>\r\n"), ["250"]);
    assert_eq!(peer.machine.protocol(), "ESMTPSA");
}

#[test]
fn guessing_passwords_ends_soon() {
    let mut peer = submission();
    let codes = peer.codes(&format!("AUTH PLAIN {PLAIN_WRONG}\r\n").repeat(50));
    assert_eq!(codes, ["535", "535", "535", "535", "535", "535", "421"]);
}

// ── LMTP ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn lmtp_has_a_hello_of_its_own() {
    let mut peer = Peer::fresh(Role::Lmtp);
    assert_eq!(peer.codes("EHLO c\r\nHELO c\r\nLHLO c\r\n"), ["500", "500", "250"]);
    assert_eq!(peer.machine.protocol(), "LMTP");
}
