//! The policy that servers fetch before they deliver to a domain (RFC 8461), and its name in DNS:
//! ours, as we publish it, and others', as we read them.

use super::settings::PolicyMode;
use crate::directory::canonical_domain;
use crate::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How long others keep it: a week while it is tried, so that a mistake does not stay for months.
const MAX_AGE_SECONDS: u64 = 7 * 86_400;

/// Section 3.2. Its lines end with CRLF.
pub fn policy(hostname: &str, mode: PolicyMode) -> String {
    let mode = mode.name();
    format!("version: STSv1\r\nmode: {mode}\r\nmx: {hostname}\r\nmax_age: {MAX_AGE_SECONDS}\r\n")
}

/// What DNS says of it (section 3.1): another `id` means another policy, and the same one the same.
pub fn record_text(policy: &str) -> String {
    let hash = Sha256::digest(policy);
    let id: String = hex::text(&hash[..10]);
    format!("v=STSv1; id={id};")
}

/// Longest file that is looked at (section 3.2 suggests 64 KiB), and hosts that one may name.
pub const POLICY_BYTES_MAX: usize = 64 << 10;
const HOSTS_MAX: usize = 64;
/// Section 3.2: about a year.
const MAX_AGE_SECONDS_MAX: u64 = 31_557_600;

/// What a domain says about its mail hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub mode: PolicyMode,
    /// Names, or `*.` and a name, which means one label more.
    pub mx: Vec<String>,
    pub max_age: u64,
}

impl Policy {
    /// Strictly, but for empty lines and the dot behind a name, which harm nobody: without a policy
    /// there is less protection. What is wrong in it, in words.
    pub fn parse(text: &[u8]) -> Result<Policy, String> {
        let text = std::str::from_utf8(text).map_err(|_| "it is no text".to_owned())?;
        let (mut version, mut mode, mut max_age, mut mx) = (None, None, None, Vec::new());
        for line in text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)) {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let (key, value) = line
                .split_once(':')
                .ok_or_else(|| format!("a line has no colon: {}", brief(line)))?;
            let value = value.trim_matches([' ', '\t']);
            // Of what may stand once, the first counts.
            match key {
                "version" => drop(version.get_or_insert(value)),
                "mode" => drop(mode.get_or_insert(value)),
                "max_age" => drop(max_age.get_or_insert(value)),
                "mx" if mx.len() >= HOSTS_MAX => return Err("it names too many hosts".to_owned()),
                "mx" => mx.push(pattern(value)?),
                _ => {}
            }
        }
        if version != Some("STSv1") {
            return Err("its version is not STSv1".to_owned());
        }
        let mode = match mode {
            Some("enforce") => PolicyMode::Enforce,
            Some("testing") => PolicyMode::Testing,
            Some("none") => PolicyMode::None,
            _ => return Err("its mode is none of enforce, testing, none".to_owned()),
        };
        let digits = |text: &&str| {
            (1..=10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
        };
        let max_age: u64 = max_age
            .filter(digits)
            .and_then(|text| text.parse().ok())
            .ok_or("its max_age is no number of seconds")?;
        if mx.is_empty() && mode != PolicyMode::None {
            return Err("it names no host".to_owned());
        }
        Ok(Policy { mode, mx, max_age: max_age.min(MAX_AGE_SECONDS_MAX) })
    }

    /// Its lines, as reports tell of it (RFC 8460 section 4.4).
    pub fn lines(&self) -> Vec<String> {
        let mode = format!("mode: {}", self.mode.name());
        let mx = self.mx.iter().map(|mx| format!("mx: {mx}"));
        let first = ["version: STSv1".to_owned(), mode];
        first.into_iter().chain(mx).chain([format!("max_age: {}", self.max_age)]).collect()
    }

    /// Section 4.1.
    pub fn names(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        self.mx.iter().any(|one| match one.strip_prefix("*.") {
            Some(above) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(above)),
            None => host.eq_ignore_ascii_case(one),
        })
    }
}

fn pattern(text: &str) -> Result<String, String> {
    let wrong = || format!("an mx is no name of a host: {}", brief(text));
    let bare = text.strip_prefix("*.").unwrap_or(text);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if !bare.bytes().all(plain) || !bare.contains('.') {
        return Err(wrong());
    }
    let name = canonical_domain(bare.strip_suffix('.').unwrap_or(bare)).ok_or_else(wrong)?;
    Ok(if bare.len() == text.len() { name } else { format!("*.{name}") })
}

fn brief(text: &str) -> String {
    protocols::wire::remote::shown(text.as_bytes(), 60)
}

/// The `id` in the TXT records of `_mta-sts` (section 3.1): `None` unless there is one record, and
/// that is well-formed.
pub fn record_id(texts: &[Vec<u8>]) -> Option<String> {
    let rest = |text: &Vec<u8>| {
        let rest = std::str::from_utf8(text).ok()?.strip_prefix("v=STSv1")?;
        rest.trim_start_matches([' ', '\t']).strip_prefix(';').map(str::to_owned)
    };
    let mut records = texts.iter().filter_map(rest);
    let (fields, None) = (records.next()?, records.next()) else { return None };
    let mut ids = fields.split(';').filter_map(|field| field.trim().strip_prefix("id="));
    let id = ids.next()?;
    let fine = (1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (fine && ids.next().is_none()).then(|| id.to_owned())
}

/// Where the policy is.
pub fn url(domain: &str) -> String {
    format!("https://mta-sts.{domain}/.well-known/mta-sts.txt")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Policy, String> {
        Policy::parse(text.as_bytes())
    }

    #[test]
    fn what_we_publish_is_what_others_read() {
        let ours = policy("mail.a.test", PolicyMode::Enforce);
        let read = parsed(&ours).unwrap();
        assert_eq!(read.mode, PolicyMode::Enforce);
        assert_eq!((read.mx.as_slice(), read.max_age), (&["mail.a.test".to_owned()][..], 604_800));
        assert_eq!(record_id(&[record_text(&ours).into_bytes()]).unwrap().len(), 20);
    }

    #[test]
    fn policies_are_read_strictly() {
        let read =
            parsed("version: STSv1\nmode: testing\nmx:*.A.test\nmx: b.test \nx: y\nmax_age: 5")
                .unwrap();
        assert_eq!(read.mx, ["*.a.test", "b.test"]);
        assert_eq!((read.mode, read.max_age), (PolicyMode::Testing, 5));
        let airy =
            parsed("version: STSv1\r\n\r\nmode: enforce\nmx: a.test.\nmax_age: 5\n \n\n").unwrap();
        assert_eq!(airy.mx, ["a.test"]);
        assert!(parsed("version: STSv1\nmode: none\nmax_age: 99999999999").is_err());
        assert_eq!(
            parsed("version: STSv1\nmode: none\nmax_age: 9999999999").unwrap().max_age,
            31_557_600
        );
        for wrong in [
            "",
            "mode: enforce\nmx: a.test\nmax_age: 5",
            "version: STSv2\nmode: enforce\nmx: a.test\nmax_age: 5",
            "version: STSv1\nmode: Enforce\nmx: a.test\nmax_age: 5",
            "version: STSv1\nmode: enforce\nmax_age: 5",
            "version: STSv1\nmode: enforce\nmx: a.test\nmax_age: -5",
            "version: STSv1\nmode: enforce\nmx: a.test\nmax_age:",
            "version: STSv1\nmode: enforce\nmx: *\nmax_age: 5",
            "version: STSv1\nmode: enforce\nmx: *.*.a.test\nmax_age: 5",
            "version: STSv1\nmode: enforce\nmx: a.test b.test\nmax_age: 5",
            "<html>\n",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
        assert!(Policy::parse(b"version: STSv1\xff").is_err());
    }

    #[test]
    fn a_star_is_one_label() {
        let policy =
            parsed("version: STSv1\nmode: enforce\nmx: *.a.test\nmx: b.test\nmax_age: 5").unwrap();
        for (host, named) in [
            ("mx.a.test", true),
            ("MX.A.test.", true),
            ("x.mx.a.test", false),
            ("a.test", false),
            (".a.test", false),
            ("b.test", true),
            ("mx.b.test", false),
        ] {
            assert_eq!(policy.names(host), named, "{host}");
        }
    }

    #[test]
    fn one_record_has_an_id() {
        let id = |texts: &[&str]| {
            record_id(&texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>())
        };
        assert_eq!(id(&["v=STSv1; id=1a;"]).as_deref(), Some("1a"));
        assert_eq!(id(&["v=spf1 -all", "v=STSv1;x=y; id=1"]).as_deref(), Some("1"));
        for wrong in [
            &["v=STSv1; id=1", "v=STSv1; id=2"][..],
            &["v=STSv1; id="],
            &["v=STSv1; id=a-b"],
            &["v=STSv1; id=1; id=2"],
            &["v=STSv1"],
            &["v=STSv11; id=1"],
            &["id=1; v=STSv1"],
            &[],
        ] {
            assert_eq!(id(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn another_policy_has_another_name() {
        let testing = policy("mail.a.test", PolicyMode::Testing);
        assert_eq!(
            testing,
            "version: STSv1\r\nmode: testing\r\nmx: mail.a.test\r\nmax_age: 604800\r\n"
        );
        let enforce = policy("mail.a.test", PolicyMode::Enforce);
        assert_ne!(record_text(&testing), record_text(&enforce));
        let text = record_text(&testing);
        let id = text.strip_prefix("v=STSv1; id=").unwrap().strip_suffix(';').unwrap();
        assert!(id.len() <= 32 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
    }
}
