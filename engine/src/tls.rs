//! TLS settings: which certificate a client gets, and reloading without a restart.
//!
//! TLS 1.2 and 1.3 only (RFC 8996, 9325: rustls knows nothing older). SNI picks the
//! certificate: the exact name, then a wildcard, then the first one, since many mail clients
//! send no name or an address.

use crate::certificates::{self, CertificateError};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Builds the configuration from all certificates of the data directory; `None` without any.
pub fn server_config(data_dir: &Path) -> Result<Option<Arc<ServerConfig>>, CertificateError> {
    let Some(resolver) = ByName::load(data_dir)? else { return Ok(None) };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the ring provider has TLS 1.2 and 1.3 suites")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    // Mail sessions are long: one ticket is enough, and the default's cache would be a lock shared
    // between cores.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Some(Arc::new(config)))
}

/// For one handshake that proves a name, and nothing more: this certificate, whoever asks.
pub fn proof_config(key: Arc<CertifiedKey>, protocol: &[u8]) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the ring provider has TLS 1.2 and 1.3 suites")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from((*key).clone())));
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

/// Why a handshake with another server failed, for whoever runs one of the two.
pub fn fault_words(error: &io::Error) -> String {
    use rustls::CertificateError as Fault;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(fault)) = inner else {
        return format!("TLS failed: {error}");
    };
    let why = match fault {
        Fault::UnknownIssuer => {
            "nobody who is trusted here has issued it (ca_file names others)".to_owned()
        }
        // The verifier's own words are its type names.
        Fault::Other(_) if format!("{fault:?}").contains("CaUsedAsEndEntity") => {
            "it is that of an authority, as self-signed ones often are".to_owned()
        }
        other => other.to_string(),
    };
    format!("its certificate is not valid: {why}")
}

#[derive(Debug)]
struct ByName {
    names: HashMap<String, Arc<CertifiedKey>>,
    first: Arc<CertifiedKey>,
}

impl ByName {
    fn load(data_dir: &Path) -> Result<Option<ByName>, CertificateError> {
        let loaded = certificates::load_all(data_dir)?;
        let Some(first) = loaded.first().map(|one| Arc::clone(&one.key)) else { return Ok(None) };
        let mut names = HashMap::new();
        for one in loaded {
            for name in one.dns_names {
                names.entry(name).or_insert_with(|| Arc::clone(&one.key));
            }
        }
        Ok(Some(ByName { names, first }))
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_lowercase();
        let wildcard = || self.names.get(&format!("*.{}", name.split_once('.')?.1));
        self.names.get(&name).or_else(wildcard)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.find(name));
        Some(Arc::clone(named.unwrap_or(&self.first)))
    }
}
