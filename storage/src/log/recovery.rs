//! What to make of what a crash, or rot, has left of the log: one table, complete and without
//! overlap. FORMAT.md, "Recovery".
//!
//! The scan looks at one place where a batch could stand, says what it sees, and does what the
//! table says. *Proven* means: some witness (the checkpoint, the superblock, or any later batch's
//! `durable` field) says that the next LSN had been synced. What is proven and damaged is rot, and
//! is skipped and reported; what is not proven and damaged is a torn tail that nobody was promised.

use crate::types::Lsn;

/// What stands at the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// No batch header that verifies for this segment.
    Missing,
    /// One of an earlier run, or below the LSN that is due: a leftover.
    Stale,
    /// The batch that is due.
    Due,
    /// A later one: some before it are missing.
    Ahead,
}

/// Whether all records of the batch verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Whole,
    Damaged,
}

/// What the segment with the next number says about where it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextSegment {
    None,
    /// With the LSN that is due: so this segment ends here.
    Due,
    /// With a later one.
    Ahead,
    /// With an earlier one: a leftover.
    Stale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub header: Header,
    pub content: Content,
    pub proven: bool,
    pub next_segment: NextSegment,
    /// There is another batch header further on in this segment that verifies and is not stale.
    pub more_here: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Fold all records in and go on behind the batch.
    Apply,
    /// Fold in those records that verify, report the others, go on behind the batch.
    ApplyWhatVerifies,
    /// Report the LSNs in between as lost, then look at this place again.
    SkipToThisBatch,
    /// Save what records verify up to the next batch header in this segment, and look there.
    SalvageToNextBatch,
    /// The same up to the end of the segment, and go on in the next.
    SalvageToNextSegment,
    /// The same up to the end of the segment, and end there: behind it, only the proof is left.
    SalvageToEnd,
    /// The segment ends here in order.
    NextSegment,
    /// The log ends here.
    End,
}

/// One row; `None` matches anything.
#[derive(Debug)]
pub struct Case {
    pub name: &'static str,
    header: Option<Header>,
    content: Option<Content>,
    proven: Option<bool>,
    next_segment: Option<NextSegment>,
    more_here: Option<bool>,
    pub decision: Decision,
}

/// Shorthand for rows.
const fn case(name: &'static str, header: Option<Header>, decision: Decision) -> Case {
    let (content, proven, next_segment, more_here) = (None, None, None, None);
    Case { name, header, content, proven, next_segment, more_here, decision }
}

/// Every combination of what can be seen matches exactly one row; a test goes through them all.
pub static TABLE: &[Case] = &[
    Case {
        content: Some(Content::Whole),
        ..case("a batch in order", Some(Header::Due), Decision::Apply)
    },
    Case {
        content: Some(Content::Damaged),
        proven: Some(true),
        ..case("rot in records", Some(Header::Due), Decision::ApplyWhatVerifies)
    },
    Case {
        content: Some(Content::Damaged),
        proven: Some(false),
        ..case("a torn batch", Some(Header::Due), Decision::End)
    },
    Case {
        proven: Some(true),
        ..case("batches lost before this one", Some(Header::Ahead), Decision::SkipToThisBatch)
    },
    Case {
        proven: Some(false),
        ..case("a later chain landed, an earlier did not", Some(Header::Ahead), Decision::End)
    },
    Case {
        next_segment: Some(NextSegment::Due),
        ..case("the end of a sealed segment", Some(Header::Missing), Decision::NextSegment)
    },
    Case {
        next_segment: Some(NextSegment::Due),
        ..case("leftovers behind a sealed segment", Some(Header::Stale), Decision::NextSegment)
    },
    Case {
        proven: Some(true),
        more_here: Some(true),
        next_segment: Some(NextSegment::Ahead),
        ..case("rot in a header", Some(Header::Missing), Decision::SalvageToNextBatch)
    },
    Case {
        proven: Some(true),
        more_here: Some(true),
        next_segment: Some(NextSegment::None),
        ..case("rot in a header, last segment", Some(Header::Missing), Decision::SalvageToNextBatch)
    },
    Case {
        proven: Some(true),
        more_here: Some(true),
        next_segment: Some(NextSegment::Stale),
        ..case("rot in a header, leftover", Some(Header::Missing), Decision::SalvageToNextBatch)
    },
    Case {
        proven: Some(true),
        more_here: Some(false),
        next_segment: Some(NextSegment::Ahead),
        ..case("rot at a segment's end", Some(Header::Missing), Decision::SalvageToNextSegment)
    },
    Case {
        proven: Some(true),
        more_here: Some(false),
        next_segment: Some(NextSegment::None),
        ..case("rot at the log's end", Some(Header::Missing), Decision::SalvageToEnd)
    },
    Case {
        proven: Some(true),
        more_here: Some(false),
        next_segment: Some(NextSegment::Stale),
        ..case("rot at the log's end, leftover", Some(Header::Missing), Decision::SalvageToEnd)
    },
    Case {
        proven: Some(true),
        next_segment: Some(NextSegment::Ahead),
        ..case(
            "a proven batch gone, leftovers",
            Some(Header::Stale),
            Decision::SalvageToNextSegment,
        )
    },
    Case {
        proven: Some(true),
        next_segment: Some(NextSegment::None),
        ..case("the proven end gone, leftovers", Some(Header::Stale), Decision::SalvageToEnd)
    },
    Case {
        proven: Some(true),
        next_segment: Some(NextSegment::Stale),
        ..case("the proven end gone, only leftovers", Some(Header::Stale), Decision::SalvageToEnd)
    },
    Case {
        proven: Some(false),
        next_segment: Some(NextSegment::None),
        ..case("the end", Some(Header::Missing), Decision::End)
    },
    Case {
        proven: Some(false),
        next_segment: Some(NextSegment::Ahead),
        ..case("the end, a later segment begun", Some(Header::Missing), Decision::End)
    },
    Case {
        proven: Some(false),
        next_segment: Some(NextSegment::Stale),
        ..case("the end, an older segment behind", Some(Header::Missing), Decision::End)
    },
    Case {
        proven: Some(false),
        next_segment: Some(NextSegment::None),
        ..case("the end before leftovers", Some(Header::Stale), Decision::End)
    },
    Case {
        proven: Some(false),
        next_segment: Some(NextSegment::Ahead),
        ..case("the end before leftovers and a segment", Some(Header::Stale), Decision::End)
    },
    Case {
        proven: Some(false),
        next_segment: Some(NextSegment::Stale),
        ..case("the end before older leftovers", Some(Header::Stale), Decision::End)
    },
];

impl Case {
    fn matches(&self, seen: &Seen) -> bool {
        self.header.is_none_or(|header| header == seen.header)
            && self.content.is_none_or(|content| content == seen.content)
            && self.proven.is_none_or(|proven| proven == seen.proven)
            && self.next_segment.is_none_or(|next| next == seen.next_segment)
            && self.more_here.is_none_or(|more| more == seen.more_here)
    }
}

/// The row for what is seen.
#[must_use]
pub fn decide(seen: &Seen) -> &'static Case {
    TABLE.iter().find(|case| case.matches(seen)).expect("the table is complete: a test proves it")
}

/// How an opening went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The last record that was there. What the store writes for itself, from the moment on when it
    /// is open, comes behind.
    pub lsn: Lsn,
    /// Records replayed from the log.
    pub records: u64,
    pub micros: u64,
    /// Why the log was taken to end where it does.
    pub end: &'static str,
    /// What stands behind the log's end, if it looks like mail: a batch that a crash has torn, and
    /// nobody was told of, or one that a disk has lost which said that it was on it.
    pub unfinished: Option<String>,
    /// Places that do not verify although they had been acknowledged.
    pub damage: Vec<String>,
    /// LSNs of records of which nothing could be saved.
    pub lost_records: u64,
    /// A checkpoint or superblock that could not be used, and why.
    pub setbacks: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_matches_exactly_one_case() {
        let mut matched = vec![0; TABLE.len()];
        for header in [Header::Missing, Header::Stale, Header::Due, Header::Ahead] {
            for content in [Content::Whole, Content::Damaged] {
                for proven in [false, true] {
                    for next_segment in [
                        NextSegment::None,
                        NextSegment::Due,
                        NextSegment::Ahead,
                        NextSegment::Stale,
                    ] {
                        for more_here in [false, true] {
                            let seen = Seen { header, content, proven, next_segment, more_here };
                            let rows: Vec<usize> =
                                (0..TABLE.len()).filter(|row| TABLE[*row].matches(&seen)).collect();
                            assert_eq!(rows.len(), 1, "{seen:?} matches {rows:?}");
                            matched[rows[0]] += 1;
                        }
                    }
                }
            }
        }
        for (case, count) in TABLE.iter().zip(matched) {
            assert!(count > 0, "nothing matches {:?}", case.name);
        }
    }

    #[test]
    fn nothing_unproven_is_ever_salvaged_and_nothing_proven_ever_dropped() {
        for case in TABLE {
            match case.decision {
                Decision::Apply | Decision::NextSegment => {}
                Decision::End => assert_eq!(case.proven, Some(false), "{}", case.name),
                Decision::ApplyWhatVerifies
                | Decision::SkipToThisBatch
                | Decision::SalvageToNextBatch
                | Decision::SalvageToNextSegment
                | Decision::SalvageToEnd => assert_eq!(case.proven, Some(true), "{}", case.name),
            }
        }
    }
}
