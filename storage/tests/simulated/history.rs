//! An account as it was at any time within the retention, beside a model that noted it then.

use crate::common::*;
use crate::log_end::last_batch_but;
use std::collections::BTreeMap;
use std::time::Duration;
use storage::device::Device;
use storage::device::sim::{Random, Sim};
use storage::store::Undelete;
use storage::{Error, FlagChange, FlagMode, Flags, MailboxId, Options, Store, Uid, UnixMillis};

const HOUR: Duration = Duration::from_secs(3600);

fn options() -> Options {
    Options { retention: 24 * 400 * HOUR, ..small_store() }
}

/// Mailboxes by name: flags by UID with names of keywords, and the message's bytes.
type State = BTreeMap<String, BTreeMap<Uid, (u64, Vec<String>, Vec<u8>)>>;

fn keywords(flags: Flags, names: &[String]) -> Vec<String> {
    let set = (0..names.len()).filter(|number| flags.0 >> (8 + number) & 1 == 1);
    set.map(|number| names[number].clone()).collect()
}

async fn state_now(store: &Store<Sim>, below: &str) -> State {
    let mut state = State::new();
    for info in store.mailboxes(ALICE).expect("mailboxes") {
        let name =
            if below.is_empty() { Some(&info.name[..]) } else { info.name.strip_prefix(below) };
        let Some(name) = name.filter(|_| below.is_empty() != info.read_only) else { continue };
        let mailbox = state.entry(name.to_owned()).or_default();
        for entry in store.entries(ALICE, info.id, 1..=u32::MAX).expect("entries") {
            let bytes = store.read(ALICE, info.id, entry.uid, 0..u64::MAX).await.expect("reads");
            let keywords = keywords(entry.flags, &info.keywords);
            mailbox.insert(entry.uid, (entry.flags.0 & 0xFF, keywords, bytes.to_vec()));
        }
    }
    state
}

async fn state_then(store: &Store<Sim>, at: UnixMillis) -> State {
    let past = store.as_of(ALICE, at).await.expect("remembered");
    let mut state = State::new();
    for mailbox in past.mailboxes {
        let found = state.entry(mailbox.name).or_default();
        for one in mailbox.messages {
            let bytes =
                store.read_buried(ALICE, mailbox.id, one.uid, 0..u64::MAX).await.expect("reads");
            assert_eq!(bytes.len(), one.bytes as usize);
            let keywords = keywords(one.flags, &mailbox.keywords);
            found.insert(one.uid, (one.flags.0 & 0xFF, keywords, bytes.to_vec()));
        }
    }
    state
}

/// One change at random.
async fn step(store: &Store<Sim>, random: &mut Random, number: u32) {
    let mailboxes = store.mailboxes(ALICE).expect("mailboxes");
    let mailboxes: Vec<MailboxId> = mailboxes.iter().map(|info| info.id).collect();
    let one = mailboxes[random.index(mailboxes.len())];
    let other = mailboxes[random.index(mailboxes.len())];
    let uids = store.uids(ALICE, one).expect("uids");
    let some: Vec<Uid> = uids.iter().copied().filter(|_| random.chance(1, 4)).collect();
    match random.index(12) {
        0..5 => {
            let length = if random.chance(1, 10) { 20_000 } else { 300 + random.index(2000) };
            store.deliver(delivery(vec![placement(ALICE, one)], number, length)).await.map(drop)
        }
        5 => store.expunge(ALICE, one, &some).await.map(drop),
        6 => store.copy(ALICE, one, &some, other).await.map(drop),
        7 if one != other => store.move_messages(ALICE, one, &some, other).await.map(drop),
        8 | 7 => {
            let change = FlagChange {
                mode: if random.chance(1, 2) { FlagMode::Add } else { FlagMode::Replace },
                flags: [Flags::SEEN, Flags::FLAGGED][random.index(2)],
                keywords: vec![["red", "blue"][random.index(2)].to_owned()],
            };
            store.change_flags(ALICE, one, &some, &change, None).await.map(drop)
        }
        9 => store.create_mailbox(ALICE, &format!("box{number}"), None).await.map(drop),
        10 if random.chance(1, 2) => {
            let from = store.mailbox(ALICE, one).expect("there").name;
            store.rename_mailbox(ALICE, &from, &format!("new{number}")).await.map(drop)
        }
        10 => {
            let name = store.mailbox(ALICE, one).expect("there").name;
            if name == "INBOX" {
                Ok(())
            } else {
                store.delete_mailbox(ALICE, &name).await.map(drop)
            }
        }
        _ => {
            let all = Undelete { since: UnixMillis(0), mailbox: None, uids: None };
            store.undelete(ALICE, &all, false).await.map(drop)
        }
    }
    .expect("is done");
}

/// BOB's mail keeps compaction and bases coming.
async fn traffic(store: &Store<Sim>, number: u32) {
    for number in number * 8..number * 8 + 8 {
        let one = delivery(vec![placement(BOB, INBOX)], number, 2_000);
        let (placed, _) = store.deliver(one).await.expect("delivers");
        store.expunge(BOB, INBOX, &[placed[0].uid]).await.expect("expunges");
    }
}

async fn verified(store: &Store<Sim>) {
    assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
}

#[test]
fn every_moment_of_the_window_comes_back_as_it_was() {
    for seed in 0..6 {
        let sim = Sim::new(seed);
        let noted = on_sim(&sim, options(), move |store| async move {
            with_accounts(&store).await;
            let mut random = Random::new(seed);
            let mut noted = Vec::new();
            for number in 0..60 {
                step(&store, &mut random, number).await;
                traffic(&store, number).await;
                // A moment of its own for each state.
                store.device().sleep(HOUR).await;
                noted.push((store.device().now(), state_now(&store, "").await));
                store.device().sleep(HOUR).await;
            }
            for (at, state) in &noted {
                assert!(state_then(&store, *at).await == *state, "{seed}: at {at:?}");
            }
            assert!(store.stats().bytes_based > 0, "{:?}", store.stats());
            verified(&store).await;
            noted
        });
        on_sim(&sim.after_crash(), options(), move |store| async move {
            for (at, state) in noted.iter().step_by(7) {
                assert!(state_then(&store, *at).await == *state, "{seed}: at {at:?}, opened anew");
                let past = store.as_of(ALICE, *at).await.expect("remembered");
                let (messages, missing, _) = store.show(&past, "Then", true).await.expect("shown");
                let all: usize = state.values().map(BTreeMap::len).sum();
                assert_eq!((messages, missing), (all as u64, 0));
                assert!(state_now(&store, "Then/").await == *state, "{seed}: shown as of {at:?}");
                verified(&store).await;
                for info in store.mailboxes(ALICE).expect("mailboxes") {
                    if info.read_only {
                        store.delete_mailbox(ALICE, &info.name).await.expect("may go");
                    }
                }
                verified(&store).await;
            }
        });
    }
}

#[test]
fn bases_and_moves_within_the_window_change_nothing_and_the_log_before_it_is_freed() {
    let sim = Sim::new(50);
    let options = Options { retention: 24 * 30 * HOUR, ..options() };
    on_sim(&sim, options, |store| async move {
        with_accounts(&store).await;
        let mut random = Random::new(50);
        let mut noted = Vec::new();
        for number in 0..240 {
            step(&store, &mut random, number).await;
            traffic(&store, number).await;
            for _ in 0..6 {
                store.device().sleep(2 * HOUR).await;
            }
            noted.push((store.device().now(), state_now(&store, "").await));
        }
        let stats = store.stats();
        assert!(stats.segments_freed > 10, "{stats:?}");
        let since = store.remembered_since().expect("a window");
        let (within, before): (Vec<_>, Vec<_>) = noted.into_iter().partition(|one| one.0 >= since);
        assert!(within.len() > 20 && before.len() > 20, "{} {}", within.len(), before.len());
        for (at, state) in &within {
            assert!(state_then(&store, *at).await == *state, "at {at:?}");
        }
        let refused = store.as_of(ALICE, before[0].0).await;
        assert!(matches!(refused, Err(Error::NotRemembered(Some(_)))), "{refused:?}");
        verified(&store).await;
    });
}

#[test]
fn what_shows_the_past_cannot_be_changed_and_can_be_copied_from_and_deleted() {
    let sim = Sim::new(60);
    let check = |store: Store<Sim>| async move {
        let info = store.mailbox_named(ALICE, "Then/INBOX").expect("shown");
        assert!(info.read_only);
        let there = info.id;
        let read_only = |result: Result<(), Error>| matches!(result, Err(Error::ReadOnly(_)));
        let one = delivery(vec![placement(ALICE, there)], 9, 100);
        assert!(read_only(store.deliver(one).await.map(drop)));
        assert!(read_only(store.copy(ALICE, INBOX, &[Uid(2)], there).await.map(drop)));
        assert!(read_only(store.move_messages(ALICE, there, &[Uid(1)], INBOX).await.map(drop)));
        assert!(read_only(store.expunge(ALICE, there, &[Uid(1)]).await.map(drop)));
        let change = FlagChange { mode: FlagMode::Add, flags: Flags::SEEN, keywords: vec![] };
        let changed = store.change_flags(ALICE, there, &[Uid(1)], &change, None).await;
        assert!(read_only(changed.map(drop)));
    };
    on_sim(&sim, options(), move |store| async move {
        with_accounts(&store).await;
        for number in 1..=2 {
            let one = delivery(vec![placement(ALICE, INBOX)], number, 500);
            store.deliver(one).await.expect("delivers");
        }
        let at = store.device().now();
        store.device().sleep(HOUR).await;
        store.expunge(ALICE, INBOX, &[Uid(1)]).await.expect("expunges");
        let past = store.as_of(ALICE, at).await.expect("remembered");
        store.show(&past, "Then", false).await.expect("shown");
        let again = store.show(&past, "Then", false).await;
        assert!(matches!(again, Err(Error::MailboxExists(_))), "{again:?}");
        check(store.clone()).await;
        let there = store.mailbox_named(ALICE, "Then/INBOX").expect("shown").id;
        store.copy(ALICE, there, &[Uid(1)], INBOX).await.expect("copies out of it");
        let read = store.read(ALICE, INBOX, Uid(3), 0..u64::MAX).await.expect("reads");
        assert!(read == message(ALICE, 1, 500));
    });
    on_sim(&sim.after_crash(), options(), move |store| async move {
        check(store.clone()).await;
        store.delete_mailbox(ALICE, "Then/INBOX").await.expect("may go");
        assert_eq!(store.stats().buried_messages, 1, "what showed the past leaves no graves");
        verified(&store).await;
    });
}

async fn names(store: &Store<Sim>) -> Vec<String> {
    store.mailboxes(ALICE).expect("mailboxes").into_iter().map(|mailbox| mailbox.name).collect()
}

#[test]
fn what_can_not_be_shown_is_refused_before_anything_is_made() {
    let sim = Sim::new(62);
    on_sim(&sim, options(), |store| async move {
        with_accounts(&store).await;
        // As deep as a name may be, and long enough that there is no room for the tree's own.
        for name in [vec!["x"; 32].join("/"), "x".repeat(990)] {
            store.create_mailbox(ALICE, "A/sound/one", None).await.expect("creates");
            store.create_mailbox(ALICE, &name, None).await.expect("creates");
            let at = store.device().now();
            store.device().sleep(HOUR).await;
            let before = names(&store).await;
            let past = store.as_of(ALICE, at).await.expect("remembered");
            for _ in 0..2 {
                let refused = store.show(&past, "Then", true).await;
                assert!(matches!(refused, Err(Error::MailboxName(..))), "{refused:?}");
                assert_eq!(names(&store).await, before);
            }
            for name in before.iter().filter(|name| *name != "INBOX") {
                store.delete_mailbox(ALICE, name).await.expect("deletes");
            }
        }
        // What is below the tree would be in its way only at the end.
        store.create_mailbox(ALICE, "Then/INBOX", None).await.expect("creates");
        store.delete_mailbox(ALICE, "Then").await.expect("deletes");
        let past = store.as_of(ALICE, store.device().now()).await.expect("remembered");
        let refused = store.show(&past, "Then", true).await;
        assert!(matches!(refused, Err(Error::MailboxExists(_))), "{refused:?}");
        assert_eq!(names(&store).await, ["INBOX", "Then/INBOX"]);
        store.delete_mailbox(ALICE, "Then/INBOX").await.expect("deletes");
        // Nobody's own mailbox is taken for what a try has left.
        store.create_mailbox(ALICE, "Then (unfinished)/mine", None).await.expect("creates");
        let refused = store.show(&past, "Then", true).await;
        assert!(matches!(refused, Err(Error::MailboxExists(_))), "{refused:?}");
        assert!(names(&store).await.iter().any(|name| name == "Then (unfinished)/mine"));
    });
}

#[test]
fn a_look_back_that_was_broken_off_anywhere_is_made_whole_by_the_next_one() {
    let mut cut = 0;
    for crash_at in (1..).step_by(2) {
        let sim = Sim::new(63);
        let disk = sim.clone();
        let ended = on_sim_unclosed(&sim, options(), move |store, _| async move {
            with_accounts(&store).await;
            for number in 0..6 {
                let name = format!("Box {number}");
                let to = store.create_mailbox(ALICE, &name, None).await.expect("creates").0;
                store.deliver(delivery(vec![placement(ALICE, to)], number, 200)).await;
            }
            let at = store.device().now();
            store.device().sleep(HOUR).await;
            let past = store.as_of(ALICE, at).await.expect("remembered");
            disk.crash_at(disk.operations() + crash_at);
            store.show(&past, "Then", false).await.is_ok()
        });
        // Long after anything that happened.
        let broken_off = on_sim(&sim.after_crash(), options(), move |store| async move {
            let left = names(&store).await;
            let past = store.as_of(ALICE, store.device().now()).await.expect("remembered");
            if left.iter().any(|name| name == "Then") {
                return false;
            }
            let (shown, missing, _) = store.show(&past, "Then", false).await.expect("shown");
            assert_eq!((shown, missing), (6, 0), "{left:?}");
            assert!(!names(&store).await.iter().any(|name| name.contains("unfinished")));
            verified(&store).await;
            left.iter().any(|name| name.contains("unfinished"))
        });
        cut += u32::from(broken_off);
        if ended == Some(true) {
            break;
        }
    }
    assert!(cut > 2, "{cut}");
}

#[test]
fn without_a_retention_no_time_is_remembered() {
    let sim = Sim::new(61);
    let options = Options { retention: Duration::ZERO, ..options() };
    on_sim(&sim, options, |store| async move {
        with_accounts(&store).await;
        assert_eq!(store.remembered_since(), None);
        let now = store.device().now();
        assert_eq!(store.as_of(ALICE, now).await, Err(Error::NotRemembered(None)));
    });
}

#[test]
fn what_rot_has_taken_of_the_log_is_told_with_an_account_as_it_was() {
    let sim = Sim::new(62);
    let disk = sim.clone();
    on_sim(&sim, options(), move |store| async move {
        with_accounts(&store).await;
        for number in 0..6 {
            let one = delivery(vec![placement(ALICE, INBOX)], number, 500);
            store.deliver(one).await.expect("delivers");
        }
        let before = store.device().now();
        store.device().sleep(HOUR).await;
        store.expunge(ALICE, INBOX, &[Uid(2)]).await.expect("expunges");
        let at = store.device().now();
        store.device().sleep(HOUR).await;
        let one = delivery(vec![placement(ALICE, INBOX)], 7, 500);
        store.deliver(one).await.expect("delivers");
        let past = store.as_of(ALICE, at).await.expect("remembered");
        assert_eq!((past.mailboxes[0].messages.len(), past.records_lost), (5, 0));
        // The record with which it went.
        let (name, offset) = last_batch_but(&disk, 1);
        assert!(disk.flip(&name, offset + 64 + 48 + 2, 1));
        let past = store.as_of(ALICE, at).await.expect("remembered");
        assert_eq!((past.mailboxes[0].messages.len(), past.records_lost), (6, 1));
        let past = store.as_of(ALICE, before).await.expect("remembered");
        assert_eq!((past.mailboxes[0].messages.len(), past.records_lost), (6, 0));
    });
}

#[test]
fn looking_back_has_few_files_open_however_long_the_log_is() {
    let sim = Sim::new(65);
    let (at, state) = on_sim(&sim, options(), |store| async move {
        with_accounts(&store).await;
        let one = delivery(vec![placement(ALICE, INBOX)], 1, 500);
        store.deliver(one).await.expect("delivers");
        // Long ago, so that all of the log is read for it.
        let noted = (store.device().now(), state_now(&store, "").await);
        store.device().sleep(HOUR).await;
        for number in 0..60 {
            traffic(&store, number).await;
        }
        store.expunge(ALICE, INBOX, &[Uid(1)]).await.expect("expunges");
        noted
    });
    let sim = sim.after_crash();
    let disk = sim.clone();
    on_sim(&sim, options(), move |store| async move {
        assert!(store.stats().segments > 20, "{:?}", store.stats());
        // Asked once more, of this moment.
        let (_, open) = (disk.open_files_most(), disk.open_files_most());
        disk.set_open_files_max(open + 4);
        let past = store.as_of(ALICE, at).await.expect("remembered");
        assert_eq!(past.mailboxes[0].messages.len(), 1);
        disk.set_open_files_max(usize::MAX);
        assert!(state_then(&store, at).await == state);
    });
}

const YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A clock that jumps ahead for a while, in a running store and across an opening.
#[test]
fn a_clock_that_is_wrong_for_a_while_makes_nothing_forgotten_and_hides_no_later_time() {
    let options = || Options { retention: 30 * 24 * HOUR, ..small_store() };
    let sim = Sim::new(63);
    let disk = sim.clone();
    let at = on_sim(&sim, options(), move |store| async move {
        with_accounts(&store).await;
        for number in 0..6 {
            let one = delivery(vec![placement(ALICE, INBOX)], number, 500);
            store.deliver(one).await.expect("delivers");
        }
        store.expunge(ALICE, INBOX, &[Uid(1), Uid(2)]).await.expect("expunges");
        disk.set_ahead(YEARS);
        // Segments and bases of that time, too.
        for number in 0..12 {
            traffic(&store, number).await;
        }
        store.expunge(ALICE, INBOX, &[Uid(3)]).await.expect("expunges");
        store.device().sleep(2 * HOUR).await;
        disk.set_ahead(Duration::ZERO);
        store.expunge(ALICE, INBOX, &[Uid(4)]).await.expect("expunges");
        let at = store.device().now();
        store.device().sleep(HOUR).await;
        for number in 20..32 {
            traffic(&store, number).await;
        }
        store.expunge(ALICE, INBOX, &[Uid(5)]).await.expect("expunges");
        let left = |past: storage::store::PastAccount| -> Vec<Uid> {
            past.mailboxes[0].messages.iter().map(|message| message.uid).collect()
        };
        assert_eq!(left(store.as_of(ALICE, at).await.expect("remembered")), [Uid(5), Uid(6)]);
        let now = store.device().now();
        assert_eq!(left(store.as_of(ALICE, now).await.expect("remembered")), [Uid(6)]);
        at
    });
    let sim = sim.after_crash();
    sim.set_ahead(YEARS);
    let disk = sim.clone();
    on_sim(&sim, options(), move |store| async move {
        store.device().sleep(3 * HOUR).await;
        let all = Undelete { since: UnixMillis(0), mailbox: None, uids: None };
        disk.set_ahead(Duration::ZERO);
        assert!(store.as_of(ALICE, at).await.is_ok(), "the log is there");
        let (undeleted, _) = store.undelete(ALICE, &all, false).await.expect("is done");
        let undeleted: u64 = undeleted.into_iter().map(|(_, messages)| messages).sum();
        assert_eq!(undeleted, 5, "all that went is remembered");
    });
}

#[test]
fn what_is_older_than_the_retention_goes_when_the_clock_has_been_right_for_a_day() {
    let options = || Options { retention: 30 * 24 * HOUR, ..small_store() };
    let sim = Sim::new(64);
    on_sim(&sim, options(), |store| async move {
        with_accounts(&store).await;
        let one = delivery(vec![placement(ALICE, INBOX)], 1, 500);
        store.deliver(one).await.expect("delivers");
        store.expunge(ALICE, INBOX, &[Uid(1)]).await.expect("expunges");
    });
    // It was switched off for years.
    let sim = sim.after_crash();
    sim.set_ahead(YEARS);
    on_sim(&sim, options(), |store| async move {
        store.device().sleep(12 * HOUR).await;
        assert_eq!(store.stats().buried_messages, 1);
        store.device().sleep(13 * HOUR).await;
        // On this disk a sleep may end before what is being forgotten is written, an
        // hour after it began.
        for _ in 0..20 {
            store.device().sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(store.stats().buried_messages, 0);
    });
}
