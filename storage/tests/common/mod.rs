//! What the store's own tests share: messages that can be told apart, and a store on either disk.
#![allow(dead_code, unused_must_use)]

use bytes::Bytes;
use std::rc::Rc;
use storage::device::Device;
use storage::device::sim::{Executor, Sim};
use storage::{
    AccountId, Body, Delivery, Flags, MailboxId, Options, Placement, Quota, Store, UnixMillis,
};

pub const ALICE: AccountId = AccountId(1);
pub const BOB: AccountId = AccountId(2);
pub const INBOX: MailboxId = MailboxId::INBOX;

/// Segments and checkpoints so small that a few messages make several.
pub fn small_store() -> Options {
    Options {
        segment_bytes: 64 << 10,
        spare_segments: 1,
        spare_segments_max: 3,
        checkpoint_log_bytes_min: 128 << 10,
        checkpoint_log_bytes_max: 128 << 10,
        ..Options::for_tests()
    }
}

/// Bytes that depend on the number and on every position.
pub fn body(number: u32, length: usize) -> Bytes {
    let mut state = number.wrapping_mul(2_654_435_761) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..length).map(next).collect::<Vec<u8>>().into()
}

pub fn placement(account: AccountId, mailbox: MailboxId) -> Placement {
    Placement {
        account,
        mailbox,
        prefix: format!("Delivered-To: {}\r\n", account.0).into_bytes(),
        flags: Flags::default(),
        keywords: Vec::new(),
    }
}

pub fn delivery(placements: Vec<Placement>, number: u32, length: usize) -> Delivery {
    Delivery {
        placements,
        internal_date: UnixMillis(1_600_000_000_000 + u64::from(number)),
        summary: format!("summary of {number}").into_bytes(),
        body: Body::Whole(body(number, length)),
    }
}

/// The whole message as it must come back.
pub fn message(account: AccountId, number: u32, length: usize) -> Vec<u8> {
    let mut message = format!("Delivered-To: {}\r\n", account.0).into_bytes();
    message.extend_from_slice(&body(number, length));
    message
}

pub async fn with_accounts<D: Device>(store: &Store<D>) {
    store.create_account(ALICE, Quota::default()).await.expect("alice");
    store.create_account(BOB, Quota::default()).await.expect("bob");
}

/// Opens a store on the simulated disk and runs `test` beside its commit loop, then closes it.
pub fn on_sim<F, T>(sim: &Sim, options: Options, test: impl FnOnce(Store<Sim>) -> F + 'static) -> T
where
    F: Future<Output = T> + 'static,
    T: 'static,
{
    let executor = Executor::new(sim);
    let (disk, spawner) = (sim.clone(), executor.clone());
    executor
        .block_on(async move {
            let store = Store::open(disk, options).await.expect("opens");
            let running = store.clone();
            spawner.spawn(async move { running.run().await });
            let result = test(store.clone()).await;
            store.close().await.expect("closes");
            result
        })
        .expect("comes to its end")
}

/// The same without closing: what follows sees the disk as it is.
pub fn on_sim_unclosed<F, T>(
    sim: &Sim,
    options: Options,
    test: impl FnOnce(Store<Sim>, Rc<Executor>) -> F + 'static,
) -> Option<T>
where
    F: Future<Output = T> + 'static,
    T: 'static,
{
    let executor = Rc::new(Executor::new(sim));
    let (disk, spawner) = (sim.clone(), Rc::clone(&executor));
    executor.block_on(async move {
        let store = Store::open(disk, options).await.expect("opens");
        let running = store.clone();
        spawner.spawn(async move { running.run().await });
        test(store, spawner).await
    })
}
