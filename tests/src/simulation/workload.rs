//! Clients of a store: several at once, each doing random things from a seed, some of whom go away
//! half-way.
//!
//! Invariant: a client uses only what somebody was told or has seen (UIDs, mailboxes), as in life;
//! so the effects of an operation that nobody heard of are touched by nobody until the next look.

use super::journal::Journal;
use super::model::INBOX;
use super::observation::{SPACES, date_of, summary_of};
use super::operation::{Change, Operation, Outcome, Target, Told};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use storage::device::Device;
use storage::device::sim::{Random, Sim};
use storage::format::UidRange;
use storage::store::Undelete;
use storage::{
    AccountId, Body, Delivery, Error, FlagChange, FlagMode, Flags, Lsn, MailboxId, MailboxInfo,
    Placement, Quota, Space, SpecialUse, Store, Uid, UnixMillis,
};

const ACCOUNTS_MAX: usize = 3;
const NAMES: [&str; 7] = ["a", "a/b", "a/b/c", "Sent", "x", "x/y", "INBOX/in"];
const KEYWORDS: [&str; 4] = ["$forwarded", "work", "blue", "$junk"];
const KEYS: u64 = 12;
const BARRIER_TRIES_MAX: u32 = 200;

/// Whether the disk may fail, so that the store may say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    Healthy,
    /// One operation fails.
    Faulty,
    /// One byte has changed.
    Spoiled,
}

/// Why a client stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Done,
    /// The store takes nothing more.
    Halted,
}

pub struct Client {
    pub store: Store<Sim>,
    pub journal: Rc<RefCell<Journal>>,
    pub random: Random,
    pub disk: Disk,
    /// Larger letters, and more of them expunged.
    pub churns: bool,
    /// Nothing that has gone can be forgotten: there is a long retention, and the disk
    /// does not fill up.
    pub remembers: bool,
    /// The one client that puts accounts on hold: of two, one would find that there
    /// is nothing to do.
    pub holds: bool,
}

/// A mailbox that clients know of.
struct Known {
    account: AccountId,
    info: MailboxInfo,
    uids: Vec<Uid>,
}

impl Client {
    /// Does `operations` things, one after the other.
    pub async fn live(mut self, operations: u32) -> Stop {
        for _ in 0..operations {
            if self.random.chance(1, 6) {
                let pause = Duration::from_micros(self.random.below(2_000));
                self.store.device().sleep(pause).await;
            }
            if self.random.chance(1, 12) {
                self.read_something().await;
                continue;
            }
            let Some(operation) = self.choose() else { continue };
            let patience = self.random.chance(1, 10).then(|| self.random.below(1_500));
            let is_hold = matches!(operation, Operation::Hold { .. });
            // After one that was left half-way, nobody knows what the next one would find.
            self.holds &= !is_hold || patience.is_none();
            let stop = self.perform(operation, patience.map(Duration::from_micros)).await;
            if stop == Stop::Halted {
                return stop;
            }
        }
        Stop::Done
    }

    /// Lands behind everything that is on its way. On a full disk it is refused; then space comes
    /// back, and the store has to notice.
    pub async fn barrier(&mut self) -> Stop {
        for _ in 0..BARRIER_TRIES_MAX {
            let value = Bytes::from(self.random.any().to_string());
            let pairs = vec![(Bytes::from_static(b"barrier"), Some(value))];
            let before = self.journal.borrow().highest_lsn;
            let put = Operation::Put { space: SPACES[0].0, pairs };
            if self.perform(put, None).await == Stop::Halted {
                return Stop::Halted;
            }
            if self.journal.borrow().highest_lsn > before {
                return Stop::Done;
            }
            self.store.device().set_capacity(None);
            self.store.device().sleep(Duration::from_millis(10)).await;
        }
        self.journal.borrow_mut().complain("space came back, and the store stays full".to_owned());
        Stop::Done
    }

    /// A message to each account: a store that lives takes mail. Quotas may refuse it.
    pub async fn greet(&mut self) -> Stop {
        for account in self.store.accounts() {
            let letter = self.journal.borrow_mut().next_letter(60);
            let targets = vec![self.target(account, MailboxId::INBOX, 0)];
            if !self.journal.borrow().known_mailboxes.contains(&(account, MailboxId::INBOX)) {
                continue;
            }
            let operation = Operation::Deliver { letter, targets, streamed: false };
            if self.perform(operation, None).await == Stop::Halted {
                return Stop::Halted;
            }
        }
        Stop::Done
    }

    /// Issues, waits (at most for `patience`), and writes down what came of it.
    async fn perform(&mut self, operation: Operation, patience: Option<Duration>) -> Stop {
        let (ticket, operation) = self.journal.borrow_mut().issue(operation);
        let floors = self.uid_floors(&operation);
        let doing = run_operation(self.store.clone(), Rc::clone(&operation));
        let answer = within(self.store.device(), patience, doing).await;
        let mut journal = self.journal.borrow_mut();
        match answer {
            None => journal.leave(ticket),
            Some(Ok(None)) => journal.refuse(ticket),
            Some(Ok(Some(outcome))) => {
                check_floors(&mut journal, &floors, &operation, &outcome);
                journal.acknowledge(ticket, outcome);
            }
            // What was on its way when the disk failed may have reached it.
            Some(Err(Error::Device(_) | Error::Halted)) => {
                journal.leave(ticket);
                if self.disk != Disk::Faulty {
                    journal.complain("the store halts on a healthy disk".to_owned());
                }
                return Stop::Halted;
            }
            Some(Err(Error::Corrupt { what, place })) => {
                journal.refuse(ticket);
                journal.complain(format!("{operation:?}: {what} in {place} is corrupt"));
            }
            Some(Err(_)) => journal.refuse(ticket),
        }
        Stop::Done
    }

    /// New UIDs in a mailbox must be above all that were told before.
    fn uid_floors(&self, operation: &Operation) -> Vec<Uid> {
        let journal = self.journal.borrow();
        let floor = |account: AccountId, mailbox: MailboxId| {
            let identity = journal.identity(account, mailbox);
            identity.map_or(Uid(0), |identity| journal.highest_uid(identity))
        };
        match operation {
            Operation::Deliver { targets, .. } => {
                targets.iter().map(|target| floor(target.account, target.mailbox)).collect()
            }
            Operation::Copy { account, to, .. } => vec![floor(*account, *to)],
            Operation::CreateAccount { .. }
            | Operation::RemoveAccount { .. }
            | Operation::SetQuota { .. }
            | Operation::CreateMailbox { .. }
            | Operation::RenameMailbox { .. }
            | Operation::DeleteMailbox { .. }
            | Operation::Subscribe { .. }
            | Operation::ChangeFlags { .. }
            | Operation::Expunge { .. }
            | Operation::Undelete { .. }
            | Operation::Hold { .. }
            | Operation::Put { .. } => Vec::new(),
        }
    }

    async fn read_something(&mut self) {
        let Some(known) = self.some_mailbox() else { return };
        let Some(uid) = self.pick(&known.uids) else { return };
        let identity = (known.account, known.info.id, known.info.uid_validity);
        let expected = {
            let journal = self.journal.borrow();
            let number = journal.owners.get(&identity).and_then(|owners| owners.get(&uid));
            number.and_then(|number| journal.letters.get(number)).cloned()
        };
        let Some(expected) = expected else { return };
        let read = self.store.read(known.account, known.info.id, uid, 0..u64::MAX).await;
        let mut journal = self.journal.borrow_mut();
        match read {
            Ok(bytes) if bytes.ends_with(&expected.body) => {}
            Ok(_) => journal.complain(format!("UID {} of {identity:?} reads wrong", uid.0)),
            // Somebody may have removed it, or its mailbox, or its account, meanwhile.
            Err(Error::NoSuchMessage(_) | Error::NoSuchMailbox(_) | Error::NoSuchAccount(_)) => {}
            Err(Error::Read { .. } | Error::Halted) if self.disk == Disk::Faulty => {}
            Err(Error::Corrupt { .. }) if self.disk == Disk::Spoiled => {}
            Err(error) => {
                journal.complain(format!("UID {} of {identity:?} cannot be read: {error}", uid.0));
            }
        }
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.random.index(from.len())).cloned()
    }

    fn known_accounts(&self) -> Vec<AccountId> {
        let journal = self.journal.borrow();
        let is_known =
            |account: &AccountId| journal.known_mailboxes.contains(&(*account, MailboxId::INBOX));
        self.store.accounts().into_iter().filter(is_known).collect()
    }

    fn some_mailbox(&mut self) -> Option<Known> {
        let account = self.pick(&self.known_accounts())?;
        let all = self.store.mailboxes(account).unwrap_or_default();
        let known: Vec<MailboxInfo> = {
            let journal = self.journal.borrow();
            let is_known =
                |info: &MailboxInfo| journal.known_mailboxes.contains(&(account, info.id));
            all.into_iter().filter(is_known).collect()
        };
        let inbox = known.iter().find(|info| info.name == INBOX).cloned();
        let info = if self.random.chance(1, 2) { inbox? } else { self.pick(&known)? };
        let uids = self.store.uids(account, info.id).unwrap_or_default();
        let journal = self.journal.borrow();
        let identity = (account, info.id, info.uid_validity);
        let uids = uids.into_iter().filter(|uid| journal.knows_uid(identity, *uid)).collect();
        Some(Known { account, info, uids })
    }

    /// What to do next. `None`: there is nothing to do it with.
    fn choose(&mut self) -> Option<Operation> {
        if self.known_accounts().is_empty() {
            return self.new_account();
        }
        if self.holds && self.random.chance(1, 12) {
            return self.some_hold();
        }
        let chance = self.random.below(100);
        if self.churns && (68..90).contains(&chance) {
            return self.some_expunge();
        }
        match chance {
            0..44 => self.some_delivery(),
            44..50 => self.some_copy(false),
            50..56 => self.some_copy(true),
            56..69 => self.some_change(),
            69..78 => self.some_expunge(),
            78..88 => self.some_mailbox_change(),
            88..90 => {
                let account = self.pick(&self.known_accounts())?;
                let quota = self.some_quota();
                Some(Operation::SetQuota { account, quota })
            }
            90..94 => Some(self.some_put()),
            94..97 => self.some_undelete(),
            97..99 => self.new_account(),
            _ => {
                let accounts = self.known_accounts();
                let account = self.pick(&accounts)?;
                (accounts.len() > 1).then_some(Operation::RemoveAccount { account })
            }
        }
    }

    fn new_account(&mut self) -> Option<Operation> {
        if self.store.accounts().len() >= ACCOUNTS_MAX {
            return None;
        }
        let quota = self.some_quota();
        let mut journal = self.journal.borrow_mut();
        journal.accounts_made += 1;
        let account = AccountId(journal.accounts_made);
        Some(Operation::CreateAccount { account, quota })
    }

    fn some_quota(&mut self) -> Quota {
        let bytes_max = self.random.chance(1, 4).then(|| 20_000 + self.random.below(60_000));
        let messages_max = self.random.chance(1, 5).then(|| 10 + self.random.below(60));
        Quota { bytes_max, messages_max }
    }

    fn some_flags(&mut self) -> (Flags, Vec<String>) {
        let flags = Flags(self.random.any() & self.random.any() & 0x1F);
        let keywords = KEYWORDS.iter().filter(|_| self.random.chance(1, 5));
        (flags, keywords.map(|keyword| (*keyword).to_owned()).collect())
    }

    fn target(&mut self, account: AccountId, mailbox: MailboxId, number: usize) -> Target {
        let (flags, keywords) = self.some_flags();
        let prefix = match self.random.below(4) {
            0 => Bytes::new(),
            _ => Bytes::from(format!("Delivered-To: {number}.{}@example.test\r\n", account.0)),
        };
        Target { account, mailbox, prefix, flags, keywords }
    }

    fn some_delivery(&mut self) -> Option<Operation> {
        let recipients = if self.random.chance(1, 3) { 1 + self.random.index(3) } else { 1 };
        let mut targets = Vec::new();
        for number in 0..recipients {
            let known = self.some_mailbox()?;
            targets.push(self.target(known.account, known.info.id, number));
        }
        let body_bytes = match self.random.below(20) {
            0 => 0,
            1..16 if self.churns => 1_000 + self.random.below(9_000),
            1..11 => self.random.below(300),
            11..18 => self.random.below(6_000),
            _ => self.random.below(40_000),
        };
        let streamed = body_bytes > 2_000 && self.random.chance(1, 3);
        let body_bytes = usize::try_from(body_bytes).ok()?;
        let letter = self.journal.borrow_mut().next_letter(body_bytes);
        Some(Operation::Deliver { letter, targets, streamed })
    }

    fn some_uids(&mut self, known: &Known) -> Option<Vec<Uid>> {
        let first = self.random.index(known.uids.len());
        let count = 1 + self.random.index(5);
        let chosen = known.uids.iter().skip(first).take(count);
        let chosen: Vec<Uid> = chosen.filter(|_| self.random.chance(4, 5)).copied().collect();
        (!chosen.is_empty()).then_some(chosen)
    }

    fn some_copy(&mut self, moved: bool) -> Option<Operation> {
        let known = self.some_mailbox()?;
        let uids = self.some_uids(&known)?;
        let names = self.store.mailboxes(known.account).unwrap_or_default();
        let to = self.pick(&names)?.id;
        let account = known.account;
        let is_known = self.journal.borrow().known_mailboxes.contains(&(account, to));
        is_known.then_some(Operation::Copy { account, from: known.info.id, uids, to, moved })
    }

    fn some_change(&mut self) -> Option<Operation> {
        let known = self.some_mailbox()?;
        let uids = self.some_uids(&known)?;
        let mode = self.pick(&[FlagMode::Add, FlagMode::Remove, FlagMode::Replace])?;
        let (flags, keywords) = self.some_flags();
        let change = Change { mode, flags, keywords };
        let (account, mailbox) = (known.account, known.info.id);
        Some(Operation::ChangeFlags { account, mailbox, uids, change })
    }

    fn some_expunge(&mut self) -> Option<Operation> {
        let known = self.some_mailbox()?;
        // The newest message too, since its UID is the one that could come again.
        let uids = match self.random.below(3) {
            0 => vec![*known.uids.last()?],
            _ => self.some_uids(&known)?,
        };
        let at = self.store.device().now().0;
        Some(Operation::Expunge { account: known.account, mailbox: known.info.id, uids, at })
    }

    /// UIDs of INBOX that somebody knew, and that are not there any more.
    fn some_undelete(&mut self) -> Option<Operation> {
        let account = self.pick(&self.known_accounts())?;
        let inbox = self.store.mailbox_named(account, INBOX).ok()?;
        let there = self.store.uids(account, inbox.id).ok()?;
        let known: Vec<Uid> = {
            let journal = self.journal.borrow();
            let owners = journal.owners.get(&(account, inbox.id, inbox.uid_validity))?;
            owners.keys().filter(|uid| !there.contains(uid)).copied().collect()
        };
        let first = self.random.index(known.len());
        let count = 1 + self.random.index(4);
        let uids: Vec<Uid> = known.into_iter().skip(first).take(count).collect();
        (!uids.is_empty()).then_some(Operation::Undelete { account, uids, exact: self.remembers })
    }

    fn some_hold(&mut self) -> Option<Operation> {
        let account = self.pick(&self.known_accounts())?;
        Some(Operation::Hold { account, held: !self.store.is_held(account) })
    }

    fn some_mailbox_change(&mut self) -> Option<Operation> {
        let known = self.some_mailbox()?;
        let (account, from) = (known.account, known.info.name);
        let name = self.pick(&NAMES)?.to_owned();
        Some(match self.random.below(10) {
            0..4 => {
                let special_use = self.random.chance(1, 4).then_some(SpecialUse::Sent);
                Operation::CreateMailbox { account, name, special_use }
            }
            4..6 if from != name => Operation::RenameMailbox { account, from, to: name },
            4..7 => {
                let subscribed = self.random.chance(2, 3);
                Operation::Subscribe { account, name, subscribed }
            }
            _ if from != INBOX => Operation::DeleteMailbox { account, name: from },
            // There or not.
            _ => Operation::DeleteMailbox { account, name },
        })
    }

    fn some_put(&mut self) -> Operation {
        let space = SPACES[self.random.index(SPACES.len())].0;
        let keys: BTreeSet<u64> =
            (0..1 + self.random.below(4)).map(|_| self.random.below(KEYS)).collect();
        let value = |random: &mut Random| {
            let length = random.index(80);
            random.chance(3, 4).then(|| Bytes::from(vec![random.index(256) as u8; length]))
        };
        let pairs = keys
            .into_iter()
            .map(|key| (Bytes::from(format!("key {key}")), value(&mut self.random)));
        Operation::Put { space, pairs: pairs.collect() }
    }
}

fn check_floors(journal: &mut Journal, floors: &[Uid], operation: &Operation, outcome: &Outcome) {
    let told: Vec<Uid> = match &outcome.told {
        Told::Placed(placed) => placed.iter().map(|placed| placed.uid).collect(),
        Told::Copied(pairs) => pairs.iter().take(1).map(|(_, new)| *new).collect(),
        Told::Done | Told::Expunged(_) | Told::Undeleted(_) => Vec::new(),
    };
    for (uid, floor) in told.iter().zip(floors) {
        if uid <= floor {
            journal.complain(format!(
                "{operation:?} got UID {}, but {} had been told before",
                uid.0, floor.0
            ));
        }
    }
}

/// The answer, unless `patience` ends first: then the future is dropped where it stands.
async fn within<T>(
    sim: &Sim,
    patience: Option<Duration>,
    doing: impl Future<Output = T>,
) -> Option<T> {
    let mut doing = pin!(doing);
    let Some(patience) = patience else { return Some(doing.await) };
    let mut clock = pin!(sim.sleep(patience));
    poll_fn(|context| {
        if let Poll::Ready(answer) = doing.as_mut().poll(context) {
            return Poll::Ready(Some(answer));
        }
        clock.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// `None`: there was nothing to do, so nothing was logged.
async fn run_operation(
    store: Store<Sim>,
    operation: Rc<Operation>,
) -> Result<Option<Outcome>, Error> {
    let done = |lsn: Lsn| (lsn, Told::Done);
    let (lsn, told) = match &*operation {
        Operation::CreateAccount { account, quota } => {
            done(store.create_account(*account, *quota).await?.lsn())
        }
        Operation::RemoveAccount { account } => done(store.remove_account(*account).await?.lsn()),
        Operation::SetQuota { account, quota } => {
            done(store.set_quota(*account, *quota).await?.lsn())
        }
        Operation::CreateMailbox { account, name, special_use } => {
            let (_, durable) = store.create_mailbox(*account, name, *special_use).await?;
            done(durable.lsn())
        }
        Operation::RenameMailbox { account, from, to } => {
            done(store.rename_mailbox(*account, from, to).await?.lsn())
        }
        Operation::DeleteMailbox { account, name } => {
            done(store.delete_mailbox(*account, name).await?.lsn())
        }
        Operation::Subscribe { account, name, subscribed } => {
            done(store.subscribe(*account, name, *subscribed).await?.lsn())
        }
        Operation::Deliver { .. } => deliver(&store, &operation).await?,
        Operation::Copy { account, from, uids, to, moved } => {
            let (pairs, durable) = if *moved {
                store.move_messages(*account, *from, uids, *to).await?
            } else {
                store.copy(*account, *from, uids, *to).await?
            };
            if pairs.is_empty() {
                return Ok(None);
            }
            (durable.lsn(), Told::Copied(pairs))
        }
        Operation::ChangeFlags { account, mailbox, uids, change } => {
            let Change { mode, flags, keywords } = change.clone();
            let change = FlagChange { mode, flags, keywords };
            let done = store.change_flags(*account, *mailbox, uids, &change, None).await?;
            let Some(durable) = done.durable else { return Ok(None) };
            (durable.lsn(), Told::Done)
        }
        Operation::Expunge { account, mailbox, uids, .. } => {
            let (gone, durable) = store.expunge(*account, *mailbox, uids).await?;
            if gone.is_empty() {
                return Ok(None);
            }
            (durable.lsn(), Told::Expunged(gone))
        }
        Operation::Undelete { account, uids, .. } => {
            let wanted = Undelete {
                since: UnixMillis(0),
                mailbox: Some(INBOX.to_owned()),
                uids: Some(UidRange::runs(uids.iter().copied())),
            };
            let (back, durable) = store.undelete(*account, &wanted, true).await?;
            let count = back.iter().map(|(_, count)| count).sum();
            if count == 0 {
                return Ok(None);
            }
            (durable.lsn(), Told::Undeleted(count))
        }
        Operation::Hold { account, held } => done(store.set_hold(*account, *held).await?.lsn()),
        Operation::Put { space, pairs } => {
            done(store.put(Space(*space), pairs.clone()).await?.lsn())
        }
    };
    // Nobody else can have changed mailboxes between the answer and this look.
    let looks = operation.changes_mailboxes();
    let account = operation.groups().into_iter().find_map(|group| match group {
        super::model::Group::Account(account) => Some(account),
        super::model::Group::Keys => None,
    });
    let mailboxes = account.filter(|_| looks).and_then(|account| store.mailboxes(account).ok());
    Ok(Some(Outcome { lsn, told, mailboxes }))
}

async fn deliver(store: &Store<Sim>, operation: &Operation) -> Result<(Lsn, Told), Error> {
    let Operation::Deliver { letter, targets, streamed } = operation else {
        unreachable!("called for deliveries")
    };
    let body = if *streamed {
        let mut writer = store.body_writer()?;
        for start in (0..letter.body.len()).step_by(3_000) {
            let end = letter.body.len().min(start + 3_000);
            writer.push(letter.body.slice(start..end)).await?;
        }
        Body::Streamed(writer.finish().await?)
    } else {
        Body::Whole(letter.body.clone())
    };
    let placement = |target: &Target| Placement {
        account: target.account,
        mailbox: target.mailbox,
        prefix: target.prefix.to_vec(),
        flags: target.flags,
        keywords: target.keywords.clone(),
    };
    let delivery = Delivery {
        placements: targets.iter().map(placement).collect(),
        internal_date: date_of(letter.number),
        summary: summary_of(letter.number),
        body,
    };
    let (placed, durable) = store.deliver(delivery).await?;
    Ok((durable.lsn(), Told::Placed(placed)))
}
