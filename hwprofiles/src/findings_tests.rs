//! The honesty rules as a table: one host each, and what has to be said of it.

use super::*;
use crate::figures::Sustained;
use crate::profile::{shipped, shipped_names};

/// An honest disk: bare metal, protected, ext4, nothing to say.
fn honest() -> Profile {
    let mut profile = shipped("virtio-ext4").unwrap();
    profile.device.name = "nvme0n1".to_owned();
    profile.device.rotational = Some(false);
    profile.device.write_cache = "write through".to_owned();
    profile.device.scheduler = "none".to_owned();
    profile.file_system.options = "rw,noatime".to_owned();
    profile.disk.flush[0].best_us = Some(25.0);
    profile
}

fn best(profile: &mut Profile, micros: f64) {
    let point = &mut profile.disk.flush[0];
    (point.best_us, point.p50_us, point.p99_us) = (Some(micros), micros * 1.2, micros * 2.0);
}

#[test]
fn each_rule_speaks_where_it_should_and_nowhere_else() {
    use Severity::{Note, Warning, Wrong};
    type Make = fn(&mut Profile);
    type Case = (&'static str, Make, &'static [(Severity, &'static str)]);
    let cases: [Case; 25] = [
        ("honest", |_| (), &[]),
        ("memory", |p| p.file_system.kind = "tmpfs".into(), &[(Wrong, "tmpfs is memory")]),
        ("container", |p| p.file_system.kind = "overlay".into(), &[(Wrong, "throw-away")]),
        ("network", |p| p.file_system.kind = "nfs4".into(), &[(Warning, "somebody else's disk")]),
        ("fuse", |p| p.file_system.kind = "fuse.sshfs".into(), &[(Warning, "that program")]),
        ("btrfs", |p| p.file_system.kind = "btrfs".into(), &[(Warning, "to a new place")]),
        ("faster than a bus", |p| best(p, 2.0), &[(Wrong, "too fast to be true")]),
        (
            "faster than a bus, but known",
            |p| {
                best(p, 2.0);
                p.device.power_loss_protection = Some(true);
            },
            &[],
        ),
        (
            "fast platter",
            |p| {
                p.device.name = "sda".into();
                p.device.rotational = Some(true);
                p.device.write_cache = "write back".into();
                best(p, 200.0);
            },
            &[(Wrong, "a platter"), (Note, "volatile")],
        ),
        (
            "honest platter",
            |p| {
                p.device.name = "sda".into();
                p.device.rotational = Some(true);
                p.device.write_cache = "write back".into();
                best(p, 6_000.0);
            },
            &[(Note, "volatile")],
        ),
        (
            "battery-backed controller",
            |p| {
                p.device.name = "sda".into();
                p.device.rotational = Some(true);
                p.device.power_loss_protection = Some(true);
                best(p, 100.0);
            },
            &[(Note, "sends no flushes")],
        ),
        (
            "fast desktop flash",
            |p| {
                p.device.write_cache = "write back".into();
                best(p, 30.0);
            },
            &[(Wrong, "a flash page"), (Note, "volatile")],
        ),
        (
            "honest desktop flash",
            |p| {
                p.device.write_cache = "write back".into();
                best(p, 900.0);
            },
            &[(Note, "volatile")],
        ),
        (
            "fast virtual disk",
            |p| {
                p.device.name = "vda".into();
                best(p, 8.0);
            },
            &[(Wrong, "virtual machine")],
        ),
        (
            "virtual disk",
            |p| {
                p.device.name = "vda".into();
                p.device.write_cache = "write back".into();
                p.device.rotational = Some(true);
                best(p, 60.0);
            },
            &[(Note, "hypervisor")],
        ),
        ("no O_DIRECT", |p| p.disk.direct = false, &[(Warning, "no O_DIRECT")]),
        ("no barriers", |p| p.file_system.options = "rw,nobarrier".into(), &[(Wrong, "barriers")]),
        ("barrier=0", |p| p.file_system.options = "rw,barrier=0".into(), &[(Wrong, "barriers")]),
        ("twice", |p| p.file_system.options = "data=journal".into(), &[(Warning, "twice")]),
        ("discard", |p| p.file_system.options = "rw,discard".into(), &[(Note, "discard")]),
        ("scheduler", |p| p.device.scheduler = "bfq".into(), &[(Note, "scheduler bfq")]),
        ("busy all the time", |p| p.disk.flush[0].p50_us = 4_000.0, &[(Note, "the median")]),
        ("busy", |p| p.disk.flush[0].p99_us = 9_000.0, &[(Note, "somebody else")]),
        (
            "cache fills",
            |p| {
                p.sustained = Some(Sustained {
                    seconds: 5.0,
                    burst_mb_per_second: 5000.0,
                    sustained_mb_per_second: 900.0,
                });
            },
            &[(Note, "fell from 5000 to 900")],
        ),
        ("gap", |p| p.gaps.push("io_uring does not work here".into()), &[(Note, "io_uring")]),
    ];
    for (name, make, expected) in cases {
        let mut profile = honest();
        make(&mut profile);
        let found = findings(&profile);
        assert_eq!(found.len(), expected.len(), "{name}: {found:?}");
        for (finding, (severity, words)) in found.iter().zip(expected) {
            assert_eq!(finding.severity, *severity, "{name}: {finding}");
            assert!(finding.what.contains(words), "{name}: {finding}");
            assert!(!finding.mend.is_empty(), "{name} says how to mend it");
            assert!(!finding.to_string().contains('\n'), "{name} is one line");
        }
    }
}

#[test]
fn the_worst_comes_first() {
    let mut profile = honest();
    profile.gaps.push("a gap".to_owned());
    profile.disk.direct = false;
    profile.file_system.kind = "tmpfs".to_owned();
    let order: Vec<_> = findings(&profile).iter().map(|finding| finding.severity).collect();
    assert_eq!(order, [Severity::Wrong, Severity::Warning, Severity::Note]);
}

#[test]
fn figures_from_elsewhere_say_so_and_nothing_else() {
    for name in shipped_names() {
        let profile = shipped(name).unwrap();
        let found = findings(&profile);
        if !profile.measured() {
            assert!(
                found.len() == 1 && found[0].what.contains("not measured on this host"),
                "{name}"
            );
        }
    }
}
