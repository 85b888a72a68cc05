//! HTTPS on the control plane: policies for other servers, settings for mail programs ([`pages`]),
//! what the links of quarantine digests lead to ([`quarantine`]). Over HTTP there is nothing but
//! answers for an ACME server.
//!
//! Bounded: [`CONNECTIONS_MAX`] at once of each, [`LIFE`] for each from its first octet to its
//! last, bodies of [`REQUEST_BYTES_MAX`] octets. More connections wait in the listener's backlog.
//! Certificates are those of the mail services, by SNI, as they are at the time of the handshake.

pub mod pages;
pub mod quarantine;
mod settings_xml;

use crate::certificates::acme::Challenges;
use crate::config::Config;
use crate::mesh::ShardHandle;
use axum::Router;
use axum::body::Bytes;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::IncomingStream;
use pages::{Asked, Page};
use quarantine::Forgeries;
use rustls::server::Acceptor;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

const CONNECTIONS_MAX: usize = 64;
const LIFE: Duration = Duration::from_secs(20);
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// RFC 8737 section 6.2.
const ACME_PROTOCOL: &[u8] = b"acme-tls/1";
/// After accept fails for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bound, and in the hands of the runtime.
pub struct Listeners {
    https: Vec<TcpListener>,
    http: Vec<TcpListener>,
}

impl Listeners {
    /// Must be called within the runtime.
    pub fn of(bound: crate::listener::Web) -> io::Result<Listeners> {
        let taken = |bound: Vec<std::net::TcpListener>| {
            bound.into_iter().map(TcpListener::from_std).collect::<io::Result<Vec<_>>>()
        };
        Ok(Listeners { https: taken(bound.https)?, http: taken(bound.http)? })
    }
}

/// Has the runtime serve, until it ends.
pub fn serve(
    listeners: Listeners,
    config: Arc<Config>,
    shard: ShardHandle,
    challenges: Arc<Challenges>,
) {
    let Listeners { https, http } = listeners;
    let asked = shard.clone();
    let forgeries = Arc::new(Forgeries::default());
    let page = move |peer: ConnectInfo<Peer>,
                     method: Method,
                     uri: Uri,
                     headers: HeaderMap,
                     body: Bytes| {
        let (config, shard) = (Arc::clone(&config), asked.clone());
        let forgeries = Arc::clone(&forgeries);
        async move {
            let is_known = [Method::GET, Method::HEAD, Method::POST].contains(&method);
            if let Some(token) = uri.path().strip_prefix(quarantine::PATH).filter(|_| is_known) {
                let (ConnectInfo(Peer(peer)), act) = (peer, method == Method::POST);
                return quarantine::respond(&shard, &forgeries, peer.ip(), token, act).await;
            }
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
            answer(&config, &shard, &method, &uri, host.unwrap_or_default(), &body).await
        }
    };
    let app = Router::new().fallback(page).layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX));
    let proofs = Arc::clone(&challenges);
    let secure = move |stream| {
        let (shard, proofs) = (shard.clone(), Arc::clone(&proofs));
        async move { secure(stream, &shard, &proofs).await }
    };
    start(https, app, secure);
    // RFC 8555 section 8.3, and nothing else in the clear.
    let token = move |Path(token): Path<String>| {
        let page = challenges.page(&token);
        async move { page.ok_or(StatusCode::NOT_FOUND) }
    };
    let app = Router::new().route("/.well-known/acme-challenge/{token}", get(token));
    start(http, app, async |stream| Ok(stream));
}

/// One service over all of `listeners`; `prepared` is what is done before the first
/// request is read.
fn start<S, P, F>(listeners: Vec<TcpListener>, app: Router, prepared: P)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Fn(TcpStream) -> F + Clone + Send + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    let Some(address) = listeners.first().and_then(|one| one.local_addr().ok()) else { return };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (ready, arrived) = mpsc::channel(CONNECTIONS_MAX);
    for listener in listeners {
        tokio::spawn(accept(listener, Arc::clone(&places), prepared.clone(), ready.clone()));
    }
    tokio::spawn(async move {
        let app = app.into_make_service_with_connect_info::<Peer>();
        if let Err(error) = axum::serve(Arriving { arrived, address }, app).await {
            tracing::error!(%error, %address, "the web server stopped");
        }
    });
}

async fn answer(
    config: &Config,
    shard: &ShardHandle,
    method: &Method,
    uri: &Uri,
    host: &str,
    body: &[u8],
) -> Response {
    let is_post = *method == Method::POST;
    if !is_post && *method != Method::GET && *method != Method::HEAD {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let asked = Asked { is_post, path: uri.path(), query: uri.query().unwrap_or(""), host, body };
    let Some((page, domain)) = pages::find(&asked) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let of = domain.clone();
    let known =
        shard.ask(move |shard| async move { shard.directory.borrow().domain(&of).is_some() }).await;
    match known {
        Ok(true) => {}
        Ok(false) => return StatusCode::NOT_FOUND.into_response(),
        Err(_) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
    let (kind, text) = page.text(config, &domain);
    let mut response = ([(header::CONTENT_TYPE, kind)], text).into_response();
    if let Page::AppleProfile { .. } = page {
        let name = header::HeaderValue::from_static("attachment; filename=\"mail.mobileconfig\"");
        response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    }
    response
}

/// Handshakes run beside each other: who is slow holds up nobody.
async fn accept<S, P, F>(
    listener: TcpListener,
    places: Arc<Semaphore>,
    prepared: P,
    ready: mpsc::Sender<(Connection<S>, SocketAddr)>,
) where
    S: Send + 'static,
    P: Fn(TcpStream) -> F,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the web server can't accept; waiting");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (ready, prepared) = (ready.clone(), prepared(stream));
        tokio::spawn(async move {
            let until = Box::pin(sleep(LIFE));
            match tokio::time::timeout(LIFE, prepared).await {
                Ok(Ok(stream)) => {
                    let connection = Connection { stream, until, _place: place };
                    // Nobody takes it when the server stops.
                    let _ = ready.send((connection, peer)).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "HTTPS handshake failed"),
                Err(_) => tracing::debug!(%peer, "HTTPS handshake took too long"),
            }
        });
    }
}

async fn secure(
    stream: TcpStream,
    shard: &ShardHandle,
    challenges: &Challenges,
) -> io::Result<TlsStream<TcpStream>> {
    let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let hello = begun.client_hello();
    let is_proof = hello.alpn().is_some_and(|mut offered| offered.any(|one| one == ACME_PROTOCOL));
    let name = hello.server_name().unwrap_or_default().to_owned();
    if is_proof {
        let key = challenges.proof(&name);
        let key = key.ok_or_else(|| io::Error::other("nobody has asked for this proof"))?;
        let config = crate::tls::proof_config(key, ACME_PROTOCOL);
        return begun.into_stream(Arc::new(config)).await;
    }
    let config = shard.ask(|shard| async move { shard.tls() }).await;
    let config = config.map_err(|_| io::Error::other("the server is busy"))?;
    let config = config.ok_or_else(|| io::Error::other("no certificate"))?;
    begun.into_stream(config).await
}

/// A connection that ends in time, and then gives its place back.
struct Connection<S> {
    stream: S,
    until: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl<S> Connection<S> {
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.until.as_mut().poll(context).is_ready()
    }
}

fn over() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            return Poll::Ready(Err(over()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_over(context) {
            return Poll::Ready(Err(over()));
        }
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            return Poll::Ready(Err(over()));
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            return Poll::Ready(Err(over()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
struct Peer(SocketAddr);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connected<IncomingStream<'_, Arriving<S>>>
    for Peer
{
    fn connect_info(stream: IncomingStream<'_, Arriving<S>>) -> Peer {
        Peer(*stream.remote_addr())
    }
}

/// Connections behind their handshakes.
struct Arriving<S> {
    arrived: mpsc::Receiver<(Connection<S>, SocketAddr)>,
    address: SocketAddr,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> axum::serve::Listener for Arriving<S> {
    type Io = Connection<S>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection<S>, SocketAddr) {
        match self.arrived.recv().await {
            Some(connection) => connection,
            // No listener is left.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
