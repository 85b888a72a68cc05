//! Room that is kept before a message comes: it is there then, nobody else has it, and
//! nobody waits for it.

use crate::common::*;
use storage::device::Device;
use storage::device::sim::Sim;
use storage::{Error, Options, Uid};

/// For a message that goes to several shards: none writes it before all have room.
#[test]
fn room_that_was_kept_is_there_when_the_disk_is_full_and_is_given_back_unused() {
    const BYTES: usize = 4000;
    let mut given_back = 0;
    for seed in 0..40_u32 {
        let sim = Sim::new(u64::from(seed));
        sim.set_capacity(Some(1228 << 10));
        given_back += on_sim(&sim, Options::for_tests(), move |store| async move {
            with_accounts(&store).await;
            let one = |number| delivery(vec![placement(ALICE, INBOX)], number, BYTES);
            for number in 0..10 + seed % 20 {
                store.deliver(one(number)).await.expect("there is room");
            }
            let room = store.keep_room(5 * BYTES).expect("there is room");
            let mut number = 100;
            let full = loop {
                match store.deliver(one(number)).await {
                    Ok(_) => number += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(full, Error::Full(_)), "{full}");
            if seed % 2 == 0 {
                // As much as there is without it; nothing but this happens meanwhile.
                drop(room);
                let mut rooms = Vec::new();
                while let Ok(room) = store.keep_room(BYTES) {
                    rooms.push(room);
                }
                // There is none where a checkpoint has grown since.
                let Some(one) = rooms.pop() else { return 0 };
                drop(one);
                drop(store.keep_room(BYTES).expect("it was given back"));
                return 1;
            }
            let within = store.within(Some(room));
            for number in number..number + 5 {
                within.deliver(one(number)).await.expect("room was kept");
            }
            // Beyond it, it is a handle like any other.
            let mut number = number + 5;
            while within.deliver(one(number)).await.is_ok() {
                number += 1;
                assert!(number < 1000);
            }
            assert!(!store.stats().halted);
            // It is new mail alone that it is kept from.
            store.expunge(ALICE, INBOX, &[Uid(1)]).await.expect("deletes");
            assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
            0
        });
    }
    assert!(given_back > 0, "in no run was there room to give back");
}

#[test]
fn room_that_was_kept_is_no_room_in_the_queue_for_others() {
    let sim = Sim::new(11);
    on_sim(&sim, Options::for_tests(), |store| async move {
        with_accounts(&store).await;
        let half = Options::for_tests().pending_bytes_max / 2;
        let first = store.keep_room(half).expect("there is room");
        let second = store.keep_room(half).expect("there is room");
        assert!(matches!(store.keep_room(1), Err(Error::Busy)));
        let one = delivery(vec![placement(ALICE, INBOX)], 1, 100);
        assert!(matches!(store.deliver(one).await, Err(Error::Busy)));
        let one = delivery(vec![placement(ALICE, INBOX)], 1, 100);
        store.within(Some(first)).deliver(one).await.expect("room was kept");
        drop(second);
        let one = delivery(vec![placement(ALICE, INBOX)], 2, 100);
        store.deliver(one).await.expect("it was given back");
    });
}

/// Whoever has kept room and wants more than that is refused where others keep all there is.
/// Waiting for it, they would wait for each other, and keep their rooms for ever.
#[test]
fn who_keeps_room_waits_for_nobody() {
    let sim = Sim::new(77);
    let disk = sim.clone();
    let half = Options::for_tests().pending_bytes_max / 2;
    on_sim_unclosed(&sim, Options::for_tests(), move |store, spawner| async move {
        with_accounts(&store).await;
        let own = store.keep_room(4096).expect("there is room");
        let others =
            [half, half - 4096].map(|bytes| store.keep_room(bytes).expect("there is room"));
        assert!(matches!(store.keep_room(1), Err(Error::Busy)));
        let ended = std::rc::Rc::new(std::cell::RefCell::new(None));
        let (within, place) = (store.within(Some(own)), ended.clone());
        spawner.spawn(async move {
            let mut writer = within.body_writer().expect("is open");
            let outcome = writer.push(body(1, 1 << 20)).await;
            *place.borrow_mut() = Some(outcome);
        });
        // The simulated clock runs fast.
        for _ in 0..100 {
            disk.sleep(std::time::Duration::from_secs(60)).await;
        }
        let outcome = ended.take();
        assert!(matches!(outcome, Some(Err(Error::Busy))), "{outcome:?}");
        drop(others);
        let one = delivery(vec![placement(ALICE, INBOX)], 1, 10 << 10);
        store.deliver(one).await.expect("nothing is kept any more");
    })
    .expect("comes to its end");
}
