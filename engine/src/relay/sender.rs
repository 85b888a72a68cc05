//! One core's sender: takes what is due out of the queue, parts it by destination, and serves each
//! destination over a few connections, one message after the other.
//!
//! What is to be done next for a destination is [`destination`](super::destination)'s to say, how a
//! connection comes about [`connecting`](super::connecting)'s. Bounds: messages under way,
//! connections in all and to one destination.

use super::connecting::{Connected, Connector, NO_REQUIRE_TLS};
use super::destination::{Destinations, Turn, share};
use super::home;
use super::outcome::{Attempt, is_crowded, owes_word, standing};
use super::route::{self, Need, Route, route_of};
use crate::operations::unix_now;
use crate::queue;
use crate::queue::message::{Outcome, Standing};
use crate::shard::Shard;
use futures_lite::future::or;
use protocols::Address;
use protocols::smtp::client::{self, Report, Stage};
use protocols::wire::remote::Trouble;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};
use storage::Uid;
use tokio::sync::oneshot;

/// Messages of one core that are on their way at once; each holds its envelope.
const MESSAGES_MAX: usize = 500;
/// What is parked is called in before; this is for what is not.
const PARKED_SECONDS: u64 = 600;
/// Recipients of one transaction: every server takes as many (RFC 5321 section 4.5.3.1.8).
const RECIPIENTS_MAX: usize = 100;
/// Messages that a session has brought and that are being recorded. Records share flushes and wait
/// for each other ([`queue::removal::GATHERED_FOR`]); a session that waited for each of its own
/// would bring fifty messages a second.
const SETTLING_MAX: usize = 50;
/// A session that has nothing to bring stays for so long, so that mail which comes one by one does
/// not have a connection made, greeted and encrypted for each.
const LINGER: Duration = Duration::from_secs(1);
/// The longest time that a destination is left alone.
const LEFT_ALONE_MAX: Duration = Duration::from_secs(60);
/// The queue is looked at so often at least: clocks jump.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A message whose envelope can't be read is looked at again after so long.
const UNREADABLE_SECONDS: u64 = 3600;

/// One transaction to be.
struct Job {
    attempt: Rc<Attempt>,
    indices: Vec<usize>,
    /// Connections that broke under it before the server had said anything about it.
    broken: u32,
    /// Where REQUIRETLS can't be had it goes on without.
    yields: bool,
}

struct Sender {
    shard: Rc<Shard>,
    destinations: RefCell<Destinations<Job>>,
    /// Sessions that have nothing to bring, the last one last, to be told of something.
    lingering: RefCell<BTreeMap<Route, Vec<oneshot::Sender<()>>>>,
    connector: Connector,
}

/// Sends until the server stops.
pub async fn run(shard: Rc<Shard>) {
    if let Err(error) = queue::load(&shard).await {
        tracing::error!(shard = shard.id, %error, "the queue can't be read: nothing is sent");
        return;
    }
    let share = |limit: usize| share(limit, shard.id, shard.mesh.cores());
    let relay = &shard.config.relay;
    let (sessions, to_one) = (relay.sessions_max, relay.sessions_per_destination_max);
    let sender = Rc::new(Sender {
        destinations: RefCell::new(Destinations::new(share(sessions), share(to_one))),
        lingering: RefCell::default(),
        connector: Connector::new(&shard),
        shard: Rc::clone(&shard),
    });
    while !shard.watchdog.stopping() {
        let room = MESSAGES_MAX.saturating_sub(shard.queue.under_way());
        for uid in shard.queue.take_due(unix_now(), room) {
            let (crowded, now) = (sender.is_crowded(), Instant::now());
            if sender.destinations.borrow().is_parked(uid, crowded, now) {
                shard.queue.done(uid, Some(unix_now() + PARKED_SECONDS));
                continue;
            }
            let sender = Rc::clone(&sender);
            glommio::spawn_local(async move { sender.begin(uid).await }).detach();
        }
        sender.dispatch();
        let until = shard.queue.next_due().filter(|_| room > 0);
        let wait = until.map_or(LOOK_EVERY, |at| {
            Duration::from_secs(at.saturating_sub(unix_now()))
                .clamp(Duration::from_millis(50), LOOK_EVERY)
        });
        or(shard.queue.stirred(), async {
            glommio::timer::sleep(wait).await;
        })
        .await;
    }
}

impl Sender {
    /// Parts a message by destination.
    async fn begin(self: Rc<Self>, uid: Uid) {
        let shard = &self.shard;
        let (envelope, mut progress) = match queue::recorded(shard, uid).await {
            Ok(recorded) => recorded,
            Err(fault) => {
                tracing::error!(uid = uid.0, fault, "a queued message can't be read");
                queue::put_off(shard, uid, unix_now() + UNREADABLE_SECONDS, None).await;
                return;
            }
        };
        if progress.held || progress.start() > unix_now() {
            // A clock was set back, or what is recorded of it can't be read any more.
            progress.next = progress.start();
            return queue::finish(shard, uid, progress).await;
        }
        let yields = route::yields(&envelope);
        // A server that promises, and whose certificate is never valid, must not cost
        // the notice either.
        let is_late = unix_now() > progress.start() + shard.config.relay.expire.0.as_secs() / 2;
        let mut by_route: BTreeMap<Route, Vec<usize>> = BTreeMap::new();
        let mut at_home = Vec::new();
        for index in progress.waiting() {
            let recipient = &envelope.recipients[index];
            if home::is_ours(shard, &recipient.to) {
                at_home.push(index);
                continue;
            }
            let mut route = route_of(&shard.config.smart_hosts, &envelope, recipient);
            if yields && is_late {
                route = route.unprotected();
            }
            by_route.entry(route).or_default().push(index);
        }
        let full = by_route.keys().find(|route| self.is_full(route)).cloned();
        if let Some(full) = &full {
            self.destinations.borrow_mut().park(full, uid, Instant::now());
            if !owes_word(&shard.config.relay, &progress, unix_now()) {
                queue::put_off(shard, uid, unix_now() + PARKED_SECONDS, Some(progress)).await;
                return;
            }
            // Time to tell its sender, or to give it up: those who can be tried are, and the others
            // have had no room.
            by_route.retain(|route, _| !self.is_full(route));
        }
        let attempt = Rc::new(Attempt::new(uid, envelope, progress));
        let chunks: usize =
            by_route.values().map(|indices| indices.len().div_ceil(RECIPIENTS_MAX)).sum();
        let open = [!at_home.is_empty(), full.is_some()].map(usize::from);
        attempt.open.set(chunks + open.iter().sum::<usize>());
        if attempt.open.get() == 0 {
            // All was recorded, and then there was a crash.
            attempt.settle(shard).await;
            return;
        }
        for (route, indices) in by_route {
            for indices in indices.chunks(RECIPIENTS_MAX) {
                let attempt = Rc::clone(&attempt);
                let job = Job { attempt, indices: indices.to_vec(), broken: 0, yields };
                self.destinations.borrow_mut().add(&route, uid, job);
                self.wake_one(&route);
            }
        }
        self.dispatch();
        if full.is_some() {
            attempt.settle(&self.shard).await;
        }
        if !at_home.is_empty() {
            home::deliver(&self.shard, &attempt, &at_home).await;
            attempt.settle(&self.shard).await;
        }
    }

    /// More than half of the places are taken.
    fn is_crowded(&self) -> bool {
        self.shard.queue.under_way() > MESSAGES_MAX / 2
    }

    fn is_full(&self, route: &Route) -> bool {
        self.destinations.borrow().is_full(route, self.is_crowded())
    }

    /// Does what is to be done for all destinations.
    fn dispatch(self: &Rc<Self>) {
        let crowded = self.is_crowded();
        let Turn { begin, put_off, unserved, call } =
            self.destinations.borrow_mut().turn(Instant::now(), crowded);
        self.count_sessions();
        call.into_iter().for_each(|uid| self.shard.queue.hurry(uid));
        for route in begin {
            let sender = Rc::clone(self);
            sender.shard.queue.serving.begin(&route);
            glommio::spawn_local(async move {
                sender.serve(&route).await;
                sender.destinations.borrow_mut().ended(&route);
                sender.shard.queue.serving.end(&route);
                if !sender.shard.watchdog.stopping() {
                    sender.dispatch();
                }
                sender.count_sessions();
                sender.shard.queue.stir();
            })
            .detach();
        }
        for job in unserved {
            let shard = Rc::clone(&self.shard);
            glommio::spawn_local(async move { job.end_unserved(&shard).await }).detach();
        }
        let mut goes_on = false;
        for (job, why) in put_off {
            let Some(job) = self.without_require_tls(job, &why) else {
                goes_on = true;
                continue;
            };
            let shard = Rc::clone(&self.shard);
            glommio::spawn_local(async move { job.end(&shard, &why).await }).detach();
        }
        if goes_on {
            self.shard.queue.stir();
        }
    }

    /// A notice that asks for REQUIRETLS of a destination where that can't be had goes on there
    /// without; the job again if that is not so.
    fn without_require_tls(&self, job: Job, why: &Standing) -> Option<Job> {
        if !job.yields || why.outcome != Outcome::Failed || why.status != NO_REQUIRE_TLS {
            return Some(job);
        }
        let envelope = &job.attempt.envelope;
        let recipient = job.indices.first().and_then(|index| envelope.recipients.get(*index));
        let Some(recipient) = recipient else { return Some(job) };
        let (id, why) = (&envelope.id, &why.why);
        tracing::info!(id, to = %recipient.to, why, "a notice goes on without REQUIRETLS");
        let route = route_of(&self.shard.config.smart_hosts, envelope, recipient).unprotected();
        let uid = job.attempt.uid;
        self.destinations.borrow_mut().add(&route, uid, Job { yields: false, ..job });
        self.wake_one(&route);
        None
    }

    fn count_sessions(&self) {
        let sessions = self.destinations.borrow().sessions();
        self.shard.queue.counts.sessions.set(sessions as u64);
    }

    fn next_job(&self, route: &Route) -> Option<Job> {
        if self.shard.watchdog.stopping() {
            return None;
        }
        let mut destinations = self.destinations.borrow_mut();
        let job = destinations.next_job(route);
        let call = destinations.call_in(route, Instant::now(), self.is_crowded());
        drop(destinations);
        call.into_iter().for_each(|uid| self.shard.queue.hurry(uid));
        job
    }

    /// The next one, for which an open session waits a while; but not while places for
    /// sessions are short.
    async fn next_job_soon(&self, route: &Route) -> Option<Job> {
        let until = Instant::now() + LINGER;
        loop {
            let next = self.next_job(route);
            let left = until.saturating_duration_since(Instant::now());
            if next.is_some() || left.is_zero() || self.destinations.borrow().is_busy() {
                return next;
            }
            let (wake, woken) = oneshot::channel();
            self.lingering.borrow_mut().entry(route.clone()).or_default().push(wake);
            let in_time = or(async { woken.await.is_ok() }, async {
                glommio::timer::sleep(left).await;
                false
            });
            if !in_time.await {
                self.forget_gone();
            }
        }
    }

    /// Sessions that linger no longer.
    fn forget_gone(&self) {
        let mut lingering = self.lingering.borrow_mut();
        lingering.values_mut().for_each(|all| all.retain(|wake| !wake.is_closed()));
        lingering.retain(|_, all| !all.is_empty());
    }

    /// Tells the session that was busy last, of those that linger: the others may end.
    fn wake_one(&self, route: &Route) {
        if let Some(all) = self.lingering.borrow_mut().get_mut(route) {
            while let Some(wake) = all.pop()
                && wake.send(()).is_err()
            {}
        }
    }

    fn give_back(&self, route: &Route, job: Job) {
        self.destinations.borrow_mut().give_back(route, job);
        self.wake_one(route);
    }

    fn has_jobs(&self, route: &Route) -> bool {
        !self.shard.watchdog.stopping() && self.destinations.borrow().has_jobs(route)
    }

    /// One session after the other, as long as there is something to bring.
    async fn serve(self: &Rc<Self>, route: &Route) {
        while self.has_jobs(route) {
            let Connected { mut session, host, way } = match self.connector.connect(route).await {
                Ok(connected) => connected,
                // That we stop says nothing about the destination.
                Err(_) if self.shard.watchdog.stopping() => return,
                Err(why) => return self.not_let_in(route, why).await,
            };
            self.shard.queue.serving.set_inside(route, true);
            let mut brought = 0_u32;
            let mut settling = Settling::default();
            let (reusable, makes_room) = loop {
                let now = Instant::now();
                if self.destinations.borrow_mut().makes_room(route, brought, now) {
                    break (true, true);
                }
                let Some(job) = self.next_job_soon(route).await else { break (true, false) };
                let Some(job) = job.without_malformed(&self.shard).await else { continue };
                let mut envelope = job.envelope();
                // Over other ways nobody is known to be who would have to keep the promise.
                envelope.require_tls &= route.need() == Need::RequireTls;
                let report = session.bring(envelope, job.attempt.uid).await;
                settling.leave(SETTLING_MAX).await;
                match report {
                    Ok(report) => {
                        let reusable = report.reusable;
                        if let Some(attempt) =
                            self.account_for(route, job, &report, (&host, &way), brought > 0)
                        {
                            settling.begin(&self.shard, attempt);
                        }
                        if !reusable {
                            break (false, false);
                        }
                        brought += 1;
                    }
                    Err(lost) => {
                        let why = format!("{host} {lost}");
                        self.try_once_more(route, job, &why).await;
                        break (false, false);
                    }
                }
            };
            self.shard.queue.serving.set_inside(route, false);
            self.destinations.borrow_mut().came_out(route);
            if reusable {
                session.quit().await;
            }
            settling.leave(0).await;
            if makes_room {
                return self.destinations.borrow_mut().made_room();
            }
        }
    }

    /// The connection broke before the server had said anything about the message.
    async fn try_once_more(&self, route: &Route, mut job: Job, why: &str) {
        job.broken += 1;
        if job.broken > 1 {
            job.end(&self.shard, &Standing::new(Outcome::Waiting, "4.4.2", why)).await;
        } else {
            self.give_back(route, job);
        }
    }

    fn account_for(
        &self,
        route: &Route,
        mut job: Job,
        report: &Report,
        (host, way): (&str, &str),
        is_reused: bool,
    ) -> Option<Rc<Attempt>> {
        // A server may close an idle connection at any time: that says nothing about this message.
        let closed = |verdict: &client::Verdict| {
            verdict.trouble == Some(Trouble::Lost)
                && matches!(verdict.stage, Stage::Reset | Stage::Mail)
        };
        if is_reused && job.broken == 0 && report.verdicts.iter().all(closed) {
            job.broken = 1;
            self.give_back(route, job);
            return None;
        }
        let taken = report.verdicts.iter().any(|one| one.outcome == client::Outcome::Delivered);
        if taken {
            self.destinations.borrow_mut().got_through(route);
        }
        let mut crowd = Vec::new();
        for (&index, verdict) in job.indices.iter().zip(&report.verdicts) {
            if taken && is_crowded(verdict) {
                crowd.push(index);
            } else {
                let counts = &self.shard.queue.counts;
                let standing = standing(verdict, host).over(way);
                job.attempt.set(counts, index, standing, report.dsn);
            }
        }
        if !crowd.is_empty() {
            let attempt = Rc::clone(&job.attempt);
            attempt.open.set(attempt.open.get() + 1);
            self.give_back(route, Job { attempt, indices: crowd, broken: 0, yields: job.yields });
        }
        Some(job.attempt)
    }

    /// A session was not let in. If it was the only one, all that goes there waits, or fails, for
    /// the same reason.
    async fn not_let_in(&self, route: &Route, why: Standing) {
        let may_be_full =
            why.outcome == Outcome::Waiting && self.destinations.borrow().is_last(route);
        let elsewhere = may_be_full && self.is_served_elsewhere(route).await;
        let half = self.shard.config.relay.retry_first.0 / 2;
        let (now, pause) = (Instant::now(), half.min(LEFT_ALONE_MAX));
        let wait_most = self.shard.config.relay.retry_most.0.as_secs();
        let why = self.shard.queue.unreached.share(route, why, unix_now(), wait_most);
        let jobs = self.destinations.borrow_mut().not_let_in(route, &why, elsewhere, now, pause);
        for job in jobs {
            if let Some(job) = self.without_require_tls(job, &why) {
                job.end(&self.shard, &why).await;
            }
        }
    }

    /// Whether another core has a session there. Two that are refused at once must not take each
    /// other for one that was let in, again and again: of those that still hope, only the ones of
    /// lower cores count.
    async fn is_served_elsewhere(&self, route: &Route) -> bool {
        let mesh = &self.shard.mesh;
        for core in (0..mesh.cores()).filter(|core| *core != self.shard.id) {
            let (route, hopes) = (route.clone(), core < self.shard.id);
            let has_some = mesh
                .ask(core, move |shard| async move { shard.queue.serving.has_some(&route, hopes) });
            if has_some.await.unwrap_or(false) {
                return true;
            }
        }
        false
    }
}

/// What has become of messages is being recorded while the next ones are on their way,
/// the oldest first.
#[derive(Default)]
struct Settling(VecDeque<oneshot::Receiver<()>>);

impl Settling {
    fn begin(&mut self, shard: &Rc<Shard>, attempt: Rc<Attempt>) {
        let (done, over) = oneshot::channel();
        let shard = Rc::clone(shard);
        let settle = async move {
            attempt.settle(&shard).await;
            let _ = done.send(());
        };
        glommio::spawn_local(settle).detach();
        self.0.push_back(over);
    }

    /// Until no more than so many are left.
    async fn leave(&mut self, most: usize) {
        while self.0.len() > most
            && let Some(over) = self.0.pop_front()
        {
            let _ = over.await;
        }
    }
}

impl Job {
    /// All its recipients come to the same.
    async fn end(self, shard: &Rc<Shard>, standing: &Standing) {
        for &index in &self.indices {
            self.attempt.set(&shard.queue.counts, index, standing.clone(), true);
        }
        self.attempt.settle(shard).await;
    }

    /// No session came to take it.
    async fn end_unserved(self, shard: &Rc<Shard>) {
        for &index in &self.indices {
            self.attempt.set_unserved(&shard.queue.counts, index);
        }
        self.attempt.settle(shard).await;
    }

    /// Addresses were read when they were taken in: one that can't be read now is
    /// told to its sender.
    async fn without_malformed(mut self, shard: &Rc<Shard>) -> Option<Job> {
        let recipients = &self.attempt.envelope.recipients;
        let is_fine = |index: &usize| Address::parse(recipients[*index].to.as_bytes()).is_some();
        let (fine, malformed): (Vec<usize>, Vec<usize>) =
            self.indices.iter().partition(|index| is_fine(index));
        for index in malformed {
            let why = "its address can't be read";
            let failed = Standing::new(Outcome::Failed, "5.1.3", why);
            self.attempt.set(&shard.queue.counts, index, failed, true);
        }
        self.indices = fine;
        if self.indices.is_empty() {
            self.attempt.settle(shard).await;
            return None;
        }
        Some(self)
    }

    fn envelope(&self) -> client::Envelope {
        let envelope = &self.attempt.envelope;
        let recipient = |index: &usize| {
            let recipient = envelope.recipients.get(*index)?;
            let address = Address::parse(recipient.to.as_bytes())?;
            Some(client::Recipient { address, params: recipient.params() })
        };
        client::Envelope {
            sender: envelope.sender.as_ref().and_then(|sender| Address::parse(sender.as_bytes())),
            recipients: self.indices.iter().filter_map(recipient).collect(),
            octets: envelope.octets,
            eight_bit: envelope.eight_bit,
            smtp_utf8: envelope.smtp_utf8,
            require_tls: envelope.require_tls,
            ret: envelope.ret(),
            envid: envelope.envid.clone(),
        }
    }
}
