//! In whose name a message leaves, and with whose keys it is signed for that.

use super::message::Envelope;
use crate::directory::{self, Directory};
use crate::domain::keys::DkimKeys;
use crate::domain::signing;
use std::sync::Arc;

/// Whose words a message is, for signing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// Those of the account that has logged in: signed by the domain in From if that address is the
    /// account's, so that nobody has another's domain vouch for what they write; otherwise by the
    /// domain of the sender.
    Account,
    /// Our own, or written by us for a user.
    Ourselves,
    /// Somebody else's, passed on: not signed, and what others have signed still holds.
    Stranger,
}

/// A domain, and the keys that sign for it.
pub type Signer = (String, Arc<DkimKeys>);

impl Author {
    /// Who signs a message that begins like this.
    pub fn signer(
        self,
        directory: &Directory,
        envelope: &Envelope,
        message: &[u8],
    ) -> Option<Signer> {
        if self == Author::Stranger {
            return None;
        }
        let authors = signing::authors(message).unwrap_or_default();
        let candidates = match self {
            Author::Account => names_of_account(directory, envelope, &authors),
            Author::Ourselves | Author::Stranger => own_names(&authors),
        };
        candidates.into_iter().find_map(|domain| {
            let keys = directory.dkim(&domain)?;
            keys.signing().next()?;
            Some((domain, Arc::clone(keys)))
        })
    }
}

/// The one domain of all authors, if the account may send as all of them; the sender's, which was
/// looked at before; the account's. A server that sends others' mail through us has nobody but the
/// authors vouch for it: it also passes on what strangers have written.
fn names_of_account(directory: &Directory, envelope: &Envelope, authors: &[String]) -> Vec<String> {
    let user = envelope.account.as_deref().unwrap_or_default();
    let mut domains: Vec<Option<String>> = authors.iter().map(|one| domain_of(one)).collect();
    domains.dedup();
    let author = match domains.as_slice() {
        [Some(domain)] if authors.iter().all(|author| directory.may_send_as(user, author)) => {
            Some(domain.clone())
        }
        _ => None,
    };
    if directory.login(user).is_some_and(|(_, account)| account.send_as.is_some()) {
        return author.into_iter().collect();
    }
    let sender = envelope.sender.as_deref().and_then(domain_of);
    [author, sender, domain_of(user)].into_iter().flatten().collect()
}

/// Those of `authors` who are not the account that logs in as `user`.
pub fn others(directory: &Directory, user: &str, mut authors: Vec<String>) -> Vec<String> {
    authors.retain(|author| !directory.may_send_as(user, author));
    authors
}

/// The author's domain, or the next one above it that is ours: reports come from `postmaster@`
/// our host's name.
fn own_names(authors: &[String]) -> Vec<String> {
    let [author] = authors else { return Vec::new() };
    let mut names = Vec::new();
    let mut next = domain_of(author);
    while let Some(name) = next {
        next = name.split_once('.').map(|(_, above)| above.to_owned());
        names.push(name);
    }
    names
}

fn domain_of(address: &str) -> Option<String> {
    directory::canonical_domain(address.rsplit_once('@')?.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn directory() -> Directory {
        let mut directory = Directory::default();
        let account = |id: u32| {
            let hash = crate::passwords::ScramKeys::nobody("x", &[0; 32]);
            let password =
                crate::passwords::StoredPassword { argon2id: String::new(), scram: hash };
            directory::Account {
                id,
                shard: 0,
                password,
                quota_bytes: None,
                quota_messages: None,
                created_unix: 0,
                limits: None,
                send_as: None,
            }
        };
        let json = |value: serde_json::Value| Some(Bytes::from(value.to_string()));
        let domain = serde_json::json!({ "created_unix": 0 });
        let alias = serde_json::json!({ "targets": ["ann@a.test"] });
        let value = |id| json(serde_json::to_value(account(id)).unwrap());
        let unreadable = directory.apply(&[
            (Bytes::from("d:a.test"), json(domain.clone())),
            (Bytes::from("d:b.test"), json(domain)),
            (Bytes::from("a:ann@a.test"), value(1)),
            (Bytes::from("a:bob@b.test"), value(2)),
            (Bytes::from("l:sales@b.test"), json(alias)),
            (Bytes::from("k:a.test"), json(serde_json::to_value(DkimKeys::default()).unwrap())),
        ]);
        assert_eq!(unreadable, [""; 0]);
        assert!(directory.dkim("a.test").is_some() && directory.dkim("b.test").is_none());
        directory
    }

    #[test]
    fn nobody_signs_with_the_domain_of_another() {
        let directory = directory();
        let envelope = Envelope {
            id: "0.1".into(),
            sender: Some("ann@a.test".into()),
            account: Some("ann@a.test".into()),
            ..Envelope::default()
        };
        let first = |authors: &[&str]| {
            let authors: Vec<String> = authors.iter().map(|&one| one.to_owned()).collect();
            names_of_account(&directory, &envelope, &authors).remove(0)
        };
        assert_eq!(first(&["Ann@A.test"]), "a.test");
        assert_eq!(first(&["ann+news@a.test"]), "a.test");
        // An alias of hers in another domain of ours.
        assert_eq!(first(&["sales@b.test"]), "b.test");
        for forged in [
            &["bob@b.test"][..],
            &["nobody@b.test"],
            &["x@bank.test"],
            &["sales@b.test", "bob@b.test"],
            &["sales@b.test", "ann@a.test"],
            &["sales@b.test", "x@"],
            &[],
        ] {
            assert_eq!(first(forged), "a.test", "{forged:?}");
        }
    }

    #[test]
    fn what_another_server_sends_through_us_is_signed_for_its_authors_alone() {
        let mut directory = directory();
        let value = directory.account("ann@a.test").unwrap().clone();
        let value = directory::Account {
            send_as: Some(directory::SendAs::Domains(["c.test".into()].into())),
            ..value
        };
        let value = serde_json::to_vec(&value).unwrap();
        directory.apply(&[(Bytes::from("a:ann@a.test"), Some(value.into()))]);
        let envelope = Envelope {
            id: "0.1".into(),
            sender: Some("x@c.test".into()),
            account: Some("ann@a.test".into()),
            ..Envelope::default()
        };
        let names = |author: &str| names_of_account(&directory, &envelope, &[author.to_owned()]);
        assert_eq!(names("y@c.test"), ["c.test"]);
        assert_eq!(names("ann@a.test"), ["a.test"]);
        assert_eq!(names("stranger@d.test"), [""; 0]);
    }

    #[test]
    fn our_own_words_are_signed_by_the_domain_that_our_host_is_in() {
        let names = own_names(&["postmaster@mail.a.test".to_owned()]);
        assert_eq!(names, ["mail.a.test", "a.test", "test"]);
        assert!(own_names(&[]).is_empty());
    }
}
