//! Where backups are kept: a directory, or a bucket of an S3 service.
//!
//! Everything here blocks its caller, which is a command's own thread, never a core. Uploads go
//! through a thread with a small runtime and a channel that holds a few pieces.
//!
//! Failure: what could not be written or read is told with its name; nothing is overwritten but the
//! object itself, and that only as a whole.

use super::Fault;
use super::manifest::{Marker, check_format};
use futures_util::StreamExt;
use object_store::aws::{AmazonS3Builder, Checksum};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Pieces sent at once, and pieces that wait to be sent: so many times 8 MiB.
const UPLOADS_MAX: usize = 4;
const WAITING_MAX: usize = 2;

const MARKER: &str = "kura-backup.json";

#[derive(Debug)]
pub struct Target {
    store: Arc<dyn ObjectStore>,
    /// As the operator wrote it.
    pub name: String,
    runtime: Runtime,
    directory: Option<PathBuf>,
}

impl Target {
    /// `create`: a directory that is missing is made, but not those above it: where a disk is not
    /// mounted, what was meant for it would go to the one on which its place is.
    pub fn open(name: &str, create: bool) -> Result<Target, Fault> {
        let fault = |error: &dyn std::fmt::Display| format!("backup {name}: {error}");
        let (store, directory): (Arc<dyn ObjectStore>, _) = if name.starts_with("s3://") {
            // The same provider as everywhere else; it may have been installed already.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let bucket = AmazonS3Builder::from_env()
                .with_url(name)
                .with_checksum_algorithm(Checksum::SHA256)
                .build()
                .map_err(|error| fault(&error))?;
            let prefix = name.trim_start_matches("s3://").split_once('/').map(|(_, path)| path);
            let prefix = prefix.unwrap_or_default().trim_matches('/');
            (Arc::new(object_store::prefix::PrefixStore::new(bucket, prefix)), None)
        } else if name.contains("://") {
            return Err(fault(&"give a directory, or s3://BUCKET/PATH"));
        } else {
            let directory = PathBuf::from(name);
            if create {
                expect_parent(&directory).map_err(|what| fault(&what))?;
                crate::layout::keep_private();
                crate::layout::private_dir(&directory)
                    .map_err(|error| fault(&format!("can't make this directory: {error}")))?;
            }
            if !directory.is_dir() {
                return Err(fault(&"there is no such directory"));
            }
            let files = LocalFileSystem::new_with_prefix(&directory).map_err(|e| fault(&e))?;
            (Arc::new(files.with_fsync(true)), Some(directory))
        };
        Target::over(store, name, directory)
    }

    fn over(
        store: Arc<dyn ObjectStore>,
        name: &str,
        directory: Option<PathBuf>,
    ) -> Result<Target, Fault> {
        let runtime = runtime()?;
        Ok(Target { store, name: name.to_owned(), runtime, directory })
    }

    #[cfg(test)]
    pub fn in_memory() -> Target {
        Target::over(Arc::new(object_store::memory::InMemory::new()), "memory", None).unwrap()
    }

    /// Where what can't be read is an object's own fault.
    pub fn is_directory(&self) -> bool {
        self.directory.is_some()
    }

    /// Where it is, of a directory.
    pub fn directory(&self) -> Option<&std::path::Path> {
        self.directory.as_deref()
    }

    pub fn fault(&self, object: &str, error: &object_store::Error) -> Fault {
        explain(&self.name, object, error)
    }

    /// `None`: it is not there.
    pub fn find(&self, object: &str) -> Result<Option<Vec<u8>>, Fault> {
        let path = Path::from(object);
        let read = self.runtime.block_on(async { self.store.get(&path).await?.bytes().await });
        match read {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.fault(object, &error)),
        }
    }

    pub fn put(&self, object: &str, bytes: Vec<u8>) -> Result<(), Fault> {
        let path = Path::from(object);
        let put = self.store.put(&path, PutPayload::from(bytes));
        self.runtime.block_on(put).map_err(|error| self.fault(object, &error))?;
        Ok(())
    }

    pub fn remove(&self, object: &str) -> Result<(), Fault> {
        let path = Path::from(object);
        match self.runtime.block_on(self.store.delete(&path)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.fault(object, &error)),
        }
    }

    /// Names below `prefix`, a directory, with their sizes.
    pub fn list(&self, prefix: &str) -> Result<BTreeMap<String, u64>, Fault> {
        let path = Path::from(prefix);
        self.runtime.block_on(async {
            let mut found = BTreeMap::new();
            let mut listed = self.store.list(Some(&path));
            while let Some(one) = listed.next().await {
                let one = one.map_err(|error| self.fault(prefix, &error))?;
                found.insert(one.location.to_string(), one.size);
            }
            Ok(found)
        })
    }

    /// Whose backups lie here; `None`: nothing does.
    pub fn marker(&self) -> Result<Option<Marker>, Fault> {
        let Some(text) = self.find(MARKER)? else {
            let is_empty = match &self.directory {
                // A new file system has a directory of its own.
                Some(directory) => std::fs::read_dir(directory)
                    .map_err(|error| format!("backup {}: {error}", self.name))?
                    .all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found")),
                None => true,
            };
            return if is_empty { Ok(None) } else { Err(self.not_a_backup()) };
        };
        let marker: Marker = serde_json::from_slice(&text)
            .map_err(|error| format!("backup {}: {MARKER} is damaged: {error}", self.name))?;
        check_format(marker.format).map_err(|what| format!("backup {}: {what}", self.name))?;
        Ok(Some(marker))
    }

    pub fn not_a_backup(&self) -> Fault {
        format!(
            "{} is not a Kura backup: there is no {MARKER} in it; choose another place",
            self.name
        )
    }

    pub fn put_marker(&self, marker: &Marker) -> Result<(), Fault> {
        let text = serde_json::to_vec(marker).map_err(|error| error.to_string())?;
        self.put(MARKER, text)
    }

    /// Names of the backups, oldest first.
    pub fn manifests(&self) -> Result<Vec<String>, Fault> {
        let listed = self.list("manifests")?.into_keys();
        Ok(listed.filter(|name| name.ends_with(".json")).collect())
    }

    /// Removes what uploads that were broken off have left in a directory.
    pub fn remove_staged(&self) {
        let Some(directory) = &self.directory else { return };
        let mut folders = vec![directory.join("objects")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_directory {
                    folders.push(entry.path());
                } else if entry.file_name().to_string_lossy().contains('#') {
                    // It costs room, nothing else.
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }
}

fn expect_parent(directory: &std::path::Path) -> Result<(), Fault> {
    match directory.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.is_dir()) {
        Some(parent) => Err(format!(
            "there is no directory {}; if a disk belongs there, mount it, else make it",
            parent.display()
        )),
        None => Ok(()),
    }
}

/// The system's own words lie deep inside.
fn explain(name: &str, object: &str, error: &object_store::Error) -> Fault {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let io = inner.downcast_ref::<std::io::Error>();
    let mend = match io.map(std::io::Error::kind) {
        Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) => {
            "; free some space there, then start it again: it goes on where it was"
        }
        Some(std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem) => {
            "; make it writable, or choose another place"
        }
        _ if name.starts_with("s3://") => {
            bucket_mend(&inner.to_string(), std::env::var_os("AWS_ACCESS_KEY_ID").is_some())
        }
        _ => "",
    };
    format!("backup {name}: {object}: {inner}{mend}")
}

/// What to do about what a bucket, or the way to it, says.
fn bucket_mend(said: &str, has_key: bool) -> &'static str {
    if said.contains("scheme is not allowed") {
        "; AWS_ENDPOINT is not https://: if that is meant, set AWS_ALLOW_HTTP=true in the environment"
    } else if !has_key {
        "; there is no AWS_ACCESS_KEY_ID in the environment"
    } else if said.contains("timed out") {
        "; start it again when the service answers: it goes on where it was"
    } else {
        ""
    }
}

fn runtime() -> Result<Runtime, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("can't start a runtime: {error}"))
}

/// Sends pieces while the next ones are read.
#[derive(Debug)]
pub struct Uploads {
    pieces: Option<flume::Sender<(String, Vec<u8>)>>,
    thread: Option<JoinHandle<()>>,
    failed: Arc<Mutex<Option<Fault>>>,
}

impl Uploads {
    pub fn start(target: &Target) -> Result<Uploads, Fault> {
        let (pieces, waiting) = flume::bounded::<(String, Vec<u8>)>(WAITING_MAX);
        let (store, name) = (Arc::clone(&target.store), target.name.clone());
        let failed = Arc::new(Mutex::new(None));
        let outcome = Arc::clone(&failed);
        let runtime = runtime()?;
        let work = async move {
            let mut sending: JoinSet<Result<(), Fault>> = JoinSet::new();
            loop {
                let next = if sending.len() < UPLOADS_MAX {
                    waiting.recv_async().await.ok()
                } else {
                    None
                };
                let is_over = next.is_none() && sending.len() < UPLOADS_MAX;
                if let Some((object, bytes)) = next {
                    let (store, name) = (Arc::clone(&store), name.clone());
                    sending.spawn(async move {
                        let path = Path::from(object.as_str());
                        let put = store.put(&path, PutPayload::from(bytes)).await;
                        put.map(drop).map_err(|error| explain(&name, &object, &error))
                    });
                    if sending.len() < UPLOADS_MAX {
                        continue;
                    }
                }
                match sending.join_next().await {
                    Some(Ok(Ok(()))) => {}
                    Some(Ok(Err(fault))) => return Err(fault),
                    Some(Err(error)) => return Err(error.to_string()),
                    None if is_over => return Ok(()),
                    None => {}
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("kura-backup".to_owned())
            .spawn(move || {
                if let Err(fault) = runtime.block_on(work) {
                    *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
                }
            })
            .map_err(|error| format!("can't start a thread: {error}"))?;
        Ok(Uploads { pieces: Some(pieces), thread: Some(thread), failed })
    }

    /// Waits while too many are on their way.
    pub fn send(&mut self, object: String, bytes: Vec<u8>) -> Result<(), Fault> {
        let pieces = self.pieces.as_ref().expect("until it is finished");
        match pieces.send((object, bytes)) {
            Ok(()) => Ok(()),
            Err(_) => self.finish(),
        }
    }

    /// Until everything is there.
    pub fn finish(&mut self) -> Result<(), Fault> {
        self.pieces = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            return Err("the upload ended by a panic".to_owned());
        }
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_bucket_says_is_told_with_what_to_do() {
        for (said, has_key, words) in [
            ("URL scheme is not allowed", false, "AWS_ALLOW_HTTP=true"),
            ("403 Forbidden", false, "no AWS_ACCESS_KEY_ID"),
            ("operation timed out", true, "start it again"),
            ("403 Forbidden", true, ""),
        ] {
            assert!(bucket_mend(said, has_key).contains(words), "{said}");
            assert_eq!(bucket_mend(said, has_key).is_empty(), words.is_empty(), "{said}");
        }
    }
}
