//! The policy that other servers fetch before they deliver to a domain (RFC 8461), and its name in DNS.

use super::settings::PolicyMode;
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
    let id: String = hash.iter().take(10).map(|byte| format!("{byte:02x}")).collect();
    format!("v=STSv1; id={id};")
}

/// Where the policy is.
pub fn url(domain: &str) -> String {
    format!("https://mta-sts.{domain}/.well-known/mta-sts.txt")
}

#[cfg(test)]
mod tests {
    use super::*;

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
