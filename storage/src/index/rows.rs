//! The messages of one mailbox: rows of fixed size in blocks, by UID ascending.
//!
//! A block is either owned or lies in a mapped checkpoint; it becomes owned when it first
//! changes. Cloning shares the blocks. Invariants: UIDs ascend over all blocks; no block is
//! empty; a block's `first`, `last` and `modseq_max` are those of its rows (`modseq_max` may be
//! higher after removal).

use crate::device::Mapping;
use crate::format::{Location, Malformed, Reader, SegmentId, UidRange};
use crate::types::{Flags, Lsn, Modseq, Uid, UnixMillis};
use std::collections::BTreeSet;
use std::rc::Rc;

/// On the disk and, give or take nothing, in memory.
pub const ROW_BYTES: usize = 48;

/// Small enough that copying one on a write costs microseconds.
const BLOCK_ROWS_MAX: usize = 1024;

/// One message in one mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub uid: Uid,
    /// Prefix and body.
    pub bytes: u32,
    pub modseq: Modseq,
    pub flags: Flags,
    pub internal_date: UnixMillis,
    pub location: Location,
    /// The whole record, so that one read fetches it.
    pub record_bytes: u32,
    pub prefix_bytes: u16,
    /// Which of the record's placements holds the prefix.
    pub placement: u16,
}

const _: () = assert!(std::mem::size_of::<Row>() == ROW_BYTES);

impl Row {
    pub fn encode_into(&self, target: &mut Vec<u8>) {
        target.extend_from_slice(&self.uid.0.to_le_bytes());
        target.extend_from_slice(&self.bytes.to_le_bytes());
        target.extend_from_slice(&self.modseq.0.to_le_bytes());
        target.extend_from_slice(&self.flags.0.to_le_bytes());
        target.extend_from_slice(&self.internal_date.0.to_le_bytes());
        target.extend_from_slice(&self.location.segment.0.to_le_bytes());
        target.extend_from_slice(&self.location.eighths.to_le_bytes());
        target.extend_from_slice(&self.record_bytes.to_le_bytes());
        target.extend_from_slice(&self.prefix_bytes.to_le_bytes());
        target.extend_from_slice(&self.placement.to_le_bytes());
    }

    pub fn decode(bytes: &[u8]) -> Result<Row, Malformed> {
        let mut reader = Reader::new(bytes);
        Ok(Row {
            uid: Uid(reader.u32()?),
            bytes: reader.u32()?,
            modseq: Modseq(reader.u64()?),
            flags: Flags(reader.u64()?),
            internal_date: UnixMillis(reader.u64()?),
            location: Location { segment: SegmentId(reader.u32()?), eighths: reader.u32()? },
            record_bytes: reader.u32()?,
            prefix_bytes: reader.u16()?,
            placement: reader.u16()?,
        })
    }
}

/// A checkpoint that rows are read from. They were verified when it was opened.
pub struct RowFile {
    pub mapping: Mapping,
    /// Whose file it is, so that the next checkpoint may refer to it; `None`: it
    /// came out of the log.
    pub checkpoint: Option<Lsn>,
}

impl RowFile {
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        (*self.mapping).as_ref()
    }
}

#[derive(Clone)]
pub enum BlockData {
    Owned(Vec<Row>),
    /// Rows as bytes at `offset`.
    Mapped {
        file: Rc<RowFile>,
        offset: usize,
    },
}

impl std::fmt::Debug for BlockData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BlockData::Owned(rows) => write!(f, "Owned({} rows)", rows.len()),
            BlockData::Mapped { offset, .. } => write!(f, "Mapped(at {offset})"),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Block {
    pub first: Uid,
    pub last: Uid,
    pub modseq_max: Modseq,
    pub count: u32,
    /// No row refers to a segment outside of these; the range may be wider after removal.
    pub segments: (SegmentId, SegmentId),
    pub data: Rc<BlockData>,
}

impl Block {
    fn len(&self) -> usize {
        self.count as usize
    }

    /// Row `index`, which is below the count.
    #[must_use]
    pub fn row(&self, index: usize) -> Row {
        match &*self.data {
            BlockData::Owned(rows) => rows[index],
            BlockData::Mapped { file, offset } => {
                let start = offset + index * ROW_BYTES;
                let bytes = &file.bytes()[start..start + ROW_BYTES];
                Row::decode(bytes).expect("a row's worth of bytes")
            }
        }
    }

    /// The first index whose UID is at least `uid`.
    fn position(&self, uid: Uid) -> usize {
        // UIDs ascend by one at least: where nothing was removed, one is where it would be counted.
        let counted = uid.0.saturating_sub(self.first.0) as usize;
        if counted < self.len() && self.row(counted).uid == uid {
            return counted;
        }
        let (mut low, mut high) = (0, self.len().min(counted));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.row(middle).uid < uid { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The rows to change; copies what a snapshot or a checkpoint still needs.
    fn rows_mut(&mut self) -> &mut Vec<Row> {
        if let BlockData::Mapped { .. } = &*self.data {
            let rows = (0..self.len()).map(|index| self.row(index)).collect();
            self.data = Rc::new(BlockData::Owned(rows));
        }
        match Rc::make_mut(&mut self.data) {
            BlockData::Owned(rows) => rows,
            BlockData::Mapped { .. } => unreachable!("just made owned"),
        }
    }

    fn widen(&mut self, segment: SegmentId) {
        self.segments = (self.segments.0.min(segment), self.segments.1.max(segment));
    }

    /// Sets what is known of the block after its rows changed. False: it is empty now.
    fn refresh(&mut self) -> bool {
        let BlockData::Owned(rows) = &*self.data else { return true };
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return false };
        (self.first, self.last) = (first.uid, last.uid);
        self.count = u32::try_from(rows.len()).expect("a bounded block");
        true
    }
}

#[derive(Debug, Clone, Default)]
pub struct Rows {
    blocks: Vec<Block>,
}

impl Rows {
    /// From a checkpoint, whose order has been checked.
    #[must_use]
    pub fn from_blocks(blocks: Vec<Block>) -> Rows {
        Rows { blocks }
    }

    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    pub fn blocks_mut(&mut self) -> &mut [Block] {
        &mut self.blocks
    }

    #[must_use]
    pub fn last_uid(&self) -> Option<Uid> {
        self.blocks.last().map(|block| block.last)
    }

    /// Adds a row whose UID is above all others. False, and nothing changed: it is not.
    #[must_use]
    pub fn push(&mut self, row: Row) -> bool {
        if self.last_uid().is_some_and(|last| last >= row.uid) {
            return false;
        }
        match self.blocks.last_mut() {
            Some(block) if block.len() < BLOCK_ROWS_MAX => {
                block.rows_mut().push(row);
                block.last = row.uid;
                block.count += 1;
                block.modseq_max = block.modseq_max.max(row.modseq);
                block.widen(row.location.segment);
            }
            _ => self.blocks.push(Block {
                first: row.uid,
                last: row.uid,
                modseq_max: row.modseq,
                count: 1,
                segments: (row.location.segment, row.location.segment),
                data: Rc::new(BlockData::Owned(vec![row])),
            }),
        }
        true
    }

    /// Adds a row wherever its UID belongs. False, and nothing changed: there is one of that UID.
    #[must_use]
    pub fn insert(&mut self, row: Row) -> bool {
        if self.last_uid().is_none_or(|last| last < row.uid) {
            return self.push(row);
        }
        let position = self.block_position(row.uid);
        let block = &mut self.blocks[position];
        let index = block.position(row.uid);
        if block.row(index).uid == row.uid {
            return false;
        }
        block.rows_mut().insert(index, row);
        block.modseq_max = block.modseq_max.max(row.modseq);
        block.widen(row.location.segment);
        if block.rows_mut().len() > BLOCK_ROWS_MAX {
            let upper = block.rows_mut().split_off(BLOCK_ROWS_MAX / 2);
            let mut next = Block { data: Rc::new(BlockData::Owned(upper)), ..block.clone() };
            next.refresh();
            block.refresh();
            self.blocks.insert(position + 1, next);
        } else {
            block.refresh();
        }
        true
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.iter().map(Block::len).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    #[must_use]
    pub fn get(&self, uid: Uid) -> Option<Row> {
        let block = self.blocks.get(self.block_position(uid))?;
        let index = block.position(uid);
        (index < block.len()).then(|| block.row(index)).filter(|row| row.uid == uid)
    }

    /// The first block that ends at or after `uid`.
    fn block_position(&self, uid: Uid) -> usize {
        self.blocks.partition_point(|block| block.last < uid)
    }

    /// Rows with UID from `first` to `last`, ascending.
    pub fn range(&self, first: Uid, last: Uid) -> impl Iterator<Item = Row> {
        let start = self.block_position(first);
        self.blocks[start..].iter().take_while(move |block| block.first <= last).flat_map(
            move |block| {
                (block.position(first)..block.len())
                    .map(|index| block.row(index))
                    .take_while(move |row| row.uid <= last)
            },
        )
    }

    pub fn iter(&self) -> impl Iterator<Item = Row> {
        self.blocks.iter().flat_map(|block| (0..block.len()).map(|index| block.row(index)))
    }

    /// Rows changed after `since`; blocks without any are not looked into.
    pub fn changed_since(&self, since: Modseq) -> impl Iterator<Item = Row> {
        self.blocks
            .iter()
            .filter(move |block| block.modseq_max > since)
            .flat_map(|block| (0..block.len()).map(|index| block.row(index)))
            .filter(move |row| row.modseq > since)
    }

    /// Rows whose record is in one of `segments`; blocks without any are not looked into.
    pub fn in_segments<'s>(
        &'s self,
        segments: &'s BTreeSet<SegmentId>,
    ) -> impl Iterator<Item = Row> + 's {
        self.blocks
            .iter()
            .filter(|block| segments.range(block.segments.0..=block.segments.1).next().is_some())
            .flat_map(|block| (0..block.len()).map(|index| block.row(index)))
            .filter(|row| segments.contains(&row.location.segment))
    }

    /// Lets `change` alter each row of the runs; it says whether it did.
    pub fn change(&mut self, runs: &[UidRange], mut change: impl FnMut(&mut Row) -> bool) {
        for run in runs {
            let mut position = self.block_position(run.first);
            while let Some(block) = self.blocks.get_mut(position) {
                if block.first > run.last {
                    break;
                }
                change_block(block, *run, &mut change);
                position += 1;
            }
        }
    }

    /// Takes the rows of the runs out, and tells `removed` of each.
    pub fn remove(&mut self, runs: &[UidRange], mut removed: impl FnMut(&Row)) {
        for run in runs {
            let start = self.block_position(run.first);
            let mut position = start;
            while let Some(block) = self.blocks.get_mut(position) {
                if block.first > run.last {
                    break;
                }
                let from = block.position(run.first);
                let until = (from..block.len())
                    .find(|&index| block.row(index).uid > run.last)
                    .unwrap_or(block.len());
                if from < until {
                    block.rows_mut().drain(from..until).for_each(|row| removed(&row));
                    if !block.refresh() {
                        self.blocks.remove(position);
                        continue;
                    }
                }
                position += 1;
            }
            self.join_small(start);
        }
    }

    /// Joins the block at `position` with its successor when both are nearly empty, so that a
    /// mailbox that was thinned out does not keep a block for each row.
    fn join_small(&mut self, position: usize) {
        let (Some(block), Some(next)) = (self.blocks.get(position), self.blocks.get(position + 1))
        else {
            return;
        };
        if block.len() + next.len() > BLOCK_ROWS_MAX / 4 {
            return;
        }
        let next = self.blocks.remove(position + 1);
        let block = &mut self.blocks[position];
        let rows: Vec<Row> = (0..next.len()).map(|index| next.row(index)).collect();
        block.rows_mut().extend(rows);
        block.modseq_max = block.modseq_max.max(next.modseq_max);
        block.widen(next.segments.0);
        block.widen(next.segments.1);
        block.refresh();
    }
}

fn change_block(block: &mut Block, run: UidRange, change: &mut impl FnMut(&mut Row) -> bool) {
    for index in block.position(run.first)..block.len() {
        // Looked at before it is touched, so that a mapped block without changes stays mapped.
        let mut row = block.row(index);
        if row.uid > run.last {
            return;
        }
        if change(&mut row) {
            block.modseq_max = block.modseq_max.max(row.modseq);
            block.widen(row.location.segment);
            block.rows_mut()[index] = row;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(uid: u32, modseq: u64) -> Row {
        Row {
            uid: Uid(uid),
            bytes: uid * 10,
            modseq: Modseq(modseq),
            flags: Flags(1 << 60),
            internal_date: UnixMillis(77),
            location: Location { segment: SegmentId(3), eighths: uid },
            record_bytes: 99,
            prefix_bytes: 5,
            placement: 1,
        }
    }

    fn filled(rows: u32) -> Rows {
        let mut filled = Rows::default();
        for uid in 1..=rows {
            assert!(filled.push(row(uid, u64::from(uid))));
        }
        filled
    }

    fn run(first: u32, last: u32) -> UidRange {
        UidRange { first: Uid(first), last: Uid(last) }
    }

    #[test]
    fn a_row_is_forty_eight_bytes_and_survives_the_round_trip() {
        let mut bytes = Vec::new();
        row(5, 6).encode_into(&mut bytes);
        assert_eq!(bytes.len(), ROW_BYTES);
        assert_eq!(Row::decode(&bytes), Ok(row(5, 6)));
    }

    #[test]
    fn rows_are_found_changed_and_removed_across_blocks() {
        let mut rows = filled(3000);
        assert_eq!(rows.get(Uid(2048)).map(|row| row.bytes), Some(20_480));
        assert!(!rows.push(row(3000, 9)), "a UID is never used again");
        rows.change(&[run(1000, 1100)], |row| {
            row.modseq = Modseq(9000);
            true
        });
        assert_eq!(rows.changed_since(Modseq(8999)).count(), 101);
        let mut removed = Vec::new();
        rows.remove(&[run(2, 2999)], |row| removed.push(row.uid.0));
        assert_eq!(removed.len(), 2998);
        assert_eq!(rows.iter().map(|row| row.uid.0).collect::<Vec<_>>(), [1, 3000]);
        assert_eq!(rows.blocks().len(), 1, "what is left shares a block");
        rows.remove(&[run(1, u32::MAX)], |_| {});
        assert_eq!(rows.last_uid(), None);
    }

    #[test]
    fn rows_are_inserted_in_any_order() {
        let mut rows = Rows::default();
        let mut random = crate::device::sim::Random::new(1);
        let mut uids: Vec<u32> = (1..=4000).collect();
        while !uids.is_empty() {
            let uid = uids.swap_remove(random.index(uids.len()));
            assert!(rows.insert(row(uid, u64::from(uid))));
        }
        assert!(!rows.insert(row(77, 1)), "there already");
        assert!(rows.iter().map(|row| row.uid.0).eq(1..=4000));
        assert_eq!((rows.len(), rows.get(Uid(1234)).map(|row| row.bytes)), (4000, Some(12_340)));
        assert!(rows.blocks().iter().all(|block| block.len() <= BLOCK_ROWS_MAX));
        let edges = rows.blocks().iter().map(|b| (b.first, b.last, b.row(0).uid, b.count));
        assert!(edges.clone().all(|(first, _, row, _)| first == row));
    }

    #[test]
    fn a_snapshot_does_not_see_later_changes() {
        let mut rows = filled(1500);
        let snapshot = rows.clone();
        rows.remove(&[run(1, 700)], |_| {});
        rows.change(&[run(1, 1500)], |row| {
            row.flags = Flags::SEEN;
            true
        });
        assert_eq!(snapshot.iter().count(), 1500);
        assert!(snapshot.iter().all(|row| row.flags == Flags(1 << 60)));
        assert_eq!(snapshot.range(Uid(690), Uid(710)).count(), 21);
        assert_eq!(rows.range(Uid(690), Uid(710)).count(), 10);
    }
}
