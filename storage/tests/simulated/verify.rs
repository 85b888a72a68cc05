//! The whole-store check: what it costs, and how far it says that it is.

use crate::common::*;
use std::time::Duration;
use storage::Store;
use storage::device::Device;
use storage::device::sim::Sim;

const MESSAGES: u32 = 300;

async fn fill(store: &Store<Sim>) {
    with_accounts(store).await;
    for number in 0..MESSAGES {
        let one = delivery(vec![placement(ALICE, INBOX)], number, 300);
        store.deliver(one).await.expect("delivers");
    }
    // They are in segments that nothing is written to any more.
    for number in 0..80 {
        let one = delivery(vec![placement(BOB, INBOX)], number, 2_000);
        store.deliver(one).await.expect("delivers");
    }
}

/// What is written beside the log comes to its end.
async fn rest(store: &Store<Sim>) {
    for _ in 0..200 {
        store.device().sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn a_file_that_has_gone_is_asked_for_once_and_not_for_each_message_in_it() {
    let sim = Sim::new(70);
    on_sim(&sim, small_store(), |store| async move { fill(&store).await });
    let sim = sim.after_crash();
    let disk = sim.clone();
    on_sim(&sim, small_store(), move |store| async move {
        let needle = body(MESSAGES / 4, 300);
        let is_in = |name: &str| {
            let bytes = disk.contents(name).expect("there");
            bytes.windows(300).any(|window| *window == needle[..])
        };
        let mut files = disk.files().into_iter().map(|file| file.name);
        let name = files.find(|name| name.starts_with("log-") && is_in(name)).expect("one of them");
        disk.remove(&name).await.expect("is there");
        rest(&store).await;
        let before = disk.operations();
        let report = store.verify().await.expect("verifies");
        let operations = disk.operations() - before;
        let all = u64::from(MESSAGES) + 80;
        let lost = report.bad.iter().filter(|bad| bad.contains("UID")).count() as u64;
        assert!(lost > 40, "{:?}", report.bad);
        assert_eq!((report.records, report.messages), (all, all - lost));
        // A read for each message that is there, and some for the log. The rest is asked for by
        // name and then looked for.
        assert!(operations < all - lost + 40, "{operations} for {all}, {lost} of them lost");
    });
}

#[test]
fn how_far_it_is_goes_up_to_what_it_has_to_look_at_and_nobody_s_check_ends() {
    let sim = Sim::new(71);
    on_sim(&sim, small_store(), |store| async move {
        fill(&store).await;
        rest(&store).await;
        let (total, mut steps, mut done) = (store.bytes_to_verify(), 0, 0);
        let read = |bytes| {
            (steps, done) = (steps + 1, done + bytes);
            true
        };
        let report = store.verify_showing(read).await.expect("verifies");
        assert_eq!(report.bad, Vec::<String>::new());
        assert!(steps > MESSAGES && done == total, "{steps} steps, {done} of {total} bytes");
        let mut left = 100;
        let read = |_| {
            left -= 1;
            left > 0
        };
        let report = store.verify_showing(read).await.expect("verifies");
        assert_eq!((report.records, left), (100, 0));
    });
}
