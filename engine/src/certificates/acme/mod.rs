//! Certificates from an ACME server (RFC 8555), asked for and renewed by the control plane.
//!
//! | file | what |
//! |---|---|
//! | [`settings`] | `[acme]` |
//! | [`order`] | one certificate: order, challenges, chain |
//! | [`http`] | how the server is asked |
//!
//! A certificate is due when there is none for its names, or only one that is self-signed, or when
//! a third of its life is left. It keeps its key, so that TLSA records stay as they are. After a
//! failure the wait doubles, up to half a day; what is served stays served. The account is in
//! `certificates/acme-account.json`.

pub mod http;
mod order;
pub mod settings;

use super::{CertificateError, bad, describe, directory, import, write_private};
use crate::config::Config;
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Certificates are looked at so often at least: clocks jump, and files are exchanged by hand.
const LOOK_EVERY: Duration = Duration::from_secs(6 * 3600);
const RETRY_MAX: Duration = Duration::from_secs(12 * 3600);

/// What answers the ACME server's questions, while an order is under way; and how it went.
#[derive(Debug, Default)]
pub struct Challenges {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Key authorizations by token.
    pages: HashMap<String, String>,
    /// Certificates that prove a name, by that.
    proofs: HashMap<String, Arc<CertifiedKey>>,
    issued: u64,
    failed: u64,
}

impl Challenges {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of `/.well-known/acme-challenge/TOKEN`.
    pub fn page(&self, token: &str) -> Option<String> {
        self.inner().pages.get(token).cloned()
    }

    /// For who connects with the protocol `acme-tls/1`.
    pub fn proof(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.inner().proofs.get(&name.to_lowercase()).cloned()
    }

    fn put_page(&self, token: &str, text: &str) {
        self.inner().pages.insert(token.to_owned(), text.to_owned());
    }

    fn put_proof(&self, name: &str, key: CertifiedKey) {
        self.inner().proofs.insert(name.to_lowercase(), Arc::new(key));
    }

    fn clear(&self) {
        let mut inner = self.inner();
        inner.pages.clear();
        inner.proofs.clear();
    }

    /// Prometheus text.
    pub fn metrics_text(&self, text: &mut String) {
        let (issued, failed) = {
            let inner = self.inner();
            (inner.issued, inner.failed)
        };
        let name = "kura_acme_orders_total";
        let _ = writeln!(
            text,
            "# HELP {name} Certificates that were asked for\n# TYPE {name} counter\n\
             {name}{{result=\"issued\"}} {issued}\n{name}{{result=\"failed\"}} {failed}"
        );
    }
}

/// Keeps certificates, until the runtime ends. `reload` has them served.
pub async fn keep<R, F>(config: Arc<Config>, challenges: Arc<Challenges>, reload: R)
where
    R: Fn() -> F,
    F: Future<Output = Result<(), String>>,
{
    if config.acme.directory.is_none() {
        return;
    }
    let mut failures = 0;
    // What is on disk: the server has loaded it at its start.
    let mut is_served = true;
    loop {
        let mut next = LOOK_EVERY;
        let mut has_failed = false;
        for names in config.acme.wanted(&config.hostname) {
            let until_due = time_until_due(&config.data_dir, &names);
            if !until_due.is_zero() {
                next = next.min(until_due);
                continue;
            }
            let name = &names[0];
            tracing::info!(target: crate::NOTICE, name, "a certificate is asked for");
            let obtained = order::obtain(&config, &challenges, &names).await;
            challenges.clear();
            let obtained = match obtained {
                Ok(chain) => take(&config.data_dir, &names, chain).await,
                Err(error) => Err(error),
            };
            match obtained {
                Ok(()) => {
                    challenges.inner().issued += 1;
                    is_served = false;
                    tracing::info!(target: crate::NOTICE, name, "a certificate was issued");
                    next = next.min(time_until_due(&config.data_dir, &names));
                }
                Err(why) => {
                    challenges.inner().failed += 1;
                    has_failed = true;
                    tracing::error!(name, why, "no certificate was issued; it is tried again");
                }
            }
        }
        if !is_served {
            match reload().await {
                Ok(()) => {
                    is_served = true;
                    tracing::info!(target: crate::NOTICE, "what was issued is served");
                }
                Err(why) => {
                    has_failed = true;
                    tracing::error!(why, "what was issued is not served yet; it is tried again");
                }
            }
        }
        failures = if has_failed { failures + 1 } else { 0 };
        if has_failed {
            next = next.min(retry_after(config.acme.retry_first.0, failures));
        }
        tokio::time::sleep(next.max(Duration::from_secs(1))).await;
    }
}

fn retry_after(first: Duration, failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    first.saturating_mul(doubled).min(RETRY_MAX)
}

fn folder(data_dir: &Path, names: &[String]) -> PathBuf {
    directory(data_dir).join(&names[0])
}

/// Zero: now.
fn time_until_due(data_dir: &Path, names: &[String]) -> Duration {
    let folder = folder(data_dir, names);
    if super::load(&folder).is_err() {
        return Duration::ZERO;
    }
    let Ok(listed) = describe(&folder) else { return Duration::ZERO };
    let covers_all = names.iter().all(|name| listed.dns_names.contains(name));
    if !covers_all || listed.self_signed {
        return Duration::ZERO;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let life = listed.not_after_unix - listed.not_before_unix;
    let due = u64::try_from(listed.not_after_unix - life / 3).unwrap_or(0);
    Duration::from_secs(due.saturating_sub(now))
}

/// The key of these names: that of the certificate which serves them, or a new one.
fn key_file(data_dir: &Path, names: &[String]) -> Result<PathBuf, CertificateError> {
    let folder = folder(data_dir, names);
    let serving = folder.join("key.pem");
    if serving.exists() {
        return Ok(serving);
    }
    super::request::request(data_dir, names, false).map(|asked| asked.key_file)
}

/// Proves what was issued as if somebody had brought it, and has it on disk.
async fn take(data_dir: &Path, names: &[String], chain: String) -> Result<(), String> {
    let (data_dir, names) = (data_dir.to_owned(), names.to_vec());
    let taken = move || -> Result<(), CertificateError> {
        let key = key_file(&data_dir, &names)?;
        let issued = folder(&data_dir, &names).join("issued.pem");
        write_private(&issued, &chain)?;
        let imported = import(&data_dir, &issued, Some(&key), &names[0]);
        let _ = std::fs::remove_file(&issued);
        imported.map(drop)
    };
    match tokio::task::spawn_blocking(taken).await {
        Ok(taken) => taken.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn read_key(file: &Path) -> Result<rcgen::KeyPair, CertificateError> {
    let text = std::fs::read_to_string(file).map_err(|source| super::io_error(file, source))?;
    rcgen::KeyPair::from_pem(&text).map_err(|error| bad(file, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_repeated_less_and_less() {
        let minutes = |failures| retry_after(Duration::from_secs(300), failures).as_secs() / 60;
        assert_eq!([1, 2, 3, 8, 9, 100].map(minutes), [5, 10, 20, 640, 720, 720]);
    }

    #[test]
    fn what_is_missing_or_self_signed_is_due() {
        let dir = std::env::temp_dir().join(format!("kura-acme-{}", std::process::id()));
        let names = ["mail.a.test".to_owned()];
        assert_eq!(time_until_due(&dir, &names), Duration::ZERO);
        super::super::self_signed(&dir, &names).unwrap();
        assert_eq!(time_until_due(&dir, &names), Duration::ZERO);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
