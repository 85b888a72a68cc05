//! What a core has counted since it last told shard 0: a map in memory, and no more, since every
//! message passes here.

use super::row::{Observed, Row};
use crate::auth::dmarc::record::Record;
use std::collections::HashMap;

/// Rows between two tellings. A core that sees more of them in a minute counts the rest as missed.
pub const ROWS_MAX: usize = 4096;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// By day and row: how many messages, and what was published when the last one came.
    pub rows: HashMap<(u32, Row), (u64, Record)>,
    /// Messages that did not fit, by day.
    pub missed: HashMap<u32, u64>,
}

impl Tally {
    pub fn add(&mut self, day: u32, observed: Observed) {
        let Observed { row, record } = observed;
        self.put(day, row, 1, record);
    }

    /// Also puts back what could not be told.
    pub fn put(&mut self, day: u32, row: Row, messages: u64, record: Record) {
        let is_full = self.rows.len() >= ROWS_MAX;
        match self.rows.entry((day, row)) {
            std::collections::hash_map::Entry::Occupied(mut known) => {
                let known = known.get_mut();
                *known = (known.0.saturating_add(messages), record);
            }
            std::collections::hash_map::Entry::Vacant(_) if is_full => self.miss(day, messages),
            std::collections::hash_map::Entry::Vacant(new) => drop(new.insert((messages, record))),
        }
    }

    pub fn miss(&mut self, day: u32, messages: u64) {
        let known = self.missed.entry(day).or_default();
        *known = known.saturating_add(messages);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.missed.is_empty()
    }

    pub fn add_all(&mut self, other: Tally) {
        for ((day, row), (messages, record)) in other.rows {
            self.put(day, row, messages, record);
        }
        for (day, messages) in other.missed {
            self.miss(day, messages);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::reports::row::{Disposition, tests::record};

    pub(crate) fn observed(number: u32) -> Observed {
        let row = Row {
            policy_domain: "a.test".into(),
            source: std::net::IpAddr::V4(number.into()),
            header_from: "a.test".into(),
            envelope_from: "a.test".into(),
            disposition: Disposition::Pass,
            reason: None,
            dkim_aligned: false,
            spf_aligned: true,
            dkim: Vec::new(),
            spf_domain: "a.test".into(),
            spf_result: "pass".into(),
        };
        Observed { row, record: record("v=DMARC1; p=none; rua=mailto:d@a.test") }
    }

    #[test]
    fn memory_is_bounded_and_what_does_not_fit_is_counted() {
        let mut tally = Tally::default();
        for number in 0..ROWS_MAX as u32 + 10 {
            tally.add(1, observed(number));
        }
        tally.add(1, observed(0));
        assert_eq!((tally.rows.len(), tally.missed[&1]), (ROWS_MAX, 10));
        let row = observed(0).row;
        assert_eq!(tally.rows[&(1, row)].0, 2);
        let mut other = Tally::default();
        other.add(1, observed(0));
        other.add(2, observed(0));
        other.add_all(tally);
        assert_eq!(other.rows[&(1, observed(0).row)].0, 3);
        assert_eq!((other.rows.len(), other.missed[&1]), (ROWS_MAX, 11));
    }
}
