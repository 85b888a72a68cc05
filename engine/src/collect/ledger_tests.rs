//! What a ledger makes of servers that keep to the rules, and of others.

use super::*;

const POLICY: Policy = Policy { leave: Leave::Forever, octets_max: 1000 };

fn place() -> Place {
    Place { base: Bytes::from("b"), loose: Bytes::from("l") }
}

fn empty() -> Ledger {
    Ledger::read(place(), None, &[]).unwrap()
}

fn listed(name: &str, handle: u32) -> Listed {
    Listed { id: uidl_id(name), handle, octets: Some(100), repeated: false }
}

fn handles(some: &VecDeque<Listed>) -> Vec<u32> {
    some.iter().map(|one| one.handle).collect()
}

fn hash(text: &str) -> Hash {
    let mut hasher = Hasher::default();
    hasher.push(text.as_bytes());
    hasher.finish()
}

/// Files it if it is new.
fn arrives(ledger: &mut Ledger, one: &Listed, text: &str, now: u32) -> bool {
    match ledger.arrived(one, hash(text), true, now) {
        Arrival::New(filing) => {
            ledger.filed(&filing);
            true
        }
        Arrival::Known | Arrival::Refused => false,
    }
}

fn again(ledger: &mut Ledger) -> Ledger {
    ledger.changed = true;
    let pairs = ledger.fold();
    let base = pairs.first().and_then(|(_, value)| value.clone());
    Ledger::read(place(), base.as_deref(), &[]).unwrap()
}

#[test]
fn a_message_is_read_once() {
    let mut ledger = empty();
    let work = ledger.sort(vec![listed("a", 1), listed("b", 2)], &POLICY, 10);
    assert_eq!(handles(&work.retrieve), [1, 2]);
    for one in &work.retrieve {
        assert!(arrives(&mut ledger, one, &one.handle.to_string(), 10));
    }
    let work = ledger.sort(vec![listed("b", 1), listed("c", 2)], &POLICY, 20);
    assert_eq!(handles(&work.retrieve), [2]);
    assert!(work.delete.is_empty());
}

#[test]
fn a_filed_message_is_known_from_its_own_key_and_from_the_base() {
    let mut ledger = empty();
    let one = listed("a", 1);
    let Arrival::New(filing) = ledger.arrived(&one, hash("x"), true, 10) else { panic!() };
    let loose = [(filing.pairs[0].0.clone(), filing.pairs[0].1.clone().unwrap())];
    let mut other = Ledger::read(place(), None, &loose).unwrap();
    assert!(other.sort(vec![one.clone()], &POLICY, 20).retrieve.is_empty());
    other.set_epoch(7);
    let pairs = other.fold();
    assert_eq!(pairs[1], (filing.pairs[0].0.clone(), None));
    let mut third = Ledger::read(place(), pairs[0].1.as_deref(), &[]).unwrap();
    assert_eq!(third.epoch(), 7);
    assert!(third.sort(vec![one], &POLICY, 20).retrieve.is_empty());
    for end in 1..pairs[0].1.as_ref().unwrap().len() {
        let cut = Ledger::read(place(), Some(&pairs[0].1.as_ref().unwrap()[..end]), &[]);
        assert!(cut.is_none_or(|ledger| ledger.is_empty()), "{end}");
    }
}

#[test]
fn deletion_waits_for_its_time() {
    for (leave, now, deleted) in [
        (Leave::Forever, 1_000_000, false),
        (Leave::Not, 10, true),
        (Leave::For(100), 109, false),
        (Leave::For(100), 110, true),
        (Leave::For(100), 5, false),
    ] {
        let mut ledger = empty();
        assert!(arrives(&mut ledger, &listed("a", 1), "x", 10));
        let work = ledger.sort(vec![listed("a", 1)], &Policy { leave, ..POLICY }, now);
        assert_eq!(work.delete.len() == 1, deleted, "{leave:?} {now}");
    }
}

#[test]
fn a_reused_identifier_is_another_message_and_one_that_comes_back_is_the_same() {
    let mut ledger = empty();
    assert!(arrives(&mut ledger, &listed("a", 1), "first", 10));
    ledger.sort(vec![], &POLICY, 20);
    let work = ledger.sort(vec![listed("a", 1)], &POLICY, 30);
    assert_eq!(handles(&work.retrieve), [1]);
    assert!(!arrives(&mut ledger, &listed("a", 1), "first", 30));
    assert!(ledger.sort(vec![listed("a", 1)], &POLICY, 30).retrieve.is_empty());
    ledger.deleted(&uidl_id("a"), 35);
    let mut ledger = again(&mut ledger);
    assert_eq!(ledger.sort(vec![listed("a", 1)], &POLICY, 40).retrieve.len(), 1);
    assert!(arrives(&mut ledger, &listed("a", 1), "second", 40));
    // Of another size without ever having been away.
    let larger = Listed { octets: Some(101), ..listed("a", 1) };
    assert_eq!(ledger.sort(vec![larger.clone()], &POLICY, 50).retrieve.len(), 1);
    assert!(!arrives(&mut ledger, &larger, "second", 50));
    assert!(ledger.sort(vec![larger], &POLICY, 60).retrieve.is_empty());
}

#[test]
fn what_should_be_deleted_and_is_listed_again_is_read_before_it_is_deleted() {
    let mut ledger = empty();
    let leave = Policy { leave: Leave::Not, ..POLICY };
    let one = listed("a", 1);
    let Arrival::New(filing) = ledger.arrived(&one, hash("x"), false, 10) else { panic!() };
    ledger.filed(&filing);
    for now in [20, 30] {
        let work = ledger.sort(vec![one.clone()], &leave, now);
        assert_eq!((work.retrieve.len(), work.delete.len()), (1, 0));
        assert_eq!(ledger.arrived(&one, hash("x"), false, now), Arrival::Known);
    }
    ledger.stays(&one.id);
    let work = ledger.sort(vec![one.clone()], &leave, 40);
    assert_eq!((work.retrieve.len(), work.delete.len()), (0, 1));
}

#[test]
fn identifiers_that_move_from_message_to_message_double_nothing() {
    // As where UIDL says the number of the message.
    let mut ledger = empty();
    let mut there: Vec<u32> = (0..6).collect();
    let mut seen = Vec::new();
    for now in [10, 20, 30, 40] {
        let list = there.iter().zip(1..);
        let list = list.map(|(number, at)| Listed {
            octets: Some(u64::from(100 + number)),
            ..listed(&at.to_string(), at)
        });
        for one in ledger.sort(list.collect(), &POLICY, now).retrieve {
            let number = there[one.handle as usize - 1];
            if arrives(&mut ledger, &one, &number.to_string(), now) {
                seen.push(number);
            }
        }
        ledger = again(&mut ledger);
        there.remove(0);
        there.push(now);
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 10, 20, 30]);
}

#[test]
fn new_identifiers_for_all_are_found_out_by_content() {
    let mut ledger = empty();
    let name = |epoch: u32, uid| Listed { id: uid_id(epoch, uid), ..listed("", uid) };
    for uid in 1..=5 {
        assert!(arrives(&mut ledger, &name(1, uid), &uid.to_string(), 10));
    }
    let work = ledger.sort((1..=6).map(|uid| name(2, uid)).collect(), &POLICY, 20);
    assert_eq!(work.retrieve.len(), 6);
    let new = work.retrieve.iter().filter(|one| {
        let text = one.handle.to_string();
        arrives(&mut ledger, one, &text, 20)
    });
    assert_eq!(new.map(|one| one.handle).collect::<Vec<_>>(), [6]);
    let mut ledger = again(&mut ledger);
    assert!(
        ledger.sort((1..=6).map(|uid| name(2, uid)).collect(), &POLICY, 30).retrieve.is_empty()
    );
}

#[test]
fn messages_that_share_an_identifier_are_told_apart_by_content() {
    let mut ledger = empty();
    let same = |handle| Listed { repeated: true, ..listed("a", handle) };
    for round in 0..3 {
        let work = ledger.sort(vec![same(1), same(2)], &POLICY, 10 + round);
        assert_eq!((work.retrieve.len(), work.repeated), (2, 2));
        for one in &work.retrieve {
            let new = arrives(&mut ledger, one, &one.handle.to_string(), 10 + round);
            assert_eq!(new, round == 0);
        }
        ledger = again(&mut ledger);
    }
}

#[test]
fn what_is_too_large_is_told_once_and_read_when_the_limit_is_raised() {
    let mut ledger = empty();
    let large = Listed { octets: Some(5000), ..listed("a", 1) };
    let work = ledger.sort(vec![large.clone()], &POLICY, 10);
    assert_eq!((work.retrieve.len(), work.too_large), (0, 1));
    let mut ledger = again(&mut ledger);
    let work = ledger.sort(vec![large.clone()], &Policy { leave: Leave::Not, ..POLICY }, 20);
    assert_eq!((work.retrieve.len(), work.too_large, work.delete.len()), (0, 0, 0));
    let raised = Policy { octets_max: 9000, ..POLICY };
    assert_eq!(ledger.sort(vec![large.clone()], &raised, 30).retrieve.len(), 1);
    // A server that lies about it is asked once.
    ledger.was_too_large(&listed("b", 2));
    let work = ledger.sort(vec![listed("b", 2)], &Policy { leave: Leave::Not, ..POLICY }, 40);
    assert_eq!((work.retrieve.len(), work.delete.len()), (0, 0));
}

#[test]
fn what_the_scan_refuses_is_neither_read_again_nor_deleted() {
    let mut ledger = empty();
    let Arrival::New(filing) = ledger.arrived(&listed("a", 1), hash("x"), true, 10) else {
        panic!()
    };
    ledger.refused(&filing);
    let mut ledger = again(&mut ledger);
    let work = ledger.sort(vec![listed("a", 1)], &Policy { leave: Leave::Not, ..POLICY }, 20);
    assert_eq!((work.retrieve.len(), work.delete.len()), (0, 0));
}

#[test]
fn what_is_gone_is_forgotten_in_the_end() {
    let mut ledger = empty();
    assert!(arrives(&mut ledger, &listed("a", 1), "x", 10));
    ledger.sort(vec![], &POLICY, 20);
    ledger.sort(vec![], &POLICY, 20 + GONE_SECONDS - 1);
    assert!(!ledger.is_empty());
    ledger.sort(vec![], &POLICY, 20 + GONE_SECONDS);
    assert!(ledger.is_empty());
}

#[test]
fn of_another_mailbox_everything_is_read_and_what_is_the_same_does_not_come_twice() {
    let mut ledger = empty();
    assert!(arrives(&mut ledger, &listed("a", 1), "first", 10));
    ledger.doubt(20);
    let mut ledger = again(&mut ledger);
    // Under the same identifier, and of a size that nobody says.
    let one = Listed { octets: None, ..listed("a", 1) };
    let policy = Policy { leave: Leave::For(5), ..POLICY };
    let work = ledger.sort(vec![one.clone()], &policy, 30);
    assert_eq!((handles(&work.retrieve), work.delete.len()), (vec![1], 0));
    assert!(!arrives(&mut ledger, &one, "first", 30));
    assert!(arrives(&mut ledger, &one, "another", 30));
}
