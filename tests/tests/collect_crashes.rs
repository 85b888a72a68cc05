//! The power fails, or the process is killed, at every operation of the disk while mail is
//! collected, from servers that break off, use identifiers again and change them all: nothing is
//! lost, nothing comes twice, and nothing is deleted over there that is not durable here.
//!
//! What runs is the real thing but for sockets and filters: the client machines, the engine's plan
//! of a visit and its ledger, the store. Planted bugs have to be seen.

use bytes::Bytes;
use engine::collect::folder::Folder;
use engine::collect::keys::{self, Key, SPACE};
use engine::collect::ledger::{Filing, Hasher, Leave, Policy};
use engine::collect::maildrop::Maildrop;
use engine::collect::round::Round;
use kura_tests::outside::{Outside, Protocol, Session, number_of};
use protocols::sasl::client::{Login, Secret};
use protocols::wire::remote::Tls;
use protocols::{Machine, Outbox, Step, Tick, imap, pop3};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use storage::device::sim::{Executor, Sim};
use storage::{
    AccountId, Body, Delivery, Flags, MailboxId, Options, Placement, Quota, Store, UnixMillis,
};

const ACCOUNT: AccountId = AccountId(1);
const KEY: Key = Key { account: ACCOUNT, number: 1 };
const DAYS: u32 = 4;

/// Planted on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    /// That it was collected is written behind the message, in a record of its own.
    KeyBehind,
    /// The same, ahead of it.
    KeyAhead,
    /// It is marked as deleted over there before it is durable here.
    DeleteEarly,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    protocol: Protocol,
    seed: u64,
    leave: Leave,
    bug: Option<Bug>,
}

fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        spare_segments: 1,
        batch_bytes_max: 8 << 10,
        batch_bytes_eager: 1 << 10,
        checkpoint_log_bytes_min: 48 << 10,
        checkpoint_log_bytes_max: 48 << 10,
        ..Options::for_tests()
    }
}

/// The message becomes durable, together with what `filing` says.
async fn file(
    store: &Store<Sim>,
    octets: &[u8],
    filing: &Filing,
    bug: Option<Bug>,
) -> Result<(), storage::Error> {
    let delivery = Delivery {
        placements: vec![Placement {
            account: ACCOUNT,
            mailbox: MailboxId::INBOX,
            prefix: b"Delivered-To: us\r\n".to_vec(),
            flags: Flags::default(),
            keywords: Vec::new(),
        }],
        internal_date: UnixMillis(1),
        summary: Vec::new(),
        body: Body::Whole(Bytes::copy_from_slice(octets)),
    };
    let pairs = filing.pairs.clone();
    match bug {
        Some(Bug::KeyBehind) => {
            let _durable = store.deliver(delivery).await?;
            let _durable = store.put(SPACE, pairs).await?;
        }
        Some(Bug::KeyAhead) => {
            let _durable = store.put(SPACE, pairs).await?;
            let _durable = store.deliver(delivery).await?;
        }
        Some(Bug::DeleteEarly) | None => {
            for outcome in store.deliver_and_put(delivery, SPACE, pairs).await? {
                let _durable = outcome?;
            }
        }
    }
    Ok(())
}

/// A connection, in memory; dropped without goodbye when the process dies.
struct Wire {
    outside: Rc<RefCell<Outside>>,
    session: Session,
    input: Vec<u8>,
    over: bool,
}

impl Wire {
    fn open(outside: &Rc<RefCell<Outside>>) -> Wire {
        let session = outside.borrow_mut().session();
        let input = session.greeting(&outside.borrow());
        Wire { outside: Rc::clone(outside), session, input, over: false }
    }

    fn say(&mut self, outbox: &mut Outbox) {
        let (said, over) = self.session.hear(&mut self.outside.borrow_mut(), outbox.as_bytes());
        outbox.clear();
        self.input = said;
        self.over |= over;
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.session.lost(&mut self.outside.borrow_mut());
    }
}

fn login() -> Login {
    let secret = Secret::Password("secret".to_owned());
    Login { user: "us".to_owned(), secret, nonce: "n".to_owned(), in_clear: true }
}

fn policy(case: Case) -> Policy {
    Policy { leave: case.leave, octets_max: 1 << 20 }
}

async fn visit_pop3(store: &Store<Sim>, outside: &Rc<RefCell<Outside>>, case: Case, now: u32) {
    use pop3::client::{Client, Config, Event};
    let ledger = keys::ledger(store, KEY.place(b"")).expect("a ledger that can be read");
    let mut maildrop = Maildrop::new(Round::new(ledger, policy(case), now, 1000, None));
    let config = Config { tls: Tls::Never, login: login(), messages_max: 1000 };
    let mut machine = Client::new(Arc::new(config));
    let mut wire = Wire::open(outside);
    let (mut outbox, mut octets) = (Outbox::new(), Vec::new());
    loop {
        let input = std::mem::take(&mut wire.input);
        let mut rest = &input[..];
        let step = machine.step(Tick(0), &mut rest, &mut outbox);
        let mut ended = false;
        match step {
            Step::NeedInput if wire.over => machine.lost(),
            Step::NeedInput => {
                wire.say(&mut outbox);
                continue;
            }
            Step::StartTls | Step::Close => ended = true,
            Step::Event(Event::Listed(listing, ticket)) => {
                maildrop.listed(listing);
                machine.answer_next(ticket, maildrop.next(false));
            }
            Step::Event(Event::Piece(piece)) => octets.extend_from_slice(piece),
            Step::Event(Event::Retrieved { ticket, number, .. }) => {
                let octets = std::mem::take(&mut octets);
                let mut hasher = Hasher::default();
                hasher.push(&octets);
                if case.bug == Some(Bug::DeleteEarly) && case.leave == Leave::Not {
                    wire.session
                        .hear(&mut outside.borrow_mut(), format!("DELE {number}\r\n").as_bytes());
                }
                if let Some(filing) = maildrop.round.arrived(hasher.finish()) {
                    if file(store, &octets, &filing, case.bug).await.is_err() {
                        return;
                    }
                    maildrop.round.filed(&filing);
                }
                machine.answer_next(ticket, maildrop.next(false));
            }
            Step::Event(Event::Deleted { ticket, .. }) => {
                maildrop.deleted();
                machine.answer_next(ticket, maildrop.next(false));
            }
            Step::Event(Event::Refused { ticket, .. }) => {
                maildrop.withheld();
                machine.answer_next(ticket, maildrop.next(false));
            }
            Step::Event(Event::Left { committed }) => maildrop.left(committed),
            Step::Event(Event::Failed(_)) => ended = true,
        }
        if ended {
            break;
        }
        wire.input = rest.to_vec();
    }
    let _ = keys::fold(store, &mut maildrop.round.ledger).await;
}

async fn visit_imap(store: &Store<Sim>, outside: &Rc<RefCell<Outside>>, case: Case, now: u32) {
    use imap::client::{Client, Config, Event, Next};
    let ledger = keys::ledger(store, KEY.place(b"INBOX")).expect("a ledger that can be read");
    let mut folder =
        Folder::new(b"INBOX".to_vec(), Round::new(ledger, policy(case), now, 1000, None));
    let config = Config { tls: Tls::Never, login: login(), messages_max: 1000 };
    let mut machine = Client::new(Arc::new(config));
    let mut wire = Wire::open(outside);
    let (mut outbox, mut octets) = (Outbox::new(), Vec::new());
    loop {
        let input = std::mem::take(&mut wire.input);
        let mut rest = &input[..];
        let step = machine.step(Tick(0), &mut rest, &mut outbox);
        let mut ended = false;
        let ticket = match step {
            Step::NeedInput if wire.over => {
                machine.lost();
                None
            }
            Step::NeedInput => {
                wire.say(&mut outbox);
                continue;
            }
            Step::StartTls | Step::Close | Step::Event(Event::Failed(_)) => {
                ended = true;
                None
            }
            Step::Event(Event::Ready(ticket)) => Some(ticket),
            Step::Event(Event::Opened(opened, ticket)) => {
                folder.opened(&opened);
                Some(ticket)
            }
            Step::Event(Event::Found(uids, ticket)) => {
                folder.found(uids);
                Some(ticket)
            }
            Step::Event(Event::Message(message)) => {
                folder.surveyed(&message);
                None
            }
            Step::Event(Event::Piece(piece)) => {
                octets.extend_from_slice(&piece);
                None
            }
            Step::Event(Event::Fetched { ticket, .. }) => {
                let octets = std::mem::take(&mut octets);
                let mut hasher = Hasher::default();
                hasher.push(&octets);
                if let Some(filing) = folder.round.arrived(hasher.finish()) {
                    if file(store, &octets, &filing, case.bug).await.is_err() {
                        return;
                    }
                    folder.round.filed(&filing);
                }
                Some(ticket)
            }
            Step::Event(Event::Gone { ticket, .. }) => {
                folder.has_gone();
                Some(ticket)
            }
            Step::Event(Event::Completed(ticket)) => {
                folder.completed();
                Some(ticket)
            }
            Step::Event(Event::Refused(_, ticket)) => {
                folder.withheld();
                Some(ticket)
            }
            Step::Event(Event::Mailbox(_) | Event::Left) => None,
        };
        if let Some(ticket) = ticket {
            machine.answer_next(ticket, folder.next(false).unwrap_or(Next::Logout));
        }
        if ended {
            break;
        }
        wire.input = rest.to_vec();
    }
    let _ = keys::fold(store, &mut folder.round.ledger).await;
}

/// Visits on so many days; then, unless the power has failed, what lies in INBOX.
fn live(
    sim: &Sim,
    outside: &Rc<RefCell<Outside>>,
    case: Case,
    days: std::ops::Range<u32>,
) -> Option<Vec<u32>> {
    let executor = Executor::new(sim);
    let (disk, spawner, outside) = (sim.clone(), executor.clone(), Rc::clone(outside));
    let found = executor.block_on(async move {
        let store = Store::open(disk, options()).await.expect("opens");
        let running = store.clone();
        spawner.spawn(async move { running.run().await });
        if store.usage(ACCOUNT).is_err() {
            let _ = store.create_account(ACCOUNT, Quota::default()).await;
        }
        for day in days {
            // A day's mail comes once, whether we live through it or not.
            if !outside.borrow().is_honest {
                outside.borrow_mut().next_day();
            }
            let now = 1000 + day * 86_400;
            match case.protocol {
                Protocol::Pop3 => visit_pop3(&store, &outside, case, now).await,
                Protocol::Imap => visit_imap(&store, &outside, case, now).await,
            }
        }
        inbox(&store).await
    });
    drop(executor);
    found
}

async fn inbox(store: &Store<Sim>) -> Vec<u32> {
    let mut numbers = Vec::new();
    for uid in store.uids(ACCOUNT, MailboxId::INBOX).unwrap_or_default() {
        let read = store.read(ACCOUNT, MailboxId::INBOX, uid, 0..u64::MAX).await.expect("reads");
        numbers.push(number_of(&read).expect("a message as it was"));
    }
    numbers.sort_unstable();
    numbers
}

/// What is wrong; `None`: nothing.
fn fault(numbers: &[u32], outside: &Outside) -> Option<String> {
    if let Some(pair) = numbers.windows(2).find(|pair| pair[0] == pair[1]) {
        return Some(format!("number {} came twice", pair[0]));
    }
    let lost = outside.deleted.iter().find(|number| !numbers.contains(number));
    lost.map(|number| format!("number {number} was deleted over there and is not here"))
}

/// Operations of a life without trouble.
fn operations(case: Case) -> u64 {
    let sim = Sim::new(case.seed);
    let outside = Rc::new(RefCell::new(Outside::new(case.protocol, case.seed)));
    live(&sim, &outside, case, 0..DAYS);
    sim.operations()
}

/// The power fails, or the process dies, at one operation; then life goes on.
fn crash(case: Case, operation: u64) -> Result<(), String> {
    let sim = Sim::new(case.seed);
    let outside = Rc::new(RefCell::new(Outside::new(case.protocol, case.seed)));
    sim.crash_at(operation);
    let told = |fault: String| format!("{case:?} at {operation}: {fault}");
    let survivor = match live(&sim, &outside, case, 0..DAYS) {
        Some(_) => sim.after_kill(),
        None if operation.is_multiple_of(2) => sim.after_crash(),
        None => sim.after_kill(),
    };
    let numbers =
        live(&survivor, &outside, case, 0..0).ok_or_else(|| told("it crashed again".into()))?;
    if let Some(fault) = fault(&numbers, &outside.borrow()) {
        return Err(told(fault));
    }
    live(&survivor, &outside, case, DAYS..DAYS + 1);
    outside.borrow_mut().is_honest = true;
    let numbers = live(&survivor, &outside, case, DAYS + 1..DAYS + 3)
        .ok_or_else(|| told("it crashed again".into()))?;
    let all: Vec<u32> = (0..outside.borrow().numbers).collect();
    match fault(&numbers, &outside.borrow()) {
        Some(fault) => Err(told(fault)),
        None if numbers != all => Err(told(format!("{numbers:?} of {}", all.len()))),
        None => Ok(()),
    }
}

fn everywhere(case: Case) -> Result<u64, String> {
    let operations = operations(case);
    (1..=operations).try_for_each(|operation| crash(case, operation))?;
    Ok(operations)
}

fn cases(seeds: std::ops::Range<u64>, bug: Option<Bug>) -> impl Iterator<Item = Case> {
    let leaves = [Leave::Not, Leave::Forever, Leave::For(86_400)];
    let protocols = [Protocol::Pop3, Protocol::Imap];
    seeds.flat_map(move |seed| {
        protocols.into_iter().map(move |protocol| {
            let leave = leaves[usize::try_from(seed % 3).unwrap_or(0)];
            Case { protocol, seed, leave, bug }
        })
    })
}

/// As many threads as there are cores; what all came to.
fn on_all_cores(cases: impl Iterator<Item = Case>) -> u64 {
    let cases: Vec<Case> = cases.collect();
    let (next, crashes) = (AtomicUsize::new(0), AtomicU64::new(0));
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let done = everywhere(*case).unwrap_or_else(|fault| panic!("{fault}"));
            crashes.fetch_add(done, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    crashes.into_inner()
}

#[test]
fn collecting_neither_loses_nor_doubles_nor_deletes_early_wherever_it_is_cut() {
    let crashes = on_all_cores(cases(0..18, None));
    println!("{crashes} crashes survived");
    assert!(crashes > 2000, "{crashes}");
}

#[test]
fn without_a_crash_hostile_servers_lose_and_double_nothing() {
    for case in cases(100..400, None) {
        // Which is never reached.
        crash(case, u64::MAX).unwrap_or_else(|fault| panic!("{fault}"));
    }
}

#[test]
fn planted_bugs_in_collecting_are_seen() {
    for bug in [Bug::KeyBehind, Bug::KeyAhead, Bug::DeleteEarly] {
        let seen = cases(0..30, Some(bug)).find_map(|case| everywhere(case).err());
        let seen = seen.unwrap_or_else(|| panic!("{bug:?} was not seen"));
        println!("{bug:?}: {seen}");
    }
}
