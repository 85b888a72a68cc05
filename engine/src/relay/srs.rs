//! Senders of mail that is forwarded, rewritten (SRS) so that SPF passes where it goes: a host
//! that passes on `bob@there.test` is none of that domain's, but it is one of the domain whose
//! mail it forwards.
//!
//! ```text
//! SRS0=PROOF=DAY=there.test=bob@example.org            the sender of a message that we forward
//! SRS1=PROOF=example.org==PROOF=DAY=there.test=bob@…   of one that example.org forwarded to us
//! ```
//!
//! What comes back to such an address is a bounce, and goes to whom it stands for: the sender, or
//! the first host that forwarded the message, so addresses don't grow with each host. The proof
//! is 40 bits of an HMAC-SHA-256 with a key of this host, over all that follows it, so that this
//! is no way to send mail to anybody; base32 in lower case, and taken in any case, since hosts
//! change that on the way. The day, modulo 1024, ends it: in SRS0 ours, in SRS1 the first host's
//! own, who looks at it.

use crate::directory::canonical_domain;
use crate::host_key::HostKey;
use protocols::Address;
use ring::hmac;

/// Where the key is in the directory.
pub const KEY_NAME: &str = "srs";
const PURPOSE: &[u8] = b"kura rewritten sender\0";
const DAY_SECONDS: u64 = 86_400;
/// Days are counted modulo this: two digits of base32.
const DAYS: u64 = 1024;
/// A clock may be set back a little.
const DAYS_AHEAD: u64 = 1;
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const PROOF_BYTES: usize = 5;
/// RFC 5321 section 4.5.3.1.3, less its brackets.
const PATH_BYTES_MAX: usize = 254;

/// What rewrites senders: the key, and for how many days an address is good.
#[derive(Debug, Clone, Copy)]
pub struct Rewriter<'k> {
    pub key: &'k HostKey,
    pub days: u64,
    /// Unix seconds.
    pub now: u64,
}

/// Why an address of this form stands for nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("This rewritten address is not ours")]
    Forged,
    #[error("This rewritten address has expired")]
    Expired,
}

/// Which form a local part has, and what follows the separator.
fn form(local: &str) -> Option<(u8, &str)> {
    let (word, rest) = local.split_at_checked(4)?;
    let form = match word.to_ascii_uppercase().as_str() {
        "SRS0" => 0,
        "SRS1" => 1,
        _ => return None,
    };
    rest.starts_with(['=', '+', '-']).then_some((form, rest))
}

/// Whether it was rewritten, by us or by anybody.
pub fn is_rewritten(address: &Address) -> bool {
    form(address.local()).is_some()
}

impl Rewriter<'_> {
    /// `sender` as it leaves, in our `domain`. `None`: it would be too long for a path,
    /// and stays as it is.
    pub fn rewrite(&self, sender: &Address, domain: &str) -> Option<Address> {
        let local = match form(sender.local()) {
            // Forwarded once: the first host gets what comes back.
            Some((0, rest)) => self.proven(1, &format!("{}={rest}", sender.domain())),
            // More than once: the first host stands in it, behind the proof of the last one.
            Some((_, rest)) if rest[1..].split('=').count() > 2 => {
                let (_, behind) = rest[1..].split_once('=')?;
                self.proven(1, behind)
            }
            Some(_) | None => {
                let day = digits(self.now / DAY_SECONDS % DAYS, 2);
                self.proven(0, &format!("{day}={}={}", sender.domain(), sender.local()))
            }
        };
        let address = address(&local, domain)?;
        (address.to_string().len() <= PATH_BYTES_MAX).then_some(address)
    }

    /// Whom an address of ours stands for. `None`: it has not this form.
    pub fn stands_for(&self, address: &Address) -> Option<Result<Address, Fault>> {
        let (form, rest) = form(address.local())?;
        Some(self.open(form, &rest[1..]))
    }

    fn open(&self, form: u8, rest: &str) -> Result<Address, Fault> {
        let (proof, behind) = rest.split_once('=').ok_or(Fault::Forged)?;
        if !self.proves(form, behind, proof) {
            return Err(Fault::Forged);
        }
        let mut parts = behind.splitn(if form == 0 { 3 } else { 2 }, '=');
        let mut next = || parts.next().ok_or(Fault::Forged);
        let original = if form == 0 {
            let (day, domain, local) = (next()?, next()?, next()?);
            let day = number(day).ok_or(Fault::Forged)?;
            let today = self.now / DAY_SECONDS % DAYS;
            let age = (today + DAYS + DAYS_AHEAD - day % DAYS) % DAYS;
            if age > self.days + DAYS_AHEAD {
                return Err(Fault::Expired);
            }
            self::address(local, domain)
        } else {
            let (domain, rest) = (next()?, next()?);
            self::address(&format!("SRS0{rest}"), domain)
        };
        original.ok_or(Fault::Forged)
    }

    fn proven(&self, form: u8, text: &str) -> String {
        let tag = self.tag(form, text);
        let number = tag.iter().fold(0, |sum, octet| sum << 8 | u64::from(*octet));
        format!("SRS{form}={}={text}", digits(number, 8))
    }

    fn tag(&self, form: u8, text: &str) -> [u8; PROOF_BYTES] {
        let text = text.to_lowercase();
        let tag = hmac::sign(&self.key.signing(), &[PURPOSE, &[form], text.as_bytes()].concat());
        let mut proof = [0; PROOF_BYTES];
        proof.copy_from_slice(&tag.as_ref()[..PROOF_BYTES]);
        proof
    }

    /// In the same time, whatever is wrong with the proof: what is compared is a MAC of each.
    fn proves(&self, form: u8, text: &str, proof: &str) -> bool {
        let given = if proof.len() == 8 { number(proof) } else { None };
        let given = given.unwrap_or(u64::MAX).to_be_bytes();
        let mut expected = [0; 8];
        expected[8 - PROOF_BYTES..].copy_from_slice(&self.tag(form, text));
        let key = self.key.signing();
        let expected = hmac::sign(&key, &expected);
        hmac::verify(&key, &given, expected.as_ref()).is_ok()
    }
}

/// Quoted where it has to be.
fn address(local: &str, domain: &str) -> Option<Address> {
    let escaped = local.replace('\\', "\\\\").replace('"', "\\\"");
    Address::parse(format!("\"{escaped}\"@{domain}").as_bytes())
}

fn digits(number: u64, count: u32) -> String {
    let digit = |place: u32| {
        let value = (number >> (5 * place)) & 31;
        char::from(DIGITS[usize::try_from(value).unwrap_or(0)])
    };
    (0..count).rev().map(digit).collect()
}

fn number(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 12 {
        return None;
    }
    text.bytes().try_fold(0_u64, |sum, letter| {
        let letter = letter.to_ascii_lowercase();
        let value = DIGITS.iter().position(|&digit| digit == letter)?;
        Some(sum << 5 | u64::try_from(value).ok()?)
    })
}

/// The domain of an address, as the directory has it.
pub fn domain_of(address: &Address) -> String {
    canonical_domain(address.domain()).unwrap_or_else(|| address.domain().to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_711_599;

    fn parsed(text: &str) -> Address {
        Address::parse(text.as_bytes()).unwrap()
    }

    fn at(key: &HostKey, now: u64) -> Rewriter<'_> {
        Rewriter { key, days: 21, now }
    }

    #[test]
    fn what_is_rewritten_comes_back() {
        let key = HostKey([7; 32]);
        let srs = at(&key, NOW);
        for sender in ["bob@there.test", "\"a b\"@there.test", "x=y+z@a.b.test", "Bob@[192.0.2.1]"]
        {
            let sender = parsed(sender);
            let ours = srs.rewrite(&sender, "here.test").unwrap();
            assert!(is_rewritten(&ours) && ours.domain() == "here.test", "{ours}");
            assert_eq!(srs.stands_for(&ours), Some(Ok(sender)));
        }
        let plain = srs.rewrite(&parsed("bob@there.test"), "here.test").unwrap();
        assert!(plain.local().ends_with("=there.test=bob"), "{plain}");
        // A host on the way may write it all in lower case.
        let lower = parsed(&plain.to_string().to_lowercase());
        assert_eq!(srs.stands_for(&lower), Some(Ok(parsed("bob@there.test"))));
        assert_eq!(srs.stands_for(&parsed("ann@here.test")), None);
        assert_eq!(srs.stands_for(&parsed("srs0@here.test")), None);
    }

    #[test]
    fn addresses_do_not_grow_with_each_host_and_bounces_go_to_the_first() {
        let keys = [1, 2, 3].map(|octet| HostKey([octet; 32]));
        let [first, second, third] = [0, 1, 2].map(|host| at(&keys[host], NOW));
        let once = first.rewrite(&parsed("bob@there.test"), "one.test").unwrap();
        let twice = second.rewrite(&once, "two.test").unwrap();
        let thrice = third.rewrite(&twice, "three.test").unwrap();
        assert!(twice.local().starts_with("SRS1=") && twice.local().contains("=one.test=="));
        assert_eq!(thrice.local().len(), twice.local().len());
        assert_eq!(third.stands_for(&thrice), Some(Ok(once.clone())));
        assert_eq!(second.stands_for(&twice), Some(Ok(once.clone())));
        assert_eq!(first.stands_for(&once), Some(Ok(parsed("bob@there.test"))));
        // Others' ways of writing it.
        let other = second.rewrite(&parsed("SRS0+ab=cd=x.test=y@one.test"), "two.test").unwrap();
        let back = second.stands_for(&other).unwrap().unwrap();
        assert_eq!(back, parsed("SRS0+ab=cd=x.test=y@one.test"));
    }

    #[test]
    fn what_was_changed_or_signed_by_another_is_forged() {
        let (key, other) = (HostKey([7; 32]), HostKey([8; 32]));
        let srs = at(&key, NOW);
        let ours = srs.rewrite(&parsed("bob@there.test"), "here.test").unwrap();
        assert_eq!(at(&other, NOW).stands_for(&ours), Some(Err(Fault::Forged)));
        let local = ours.local().to_owned();
        for at in 5..local.len() {
            let mut changed = local.clone().into_bytes();
            changed[at] = if changed[at] == b'x' { b'y' } else { b'x' };
            let changed = String::from_utf8(changed).unwrap();
            let changed = parsed(&format!("{changed}@here.test"));
            assert_eq!(srs.stands_for(&changed), Some(Err(Fault::Forged)), "{changed}");
        }
        let as_first = parsed(&format!("{}@here.test", local.replacen("SRS0", "SRS1", 1)));
        assert_eq!(srs.stands_for(&as_first), Some(Err(Fault::Forged)));
        for odd in ["SRS0=", "SRS0==", "SRS0====", "SRS0=a", "SRS1=a=b=c", "SRS0-aaaaaaaa=aa=b=c"] {
            let odd = address(odd, "here.test").unwrap();
            assert_eq!(srs.stands_for(&odd), Some(Err(Fault::Forged)), "{odd}");
        }
    }

    #[test]
    fn an_address_ends_after_its_days_also_where_their_count_wraps() {
        let key = HostKey([7; 32]);
        for start in [NOW, 1023 * DAY_SECONDS, 2047 * DAY_SECONDS + 7] {
            let ours = at(&key, start).rewrite(&parsed("b@t.test"), "here.test").unwrap();
            let after = |days: u64| at(&key, start + days * DAY_SECONDS).stands_for(&ours);
            assert!(matches!(after(0), Some(Ok(_))) && matches!(after(21), Some(Ok(_))));
            assert_eq!(after(22), Some(Err(Fault::Expired)));
            assert_eq!(after(900), Some(Err(Fault::Expired)));
            let before = at(&key, start - DAY_SECONDS).stands_for(&ours);
            assert!(matches!(before, Some(Ok(_))), "a clock that was set back");
        }
    }

    #[test]
    fn what_fits_no_path_is_left_alone() {
        let key = HostKey([7; 32]);
        let srs = at(&key, NOW);
        let long = parsed(&format!("{}@there.test", "x".repeat(64)));
        assert!(srs.rewrite(&long, "here.test").is_some());
        let longer = parsed(&format!("{}@there.test", "x".repeat(230)));
        assert_eq!(srs.rewrite(&longer, "here.test"), None);
        let odd = parsed("SRS1=x@there.test");
        let ours = srs.rewrite(&odd, "here.test").unwrap();
        assert_eq!(srs.stands_for(&ours), Some(Ok(odd)), "not of that form, so it is a sender");
    }
}
