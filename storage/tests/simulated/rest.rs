//! A store in which nobody changes anything comes to rest, whatever it has to compact.

use crate::common::*;
use std::cell::Cell;
use std::rc::Rc;
use storage::device::sim::{Random, Sim};
use storage::{Options, Store, Uid};

/// Operations of the disk until a store is at rest, at the most.
const OPERATIONS_MAX: u64 = 5_000;

/// Small segments, in which only a few of the largest records find room.
fn options(random: &mut Random) -> Options {
    let segment_bytes = [64 << 10, 64 << 10, 128 << 10, 256 << 10][random.index(4)];
    let batch_bytes_max = [4 << 10, 8 << 10, 16 << 10][random.index(3)];
    Options {
        segment_bytes,
        spare_segments: 1,
        spare_segments_max: 2,
        batch_bytes_max,
        batch_bytes_eager: 1 << 10,
        pending_bytes_max: 128 << 10,
        checkpoint_log_bytes_min: 48 << 10,
        checkpoint_log_bytes_max: 48 << 10,
        garbage_percent_max: [5, 10, 20, 30][random.index(4)],
        ..Options::for_tests()
    }
}

/// Mail of which most has one of a few sizes, so that segments are left with the same
/// gap at their end.
async fn live_through(
    store: &Store<Sim>,
    random: &mut Random,
    options: &Options,
    is_bounded: bool,
) {
    let record = options.record_bytes_max();
    let sizes = [record / 2 + 1, record / 2 - 200, record - 600, 4_000, 40_000, 300];
    let usual = sizes[random.index(sizes.len())];
    let kept_max = 4 + random.index(30);
    let mut kept: Vec<Uid> = Vec::new();
    for number in 0..60 + random.index(60) as u32 {
        let length = if random.index(4) == 0 { sizes[random.index(sizes.len())] } else { usual };
        let one = delivery(vec![placement(ALICE, INBOX)], number, length);
        match store.deliver(one).await {
            Ok((placed, _)) => kept.push(placed[0].uid),
            Err(error) => assert!(is_bounded, "{error}"),
        }
        if kept.len() > kept_max {
            let victim = kept.swap_remove(random.index(kept.len()));
            store.expunge(ALICE, INBOX, &[victim]).await.expect("expunges");
        }
    }
}

#[test]
fn a_store_in_which_nothing_changes_comes_to_rest() {
    let mut moved = 0;
    for seed in 0..400 {
        let sim = Sim::new(seed);
        let mut random = Random::new(seed);
        let options = options(&mut random);
        let is_bounded = random.chance(1, 4);
        if is_bounded {
            sim.set_capacity(Some(options.segment_bytes * 10 + 60_000));
        }
        let is_asked = random.chance(1, 4);
        // Should it not even come to the end of its mail.
        sim.crash_at(10 * OPERATIONS_MAX);
        let still = Rc::new(Cell::new(None));
        let (disk, telling, knobs) = (sim.clone(), Rc::clone(&still), options.clone());
        on_sim_unclosed(&sim, options.clone(), move |store, _| async move {
            with_accounts(&store).await;
            live_through(&store, &mut random, &knobs, is_bounded).await;
            disk.crash_at(disk.operations() + OPERATIONS_MAX);
            telling.set(Some((store.stats().bytes_moved, store.clone())));
            if is_asked {
                store.compact(|_| ()).await.expect("compacts");
            }
            std::future::pending::<()>().await;
        });
        let (moved_before, store) = still.take().expect("it came to the end of its mail");
        let stats = store.stats();
        assert!(!sim.is_crashed(), "seed {seed} goes on for ever: {options:?}, {stats:?}");
        moved += stats.bytes_moved - moved_before;
    }
    assert!(moved > 0, "there was something to compact");
}
