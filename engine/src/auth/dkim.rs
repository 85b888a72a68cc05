//! DKIM (RFC 6376, 8463) and ARC (RFC 8617) over one message.
//!
//! mail-auth verifies. Ours are the bounds: at most [`SIGNATURES_MAX`] signatures are looked at, and RFC
//! 8301 holds: rsa-sha1 and RSA keys below 1024 bits are worth nothing.

use super::evidence::{BodyHashes, Evidence, SIGNATURES_MAX};
use super::verdict::{Finding, Method, Outcome};
use mail_auth::common::crypto::{Algorithm, CryptoError, HashAlgorithm};
use mail_auth::common::verify::{DomainKey, VerifySignature};
use mail_auth::dkim::Signature;
use mail_auth::{
    ArcOutput, AuthenticatedMessage, DkimOutput, DkimResult, DnsError, Error, MessageAuthenticator,
};

const RSA_BITS_MIN: usize = 1024;

/// Reads a message's header, within bounds. Signatures that won't be verified are findings already.
pub fn read(evidence: &Evidence) -> Option<(AuthenticatedMessage<'_>, Vec<Finding>)> {
    let mut message = AuthenticatedMessage::parse(&evidence.message)?;
    let mut left_out = Vec::new();
    if let Some(hashed) = &evidence.hashed {
        if hashed.header_cut && !message.dkim_headers.is_empty() {
            message.dkim_headers.clear();
            let neutral = Finding::new(Method::Dkim, Outcome::Neutral);
            left_out.push(neutral.because("header too large"));
        }
        put_hashes(&mut message, hashed);
    }
    message.dkim_headers.retain(|header| {
        let is_old = header.header.a == Algorithm::RsaSha1;
        if is_old && left_out.len() < SIGNATURES_MAX {
            let policy = Finding::new(Method::Dkim, Outcome::Policy).because("rsa-sha1, RFC 8301");
            left_out.push(describe(policy, &header.header));
        }
        !is_old
    });
    // A malformed signature counts, too: it costs a line in what we write.
    message.errors.truncate(SIGNATURES_MAX);
    if message.dkim_headers.len() > SIGNATURES_MAX {
        let rest = message.dkim_headers.len() - SIGNATURES_MAX;
        message.dkim_headers.truncate(SIGNATURES_MAX);
        left_out.push(
            Finding::new(Method::Dkim, Outcome::Neutral)
                .because(format!("{rest} more signatures not looked at")),
        );
    }
    Some((message, left_out))
}

/// The body has streamed by: its hashes are known, its bytes are not here.
fn put_hashes(message: &mut AuthenticatedMessage<'_>, hashed: &BodyHashes) {
    for (method, algorithm, _, hash) in &mut message.body_hashes {
        let known = hashed.known.iter().find(|(known, _)| known == method);
        *hash = match known {
            Some((_, known)) if *algorithm == HashAlgorithm::Sha256 => known.clone(),
            _ => Vec::new(),
        };
    }
}

/// Verifies the signatures that [`read`] has left.
pub async fn verify<'x>(
    resolver: &MessageAuthenticator,
    message: &'x AuthenticatedMessage<'x>,
) -> Vec<DkimOutput<'x>> {
    let mut outputs = resolver.verify_dkim(message).await;
    for output in &mut outputs {
        if output.result() == &DkimResult::Pass
            && let Some(signature) = signature_of(message, output)
            && is_weak(resolver, signature).await
        {
            let weak = Error::Crypto(CryptoError::Library(WEAK_KEY.to_owned()));
            *output = DkimOutput::perm_err(weak).with_signature(signature);
        }
    }
    outputs
}

const WEAK_KEY: &str = "RSA key below 1024 bits, RFC 8301";

/// The same signature, living as long as the message.
fn signature_of<'x>(
    message: &'x AuthenticatedMessage<'x>,
    output: &DkimOutput<'x>,
) -> Option<&'x Signature> {
    let wanted = output.signature()?;
    message.dkim_headers.iter().map(|header| &header.header).find(|known| *known == wanted)
}

/// The key was asked for a moment ago, so the cache has it.
async fn is_weak(resolver: &MessageAuthenticator, signature: &Signature) -> bool {
    let cache: Option<&mail_auth::common::cache::NoCache<_, _>> = None;
    let key = resolver.txt_lookup::<DomainKey>(signature.domain_key(), cache).await;
    key.is_ok_and(|key| key.p.public_key_bits() < RSA_BITS_MIN)
}

/// All signatures, when there was no time for an answer.
pub fn too_late<'x>(message: &'x AuthenticatedMessage<'x>) -> Vec<DkimOutput<'x>> {
    let late = |signature| {
        DkimOutput::temp_err(Error::Dns(DnsError::Resolver(String::new())))
            .with_signature(signature)
    };
    message.dkim_headers.iter().map(|header| late(&header.header)).collect()
}

pub fn findings(outputs: &[DkimOutput<'_>]) -> Vec<Finding> {
    let finding = |output: &DkimOutput<'_>| {
        let finding = of_result(Method::Dkim, output.result());
        match output.signature() {
            Some(signature) => describe(finding, signature),
            None => finding,
        }
    };
    outputs.iter().map(finding).collect()
}

/// `None`: no chain.
pub fn arc(output: &ArcOutput<'_>) -> Option<Finding> {
    let sealer = output.sets().last().map(|set| set.seal.header.d.clone());
    match (output.result(), sealer) {
        (DkimResult::None, _) => None,
        (result, Some(sealer)) => Some(of_result(Method::Arc, result).of("header.d", sealer)),
        (result, None) => Some(of_result(Method::Arc, result)),
    }
}

fn of_result(method: Method, result: &DkimResult) -> Finding {
    let (outcome, error) = match result {
        DkimResult::Pass => (Outcome::Pass, None),
        // RFC 8601 section 2.7.1: a signature that can't be understood is neutral, one whose hash differs fails.
        DkimResult::Neutral(error) if is_hash(error) => (Outcome::Fail, Some(error)),
        DkimResult::Neutral(error) => (Outcome::Neutral, Some(error)),
        DkimResult::Fail(error) => (Outcome::Fail, Some(error)),
        DkimResult::PermError(error) => (Outcome::PermError, Some(error)),
        DkimResult::TempError(error) => (Outcome::TempError, Some(error)),
        DkimResult::None => (Outcome::None, None),
    };
    Finding::new(method, outcome).because(error.map(words).unwrap_or_default())
}

fn is_hash(error: &Error) -> bool {
    matches!(
        error,
        Error::Dkim(mail_auth::dkim::DkimError::FailedBodyHashMatch)
            | Error::Arc(mail_auth::arc::ArcError::FailedBodyHashMatch)
    )
}

fn words(error: &Error) -> String {
    match error {
        // Theirs goes on and on, with names of libraries.
        Error::Dns(DnsError::Resolver(_)) => "no answer from DNS".to_owned(),
        Error::Dns(DnsError::RecordNotFound(_)) => "no key".to_owned(),
        Error::Crypto(CryptoError::Library(text)) if text == WEAK_KEY => text.clone(),
        Error::Crypto(CryptoError::Library(_) | CryptoError::FailedVerification) => {
            "signature does not verify".to_owned()
        }
        _ if is_hash(error) => "body was changed".to_owned(),
        _ => error.to_string(),
    }
}

fn describe(finding: Finding, signature: &Signature) -> Finding {
    let algorithm = match signature.a {
        Algorithm::RsaSha1 => "rsa-sha1",
        Algorithm::RsaSha256 => "rsa-sha256",
        Algorithm::Ed25519Sha256 => "ed25519-sha256",
    };
    finding
        .of("header.d", signature.d.clone())
        .of("header.s", signature.s.clone())
        .of("header.a", algorithm)
}
