//! The bytes on the disk, as FORMAT.md specifies them. Pure: no I/O here.
//!
//! All integers are little-endian; every frame carries a checksum that covers where it belongs
//! (shard, segment incarnation), so that stale bytes of a recycled segment never verify.
//!
//! From the outside in: [`segment`], [`batch`] and [`record`] are headers; [`kinds`] says what
//! records say, [`delivered`] a message's, [`moves`] and [`past`] the kinds that upkeep writes and
//! those about what is remembered; `fields` are what kinds are made of, and [`cursor`] reads and
//! writes those. [`packed`]: compressed bodies.

pub mod batch;
pub mod cursor;
pub mod delivered;
pub(crate) mod fields;
pub mod kinds;
pub mod moves;
pub mod packed;
pub mod past;
pub mod record;
pub mod segment;

pub use batch::{BATCH_HEADER_BYTES, BatchHeader};
pub use cursor::{Malformed, Reader, Writer};
pub use delivered::{ChunkRef, Delivered, PlacedRecord};
pub use fields::Pairs;
pub use kinds::{COUNT_UNKNOWN, NewMailbox, Record, UidRange, is_packed};
pub use moves::{Base, Move, Moved, Reference};
pub use packed::{PACKED_BYTES_MAX, Packer, Unpacker};
pub use past::{Forgot, Shown, Undeleted};
pub use record::{RECORD_HEADER_BYTES, RecordHeader};
pub use segment::{SEGMENT_HEADER_BYTES, SegmentHeader};

/// One incarnation of a segment, and the epoch in every frame's checksum. Comes again only when the
/// segment was given up behind the log's end; then the run tells the two apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SegmentId(pub u32);

impl SegmentId {
    /// Numbers from here on are cold segments: they hold what compaction has copied. They are no
    /// part of the sequence that is replayed.
    pub const FIRST_COLD: SegmentId = SegmentId(1 << 31);

    #[must_use]
    pub fn is_cold(self) -> bool {
        self >= SegmentId::FIRST_COLD
    }
}

/// Where a record's header starts. Records are aligned to eight bytes, so 32 bits reach 32 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Location {
    pub segment: SegmentId,
    pub eighths: u32,
}

impl Location {
    #[must_use]
    pub fn new(segment: SegmentId, offset: u64) -> Location {
        debug_assert!(offset.is_multiple_of(8));
        let eighths = u32::try_from(offset / 8).expect("a segment below 32 GiB");
        Location { segment, eighths }
    }

    #[must_use]
    pub fn offset(self) -> u64 {
        u64::from(self.eighths) * 8
    }
}

/// Records start at multiples of this.
pub const RECORD_ALIGNMENT: usize = 8;

/// The version of every frame header that this code writes.
pub const FORMAT_VERSION: u8 = 1;
