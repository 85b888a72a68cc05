//! What somebody does to the files of a store that is running: they are removed, and its directory is moved away.

use crate::backup::churn;
use crate::common::*;
use storage::device::Device;
use storage::device::sim::{Random, Sim};
use storage::{Error, Store};

#[test]
fn a_file_that_has_lost_its_name_is_found_and_one_that_the_store_removes_is_not() {
    let sim = Sim::new(6);
    let disk = sim.clone();
    on_sim(&sim, small_store(), move |store| async move {
        with_accounts(&store).await;
        for from in (0..900).step_by(100) {
            churn(&store, &mut Random::new(6), from, 100).await;
            assert_eq!(store.look_for_unlinked().await.expect("looks"), []);
        }
        // All of them: spares, too, in which the log does not go on then.
        for file in store.device().list().await.expect("lists") {
            if file.name.starts_with("log-") {
                store.device().remove(&file.name).await.expect("removes");
            }
        }
        let found = store.look_for_unlinked().await.expect("looks");
        assert!(found.len() > 2 && found.iter().all(|one| one.is_open), "{found:?}");
        assert_eq!(store.stats().files_unlinked, found.len() as u64);
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
        let later = store.look_for_unlinked().await.expect("looks");
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
                store.look_for_unlinked().await.expect("looks");
                assert!(store.is_displaced() && store.halted_by().is_some());
            }
            // What is open is in the old directory: it takes what comes until something has to be made.
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
            // A spare may have been made ahead, and is nobody's; no checkpoint was, nor was the superblock touched.
            let made: Vec<_> = disk.files().into_iter().filter(|one| !before.contains(one)).collect();
            assert!(made.iter().all(|one| one.name.starts_with("log-")), "{made:?}");
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
