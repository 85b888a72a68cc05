//! Which mailbox names there may be. RFC 9051 section 5.1.

use crate::error::Error;

pub const SEPARATOR: char = '/';
pub const INBOX: &str = "INBOX";
/// The mailbox of mail that is kept back from its owner. No name that [`check`] lets anybody give:
/// so nobody makes one, and a user's own mailbox is never in its way.
pub const QUARANTINE: &str = "*quarantine*";
const NAME_BYTES_MAX: usize = 1000;
const LEVELS_MAX: usize = 32;

/// `INBOX` in any case, alone or as the first level, is one mailbox; all else is taken exactly.
#[must_use]
pub fn canonical(name: &str) -> String {
    let (first, rest) = match name.split_once(SEPARATOR) {
        Some((first, rest)) => (first, Some(rest)),
        None => (name, None),
    };
    if !first.eq_ignore_ascii_case(INBOX) {
        return name.to_owned();
    }
    match rest {
        Some(rest) => format!("{INBOX}{SEPARATOR}{rest}"),
        None => INBOX.to_owned(),
    }
}

/// The canonical name, or why it may not be.
pub fn check(name: &str) -> Result<String, Error> {
    let refuse = |why| Err(Error::MailboxName(name.chars().take(100).collect(), why));
    if name.len() > NAME_BYTES_MAX {
        return refuse("it is longer than 1000 bytes");
    }
    if name.is_empty() || name.split(SEPARATOR).any(str::is_empty) {
        return refuse("it has an empty level");
    }
    if name.split(SEPARATOR).count() > LEVELS_MAX {
        return refuse("it has more than 32 levels");
    }
    if name.chars().any(|c| c.is_control() || c == '\u{2028}' || c == '\u{2029}') {
        return refuse("it has control characters");
    }
    if name.contains(['*', '%']) {
        return refuse("it has wildcards of LIST (* or %)");
    }
    Ok(canonical(name))
}

/// The levels above `name`, topmost first.
pub fn parents(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices(SEPARATOR).map(|(end, _)| &name[..end])
}

/// Whether `name` lies below `above`.
#[must_use]
pub fn is_below(name: &str, above: &str) -> bool {
    name.strip_prefix(above).is_some_and(|rest| rest.starts_with(SEPARATOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inbox_is_one_in_any_case_and_other_names_are_exact() {
        assert_eq!(canonical("inBox"), "INBOX");
        assert_eq!(canonical("inbox/Sub"), "INBOX/Sub");
        assert_eq!(canonical("Inboxes"), "Inboxes");
        assert_eq!(canonical("a/inbox"), "a/inbox");
    }

    #[test]
    fn odd_names_are_refused() {
        let long = "x".repeat(1001);
        let deep = vec!["x"; 33].join("/");
        for odd in ["", "/", "a/", "/a", "a//b", "a*", "50%", "a\u{7}", "a\0", &long, &deep] {
            assert!(check(odd).is_err(), "{odd:?}");
        }
        assert!(check(QUARANTINE).is_err());
        for fine in ["Sent", "a b", "été", "日本語", "a.b", "~x", "&", "\"quoted\"", "\\"] {
            assert!(check(fine).is_ok(), "{fine:?}");
        }
    }

    #[test]
    fn parents_go_from_the_top() {
        assert_eq!(parents("a/b/c").collect::<Vec<_>>(), ["a", "a/b"]);
        assert!(is_below("a/b", "a") && !is_below("ab", "a") && !is_below("a", "a"));
    }
}
