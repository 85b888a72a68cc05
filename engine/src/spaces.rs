//! Key spaces: how a whole one is gone through, and that no two kinds of records share one. Each
//! names its own (`const SPACE`), beside the code that reads it; FORMAT.md says what is in them.

use crate::core::give_way;
use crate::shard::Shard;
use bytes::Bytes;
use storage::store::Space;

/// All pairs of a space, some at a time, by key: others have their turn in between, and what they
/// change is seen where it is still to come.
#[derive(Debug)]
pub struct Walk<'s> {
    shard: &'s Shard,
    space: Space,
    at_once: usize,
    /// The key to go on from, once begun.
    from: Option<Vec<u8>>,
}

impl<'s> Walk<'s> {
    pub fn through(shard: &'s Shard, space: Space, at_once: usize) -> Walk<'s> {
        Walk { shard, space, at_once, from: None }
    }

    /// The next ones. `None`: that was all.
    pub async fn next(&mut self) -> Option<Vec<(Bytes, Bytes)>> {
        if self.from.is_some() {
            give_way().await;
        }
        let from = self.from.as_deref().unwrap_or_default();
        let pairs = self.shard.store.scan_from(self.space, from, self.at_once);
        let (last, _) = pairs.last()?;
        // The next key after it.
        self.from = Some([last, &[0][..]].concat());
        Some(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::SPACE;
    use crate::server::Server;
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::{Path, PathBuf};

    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }

    #[test]
    fn a_walk_comes_by_all_that_is_there_in_the_end() {
        let (dir, server) = Server::on_trial("walk");
        let walked = server.ask(0, |shard| async move {
            let pairs = |keys: &[&'static str]| {
                let pairs = keys.iter().map(|key| (Bytes::from(*key), Some(Bytes::new())));
                pairs.collect::<Vec<_>>()
            };
            let _ = shard.store.put(SPACE, pairs(&["a", "ab", "b", "c", "d"])).await.unwrap();
            let mut walk = Walk::through(&shard, SPACE, 2);
            let mut seen = Vec::new();
            while let Some(some) = walk.next().await {
                assert!((1..=2).contains(&some.len()));
                if seen.is_empty() {
                    let changes = [pairs(&["aa", "e"]), vec![(Bytes::from("c"), None)]].concat();
                    let _ = shard.store.put(SPACE, changes).await.unwrap();
                }
                seen.extend(some.into_iter().map(|(key, _)| key));
            }
            assert_eq!(seen, ["a", "ab", "b", "d", "e"]);
        });
        walked.unwrap();
        server.stop();
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn key_spaces_differ() {
        let mut files = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
        let mut by_number: BTreeMap<String, PathBuf> = BTreeMap::new();
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for line in text.lines().filter(|line| line.starts_with("pub const SPACE: ")) {
                let number = line.rsplit_once('(').unwrap().1.trim_end_matches(");").to_owned();
                if let Some(other) = by_number.insert(number.clone(), file.clone()) {
                    panic!("{} and {} both have {number}", other.display(), file.display());
                }
            }
        }
        assert!(by_number.len() >= 17, "{by_number:?}");
    }
}
