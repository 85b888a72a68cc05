//! What a full probe measures beyond the brief curve: one row for each point.
//!
//! Latencies are microseconds, rates count all streams of a point together, `mb` is 10^6 bytes.
//! Everything here may be absent: brief measurements, data sheets and older files have less.

use serde::{Deserialize, Serialize};

/// How a write is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitPath {
    /// `pwrite`, then `fdatasync`.
    WriteFdatasync,
    /// `pwrite` into a file opened with O_DSYNC.
    ODsync,
    /// `pwritev2` with RWF_DSYNC.
    RwfDsync,
}

impl CommitPath {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            CommitPath::WriteFdatasync => "write + fdatasync",
            CommitPath::ODsync => "O_DSYNC",
            CommitPath::RwfDsync => "RWF_DSYNC",
        }
    }
}

/// Durable writes of one size by so many threads, each into a file of its own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurvePoint {
    pub path: CommitPath,
    /// O_DIRECT, or through the page cache.
    pub direct: bool,
    /// Into blocks that were written before, or that are only allocated.
    pub prewritten: bool,
    pub streams: u32,
    pub bytes: u64,
    pub best_us: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub mb_per_second: f64,
    pub samples: u64,
}

/// How a ring is told to write durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainForm {
    /// A write and a linked fdatasync.
    LinkedFdatasync,
    /// One write with RWF_DSYNC, as the store does it.
    RwfDsync,
}

/// Durable writes through one ring into one file, so many in flight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainPoint {
    pub form: ChainForm,
    pub in_flight: u32,
    pub bytes: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub flushes_per_second: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Read,
    Write,
    /// Seven reads to three writes.
    Mixed,
}

/// Unsynced O_DIRECT reads and writes through one ring.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throughput {
    pub operation: Operation,
    pub random: bool,
    pub bytes: u64,
    pub depth: u32,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub operations_per_second: f64,
    pub mb_per_second: f64,
}

/// Large durable writes for a while: the best quarter second against the second half.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sustained {
    pub seconds: f64,
    pub burst_mb_per_second: f64,
    pub sustained_mb_per_second: f64,
}

/// What the file system's own bookkeeping costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    pub create_per_second: f64,
    /// Rename, then fsync of the directory.
    pub rename_sync_per_second: f64,
    pub unlink_per_second: f64,
}

/// What one core does in a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    pub crc32_mb_per_second: f64,
    /// Of input, made-up mail of text and base64.
    pub zstd1_mb_per_second: f64,
    pub zstd1_ratio: f64,
    pub zstd3_mb_per_second: f64,
    pub zstd3_ratio: f64,
    pub unzstd_mb_per_second: f64,
    /// TLS records of 16 KiB, sealed with AES-GCM.
    pub aes128_gcm_mb_per_second: f64,
    pub aes256_gcm_mb_per_second: f64,
    pub sha256_mb_per_second: f64,
    pub rsa2048_sign_per_second: f64,
    pub rsa2048_verify_per_second: f64,
    pub ed25519_verify_per_second: f64,
}

impl CurvePoint {
    pub(crate) fn figures(&self) -> [f64; 5] {
        [self.best_us, self.p50_us, self.p99_us, self.p999_us, self.mb_per_second]
    }
}

impl ChainPoint {
    pub(crate) fn figures(&self) -> [f64; 4] {
        [self.p50_us, self.p99_us, self.p999_us, self.flushes_per_second]
    }
}

impl Throughput {
    pub(crate) fn figures(&self) -> [f64; 5] {
        [self.p50_us, self.p99_us, self.p999_us, self.operations_per_second, self.mb_per_second]
    }
}

impl Sustained {
    pub(crate) fn figures(&self) -> [f64; 3] {
        [self.seconds, self.burst_mb_per_second, self.sustained_mb_per_second]
    }
}

impl Metadata {
    pub(crate) fn figures(&self) -> [f64; 3] {
        [self.create_per_second, self.rename_sync_per_second, self.unlink_per_second]
    }
}

impl Cpu {
    pub(crate) fn figures(&self) -> [f64; 12] {
        [
            self.crc32_mb_per_second,
            self.zstd1_mb_per_second,
            self.zstd1_ratio,
            self.zstd3_mb_per_second,
            self.zstd3_ratio,
            self.unzstd_mb_per_second,
            self.aes128_gcm_mb_per_second,
            self.aes256_gcm_mb_per_second,
            self.sha256_mb_per_second,
            self.rsa2048_sign_per_second,
            self.rsa2048_verify_per_second,
            self.ed25519_verify_per_second,
        ]
    }
}
