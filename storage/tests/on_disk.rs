//! The same store on the real ring: what only a real disk can get wrong.

#![allow(unused_must_use)] // receipts are for replies; these tests look at the store itself

mod common;
use common::*;
use glommio::{LocalExecutorBuilder, Placement as Pinning, Task};
use std::path::Path;
use storage::device::{Device, Uring};
use storage::{Options, Store, Uid};

fn on_disk<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + Send + 'static) {
    LocalExecutorBuilder::new(Pinning::Unbound)
        .spawn(move || async move { test().await })
        .expect("an executor")
        .join()
        .expect("the test's thread");
}

async fn opened(directory: &Path, options: Options) -> (Store<Uring>, Task<()>) {
    let device = Uring::open(directory).await.expect("a device");
    let store = Store::open(device, options).await.expect("opens");
    let running = store.clone();
    let task = glommio::spawn_local(async move { running.run().await });
    (store, task)
}

#[test]
fn messages_survive_closing_and_dropping_the_store() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_owned();
    on_disk(move || async move {
        let (store, running) = opened(&path, Options::for_tests()).await;
        with_accounts(&store).await;
        let mut tasks = Vec::new();
        for number in 0..50 {
            let store = store.clone();
            tasks.push(glommio::spawn_local(async move {
                let one = delivery(vec![placement(ALICE, INBOX)], number, 2000);
                store.deliver(one).await.expect("delivers").0[0].uid
            }));
        }
        let mut uids = Vec::new();
        for task in tasks {
            uids.push(task.await);
        }
        uids.sort();
        assert_eq!(uids, (1..=50).map(Uid).collect::<Vec<_>>());
        let stats = store.stats();
        assert!(stats.flushes < 300, "{stats:?}");
        store.close().await.expect("closes");
        running.await;
        drop(store);

        // No checkpoint falls due from here on, so that there is something to recover.
        let late = 64 << 20;
        let options = Options {
            checkpoint_log_bytes_min: late,
            checkpoint_log_bytes_max: late,
            ..Options::for_tests()
        };
        let (store, running) = opened(&path, options).await;
        assert_eq!(store.stats().recovery_records, 0, "closed in order");
        for number in 0..50 {
            let read = store.read(ALICE, INBOX, Uid(number + 1), 0..u64::MAX).await.expect("reads");
            assert!(read.ends_with(&body(number, 2000)));
        }
        store.deliver(delivery(vec![placement(BOB, INBOX)], 1, 300_000)).await.expect("chunks");
        let read = store.read(BOB, INBOX, Uid(1), 0..u64::MAX).await.expect("reads");
        assert!(read == message(BOB, 1, 300_000));
        assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
        let flushes = store.stats().flushes;
        // Dropped without closing, as by a kill.
        running.cancel().await;
        drop(store);
        let (store, _running) = opened(&path, Options::for_tests()).await;
        assert!(store.stats().recovery_records > 0);
        assert!(store.stats().flushes >= flushes, "{} < {flushes}", store.stats().flushes);
        assert_eq!(store.verify().await.expect("verifies").messages, 51);
    });
}

#[test]
fn a_directory_in_use_is_refused_in_one_line_that_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_owned();
    on_disk(move || async move {
        let first = Uring::open(&path).await.expect("a device");
        let second = Uring::open(&path).await.expect_err("refused").to_string();
        assert!(second.contains("in use by another process"), "{second}");
        drop(first);
        Uring::open(&path).await.expect("free again");
    });
}

#[test]
fn files_come_and_go_and_say_how_much_space_is_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_owned();
    on_disk(move || async move {
        let device = Uring::open(&path).await.expect("a device");
        let file = device.create("one", 1 << 20).await.expect("creates");
        let mut buffer = storage::buffer::Buffer::with_capacity(8192);
        buffer.extend(&[7; 8192]);
        let (written, buffer) = device.write_durably(&file, 4096, buffer).await;
        written.expect("writes");
        let read = device.read(&file, 0, buffer).await.expect("reads");
        assert_eq!((read.len(), read.as_slice()[4095], read.as_slice()[4096]), (8192, 0, 7));
        let names: Vec<_> =
            device.list().await.expect("lists").into_iter().map(|f| f.name).collect();
        assert!(names.contains(&"one".to_owned()), "{names:?}");
        assert_eq!((*device.map("one").await.expect("maps")).as_ref().len(), 1 << 20);
        assert!(device.free_bytes().expect("space") > 0);
        let absent = device.create("two", 1 << 60).await.expect_err("too large");
        assert!(!path.join("two").exists(), "{absent}");
        device.remove("one").await.expect("removes");
        device.sync_directory().await.expect("syncs");
        assert!(device.open("one").await.is_err());
    });
}

/// Of this process, in bytes.
fn own_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("RssAnon")).expect("since Linux 4.5");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<u64>().expect("a number") << 10
}

#[test]
fn a_long_sleep_beside_much_work_takes_no_memory() {
    const POLLS: u32 = 500_000;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_owned();
    on_disk(move || async move {
        let device = Uring::open(&path).await.expect("a device");
        let mut sleep = Box::pin(device.sleep(std::time::Duration::from_secs(3600)));
        let mut polls = 0;
        let mut before = 0;
        std::future::poll_fn(|context| {
            assert!(sleep.as_mut().poll(context).is_pending());
            polls += 1;
            if polls == 1000 {
                before = own_memory();
            }
            context.waker().wake_by_ref();
            if polls < POLLS { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
        })
        .await;
        let grown = own_memory().saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes for {POLLS} polls of one sleep");
    });
}
