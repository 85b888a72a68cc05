//! The machine against a small world that answers everything: cuts, junk, literals, states.

use super::*;
use crate::imap::view::Selected;
use crate::sasl::ScramKeys;

const NOW: Tick = Tick(1000);

/// A client's bytes in, the server's bytes and the events out.
struct World {
    imap: Imap,
    output: Outbox,
    seen: Vec<String>,
    closed: bool,
    message: Vec<u8>,
    now: Tick,
}

impl World {
    fn new(config: Config) -> World {
        World {
            imap: Imap::new(Arc::new(config), false),
            output: Outbox::new(),
            seen: Vec::new(),
            closed: false,
            message: Vec::new(),
            now: NOW,
        }
    }

    fn open() -> World {
        World::new(Config { plaintext_login: true, ..Config::default() })
    }

    fn feed(&mut self, mut input: &[u8]) {
        while !self.closed {
            match self.imap.step(self.now, &mut input, &mut self.output) {
                Step::NeedInput => {
                    assert!(input.is_empty(), "input is left");
                    return;
                }
                Step::Event(event) => self.answer(event),
                Step::StartTls => {
                    self.seen.push("StartTls".into());
                    self.imap.tls_started(self.now);
                    return;
                }
                Step::Close => self.closed = true,
            }
        }
    }

    fn answer(&mut self, event: Event<'_>) {
        if let Event::AppendPiece(piece) = event {
            self.message.extend_from_slice(piece);
            return;
        }
        self.seen.push(format!("{event:?}"));
        let output = &mut self.output;
        match event {
            Event::Login { password, ticket, .. } => {
                let good = password == b"secret";
                let answer = if good { LoginAnswer::Accepted } else { LoginAnswer::Refused };
                self.imap.answer_login(ticket, answer, output);
            }
            Event::Verified { ticket, .. } => {
                self.imap.answer_login(ticket, LoginAnswer::Accepted, output);
            }
            Event::LoginFailed { ticket } => {
                self.imap.answer_login(ticket, LoginAnswer::Refused, output);
            }
            Event::ScramKeys { ticket, .. } => {
                let (salt, iterations) = (vec![1; 16], 4096);
                let keys = ScramKeys { salt, iterations, stored_key: [0; 32], server_key: [0; 32] };
                self.imap.answer_keys(ticket, keys, "nonce", output);
            }
            Event::Select { ticket, .. } => {
                let selected = Selected {
                    uids: vec![3, 5, 9],
                    recent_from: 9,
                    uid_next: 10,
                    uid_validity: 1,
                    ..Selected::default()
                };
                self.imap.answer_select(ticket, Ok(selected), output);
            }
            Event::AppendStart { ticket, .. } => self.imap.answer_append(ticket, Ok(()), output),
            Event::AppendPiece(_) | Event::AppendAbort | Event::IdleStart => {}
            Event::AppendEnd { ticket } => {
                let message = std::mem::take(&mut self.message);
                self.seen.push(String::from_utf8_lossy(&message).into_owned());
                self.imap.answer(ticket, &Completion::DONE, output);
            }
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
            | Event::Move { ticket, .. } => self.imap.answer(ticket, &Completion::DONE, output),
        }
    }

    fn said(&mut self) -> String {
        String::from_utf8_lossy(&self.output.take()).into_owned()
    }

    /// What the server says to `bytes`, greeting and earlier text apart.
    fn reply(&mut self, bytes: &[u8]) -> String {
        self.said();
        self.feed(bytes);
        self.said()
    }

    fn logged_in() -> World {
        let mut world = World::open();
        let reply = world.reply(b"a LOGIN ann secret\r\n");
        assert!(reply.contains("a OK [CAPABILITY IMAP4rev1 "), "{reply}");
        world
    }
}

const TALK: &[u8] = b"a1 CAPABILITY\r\na2 LOGIN {3}\r\nann {6+}\r\nsecret\r\na3 SELECT \"inbox\"\r\n\
a4 UID FETCH 1:* (FLAGS BODY.PEEK[HEADER.FIELDS (To)])\r\na5 FETCH 1:2 BODY[]\r\na6 STORE 1 +FLAGS (\\Seen)\r\n\
a7 APPEND Sent (\\Seen) {11+}\r\nSubject: x\n\r\na8 IDLE\r\nDONE\r\na9 SEARCH RETURN (COUNT) UNSEEN\r\n\
b0 BOGUS\r\nb1 FETCH 9 FLAGS\r\nb2 CREATE {4}\r\na//b\r\nb3 NOOP\nx\r\nb4 APPEND x {3+}\r\na\0b\r\nb5 APPEND x {3+}\r\nabc {4+}\r\nabcd\r\n\
b6 CLOSE\r\nb7 FETCH 1 FLAGS\r\nb8 IDLE\r\nb8 what\r\nb9 LOGOUT\r\n";

#[test]
fn cuts_do_not_matter() {
    let talk = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut world = World::open();
        pieces.for_each(|piece| world.feed(piece));
        (world.said(), world.seen, world.closed)
    };
    let whole = talk(&mut std::iter::once(TALK));
    assert!(whole.2, "{}", whole.0);
    for cut in 0..=TALK.len() {
        let (head, tail) = TALK.split_at(cut);
        assert_eq!(talk(&mut [head, tail].into_iter()), whole, "cut at {cut}");
    }
    assert_eq!(talk(&mut TALK.chunks(1)), whole);
}

#[test]
fn one_tagged_reply_per_command() {
    let mut world = World::open();
    world.feed(TALK);
    let said = world.said();
    for tag in [
        "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "b0", "b1", "b2", "b4", "b5", "b6",
        "b7", "b8", "b9",
    ] {
        let start = format!("{tag} ");
        let replies = said.lines().filter(|line| line.starts_with(&start)).count();
        assert_eq!(replies, 1, "{tag} in {said}");
    }
    for (tag, word) in [
        ("b0", "BAD"),
        ("b1", "BAD"),
        ("b2", "NO [CANNOT]"),
        ("b4", "BAD"),
        ("b5", "BAD"),
        ("b7", "BAD"),
        ("b8", "BAD"),
        ("b9", "OK"),
    ] {
        assert!(said.contains(&format!("\r\n{tag} {word} ")), "{tag} in {said}");
    }
    assert!(said.contains("* BAD Lines must end with CRLF"), "{said}");
}

#[test]
fn passwords_are_not_taken_in_the_clear() {
    let mut world = World::new(Config::default());
    let reply = world
        .reply(b"a CAPABILITY\r\nb LOGIN ann secret\r\nc AUTHENTICATE PLAIN AGFubgBzZWNyZXQ=\r\n");
    assert!(reply.contains(" LOGINDISABLED") && !reply.contains("AUTH=PLAIN"), "{reply}");
    assert!(reply.contains("b NO [PRIVACYREQUIRED]") && reply.contains("c NO [PRIVACYREQUIRED]"));
    let reply = world.reply(b"d STARTTLS\r\ne CAPABILITY\r\n");
    assert_eq!(reply, "d OK Begin TLS now\r\n", "what is pipelined behind STARTTLS is dropped");
    let reply = world.reply(b"f AUTHENTICATE PLAIN AGFubgBzZWNyZXQ=\r\ng STARTTLS\r\n");
    assert!(reply.contains("f OK [CAPABILITY") && reply.contains("g BAD"), "{reply}");
}

#[test]
fn sasl_exchanges_work_and_can_be_cancelled() {
    let mut world = World::open();
    let reply = world.reply(b"a AUTHENTICATE LOGIN\r\nYW5u\r\nc2VjcmV0\r\n");
    assert!(reply.contains("+ VXNlcm5hbWU6\r\n+ UGFzc3dvcmQ6\r\na OK "), "{reply}");
    let mut world = World::open();
    let reply =
        world.reply(b"a AUTHENTICATE PLAIN\r\n*\r\nb AUTHENTICATE PLAIN !\r\nc AUTHENTICATE X\r\n");
    assert!(
        reply.contains("+ \r\na BAD Cancelled\r\nb BAD That is not base64\r\nc NO "),
        "{reply}"
    );
    let reply = world.reply(b"d AUTHENTICATE PLAIN\r\nAGFubgBiYWQ=\r\n");
    assert!(reply.contains("d NO [AUTHENTICATIONFAILED]"), "{reply}");
}

#[test]
fn a_wrong_scram_proof_is_a_failed_login() {
    let mut world = World::new(Config::default());
    // n,,n=ann,r=abc — then c=biws,r=abcnonce and 32 zero bytes as the proof.
    let reply = world.reply(b"a AUTHENTICATE SCRAM-SHA-256 biwsbj1hbm4scj1hYmM=\r\n");
    assert!(
        reply.contains("\r\n+ cj1hYmNub25jZSxzPQ") || reply.contains("+ cj1hYmNub25jZS"),
        "{reply}"
    );
    let reply = world.reply(
        b"Yz1iaXdzLHI9YWJjbm9uY2UscD1BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBPQ==\r\n",
    );
    assert!(reply.contains("a NO [AUTHENTICATIONFAILED]"), "{reply}");
}

#[test]
fn huge_literals_get_the_answer_they_deserve() {
    let mut world = World::logged_in();
    let reply = world.reply(b"a APPEND INBOX {4294967295}\r\nb NOOP\r\n");
    assert!(reply.starts_with("a NO [TOOBIG]") && reply.contains("b OK"), "{reply}");
    let reply = world
        .reply(b"c APPEND INBOX {99999999999999999999}\r\nd SELECT {4294967295}\r\ne NOOP\r\n");
    assert!(reply.contains("c NO [TOOBIG]") && reply.contains("d BAD") && reply.contains("e OK"));
    assert!(!reply.contains("+ "), "{reply}");
    let reply = world.reply(b"f SELECT {4294967295+}\r\n");
    assert!(reply.contains("f BAD") && reply.contains("* BYE") && world.closed, "{reply}");
    assert!(world.imap.retained_bytes() < 1024);
}

#[test]
fn what_follows_a_refused_literal_is_no_command() {
    let config = Config { append_bytes_max: 10, plaintext_login: true, ..Config::default() };
    let mut world = World::new(config);
    world.feed(b"a LOGIN ann secret\r\n");
    let reply =
        world.reply(b"a APPEND INBOX {20+}\r\nb LOGOUT\r\nc LOGOUT\r\nd LOGOUT\r\ne NOOP\r\n");
    assert!(reply.starts_with("a NO [TOOBIG]") && reply.ends_with("e OK Done\r\n"), "{reply}");
    assert_eq!(reply.lines().count(), 2, "{reply}");
}

#[test]
fn a_client_that_only_errs_is_closed() {
    let mut world = World::open();
    let junk: String = (0..10_000).map(|n| format!("t{n} BOGUS\r\n")).collect();
    let reply = world.reply(junk.as_bytes());
    assert!(world.closed && reply.ends_with("* BYE Too many bad commands\r\n"), "{reply}");
    assert!(reply.lines().count() < 30, "{reply}");
    let mut world = World::open();
    let logins = b"a LOGIN ann wrong\r\n".repeat(50);
    let reply = world.reply(&logins);
    assert_eq!(reply.matches("[AUTHENTICATIONFAILED]").count(), 10);
    assert!(world.closed);
}

#[test]
fn lines_without_end_and_deep_nesting_are_bounded() {
    let mut world = World::logged_in();
    world.feed(&vec![b'x'; 1 << 20]);
    assert!(world.imap.retained_bytes() < 70_000);
    assert!(world.reply(b"\r\na NOOP\r\n").contains("a OK"));
    world.feed(b"a SELECT INBOX\r\n");
    let deep = format!("a SEARCH {}ALL{}\r\n", "(".repeat(1000), ")".repeat(1000));
    assert!(world.reply(deep.as_bytes()).starts_with("a BAD search keys nest too deep"));
}

#[test]
fn what_one_command_asks_is_bounded() {
    let mut world = World::logged_in();
    world.feed(b"a SELECT INBOX\r\n");
    let many = |text: &str, count: usize| vec![text; count].join(" ");
    for (asked, answer) in [
        (format!("FETCH 1 ({})", many("UID", 257)), "BAD too many FETCH items"),
        (
            format!("FETCH 1 (BODY.PEEK[HEADER.FIELDS ({})])", many("To", 257)),
            "BAD too many header fields named",
        ),
        (format!("SEARCH {}", many("NOT BODY zq", 129)), "BAD too many search keys"),
        (format!("SEARCH ({})", many("SEEN", 256)), "BAD too many search keys"),
        (format!("LIST \"\" ({})", many("*", 33)), "BAD too many patterns, or too long ones"),
        (
            format!("LIST \"\" ({})", many(&"x".repeat(700), 3)),
            "BAD too many patterns, or too long ones",
        ),
    ] {
        let reply = world.reply(format!("a {asked}\r\n").as_bytes());
        assert!(reply.contains(&format!("a {answer}")), "{reply}");
    }
}

#[test]
fn time_runs_out() {
    let mut world = World::open();
    world.feed(b"");
    let deadline = world.imap.deadline().unwrap();
    let step = world.imap.step(deadline, &mut &b""[..], &mut world.output);
    assert_eq!(step, Step::Close);
    assert!(world.said().contains("* BYE Idle for too long"));
}

#[test]
fn a_message_that_drips_or_stops_coming_ends_the_session_and_idling_is_as_long_as_before() {
    const SECOND: u64 = 1000;
    let begin = || {
        let mut world = World::logged_in();
        world.feed(b"b APPEND INBOX {4000+}\r\nx");
        world
    };
    let wait = |world: &mut World, seconds: u64| {
        world.now = Tick(world.now.0 + seconds * SECOND);
        world.feed(b"");
    };
    let mut silent = begin();
    wait(&mut silent, 179);
    assert!(!silent.closed);
    wait(&mut silent, 1);
    assert!(silent.closed && silent.said().contains("* BYE Too slow"));
    let mut dripping = begin();
    for minute in 1..60 {
        wait(&mut dripping, 60);
        dripping.feed(b"x");
        assert!(!dripping.closed, "{minute}");
    }
    assert_eq!(dripping.imap.deadline(), Some(Tick(NOW.0 + 3600 * SECOND)));
    wait(&mut dripping, 60);
    assert!(dripping.closed);
    // The end of its line is part of it.
    let mut unended = World::logged_in();
    unended.feed(b"b APPEND INBOX {1+}\r\nx");
    wait(&mut unended, 180);
    assert!(unended.closed);
    // Behind it, and for the next one, time begins anew.
    let mut quick = begin();
    wait(&mut quick, 170);
    let reply = quick.reply(format!("{}\r\n", "x".repeat(3999)).as_bytes());
    assert!(reply.contains("b OK"), "{reply}");
    wait(&mut quick, 30 * 60);
    quick.feed(b"c APPEND INBOX {4000+}\r\nx");
    assert_eq!(quick.imap.deadline(), Some(Tick(quick.now.0 + 180 * SECOND)));
    // What we take is not the client's time.
    let mut input = &b"x"[..];
    let (now, output) = (quick.now, &mut quick.output);
    assert!(matches!(quick.imap.step(now, &mut input, output), Step::Event(_)));
    let later = Tick(now.0 + 600 * SECOND);
    assert_eq!(quick.imap.step(later, &mut input, output), Step::NeedInput);
    assert_eq!(quick.imap.deadline(), Some(Tick(later.0 + 180 * SECOND)));
}

#[test]
fn junk_never_panics_and_is_bounded() {
    let mut seed = 7_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    for round in 0..3000 {
        let mut bytes = TALK.to_vec();
        for _ in 0..=random() % 8 {
            let at = random() % bytes.len().max(1);
            if at >= bytes.len() {
                break;
            }
            match random() % 4 {
                0 => bytes[at] = random() as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"{}()\"\\*%+\r\n 0"[random() % 13]),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let mut world = World::open();
        for piece in bytes.chunks(1 + random() % 100) {
            world.feed(piece);
        }
        assert!(world.imap.retained_bytes() < 70_000, "round {round}");
    }
}

#[test]
fn expunge_waits_for_commands_by_number() {
    let mut world = World::logged_in();
    world.feed(b"a SELECT INBOX\r\n");
    world.said();
    let news = News { vanished: vec![3], modseq: 2, ..News::default() };
    let mut asked = |command: &[u8]| {
        let mut input = command;
        let step = world.imap.step(world.now, &mut input, &mut world.output);
        let Step::Event(event) = step else { panic!("{step:?}") };
        world.imap.tell(&news, &mut world.output);
        world.answer(event);
        world.said()
    };
    assert_eq!(asked(b"b FETCH 1 FLAGS\r\n"), "b OK Done\r\n");
    assert_eq!(asked(b"c SEARCH ALL\r\n"), "c OK Done\r\n");
    assert_eq!(asked(b"d NOOP\r\n"), "* 1 EXPUNGE\r\nd OK Done\r\n");
}
