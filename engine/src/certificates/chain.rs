//! Whether a chain holds, before it is taken in: each certificate issued by the next, none of them
//! expired, and valid for the name that it is to serve. A mistake here would be seen by every
//! client, and by nobody before.

use super::{CertificateError, Cover, bad, covers, dns_names};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use std::path::Path;
use std::sync::Arc;
use x509_parser::prelude::X509Certificate;

/// `name` is the host that clients will ask for. Returns what is odd, but no reason to refuse.
pub fn check(
    path: &Path,
    chain: &[CertificateDer<'static>],
    name: &str,
) -> Result<Vec<String>, CertificateError> {
    let Some((leaf, above)) = chain.split_first() else {
        return Err(bad(path, "holds no CERTIFICATE; give the full chain in PEM form"));
    };
    let parsed: Vec<X509Certificate<'_>> = chain
        .iter()
        .map(|der| x509_parser::parse_x509_certificate(der).map(|(_, parsed)| parsed))
        .collect::<Result<_, _>>()
        .map_err(|error| bad(path, error))?;
    let now = UnixTime::now();
    let unix = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    for (number, certificate) in (1..).zip(&parsed) {
        let validity = certificate.validity();
        if validity.not_after.timestamp() <= unix {
            let when = validity.not_after;
            return Err(bad(path, format!("certificate {number} has expired: {when}")));
        }
        if validity.not_before.timestamp() > unix {
            let when = validity.not_before;
            return Err(bad(
                path,
                format!("certificate {number} is not valid before {when}; is the clock right?"),
            ));
        }
    }
    let names = dns_names(path, leaf)?;
    if matches!(covers(&names, name), Cover::None) {
        return Err(bad(
            path,
            format!(
                "it is for {}, not for {name}; if that is meant, add --name {}",
                names.join(", "),
                names.first().map_or("NAME", String::as_str)
            ),
        ));
    }
    for (number, pair) in (1..).zip(parsed.windows(2)) {
        let [below, issuer] = pair else { continue };
        if below.issuer().as_raw() != issuer.subject().as_raw() {
            return Err(bad(
                path,
                format!(
                    "certificate {} did not issue certificate {number} ({} did); the order is: the host's own, \
                     then who issued it, and so on",
                    number + 1,
                    below.issuer()
                ),
            ));
        }
    }
    let Some((root, between)) = above.split_last() else {
        let first = &parsed[0];
        let issuer = first.issuer();
        return Ok(vec![if first.subject().as_raw() == issuer.as_raw() {
            "it is self-signed: clients have to be told to trust it".to_owned()
        } else {
            format!(
                "the chain ends with the host's own certificate: clients that do not know {issuer} will not \
                 trust it; give the full chain"
            )
        }]);
    };
    verify(leaf, between, root, name, now)
        .map_err(|error| bad(path, format!("the chain does not hold: {error}")))?;
    Ok(Vec::new())
}

/// All signatures, up to the last certificate, whoever vouches for that.
fn verify(
    leaf: &CertificateDer<'static>,
    between: &[CertificateDer<'static>],
    root: &CertificateDer<'static>,
    name: &str,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let name = ServerName::try_from(name.to_owned())
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    verifier.verify_server_cert(leaf, between, &name, &[], now).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use std::time::{Duration, SystemTime};

    const DAY: Duration = Duration::from_secs(86_400);

    fn params(name: &str, is_ca: bool, days: u32) -> CertificateParams {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = (SystemTime::now() - 100 * DAY).into();
        params.not_after = (SystemTime::now() - 100 * DAY + days * DAY).into();
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }

    struct Authority {
        root: CertificateDer<'static>,
        between: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    }

    fn authority() -> Authority {
        let key = KeyPair::generate().unwrap();
        let top = params("Root", true, 1000);
        let root = top.self_signed(&key).unwrap().der().clone();
        let top = Issuer::new(top, key);
        let key = KeyPair::generate().unwrap();
        let middle = params("Between", true, 1000);
        let between = middle.signed_by(&key, &top).unwrap().der().clone();
        Authority { root, between, issuer: Issuer::new(middle, key) }
    }

    fn leaf(authority: &Authority, name: &str, days: u32) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        params(name, false, days).signed_by(&key, &authority.issuer).unwrap().der().clone()
    }

    fn fault(chain: &[CertificateDer<'static>]) -> String {
        match check(Path::new("chain.pem"), chain, "mail.a.test") {
            Ok(odd) => odd.join("; "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_chain_is_taken_only_if_every_link_holds() {
        let (one, other) = (authority(), authority());
        let good = leaf(&one, "mail.a.test", 1000);
        let (between, root) = (one.between.clone(), one.root.clone());
        assert_eq!(fault(&[good.clone(), between.clone(), root.clone()]), "");
        assert_eq!(fault(&[good.clone(), between.clone()]), "");
        let wild = leaf(&one, "*.a.test", 1000);
        assert_eq!(fault(&[wild, between.clone()]), "");
        for (chain, words) in [
            (vec![], "holds no CERTIFICATE"),
            (vec![good.clone()], "give the full chain"),
            (vec![between.clone(), good.clone()], "not for mail.a.test"),
            (vec![good.clone(), root.clone(), between.clone()], "did not issue"),
            // The names fit, the signature does not.
            (vec![good.clone(), other.between.clone()], "does not hold"),
            (vec![leaf(&one, "mail.b.test", 1000), between.clone()], "--name mail.b.test"),
            (vec![leaf(&one, "mail.a.test", 99), between.clone()], "has expired"),
        ] {
            let said = fault(&chain);
            assert!(said.contains(words), "{words}: {said}");
        }
        let key = KeyPair::generate().unwrap();
        let own = params("mail.a.test", false, 1000).self_signed(&key).unwrap().der().clone();
        assert!(fault(&[own]).contains("self-signed"));
    }
}
