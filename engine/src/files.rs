//! How many files this process may have open, and for what: segments of the stores, connections,
//! all else.
//!
//! Without a file a store could not go on, so what stores may need comes first. Connections have
//! what is left.

/// Sockets to other servers, what the control plane has open.
const BESIDE_CONNECTIONS: u64 = 400;
/// What a shard has open beside the segments that it keeps open: 9 rings, epoll sets and bells; up
/// to 33 spares (16 that are kept, 16 that are being freed, one that is written ahead); lock,
/// superblock, checkpoints and directory, 5 together; 16 of which a look back reads the headers;
/// and what is read after it was closed to make room, by whoever began before. With everything at
/// once (mail, readers, compaction, scrub, backup, verify, a look back) 23 were seen, in a store of
/// 600 segments (2026-11-27). The rest is margin.
const OF_A_SHARD: u64 = 80;
/// However few may be open.
const CONNECTIONS_MIN: u64 = 16;

/// Of all, one part of so many is for segments that are kept open; which are more is read as well,
/// with one call more.
const SEGMENTS_PART: u64 = 8;
const SEGMENTS_MIN: u64 = 16;
const SEGMENTS_MAX: u64 = 1024;

/// So many may be open.
#[must_use]
pub fn most() -> u64 {
    rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(u64::MAX, |(most, _)| most)
}

/// Segments that each of so many stores keeps open.
#[must_use]
pub fn segments(shards: usize) -> usize {
    usize::try_from(segments_of(most(), shards)).unwrap_or(usize::MAX)
}

/// Connections that leave the stores the files that they need.
#[must_use]
pub fn connections(shards: usize) -> usize {
    usize::try_from(connections_of(most(), shards)).unwrap_or(usize::MAX)
}

fn segments_of(most: u64, shards: usize) -> u64 {
    (most / SEGMENTS_PART / (shards as u64).max(1)).clamp(SEGMENTS_MIN, SEGMENTS_MAX)
}

fn connections_of(most: u64, shards: usize) -> u64 {
    let of_stores = (segments_of(most, shards) + OF_A_SHARD) * shards as u64;
    most.saturating_sub(BESIDE_CONNECTIONS + of_stores).max(CONNECTIONS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stores_need_comes_first_and_connections_have_the_most_of_many() {
        assert_eq!((segments_of(1024, 2), connections_of(1024, 2)), (64, 336));
        assert_eq!((segments_of(350, 2), connections_of(350, 2)), (21, 16));
        assert_eq!((segments_of(1024, 16), connections_of(1024, 16)), (16, 16));
        assert_eq!((segments_of(65_536, 8), connections_of(65_536, 8)), (1024, 56_304));
        assert_eq!(segments_of(u64::MAX, 64), 1024);
    }
}
