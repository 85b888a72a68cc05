//! `kura trace`: what has become of messages: when they came and from where, what was decided about
//! them and why, where they lie, when they were expunged, and what waits to leave.
//!
//! Nothing is written down for it. The index knows when and where a message came, its summary who
//! wrote it, and the fields that we have put into its header what was found out; expunged mail is
//! there as long as it can be brought back. What was refused, and what has left, is in the log.
//!
//! It costs one summary for each message of the time in question; for an account here, only those
//! of that account.

use crate::auth::results::claims;
use crate::core::give_way;
use crate::directory::{Reached, Resolution};
use crate::operations::{Fault, on};
use crate::quarantine::recalled::{self, Recall};
use crate::quarantine::safe;
use crate::queue;
use crate::shard::Shard;
use crate::when::time_text;
use protocols::message::Summary;
use protocols::message::field::{Fields, unfold};
use protocols::message::text::decode_field;
use serde_json::{Value, json};
use std::rc::Rc;
use storage::store::Undelete;
use storage::{AccountId, Error, MailboxId, Uid, UnixMillis};

/// Told at most, the latest ones.
const TOLD_MAX: usize = 200;
/// Of a message, so much is read: our fields are on top of it.
const HEADER_BYTES: u64 = 16 << 10;
/// Of a field or a text, in what is told.
const TEXT_CHARS_MAX: usize = 400;
/// UIDs of which entries are looked at between two chances for other tasks of the core.
const UIDS_AT_ONCE: u32 = 4096;
/// Expunged messages of one account that are looked at, the latest.
const BURIED_MAX: usize = 10_000;
/// Fields in which something was decided, and what they are called in what is told.
const VERDICTS: [(&str, &str); 5] = [
    (crate::quarantine::note::FIELD, "kept"),
    ("Authentication-Results", "authentication"),
    ("X-Spam-Status", "spam"),
    ("X-Spam-Sender", "sorted"),
    (crate::scan::verdict::FIELD, "virus"),
];

/// Fields that anybody may have written.
const NAMED: [(&str, &str); 4] = [
    ("Received", "received"),
    ("From", "from"),
    ("Subject", "subject"),
    ("Message-ID", "message_id"),
];

/// Which messages.
#[derive(Debug, Clone)]
enum Wanted {
    /// All that these accounts have.
    Accounts(Vec<AccountId>),
    /// With this Message-ID, or from or to this address.
    Named(String),
}

impl Wanted {
    fn parse(shard: &Shard, who: &str) -> Result<Wanted, Fault> {
        if !who.contains('@') {
            return Err(format!(
                "{who:?} is neither an address nor a Message-ID: both contain an @; what has an ID of ours is in the \
                 log, and in `kura queue show`"
            ));
        }
        if who.starts_with('<') {
            return Ok(Wanted::Named(who.to_owned()));
        }
        match shard.directory.borrow().resolve(who) {
            // What is forwarded only is known by its name.
            Resolution::Local(Reached { homes, .. }) if homes.is_empty() => {
                Ok(Wanted::Named(who.to_owned()))
            }
            Resolution::Local(Reached { homes, .. }) => {
                Ok(Wanted::Accounts(homes.into_iter().map(|home| home.account).collect()))
            }
            Resolution::NoSuchUser | Resolution::NotOurs => Ok(Wanted::Named(who.to_owned())),
        }
    }

    fn may_be_in(&self, account: AccountId) -> bool {
        match self {
            Wanted::Accounts(accounts) => accounts.contains(&account),
            Wanted::Named(_) => true,
        }
    }

    fn is_of(&self, summary: &[u8]) -> bool {
        let Wanted::Named(name) = self else { return true };
        let Ok(Some(envelope)) = Summary::view_envelope(summary) else { return false };
        let (name, id) = (name.as_bytes(), name.trim_matches(['<', '>']).as_bytes());
        let is_id = envelope.message_id.is_some_and(|known| {
            known.strip_prefix(b"<").and_then(|known| known.strip_suffix(b">")) == Some(id)
        });
        let mut people =
            [&envelope.from, &envelope.sender, &envelope.to, &envelope.cc, &envelope.bcc];
        is_id
            || people.iter_mut().flat_map(|list| list.iter()).any(|one| {
                let address = [one.mailbox.unwrap_or_default(), one.host.unwrap_or_default()];
                address.join(&b'@').eq_ignore_ascii_case(name)
            })
    }
}

/// One message, where it lies or lay. Sorted by when it came.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    arrived: u64,
    account: AccountId,
    mailbox: MailboxId,
    uid: Uid,
    address: Rc<str>,
    mailbox_name: Rc<str>,
    octets: u32,
    expunged: Option<u64>,
}

/// Messages that came at `since` (Unix milliseconds) or later, the latest last. Runs on
/// shard 0, asks all.
pub(crate) async fn trace(shard: &Rc<Shard>, who: &str, since: u64) -> Result<Value, Fault> {
    let wanted = Wanted::parse(shard, who)?;
    let (mut rows, mut all) = (Vec::new(), 0);
    for home in 0..shard.mesh.cores() {
        let wanted = wanted.clone();
        let part = on(shard, home, move |shard| async move { find(&shard, &wanted, since).await });
        let (found, count) = part.await?;
        rows.extend(found);
        all += count;
    }
    rows.sort_by(|one, other| one["arrived"].as_str().cmp(&other["arrived"].as_str()));
    rows.drain(..rows.len().saturating_sub(TOLD_MAX));
    let about = queue::operations::Which { party: Some(who.to_owned()), ..Default::default() };
    let waiting = queue::operations::list(shard, about).await?;
    let (queue, queue_all) = (&waiting["messages"], &waiting["all"]);
    Ok(json!({ "messages": rows, "all": all, "queue": queue, "queue_all": queue_all }))
}

/// The latest on this shard, and how many there are.
async fn find(shard: &Shard, wanted: &Wanted, since: u64) -> Result<(Vec<Value>, usize), Fault> {
    let accounts: Vec<(String, AccountId)> = {
        let directory = shard.directory.borrow();
        let here = directory.accounts().filter(|(_, account)| account.shard == shard.id);
        let named = here.map(|(address, account)| (address.clone(), account.id()));
        named.filter(|(_, account)| wanted.may_be_in(*account)).collect()
    };
    let mut latest = Latest::default();
    for (address, account) in accounts {
        let found = find_in(shard, (&address, account), wanted, since, &mut latest).await;
        found.map_err(|error| format!("{address}: {error}"))?;
    }
    latest.cut(TOLD_MAX);
    let mut rows = Vec::with_capacity(latest.found.len());
    for one in &latest.found {
        rows.push(row(shard, one).await);
    }
    Ok((rows, latest.all))
}

/// What the account has, and what was expunged and is remembered.
async fn find_in(
    shard: &Shard,
    (address, account): (&str, AccountId),
    wanted: &Wanted,
    since: u64,
    latest: &mut Latest,
) -> Result<(), Error> {
    let address: Rc<str> = address.into();
    let mut mailboxes = shard.store.mailboxes(account)?;
    mailboxes.extend(shard.store.quarantine(account)?);
    for mailbox in mailboxes {
        // What shows the past is told where it is.
        if mailbox.read_only {
            continue;
        }
        let name: Rc<str> = mailbox.name.as_str().into();
        let mut first = 1;
        let end = shard.store.status(account, mailbox.id)?.uid_next.0;
        while first < end {
            let last = first.saturating_add(UIDS_AT_ONCE);
            for entry in shard.store.entries(account, mailbox.id, first..=last)? {
                if entry.internal_date.0 < since {
                    continue;
                }
                let found = Found {
                    arrived: entry.internal_date.0,
                    account,
                    mailbox: mailbox.id,
                    uid: entry.uid,
                    address: Rc::clone(&address),
                    mailbox_name: Rc::clone(&name),
                    octets: entry.bytes,
                    expunged: None,
                };
                latest.take(shard, wanted, found).await;
            }
            first = last.saturating_add(1);
            give_way().await;
        }
    }
    let gone = Undelete { since: UnixMillis(since), mailbox: None, uids: None };
    let (buried, _) = shard.store.buried(account, &gone, BURIED_MAX)?;
    for one in buried.into_iter().filter(|one| one.internal_date.0 >= since) {
        let found = Found {
            arrived: one.internal_date.0,
            account,
            mailbox: one.mailbox,
            uid: one.uid,
            address: Rc::clone(&address),
            mailbox_name: one.mailbox_name.into(),
            octets: one.bytes,
            expunged: Some(one.gone.0),
        };
        latest.take(shard, wanted, found).await;
    }
    Ok(())
}

/// The latest of those that were wanted.
#[derive(Debug, Default)]
struct Latest {
    found: Vec<Found>,
    all: usize,
}

impl Latest {
    async fn take(&mut self, shard: &Shard, wanted: &Wanted, found: Found) {
        if matches!(wanted, Wanted::Named(_)) {
            let Found { account, mailbox, uid, .. } = found;
            let summary = shard.store.buried_summary(account, mailbox, uid).await;
            if !summary.is_ok_and(|summary| wanted.is_of(&summary)) {
                return;
            }
        }
        self.all += 1;
        self.found.push(found);
        if self.found.len() >= 2 * TOLD_MAX {
            self.cut(TOLD_MAX);
        }
    }

    fn cut(&mut self, most: usize) {
        self.found.sort_unstable();
        self.found.drain(..self.found.len().saturating_sub(most));
    }
}

async fn row(shard: &Shard, found: &Found) -> Value {
    let Found { account, mailbox, uid, .. } = *found;
    let mut row = json!({
        "arrived": time_text(found.arrived),
        "account": *found.address,
        "mailbox": *found.mailbox_name,
        "uid": uid.0,
        "octets": found.octets,
        "expunged": found.expunged.map(time_text),
    });
    let header = shard.store.read_buried(account, mailbox, uid, 0..HEADER_BYTES).await;
    let header = match header {
        Ok(header) => header,
        Err(error) => {
            row["unreadable"] = json!(error.to_string());
            return row;
        }
    };
    for (key, field) in decided(&header, &shard.config.hostname) {
        row[key] = json!(text(field));
    }
    for field in Fields::new(&header) {
        let named = NAMED.iter().find(|(name, _)| field.is(name));
        if let Some((_, key)) = named
            && row[key].is_null()
        {
            row[key] = json!(match *key {
                "from" | "subject" => written(field.value),
                _ => safe(&text(field.value)),
            });
        }
    }
    let is_there = *found.mailbox_name == *storage::index::names::QUARANTINE;
    if let Some(recall) = recalled::of(shard, account, uid).filter(|_| is_there) {
        let Recall { mailbox, found, .. } = &recall;
        row["kept"] = json!(recall.note().value());
        let mailbox = mailbox.as_deref().unwrap_or("quarantine");
        row["pulled_back"] = json!(safe(&format!("{found}, was in {mailbox}")));
    }
    if !row["kept"].is_null() {
        row["quarantine"] = json!(match (is_there, found.expunged) {
            (true, None) => "quarantined",
            (true, Some(_)) => "deleted",
            (false, _) => "released",
        });
    }
    row
}

/// The fields in which we have written what was decided: on top, around the `Received` that is
/// ours, down to the first field of somebody else. What an own client puts into a mailbox, and what
/// a gateway says of its own, is not taken for ours: a score is believed behind results of ours
/// alone, since both come together.
fn decided<'h>(header: &'h [u8], hostname: &str) -> Vec<(&'static str, &'h [u8])> {
    let by_us = format!(" by {hostname} ");
    let (mut decided, mut received, mut verified) = (Vec::new(), false, false);
    for field in Fields::new(header) {
        if field.is("Return-Path") || field.is("Delivered-To") {
            continue;
        }
        if field.is("Received") {
            if received || !text(field.value).contains(&by_us) {
                break;
            }
            received = true;
            continue;
        }
        let Some((_, key)) = VERDICTS.iter().find(|(name, _)| field.is(name)) else { break };
        match *key {
            "authentication" if !claims(field.value, hostname) => break,
            "authentication" => verified = true,
            // It is beside the body, or not ours.
            "kept" if received => break,
            _ => {}
        }
        if decided.iter().all(|(known, _)| known != key) {
            decided.push((*key, field.value));
        }
    }
    decided.retain(|(key, _)| received && (verified || ["virus", "kept"].contains(key)));
    decided
}

/// What somebody has written, as people read it (RFC 2047), and harmless where it is shown.
pub(crate) fn written(value: &[u8]) -> String {
    safe(&one_line(&decode_field(value)))
}

fn text(value: &[u8]) -> String {
    one_line(&String::from_utf8_lossy(&unfold(value)))
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_named_by_its_id_and_by_who_wrote_it_or_gets_it() {
        let summary = Summary::compute(
            b"From: Ann <ann@a.test>\r\nTo: bob@b.test, carl@C.test\r\nMessage-ID: <7@a.test>\r\n\r\nx",
        );
        let summary = summary.encode();
        let is_of = |name: &str| Wanted::Named(name.to_owned()).is_of(&summary);
        for name in ["<7@a.test>", "7@a.test", "ANN@a.test", "bob@b.test", "carl@c.test"] {
            assert!(is_of(name), "{name}");
        }
        for name in ["<8@a.test>", "<ann@a.test>", "nn@a.test", "a.test", "@"] {
            assert!(!is_of(name), "{name}");
        }
        assert!(!Wanted::Named("x@y".to_owned()).is_of(b"damaged"));
    }

    #[test]
    fn only_what_we_have_decided_is_told_as_decided() {
        let keys = |header: &str| -> Vec<&str> {
            let header = format!("{header}From: a@b.test\r\nX-Spam-Status: No\r\n\r\n");
            decided(header.as_bytes(), "mx.test").iter().map(|(key, _)| *key).collect()
        };
        let received =
            "Received: from c ([192.0.2.1])\r\n\tby mx.test with ESMTP id 1;\r\n\tnow\r\n";
        let (ours, score) =
            ("Authentication-Results: mx.test; spf=pass\r\n", "X-Spam-Status: No\r\n");
        let theirs = "Authentication-Results: gateway.test; spf=pass\r\n";
        let virus = format!("{}: clean\r\n", crate::scan::verdict::FIELD);
        let all = ["authentication", "spam", "virus"];
        assert_eq!(keys(&format!("{received}{ours}{score}{virus}")), all);
        // Beside a body that was in the log already.
        assert_eq!(keys(&format!("Delivered-To: x@y.test\r\n{ours}{score}{virus}{received}")), all);
        let kept = format!("{}: spam, since x\r\n", crate::quarantine::note::FIELD);
        assert_eq!(keys(&format!("Delivered-To: x@y.test\r\n{kept}{received}{score}")), ["kept"]);
        assert_eq!(keys(&format!("{received}{kept}")), [""; 0]);
        // From a gateway, over LMTP, appended.
        assert_eq!(keys(&format!("{received}{theirs}{score}")), [""; 0]);
        assert_eq!(keys(&format!("{received}{score}{theirs}")), [""; 0]);
        assert_eq!(keys(&format!("{ours}{score}")), [""; 0]);
        let elsewhere = received.replace("mx.test", "mx.other.test");
        assert_eq!(keys(&format!("{elsewhere}{ours}{score}")), [""; 0]);
    }

    #[test]
    fn what_is_told_is_one_line_of_bounded_length() {
        assert_eq!(text(b" a\r\n\tb  c\x07 "), "a b c");
        assert_eq!(text(&[b'x'; 5000]).len(), TEXT_CHARS_MAX);
    }

    #[test]
    fn encoded_words_are_read_and_do_no_harm() {
        for (field, told) in [
            (
                &b" =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\n =?iso-8859-1?B?IGF1cyBL9mxu?="[..],
                "Gr\u{fc}\u{df}e aus K\u{f6}ln",
            ),
            (b" =?utf-8?Q?Ann_B=2E?= <ann@a.test>", "Ann B. <ann@a.test>"),
            // A title for the window, two lines, and text that turns around.
            (b" =?utf-8?Q?=1B]0;x=07a=0D=0A=0D=0Ab?=", "]0;xa b"),
            (b" =?utf-8?B?4oCuZmRwLmV4ZQ==?=", "\\u{202e}fdp.exe"),
            (b" \xe2\x80\xaefdp", "\\u{202e}fdp"),
            (b" =?utf-8?Q?broken", "=?utf-8?Q?broken"),
        ] {
            assert_eq!(written(field), told);
        }
    }
}
