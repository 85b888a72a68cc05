//! What somebody does to the files of a store that is running: they are removed, or cut, and its
//! directory is moved away.

use crate::backup::churn;
use crate::common::*;
use crate::faults::{logs, remove, segment_id, segments};
use std::time::Duration;
use storage::device::Device;
use storage::device::sim::{Random, Sim};
use storage::store::{Cut, Harmed};
use storage::{Error, Store, Uid};

#[test]
fn a_file_that_has_lost_its_name_is_found_and_one_that_the_store_removes_is_not() {
    let sim = Sim::new(6);
    let disk = sim.clone();
    on_sim(&sim, small_store(), move |store| async move {
        with_accounts(&store).await;
        for from in (0..900).step_by(100) {
            churn(&store, &mut Random::new(6), from, 100).await;
            assert_eq!(store.look_for_harm().await.expect("looks"), Harmed::default());
        }
        // All of them: spares, too, in which the log does not go on then.
        for file in store.device().list().await.expect("lists") {
            if file.name.starts_with("log-") {
                store.device().remove(&file.name).await.expect("removes");
            }
        }
        let found = store.look_for_harm().await.expect("looks").unlinked;
        assert!(found.len() > 2 && found.iter().all(|one| one.is_open), "{found:?}");
        assert_eq!(store.stats().files_harmed, found.len() as u64);
        assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
        // The log goes on where the next start finds it.
        let mut next = delivery(vec![placement(ALICE, INBOX)], 899, 100);
        next.body = storage::Body::Whole(b"Subject: after that\r\n\r\n".as_slice().into());
        store.deliver(next).await.expect("delivers");
        let holds = |bytes: &[u8]| bytes.windows(10).any(|part| part == b"after that");
        let files = disk.files().into_iter().filter(|file| file.name.starts_with("log-"));
        let found_in = files.filter(|file| holds(&disk.contents(&file.name).unwrap_or_default()));
        assert_eq!(found_in.count(), 1);
        churn(&store, &mut Random::new(7), 900, 300).await;
        let later = store.look_for_harm().await.expect("looks").unlinked;
        assert!(later.iter().all(|one| found.contains(one)), "{later:?}");
    });
}

/// Another directory is under its name, in which everything can be done that is done by names.
#[test]
fn nothing_is_acknowledged_into_a_directory_that_was_put_in_the_place_of_the_one_that_was_opened() {
    for looks in [true, false] {
        let sim = Sim::new(8);
        let disk = sim.clone();
        let acknowledged = on_sim_unclosed(&sim, small_store(), move |store, _| async move {
            with_accounts(&store).await;
            churn(&store, &mut Random::new(8), 0, 100).await;
            let (before, superblock) = (disk.files(), disk.contents("superblock"));
            disk.displace();
            if looks {
                store.look_for_harm().await.expect("looks");
                assert!(store.is_displaced() && store.halted_by().is_some());
            }
            // What is open is in the old directory: it takes what comes until something has to be
            // made.
            let mut acknowledged = Vec::new();
            for number in 100..200 {
                let one = delivery(vec![placement(ALICE, INBOX)], number, 3000);
                match store.deliver(one).await {
                    Ok((placed, _)) => acknowledged.push((placed[0].uid, number)),
                    Err(Error::Halted | Error::Device(_)) => break,
                    Err(other) => panic!("{other}"),
                }
            }
            assert!(acknowledged.len() < if looks { 1 } else { 30 }, "{}", acknowledged.len());
            assert!(store.is_displaced());
            assert!(store.close().await.is_err());
            // Nothing was made, not even a spare ahead of its time, nor was the superblock touched.
            let made: Vec<_> =
                disk.files().into_iter().filter(|one| !before.contains(one)).collect();
            assert!(made.is_empty(), "{made:?}");
            assert!(disk.contents("superblock") == superblock);
            acknowledged
        });
        let acknowledged = acknowledged.expect("comes to its end");
        // It was moved back.
        on_sim(&sim.after_crash(), small_store(), |store: Store<Sim>| async move {
            for (uid, number) in acknowledged {
                let read = store.read(ALICE, INBOX, uid, 0..u64::MAX).await.expect("reads");
                assert!(read == message(ALICE, number, 3000), "message {number}");
            }
            assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
        });
    }
}

const BODY_BYTES: usize = 3000;

/// Until upkeep has done what there is to do, a checkpoint and a spare.
async fn rest(store: &Store<Sim>) {
    for _ in 0..200 {
        store.device().sleep(Duration::from_secs(1)).await;
    }
}

async fn deliver_some(store: &Store<Sim>, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let one = delivery(vec![placement(ALICE, INBOX)], number, BODY_BYTES);
        store.deliver(one).await.expect("delivers");
    }
}

/// A store of several segments; once it is opened anew, none of their files is open but the newest.
fn filled(seed: u64) -> Sim {
    let sim = Sim::new(seed);
    on_sim(&sim, small_store(), |store| async move {
        with_accounts(&store).await;
        deliver_some(&store, 0..200).await;
    });
    sim
}

/// Be it the newest one or one before, and be there mail behind it or not: of what the index knows
/// nothing is lost.
#[test]
fn a_file_that_is_cut_is_told_and_the_next_start_does_without_what_is_gone() {
    const BEFORE: u32 = 66;
    for (back, later) in [(0, 5), (0, 0), (1, 5), (1, 0)] {
        let sim = Sim::new(9);
        let disk = sim.clone();
        let kept = on_sim_unclosed(&sim, small_store(), move |store, _| async move {
            with_accounts(&store).await;
            deliver_some(&store, 0..BEFORE).await;
            assert_eq!(store.look_for_harm().await.expect("looks"), Harmed::default());
            let mut all: Vec<_> = segments(&disk).collect();
            all.sort_by_key(|(_, bytes)| std::cmp::Reverse(segment_id(bytes)));
            let (file, bytes_before) = (all[back].0.clone(), all[back].1.len() as u64);
            let bytes = 3 * 4096;
            disk.cut(&file, bytes);
            let found = store.look_for_harm().await.expect("looks");
            let [Cut { segment, .. }] = found.cut[..] else { panic!("{found:?}") };
            let cut = vec![Cut { segment, file: file.clone(), bytes, bytes_before }];
            assert_eq!(found, Harmed { cut, ..Harmed::default() });
            assert_eq!(store.stats().files_harmed, 1);
            deliver_some(&store, BEFORE..BEFORE + later).await;
            assert_eq!(disk.contents(&file).expect("there").len() as u64, bytes);
            rest(&store).await;
            (file, store.uids(ALICE, INBOX).expect("uids"))
        });
        let (file, uids) = kept.expect("comes to its end");
        let opened = sim.after_crash();
        on_sim_unclosed(&opened, small_store(), move |store, _| async move {
            assert_eq!(store.uids(ALICE, INBOX).expect("uids"), uids);
            let (mut missed, mut missed_later) = (0, 0);
            for (number, uid) in (0..).zip(uids) {
                match store.read(ALICE, INBOX, uid, 0..u64::MAX).await {
                    Ok(read) => assert!(read == message(ALICE, number, BODY_BYTES)),
                    Err(_) if number < BEFORE => missed += 1,
                    Err(_) => missed_later += 1,
                }
            }
            assert!(missed > 0 && missed_later == 0, "{missed}, later {missed_later}");
            let damage = &store.recovery().damage;
            let [line] = &damage[..] else { panic!("{damage:?}") };
            assert!(line.starts_with(&file) && line.contains(&format!("{missed} messages")));
            // What opening has told is not told again.
            assert_eq!(store.look_for_harm().await.expect("looks"), Harmed::default());
        })
        .expect("comes to its end");
    }
}

/// Of what the store does not have open, another directory can't say whether it is the same.
#[test]
fn nothing_is_read_by_name_in_a_directory_that_was_put_in_the_place_of_ours() {
    let sim = filled(12);
    let disk = sim.clone();
    on_sim_unclosed(&sim, small_store(), move |store, _| async move {
        assert_eq!(store.look_for_harm().await.expect("looks"), Harmed::default());
        disk.displace();
        let found = store.look_for_harm().await.expect("looks").unlinked;
        let closed = found.iter().filter(|one| !one.is_open).count();
        assert!(closed > 3, "{found:?}");
        let read = store.read(ALICE, INBOX, Uid(1), 0..u64::MAX).await;
        assert!(matches!(read, Err(Error::Read { .. })), "{read:?}");
    })
    .expect("comes to its end");
}

/// Whoever has the store open has no handle of it: then the space of all others must come back.
#[test]
fn a_file_that_was_removed_keeps_no_other_from_being_freed() {
    let sim = filled(11);
    let disk = sim.clone();
    on_sim(&sim, small_store(), move |store| async move {
        let (oldest, _) =
            segments(&disk).min_by_key(|(_, bytes)| segment_id(bytes)).expect("a segment");
        store.device().remove(&oldest).await.expect("removes");
        let all: Vec<Uid> = (1..=200).map(Uid).collect();
        store.expunge(ALICE, INBOX, &all).await.expect("gone");
        deliver_some(&store, 200..300).await;
        rest(&store).await;
        assert!(store.stats().segments_freed > 3, "{:?}", store.stats());
    });
}

/// Of what the store does not have open: another segment's file, whole, is neither read nor
/// freed, be it under a number of its own or written over ours; a copy is as good as what was there.
#[test]
fn another_file_in_the_place_of_one_is_left_alone_and_a_copy_of_that_one_is_used() {
    #[derive(Clone, Copy, PartialEq)]
    enum Comes {
        Another,
        WrittenOver,
        Copy,
    }
    for comes in [Comes::Another, Comes::WrittenOver, Comes::Copy] {
        let sim = filled(13);
        let disk = sim.clone();
        on_sim(&sim, small_store(), move |store| async move {
            let mut all: Vec<_> = segments(&disk).collect();
            all.sort_by_key(|(_, bytes)| segment_id(bytes));
            let is_copy = comes == Comes::Copy;
            let (name, other) = (all[1].0.clone(), all[if is_copy { 1 } else { 2 }].1.clone());
            match comes {
                Comes::WrittenOver => disk.overwrite(&name, &other),
                Comes::Another | Comes::Copy => disk.put_file(&name, other.clone()),
            }
            let found = store.look_for_harm().await.expect("looks");
            let named: Vec<_> = found.unlinked.iter().map(|one| (&one.file, one.is_open)).collect();
            let is_told = comes == Comes::Another;
            assert_eq!(named, if is_told { vec![(&name, false)] } else { vec![] });
            assert_eq!(found.cut, []);
            let mut missed = 0;
            for (number, uid) in (0..).zip(store.uids(ALICE, INBOX).expect("uids")) {
                match store.read(ALICE, INBOX, uid, 0..u64::MAX).await {
                    Ok(read) => assert!(read == message(ALICE, number, BODY_BYTES)),
                    Err(Error::Read { what, .. }) => {
                        assert_eq!(what, "another file is in its place");
                        missed += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(missed > 3, !is_copy, "{missed}");
            let all: Vec<Uid> = (1..=200).map(Uid).collect();
            store.expunge(ALICE, INBOX, &all).await.expect("gone");
            deliver_some(&store, 200..300).await;
            rest(&store).await;
            assert!(store.stats().segments_freed > 3, "{:?}", store.stats());
            let is_as_it_was = disk.contents(&name).is_some_and(|bytes| bytes == other);
            assert_eq!(is_as_it_was, !is_copy);
            // What has been told is no failure of whoever asks for space.
            let compacted = store.compact(|_| {}).await;
            assert_eq!(compacted.is_ok(), comes != Comes::WrittenOver, "{compacted:?}");
        });
    }
}

/// Somebody puts back what was lost before the start, under the name that the log would take next.
#[test]
fn a_file_that_is_put_back_is_not_taken_for_new_mail() {
    let sim = Sim::new(14);
    let disk = sim.clone();
    on_sim(&sim, small_store(), move |store| async move {
        with_accounts(&store).await;
        deliver_some(&store, 0..30).await;
        let last = logs(&disk).into_iter().map(|(name, _)| name).max().expect("a file");
        let number: u32 = last.trim_start_matches("log-").parse().expect("a number");
        let put_back = format!("log-{:08}", number + 2);
        disk.put_file(&put_back, vec![0x55; 8192]);
        deliver_some(&store, 30..300).await;
        assert_eq!(disk.contents(&put_back), Some(vec![0x55; 8192]));
    });
}

#[test]
fn a_spare_that_is_cut_is_let_go() {
    let sim = Sim::new(10);
    let disk = sim.clone();
    on_sim(&sim, small_store(), move |store| async move {
        with_accounts(&store).await;
        deliver_some(&store, 0..30).await;
        rest(&store).await;
        let used: Vec<String> = segments(&disk).map(|(name, _)| name).collect();
        let spares = logs(&disk).into_iter().filter(|(name, _)| !used.contains(name));
        let spares: Vec<String> = spares.map(|(name, _)| name).collect();
        assert!(!spares.is_empty());
        spares.iter().for_each(|name| disk.cut(name, 4096));
        assert_eq!(store.look_for_harm().await.expect("looks"), Harmed::default());
        deliver_some(&store, 30..120).await;
        assert!(segments(&disk).all(|(name, _)| !spares.contains(&name)));
    });
}

/// With something else in its place nobody knows that it was a spare: it is left alone, and named
/// for whoever can move it out.
#[test]
fn a_spare_that_was_overwritten_is_named_until_it_is_moved_out() {
    let sim = Sim::new(11);
    on_sim(&sim, small_store(), |store| async move {
        with_accounts(&store).await;
        deliver_some(&store, 0..30).await;
        rest(&store).await;
    });
    let pristine = sim.after_crash();
    let used: Vec<String> = segments(&pristine).map(|(name, _)| name).collect();
    let spare = logs(&pristine).into_iter().find(|(name, _)| !used.contains(name));
    let (spare, bytes) = spare.expect("a spare");
    let damage = |sim: &Sim| {
        let look = |store: Store<Sim>, _| async move {
            let damage = store.recovery().damage.clone();
            assert_eq!(store.verify().await.expect("verifies").bad, damage);
            damage
        };
        on_sim_unclosed(sim, small_store(), look).expect("comes to its end")
    };
    assert_eq!(damage(&pristine.after_crash()), Vec::<String>::new());
    pristine.put_file(&spare, vec![0x55; bytes.len()]);
    let told = damage(&pristine.after_crash());
    let [line] = &told[..] else { panic!("{told:?}") };
    assert!(line.contains(&format!("nothing in {spare} in ")), "{line}");
    let moved_out = pristine.after_crash();
    remove(&moved_out, &spare);
    assert_eq!(damage(&moved_out), Vec::<String>::new());
}
