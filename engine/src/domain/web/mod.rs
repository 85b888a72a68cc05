//! HTTPS on the control plane: policies for other servers, settings for mail programs ([`pages`]).
//!
//! Bounded: [`CONNECTIONS_MAX`] at once, [`LIFE`] for each from its first octet to its last, requests of
//! [`REQUEST_BYTES_MAX`] octets. More connections wait in the listener's backlog. Certificates are those of the
//! mail services, by SNI, as they are at the time of the handshake.

pub mod pages;
mod settings_xml;

use crate::config::Config;
use crate::mesh::ShardHandle;
use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use pages::{Asked, Page};
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
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const CONNECTIONS_MAX: usize = 64;
const LIFE: Duration = Duration::from_secs(20);
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// After accept fails for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the runtime ends.
pub async fn serve(listeners: Vec<TcpListener>, config: Arc<Config>, shard: ShardHandle) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (ready, secured) = mpsc::channel(CONNECTIONS_MAX);
    let Some(address) = listeners.first().and_then(|one| one.local_addr().ok()) else { return };
    for listener in listeners {
        tokio::spawn(accept(listener, Arc::clone(&places), shard.clone(), ready.clone()));
    }
    drop(ready);
    let page = move |method: Method, uri: Uri, headers: axum::http::HeaderMap, body: Bytes| {
        let (config, shard) = (Arc::clone(&config), shard.clone());
        async move {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
            answer(&config, &shard, &method, &uri, host.unwrap_or_default(), &body).await
        }
    };
    let app = Router::new().fallback(page).layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX));
    if let Err(error) = axum::serve(Secured { secured, address }, app).await {
        tracing::error!(%error, "HTTPS stopped");
    }
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
async fn accept(
    listener: TcpListener,
    places: Arc<Semaphore>,
    shard: ShardHandle,
    ready: mpsc::Sender<(Connection, SocketAddr)>,
) {
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "HTTPS can't accept; waiting");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (shard, ready) = (shard.clone(), ready.clone());
        tokio::spawn(async move {
            let until = Box::pin(sleep(LIFE));
            let secured = tokio::time::timeout(LIFE, secure(stream, &shard));
            match secured.await {
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

async fn secure(stream: TcpStream, shard: &ShardHandle) -> io::Result<TlsStream<TcpStream>> {
    let config = shard.ask(|shard| async move { shard.tls() }).await;
    let config = config.map_err(|_| io::Error::other("the server is busy"))?;
    let config = config.ok_or_else(|| io::Error::other("no certificate"))?;
    TlsAcceptor::from(config).accept(stream).await
}

/// A connection that ends in time, and then gives its place back.
struct Connection {
    stream: TlsStream<TcpStream>,
    until: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.until.as_mut().poll(context).is_ready()
    }
}

fn over() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

impl AsyncRead for Connection {
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

impl AsyncWrite for Connection {
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

/// Connections behind their handshakes.
struct Secured {
    secured: mpsc::Receiver<(Connection, SocketAddr)>,
    address: SocketAddr,
}

impl axum::serve::Listener for Secured {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.secured.recv().await {
            Some(connection) => connection,
            // No listener is left.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
