//! `[acme]`: certificates that are asked for and renewed without anybody.

use crate::when::Span;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Acme {
    /// Of the ACME server, such as `https://acme-v02.api.letsencrypt.org/directory`; whoever names
    /// it agrees to its terms. Without it nothing is asked for.
    pub directory: Option<String>,
    /// Where the ACME server may write to.
    pub contact: Option<String>,
    /// The names of each certificate; without any, one for `hostname`.
    pub certificates: Vec<Vec<String>>,
    pub challenge: Challenge,
    /// Whose certificate the ACME server has, PEM; without it, one that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// The first wait after a failure; each is twice the one before, up to half a day.
    pub retry_first: Span,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Challenge {
    /// A page over HTTP, at port 80 (RFC 8555 section 8.3): needs `web.http`.
    #[default]
    #[serde(rename = "http-01")]
    Http01,
    /// A certificate of its own, at port 443 (RFC 8737): needs `web.listen`.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

impl Default for Acme {
    fn default() -> Self {
        Acme {
            directory: None,
            contact: None,
            certificates: Vec::new(),
            challenge: Challenge::default(),
            ca_file: None,
            retry_first: Span(Duration::from_secs(300)),
        }
    }
}

impl Acme {
    /// The names of each certificate.
    pub fn wanted(&self, hostname: &str) -> Vec<Vec<String>> {
        match self.certificates.as_slice() {
            [] => vec![vec![hostname.to_lowercase()]],
            some => some.to_vec(),
        }
    }

    pub(crate) fn check(
        &self,
        has_http: bool,
        has_https: bool,
    ) -> Result<(), (&'static str, String)> {
        let Some(directory) = &self.directory else {
            if self.contact.is_some() || !self.certificates.is_empty() {
                let what = "acme.directory is missing: without it nothing is asked for";
                return Err(("acme", what.to_owned()));
            }
            return Ok(());
        };
        if !directory.starts_with("https://") {
            let what = format!(
                "acme.directory {directory:?} is no address of an ACME server; write one such as \
                 \"https://acme-v02.api.letsencrypt.org/directory\""
            );
            return Err(("acme.directory", what));
        }
        let missing = match self.challenge {
            Challenge::Http01 if !has_http => "web.http, such as http = [\"0.0.0.0:80\"]",
            Challenge::TlsAlpn01 if !has_https => "web.listen, such as listen = [\"0.0.0.0:443\"]",
            Challenge::Http01 | Challenge::TlsAlpn01 => "",
        };
        if !missing.is_empty() {
            return Err(("acme.challenge", format!("this acme.challenge needs {missing}")));
        }
        let is_odd =
            |name: &&String| crate::directory::canonical_domain(name).as_ref() != Some(name);
        if let Some(name) = self.certificates.iter().flatten().find(is_odd) {
            let what = format!(
                "acme.certificates: {name:?} is no host name; write it in lower case, like \"mail.example.org\""
            );
            return Err(("acme.certificates", what));
        }
        if self.certificates.iter().any(Vec::is_empty) {
            let what =
                "acme.certificates: each is a list of names, such as [[\"mail.example.org\"]]";
            return Err(("acme.certificates", what.to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_work_is_said_before_it_is_tried() {
        let acme = |text: &str| toml::from_str::<Acme>(text).unwrap();
        let directory = "directory = 'https://acme.test/dir'\n";
        let fine = acme(&format!("{directory}certificates = [['mail.a.test', 'x.a.test']]"));
        assert_eq!(fine.check(true, false), Ok(()));
        assert_eq!(fine.wanted("h.test").len(), 1);
        assert_eq!(acme(directory).wanted("H.test"), [["h.test"]]);
        assert_eq!(Acme::default().check(false, false), Ok(()));
        for (text, http, https, key) in [
            ("directory = 'http://acme.test'", true, true, "acme.directory"),
            (directory, false, true, "acme.challenge"),
            (&format!("{directory}challenge = 'tls-alpn-01'"), true, false, "acme.challenge"),
            (&format!("{directory}certificates = [['*.a.test']]"), true, true, "acme.certificates"),
            (&format!("{directory}certificates = [[]]"), true, true, "acme.certificates"),
        ] {
            assert_eq!(acme(text).check(http, https).unwrap_err().0, key, "{text}");
        }
    }
}
