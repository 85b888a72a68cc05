//! From figures to knobs. Pure: the same profile gives the same knobs.
//!
//! Each knob carries its formula in words and the figures that went in, so that `kura profile show`
//! can answer "why this number?". The operator may set any of them by name, in `[knobs]` of the
//! profile's file; then the origin says so.
//!
//! Relations that hold for every valid profile (tested over a grid of made-up hosts):
//! `batch_bytes_eager <= batch_bytes_max`, `4 * batch_bytes_max <= pending_bytes_max`,
//! `4 * batch_bytes_max <= segment_bytes`, `upkeep_piece_bytes <= batch_bytes_max`,
//! `sessions_max * session_buffer_bytes <= memory / 2`, the shares of compaction, scrub and backup
//! leave more than half of the disk to mail, sizes are multiples of the alignment, everything but
//! `zstd_level` and `commit_window_us` is at least one.

use crate::figures::ChainForm;
use crate::profile::{FlushPoint, Overlap, Profile};
use serde::Serialize;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A small flush that takes longer than this waits for a platter, or is as bad as one.
const SLOW_FLUSH_US: f64 = 2_000.0;
/// A flush that takes longer than this is worth more than a core of one's own.
const DEAR_FLUSH_US: f64 = 500.0;
/// Two writers that flush less than so many times as often as one wait for each other more than
/// they gain.
const QUEUED_GAIN: f64 = 1.5;
/// Doubling the writers has to add so much of a lone writer's rate to be worth the latency.
const OVERLAP_GAIN: f64 = 0.25;
/// What a durable 4 KiB message costs the server's cores, all told, at 16 sessions: measured
/// on the host of `virtio-ext4` by benches/peers/run. Newer runs find less
/// (benches/README.md): on the safe side.
pub(crate) const MESSAGE_CPU_US: f64 = 109.0;
/// What a flush costs the cores, beside the messages in it: from the same runs at other rates.
const FLUSH_CPU_US: f64 = 195.0;
/// Of the cores, what compaction may take for its flushes.
const COMPACTION_CORES: f64 = 0.25;
/// The smallest message that rates are stated for, as written: 1.37 bytes for each of 4 KiB.
const MESSAGE_WRITTEN_BYTES: f64 = 4096.0 * 1.37;

/// One setting of the engine or the store, in the unit that its name ends with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Knob {
    pub value: u64,
    pub origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// How it is computed, and from which figures of this profile.
    Derived { formula: &'static str, figures: String },
    /// Set by the operator, and where.
    Set { place: String },
}

macro_rules! knobs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// All that a profile decides.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        pub struct Knobs {
            $($(#[$doc])* pub $name: Knob,)*
        }

        /// In the order of the struct.
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        impl Knobs {
            /// In the order of the struct, by name.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, &Knob)> {
                vec![$((stringify!($name), &self.$name),)*]
            }

            fn named(&mut self, name: &str) -> Option<&mut Knob> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)*
                    _ => None,
                }
            }
        }
    };
}

knobs! {
    /// Logs, indexes and cores that own them.
    shards,
    /// Size of a segment file of the log.
    segment_bytes,
    /// Segments that are kept written ahead for each shard.
    spare_segments,
    /// So much leaves at once even while earlier batches are in flight.
    batch_bytes_eager,
    /// No batch is larger.
    batch_bytes_max,
    /// Batches on their way to the disk at a time, for each shard.
    chains_in_flight,
    /// How long a batch waits for company when nothing is in flight; zero on fast disks.
    commit_window_us,
    /// What may wait for the disk in each shard before senders are told to come back later.
    pending_bytes_max,
    /// Log written between two checkpoints, hence read again after a crash, for each shard.
    checkpoint_bytes,
    /// Message bytes that a session holds in memory; larger messages stream into the log.
    session_buffer_bytes,
    /// Connections at a time, over all protocols and cores.
    sessions_max,
    /// Messages a second that this host is planned to take; `kura profile plan`
    /// measures demand by it.
    admitted_messages_per_second,
    /// What upkeep (compaction, scrub, backup, zeroes for spares) reads or writes at a time:
    /// commits wait behind it.
    upkeep_piece_bytes,
    /// What the disk keeps up for long in such pieces; scrub and backups take their shares of it.
    lasting_bytes_per_second,
    /// Of the disk's bandwidth, what compaction may take at most, in percent.
    compaction_share_percent,
    /// What compaction writes in a second at most, over all shards.
    compaction_bytes_per_second,
    /// The same for the scrubber, in percent.
    scrub_share_percent,
    /// The same for a backup, in percent.
    backup_share_percent,
    /// At which records are compressed; 0 when compressing would hold the disk up.
    zstd_level,
}

/// No knob has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no knob is called {name:?}; there are: {known}")]
pub struct UnknownKnob {
    pub name: String,
    pub known: String,
}

impl Knobs {
    /// In the type that a number of shards has.
    #[must_use]
    pub fn shards(&self) -> u16 {
        u16::try_from(self.shards.value).unwrap_or(u16::MAX)
    }

    /// In the type that memory is counted in.
    #[must_use]
    pub fn session_buffer_bytes(&self) -> usize {
        usize::try_from(self.session_buffer_bytes.value).unwrap_or(usize::MAX)
    }

    /// The operator's word wins. `place` is shown: a file and a key.
    pub fn set(&mut self, name: &str, value: u64, place: &str) -> Result<(), UnknownKnob> {
        Self::check_names([name])?;
        let knob = self.named(name).expect("the name was just checked");
        *knob = Knob { value, origin: Origin::Set { place: place.to_owned() } };
        Ok(())
    }

    /// That each of these is the name of a knob.
    pub(crate) fn check_names(
        names: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<(), UnknownKnob> {
        for name in names {
            let name = name.as_ref();
            if !NAMES.contains(&name) {
                let (name, known) = (name.to_owned(), NAMES.join(", "));
                return Err(UnknownKnob { name, known });
            }
        }
        Ok(())
    }
}

/// The knobs that suit `profile`, and those that its `[knobs]` set.
#[must_use]
pub fn derive(profile: &Profile) -> Knobs {
    let mut knobs = derive_all(profile);
    for (name, value) in &profile.knobs {
        // A profile with an unknown name does not load; one made in memory keeps what is derived.
        let _ = knobs.set(name, *value, "[knobs] of the profile");
    }
    knobs
}

fn derive_all(profile: &Profile) -> Knobs {
    let shards = shards(profile);
    let compaction_share_percent = compaction_share_percent(profile);
    let batch_bytes_max = batch_bytes_max(profile);
    let segment_bytes = segment_bytes(profile, batch_bytes_max.value, shards.value);
    let upkeep_piece_bytes = upkeep_piece_bytes(profile, batch_bytes_max.value);
    let lasting_bytes_per_second = lasting_bytes_per_second(profile, upkeep_piece_bytes.value);
    let session_buffer_bytes = session_buffer_bytes(profile);
    Knobs {
        spare_segments: spare_segments(profile, segment_bytes.value, shards.value),
        batch_bytes_eager: batch_bytes_eager(profile, batch_bytes_max.value),
        chains_in_flight: chains_in_flight(profile, shards.value),
        commit_window_us: commit_window_us(profile),
        pending_bytes_max: pending_bytes_max(profile, batch_bytes_max.value, shards.value),
        checkpoint_bytes: checkpoint_bytes(profile, segment_bytes.value, shards.value),
        sessions_max: sessions_max(profile, session_buffer_bytes.value),
        admitted_messages_per_second: admitted_messages_per_second(profile, batch_bytes_max.value),
        compaction_bytes_per_second: compaction_bytes_per_second(
            profile,
            [lasting_bytes_per_second.value, compaction_share_percent.value],
            upkeep_piece_bytes.value,
        ),
        scrub_share_percent: scrub_share_percent(profile, lasting_bytes_per_second.value),
        backup_share_percent: backup_share_percent(profile),
        zstd_level: zstd_level(profile, shards.value),
        compaction_share_percent,
        lasting_bytes_per_second,
        upkeep_piece_bytes,
        shards,
        segment_bytes,
        batch_bytes_max,
        session_buffer_bytes,
    }
}

fn derived(value: u64, formula: &'static str, figures: String) -> Knob {
    Knob { value, origin: Origin::Derived { formula, figures } }
}

/// The largest power of two that is at most `bytes`, within the bounds, which are powers of two.
fn power_of_two_within(bytes: f64, least: u64, most: u64) -> u64 {
    let bytes = bytes.clamp(least as f64, most as f64) as u64;
    1 << bytes.max(1).ilog2()
}

/// Whether small flushes take as long as on a platter. The kernel's `rotational` is not asked:
/// virtual disks claim it wrongly, and what counts is the time. Judged by the fastest flush seen: a
/// busy flash disk may take milliseconds for most of them, but no platter ever takes less.
fn slow(profile: &Profile) -> bool {
    let point = profile.smallest_flush();
    point.best_us.unwrap_or(point.p50_us) > SLOW_FLUSH_US
}

fn flush_text(point: FlushPoint) -> String {
    let best = point.best_us.map_or(String::new(), |best| format!(", {best:.0} at best"));
    format!("a flush of {} takes {:.0} µs{best}", size(point.bytes), point.p50_us)
}

/// Whether two writers flush little more often than one. Then several logs wait for each other's
/// flushes, where one would have had all that waits in its next. Quick flushes are not asked: there
/// the wait is short, and a busy host measures it wrongly.
fn flushes_queue_up(profile: &Profile) -> bool {
    let of = |writers| {
        let point = profile.disk.overlap.iter().find(|point| point.writers == writers);
        point.map(|point| point.flushes_per_second)
    };
    let point = profile.smallest_flush();
    let dear = point.best_us.unwrap_or(point.p50_us) > DEAR_FLUSH_US;
    // A busy host holds up single flushes for long, which their rate shows and their
    // median does not.
    let alone = 1e6 / point.p50_us;
    dear && matches!((of(1), of(2)), (Some(one), Some(two)) if two < one.max(alone) * QUEUED_GAIN)
}

fn shards(profile: &Profile) -> Knob {
    let cores = u64::from(profile.host.cores);
    // Several logs on one spinning disk are seeks; on flash their flushes overlap in the device, or
    // wait for each other: benches/README.md has what that costs.
    let one = slow(profile) || flushes_queue_up(profile);
    let value = if one { 1 } else { cores.min(64) };
    let rates: Vec<_> = profile
        .disk
        .overlap
        .iter()
        .filter(|point| point.writers <= 2)
        .map(|point| format!(", {:.0} flushes/s by {}", point.flushes_per_second, point.writers))
        .collect();
    let figures =
        format!("{cores} cores, {}{}", flush_text(profile.smallest_flush()), rates.concat());
    derived(
        value,
        "one for each core, at most 64; 1 when even the fastest small flush took over 2 ms, or over \
         0.5 ms and two writers flush less than 1.5 times as often as one (by its rate, or its median \
         where that is more)",
        figures,
    )
}

/// No batch is larger, whatever the curve: beyond it, a batch only takes longer.
const BATCH_BYTES_MOST: u64 = MIB;

/// The size of write at which the curve, up to the largest batch, reaches such a share of its best
/// throughput; between two points as on a log-log picture, to the nearest power of two.
fn knee(profile: &Profile, share: f64) -> (u64, String) {
    let curve = &profile.disk.flush;
    let fits = |point: &&FlushPoint| point.bytes <= BATCH_BYTES_MOST;
    let best = curve.iter().filter(fits).map(|point| point.mb_per_second).fold(0.0, f64::max);
    let enough = |point: &FlushPoint| point.mb_per_second >= share * best;
    let index = curve.iter().position(enough).unwrap_or(0);
    let (point, before) = (curve[index], curve[index.saturating_sub(1)]);
    let rise = (point.mb_per_second / before.mb_per_second).ln();
    let part = if rise > 0.0 { (share * best / before.mb_per_second).ln() / rise } else { 1.0 };
    let bytes = before.bytes as f64 * (point.bytes as f64 / before.bytes as f64).powf(part);
    let exponent = bytes.max(1.0).log2().round() as u32;
    let figures = format!(
        "{:.0} MB/s at {}, {:.0} at {}, {best:.0} at best up to {}",
        before.mb_per_second,
        size(before.bytes),
        point.mb_per_second,
        size(point.bytes),
        size(BATCH_BYTES_MOST)
    );
    (1 << exponent.min(62), figures)
}

fn batch_bytes_max(profile: &Profile) -> Knob {
    let (bytes, figures) = knee(profile, 0.9);
    let value = bytes.clamp(256 * KIB, BATCH_BYTES_MOST);
    derived(value, "the write with 90 % of the curve's best throughput, 256 KiB to 1 MiB", figures)
}

fn batch_bytes_eager(profile: &Profile, batch_bytes_max: u64) -> Knob {
    let (bytes, figures) = knee(profile, 0.5);
    let value = bytes.clamp(64 * KIB, batch_bytes_max);
    derived(
        value,
        "the write with half of the curve's best throughput, 64 KiB to batch_bytes_max",
        figures,
    )
}

/// Rates of small flushes by how many are under way: chains through one ring, as the store writes,
/// where they were measured; else writers of their own.
fn overlaps(profile: &Profile) -> Vec<Overlap> {
    let smallest = profile.smallest_flush().bytes;
    let as_the_store =
        |p: &&crate::figures::ChainPoint| p.form == ChainForm::RwfDsync && p.bytes == smallest;
    let mut points: Vec<_> = profile
        .chains
        .iter()
        .filter(as_the_store)
        .map(|p| Overlap { writers: p.in_flight, flushes_per_second: p.flushes_per_second })
        .collect();
    if points.is_empty() {
        points.clone_from(&profile.disk.overlap);
    }
    points.sort_by_key(|point| point.writers);
    points
}

fn chains_in_flight(profile: &Profile, shards: u64) -> Knob {
    let points = overlaps(profile);
    let alone =
        points.first().map_or(f64::INFINITY, |p| p.flushes_per_second / f64::from(p.writers));
    let pays = |p: &&Overlap| {
        p.flushes_per_second >= alone * (1.0 + OVERLAP_GAIN * f64::from(p.writers).log2())
    };
    // The shards overlap already; each adds what is missing.
    let writers = points.iter().filter(pays).map(|p| u64::from(p.writers)).max().unwrap_or(1);
    let value = writers.div_ceil(shards).min(4);
    let text = |p: &Overlap| format!("{:.0}/s by {}", p.flushes_per_second, p.writers);
    let figures = if points.is_empty() {
        "overlap not measured".to_owned()
    } else {
        let rates: Vec<_> = points.iter().map(text).collect();
        format!("flushes {}, {shards} shards", rates.join(", "))
    };
    let formula = "writers at once while each doubling adds 25 % more flushes, shared by the shards, \
                   at most 4";
    derived(value, formula, figures)
}

fn commit_window_us(profile: &Profile) -> Knob {
    let point = profile.smallest_flush();
    let (value, formula) = if slow(profile) {
        (
            (point.p50_us / 4.0).min(5_000.0),
            "how long the first message waits, so that others share its flush: a quarter of a small flush, at most 5 ms",
        )
    } else {
        // What comes during a flush is company enough: a window was tried, and cost
        // 7 % of the rate.
        (
            0.0,
            "0: no message waits for others to share its flush; those that come while the disk flushes share the next one, \
             which is enough where a flush is not slow",
        )
    };
    derived(value as u64, formula, flush_text(point))
}

fn segment_bytes(profile: &Profile, batch_bytes_max: u64, shards: u64) -> Knob {
    let bandwidth = profile.disk.write_mb_per_second * 1e6;
    let capacity = profile.file_system.capacity_bytes;
    // Small disks get small segments, so that there are enough of them to compact and recycle.
    let most = power_of_two_within(capacity as f64 / (64 * shards) as f64, 4 * MIB, 64 * MIB);
    let least = (4 * batch_bytes_max).min(most);
    let value = power_of_two_within(bandwidth / 10.0, least, most);
    let figures = format!(
        "{:.0} MB/s, {} in all, {shards} shards",
        profile.disk.write_mb_per_second,
        size(capacity)
    );
    let formula = "what the disk writes in 0.1 s, at most 1/64 of each shard's share of it, \
                   4 to 64 MiB";
    derived(value, formula, figures)
}

fn spare_segments(profile: &Profile, segment_bytes: u64, shards: u64) -> Knob {
    let share = profile.disk.write_mb_per_second * 1e6 / shards as f64;
    // Pre-writing is fresh writing beside the log's own: it needs a start.
    let wanted = (share * 0.1 / segment_bytes as f64).ceil() as u64;
    let room = profile.file_system.free_bytes / (16 * segment_bytes * shards);
    let value = wanted.clamp(2, 4).min(room.max(1));
    let figures = format!(
        "{:.0} MB/s over {shards} shards, segments of {}, {} free",
        profile.disk.write_mb_per_second,
        size(segment_bytes),
        size(profile.file_system.free_bytes)
    );
    let formula = "what a shard writes in 0.1 s, 2 to 4, in at most 1/16 of the free space";
    derived(value, formula, figures)
}

fn pending_bytes_max(profile: &Profile, batch_bytes_max: u64, shards: u64) -> Knob {
    let share = profile.disk.write_mb_per_second * 1e6 / shards as f64;
    let memory = (profile.host.memory_bytes / 16 / shards) as f64;
    let least = 4 * batch_bytes_max;
    let most = (64 * MIB).max(least);
    let value = power_of_two_within((share * 0.25).min(memory), least, most);
    let figures = format!(
        "{:.0} MB/s over {shards} shards, {} of memory",
        profile.disk.write_mb_per_second,
        size(profile.host.memory_bytes)
    );
    let formula = "what a shard writes in 0.25 s, at most 1/16 of its share of the memory, \
                   four batches to 64 MiB";
    derived(value, formula, figures)
}

fn checkpoint_bytes(profile: &Profile, segment_bytes: u64, shards: u64) -> Knob {
    let share = profile.disk.write_mb_per_second * 1e6 / shards as f64;
    // Reading is at least as fast as synced writing, and recovery checks what it reads: allow half.
    let value = power_of_two_within(share / 2.0, segment_bytes.min(16 * MIB), 256 * MIB);
    let figures = format!("{:.0} MB/s over {shards} shards", profile.disk.write_mb_per_second);
    let formula = "what a shard writes in 0.5 s, 16 to 256 MiB: opening reads it in under a second";
    derived(value, formula, figures)
}

fn session_buffer_bytes(profile: &Profile) -> Knob {
    let memory = profile.host.memory_bytes;
    let value = if memory >= 1 << 30 { 256 * KIB } else { 64 * KIB };
    let formula = "256 KiB; 64 KiB when there is less than 1 GiB of memory";
    derived(value, formula, format!("{} of memory", size(memory)))
}

fn sessions_max(profile: &Profile, session_buffer_bytes: u64) -> Knob {
    let memory = profile.host.memory_bytes;
    let value = (memory / 4 / session_buffer_bytes).clamp(64, 65_536);
    let figures = format!("{} of memory, {} each", size(memory), size(session_buffer_bytes));
    let formula = "so many that their buffers, all full, take a quarter of the memory, 64 to 65536";
    derived(value, formula, figures)
}

fn admitted_messages_per_second(profile: &Profile, batch_bytes_max: u64) -> Knob {
    let curve = &profile.disk.flush;
    let at_batch = curve.iter().rev().find(|point| point.bytes <= batch_bytes_max);
    let point = at_batch.copied().unwrap_or_else(|| profile.smallest_flush());
    let disk = point.mb_per_second * 1e6 / MESSAGE_WRITTEN_BYTES;
    let cores = f64::from(profile.host.cores) * 1e6 / MESSAGE_CPU_US;
    let value = (disk.min(cores) / 2.0).max(1.0) as u64;
    let figures = format!(
        "the disk {disk:.0}/s at {:.0} MB/s in batches of {}, {} cores {cores:.0}/s",
        point.mb_per_second,
        size(point.bytes),
        profile.host.cores
    );
    let formula = "half of what the slower of disk (5.6 kB written a message) and cores (109 µs a \
                   message) carries, at 4 KiB; the other half keeps the latency of the 250 short";
    derived(value, formula, figures)
}

/// What the disk keeps up for long, in millions of bytes a second.
fn lasting_bandwidth(profile: &Profile) -> f64 {
    let best = profile.disk.write_mb_per_second;
    profile.sustained.map_or(best, |sustained| sustained.sustained_mb_per_second.min(best))
}

fn upkeep_piece_bytes(profile: &Profile, batch_bytes_max: u64) -> Knob {
    let flush = profile.smallest_flush();
    let bandwidth = profile.disk.write_mb_per_second;
    let exponent = (flush.p50_us * bandwidth).max(1.0).log2().round() as u32;
    let value = (1u64 << exponent.min(62)).clamp(16 * KIB, batch_bytes_max);
    let formula = "what the disk writes while it flushes little, to a power of two, 16 KiB to \
                   batch_bytes_max: more would keep commits waiting, less would be moves of the head";
    derived(value, formula, format!("{}, {bandwidth:.0} MB/s", flush_text(flush)))
}

fn lasting_bytes_per_second(profile: &Profile, upkeep_piece_bytes: u64) -> Knob {
    let bandwidth = lasting_bandwidth(profile);
    let (bytes_per_second, formula, figures) = if slow(profile) {
        let flush = profile.smallest_flush();
        // The head goes there and comes back, and each move takes about as long as a turn.
        let seconds = 2.0 * flush.p50_us / 1e6 + upkeep_piece_bytes as f64 / (bandwidth * 1e6);
        let figures =
            format!("{bandwidth:.0} MB/s, {}, {}", flush_text(flush), size(upkeep_piece_bytes));
        let formula = "upkeep_piece_bytes at a time of what was written on and on, two flushes between them: \
                       the head moves there and back";
        (upkeep_piece_bytes as f64 / seconds, formula, figures)
    } else {
        let formula = "what was written on and on, or the best of short writes where that is less or not measured";
        (bandwidth * 1e6, formula, format!("{bandwidth:.0} MB/s"))
    };
    // A disk slower than 1 MB/s is read through some day, too.
    derived(bytes_per_second.max(MIB as f64) as u64, formula, figures)
}

fn compaction_share_percent(profile: &Profile) -> Knob {
    let value = if slow(profile) { 15 } else { 25 };
    let formula = "25: at 80 % live a byte of mail costs 0.6 more to compact, so a quarter of the \
                   disk keeps up with 40 % of it; 15 where each move of the head costs a commit";
    derived(value, formula, flush_text(profile.smallest_flush()))
}

fn compaction_bytes_per_second(
    profile: &Profile,
    [lasting_bytes_per_second, share_percent]: [u64; 2],
    upkeep_piece_bytes: u64,
) -> Knob {
    let lasting = lasting_bytes_per_second as f64;
    let of_disk = lasting * share_percent as f64 / 100.0;
    // On a disk that flushes at once it is the cores that mail would wait for.
    let flushes = COMPACTION_CORES * f64::from(profile.host.cores) * 1e6 / FLUSH_CPU_US;
    let of_cores = flushes * upkeep_piece_bytes as f64;
    // A disk slower than 1 MB/s still has to get its space back some day.
    let value = of_disk.min(of_cores).max(256.0 * KIB as f64);
    let figures = format!(
        "{:.0} MB/s for long, {share_percent} %, {} cores, {}",
        lasting / 1e6,
        profile.host.cores,
        size(upkeep_piece_bytes)
    );
    let formula = "compaction_share_percent of lasting_bytes_per_second; at most what a quarter of the cores \
                   carry, at 195 µs for each piece of upkeep_piece_bytes";
    derived(value as u64, formula, figures)
}

fn scrub_share_percent(profile: &Profile, lasting_bytes_per_second: u64) -> Knob {
    const MONTH_SECONDS: f64 = 30.0 * 86_400.0;
    let capacity = profile.file_system.capacity_bytes;
    let lasting = lasting_bytes_per_second as f64;
    let needed = capacity as f64 / MONTH_SECONDS / lasting * 100.0;
    let value = needed.ceil().clamp(1.0, 10.0) as u64;
    let figures = format!("{} at {:.0} MB/s", size(capacity), lasting / 1e6);
    derived(value, "the whole disk read once in 30 days, 1 to 10", figures)
}

fn backup_share_percent(profile: &Profile) -> Knob {
    let value = if slow(profile) { 5 } else { 10 };
    let formula = "10; 5 where each move of the head costs a commit";
    derived(value, formula, flush_text(profile.smallest_flush()))
}

fn zstd_level(profile: &Profile, shards: u64) -> Knob {
    let Some(cpu) = profile.cpu else {
        return derived(0, "off: the compressor was not measured", "no figures".to_owned());
    };
    let share = lasting_bandwidth(profile) / shards as f64;
    let value = if cpu.zstd3_mb_per_second >= 2.0 * share {
        3
    } else {
        u64::from(cpu.zstd1_mb_per_second >= 2.0 * share)
    };
    let figures = format!(
        "zstd -1 {:.0} MB/s, -3 {:.0} MB/s by a core, which writes {share:.0} MB/s",
        cpu.zstd1_mb_per_second, cpu.zstd3_mb_per_second
    );
    let formula =
        "3 or 1 where a core compresses twice what its share of the disk writes, else off";
    derived(value, formula, figures)
}

/// Bytes as people read them, exact where it is a round number of units.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in UNITS {
        if bytes >= unit {
            let whole = bytes.is_multiple_of(unit);
            let decimals = usize::from(!whole);
            return format!("{:.decimals$} {name}", bytes as f64 / unit as f64);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
#[path = "derive_tests.rs"]
mod tests;
