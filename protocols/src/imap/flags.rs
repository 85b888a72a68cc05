//! Flags and keywords. RFC 3501 section 2.3.2.
//!
//! Bits are laid out as the store has them, so that nothing needs translating: the low byte holds
//! the system flags, bit `8 + i` is keyword `i` of the mailbox's table.

use super::lexer::is_atom;

/// Longest keyword that is taken.
pub const KEYWORD_BYTES_MAX: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FlagBits(pub u64);

impl FlagBits {
    pub const SEEN: FlagBits = FlagBits(1);
    pub const ANSWERED: FlagBits = FlagBits(1 << 1);
    pub const FLAGGED: FlagBits = FlagBits(1 << 2);
    pub const DELETED: FlagBits = FlagBits(1 << 3);
    pub const DRAFT: FlagBits = FlagBits(1 << 4);

    #[must_use]
    pub fn contains(self, other: FlagBits) -> bool {
        self.0 & other.0 == other.0
    }
}

/// In the order in which they are written.
pub const SYSTEM_FLAGS: [(&str, FlagBits); 5] = [
    ("\\Answered", FlagBits::ANSWERED),
    ("\\Flagged", FlagBits::FLAGGED),
    ("\\Deleted", FlagBits::DELETED),
    ("\\Seen", FlagBits::SEEN),
    ("\\Draft", FlagBits::DRAFT),
];

/// Flags as a client names them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FlagList {
    pub system: FlagBits,
    pub keywords: Vec<String>,
}

impl FlagList {
    /// Adds a flag by name; false when it is not one that a client may set. `\Recent` is dropped
    /// without complaint, since old clients send it with what they copy.
    pub fn add(&mut self, name: &[u8]) -> bool {
        if let Some((_, bit)) =
            SYSTEM_FLAGS.iter().find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()))
        {
            self.system = FlagBits(self.system.0 | bit.0);
            return true;
        }
        if name.starts_with(b"\\") {
            return name.eq_ignore_ascii_case(b"\\Recent");
        }
        if !is_atom(name) || name.len() > KEYWORD_BYTES_MAX {
            return false;
        }
        let keyword = String::from_utf8_lossy(name).into_owned();
        if !self.keywords.iter().any(|known| known.eq_ignore_ascii_case(&keyword)) {
            self.keywords.push(keyword);
        }
        true
    }
}

/// The bit of keyword number `index` of a mailbox's table.
#[must_use]
pub fn keyword_bit(index: usize) -> FlagBits {
    let shift = u32::try_from(index.saturating_add(8)).unwrap_or(u32::MAX);
    FlagBits(1_u64.checked_shl(shift).unwrap_or(0))
}

/// `\Seen $Junk`, without parentheses.
#[must_use]
pub fn names(bits: FlagBits, keywords: &[String], recent: bool) -> String {
    let system = SYSTEM_FLAGS.iter().filter(|(_, bit)| bits.contains(*bit)).map(|(name, _)| *name);
    let own = keywords.iter().enumerate().filter_map(|(index, keyword)| {
        let bit = keyword_bit(index);
        (bit.0 != 0 && bits.contains(bit)).then_some(keyword.as_str())
    });
    let recent = recent.then_some("\\Recent");
    system.chain(own).chain(recent).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_names() {
        let keywords = vec!["$Junk".to_owned(), "work".to_owned()];
        let bits = FlagBits(FlagBits::SEEN.0 | keyword_bit(1).0);
        assert_eq!(names(bits, &keywords, true), "\\Seen work \\Recent");
        assert_eq!(names(FlagBits(0), &keywords, false), "");
        assert_eq!(keyword_bit(60), FlagBits(0));
    }

    #[test]
    fn only_what_a_client_may_set_is_taken() {
        let mut list = FlagList::default();
        assert!(
            list.add(b"\\seen") && list.add(b"Work") && list.add(b"work") && list.add(b"\\Recent")
        );
        assert!(!list.add(b"\\Custom") && !list.add(b"") && !list.add(b"a b") && !list.add(b"a]("));
        assert_eq!(list, FlagList { system: FlagBits::SEEN, keywords: vec!["Work".into()] });
    }
}
