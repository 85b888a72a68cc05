//! A server's life: lock, bind, open the stores, serve, stop.
//!
//! Nothing is started half-way: the data directory is locked and every address bound before the
//! first store is opened, and no core accepts before every core has opened. Stopping goes the other
//! way: no new connections, transactions finish, stores sync and close.

use crate::NOTICE;
use crate::auth::desk;
use crate::config::{Config, ConfigError};
use crate::control_plane::{ControlPlane, Jobs};
use crate::core::{self, Opened};
use crate::directory;
use crate::domain::openness::{Strangers, strangers_in};
use crate::files;
use crate::filter::{self, learning};
use crate::layout::{self, DataDir};
use crate::listener;
use crate::mesh::{self, ShardHandle};
use crate::ownership;
use crate::policy::greylist;
use crate::policy::networks::{Fences, Lists};
use crate::readiness::Doorbell;
use crate::relay::hosts;
use crate::reports;
use crate::settle::{self, Settled};
use crate::shard::{Parts, Shard};
use crate::sieve::SystemScripts;
use crate::tls;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A server whose stores are open.
pub struct Server {
    pub handles: Vec<ShardHandle>,
    pub config: Arc<Config>,
    threads: Vec<JoinHandle<()>>,
    /// Only of a server that takes connections.
    control: Option<ControlPlane>,
    data: DataDir,
    /// What this opening had to settle first ([`crate::settle`]).
    pub settled: Option<Settled>,
}

/// Whether a server takes connections, or only carries out one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Serving,
    /// The store of a stopped server, opened by a command.
    CommandOnly,
}

impl Server {
    /// Locks the data directory, binds, opens every store, and starts to accept.
    pub fn start(
        config: Config,
        knobs: hwprofiles::Knobs,
        mode: Mode,
    ) -> Result<Server, ConfigError> {
        Server::start_with(config, knobs, mode, |_| Ok(()))
    }

    /// `look` sees the stores as they were opened, before anything is settled.
    pub fn start_with(
        config: Config,
        knobs: hwprofiles::Knobs,
        mode: Mode,
        look: impl FnOnce(&Server) -> Result<(), ConfigError>,
    ) -> Result<Server, ConfigError> {
        if mode == Mode::Serving {
            crate::relay::tls::check_files(&config)?;
        }
        layout::keep_private();
        ownership::expect_own(&config.data_dir, mode)?;
        ownership::expect_open(&config.data_dir)?;
        let data = DataDir::lock(&config.data_dir, knobs.shards())?;
        let cores = usize::from(data.shards);
        let listeners = match mode {
            Mode::Serving => listener::bind(&config, cores)?,
            Mode::CommandOnly => (0..cores).map(|_| Vec::new()).collect(),
        };
        let metrics = match mode {
            Mode::Serving => listener::bind_metrics(&config)?,
            Mode::CommandOnly => None,
        };
        let web = match mode {
            Mode::Serving => listener::bind_web(&config)?,
            Mode::CommandOnly => listener::Web::default(),
        };
        let tls = tls::server_config(&config.data_dir)
            .map_err(|error| ConfigError(format!("certificates: {error}")))?;
        let rules = config.at(config.key_of_rules(), filter::load(&config.spam))?;
        let rules = Arc::new(rules);
        let sieve = match mode {
            Mode::Serving => SystemScripts::load(&config)?,
            Mode::CommandOnly => SystemScripts::default(),
        };
        let (fences, open_to) = match mode {
            Mode::Serving => {
                let lists = Lists::read(&config)?;
                (Fences::of(&config, &lists), strangers_in(&config, &lists))
            }
            Mode::CommandOnly => (Fences::default(), Vec::new()),
        };
        let (config, sieve, fences) = (Arc::new(config), Arc::new(sieve), Arc::new(fences));
        let no_epoll = |error| ConfigError(format!("can't make an epoll set: {error}"));
        let (mut handles, mut ears) = (Vec::new(), Vec::new());
        for _ in 0..cores {
            let poll = mio::Poll::new().map_err(no_epoll)?;
            let (handle, inbox) = mesh::channel(Doorbell::new(&poll).map_err(no_epoll)?);
            handles.push(handle);
            ears.push((poll, inbox));
        }
        let mut server = Server {
            handles: handles.clone(),
            config: Arc::clone(&config),
            threads: Vec::new(),
            control: None,
            data,
            settled: None,
        };
        let (auth, jobs) = desk::desk();
        let (scan, scan_jobs) = crate::scan::desk::desk();
        let (rspamd, rspamd_jobs) = filter::rspamd::desk::desk();
        let (hosts, host_jobs) = hosts::desk();
        let (opened, openings) = mpsc::channel();
        let origin = Instant::now();
        for ((id, (poll, inbox)), listeners) in (0..).zip(ears).zip(listeners) {
            let parts = Parts {
                id,
                config: Arc::clone(&config),
                knobs: knobs.clone(),
                mesh: handles.clone(),
                tls: tls.clone(),
                secret: server.data.secret,
                auth: auth.clone(),
                rules: Arc::clone(&rules),
                sieve: Arc::clone(&sieve),
                fences: Arc::clone(&fences),
                scan: scan.clone(),
                rspamd: rspamd.clone(),
                hosts: hosts.clone(),
                origin,
                poll,
            };
            server.threads.push(core::start(parts, inbox, listeners, opened.clone())?);
        }
        drop(opened);
        server.await_openings(&openings)?;
        server.data.note_made()?;
        server.share_directory()?;
        server.share_learned()?;
        look(&server)?;
        server.settle()?;
        if mode == Mode::Serving {
            for what in server.settled.iter().flat_map(Settled::told) {
                tracing::warn!(target: NOTICE, "{what}");
            }
        }
        if mode == Mode::Serving {
            let jobs = Jobs { auth: jobs, hosts: host_jobs, scan: scan_jobs, rspamd: rspamd_jobs };
            server.control =
                Some(ControlPlane::prepare(&server.config, &server.handles, metrics, web, jobs)?);
        }
        server.begin()?;
        if mode == Mode::Serving {
            server.report_ready(tls.is_some(), &open_to);
        }
        Ok(server)
    }

    /// Before any core begins: nothing leaves, nothing is collected, nobody logs in.
    fn settle(&mut self) -> Result<(), ConfigError> {
        let Some(after) = self.data.settle_after() else { return Ok(()) };
        let settled = self.ask(0, move |shard| settle::settle(shard, after))?;
        self.settled = Some(settled.map_err(ConfigError)?);
        self.data.note_settled()
    }

    fn await_openings(&self, openings: &mpsc::Receiver<Opened>) -> Result<(), ConfigError> {
        for _ in &self.handles {
            openings
                .recv()
                .map_err(|_| ConfigError("a core ended while it opened its store".into()))??;
        }
        Ok(())
    }

    /// Gives every core the directory that shard 0 keeps.
    fn share_directory(&self) -> Result<(), ConfigError> {
        let pairs: Vec<directory::Pair> = self.ask(0, |shard| async move {
            shard
                .store
                .scan(directory::SPACE)
                .into_iter()
                .map(|(key, value)| (key, Some(value)))
                .collect()
        })?;
        for home in 0..self.handles.len() {
            let pairs = pairs.clone();
            let unreadable =
                self.ask(
                    home,
                    move |shard| async move { shard.directory.borrow_mut().apply(&pairs) },
                )?;
            if home == 0 && !unreadable.is_empty() {
                tracing::error!(keys = ?unreadable, "directory entries that can't be read are left out");
            }
        }
        Ok(())
    }

    /// Gives every core what the classifier has learned, and shard 0 what it goes on from,
    /// and its greylist.
    fn share_learned(&self) -> Result<(), ConfigError> {
        let pairs = self.ask(0, |shard| async move { shard.store.scan(learning::SPACE) })?;
        let learned = learning::Learned::restore(&pairs);
        for home in 1..self.handles.len() {
            let classifier = learned.classifier.clone();
            self.ask(home, move |shard| async move {
                shard.learned.borrow_mut().classifier = classifier;
            })?;
        }
        self.ask(0, move |shard| async move { *shard.learned.borrow_mut() = learned })?;
        self.ask(0, |shard| async move {
            let pairs = shard.store.scan(greylist::SPACE);
            *shard.greylist.borrow_mut() = greylist::Known::restore(&pairs);
        })
    }

    fn report_ready(&self, certificate: bool, open_to: &[Strangers]) {
        let addresses = listener::addresses(&self.config);
        for (service, address) in &addresses {
            tracing::info!(target: NOTICE, service = service.name(), %address, "listening");
        }
        tell_of_files(&self.config, usize::from(self.data.shards));
        for Strangers { key, networks, why } in open_to {
            tracing::warn!("{key} = {}: {why}", networks.join(", "));
        }
        if !certificate {
            let dir = self.config.data_dir.display();
            let name = &self.config.hostname;
            let unserved: Vec<&str> = addresses
                .iter()
                .filter(|(service, _)| service.implicit_tls())
                .map(|(service, _)| service.name())
                .collect();
            tracing::warn!(
                "no certificate in {dir}: no STARTTLS, {}{}; make one with \
                 `kura cert self-signed {name} --config FILE`, or take one in with `kura cert import`",
                match self.config.auth.plaintext_allowed {
                    true => "so passwords are sent in the clear (auth.plaintext_allowed = true)",
                    false => "no logins without it",
                },
                if unserved.is_empty() {
                    String::new()
                } else {
                    format!(", and {} close every connection", unserved.join(", "))
                }
            );
        }
        let version = env!("CARGO_PKG_VERSION");
        let process = std::process::id();
        tracing::info!(target: NOTICE, version, process, hostname = self.config.hostname, "ready");
    }

    /// Lets every core accept.
    fn begin(&self) -> Result<(), ConfigError> {
        for home in 0..self.handles.len() {
            self.ask(home, |shard| async move { shard.begin() })?;
        }
        Ok(())
    }

    /// Runs `work` on core `home`, from this thread, which waits.
    pub fn ask<R, W, F>(&self, home: usize, work: W) -> Result<R, ConfigError>
    where
        R: Send + 'static,
        W: FnOnce(Rc<Shard>) -> F + Send + 'static,
        F: Future<Output = R> + 'static,
    {
        self.handles[home].await_room();
        futures_lite::future::block_on(self.handles[home].ask(work))
            .map_err(|error| ConfigError(format!("core {home}: {error}")))
    }

    /// Serves until SIGTERM or SIGINT, then stops.
    pub fn run(mut self) {
        if let Some(control) = self.control.take() {
            control.run();
        }
        tracing::info!(target: NOTICE, "stopping: messages under way may arrive");
        self.stop();
        tracing::info!(target: NOTICE, "stopped");
    }

    /// Lets transactions finish, syncs and closes the stores, and joins the cores. No store closes
    /// before the last transaction has ended on every core: mail may be on its way between them.
    pub fn stop(self) {
        for handle in &self.handles {
            handle.await_room();
            // A core that is gone needs no telling.
            let _ = handle.tell(|shard| async move { shard.watchdog.stop() });
        }
        let grace = Duration::from_secs(self.config.limits.shutdown_grace_seconds);
        let until = Instant::now() + grace;
        for home in 0..self.handles.len() {
            let _ = self.ask(home, move |shard| async move { shard.drain(until).await });
        }
        for home in 0..self.handles.len() {
            let _ = self.ask(home, |shard| async move { reports::tell(&shard).await });
            let _ = self.ask(home, |shard| async move { shard.submitting.write_all(&shard).await });
        }
        for handle in &self.handles {
            handle.await_room();
            let _ = handle.tell(|shard| async move { shard.close().await });
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a core ended by a panic");
            }
        }
    }
}

fn tell_of_files(config: &Config, shards: usize) {
    let (wanted, most) = (config.limits.connections_max, files::connections(shards));
    // By now up to the hard limit.
    let (files, segments) = (files::most(), files::segments(shards));
    tracing::info!(
        files,
        segments_of_a_shard = segments,
        connections = most,
        "files that may be open"
    );
    if most < wanted {
        tracing::warn!(
            most,
            wanted,
            "no more than so many connections at a time, fewer than limits.connections_max: this process may have too few \
             files open. Raise that limit (ulimit -Hn, LimitNOFILE= of systemd), or lower limits.connections_max"
        );
    }
}

#[cfg(test)]
impl Server {
    /// Of two cores, in a directory of its own, without connections.
    pub(crate) fn on_trial(name: &str) -> (std::path::PathBuf, Server) {
        let name = format!("kura-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("kura.toml");
        let knobs = "[knobs]\nshards = 2\nsegment_bytes = 4194304\nbatch_bytes_max = 262144\n";
        let text = format!("hostname = \"mx.a.test\"\ndata_dir = \"data\"\n{knobs}");
        std::fs::write(&file, text).unwrap();
        let config = Config::load(&file).unwrap();
        let knobs = config.derive_knobs(&hwprofiles::Profile::generic()).unwrap();
        (dir, Server::start(config, knobs, Mode::CommandOnly).unwrap())
    }
}
