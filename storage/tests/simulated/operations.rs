//! Every operation of the store, on the simulated disk, and again after opening anew.

use crate::common::*;
use storage::device::sim::Sim;
use storage::{
    Error, FlagChange, FlagMode, Flags, MailboxId, Modseq, Options, Quota, Space, SpecialUse, Uid,
};

fn add(flags: Flags, keywords: &[&str]) -> FlagChange {
    let keywords = keywords.iter().map(|keyword| (*keyword).to_owned()).collect();
    FlagChange { mode: FlagMode::Add, flags, keywords }
}

#[test]
fn a_message_comes_back_as_it_was_also_after_opening_anew() {
    let sim = Sim::new(1);
    on_sim(&sim, Options::for_tests(), |store| async move {
        with_accounts(&store).await;
        for number in 0..50 {
            let both = vec![placement(ALICE, INBOX), placement(BOB, INBOX)];
            let (placed, _) = store.deliver(delivery(both, number, 3000)).await.expect("delivers");
            assert_eq!(placed.iter().map(|p| p.uid).collect::<Vec<_>>(), [Uid(number + 1); 2]);
        }
        let stats = store.stats();
        assert_eq!((stats.messages, stats.bytes_received), (100, 50 * 3000));
        assert!(stats.segments > 1);
    });
    on_sim(&sim, Options::for_tests(), |store| async move {
        for account in [ALICE, BOB] {
            for number in 0..50 {
                let uid = Uid(number + 1);
                let read = store.read(account, INBOX, uid, 0..u64::MAX).await.expect("reads");
                assert_eq!(read, message(account, number, 3000));
                let part = store.read(account, INBOX, uid, 10..40).await.expect("reads");
                assert_eq!(part, message(account, number, 3000)[10..40]);
                let summary = store.summary(account, INBOX, uid).await.expect("a summary");
                assert_eq!(summary, format!("summary of {number}"));
            }
            assert_eq!(store.usage(account).expect("usage").messages, 50);
        }
        let report = store.verify().await.expect("verifies");
        assert_eq!((report.messages, report.bad), (100, Vec::<String>::new()));
    });
}

#[test]
fn who_is_over_quota_is_left_out_of_a_record_and_the_rest_get_theirs() {
    let sim = Sim::new(1);
    on_sim(&sim, Options::for_tests(), |store| async move {
        with_accounts(&store).await;
        let quota = Quota { bytes_max: Some(1000), ..Quota::default() };
        let _ = store.set_quota(BOB, quota).await.expect("sets");
        for length in [3000, 200_000] {
            let both = || vec![placement(BOB, INBOX), placement(ALICE, INBOX)];
            let refused = store.deliver(delivery(both(), 7, length)).await;
            assert_eq!(refused.expect_err("all or nothing"), Error::OverQuota);
            let outcomes =
                store.deliver_where_possible(delivery(both(), 7, length)).await.expect("delivers");
            assert_eq!(outcomes[0].as_ref().err(), Some(&Error::OverQuota));
            let uid = outcomes[1].as_ref().expect("placed").0.uid;
            let read = store.read(ALICE, INBOX, uid, 0..u64::MAX).await.expect("reads");
            assert_eq!(read, message(ALICE, 7, length));
        }
        let nobody = delivery(vec![placement(BOB, INBOX)], 7, 3000);
        let outcomes = store.deliver_where_possible(nobody).await.expect("nothing to write");
        assert_eq!(outcomes[0].as_ref().err(), Some(&Error::OverQuota));
        let usage = |account| store.usage(account).expect("usage").messages;
        assert_eq!((usage(ALICE), usage(BOB)), (2, 0));
    });
}

/// Else who was left out would never get it, or the others would get it again.
#[test]
fn a_mark_is_set_where_its_placement_is_and_nowhere_else() {
    const SPACE: Space = Space(44);
    let sim = Sim::new(1);
    on_sim(&sim, Options::for_tests(), |store| async move {
        with_accounts(&store).await;
        let quota = Quota { bytes_max: Some(1000), ..Quota::default() };
        let _ = store.set_quota(BOB, quota).await.expect("sets");
        let marks = || ["bob", "ann"].map(|one| Some((one.into(), "has it".into()))).to_vec();
        let both = || delivery(vec![placement(BOB, INBOX), placement(ALICE, INBOX)], 7, 3000);
        let outcomes = store.deliver_and_mark(both(), SPACE, marks()).await.expect("delivers");
        assert_eq!(outcomes[0].as_ref().err(), Some(&Error::OverQuota));
        assert!(outcomes[1].is_ok());
        assert_eq!(store.get(SPACE, b"bob"), None);
        assert_eq!(store.get(SPACE, b"ann").as_deref(), Some(&b"has it"[..]));
        let unmarked = store.deliver_and_mark(both(), SPACE, vec![None, None]).await;
        assert!(unmarked.expect("delivers")[1].is_ok());
    });
}

#[test]
fn a_large_body_streams_in_pieces_and_comes_back_in_any_part() {
    let sim = Sim::new(2);
    on_sim(&sim, Options::for_tests(), |store| async move {
        with_accounts(&store).await;
        let length = 200_000;
        store
            .deliver(delivery(vec![placement(ALICE, INBOX)], 7, length))
            .await
            .expect("delivers in chunks");
        let whole = message(ALICE, 7, length);
        let read = store.read(ALICE, INBOX, Uid(1), 0..u64::MAX).await.expect("reads");
        assert!(read == whole);
        for (from, until) in [(0, 5), (10, 70_000), (65_000, 66_000), (199_000, 500_000)] {
            let part = store.read(ALICE, INBOX, Uid(1), from..until).await.expect("reads a part");
            assert!(part == whole[from as usize..(until as usize).min(whole.len())]);
        }
        // A writer that is dropped leaves no trace but garbage.
        let mut writer = store.body_writer().expect("admitted");
        writer.push(body(1, 100_000)).await.expect("takes it");
        drop(writer);
        assert_eq!(store.stats().messages, 1);
    });
}

#[test]
fn mailboxes_are_made_with_parents_renamed_with_children_and_deleted_without() {
    let sim = Sim::new(3);
    on_sim(&sim, Options::for_tests(), |store| async move {
        with_accounts(&store).await;
        let names = |store: &storage::Store<Sim>| -> Vec<String> {
            store.mailboxes(ALICE).expect("mailboxes").into_iter().map(|m| m.name).collect()
        };
        let (id, _) =
            store.create_mailbox(ALICE, "a/b/c", Some(SpecialUse::Sent)).await.expect("c");
        assert_eq!(names(&store), ["INBOX", "a", "a/b", "a/b/c"]);
        let info = store.mailbox(ALICE, id).expect("there");
        assert_eq!(info.special_use, Some(SpecialUse::Sent));
        assert!(matches!(
            store.create_mailbox(ALICE, "a/b", None).await,
            Err(Error::MailboxExists(_))
        ));
        store.rename_mailbox(ALICE, "a", "x/y").await.expect("renames");
        assert_eq!(names(&store), ["INBOX", "x", "x/y", "x/y/b", "x/y/b/c"]);
        assert_eq!(store.mailbox(ALICE, id).expect("the same").name, "x/y/b/c");
        assert!(store.rename_mailbox(ALICE, "x", "x/z").await.is_err(), "below itself");
        store.delete_mailbox(ALICE, "x/y").await.expect("deletes");
        assert_eq!(names(&store), ["INBOX", "x", "x/y/b", "x/y/b/c"]);
        assert!(store.delete_mailbox(ALICE, "inbox").await.is_err());
        let (again, _) = store.create_mailbox(ALICE, "x/y", None).await.expect("anew");
        assert!(again > id, "identifiers are never used again");
        store.subscribe(ALICE, "nowhere", true).await.expect("subscribes");
        store.subscribe(ALICE, "x", true).await.expect("subscribes");
        store.subscribe(ALICE, "nowhere", false).await.expect("unsubscribes");
        assert_eq!(store.subscriptions(ALICE).expect("names"), ["x"]);
        assert_eq!(names(&store).len(), 5);
        assert_eq!(store.mailboxes(BOB).expect("bob's").len(), 1);
    });
}

#[test]
fn renaming_inbox_moves_its_messages_and_leaves_it_empty() {
    let sim = Sim::new(4);
    on_sim(&sim, Options::for_tests(), |store| async move {
        with_accounts(&store).await;
        for number in 0..3 {
            store.deliver(delivery(vec![placement(ALICE, INBOX)], number, 100)).await.expect("in");
        }
        let before = store.highest_modseq(ALICE).expect("modseq");
        store.rename_mailbox(ALICE, "Inbox", "old/mail").await.expect("renames");
        let old = store.mailbox_named(ALICE, "old/mail").expect("there");
        assert_eq!(store.uids(ALICE, old.id).expect("uids"), [Uid(1), Uid(2), Uid(3)]);
        assert_eq!(store.status(ALICE, INBOX).expect("status").messages, 0);
        let changes = store.changes_since(ALICE, INBOX, before).expect("changes");
        assert_eq!(changes.vanished, [Uid(1), Uid(2), Uid(3)]);
        let (placed, _) =
            store.deliver(delivery(vec![placement(ALICE, INBOX)], 9, 10)).await.expect("in");
        assert_eq!(placed[0].uid, Uid(4), "INBOX goes on counting");
        let read = store.read(ALICE, old.id, Uid(2), 0..u64::MAX).await.expect("reads");
        assert_eq!(read, message(ALICE, 1, 100));
        assert_eq!(store.usage(ALICE).expect("usage").messages, 4);
    });
}

#[test]
fn flags_keywords_modseqs_and_conditional_changes() {
    let sim = Sim::new(5);
    on_sim(&sim, Options::for_tests(), |store| async move {
        with_accounts(&store).await;
        for number in 0..4 {
            store.deliver(delivery(vec![placement(ALICE, INBOX)], number, 10)).await.expect("in");
        }
        let uids: Vec<Uid> = (1..=4).map(Uid).collect();
        let change = add(Flags::SEEN, &["$Forwarded", "work"]);
        let done = store.change_flags(ALICE, INBOX, &uids[..2], &change, None).await.expect("ok");
        assert_eq!(done.changed.len(), 2);
        let info = store.mailbox(ALICE, INBOX).expect("info");
        assert_eq!(info.keywords, ["$Forwarded", "work"]);
        let status = store.status(ALICE, INBOX).expect("status");
        assert_eq!((status.unseen, status.deleted), (2, 0));
        let again = store.change_flags(ALICE, INBOX, &uids[..2], &change, None).await.expect("ok");
        assert!(again.durable.is_none() && again.changed.is_empty(), "nothing had to change");
        let since = store.entry(ALICE, INBOX, Uid(3)).expect("entry").modseq;
        let deleted = add(Flags::DELETED, &[]);
        let done =
            store.change_flags(ALICE, INBOX, &uids, &deleted, Some(since)).await.expect("ok");
        let changed: Vec<Uid> = done.changed.iter().map(|entry| entry.uid).collect();
        assert_eq!((changed, done.refused), (vec![Uid(3)], vec![Uid(1), Uid(2), Uid(4)]));
        let remove = FlagChange { mode: FlagMode::Remove, ..add(Flags::SEEN, &["WORK"]) };
        store.change_flags(ALICE, INBOX, &[Uid(1)], &remove, None).await.expect("ok");
        let flags = store.entry(ALICE, INBOX, Uid(1)).expect("entry").flags;
        assert_eq!(flags, Flags(1 << 8), "only $Forwarded is left");
        let replace = FlagChange { mode: FlagMode::Replace, ..add(Flags::DRAFT, &["new"]) };
        store.change_flags(ALICE, INBOX, &[Uid(1)], &replace, None).await.expect("ok");
        let flags = store.entry(ALICE, INBOX, Uid(1)).expect("entry").flags;
        assert_eq!(flags, Flags::DRAFT.union(Flags(1 << 10)));
        assert_eq!(store.changes_since(ALICE, INBOX, since).expect("changes").changed.len(), 4);
        let top = store.highest_modseq(ALICE).expect("modseq");
        assert!(store.changes_since(ALICE, INBOX, top).expect("none").changed.is_empty());
    });
}

#[test]
fn copies_and_moves_keep_bytes_and_flags_and_quota_counts_them() {
    let sim = Sim::new(6);
    on_sim(&sim, Options::for_tests(), |store| async move {
        with_accounts(&store).await;
        for number in 0..5 {
            store.deliver(delivery(vec![placement(ALICE, INBOX)], number, 500)).await.expect("in");
        }
        let (other, _) = store.create_mailbox(ALICE, "other", None).await.expect("made");
        let change = add(Flags::FLAGGED, &["blue"]);
        store.change_flags(ALICE, INBOX, &[Uid(2), Uid(4)], &change, None).await.expect("flags");
        let wanted = [Uid(2), Uid(4), Uid(99)];
        let (pairs, _) = store.copy(ALICE, INBOX, &wanted, other).await.expect("copies");
        assert_eq!(pairs, [(Uid(2), Uid(1)), (Uid(4), Uid(2))]);
        assert_eq!(store.usage(ALICE).expect("usage").messages, 7);
        let blue = store.mailbox(ALICE, other).expect("info").keywords;
        assert_eq!(blue, ["blue"]);
        let flags = store.entry(ALICE, other, Uid(1)).expect("entry").flags;
        assert_eq!(flags, Flags::FLAGGED.union(Flags(1 << 8)));
        let (pairs, _) =
            store.move_messages(ALICE, INBOX, &[Uid(1), Uid(2)], other).await.expect("moves");
        assert_eq!(pairs, [(Uid(1), Uid(3)), (Uid(2), Uid(4))]);
        assert_eq!(store.uids(ALICE, INBOX).expect("uids"), [Uid(3), Uid(4), Uid(5)]);
        for (behind, count, expected) in
            [(0, 2, &[3, 4][..]), (3, 9, &[4, 5]), (4, 1, &[5]), (5, 1, &[]), (u32::MAX, 1, &[])]
        {
            let found = store.uids_behind(ALICE, INBOX, Uid(behind), count).expect("uids");
            assert_eq!(found, expected.iter().copied().map(Uid).collect::<Vec<_>>());
        }
        assert_eq!(store.usage(ALICE).expect("usage").messages, 7);
        let (gone, _) = store.expunge(ALICE, INBOX, &[Uid(3), Uid(50)]).await.expect("expunges");
        assert_eq!(gone, [Uid(3)]);
        for (uid, number) in [(1, 1), (2, 3), (3, 0), (4, 1)] {
            let read = store.read(ALICE, other, Uid(uid), 0..u64::MAX).await.expect("reads");
            assert_eq!(read, message(ALICE, number, 500));
        }
        let all = store.changes_since(ALICE, INBOX, Modseq(0)).expect("changes");
        assert_eq!(all.vanished, [Uid(1), Uid(2), Uid(3)]);
        assert!(all.complete);
        assert!(matches!(
            store.read(ALICE, INBOX, Uid(1), 0..1).await,
            Err(Error::NoSuchMessage(Uid(1)))
        ));
        let nothing = store.copy(ALICE, INBOX, &[Uid(77)], other).await.expect("nothing to copy");
        assert!(nothing.0.is_empty());
        let missing = store.copy(ALICE, INBOX, &[Uid(4)], MailboxId(55)).await;
        assert!(matches!(missing, Err(Error::NoSuchMailbox(_))));
        let bad = store.verify().await.expect("verifies").bad;
        assert_eq!(bad, Vec::<String>::new());
    });
}

#[test]
fn quota_is_exact_with_deliveries_on_their_way() {
    let sim = Sim::new(7);
    let executor = storage::device::sim::Executor::new(&sim);
    let (disk, spawner) = (sim.clone(), executor.clone());
    let outcome = executor.block_on(async move {
        let store = storage::Store::open(disk, Options::for_tests()).await.expect("opens");
        let running = store.clone();
        spawner.spawn(async move { running.run().await });
        let quota = Quota { bytes_max: Some(5_000), messages_max: None };
        store.create_account(ALICE, quota).await.expect("alice");
        let results = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        for number in 0..10 {
            let (store, results) = (store.clone(), results.clone());
            spawner.spawn(async move {
                let one = delivery(vec![placement(ALICE, INBOX)], number, 1000);
                let result = store.deliver(one).await;
                results.borrow_mut().push(result.map(|_| ()));
            });
        }
        while results.borrow().len() < 10 {
            storage::device::Device::yield_now(store.device()).await;
            storage::device::Device::sleep(store.device(), std::time::Duration::from_millis(1))
                .await;
        }
        let fine = results.borrow().iter().filter(|result| result.is_ok()).count();
        let over = |result: &&Result<(), Error>| matches!(result, Err(Error::OverQuota));
        assert_eq!((fine, results.borrow().iter().filter(over).count()), (4, 6));
        assert!(store.check_quota(ALICE, 900).is_ok());
        assert!(store.check_quota(ALICE, 4000).is_err());
        let (gone, _) = store.expunge(ALICE, INBOX, &[Uid(1)]).await.expect("expunges");
        assert_eq!(gone.len(), 1);
        assert!(store.check_quota(ALICE, 1900).is_ok());
        store.close().await
    });
    assert!(matches!(outcome, Some(Ok(()))), "{outcome:?}");
}

#[test]
fn keys_and_values_live_in_spaces_of_their_own() {
    let sim = Sim::new(8);
    on_sim(&sim, Options::for_tests(), |store| async move {
        let pair = |key: &str, value: Option<&str>| {
            (key.to_owned().into(), value.map(|value| value.to_owned().into()))
        };
        let pairs = vec![pair("b", Some("2")), pair("a", Some("1")), pair("c", Some("3"))];
        store.put(Space(1), pairs).await.expect("puts");
        store.put(Space(2), vec![pair("a", Some("other"))]).await.expect("puts");
        store.put(Space(1), vec![pair("b", None), pair("zz", None)]).await.expect("deletes");
    });
    on_sim(&sim, Options::for_tests(), |store| async move {
        let keys: Vec<_> = store.scan(Space(1)).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["a", "c"]);
        assert_eq!(store.get(Space(1), b"c").expect("there"), "3");
        assert_eq!(store.get(Space(2), b"a").expect("there"), "other");
        assert_eq!(store.get(Space(3), b"a"), None);
    });
}

#[test]
fn a_removed_account_is_gone_and_its_bytes_are_not_counted() {
    let sim = Sim::new(9);
    on_sim(&sim, Options::for_tests(), |store| async move {
        with_accounts(&store).await;
        store.deliver(delivery(vec![placement(ALICE, INBOX)], 1, 100)).await.expect("in");
        assert!(matches!(
            store.create_account(ALICE, Quota::default()).await,
            Err(Error::AccountExists(ALICE))
        ));
        store.remove_account(ALICE).await.expect("removes");
        assert_eq!(store.accounts(), [BOB]);
        assert_eq!(store.stats().messages, 0);
        assert!(matches!(store.usage(ALICE), Err(Error::NoSuchAccount(ALICE))));
        let late = store.deliver(delivery(vec![placement(ALICE, INBOX)], 1, 100)).await;
        assert!(matches!(late, Err(Error::NoSuchAccount(ALICE))));
        assert!(matches!(store.remove_account(ALICE).await, Err(Error::NoSuchAccount(_))));
    });
}

#[test]
fn a_waiting_session_hears_of_news_and_recent_is_told_once() {
    let sim = Sim::new(10);
    on_sim(&sim, Options::for_tests(), |store| async move {
        with_accounts(&store).await;
        let since = store.highest_modseq(ALICE).expect("modseq");
        let waiting = store.changed(ALICE, since);
        let delivering = store.deliver(delivery(vec![placement(ALICE, INBOX)], 1, 100));
        let mut waiting = Box::pin(waiting);
        let mut delivering = Box::pin(delivering);
        let (mut heard, mut delivered) = (false, false);
        std::future::poll_fn(|context| {
            heard = heard || waiting.as_mut().poll(context).is_ready();
            delivered = delivered || delivering.as_mut().poll(context).is_ready();
            if heard && delivered { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        assert_eq!(store.recent_from(ALICE, INBOX, false).expect("recent"), Uid(1));
        assert_eq!(store.recent_from(ALICE, INBOX, true).expect("recent"), Uid(1));
        assert_eq!(store.recent_from(ALICE, INBOX, false).expect("recent"), Uid(2));
    });
}

#[test]
fn summaries_of_neighbours_come_with_one_read_and_each_with_its_own_outcome() {
    let sim = Sim::new(1);
    let disk = sim.clone();
    on_sim(&sim, Options::for_tests(), |store| async move {
        with_accounts(&store).await;
        for number in 0..60 {
            // Some lie far apart, and some records have two messages.
            let length = if number % 10 == 9 { 40_000 } else { 900 };
            let placements = match number % 7 {
                6 => vec![placement(ALICE, INBOX), placement(ALICE, INBOX)],
                _ => vec![placement(ALICE, INBOX)],
            };
            store.deliver(delivery(placements, number, length)).await.expect("delivers");
        }
        let there = store.uids(ALICE, INBOX).expect("uids");
        store.expunge(ALICE, INBOX, &there[20..22]).await.expect("expunges");
        let runs = store.summary_runs(ALICE, INBOX, &there).expect("runs");
        assert_eq!(runs.iter().sum::<usize>(), there.len());
        assert!(runs.len() < there.len() / 3, "{runs:?}");
        let read = |since: u64| disk.operations() - since;
        let mut singly = Vec::new();
        let before = disk.operations();
        for uid in &there {
            let summary = store.summary(ALICE, INBOX, *uid).await;
            singly.push(summary.map(|summary| (store.entry(ALICE, INBOX, *uid).unwrap(), summary)));
        }
        let (one_by_one, before) = (read(before), disk.operations());
        let mut together = Vec::new();
        let mut rest = &there[..];
        for length in &runs {
            let (run, later) = rest.split_at(*length);
            rest = later;
            together.extend(store.summaries(ALICE, INBOX, run).await);
        }
        assert_eq!(together, singly);
        assert!(read(before) * 3 < one_by_one, "{} and {one_by_one} operations", read(before));
    });
}
