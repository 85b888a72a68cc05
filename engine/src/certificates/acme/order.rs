//! One certificate: an order, a proof for each name, and the chain that comes of it.

use super::http::Http;
use super::settings::Challenge;
use super::{Challenges, key_file, read_key};
use crate::certificates::{directory, write_private};
use crate::config::Config;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, KeyAuthorization,
    NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

const ACCOUNT_FILE: &str = "acme-account.json";
/// For all of it: validation takes seconds.
const ORDER_TIMEOUT: Duration = Duration::from_secs(300);
const POLLING: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(120));

/// The account at one ACME server.
#[derive(Serialize, Deserialize)]
struct Known {
    directory: String,
    credentials: AccountCredentials,
}

/// The chain, PEM.
pub(super) async fn obtain(
    config: &Config,
    challenges: &Challenges,
    names: &[String],
) -> Result<String, String> {
    match tokio::time::timeout(ORDER_TIMEOUT, run(config, challenges, names)).await {
        Ok(obtained) => obtained,
        Err(_) => Err("it took too long".to_owned()),
    }
}

async fn run(config: &Config, challenges: &Challenges, names: &[String]) -> Result<String, String> {
    let words = |error: instant_acme::Error| error.to_string();
    let account = account(config).await?;
    let identifiers: Vec<Identifier> = names.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await.map_err(words)?;
    let kind = match config.acme.challenge {
        Challenge::Http01 => ChallengeType::Http01,
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
    };
    let mut authorizations = order.authorizations();
    while let Some(next) = authorizations.next().await {
        let mut authorization = next.map_err(words)?;
        match authorization.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            _ => {
                return Err(
                    "the ACME server has refused a name before; it is asked anew".to_owned()
                );
            }
        }
        let name = match authorization.identifier().identifier {
            Identifier::Dns(name) => name.clone(),
            _ => return Err("the ACME server asks about what is no name".to_owned()),
        };
        let mut challenge = authorization.challenge(kind.clone()).ok_or_else(|| {
            format!("the ACME server does not offer this challenge for {name}; try the other one")
        })?;
        let answer = challenge.key_authorization();
        match config.acme.challenge {
            Challenge::Http01 => challenges.put_page(&challenge.token, answer.as_str()),
            Challenge::TlsAlpn01 => challenges.put_proof(&name, proof(&name, &answer)?),
        }
        challenge.set_ready().await.map_err(words)?;
    }
    let status = order.poll_ready(&POLLING).await.map_err(words)?;
    if status != OrderStatus::Ready {
        return Err(refusal(&mut order, status).await);
    }
    let request = signing_request(config, names)?;
    order.finalize_csr(&request).await.map_err(words)?;
    order.poll_certificate(&POLLING).await.map_err(words)
}

/// The one of before, or a new one where there is none at this server.
async fn account(config: &Config) -> Result<Account, String> {
    let words = |error: instant_acme::Error| error.to_string();
    let wanted = config.acme.directory.clone().unwrap_or_default();
    let file = directory(&config.data_dir).join(ACCOUNT_FILE);
    let ca_file = config.acme.ca_file.clone();
    let http = Http::new(ca_file.as_ref()).map_err(|why| why.replace("smart_host", "acme"))?;
    let builder = Account::builder_with_http(Box::new(http));
    if let Some(known) = read_account(&file)?
        && known.directory == wanted
    {
        return builder.from_credentials(known.credentials).await.map_err(words);
    }
    let contact = config.acme.contact.as_ref().map(|address| format!("mailto:{address}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let (account, credentials) = builder.create(&new, wanted.clone(), None).await.map_err(words)?;
    let known = Known { directory: wanted, credentials };
    let text = serde_json::to_string_pretty(&known).map_err(|error| error.to_string())?;
    // Before the first certificate it is not there.
    let folder = directory(&config.data_dir);
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    write_private(&file, &text).map_err(|error| error.to_string())?;
    Ok(account)
}

fn read_account(file: &PathBuf) -> Result<Option<Known>, String> {
    let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    match std::fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| fault(&error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault(&error)),
    }
}

/// RFC 8737 section 3: a self-signed certificate that holds the answer.
fn proof(name: &str, answer: &KeyAuthorization) -> Result<CertifiedKey, String> {
    let made = || -> Result<_, rcgen::Error> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()])?;
        let digest = answer.digest();
        params.custom_extensions =
            vec![rcgen::CustomExtension::new_acme_identifier(digest.as_ref())];
        Ok((params.self_signed(&key)?.der().clone(), key.serialize_der()))
    };
    let (certificate, key) = made().map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    // Not by `from_der`, which refuses the extension that is asked for: it is critical,
    // and nobody else's.
    let provider = rustls::crypto::ring::default_provider();
    let key = provider.key_provider.load_private_key(key).map_err(|error| error.to_string())?;
    Ok(CertifiedKey::new(vec![certificate], key))
}

/// With the key that the names have already, DER.
fn signing_request(config: &Config, names: &[String]) -> Result<Vec<u8>, String> {
    let file = key_file(&config.data_dir, names).map_err(|error| error.to_string())?;
    let key = read_key(&file).map_err(|error| error.to_string())?;
    let made = || -> Result<_, rcgen::Error> {
        let mut params = rcgen::CertificateParams::new(names)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        Ok(params.serialize_request(&key)?.der().to_vec())
    };
    made().map_err(|error| error.to_string())
}

/// What the server says of the names that it did not believe.
async fn refusal(order: &mut Order, status: OrderStatus) -> String {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        for problem in state.challenges.iter().filter_map(|challenge| challenge.error.as_ref()) {
            reasons.push(problem.detail.clone().unwrap_or_else(|| problem.to_string()));
        }
    }
    if reasons.is_empty() {
        return format!("the order is {status:?}");
    }
    reasons.join("; ")
}
