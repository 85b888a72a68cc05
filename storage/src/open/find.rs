//! What is on the disk: every file's name, and what a segment's file says that it is.

use super::device_error;
use crate::checkpoint::file_lsn;
use crate::device::{Device, Listed};
use crate::error::Error;
use crate::format::SegmentId;
use crate::log::scan::FoundSegment;
use crate::log::segments::{self, Identity, Spare};
use crate::options::Options;
use crate::superblock::{self, Begun, Superblock};
use crate::types::Lsn;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;

/// So many files are open at once, and as many reads on their way to the disk.
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
        if let Some(number) = segments::file_number(&listed.name) {
            found.next_number = found.next_number.max(number + 1);
            logs.push((number, listed));
        }
    }
    let identities = identify_all(device, &logs).await.map_err(device_error)?;
    for ((number, listed), identity) in logs.into_iter().zip(identities) {
        let (name, place) = (&listed.name, device.place());
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
                let file_bytes = listed.bytes;
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
                "{} in {}: it belongs to shard {}",
                listed.name,
                device.place(),
                header.shard
            )),
            Identity::Unknown => found.unknown.push(listed.name),
            Identity::Spare => {
                let file = device.open(&listed.name).await.map_err(device_error)?;
                let segment_bytes = listed.bytes;
                found.spares.push(Spare { number, file, segment_bytes, zeroed_bytes: 0 });
            }
        }
    }
    found.checkpoints.sort_by_key(|lsn| std::cmp::Reverse(*lsn));
    Ok(found)
}

async fn identify_all<D: Device>(device: &D, logs: &[(u32, Listed)]) -> io::Result<Vec<Identity>> {
    let mut identities = Vec::with_capacity(logs.len());
    for logs in logs.chunks(HEADS_AT_ONCE) {
        let names: Vec<String> = logs.iter().map(|(_, listed)| listed.name.clone()).collect();
        for ((_, listed), head) in logs.iter().zip(device.read_heads(&names).await?) {
            let by_head = head.ok().and_then(|head| segments::identify_by(head.as_slice()));
            identities.push(match by_head {
                Some(identity) => identity,
                // It has rotted or can't be read, which is looked at more closely.
                None => {
                    let file = device.open(&listed.name).await?;
                    segments::identify(device, &file, listed.bytes).await?
                }
            });
        }
    }
    Ok(identities)
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
