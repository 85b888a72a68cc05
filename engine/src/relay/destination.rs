//! What is to be done for each destination: how many sessions, which message next, what is put off. Pure: it is
//! told what happens, and says what follows.
//!
//! - A message that finds its destination busy is *parked*: it waits outside, where it takes nobody's place, and is
//!   called in when there is room, at the latest when the destination has nothing else to do.
//! - A session that is not let in while others of its destination are, here or on another core, says how many the server
//!   takes at once. For a while there are no more; what waits goes over those that are in. Only the last one that is
//!   not let in means that nobody is there: then the destination is left alone for a while, and all that waits
//!   for it, or comes meanwhile, is put off for the same reason.
//! - While much is going on, a destination that has not taken anything yet gets few of the places: slow ones must
//!   not take all.

use super::route::Route;
use crate::queue::message::Standing;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};
use storage::Uid;

/// Messages for one destination that have a place among those under way.
pub const JOBS_MAX: usize = 100;
/// The same, while more than half of all places are taken.
pub const JOBS_MAX_WHEN_CROWDED: usize = 20;
/// How long we believe that a server takes no more sessions than it took.
const LIMIT_LASTS: Duration = Duration::from_secs(300);
/// The same, where it took none of this core's.
const SHUT_OUT_LASTS: Duration = Duration::from_secs(15);
/// Who was called in and has not come by then is not coming.
const CALL_LASTS: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Destination<J> {
    jobs: VecDeque<J>,
    parked: BTreeSet<Uid>,
    /// Of those that were parked, how many were called in and have not come, and since when.
    called: Option<(Instant, usize)>,
    sessions: usize,
    /// It has taken a message.
    is_proven: bool,
    /// As many sessions as it lets in, and until when we believe that.
    limit: Option<(usize, Instant)>,
    /// Until when nobody is bothered, and why.
    alone: Option<(Instant, Standing)>,
}

impl<J> Default for Destination<J> {
    fn default() -> Self {
        Destination {
            jobs: VecDeque::new(),
            parked: BTreeSet::new(),
            called: None,
            sessions: 0,
            is_proven: false,
            limit: None,
            alone: None,
        }
    }
}

#[derive(Debug)]
pub struct Destinations<J> {
    all: BTreeMap<Route, Destination<J>>,
    sessions: usize,
    sessions_max: usize,
    per_destination_max: usize,
}

/// The sessions that a core has where, for the other cores to ask.
#[derive(Debug, Default)]
pub struct Serving(RefCell<BTreeMap<Route, Sessions>>);

#[derive(Debug, Default)]
struct Sessions {
    begun: usize,
    /// Of these, how many were let in.
    inside: usize,
}

impl Serving {
    pub fn begin(&self, route: &Route) {
        self.0.borrow_mut().entry(route.clone()).or_default().begun += 1;
    }

    pub fn end(&self, route: &Route) {
        let mut all = self.0.borrow_mut();
        if let Some(sessions) = all.get_mut(route) {
            sessions.begun -= 1;
            if sessions.begun == 0 {
                all.remove(route);
            }
        }
    }

    /// A session that had begun is let in, or is so no longer.
    pub fn set_inside(&self, route: &Route, is_inside: bool) {
        if let Some(sessions) = self.0.borrow_mut().get_mut(route) {
            let others = sessions.inside.saturating_sub(1);
            sessions.inside = if is_inside { sessions.inside + 1 } else { others };
        }
    }

    /// Whether some are let in; or may be yet, where `hopes`.
    pub fn has_some(&self, route: &Route, hopes: bool) -> bool {
        self.0.borrow().get(route).is_some_and(|sessions| hopes || sessions.inside > 0)
    }
}

/// What is to be done now.
#[derive(Debug)]
pub struct Turn<J> {
    /// A session for each.
    pub begin: Vec<Route>,
    pub put_off: Vec<(J, Standing)>,
    /// Parked messages, which come in now.
    pub call: Vec<Uid>,
}

impl<J> Destinations<J> {
    pub fn new(sessions_max: usize, per_destination_max: usize) -> Destinations<J> {
        Destinations { all: BTreeMap::new(), sessions: 0, sessions_max, per_destination_max }
    }

    pub fn sessions(&self) -> usize {
        self.sessions
    }

    /// Whether more than half of the sessions that there may be are there.
    pub fn is_busy(&self) -> bool {
        self.sessions > self.sessions_max / 2
    }

    /// Whether the destination has enough to do. `crowded`: more than half of the places are taken.
    pub fn is_full(&self, route: &Route, crowded: bool) -> bool {
        self.all.get(route).is_some_and(|one| one.jobs.len() >= jobs_max(crowded))
    }

    /// The message waits until it is called.
    pub fn park(&mut self, route: &Route, uid: Uid) {
        let destination = self.all.entry(route.clone()).or_default();
        destination.parked.insert(uid);
        destination.came();
    }

    /// Whether a message is parked where there is still no room.
    pub fn is_parked(&self, uid: Uid, crowded: bool) -> bool {
        let holds =
            |one: &Destination<J>| one.jobs.len() >= jobs_max(crowded) && one.parked.contains(&uid);
        self.all.values().any(holds)
    }

    pub fn add(&mut self, route: &Route, uid: Uid, job: J) {
        let destination = self.all.entry(route.clone()).or_default();
        destination.jobs.push_back(job);
        destination.parked.remove(&uid);
        destination.came();
    }

    /// To be tried once more, before all others.
    pub fn give_back(&mut self, route: &Route, job: J) {
        self.all.entry(route.clone()).or_default().jobs.push_front(job);
    }

    pub fn has_jobs(&self, route: &Route) -> bool {
        self.all.get(route).is_some_and(|one| !one.jobs.is_empty())
    }

    pub fn next_job(&mut self, route: &Route) -> Option<J> {
        self.all.get_mut(route)?.jobs.pop_front()
    }

    /// Parked messages that come in now.
    pub fn call_in(&mut self, route: &Route, now: Instant, crowded: bool) -> Vec<Uid> {
        let mut calls = Vec::new();
        if let Some(destination) = self.all.get_mut(route) {
            destination.call(now, crowded, &mut calls);
        }
        calls
    }

    /// It has taken a message.
    pub fn got_through(&mut self, route: &Route) {
        if let Some(destination) = self.all.get_mut(route) {
            destination.is_proven = true;
        }
    }

    /// Whether a session of the destination is the only one of this core.
    pub fn is_last(&self, route: &Route) -> bool {
        self.all.get(route).is_none_or(|destination| destination.sessions <= 1)
    }

    /// A session of the destination is not let in, and ends. `elsewhere`: other cores have some. What comes back is put
    /// off for that reason; the destination is left alone for `pause`.
    pub fn not_let_in(
        &mut self,
        route: &Route,
        why: &Standing,
        elsewhere: bool,
        now: Instant,
        pause: Duration,
    ) -> Vec<J> {
        let Some(destination) = self.all.get_mut(route) else { return Vec::new() };
        let others = destination.sessions.saturating_sub(1);
        if others > 0 || elsewhere {
            let lasts = if others > 0 { LIMIT_LASTS } else { SHUT_OUT_LASTS };
            destination.limit = Some((others, now + lasts));
            return Vec::new();
        }
        destination.limit = None;
        destination.alone = Some((now + pause, why.clone()));
        destination.jobs.drain(..).collect()
    }

    /// A session has ended.
    pub fn ended(&mut self, route: &Route) {
        self.sessions = self.sessions.saturating_sub(1);
        if let Some(destination) = self.all.get_mut(route) {
            destination.sessions = destination.sessions.saturating_sub(1);
        }
    }

    /// What is to be done. The sessions that are to begin count from now on.
    pub fn turn(&mut self, now: Instant, crowded: bool) -> Turn<J> {
        let mut turn = Turn { begin: Vec::new(), put_off: Vec::new(), call: Vec::new() };
        let Destinations { all, sessions, sessions_max, per_destination_max } = self;
        all.retain(|route, destination| {
            destination.call(now, crowded, &mut turn.call);
            match &destination.alone {
                Some((until, why)) if now < *until => {
                    let jobs = destination.jobs.drain(..);
                    turn.put_off.extend(jobs.map(|job| (job, why.clone())));
                    return true;
                }
                Some(_) | None => destination.alone = None,
            }
            while *sessions < *sessions_max
                && destination.wants_session(
                    now,
                    *per_destination_max,
                    *sessions > *sessions_max / 2,
                )
            {
                destination.sessions += 1;
                *sessions += 1;
                turn.begin.push(route.clone());
            }
            destination.sessions > 0
                || !destination.jobs.is_empty()
                || !destination.parked.is_empty()
        });
        turn
    }
}

impl<J> Destination<J> {
    fn wants_session(&self, now: Instant, most: usize, many_sessions: bool) -> bool {
        let limit = self.limit.filter(|(_, until)| now < *until).map_or(most, |(limit, _)| limit);
        let unproven = if many_sessions && !self.is_proven { 1 } else { most };
        self.sessions < self.jobs.len().min(most).min(limit).min(unproven)
    }

    /// Somebody has come who may have been called.
    fn came(&mut self) {
        if let Some((_, called)) = &mut self.called {
            *called = called.saturating_sub(1);
        }
    }

    /// Calls in those who are parked, the oldest first, up to half of the room: so whoever is called finds some.
    fn call(&mut self, now: Instant, crowded: bool, calls: &mut Vec<Uid>) {
        let called = self.called.filter(|(since, _)| now < *since + CALL_LASTS);
        let called = called.map_or(0, |(_, called)| called);
        let room = (jobs_max(crowded) / 2).saturating_sub(self.jobs.len() + called);
        let before = calls.len();
        calls.extend(std::iter::from_fn(|| self.parked.pop_first()).take(room));
        let some = calls.len() - before;
        if some > 0 {
            self.called = Some((now, called + some));
        }
    }
}

fn jobs_max(crowded: bool) -> usize {
    if crowded { JOBS_MAX_WHEN_CROWDED } else { JOBS_MAX }
}

/// A core's share of a limit: with all shares it is the limit, but each has one at the least.
pub fn share(limit: usize, core: u16, cores: u16) -> usize {
    let (core, cores) = (usize::from(core), usize::from(cores).max(1));
    (limit / cores + usize::from(core < limit % cores)).max(1)
}

#[cfg(test)]
mod tests {
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
            (0..100)
                .for_each(|job| destinations.add(&route(&format!("slow{number}")), Uid(job), job));
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
    fn parked_messages_wait_once_and_are_called_as_there_is_room() {
        let (mut destinations, now) = with_jobs("a", 100);
        let a = route("a");
        for _ in 0..3 {
            for uid in 1000..1200 {
                destinations.park(&a, Uid(uid));
            }
        }
        assert!(destinations.is_parked(Uid(1000), false));
        assert_eq!(destinations.turn(now, false).call, []);
        assert!((0..60).all(|_| destinations.next_job(&a).is_some()));
        assert!(!destinations.is_parked(Uid(1000), false), "there is room");
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
        (100..220).for_each(|uid| destinations.park(&a, Uid(uid)));
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
        (100..110).for_each(|uid| destinations.park(&a, Uid(uid)));
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
}
