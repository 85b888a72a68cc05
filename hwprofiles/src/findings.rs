//! What an operator has to know about a host before trusting mail to it. Pure, and
//! tested as a table.
//!
//! The question that matters most: does a flush reach the medium? It cannot be asked, only doubted:
//! a flush faster than its device's physics allow did not happen. Each class of device has a floor;
//! below it the profile says so, and what to look at.

use crate::figures::{CommitPath, CurvePoint};
use crate::profile::Profile;
use serde::Serialize;
use std::fmt;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Acknowledged mail may be lost at the next power cut.
    Wrong,
    /// Works, but slower or less surely than it could.
    Warning,
    /// Good to know.
    Note,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub what: String,
    /// What to change, or why nothing needs to be.
    pub mend: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Wrong => "WRONG",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        write!(f, "{severity}: {}; {}", self.what, self.mend)
    }
}

/// Everything that is to be said about `profile`, the worst first.
#[must_use]
pub fn findings(profile: &Profile) -> Vec<Finding> {
    let mut found = Vec::new();
    if profile.measured() {
        found.extend(not_a_disk(profile));
        found.extend(loop_device(profile));
        found.extend(too_fast(profile));
        found.extend(write_cache(profile));
        found.extend(no_direct(profile));
        found.extend(mount_options(profile));
        found.extend(scheduler(profile));
        found.extend(noisy(profile));
        found.extend(slower_than_burst(profile));
        found.extend(faster_path(profile));
        found.extend(profile.gaps.iter().map(|gap| note(gap, "the rest was measured")));
    } else {
        found.push(note(
            &format!(
                "these figures were not measured on this host ({})",
                profile.not_measured().unwrap_or_default()
            ),
            "run `kura profile probe` on the disk that is to hold the mail",
        ));
    }
    found.sort_by_key(|finding| finding.severity);
    found
}

fn wrong(what: &str, mend: &str) -> Finding {
    Finding { severity: Severity::Wrong, what: what.to_owned(), mend: mend.to_owned() }
}

fn warning(what: &str, mend: &str) -> Finding {
    Finding { severity: Severity::Warning, what: what.to_owned(), mend: mend.to_owned() }
}

fn note(what: &str, mend: &str) -> Finding {
    Finding { severity: Severity::Note, what: what.to_owned(), mend: mend.to_owned() }
}

fn not_a_disk(profile: &Profile) -> Option<Finding> {
    let kind = profile.file_system.kind.as_str();
    match kind {
        "tmpfs" | "ramfs" | "devtmpfs" => Some(wrong(
            &format!("{kind} is memory: nothing outlives a reboot, and a flush does nothing"),
            "put the data directory on a disk",
        )),
        "overlay" | "aufs" => Some(wrong(
            &format!("{kind} is a container's throw-away layer, with flushes of its own rules"),
            "mount a volume and put the data directory there",
        )),
        "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "virtiofs" | "ceph" | "glusterfs" => {
            Some(warning(
                &format!("{kind} is somebody else's disk: what a flush means is decided there"),
                "use a block device, or be sure that the server exports with sync",
            ))
        }
        kind if kind.starts_with("fuse") => Some(warning(
            &format!("{kind}: a flush means what that program makes of it"),
            "use a block device with ext4 or xfs",
        )),
        "btrfs" | "zfs" | "bcachefs" => Some(warning(
            &format!(
                "{kind} writes each block to a new place, so pre-written segments gain nothing"
            ),
            "ext4 or xfs for the data directory; on btrfs `chattr +C` on the empty directory",
        )),
        _ => None,
    }
}

fn loop_device(profile: &Profile) -> Option<Finding> {
    let device = &profile.device;
    (!device.backing.is_empty()).then(|| {
        warning(
            &format!(
                "{} is a loop device: what looks like a disk is the file {}, and each flush goes through the file system there",
                device.name, device.backing
            ),
            "good for a trial; for mail that matters put the data directory on a disk or a partition of its own",
        )
    })
}

/// What a device of this kind needs at least for an honest small flush, in microseconds, and why.
fn floor(profile: &Profile) -> Option<(f64, &'static str)> {
    let device = &profile.device;
    if device.power_loss_protection == Some(true) {
        return None;
    }
    if is_virtual(profile) {
        let why = "a flush that leaves a virtual machine costs the host more than that, so the \
                   host's cache may be `unsafe` or `writeback` in memory";
        return Some((20.0, why));
    }
    if device.rotational == Some(true) {
        let why = "a platter takes 4 to 11 ms for a turn, so a cache answers: right only if it is \
                   battery-backed";
        return Some((1_000.0, why));
    }
    if device.write_cache == "write back" {
        let why = "a flash page takes longer to program, so a volatile cache answers: right only if \
                   the data sheet promises power-loss protection";
        return Some((100.0, why));
    }
    let why = "no write crosses the bus and is answered so soon";
    (!device.name.is_empty()).then_some((5.0, why))
}

/// By the names that hypervisors give their disks.
pub(crate) fn is_virtual(profile: &Profile) -> bool {
    const NAMES: [&str; 4] = ["vd", "xvd", "nbd", "rbd"];
    const MODELS: [&str; 6] =
        ["QEMU", "Virtual", "VBOX", "Elastic Block", "PersistentDisk", "Msft"];
    let device = &profile.device;
    // Of a loop device, what its file is on.
    let disk = device.backing.rsplit_once(" on ").map_or(device.name.as_str(), |(_, disk)| disk);
    NAMES.iter().any(|name| disk.starts_with(name))
        || MODELS.iter().any(|model| device.model.contains(model))
}

fn too_fast(profile: &Profile) -> Option<Finding> {
    let point = profile.smallest_flush();
    let best = point.best_us.unwrap_or(point.p50_us);
    let (floor, why) = floor(profile)?;
    if best >= floor {
        return None;
    }
    let what = format!(
        "a flush of {} bytes took {best:.0} µs at best, too fast to be true under {floor:.0} µs: {why}",
        point.bytes
    );
    let mend = "check the write cache (`hdparm -W`, the controller's or hypervisor's cache mode), and \
                pull the plug once before trusting it; if the cache is protected, set \
                `power_loss_protection = true` under [device] of the profile";
    Some(wrong(&what, mend))
}

fn write_cache(profile: &Profile) -> Option<Finding> {
    let device = &profile.device;
    let protected = device.power_loss_protection == Some(true);
    match device.write_cache.as_str() {
        "write back" if !protected && is_virtual(profile) => Some(note(
            "the write cache is volatile, and behind it is a hypervisor that nobody can see through",
            "each commit pays for a flush; make sure that the host's cache mode is not `unsafe`",
        )),
        "write back" if !protected => Some(note(
            "the write cache is volatile: each commit pays for a flush",
            "leave it on (Kura flushes); a disk with power-loss protection commits many times faster",
        )),
        "write through" if device.rotational == Some(true) && !is_virtual(profile) => Some(note(
            "the kernel sends no flushes, since the device says that it needs none",
            "right with a battery-backed controller or a cache switched off; if somebody wrote `write \
             through` into /sys/block/…/queue/write_cache, write `write back` again",
        )),
        _ => None,
    }
}

fn no_direct(profile: &Profile) -> Option<Finding> {
    (!profile.disk.direct).then(|| {
        warning(
            &format!("{} takes no O_DIRECT: writes go through the page cache", kind(profile)),
            "use ext4 or xfs for the data directory; Kura works without, with more CPU and memory",
        )
    })
}

fn kind(profile: &Profile) -> &str {
    let kind = profile.file_system.kind.as_str();
    if kind.is_empty() { "this file system" } else { kind }
}

fn mount_options(profile: &Profile) -> Vec<Finding> {
    let has = |name: &str| profile.file_system.options.split(',').any(|option| option == name);
    let mut found = Vec::new();
    if has("nobarrier") || has("barrier=0") {
        found.push(wrong(
            "the file system is mounted without barriers: flushes stop in the kernel",
            "mount it without nobarrier / barrier=0, which only a protected cache would forgive",
        ));
    }
    if has("data=journal") {
        found.push(warning(
            "data=journal writes every byte twice",
            "mount it with data=ordered: Kura's log is its own journal",
        ));
    }
    if has("sync") {
        found.push(warning("the file system is mounted sync", "mount it without: Kura flushes"));
    }
    if has("discard") {
        found.push(note(
            "online discard is on: removing a segment may hold commits up",
            "mount without discard and enable fstrim.timer, should p99.9 matter",
        ));
    }
    found
}

fn scheduler(profile: &Profile) -> Option<Finding> {
    let device = &profile.device;
    let queue_of_its_own = device.name.starts_with("nvme") || is_virtual(profile);
    (queue_of_its_own && !matches!(device.scheduler.as_str(), "" | "none")).then(|| {
        note(
            &format!("scheduler {} sorts for a device that sorts by itself", device.scheduler),
            &format!("`echo none > /sys/block/{}/queue/scheduler` may save some CPU", device.name),
        )
    })
}

fn noisy(profile: &Profile) -> Option<Finding> {
    let point = profile.smallest_flush();
    let best = point.best_us.unwrap_or(point.p50_us);
    let text = |what: &str, factor: f64, of: &str| {
        format!("{what} of a small flush is {factor:.0} times {of}: somebody else used the disk")
    };
    let what = if point.p50_us > 5.0 * best {
        text("the median", point.p50_us / best, "the fastest")
    } else if point.p99_us > 20.0 * point.p50_us {
        text("p99", point.p99_us / point.p50_us, "the median")
    } else {
        return None;
    };
    Some(note(&what, "measure again on a quiet host"))
}

fn slower_than_burst(profile: &Profile) -> Option<Finding> {
    let sustained = profile.sustained?;
    (sustained.sustained_mb_per_second < 0.7 * sustained.burst_mb_per_second).then(|| {
        note(
            &format!(
                "writing fell from {:.0} to {:.0} MB/s within {:.0} s: a cache filled up, or the host \
                 was busy",
                sustained.burst_mb_per_second,
                sustained.sustained_mb_per_second,
                sustained.seconds
            ),
            "knobs follow the lower figure; measure with --time 600s to see where it ends",
        )
    })
}

/// Which way to commit was much faster than the one that the store takes, at one small stream.
fn faster_path(profile: &Profile) -> Option<Finding> {
    let smallest = profile.smallest_flush().bytes;
    let alone = |point: &&CurvePoint| {
        point.bytes == smallest && point.streams == 1 && point.prewritten && point.direct
    };
    let points = || profile.curve.iter().filter(alone);
    let taken = points().find(|point| point.path == CommitPath::RwfDsync)?;
    let best = points().min_by(|a, b| a.p50_us.total_cmp(&b.p50_us))?;
    (best.p50_us < 0.6 * taken.p50_us).then(|| {
        note(
            &format!(
                "{} commits in {:.0} µs here, RWF_DSYNC, which the store uses, in {:.0} µs",
                best.path.name(),
                best.p50_us,
                taken.p50_us
            ),
            "tell us: the kernel and device are in the profile",
        )
    })
}

#[cfg(test)]
#[path = "findings_tests.rs"]
mod tests;
