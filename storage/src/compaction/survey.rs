//! Finding all that refers to the live records of some segments: one walk over the index, in slices.
//!
//! The walk is a hint: rows come and go behind it. What it found is checked against the index's own
//! count of references when a record is moved, under the locks of the accounts concerned.

use crate::core::Core;
use crate::device::Device;
use crate::format::{Location, Move, Reference, SegmentId};
use crate::index::{Account, Mailbox};
use crate::types::AccountId;
use std::collections::{BTreeMap, BTreeSet};

/// Accounts looked at between two yields.
const ACCOUNTS_AT_ONCE: usize = 256;

/// What lies where, and what refers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) record_bytes: u32,
    pub(crate) references: Vec<Reference>,
}

/// Everything that keeps the segments from being empty: messages in them, and messages elsewhere with
/// chunks in them.
pub(crate) async fn survey<D: Device>(
    core: &Core<D>,
    segments: &BTreeSet<SegmentId>,
) -> BTreeMap<Location, Found> {
    let wanted = Wanted::of(core, segments);
    let mut accounts: Vec<AccountId> = core.index.borrow().accounts.keys().copied().collect();
    accounts.sort_unstable();
    let mut found = BTreeMap::new();
    for some in accounts.chunks(ACCOUNTS_AT_ONCE) {
        for id in some {
            if let Some(account) = core.index.borrow().account(*id) {
                wanted.in_account(account, &mut found);
            }
        }
        core.device.yield_now().await;
    }
    found
}

struct Wanted<'s> {
    emptied: &'s BTreeSet<SegmentId>,
    /// Messages of which chunks are in these.
    owners: BTreeSet<Location>,
    segments: BTreeSet<SegmentId>,
}

impl<'s> Wanted<'s> {
    fn of<D: Device>(core: &Core<D>, emptied: &'s BTreeSet<SegmentId>) -> Wanted<'s> {
        let index = core.index.borrow();
        let chunked = index.live.chunked();
        let owners: BTreeSet<Location> = chunked
            .filter(|(_, chunks)| {
                chunks.iter().any(|chunk| emptied.contains(&chunk.location.segment))
            })
            .map(|(owner, _)| owner)
            .collect();
        let segments =
            owners.iter().map(|owner| owner.segment).chain(emptied.iter().copied()).collect();
        Wanted { emptied, owners, segments }
    }

    fn has(&self, location: Location) -> bool {
        self.emptied.contains(&location.segment) || self.owners.contains(&location)
    }

    fn in_account(&self, account: &Account, found: &mut BTreeMap<Location, Found>) {
        for mailbox in account.mailboxes.values() {
            self.in_mailbox(account.id, mailbox, found);
        }
    }

    fn in_mailbox(
        &self,
        account: AccountId,
        mailbox: &Mailbox,
        found: &mut BTreeMap<Location, Found>,
    ) {
        let rows = mailbox.rows.in_segments(&self.segments);
        for row in rows.filter(|row| self.has(row.location)) {
            let found = found
                .entry(row.location)
                .or_insert(Found { record_bytes: row.record_bytes, references: Vec::new() });
            let reference = Reference { account, mailbox: mailbox.id, uid: row.uid };
            found.references.push(reference);
        }
    }
}

/// Leaves in a move what still refers to its message, now that nobody can make new references. False:
/// nothing does any more, or others have come behind the walk.
pub(super) fn confirm<D: Device>(core: &Core<D>, one: &mut Move) -> bool {
    let index = core.index.borrow();
    one.references.retain(|reference| {
        let account = index.account(reference.account);
        let mailbox = account.and_then(|account| account.mailbox(reference.mailbox));
        let row = mailbox.and_then(|mailbox| mailbox.rows.get(reference.uid));
        row.is_some_and(|row| row.location == one.from)
    });
    let all = index.live.references(one.from) as usize;
    !one.references.is_empty() && one.references.len() == all
}
