//! A crash at every operation of a small workload: what was acknowledged is there, whole and once.
//!
//! The large simulator with the naive model lives in the workspace's `tests`; this one is quick
//! enough to run while the store is being changed.

use crate::common::*;
use std::cell::RefCell;
use std::rc::Rc;
use storage::device::Device;
use storage::device::sim::{Executor, Sim};
use storage::{FlagChange, FlagMode, Flags, Options, Quota, Sabotage, Space, Store, Uid};

/// What the outside was told.
#[derive(Debug, Default)]
struct Told {
    account: bool,
    /// UID, number and length of delivered messages.
    delivered: Vec<(Uid, u32, usize)>,
    seen: Vec<Uid>,
    /// Asked for; may or may not have happened.
    expunge_asked: Vec<Uid>,
    expunged: Vec<Uid>,
    put: Vec<u32>,
}

fn length_of(number: u32) -> usize {
    match number % 7 {
        0 => 9_000,
        1 => 40_000,
        _ => 300 + number as usize * 37,
    }
}

async fn session(store: Store<Sim>, told: Rc<RefCell<Told>>, first: u32) {
    for number in first..first + 6 {
        let length = length_of(number);
        let one = delivery(vec![placement(ALICE, INBOX)], number, length);
        let Ok((placed, _)) = store.deliver(one).await else { continue };
        let uid = placed[0].uid;
        told.borrow_mut().delivered.push((uid, number, length));
        let seen = FlagChange { mode: FlagMode::Add, flags: Flags::SEEN, keywords: vec![] };
        if number % 2 == 0
            && let Ok(done) = store.change_flags(ALICE, INBOX, &[uid], &seen, None).await
            && done.changed.len() == 1
        {
            told.borrow_mut().seen.push(uid);
        }
        if number % 3 == 0 {
            told.borrow_mut().expunge_asked.push(uid);
            if let Ok((gone, _)) = store.expunge(ALICE, INBOX, &[uid]).await {
                told.borrow_mut().expunged.extend(gone);
            }
        }
        let key = number.to_be_bytes().to_vec();
        if store.put(Space(1), vec![(key.into(), Some("v".into()))]).await.is_ok() {
            told.borrow_mut().put.push(number);
        }
    }
}

fn options(sabotage: Option<Sabotage>) -> Options {
    Options {
        segment_bytes: 64 << 10,
        spare_segments: 1,
        batch_bytes_max: 8 << 10,
        batch_bytes_eager: 1 << 10,
        chains_in_flight: 3,
        checkpoint_log_bytes_min: 48 << 10,
        checkpoint_log_bytes_max: 48 << 10,
        sabotage,
        ..Options::for_tests()
    }
}

/// Runs the workload until the crash; then what was told.
fn run(sim: &Sim, first: u32, sabotage: Option<Sabotage>) -> Told {
    let told = Rc::new(RefCell::new(Told::default()));
    let executor = Executor::new(sim);
    let (disk, spawner, telling) = (sim.clone(), executor.clone(), Rc::clone(&told));
    executor.block_on(async move {
        let store = Store::open(disk, options(sabotage)).await.expect("opens");
        let running = store.clone();
        spawner.spawn(async move { running.run().await });
        let made = store.create_account(ALICE, Quota::default()).await;
        telling.borrow_mut().account = made.is_ok() || store.usage(ALICE).is_ok();
        for task in 0..3 {
            spawner.spawn(session(store.clone(), Rc::clone(&telling), first + task * 6));
        }
        std::future::pending::<()>().await;
    });
    drop(executor);
    Rc::try_unwrap(told).expect("all tasks are gone").into_inner()
}

/// Why the survivor does not keep what was told; `None`: it does.
fn broken(sim: &Sim, told: &[Told], sabotage: Option<Sabotage>) -> Option<String> {
    let executor = Executor::new(sim);
    let (disk, spawner) = (sim.clone(), executor.clone());
    let store = executor.block_on(async move {
        let store = Store::open(disk, options(sabotage)).await?;
        let running = store.clone();
        spawner.spawn(async move { running.run().await });
        Ok::<_, storage::Error>(store)
    });
    let store = match store? {
        Ok(store) => store,
        Err(error) => return Some(format!("does not open: {error}")),
    };
    if told.iter().any(|told| told.account) && store.usage(ALICE).is_err() {
        return Some("the account is gone".to_owned());
    }
    for told in told {
        for &(uid, number, length) in &told.delivered {
            let reading = store.clone();
            let read = executor
                .block_on(async move { reading.read(ALICE, INBOX, uid, 0..u64::MAX).await })?;
            match read {
                Ok(bytes) if bytes != message(ALICE, number, length) => {
                    return Some(format!("{uid:?} is not message {number}"));
                }
                Ok(_) if told.expunged.contains(&uid) => return Some(format!("{uid:?} is back")),
                Ok(_) => {}
                Err(_) if told.expunge_asked.contains(&uid) => continue,
                Err(error) => return Some(format!("{uid:?}: {error}")),
            }
            let flags = store.entry(ALICE, INBOX, uid).expect("just read").flags;
            if told.seen.contains(&uid) && !flags.contains(Flags::SEEN) {
                return Some(format!("{uid:?} lost its flag"));
            }
        }
        for number in &told.put {
            if store.get(Space(1), &number.to_be_bytes()).is_none() {
                return Some(format!("key {number} is gone"));
            }
        }
    }
    let highest = told.iter().flat_map(|told| &told.delivered).map(|(uid, ..)| uid.0).max();
    if let Ok(status) = store.status(ALICE, INBOX)
        && status.uid_next.0 <= highest.unwrap_or(0)
    {
        return Some(format!("uid_next is {:?}, {highest:?} was told", status.uid_next));
    }
    let checked = store.clone();
    let report = executor.block_on(async move { checked.verify().await })?;
    match report {
        Ok(report) if report.bad.is_empty() => None,
        Ok(report) => Some(report.bad.join("; ")),
        Err(error) => Some(error.to_string()),
    }
}

/// Checkpoints and superblocks are disposable; here they are disposed of.
fn forget_all_but_the_log(sim: &Sim) {
    let disk = sim.clone();
    Executor::new(sim).block_on(async move {
        for file in disk.files() {
            if !file.name.starts_with("log-") {
                disk.remove(&file.name).await.expect("removes");
            }
        }
        disk.sync_directory().await.expect("syncs");
    });
}

/// Crashes at operation after operation, each survivor a second time while it works on.
fn crash_everywhere(seeds: std::ops::Range<u64>, sabotage: Option<Sabotage>) -> Option<String> {
    for seed in seeds {
        let mut operation = 1;
        loop {
            let sim = Sim::new(seed);
            sim.crash_at(operation);
            let mut told = vec![run(&sim, 0, sabotage)];
            let crashed = sim.is_crashed();
            // Every other time only the process dies, and the power goes later.
            let killed = operation % 2 == 0;
            let mut survivor = if killed { sim.after_kill() } else { sim.after_crash() };
            let at = |round: u32, why| format!("seed {seed}, operation {operation}.{round}: {why}");
            if let Some(why) = broken(&survivor, &told, sabotage) {
                return Some(at(1, why));
            }
            // The check itself wrote nothing but a superblock; go on from there, and crash again.
            survivor.crash_at(survivor.operations() + operation % 61 + 1);
            told.push(run(&survivor, 100, sabotage));
            survivor = survivor.after_crash();
            if seed % 2 == 1 {
                forget_all_but_the_log(&survivor);
            }
            if let Some(why) = broken(&survivor, &told, sabotage) {
                return Some(at(2, why));
            }
            if !crashed {
                break;
            }
            operation += 1;
        }
    }
    None
}

#[test]
fn no_crash_takes_back_what_was_acknowledged() {
    assert_eq!(crash_everywhere(0..6, None), None);
}

#[test]
fn the_check_sees_a_skipped_sync() {
    assert!(crash_everywhere(0..2, Some(Sabotage::SkipSync)).is_some());
}

#[test]
fn the_check_sees_an_early_acknowledgement() {
    assert!(crash_everywhere(0..2, Some(Sabotage::AcknowledgeEarly)).is_some());
}

#[test]
fn the_check_sees_a_reused_uid() {
    assert!(crash_everywhere(0..2, Some(Sabotage::ReuseUid)).is_some());
}

#[test]
fn the_check_sees_a_torn_tail_that_is_trusted() {
    assert!(crash_everywhere(0..20, Some(Sabotage::TrustTornTail)).is_some());
}

#[test]
fn a_checkpoint_that_was_named_too_early_costs_nothing_but_time() {
    assert_eq!(crash_everywhere(0..2, Some(Sabotage::NameCheckpointEarly)), None);
}

#[test]
fn the_check_sees_a_forgotten_tail() {
    assert!(crash_everywhere(0..2, Some(Sabotage::ForgetTail)).is_some());
}
