//! Knobs as tables: known hosts, and the relations over a grid of made-up ones.

use super::*;
use crate::profile::{Overlap, shipped};

fn values(profile: &Profile) -> Vec<(&'static str, u64)> {
    derive(profile).all().into_iter().map(|(name, knob)| (name, knob.value)).collect()
}

#[test]
fn a_fast_virtual_disk_with_two_cores() {
    let profile = shipped("virtio-ext4").unwrap();
    let expected = vec![
        ("shards", 2),
        ("segment_bytes", 64 * MIB),
        ("spare_segments", 4),
        ("batch_bytes_eager", 256 * KIB),
        ("batch_bytes_max", MIB),
        ("chains_in_flight", 2),
        ("commit_window_us", 163),
        ("pending_bytes_max", 64 * MIB),
        ("checkpoint_bytes", 256 * MIB),
        ("session_buffer_bytes", 256 * KIB),
        ("sessions_max", 24_105),
    ];
    assert_eq!(values(&profile), expected);
}

#[test]
fn a_platter_has_one_log_and_a_commit_window() {
    let profile = shipped("rotating").unwrap();
    let expected = vec![
        ("shards", 1),
        ("segment_bytes", 8 * MIB),
        ("spare_segments", 2),
        ("batch_bytes_eager", MIB),
        ("batch_bytes_max", MIB),
        ("chains_in_flight", 1),
        ("commit_window_us", 2_075),
        ("pending_bytes_max", 16 * MIB),
        ("checkpoint_bytes", 32 * MIB),
        ("session_buffer_bytes", 256 * KIB),
        ("sessions_max", 8_192),
    ];
    assert_eq!(values(&profile), expected);
}

#[test]
fn nothing_measured_gives_knobs_that_any_flash_carries() {
    let knobs = derive(&shipped("generic").unwrap());
    assert_eq!(knobs.commit_window_us.value, 400);
    assert_eq!(knobs.chains_in_flight.value, 1);
}

/// Hosts from a toy to a monster; not all of them are likely.
fn grid() -> Vec<Profile> {
    let mut hosts = Vec::new();
    for cores in [1, 2, 48, 512] {
        for memory in [128 * MIB, 1 << 30, 1 << 40] {
            for capacity in [32 * MIB, 1 << 30, 1 << 45] {
                for flush_us in [5.0, 100.0, 1_999.0, 2_001.0, 50_000.0] {
                    for bandwidth in [0.1, 80.0, 20_000.0] {
                        let mut profile = shipped("generic").unwrap();
                        profile.host.cores = cores;
                        profile.host.memory_bytes = memory;
                        profile.file_system.capacity_bytes = capacity;
                        profile.file_system.free_bytes = capacity / 2;
                        profile.disk.write_mb_per_second = bandwidth;
                        for (i, point) in profile.disk.flush.iter_mut().enumerate() {
                            point.p50_us = flush_us * (i + 1) as f64;
                            point.mb_per_second = point.bytes as f64 / point.p50_us;
                        }
                        hosts.push(profile);
                    }
                }
            }
        }
    }
    hosts
}

#[test]
fn the_relations_between_knobs_hold_on_every_host() {
    for profile in grid() {
        let k = derive(&profile);
        let shown = format!("{profile:?}\n{k:?}");
        let alignment = u64::from(profile.disk.alignment_bytes);
        assert!(k.batch_bytes_eager.value <= k.batch_bytes_max.value, "{shown}");
        assert!(4 * k.batch_bytes_max.value <= k.pending_bytes_max.value, "{shown}");
        assert!(4 * k.batch_bytes_max.value <= k.segment_bytes.value, "{shown}");
        let buffers = k.sessions_max.value * k.session_buffer_bytes.value;
        assert!(buffers <= profile.host.memory_bytes / 2, "{shown}");
        for bytes in [&k.segment_bytes, &k.batch_bytes_max, &k.batch_bytes_eager] {
            assert!(bytes.value.is_multiple_of(alignment), "{shown}");
        }
        for (name, knob) in k.all() {
            assert!(knob.value >= 1 || name == "commit_window_us", "{name}: {shown}");
            assert!(matches!(knob.origin, Origin::Derived { .. }));
        }
    }
}

#[test]
fn chains_grow_only_while_the_device_overlaps_them() {
    let cases = [
        (1, vec![], 1),
        (1, vec![(1, 100.0)], 1),
        (1, vec![(1, 100.0), (2, 120.0), (4, 140.0)], 1),
        (1, vec![(1, 100.0), (2, 120.0), (4, 190.0)], 4),
        (1, vec![(1, 100.0), (2, 125.0), (4, 130.0)], 2),
        (1, vec![(4, 300.0), (1, 100.0), (2, 180.0)], 4),
        (1, vec![(1, 100.0), (2, 180.0), (4, 300.0), (8, 600.0)], 4),
        (2, vec![(1, 100.0), (2, 180.0), (4, 300.0)], 2),
        (8, vec![(1, 100.0), (2, 180.0), (4, 300.0)], 1),
    ];
    for (cores, points, expected) in cases {
        let mut profile = shipped("generic").unwrap();
        profile.host.cores = cores;
        profile.disk.overlap = points
            .iter()
            .map(|(writers, rate)| Overlap { writers: *writers, flushes_per_second: *rate })
            .collect();
        assert_eq!(derive(&profile).chains_in_flight.value, expected, "{cores}, {points:?}");
    }
}

#[test]
fn the_operator_sets_a_knob_by_name_and_it_shows() {
    let mut knobs = derive(&shipped("generic").unwrap());
    knobs.set("shards", 3, "kura.toml, store.shards").unwrap();
    assert_eq!(knobs.shards.value, 3);
    let place = "kura.toml, store.shards".to_owned();
    assert_eq!(knobs.shards.origin, Origin::Set { place });
    let error = knobs.set("shard", 3, "kura.toml").unwrap_err().to_string();
    assert!(error.contains("\"shard\"") && error.contains("segment_bytes"), "{error}");
}

#[test]
fn sizes_read_well() {
    let cases = [
        (100, "100 bytes"),
        (4096, "4 KiB"),
        (1536, "1.5 KiB"),
        (64 * MIB, "64 MiB"),
        (270_000_000_000, "251.5 GiB"),
    ];
    for (bytes, text) in cases {
        assert_eq!(size(bytes), text);
    }
}
