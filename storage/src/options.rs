//! Every knob of the store. The engine derives them from the host's measured profile.

use crate::error::Error;
use std::time::Duration;

/// What is longer than any law asks for was meant to be a hold.
const RETENTION_MAX: Duration = Duration::from_secs(3660 * 86_400);

/// Beyond it 256 KiB take more than some milliseconds, during which a core does nothing else.
pub const ZSTD_LEVEL_MAX: u8 = 9;

/// The active ones, and those that are read at the same time.
const OPEN_FILES_LEAST: usize = 16;

const PIECE_BYTES_MIN: usize = 16 << 10;
const PIECE_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Clone)]
pub struct Options {
    /// Which shard of the host this is; part of every frame's checksum.
    pub shard: u16,
    /// Size of new segments. Old ones keep theirs.
    pub segment_bytes: u64,
    /// Segments prepared ahead: allocated and written with zeroes, so that commits change no file
    /// metadata.
    pub spare_segments: usize,
    /// Beyond this (and beyond `spare_segments`), freed segments go back to the file system.
    pub spare_segments_max: usize,
    /// Of those, kept back from new mail, so that deleting works on a full disk.
    pub reserve_segments: usize,
    /// A batch is closed when it has reached this.
    pub batch_bytes_max: usize,
    /// While a batch is in flight, another one starts only with this much to write.
    pub batch_bytes_eager: usize,
    /// Chains of write and sync in flight at once, 1 to 16.
    pub chains_in_flight: usize,
    /// How long the first record waits for company before a batch starts on an idle log, when the
    /// last batch had company.
    pub commit_window: Duration,
    /// Bytes and records on their way to the disk; more mail is refused with `Busy`.
    pub pending_bytes_max: usize,
    pub pending_records_max: usize,
    /// A checkpoint is due when the log has grown by at least this since the last one …
    pub checkpoint_log_bytes_min: u64,
    /// … and by this many times what the last one wrote, so that checkpoints stay a small part of
    /// what is written …
    pub checkpoint_log_ratio: u64,
    /// … but never by more than this, so that the next opening stays short.
    pub checkpoint_log_bytes_max: u64,
    /// How much of the log may be garbage before compaction begins, in percent.
    pub garbage_percent_max: u8,
    /// Segments' files that are kept open. Spares, and what is read or written beside the log, come
    /// on top of that.
    pub open_files_max: usize,
    /// What compaction, scrub, backup and zeroes for spares read or write at a time: a commit waits
    /// for so much and no more.
    pub upkeep_piece_bytes: usize,
    /// What compaction may copy in a second; `None`: as much as commits leave.
    pub compaction_bytes_per_second: Option<u64>,
    /// Bodies are compressed at this level of zstd as they come in, 1 to 9; 0: they are
    /// stored as they are.
    pub zstd_level: u8,
    /// For so long what was expunged can be brought back, and accounts be seen as they were.
    /// Zero: not at all.
    pub retention: Duration,
    /// For the crash simulator alone: breaks a promise, so that a test can show that
    /// it would notice.
    pub sabotage: Option<Sabotage>,
}

/// A bug planted on purpose. Never set outside tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Batches are written and acknowledged without the sync.
    SkipSync,
    /// Records are acknowledged when their batch starts.
    AcknowledgeEarly,
    /// After opening, each mailbox gives its last UID out again once that message is gone.
    ReuseUid,
    /// Recovery drops the last batch.
    ForgetTail,
    /// Recovery takes a damaged tail for good.
    TrustTornTail,
    /// A checkpoint is named without being synced. The one bug of these that the store survives: it
    /// falls back to the checkpoint before, or to the log.
    NameCheckpointEarly,
    /// A segment is freed when its records are on their way elsewhere, before they are durable.
    FreeEarly,
    /// Compaction moves one row of a message and forgets the others, and what they keep alive.
    ForgetCopies,
    /// A segment is freed that the log cannot be replayed without.
    FreeUnreplayed,
    /// What has gone is forgotten before the retention is over.
    ForgetYoung,
    /// The segments of a backup's plan may be freed while they are copied.
    PlanWithoutHold,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            shard: 0,
            segment_bytes: 64 << 20,
            spare_segments: 4,
            spare_segments_max: 16,
            reserve_segments: 1,
            batch_bytes_max: 1 << 20,
            batch_bytes_eager: 256 << 10,
            chains_in_flight: 2,
            commit_window: Duration::ZERO,
            pending_bytes_max: 16 << 20,
            pending_records_max: 16_384,
            checkpoint_log_bytes_min: 64 << 20,
            checkpoint_log_ratio: 20,
            checkpoint_log_bytes_max: 512 << 20,
            garbage_percent_max: 20,
            open_files_max: 256,
            upkeep_piece_bytes: 256 << 10,
            compaction_bytes_per_second: None,
            zstd_level: 0,
            retention: Duration::ZERO,
            sabotage: None,
        }
    }
}

impl Options {
    /// Small enough that segments roll and checkpoints fall due within a short test.
    #[must_use]
    pub fn for_tests() -> Options {
        Options {
            segment_bytes: 128 << 10,
            spare_segments: 2,
            batch_bytes_max: 16 << 10,
            batch_bytes_eager: 4 << 10,
            pending_bytes_max: 128 << 10,
            checkpoint_log_bytes_min: 64 << 10,
            checkpoint_log_ratio: 1,
            checkpoint_log_bytes_max: 256 << 10,
            ..Options::default()
        }
    }

    /// The largest record: whatever one operation writes fits into a segment with room to spare.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        let quarter = usize::try_from(self.segment_bytes / 4).unwrap_or(usize::MAX);
        quarter.min(4 << 20)
    }

    /// Bodies above this go into the log as chunks of this.
    #[must_use]
    pub fn chunk_bytes(&self) -> usize {
        (256 << 10).min(self.record_bytes_max() / 2)
    }

    pub fn check(&self) -> Result<(), Error> {
        let refuse = |what| Err(Error::Options(what));
        if self.segment_bytes < 64 << 10 || self.segment_bytes > 16 << 30 {
            return refuse("segment_bytes must be from 64 KiB to 16 GiB");
        }
        if !self.segment_bytes.is_multiple_of(crate::buffer::ALIGNMENT as u64) {
            return refuse("segment_bytes must be a multiple of 4096");
        }
        if self.chains_in_flight == 0 || self.chains_in_flight > 16 {
            return refuse("chains_in_flight must be from 1 to 16");
        }
        if self.batch_bytes_max < 4096 || self.batch_bytes_max as u64 > self.segment_bytes / 4 {
            return refuse("batch_bytes_max must be from 4096 to a quarter of segment_bytes");
        }
        if self.pending_bytes_max < self.batch_bytes_max {
            return refuse("pending_bytes_max must be at least batch_bytes_max");
        }
        if self.pending_bytes_max < 2 * self.chunk_bytes() {
            return refuse("pending_bytes_max must hold two chunks of a large body (512 KiB)");
        }
        if self.reserve_segments > self.spare_segments {
            return refuse("reserve_segments must be at most spare_segments");
        }
        if self.garbage_percent_max == 0 || self.garbage_percent_max > 45 {
            return refuse("garbage_percent_max must be from 1 to 45");
        }
        if self.open_files_max < OPEN_FILES_LEAST {
            return refuse("open_files_max must be at least 16");
        }
        if self.zstd_level > ZSTD_LEVEL_MAX {
            return refuse(
                "zstd_level must be from 0 to 9; higher ones would hold a core too long",
            );
        }
        if self.retention > RETENTION_MAX {
            return refuse("retention must be at most ten years");
        }
        let piece = self.upkeep_piece_bytes;
        if !piece.is_power_of_two() || !(PIECE_BYTES_MIN..=PIECE_BYTES_MAX).contains(&piece) {
            return refuse("upkeep_piece_bytes must be a power of two from 16 KiB to 4 MiB");
        }
        if self.compaction_bytes_per_second == Some(0) {
            return refuse(
                "compaction_bytes_per_second must be above zero; leave it out for no bound",
            );
        }
        Ok(())
    }
}
