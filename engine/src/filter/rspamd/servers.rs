//! Asking rspamd, on the control plane: one server after another, each with its share of the
//! time that is left.
//!
//! A server that fails is asked last for a while. Its answer is read up to [`ANSWER_BYTES_MAX`];
//! redirections are not followed, and no proxy is asked.

use super::answer::{self, Opinion};
use super::{Outcome, Question};
use crate::config::ConfigError;
use crate::filter::settings::Spam;
use crate::relay::tls::Trust;
use crate::resting::Resting;
use futures_util::future::join_all;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A message with hundreds of symbols and links has some tens of KiB.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Recipients that it is told of.
const RECIPIENTS_TOLD_MAX: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections that are kept open; rspamd itself closes most.
const IDLE_MAX: usize = 4;

#[derive(Debug)]
struct Server {
    url: String,
    resting: Resting,
}

/// All servers.
#[derive(Debug)]
pub struct Servers {
    servers: Vec<Server>,
    /// `None`: there are none.
    client: Option<reqwest::Client>,
    next: AtomicUsize,
    pub(super) places: usize,
}

impl Servers {
    pub fn new(spam: &Spam) -> Result<Servers, ConfigError> {
        let server = |url: &String| Server {
            url: url.clone(),
            resting: Resting::new("rspamd", url.clone()),
        };
        let fault = |error: String| ConfigError(format!("spam.rspamd: {error}"));
        let client = || {
            let trust = Trust::valid(None)?;
            reqwest::Client::builder()
                .tls_backend_preconfigured((*trust.config()).clone())
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_max_idle_per_host(IDLE_MAX)
                .build()
                .map_err(|error| error.to_string())
        };
        let client = if spam.rspamd.is_empty() { None } else { Some(client().map_err(fault)?) };
        Ok(Servers {
            servers: spam.rspamd.iter().map(server).collect(),
            client,
            next: AtomicUsize::default(),
            places: usize::try_from(spam.rspamd_connections_max).unwrap_or(1),
        })
    }

    /// Each server's address and whether it has answered when it was last asked.
    pub fn health(&self) -> Vec<(String, bool)> {
        let tell = |server: &Server| (server.url.clone(), server.resting.answers());
        self.servers.iter().map(tell).collect()
    }

    /// See [`Resting::greet`]; whatever it says to a ping, it is there.
    pub async fn greet(&self, meanwhile: &str) {
        let Some(client) = &self.client else { return };
        let all = self.servers.iter();
        join_all(all.map(async |server| {
            server.resting.greet(self.servers.len(), meanwhile, || server.ping(client)).await;
        }))
        .await;
    }

    /// In turn, those that have just failed behind the others.
    fn order(&self) -> Vec<&Server> {
        let (first, count) = (self.next.fetch_add(1, Ordering::Relaxed), self.servers.len());
        let mut order: Vec<&Server> =
            (0..count).map(|step| &self.servers[first.wrapping_add(step) % count]).collect();
        let now = Instant::now();
        order.sort_by_key(|server| server.resting.is_resting(now));
        order
    }

    pub async fn ask(&self, question: &Question) -> Outcome {
        let Some(client) = &self.client else { return Outcome::Unknown("no server".to_owned()) };
        let mut last = "no server".to_owned();
        let order = self.order();
        for (tried, server) in order.iter().enumerate() {
            let left = question.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let share = left / u32::try_from(order.len() - tried).unwrap_or(1).max(1);
            let asked = tokio::time::timeout(share, server.ask(client, question)).await;
            let why = match asked {
                Ok(Ok(opinion)) => {
                    server.resting.has_answered();
                    return Outcome::Answered(opinion);
                }
                Ok(Err(why)) => why,
                Err(_) => "does not answer in time".to_owned(),
            };
            server.resting.has_failed(&why);
            last = format!("{}: {why}", server.url);
        }
        Outcome::Unknown(last)
    }
}

impl Server {
    async fn ping(&self, client: &reqwest::Client) -> Result<(), String> {
        let asked = client.get(format!("{}/ping", self.url)).timeout(CONNECT_TIMEOUT).send();
        asked.await.map(drop).map_err(|error| innermost(&error))
    }

    async fn ask(&self, client: &reqwest::Client, question: &Question) -> Result<Opinion, String> {
        let url = format!("{}/checkv2", self.url);
        let sent = client.post(url).headers(headers(question)).body(question.message.clone());
        let mut answer = sent.send().await.map_err(|error| innermost(&error))?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(format!("it answers {}", answer.status().as_u16()));
        }
        let mut json = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| innermost(&error))? {
            json.extend_from_slice(&piece);
            if json.len() > ANSWER_BYTES_MAX {
                return Err(format!("its answer is longer than {ANSWER_BYTES_MAX} octets"));
            }
        }
        answer::read(&json)
    }
}

/// How the message has come. What can't stand in a header of HTTP is left out: a peer chooses its
/// name and its sender.
fn headers(question: &Question) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.append(HeaderName::from_static(name), value);
        }
    };
    add("ip", &question.peer.to_canonical().to_string());
    add("helo", &question.helo);
    add("from", &question.mail_from);
    for recipient in question.recipients.iter().take(RECIPIENTS_TOLD_MAX) {
        add("rcpt", recipient);
    }
    add("queue-id", &question.id);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers
}

/// The innermost cause says most.
fn innermost(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn what_a_peer_says_breaks_no_header() {
        let question = Question {
            message: Bytes::new(),
            peer: "::ffff:192.0.2.1".parse().unwrap(),
            helo: "evil\r\nFrom: other".to_owned(),
            mail_from: "jürgen@a.test".to_owned(),
            recipients: vec!["b@c.test".to_owned(); 1000],
            id: "0.1".to_owned(),
            until: Instant::now(),
        };
        let headers = headers(&question);
        assert_eq!(headers.get("ip").unwrap(), "192.0.2.1");
        assert!(headers.get("helo").is_none());
        assert_eq!(headers.get("from").unwrap().as_bytes(), "jürgen@a.test".as_bytes());
        assert_eq!(headers.get_all("rcpt").iter().count(), RECIPIENTS_TOLD_MAX);
    }
}
