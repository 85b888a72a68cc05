//! `[reports]`: which reports are sent, and whose are read.

use crate::when::Span;
use protocols::Address;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Addresses whose mail is read for reports.
const READ_MAX: usize = 100;
const KEEP_MAX: Duration = Duration::from_secs(3650 * 86_400);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reports {
    /// Sends, each day, what was seen of a domain to those who its DMARC record names (`rua=`).
    pub dmarc: bool,
    /// Sends, each day, how sessions towards a domain could be encrypted to those who its
    /// TLSRPT record names.
    pub tls: bool,
    /// Who reports, in words; without it, `hostname`.
    pub organization: String,
    /// From whom reports come, and whom to ask about them; without it, `postmaster@`
    /// the host's name.
    pub contact: String,
    /// Reports of others that come to these addresses are counted. The mail stays where
    /// it was delivered.
    pub read: Vec<String>,
    /// For so long what they say is kept.
    pub keep: Span,
}

impl Default for Reports {
    fn default() -> Self {
        Reports {
            dmarc: false,
            tls: false,
            organization: String::new(),
            contact: String::new(),
            read: Vec::new(),
            keep: Span(Duration::from_secs(90 * 86_400)),
        }
    }
}

impl Reports {
    /// What the types can't say: the key that is at fault, and words for the operator.
    /// `relays`: mail may leave.
    pub fn check(&self, relays: bool) -> Result<(), (&'static str, String)> {
        for (is_on, key) in [(self.dmarc, "reports.dmarc"), (self.tls, "reports.tls")] {
            if is_on && !relays {
                let what =
                    format!("{key} = true sends mail to other hosts; set relay.enabled = true");
                return Err((key, what));
            }
        }
        let is_address = |text: &str| Address::parse(text.as_bytes()).is_some();
        let is_contact = |text: &str| text.is_empty() || (is_address(text) && text.is_ascii());
        if !is_contact(&self.contact) {
            let what = format!(
                "reports.contact: {:?} is no address; write it like \"postmaster@example.org\"",
                self.contact
            );
            return Err(("reports.contact", what));
        }
        if self.organization.chars().any(char::is_control) || self.organization.len() > 200 {
            let what = "reports.organization is a name in one line, of 200 octets at most";
            return Err(("reports.organization", what.to_owned()));
        }
        if let Some(wrong) = self.read.iter().find(|address| !is_address(address)) {
            let what = format!(
                "reports.read: {wrong:?} is no address; write it like \"dmarc@example.org\""
            );
            return Err(("reports.read", what));
        }
        if self.read.len() > READ_MAX {
            let what =
                format!("reports.read has {} addresses; use {READ_MAX} at most", self.read.len());
            return Err(("reports.read", what));
        }
        if self.keep.0.is_zero() || self.keep.0 > KEEP_MAX {
            let what =
                format!("reports.keep = {:?} is out of range; use 1d to 3650d", self.keep.text());
            return Err(("reports.keep", what));
        }
        Ok(())
    }

    /// From whom reports come.
    pub fn from(&self, hostname: &str) -> String {
        match self.contact.as_str() {
            "" => format!("postmaster@{hostname}"),
            contact => contact.to_owned(),
        }
    }

    /// Who reports.
    pub fn reporter<'r>(&'r self, hostname: &'r str) -> &'r str {
        match self.organization.as_str() {
            "" => hostname,
            organization => organization,
        }
    }

    /// Whether reports come to this address.
    pub fn reads(&self, address: &str) -> bool {
        self.read.iter().any(|known| known.eq_ignore_ascii_case(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named_with_its_key() {
        let fine = Reports { read: vec!["dmarc@a.test".into()], ..Reports::default() };
        assert_eq!(fine.check(false), Ok(()));
        assert!(fine.reads("DMARC@a.test") && !fine.reads("x@a.test"));
        let sends = Reports { dmarc: true, ..Reports::default() };
        assert_eq!(sends.check(true), Ok(()));
        let tells = Reports { tls: true, ..Reports::default() };
        assert_eq!(tells.check(true), Ok(()));
        for (wrong, key) in [
            (sends, "reports.dmarc"),
            (tells, "reports.tls"),
            (Reports { contact: "a b".into(), ..Reports::default() }, "reports.contact"),
            (Reports { organization: "a\nb".into(), ..Reports::default() }, "reports.organization"),
            (Reports { read: vec!["dmarc".into()], ..Reports::default() }, "reports.read"),
            (Reports { keep: Span(Duration::ZERO), ..Reports::default() }, "reports.keep"),
        ] {
            assert_eq!(wrong.check(false).unwrap_err().0, key);
        }
    }
}
