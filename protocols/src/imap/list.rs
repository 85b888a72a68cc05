//! LIST, LSUB, LIST-EXTENDED, LIST-STATUS: patterns, and which mailboxes they show with what
//! attributes. RFC 3501 sections 6.3.8 and 6.3.9, RFC 5258, RFC 5819, RFC 3348, RFC 6154.
//!
//! Pure: from the names that exist and the names subscribed to, to the lines to write.

use super::command::StatusItem;
use super::encode;
use super::mailbox::{SEPARATOR, canonical};
use std::collections::{BTreeMap, BTreeSet};

/// Patterns of one LIST, and their length together: every name is held against each.
const PATTERNS_MAX: usize = 32;
const PATTERN_OCTETS_MAX: usize = 2000;

/// RFC 6154 section 2, in the spelling of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpecialUse {
    Archive,
    Drafts,
    Flagged,
    Junk,
    Sent,
    Trash,
}

impl SpecialUse {
    pub const ALL: [(SpecialUse, &'static str); 6] = [
        (SpecialUse::Archive, "\\Archive"),
        (SpecialUse::Drafts, "\\Drafts"),
        (SpecialUse::Flagged, "\\Flagged"),
        (SpecialUse::Junk, "\\Junk"),
        (SpecialUse::Sent, "\\Sent"),
        (SpecialUse::Trash, "\\Trash"),
    ];

    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<SpecialUse> {
        let mut known = SpecialUse::ALL.iter();
        known.find(|(_, text)| name.eq_ignore_ascii_case(text.as_bytes())).map(|(known, _)| *known)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        let mut known = SpecialUse::ALL.iter();
        known.find(|(special, _)| *special == self).map_or("\\Archive", |(_, name)| *name)
    }
}

/// What a LIST or LSUB asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListCommand {
    /// Answer as LSUB.
    pub lsub: bool,
    pub reference: String,
    pub patterns: Vec<String>,
    pub select_subscribed: bool,
    pub select_special_use: bool,
    pub recursive_match: bool,
    pub return_subscribed: bool,
    pub return_children: bool,
    pub return_special_use: bool,
    pub return_status: Option<Vec<StatusItem>>,
}

/// One mailbox to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListEntry {
    pub name: String,
    /// It can be selected, so that STATUS can be asked.
    pub exists: bool,
    attributes: Vec<&'static str>,
    /// RFC 5258 section 4: selected only because something below it is subscribed to.
    child_subscribed: bool,
}

impl ListCommand {
    /// RFC 3501: an empty pattern asks for the separator.
    #[must_use]
    pub fn asks_separator(&self) -> bool {
        self.patterns.len() == 1 && self.patterns.iter().all(String::is_empty)
    }

    /// The lines to write. `existing` and `subscribed` in any order. There is an item for each step
    /// of the work, with a line or without, so that the caller may pause between them.
    pub fn select<'n>(
        &'n self,
        existing: &'n [(String, Option<SpecialUse>)],
        subscribed: &'n [String],
    ) -> impl Iterator<Item = Option<ListEntry>> + 'n {
        let tree = Tree::new(existing, subscribed);
        let patterns: Vec<String> = self.patterns.iter().map(|p| self.full_pattern(p)).collect();
        let mut names: BTreeSet<&str> = tree.existing.keys().copied().collect();
        if self.lsub || self.select_subscribed {
            names = tree.subscribed.clone();
        }
        if self.lsub || !self.select_subscribed || self.recursive_match {
            let parents: Vec<&str> = names.iter().flat_map(|name| parents(name)).collect();
            names.extend(parents);
        }
        let mut names = names.into_iter();
        let mut shown: BTreeSet<&str> = BTreeSet::new();
        std::iter::from_fn(move || {
            if let Some(name) = names.next() {
                if patterns.iter().any(|pattern| matches(pattern, name)) {
                    shown.insert(name);
                }
                return Some(None);
            }
            // A mailbox comes before its children: they are in the set still.
            let name = shown.pop_first()?;
            Some(self.entry(&tree, name, &shown))
        })
    }

    /// Octets that each name is held against.
    #[must_use]
    pub fn pattern_octets(&self) -> usize {
        let octets = |pattern: &String| self.reference.len().saturating_add(pattern.len());
        self.patterns.iter().map(octets).fold(0, usize::saturating_add)
    }

    pub(super) fn within_limits(&self) -> bool {
        self.patterns.len() <= PATTERNS_MAX && self.pattern_octets() <= PATTERN_OCTETS_MAX
    }

    fn full_pattern(&self, pattern: &str) -> String {
        canonical(&format!("{}{pattern}", self.reference))
    }

    fn entry(&self, tree: &Tree<'_>, name: &str, shown: &BTreeSet<&str>) -> Option<ListEntry> {
        let exists = tree.existing.contains_key(name);
        let subscribed = tree.subscribed.contains(name);
        let special = tree.existing.get(name).copied().flatten();
        let child_subscribed = tree.has_subscribed_child(name);
        let below_shown = || tree.has_subscribed_child_in(shown, name);
        let mut attributes = Vec::new();
        if self.lsub {
            // RFC 3501 section 6.3.9: a parent shows for its subscribed child when the pattern
            // shows no child.
            if !subscribed && (!child_subscribed || below_shown()) {
                return None;
            }
            if !subscribed || !exists {
                attributes.push("\\Noselect");
            }
            return Some(ListEntry {
                name: name.into(),
                exists,
                attributes,
                child_subscribed: false,
            });
        }
        let by_child = self.select_subscribed && self.recursive_match && child_subscribed;
        if self.select_subscribed && !subscribed && !by_child {
            return None;
        }
        if self.select_special_use && special.is_none() {
            return None;
        }
        if !exists && !self.select_subscribed && !tree.has_child(name) {
            return None;
        }
        if !exists {
            attributes.push(if self.select_subscribed { "\\NonExistent" } else { "\\Noselect" });
        }
        attributes.push(if tree.has_child(name) { "\\HasChildren" } else { "\\HasNoChildren" });
        if subscribed && (self.select_subscribed || self.return_subscribed) {
            attributes.push("\\Subscribed");
        }
        attributes.extend(special.map(SpecialUse::name));
        Some(ListEntry { name: name.into(), exists, attributes, child_subscribed: by_child })
    }
}

impl ListEntry {
    /// Writes the untagged line.
    pub fn write(&self, out: &mut Vec<u8>, lsub: bool) {
        let verb = if lsub { "LSUB" } else { "LIST" };
        let attributes = self.attributes.join(" ");
        encode::push(out, format_args!("* {verb} ({attributes}) \"{SEPARATOR}\" "));
        encode::mailbox(out, &self.name);
        if self.child_subscribed {
            out.extend_from_slice(b" (CHILDINFO (\"SUBSCRIBED\"))");
        }
        out.extend_from_slice(b"\r\n");
    }
}

struct Tree<'n> {
    existing: BTreeMap<&'n str, Option<SpecialUse>>,
    subscribed: BTreeSet<&'n str>,
}

impl<'n> Tree<'n> {
    fn new(existing: &'n [(String, Option<SpecialUse>)], subscribed: &'n [String]) -> Tree<'n> {
        Tree {
            existing: existing.iter().map(|(name, special)| (name.as_str(), *special)).collect(),
            subscribed: subscribed.iter().map(String::as_str).collect(),
        }
    }

    fn has_child(&self, name: &str) -> bool {
        let below = format!("{name}{SEPARATOR}");
        let mut after = self.existing.range(below.as_str()..);
        after.next().is_some_and(|(next, _)| next.starts_with(&below))
    }

    fn has_subscribed_child(&self, name: &str) -> bool {
        let below = format!("{name}{SEPARATOR}");
        let mut after = self.subscribed.range(below.as_str()..);
        after.next().is_some_and(|next| next.starts_with(&below))
    }

    /// Whether a subscribed child of `name` is among those shown by themselves.
    fn has_subscribed_child_in(&self, shown: &BTreeSet<&str>, name: &str) -> bool {
        let below = format!("{name}{SEPARATOR}");
        let mut children =
            shown.range(below.as_str()..).take_while(|child| child.starts_with(&below));
        children.any(|child| self.subscribed.contains(child))
    }
}

fn parents(name: &str) -> Vec<&str> {
    let separators = name.match_indices(SEPARATOR);
    separators.filter_map(|(at, _)| name.get(..at)).collect()
}

/// Whether `pattern` shows `name`: `*` is anything, `%` anything within a level. Takes time in
/// proportion to the product of the lengths, whatever the pattern.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    // reachable[i]: the pattern so far can end before character i of the name.
    let mut reachable = vec![false; name.len().saturating_add(1)];
    if let Some(start) = reachable.first_mut() {
        *start = true;
    }
    for wanted in pattern.chars() {
        let mut next = vec![false; reachable.len()];
        let mut carried = false;
        for (index, slot) in next.iter_mut().enumerate() {
            let here = reachable.get(index).copied().unwrap_or(false);
            let before = index.checked_sub(1);
            let character = before.and_then(|at| name.get(at)).copied();
            let from_before = before.and_then(|at| reachable.get(at)).copied().unwrap_or(false);
            *slot = match wanted {
                '*' => here || carried,
                '%' => here || (carried && character != Some(SEPARATOR)),
                literal => from_before && character == Some(literal),
            };
            carried = *slot;
        }
        reachable = next;
    }
    reachable.last().copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(list: &ListCommand) -> Vec<String> {
        let existing: Vec<(String, Option<SpecialUse>)> =
            [("INBOX", None), ("Sent", Some(SpecialUse::Sent)), ("a/b", None), ("a/b/c", None)]
                .map(|(name, special)| (name.to_owned(), special))
                .to_vec();
        let subscribed = ["INBOX".to_owned(), "a/b/c".to_owned(), "gone/x".to_owned()];
        let mut out = Vec::new();
        for entry in list.select(&existing, &subscribed).flatten() {
            entry.write(&mut out, list.lsub);
        }
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    fn pattern(text: &str) -> ListCommand {
        ListCommand { patterns: vec![text.to_owned()], ..ListCommand::default() }
    }

    #[test]
    fn patterns_match_levels() {
        for (pattern, name, expected) in [
            ("*", "a/b", true),
            ("%", "a/b", false),
            ("%", "a", true),
            ("%/%", "a/b", true),
            ("a*c", "a/b/c", true),
            ("a%c", "a/b/c", false),
            ("", "a", false),
            ("*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn list_shows_what_exists_and_implied_parents() {
        assert_eq!(
            listed(&pattern("%")),
            [
                "* LIST (\\HasNoChildren) \"/\" INBOX",
                "* LIST (\\HasNoChildren \\Sent) \"/\" Sent",
                "* LIST (\\Noselect \\HasChildren) \"/\" a",
            ]
        );
        assert_eq!(listed(&pattern("inbox")), ["* LIST (\\HasNoChildren) \"/\" INBOX"]);
        let under = ListCommand { reference: "a/".into(), ..pattern("%") };
        assert_eq!(listed(&under), ["* LIST (\\HasChildren) \"/\" a/b"]);
    }

    #[test]
    fn subscriptions_outlive_mailboxes_and_show_through_parents() {
        let lsub = |text| ListCommand { lsub: true, ..pattern(text) };
        assert_eq!(
            listed(&lsub("%")),
            [
                "* LSUB () \"/\" INBOX",
                "* LSUB (\\Noselect) \"/\" a",
                "* LSUB (\\Noselect) \"/\" gone",
            ]
        );
        assert_eq!(
            listed(&lsub("*")),
            ["* LSUB () \"/\" INBOX", "* LSUB () \"/\" a/b/c", "* LSUB (\\Noselect) \"/\" gone/x"]
        );
        let subscribed = ListCommand { select_subscribed: true, ..pattern("*") };
        assert_eq!(
            listed(&subscribed),
            [
                "* LIST (\\HasNoChildren \\Subscribed) \"/\" INBOX",
                "* LIST (\\HasNoChildren \\Subscribed) \"/\" a/b/c",
                "* LIST (\\NonExistent \\HasNoChildren \\Subscribed) \"/\" gone/x",
            ]
        );
        let recursive =
            ListCommand { select_subscribed: true, recursive_match: true, ..pattern("%") };
        assert_eq!(
            listed(&recursive)[1..],
            [
                "* LIST (\\NonExistent \\HasChildren) \"/\" a (CHILDINFO (\"SUBSCRIBED\"))",
                "* LIST (\\NonExistent \\HasNoChildren) \"/\" gone (CHILDINFO (\"SUBSCRIBED\"))",
            ]
        );
    }
}
