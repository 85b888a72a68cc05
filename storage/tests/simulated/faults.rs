//! Rot, lost files, failing writes, a full disk, a flood: what each costs, and what it does not.

use crate::common::*;
use storage::device::Device;
use storage::device::sim::{Executor, Fault, Random, Sim};
use storage::{Error, FlagChange, FlagMode, Flags, Options, Quota, Space, Store, Uid};

pub const MESSAGES: u32 = 60;

/// A store with sixty messages of two recipients, some expunged, closed or not.
pub fn filled(seed: u64, close: bool) -> Sim {
    let sim = Sim::new(seed);
    let fill = |store: Store<Sim>| async move {
        with_accounts(&store).await;
        for number in 0..MESSAGES {
            let both = vec![placement(ALICE, INBOX), placement(BOB, INBOX)];
            store.deliver(delivery(both, number, 2500)).await.expect("delivers");
        }
        store.expunge(BOB, INBOX, &[Uid(3), Uid(30)]).await.expect("expunges");
        store
    };
    left_by(&sim, close, fill)
}

/// What is on the disk once `fill` has had the store, which is closed then or not.
fn left_by<F: Future<Output = Store<Sim>> + 'static>(
    sim: &Sim,
    close: bool,
    fill: impl Fn(Store<Sim>) -> F + 'static,
) -> Sim {
    if close {
        on_sim(sim, Options::for_tests(), move |store| async move {
            fill(store).await;
        });
    } else {
        on_sim_unclosed(sim, Options::for_tests(), move |store, _| fill(store)).expect("fills");
    }
    sim.after_crash()
}

/// Alice's messages that come back as they were, and those that do not.
pub fn count_good(sim: &Sim) -> (u32, u32, Vec<String>, u32) {
    on_sim_unclosed(sim, Options::for_tests(), |store, _| async move {
        let (mut good, mut bad) = (0, 0);
        for number in 0..MESSAGES {
            match store.read(ALICE, INBOX, Uid(number + 1), 0..u64::MAX).await {
                Ok(bytes) => {
                    assert!(bytes == message(ALICE, number, 2500), "message {number} is whole");
                    good += 1;
                }
                Err(Error::Corrupt { place, .. }) => {
                    assert!(place.contains("log-") || place.starts_with("segment "), "{place}");
                    bad += 1;
                }
                Err(Error::NoSuchMessage(_) | Error::NoSuchAccount(_)) => bad += 1,
                Err(other) => panic!("{other}"),
            }
        }
        let report = store.verify().await.expect("verifies");
        let next = store.status(ALICE, INBOX).map_or(0, |status| status.uid_next.0);
        (good, bad, report.bad, next)
    })
    .expect("comes to its end")
}

/// Flips a byte somewhere in a log file that holds something; says where.
pub fn flip_somewhere(sim: &Sim, random: &mut Random) -> Option<String> {
    let files = sim.files();
    let is_log = |file: &&storage::device::Listed| file.name.starts_with("log-") && file.bytes > 0;
    let logs: Vec<_> = files.iter().filter(is_log).collect();
    let file = logs[random.index(logs.len())];
    let offset = random.below(file.bytes);
    let content = sim.contents(&file.name).expect("there");
    (content[usize::try_from(offset).expect("small")] != 0).then(|| {
        sim.flip(&file.name, offset, 1 << random.below(8));
        format!("{} at {offset}", file.name)
    })
}

#[test]
fn a_flipped_byte_costs_one_message_and_is_reported() {
    for close in [true, false] {
        let mut costs = [0; 3];
        for seed in 0..400 {
            let sim = filled(seed, close);
            let mut random = Random::new(seed);
            let Some(place) = flip_somewhere(&sim, &mut random) else { continue };
            let (good, bad, report, next) = count_good(&sim);
            assert!(bad <= 1, "{bad} messages lost by a byte in {place}: {report:#?}");
            assert_eq!(good + bad, MESSAGES);
            assert!(next > MESSAGES, "a UID could come again: {next}");
            if bad == 1 && place.contains("log-") {
                assert!(!report.is_empty(), "{place} is not reported");
            }
            costs[bad as usize] += 1;
        }
        assert!(costs[1] > 50, "most flips hit a message: {costs:?}");
    }
}

#[test]
fn a_checkpoint_with_a_flipped_byte_is_not_used_and_nothing_is_missing() {
    for seed in 0..40 {
        let sim = filled(seed, true);
        let mut random = Random::new(seed);
        for file in sim.files() {
            if file.name.starts_with("checkpoint") || (seed % 2 == 0 && file.name == "superblock") {
                sim.flip(&file.name, random.below(file.bytes), 0x10);
            }
        }
        let (good, bad, report, next) = count_good(&sim);
        assert_eq!((good, bad, next), (MESSAGES, 0, MESSAGES + 1), "{report:?}");
    }
}

#[test]
fn without_superblock_and_checkpoints_the_log_alone_gives_everything_back() {
    let sim = filled(1, true);
    let disk = sim.clone();
    Executor::new(&sim).block_on(async move {
        for file in disk.files() {
            if !file.name.starts_with("log-") {
                disk.remove(&file.name).await.expect("removes");
            }
        }
    });
    assert_eq!(count_good(&sim), (MESSAGES, 0, vec![], MESSAGES + 1));
}

#[test]
fn a_superblock_that_is_lost_is_told_once_and_what_takes_its_place() {
    type Loss = fn(&Sim);
    let cases: [(&str, Loss); 3] = [
        ("is empty", |sim| sim.put_file("superblock", Vec::new())),
        ("is missing", |sim| remove(sim, "superblock")),
        ("has no copy that verifies", |sim| sim.put_file("superblock", vec![0; 16_384])),
    ];
    for (how, lose) in cases {
        let sim = filled(1, true);
        assert_eq!(setbacks(&sim), Vec::<String>::new());
        lose(&sim);
        let told = setbacks(&sim);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("superblock") && told[0].contains(how), "{told:?}");
        assert!(
            told[0].contains("the whole log") && told[0].contains("newest segment"),
            "{told:?}"
        );
        assert_eq!(setbacks(&sim), Vec::<String>::new(), "made anew");
        assert_eq!(count_good(&sim).0, MESSAGES);
    }
    assert_eq!(setbacks(&Sim::new(3)), Vec::<String>::new(), "a new store has lost nothing");
}

fn setbacks(sim: &Sim) -> Vec<String> {
    on_sim(sim, Options::for_tests(), |store| async move { store.recovery().setbacks.clone() })
}

pub fn remove(sim: &Sim, name: &str) {
    let (disk, name) = (sim.clone(), name.to_owned());
    Executor::new(sim).block_on(async move { disk.remove(&name).await.expect("removes") });
}

/// Why the store does not open.
pub fn refusal(sim: &Sim) -> Option<String> {
    let disk = sim.clone();
    let opened = Executor::new(sim)
        .block_on(async move { Store::open(disk, Options::for_tests()).await })
        .expect("comes to its end");
    opened.err().map(|error| error.to_string())
}

pub fn is_segment(bytes: &[u8]) -> bool {
    bytes.starts_with(b"KURASEG\0")
}

/// FORMAT.md, "Segments".
pub fn segment_id(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes"))
}

/// Those of the log's files that are segments, cold ones too.
pub fn segments(sim: &Sim) -> impl Iterator<Item = (String, Vec<u8>)> {
    logs(sim).into_iter().filter(|(_, bytes)| is_segment(bytes))
}

pub fn logs(sim: &Sim) -> Vec<(String, Vec<u8>)> {
    let files = sim.files().into_iter().filter(|file| file.name.starts_with("log-"));
    files.map(|file| (file.name.clone(), sim.contents(&file.name).expect("there"))).collect()
}

#[test]
fn a_lost_segment_file_is_noticed_nothing_is_changed_and_it_can_be_put_back() {
    let (mut refused, mut reported) = (0, 0);
    // With and without a checkpoint that lets the log be read from a later place on.
    for close in [true, false] {
        let pristine = filled(3, close);
        let whole = logs(&pristine);
        for (name, bytes) in whole.iter().filter(|(_, bytes)| is_segment(bytes)) {
            let sim = pristine.after_crash();
            remove(&sim, name);
            if let Some(reason) = refusal(&sim) {
                assert!(reason.contains("missing"), "{reason}");
                let left: Vec<_> =
                    whole.iter().filter(|(other, _)| other != name).cloned().collect();
                assert!(logs(&sim) == left, "without {name} something was changed");
                refused += 1;
            } else if count_good(&sim.after_crash()).0 < MESSAGES {
                // Not replayed, but messages lie in it.
                let told = on_sim_unclosed(
                    &sim.after_crash(),
                    Options::for_tests(),
                    |store, _| async move { store.recovery().damage.join("; ") },
                );
                let told = told.expect("comes to its end");
                assert!(
                    told.contains(name.as_str()) && told.contains("is missing"),
                    "{name}: {told}"
                );
                assert!(told.contains("kura store salvage"), "{told}");
                reported += 1;
            }
            let mended = sim.after_crash();
            mended.put_file(name, bytes.clone());
            assert_eq!(count_good(&mended).0, MESSAGES, "with {name} put back");
        }
    }
    assert!(refused > 1 && reported > 1, "{refused} refused, {reported} reported");
}

/// Ways in which a file of the log goes wrong as a whole.
fn damaged(bytes: &[u8], way: usize) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    match way {
        0 => return None,
        1 => bytes[..64].fill(0),
        2 => bytes.truncate(0),
        3 => bytes.truncate(4096),
        _ => bytes.truncate(bytes.len() / 8192 * 4096),
    }
    Some(bytes)
}

/// Before the first checkpoint, behind one, and without those that there were.
#[test]
fn a_log_that_has_lost_a_file_is_never_taken_for_a_shorter_one_and_what_is_left_is_not_wiped() {
    let mut refused = [0; 5];
    for (close, forget) in [(false, false), (true, false), (true, true)] {
        for first_only in [true, false] {
            let pristine = if first_only { filled_a_little(close) } else { filled(3, close) };
            if forget {
                let names = pristine.files().into_iter().map(|file| file.name);
                names
                    .filter(|name| name.starts_with("checkpoint"))
                    .for_each(|name| remove(&pristine, &name));
            }
            let messages = if first_only { 5 } else { MESSAGES };
            assert_eq!(count_good(&pristine.after_crash()).0, messages);
            let whole = logs(&pristine);
            for (name, bytes) in whole.iter().filter(|(_, bytes)| is_segment(bytes)) {
                for (way, refused) in refused.iter_mut().enumerate() {
                    let what = format!("{name}, way {way}, close {close}, forget {forget}");
                    let sim = pristine.after_crash();
                    remove(&sim, name);
                    if let Some(left) = damaged(bytes, way) {
                        sim.put_file(name, left);
                    }
                    let before = files(&sim);
                    if let Some(reason) = refusal(&sim) {
                        assert!(reason.contains("missing"), "{what}: {reason}");
                        assert!(reason.contains("kura store salvage"), "{what}: {reason}");
                        if way == 1 {
                            assert!(reason.contains(name), "{what}: {reason}");
                        }
                        assert!(files(&sim) == before, "{what}: something was changed");
                        *refused += 1;
                    } else {
                        let (good, _, report, _) = count_good(&sim.after_crash());
                        assert!(good == messages || !report.is_empty(), "{what}: {good} good");
                        // Of a file that was cut to nothing there is nothing to keep.
                        let is_kept = way == 2 || sim.contents(name) == damaged(bytes, way);
                        assert!(good == messages || is_kept, "{what}: it was changed");
                    }
                    let mended = sim.after_crash();
                    mended.put_file(name, bytes.clone());
                    assert_eq!(count_good(&mended).0, messages, "{what}: put back");
                }
            }
        }
    }
    assert!(refused.iter().all(|refused| *refused > 5), "{refused:?}");
}

/// So little that it is in the first segment.
fn filled_a_little(close: bool) -> Sim {
    let sim = Sim::new(1);
    let fill = |store: Store<Sim>| async move {
        with_accounts(&store).await;
        for number in 0..5 {
            let one = delivery(vec![placement(ALICE, INBOX)], number, 2500);
            store.deliver(one).await.expect("delivers");
        }
        store
    };
    left_by(&sim, close, fill)
}

pub fn files(sim: &Sim) -> Vec<(String, Option<Vec<u8>>)> {
    sim.files().into_iter().map(|file| (file.name.clone(), sim.contents(&file.name))).collect()
}

/// A store of before says nothing of the segment that it begun last: what it has is believed.
#[test]
fn a_store_of_before_opens_and_is_marked_from_then_on() {
    for close in [true, false] {
        let sim = filled_a_little(close);
        let mut superblock = sim.contents("superblock").expect("there");
        superblock.truncate(8192);
        sim.put_file("superblock", superblock.clone());
        assert_eq!(count_good(&sim).0, 5);
        let marked = sim.contents("superblock").expect("there");
        assert!(marked.len() > 8192 && marked[8192..].iter().any(|byte| *byte != 0), "{close}");
        // It has lost its only segment ahead of that.
        let sim = filled_a_little(close);
        sim.put_file("superblock", superblock);
        let (name, log) = logs(&sim).into_iter().find(|(_, log)| log[0] != 0).expect("a segment");
        sim.put_file(&name, damaged(&log, 1).expect("bytes"));
        let reason = refusal(&sim).expect("refused");
        assert!(reason.contains(&name) && reason.contains("missing"), "{reason}");
    }
}

/// A copy of the superblock or of the mark, as a later version writes it.
fn made_newer(bytes: &mut [u8], copy: usize) {
    let block = &mut bytes[copy * 4096..][..4096];
    let used = if copy < 2 { 56 } else { 32 };
    assert!(block.starts_with(b"KURA"), "copy {copy} is not there");
    block[8] += 1;
    let checksum = crc32fast::hash(&block[..used]);
    block[used..used + 4].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn a_superblock_of_a_newer_version_is_not_taken_for_one_that_rotted() {
    for copy in 0..3 {
        let sim = filled(5, true);
        let mut bytes = sim.contents("superblock").expect("a superblock");
        made_newer(&mut bytes, copy);
        sim.put_file("superblock", bytes);
        let before: Vec<_> = sim.files().iter().map(|file| sim.contents(&file.name)).collect();
        let disk = sim.clone();
        let opening = async move { Store::open(disk, Options::for_tests()).await.map(drop) };
        let opened = Executor::new(&sim).block_on(opening).expect("comes to its end");
        let said = opened.expect_err("refuses").to_string();
        assert!(said.contains("newer Kura (version 2, and this one knows 1)"), "{said}");
        let after: Vec<_> = sim.files().iter().map(|file| sim.contents(&file.name)).collect();
        assert!(before == after, "something was changed");
    }
}

#[test]
fn a_segment_of_another_shard_is_left_alone() {
    let (sim, other) = (filled(4, true), Sim::new(5));
    on_sim(&other, Options { shard: 1, ..Options::for_tests() }, |store| async move {
        with_accounts(&store).await;
    });
    let (_, stranger) = logs(&other).into_iter().find(|(_, log)| log[0] != 0).expect("a segment");
    sim.put_file("log-00000099", stranger.clone());
    assert_eq!(count_good(&sim).0, MESSAGES);
    assert!(sim.contents("log-00000099").as_ref() == Some(&stranger), "it was changed");
}

#[test]
fn a_segment_whose_first_blocks_rot_costs_only_what_was_in_them() {
    let pristine = filled(6, false);
    for (name, bytes) in logs(&pristine).into_iter().filter(|(_, log)| log[0] != 0) {
        let sim = pristine.after_crash();
        let mut rotten = bytes.clone();
        rotten[..8192].fill(0x55);
        sim.put_file(&name, rotten.clone());
        // Where nothing is left that says which segment it is, it is missed.
        let tried = sim.after_crash();
        if let Some(reason) = refusal(&tried) {
            assert!(reason.contains(&name) && reason.contains("missing"), "{reason}");
            assert!(tried.contents(&name) == Some(rotten), "{name} was changed");
            continue;
        }
        let (good, _, report, _) = count_good(&sim.after_crash());
        assert!(good + 12 >= MESSAGES && !report.is_empty(), "{good} good with {name}: {report:?}");
    }
}

#[test]
fn a_failed_write_or_sync_halts_and_nothing_acknowledged_is_lost() {
    for fault in [Fault::Write, Fault::Sync] {
        let sim = Sim::new(3);
        let disk = sim.clone();
        let told = on_sim_unclosed(&sim, Options::for_tests(), move |store, _| async move {
            with_accounts(&store).await;
            store.deliver(delivery(vec![placement(ALICE, INBOX)], 0, 500)).await.expect("in");
            // Upkeep may take the fault for itself; then there is another.
            let mut told = vec![0];
            for number in 1..50 {
                disk.fail_next(fault);
                match store.deliver(delivery(vec![placement(ALICE, INBOX)], number, 500)).await {
                    Ok(_) => told.push(number),
                    Err(Error::Device(_)) => break,
                    Err(other) => panic!("{other}"),
                }
            }
            assert!(store.stats().halted);
            let late = store.deliver(delivery(vec![placement(ALICE, INBOX)], 99, 500)).await;
            assert!(matches!(late, Err(Error::Halted)), "{late:?}");
            assert!(matches!(store.admit(), Err(Error::Halted)));
            assert!(matches!(store.put(Space(1), vec![]).await, Err(Error::Halted)));
            let read = store.read(ALICE, INBOX, Uid(1), 0..u64::MAX).await.expect("still reads");
            assert_eq!(read, message(ALICE, 0, 500));
            assert!(store.close().await.is_err());
            told
        })
        .expect("comes to its end");
        let survivor = sim.after_crash();
        on_sim(&survivor, Options::for_tests(), |store| async move {
            for number in told {
                let uid = Uid(number + 1);
                let read = store.read(ALICE, INBOX, uid, 0..u64::MAX).await.expect("there");
                assert_eq!(read, message(ALICE, number, 500));
            }
        });
    }
}

#[test]
fn counters_survive_a_kill() {
    let sim = Sim::new(11);
    // A checkpoint that is just being written would make the sums differ by its own.
    let never = 1 << 40;
    let options = Options {
        checkpoint_log_bytes_min: never,
        checkpoint_log_bytes_max: never,
        ..Options::for_tests()
    };
    let before = on_sim_unclosed(&sim, options, |store, _| async move {
        with_accounts(&store).await;
        for number in 0..100 {
            store.deliver(delivery(vec![placement(ALICE, INBOX)], number, 3000)).await.expect("in");
        }
        store.expunge(ALICE, INBOX, &[Uid(1)]).await.expect("expunges");
        store.stats()
    });
    let before = before.expect("comes to its end");
    let after =
        on_sim(&sim.after_kill(), Options::for_tests(), |store| async move { store.stats() });
    let kept = |stats: &storage::Stats| (stats.messages, stats.bytes_received, stats.live_bytes);
    assert_eq!(kept(&before), (99, 300_000, 99 * 3017));
    assert_eq!(kept(&after), kept(&before));
    // Opening writes a superblock.
    assert_eq!(after.flushes, before.flushes + 1);
    assert_eq!(after.bytes_written, before.bytes_written + 4096);
}

#[test]
fn a_store_opens_or_refuses_on_any_garbage_and_never_panics() {
    for seed in 0..300 {
        let sim = filled(seed % 3, seed % 2 == 0);
        let mut random = Random::new(seed);
        for _ in 0..random.below(40) {
            let files = sim.files();
            let file = &files[random.index(files.len())];
            let start = random.below(file.bytes);
            for offset in start..start + random.below(200) {
                sim.flip(&file.name, offset, (random.any() & 0xFF) as u8);
            }
        }
        let disk = sim.clone();
        let executor = Executor::new(&sim);
        let outcome = executor.block_on(async move {
            let store = Store::open(disk, Options::for_tests()).await?;
            store.verify().await
        });
        assert!(outcome.is_some(), "seed {seed} came to no end");
    }
}

#[test]
fn a_read_error_is_told_and_passes() {
    let sim = filled(1, true);
    let disk = sim.clone();
    on_sim(&sim, Options::for_tests(), move |store| async move {
        // Compaction reads too, at first, and each minute it is looked for what has expired.
        disk.sleep(std::time::Duration::from_secs(30)).await;
        // Its file is opened, which reads the header.
        store.read(ALICE, INBOX, Uid(1), 0..9).await.expect("reads");
        disk.fail_next(Fault::Read);
        let failed = store.read(ALICE, INBOX, Uid(1), 0..9).await;
        assert!(matches!(failed, Err(Error::Read { .. })), "{failed:?}");
        let said = failed.expect_err("fails").to_string();
        assert!(said.contains("log-0000") && !said.contains("stopped"), "{said}");
        store.read(ALICE, INBOX, Uid(1), 0..9).await.expect("reads again");
        assert!(!store.stats().halted);
    });
}

#[test]
fn a_sector_that_cannot_be_read_costs_the_messages_in_its_block_and_the_store_goes_on() {
    let sim = filled(2, true);
    let disk = sim.clone();
    on_sim(&sim, Options::for_tests(), move |store| async move {
        disk.sleep(std::time::Duration::from_secs(1)).await;
        let start = body(5, 2500).slice(..64);
        for file in disk.files().into_iter().filter(|file| file.name.starts_with("log-")) {
            let bytes = disk.contents(&file.name).expect("a file");
            if let Some(at) = bytes.windows(64).position(|window| *window == start) {
                disk.make_unreadable(&file.name, at as u64..at as u64 + 64);
            }
        }
        let mut failed = 0;
        for uid in 1..=MESSAGES {
            match store.read(ALICE, INBOX, Uid(uid), 0..u64::MAX).await {
                Ok(bytes) => assert_eq!(bytes, message(ALICE, uid - 1, 2500)),
                Err(Error::Read { place, .. }) => {
                    assert!(place.contains("log-0000"), "{place}");
                    failed += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!((1..=3).contains(&failed), "{failed}");
        let bad = store.verify().await.expect("verifies").bad;
        assert!(bad.iter().any(|line| line.contains("Input/output")), "{bad:?}");
        let mut found = Vec::new();
        store.scrub(None, |_, more| found.extend(more)).await.expect("scrubs");
        assert!(found.iter().any(|one| !one.hurt.is_empty()), "{found:?}");
        let one = delivery(vec![placement(ALICE, INBOX)], 900, 300);
        store.deliver(one).await.expect("delivers");
        assert!(!store.stats().halted);
    });
}

#[test]
fn a_full_disk_refuses_mail_still_deletes_and_recovers() {
    for seed in 0..60 {
        let sim = Sim::new(seed);
        sim.set_capacity(Some(1228 << 10));
        let disk = sim.clone();
        on_sim(&sim, Options::for_tests(), move |store| async move {
            with_accounts(&store).await;
            let mut number = 0;
            let full = loop {
                assert!(store.admit().is_ok() || number > 20);
                match store.deliver(delivery(vec![placement(ALICE, INBOX)], number, 4000)).await {
                    Ok(_) => number += 1,
                    Err(error) => break error,
                }
                assert!(number < 1000);
            };
            assert!(matches!(full, Error::Full(_)), "{full}");
            // Each has a batch of its own, hence its padding, which is not packed before mail
            // has been refused.
            assert!(number > 40, "{number}");
            assert!(!store.stats().halted);
            // Small changes go on from the reserve.
            for uid in 1..=10 {
                let seen = FlagChange { mode: FlagMode::Add, flags: Flags::SEEN, keywords: vec![] };
                store.change_flags(ALICE, INBOX, &[Uid(uid)], &seen, None).await.expect("a flag");
                store.expunge(ALICE, INBOX, &[Uid(uid)]).await.expect("deletes");
            }
            store.put(Space(1), vec![("a".into(), Some("b".into()))]).await.expect("puts");
            let read = store.read(ALICE, INBOX, Uid(40), 0..u64::MAX).await.expect("reads");
            assert_eq!(read, message(ALICE, 39, 4000));
            // Space comes back.
            disk.set_capacity(Some(4 << 20));
            disk.sleep(std::time::Duration::from_secs(1)).await;
            store
                .deliver(delivery(vec![placement(ALICE, INBOX)], number, 4000))
                .await
                .expect("again");
            assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
        });
        let survivor = sim.after_crash();
        on_sim(&survivor, Options::for_tests(), |store| async move {
            assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
        });
    }
}

#[test]
fn a_flood_is_refused_before_anything_stalls() {
    let sim = Sim::new(9);
    let executor = Executor::new(&sim);
    let (disk, spawner) = (sim.clone(), executor.clone());
    executor.block_on(async move {
        let store = Store::open(disk, Options::for_tests()).await.expect("opens");
        let running = store.clone();
        spawner.spawn(async move { running.run().await });
        store.create_account(ALICE, Quota::default()).await.expect("alice");
        let results = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        for number in 0..200 {
            let (store, results) = (store.clone(), results.clone());
            spawner.spawn(async move {
                let one = delivery(vec![placement(ALICE, INBOX)], number, 4000);
                let result = store.deliver(one).await.map(|_| ());
                results.borrow_mut().push(result);
            });
        }
        while results.borrow().len() < 200 {
            store.device().sleep(std::time::Duration::from_millis(1)).await;
        }
        let busy = |result: &&Result<(), Error>| matches!(result, Err(Error::Busy));
        let refused = results.borrow().iter().filter(busy).count();
        assert!((100..195).contains(&refused), "{refused}");
        assert_eq!(store.stats().messages as usize, 200 - refused);
        assert!(store.admit().is_ok(), "the flood is over");
    });
}
