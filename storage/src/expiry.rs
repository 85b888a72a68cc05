//! Forgetting: graves that are older than the retention are given up, so that compaction can have
//! what they kept. FORMAT.md, "What is remembered".
//!
//! One task beside the others. It looks for what is due in slices, and says in a *forgot* record
//! which graves go, so that replay needs no clock to do the same. Accounts on hold are passed by.
//! When mail was refused for want of space, the oldest graves go before their time, a part of the
//! window at a time, until it fits again.
//!
//! By a clock that is ahead of all that is known it forgets nothing ([`crate::clock`]).
//!
//! Failure: a record that cannot be written is tried again at the next round.

use crate::core::{Core, Phase};
use crate::device::Device;
use crate::error::Error;
use crate::format::{Forgot, Record, UidRange};
use crate::index::{Grave, Index};
use crate::locks::Access;
use crate::log::queue::{Hold, Parts};
use crate::options::Sabotage;
use crate::types::{AccountId, MailboxId, Uid, UnixMillis};
use crate::wait::{Receipt, either};
use std::rc::Rc;
use std::time::Duration;

/// Rounds in a retention: what it is kept too long, at the most, is one part of so many.
const ROUNDS: u32 = 128;
const ROUND_MIN: Duration = Duration::from_millis(20);
const ROUND_MAX: Duration = Duration::from_secs(600);
/// How long compaction has to make room of what was forgotten on a full disk.
const SHORT_ROUND: Duration = Duration::from_millis(500);

/// Graves looked at between two yields, and forgotten by one record.
const GRAVES_AT_ONCE: usize = 1024;
/// Records on their way at once.
const PENDING_MAX: usize = 32;

/// Runs until the store is closed or halts.
pub(crate) async fn run<D: Device>(core: &Rc<Core<D>>) {
    while core.phase.get() == Phase::Open {
        let forgotten = round(core).await;
        core.upkeep.ring();
        let is_short = core.is_short() && forgotten.is_ok_and(|graves| graves > 0);
        let wait = if is_short { SHORT_ROUND } else { interval(core) };
        if core.phase.get() != Phase::Open {
            return;
        }
        if wait.is_zero() {
            core.expiry.wait().await;
        } else {
            either(core.device.sleep(wait), core.expiry.wait()).await;
        }
    }
}

/// Zero: until somebody rings.
fn interval<D: Device>(core: &Core<D>) -> Duration {
    let retention = core.options.retention;
    if retention.is_zero() {
        return Duration::ZERO;
    }
    (retention / ROUNDS).clamp(ROUND_MIN, ROUND_MAX)
}

/// Forgets what is due; how many graves that were.
async fn round<D: Device>(core: &Rc<Core<D>>) -> Result<u64, Error> {
    let Some(until) = due_until(core).filter(|_| !core.is_as_found()) else { return Ok(0) };
    let mut pending = Vec::new();
    let mut forgotten = 0;
    let accounts = due(&core.index.borrow(), until);
    for account in accounts {
        let mailboxes = due_in(&core.index.borrow(), account, until);
        for mailbox in mailboxes {
            forgotten += forget(core, account, mailbox, until, &mut pending).await?;
        }
        core.device.yield_now().await;
    }
    land(&mut pending).await?;
    Ok(forgotten)
}

/// What has gone by then is due. `None`: nothing at all.
fn due_until<D: Device>(core: &Core<D>) -> Option<UnixMillis> {
    let believed = core.believed_now();
    let index = core.index.borrow();
    let past = &index.past;
    let oldest = past
        .graves
        .iter()
        .filter(|(account, _)| !past.held.contains(account))
        .flat_map(|(_, graves)| graves.values().map(|graveyard| graveyard.oldest))
        .min()?;
    if core.options.sabotage == Some(Sabotage::ForgetYoung) {
        return Some(believed);
    }
    let millis = past.retention_millis;
    let until = UnixMillis(believed.0.checked_sub(millis)?);
    if !core.is_short() {
        return (oldest <= until).then_some(until);
    }
    // What went since the clock is not believed is dated by it.
    let now = if oldest > believed { core.device.now() } else { believed };
    let half = UnixMillis(oldest.0 + now.0.saturating_sub(oldest.0).div_ceil(2));
    Some(until.max(half))
}

fn due(index: &Index, until: UnixMillis) -> Vec<AccountId> {
    let past = &index.past;
    let accounts = past.graves.iter().filter(|(account, graves)| {
        !past.held.contains(account) && graves.values().any(|graves| graves.oldest <= until)
    });
    accounts.map(|(account, _)| *account).collect()
}

fn due_in(index: &Index, account: AccountId, until: UnixMillis) -> Vec<MailboxId> {
    let graves = index.past.graves.get(&account).into_iter().flat_map(|graves| graves.iter());
    graves.filter(|(_, graves)| graves.oldest <= until).map(|(mailbox, _)| *mailbox).collect()
}

/// Walks over the graves of one mailbox.
async fn forget<D: Device>(
    core: &Rc<Core<D>>,
    account: AccountId,
    mailbox: MailboxId,
    until: UnixMillis,
    pending: &mut Vec<Receipt>,
) -> Result<u64, Error> {
    let (began, mut from, mut forgotten) = (core.believed_now(), Uid(1), 0);
    let mut oldest = UnixMillis(u64::MAX);
    loop {
        let mut slice = look(&core.index.borrow(), account, mailbox, from, until);
        if !slice.due.is_empty() {
            // Nobody may bring back what goes, nor put the account on hold meanwhile.
            let guard = core.locks.lock(account, Access::Alone).await;
            if core.index.borrow().past.held.contains(&account) {
                return Ok(forgotten);
            }
            slice = look(&core.index.borrow(), account, mailbox, from, until);
            if !slice.due.is_empty() {
                forgotten += slice.due.len() as u64;
                let uids = UidRange::runs(slice.due);
                let record = Record::Forgot(Forgot { account, graves: vec![(mailbox, uids)] });
                let parts = Parts::of(&record);
                let hold = Hold { guards: vec![guard], ..Hold::default() };
                pending.push(core.enqueue_upkeep(record, &parts, hold)?);
            }
        }
        oldest = oldest.min(slice.oldest_kept);
        if pending.len() >= PENDING_MAX {
            land(pending).await?;
        }
        core.device.yield_now().await;
        let Some(next) = slice.next else { break };
        from = next;
    }
    land(pending).await?;
    // A hint for the next round, not in the log. What was buried behind the walk has
    // gone since it began.
    if let Some(graveyard) = core.index.borrow_mut().past.graveyard_mut(account, mailbox) {
        graveyard.oldest = oldest.min(began);
    }
    Ok(forgotten)
}

struct Slice {
    due: Vec<Uid>,
    oldest_kept: UnixMillis,
    /// Where to go on.
    next: Option<Uid>,
}

fn look(
    index: &Index,
    account: AccountId,
    mailbox: MailboxId,
    from: Uid,
    until: UnixMillis,
) -> Slice {
    let mut slice = Slice { due: Vec::new(), oldest_kept: UnixMillis(u64::MAX), next: None };
    let Some(graveyard) = index.past.graveyard(account, mailbox) else { return slice };
    let rows = graveyard.rows.range(from, Uid(u32::MAX));
    for (number, grave) in rows.map(Grave::of).enumerate() {
        if number == GRAVES_AT_ONCE {
            slice.next = Some(grave.row.uid);
            break;
        }
        if grave.gone <= until {
            slice.due.push(grave.row.uid);
        } else {
            slice.oldest_kept = slice.oldest_kept.min(grave.gone);
        }
    }
    slice
}

async fn land(pending: &mut Vec<Receipt>) -> Result<(), Error> {
    for receipt in pending.drain(..) {
        receipt.landed().await?;
    }
    Ok(())
}
