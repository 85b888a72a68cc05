//! DANE: DNS says which certificates a mail host has. RFC 6698, 7671, 7672.
//!
//! | TLSA | is met by |
//! |---|---|
//! | DANE-EE (3) | the server's certificate, or its key; its names and dates say nothing (RFC 7671 section 5.1) |
//! | DANE-TA (2) | a chain to a certificate, or key, that the server sends along, and one of our names for it |
//! | PKIX (0, 1), what is malformed | not usable for SMTP (RFC 7672 section 3.1.3) |
//!
//! Where both full data and digests, or several digests, are published for a usage and selector, of
//! the digests the strongest counts alone (RFC 7671 section 9).

use crate::hex;
use hickory_resolver::proto::rr::rdata::TLSA;
use hickory_resolver::proto::rr::rdata::tlsa::{CertUsage, Matching, Selector};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256, Sha512};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Of one host: what is there beyond is not looked at.
const RECORDS_MAX: usize = 32;
/// Certificates that a server may send along.
const CHAIN_MAX: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usage {
    Anchor,
    EndEntity,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    usage: Usage,
    /// The public key alone, not the whole certificate.
    is_key: bool,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Full(Vec<u8>),
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

/// What a host's certificate has to meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dane {
    records: Vec<Record>,
    /// The first is said in SNI: where the records are (RFC 7672 section 8.1). One of them has to
    /// be in a certificate that an anchor vouches for.
    names: Vec<String>,
}

impl Dane {
    /// `None`: nothing in the records is of use.
    pub fn new<'r>(records: impl Iterator<Item = &'r TLSA>, names: Vec<String>) -> Option<Dane> {
        let usable: Vec<Record> = records.take(RECORDS_MAX).filter_map(Record::read).collect();
        let strongest = |one: &Record| match one.content {
            Content::Sha256(_) => !usable.iter().any(|other| {
                let same = (other.usage, other.is_key) == (one.usage, one.is_key);
                same && matches!(other.content, Content::Sha512(_))
            }),
            Content::Full(_) | Content::Sha512(_) => true,
        };
        let records: Vec<Record> = usable.iter().filter(|one| strongest(one)).cloned().collect();
        (!records.is_empty()).then_some(Dane { records, names })
    }

    /// As zone files have them, of those that count.
    pub fn texts(&self) -> Vec<String> {
        let text = |one: &Record| {
            let usage = match one.usage {
                Usage::Anchor => 2,
                Usage::EndEntity => 3,
            };
            let (matching, data) = match &one.content {
                Content::Full(whole) => (0, hex::text(whole)),
                Content::Sha256(digest) => (1, hex::text(digest)),
                Content::Sha512(digest) => (2, hex::text(digest)),
            };
            format!("{usage} {} {matching} {data}", u8::from(one.is_key))
        };
        self.records.iter().map(text).collect()
    }

    pub fn sni(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// Whether the certificate, with those that came along, is one that DNS tells of.
    pub fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(), rustls::Error> {
        let fault = |words: &str| rustls::Error::General(words.to_owned());
        let of = |usage: Usage| self.records.iter().filter(move |one| one.usage == usage);
        if of(Usage::EndEntity).any(|one| one.fits(end_entity)) {
            return Ok(());
        }
        // Whose anchor it is comes along, or stands whole in DNS.
        let mut anchors = RootCertStore::empty();
        let others = others.get(..CHAIN_MAX).unwrap_or(others);
        for record in of(Usage::Anchor) {
            for other in others.iter().filter(|other| record.fits(other)) {
                let _ = anchors.add(other.clone().into_owned());
            }
            if let (Content::Full(whole), false) = (&record.content, record.is_key) {
                let _ = anchors.add(CertificateDer::from(whole.clone()));
            }
        }
        if anchors.is_empty() {
            return Err(fault("no TLSA record fits its certificate (DANE)"));
        }
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(anchors), Arc::clone(provider))
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut last = fault("it has no name that could be in a certificate (DANE)");
        for name in &self.names {
            let Ok(name) = ServerName::try_from(name.as_str()) else { continue };
            match verifier.verify_server_cert(end_entity, others, &name, &[], now) {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(rustls::Error::General(format!(
            "its chain does not lead to its TLSA record (DANE): {last}"
        )))
    }
}

impl Record {
    fn read(tlsa: &TLSA) -> Option<Record> {
        let usage = match tlsa.cert_usage {
            CertUsage::DaneTa => Usage::Anchor,
            CertUsage::DaneEe => Usage::EndEntity,
            _ => return None,
        };
        let is_key = match tlsa.selector {
            Selector::Full => false,
            Selector::Spki => true,
            _ => return None,
        };
        let data = tlsa.cert_data.as_slice();
        let content = match tlsa.matching {
            Matching::Raw if is_key => Content::Full(data.to_vec()).non_empty()?,
            // What is no certificate fits none.
            Matching::Raw => {
                X509Certificate::from_der(data).ok()?;
                Content::Full(data.to_vec())
            }
            Matching::Sha256 => Content::Sha256(data.try_into().ok()?),
            Matching::Sha512 => Content::Sha512(data.try_into().ok()?),
            _ => return None,
        };
        Some(Record { usage, is_key, content })
    }

    fn fits(&self, certificate: &CertificateDer<'_>) -> bool {
        let parsed;
        let octets: &[u8] = if self.is_key {
            let Ok((_, read)) = X509Certificate::from_der(certificate) else { return false };
            parsed = read;
            parsed.tbs_certificate.subject_pki.raw
        } else {
            certificate
        };
        match &self.content {
            Content::Full(whole) => whole == octets,
            Content::Sha256(digest) => Sha256::digest(octets).as_slice() == digest,
            Content::Sha512(digest) => Sha512::digest(octets).as_slice() == digest,
        }
    }
}

impl Content {
    fn non_empty(self) -> Option<Content> {
        match &self {
            Content::Full(octets) if octets.is_empty() => None,
            _ => Some(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::crypto::ring;

    struct Chain {
        leaf: CertificateDer<'static>,
        anchor: CertificateDer<'static>,
        leaf_key: Vec<u8>,
        anchor_key: Vec<u8>,
    }

    fn chain(name: &str) -> Chain {
        let anchor_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let anchor = params.self_signed(&anchor_key).unwrap();
        let leaf_key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&params, &anchor_key);
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
        let key = |certificate: &CertificateDer<'_>| {
            let (_, read) = X509Certificate::from_der(certificate).unwrap();
            read.tbs_certificate.subject_pki.raw.to_vec()
        };
        Chain {
            leaf_key: key(leaf.der()),
            anchor_key: key(anchor.der()),
            leaf: leaf.der().clone(),
            anchor: anchor.der().clone(),
        }
    }

    fn tlsa(usage: u8, selector: u8, matching: u8, octets: &[u8]) -> TLSA {
        let data = match matching {
            1 => Sha256::digest(octets).to_vec(),
            2 => Sha512::digest(octets).to_vec(),
            _ => octets.to_vec(),
        };
        TLSA::new(usage.into(), selector.into(), matching.into(), data)
    }

    fn accepts(
        records: &[TLSA],
        names: &[&str],
        chain: &Chain,
        sent: &[CertificateDer<'_>],
    ) -> bool {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        let dane = Dane::new(records.iter(), names).expect("usable");
        let provider = Arc::new(ring::default_provider());
        dane.verify(&chain.leaf, sent, UnixTime::now(), &provider).is_ok()
    }

    #[test]
    fn the_servers_own_certificate_needs_no_name() {
        let (ours, other) = (chain("elsewhere.test"), chain("mx.test"));
        for matching in 0..=2 {
            for (selector, octets) in [(0, ours.leaf.as_ref()), (1, ours.leaf_key.as_slice())] {
                let record = tlsa(3, selector, matching, octets);
                assert!(accepts(std::slice::from_ref(&record), &["mx.test"], &ours, &[]));
                assert!(!accepts(&[record], &["mx.test"], &other, &[]));
            }
        }
        // Somebody else's record beside it harms nothing.
        let both = [tlsa(3, 1, 1, &other.leaf_key), tlsa(3, 1, 1, &ours.leaf_key)];
        assert!(accepts(&both, &["mx.test"], &ours, &[]));
    }

    #[test]
    fn an_anchor_vouches_for_a_name() {
        let ours = chain("mx.test");
        let other = chain("mx.test");
        let sent = [ours.anchor.clone()];
        for matching in 0..=2 {
            for (selector, octets) in [(0, ours.anchor.as_ref()), (1, ours.anchor_key.as_slice())] {
                let record = [tlsa(2, selector, matching, octets)];
                assert!(accepts(&record, &["mx.test"], &ours, &sent), "{selector} {matching}");
                assert!(accepts(&record, &["base.test", "mx.test"], &ours, &sent));
                assert!(!accepts(&record, &["base.test"], &ours, &sent), "another name");
                assert!(!accepts(&record, &["mx.test"], &other, &sent), "another chain");
            }
        }
        assert!(accepts(&[tlsa(2, 0, 0, &ours.anchor)], &["mx.test"], &ours, &[]), "in DNS whole");
        assert!(!accepts(&[tlsa(2, 0, 1, &ours.anchor)], &["mx.test"], &ours, &[]), "not sent");
        // An anchor's record is not met by a leaf, nor the other way round.
        assert!(!accepts(&[tlsa(2, 1, 1, &ours.leaf_key)], &["mx.test"], &ours, &sent));
        assert!(!accepts(&[tlsa(3, 1, 1, &ours.anchor_key)], &["mx.test"], &ours, &sent));
    }

    #[test]
    fn what_is_of_no_use_is_none() {
        let ours = chain("mx.test");
        let cut = TLSA::new(3.into(), 1.into(), 1.into(), vec![0; 31]);
        let unusable = [
            tlsa(0, 0, 1, &ours.leaf),
            tlsa(1, 1, 1, &ours.leaf_key),
            tlsa(3, 2, 1, &ours.leaf),
            tlsa(3, 1, 3, &ours.leaf_key),
            tlsa(3, 0, 0, b"no certificate"),
            tlsa(3, 1, 0, b""),
            cut,
        ];
        assert_eq!(Dane::new(unusable.iter(), Vec::new()), None);
        let mut one_more = unusable.to_vec();
        one_more.push(tlsa(3, 1, 1, &ours.leaf_key));
        assert!(accepts(&one_more, &["mx.test"], &ours, &[]));
    }

    #[test]
    fn the_strongest_digest_counts_alone() {
        let (ours, other) = (chain("mx.test"), chain("mx.test"));
        let stale = [tlsa(3, 1, 1, &ours.leaf_key), tlsa(3, 1, 2, &other.leaf_key)];
        assert!(!accepts(&stale, &["mx.test"], &ours, &[]));
        // Of another selector it is another matter.
        let apart = [tlsa(3, 1, 1, &ours.leaf_key), tlsa(3, 0, 2, &other.leaf)];
        assert!(accepts(&apart, &["mx.test"], &ours, &[]));
    }
}
