//! How many files a store has open: of descriptors a process has only so many, and connections want
//! them.

use crate::common::*;
use std::time::Duration;
use storage::device::Device;
use storage::device::sim::Sim;
use storage::{Options, Store, Uid};

const KEPT_OPEN: usize = 16;
const SEGMENTS_MIN: u64 = 48;
/// Spares that are kept, spares that are being freed, one that is written ahead, and what is read
/// or written beside the log.
const BESIDE: usize = 3 + 16 + 1 + 8;

fn options() -> Options {
    Options {
        open_files_max: KEPT_OPEN,
        retention: Duration::from_secs(30 * 86_400),
        ..small_store()
    }
}

async fn rest(store: &Store<Sim>) {
    for _ in 0..200 {
        store.device().sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn a_store_of_many_segments_has_few_files_open_whatever_it_does() {
    let sim = Sim::new(80);
    let disk = sim.clone();
    on_sim(&sim, options(), move |store| async move {
        with_accounts(&store).await;
        let deliver = async |account, number| {
            let one = delivery(vec![placement(account, INBOX)], number, 6_000);
            store.deliver(one).await.expect("delivers").0[0].uid
        };
        for number in 0..500 {
            deliver([ALICE, BOB][number as usize % 2], number).await;
        }
        let at = store.device().now();
        assert!(store.stats().segments > SEGMENTS_MIN, "{:?}", store.stats());
        // By turns, so that each is opened anew for some of them.
        for number in 1..=250 {
            let uid = Uid(1 + number * 97 % 250);
            store.read(ALICE, INBOX, uid, 0..u64::MAX).await.expect("reads");
        }
        store.device().sleep(Duration::from_secs(60)).await;
        let uids = store.uids(BOB, INBOX).expect("uids");
        store.expunge(BOB, INBOX, &uids).await.expect("expunges");
        assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
        store.scrub(None, |_, findings| assert!(findings.is_empty())).await.expect("a round");
        store.as_of(ALICE, at).await.expect("remembered");
        let most = disk.open_files_most();
        assert!(most <= KEPT_OPEN + BESIDE, "{most}");
    });
    // Without a retention what has gone is forgotten at once, and most of the segments are freed.
    let options = Options { retention: Duration::ZERO, ..options() };
    let sim = sim.after_crash();
    let disk = sim.clone();
    on_sim(&sim, options, move |store| async move {
        let _ = disk.open_files_most();
        store.remove_account(ALICE).await.expect("removes");
        let freed = store.stats().segments_freed;
        store.compact(|_| ()).await.expect("compacts");
        rest(&store).await;
        assert!(store.stats().segments_freed > freed + 3 * 16, "{:?}", store.stats());
        let most = disk.open_files_most();
        assert!(most <= KEPT_OPEN + BESIDE, "{most}");
    });
}
