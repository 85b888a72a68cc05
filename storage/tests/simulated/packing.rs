//! Compressed bodies come back as they were, take what they take, and cost no promise.

use crate::common::*;
use bytes::Bytes;
use std::time::Duration;
use storage::device::Device;
use storage::device::sim::{Random, Sim};
use storage::{Body, Error, Options, Quota, Store, Uid};

/// What people write, as far as a compressor can tell.
fn words(random: &mut Random, length: usize) -> Vec<u8> {
    const WORDS: [&str; 8] =
        ["the ", "mail ", "of yesterday ", "was ", "late, ", "Regards\r\n", "> ", "=3D\r\n"];
    let mut text = Vec::with_capacity(length + 16);
    while text.len() < length {
        text.extend_from_slice(WORDS[random.index(8)].as_bytes());
    }
    text.truncate(length);
    text
}

/// Words, bytes that do not shrink, and both, of lengths around every bound.
fn some_body(random: &mut Random, number: u32, chunk_bytes: usize) -> Vec<u8> {
    let lengths = [0, 1, 255, 256, 700, 5_000, chunk_bytes - 1, chunk_bytes, chunk_bytes + 1];
    let length = match random.index(12) {
        place if place < 9 => lengths[place],
        _ => random.index(4 * chunk_bytes),
    };
    match random.index(3) {
        0 => body(number, length).to_vec(),
        1 => words(random, length),
        _ => {
            let mut mixed = words(random, length / 2);
            mixed.extend_from_slice(&body(number, length - length / 2));
            mixed
        }
    }
}

fn packing(level: u8) -> Options {
    Options { zstd_level: level, ..Options::for_tests() }
}

async fn deliver(store: &Store<Sim>, body: &[u8], pieces: Option<usize>) -> Uid {
    let mut one = delivery(vec![placement(ALICE, INBOX)], 0, 0);
    one.body = match pieces {
        None => Body::Whole(Bytes::copy_from_slice(body)),
        Some(piece_bytes) => {
            let mut writer = store.body_writer().expect("admitted");
            for piece in body.chunks(piece_bytes) {
                writer.push(Bytes::copy_from_slice(piece)).await.expect("takes it");
            }
            Body::Streamed(writer.finish().await.expect("finished"))
        }
    };
    store.deliver(one).await.expect("delivers").0[0].uid
}

/// The whole and parts of it, as FETCH BODY[]<n.m> asks for them.
async fn holds(store: &Store<Sim>, random: &mut Random, uid: Uid, body: &[u8]) {
    let message = [b"Delivered-To: 1\r\n", body].concat();
    let read = store.read(ALICE, INBOX, uid, 0..u64::MAX).await.expect("reads");
    assert!(read == message, "{uid:?}");
    for _ in 0..8 {
        let start = random.index(message.len() + 2);
        let end = start + random.index(message.len() + 2);
        let part = store.read(ALICE, INBOX, uid, start as u64..end as u64).await.expect("reads");
        let within = start.min(message.len())..end.min(message.len());
        assert!(part == message[within.clone()], "{uid:?} {within:?}");
    }
}

#[test]
fn whatever_comes_in_comes_back_exactly_also_in_parts_chunks_and_after_a_crash() {
    for seed in 0..12 {
        let sim = Sim::new(seed);
        let level = [1, 3, 9][seed as usize % 3];
        let bodies = on_sim_unclosed(&sim, packing(level), move |store, _| async move {
            with_accounts(&store).await;
            let chunk_bytes = packing(1).chunk_bytes();
            let (mut random, mut bodies) = (Random::new(seed), Vec::new());
            for number in 0..40 {
                let body = some_body(&mut random, number, chunk_bytes);
                let pieces = [None, Some(1_000), Some(40_000)][random.index(3)];
                let uid = deliver(&store, &body, pieces).await;
                bodies.push((uid, body));
            }
            for (uid, body) in &bodies {
                holds(&store, &mut random, *uid, body).await;
            }
            let stats = store.stats();
            assert!(stats.packed_bodies > 10 && stats.packed_declined > 5, "{stats:?}");
            assert!(stats.packed_bytes_after * 10 <= stats.packed_bytes_before * 9, "{stats:?}");
            let bytes: usize = bodies.iter().map(|(_, body)| body.len()).sum();
            assert_eq!(stats.bytes_received, bytes as u64, "received is what came");
            bodies
        });
        let bodies = bodies.expect("comes to its end");
        // Opened with or without compression: what is packed says so itself.
        let later = packing(if seed % 2 == 0 { 0 } else { 1 });
        on_sim(&sim.after_crash(), later, move |store| async move {
            let mut random = Random::new(seed);
            for (uid, body) in &bodies {
                holds(&store, &mut random, *uid, body).await;
            }
            assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
        });
    }
}

#[test]
fn a_quota_counts_what_was_received_and_not_what_is_stored() {
    let sim = Sim::new(3);
    on_sim(&sim, packing(3), |store| async move {
        let quota = Quota { bytes_max: Some(100_000), messages_max: None };
        store.create_account(ALICE, quota).await.expect("alice");
        let body = words(&mut Random::new(3), 40_000 - b"Delivered-To: 1\r\n".len());
        for _ in 0..2 {
            deliver(&store, &body, None).await;
        }
        assert_eq!(store.usage(ALICE).expect("usage").bytes, 80_000);
        assert_eq!(store.entry(ALICE, INBOX, Uid(1)).expect("an entry").bytes, 40_000);
        let mut third = delivery(vec![placement(ALICE, INBOX)], 0, 0);
        third.body = Body::Whole(body.into());
        let refused = store.deliver(third).await;
        assert!(matches!(refused, Err(Error::OverQuota)), "{refused:?}");
        let stats = store.stats();
        assert!(stats.log_live_bytes < 40_000, "{stats:?}");
    });
}

#[test]
fn compaction_moves_packed_bodies_and_chunks_as_they_are() {
    let sim = Sim::new(4);
    let options = Options {
        segment_bytes: 64 << 10,
        spare_segments: 1,
        checkpoint_log_bytes_min: 128 << 10,
        checkpoint_log_bytes_max: 128 << 10,
        ..packing(1)
    };
    on_sim(&sim, options.clone(), move |store| async move {
        with_accounts(&store).await;
        let mut random = Random::new(4);
        let mut kept = Vec::new();
        for number in 0..700 {
            let body = if number % 30 == 0 {
                let mut mixed = words(&mut random, 40_000);
                mixed.extend_from_slice(&body(number, 20_000));
                mixed
            } else {
                words(&mut random, 2_000 + number as usize)
            };
            let uid = deliver(&store, &body, None).await;
            if number % 30 == 0 {
                kept.push((uid, body));
            } else {
                store.expunge(ALICE, INBOX, &[uid]).await.expect("expunges");
            }
        }
        for _ in 0..300 {
            store.device().sleep(Duration::from_millis(2)).await;
        }
        let stats = store.stats();
        assert!(stats.bytes_moved > 100_000 && stats.segments_freed > 5, "{stats:?}");
        for (uid, body) in &kept {
            holds(&store, &mut random, *uid, body).await;
        }
        assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
    });
}

#[test]
fn rot_in_a_packed_body_costs_that_message_alone() {
    let sim = Sim::new(5);
    let disk = sim.clone();
    on_sim(&sim, packing(1), |store| async move {
        with_accounts(&store).await;
        let mut random = Random::new(5);
        let bodies = [words(&mut random, 9_000), words(&mut random, 9_000)];
        for body in &bodies {
            deliver(&store, body, None).await;
        }
        // Two packed bodies are all that these blocks hold: the magic of a zstd frame
        // leads to the first.
        let magic = [0x28, 0xB5, 0x2F, 0xFD];
        let (name, at) = disk
            .files()
            .into_iter()
            .filter(|file| file.name.starts_with("log-"))
            .find_map(|file| {
                let bytes = disk.contents(&file.name)?;
                Some((file.name, bytes.windows(4).position(|window| window == magic)?))
            })
            .expect("a packed body");
        assert!(disk.flip(&name, at as u64 + 40, 2));
        let rotten = store.read(ALICE, INBOX, Uid(1), 0..u64::MAX).await;
        assert!(matches!(rotten, Err(Error::Corrupt { .. })), "{rotten:?}");
        holds(&store, &mut random, Uid(2), &bodies[1]).await;
        assert_eq!(store.verify().await.expect("verifies").bad.len(), 1);
    });
}

#[test]
fn a_store_without_compression_writes_what_it_always_did() {
    let sim = Sim::new(6);
    on_sim(&sim, packing(0), |store| async move {
        with_accounts(&store).await;
        let body = words(&mut Random::new(6), 9_000);
        deliver(&store, &body, None).await;
        let stats = store.stats();
        assert_eq!((stats.packed_bodies, stats.packed_declined), (0, 0));
        assert!(stats.log_live_bytes > 9_000);
    });
    let refused = Options { zstd_level: 10, ..Options::for_tests() }.check();
    assert!(matches!(refused, Err(Error::Options(_))), "{refused:?}");
}
