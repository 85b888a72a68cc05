//! Certificates on disk: issue, ask for, import, list, load.
//!
//! | file | what |
//! |---|---|
//! | [`chain`] | whether a chain holds, before it is taken in |
//! | [`request`] | asking somebody else for a certificate |
//! | [`acme`] | having them issued and renewed without anybody |
//! | [`expiry`] | how long they are good for, in metrics and log |
//!
//! `DATA/certificates/NAME/chain.pem` and `key.pem`, one folder for each certificate, named after
//! the name that it was asked for or imported for. Files, not log records: every TLS tool can read
//! them, and other programs renew them. A running server loads them anew when told (`kura cert …`
//! does, SIGHUP too).

pub mod acme;
pub mod chain;
pub mod expiry;
pub mod request;

use crate::hex;
use crate::ownership;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Certificates with fewer days left are pointed out.
pub const DAYS_LEFT_WARNED: i64 = 21;

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: {fault}")]
    Bad { path: PathBuf, fault: String },
}

/// One certificate, as `kura cert list` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    pub name: String,
    pub dns_names: Vec<String>,
    pub issuer: String,
    pub self_signed: bool,
    pub not_before_unix: i64,
    pub not_after_unix: i64,
    pub days_left: i64,
}

/// A certificate that is ready to serve.
#[derive(Debug)]
pub struct Loaded {
    pub dns_names: Vec<String>,
    pub key: Arc<CertifiedKey>,
}

pub fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("certificates")
}

/// Issues a self-signed certificate for `names`; the first one names its folder. Good for a year:
/// clients must be told to trust it by hand anyway.
pub fn self_signed(data_dir: &Path, names: &[String]) -> Result<Listed, CertificateError> {
    let folder = directory(data_dir).join(&names[0]);
    let bad = |fault: String| CertificateError::Bad { path: folder.clone(), fault };
    let made = rcgen_certificate(names).map_err(|error| bad(error.to_string()))?;
    store(&folder, &made.0, &made.1)?;
    describe(&folder)
}

fn rcgen_certificate(names: &[String]) -> Result<(String, String), rcgen::Error> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, names[0].as_str());
    params.not_before = (SystemTime::now() - std::time::Duration::from_secs(86_400)).into();
    params.not_after = (SystemTime::now() + std::time::Duration::from_secs(365 * 86_400)).into();
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Takes a chain and its key from PEM files, after proving that they belong together, that the
/// chain holds, and that it is for `name`. Without a key, the one that the certificate was asked
/// for with. Returns what is odd, too.
pub fn import(
    data_dir: &Path,
    chain: &Path,
    key: Option<&Path>,
    name: &str,
) -> Result<(Listed, Vec<String>), CertificateError> {
    let key = match key {
        Some(key) => key.to_owned(),
        None => request::find_key(data_dir, chain)?,
    };
    let certified = certified_key(chain, &key)?;
    let odd = chain::check(chain, &certified.cert, name)?;
    let names = dns_names(chain, certified.end_entity_cert().map_err(|e| bad(chain, e))?)?;
    // Under the name that it is for, in the place of what served that; issuers put names in an
    // order of their own.
    let name = name.to_lowercase();
    let first = names.first().ok_or_else(|| bad(chain, "the certificate names no DNS name"))?;
    let folder = if names.contains(&name) { &name } else { first };
    let folder = directory(data_dir).join(folder.replace('*', "_"));
    let read = |path: &Path| fs::read_to_string(path).map_err(|source| io_error(path, source));
    store(&folder, &read(chain)?, &read(&key)?)?;
    request::close(&key);
    Ok((describe(&folder)?, odd))
}

/// Writes both files beside their final names, synced, then renames them, the key first: a crash
/// between the two leaves a chain that the next load puts in its place ([`load`]).
fn store(folder: &Path, chain: &str, key: &str) -> Result<(), CertificateError> {
    make_folder(folder)?;
    let files =
        [("key.pem", key), ("chain.pem", chain)].map(|(name, text)| (folder.join(name), text));
    for (path, text) in &files {
        write_fresh(path, text)?;
    }
    for (path, _) in &files {
        fs::rename(fresh(path), path).map_err(|source| io_error(path, source))?;
    }
    sync(folder)?;
    folder.parent().map_or(Ok(()), sync)
}

/// Chain and key of a folder.
fn load(folder: &Path) -> Result<CertifiedKey, CertificateError> {
    let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
    certified_key(&chain, &key).or_else(|error| {
        let left = fresh(&chain);
        let whole = certified_key(&left, &key).map_err(|_| error)?;
        fs::rename(&left, &chain).map_err(|source| io_error(&chain, source))?;
        Ok(whole)
    })
}

fn fresh(path: &Path) -> PathBuf {
    path.with_extension("pem.new")
}

/// A whole file or none, for nobody else to read.
fn write_private(path: &Path, text: &str) -> Result<(), CertificateError> {
    write_fresh(path, text)?;
    fs::rename(fresh(path), path).map_err(|source| io_error(path, source))?;
    path.parent().map_or(Ok(()), sync)
}

/// Of one certificate, or of all. Root's may be for another user's server.
fn make_folder(folder: &Path) -> Result<(), CertificateError> {
    let mut made = fs::create_dir_all(folder);
    for one in [folder.parent(), Some(folder)].into_iter().flatten() {
        made = made.and_then(|()| ownership::give(one));
    }
    made.map_err(|source| io_error(folder, source))
}

/// Makes the names in a directory durable.
fn sync(directory: &Path) -> Result<(), CertificateError> {
    let synced = fs::File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| io_error(directory, source))
}

/// Beside the path, on stable media.
fn write_fresh(path: &Path, text: &str) -> Result<(), CertificateError> {
    let write = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        // Of a time that was cut short; and whoever owns the folder may have put a link there.
        match fs::remove_file(fresh(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(fresh(path))?;
        ownership::give(&fresh(path))?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| io_error(path, source))
}

/// What one folder after the other says. One that can't be read is the second kind,
/// and hides no other.
pub struct Each<T> {
    pub good: Vec<T>,
    pub bad: Vec<CertificateError>,
}

fn each<T>(
    data_dir: &Path,
    read: impl Fn(&Path) -> Result<T, CertificateError>,
) -> Result<Each<T>, CertificateError> {
    let mut each = Each { good: Vec::new(), bad: Vec::new() };
    for folder in folders(data_dir)? {
        match read(&folder) {
            Ok(one) => each.good.push(one),
            Err(error) => each.bad.push(error),
        }
    }
    Ok(each)
}

pub fn list(data_dir: &Path) -> Result<Each<Listed>, CertificateError> {
    each(data_dir, describe)
}

/// A certificate as DNS speaks of it.
#[derive(Debug, Clone)]
pub struct Published {
    pub name: String,
    pub issuer: String,
    /// SHA-256 of its SubjectPublicKeyInfo, in hex.
    pub key_sha256: String,
}

/// The one that a client gets which asks for `name`, if it is valid for that.
pub fn for_name(data_dir: &Path, name: &str) -> Result<Option<Published>, CertificateError> {
    let mut found = None;
    for folder in folders(data_dir)? {
        let Ok(listed) = describe(&folder) else { continue };
        let rank = match covers(&listed.dns_names, name) {
            Cover::Exact => 2,
            Cover::Wildcard => 1,
            Cover::None => continue,
        };
        if found.as_ref().is_none_or(|(best, _, _)| rank > *best) {
            found = Some((rank, folder, listed));
        }
    }
    let Some((_, folder, listed)) = found else { return Ok(None) };
    let chain = folder.join("chain.pem");
    let der = CertificateDer::from_pem_file(&chain).map_err(|error| bad(&chain, error))?;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(&der).map_err(|error| bad(&chain, error))?;
    let key_sha256 = hex::text(Sha256::digest(parsed.public_key().raw));
    Ok(Some(Published { name: listed.name, issuer: listed.issuer, key_sha256 }))
}

enum Cover {
    Exact,
    Wildcard,
    None,
}

fn covers(dns_names: &[String], name: &str) -> Cover {
    let name = name.to_lowercase();
    let wildcard = name.split_once('.').map(|(_, above)| format!("*.{above}"));
    if dns_names.contains(&name) {
        Cover::Exact
    } else if wildcard.is_some_and(|wildcard| dns_names.contains(&wildcard)) {
        Cover::Wildcard
    } else {
        Cover::None
    }
}

/// All certificates, ready to serve, ordered by folder name. Folders that can't be loaded are told
/// in the log, and are the error only where there is nothing else.
pub fn load_all(data_dir: &Path) -> Result<Vec<Loaded>, CertificateError> {
    let Each { good, mut bad } = each(data_dir, |folder| {
        let chain = folder.join("chain.pem");
        let key = load(folder)?;
        let dns_names = dns_names(&chain, key.end_entity_cert().map_err(|e| bad(&chain, e))?)?;
        Ok(Loaded { dns_names, key: Arc::new(key) })
    })?;
    if good.is_empty() && !bad.is_empty() {
        return Err(bad.swap_remove(0));
    }
    for error in bad {
        tracing::error!(%error, "a certificate can't be served: mend its folder, or move it away");
    }
    Ok(good)
}

fn folders(data_dir: &Path) -> Result<Vec<PathBuf>, CertificateError> {
    let directory = directory(data_dir);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io_error(&directory, source)),
    };
    let mut folders: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("chain.pem").exists())
        .collect();
    folders.sort();
    Ok(folders)
}

fn certified_key(chain: &Path, key: &Path) -> Result<CertifiedKey, CertificateError> {
    let chain_der: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(chain)
        .map_err(|error| bad(chain, error))?
        .collect::<Result<_, _>>()
        .map_err(|error| bad(chain, error))?;
    if chain_der.is_empty() {
        return Err(bad(chain, "holds no CERTIFICATE; give the full chain in PEM form"));
    }
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, error))?;
    CertifiedKey::from_der(chain_der, key_der, &rustls::crypto::ring::default_provider())
        .map_err(|error| bad(key, format!("{error}; does the key belong to {}?", chain.display())))
}

fn describe(folder: &Path) -> Result<Listed, CertificateError> {
    let chain = folder.join("chain.pem");
    let der = CertificateDer::from_pem_file(&chain).map_err(|error| bad(&chain, error))?;
    let dns_names = dns_names(&chain, &der)?;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(&der).map_err(|error| bad(&chain, error))?;
    let not_after_unix = parsed.validity().not_after.timestamp();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(Listed {
        name: folder
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        dns_names,
        issuer: parsed.issuer().to_string(),
        self_signed: parsed.issuer().as_raw() == parsed.subject().as_raw(),
        not_before_unix: parsed.validity().not_before.timestamp(),
        not_after_unix,
        days_left: (not_after_unix - i64::try_from(now).unwrap_or(0)) / 86_400,
    })
}

fn dns_names(path: &Path, der: &[u8]) -> Result<Vec<String>, CertificateError> {
    use x509_parser::extensions::GeneralName;
    let (_, parsed) = x509_parser::parse_x509_certificate(der).map_err(|error| bad(path, error))?;
    let alternative = parsed.subject_alternative_name().map_err(|error| bad(path, error))?;
    let names = alternative.map(|extension| {
        let dns = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some(name.to_lowercase()),
            _ => None,
        };
        extension.value.general_names.iter().filter_map(dns).collect()
    });
    Ok(names.unwrap_or_default())
}

fn bad(path: &Path, fault: impl ToString) -> CertificateError {
    CertificateError::Bad { path: path.to_owned(), fault: fault.to_string() }
}

fn io_error(path: &Path, source: io::Error) -> CertificateError {
    CertificateError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_between_the_two_renames_leaves_what_was_to_be() {
        let data = std::env::temp_dir().join(format!("kura-certificates-{}", std::process::id()));
        let names = ["mail.a.test".to_owned()];
        self_signed(&data, &names).unwrap();
        let folder = directory(&data).join("mail.a.test");
        let chain = folder.join("chain.pem");
        let old = fs::read(&chain).unwrap();
        self_signed(&data, &names).unwrap();
        let new = fs::read(&chain).unwrap();
        // The key is the new one, the chain not yet.
        fs::write(fresh(&chain), &new).unwrap();
        fs::write(&chain, &old).unwrap();
        assert_eq!(load_all(&data).unwrap().len(), 1);
        assert_eq!(fs::read(&chain).unwrap(), new);
        // What fits nothing is told.
        fs::write(&chain, &old).unwrap();
        let error = load_all(&data).unwrap_err().to_string();
        assert!(error.contains("does the key belong"), "{error}");
        // And keeps nothing else from being served.
        self_signed(&data, &["mail.b.test".to_owned()]).unwrap();
        assert_eq!(load_all(&data).unwrap()[0].dns_names, ["mail.b.test"]);
        fs::write(&chain, "nothing").unwrap();
        let listed = list(&data).unwrap();
        assert_eq!((listed.good.len(), listed.bad.len()), (1, 1));
        assert!(for_name(&data, "mail.b.test").unwrap().is_some());
        fs::remove_dir_all(&data).unwrap();
    }
}
