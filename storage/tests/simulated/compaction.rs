//! Space comes back while the store runs, and nothing that is kept is harmed by it.

use crate::common::*;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use storage::device::Device;
use storage::device::sim::{Executor, Random, Sim};
use storage::format::{SEGMENT_HEADER_BYTES, SegmentHeader};
use storage::{Error, FlagChange, FlagMode, Flags, MailboxId, Options, Quota, Space, Store, Uid};

/// Lets upkeep and compaction come to rest.
async fn rest(store: &Store<Sim>) {
    for _ in 0..400 {
        store.device().sleep(Duration::from_millis(2)).await;
    }
}

async fn verified(store: &Store<Sim>) {
    assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
}

async fn deliver(store: &Store<Sim>, number: u32, length: usize) -> Uid {
    let one = delivery(vec![placement(ALICE, INBOX)], number, length);
    store.deliver(one).await.expect("delivers").0[0].uid
}

/// What is kept by a churn: UID, number and length.
type Kept = BTreeMap<Uid, (u32, usize)>;

/// Delivers, and expunges at random so that about `live` bytes stay.
async fn churn(store: &Store<Sim>, random: &mut Random, kept: &mut Kept, from: u32, count: u32) {
    for number in from..from + count {
        let length = 200 + random.index(3_000);
        let length = if number % 40 == 0 { 30_000 } else { length };
        kept.insert(deliver(store, number, length).await, (number, length));
        if kept.len() > 60 {
            let victim = *kept.keys().nth(random.index(kept.len())).expect("one of them");
            store.expunge(ALICE, INBOX, &[victim]).await.expect("expunges");
            kept.remove(&victim);
        }
    }
}

async fn holds(store: &Store<Sim>, kept: &Kept) {
    let uids: Vec<Uid> = kept.keys().copied().collect();
    assert_eq!(store.uids(ALICE, INBOX).expect("uids"), uids);
    for (uid, (number, length)) in kept {
        let read = store.read(ALICE, INBOX, *uid, 0..u64::MAX).await.expect("reads");
        assert!(read == message(ALICE, *number, *length), "message {number}");
        let summary = store.summary(ALICE, INBOX, *uid).await.expect("a summary");
        assert_eq!(summary, format!("summary of {number}"));
    }
    verified(store).await;
}

#[test]
fn segments_come_back_and_what_is_kept_stays_exact() {
    let sim = Sim::new(1);
    let kept = on_sim(&sim, small_store(), |store| async move {
        with_accounts(&store).await;
        let (mut random, mut kept) = (Random::new(1), Kept::new());
        churn(&store, &mut random, &mut kept, 0, 900).await;
        rest(&store).await;
        let stats = store.stats();
        assert!(stats.segments_freed > 10 && stats.bytes_moved > 0, "{stats:?}");
        assert!(stats.segments < 20, "{stats:?}");
        assert!(stats.spare_segments <= 3, "{stats:?}");
        assert_eq!((stats.orphans, stats.segments_spoiled), (0, 0));
        holds(&store, &kept).await;
        kept
    });
    on_sim(&sim.after_crash(), small_store(), |store| async move { holds(&store, &kept).await });
}

#[test]
fn moving_changes_no_uid_modseq_flag_or_quota() {
    let sim = Sim::new(2);
    on_sim(&sim, small_store(), |store| async move {
        with_accounts(&store).await;
        let (other, _) = store.create_mailbox(ALICE, "other", None).await.expect("made");
        let both = vec![placement(ALICE, INBOX), placement(BOB, INBOX)];
        store.deliver(delivery(both, 1, 900)).await.expect("delivers");
        store.deliver(delivery(vec![placement(ALICE, INBOX)], 2, 50_000)).await.expect("chunks");
        store.copy(ALICE, INBOX, &[Uid(1), Uid(2)], other).await.expect("copies");
        let change = FlagChange {
            mode: FlagMode::Add,
            flags: Flags::FLAGGED,
            keywords: vec!["blue".to_owned()],
        };
        store.change_flags(ALICE, INBOX, &[Uid(1)], &change, None).await.expect("flags");
        let look = |store: &Store<Sim>| {
            let of = |account, mailbox: MailboxId| {
                let entries = store.entries(account, mailbox, 0..=2).expect("entries");
                (entries, store.mailbox(account, mailbox).expect("info"))
            };
            (of(ALICE, INBOX), of(ALICE, other), of(BOB, INBOX))
        };
        let before = look(&store);
        let usage = store.usage(BOB).expect("usage");
        let moved = store.stats().bytes_moved;
        for number in 10..400 {
            let uid = deliver(&store, number, 2_000).await;
            store.expunge(ALICE, INBOX, &[uid]).await.expect("expunges");
        }
        rest(&store).await;
        assert!(store.stats().bytes_moved > moved + 20_000, "{:?}", store.stats());
        assert_eq!(look(&store), before);
        assert_eq!(store.usage(BOB).expect("usage"), usage);
        let expected = [(ALICE, INBOX, 1, 900), (ALICE, other, 1, 900), (BOB, INBOX, 1, 900)];
        for (account, mailbox, number, length) in expected {
            let read = store.read(account, mailbox, Uid(1), 0..u64::MAX).await.expect("reads");
            assert!(read == message(account.max(account), number, length));
        }
        for mailbox in [INBOX, other] {
            let read = store.read(ALICE, mailbox, Uid(2), 0..u64::MAX).await.expect("reads");
            assert!(read == message(ALICE, 2, 50_000));
        }
        verified(&store).await;
    });
}

#[test]
fn the_log_alone_rebuilds_everything_after_segments_were_freed() {
    let sim = Sim::new(3);
    let kept = on_sim(&sim, small_store(), |store| async move {
        with_accounts(&store).await;
        let (mut random, mut kept) = (Random::new(3), Kept::new());
        store.create_mailbox(ALICE, "made/early", None).await.expect("made");
        store.subscribe(ALICE, "made/early", true).await.expect("subscribes");
        store.set_quota(BOB, Quota { bytes_max: Some(77), messages_max: None }).await.expect("set");
        store.put(Space(4), vec![("k".into(), Some("v".into()))]).await.expect("puts");
        churn(&store, &mut random, &mut kept, 0, 600).await;
        rest(&store).await;
        let seen = FlagChange { mode: FlagMode::Add, flags: Flags::SEEN, keywords: vec![] };
        let some: Vec<Uid> = kept.keys().copied().step_by(3).collect();
        store.change_flags(ALICE, INBOX, &some, &seen, None).await.expect("flags");
        churn(&store, &mut random, &mut kept, 600, 100).await;
        assert!(store.stats().segments_freed > 5, "{:?}", store.stats());
        kept
    });
    let whole = sim.after_crash();
    let expected = on_sim(&whole, small_store(), |store| async move {
        rest(&store).await;
        everything(&store)
    });
    let bare = whole.after_kill();
    let disk = bare.clone();
    Executor::new(&bare).block_on(async move {
        for file in disk.files() {
            if !file.name.starts_with("log-") {
                disk.remove(&file.name).await.expect("removes");
            }
        }
    });
    on_sim(&bare, small_store(), |store| async move {
        assert_eq!(store.recovery().lost_records, 0);
        assert_eq!(everything(&store), expected);
        holds(&store, &kept).await;
    });
}

/// All that the index says, as text.
fn everything(store: &Store<Sim>) -> Vec<String> {
    let mut all = Vec::new();
    for account in store.accounts() {
        all.push(format!("{account:?} {:?}", store.usage(account)));
        all.push(format!("{:?} {:?}", store.highest_modseq(account), store.subscriptions(account)));
        for info in store.mailboxes(account).expect("mailboxes") {
            all.push(format!("{info:?} {:?}", store.status(account, info.id)));
            all.push(format!("{:?}", store.entries(account, info.id, 0..=u32::MAX)));
            all.push(format!("{:?}", store.changes_since(account, info.id, Default::default())));
        }
    }
    all.push(format!("{:?}", store.scan(Space(4))));
    let stats = store.stats();
    all.push(format!("{:?}", (stats.messages, stats.live_bytes, stats.bytes_received)));
    all.push(format!("{:?}", (stats.bytes_moved, stats.log_live_bytes)));
    all
}

#[test]
fn a_full_disk_gives_room_again_after_an_expunge() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        sim.set_capacity(Some(64 * 1024 * 12 + 60_000));
        let disk = sim.clone();
        on_sim(&sim, small_store(), move |store| async move {
            with_accounts(&store).await;
            let mut uids = Vec::new();
            let full = loop {
                let one = delivery(vec![placement(ALICE, INBOX)], uids.len() as u32, 3_000);
                match store.deliver(one).await {
                    Ok((placed, _)) => uids.push(placed[0].uid),
                    Err(error) => break error,
                }
            };
            assert!(matches!(full, Error::Full(_)), "{full:?}");
            // Every other one, so that nothing is free before something is moved.
            for round in 0..4 {
                let gone: Vec<Uid> = uids.iter().copied().step_by(2).collect();
                uids.retain(|uid| !gone.contains(uid));
                store.expunge(ALICE, INBOX, &gone).await.expect("expunge works on a full disk");
                rest(&store).await;
                let wanted = gone.len() / 2;
                let mut delivered = 0;
                // Refused mail comes again; what refuses it makes room meanwhile.
                for _ in 0..10 {
                    let one = |number| delivery(vec![placement(ALICE, INBOX)], number, 3_000);
                    while let Ok((placed, _)) = store.deliver(one(delivered)).await {
                        uids.push(placed[0].uid);
                        delivered += 1;
                    }
                    rest(&store).await;
                }
                let stats = store.stats();
                assert!(delivered as usize >= wanted, "{seed}.{round}: {delivered} {stats:?}");
            }
            verified(&store).await;
            disk.set_capacity(None);
        });
    }
}

#[test]
fn on_a_full_disk_marking_expunging_deleting_and_moving_all_work() {
    for seed in 0..10 {
        let sim = Sim::new(seed);
        sim.set_capacity(Some(64 * 1024 * 14 + 60_000));
        let disk = sim.clone();
        on_sim(&sim, small_store(), move |store| async move {
            with_accounts(&store).await;
            let (folder, _) = store.create_mailbox(ALICE, "folder", None).await.expect("made");
            let places = [(ALICE, INBOX), (ALICE, folder), (BOB, INBOX)];
            let mut uids = Vec::new();
            let fill = async |uids: &mut Vec<Uid>| {
                for number in 0.. {
                    // All three lie in each segment, so none is empty before something is moved.
                    let (account, mailbox) = places[number as usize % 3];
                    let one = delivery(vec![placement(account, mailbox)], number, 3_000);
                    match store.deliver(one).await {
                        Ok((placed, _)) if mailbox == INBOX && account == ALICE => {
                            uids.push(placed[0].uid);
                        }
                        Ok(_) => {}
                        Err(error) => return error,
                    }
                }
                unreachable!("the disk is bounded")
            };
            let full = fill(&mut uids).await;
            assert!(matches!(full, Error::Full(_)), "{full:?}");
            let gone: Vec<Uid> = uids.iter().copied().step_by(2).collect();
            let change =
                FlagChange { mode: FlagMode::Add, flags: Flags::DELETED, keywords: vec![] };
            store.change_flags(ALICE, INBOX, &gone, &change, None).await.expect("marks");
            store.expunge(ALICE, INBOX, &gone).await.expect("expunges");
            store.delete_mailbox(ALICE, "folder").await.expect("deletes a mailbox");
            let before = store.stats();
            store.remove_account(BOB).await.expect("removes an account");
            for _ in 0..5 {
                let one = delivery(vec![placement(ALICE, INBOX)], 1, 3_000);
                let _ = store.deliver(one).await; // refused mail asks for room
                rest(&store).await;
            }
            let stats = store.stats();
            assert!(stats.bytes_moved > before.bytes_moved, "{seed}: {stats:?}");
            assert!(stats.segments_freed > before.segments_freed, "{seed}: {stats:?}");
            for number in 0..20 {
                deliver(&store, number, 3_000).await;
            }
            verified(&store).await;
            disk.set_capacity(None);
        });
    }
}

#[test]
fn a_reader_keeps_what_it_reads_and_a_body_that_streams_in_keeps_its_chunks() {
    let sim = Sim::new(5);
    on_sim(&sim, small_store(), |store| async move {
        with_accounts(&store).await;
        let mut writer = store.body_writer().expect("admitted");
        writer.push(body(7, 60_000)).await.expect("takes it");
        for number in 10..400 {
            let uid = deliver(&store, number, 2_000).await;
            store.expunge(ALICE, INBOX, &[uid]).await.expect("expunges");
        }
        rest(&store).await;
        let blocked = store.stats().segments_freed;
        writer.push(body(8, 60_000)).await.expect("takes it");
        let mut one = delivery(vec![placement(ALICE, INBOX)], 7, 0);
        one.body = storage::Body::Streamed(writer.finish().await.expect("finished"));
        let (placed, _) = store.deliver(one).await.expect("delivers");
        for number in 400..500 {
            let uid = deliver(&store, number, 2_000).await;
            store.expunge(ALICE, INBOX, &[uid]).await.expect("expunges");
        }
        rest(&store).await;
        assert!(store.stats().segments_freed > blocked, "{:?}", store.stats());
        let read = store.read(ALICE, INBOX, placed[0].uid, 0..u64::MAX).await.expect("reads");
        assert!(read[read.len() - 120_000..] == [body(7, 60_000), body(8, 60_000)].concat());
        verified(&store).await;
    });
}

#[test]
fn rot_in_a_live_record_keeps_its_segment_and_costs_nobody_else() {
    let sim = Sim::new(6);
    let disk = sim.clone();
    on_sim(&sim, small_store(), |store| async move {
        with_accounts(&store).await;
        deliver(&store, 1, 1_000).await;
        deliver(&store, 2, 1_000).await;
        let needle = body(1, 1_000);
        for file in disk.files().into_iter().filter(|file| file.name.starts_with("log-")) {
            let bytes = disk.contents(&file.name).expect("there");
            if let Some(at) = bytes.windows(1_000).position(|window| *window == needle[..]) {
                assert!(disk.flip(&file.name, at as u64 + 500, 1));
            }
        }
        for number in 10..500 {
            let uid = deliver(&store, number, 2_000).await;
            store.expunge(ALICE, INBOX, &[uid]).await.expect("expunges");
        }
        rest(&store).await;
        let stats = store.stats();
        assert_eq!(stats.segments_spoiled, 1);
        assert!(stats.segments_freed > 3, "{stats:?}");
        let rotten = store.read(ALICE, INBOX, Uid(1), 0..u64::MAX).await;
        assert!(matches!(rotten, Err(Error::Corrupt { .. })), "{rotten:?}");
        let read = store.read(ALICE, INBOX, Uid(2), 0..u64::MAX).await.expect("reads");
        assert!(read == message(ALICE, 2, 1_000));
        assert_eq!(store.verify().await.expect("verifies").bad.len(), 1);
    });
}

#[test]
fn a_segment_whose_header_rots_is_still_there_and_no_spare() {
    let sim = Sim::new(8);
    let kept = on_sim(&sim, small_store(), |store| async move {
        with_accounts(&store).await;
        let (mut random, mut kept) = (Random::new(8), Kept::new());
        churn(&store, &mut random, &mut kept, 0, 500).await;
        rest(&store).await;
        kept
    });
    let mut damaged = 0;
    for file in sim.files().into_iter().filter(|file| file.name.starts_with("log-")) {
        if sim.contents(&file.name).expect("there")[0] == 0 {
            continue; // a spare
        }
        let hurt = Sim::new(8);
        for other in sim.files() {
            hurt.put_file(&other.name, sim.contents(&other.name).expect("there"));
        }
        assert!(hurt.flip(&file.name, 33, 4));
        let kept = kept.clone();
        on_sim(&hurt, small_store(), |store| async move {
            assert_eq!(store.recovery().damage.len(), 1, "{:?}", store.recovery());
            rest(&store).await;
            for (uid, (number, length)) in &kept {
                let read = store.read(ALICE, INBOX, *uid, 0..u64::MAX).await.expect("reads");
                assert!(read == message(ALICE, *number, *length), "message {number}");
            }
        });
        damaged += 1;
    }
    assert!(damaged > 5, "{damaged}");
}

/// Waits for all.
async fn all<T>(mut futures: Vec<std::pin::Pin<Box<impl Future<Output = T>>>>) -> Vec<T> {
    let mut results = Vec::new();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| match future.as_mut().poll(context) {
            Poll::Ready(result) => {
                results.push(result);
                false
            }
            Poll::Pending => true,
        });
        if futures.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results
}

/// What a steady state looks like.
#[derive(Debug)]
struct Steady {
    /// Bytes written for each byte of mail: with padding, copies, checkpoints and bases.
    amplification: f64,
    /// Mean share of the log that is live.
    live: f64,
    /// The largest size of the log, as a multiple of the mean.
    spread: f64,
}

/// How long mail lives: of what comes in, so many in a hundred join a pool of so many, out of which
/// a message drawn at random goes for each that comes: the lifetimes of a pool are exponential.
#[derive(Debug, Clone, Copy)]
struct Mail {
    name: &'static str,
    pools: &'static [(u64, usize)],
    /// Expunged messages stay until so many others have been.
    retained: usize,
    /// The least, and how much more at the most.
    bytes: (usize, usize),
}

/// A store of 250 MB (30 with small mail) that lives on, at sixteen messages a time.
fn steady_state(seed: u64, mail: Mail, garbage_percent_max: u8, rounds: u32) -> Steady {
    let sim = Sim::new(seed);
    let options = Options {
        segment_bytes: 1 << 20,
        spare_segments: 2,
        spare_segments_max: 4,
        batch_bytes_max: 256 << 10,
        batch_bytes_eager: 256 << 10,
        // Sixteen messages, and what upkeep has on its way beside them.
        pending_bytes_max: 2 << 20,
        checkpoint_log_bytes_min: 1 << 20,
        checkpoint_log_bytes_max: 9 << 20,
        garbage_percent_max,
        checkpoint_log_ratio: 20,
        ..Options::default()
    };
    on_sim(&sim, options, move |store| async move {
        with_accounts(&store).await;
        let mut random = Random::new(seed);
        let mut pools: Vec<Vec<Uid>> = vec![Vec::new(); mail.pools.len()];
        let mut leaving = std::collections::VecDeque::new();
        let (mut sizes, mut shares) = (Vec::new(), Vec::new());
        let (mut appended, mut written) = (0_u64, 0_u64);
        for round in 0..rounds {
            // Sixteen sessions at once, as on a server that is worth compacting.
            let lengths: Vec<usize> =
                (0..16).map(|_| mail.bytes.0 + random.index(mail.bytes.1)).collect();
            let deliveries = lengths.iter().zip(round * 16..).map(|(length, number)| {
                let one = delivery(vec![placement(ALICE, INBOX)], number, *length);
                Box::pin(store.deliver(one))
            });
            for (placed, _) in all(deliveries.collect()).await.into_iter().map(|d| d.expect("in")) {
                // The pools of those that live long are filled first.
                let is_short =
                    |(pool, (_, size)): &(usize, &(u64, usize))| pools[*pool].len() < *size;
                let by_chance = |draw: u64| {
                    let mut most = 0;
                    mail.pools.iter().position(|(percent, _)| {
                        most += percent;
                        draw < most
                    })
                };
                let short =
                    mail.pools.iter().enumerate().rev().find(is_short).map(|(pool, _)| pool);
                let pool =
                    short.or_else(|| by_chance(random.below(100))).expect("a hundred percent");
                pools[pool].push(placed[0].uid);
            }
            appended += lengths.iter().map(|length| *length as u64 + 160).sum::<u64>();
            for ((_, size), pool) in mail.pools.iter().zip(&mut pools) {
                while pool.len() > *size {
                    leaving.push_back(pool.swap_remove(random.index(pool.len())));
                }
            }
            let gone: Vec<Uid> =
                leaving.drain(..leaving.len().saturating_sub(mail.retained)).collect();
            store.expunge(ALICE, INBOX, &gone).await.expect("expunges");
            // A simulated sleep is as long as a few operations.
            for _ in 0..6 {
                store.device().sleep(Duration::from_millis(1)).await;
            }
            let stats = store.stats();
            if round == rounds / 2 {
                (appended, written) = (0, stats.bytes_written);
            }
            if round > rounds / 2 {
                sizes.push(stats.log_bytes as f64);
                shares.push(stats.log_live_bytes as f64 / stats.log_bytes as f64);
            }
        }
        let stats = store.stats();
        let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
        let steady = Steady {
            amplification: (stats.bytes_written - written) as f64 / appended as f64,
            live: mean(&shares),
            spread: sizes.iter().copied().fold(0.0, f64::max) / mean(&sizes),
        };
        println!("{} {:?} {garbage_percent_max}: {steady:.2?}", mail.name, mail.bytes);
        steady
    })
}

const LARGE: (usize, usize) = (2_000, 58_000);
const SMALL: (usize, usize) = (1_000, 6_000);
const SPAM: Mail =
    Mail { name: "90 % at once", pools: &[(90, 75), (10, 8_000)], retained: 0, bytes: LARGE };
/// With a week of retention, in which nothing of it is garbage.
const USERS: Mail = Mail {
    name: "70 % in a day, 20 % in two weeks, 10 % in a year",
    pools: &[(70, 44), (20, 590), (10, 7_700)],
    retained: 1_470,
    bytes: LARGE,
};
const UNIFORM: Mail =
    Mail { name: "any at any time", pools: &[(100, 8_000)], retained: 0, bytes: LARGE };

#[test]
fn a_store_under_constant_delivery_and_expunge_stays_at_its_size() {
    let steady = steady_state(11, SPAM, 20, 4_800);
    assert!(steady.spread < 1.2 && steady.live >= 0.76, "{steady:?}");
    assert!(steady.amplification <= 1.6, "{steady:?}");
}

#[test]
#[ignore = "a report: cargo test --release -p kura-storage --test simulated -- compaction --ignored --nocapture"]
fn what_other_kinds_of_mail_cost() {
    for mail in
        [SPAM, USERS, UNIFORM, Mail { bytes: SMALL, ..USERS }, Mail { bytes: SMALL, ..UNIFORM }]
    {
        for garbage_percent_max in [20, 15, 30] {
            steady_state(12, mail, garbage_percent_max, 4_800);
        }
    }
}

#[test]
fn a_commit_waits_for_one_copy_batch_at_the_most() {
    let sim = Sim::new(7);
    let options = Options { compaction_bytes_per_second: Some(200_000), ..small_store() };
    on_sim(&sim, options, |store| async move {
        with_accounts(&store).await;
        let (mut random, mut kept) = (Random::new(7), Kept::new());
        churn(&store, &mut random, &mut kept, 0, 700).await;
        rest(&store).await;
        assert!(store.stats().bytes_moved > 0, "the budget slows it down, no more");
        holds(&store, &kept).await;
    });
}

#[test]
fn space_comes_back_on_a_log_that_nobody_writes_to() {
    let sim = Sim::new(8);
    on_sim(&sim, small_store(), |store| async move {
        with_accounts(&store).await;
        let mut uids = Vec::new();
        for number in 0..600 {
            uids.push(deliver(&store, number, 2_000).await);
        }
        let full = store.stats();
        store.expunge(ALICE, INBOX, &uids[5..]).await.expect("expunges");
        rest(&store).await;
        let stats = store.stats();
        assert!(stats.log_bytes * 4 < full.log_bytes, "{full:?}, then {stats:?}");
        assert_eq!(store.uids(ALICE, INBOX).expect("uids"), uids[..5]);
        verified(&store).await;
    });
}

/// Somebody removes the file that compaction writes, again and again, and it is noticed in the
/// middle of its work.
#[test]
fn what_compaction_has_a_place_for_is_written_there_though_the_file_has_lost_its_name() {
    let is_cold = |bytes: &[u8]| {
        let header = bytes.get(..SEGMENT_HEADER_BYTES).and_then(|b| SegmentHeader::decode(b).ok());
        header.is_some_and(|header| header.segment.is_cold())
    };
    let mut removed_in_all = 0;
    for seed in 1..=12 {
        let sim = Sim::new(seed);
        let disk = sim.clone();
        let removed = on_sim_unclosed(&sim, small_store(), move |store, executor| async move {
            with_accounts(&store).await;
            let (mut random, mut kept) = (Random::new(seed), Kept::new());
            churn(&store, &mut random, &mut kept, 0, 200).await;
            let (looking, removed) = (store.clone(), Rc::new(Cell::new(0)));
            let count = Rc::clone(&removed);
            executor.spawn(async move {
                let mut random = Random::new(seed + 99);
                for _ in 0..60 {
                    let pause = Duration::from_micros(500 + random.below(20_000));
                    looking.device().sleep(pause).await;
                    let mut logs = disk.files().into_iter().map(|file| file.name);
                    let cold = |name: &String| disk.contents(name).is_some_and(|b| is_cold(&b));
                    if let Some(name) = logs.rfind(cold) {
                        looking.device().remove(&name).await.expect("removes");
                        looking.look_for_harm().await.expect("looks");
                        count.set(count.get() + 1);
                    }
                }
            });
            for step in 0..60 {
                churn(&store, &mut random, &mut kept, 1000 + step * 5, 5).await;
                for (uid, (number, length)) in &kept {
                    let read = store.read(ALICE, INBOX, *uid, 0..u64::MAX).await;
                    assert_eq!(read.expect("reads"), message(ALICE, *number, *length));
                }
            }
            removed.get()
        });
        removed_in_all += removed.expect("comes to its end");
    }
    assert!(removed_in_all > 20, "{removed_in_all}");
}
