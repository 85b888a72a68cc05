//! What an operator can ask of the classifiers. On shard 0.

use super::Forgotten;
use super::learning::{self, Lesson};
use super::tokens::Tokens;
use crate::operations::{Fault, existing_account, on};
use crate::shard::Shard;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::rc::Rc;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "spam", rename_all = "snake_case")]
pub enum SpamRequest {
    /// What it says of each.
    Margins {
        messages: Vec<Tokens>,
    },
    Learn {
        lessons: Vec<Lesson>,
    },
    /// What an account has sorted.
    Forget {
        address: String,
    },
    ForgetShared,
}

pub(crate) async fn execute(shard: &Rc<Shard>, request: SpamRequest) -> Result<Value, Fault> {
    match request {
        SpamRequest::Margins { messages } => {
            let learned = shard.learned.borrow();
            let margins = messages.iter().map(|tokens| learned.classifier.margin(tokens));
            Ok(json!(margins.collect::<Vec<_>>()))
        }
        SpamRequest::Learn { lessons } => match learning::learn(shard, lessons).await {
            Ok(taught) => Ok(json!(taught)),
            Err(error) => Err(error.to_string()),
        },
        SpamRequest::Forget { address } => {
            let (address, account) = existing_account(shard, &address)?;
            let id = account.id();
            let forget =
                move |shard: Rc<Shard>| async move { super::forget_sorted(&shard, id).await };
            let Forgotten { messages, senders } = on(shard, account.shard, forget).await?;
            Ok(json!({ "address": address, "messages": messages, "senders": senders }))
        }
        SpamRequest::ForgetShared => {
            Ok(json!({ "shared": true, "messages": learning::forget(shard).await? }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Account;
    use crate::filter::classifier::Class;
    use crate::filter::senders::{self, Sender};
    use crate::filter::{own, written};
    use crate::operations::{self, Request};
    use crate::server::Server;
    use std::path::PathBuf;
    use storage::store::Space;

    /// With one domain.
    fn begin(name: &str) -> (PathBuf, Server) {
        let (dir, server) = Server::on_trial(&format!("forget-{name}"));
        let domain = "a.test".to_owned();
        let without_dkim = true;
        let (postmaster, abuse) = (None, None);
        ask(&server, Request::DomainAdd { domain, postmaster, abuse, without_dkim }).unwrap();
        (dir, server)
    }

    fn ask(server: &Server, request: Request) -> Result<Value, Fault> {
        server.ask(0, |shard| operations::execute(shard, request)).unwrap()
    }

    fn spam(server: &Server, request: SpamRequest) -> Value {
        ask(server, Request::Spam(request)).unwrap()
    }

    fn lesson(number: u32, class: Class) -> Lesson {
        let kind = if class == Class::Spam { 7 << 20 } else { 9 << 24 };
        let tokens = Tokens(vec![kind, number.wrapping_mul(0x9e37_79b1) | 1]);
        Lesson { class, fingerprint: u64::from(number) << 8, tokens }
    }

    /// An account that has sorted so many messages, each of another sender.
    fn account_that_sorts(server: &Server, address: &str, messages: u32) -> Account {
        let account = Request::AccountAdd {
            address: address.to_owned(),
            password: Some("a good password".to_owned()),
            quota_bytes: None,
            quota_messages: None,
        };
        ask(server, account).unwrap();
        let name = address.to_owned();
        let (_, account) = server
            .ask(0, move |shard| async move { existing_account(&shard, &name) })
            .unwrap()
            .unwrap();
        let id = account.id();
        let sort = move |shard: Rc<Shard>| async move {
            let lessons: Vec<own::Lesson> = (0..messages)
                .map(|number| {
                    let lesson = lesson(number, Class::Spam);
                    own::Lesson::of(&lesson, &shard.learned.borrow().classifier, 7)
                })
                .collect();
            let senders: Vec<_> = (0..messages)
                .map(|number| (Sender::named(&format!("{number}@b.test")), Class::Spam))
                .collect();
            senders::remember(&shard, id, &senders).await.unwrap();
            own::remember(&shard, id, lessons).await.unwrap();
            let friend = Sender::named("friend@b.test");
            written::remember(&shard, id, &[friend]).await.unwrap();
        };
        server.ask(usize::from(account.shard), sort).unwrap();
        account
    }

    /// Keys of these spaces on the account's home shard that are the account's.
    fn keys(server: &Server, account: &Account, spaces: [Space; 3]) -> [usize; 3] {
        let id = account.id();
        let count = move |shard: Rc<Shard>| async move {
            spaces.map(|space| shard.store.scan_prefix(space, &super::super::key(id)).len())
        };
        server.ask(usize::from(account.shard), count).unwrap()
    }

    const SPACES: [Space; 3] = [own::SPACE, senders::SPACE, written::SPACE];

    #[test]
    fn what_an_account_has_sorted_is_forgotten_and_of_one_that_is_removed_nothing_is_left() {
        let (dir, server) = begin("account");
        let ann = account_that_sorts(&server, "ann@a.test", 3);
        let bob = account_that_sorts(&server, "bob@a.test", 5);
        assert_ne!(ann.shard, bob.shard);
        assert_eq!(keys(&server, &ann, SPACES), [3, 1, 1]);
        let forget = |address: &str| SpamRequest::Forget { address: address.to_owned() };
        let said = spam(&server, forget("Ann@a.test"));
        assert_eq!(said, json!({ "address": "ann@a.test", "messages": 3, "senders": 3 }));
        assert_eq!(keys(&server, &ann, SPACES), [0, 0, 1]);
        assert_eq!(spam(&server, forget("ann@a.test"))["messages"], 0);
        assert_eq!(keys(&server, &bob, SPACES), [5, 1, 1]);
        ask(&server, Request::AccountRemove { address: "bob@a.test".to_owned() }).unwrap();
        assert_eq!(keys(&server, &bob, SPACES), [0, 0, 0]);
        let fault = ask(&server, Request::Spam(forget("bob@a.test"))).unwrap_err();
        assert!(fault.contains("no account bob@a.test"), "{fault}");
        server.stop();
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_shared_classifier_takes_the_last_word_and_forgets_on_every_core() {
        let (dir, server) = begin("shared");
        let totals = |core| {
            let look = |shard: Rc<Shard>| async move { shard.learned.borrow().classifier.totals };
            let totals = server.ask(core, look).unwrap();
            (totals.counted_wanted, totals.counted_spam)
        };
        let learn = |lessons| {
            let taught = spam(&server, SpamRequest::Learn { lessons });
            (taught["learned"].as_u64().unwrap(), taught["moved"].as_u64().unwrap())
        };
        assert_eq!(learn(vec![lesson(1, Class::Spam), lesson(2, Class::Wanted)]), (2, 0));
        assert_eq!(learn(vec![lesson(1, Class::Wanted)]), (1, 1));
        // As it is known, then the other way; the other way, then as it was known.
        assert_eq!(learn(vec![lesson(1, Class::Wanted), lesson(1, Class::Spam)]), (1, 1));
        assert_eq!(learn(vec![lesson(1, Class::Wanted), lesson(1, Class::Spam)]), (2, 2));
        assert_eq!(totals(0), (1, 1));
        assert_eq!(totals(1), (1, 1));
        assert_eq!(spam(&server, SpamRequest::ForgetShared)["messages"], 2);
        assert_eq!((totals(0), totals(1)), ((0, 0), (0, 0)));
        let left = server.ask(0, |shard| async move { shard.store.scan(learning::SPACE).len() });
        assert_eq!(left.unwrap(), 0);
        assert_eq!(spam(&server, SpamRequest::ForgetShared)["messages"], 0);
        assert_eq!(learn(vec![lesson(1, Class::Spam)]), (1, 0));
        server.stop();
        std::fs::remove_dir_all(dir).unwrap();
    }
}
