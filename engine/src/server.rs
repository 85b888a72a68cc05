//! A server's life: lock, bind, open the stores, serve, stop.
//!
//! Nothing is started half-way: the data directory is locked and every address bound before the first
//! store is opened, and no core accepts before every core has opened. Stopping goes the other way:
//! no new connections, transactions finish, stores sync and close.

use crate::config::{Config, ConfigError};
use crate::control_plane::ControlPlane;
use crate::directory;
use crate::layout::DataDir;
use crate::listener::{self, Listeners};
use crate::mesh::{self, Request, ShardHandle};
use crate::shard::{Disk, Parts, Shard};
use crate::tls;
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use storage::Store;
use storage::device::uring::Completions;

/// Everything on a core awaits other threads now and then; in a queue without a latency bound such
/// a wake-up may wait for 100 ms while the core is busy.
const LATENCY: Duration = Duration::from_millis(1);

/// A server whose stores are open.
pub struct Server {
    pub handles: Vec<ShardHandle>,
    pub config: Arc<Config>,
    threads: Vec<JoinHandle<()>>,
    /// Only of a server that takes connections.
    control: Option<ControlPlane>,
    _data: DataDir,
}

/// Whether a server takes connections, or only carries out one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Serving,
    /// The store of a stopped server, opened by a command.
    CommandOnly,
}

type Opened = Result<(), ConfigError>;

impl Server {
    /// Locks the data directory, binds, opens every store, and starts to accept.
    pub fn start(
        config: Config,
        knobs: hwprofiles::Knobs,
        mode: Mode,
    ) -> Result<Server, ConfigError> {
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
        let tls = tls::server_config(&config.data_dir)
            .map_err(|error| ConfigError(format!("certificates: {error}")))?;
        let config = Arc::new(config);
        let (handles, queues): (Vec<_>, Vec<_>) = (0..cores).map(|_| mesh::channel()).unzip();
        let mut server = Server {
            handles: handles.clone(),
            config: Arc::clone(&config),
            threads: Vec::new(),
            control: None,
            _data: data,
        };
        let (opened, openings) = mpsc::channel();
        for ((id, requests), listeners) in (0..).zip(queues).zip(listeners) {
            let parts = Parts {
                id,
                config: Arc::clone(&config),
                knobs: knobs.clone(),
                mesh: handles.clone(),
                tls: tls.clone(),
                secret: server._data.secret,
            };
            server.threads.push(core_thread(parts, requests, listeners, opened.clone())?);
        }
        drop(opened);
        server.await_openings(&openings)?;
        server.share_directory()?;
        if mode == Mode::Serving {
            server.control = Some(ControlPlane::prepare(&server.config, &server.handles, metrics)?);
        }
        server.begin()?;
        Ok(server)
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
        futures_lite::future::block_on(self.handles[home].ask(work))
            .map_err(|error| ConfigError(format!("core {home}: {error}")))
    }

    /// Serves until SIGTERM or SIGINT, then stops.
    pub fn run(mut self) {
        if let Some(control) = self.control.take() {
            control.run();
        }
        tracing::info!("stopping: transactions under way may finish");
        self.stop();
    }

    /// Lets transactions finish, syncs and closes the stores, and joins the cores. No store closes
    /// before the last transaction has ended on every core: mail may be on its way between them.
    pub fn stop(self) {
        for handle in &self.handles {
            // A core that is gone needs no telling.
            let _ = handle.tell(|shard| async move { shard.watchdog.stop() });
        }
        let grace = Duration::from_secs(self.config.limits.shutdown_grace_seconds);
        let until = Instant::now() + grace;
        for home in 0..self.handles.len() {
            let _ = self.ask(home, move |shard| async move { shard.drain(until).await });
        }
        for handle in &self.handles {
            let _ = handle.tell(|shard| async move { shard.close().await });
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a core ended by a panic");
            }
        }
    }
}

fn core_thread(
    parts: Parts,
    requests: flume::Receiver<Request>,
    listeners: Listeners,
    opened: mpsc::Sender<Opened>,
) -> Result<JoinHandle<()>, ConfigError> {
    let id = parts.id;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // More shards than cores (a store that came from a larger host): let the kernel place them.
    let placement = if parts.mesh.len() <= cores {
        Placement::Fixed(usize::from(id))
    } else {
        Placement::Unbound
    };
    let run = move || {
        let executor = match LocalExecutorBuilder::new(placement).name(&format!("kura-{id}")).make()
        {
            Ok(executor) => executor,
            Err(error) => {
                let _ = opened.send(Err(ConfigError(format!(
                    "core {id}: no executor: {error}; raise the locked-memory limit (ulimit -l) to 8192 or more"
                ))));
                return;
            }
        };
        executor.run(async move {
            let queue = glommio::executor().create_task_queue(
                Shares::default(),
                Latency::Matters(LATENCY),
                "mail",
            );
            let main =
                glommio::spawn_local_into(core_main(parts, requests, listeners, opened), queue);
            match main {
                Ok(task) => task.await,
                Err(error) => tracing::error!(%error, "core can't start"),
            }
        });
    };
    std::thread::Builder::new()
        .name(format!("kura-{id}"))
        .spawn(run)
        .map_err(|error| ConfigError(format!("can't start a thread for core {id}: {error}")))
}

async fn core_main(
    parts: Parts,
    requests: flume::Receiver<Request>,
    listeners: Listeners,
    opened: mpsc::Sender<Opened>,
) {
    let started = Instant::now();
    let (store, completions) = match open_store(&parts).await {
        Ok(opened) => opened,
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    let committing = glommio::spawn_local({
        let store = store.clone();
        async move { store.run().await }
    });
    let stats = store.stats();
    tracing::info!(
        shard = parts.id,
        messages = stats.messages,
        records_replayed = stats.recovery_records,
        milliseconds = started.elapsed().as_millis(),
        "store open"
    );
    let shard = match Shard::new(parts, store) {
        Ok(shard) => Rc::new(shard),
        Err(error) => {
            let _ = opened.send(Err(ConfigError(format!("can't make an epoll set: {error}"))));
            return;
        }
    };
    glommio::spawn_local(watch_sockets(Rc::clone(&shard), completions)).detach();
    glommio::spawn_local(Rc::clone(&shard).serve_mesh(requests)).detach();
    let _ = opened.send(Ok(()));
    drop(opened);
    shard.begun().await;
    let watchdog = glommio::spawn_local({
        let shard = Rc::clone(&shard);
        async move { shard.watchdog.run().await }
    });
    for (service, listener) in listeners {
        glommio::spawn_local(listener::accept_all(Rc::clone(&shard), service, listener)).detach();
    }
    shard.stopped().await;
    watchdog.cancel().await;
    committing.await;
}

async fn watch_sockets(shard: Rc<Shard>, completions: Completions) {
    // A busy core hears of the disk here, too: its executor polls the disk's ring only now and then.
    if let Err(error) = shard.readiness.run(|| completions.take()).await {
        tracing::error!(shard = shard.id, %error, "epoll failed: this core hears of no socket any more");
    }
}

async fn open_store(parts: &Parts) -> Result<(Store<Disk>, Completions), ConfigError> {
    let dir = crate::layout::shard_dir(&parts.config.data_dir, parts.id);
    let fault = |error: &dyn std::fmt::Display| {
        ConfigError(format!("store of shard {} ({}): {error}", parts.id, dir.display()))
    };
    let disk = Disk::open(&dir).await.map_err(|error| fault(&error))?;
    let completions = disk.completions();
    let store = Store::open(disk, store_options(&parts.knobs, parts.id)).await;
    store.map(|store| (store, completions)).map_err(|error| fault(&error))
}

/// The profile's knobs, in the store's terms. What a profile does not decide stays at its default.
fn store_options(knobs: &hwprofiles::Knobs, shard: u16) -> storage::Options {
    let bytes = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    storage::Options {
        shard,
        segment_bytes: knobs.segment_bytes.value,
        spare_segments: bytes(knobs.spare_segments.value),
        batch_bytes_max: bytes(knobs.batch_bytes_max.value),
        batch_bytes_eager: bytes(knobs.batch_bytes_eager.value),
        chains_in_flight: bytes(knobs.chains_in_flight.value),
        commit_window: Duration::from_micros(knobs.commit_window_us.value),
        pending_bytes_max: bytes(knobs.pending_bytes_max.value),
        checkpoint_log_bytes_max: knobs.checkpoint_bytes.value,
        ..storage::Options::default()
    }
}
