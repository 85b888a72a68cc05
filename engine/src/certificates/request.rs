//! A request for a certificate (RFC 2986): `kura cert csr`. Its key stays here, in
//! `request-key.pem` beside the certificate that it will replace, until what was issued
//! for it is imported.

use super::{
    CertificateError, bad, certified_key, directory, io_error, make_folder, write_private,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const KEY_FILE: &str = "request-key.pem";

/// A request as it goes to whoever issues certificates.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Request {
    pub names: Vec<String>,
    pub csr: String,
    pub key_file: PathBuf,
}

/// Asks for `names`, with a new key, or the one of a request that is open; with `keep_key` that of
/// the certificate which serves the first name now, so that TLSA records stay as they are.
pub fn request(
    data_dir: &Path,
    names: &[String],
    keep_key: bool,
) -> Result<Request, CertificateError> {
    let folder = directory(data_dir).join(names[0].replace('*', "_"));
    let key_file = folder.join(KEY_FILE);
    make_folder(&folder)?;
    let kept = if keep_key { folder.join("key.pem") } else { key_file.clone() };
    let key = match fs::read_to_string(&kept) {
        Ok(text) => rcgen::KeyPair::from_pem(&text).map_err(|error| bad(&kept, error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !keep_key => {
            let key = rcgen::KeyPair::generate().map_err(|error| bad(&key_file, error))?;
            write_private(&key_file, &key.serialize_pem())?;
            key
        }
        Err(source) => return Err(io_error(&kept, source)),
    };
    let text = || -> Result<String, rcgen::Error> {
        let mut params = rcgen::CertificateParams::new(names)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, names[0].as_str());
        params.serialize_request(&key)?.pem()
    };
    let csr = text().map_err(|error| bad(&folder, error))?;
    Ok(Request { names: names.to_vec(), csr, key_file: kept })
}

/// The key that the first certificate of `chain` was issued for, among those of requests and
/// of certificates.
pub(super) fn find_key(data_dir: &Path, chain: &Path) -> Result<PathBuf, CertificateError> {
    // Before all keys are said not to fit what is no certificate.
    CertificateDer::from_pem_file(chain)
        .map_err(|_| bad(chain, "holds no CERTIFICATE; give the full chain in PEM form"))?;
    let directory = directory(data_dir);
    let entries = fs::read_dir(&directory).map_err(|source| io_error(&directory, source))?;
    let folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let keys = folders.flat_map(|folder| [folder.join(KEY_FILE), folder.join("key.pem")]);
    let mut known = 0;
    for key in keys.filter(|key| key.exists()) {
        match certified_key(chain, &key) {
            Ok(_) => return Ok(key),
            Err(_) => known += 1,
        }
    }
    Err(bad(
        chain,
        format!(
            "none of the {known} keys here belongs to it; give its key with --key, or ask for a certificate \
             with `kura cert csr`"
        ),
    ))
}

/// What was asked for has come.
pub(super) fn close(key: &Path) {
    if key.file_name().is_some_and(|name| name == KEY_FILE) {
        let _ = fs::remove_file(key);
    }
}
