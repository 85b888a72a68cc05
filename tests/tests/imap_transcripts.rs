//! IMAP dialogues, played against the real store on a simulated disk.
//!
//! ```text
//! # What this file shows, with its section.
//! connect                     the client has not logged in; without it, ann has
//! C: a1 NOOP                  a line of the first client's, CRLF is added
//! S: a1 OK …                  a line of the server's; … stands for anything
//! C2: … S2: …                 a second connection to the same account
//! deliver Subject: x\r\n\r\ny a message arrives in INBOX
//! news                        IDLE is told what happened
//! closed                      the server has closed
//! ```
//!
//! In `C:` lines and messages `\r`, `\n`, `\0` and `\xHH` are octets. Consecutive `S:` lines are
//! all that the server says. Each file is played whole and octet by octet.

use engine::session::Next;
use engine::session::imap::ImapAccount;
use engine::wire::Wire;
use imap_codec::decode::Decoder;
use imap_codec::{GreetingCodec, ResponseCodec};
use protocols::imap::{Config, Event, Imap, LoginAnswer};
use protocols::message::Summary;
use protocols::{Machine, Outbox, Step, Tick};
use std::path::Path;
use std::sync::Arc;
use storage::device::sim::{Executor, Sim};
use storage::{
    AccountId, Body, Delivery, Flags, MailboxId, Options, Placement, Quota, SpecialUse, Store,
    UnixMillis,
};

const ANN: AccountId = AccountId(1);

/// One connection: a machine, and the account behind it once logged in.
struct Client {
    machine: Imap,
    account: Option<ImapAccount<Sim>>,
    store: Store<Sim>,
    output: Outbox,
    closed: bool,
    /// Everything that the server has said, for the independent reader.
    heard: Vec<u8>,
}

impl Client {
    fn new(store: &Store<Sim>) -> Client {
        let config = Config {
            host: "imap.example.test".into(),
            plaintext_login: true,
            append_bytes_max: 100_000,
            ..Config::default()
        };
        Client {
            machine: Imap::new(Arc::new(config), true),
            account: None,
            store: store.clone(),
            output: Outbox::new(),
            closed: false,
            heard: Vec::new(),
        }
    }

    async fn feed(&mut self, mut input: &[u8]) {
        while !self.closed {
            match self.machine.step(Tick(1), &mut input, &mut self.output) {
                Step::NeedInput => return,
                Step::StartTls => self.machine.tls_started(Tick(1)),
                Step::Close => self.closed = true,
                Step::Event(event) => self.answer(event).await,
            }
        }
    }

    async fn answer(&mut self, event: Event<'_>) {
        match event {
            Event::Login { user, password, ticket } => {
                let good = user == "ann" && password == b"secret";
                let answer = if good { LoginAnswer::Accepted } else { LoginAnswer::Refused };
                self.account = good.then(|| ImapAccount::new(self.store.clone(), ANN));
                self.machine.answer_login(ticket, answer, &mut self.output);
            }
            other => {
                let account = self.account.as_mut().expect("events come after a login");
                let mut wire = Wire::detached(&mut self.output);
                let next = Box::pin(account.answer(&mut self.machine, other, &mut wire)).await;
                self.closed |= next == Next::Close;
            }
        }
    }

    /// Waits for news and tells it, as the connection loop does.
    async fn news(&mut self) {
        let account = self.account.as_mut().expect("news come after a login");
        account.news().await;
        let mut wire = Wire::detached(&mut self.output);
        self.closed |= account.tell(&mut self.machine, &mut wire) == Next::Close;
    }

    fn said(&mut self) -> String {
        let said = self.output.take();
        self.heard.extend_from_slice(&said);
        String::from_utf8_lossy(&said).into_owned()
    }
}

async fn open(sim: Sim, executor: &Executor) -> Store<Sim> {
    let store = Store::open(sim, Options::for_tests()).await.unwrap();
    let running = store.clone();
    executor.spawn(async move { running.run().await });
    let quota = Quota { bytes_max: Some(1 << 20), messages_max: None };
    let _ = store.create_account(ANN, quota).await.unwrap();
    for (name, special) in [("Sent", SpecialUse::Sent), ("Trash", SpecialUse::Trash)] {
        let _ = store.create_mailbox(ANN, name, Some(special)).await.unwrap();
    }
    store
}

async fn deliver(store: &Store<Sim>, body: Vec<u8>) {
    let placement = Placement {
        account: ANN,
        mailbox: MailboxId::INBOX,
        prefix: b"Delivered-To: ann@example.test\r\n".to_vec(),
        flags: Flags::default(),
        keywords: Vec::new(),
    };
    let delivery = Delivery {
        placements: vec![placement],
        internal_date: UnixMillis(760_000_000_000),
        summary: Summary::compute(&body).encode(),
        body: Body::Whole(body.into()),
    };
    let _ = store.deliver(delivery).await.unwrap();
}

/// Plays one file; an error says where it went otherwise, and what was said instead.
async fn play(
    name: String,
    text: String,
    store: Store<Sim>,
    piece_bytes: usize,
) -> Result<(), String> {
    let mut clients = [Client::new(&store), Client::new(&store)];
    let mut said = [String::new(), String::new()];
    let mut greeted = [false, false];
    for (index, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", index + 1);
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        let number = usize::from(mark.ends_with("2:"));
        if matches!(mark, "connect" | "login" | "C:" | "C2:") && !greeted[number] {
            greeted[number] = true;
            clients[number].feed(b"").await;
            if mark != "connect" {
                clients[number].feed(b"login LOGIN ann secret\r\n").await;
                clients[number].said();
            }
        }
        if matches!(mark, "S:" | "S2:") {
            said[number].push_str(&clients[number].said());
            let (next, remaining) = said[number].split_once("\r\n").unwrap_or((&said[number], ""));
            if !matches(rest, next) {
                return Err(format!("{place}: expected {rest:?}, got {next:?} then {remaining:?}"));
            }
            said[number] = remaining.to_owned();
            continue;
        }
        for ((client, said), greeted) in clients.iter_mut().zip(&mut said).zip(&greeted) {
            said.push_str(&client.said());
            if !said.is_empty() && *greeted && mark != "connect" {
                return Err(format!("{place}: said before it: {said}"));
            }
        }
        match mark {
            "" | "#" | "connect" | "login" => {}
            "C:" | "C2:" => {
                let bytes = [unescape(rest), b"\r\n".to_vec()].concat();
                for piece in bytes.chunks(piece_bytes) {
                    clients[number].feed(piece).await;
                }
            }
            "deliver" => deliver(&store, unescape(rest)).await,
            "news" => clients[number].news().await,
            "closed" if clients[0].closed => {}
            "closed" => return Err(format!("{place}: still open")),
            other => return Err(format!("{place}: {other} is not a mark")),
        }
    }
    for (client, said) in clients.iter_mut().zip(&mut said) {
        said.push_str(&client.said());
        if !said.is_empty() {
            return Err(format!("{name}: said at the end: {said}"));
        }
        check_grammar(&client.heard).map_err(|fault| format!("{name}: {fault}"))?;
    }
    Ok(())
}

/// Another implementation reads all that the server said, strictly.
fn check_grammar(heard: &[u8]) -> Result<(), String> {
    if heard.is_empty() {
        return Ok(());
    }
    let fault = |rest: &[u8]| {
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        format!("imap-codec does not understand {}", line.escape_ascii())
    };
    let Ok((mut rest, _)) = GreetingCodec::default().decode(heard) else {
        return Err(fault(heard));
    };
    while !rest.is_empty() {
        // It has no ESEARCH.
        if rest.starts_with(b"* ESEARCH") {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len() - 1);
            rest = &rest[end + 1..];
            continue;
        }
        match ResponseCodec::default().decode(rest) {
            Ok((after, _)) => rest = after,
            Err(_) => return Err(fault(rest)),
        }
    }
    Ok(())
}

/// `…` stands for anything.
fn matches(pattern: &str, line: &str) -> bool {
    let mut pieces = pattern.split('…');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'r') => bytes.push(b'\r'),
            Some(b'n') => bytes.push(b'\n'),
            Some(b'0') => bytes.push(0),
            Some(b'x') => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                let digits = std::str::from_utf8(&digits).unwrap().to_owned();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap());
            }
            // IMAP's own backslashes: flags and quoted strings.
            Some(other) => bytes.extend([b'\\', other]),
            None => bytes.push(b'\\'),
        }
    }
    bytes
}

#[test]
fn dialogues_go_as_they_are_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts/imap");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let mut faults = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        for piece_bytes in [usize::MAX, 1] {
            let sim = Sim::new(7);
            let executor = Executor::new(&sim);
            let (inner, sim) = (executor.clone(), sim.clone());
            let (file, text) = (name.clone(), text.clone());
            let played = executor.block_on(async move {
                let store = open(sim, &inner).await;
                play(file, text, store, piece_bytes).await
            });
            faults.extend(played.unwrap_or_else(|| Err(format!("{name}: stuck"))).err());
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_independent_reader_is_strict() {
    assert_eq!(check_grammar(b"* OK ready\r\n* 3 EXISTS\r\na OK Done\r\n"), Ok(()));
    for wrong in ["* 3 EXIST\r\n", "* 1 FETCH (FLAGS \\Seen)\r\n", "* 1 FETCH (ENVELOPE (NIL))\r\n"]
    {
        assert!(check_grammar(format!("* OK ready\r\n{wrong}").as_bytes()).is_err(), "{wrong}");
    }
}
