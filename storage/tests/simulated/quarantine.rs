//! Mail that is kept back: out of everybody's sight, and at one place whatever happens.

use crate::common::*;
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;
use storage::device::sim::Sim;
use storage::index::names::QUARANTINE;
use storage::store::Undelete;
use storage::{Error, MailboxId, Options, Quota, Space, Store, Uid, UnixMillis};

/// How mail is let out: as the engine does it, or by two records, which a crash can part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    ByOneRecord,
    ByTwo,
}

/// What the store has acknowledged.
#[derive(Debug, Default)]
struct Told {
    delivered: Vec<u32>,
    released: Vec<u32>,
    deleted: Vec<u32>,
}

const MESSAGES: u32 = 6;

async fn keep_back(store: &Store<Sim>, number: u32) -> Result<MailboxId, Error> {
    let quarantine = store.make_quarantine(ALICE).await?;
    store.deliver(delivery(vec![placement(ALICE, quarantine)], number, 700)).await?;
    Ok(quarantine)
}

/// Every message is kept back; the even ones are let out, the third is deleted.
async fn work(store: Store<Sim>, told: Rc<RefCell<Told>>, release: Release) -> Result<(), Error> {
    store.create_account(ALICE, Quota::default()).await?;
    for number in 0..MESSAGES {
        let quarantine = keep_back(&store, number).await?;
        told.borrow_mut().delivered.push(number);
        let uid = [*store.uids(ALICE, quarantine)?.last().expect("just delivered")];
        match (number, release) {
            (3, _) => {
                store.expunge(ALICE, quarantine, &uid).await?;
                told.borrow_mut().deleted.push(number);
            }
            (even, _) if even % 2 == 1 => {}
            (_, Release::ByOneRecord) => {
                store.move_messages(ALICE, quarantine, &uid, INBOX).await?;
                told.borrow_mut().released.push(number);
            }
            (_, Release::ByTwo) => {
                store.copy(ALICE, quarantine, &uid, INBOX).await?;
                store.expunge(ALICE, quarantine, &uid).await?;
                told.borrow_mut().released.push(number);
            }
        }
    }
    Ok(())
}

fn numbers(store: &Store<Sim>, mailbox: MailboxId) -> Vec<u32> {
    let entries = store.entries(ALICE, mailbox, 0..=u32::MAX).unwrap_or_default();
    let number = |millis: u64| u32::try_from(millis - 1_600_000_000_000).expect("one of ours");
    entries.iter().map(|entry| number(entry.internal_date.0)).collect()
}

/// Why the survivor does not hold what was told; `None`: it does.
fn broken(store: &Store<Sim>, told: &Told) -> Option<String> {
    let Ok(quarantine) = store.quarantine(ALICE) else {
        return (!told.delivered.is_empty()).then(|| "the account is gone".to_owned());
    };
    let kept = quarantine.map(|info| numbers(store, info.id)).unwrap_or_default();
    let inbox = numbers(store, INBOX);
    for number in 0..MESSAGES {
        let places = kept.iter().chain(&inbox).filter(|one| **one == number).count();
        let (is_told, is_gone) = (told.delivered.contains(&number), told.deleted.contains(&number));
        // What was asked for and not acknowledged may be so or not.
        if places > 1
            || (is_gone && places > 0)
            || (is_told && number != 3 && places == 0)
            || (told.released.contains(&number) && !inbox.contains(&number))
        {
            return Some(format!("message {number}: kept {kept:?}, INBOX {inbox:?}, {told:?}"));
        }
    }
    let shown = store.mailboxes(ALICE).unwrap_or_default();
    (shown.len() != 1).then(|| format!("shown: {shown:?}"))
}

fn crash_everywhere(release: Release) -> Option<String> {
    for operation in 1.. {
        let sim = Sim::new(7);
        sim.crash_at(operation);
        let told = Rc::new(RefCell::new(Told::default()));
        let telling = Rc::clone(&told);
        on_sim_unclosed(&sim, small_store(), move |store, _| work(store, telling, release));
        let has_crashed = sim.is_crashed();
        let survivor = sim.after_crash();
        let opened = on_sim_unclosed(&survivor, small_store(), |store, _| async move { store });
        let why = broken(&opened.expect("comes to its end"), &told.borrow());
        if let Some(why) = why {
            return Some(format!("operation {operation}: {why}"));
        }
        if !has_crashed {
            assert_eq!(told.borrow().delivered.len(), MESSAGES as usize);
            return None;
        }
    }
    None
}

#[test]
fn what_is_let_out_is_at_one_place_whenever_the_power_fails() {
    assert_eq!(crash_everywhere(Release::ByOneRecord), None);
}

#[test]
fn a_release_by_two_records_is_found_out() {
    assert!(crash_everywhere(Release::ByTwo).is_some());
}

#[test]
fn nobody_sees_names_makes_renames_or_deletes_it() {
    let sim = Sim::new(1);
    on_sim(&sim, Options::for_tests(), |store| async move {
        with_accounts(&store).await;
        let quarantine = keep_back(&store, 1).await.expect("keeps");
        assert_eq!(store.make_quarantine(ALICE).await.expect("there"), quarantine);
        store.create_mailbox(ALICE, "Quarantine", None).await.expect("a user's own");
        let gone = |error| matches!(error, Err(Error::NoSuchMailboxName(_)));
        assert!(gone(store.mailbox_named(ALICE, QUARANTINE).map(drop)));
        assert!(gone(store.delete_mailbox(ALICE, QUARANTINE).await.map(drop)));
        assert!(gone(store.rename_mailbox(ALICE, QUARANTINE, "Mine").await.map(drop)));
        for refused in [
            store.create_mailbox(ALICE, QUARANTINE, None).await.map(drop),
            store.rename_mailbox(ALICE, "Quarantine", QUARANTINE).await.map(drop),
            store.rename_mailbox(ALICE, "INBOX", QUARANTINE).await.map(drop),
            store.subscribe(ALICE, QUARANTINE, true).await.map(drop),
        ] {
            assert!(matches!(refused, Err(Error::MailboxName(..))), "{refused:?}");
        }
        assert_eq!(store.usage(ALICE).expect("usage").messages, 1, "the quota counts it");
        assert_eq!(store.quarantine(BOB).expect("bob"), None);
    });
    // Also from a checkpoint, and what was expunged from it goes back to where it was.
    on_sim(
        &sim,
        Options { retention: std::time::Duration::from_secs(3600), ..Options::for_tests() },
        |store| async move {
            let names: Vec<String> = store
                .mailboxes(ALICE)
                .expect("mailboxes")
                .into_iter()
                .map(|info| info.name)
                .collect();
            assert_eq!(names, ["INBOX", "Quarantine"]);
            let quarantine = store.quarantine(ALICE).expect("alice").expect("there").id;
            store.expunge(ALICE, quarantine, &[Uid(1)]).await.expect("expunges");
            let wanted = Undelete { since: UnixMillis(0), mailbox: None, uids: None };
            let (back, _) = store.undelete(ALICE, &wanted, false).await.expect("brings back");
            assert_eq!(back, [(QUARANTINE.to_owned(), 1)]);
            assert_eq!(numbers(&store, quarantine), [1]);
            assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
        },
    );
}

const NOTES: Space = Space(41);

/// Stored mail is pulled back: by one record with its note, or (as it must not be) the note
/// by one of its own.
async fn pull_back_all(store: Store<Sim>, by_one: bool) -> Result<(), Error> {
    store.create_account(ALICE, Quota::default()).await?;
    for number in 0..MESSAGES {
        store.deliver(delivery(vec![placement(ALICE, INBOX)], number, 700)).await?;
        let quarantine = store.make_quarantine(ALICE).await?;
        let uid = [*store.uids(ALICE, INBOX)?.last().expect("just delivered")];
        let key = |uid: Uid| Bytes::copy_from_slice(&uid.0.to_be_bytes());
        let note = |_, uid| vec![(key(uid), Some(Bytes::from_static(b"virus")))];
        if by_one {
            store.move_and_put(ALICE, INBOX, &uid, quarantine, (NOTES, &note)).await?;
        } else {
            let (pairs, _) = store.move_messages(ALICE, INBOX, &uid, quarantine).await?;
            store.put(NOTES, note(pairs[0].0, pairs[0].1)).await?;
        }
    }
    Ok(())
}

fn pull_back_and_crash_everywhere(by_one: bool) -> Option<String> {
    for operation in 1.. {
        let sim = Sim::new(11);
        sim.crash_at(operation);
        on_sim_unclosed(&sim, small_store(), move |store, _| pull_back_all(store, by_one));
        let has_crashed = sim.is_crashed();
        let survivor = sim.after_crash();
        let opened = on_sim_unclosed(&survivor, small_store(), |store, _| async move { store });
        let store = opened.expect("comes to its end");
        let quarantine = store.quarantine(ALICE).ok().flatten().map(|info| info.id);
        let kept = quarantine.map(|id| store.uids(ALICE, id).expect("there")).unwrap_or_default();
        let noted: Vec<Uid> = store
            .scan(NOTES)
            .iter()
            .map(|(key, _)| Uid(u32::from_be_bytes(key[..].try_into().expect("a UID"))))
            .collect();
        let inbox = numbers(&store, INBOX);
        let back = quarantine.map(|id| numbers(&store, id)).unwrap_or_default();
        if kept != noted || inbox.iter().any(|one| back.contains(one)) {
            return Some(format!("{operation}: kept {kept:?}, noted {noted:?}, INBOX {inbox:?}"));
        }
        if !has_crashed {
            assert_eq!(kept.len(), MESSAGES as usize);
            return None;
        }
    }
    None
}

#[test]
fn what_is_pulled_back_has_its_note_and_one_place_whenever_the_power_fails() {
    assert_eq!(pull_back_and_crash_everywhere(true), None);
}

#[test]
fn a_note_by_a_record_of_its_own_is_found_out() {
    assert!(pull_back_and_crash_everywhere(false).is_some());
}

#[test]
fn notes_are_set_for_what_is_still_there_and_for_nothing_else() {
    let sim = Sim::new(1);
    on_sim(&sim, Options::for_tests(), |store| async move {
        with_accounts(&store).await;
        let quarantine = store.make_quarantine(ALICE).await.expect("makes");
        store.deliver(delivery(vec![placement(ALICE, INBOX)], 1, 700)).await.expect("delivers");
        let note = |was: Uid, is: Uid| {
            let key = [was.0.to_be_bytes(), is.0.to_be_bytes()].concat();
            vec![(Bytes::from(key), Some(Bytes::from_static(b"virus")))]
        };
        let uids = [Uid(1), Uid(2)];
        let moved = store.move_and_put(ALICE, INBOX, &uids, quarantine, (NOTES, &note)).await;
        assert_eq!(moved.expect("moves").0, [(Uid(1), Uid(1))]);
        let again = store.move_and_put(ALICE, INBOX, &uids, quarantine, (NOTES, &note)).await;
        assert_eq!(again.expect("nothing to do").0, []);
        let notes = store.scan(NOTES);
        assert_eq!(notes.len(), 1);
        assert_eq!(&notes[0].0[..], [0, 0, 0, 1, 0, 0, 0, 1]);
        store.deliver(delivery(vec![placement(ALICE, INBOX)], 2, 700)).await.expect("delivers");
        let long = |_, _| vec![(Bytes::new(), Some(Bytes::from(vec![0; 65 << 10])))];
        let refused = store.move_and_put(ALICE, INBOX, &[Uid(2)], quarantine, (NOTES, &long)).await;
        assert!(matches!(refused, Err(Error::Limit(_))));
        assert_eq!(numbers(&store, INBOX), [2]);
    });
}
