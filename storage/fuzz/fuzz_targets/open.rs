//! Opening a store whose log was cut off, flipped, or lies about lengths, anywhere: it is
//! refused, or it opens and can be verified. The batches have several blocks each, so that cuts
//! go through them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::rc::Rc;
use storage::device::sim::{Executor, Sim};
use storage::format::BatchHeader;
use storage::{
    AccountId, Body, Delivery, Flags, MailboxId, Options, Placement, Quota, Store, UnixMillis,
};

const BLOCK: usize = 4096;
/// A batch of three blocks, each.
const BODY_BYTES: usize = 9000;

thread_local! {
    static SOUND: Vec<(String, Vec<u8>)> = sound();
}

/// No checkpoint falls due: the log is read from its start.
fn options() -> Options {
    Options {
        checkpoint_log_bytes_min: 8 << 20,
        checkpoint_log_bytes_max: 8 << 20,
        ..Options::for_tests()
    }
}

/// The files of a store that was killed with messages in several segments.
fn sound() -> Vec<(String, Vec<u8>)> {
    let sim = Sim::new(1);
    let executor = Rc::new(Executor::new(&sim));
    let (disk, spawner) = (sim.clone(), Rc::clone(&executor));
    let filled = executor.block_on(async move {
        let store = Store::open(disk, options()).await.expect("opens");
        let running = store.clone();
        spawner.spawn(async move { running.run().await });
        let account = AccountId(1);
        let _ = store.create_account(account, Quota::default()).await.expect("an account");
        for number in 0..24_u8 {
            let placement = Placement {
                account,
                mailbox: MailboxId::INBOX,
                prefix: Vec::new(),
                flags: Flags::default(),
                keywords: Vec::new(),
            };
            let delivery = Delivery {
                placements: vec![placement],
                internal_date: UnixMillis(1),
                summary: Vec::new(),
                body: Body::Whole(vec![number; BODY_BYTES].into()),
            };
            let _ = store.deliver(delivery).await.expect("delivers");
        }
    });
    filled.expect("comes to its end");
    let left = sim.after_crash();
    let content = |name: String| left.contents(&name).map(|bytes| (name, bytes));
    left.files().into_iter().filter_map(|file| content(file.name)).collect()
}

/// Six octets: which file, what is done to it, where, and how.
fn damage(sim: &Sim, names: &[&str], octets: [u8; 6]) {
    let [file, what, low, middle, high, value] = octets;
    let name = names[usize::from(file) % names.len()];
    let Some(mut bytes) = sim.contents(name).filter(|bytes| !bytes.is_empty()) else { return };
    let offset = u32::from_le_bytes([low, middle, high, 0]) as usize % bytes.len();
    match what % 3 {
        0 => sim.cut(name, offset as u64),
        1 => drop(sim.flip(name, offset as u64, value)),
        // A batch's header that verifies, and says what is not so.
        _ => {
            let block = &mut bytes[offset / BLOCK * BLOCK..];
            let Ok(mut header) = BatchHeader::decode(block) else { return };
            match value % 4 {
                0 => header.bytes = u32::from(value) << 10,
                1 => header.records = u32::from(value),
                2 => header.durable.0 = u64::from(value),
                _ => header.first_lsn.0 = u64::from(value),
            }
            header.encode_into(block);
            sim.put_file(name, bytes);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let sim = Sim::new(2);
    SOUND.with(|files| {
        for (name, bytes) in files {
            sim.put_file(name, bytes.clone());
        }
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        for octets in data.chunks_exact(6).take(8) {
            damage(&sim, &names, octets.try_into().expect("six octets"));
        }
    });
    let disk = sim.clone();
    let opened = Executor::new(&sim).block_on(async move {
        // What is wrong with it is told, in either case.
        if let Ok(store) = Store::open(disk, options()).await {
            let _ = store.verify().await;
        }
    });
    opened.expect("comes to its end");
});
