//! Where the log is known to have gone on behind all that was found of it, and nobody knows how
//! far: what was there is in no figure of a salvage.

use super::search::Searched;
use crate::device::Device;
use crate::format::SegmentId;
use crate::log::segments::file_name;
use crate::types::{Lsn, UnixMillis};

/// The last record that was found of the log, and when it was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogEnd {
    pub lsn: Lsn,
    pub time: UnixMillis,
}

/// The end of the log is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndMissing {
    /// What shows it.
    pub what: String,
    /// So far the log had come for certain, if that is known to be further than what was found.
    pub reached: Option<Lsn>,
}

pub(super) fn found<D: Device>(searched: &Searched<D>) -> LogEnd {
    let of_log = searched.records.iter().filter(|found| !found.location.segment.is_cold());
    let last = of_log.max_by_key(|found| found.lsn);
    last.map_or_else(LogEnd::default, |last| LogEnd { lsn: last.lsn, time: last.time })
}

/// `reached`: up to where a checkpoint, the superblock or a batch says that the log went.
pub(super) fn missing<D: Device>(
    searched: &Searched<D>,
    end: LogEnd,
    reached: Lsn,
) -> Option<EndMissing> {
    // Closed in order: where it ended is known, and what is missing is counted.
    if searched.closed_at.is_some() {
        return None;
    }
    let newest = searched.segments.range(..SegmentId::FIRST_COLD).next_back();
    let reached = Some(reached).filter(|reached| *reached > end.lsn);
    let what = match (newest, searched.begun) {
        (newest, Some(begun)) if newest.is_none_or(|(id, _)| *id < begun) => {
            format!("segment {} of the log, the newest, has no file", begun.0)
        }
        (Some((id, segment)), _) if segment.file_bytes < segment.header.segment_bytes => format!(
            "{}, which is segment {} of the log, the newest, is cut off after {} of {} bytes",
            file_name(segment.number),
            id.0,
            segment.file_bytes,
            segment.header.segment_bytes
        ),
        _ if reached.is_some() => "it had gone on behind what there is".to_owned(),
        (_, None) if !searched.has_superblock => {
            "the superblock is missing, which knew whether there is a newer file".to_owned()
        }
        _ => return None,
    };
    Some(EndMissing { what, reached })
}
