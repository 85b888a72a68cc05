//! The one thread that is not a core: signals, the control socket, metrics over HTTP, settings over
//! HTTPS, DNS and what is verified with it.
//!
//! It asks the cores through their queues and never touches their data.

use crate::auth::desk;
use crate::auth::dns;
use crate::certificates::{self, acme};
use crate::config::{Config, ConfigError};
use crate::course::Course;
use crate::domain::web;
use crate::filter::rspamd;
use crate::layout;
use crate::mesh::ShardHandle;
use crate::metrics::Snapshot;
use crate::operations::{self, Fault, Request};
use crate::relay::hosts::{self, Finder};
use crate::relay::sts::Policies;
use crate::relay::tlsrpt::Reporter;
use crate::scan;
use crate::scan::desk::Scanners;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A request is one line of JSON, no longer than this.
const REQUEST_BYTES_MAX: u64 = 1 << 20;

/// The answer to one request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Done(Value),
    Failed(String),
    /// It goes on: bytes so far, of all. Another answer follows.
    Progress {
        done: u64,
        total: u64,
    },
}

/// How often a command that waits is told how far its work has come.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// The control plane, ready: from here on signals are caught and commands find the server, though
/// both are answered once it runs.
pub struct ControlPlane {
    runtime: Runtime,
    handles: Vec<ShardHandle>,
    control: UnixListener,
    metrics: Option<TcpListener>,
    web: web::Listeners,
    config: Arc<Config>,
    signals: Signals,
    socket: PathBuf,
    jobs: Jobs,
    resolver: dns::Resolver,
    scanners: Arc<Scanners>,
    rspamd: Arc<rspamd::servers::Servers>,
}

/// What cores ask of the control plane.
pub struct Jobs {
    pub auth: desk::Jobs,
    pub hosts: hosts::Jobs,
    pub scan: scan::desk::Jobs,
    pub rspamd: rspamd::desk::Jobs,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl ControlPlane {
    pub fn prepare(
        config: &Arc<Config>,
        handles: &[ShardHandle],
        metrics: Option<std::net::TcpListener>,
        web: crate::listener::Web,
        jobs: Jobs,
    ) -> Result<ControlPlane, ConfigError> {
        let fault = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| ConfigError(format!("{what}: {error}"))
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(fault("control plane"))?;
        let _inside = runtime.enter();
        let socket = layout::control_socket(&config.data_dir);
        let control = bind_control(&config.data_dir)
            .map_err(fault(&format!("can't make control socket {}", socket.display())))?;
        let metrics =
            metrics.map(TcpListener::from_std).transpose().map_err(fault("metrics.listen"))?;
        let web = web::Listeners::of(web).map_err(fault("web.listen"))?;
        let catch = |kind| signal(kind).map_err(fault("signals"));
        let signals = Signals {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
        };
        let resolver = dns::resolver(&config.dns)?;
        let scanners = Arc::new(Scanners::new(&config.scan));
        let rspamd = Arc::new(rspamd::servers::Servers::new(&config.spam)?);
        drop(_inside);
        let handles = handles.to_vec();
        Ok(ControlPlane {
            runtime,
            handles,
            control,
            metrics,
            web,
            config: Arc::clone(config),
            signals,
            socket,
            jobs,
            resolver,
            scanners,
            rspamd,
        })
    }

    /// Runs on this thread until the operator stops the server.
    pub fn run(self) {
        let ControlPlane {
            runtime,
            handles,
            control,
            metrics,
            web,
            config,
            signals,
            socket,
            jobs,
            resolver,
            scanners,
            rspamd,
        } = self;
        let challenges = Arc::new(acme::Challenges::default());
        runtime.block_on(async {
            tokio::spawn(serve_control(control, handles.clone()));
            tokio::spawn(desk::serve(jobs.auth, resolver.clone()));
            let policies = Policies::new(&config.relay, &resolver, handles[0].clone());
            let reporter = Reporter::new(&config, &resolver, &handles);
            let dane_port = config.relay.dane.then_some(config.relay.port);
            let finder =
                Finder { resolver: resolver.clone(), policies: Arc::new(policies), dane_port };
            tokio::spawn(hosts::serve(jobs.hosts, finder, reporter));
            let (clamd, meanwhile) = (Arc::clone(&scanners), config.scan.when_down.meanwhile());
            tokio::spawn(async move { clamd.clamd.greet(meanwhile).await });
            let (second, meanwhile) =
                (Arc::clone(&rspamd), config.spam.rspamd_when_down.meanwhile());
            tokio::spawn(async move { second.greet(meanwhile).await });
            tokio::spawn(scan::desk::serve(jobs.scan, Arc::clone(&scanners)));
            tokio::spawn(rspamd::desk::serve(jobs.rspamd, Arc::clone(&rspamd)));
            if let Some(listener) = metrics {
                let (config, challenges) = (Arc::clone(&config), Arc::clone(&challenges));
                let others = Others { scanners, rspamd, config, challenges, resolver };
                tokio::spawn(serve_metrics(listener, handles.clone(), others));
            }
            let shard = handles[0].clone();
            web::serve(web, Arc::clone(&config), shard.clone(), Arc::clone(&challenges));
            tokio::spawn(acme::keep(Arc::clone(&config), challenges, move || {
                let shard = shard.clone();
                async move { carry_out(&shard, Request::Reload).await.map(drop) }
            }));
            tokio::spawn(certificates::expiry::watch(config.data_dir.clone()));
            wait_for_stop(&handles, signals).await;
        });
        let _ = std::fs::remove_file(&socket);
    }
}

/// What metrics are told of beside the cores.
#[derive(Clone)]
struct Others {
    scanners: Arc<Scanners>,
    rspamd: Arc<rspamd::servers::Servers>,
    config: Arc<Config>,
    challenges: Arc<acme::Challenges>,
    resolver: dns::Resolver,
}

async fn serve_metrics(listener: TcpListener, handles: Vec<ShardHandle>, others: Others) {
    let look = move || scrape(handles.clone(), others.clone());
    let app = Router::new().route("/metrics", get(look));
    if let Err(error) = axum::serve(listener, app).await {
        tracing::error!(%error, "metrics stopped");
    }
}

/// SIGTERM and SIGINT stop; SIGHUP loads certificates, scripts and lists of networks anew.
async fn wait_for_stop(handles: &[ShardHandle], mut signals: Signals) {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hangup.recv() => {
                if let Err(fault) = carry_out(&handles[0], Request::Reload).await {
                    tracing::error!(fault, "certificates, lists of networks and scripts stay as they were");
                }
            }
        }
    }
}

/// Binds through the directory's descriptor: a socket's path is limited to 108 bytes, a data
/// directory's is not.
fn bind_control(data_dir: &Path) -> io::Result<UnixListener> {
    let socket = layout::control_socket(data_dir);
    match std::fs::remove_file(&socket) {
        // The lock is ours, so whoever made it is gone.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let short = ShortPath::open(data_dir)?;
    let listener = UnixListener::bind(short.socket())?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A data directory under a name short enough for a socket's address.
pub struct ShortPath {
    directory: std::fs::File,
}

impl ShortPath {
    pub fn open(data_dir: &Path) -> io::Result<ShortPath> {
        Ok(ShortPath { directory: std::fs::File::open(data_dir)? })
    }

    pub fn socket(&self) -> std::path::PathBuf {
        use std::os::fd::AsRawFd;
        layout::control_socket(Path::new(&format!("/proc/self/fd/{}", self.directory.as_raw_fd())))
    }
}

async fn serve_control(listener: UnixListener, handles: Vec<ShardHandle>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let handles = handles.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer_control(stream, &handles).await {
                        tracing::debug!(%error, "control connection lost");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "control socket can't accept; waiting");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer_control(stream: UnixStream, handles: &[ShardHandle]) -> io::Result<()> {
    // The socket's mode keeps strangers out; this also holds where modes of sockets are ignored.
    // SAFETY: geteuid has no preconditions.
    let ours = unsafe { libc::geteuid() };
    let theirs = stream.peer_cred()?.uid();
    if theirs != ours && theirs != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader.take(REQUEST_BYTES_MAX));
    let mut line = String::new();
    lines.read_line(&mut line).await?;
    if line.trim_end() == crate::backup::source::HELLO {
        return crate::backup::serve::serve(handles, lines, writer).await;
    }
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => {
            let course = request.course().cloned();
            let work = carry_out(&handles[0], request);
            let result = match course {
                None => work.await,
                Some(course) => accompany(work, &course, &mut lines, &mut writer).await,
            };
            result.map_or_else(Answer::Failed, Answer::Done)
        }
        Err(error) => Answer::Failed(format!("the server does not know this request: {error}")),
    };
    say(&mut writer, &answer).await
}

/// Tells the command how far the work has come, and the work when the command has gone: then it
/// ends before its time.
async fn accompany<R>(
    work: impl Future<Output = R>,
    course: &Course,
    lines: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> R {
    let mut work = std::pin::pin!(work);
    let mut every = tokio::time::interval(TELL_EVERY);
    let (mut octet, mut is_there) = ([0; 1], true);
    loop {
        tokio::select! {
            answer = &mut work => return answer,
            read = lines.read(&mut octet), if is_there => is_there = matches!(read, Ok(1)),
            _ = every.tick(), if is_there => {
                let (done, total) = course.so_far();
                if total > 0 {
                    is_there = say(writer, &Answer::Progress { done, total }).await.is_ok();
                }
            }
        }
        if !is_there {
            course.give_up();
        }
    }
}

async fn say(writer: &mut (impl AsyncWrite + Unpin), answer: &Answer) -> io::Result<()> {
    let mut text = serde_json::to_vec(answer).map_err(io::Error::other)?;
    text.push(b'\n');
    writer.write_all(&text).await
}

async fn carry_out(shard: &ShardHandle, request: Request) -> Result<Value, Fault> {
    let answer = shard.ask(move |shard| operations::execute(shard, request)).await;
    answer.unwrap_or_else(|error| Err(error.to_string()))
}

async fn scrape(handles: Vec<ShardHandle>, others: Others) -> impl IntoResponse {
    let Others { scanners, rspamd, config, challenges, resolver } = others;
    let mut sum: Option<Snapshot> = None;
    for handle in &handles {
        let snapshot = handle
            .ask(|shard| async move {
                let (stats, scrub) = (shard.store.stats(), shard.scrub.counts());
                let again = shard.again.counts();
                shard.metrics.snapshot(stats, scrub, again, &shard.queue)
            })
            .await;
        match (snapshot, &mut sum) {
            (Ok(snapshot), Some(sum)) => sum.merge(snapshot),
            (Ok(snapshot), None) => sum = Some(snapshot),
            (Err(error), _) => {
                return (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response();
            }
        }
    }
    let mut text = sum.map(|sum| sum.to_text()).unwrap_or_default();
    scan::metrics::health_text(&mut text, &scanners.clamd.health());
    rspamd::metrics::health_text(&mut text, &rspamd.health());
    // Files, a few, which the page cache has.
    certificates::expiry::metrics_text(&mut text, &config.data_dir);
    challenges.metrics_text(&mut text);
    text += &crate::collect::metrics_text(&handles).await;
    text += &crate::reports::metrics_text(&handles).await;
    text += &crate::relay::proofs::metrics_text(&resolver);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(work)
    }

    #[test]
    fn a_command_that_waits_is_told_how_far_its_work_has_come() {
        let said = run(async {
            let course = Course::of(30, 100);
            let (ours, theirs) = tokio::io::duplex(4096);
            let (mut lines, mut writer) = tokio::io::split(ours);
            let work = async {
                tokio::time::sleep(2 * TELL_EVERY + TELL_EVERY / 2).await;
                "over"
            };
            let answer = accompany(work, &course, &mut lines, &mut writer).await;
            assert!(answer == "over" && !course.is_given_up());
            drop((lines, writer));
            let mut said = String::new();
            BufReader::new(theirs).read_to_string(&mut said).await.unwrap();
            said
        });
        let first = said.lines().next().unwrap();
        assert_eq!(first, r#"{"progress":{"done":30,"total":100}}"#);
    }

    #[test]
    fn work_hears_that_its_command_has_gone_and_is_awaited() {
        run(async {
            let course = Course::of(0, 100);
            let (ours, theirs) = tokio::io::duplex(4096);
            let (mut lines, mut writer) = tokio::io::split(ours);
            let has_ended = AtomicBool::new(false);
            let work = async {
                while !course.is_given_up() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                has_ended.store(true, Ordering::Relaxed);
            };
            drop(theirs);
            accompany(work, &course, &mut lines, &mut writer).await;
            assert!(has_ended.load(Ordering::Relaxed));
        });
    }
}
