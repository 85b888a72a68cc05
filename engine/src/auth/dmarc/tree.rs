//! Which record counts for a domain, and to which organization it belongs: the walk up the tree of
//! names (RFC 9989 section 4.10).

use super::record::{PublicSuffix, Record};
use crate::auth::dns::{Missing, Resolver};

/// Names that are asked for: the domain, then from seven labels on down.
const LABELS_MAX: usize = 7;

/// What was found on the way, from the longest name to the shortest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    start: String,
    found: Vec<(String, Record)>,
}

impl Walk {
    /// At most eight questions. An error: DNS does not say.
    pub async fn from(resolver: &Resolver, start: &str) -> Result<Walk, Missing> {
        let mut found = Vec::new();
        let mut name = start;
        loop {
            if let Some(record) = one(resolver, name).await? {
                let is_end = record.public_suffix != PublicSuffix::Unsaid;
                found.push((name.to_owned(), record));
                if is_end {
                    break;
                }
            }
            let labels = name.split('.').count();
            let dropped = if labels > LABELS_MAX { labels - LABELS_MAX } else { 1 };
            match name.splitn(dropped + 1, '.').nth(dropped) {
                Some(parent) if !parent.is_empty() => name = parent,
                _ => break,
            }
        }
        Ok(Walk { start: start.to_owned(), found })
    }

    /// The Organizational Domain (section 4.10.2).
    pub fn organization(&self) -> String {
        for (name, record) in &self.found {
            match record.public_suffix {
                PublicSuffix::No => return name.clone(),
                PublicSuffix::Yes if *name != self.start => return self.below(name),
                PublicSuffix::Yes | PublicSuffix::Unsaid => {}
            }
        }
        self.found.last().map_or_else(|| self.start.clone(), |(name, _)| name.clone())
    }

    /// The record that counts (section 4.10.1): the domain's own, its organization's, its
    /// public suffix's.
    pub fn policy(&self, organization: &str) -> Option<(&str, &Record)> {
        let of = |wanted: &str| self.found.iter().find(|(name, _)| name == wanted);
        let found = of(&self.start).or_else(|| of(organization)).or_else(|| self.found.last());
        found.map(|(name, record)| (name.as_str(), record))
    }

    /// On the way to the start, one label longer than `name`.
    fn below(&self, name: &str) -> String {
        let front = self.start.strip_suffix(name).and_then(|front| front.strip_suffix('.'));
        let label = front.and_then(|front| front.rsplit('.').next()).unwrap_or_default();
        format!("{label}.{name}")
    }
}

/// Several records are none (section 4.10, step 2).
async fn one(resolver: &Resolver, name: &str) -> Result<Option<Record>, Missing> {
    let texts = match resolver.texts(&format!("_dmarc.{name}")).await {
        Ok(texts) => texts,
        Err(Missing::NoRecords | Missing::NoSuchName) => return Ok(None),
        Err(Missing::Failed) => return Err(Missing::Failed),
    };
    let mut records = texts.iter().filter_map(|text| Record::read(text));
    match (records.next(), records.next()) {
        (Some(record), None) => Ok(Some(record)),
        (None, _) | (Some(_), Some(_)) => Ok(None),
    }
}
