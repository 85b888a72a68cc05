//! DMARC (RFC 9989): what the domain in `From:` has published, and whether the message fits it.

use super::verdict::{Finding, Method, Outcome, Policy};
use mail_auth::dmarc::verify::DmarcParameters;
use mail_auth::{
    AuthenticatedMessage, DkimOutput, DmarcOutput, DmarcResult, DnsError, Error,
    MessageAuthenticator, SpfOutput,
};

/// mail-auth walks the tree as RFC 9989 section 4.10 has it. `spf` is the result for `spf_domain`: that of
/// MAIL FROM, or of HELO when that is empty.
pub async fn verify(
    resolver: &MessageAuthenticator,
    message: &AuthenticatedMessage<'_>,
    dkim: &[DkimOutput<'_>],
    spf_domain: &str,
    spf: &SpfOutput,
) -> DmarcOutput {
    resolver.verify_dmarc(DmarcParameters::new(message, dkim, spf_domain, spf)).await
}

pub fn too_late() -> DmarcOutput {
    let late = DmarcResult::TempError(Error::Dns(DnsError::Resolver(String::new())));
    DmarcOutput::default().with_spf_result(late)
}

/// The finding, and the policy that is to be applied: that of a message which fails.
pub fn finding(output: &DmarcOutput) -> (Finding, Policy) {
    let policy = match output.policy() {
        mail_auth::dmarc::Policy::Reject => Policy::Reject,
        mail_auth::dmarc::Policy::Quarantine => Policy::Quarantine,
        mail_auth::dmarc::Policy::None | mail_auth::dmarc::Policy::Unspecified => Policy::None,
    };
    let asked = || format!("p={}", policy.name());
    let (outcome, reason, applied) = match output.result() {
        DmarcResult::Pass => (Outcome::Pass, asked(), Policy::None),
        DmarcResult::Fail(_) => (Outcome::Fail, asked(), policy),
        DmarcResult::TempError(_) => {
            (Outcome::TempError, "no answer from DNS".to_owned(), Policy::None)
        }
        DmarcResult::PermError(_) => (Outcome::PermError, String::new(), Policy::None),
        DmarcResult::None if output.domain().is_empty() => {
            (Outcome::None, "no single domain in From".to_owned(), Policy::None)
        }
        DmarcResult::None => (Outcome::None, String::new(), Policy::None),
    };
    let finding = Finding::new(Method::Dmarc, outcome).because(reason);
    match output.domain() {
        "" => (finding, applied),
        domain => (finding.of("header.from", domain), applied),
    }
}
