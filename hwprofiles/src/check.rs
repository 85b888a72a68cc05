//! Whether a host is still what its profile says: the profile against a brief new
//! measurement. Pure.
//!
//! A measurement of a second is off by a quarter easily, and a busy host makes most flushes
//! slow, but none fast. So the fastest flush is compared both ways: one that is much faster than
//! before may not reach the medium any more. Medians and bandwidth only count when they got
//! worse, by a wider factor.

use crate::derive::size;
use crate::profile::{FlushPoint, Profile};
use serde::Serialize;
use std::fmt;

/// The fastest small flush may differ by this factor either way.
const BEST_BAND: f64 = 2.0;
/// Medians and bandwidths may get worse by this factor.
const BUSY_BAND: f64 = 2.5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Same,
    /// A fact is another one.
    Changed,
    /// A figure is beyond what noise explains.
    Drifted,
    /// The profile does not say.
    Unknown,
}

/// One thing that was compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub what: &'static str,
    pub verdict: Verdict,
    pub then: String,
    pub now: String,
    /// What to do, when it is not the same.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub mend: &'static str,
}

impl Check {
    /// Whether an operator should look at it.
    #[must_use]
    pub fn unwell(&self) -> bool {
        matches!(self.verdict, Verdict::Changed | Verdict::Drifted)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Check { what, then, now, mend, .. } = self;
        match self.verdict {
            Verdict::Same => write!(f, "ok       {what}: {now}"),
            Verdict::Unknown => write!(f, "unknown  {what}: {now}; the profile does not say"),
            Verdict::Changed => write!(f, "changed  {what}: was {then}, is {now}; {mend}"),
            Verdict::Drifted => write!(f, "drifted  {what}: was {then}, is {now}; {mend}"),
        }
    }
}

const MEASURE: &str = "measure again: `kura profile probe`";
const FASTER: &str = "either the host was busy when it was measured, or a flush no longer reaches the medium (write cache, \
                      hypervisor): if you know of nothing that was switched, `kura profile probe`";

/// Compares the profile in use with one that was just measured in the same directory.
#[must_use]
pub fn compare(then: &Profile, now: &Profile) -> Vec<Check> {
    if !then.measured() {
        return vec![Check {
            what: "origin",
            verdict: Verdict::Changed,
            then: "figures that were not measured here".to_owned(),
            now: "a host that can be measured".to_owned(),
            mend: MEASURE,
        }];
    }
    let mut checks = facts(then, now);
    checks.extend(figures(then, now));
    checks
}

fn facts(then: &Profile, now: &Profile) -> Vec<Check> {
    let are_loops = !then.device.backing.is_empty() && !now.device.backing.is_empty();
    let device = |p: &Profile| {
        // The numbers of loop devices move between boots.
        if are_loops {
            return format!("a loop device over {}", p.device.backing);
        }
        let parts = [&p.device.name, &p.device.model, &p.device.serial];
        let known: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).cloned().collect();
        known.join(" ")
    };
    let mount = |p: &Profile| {
        [p.file_system.kind.as_str(), p.file_system.options.as_str()].join(" ").trim().to_owned()
    };
    let direct = |p: &Profile| if p.disk.direct { "works" } else { "refused" }.to_owned();
    let yes_no = |flag: Option<bool>| flag.map_or(String::new(), |flag| flag.to_string());
    let cores = |p: &Profile| p.host.cores.to_string();
    vec![
        fact("kernel", then.kernel.clone(), now.kernel.clone(), MEASURE),
        fact("cores", cores(then), cores(now), MEASURE),
        memory(then, now),
        fact("device", identity(then, device(then)), identity(then, device(now)), MEASURE),
        fact(
            "write cache",
            then.device.write_cache.clone(),
            now.device.write_cache.clone(),
            "somebody switched it: find out who and why before more mail is trusted to it",
        ),
        fact("FUA", yes_no(then.device.fua), yes_no(now.device.fua), MEASURE),
        fact("scheduler", then.device.scheduler.clone(), now.device.scheduler.clone(), MEASURE),
        fact(
            "file system",
            mount(then),
            mount(now),
            "mount it as before, or measure again: `kura profile probe`",
        ),
        capacity(then, now),
        fact("O_DIRECT", direct(then), direct(now), MEASURE),
    ]
}

/// Names like vda move between boots; a serial number does not.
fn identity(then: &Profile, text: String) -> String {
    if then.device.serial.is_empty() {
        text
    } else {
        text.split_once(' ').unwrap_or(("", "")).1.to_owned()
    }
}

fn fact(what: &'static str, then: String, now: String, mend: &'static str) -> Check {
    let verdict = match (then.is_empty(), then == now) {
        (_, true) => Verdict::Same,
        (true, false) => Verdict::Unknown,
        (false, false) => Verdict::Changed,
    };
    let mend = if verdict == Verdict::Changed { mend } else { "" };
    let or_none = |text: String| if text.is_empty() { "unknown".to_owned() } else { text };
    Check { what, verdict, then: or_none(then), now: or_none(now), mend }
}

/// The kernel keeps a little more or less for itself at each boot.
fn memory(then: &Profile, now: &Profile) -> Check {
    close("memory", then.host.memory_bytes, now.host.memory_bytes, 0.05)
}

fn capacity(then: &Profile, now: &Profile) -> Check {
    close("capacity", then.file_system.capacity_bytes, now.file_system.capacity_bytes, 0.01)
}

fn close(what: &'static str, then: u64, now: u64, band: f64) -> Check {
    let same = (then as f64 - now as f64).abs() <= band * then as f64;
    let verdict = if same { Verdict::Same } else { Verdict::Changed };
    let mend = if same { "" } else { MEASURE };
    Check { what, verdict, then: size(then), now: size(now), mend }
}

fn figures(then: &Profile, now: &Profile) -> Vec<Check> {
    let mut checks = Vec::new();
    let (before, after) = (then.smallest_flush(), now.smallest_flush());
    if let (Some(best_then), Some(best_now), true) =
        (before.best_us, after.best_us, before.bytes == after.bytes)
    {
        let within = best_now <= best_then * BEST_BAND && best_then <= best_now * BEST_BAND;
        let mut fastest = drift("fastest small flush", best_then, best_now, "µs", within);
        if fastest.unwell() && best_now < best_then {
            fastest.mend = FASTER;
        }
        checks.push(fastest);
        let within = after.p50_us <= before.p50_us * BUSY_BAND;
        checks.push(drift("small flush, p50", before.p50_us, after.p50_us, "µs", within));
    }
    // A full probe goes on to larger writes than the brief one: only the same size compares.
    let same = |point: &&FlushPoint| then.disk.flush.iter().any(|p| p.bytes == point.bytes);
    if let Some(after) = now.disk.flush.iter().rev().find(same) {
        let before = then.disk.flush.iter().find(|point| point.bytes == after.bytes);
        let before = before.map_or(after.mb_per_second, |point| point.mb_per_second);
        let within = before <= after.mb_per_second * BUSY_BAND;
        checks.push(drift("synced bandwidth", before, after.mb_per_second, "MB/s", within));
    }
    checks
}

fn drift(what: &'static str, then: f64, now: f64, unit: &str, within: bool) -> Check {
    let verdict = if within { Verdict::Same } else { Verdict::Drifted };
    let mend = if within {
        ""
    } else {
        "look again on a quiet host; if it stays, find out why, then `kura profile probe`"
    };
    let text = |figure: f64| format!("{figure:.0} {unit}");
    Check { what, verdict, then: text(then), now: text(now), mend }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shipped;

    fn unwell(then: &Profile, now: &Profile) -> Vec<&'static str> {
        compare(then, now).iter().filter(|check| check.unwell()).map(|check| check.what).collect()
    }

    #[test]
    fn a_loop_device_is_known_by_its_file() {
        let mut then = shipped("virtio-ext4").unwrap();
        then.device.serial.clear();
        then.device.name = "loop0".to_owned();
        then.device.backing = "/srv/image on sda".to_owned();
        let mut now = then.clone();
        now.device.name = "loop7".to_owned();
        assert_eq!(unwell(&then, &now), Vec::<&str>::new());
        now.device.backing = "/srv/other on sda".to_owned();
        assert_eq!(unwell(&then, &now), ["device"]);
        // One that was measured before that was known.
        then.device.backing.clear();
        now.device.name = "loop0".to_owned();
        assert_eq!(unwell(&then, &now), Vec::<&str>::new());
    }

    #[test]
    fn what_changed_is_named_and_noise_is_not() {
        type Change = fn(&mut Profile);
        let cases: [(Change, &[&str]); 21] = [
            (|_| (), &[]),
            (|p| p.kernel = "7.0".to_owned(), &["kernel"]),
            (|p| p.host.cores = 64, &["cores"]),
            (|p| p.host.memory_bytes += 1 << 20, &[]),
            (|p| p.host.memory_bytes /= 2, &["memory"]),
            (|p| p.device.name = "vdb".to_owned(), &["device"]),
            (|p| p.device.write_cache = "write through".to_owned(), &["write cache"]),
            (|p| p.device.fua = Some(true), &["FUA"]),
            (|p| p.device.scheduler = "none".to_owned(), &["scheduler"]),
            (|p| p.file_system.options = "rw,nobarrier".to_owned(), &["file system"]),
            (|p| p.file_system.kind = "xfs".to_owned(), &["file system"]),
            (|p| p.file_system.capacity_bytes *= 2, &["capacity"]),
            (|p| p.file_system.free_bytes /= 2, &[]),
            (|p| p.disk.direct = false, &["O_DIRECT"]),
            (|p| p.disk.flush[0].best_us = Some(90.0), &[]),
            (|p| p.disk.flush[0].best_us = Some(10.0), &["fastest small flush"]),
            (|p| p.disk.flush[0].best_us = Some(130.0), &["fastest small flush"]),
            (|p| p.disk.flush[0].p50_us *= 10.0, &["small flush, p50"]),
            (|p| p.disk.flush[0].p50_us /= 10.0, &[]),
            (|p| p.disk.flush[3].mb_per_second *= 10.0, &[]),
            (|p| p.disk.flush[3].mb_per_second /= 10.0, &["synced bandwidth"]),
        ];
        let mut then = shipped("virtio-ext4").unwrap();
        then.disk.flush[0].best_us = Some(60.0);
        for (i, (change, expected)) in cases.into_iter().enumerate() {
            let mut now = then.clone();
            change(&mut now);
            assert_eq!(unwell(&then, &now), expected, "case {i}");
        }
    }

    #[test]
    fn bandwidth_is_compared_at_the_same_size() {
        let now = shipped("virtio-ext4").unwrap();
        let mut then = now.clone();
        let larger = FlushPoint { bytes: 4 << 20, mb_per_second: 20_000.0, ..then.disk.flush[3] };
        then.disk.flush.push(larger);
        then.disk.write_mb_per_second = 20_000.0;
        assert_eq!(unwell(&then, &now), [] as [&str; 0]);
    }

    #[test]
    fn a_flush_that_became_faster_is_no_slow_disk() {
        let mut then = shipped("virtio-ext4").unwrap();
        then.disk.flush[0].best_us = Some(179.0);
        let mut now = then.clone();
        now.disk.flush[0].best_us = Some(70.0);
        let told = |then, now| {
            let checks = compare(then, now);
            checks.into_iter().find(Check::unwell).expect("it is told").to_string()
        };
        assert!(told(&then, &now).contains("was busy"), "{}", told(&then, &now));
        assert!(told(&now, &then).contains("quiet host"), "{}", told(&now, &then));
    }

    #[test]
    fn a_disk_with_a_serial_number_may_get_another_name() {
        let mut then = shipped("virtio-ext4").unwrap();
        then.device.serial = "S1".to_owned();
        let mut now = then.clone();
        now.device.name = "vdb".to_owned();
        assert_eq!(unwell(&then, &now), [] as [&str; 0]);
        now.device.serial = "S2".to_owned();
        assert_eq!(unwell(&then, &now), ["device"]);
    }

    #[test]
    fn a_profile_that_was_never_measured_is_no_description_of_this_host() {
        let now = shipped("virtio-ext4").unwrap();
        let checks = compare(&shipped("generic").unwrap(), &now);
        assert!(checks.len() == 1 && checks[0].unwell());
        assert!(checks[0].to_string().contains("kura profile probe"));
    }

    #[test]
    fn every_line_says_what_was_and_what_is() {
        let then = shipped("virtio-ext4").unwrap();
        let mut now = then.clone();
        now.device.write_cache = "write through".to_owned();
        let lines: Vec<_> = compare(&then, &now).iter().map(ToString::to_string).collect();
        let line = lines.iter().find(|line| line.starts_with("changed")).unwrap();
        assert!(line.contains("was write back, is write through"), "{line}");
        assert!(lines.iter().all(|line| !line.contains('\n')));
    }
}
