//! Who is let in where, and who waits.

use super::super::route::Need;
use super::*;
use crate::queue::message::Outcome;

const PAUSE: Duration = Duration::from_secs(60);

fn route(name: &str) -> Route {
    Route::Domain(name.to_owned(), Need::Usual)
}

fn why() -> Standing {
    Standing::new(Outcome::Waiting, "4.4.1", "421 Too many connections")
}

/// Sessions that begin at that moment, by destination.
fn begun(turn: &Turn<u32>, name: &str) -> usize {
    turn.begin.iter().filter(|one| **one == route(name)).count()
}

fn with_jobs(name: &str, count: u32) -> (Destinations<u32>, Instant) {
    let mut destinations = Destinations::new(100, 10);
    for job in 0..count {
        destinations.add(&route(name), Uid(job), job);
    }
    (destinations, Instant::now())
}

#[test]
fn a_connection_too_many_says_how_many_are_taken_and_puts_nothing_off() {
    let (mut destinations, now) = with_jobs("a", 50);
    let a = route("a");
    assert_eq!(begun(&destinations.turn(now, false), "a"), 10);
    for _ in 0..7 {
        assert_eq!(destinations.not_let_in(&a, &why(), false, now, PAUSE), Vec::<u32>::new());
        destinations.ended(&a);
        assert_eq!(begun(&destinations.turn(now, false), "a"), 0);
    }
    // One of those that are in ends, and another takes its place.
    assert_eq!(destinations.next_job(&a), Some(0));
    destinations.ended(&a);
    assert_eq!(begun(&destinations.turn(now, false), "a"), 1);
    // After a while more are tried.
    let later = destinations.turn(now + LIMIT_LASTS, false);
    assert_eq!((begun(&later, "a"), later.put_off.len()), (7, 0));
}

#[test]
fn a_session_that_only_tries_is_told_from_one_that_was_let_in() {
    let (serving, a) = (Serving::default(), route("a"));
    let seen = |serving: &Serving| (serving.has_some(&a, false), serving.has_some(&a, true));
    assert_eq!(seen(&serving), (false, false));
    serving.begin(&a);
    serving.begin(&a);
    assert_eq!(seen(&serving), (false, true));
    serving.set_inside(&a, true);
    serving.end(&a);
    assert_eq!(seen(&serving), (true, true));
    serving.set_inside(&a, false);
    assert_eq!(seen(&serving), (false, true));
    serving.end(&a);
    assert_eq!(seen(&serving), (false, false));
}

#[test]
fn where_other_cores_are_let_in_nothing_is_put_off() {
    let (mut destinations, now) = with_jobs("a", 3);
    let a = route("a");
    destinations.turn(now, false);
    for _ in 0..2 {
        destinations.not_let_in(&a, &why(), false, now, PAUSE);
        destinations.ended(&a);
    }
    assert!(destinations.is_last(&a));
    assert_eq!(destinations.not_let_in(&a, &why(), true, now, PAUSE), Vec::<u32>::new());
    destinations.ended(&a);
    assert_eq!(begun(&destinations.turn(now, false), "a"), 0);
    assert_eq!(begun(&destinations.turn(now + SHUT_OUT_LASTS, false), "a"), 3);
}

#[test]
fn when_the_last_one_is_not_let_in_all_that_waits_is_put_off() {
    let (mut destinations, now) = with_jobs("a", 3);
    let a = route("a");
    assert_eq!(begun(&destinations.turn(now, false), "a"), 3);
    for _ in 0..2 {
        assert_eq!(destinations.not_let_in(&a, &why(), false, now, PAUSE), Vec::<u32>::new());
        destinations.ended(&a);
    }
    assert_eq!(destinations.not_let_in(&a, &why(), false, now, PAUSE), [0, 1, 2]);
    destinations.ended(&a);
    // What comes meanwhile, too.
    destinations.add(&a, Uid(9), 9);
    let turn = destinations.turn(now, false);
    assert_eq!(turn.put_off, [(9, why())]);
    assert_eq!(turn.begin, []);
    // Then it is tried again, over as many sessions as at first.
    for job in 0..10 {
        destinations.add(&a, Uid(job), job);
    }
    assert_eq!(begun(&destinations.turn(now + PAUSE, false), "a"), 10);
}

#[test]
fn slow_destinations_leave_places_to_others() {
    let (mut destinations, now) = with_jobs("slow", 100);
    let slow = route("slow");
    assert!(destinations.is_full(&slow, false));
    let (some, _) = with_jobs("slow", 20);
    assert!(some.is_full(&slow, true) && !some.is_full(&slow, false));
    // Ten that take nothing: the first ones get half of the sessions, the others one each.
    for number in 0..9 {
        (0..100).for_each(|job| destinations.add(&route(&format!("slow{number}")), Uid(job), job));
    }
    let turn = destinations.turn(now, true);
    assert!((51..=60).contains(&turn.begin.len()), "{}", turn.begin.len());
    destinations.add(&route("new"), Uid(1), 1);
    destinations.add(&route("new"), Uid(2), 2);
    assert_eq!(begun(&destinations.turn(now, true), "new"), 1);
    // Who takes something gets more.
    destinations.got_through(&route("new"));
    assert_eq!(begun(&destinations.turn(now, true), "new"), 1);
}

#[test]
fn places_go_round_whatever_the_names() {
    let now = Instant::now();
    let mut destinations = Destinations::new(3, 10);
    let add = |destinations: &mut Destinations<u32>, name: &str| {
        (0..100).for_each(|job| destinations.add(&route(name), Uid(job), job));
    };
    ["a", "b", "c", "d"].iter().for_each(|name| add(&mut destinations, name));
    let names = |turn: Turn<u32>| turn.begin;
    assert_eq!(names(destinations.turn(now, false)), [route("a"), route("b"), route("c")]);
    // Who has always something to bring makes room for who has no place.
    assert!(!destinations.makes_room(&route("a"), MESSAGES_WHEN_SHORT - 1, now));
    assert!(destinations.makes_room(&route("a"), MESSAGES_WHEN_SHORT, now));
    assert!(
        !destinations.makes_room(&route("b"), MESSAGES_WHEN_SHORT, now),
        "one is enough for one"
    );
    destinations.made_room();
    destinations.ended(&route("a"));
    assert_eq!(names(destinations.turn(now, false)), [route("d")]);
    destinations.ended(&route("c"));
    assert_eq!(names(destinations.turn(now, false)), [route("a")]);
    // All have what they may have while others wait.
    let mut alone = Destinations::new(3, 10);
    add(&mut alone, "a");
    assert_eq!(begun(&alone.turn(now, false), "a"), 2, "unproven, while more than half are taken");
    assert!(!alone.makes_room(&route("a"), 1000, now));
}

#[test]
fn what_no_session_takes_is_put_off_and_grows_old_as_other_mail_does() {
    let (mut destinations, now) = with_jobs("a", 3);
    let a = route("a");
    let mut at = now;
    let unserved = loop {
        let turn = destinations.turn(at, false);
        if !turn.unserved.is_empty() {
            break turn.unserved;
        }
        // Another core has the only connection that the server lets in.
        for _ in &turn.begin {
            assert_eq!(destinations.not_let_in(&a, &why(), true, at, PAUSE), Vec::<u32>::new());
            destinations.ended(&a);
        }
        at += Duration::from_secs(1);
    };
    assert!((UNSERVED_MAX..UNSERVED_MAX + SHUT_OUT_LASTS).contains(&(at - now)), "{:?}", at - now);
    assert_eq!(unserved, [0, 1, 2]);
    // What was being brought until now has not waited, however long that took.
    let (mut destinations, now) = with_jobs("a", 3);
    destinations.turn(now, false);
    assert!(destinations.next_job(&a).is_some());
    destinations.turn(now, false);
    destinations.came_out(&a);
    (0..3).for_each(|_| destinations.ended(&a));
    assert_eq!(destinations.turn(now + UNSERVED_MAX * 2, false).unserved, [0; 0]);
    // Those of which some are taken wait for their turn, however long that takes.
    let (mut destinations, now) = with_jobs("a", 100);
    for minute in 0..60 {
        let turn = destinations.turn(now + Duration::from_secs(60 * minute), false);
        assert_eq!(turn.unserved, [0; 0]);
        assert!(destinations.next_job(&a).is_some());
        (0..turn.begin.len()).for_each(|_| destinations.ended(&a));
    }
}

#[test]
fn parked_messages_wait_once_and_are_called_as_there_is_room() {
    let (mut destinations, now) = with_jobs("a", 100);
    let a = route("a");
    for _ in 0..3 {
        for uid in 1000..1200 {
            destinations.park(&a, Uid(uid), now);
        }
    }
    assert!(destinations.is_parked(Uid(1000), false, now));
    assert!(
        !destinations.is_parked(Uid(1000), false, now + PARKED_MAX),
        "its sender may have to be told"
    );
    assert_eq!(destinations.turn(now, false).call, []);
    assert!((0..60).all(|_| destinations.next_job(&a).is_some()));
    assert!(!destinations.is_parked(Uid(1000), false, now), "there is room");
    let turn = destinations.turn(now, false);
    assert_eq!(turn.call, (1000..1010).map(Uid).collect::<Vec<_>>());
    // They are on their way.
    assert_eq!(destinations.turn(now, false).call, []);
    destinations.add(&a, Uid(1000), 0);
    assert_eq!(destinations.turn(now, false).call, []);
    assert!(destinations.next_job(&a).is_some());
    assert_eq!(destinations.turn(now, false).call, [Uid(1010)]);
    // Those that never come are waited for no longer than a moment.
    assert_eq!(destinations.turn(now + CALL_LASTS, false).call.len(), 10);
}

#[test]
fn a_destination_stays_until_the_last_parked_one_was_called() {
    let (mut destinations, now) = with_jobs("a", 1);
    let a = route("a");
    (100..220).for_each(|uid| destinations.park(&a, Uid(uid), now));
    let mut called = Vec::new();
    for round in 0..10 {
        let turn = destinations.turn(now + CALL_LASTS * round, false);
        called.extend(turn.call);
        (0..turn.begin.len()).for_each(|_| destinations.ended(&a));
        while destinations.next_job(&a).is_some() {}
    }
    assert_eq!(called, (100..220).map(Uid).collect::<Vec<_>>());
    assert!(destinations.all.is_empty());
    // Nobody is there: they are called, too, and put off for the same reason.
    let (mut destinations, now) = with_jobs("a", 1);
    (100..110).for_each(|uid| destinations.park(&a, Uid(uid), now));
    destinations.not_let_in(&a, &why(), false, now, PAUSE);
    assert_eq!(destinations.turn(now, false).call.len(), 10);
}

#[test]
fn shares_add_up_to_the_limit() {
    for (limit, cores) in [(10, 8), (100, 3), (8, 8), (1000, 7), (5, 5)] {
        let all: usize = (0..cores).map(|core| share(limit, core, cores)).sum();
        assert_eq!(all, limit, "{limit} on {cores}");
    }
    assert_eq!((0..8).map(|core| share(1, core, 8)).sum::<usize>(), 8);
}
