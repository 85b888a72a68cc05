//! Removes old backups: their manifests first, then whatever no manifest that is left refers to.

use super::Fault;
use super::manifest::Manifest;
use super::target::Target;
use std::collections::BTreeSet;

/// Keeps the newest `keep` backups; how many backups and objects are gone. A manifest that can't be read
/// keeps all objects: nobody knows which of them it needs.
pub fn prune(target: &Target, keep: usize) -> Result<(usize, usize), Fault> {
    let manifests = target.manifests()?;
    let (old, kept) = manifests.split_at(manifests.len().saturating_sub(keep.max(1)));
    let mut needed = BTreeSet::new();
    for name in kept {
        let text = target.find(name)?.unwrap_or_default();
        let manifest = Manifest::decode(&text).map_err(|what| {
            format!("backup {}: {name}: {what}; nothing was removed", target.name)
        })?;
        for (shard, segment, piece) in manifest.pieces() {
            needed.insert(piece.object(&manifest.generation, shard.shard, segment.segment));
        }
        needed.extend(manifest.files.iter().map(|file| file.object()));
    }
    for name in old {
        target.remove(name)?;
    }
    let mut removed = 0;
    for folder in ["objects", "files"] {
        for name in target.list(folder)?.into_keys().filter(|name| !needed.contains(name)) {
            target.remove(&name)?;
            removed += 1;
        }
    }
    Ok((old.len(), removed))
}
