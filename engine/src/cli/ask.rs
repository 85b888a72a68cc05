//! Sends a request to the running server, or carries it out on the stopped store.

use super::Where;
use crate::backup::progress::Progress;
use crate::config::{Config, ConfigError};
use crate::control_plane::{Answer, ShortPath};
use crate::layout;
use crate::operations::{self, Request};
use crate::server::{Mode, Server};
use crate::settle::Settled;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often work in this process is looked at, to show how far it has come.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Carries out `request` wherever the store is at home right now.
pub(super) fn ask(place: &Where, request: Request) -> Result<Value, ConfigError> {
    ask_showing(place, request, &mut Progress::new("", true))
}

/// The same, and shows how far it has come, where that is told.
pub(super) fn ask_showing(
    place: &Where,
    request: Request,
    progress: &mut Progress,
) -> Result<Value, ConfigError> {
    let config = place.load()?;
    let answer = match connect(&config) {
        Some(stream) => ask_server_showing(stream, &request, progress),
        None => ask_store(config, request, progress),
    };
    progress.end();
    answer
}

/// Asks a server that was running a moment ago, and nobody else: what another process could say of
/// work that the server had begun would be about none.
pub(super) fn ask_running(place: &Where, request: Request) -> Result<Value, ConfigError> {
    match connect(&place.load()?) {
        Some(stream) => ask_server(stream, &request),
        None => Err(broken_off()),
    }
}

/// Tells a server that is running. One that is not needs no telling.
pub(super) fn tell_if_running(place: &Where, request: Request) -> Result<(), ConfigError> {
    let config = place.load()?;
    match connect(&config) {
        Some(stream) => ask_server(stream, &request).map(drop),
        None => layout::expect_store(&config.data_dir),
    }
}

pub(super) fn broken_off() -> ConfigError {
    ConfigError(
        "the server stopped before this had ended: start it again, then this command".into(),
    )
}

/// The running server, or the store opened in this process.
pub(super) enum Link {
    Server(UnixStream),
    Store(Box<Server>),
}

pub(super) fn link(config: &Config) -> Result<Link, ConfigError> {
    if let Some(stream) = connect(config) {
        return Ok(Link::Server(stream));
    }
    layout::expect_store(&config.data_dir)?;
    Ok(Link::Store(Box::new(open(config.clone())?)))
}

/// The stopped store, in this process. The lock keeps two processes apart.
fn open(config: Config) -> Result<Server, ConfigError> {
    let knobs = super::profile::knobs(&config)?;
    let server = Server::start(config, knobs, Mode::CommandOnly)?;
    for what in server.settled.iter().flat_map(Settled::told) {
        // Nobody may be looking.
        let _ = writeln!(std::io::stderr(), "{what}");
    }
    Ok(server)
}

/// Carries out `request` where the link leads; a running server is called anew for each.
pub(super) fn ask_over(
    config: &Config,
    link: &Link,
    request: Request,
) -> Result<Value, ConfigError> {
    match link {
        Link::Server(_) => {
            let stream = connect(config)
                .ok_or_else(|| ConfigError("the server has stopped meanwhile; try again".into()))?;
            ask_server(stream, &request)
        }
        Link::Store(server) => {
            server.ask(0, |shard| operations::execute(shard, request))?.map_err(ConfigError)
        }
    }
}

/// The control socket of a server that is running.
fn connect(config: &Config) -> Option<UnixStream> {
    UnixStream::connect(ShortPath::open(&config.data_dir).ok()?.socket()).ok()
}

fn ask_server(stream: UnixStream, request: &Request) -> Result<Value, ConfigError> {
    ask_server_showing(stream, request, &mut Progress::new("", true))
}

fn ask_server_showing(
    stream: UnixStream,
    request: &Request,
    progress: &mut Progress,
) -> Result<Value, ConfigError> {
    let fault =
        |error: &dyn std::fmt::Display| ConfigError(format!("the server did not answer: {error}"));
    let mut text = serde_json::to_vec(request).map_err(|error| fault(&error))?;
    text.push(b'\n');
    (&stream).write_all(&text).map_err(|error| fault(&error))?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).map_err(|error| fault(&error))?;
        match serde_json::from_str(&line).map_err(|error| fault(&error))? {
            Answer::Done(value) => return Ok(value),
            Answer::Failed(fault) => return Err(ConfigError(fault)),
            Answer::Progress { done, total } => progress.show(done, total),
        }
    }
}

fn ask_store(
    config: Config,
    request: Request,
    progress: &mut Progress,
) -> Result<Value, ConfigError> {
    if !matches!(request, Request::DomainAdd { .. }) {
        layout::expect_store(&config.data_dir)?;
    }
    let server = open(config)?;
    let course = request.course().cloned();
    let is_over = &AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let shown = course.map(|course| {
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    std::thread::park_timeout(LOOK_EVERY);
                    let (done, total) = course.so_far();
                    if total > 0 {
                        progress.show(done, total);
                    }
                }
            })
        });
        let result = server.ask(0, |shard| operations::execute(shard, request));
        is_over.store(true, Ordering::Relaxed);
        if let Some(shown) = shown {
            shown.thread().unpark();
            let _ = shown.join();
        }
        result
    });
    server.stop();
    result?.map_err(ConfigError)
}
