//! What is to be done for each destination: how many sessions, which message next, what is put off.
//! Pure: it is told what happens, and says what follows.
//!
//! - A message that finds its destination busy is *parked*: it waits outside, where it takes
//!   nobody's place, and is called in when there is room, at the latest when the destination has
//!   nothing else to do.
//! - A session that is not let in while others of its destination are, here or on another core,
//!   says how many the server takes at once. For a while there are no more; what waits goes over
//!   those that are in. Only the last one that is not let in means that nobody is there: then the
//!   destination is left alone for a while, and all that waits for it, or comes meanwhile, is put
//!   off for the same reason.
//! - While much is going on, a destination that has not taken anything yet gets few of the places:
//!   slow ones must not take all. Places go round: nobody has a second one while another waits for
//!   his first, and who has none while others always have something to bring is made room for.
//! - Time passes for all: what waits too long for a session that would take it is put off, so that
//!   it is tried, told of and given up as other messages are.

use super::route::Route;
use crate::queue::message::Standing;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
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
/// Messages that have waited so long without any session being let in are put off.
const UNSERVED_MAX: Duration = Duration::from_secs(300);
/// Whoever was parked is looked at again after so long, though there is no room yet: it may be time
/// to tell its sender.
const PARKED_MAX: Duration = Duration::from_secs(3600);
/// While others have no place, a session ends after so many messages.
const MESSAGES_WHEN_SHORT: u32 = 20;

#[derive(Debug)]
pub struct Destination<J> {
    jobs: VecDeque<J>,
    /// And since when.
    parked: BTreeMap<Uid, Instant>,
    /// Since when there are jobs of which no session has taken any.
    unserved: Option<Instant>,
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
            parked: BTreeMap::new(),
            unserved: None,
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
    /// Of these, those that make room and have not ended yet.
    leaving: usize,
    sessions_max: usize,
    per_destination_max: usize,
    /// Who got a place last.
    last: Option<Route>,
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
    /// Nobody serves the destination now, for that reason.
    pub put_off: Vec<(J, Standing)>,
    /// No session has come to take them, and they have waited long enough for one.
    pub unserved: Vec<J>,
    /// Parked messages, which come in now.
    pub call: Vec<Uid>,
}

impl<J> Destinations<J> {
    pub fn new(sessions_max: usize, per_destination_max: usize) -> Destinations<J> {
        Destinations {
            all: BTreeMap::new(),
            sessions: 0,
            leaving: 0,
            sessions_max,
            per_destination_max,
            last: None,
        }
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
    pub fn park(&mut self, route: &Route, uid: Uid, now: Instant) {
        let destination = self.all.entry(route.clone()).or_default();
        destination.parked.insert(uid, now);
        destination.came();
    }

    /// Whether a message is parked where there is still no room, and need not be looked at yet.
    pub fn is_parked(&self, uid: Uid, crowded: bool, now: Instant) -> bool {
        let holds = |one: &Destination<J>| {
            one.jobs.len() >= jobs_max(crowded)
                && one.parked.get(&uid).is_some_and(|since| now < *since + PARKED_MAX)
        };
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
        let destination = self.all.get_mut(route)?;
        let job = destination.jobs.pop_front()?;
        destination.unserved = None;
        Some(job)
    }

    /// Whether a session that has brought so many messages makes room, since all places are taken
    /// and there are more destinations without one than sessions that are leaving. Where it is so,
    /// it ends by [`Destinations::made_room`].
    pub fn makes_room(&mut self, route: &Route, brought: u32, now: Instant) -> bool {
        if brought < MESSAGES_WHEN_SHORT || self.sessions < self.sessions_max {
            return false;
        }
        let others = self.all.iter().filter(|(other, _)| *other != route);
        let mut waiting =
            others.filter(|(_, one)| one.sessions == 0 && one.wants_session(now, 1, false));
        let makes_room = waiting.nth(self.leaving).is_some();
        self.leaving += usize::from(makes_room);
        makes_room
    }

    /// A session that makes room is about to end.
    pub fn made_room(&mut self) {
        self.leaving = self.leaving.saturating_sub(1);
    }

    /// A session that was let in is so no longer: from now on its destination may be unserved.
    pub fn came_out(&mut self, route: &Route) {
        if let Some(destination) = self.all.get_mut(route) {
            destination.unserved = None;
        }
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

    /// A session of the destination is not let in, and ends. `elsewhere`: other cores have some.
    /// What comes back is put off for that reason; the destination is left alone for `pause`.
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
        let mut turn =
            Turn { begin: Vec::new(), put_off: Vec::new(), unserved: Vec::new(), call: Vec::new() };
        self.all.retain(|_, destination| {
            destination.call(now, crowded, &mut turn.call);
            if let Some(why) = destination.nobody_serves(now) {
                let jobs = destination.jobs.drain(..);
                turn.put_off.extend(jobs.map(|job| (job, why.clone())));
            } else if destination.is_unserved(now) {
                turn.unserved.extend(destination.jobs.drain(..));
            }
            destination.alone.is_some()
                || destination.sessions > 0
                || !destination.jobs.is_empty()
                || !destination.parked.is_empty()
        });
        let most = self.per_destination_max;
        // Mostly nobody wants any.
        if self.all.values().any(|one| one.wants_session(now, most, false)) {
            (1..=most).for_each(|most| self.give_each(most, now, &mut turn.begin));
        }
        turn
    }

    /// Sessions for those that want some and have fewer than `most`, beginning behind the one
    /// that got the last.
    fn give_each(&mut self, most: usize, now: Instant, begin: &mut Vec<Route>) {
        let places = self.sessions_max.saturating_sub(self.sessions);
        if places == 0 {
            return;
        }
        let is_busy = self.is_busy();
        let from = self.last.as_ref().map_or(Unbounded, Excluded);
        let behind = self.all.range((from, Unbounded));
        let up_to_it = self.last.iter().flat_map(|last| self.all.range(..=last));
        let wanting =
            behind.chain(up_to_it).filter(|(_, one)| one.wants_session(now, most, is_busy));
        let wanting: Vec<Route> = wanting.map(|(route, _)| route.clone()).take(places).collect();
        for route in wanting {
            // With each that begins, others may have to wait.
            let is_busy = self.is_busy();
            let Some(one) = self.all.get_mut(&route) else { continue };
            if one.wants_session(now, most, is_busy) {
                one.sessions += 1;
                self.sessions += 1;
                self.last = Some(route.clone());
                begin.push(route);
            }
        }
    }
}

impl<J> Destination<J> {
    fn wants_session(&self, now: Instant, most: usize, many_sessions: bool) -> bool {
        let limit = self.limit.filter(|(_, until)| now < *until).map_or(most, |(limit, _)| limit);
        let unproven = if many_sessions && !self.is_proven { 1 } else { most };
        self.sessions < self.jobs.len().min(most).min(limit).min(unproven)
    }

    /// Why all that waits is put off, if it is.
    fn nobody_serves(&mut self, now: Instant) -> Option<Standing> {
        self.alone.take_if(|(until, _)| now >= *until);
        self.alone.as_ref().map(|(_, why)| why.clone())
    }

    /// Whether all that waits has waited for a session too long; then it is over.
    fn is_unserved(&mut self, now: Instant) -> bool {
        if self.jobs.is_empty() {
            self.unserved = None;
            return false;
        }
        let since = *self.unserved.get_or_insert(now);
        let is_unserved = self.sessions == 0 && now >= since + UNSERVED_MAX;
        self.unserved.take_if(|_| is_unserved);
        is_unserved
    }

    /// Somebody has come who may have been called.
    fn came(&mut self) {
        if let Some((_, called)) = &mut self.called {
            *called = called.saturating_sub(1);
        }
    }

    /// Calls in those who are parked, the oldest first, up to half of the room: so whoever is
    /// called finds some.
    fn call(&mut self, now: Instant, crowded: bool, calls: &mut Vec<Uid>) {
        let called = self.called.filter(|(since, _)| now < *since + CALL_LASTS);
        let called = called.map_or(0, |(_, called)| called);
        let room = (jobs_max(crowded) / 2).saturating_sub(self.jobs.len() + called);
        let before = calls.len();
        let parked = std::iter::from_fn(|| self.parked.pop_first());
        calls.extend(parked.map(|(uid, _)| uid).take(room));
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
#[path = "destination_tests.rs"]
mod tests;
