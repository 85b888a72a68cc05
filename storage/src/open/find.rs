//! What is on the disk: every file's name, and what a segment's file says that it is.

use super::device_error;
use crate::checkpoint::file_lsn;
use crate::device::Device;
use crate::error::Error;
use crate::format::SegmentId;
use crate::log::scan::FoundSegment;
use crate::log::segments::{Identity, Spare, file_name, file_number, identify_all};
use crate::options::Options;
use crate::superblock::{self, Begun, Superblock};
use crate::types::Lsn;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Before there are connections, which want files, too.
const HEADS_AT_ONCE: usize = 64;

/// What is on the disk.
pub(super) struct Found<D: Device> {
    pub(super) superblocks: Vec<Superblock>,
    /// Of the file, if there is one.
    pub(super) superblock_bytes: Option<u64>,
    pub(super) begun: Option<Begun>,
    /// The copy of it that is written next.
    pub(super) begun_copy: u64,
    /// LSNs of the checkpoint files, newest first.
    pub(super) checkpoints: Vec<Lsn>,
    pub(super) segments: BTreeMap<SegmentId, FoundSegment<D>>,
    /// Cold segments: they are not replayed.
    pub(super) cold: BTreeMap<SegmentId, FoundSegment<D>>,
    /// Files of which the first block is zeroes.
    pub(super) spares: Vec<Spare<D>>,
    /// Names of files that nothing identifies.
    pub(super) unknown: Vec<String>,
    /// Files that say that they are a segment which another one is, too.
    pub(super) doubles: Vec<FoundSegment<D>>,
    pub(super) next_number: u32,
    /// Of each number, which file it is ([`Device::file_id`]).
    pub(super) file_ids: BTreeMap<u32, u64>,
    pub(super) damage: Vec<String>,
}

pub(super) async fn find<D: Device>(device: &D, options: &Options) -> Result<Found<D>, Error> {
    if let Some(what) = superblock::refusal(device).await {
        return Err(Error::Open { place: device.place(), what });
    }
    let (begun, begun_copy) = superblock::read_begun(device).await.map_err(device_error)?;
    let mut found = Found {
        superblocks: superblock::read(device).await.map_err(device_error)?,
        superblock_bytes: None,
        begun,
        begun_copy,
        checkpoints: Vec::new(),
        segments: BTreeMap::new(),
        cold: BTreeMap::new(),
        spares: Vec::new(),
        unknown: Vec::new(),
        doubles: Vec::new(),
        next_number: 1,
        file_ids: BTreeMap::new(),
        damage: Vec::new(),
    };
    for offset in superblock::unreadable(device).await.map_err(device_error)? {
        let (name, place) = (superblock::FILE_NAME, device.place());
        found.damage.push(format!("a copy in {name} in {place} at {offset} can't be read"));
    }
    let mut logs = Vec::new();
    for listed in device.list().await.map_err(device_error)? {
        if let Some(lsn) = file_lsn(&listed.name) {
            found.checkpoints.push(lsn);
        }
        if listed.name == superblock::FILE_NAME {
            found.superblock_bytes = Some(listed.bytes);
        }
        if let Some(number) = file_number(&listed.name) {
            found.next_number = found.next_number.max(number + 1);
            found.file_ids.insert(number, listed.id);
            logs.push((number, listed.bytes));
        }
    }
    let identities = identify_all(device, &logs, HEADS_AT_ONCE).await.map_err(device_error)?;
    for ((number, file_bytes), identity) in logs.into_iter().zip(identities) {
        let (name, place) = (file_name(number), device.place());
        match identity {
            Identity::Damaged(_) => found.damage.push(format!("the header of {name} in {place}")),
            Identity::Unknown => found.damage.push(format!(
                "nothing in {name} in {place} says which segment it is: it is left alone"
            )),
            Identity::Segment(_) | Identity::Spare => {}
        }
        match identity {
            Identity::Segment(header) | Identity::Damaged(header)
                if header.shard == options.shard || found.superblocks.is_empty() =>
            {
                let is_cold = header.segment.is_cold();
                let segments = if is_cold { &mut found.cold } else { &mut found.segments };
                // A spare that has rotted may give itself out for what it was once.
                let is_sound = matches!(identity, Identity::Segment(_));
                let segment = FoundSegment { number, file: None, file_bytes, is_sound, header };
                match segments.entry(header.segment) {
                    Entry::Vacant(free) => {
                        free.insert(segment);
                    }
                    Entry::Occupied(taken) if taken.get().is_sound && is_sound => {
                        found.doubles.push(segment);
                    }
                    Entry::Occupied(mut taken) if is_sound => drop(taken.insert(segment)),
                    Entry::Occupied(_) => {}
                }
            }
            // Whatever it was, mail may be in it: it is left alone.
            Identity::Segment(header) | Identity::Damaged(header) => found.damage.push(format!(
                "{name} in {}: it belongs to shard {}",
                device.place(),
                header.shard
            )),
            Identity::Unknown => found.unknown.push(name),
            Identity::Spare => {
                let file = device.open(&name).await.map_err(device_error)?;
                let segment_bytes = file_bytes;
                found.spares.push(Spare { number, file, segment_bytes, zeroed_bytes: 0 });
            }
        }
    }
    found.checkpoints.sort_by_key(|lsn| std::cmp::Reverse(*lsn));
    Ok(found)
}

pub(super) fn check_shard<D: Device>(
    device: &D,
    options: &Options,
    found: &Found<D>,
) -> Result<(), Error> {
    let by_superblock = found.superblocks.first().map(|superblock| superblock.shard);
    let by_mark = found.begun.map(|begun| begun.shard);
    let by_segment = found.segments.values().next().map(|segment| segment.header.shard);
    match by_superblock.or(by_mark).or(by_segment) {
        Some(shard) if shard != options.shard => Err(Error::Open {
            place: device.place(),
            what: format!(
                "it holds shard {shard}, not shard {}; point the shard at its own directory",
                options.shard
            ),
        }),
        _ => Ok(()),
    }
}
