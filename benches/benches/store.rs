//! What the store of one shard does on the real disk: append, fetch, recovery.
//! `cargo bench -p kura-benches --bench store`; set TMPDIR to a directory on the disk to measure.
//!
//! One core, no sockets, no protocols: the difference to `kura bench smtp` is what these cost.

#![allow(unused_must_use)] // receipts are for replies

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use glommio::{LocalExecutorBuilder, Placement as Pinning, Task};
use kura_benches::plain_message;
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};
use storage::device::Uring;
use storage::{
    AccountId, Body, Delivery, Flags, MailboxId, Options, Placement, Quota, Store, Uid, UnixMillis,
};

const ACCOUNT: AccountId = AccountId(1);
const MESSAGE_BYTES: usize = 4096;
/// One iteration is so many messages: each call opens a store, so single ones would drown in that.
const BATCH: u64 = 2_000;

/// Runs `work` on an executor of its own and returns what it measured.
fn on_disk<F: Future<Output = Duration> + 'static>(
    work: impl FnOnce() -> F + Send + 'static,
) -> Duration {
    LocalExecutorBuilder::new(Pinning::Unbound)
        .spawn(move || async move { work().await })
        .expect("an executor")
        .join()
        .expect("the bench's thread")
}

async fn open(directory: &Path) -> (Store<Uring>, Task<()>) {
    let device = Uring::open(directory).await.expect("a device");
    let store = Store::open(device, Options::default()).await.expect("opens");
    let running = store.clone();
    (store, glommio::spawn_local(async move { running.run().await }))
}

fn delivery(body: &Bytes) -> Delivery {
    let placement = Placement {
        account: ACCOUNT,
        mailbox: MailboxId::INBOX,
        prefix: b"Delivered-To: alice@example.test\r\n".to_vec(),
        flags: Flags::default(),
        keywords: Vec::new(),
    };
    Delivery {
        placements: vec![placement],
        internal_date: UnixMillis(1_790_000_000_000),
        summary: vec![7; 200],
        body: Body::Whole(body.clone()),
    }
}

/// Delivers `count` messages, `sessions` at a time, each awaited until it is durable.
async fn deliver(store: &Store<Uring>, body: &Bytes, count: u64, sessions: u64) {
    let left = Rc::new(Cell::new(count));
    let mut tasks = Vec::new();
    for _ in 0..sessions {
        let (store, body, left) = (store.clone(), body.clone(), Rc::clone(&left));
        tasks.push(glommio::spawn_local(async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                store.deliver(delivery(&body)).await.expect("delivers");
            }
        }));
    }
    for task in tasks {
        task.await;
    }
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    group.sample_size(10);
    for (bytes, sessions) in
        [(MESSAGE_BYTES, 1), (MESSAGE_BYTES, 16), (MESSAGE_BYTES, 64), (100 << 10, 16)]
    {
        group.throughput(Throughput::Elements(BATCH));
        let name = format!("{bytes} bytes, {sessions} at a time");
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter_custom(|count| {
                let directory = tempfile::tempdir().expect("a directory");
                let path = directory.path().to_owned();
                on_disk(move || async move {
                    let (store, running) = open(&path).await;
                    store.create_account(ACCOUNT, Quota::default()).await.expect("an account");
                    let body = Bytes::from(plain_message(bytes, 1));
                    let start = Instant::now();
                    deliver(&store, &body, count * BATCH, sessions).await;
                    let taken = start.elapsed();
                    store.close().await.expect("closes");
                    running.await;
                    taken
                })
            });
        });
    }
    group.finish();
}

/// A store with messages in it, left behind as by a kill.
fn filled(messages: u64) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_owned();
    on_disk(move || async move {
        let (store, running) = open(&path).await;
        store.create_account(ACCOUNT, Quota::default()).await.expect("an account");
        deliver(&store, &Bytes::from(plain_message(MESSAGE_BYTES, 1)), messages, 64).await;
        running.cancel().await;
        Duration::ZERO
    });
    directory
}

fn fetch(criterion: &mut Criterion) {
    const MESSAGES: u32 = 10_000;
    let directory = filled(u64::from(MESSAGES));
    let mut group = criterion.benchmark_group("fetch");
    group.sample_size(10);
    group.throughput(Throughput::Elements(BATCH));
    for whole in [true, false] {
        let name = if whole { "whole message" } else { "summary" };
        group.bench_function(name, |b| {
            b.iter_custom(|count| {
                let path = directory.path().to_owned();
                on_disk(move || async move {
                    let (store, running) = open(&path).await;
                    let start = Instant::now();
                    for number in 0..count * BATCH {
                        // A stride that visits all of them, none twice in a row.
                        let uid = Uid((number * 7919 % u64::from(MESSAGES)) as u32 + 1);
                        if whole {
                            store
                                .read(ACCOUNT, MailboxId::INBOX, uid, 0..u64::MAX)
                                .await
                                .expect("reads");
                        } else {
                            store.summary(ACCOUNT, MailboxId::INBOX, uid).await.expect("reads");
                        }
                    }
                    let taken = start.elapsed();
                    running.cancel().await;
                    taken
                })
            });
        });
    }
    group.finish();
}

fn recovery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open after a kill");
    group.sample_size(10);
    for messages in [1_000, 50_000] {
        let directory = filled(messages);
        group.throughput(Throughput::Elements(messages));
        group.bench_function(BenchmarkId::from_parameter(messages), |b| {
            b.iter_custom(|count| {
                let path = directory.path().to_owned();
                on_disk(move || async move {
                    let mut taken = Duration::ZERO;
                    for _ in 0..count {
                        let start = Instant::now();
                        let (store, running) = open(&path).await;
                        taken += start.elapsed();
                        assert_eq!(store.stats().messages, messages);
                        running.cancel().await;
                    }
                    taken
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, append, fetch, recovery);
criterion_main!(benches);
