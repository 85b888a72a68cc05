//! The machine against a small world: one user, a handful of messages.

use super::*;
use crate::pop3::Entry;
use crate::sasl::{LoginOutcome, ScramKeys};

const NOW: Tick = Tick(1000);

/// A client's bytes in, the server's bytes out; events are answered as a well-behaved engine would.
struct World {
    pop3: Pop3,
    output: Outbox,
    messages: Vec<&'static [u8]>,
    committed: Option<Vec<usize>>,
    opened: Result<(), Refusal>,
    relieved: usize,
    closed: bool,
}

impl World {
    fn new(tls_available: bool, plaintext_auth: bool) -> World {
        let config = Config { hostname: "mx.test".into(), tls_available, plaintext_auth };
        World {
            pop3: Pop3::new(Arc::new(config), false),
            output: Outbox::new(),
            messages: vec![b"A: b\r\n\r\n1\r\n.2\r\n", b"C: d\r\n\r\nx"],
            committed: None,
            opened: Ok(()),
            relieved: 0,
            closed: false,
        }
    }

    fn logged_in() -> World {
        let mut world = World::new(false, true);
        assert_eq!(
            world.reply("USER ann\r\nPASS secret\r\n"),
            "+OK mx.test POP3 Kura\r\n+OK Now the password\r\n+OK 2 messages\r\n"
        );
        world
    }

    fn reply(&mut self, text: &str) -> String {
        let mut input = text.as_bytes();
        while !self.closed {
            match self.pop3.step(NOW, &mut input, &mut self.output) {
                Step::NeedInput => {
                    assert!(input.is_empty());
                    break;
                }
                Step::Event(event) => self.answer(event),
                Step::StartTls => {
                    self.pop3.tls_started(NOW);
                    break;
                }
                Step::Close => self.closed = true,
            }
        }
        String::from_utf8(self.output.take()).unwrap()
    }

    fn answer(&mut self, event: Event) {
        let output = &mut self.output;
        match event {
            Event::Login(credentials, ticket) => {
                let good = credentials.user == "ann" && credentials.password == b"secret";
                let outcome = if good { LoginOutcome::Welcome } else { LoginOutcome::Wrong };
                let before = output.len();
                self.pop3.answer_login(ticket, outcome, &credentials.user, output);
                assert_eq!(good, output.len() == before, "a welcome waits for the maildrop");
            }
            Event::ScramKeys(_, ticket) => {
                let keys = ScramKeys {
                    salt: vec![1],
                    iterations: 4096,
                    stored_key: [0; 32],
                    server_key: [0; 32],
                };
                self.pop3.answer_keys(ticket, keys, "nonce", output);
            }
            Event::Proved(user, ticket) => {
                self.pop3.answer_login(ticket, LoginOutcome::Welcome, &user, output);
            }
            Event::Disproved(ticket) => {
                self.pop3.answer_login(ticket, LoginOutcome::Wrong, "", output);
            }
            Event::Open(ticket) => {
                let entry = |(index, message): (usize, &&[u8])| Entry {
                    octets: message.len() as u64,
                    unique: format!("u{index}"),
                };
                let entries = self.messages.iter().enumerate().map(entry).collect();
                let answer = self.opened.clone().map(|()| entries);
                self.pop3.answer_open(ticket, answer, output);
            }
            Event::Retrieve { index, ticket, .. } => {
                let message = self.messages[index];
                self.pop3.begin_message(message.len() as u64, output);
                for piece in message.chunks(3) {
                    if !self.pop3.write_message(piece, output) {
                        break;
                    }
                }
                self.pop3.end_message(ticket, output);
            }
            Event::Commit { deleted, ticket } => {
                self.committed = Some(deleted);
                self.pop3.answer_commit(ticket, Ok(()), output);
            }
            Event::Relieve => self.relieved += 1,
        }
    }
}

#[test]
fn a_maildrop_is_listed_read_and_emptied() {
    let mut world = World::logged_in();
    assert_eq!(world.reply("STAT\r\n"), "+OK 2 24\r\n");
    assert_eq!(
        world.reply("LIST\r\nLIST 2\r\n"),
        "+OK 2 messages\r\n1 15\r\n2 9\r\n.\r\n+OK 2 9\r\n"
    );
    assert_eq!(
        world.reply("UIDL\r\nUIDL 1\r\n"),
        "+OK 2 messages\r\n1 u0\r\n2 u1\r\n.\r\n+OK 1 u0\r\n"
    );
    assert_eq!(world.reply("RETR 1\r\n"), "+OK 15 octets\r\nA: b\r\n\r\n1\r\n..2\r\n.\r\n");
    assert_eq!(world.reply("TOP 1 1\r\n"), "+OK The top of it\r\nA: b\r\n\r\n1\r\n.\r\n");
    assert_eq!(world.reply("RETR 2\r\n"), "+OK 9 octets\r\nC: d\r\n\r\nx\r\n.\r\n");
    assert_eq!(world.reply("DELE 1\r\nSTAT\r\n"), "+OK Message 1 deleted\r\n+OK 1 9\r\n");
    assert_eq!(world.reply("LIST\r\n"), "+OK 1 messages\r\n2 9\r\n.\r\n");
    for gone in
        ["RETR 1\r\n", "DELE 1\r\n", "LIST 1\r\n", "UIDL 1\r\n", "TOP 1 0\r\n", "RETR 0\r\n"]
    {
        assert_eq!(world.reply(gone), "-ERR No such message\r\n");
    }
    assert_eq!(
        world.reply("RSET\r\nDELE 2\r\nNOOP\r\n"),
        "+OK 2 messages\r\n+OK Message 2 deleted\r\n+OK\r\n"
    );
    assert_eq!(world.reply("QUIT\r\n"), "+OK Goodbye\r\n");
    assert!(world.closed);
    assert_eq!(world.committed, Some(vec![1]));
}

#[test]
fn commands_have_their_state() {
    let mut world = World::new(false, true);
    world.reply("");
    for early in ["STAT", "LIST", "UIDL", "RETR 1", "TOP 1 1", "DELE 1", "NOOP", "RSET"] {
        assert_eq!(world.reply(&format!("{early}\r\n")), "-ERR Log in first\r\n", "{early}");
    }
    assert_eq!(world.reply("PASS secret\r\n"), "-ERR Say USER first\r\n");
    let mut world = World::logged_in();
    for late in ["USER ann", "PASS secret", "AUTH PLAIN", "STLS"] {
        assert_eq!(world.reply(&format!("{late}\r\n")), "-ERR Already logged in\r\n", "{late}");
    }
    assert_eq!(world.reply("XYZZY\r\nLAST\r\n"), "-ERR Command not known\r\n".repeat(2));
}

#[test]
fn passwords_need_tls_unless_allowed() {
    let mut world = World::new(true, false);
    let capabilities = world.reply("CAPA\r\n");
    assert!(capabilities.contains("STLS") && !capabilities.contains("SASL"), "{capabilities}");
    for login in ["USER ann\r\n", "PASS secret\r\n", "AUTH PLAIN\r\n"] {
        assert_eq!(world.reply(login), "-ERR Start TLS first\r\n");
    }
    assert_eq!(world.reply("STLS\r\nUSER mallory\r\n"), "+OK Begin TLS\r\n");
    let capabilities = world.reply("CAPA\r\n");
    assert!(capabilities.contains("SASL SCRAM-SHA-256 PLAIN LOGIN\r\n"), "{capabilities}");
    assert!(!capabilities.contains("STLS"), "{capabilities}");
    assert_eq!(world.reply("STLS\r\n"), "-ERR TLS is not available\r\n");
    assert!(world.reply("USER ann\r\nPASS secret\r\n").ends_with("+OK 2 messages\r\n"));
}

#[test]
fn sasl_logs_in() {
    let mut world = World::new(false, true);
    assert!(world.reply("AUTH PLAIN AGFubgBzZWNyZXQ=\r\n").ends_with("\r\n+OK 2 messages\r\n"));
    let mut world = World::new(false, true);
    world.reply("");
    assert_eq!(world.reply("AUTH PLAIN\r\n"), "+ \r\n");
    assert_eq!(world.reply("*\r\n"), "-ERR Login cancelled\r\n");
    assert_eq!(world.reply("AUTH PLAIN !\r\n"), "-ERR That is not base64\r\n");
    assert_eq!(world.reply("AUTH PLAIN =\r\n"), "-ERR Malformed authentication\r\n");
    assert_eq!(world.reply("AUTH X\r\n"), "-ERR Mechanism not known\r\n");
    assert_eq!(
        world.reply("AUTH SCRAM-SHA-256 biwsbj1hbm4scj1hYmM=\r\n"),
        "+ cj1hYmNub25jZSxzPUFRPT0saT00MDk2\r\n"
    );
    assert_eq!(world.reply("Yz1iaXdzLHI9YWJjbm9uY2UscD1BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBPQ==\r\n"), "-ERR [AUTH] Wrong user name or password\r\n");
    assert_eq!(
        world.reply("AUTH LOGIN\r\nYW5u\r\nc2VjcmV0\r\n"),
        "+ VXNlcm5hbWU6\r\n+ UGFzc3dvcmQ6\r\n+OK 2 messages\r\n"
    );
}

#[test]
fn guessing_ends_soon() {
    let mut world = World::new(false, true);
    let said = world.reply(&"USER ann\r\nPASS wrong\r\n".repeat(50));
    assert!(world.closed);
    assert_eq!(said.matches("[AUTH]").count(), 6, "{said}");
    assert!(said.ends_with("-ERR Too many errors, goodbye\r\n"), "{said}");
    let mut world = World::new(false, true);
    let said = world.reply(&"XYZZY\r\n".repeat(10_000));
    assert!(world.closed && said.lines().count() == 21, "{said}");
}

#[test]
fn a_maildrop_that_does_not_open_ends_the_session() {
    let mut world = World::new(false, true);
    world.opened = Err(Refusal::NO_STORE);
    let said = world.reply("USER ann\r\nPASS secret\r\nSTAT\r\n");
    assert!(
        said.ends_with("-ERR [SYS/TEMP] Mail store not available, try again later\r\n"),
        "{said}"
    );
    assert!(world.closed);
}

#[test]
fn autologout_is_silent_and_removes_nothing() {
    let mut world = World::logged_in();
    world.reply("DELE 1\r\n");
    // A peer that drips does not gain time.
    let deadline = world.pop3.deadline().unwrap();
    let late = Tick(deadline.0 - 1);
    assert_eq!(world.pop3.step(late, &mut &b"NO"[..], &mut world.output), Step::NeedInput);
    assert_eq!(world.pop3.deadline(), Some(deadline));
    assert_eq!(world.pop3.step(deadline, &mut &b""[..], &mut world.output), Step::Close);
    assert!(world.output.is_empty());
    assert_eq!(world.committed, None);
}

#[test]
fn a_message_that_breaks_off_ends_the_session_without_its_dot() {
    let mut world = World::logged_in();
    let step = world.pop3.step(NOW, &mut &b"RETR 1\r\n"[..], &mut world.output);
    let Step::Event(Event::Retrieve { ticket, .. }) = step else { panic!("{step:?}") };
    world.pop3.begin_message(15, &mut world.output);
    world.pop3.write_message(b"A: b\r\n\r\n1", &mut world.output);
    world.pop3.abandon_message(ticket);
    assert_eq!(world.reply("NOOP\r\n"), "+OK 15 octets\r\nA: b\r\n\r\n1");
    assert!(world.closed);
}

#[test]
fn long_listings_are_sent_in_pieces() {
    let mut world = World::new(false, true);
    world.messages = vec![b""; 2500];
    world.reply("USER ann\r\nPASS secret\r\n");
    let said = world.reply(&"UIDL\r\n".repeat(2));
    assert_eq!(world.relieved, 5);
    assert_eq!(said.lines().count(), 2 * 2502);
}
