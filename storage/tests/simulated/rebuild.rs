//! The log is the database: everything else can be dropped, and comes back the same. And what
//! compaction at somebody's wish gives back.

use crate::common::*;
use std::time::Duration;
use storage::device::Device;
use storage::device::sim::{Executor, Random, Sim};
use storage::store::{Stats, Undelete};
use storage::{
    AccountId, FlagChange, FlagMode, Flags, Modseq, Options, Quota, Space, Store, Uid, UnixMillis,
};

const CAROL: AccountId = AccountId(3);

fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        spare_segments: 1,
        spare_segments_max: 3,
        checkpoint_log_bytes_min: 96 << 10,
        checkpoint_log_bytes_max: 96 << 10,
        retention: Duration::from_secs(2),
        ..Options::for_tests()
    }
}

/// Mail comes, is copied, moved, flagged, expunged, brought back, forgotten; accounts come and go.
async fn live(store: &Store<Sim>, seed: u64) {
    let mut random = Random::new(seed);
    with_accounts(store).await;
    let quota = Quota { bytes_max: Some(50 << 20), messages_max: Some(10_000) };
    store.create_account(CAROL, quota).await.expect("carol");
    let old = store.create_mailbox(ALICE, "Old", None).await.expect("creates").0;
    for number in 0..900 {
        let length = if number % 50 == 0 { 30_000 } else { 100 + random.index(2_500) };
        let places = match number % 4 {
            0 => vec![placement(ALICE, INBOX), placement(BOB, INBOX), placement(CAROL, INBOX)],
            _ => vec![placement(ALICE, INBOX)],
        };
        store.deliver(delivery(places, number, length)).await.expect("delivers");
        let uids = store.uids(ALICE, INBOX).expect("uids");
        let one = uids[random.index(uids.len())];
        match number % 8 {
            0 => {
                let (mode, keywords) = (FlagMode::Add, vec![format!("k{}", number % 5)]);
                let change = FlagChange { mode, flags: Flags::SEEN, keywords };
                store.change_flags(ALICE, INBOX, &[one], &change, None).await.expect("flags");
            }
            2 => drop(store.copy(ALICE, INBOX, &[one], old).await.expect("copies")),
            4 => drop(store.move_messages(ALICE, INBOX, &[one], old).await.expect("moves")),
            _ => {}
        }
        if uids.len() > 60 {
            store.expunge(ALICE, INBOX, &uids[10..30]).await.expect("expunges");
        }
        if number % 150 == 149 {
            let wanted = Undelete { since: UnixMillis(0), mailbox: None, uids: None };
            store.undelete(ALICE, &wanted, false).await.expect("undeletes");
            store.device().sleep(Duration::from_millis(1500)).await;
        }
        let pair = (format!("key {}", number % 20).into(), Some(format!("{number}").into()));
        store.put(Space(1), vec![pair]).await.expect("puts");
        if number == 450 {
            store.set_hold(BOB, true).await.expect("holds");
            let bobs = store.uids(BOB, INBOX).expect("uids");
            store.expunge(BOB, INBOX, &bobs[..20]).await.expect("expunges");
            let quota = Quota { bytes_max: Some(70 << 20), messages_max: None };
            store.set_quota(CAROL, quota).await.expect("sets");
        }
    }
    store.subscribe(ALICE, "Old", true).await.expect("subscribes");
}

/// All that the index holds, as far as anybody can ask for it; and every summary.
async fn everything(store: &Store<Sim>) -> Vec<String> {
    let mut lines = vec![format!("{:?}", store.scan(Space(1)))];
    let all = Undelete { since: UnixMillis(0), mailbox: None, uids: None };
    for account in store.accounts() {
        lines.push(format!(
            "{account:?} {:?} {:?} {:?} {}",
            store.usage(account),
            store.highest_modseq(account),
            store.subscriptions(account),
            store.is_held(account)
        ));
        for mailbox in store.mailboxes(account).expect("mailboxes") {
            lines.push(format!("{mailbox:?} {:?}", store.status(account, mailbox.id)));
            let changes = store.changes_since(account, mailbox.id, Modseq(0)).expect("changes");
            lines.push(format!("{changes:?}"));
            for entry in store.entries(account, mailbox.id, 1..=u32::MAX).expect("entries") {
                let summary = store.summary(account, mailbox.id, entry.uid).await.expect("summary");
                lines.push(format!("{entry:?} {summary:?}"));
            }
        }
        let (buried, count) = store.buried(account, &all, 100_000).expect("buried");
        lines.push(format!("{count} {buried:?}"));
    }
    let stats = store.stats();
    // Not what belongs to this opening, and not what checkpoints and superblocks
    // themselves have cost.
    let Stats { messages, bytes_received, live_bytes, orphans, .. } = stats.clone();
    let Stats { bytes_moved, bytes_based, log_live_bytes, .. } = stats.clone();
    let Stats { buried_messages, buried_bytes, accounts_held, .. } = stats;
    lines.push(format!(
        "{messages} {bytes_received} {live_bytes} {orphans} {bytes_moved} {bytes_based} \
         {log_live_bytes} {buried_messages} {buried_bytes} {accounts_held}"
    ));
    lines
}

/// Opens it, but sets nothing to work: so nothing is forgotten or moved while one looks.
fn opened<T: 'static>(sim: &Sim, look: impl AsyncFnOnce(&Store<Sim>) -> T + 'static) -> T {
    let disk = sim.clone();
    let executor = Executor::new(sim);
    let looked = executor.block_on(async move {
        let store = Store::open(disk, options()).await.expect("opens");
        let looked = look(&store).await;
        assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
        looked
    });
    looked.expect("comes to its end")
}

#[test]
fn everything_that_is_not_the_log_can_be_dropped_and_comes_back_the_same() {
    for seed in 0..4 {
        let sim = Sim::new(seed);
        on_sim(&sim, options(), move |store| async move {
            live(&store, seed).await;
            let stats = store.stats();
            let has_lived = stats.segments_freed > 0
                && stats.bytes_moved > 0
                && stats.bytes_based > 0
                && stats.buried_messages > 0
                && stats.accounts_held == 1;
            assert!(has_lived, "{stats:?}");
        });
        let with_index = opened(&sim, everything);
        let names: Vec<String> = sim.files().into_iter().map(|file| file.name).collect();
        assert!(names.iter().any(|name| name.starts_with("checkpoint-")));
        let disk = sim.clone();
        Executor::new(&sim).block_on(async move {
            for name in names.iter().filter(|name| !name.starts_with("log-")) {
                disk.remove(name).await.expect("removes");
            }
        });
        let from_the_log = opened(&sim, async |store: &Store<Sim>| {
            assert!(store.recovery().records > 0, "nothing was replayed");
            everything(store).await
        });
        assert_eq!(from_the_log.len(), with_index.len(), "seed {seed}");
        for (one, other) in from_the_log.iter().zip(&with_index) {
            assert_eq!(one, other, "seed {seed}");
        }
    }
}

#[test]
fn a_wish_is_not_over_before_all_of_it_has_come_back() {
    for seed in 1..=20 {
        let sim = Sim::new(seed);
        let lazy = Options { garbage_percent_max: 45, retention: Duration::ZERO, ..options() };
        on_sim(&sim, lazy, move |store| async move {
            with_accounts(&store).await;
            for number in 0..200 {
                let one = delivery(vec![placement(ALICE, INBOX)], number, 2_000);
                store.deliver(one).await.expect("delivers");
            }
            let uids = store.uids(ALICE, INBOX).expect("uids");
            store.expunge(ALICE, INBOX, &uids[..180]).await.expect("expunges");
            // At once, while the store itself has begun to give back: its checkpoint takes time.
            let done = store.compact(|_| {}).await.expect("compacts");
            for _ in 0..200 {
                store.device().sleep(Duration::from_millis(2)).await;
            }
            let later = store.stats();
            assert_eq!(later.log_bytes, done.log_bytes, "seed {seed}: more came back later");
            assert!(done.log_bytes < done.log_bytes_before / 2, "seed {seed}: {done:?}");
        });
    }
}

#[test]
fn a_wish_gives_back_what_is_not_worth_it_otherwise() {
    let sim = Sim::new(5);
    let lazy = Options { garbage_percent_max: 45, retention: Duration::ZERO, ..options() };
    on_sim(&sim, lazy, |store| async move {
        with_accounts(&store).await;
        for number in 0..300 {
            let one = delivery(vec![placement(ALICE, INBOX)], number, 2_000);
            store.deliver(one).await.expect("delivers");
        }
        // A third of each segment: less than what is worth it.
        let uids = store.uids(ALICE, INBOX).expect("uids");
        let some: Vec<Uid> = uids.into_iter().filter(|uid| uid.0 % 3 == 0).collect();
        store.expunge(ALICE, INBOX, &some).await.expect("expunges");
        for _ in 0..200 {
            store.device().sleep(Duration::from_millis(2)).await;
        }
        let before = store.stats();
        let mut told = 0;
        let done = store.compact(|_| told += 1).await.expect("compacts");
        let after = store.stats();
        assert!(told > 0);
        assert_eq!(done.log_bytes_before, before.log_bytes);
        assert_eq!((done.log_bytes, done.log_live_bytes), (after.log_bytes, after.log_live_bytes));
        assert!(done.segments_freed > 0 && done.bytes_moved > 0, "{done:?}");
        assert!(after.log_bytes < before.log_bytes * 9 / 10, "{before:?} {after:?}");
        // Nothing is left to do, and no wish is left behind.
        let again = store.compact(|_| {}).await.expect("compacts");
        assert!(again.log_bytes + 2 * (64 << 10) >= done.log_bytes, "{again:?}");
        assert_eq!(store.uids(ALICE, INBOX).expect("uids").len(), 200);
        assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
    });
}
