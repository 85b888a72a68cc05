//! What a probe measures, in which order, and how its time is divided. Pure.
//!
//! The points come in three tiers; a longer budget buys more of them rather than the same ones for
//! longer only. Each point takes its share of the time that is left, so one that overruns (a slow
//! disk needs a few flushes at least) costs the later ones, and the budget is kept.

use crate::figures::{ChainForm, CommitPath, Operation};
use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Durable writes by threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flushes {
    pub(super) path: CommitPath,
    pub(super) direct: bool,
    pub(super) prewritten: bool,
    pub(super) streams: u32,
    pub(super) bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    Cpu,
    Flushes(Flushes),
    Chain { form: ChainForm, in_flight: u32, bytes: u64 },
    Throughput { operation: Operation, random: bool, bytes: u64, depth: u32 },
    Sustained,
    Metadata,
}

impl Point {
    /// Its share of the time, beside the other points' shares.
    pub(super) fn weight(&self) -> u32 {
        match self {
            Point::Flushes(flushes) if flushes.prewritten => 10,
            Point::Flushes(_) | Point::Chain { .. } => 6,
            Point::Throughput { .. } => 10,
            Point::Cpu => 60,
            Point::Sustained => 80,
            Point::Metadata => 20,
        }
    }

    /// For the progress bar.
    pub(super) fn phase(&self) -> &'static str {
        match self {
            Point::Cpu => "CPU",
            Point::Flushes(flushes) if flushes.prewritten && flushes.direct => "flush curve",
            Point::Flushes(flushes) if flushes.direct => "fresh blocks",
            Point::Flushes(_) => "page cache",
            Point::Chain { .. } => "chains in flight",
            Point::Throughput { .. } => "bandwidth and IOPS",
            Point::Sustained => "sustained writing",
            Point::Metadata => "metadata",
        }
    }
}

/// The part of `left` that a point of this weight may take, when so much weight is left with it.
pub(super) fn share(left: Duration, weight: u32, weight_left: u32) -> Duration {
    left.mul_f64(f64::from(weight) / f64::from(weight_left.max(1)))
}

/// What fits into `budget`: the essential points below 8 s, the whole curve below 25 s, else all.
pub(super) fn points(budget: Duration) -> Vec<Point> {
    let tier = match budget.as_secs() {
        0..8 => 0,
        8..25 => 1,
        _ => 2,
    };
    let mut points = Vec::new();
    curve(&mut points, tier);
    chains(&mut points, tier);
    throughput(&mut points, tier);
    points.extend([Point::Sustained, Point::Metadata, Point::Cpu]);
    points
}

const ALL_SIZES: [u64; 6] = [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB];

fn curve(points: &mut Vec<Point>, tier: usize) {
    let mut add = |path, direct, prewritten, sizes: &[u64], streams: &[u32]| {
        for &bytes in sizes {
            for &streams in streams {
                let flushes = Flushes { path, direct, prewritten, streams, bytes };
                points.push(Point::Flushes(flushes));
            }
        }
    };
    let few = [4 * KIB, 64 * KIB, MIB];
    let streams: &[u32] = if tier == 0 { &[1, 2, 4] } else { &[1, 2, 4, 8, 16] };
    let sizes: &[u64] = if tier == 0 { &[4 * KIB, 64 * KIB, 256 * KIB, MIB] } else { &ALL_SIZES };
    add(CommitPath::WriteFdatasync, true, true, sizes, streams);
    let (sizes, streams): (&[u64], &[u32]) = match tier {
        0 => (&few[..2], &[1]),
        1 => (&few, &[1, 4]),
        _ => (&ALL_SIZES, &[1, 4, 16]),
    };
    add(CommitPath::ODsync, true, true, sizes, streams);
    add(CommitPath::RwfDsync, true, true, sizes, streams);
    let (sizes, streams): (&[u64], &[u32]) = match tier {
        0 => (&[4 * KIB, MIB], &[1]),
        1 => (&few, &[1]),
        _ => (&ALL_SIZES, &[1, 4]),
    };
    add(CommitPath::WriteFdatasync, true, false, sizes, streams);
    add(CommitPath::WriteFdatasync, false, true, sizes, streams);
}

fn chains(points: &mut Vec<Point>, tier: usize) {
    let sizes: &[u64] = if tier == 0 { &[4 * KIB] } else { &[4 * KIB, 64 * KIB, 256 * KIB] };
    let in_flight: &[u32] = if tier == 2 { &[1, 2, 4, 8, 16] } else { &[1, 2, 4] };
    for form in [ChainForm::RwfDsync, ChainForm::LinkedFdatasync] {
        for &bytes in sizes {
            for &in_flight in in_flight {
                points.push(Point::Chain { form, in_flight, bytes });
            }
        }
    }
}

fn throughput(points: &mut Vec<Point>, tier: usize) {
    let mut add = |random, bytes, depth| {
        for operation in [Operation::Read, Operation::Write, Operation::Mixed] {
            points.push(Point::Throughput { operation, random, bytes, depth });
        }
    };
    add(false, MIB, 8);
    add(true, 4 * KIB, 32);
    if tier > 0 {
        add(true, 4 * KIB, 1);
    }
    if tier > 1 {
        add(true, 64 * KIB, 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_budget_buys_more_points_and_never_loses_one() {
        let of = |seconds| points(Duration::from_secs(seconds));
        let (short, medium, long) = (of(3), of(10), of(60));
        assert!(short.len() < medium.len() && medium.len() < long.len());
        for (fewer, more) in [(&short, &medium), (&medium, &long)] {
            for point in fewer {
                assert!(more.contains(point), "{point:?}");
            }
        }
        for bytes in ALL_SIZES {
            for streams in [1, 2, 4, 8, 16] {
                let path = CommitPath::WriteFdatasync;
                let flushes = Flushes { path, direct: true, prewritten: true, streams, bytes };
                assert!(long.contains(&Point::Flushes(flushes)), "{flushes:?}");
            }
        }
    }

    #[test]
    fn no_point_comes_twice() {
        let all = points(Duration::from_secs(60));
        for (i, point) in all.iter().enumerate() {
            assert!(!all[..i].contains(point), "{point:?}");
        }
    }

    #[test]
    fn the_shares_add_up_to_the_budget() {
        let budget = Duration::from_secs(60);
        let all = points(budget);
        let mut weight_left: u32 = all.iter().map(Point::weight).sum();
        let mut left = budget;
        for point in &all {
            let share = share(left, point.weight(), weight_left);
            assert!(share > Duration::from_millis(100), "{point:?} gets {share:?}");
            left -= share;
            weight_left -= point.weight();
        }
        assert!(left < Duration::from_millis(1), "{left:?}");
    }
}
