//! A DMARC policy record (RFC 9989 section 4.7).

use crate::auth::dkim::tags::Tags;
use crate::auth::verdict::Policy;
use serde::{Deserialize, Serialize};

/// Addresses for reports that are kept of one record.
const REPORTS_MAX: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alignment {
    Relaxed,
    Strict,
}

/// Whether a domain is a public suffix: one below which others have their domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublicSuffix {
    Yes,
    No,
    Unsaid,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub policy: Policy,
    pub subdomains: Policy,
    pub nonexistent: Policy,
    pub dkim: Alignment,
    pub spf: Alignment,
    pub public_suffix: PublicSuffix,
    /// `t=y`: the policy is one step milder than it says.
    pub is_testing: bool,
    /// Where aggregate reports are wanted: `mailto:` URIs, as they stand there.
    pub reports: Vec<String>,
}

impl Record {
    /// `None`: not a DMARC record.
    pub fn read(text: &[u8]) -> Option<Record> {
        let tags = Tags::read(text)?;
        // The one value that is case-sensitive, at the one place that is fixed.
        if tags.first("v") != Some(b"DMARC1") {
            return None;
        }
        let lower = |tag| tags.get(tag).map(<[u8]>::to_ascii_lowercase);
        // What can't be understood is as if it were not there (section 4.7).
        let policy = |tag| match lower(tag)?.as_slice() {
            b"none" => Some(Policy::None),
            b"quarantine" => Some(Policy::Quarantine),
            b"reject" => Some(Policy::Reject),
            _ => None,
        };
        let alignment = |tag| match lower(tag).as_deref() {
            Some(b"s") => Alignment::Strict,
            _ => Alignment::Relaxed,
        };
        let public_suffix = match lower("psd").as_deref() {
            Some(b"y") => PublicSuffix::Yes,
            Some(b"n") => PublicSuffix::No,
            _ => PublicSuffix::Unsaid,
        };
        let own = policy("p").unwrap_or(Policy::None);
        let subdomains = policy("sp").unwrap_or(own);
        let reports = String::from_utf8_lossy(tags.get("rua").unwrap_or_default()).into_owned();
        let is_mailto = |uri: &&str| {
            uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("mailto:"))
                && uri.contains('@')
        };
        Some(Record {
            policy: own,
            subdomains,
            nonexistent: policy("np").unwrap_or(subdomains),
            dkim: alignment("adkim"),
            spf: alignment("aspf"),
            public_suffix,
            is_testing: lower("t").as_deref() == Some(b"y"),
            reports: reports
                .split(',')
                .map(str::trim)
                .filter(is_mailto)
                .take(REPORTS_MAX)
                .map(str::to_owned)
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_what_is_no_record_is_none() {
        let record = Record::read(
            b"v=DMARC1; p=Reject; sp=quarantine; adkim=s; psd=n; t=y; \
              rua=mailto:a@x.test, mailto:b@x.test!10m,https://x.test; pct=50;",
        )
        .unwrap();
        assert_eq!(
            (record.policy, record.subdomains, record.nonexistent),
            (Policy::Reject, Policy::Quarantine, Policy::Quarantine)
        );
        assert_eq!((record.dkim, record.spf), (Alignment::Strict, Alignment::Relaxed));
        assert_eq!((record.public_suffix, record.is_testing), (PublicSuffix::No, true));
        assert_eq!(record.reports, ["mailto:a@x.test", "mailto:b@x.test!10m"]);
        let np = Record::read(b"v=DMARC1;np=reject").unwrap();
        assert_eq!((np.policy, np.nonexistent), (Policy::None, Policy::Reject));
        assert_eq!(Record::read(b"v=DMARC1; p=gone; sp=what").unwrap().subdomains, Policy::None);
        for wrong in [
            "",
            "v=dmarc1; p=none",
            "p=none; v=DMARC1",
            "v=DMARC1 p=none",
            "v=DMARC10",
            "v=spf1 -all",
        ] {
            assert_eq!(Record::read(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
