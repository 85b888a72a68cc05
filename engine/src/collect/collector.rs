//! One core's visits: which sources are due, and how many are visited at once.
//!
//! A source that waits is an entry here and nothing else: no connection, no task. Visits are
//! bounded in all and to each host, and each ends after a while; what it left comes with the next
//! one, behind the others that are due.

use super::folder;
use super::imap;
use super::inbound::Way;
use super::keys::{self, Key};
use super::ledger::Id;
use super::link::Link;
use super::maildrop::Maildrop;
use super::pop3;
use super::reason::{Kind, Reason};
use super::round::{Counts, Round};
use super::source::{Protocol, Secret, Source, Tls};
use super::{ledger, notes};
use crate::NOTICE;
use crate::delivery::To;
use crate::directory::Home;
use crate::hex;
use crate::operations::unix_now;
use crate::passwords;
use crate::relay::hosts::{Host, Question};
use crate::relay::tls::Trust;
use crate::shard::Shard;
use futures_lite::future::or;
use protocols::Address;
use protocols::sasl::client::{self as sasl, Login};
use protocols::wire::remote;
use protocols::{imap::client as imap_client, pop3::client as pop3_client};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Messages that one visit reads.
const MESSAGES_MAX: usize = 1000;
/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 4;
/// It is looked so often at least whether something is due: clocks jump.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const TOKEN_OCTETS_MAX: u64 = 16 << 10;

struct Collector {
    shard: Rc<Shard>,
    /// Once it was needed.
    trust: RefCell<Option<Trust>>,
}

/// Visits what is due until the server stops.
pub async fn run(shard: Rc<Shard>) {
    let settings = &shard.config.collect;
    if !settings.enabled {
        return;
    }
    let share = |limit: usize| limit.div_ceil(usize::from(shard.mesh.cores()).max(1));
    let sessions_max = share(settings.sessions_max);
    let per_host_max = share(settings.sessions_per_host_max);
    let now = unix_now();
    for (key, source) in keys::all(&shard) {
        let standing = keys::standing(&shard, key);
        let regular = source.every.map(|_| now);
        let due = if standing.failures > 0 { standing.next.or(regular) } else { regular };
        shard.collecting.know(key, &source.host, due.filter(|_| source.every.is_some()));
    }
    let collecting = &shard.collecting;
    collecting.runs.set(true);
    let collector = Rc::new(Collector { shard: Rc::clone(&shard), trust: RefCell::default() });
    let running = Rc::new(Cell::new(0_usize));
    while !shard.watchdog.stopping() {
        while running.get() < sessions_max
            && let Some(key) = collecting.take_due(unix_now(), per_host_max)
        {
            running.set(running.get() + 1);
            collecting.counts.sessions.set(running.get() as u64);
            let (collector, running) = (Rc::clone(&collector), Rc::clone(&running));
            glommio::spawn_local(async move {
                let due = collector.visit(key).await;
                let collecting = &collector.shard.collecting;
                running.set(running.get() - 1);
                collecting.counts.sessions.set(running.get() as u64);
                collecting.is_finished(key, due);
            })
            .detach();
        }
        let until = collecting.next_due().filter(|_| running.get() < sessions_max);
        let wait = until.map_or(LOOK_EVERY, |at| {
            let left = Duration::from_secs(at.saturating_sub(unix_now()));
            // What is due already waits for its host.
            left.clamp(Duration::from_millis(200), LOOK_EVERY)
        });
        or(collecting.stirred(), async {
            glommio::timer::sleep(wait).await;
        })
        .await;
    }
}

/// What a visit has come to, and why it ended early if it did.
#[derive(Debug, Default)]
struct Report {
    counts: Counts,
    trouble: Option<Reason>,
    stumbled: Option<Id>,
    remark: Option<String>,
}

impl Collector {
    /// Visits a source; when it is due again.
    async fn visit(&self, key: Key) -> Option<u64> {
        let shard = &self.shard;
        let source = keys::source(shard, key)?;
        let to = self.owner(&source, key)?;
        let mut standing = keys::standing(shard, key);
        let before = standing.clone();
        let stumbled = standing.stumbled.as_deref().and_then(hex::octets);
        let report = self.collect(key, &source, &to, stumbled).await;
        let now = unix_now();
        let Report { counts, trouble, stumbled, remark } = report;
        let (account, name, host) = (&source.account, &source.name, &source.host);
        let totals = &shard.collecting.counts;
        totals.collected.set(totals.collected.get() + counts.collected);
        totals.deleted.set(totals.deleted.get() + counts.deleted);
        if shard.watchdog.stopping() || !shard.collecting.is_known(key) {
            // That we stop says nothing about the server.
            return None;
        }
        standing.collected += counts.collected;
        standing.deleted += counts.deleted;
        standing.remark = remark;
        match &trouble {
            None => {
                standing.succeeded(now);
                tracing::info!(
                    account,
                    name,
                    host,
                    collected = counts.collected,
                    deleted = counts.deleted,
                    "visited"
                );
            }
            Some(reason) => {
                totals.failed.set(totals.failed.get() + 1);
                standing.stumbled = stumbled.map(hex::text);
                let tells = standing.failed(reason, &shard.config.collect, now);
                let why = &reason.why;
                if standing.failures == 1 || tells {
                    tracing::info!(target: NOTICE, account, name, host, why, "mail can't be collected");
                } else {
                    tracing::info!(
                        account,
                        name,
                        host,
                        why,
                        failures = standing.failures,
                        "mail can't be collected"
                    );
                }
                if tells {
                    notes::failed(shard, &to, &source, reason).await;
                    standing.told = Some(reason.kind);
                }
            }
        }
        if counts.too_large + counts.refused > 0 {
            notes::passed_over(shard, &to, &source, &counts).await;
        }
        let written = keys::written_standing(shard, key);
        shard.collecting.stands(key, &standing);
        if standing.is_news(&before, &written)
            && let Err(error) = keys::put_standing(shard, key, &standing).await
        {
            tracing::warn!(account, name, %error, "how a visit ended is not written down");
        }
        let has_more = counts.more && trouble.is_none() && counts.collected > 0;
        standing.due(source.every, has_more, now)
    }

    /// Who gets the mail; `None`: the account is gone.
    fn owner(&self, source: &Source, key: Key) -> Option<To> {
        let shard = &self.shard;
        let directory = shard.directory.borrow();
        let account = directory.account(&source.account)?;
        let is_it = account.id() == key.account && account.shard == shard.id;
        let address = Address::parse(source.account.as_bytes()).filter(|_| is_it)?;
        let home = Home { shard: shard.id, account: key.account, address: source.account.clone() };
        Some(To { home, address })
    }

    async fn collect(&self, key: Key, source: &Source, to: &To, stumbled: Option<Id>) -> Report {
        let failed = |reason| Report { trouble: Some(reason), ..Report::default() };
        let login = match self.login(source).await {
            Ok(login) => login,
            Err(reason) => return failed(reason),
        };
        let hosts =
            match self.shard.hosts.ask(&self.shard, Question::Host(source.host.clone())).await {
                Ok(hosts) => hosts,
                Err(nobody) => {
                    return failed(Reason::new(
                        Kind::Unreachable,
                        format!("can't be found: {}", nobody.why),
                    ));
                }
            };
        let addresses = hosts.iter().flat_map(|Host { addresses, .. }| addresses);
        let mut last = failed(Reason::new(Kind::Unreachable, "has no address"));
        for address in addresses.take(ADDRESSES_MAX) {
            let address = SocketAddr::new(*address, source.port);
            last = match source.protocol {
                Protocol::Pop3 => {
                    self.by_pop3(key, source, to, address, login.clone(), stumbled).await
                }
                Protocol::Imap => {
                    self.by_imap(key, source, to, address, login.clone(), stumbled).await
                }
            };
            let is_unreachable = |reason: &Reason| reason.kind == Kind::Unreachable;
            if !last.trouble.as_ref().is_some_and(is_unreachable) || last.counts.collected > 0 {
                break;
            }
        }
        last
    }

    async fn by_pop3(
        &self,
        key: Key,
        source: &Source,
        to: &To,
        address: SocketAddr,
        login: Login,
        stumbled: Option<Id>,
    ) -> Report {
        let shard = &self.shard;
        let Some(ledger) = keys::ledger(&shard.store, key.place(b"")) else {
            let why = "what was collected before can't be read";
            return Report { trouble: Some(Reason::new(Kind::Here, why)), ..Report::default() };
        };
        let maildrop =
            Maildrop::new(Round::new(ledger, source.policy(), now_32(), MESSAGES_MAX, stumbled));
        let way = Way::new(shard, key, source, to.clone(), address.ip());
        let mut visit = pop3::Visit::new(maildrop, way, source.mailbox.clone());
        let tls = machine_tls(source.tls);
        let config = pop3_client::Config { tls, login, messages_max: ledger::LISTED_MAX };
        let machine = pop3_client::Client::new(Arc::new(config));
        let ended = match self.link(source, address, machine).await {
            Ok(mut link) => link.drive(&mut visit).await,
            Err(reason) => Err(reason),
        };
        let folded = match shard.collecting.is_known(key) {
            true => keys::fold(&shard.store, &mut visit.maildrop.round.ledger).await,
            false => Ok(()),
        };
        let stumbled = visit.maildrop.round.current();
        let counts = visit.maildrop.round.counts;
        let remark = (counts.repeated > 0).then(|| {
            format!("{} messages share their identifiers with others, so they are read anew at each visit", counts.repeated)
        });
        let trouble = ended.err().or_else(|| visit.concluded());
        let trouble = trouble.or_else(|| folded.err().map(Reason::from));
        Report { counts, trouble, stumbled, remark }
    }

    async fn by_imap(
        &self,
        key: Key,
        source: &Source,
        to: &To,
        address: SocketAddr,
        login: Login,
        stumbled: Option<Id>,
    ) -> Report {
        let shard = &self.shard;
        let way = Way::new(shard, key, source, to.clone(), address.ip());
        let mut visit =
            imap::Visit::new(key, source.clone(), way, now_32(), MESSAGES_MAX, stumbled);
        let tls = machine_tls(source.tls);
        let config = imap_client::Config { tls, login, messages_max: ledger::LISTED_MAX };
        let machine = imap_client::Client::new(Arc::new(config));
        let ended = match self.link(source, address, machine).await {
            Ok(mut link) => link.drive(&mut visit).await,
            Err(reason) => Err(reason),
        };
        let stumbled = visit.current();
        visit.close_folder().await;
        let remark = visit.cannot_expunge.then(|| folder::CANNOT_EXPUNGE.to_owned());
        let trouble = ended.err().or_else(|| visit.concluded());
        Report { counts: visit.counts, trouble, stumbled, remark }
    }

    async fn link<M: super::link::Client>(
        &self,
        source: &Source,
        address: SocketAddr,
        machine: M,
    ) -> Result<Link<M>, Reason> {
        let shard = &self.shard;
        let trust = self.trust().await?;
        let until = shard.now().after(shard.config.collect.session_longest.0);
        let tls = source.tls == Tls::Implicit;
        Link::open(shard, address, &source.host, machine, tls, trust, until).await
    }

    async fn trust(&self) -> Result<Trust, Reason> {
        if let Some(known) = &*self.trust.borrow() {
            return Ok(known.clone());
        }
        let file = self.shard.config.collect.ca_file.clone();
        let read = glommio::executor().spawn_blocking(move || Trust::valid(file.as_ref())).await;
        let trust = read.map_err(|why| Reason::new(Kind::Here, why))?;
        *self.trust.borrow_mut() = Some(trust.clone());
        Ok(trust)
    }

    async fn login(&self, source: &Source) -> Result<Login, Reason> {
        let secret = match &source.secret {
            Secret::Password(password) => sasl::Secret::Password(password.clone()),
            Secret::TokenFile(file) => {
                let file = file.clone();
                let read = glommio::executor().spawn_blocking(move || read_token(&file)).await;
                sasl::Secret::Token(read.map_err(|why| Reason::new(Kind::Token, why))?)
            }
        };
        let nonce: [u8; 18] = passwords::random();
        let in_clear = source.tls == Tls::Off;
        Ok(Login { user: source.user.clone(), secret, nonce: hex::text(nonce), in_clear })
    }
}

fn read_token(file: &PathBuf) -> Result<String, String> {
    use std::io::Read;
    let fault = |error: std::io::Error| format!("token file {}: {error}", file.display());
    let mut text = String::new();
    let open = std::fs::File::open(file).map_err(fault)?;
    open.take(TOKEN_OCTETS_MAX).read_to_string(&mut text).map_err(fault)?;
    let token = text.lines().next().unwrap_or_default().trim().to_owned();
    if token.is_empty() {
        return Err(format!("token file {} is empty", file.display()));
    }
    Ok(token)
}

fn machine_tls(tls: Tls) -> remote::Tls {
    match tls {
        Tls::Implicit => remote::Tls::Active,
        Tls::Starttls => remote::Tls::Required,
        Tls::Off => remote::Tls::Never,
    }
}

/// Of the ledgers' clock, which goes until 2106.
fn now_32() -> u32 {
    u32::try_from(unix_now()).unwrap_or(u32::MAX)
}
