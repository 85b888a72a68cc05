//! Knobs as tables: known hosts, and the relations over a grid of made-up ones.

use super::*;
use crate::figures::{ChainPoint, Cpu, Sustained};
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
        ("commit_window_us", 0),
        ("pending_bytes_max", 64 * MIB),
        ("checkpoint_bytes", 256 * MIB),
        ("session_buffer_bytes", 256 * KIB),
        ("sessions_max", 24_105),
        ("admitted_messages_per_second", 9_174),
        ("upkeep_piece_bytes", 256 * KIB),
        ("lasting_bytes_per_second", 4_034_000_000),
        ("compaction_share_percent", 25),
        ("compaction_bytes_per_second", 672_164_102),
        ("scrub_share_percent", 1),
        ("backup_share_percent", 10),
        ("zstd_level", 0),
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
        ("batch_bytes_eager", 512 * KIB),
        ("batch_bytes_max", MIB),
        ("chains_in_flight", 1),
        ("commit_window_us", 2_075),
        ("pending_bytes_max", 16 * MIB),
        ("checkpoint_bytes", 32 * MIB),
        ("session_buffer_bytes", 256 * KIB),
        ("sessions_max", 8_192),
        ("admitted_messages_per_second", 6_103),
        ("upkeep_piece_bytes", MIB),
        ("lasting_bytes_per_second", 40_834_656),
        ("compaction_share_percent", 15),
        ("compaction_bytes_per_second", 6_125_198),
        ("scrub_share_percent", 1),
        ("backup_share_percent", 5),
        ("zstd_level", 0),
    ];
    assert_eq!(values(&profile), expected);
}

#[test]
fn nothing_measured_gives_knobs_that_any_flash_carries() {
    let knobs = derive(&shipped("generic").unwrap());
    assert_eq!(knobs.commit_window_us.value, 0);
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
        assert!(k.upkeep_piece_bytes.value <= k.batch_bytes_max.value, "{shown}");
        assert!(k.upkeep_piece_bytes.value.is_power_of_two(), "{shown}");
        let sizes = [&k.segment_bytes, &k.batch_bytes_max, &k.batch_bytes_eager];
        for bytes in sizes.into_iter().chain([&k.upkeep_piece_bytes]) {
            assert!(bytes.value.is_multiple_of(alignment), "{shown}");
        }
        let shares = [&k.compaction_share_percent, &k.scrub_share_percent, &k.backup_share_percent];
        assert!(shares.iter().map(|knob| knob.value).sum::<u64>() < 50, "{shown}");
        for (name, knob) in k.all() {
            let may_be_zero = ["commit_window_us", "zstd_level"].contains(&name);
            assert!(knob.value >= 1 || may_be_zero, "{name}: {shown}");
            assert!(matches!(knob.origin, Origin::Derived { .. }));
        }
    }
}

#[test]
fn there_is_one_log_where_flushes_wait_for_each_other() {
    // Fastest and typical flush, flushes a second by one and by two; logs on four cores.
    let cases = [
        (60.0, 80.0, 12_000.0, 20_000.0, 4),
        (60.0, 80.0, 12_000.0, 12_000.0, 4),
        (900.0, 1_600.0, 600.0, 1_100.0, 4),
        (900.0, 1_600.0, 600.0, 620.0, 1),
        // Each of two would wait for half of the other's flushes.
        (900.0, 1_600.0, 600.0, 890.0, 1),
        (900.0, 1_600.0, 600.0, 940.0, 4),
        // One that was held up while it was measured alone: its median says 700 a second.
        (900.0, 1_430.0, 386.0, 818.0, 1),
        (400.0, 1_600.0, 600.0, 620.0, 4),
        (2_100.0, 8_000.0, 120.0, 240.0, 1),
    ];
    for (best, p50, one, two, expected) in cases {
        let mut profile = shipped("generic").unwrap();
        profile.host.cores = 4;
        profile.disk.flush[0].best_us = Some(best);
        profile.disk.flush[0].p50_us = p50;
        profile.disk.overlap = vec![
            Overlap { writers: 1, flushes_per_second: one },
            Overlap { writers: 2, flushes_per_second: two },
        ];
        assert_eq!(derive(&profile).shards.value, expected, "{best} {one} {two}");
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
        // Quick ones: else there would be one log.
        profile.disk.flush[0].best_us = Some(100.0);
        profile.disk.overlap = points
            .iter()
            .map(|(writers, rate)| Overlap { writers: *writers, flushes_per_second: *rate })
            .collect();
        assert_eq!(derive(&profile).chains_in_flight.value, expected, "{cores}, {points:?}");
    }
}

#[test]
fn batches_end_at_the_knee_of_the_curve() {
    // MB/s at 4 KiB, 64 KiB, 256 KiB, 1 MiB, 4 MiB; eager and largest batch.
    let cases = [
        ([50.8, 761.8, 2272.6, 4848.1, 7007.8], 256 * KIB, MIB),
        ([50.0, 640.0, 2028.0, 4034.0, 4034.0], 256 * KIB, MIB),
        ([42.0, 560.0, 1450.0, 1500.0, 1500.0], 128 * KIB, 256 * KIB),
        ([0.5, 7.5, 26.0, 68.5, 110.0], 512 * KIB, MIB),
        ([100.0, 100.0, 100.0, 100.0, 100.0], 64 * KIB, 256 * KIB),
        ([100.0, 90.0, 80.0, 70.0, 60.0], 64 * KIB, 256 * KIB),
    ];
    for (rates, eager, most) in cases {
        let mut profile = shipped("generic").unwrap();
        let sizes = [4 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB];
        let point = |(bytes, mb_per_second): (u64, f64)| FlushPoint {
            bytes,
            best_us: None,
            p50_us: 100.0,
            p99_us: 100.0,
            mb_per_second,
        };
        profile.disk.flush = sizes.into_iter().zip(rates).map(point).collect();
        let knobs = derive(&profile);
        assert_eq!(
            (knobs.batch_bytes_eager.value, knobs.batch_bytes_max.value),
            (eager, most),
            "{rates:?}"
        );
    }
}

#[test]
fn chains_through_a_ring_count_more_than_writers() {
    let mut profile = shipped("generic").unwrap();
    profile.host.cores = 1;
    profile.disk.overlap = vec![
        Overlap { writers: 1, flushes_per_second: 100.0 },
        Overlap { writers: 4, flushes_per_second: 400.0 },
    ];
    assert_eq!(derive(&profile).chains_in_flight.value, 4);
    let chain = |form, in_flight, bytes, flushes_per_second| ChainPoint {
        form,
        in_flight,
        bytes,
        p50_us: 1.0,
        p99_us: 1.0,
        p999_us: 1.0,
        flushes_per_second,
    };
    profile.chains = vec![
        chain(ChainForm::RwfDsync, 1, 4096, 100.0),
        chain(ChainForm::RwfDsync, 2, 4096, 190.0),
        chain(ChainForm::RwfDsync, 4, 4096, 130.0),
        chain(ChainForm::LinkedFdatasync, 4, 4096, 400.0),
        chain(ChainForm::RwfDsync, 4, 65_536, 400.0),
    ];
    assert_eq!(derive(&profile).chains_in_flight.value, 2);
}

#[test]
fn compression_is_on_only_where_a_core_outruns_its_share_of_the_disk() {
    // MB/s of the disk, cores, zstd -1, zstd -3; the level.
    let cases = [
        (4000.0, 2, 500.0, 300.0, 0),
        (400.0, 2, 500.0, 300.0, 1),
        (400.0, 2, 500.0, 400.0, 3),
        (400.0, 2, 300.0, 200.0, 0),
        (95.0, 4, 500.0, 250.0, 3),
    ];
    for (disk, cores, level1, level3, expected) in cases {
        let mut profile = shipped("generic").unwrap();
        profile.host.cores = cores;
        profile.disk.write_mb_per_second = disk;
        profile.cpu = Some(cpu(level1, level3));
        assert_eq!(derive(&profile).zstd_level.value, expected, "{disk} {cores} {level1} {level3}");
    }
}

fn cpu(zstd1_mb_per_second: f64, zstd3_mb_per_second: f64) -> Cpu {
    Cpu {
        crc32_mb_per_second: 10_000.0,
        zstd1_mb_per_second,
        zstd1_ratio: 1.6,
        zstd3_mb_per_second,
        zstd3_ratio: 1.7,
        unzstd_mb_per_second: 1000.0,
        aes128_gcm_mb_per_second: 4000.0,
        aes256_gcm_mb_per_second: 3000.0,
        sha256_mb_per_second: 1500.0,
        rsa2048_sign_per_second: 1000.0,
        rsa2048_verify_per_second: 30_000.0,
        ed25519_verify_per_second: 8_000.0,
    }
}

#[test]
fn maintenance_follows_the_lasting_bandwidth() {
    let mut profile = shipped("virtio-ext4").unwrap();
    profile.sustained = Some(Sustained {
        seconds: 10.0,
        burst_mb_per_second: 4000.0,
        sustained_mb_per_second: 400.0,
    });
    let knobs = derive(&profile);
    assert_eq!(knobs.lasting_bytes_per_second.value, 400_000_000);
    assert_eq!(knobs.compaction_bytes_per_second.value, 100_000_000);
    // 10 TB a month take 4 MB/s.
    profile.file_system.capacity_bytes = 10_000_000_000_000;
    profile.disk.write_mb_per_second = 100.0;
    assert_eq!(derive(&profile).scrub_share_percent.value, 4);
}

#[test]
fn knobs_in_the_profile_win_and_show() {
    let mut profile = shipped("generic").unwrap();
    profile.knobs.insert("zstd_level".to_owned(), 3);
    let knob = derive(&profile).zstd_level;
    assert_eq!(knob.value, 3);
    assert!(matches!(knob.origin, Origin::Set { place } if place.contains("[knobs]")));
    let again = Profile::from_toml(&profile.to_toml()).unwrap();
    assert_eq!(derive(&again).zstd_level.value, 3);
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
