//! Addresses as tests and actions see them. RFC 5228 section 2.7.4, RFC 5233.

use super::program::AddressPart;
use crate::message::envelope::{Address as Entry, addresses};
use crate::message::text::decode_field;

/// What stands between the user and the detail of a local part.
const SEPARATOR: char = '+';

/// An address to send to, alone or as in `Ann <ann@example.test>`, and the display name.
pub(super) fn single(text: &str) -> Option<(String, crate::Address)> {
    let text = text.trim();
    if let Some(address) = crate::Address::parse(text.as_bytes()) {
        return Some((String::new(), address));
    }
    if !text.ends_with('>') {
        return None;
    }
    let entries = addresses(text.as_bytes(), 2);
    let [Entry { name, mailbox: Some(mailbox), host: Some(host) }] = entries.as_slice() else {
        return None;
    };
    let address = [mailbox.as_slice(), b"@", host.as_slice()].concat();
    let address = match crate::Address::parse(&address) {
        Some(address) => address,
        // The quotes of a local part that needs them came off.
        None => crate::Address::parse(&[b"\"".as_slice(), mailbox, b"\"@", host].concat())?,
    };
    let name = name.as_deref().map(decode_field).unwrap_or_default();
    Some((name, address))
}

/// The addresses of a field, as `local@domain`, group names left out.
pub(super) fn of_field(value: &[u8], addresses_max: usize) -> Vec<String> {
    let entries = addresses(value, addresses_max);
    entries
        .iter()
        .filter_map(|entry| match entry {
            Entry { mailbox: Some(mailbox), host: Some(host), .. } => {
                let mailbox = String::from_utf8_lossy(mailbox);
                if host.is_empty() {
                    return Some(mailbox.into_owned());
                }
                Some(format!("{mailbox}@{}", String::from_utf8_lossy(host)))
            }
            Entry { .. } => None,
        })
        .collect()
}

/// The part of an address; `None`: it has none, so no test can hold.
pub(super) fn part(part: AddressPart, address: &str) -> Option<&str> {
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    match part {
        AddressPart::All => Some(address),
        AddressPart::LocalPart => Some(local),
        AddressPart::Domain => Some(domain),
        AddressPart::User => Some(local.split_once(SEPARATOR).map_or(local, |(user, _)| user)),
        AddressPart::Detail => local.split_once(SEPARATOR).map(|(_, detail)| detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_parts() {
        let of = |wanted| part(wanted, "ken+sieve+x@example.org");
        assert_eq!(of(AddressPart::User), Some("ken"));
        assert_eq!(of(AddressPart::Detail), Some("sieve+x"));
        assert_eq!(of(AddressPart::LocalPart), Some("ken+sieve+x"));
        assert_eq!(of(AddressPart::Domain), Some("example.org"));
        assert_eq!(part(AddressPart::Detail, "ken@example.org"), None);
        assert_eq!(part(AddressPart::Detail, "ken+@example.org"), Some(""));
        assert_eq!(part(AddressPart::Domain, ""), Some(""));
    }

    #[test]
    fn one_address_is_told_from_none_and_several() {
        let (name, address) = single("Ann <ann@example.test>").unwrap();
        assert_eq!((name.as_str(), address.as_str()), ("Ann", "ann@example.test"));
        assert_eq!(single("\"a b\"@x").unwrap().1.to_string(), "\"a b\"@x");
        for odd in
            ["", "ann", "a@b, c@d", "g: a@b;", "Ann <>", "Ann a@b", "a@b>c", "a@b, Ann <c@d>"]
        {
            assert!(single(odd).is_none(), "{odd}");
        }
    }
}
