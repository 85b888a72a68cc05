//! The extensions that a script may ask for with `require`. RFC 5228 sections 3.2 and 6.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Capability {
    FileInto,
    Envelope,
    EncodedCharacter,
    Variables,
    Vacation,
    VacationSeconds,
    Relational,
    Imap4Flags,
    SubAddress,
    Body,
    Date,
    Index,
    Copy,
    Reject,
    EReject,
    SpamTest,
    SpamTestPlus,
    VirusTest,
    Mailbox,
    Include,
    SpecialUse,
    Duplicate,
    EditHeader,
    Environment,
    Fcc,
    ComparatorOctet,
    ComparatorAsciiCasemap,
    ComparatorAsciiNumeric,
    ComparatorUnicodeCasemap,
}

const NAMES: [(Capability, &str); 29] = [
    (Capability::FileInto, "fileinto"),
    (Capability::Envelope, "envelope"),
    (Capability::EncodedCharacter, "encoded-character"),
    (Capability::Variables, "variables"),
    (Capability::Vacation, "vacation"),
    (Capability::VacationSeconds, "vacation-seconds"),
    (Capability::Relational, "relational"),
    (Capability::Imap4Flags, "imap4flags"),
    (Capability::SubAddress, "subaddress"),
    (Capability::Body, "body"),
    (Capability::Date, "date"),
    (Capability::Index, "index"),
    (Capability::Copy, "copy"),
    (Capability::Reject, "reject"),
    (Capability::EReject, "ereject"),
    (Capability::SpamTest, "spamtest"),
    (Capability::SpamTestPlus, "spamtestplus"),
    (Capability::VirusTest, "virustest"),
    (Capability::Mailbox, "mailbox"),
    (Capability::Include, "include"),
    (Capability::SpecialUse, "special-use"),
    (Capability::Duplicate, "duplicate"),
    (Capability::EditHeader, "editheader"),
    (Capability::Environment, "environment"),
    (Capability::Fcc, "fcc"),
    (Capability::ComparatorOctet, "comparator-i;octet"),
    (Capability::ComparatorAsciiCasemap, "comparator-i;ascii-casemap"),
    (Capability::ComparatorAsciiNumeric, "comparator-i;ascii-numeric"),
    (Capability::ComparatorUnicodeCasemap, "comparator-i;unicode-casemap"),
];

/// What ManageSieve announces (RFC 5804 section 1.7), by single spaces.
#[must_use]
pub fn extensions() -> String {
    // Those two are part of the language itself.
    let base = [Capability::ComparatorOctet, Capability::ComparatorAsciiCasemap];
    let announced = NAMES.iter().filter(|(capability, _)| !base.contains(capability));
    announced.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
}

impl Capability {
    pub(super) fn named(name: &str) -> Option<Capability> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(capability, _)| *capability)
    }

    pub(super) fn name(self) -> &'static str {
        NAMES.iter().find(|(known, _)| *known == self).map_or("", |(_, name)| name)
    }

    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(_, name)| *name)
    }

    /// Whether whoever has asked for `self` has `other`, too.
    pub(super) fn brings(self, other: Capability) -> bool {
        self == other
            || matches!(
                (self, other),
                (Capability::SpamTestPlus, Capability::SpamTest)
                    | (Capability::VacationSeconds, Capability::Vacation)
            )
    }
}

/// The name among `known` that was probably meant: at most two letters away.
pub(super) fn meant<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    const CHARACTERS_MAX: usize = 32;
    if word.chars().count() > CHARACTERS_MAX {
        return None;
    }
    let near = known.into_iter().map(|name| (distance(word, name), name));
    near.filter(|(away, name)| *away <= 2 && *away < name.len()).min().map(|(_, name)| name)
}

/// Letters to change, add or remove (Levenshtein), by rows of the usual table.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = index;
        let mut left = index.saturating_add(1);
        let mut next = vec![left];
        for (above, expected) in row.iter().skip(1).zip(other.chars()) {
            let changed = diagonal.saturating_add(usize::from(letter != expected));
            left = changed.min(above.saturating_add(1)).min(left.saturating_add(1));
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_guessed() {
        for (capability, name) in NAMES {
            assert_eq!(Capability::named(name), Some(capability));
            assert_eq!(capability.name(), name);
        }
        assert_eq!(meant("fileinot", Capability::names()), Some("fileinto"));
        assert_eq!(meant("vacations", Capability::names()), Some("vacation"));
        assert_eq!(meant("regex", Capability::names()), None);
        assert!(extensions().starts_with("fileinto envelope "));
        assert!(!extensions().contains("octet"));
    }
}
