//! Files of a running store that somebody has removed, moved away, cut, or put another file in the
//! place of. The server reads on, since it has them open; the next start would be refused. So it is
//! looked for while there is a way back, and told.

use crate::shard::Shard;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use storage::store::{Cut, Harmed, Unlinked};

const LOOK_EVERY: Duration = Duration::from_secs(20);

/// Until the core stops.
pub async fn keep_looking(shard: Rc<Shard>) {
    let mut told: BTreeSet<String> = BTreeSet::new();
    while !shard.has_stopped() {
        let Harmed { unlinked, cut } = look(&shard).await;
        if shard.store.is_displaced() {
            // All of it has gone, and the store has halted for that, which is told.
            return;
        }
        // One that was put back is told anew should it go again.
        let names = unlinked.iter().map(|one| &one.file).chain(cut.iter().map(|one| &one.file));
        let harmed: BTreeSet<&String> = names.collect();
        told.retain(|file| harmed.contains(file));
        for one in &unlinked {
            if told.insert(one.file.clone()) {
                tell_of_unlinked(&shard, one).await;
            }
        }
        for one in &cut {
            if told.insert(one.file.clone()) {
                tell_of_cut(&shard, one);
            }
        }
        glommio::timer::sleep(LOOK_EVERY).await;
    }
}

/// Those of now; none where the directory can't be read.
pub async fn look(shard: &Shard) -> Harmed {
    shard.store.look_for_harm().await.unwrap_or_else(|error| {
        tracing::warn!(shard = shard.id, %error, "whether all files of the store are there can't be seen");
        Harmed::default()
    })
}

fn path(shard: &Shard, file: &str) -> PathBuf {
    crate::layout::shard_dir(&shard.config.data_dir, shard.id).join(file)
}

fn tell_of_cut(shard: &Shard, Cut { segment, file, bytes, bytes_before }: &Cut) {
    let file = path(shard, file).display().to_string();
    tracing::error!(
        shard = shard.id,
        segment = segment.0,
        file,
        bytes,
        bytes_before,
        "a file of the store has been cut: what mail was behind its end is lost, and can't be read. New mail goes into other files. \
         What can be done is in README.md, \"Files that somebody has removed\""
    );
}

async fn tell_of_unlinked(shard: &Shard, Unlinked { segment, file, is_open }: &Unlinked) {
    let path = path(shard, file);
    let (shard, segment, file) = (shard.id, segment.0, path.display().to_string());
    if !is_open {
        tracing::error!(
            shard,
            segment,
            file,
            "a file of the store that the server did not have open has been removed, or another one is in its place: mail that was \
             in it can't be read, and the next start may be refused. What can be done is in README.md, \"Files that somebody has removed\""
        );
        return;
    }
    let descriptor = glommio::executor().spawn_blocking(move || descriptor(&path)).await;
    let process = std::process::id();
    let opened = match descriptor {
        Some(number) => format!("/proc/{process}/fd/{number}"),
        None => format!("one of /proc/{process}/fd"),
    };
    tracing::error!(
        shard,
        segment,
        file,
        opened,
        "a file of the store has been removed, or another one is in its place. The server still has it open, and reads it; it is \
         lost when the server stops, and the next start is refused. Take a backup now (kura store backup), which has what is in it; \
         how to put it back is in README.md, \"Files that somebody has removed\""
    );
}

/// By which number this process has the file open that had this name.
fn descriptor(path: &Path) -> Option<u32> {
    let path = std::fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?);
    let removed = format!("{} (deleted)", path.display());
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    entries.filter_map(Result::ok).find_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        let is_it = target.to_str() == Some(&removed);
        is_it.then(|| entry.file_name().to_str()?.parse().ok()).flatten()
    })
}
