//! One outside mailbox for many accounts (DomainPOP): who a message is for is read from its header,
//! where the server that put it there has written it down.
//!
//! The rule names fields, one after the other. The first field, from the top of the header, that
//! names an address of ours decides: all of ours that it names get the message. Without any it goes
//! to the account that the mailbox belongs to. Fields that senders write (`To`, `Cc`) are looked at
//! only where the operator says so: they don't name blind copies, and name everybody else.

use protocols::message::envelope::addresses;
use protocols::message::field::{Field, Fields};

/// What servers write on top, in the order in which it is to be believed. Of `Received`
/// it is the `for`.
pub const USUAL: [&str; 5] =
    ["Delivered-To", "X-Original-To", "Envelope-To", "X-Envelope-To", "Received"];
/// Addresses of one field that are looked at.
const ADDRESSES_MAX: usize = 100;

/// Who gets it, by `ours`, which knows of an address whose it is.
pub fn recipients<R>(header: &[u8], rule: &[String], ours: impl Fn(&str) -> Vec<R>) -> Vec<R> {
    for name in rule {
        for field in Fields::new(header).filter(|field| field.is(name)) {
            let found: Vec<R> = named(&field).iter().flat_map(|address| ours(address)).collect();
            if !found.is_empty() {
                return found;
            }
        }
    }
    Vec::new()
}

fn named(field: &Field<'_>) -> Vec<String> {
    if field.is("Received") {
        return received_for(field.value).into_iter().collect();
    }
    let text = |part: Option<std::borrow::Cow<'_, [u8]>>| {
        part.map(|part| String::from_utf8_lossy(&part).trim().to_owned())
    };
    let found = addresses(field.value, ADDRESSES_MAX);
    let address = |one: protocols::message::envelope::Address| {
        let host = text(one.host.map(Into::into))?;
        Some(format!("{}@{host}", text(one.mailbox.map(Into::into))?))
    };
    found.into_iter().filter_map(address).collect()
}

/// RFC 5321 section 4.4: `for <ann@example.org>`; comments hold what the client said.
fn received_for(value: &[u8]) -> Option<String> {
    let mut depth = 0_usize;
    let outside = |c: &char| {
        depth = match c {
            '(' => depth + 1,
            ')' => depth.saturating_sub(1),
            _ => depth,
        };
        depth == 0
    };
    let text: String = String::from_utf8_lossy(value).chars().filter(outside).collect();
    let mut words = text.split(|c: char| c.is_ascii_whitespace() || c == ';');
    words.find(|word| word.eq_ignore_ascii_case("for"))?;
    let word = words.find(|word| !word.is_empty())?;
    let address = word.trim_start_matches('<').trim_end_matches('>');
    address.contains('@').then(|| address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(header: &str, rule: &[&str]) -> Vec<String> {
        let rule: Vec<String> = rule.iter().map(|name| (*name).to_owned()).collect();
        recipients(header.as_bytes(), &rule, |address| {
            let is_ours = address.ends_with("@b.test");
            is_ours.then(|| address.to_owned()).into_iter().collect()
        })
    }

    #[test]
    fn the_first_field_that_names_one_of_ours_decides() {
        let header = "Delivered-To: box@provider.test\r\nDelivered-To: ann@b.test\r\nDelivered-To: bob@b.test\r\n\
            X-Original-To: eve@b.test\r\nTo: \"A\" <ann@b.test>, bob@b.test, x@c.test\r\n\r\nX-Y: dan@b.test\r\n";
        assert_eq!(to(header, &USUAL), ["ann@b.test"]);
        assert_eq!(to(header, &["x-original-to", "Delivered-To"]), ["eve@b.test"]);
        assert_eq!(to(header, &["To"]), ["ann@b.test", "bob@b.test"]);
        assert_eq!(to(header, &["X-Y", "Subject"]), Vec::<String>::new());
    }

    #[test]
    fn received_says_for_whom() {
        let header = "Received: from a (for <eve@b.test> (x)) by b\r\n\tid y; date\r\n\
            Received: by x for bob@b.test; date\r\n\r\n";
        assert_eq!(to(header, &["Received"]), ["bob@b.test"]);
        let header = "Received: from a by b\r\n\tid x for <ann@b.test>; date\r\n\r\n";
        assert_eq!(to(header, &USUAL), ["ann@b.test"]);
        assert_eq!(to("Received: from a by b for\r\n\r\n", &USUAL), Vec::<String>::new());
    }
}
