//! Whose certificates are believed when we are the client.

use super::dane::Dane;
use super::settings::{SmartHost, TlsMode};
use crate::config::{Config, ConfigError};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Clone)]
pub struct Trust {
    config: Arc<ClientConfig>,
    /// Whether the certificate has to be valid for the host's name.
    is_of_name: bool,
}

impl Trust {
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Of a host that is called `host` and has that address: what is asked for, and what the
    /// certificate is checked against. Where that counts, an address does not do in the place of a
    /// name that no certificate can have: whoever forges DNS chooses both.
    pub fn name(&self, host: &str, address: IpAddr) -> io::Result<ServerName<'static>> {
        match ServerName::try_from(host.to_owned()) {
            Ok(name) => Ok(name),
            Err(_) if !self.is_of_name => Ok(ServerName::IpAddress(address.into())),
            Err(_) => Err(io::Error::other("no certificate can have its name")),
        }
    }

    /// Any certificate: against those who only listen (RFC 7435), as between mail
    /// servers without policy.
    pub fn anybody() -> Trust {
        Trust::of_verifier(None)
    }

    /// The certificate that DNS tells of.
    pub fn dane(dane: &Arc<Dane>) -> Trust {
        Trust::of_verifier(Some(Arc::clone(dane)))
    }

    fn of_verifier(dane: Option<Arc<Dane>>) -> Trust {
        let provider = Arc::new(ring::default_provider());
        let verifier = Verifier { dane, provider: Arc::clone(&provider) };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the ring provider has TLS 1.2 and 1.3 suites")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Trust { config: Arc::new(config), is_of_name: false }
    }

    /// Certificates valid for the host, from those in `file`, or those that the system
    /// trusts. Reads files.
    pub fn valid(file: Option<&PathBuf>) -> Result<Trust, String> {
        let mut roots = RootCertStore::empty();
        match file {
            Some(file) => {
                let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
                let certificates =
                    CertificateDer::pem_file_iter(file).map_err(|error| fault(&error))?;
                for certificate in certificates {
                    let certificate = certificate.map_err(|error| fault(&error))?;
                    roots.add(certificate).map_err(|error| fault(&error))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
        }
        if roots.is_empty() {
            return Err(match file {
                Some(file) => format!("{}: no certificate is in it; it holds PEM", file.display()),
                None => "no certificates to believe in were found; set ca_file".to_owned(),
            });
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the ring provider has TLS 1.2 and 1.3 suites")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Trust { config: Arc::new(config), is_of_name: true })
    }

    pub fn of(host: &SmartHost) -> Result<Trust, String> {
        match host.tls {
            TlsMode::Required | TlsMode::Implicit => Trust::valid(host.ca_file.as_ref()),
            TlsMode::Opportunistic | TlsMode::Off => Ok(Trust::anybody()),
        }
    }
}

/// Whether the files of certificates that are of use here can be used. A server without them would
/// take mail and leave it in the queue. Reads files.
pub fn check_files(config: &Config) -> Result<(), ConfigError> {
    for (key, file) in files(config) {
        config.at(key, Trust::valid(Some(file)).map_err(ConfigError))?;
    }
    Ok(())
}

fn files(config: &Config) -> Vec<(&'static str, &PathBuf)> {
    let sends = config.relay.enabled;
    let verify = config.smart_hosts.iter().filter(|host| sends && host.tls.verifies());
    let of_hosts = verify.filter_map(|host| Some(("smart_host.ca_file", host.ca_file.as_ref()?)));
    let files = [
        ("relay.ca_file", sends, &config.relay.ca_file),
        ("collect.ca_file", config.collect.enabled, &config.collect.ca_file),
        ("acme.ca_file", config.acme.directory.is_some(), &config.acme.ca_file),
    ];
    let used = files.into_iter().filter(|(_, is_used, _)| *is_used);
    used.filter_map(|(key, _, file)| Some((key, file.as_ref()?))).chain(of_hosts).collect()
}

/// Past the authorities that the world believes in.
#[derive(Debug)]
struct Verifier {
    /// `None`: any certificate.
    dane: Option<Arc<Dane>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(dane) = &self.dane {
            dane.verify(end_entity, others, now, &self.provider)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_would_be_used_are_looked_at() {
        let keys = |text: &str| {
            let hosts = "[[smart_host]]\nhost = 'a.test'\nca_file = 'x'\n\
                         [[smart_host]]\nhost = 'b.test'\nca_file = 'y'\ntls = 'opportunistic'\n";
            let config: Config =
                toml::from_str(&format!("hostname = 'h.test'\ndata_dir = '.'\n{text}{hosts}"))
                    .unwrap();
            files(&config).into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        let all = "[collect]\nca_file = 'c'\n[acme]\nca_file = 'd'\n[relay]\nca_file = 'e'\n";
        assert_eq!(keys(all), ["relay.ca_file", "collect.ca_file", "smart_host.ca_file"]);
        let none = all.replace("[relay]", "[relay]\nenabled = false");
        let none = none.replace("[collect]", "[collect]\nenabled = false");
        assert_eq!(keys(&none), [""; 0]);
        let acme = none.replace("[acme]", "[acme]\ndirectory = 'https://acme.test'");
        assert_eq!(keys(&acme), ["acme.ca_file"]);
    }
}
