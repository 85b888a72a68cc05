//! Removes old backups: their manifests first, then whatever no manifest that is left refers to.

use super::manifest::Manifest;
use super::target::Target;
use super::{Fault, restore};
use std::collections::BTreeSet;

/// Keeps the newest `keep` backups, and `taken` whatever it is called; how many backups and objects
/// are gone. A manifest that can't be read keeps all objects: nobody knows which of them it needs.
pub fn prune(target: &Target, keep: usize, taken: &str) -> Result<(usize, usize), Fault> {
    let mut manifests = target.manifests()?;
    // The sort is stable.
    manifests.sort_by_key(|object| restore::name_of(object) == taken);
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

#[cfg(test)]
mod tests {
    use super::super::manifest::{FORMAT, Piece, SegmentPart, ShardPart};
    use super::super::sha256;
    use super::super::target::Uploads;
    use super::*;
    use crate::backup::manifest::Marker;
    use crate::backup::progress::Progress;

    /// A backup of pieces with this content, sent as a real one is.
    fn backup(target: &Target, name: &str, contents: &[&str]) -> Manifest {
        let mut uploads = Uploads::start(target).unwrap();
        let mut pieces = Vec::new();
        for (number, content) in (0..).zip(contents) {
            let (from, bytes) = (number * 4096, content.len() as u64);
            let sha256 = sha256(content.as_bytes());
            let piece = Piece { from, to: from + 4096, bytes, sha256 };
            uploads.send(piece.object("g", 0, 1), content.as_bytes().to_vec()).unwrap();
            pieces.push(piece);
        }
        uploads.finish().unwrap();
        let segments =
            vec![SegmentPart { segment: 1, segment_bytes: 1 << 20, pieces, rotten: Vec::new() }];
        let shard = ShardPart {
            shard: 0,
            lsn: 1,
            run: 1,
            salt: "0".to_owned(),
            messages: 0,
            live_bytes: 0,
            segments,
        };
        let manifest = Manifest {
            format: FORMAT,
            kura: "0".to_owned(),
            store: "s".to_owned(),
            generation: "g".to_owned(),
            made_unix_millis: 1,
            as_of_unix_millis: Some(1),
            shards: vec![shard],
            files: Vec::new(),
        };
        target.put(&format!("manifests/{name}.json"), manifest.encode()).unwrap();
        manifest
    }

    #[test]
    fn what_a_kept_backup_needs_stays_and_the_rest_goes() {
        let target = Target::in_memory();
        target
            .put_marker(&Marker {
                format: FORMAT,
                store: "s".to_owned(),
                generation: "g".to_owned(),
                begun: String::new(),
            })
            .unwrap();
        backup(&target, "1", &["shared", "old"]);
        backup(&target, "2", &["shared", "middle"]);
        // More pieces than are sent at once.
        let many: Vec<String> = (0..20).map(|number| format!("piece {number}")).collect();
        let mut contents = vec!["shared"];
        contents.extend(many.iter().map(String::as_str));
        backup(&target, "3", &contents);
        assert_eq!(target.list("objects").unwrap().len(), 23);
        assert_eq!(prune(&target, 2, "3"), Ok((1, 1)));
        for name in ["2", "3"] {
            let (_, manifest) = restore::load(&target, Some(name)).unwrap();
            let mut progress = Progress::new("check", true);
            let seen = &mut restore::Seen::new();
            assert_eq!(restore::check(&target, &manifest, seen, &mut progress), Ok(Vec::new()));
        }
        let gone = restore::load(&target, Some("1")).unwrap_err();
        assert!(gone.contains("there are 2, 3"), "{gone}");
    }

    /// Others were called by hand, or by a clock that was ahead.
    #[test]
    fn what_was_just_taken_stays_whatever_it_is_called() {
        let target = Target::in_memory();
        for name in ["2", "9", "ahead"] {
            backup(&target, name, &["shared", name]);
        }
        assert_eq!(prune(&target, 2, "2"), Ok((1, 1)));
        assert_eq!(target.manifests().unwrap(), ["manifests/2.json", "manifests/ahead.json"]);
    }

    #[test]
    fn a_damaged_manifest_keeps_everything() {
        let target = Target::in_memory();
        backup(&target, "1", &["one"]);
        backup(&target, "2", &["two"]);
        target.put("manifests/2.json", b"rubbish".to_vec()).unwrap();
        assert!(prune(&target, 1, "2").unwrap_err().contains("nothing was removed"));
        assert_eq!(target.manifests().unwrap().len(), 2);
        assert_eq!(target.list("objects").unwrap().len(), 2);
    }

    #[test]
    fn what_was_changed_is_named_all_of_it_for_each_backup_that_needs_it() {
        let target = Target::in_memory();
        let older = backup(&target, "1", &["one", "two"]);
        let newer = backup(&target, "2", &["one", "two", "three"]);
        let object = |number: usize| {
            let (shard, segment, piece) = newer.pieces().nth(number).unwrap();
            piece.object("g", shard.shard, segment.segment)
        };
        target.put(&object(1), b"tWo".to_vec()).unwrap();
        target.remove(&object(2)).unwrap();
        let (mut seen, mut progress) = (restore::Seen::new(), Progress::new("check", true));
        let mut found = |manifest| {
            let found = restore::check(&target, manifest, &mut seen, &mut progress).unwrap();
            found.into_iter().map(|one| (one.object, one.what)).collect::<Vec<_>>()
        };
        let changed = (object(1), "its checksum does not match".to_owned());
        assert_eq!(found(&newer), [changed.clone(), (object(2), "it is missing".to_owned())]);
        assert_eq!(found(&older), [changed]);
    }
}
