//! A simulator that never fails is none: each bug that can be planted in the store is found within
//! a bounded number of workloads.

use kura_tests::simulation::campaign::{self, PLANTED};

const SEEDS_MAX: u64 = 12;

#[test]
fn every_planted_bug_is_seen_and_its_case_fails_in_the_same_way_again() {
    // Some of them make the store panic, which is a way of being seen.
    std::panic::set_hook(Box::new(|_| {}));
    let found: Vec<_> = std::thread::scope(|scope| {
        let hunts = PLANTED.map(|bug| {
            scope.spawn(move || {
                let failure = campaign::hunt(bug, 1..1 + SEEDS_MAX);
                let again =
                    failure.as_ref().map(|failure| kura_tests::simulation::run(failure.case));
                (bug, failure, again)
            })
        });
        hunts.into_iter().filter_map(|hunt| hunt.join().ok()).collect()
    });
    let _ = std::panic::take_hook();
    for (bug, failure, again) in &found {
        let (Some(failure), Some(again)) = (failure, again) else {
            panic!("{bug:?} went unseen in {SEEDS_MAX} workloads");
        };
        println!("{bug:?}: {}", failure.to_string().replace('\n', "\n    "));
        let again = again.as_ref().map_err(ToString::to_string);
        assert_eq!(again, Err(failure.to_string()), "{bug:?}");
    }
    assert_eq!(found.len(), PLANTED.len());
}
