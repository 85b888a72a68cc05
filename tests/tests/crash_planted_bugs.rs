//! A simulator that never fails is none: each bug that can be planted in the store is found within a
//! bounded number of workloads.

use kura_tests::simulation::campaign::{self, PLANTED};

const SEEDS_MAX: u64 = 12;

#[test]
fn every_planted_bug_is_seen() {
    // Some of them make the store panic, which is a way of being seen.
    std::panic::set_hook(Box::new(|_| {}));
    let found: Vec<_> = std::thread::scope(|scope| {
        let hunts =
            PLANTED.map(|bug| scope.spawn(move || (bug, campaign::hunt(bug, 1..1 + SEEDS_MAX))));
        hunts.into_iter().filter_map(|hunt| hunt.join().ok()).collect()
    });
    let _ = std::panic::take_hook();
    for (bug, failure) in &found {
        match failure {
            Some(failure) => println!("{bug:?}: {}", failure.to_string().replace('\n', "\n    ")),
            None => panic!("{bug:?} went unseen in {SEEDS_MAX} workloads"),
        }
    }
    assert_eq!(found.len(), PLANTED.len());
}

#[test]
fn the_same_case_fails_in_the_same_way_again() {
    std::panic::set_hook(Box::new(|_| {}));
    let failures = PLANTED.map(|bug| campaign::hunt(bug, 1..1 + SEEDS_MAX).expect("seen above"));
    for failure in failures {
        let again = kura_tests::simulation::run(failure.case);
        assert_eq!(again.map_err(|again| again.to_string()), Err(failure.to_string()));
    }
}
