//! One core's world: its store, its copy of the directory, and the way to the other cores.
//!
//! Everything here is plain cells and `Rc`: a shard never leaves its thread. Sessions hold an
//! `Rc<Shard>`; other cores send closures (`mesh.rs`).

use crate::NOTICE;
use crate::auth::desk::Desk;
use crate::config::Config;
use crate::directory::{Account, Directory};
use crate::files;
use crate::filter::learning::Learned;
use crate::filter::rules::Rules;
use crate::mesh::{Mesh, ShardHandle};
use crate::metrics::{Metrics, Service, count};
use crate::passwords::{Proved, ScramKeys, StoredPassword};
use crate::policy::connect;
use crate::policy::greylist::Known;
use crate::policy::networks::Fences;
use crate::policy::screening::{Offence, Screen};
use crate::queue::Queue;
use crate::readiness::Readiness;
use crate::relay::hosts;
use crate::watchdog::Watchdog;
use protocols::Tick;
use rustls::ServerConfig;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};
use storage::{AccountId, Store};

/// The disk that production runs on.
pub type Disk = storage::device::Uring;

/// Of a message, read at once by whoever passes it on.
pub const PIECE_BYTES: u64 = 256 << 10;

/// Password checks at once on one core's blocking pool, and those that may wait for it. Each takes
/// 19 MiB and tens of milliseconds: beyond this, a login is answered "try again".
const PASSWORD_CHECKS_MAX: usize = 2;
const PASSWORD_CHECKS_WAITING_MAX: usize = 256;
/// Connections from one address that one core takes, whatever the core's share of the limit.
const ONE_ADDRESS_MIN: usize = 20;
/// Work in the background reads at least so much in a second: less would never come to an end.
const SHARE_BYTES_MIN: u64 = 256 << 10;
/// For last words, after the time for transactions under way.
const FAREWELL: Duration = Duration::from_millis(250);
/// A wrong password is answered this late: fifty guesses take a minute.
const WRONG_PASSWORD_DELAY: Duration = Duration::from_millis(1000);

#[derive(Debug)]
pub struct Shard {
    pub id: u16,
    pub config: Arc<Config>,
    pub knobs: hwprofiles::Knobs,
    pub store: Store<Disk>,
    pub directory: RefCell<Directory>,
    /// Held over each change of the directory, from its first look to its last write: changes look
    /// before they write, and wait in between. Of use on shard 0, which alone makes them.
    pub directory_turn: tokio::sync::Mutex<()>,
    /// The way to all cores, this one included.
    pub mesh: Rc<Mesh>,
    pub metrics: Metrics,
    pub scrub: crate::scrub::Scrub,
    pub compact: crate::compact::Compact,
    pub watchdog: Watchdog,
    pub readiness: Rc<Readiness>,
    pub buffers: Buffers,
    pub connections: Connections,
    pub auth: Desk,
    /// Whom the operator lets in and keeps out.
    pub fences: RefCell<Arc<Fences>>,
    /// Who is kept out for a while.
    pub screen: RefCell<Screen>,
    /// Connections of load balancers whose header is waited for.
    pub balanced: Cell<usize>,
    /// Networks of `listen.xclient_from`, by their places there, from which somebody has brought
    /// mail without XCLIENT.
    pub silent_gateways: RefCell<HashSet<usize>>,
    /// Who is answered late.
    pub delayed: crate::policy::greeting::Delayed,
    /// Who has been asked to come again. Of use on shard 0.
    pub greylist: RefCell<Known>,
    /// Of the spam filter; the same on every core.
    pub rules: Arc<Rules>,
    /// What the spam filter has learned. Shard 0's is the truth.
    pub learned: RefCell<Learned>,
    /// What accounts at home here have sorted, for themselves alone.
    pub own_models: RefCell<crate::filter::own::Models>,
    /// Held while something is learned.
    pub learning_turn: tokio::sync::Mutex<()>,
    /// Held while accounts at home here are told of what was kept back.
    pub digest_turn: tokio::sync::Mutex<()>,
    /// Commands of users who sort their mail, whose messages are being looked at.
    pub sorting: Cell<usize>,
    pub sorting_turns: crate::filter::sorting::Turns,
    pub sieve: crate::sieve::Sieve,
    pub scan: crate::scan::session::Scanning,
    /// Stored mail, which is scanned again.
    pub again: crate::scan::again::Again,
    pub rspamd: crate::filter::rspamd::desk::Desk,
    /// What accounts have sent that are at home here.
    pub submitting: crate::submission::Submitting,
    /// Mail of this core that waits to leave.
    pub queue: Queue,
    /// Where it goes, by DNS.
    pub hosts: hosts::Desk,
    /// Outside mailboxes of the accounts that are at home here.
    pub collecting: crate::collect::Collecting,
    pub reports: crate::reports::Reporting,
    tls: RefCell<Option<Arc<ServerConfig>>>,
    password_checks: Rc<glommio::sync::Semaphore>,
    password_checks_waiting: Cell<usize>,
    proved: RefCell<Proved>,
    began: Signal,
    ended: Signal,
    ids: Cell<u64>,
    /// Seeds the keys of users who don't exist. The same on every core and after a restart.
    secret: [u8; 32],
}

/// What a core is made from.
#[derive(Debug)]
pub struct Parts {
    pub id: u16,
    pub config: Arc<Config>,
    pub knobs: hwprofiles::Knobs,
    pub mesh: Vec<ShardHandle>,
    pub tls: Option<Arc<ServerConfig>>,
    pub secret: [u8; 32],
    pub auth: Desk,
    pub rules: Arc<Rules>,
    pub sieve: Arc<crate::sieve::SystemScripts>,
    pub fences: Arc<Fences>,
    pub scan: crate::scan::desk::Desk,
    pub rspamd: crate::filter::rspamd::desk::Desk,
    pub hosts: hosts::Desk,
    /// Where all cores' clocks begin: deadlines travel with sessions.
    pub origin: Instant,
    pub poll: mio::Poll,
}

/// A login that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedIn {
    pub address: String,
    pub account: AccountId,
    pub home: u16,
}

/// Where a login comes from, for the log.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    pub peer: SocketAddr,
    pub service: Service,
}

/// Why a login did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginError {
    Wrong,
    Busy,
}

impl Shard {
    pub fn new(parts: Parts, store: Store<Disk>) -> Shard {
        let cores = parts.mesh.len();
        Shard {
            id: parts.id,
            buffers: Buffers::default(),
            connections: Connections::new(&parts.config, &parts.knobs, cores),
            auth: parts.auth,
            screen: RefCell::new(Screen::new(parts.origin)),
            balanced: Cell::default(),
            silent_gateways: RefCell::default(),
            delayed: Default::default(),
            greylist: RefCell::default(),
            rules: parts.rules,
            learned: RefCell::default(),
            own_models: RefCell::default(),
            learning_turn: tokio::sync::Mutex::default(),
            digest_turn: tokio::sync::Mutex::default(),
            sorting: Cell::default(),
            sorting_turns: Default::default(),
            sieve: crate::sieve::Sieve::new(parts.sieve),
            fences: RefCell::new(parts.fences),
            scan: crate::scan::session::Scanning::new(parts.scan),
            again: Default::default(),
            rspamd: parts.rspamd,
            submitting: Default::default(),
            queue: Queue::default(),
            hosts: parts.hosts,
            collecting: Default::default(),
            reports: Default::default(),
            config: parts.config,
            knobs: parts.knobs,
            directory: RefCell::default(),
            directory_turn: tokio::sync::Mutex::default(),
            mesh: Rc::new(Mesh::new(parts.id, parts.mesh)),
            metrics: Metrics::default(),
            scrub: crate::scrub::Scrub::new(&store),
            store,
            compact: crate::compact::Compact::default(),
            watchdog: Watchdog::new(parts.origin),
            readiness: Rc::new(Readiness::new(parts.poll)),
            tls: RefCell::new(parts.tls),
            password_checks: Rc::new(glommio::sync::Semaphore::new(PASSWORD_CHECKS_MAX as u64)),
            password_checks_waiting: Cell::new(0),
            proved: RefCell::default(),
            began: Signal::default(),
            ended: Signal::default(),
            // Far apart from what an earlier run has used: it can't have made an id
            // every microsecond.
            ids: Cell::new(crate::delivery::unix_millis().0 * 1000),
            secret: parts.secret,
        }
    }

    pub fn now(&self) -> Tick {
        self.watchdog.now()
    }

    /// What a backup may read here: its share of what the disk keeps up for long. All of it, since
    /// it goes from shard to shard.
    pub fn backup_bytes_per_second(&self) -> u64 {
        backup_share(&self.knobs)
    }

    /// The same for the scrub, which is on all cores at once.
    pub fn scrub_bytes_per_second(&self) -> u64 {
        share_of_disk(&self.knobs, self.mesh.cores(), self.knobs.scrub_share_percent.value)
    }

    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.borrow().clone()
    }

    /// New connections and handshakes use `config` from now on.
    pub fn set_tls(&self, config: Option<Arc<ServerConfig>>) {
        *self.tls.borrow_mut() = config;
    }

    /// What chooses the words that accounts' own classifiers look at: not for outsiders to know.
    pub fn sample_key(&self) -> u64 {
        let digest = [b"words that are looked at".as_slice(), &self.secret].concat();
        let digest = ring::digest::digest(&ring::digest::SHA256, &digest);
        u64::from_le_bytes(digest.as_ref().first_chunk().copied().unwrap_or_default())
    }

    /// An identification for logs and trace headers: unique on this host, and after a restart too.
    pub fn next_id(&self) -> String {
        let number = self.ids.get();
        self.ids.set(number + 1);
        format!("{:x}.{number:x}", self.id)
    }

    /// Checks a password, off the executor where that costs much. A wrong one, or a user who does
    /// not exist, is answered late, and equally late.
    pub async fn verify_password(
        &self,
        user: &str,
        password: &[u8],
        origin: Origin,
    ) -> Result<LoggedIn, LoginError> {
        let known = self
            .directory
            .borrow()
            .login(user)
            .map(|(address, account)| (logged_in(address, account), account.password.clone()));
        let stored = known.as_ref().map(|(_, stored)| stored);
        let is_proved = |stored| self.proved.borrow().knows(stored, password, Instant::now());
        if !stored.is_some_and(is_proved) && !self.burn(stored, password).await? {
            self.login_failed(user, origin).await;
            return Err(LoginError::Wrong);
        }
        count(&self.metrics.logins);
        known.map(|(login, _)| login).ok_or(LoginError::Wrong)
    }

    /// Whether `password` is the one of `stored`, at the price of argon2id; of
    /// nobody's, it never is.
    async fn burn(
        &self,
        stored: Option<&StoredPassword>,
        password: &[u8],
    ) -> Result<bool, LoginError> {
        if self.password_checks_waiting.get() >= PASSWORD_CHECKS_WAITING_MAX {
            return Err(LoginError::Busy);
        }
        self.password_checks_waiting.set(self.password_checks_waiting.get() + 1);
        let _waiting = Decrement(&self.password_checks_waiting);
        let _permit = self.password_checks.acquire_permit(1).await;
        let (sent, theirs) = (password.to_vec(), stored.cloned());
        let is_right = glommio::executor()
            .spawn_blocking(move || match theirs {
                Some(stored) => stored.verify(&sent),
                None => {
                    StoredPassword::verify_nobody(&sent);
                    false
                }
            })
            .await;
        if let Some(stored) = stored.filter(|_| is_right) {
            self.proved.borrow_mut().remember(stored, password, Instant::now());
        }
        Ok(is_right)
    }

    /// Counts, reports and delays: for every mechanism alike. One line, whose form programs rely on
    /// that ban addresses (README.md, "Logs").
    pub async fn login_failed(&self, user: &str, origin: Origin) {
        count(&self.metrics.logins_failed);
        connect::note(self, origin.peer.ip(), Offence::FailedLogin);
        let Origin { peer, service } = origin;
        tracing::info!(target: NOTICE, %peer, service = service.name(), user, "login failed");
        glommio::timer::sleep(WRONG_PASSWORD_DELAY).await;
    }

    /// SCRAM keys for `user`; made-up ones when there is no such user, whom no proof will satisfy.
    pub fn scram_keys(&self, user: &str) -> (ScramKeys, Option<LoggedIn>) {
        match self.directory.borrow().login(user) {
            Some((address, account)) => {
                (account.password.scram.clone(), Some(logged_in(address, account)))
            }
            // The same keys however the name is written, as for a user who exists.
            None => (ScramKeys::nobody(&user.to_lowercase(), &self.secret), None),
        }
    }

    /// All cores are open and have the directory: connections may be accepted.
    pub fn begin(&self) {
        self.began.raise();
    }

    pub async fn begun(&self) {
        self.began.raised().await;
    }

    /// Waits for the sessions to end, once they have been told to, but not past `until`: what is
    /// still under way then was not acknowledged, and is told so.
    pub async fn drain(&self, until: Instant) {
        while self.is_busy() && Instant::now() < until {
            glommio::timer::sleep(Duration::from_millis(20)).await;
        }
        self.watchdog.cut();
        let until = Instant::now() + FAREWELL;
        while self.is_busy() && Instant::now() < until {
            glommio::timer::sleep(Duration::from_millis(5)).await;
        }
    }

    fn is_busy(&self) -> bool {
        self.connections.open() > 0
            || self.queue.counts.sessions.get() > 0
            || self.collecting.counts.sessions.get() > 0
            || self.again.is_running()
    }

    /// Closes the store and ends the core.
    pub async fn close(&self) {
        // Of a directory that has gone it was told in other words.
        if let Err(error) = self.store.close().await
            && !self.store.is_displaced()
        {
            tracing::error!(shard = self.id, %error, "store closed with an error; it will recover when opened");
        }
        self.began.raise();
        self.ended.raise();
    }

    pub async fn stopped(&self) {
        self.ended.raised().await;
    }

    pub fn has_stopped(&self) -> bool {
        self.ended.raised.get()
    }
}

fn logged_in(address: &str, account: &Account) -> LoggedIn {
    LoggedIn { address: address.to_owned(), account: account.id(), home: account.shard }
}

struct Decrement<'c>(&'c Cell<usize>);

impl Drop for Decrement<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Something that happens once.
#[derive(Debug, Default)]
struct Signal {
    raised: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Signal {
    fn raise(&self) {
        self.raised.set(true);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    async fn raised(&self) {
        std::future::poll_fn(|context| {
            if self.raised.get() {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            // Who waits again and again, racing this against something else, is kept once.
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// Read buffers of a core: as many as sessions are reading at once, not as many as there are.
#[derive(Debug, Default)]
pub struct Buffers {
    free: RefCell<Vec<Box<[u8]>>>,
}

impl Buffers {
    const BYTES: usize = 64 * 1024;
    const FREE_MAX: usize = 64;

    pub fn take(&self) -> Box<[u8]> {
        self.free.borrow_mut().pop().unwrap_or_else(|| vec![0; Self::BYTES].into_boxed_slice())
    }

    pub fn give(&self, buffer: Box<[u8]>) {
        let mut free = self.free.borrow_mut();
        if free.len() < Self::FREE_MAX {
            free.push(buffer);
        }
    }
}

/// Counts a core's connections against its share of the limits. The kernel spreads connections over
/// the cores' listeners by a hash of their addresses, so shares fill about evenly.
#[derive(Debug)]
pub struct Connections {
    open_max: usize,
    open_per_address_max: usize,
    open: Cell<usize>,
    by_address: RefCell<HashMap<IpAddr, usize>>,
}

impl Connections {
    fn new(config: &Config, knobs: &hwprofiles::Knobs, cores: usize) -> Connections {
        let share = |limit: usize| limit.div_ceil(cores.max(1));
        let memory = usize::try_from(knobs.sessions_max.value).unwrap_or(usize::MAX);
        let files = files::connections(cores);
        let from_one = config.limits.connections_per_address_max;
        Connections {
            open_max: share(config.limits.connections_max.min(memory).min(files)),
            // A few from one place may well meet on one core, above all after they have logged in.
            open_per_address_max: share(from_one).max(ONE_ADDRESS_MIN.min(from_one)),
            open: Cell::new(0),
            by_address: RefCell::default(),
        }
    }

    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Whether one more from `address` fits. Loopback counts only against the total: a gateway on
    /// this host is many peers.
    fn admits(&self, address: IpAddr, is_gateway: bool) -> bool {
        self.open.get() < self.open_max && (is_gateway || self.admits_from(address))
    }

    fn admits_from(&self, address: IpAddr) -> bool {
        let from_there = self.by_address.borrow().get(&address).copied().unwrap_or(0);
        address.is_loopback() || from_there < self.open_per_address_max
    }

    fn leave(&self, address: IpAddr) {
        let mut by_address = self.by_address.borrow_mut();
        if let Some(count) = by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
    }
}

/// A connection's place in the counts; gives it back when dropped.
#[derive(Debug)]
pub struct Place {
    shard: Rc<Shard>,
    address: IpAddr,
    service: Service,
}

impl Place {
    pub fn take(shard: &Rc<Shard>, address: IpAddr, service: Service) -> Option<Place> {
        let is_gateway = service == Service::Smtp && connect::is_gateway(shard, address);
        if !shard.connections.admits(address, is_gateway) {
            count(&shard.metrics.connections_refused);
            return None;
        }
        let connections = &shard.connections;
        connections.open.set(connections.open.get() + 1);
        *connections.by_address.borrow_mut().entry(address).or_default() += 1;
        let open = &shard.metrics.connections_open[service as usize];
        open.set(open.get() + 1);
        Some(Place { shard: Rc::clone(shard), address, service })
    }

    /// To a gateway's client, whose connection it is from now on. False: there are too many
    /// from that address.
    pub fn pass_to(&mut self, address: IpAddr) -> bool {
        let connections = &self.shard.connections;
        if !connections.admits_from(address) {
            count(&self.shard.metrics.connections_refused);
            return false;
        }
        connections.leave(self.address);
        *connections.by_address.borrow_mut().entry(address).or_default() += 1;
        self.address = address;
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let connections = &self.shard.connections;
        connections.open.set(connections.open.get() - 1);
        connections.leave(self.address);
        let open = &self.shard.metrics.connections_open[self.service as usize];
        open.set(open.get() - 1);
    }
}

fn backup_share(knobs: &hwprofiles::Knobs) -> u64 {
    share_of_disk(knobs, 1, knobs.backup_share_percent.value)
}

/// Of one core of so many that read at once, in bytes a second.
fn share_of_disk(knobs: &hwprofiles::Knobs, cores: u16, percent: u64) -> u64 {
    let all = knobs.lasting_bytes_per_second.value.saturating_mul(percent) / 100;
    (all / u64::from(cores).max(1)).max(SHARE_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::{backup_share, share_of_disk};

    #[test]
    fn a_knob_that_is_set_moves_no_other() {
        let mut knobs = hwprofiles::derive(&hwprofiles::shipped("generic").unwrap());
        let lasting = knobs.lasting_bytes_per_second.value;
        assert_eq!(share_of_disk(&knobs, 2, 10), lasting / 20);
        // One shard after another is backed up.
        knobs.set("backup_share_percent", 20, "a test").unwrap();
        assert_eq!(backup_share(&knobs), lasting / 5);
        for name in ["compaction_bytes_per_second", "compaction_share_percent"] {
            knobs.set(name, 1, "a test").unwrap();
            assert_eq!(share_of_disk(&knobs, 2, 10), lasting / 20, "{name}");
        }
        knobs.set("lasting_bytes_per_second", 100 << 20, "a test").unwrap();
        assert_eq!(share_of_disk(&knobs, 4, 10), (100 << 20) / 40);
    }
}
