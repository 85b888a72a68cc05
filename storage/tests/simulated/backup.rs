//! Backups: a copy of the planned segments opens as the store was at the plan's position; and the
//! scrub finds what has rotted, and whom it hurts.

use crate::common::*;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use storage::device::Device;
use storage::device::sim::{Executor, Random, Sim};
use storage::restore::{Restore, RestoredShard};
use storage::store::{BackupPlan, Finding, PlannedSegment, Walk};
use storage::{FlagChange, FlagMode, Flags, MailboxStatus, Space, Store, Uid};

async fn deliver(store: &Store<Sim>, number: u32, length: usize) -> Uid {
    let one = delivery(vec![placement(ALICE, INBOX)], number, length);
    store.deliver(one).await.expect("delivers").0[0].uid
}

/// Keeps about sixty messages; large ones lie in chunks.
pub async fn churn(store: &Store<Sim>, random: &mut Random, from: u32, count: u32) {
    for number in from..from + count {
        let length = if number % 40 == 0 { 30_000 } else { 200 + random.index(3_000) };
        let uid = deliver(store, number, length).await;
        if number % 7 == 0 {
            let (mode, keywords) = (FlagMode::Add, vec!["kept".to_owned()]);
            let change = FlagChange { mode, flags: Flags::SEEN, keywords };
            store.change_flags(ALICE, INBOX, &[uid], &change, None).await.expect("flags");
        }
        let uids = store.uids(ALICE, INBOX).expect("uids");
        if uids.len() > 60 {
            let victim = uids[random.index(uids.len())];
            store.expunge(ALICE, INBOX, &[victim]).await.expect("expunges");
        }
    }
    let pair = (format!("key {from}").into(), Some("value".into()));
    store.put(Space(1), vec![pair]).await.expect("puts");
}

/// Everything that anybody can see of a store, but for the next UIDs: after a restore
/// these are others.
async fn seen<D: Device>(store: &Store<D>) -> Vec<String> {
    let mut lines = vec![format!("{:?}", store.scan(Space(1)))];
    for account in [ALICE, BOB] {
        lines.push(format!("{:?}", store.usage(account)));
        lines.push(format!("{:?}", store.subscriptions(account)));
        for mailbox in store.mailboxes(account).expect("mailboxes") {
            let status = store.status(account, mailbox.id).expect("status");
            let status = MailboxStatus { uid_next: Uid(0), ..status };
            lines.push(format!("{mailbox:?} {status:?}"));
            for entry in store.entries(account, mailbox.id, 1..=u32::MAX).expect("entries") {
                let summary = store.summary(account, mailbox.id, entry.uid).await.expect("summary");
                let bytes = store.read(account, mailbox.id, entry.uid, 0..u64::MAX).await;
                let checksum = crc32fast::hash(&bytes.expect("reads"));
                lines.push(format!("{entry:?} {summary:?} {checksum}"));
            }
        }
    }
    lines
}

type Copied = (RestoredShard, Vec<(u64, Vec<u8>)>);

async fn copy(store: &Store<Sim>, plan: &BackupPlan) -> Copied {
    let mut segments = Vec::new();
    for one in &plan.segments {
        let bytes = usize::try_from(one.end).expect("small");
        let read = store.read_segment(one.segment, 0, bytes, None).await.expect("reads");
        assert_eq!(read.len(), bytes);
        segments.push((one.segment_bytes, read));
    }
    let (shard, lsn, run, salt) = (plan.shard, plan.lsn, plan.run, plan.salt);
    (RestoredShard { shard, lsn, run, salt }, segments)
}

fn restored(copied: Copied) -> Sim {
    let sim = Sim::new(99);
    let executor = Executor::new(&sim);
    let disk = sim.clone();
    let written = executor.block_on(async move {
        let (shard, segments) = copied;
        let mut restore = Restore::begin(disk).await.expect("an empty disk");
        for (segment_bytes, bytes) in segments {
            restore.segment(segment_bytes).await.expect("a segment");
            restore.write(0, &bytes).await.expect("writes");
        }
        restore.finish(&shard).await.expect("finishes");
    });
    written.expect("comes to its end");
    sim
}

#[test]
fn a_restored_store_is_the_one_at_the_position_of_the_backup() {
    let mut at_work = 0;
    for seed in 0..12 {
        let sim = Sim::new(seed);
        let executor = Rc::new(Executor::new(&sim));
        let (disk, spawner) = (sim.clone(), Rc::clone(&executor));
        let (copied, expected, messages, position) = executor
            .block_on(async move {
                let store = Store::open(disk, small_store()).await.expect("opens");
                let running = store.clone();
                spawner.spawn(async move { running.run().await });
                with_accounts(&store).await;
                store.create_mailbox(BOB, "Work/2026", None).await.expect("creates");
                let mut random = Random::new(seed);
                churn(&store, &mut random, 0, 40 + 120 * seed as u32).await;
                let (plan, expected) = (store.backup_plan(), seen(&store).await);
                // Compaction and deliveries go on while it is copied.
                let busy = store.clone();
                spawner.spawn(async move { churn(&busy, &mut random, 5_000, 300).await });
                store.device().sleep(Duration::from_millis(5)).await;
                let copied = copy(&store, &plan).await;
                (copied, expected, plan.messages, plan.lsn)
            })
            .expect("comes to its end");
        let again = restored(copied);
        let (lsn, has_written) = on_sim(&again, small_store(), move |store| async move {
            assert_eq!(store.stats().messages, messages);
            assert_eq!(store.recovery().damage, Vec::<String>::new());
            assert!(seen(&store).await == expected, "seed {seed}");
            assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
            // It may have written a base by now, which says nothing of what was there.
            let before = store.backup_plan().lsn;
            assert_eq!(store.recovery().lsn, position);
            // And it goes on.
            churn(&store, &mut Random::new(1), 9_000, 200).await;
            assert_eq!(store.recovery().lsn, position);
            (before, before > position)
        });
        at_work += u32::from(has_written);
        on_sim(&again, small_store(), move |store| async move {
            assert!(store.backup_plan().lsn > lsn);
            assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
        });
    }
    assert!(at_work > 0, "none of them had anything to write");
}

#[test]
fn a_backup_after_a_crash_and_recovery_is_whole_too() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        sim.crash_at(300 + 97 * seed); // operations
        on_sim_unclosed(&sim, small_store(), move |store, _| async move {
            with_accounts(&store).await;
            churn(&store, &mut Random::new(seed), 0, 500).await;
        });
        let survived = sim.after_crash();
        let (copied, expected) = on_sim(&survived, small_store(), |store| async move {
            let plan = store.backup_plan();
            (copy(&store, &plan).await, seen(&store).await)
        });
        on_sim(&restored(copied), small_store(), move |store| async move {
            assert!(seen(&store).await == expected, "seed {seed}");
        });
    }
}

/// Identifiers that a client may have seen: of mailboxes name, number and UIDVALIDITY,
/// and their next UID.
async fn identifiers(store: &Store<Sim>) -> BTreeMap<(String, u32, u32), u32> {
    let mut all = BTreeMap::new();
    for mailbox in store.mailboxes(ALICE).expect("mailboxes") {
        let next = store.status(ALICE, mailbox.id).expect("status").uid_next;
        all.insert((mailbox.name, mailbox.id.0, mailbox.uid_validity), next.0);
    }
    all
}

/// A backup, and what was given out behind it until the host was lost.
fn backed_up_and_lived_on() -> (Copied, BTreeMap<(String, u32, u32), u32>) {
    let sim = Sim::new(3);
    on_sim(&sim, small_store(), |store| async move {
        with_accounts(&store).await;
        churn(&store, &mut Random::new(3), 0, 80).await;
        let copied = copy(&store, &store.backup_plan()).await;
        churn(&store, &mut Random::new(4), 500, 200).await;
        for number in 0..10 {
            store.create_mailbox(ALICE, &format!("New/{number}"), None).await.expect("creates");
        }
        (copied, identifiers(&store).await)
    })
}

/// Names as they would be, a moment later: the clock of the simulation stands where it stood.
async fn assert_nothing_comes_again(
    store: &Store<Sim>,
    given_out: &BTreeMap<(String, u32, u32), u32>,
    what: &str,
) {
    let uid = deliver(store, 9_999, 100).await;
    for number in 0..10 {
        store.create_mailbox(ALICE, &format!("New/{number}"), None).await.expect("creates");
    }
    for (place, next) in identifiers(store).await {
        let before = given_out.get(&place);
        assert!(before.is_none_or(|before| *before <= next), "{what}: {place:?}: UIDs come again");
        assert!(place.0 == "INBOX" || before.is_none(), "{what}: {place:?} comes again");
    }
    let inbox = given_out.iter().find(|((name, ..), _)| name == "INBOX").expect("INBOX");
    assert!(uid.0 >= *inbox.1, "{what}: {uid:?}, next was {inbox:?}");
}

#[test]
fn a_restored_store_gives_out_nothing_again_that_was_given_out_after_the_backup() {
    let (copied, given_out) = backed_up_and_lived_on();
    let again = restored(copied);
    let next = on_sim(&again, small_store(), |store| async move {
        assert_eq!((store.recovery().lost_records, &store.recovery().damage), (0, &vec![]));
        assert_nothing_comes_again(&store, &given_out, "restored").await;
        identifiers(&store).await
    });
    // Once: later openings, with the index and without, change nothing.
    for gone in ["none", "checkpoint", "superblock"] {
        let next = next.clone();
        let opened = Sim::new(8);
        let names = again.files().into_iter().map(|file| file.name);
        for name in names.filter(|name| !name.starts_with(gone)) {
            opened.put_file(&name, again.contents(&name).expect("a file"));
        }
        on_sim(&opened, small_store(), |store| async move {
            assert_eq!(identifiers(&store).await, next);
            assert_eq!(store.recovery().damage, Vec::<String>::new());
        });
    }
}

#[test]
fn a_crash_in_a_restored_stores_first_opening_costs_no_identifiers() {
    let (copied, given_out) = backed_up_and_lived_on();
    let mut operations = 0;
    for crash_at in 1.. {
        let sim = restored(copied.clone());
        let begun = sim.operations();
        sim.crash_at(begun + crash_at);
        let opened = on_sim_unclosed(&sim, small_store(), |_, _| async move {});
        operations += 1;
        let survived = if opened.is_some() { sim.after_kill() } else { sim.after_crash() };
        let given_out = given_out.clone();
        on_sim(&survived, small_store(), move |store| async move {
            assert_nothing_comes_again(&store, &given_out, &format!("crash at {crash_at}")).await;
            let inbox = store.status(ALICE, INBOX).expect("status").uid_next.0;
            assert!(inbox < 1 << 27, "skipped twice: {inbox}");
        });
        if opened.is_some() {
            break;
        }
    }
    assert!(operations > 10, "{operations}");
}

#[test]
fn a_directory_with_a_store_is_not_restored_into() {
    let sim = Sim::new(1);
    on_sim(&sim, small_store(), |store| async move { with_accounts(&store).await });
    let executor = Executor::new(&sim);
    let disk = sim.clone();
    let begun = executor.block_on(async move { Restore::begin(disk).await.map(|_| ()) });
    let error = begun.expect("comes to its end").expect_err("refused").to_string();
    assert!(error.contains("there is a store in it"), "{error}");
}

async fn findings(store: &Store<Sim>) -> Vec<Finding> {
    let mut all = Vec::new();
    store.scrub(None, |_, found| all.extend(found)).await.expect("scrubs");
    all
}

#[test]
fn a_scrub_of_a_sound_store_finds_nothing() {
    for seed in 0..6 {
        let sim = Sim::new(seed);
        let check = move |store: Store<Sim>| async move {
            if seed % 2 == 0 || store.accounts().is_empty() {
                if store.accounts().is_empty() {
                    with_accounts(&store).await;
                }
                churn(&store, &mut Random::new(seed), 0, 900).await;
            }
            assert_eq!(findings(&store).await, Vec::new(), "seed {seed}");
            let mut last = 0;
            store
                .scrub(Some(1 << 20), |progress, _| {
                    assert!(progress.bytes >= last && progress.bytes <= progress.bytes_total);
                    last = progress.bytes;
                })
                .await
                .expect("scrubs");
            assert!(last > 0);
        };
        on_sim(&sim, small_store(), check);
        on_sim(&sim, small_store(), check);
    }
}

#[test]
fn a_scrub_that_was_broken_off_goes_on_where_it_was() {
    let sim = Sim::new(3);
    on_sim(&sim, small_store(), |store| async move {
        with_accounts(&store).await;
        churn(&store, &mut Random::new(3), 0, 900).await;
        // What compaction still has to do would make other segments meanwhile.
        store.device().sleep(std::time::Duration::from_secs(60)).await;
        let mut whole = Vec::new();
        store.scrub(None, |progress, _| whole.push(progress)).await.expect("scrubs");
        let mut nexts: Vec<_> = whole.iter().map(|progress| progress.next).collect();
        nexts.dedup();
        assert!(nexts.len() > 4 && nexts.last() == Some(&None), "{nexts:?}");
        let rest = nexts.split_off(nexts.len() / 2);
        let mut told = Vec::new();
        store.scrub_from(rest[0], None, |progress, _| told.push(progress)).await.expect("scrubs");
        let mut nexts: Vec<_> = told.iter().map(|progress| progress.next).collect();
        nexts.dedup();
        assert_eq!(nexts, rest);
        let last = told.last().expect("told");
        assert_eq!(last.bytes, last.bytes_total);
    });
}

#[test]
fn what_was_found_is_looked_at_again_when_it_has_changed() {
    let sim = Sim::new(4);
    let disk = sim.clone();
    on_sim(&sim, small_store(), move |store| async move {
        with_accounts(&store).await;
        for number in 0..20 {
            deliver(&store, number, 2500).await;
        }
        store.device().sleep(Duration::from_secs(1)).await;
        let start = body(5, 2500).slice(..64);
        for file in disk.files().into_iter().filter(|file| file.name.starts_with("log-")) {
            let bytes = disk.contents(&file.name).expect("a file");
            if let Some(at) = bytes.windows(64).position(|window| *window == start) {
                assert!(disk.flip(&file.name, at as u64, 1));
            }
        }
        let found = findings(&store).await;
        let [one] = &found[..] else { panic!("{found:?}") };
        assert_eq!((one.hurt.len(), store.has_changed(one)), (1, false));
        let again = store.scrub_again(one.segment, None).await.expect("looks");
        assert_eq!(again, found);
        let uid = one.hurt[0].uid;
        store.expunge(ALICE, INBOX, &[uid]).await.expect("expunges");
        assert!(store.has_changed(one));
        // It lies in the log as before, and is nobody's.
        let again = store.scrub_again(one.segment, None).await.expect("looks");
        let [other] = &again[..] else { panic!("{again:?}") };
        assert_eq!((other.hurt.len(), store.has_changed(other)), (0, false));
    });
}

/// By the simulated clock, which the disk's own work hardly moves.
#[test]
fn a_scrub_reads_the_checkpoint_and_the_base_no_faster_than_it_may() {
    const RATE: u64 = 4 << 10;
    let sim = Sim::new(5);
    let disk = sim.clone();
    on_sim(&sim, small_store(), move |store| async move {
        with_accounts(&store).await;
        churn(&store, &mut Random::new(5), 0, 900).await;
        assert!(store.stats().bytes_based > 0, "there is no base");
        store.device().sleep(Duration::from_secs(2)).await;
        let files = disk.files().into_iter().filter(|file| file.name.starts_with("checkpoint"));
        let smallest = files.map(|file| file.bytes).min().expect("a checkpoint");
        let (begun, mut seen) = (disk.now().0, Vec::new());
        store
            .scrub(Some(RATE), |progress, _| seen.push((progress, disk.now().0 - begun)))
            .await
            .expect("scrubs");
        assert_eq!((seen[0].0.bytes, seen[0].1), (0, 0), "nothing is told before it is read");
        let twice: Vec<_> = seen.iter().filter(|(one, _)| one.bytes <= 2 * smallest).collect();
        assert!(twice.len() > 3, "told as it goes on: {twice:?}");
        for (progress, millis) in &twice {
            let least = progress.bytes * 1000 / RATE;
            assert!(*millis >= least, "{progress:?} in {millis} ms");
        }
        let last = seen.last().expect("told").0;
        assert_eq!(last.bytes, last.bytes_total);
    });
}

/// Flips a bit in the middle of a message's body, wherever in the files it is now.
fn rot(sim: &Sim, body: &[u8]) -> usize {
    let mut hits = 0;
    for listed in sim.files() {
        let bytes = sim.contents(&listed.name).expect("a file");
        let found = bytes.windows(64).position(|window| window == &body[body.len() - 64..]);
        if let Some(at) = found {
            assert!(sim.flip(&listed.name, at as u64 + 30, 8));
            hits += 1;
        }
    }
    hits
}

#[test]
fn a_scrub_names_the_message_that_rot_hurts_and_goes_on() {
    // In the log and in a cold segment, in one record and in chunks.
    for (churned, number, length) in
        [(0, 1, 2_000), (0, 2, 30_000), (900, 1, 2_000), (900, 2, 30_000)]
    {
        let sim = Sim::new(7);
        let disk = sim.clone();
        on_sim(&sim, small_store(), move |store| async move {
            with_accounts(&store).await;
            let bad = deliver(&store, 70_000 + number, length).await;
            store.copy(ALICE, INBOX, &[bad], INBOX).await.expect("copies");
            let mut random = Random::new(3);
            for number in 0..churned {
                let uid = deliver(&store, number, 200 + random.index(3_000)).await;
                if number % 10 != 0 {
                    store.expunge(ALICE, INBOX, &[uid]).await.expect("expunges");
                }
            }
            store.device().sleep(Duration::from_secs(2)).await;
            assert!(rot(&disk, &body(70_000 + number, length)) > 0, "the message is nowhere");
            let found = findings(&store).await;
            let hurt: Vec<_> = found.iter().flat_map(|one| &one.hurt).collect();
            assert_eq!(hurt.len(), 2, "{found:?}");
            assert!(hurt.iter().all(|one| one.account == ALICE && one.mailbox == "INBOX"));
            assert!(hurt.iter().any(|one| one.uid == bad), "{found:?}");
            assert!(found.iter().all(|one| one.place.contains("segment")), "{found:?}");
            // The rest goes on.
            deliver(&store, 80_000, 500).await;
        });
    }
}

/// All of a segment in parts of any length, seen by a walk.
async fn walked(store: &Store<Sim>, random: &mut Random, one: &PlannedSegment) -> (Walk, Vec<u8>) {
    let (mut walk, mut bytes) = (store.walk(one.segment, one.end), Vec::new());
    while walk.wants() < one.end {
        let left = usize::try_from(one.end - walk.wants()).expect("small");
        let part = left.min(4096 * (1 + random.index(9)));
        bytes.extend(store.read_for(&mut walk, part, None).await.expect("reads"));
    }
    (walk, bytes)
}

/// What a backup reads is verified on its way: it finds all that a scrub finds, be it in the log or
/// in a cold segment.
#[test]
fn what_goes_by_is_looked_at_as_by_a_scrub() {
    let (mut of_log, mut of_cold) = (0, 0);
    for seed in 0..60 {
        let sim = Sim::new(seed);
        let disk = sim.clone();
        let found = on_sim(&sim, small_store(), move |store| async move {
            with_accounts(&store).await;
            let mut random = Random::new(seed);
            churn(&store, &mut random, 0, 300).await;
            let plan = store.backup_plan();
            let logs: Vec<_> =
                disk.files().into_iter().filter(|file| file.name.starts_with("log-")).collect();
            for _ in 0..1 + seed % 8 {
                let file = &logs[random.index(logs.len())];
                disk.flip(&file.name, random.below(file.bytes), 1 << random.below(8));
            }
            let mut found = [0, 0];
            for one in &plan.segments {
                let (walk, bytes) = walked(&store, &mut random, one).await;
                let end = usize::try_from(one.end).expect("small");
                let read = store.read_segment(one.segment, 0, end, None).await.expect("reads");
                assert!(bytes == read, "segment {}", one.segment.0);
                let walked = store.scrub_walked(walk, None).await.expect("looks");
                let scrubbed = store.scrub_segment(one.segment, one.end, None).await;
                assert_eq!(walked, scrubbed.expect("scrubs"), "seed {seed}");
                found[usize::from(one.segment.is_cold())] += walked.len();
            }
            found
        });
        (of_log, of_cold) = (of_log + found[0], of_cold + found[1]);
    }
    // Each place counts once, be it a message's or not.
    assert!(of_log > 10 && of_cold > 5, "{of_log} in the log, {of_cold} in cold segments");
}

/// It could not: nothing can be read any more when they are judged.
#[test]
fn what_has_gone_by_whole_is_not_read_again() {
    let sim = Sim::new(3);
    let disk = sim.clone();
    on_sim_unclosed(&sim, small_store(), move |store, _| async move {
        with_accounts(&store).await;
        let mut random = Random::new(3);
        churn(&store, &mut random, 0, 400).await;
        let plan = store.backup_plan();
        let (mut walks, mut cold) = (Vec::new(), 0);
        for one in &plan.segments {
            cold += u32::from(one.segment.is_cold());
            walks.push(walked(&store, &mut random, one).await.0);
        }
        assert!(cold > 1 && walks.len() > 4, "{cold} cold of {}", walks.len());
        for file in disk.files() {
            disk.make_unreadable(&file.name, 0..file.bytes);
        }
        for walk in walks {
            assert_eq!(store.scrub_walked(walk, None).await.expect("looks"), []);
        }
    })
    .expect("comes to its end");
}
