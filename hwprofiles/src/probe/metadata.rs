//! What creating, renaming durably and removing files costs: segments are made and recycled so.

use super::files::Place;
use crate::figures::Metadata;
use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

const FILES_MAX: usize = 5_000;
const FILES_MIN: usize = 2;

pub(super) fn measure(place: &Place, budget: Duration) -> io::Result<Metadata> {
    let directory = File::open(place.path())?;
    let path = |name: &str, number: usize| place.path().join(format!("{name}-{number}"));
    let third = budget / 3;
    let (made, create_per_second) =
        repeat(third, FILES_MAX, |number| File::create(path("made", number)).map(drop))?;
    let (renamed, rename_sync_per_second) = repeat(third, made, |number| {
        std::fs::rename(path("made", number), path("renamed", number))?;
        directory.sync_all()
    })?;
    for number in renamed..made {
        std::fs::rename(path("made", number), path("renamed", number))?;
    }
    let (_, unlink_per_second) =
        repeat(third, made, |number| std::fs::remove_file(path("renamed", number)))?;
    Ok(Metadata { create_per_second, rename_sync_per_second, unlink_per_second })
}

/// How many there were, and how many a second.
fn repeat(
    budget: Duration,
    most: usize,
    mut each: impl FnMut(usize) -> io::Result<()>,
) -> io::Result<(usize, f64)> {
    let (start, mut count) = (Instant::now(), 0);
    while count < FILES_MIN.min(most) || (count < most && start.elapsed() < budget) {
        each(count)?;
        count += 1;
    }
    Ok((count, super::round(count as f64 / start.elapsed().as_secs_f64().max(1e-9))))
}
