//! What knobs are worth: three disks, each with the knobs of all three.
//! `cargo run --release -p kura-benches --example knobs [DIR]`; DIR is on the real disk to use.
//!
//! The real disk is measured first, as `quickstart` does it. The other two are models of
//! shipped profiles in virtual time (`timed.rs`), under the real store. Each session delivers a
//! message of 4 KiB, waits until it is durable, and delivers the next. On the diagonal a disk
//! has its own knobs.
//!
//! Sessions cost the simulated cores what an earlier run of benches/peers/run measured: 109 µs at
//! 0.35 flushes a message and 68 µs at 0.14 make 41 µs a message and 195 µs a flush. On the real
//! disk there are no sockets or protocols, so rates there are those of the store alone;
//! benches/knobs.py has the whole server.
//!
//! Then each shipped disk at half of its rate: what the store's own order of things makes of a disk
//! that keeps to its median.

mod load;
mod timed;

use hwprofiles::{Knobs, Profile};
use load::{Beside, Load, Outcome, on_real_disk, on_simulated_disk};
use std::path::PathBuf;
use std::time::Duration;
use timed::Medium;

/// As many as the machine of the published figures; also keeps the simulated segments in memory.
const CORES: u32 = 2;
const SESSIONS: [usize; 2] = [16, 64];
const REAL_FOR: Duration = Duration::from_millis(1000);
const FLASH_FOR: Duration = Duration::from_secs(2);
const PLATTER_FOR: Duration = Duration::from_secs(20);
/// Typical average seek for writing, 7200 turns a minute: HGST Ultrastar 7K4000 specification,
/// section 4.4.1.1.
const SEEK_NANOS: u64 = 8_200_000;

fn main() {
    let place = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(&place).expect("a directory to write into");
    let budget = Duration::from_millis(1500);
    let real = hwprofiles::measure(directory.path(), budget).expect("the disk can be measured");
    let flash = on_two_cores("nvme-consumer");
    let platter = on_two_cores("rotating");
    println!(
        "{}, Linux {}, {} cores; simulated disks: seed 1",
        real.date, real.kernel, real.host.cores
    );

    let profiles = [("this disk's", &real), ("consumer SSD's", &flash), ("platter's", &platter)];
    for sessions in SESSIONS {
        println!(
            "\n{sessions} sessions, 4 KiB: messages/s, p50 / p99 / p99.9 ms, flushes a message"
        );
        row("", &profiles.map(|(name, _)| format!("{name} knobs")));
        let outcomes = |run: &dyn Fn(&Knobs) -> Outcome| {
            profiles.map(|(_, profile)| run(&hwprofiles::derive(profile)).to_string())
        };
        row(
            "this disk",
            &outcomes(&|knobs| {
                let directory = tempfile::tempdir_in(&place).expect("a directory to write into");
                on_real_disk(directory.path(), knobs, sessions, REAL_FOR)
            }),
        );
        let simulated = |medium: fn(&Profile) -> Medium, profile, time| {
            outcomes(&|knobs| {
                on_simulated_disk(medium(profile), knobs, CORES, sessions, Load::Closed, time)
            })
        };
        row("consumer SSD", &simulated(flash_of, &flash, FLASH_FOR));
        row("platter", &simulated(platter_of, &platter, PLATTER_FOR));
    }
    half_loads();
}

/// The shipped profiles' disks, each with its own knobs, at half of the rate that it carries: how
/// many of the disk's small flushes the slow messages take, alone; and where half of that are
/// messages and as many are expunged, beside compaction, scrub and backup.
fn half_loads() {
    println!(
        "\n16 sessions, 4 KiB, half of the closed loop's rate: p50 / p99 / p99.9 in flushes of the disk's"
    );
    row("", &["messages/s".to_owned(), "alone".to_owned(), "beside upkeep".to_owned()]);
    type Modelled = fn(&Profile) -> Medium;
    let disks: [(_, Modelled, _); 6] = [
        ("nvme-plp", write_through_of, FLASH_FOR),
        ("nvme-consumer", flash_of, FLASH_FOR),
        ("sata-ssd", flash_of, FLASH_FOR),
        ("cloud-block", write_through_of, FLASH_FOR),
        ("raid-bbu", write_through_of, FLASH_FOR),
        ("rotating", platter_of, PLATTER_FOR),
    ];
    for (name, medium, time) in disks {
        let profile = on_two_cores(name);
        let knobs = hwprofiles::derive(&profile);
        let run = |load| on_simulated_disk(medium(&profile), &knobs, CORES, 16, load, time);
        let per_second = run(Load::Closed).per_second() / 2.0;
        let flushes = |per_second, beside| {
            let outcome = run(Load::Open { per_second, beside });
            let flush = profile.disk.flush[0].p50_us / 1e3;
            let [p50, p99, p999] = outcome.milliseconds([0.5, 0.99, 0.999]).map(|ms| ms / flush);
            format!("{p50:.1} / {p99:.1} / {p999:.1}")
        };
        let cells = [
            format!("{per_second:.0}"),
            flushes(per_second, Beside::Nothing),
            flushes(per_second / 2.0, Beside::Upkeep),
        ];
        row(name, &cells);
    }
}

fn row(name: &str, cells: &[String]) {
    let cells: String = cells.iter().map(|cell| format!(" {cell:<38}")).collect();
    println!("{name:<14}{}", cells.trim_end());
}

fn on_two_cores(name: &str) -> Profile {
    let mut profile = hwprofiles::shipped(name).expect("a shipped profile");
    profile.host.cores = CORES;
    profile
}

/// A small flush, and what each further byte costs, from the ends of the curve up to 1 MiB.
fn figures(profile: &Profile) -> (u64, f64) {
    let curve: Vec<_> = profile.disk.flush.iter().filter(|point| point.bytes <= 1 << 20).collect();
    let (first, last) = (curve[0], curve[curve.len() - 1]);
    let nanos_per_byte = (last.p50_us - first.p50_us) * 1e3 / (last.bytes - first.bytes) as f64;
    ((first.p50_us * 1e3) as u64, nanos_per_byte)
}

fn flash_of(profile: &Profile) -> Medium {
    let (flush, nanos_per_byte) = figures(profile);
    Medium::Flash { bus: Default::default(), nanos_per_byte, flush, next: Default::default() }
}

fn write_through_of(profile: &Profile) -> Medium {
    let (trip, nanos_per_byte) = figures(profile);
    let most =
        profile.disk.overlap.iter().map(|point| point.flushes_per_second).fold(1.0, f64::max);
    let (bus, operations) = (Default::default(), Default::default());
    Medium::WriteThrough {
        bus,
        operations,
        nanos_per_byte,
        nanos_per_operation: (1e9 / most) as u64,
        trip,
    }
}

fn platter_of(profile: &Profile) -> Medium {
    let (turn, nanos_per_byte) = figures(profile);
    let (arm, last) = (Default::default(), Default::default());
    Medium::Platter { arm, nanos_per_byte, turn, seek: SEEK_NANOS, last }
}
