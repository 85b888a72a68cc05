//! Finding all that refers to the live records of some segments: one walk over the
//! index, in slices.
//!
//! The walk is a hint: rows come and go behind it. What it found is checked against the index's own
//! count of references when a record is moved, under the locks of the accounts concerned.

use crate::core::Core;
use crate::device::Device;
use crate::format::{Location, Move, Reference, SegmentId};
use crate::index::Rows;
use crate::types::{AccountId, MailboxId};
use std::collections::{BTreeMap, BTreeSet};

/// Accounts looked at between two yields.
const ACCOUNTS_AT_ONCE: usize = 256;

/// What lies where, and what refers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) record_bytes: u32,
    pub(crate) references: Vec<Reference>,
}

/// Everything that keeps the segments from being empty: messages in them, and messages elsewhere
/// with chunks in them.
pub(crate) async fn survey<D: Device>(
    core: &Core<D>,
    segments: &BTreeSet<SegmentId>,
) -> BTreeMap<Location, Found> {
    let wanted = Wanted::of(core, segments);
    // Graves outlive their account.
    let mut accounts: Vec<AccountId> = {
        let index = core.index.borrow();
        index.accounts.keys().chain(index.past.graves.keys()).copied().collect()
    };
    accounts.sort_unstable();
    accounts.dedup();
    let mut found = BTreeMap::new();
    for some in accounts.chunks(ACCOUNTS_AT_ONCE) {
        for id in some {
            let index = core.index.borrow();
            if let Some(account) = index.account(*id) {
                for mailbox in account.mailboxes.values() {
                    wanted.in_rows(*id, mailbox.id, &mailbox.rows, &mut found);
                }
            }
            for (mailbox, graveyard) in index.past.graves.get(id).into_iter().flat_map(|g| g.iter())
            {
                wanted.in_rows(*id, *mailbox, &graveyard.rows, &mut found);
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

    fn in_rows(
        &self,
        account: AccountId,
        mailbox: MailboxId,
        rows: &Rows,
        found: &mut BTreeMap<Location, Found>,
    ) {
        let rows = rows.in_segments(&self.segments);
        for row in rows.filter(|row| self.has(row.location)) {
            let found = found
                .entry(row.location)
                .or_insert(Found { record_bytes: row.record_bytes, references: Vec::new() });
            let reference = Reference { account, mailbox, uid: row.uid };
            found.references.push(reference);
        }
    }
}

/// Leaves in a move what still refers to its message, now that nobody can make new references.
/// False: nothing does any more, or others have come behind the walk.
pub(super) fn confirm<D: Device>(core: &Core<D>, one: &mut Move) -> bool {
    let index = core.index.borrow();
    one.references.retain(|reference| {
        let row = index.row_or_grave(reference.account, reference.mailbox, reference.uid);
        row.is_some_and(|row| row.location == one.from)
    });
    let all = index.live.references(one.from) as usize;
    !one.references.is_empty() && one.references.len() == all
}
