//! What has gone is remembered for the retention, and comes back whole.

use crate::common::*;
use std::time::Duration;
use storage::device::Device;
use storage::device::sim::{Executor, Sim};
use storage::store::{Buried, Undelete};
use storage::{
    Error, FlagChange, FlagMode, Flags, MailboxId, Options, Quota, Store, Uid, UnixMillis,
};

const DAY: Duration = Duration::from_secs(86_400);

/// The simulated clock leaps ahead whenever somebody waits, so the window is a wide one.
fn options() -> Options {
    Options { retention: 200 * DAY, ..small_store() }
}

fn all() -> Undelete {
    Undelete { since: UnixMillis(0), mailbox: None, uids: None }
}

async fn rest(store: &Store<Sim>) {
    for _ in 0..400 {
        store.device().sleep(Duration::from_millis(2)).await;
    }
}

/// A day at a time: who sleeps may be woken while others still work.
async fn days(store: &Store<Sim>, days: u32) {
    for _ in 0..days {
        store.device().sleep(DAY).await;
    }
}

async fn verified(store: &Store<Sim>) {
    assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
}

async fn deliver(store: &Store<Sim>, mailbox: MailboxId, number: u32, length: usize) -> Uid {
    let one = delivery(vec![placement(ALICE, mailbox)], number, length);
    store.deliver(one).await.expect("delivers").0[0].uid
}

fn buried(store: &Store<Sim>) -> Vec<Buried> {
    store.buried(ALICE, &all(), 1000).expect("a list").0
}

async fn is_there(store: &Store<Sim>, mailbox: MailboxId, uid: Uid, number: u32, length: usize) {
    let read = store.read(ALICE, mailbox, uid, 0..u64::MAX).await.expect("reads");
    assert!(read == message(ALICE, number, length), "message {number}");
    let summary = store.summary(ALICE, mailbox, uid).await.expect("a summary");
    assert_eq!(summary, format!("summary of {number}"));
}

#[test]
fn what_was_expunged_comes_back_with_flags_and_keywords_and_not_twice() {
    let sim = Sim::new(1);
    on_sim(&sim, options(), |store| async move {
        with_accounts(&store).await;
        let (box_, _) = store.create_mailbox(ALICE, "a/box", None).await.expect("made");
        for number in 1..=3 {
            deliver(&store, box_, number, 500).await;
        }
        let flags = FlagChange {
            mode: FlagMode::Add,
            flags: Flags::SEEN.union(Flags::DELETED),
            keywords: vec!["blue".into()],
        };
        store.change_flags(ALICE, box_, &[Uid(2)], &flags, None).await.expect("flags");
        let usage = store.usage(ALICE).expect("usage");
        store.expunge(ALICE, box_, &[Uid(2), Uid(3)]).await.expect("expunges");
        assert_eq!(store.usage(ALICE).expect("usage").messages, 1, "what has gone is not counted");
        let gone = buried(&store);
        assert_eq!(gone.iter().map(|one| one.uid.0).collect::<Vec<_>>(), [2, 3]);
        assert_eq!((gone[0].mailbox_name.as_str(), gone[0].bytes), ("a/box", 517));
        let summary = store.buried_summary(ALICE, box_, Uid(2)).await.expect("a summary");
        assert_eq!(summary, "summary of 2");

        let only =
            Undelete { uids: Some(vec![storage::format::UidRange::runs([Uid(2)])[0]]), ..all() };
        let (back, _) = store.undelete(ALICE, &only, false).await.expect("comes back");
        assert_eq!(back, [("a/box".to_owned(), 1)]);
        is_there(&store, box_, Uid(4), 2, 500).await;
        let entry = store.entry(ALICE, box_, Uid(4)).expect("an entry");
        assert_eq!(entry.flags, Flags::SEEN.union(Flags(1 << 8)), "no more \\Deleted");
        assert_eq!(buried(&store).len(), 1);
        let (back, _) = store.undelete(ALICE, &only, false).await.expect("nothing to do");
        assert_eq!(back, []);

        let other = Undelete { mailbox: Some("INBOX".into()), ..all() };
        assert_eq!(store.undelete(ALICE, &other, false).await.expect("none").0, []);
        let later = Undelete { since: UnixMillis(store.device().now().0 + 1), ..all() };
        assert_eq!(store.undelete(ALICE, &later, false).await.expect("none").0, []);
        store.undelete(ALICE, &all(), false).await.expect("comes back");
        assert_eq!(store.uids(ALICE, box_).expect("uids"), [Uid(1), Uid(4), Uid(5)]);
        assert_eq!(store.usage(ALICE).expect("usage"), usage);
        assert_eq!((store.stats().buried_messages, store.stats().buried_bytes), (0, 0));
        verified(&store).await;
    });
    on_sim(&sim.after_crash(), options(), |store| async move {
        let box_ = store.mailbox_named(ALICE, "a/box").expect("there").id;
        assert_eq!(store.uids(ALICE, box_).expect("uids"), [Uid(1), Uid(4), Uid(5)]);
        assert_eq!(buried(&store), []);
        verified(&store).await;
    });
}

#[test]
fn a_mailbox_that_was_deleted_is_made_anew_for_what_comes_back() {
    let sim = Sim::new(2);
    on_sim(&sim, options(), |store| async move {
        with_accounts(&store).await;
        let (box_, _) = store.create_mailbox(ALICE, "a/b", None).await.expect("made");
        deliver(&store, box_, 1, 500).await;
        let flags =
            FlagChange { mode: FlagMode::Add, flags: Flags::FLAGGED, keywords: vec!["x".into()] };
        store.change_flags(ALICE, box_, &[Uid(1)], &flags, None).await.expect("flags");
        let before = store.mailbox(ALICE, box_).expect("info");
        store.delete_mailbox(ALICE, "a/b").await.expect("deleted");
        store.delete_mailbox(ALICE, "a").await.expect("deleted");
        verified(&store).await;
        let (back, _) = store.undelete(ALICE, &all(), false).await.expect("comes back");
        assert_eq!(back, [("a/b".to_owned(), 1)]);
        let anew = store.mailbox_named(ALICE, "a/b").expect("made");
        assert!(anew.id != box_ && anew.uid_validity > before.uid_validity);
        assert_eq!(anew.keywords, ["x"]);
        is_there(&store, anew.id, Uid(1), 1, 500).await;
        let entry = store.entry(ALICE, anew.id, Uid(1)).expect("an entry");
        assert_eq!(entry.flags, Flags::FLAGGED.union(Flags(1 << 8)));
        verified(&store).await;
    });
}

#[test]
fn a_move_leaves_nothing_to_bring_back() {
    let sim = Sim::new(3);
    on_sim(&sim, options(), |store| async move {
        with_accounts(&store).await;
        let (box_, _) = store.create_mailbox(ALICE, "box", None).await.expect("made");
        deliver(&store, INBOX, 1, 500).await;
        deliver(&store, INBOX, 2, 500).await;
        store.move_messages(ALICE, INBOX, &[Uid(1)], box_).await.expect("moves");
        store.rename_mailbox(ALICE, "INBOX", "old").await.expect("renamed");
        assert_eq!(buried(&store), []);
        store.expunge(ALICE, box_, &[Uid(1)]).await.expect("expunges");
        assert_eq!(buried(&store).len(), 1);
        verified(&store).await;
    });
}

#[test]
fn quota_is_respected_unless_told_otherwise() {
    let sim = Sim::new(4);
    on_sim(&sim, options(), |store| async move {
        with_accounts(&store).await;
        deliver(&store, INBOX, 1, 500).await;
        deliver(&store, INBOX, 2, 500).await;
        store.expunge(ALICE, INBOX, &[Uid(1), Uid(2)]).await.expect("expunges");
        store
            .set_quota(ALICE, Quota { bytes_max: None, messages_max: Some(1) })
            .await
            .expect("set");
        let refused = store.undelete(ALICE, &all(), false).await;
        assert_eq!(refused.map(drop), Err(Error::OverQuota));
        assert_eq!((buried(&store).len(), store.uids(ALICE, INBOX).expect("uids").len()), (2, 0));
        store.undelete(ALICE, &all(), true).await.expect("comes back");
        assert_eq!(store.usage(ALICE).expect("usage").messages, 2);
    });
}

/// Enough mail that comes and goes to make compaction work.
async fn traffic(store: &Store<Sim>, from: u32, count: u32) {
    for number in from..from + count {
        let one = delivery(vec![placement(BOB, INBOX)], number, 2_000);
        let (placed, _) = store.deliver(one).await.expect("delivers");
        store.expunge(BOB, INBOX, &[placed[0].uid]).await.expect("expunges");
    }
}

#[test]
fn what_is_remembered_moves_with_compaction_and_the_log_alone_gives_it_back() {
    let sim = Sim::new(5);
    on_sim(&sim, options(), |store| async move {
        with_accounts(&store).await;
        deliver(&store, INBOX, 1, 900).await;
        deliver(&store, INBOX, 2, 20_000).await;
        store.expunge(ALICE, INBOX, &[Uid(1), Uid(2)]).await.expect("expunges");
        store.set_hold(ALICE, true).await.expect("held");
        traffic(&store, 10, 200).await;
        // Of everybody else, everything up to here is forgotten.
        days(&store, 210).await;
        traffic(&store, 300, 300).await;
        rest(&store).await;
        days(&store, 210).await;
        traffic(&store, 700, 100).await;
        rest(&store).await;
        let stats = store.stats();
        assert!(stats.bytes_moved > 20_000 && stats.segments_freed > 5, "{stats:?}");
        assert_eq!((buried(&store).len(), stats.orphans), (2, 0));
        verified(&store).await;
    });
    let whole = sim.after_crash();
    let bare = sim.after_crash();
    let disk = bare.clone();
    Executor::new(&bare).block_on(async move {
        for file in disk.files() {
            if !file.name.starts_with("log-") {
                disk.remove(&file.name).await.expect("removes");
            }
        }
    });
    for sim in [whole, bare] {
        on_sim(&sim, options(), |store| async move {
            verified(&store).await;
            assert!(store.is_held(ALICE));
            assert_eq!(buried(&store).len(), 2);
            store.undelete(ALICE, &all(), false).await.expect("comes back");
            is_there(&store, INBOX, Uid(3), 1, 900).await;
            is_there(&store, INBOX, Uid(4), 2, 20_000).await;
            verified(&store).await;
        });
    }
}

#[test]
fn what_is_older_than_the_retention_is_forgotten_and_its_space_comes_back() {
    let sim = Sim::new(6);
    on_sim(&sim, options(), |store| async move {
        with_accounts(&store).await;
        traffic(&store, 10, 300).await;
        rest(&store).await;
        let before = store.stats();
        assert_eq!((before.buried_messages, before.segments_freed), (300, 0), "{before:?}");
        assert!(before.segments > 10, "{before:?}");
        for number in 0..4 {
            days(&store, 60).await;
            traffic(&store, 1000 + number * 100, 60).await;
        }
        rest(&store).await;
        let after = store.stats();
        assert!(after.buried_messages <= 240, "{after:?}");
        assert!(after.segments_freed > 5, "{after:?}");
        verified(&store).await;
        days(&store, 210).await;
        rest(&store).await;
        assert_eq!(store.stats().buried_messages, 0);
        verified(&store).await;
    });
}

/// Nothing but what waits to be forgotten asks for the base that lets the log go.
#[test]
fn a_store_at_rest_gives_back_what_is_older_than_the_retention() {
    let sim = Sim::new(6);
    on_sim(&sim, options(), |store| async move {
        with_accounts(&store).await;
        let mut uids = Vec::new();
        for number in 0..300 {
            uids.push(deliver(&store, INBOX, number, 3000).await);
        }
        store.expunge(ALICE, INBOX, &uids).await.expect("expunges");
        let full = store.stats();
        days(&store, 190).await;
        let before = store.stats();
        assert_eq!((before.buried_messages, before.segments_freed), (300, 0), "{before:?}");
        days(&store, 60).await;
        rest(&store).await;
        let after = store.stats();
        assert_eq!(after.buried_messages, 0);
        assert!(after.segments * 4 <= full.segments, "{full:?} {after:?}");
        verified(&store).await;
        let rested = store.device().operations();
        days(&store, 1000).await;
        assert!(store.device().operations() < rested + 200, "it comes to rest");
    });
}

#[test]
fn a_hold_outlives_its_account_and_ends_when_it_is_lifted() {
    let sim = Sim::new(7);
    on_sim(&sim, options(), |store| async move {
        with_accounts(&store).await;
        deliver(&store, INBOX, 1, 500).await;
        deliver(&store, INBOX, 2, 500).await;
        store.set_hold(ALICE, true).await.expect("held");
        store.expunge(ALICE, INBOX, &[Uid(1)]).await.expect("expunges");
        store.remove_account(ALICE).await.expect("removed");
        days(&store, 400).await;
        assert_eq!(buried(&store).len(), 2);
        let read = store.read_buried(ALICE, INBOX, Uid(2), 0..u64::MAX).await.expect("reads");
        assert!(read == message(ALICE, 2, 500));
        let refused = store.undelete(ALICE, &all(), false).await;
        assert_eq!(refused.map(drop), Err(Error::NoSuchAccount(ALICE)));
        store.set_hold(ALICE, false).await.expect("lifted");
        rest(&store).await;
        assert_eq!(store.buried(ALICE, &all(), 9), Err(Error::NoSuchAccount(ALICE)));
        assert_eq!(store.set_hold(ALICE, true).await.map(drop), Err(Error::NoSuchAccount(ALICE)));
        verified(&store).await;
    });
}

#[test]
fn without_a_retention_only_a_hold_remembers_and_setting_one_to_zero_forgets() {
    let sim = Sim::new(8);
    let none = Options { retention: Duration::ZERO, ..options() };
    on_sim(&sim, none.clone(), |store| async move {
        with_accounts(&store).await;
        for number in 1..=3 {
            deliver(&store, INBOX, number, 500).await;
        }
        store.expunge(ALICE, INBOX, &[Uid(1)]).await.expect("expunges");
        assert_eq!(buried(&store), []);
        store.set_hold(ALICE, true).await.expect("held");
        store.expunge(ALICE, INBOX, &[Uid(2)]).await.expect("expunges");
        assert_eq!(buried(&store).len(), 1);
        store.set_hold(ALICE, false).await.expect("lifted");
        rest(&store).await;
        assert_eq!(buried(&store), []);
    });
    on_sim(&sim.after_crash(), options(), |store| async move {
        store.expunge(ALICE, INBOX, &[Uid(3)]).await.expect("expunges");
        assert_eq!(buried(&store).len(), 1);
    });
    on_sim(&sim.after_crash(), none, |store| async move {
        rest(&store).await;
        assert_eq!(buried(&store), []);
        verified(&store).await;
    });
}

#[test]
fn a_full_disk_forgets_before_its_time_and_takes_mail_again() {
    let sim = Sim::new(9);
    let disk = sim.clone();
    on_sim(&sim, options(), |store| async move {
        with_accounts(&store).await;
        disk.set_capacity(Some(2 << 20));
        let mut uids = Vec::new();
        let one = |number| delivery(vec![placement(ALICE, INBOX)], number, 3_000);
        for number in 0..10_000 {
            match store.deliver(one(number)).await {
                Ok((placed, _)) => uids.push(placed[0].uid),
                Err(error) => {
                    assert!(matches!(error, Error::Full(_)), "{error:?}");
                    break;
                }
            }
        }
        store.expunge(ALICE, INBOX, &uids[..uids.len() / 2]).await.expect("expunge works");
        let mut delivered = 0;
        for _ in 0..20 {
            rest(&store).await;
            while store.deliver(one(delivered)).await.is_ok() {
                delivered += 1;
            }
        }
        let stats = store.stats();
        assert!(delivered as usize > uids.len() / 4, "{delivered} of {}: {stats:?}", uids.len());
        verified(&store).await;
        disk.set_capacity(None);
    });
}

/// With a long retention, too, of which the next round is ten minutes away.
#[test]
fn expunging_on_a_disk_that_has_been_full_for_a_while_makes_room_soon() {
    let sim = Sim::new(10);
    let disk = sim.clone();
    let week = Options { retention: Duration::from_secs(7 * 86_400), ..options() };
    on_sim(&sim, week, |store| async move {
        with_accounts(&store).await;
        disk.set_capacity(Some(2 << 20));
        let mut uids = Vec::new();
        let one = |number| delivery(vec![placement(ALICE, INBOX)], number, 3_000);
        while let Ok((placed, _)) = store.deliver(one(0)).await {
            uids.push(placed[0].uid);
        }
        for _ in 0..10 {
            disk.sleep(Duration::from_secs(1)).await;
            assert!(store.deliver(one(0)).await.is_err());
        }
        store.expunge(ALICE, INBOX, &uids[..uids.len() / 2]).await.expect("expunge works");
        let mut delivered = 0;
        for _ in 0..30 {
            disk.sleep(Duration::from_secs(1)).await;
            while store.deliver(one(delivered)).await.is_ok() {
                delivered += 1;
            }
        }
        let stats = store.stats();
        assert!(delivered as usize > uids.len() / 4, "{delivered} of {}: {stats:?}", uids.len());
        verified(&store).await;
        disk.set_capacity(None);
    });
}

/// An undelete is one record: after a crash at any operation it is whole, or it is not.
#[test]
fn a_crash_leaves_an_undelete_whole_or_not_at_all() {
    let (mut came_back, mut did_not) = (0, 0);
    for seed in 0..60 {
        let sim = Sim::new(100 + seed);
        on_sim(&sim, options(), |store| async move {
            with_accounts(&store).await;
            let (box_, _) = store.create_mailbox(ALICE, "box", None).await.expect("made");
            for number in 1..=5 {
                deliver(&store, box_, number, 500).await;
            }
            store.delete_mailbox(ALICE, "box").await.expect("deleted");
        });
        let sim = sim.after_kill();
        let disk = sim.clone();
        let done = on_sim_unclosed(&sim, options(), move |store, _| async move {
            disk.crash_at(disk.operations() + 1 + seed % 3);
            store.undelete(ALICE, &all(), false).await.is_ok()
        });
        let back = on_sim(&sim.after_crash(), options(), move |store| async move {
            let there = store.mailbox_named(ALICE, "box").map(|info| info.id);
            let back = there.map_or(0, |id| store.uids(ALICE, id).expect("uids").len());
            verified(&store).await;
            let state = (back, buried(&store).len());
            assert!(state == (5, 0) || state == (0, 5), "{state:?}");
            back == 5
        });
        assert!(back || done != Some(true), "it was acknowledged");
        came_back += u32::from(back);
        did_not += u32::from(!back);
    }
    assert!(came_back > 0 && did_not > 0, "{came_back}, {did_not}");
}
