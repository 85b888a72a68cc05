//! What a store says of its past: accounts as they were at the last look, and backups taken while
//! clients are at work, which must be the store as it was at the backup's position.

use super::checker::Violation;
use super::journal::Journal;
use super::observation::{Observation, SeenAccount, look};
use super::workload::{Disk, Stop};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use storage::device::Device;
use storage::device::sim::{Executor, Random, Sim};
use storage::restore::{Restore, RestoredShard};
use storage::store::PastAccount;
use storage::{Error, Flags, Options, Store, Uid};

/// Copied at once, with a pause behind it.
const PIECE_BYTES: usize = 16 << 10;

/// Looks at every account as it was at the last look.
pub(super) async fn look_back(
    store: &Store<Sim>,
    journal: &RefCell<Journal>,
) -> Result<(), Violation> {
    let (last, at) = {
        let journal = journal.borrow();
        let (Some(last), Some(at)) = (journal.last.clone(), journal.last_at) else { return Ok(()) };
        (last, at)
    };
    for (id, seen) in &last.accounts {
        let past = store.as_of(*id, at).await;
        let past = past.map_err(|error| format!("account {} as it was: {error}", id.0))?;
        if told(&past) != shown(seen) {
            let (told, shown) = (told(&past), shown(seen));
            return Err(format!("account {} was {shown:?}, and is told as {told:?}", id.0));
        }
        journal.borrow_mut().tally.looks_back += 1;
    }
    Ok(())
}

/// By name and UIDVALIDITY; of each message UID, system flags and keywords.
type Told = BTreeMap<(String, u32), BTreeMap<Uid, (Flags, BTreeSet<String>)>>;

fn told(past: &PastAccount) -> Told {
    let of_mailbox = |mailbox: &storage::store::PastMailbox| {
        let keywords = |flags: Flags| -> BTreeSet<String> {
            let named = mailbox.keywords.iter().enumerate();
            let set = named.filter(|(number, _)| flags.0 >> (8 + number) & 1 == 1);
            set.map(|(_, name)| name.clone()).collect()
        };
        let messages = mailbox
            .messages
            .iter()
            .map(|message| (message.uid, (Flags(message.flags.0 & 0xFF), keywords(message.flags))));
        ((mailbox.name.clone(), mailbox.uid_validity), messages.collect())
    };
    past.mailboxes.iter().map(of_mailbox).collect()
}

fn shown(seen: &SeenAccount) -> Told {
    let of_mailbox = |(name, mailbox): (&String, &super::observation::SeenMailbox)| {
        let messages = mailbox.messages.iter();
        let messages = messages.map(|(uid, m)| (*uid, (m.flags, m.keywords.clone())));
        ((name.clone(), mailbox.info.uid_validity), messages.collect())
    };
    seen.mailboxes.iter().map(of_mailbox).collect()
}

/// Takes a backup while the clients go on; some are broken off. What was taken is restored on
/// another disk and compared with what was to be seen when the backup began.
pub(super) async fn back_up(
    store: Store<Sim>,
    journal: Rc<RefCell<Journal>>,
    options: Options,
    disk: Disk,
    mut random: Random,
) -> Stop {
    store.device().sleep(Duration::from_micros(random.below(20_000))).await;
    // Nothing is awaited between the two: they are of one moment.
    let (plan, seen) = (store.backup_plan(), look(&store, &BTreeMap::new()));
    let Ok(seen) = seen else { return Stop::Done };
    let broken_off = random.chance(1, 3);
    let mut segments = Vec::new();
    for planned in &plan.segments {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < planned.end {
            let step = PIECE_BYTES.min((planned.end - bytes.len() as u64) as usize);
            match store.read_segment(planned.segment, bytes.len() as u64, step, None).await {
                Ok(read) => bytes.extend_from_slice(&read),
                Err(error) => {
                    if disk == Disk::Healthy {
                        journal.borrow_mut().complain(format!("a backup cannot read: {error}"));
                    }
                    return Stop::Done;
                }
            }
            store.device().sleep(Duration::from_micros(random.below(600))).await;
        }
        segments.push((planned.segment_bytes, bytes));
        if broken_off && random.chance(1, 3) {
            journal.borrow_mut().tally.backups_broken_off += 1;
            return Stop::Done;
        }
    }
    let shard = RestoredShard { shard: plan.shard, lsn: plan.lsn, run: plan.run, salt: plan.salt };
    if disk != Disk::Spoiled {
        match restored(shard, segments, options, random.any()) {
            Ok(again) if alike(&again) == alike(&seen) => journal.borrow_mut().tally.backups += 1,
            Ok(again) => {
                let (again, seen) = (alike(&again), alike(&seen));
                journal
                    .borrow_mut()
                    .complain(format!("a backup of {seen:?} restores as {again:?}"));
            }
            Err(what) => journal.borrow_mut().complain(format!("a backup is of no use: {what}")),
        }
    }
    Stop::Done
}

/// Everything of it that a copy has too: all but the next UIDs, since what was given out behind the
/// backup must not be given out again.
fn alike(seen: &Observation) -> Vec<String> {
    let mut accounts = seen.accounts.clone();
    let mailboxes = accounts.values_mut().flat_map(|account| account.mailboxes.values_mut());
    mailboxes.for_each(|mailbox| mailbox.status.uid_next = Uid(0));
    let accounts = accounts.iter().map(|account| format!("{account:?}"));
    accounts.chain([format!("{:?} {} {}", seen.pairs, seen.messages, seen.live_bytes)]).collect()
}

/// On a disk of its own, opened by the ordinary code, but not set to work: what it
/// holds is looked at.
fn restored(
    shard: RestoredShard,
    segments: Vec<(u64, Vec<u8>)>,
    options: Options,
    seed: u64,
) -> Result<Observation, Violation> {
    let sim = Sim::new(seed);
    let executor = Executor::new(&sim);
    let seen = executor.block_on(async move {
        let mut restore = Restore::begin(sim.clone()).await?;
        for (segment_bytes, bytes) in segments {
            restore.segment(segment_bytes).await?;
            restore.write(0, &bytes).await?;
        }
        restore.finish(&shard).await?;
        let store = Store::open(sim, options).await?;
        let report = store.verify().await?;
        let seen = look(&store, &BTreeMap::new())?;
        Ok::<_, Error>((report, seen))
    });
    let (report, seen) = seen.ok_or("it does not come to its end")?.map_err(|e| e.to_string())?;
    match report.bad.first() {
        Some(bad) => Err(format!("verify finds {bad}")),
        None => Ok(seen),
    }
}
