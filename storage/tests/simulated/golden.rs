//! Golden bytes of each record kind: what an old store holds must be readable for ever, and what we
//! write must not change by accident. `GOLDEN=write` makes the missing files; existing ones are
//! never overwritten: a changed kind gets a new version and a new file.

use crate::common::*;
use std::path::PathBuf;
use std::time::Duration;
use storage::device::Device;
use storage::device::sim::Sim;
use storage::format::{
    Base, ChunkRef, Delivered, Forgot, Location, Move, Moved, NewMailbox, Packer, PlacedRecord,
    Record, Reference, SegmentId, Shown, UidRange, Undeleted, Unpacker,
};
use storage::store::Undelete;
use storage::{
    AccountId, Body, FlagMode, Flags, Lsn, MailboxId, Options, Quota, Space, SpecialUse, Store,
    Uid, UnixMillis,
};

fn run(first: u32, last: u32) -> UidRange {
    UidRange { first: Uid(first), last: Uid(last) }
}

fn new(id: u32, name: &str, special_use: Option<SpecialUse>) -> NewMailbox {
    NewMailbox {
        id: MailboxId(id),
        uid_validity: 1_700_000_000 + id,
        special_use,
        name: name.into(),
    }
}

/// One of each kind, with every field filled.
fn records() -> Vec<(&'static str, Record)> {
    let account = AccountId(7);
    let mailbox = MailboxId(3);
    let quota = Quota { bytes_max: Some(1 << 33), messages_max: None };
    let location = Location { segment: SegmentId(12), eighths: 99_999 };
    let delivered = Delivered {
        internal_date: UnixMillis(1_700_000_000_123),
        body_bytes: 4096,
        summary_bytes: 0,
        placements: vec![PlacedRecord {
            account,
            mailbox,
            uid: Uid(42),
            flags: Flags::SEEN,
            keywords: vec!["$Junk".into(), "été".into()],
            prefix: b"Delivered-To: a@example.test\r\n".to_vec(),
        }],
        chunks: vec![ChunkRef { location, body_bytes: 4096 }],
        unpacked: None,
        put: None,
    };
    let put = Some((10, vec![(b"uidl".to_vec(), Some(b"v".to_vec())), (b"gone".to_vec(), None)]));
    let putting = Delivered { put, ..delivered.clone() };
    let packed = Delivered { body_bytes: 5000, unpacked: Some(vec![5000]), ..delivered.clone() };
    vec![
        ("account-created", Record::AccountCreated { account, quota, uid_validity: 1_700_000_000 }),
        ("account-removed", Record::AccountRemoved { account }),
        ("quota-set", Record::QuotaSet { account, quota }),
        (
            "mailboxes-created",
            Record::MailboxesCreated {
                account,
                created: vec![new(4, "a", None), new(5, "a/b", Some(SpecialUse::Trash))],
            },
        ),
        (
            "mailboxes-renamed",
            Record::MailboxesRenamed {
                account,
                created: vec![new(6, "x", None)],
                renamed: vec![(mailbox, "x/y".into())],
            },
        ),
        (
            "inbox-renamed",
            Record::InboxRenamed {
                account,
                created: vec![new(7, "old", Some(SpecialUse::Archive))],
            },
        ),
        ("mailbox-deleted", Record::MailboxDeleted { account, mailbox }),
        ("subscribed", Record::Subscribed { account, subscribed: true, name: "日本".into() }),
        ("delivered", Record::Delivered(delivered)),
        ("delivered", Record::Delivered(packed.clone())),
        ("delivered", Record::Delivered(putting.clone())),
        ("delivered", Record::Delivered(Delivered { put: putting.put, ..packed })),
        (
            "copied",
            Record::Copied {
                account,
                from: mailbox,
                to: MailboxId(4),
                moved: true,
                first_uid: Uid(9),
                uids: vec![run(1, 3), run(7, 7)],
                put: None,
            },
        ),
        (
            "copied",
            Record::Copied {
                account,
                from: mailbox,
                to: MailboxId(4),
                moved: true,
                first_uid: Uid(9),
                uids: vec![run(1, 1)],
                put: Some((
                    41,
                    vec![(b"k".to_vec(), Some(b"v".to_vec())), (b"gone".to_vec(), None)],
                )),
            },
        ),
        (
            "flags-changed",
            Record::FlagsChanged {
                account,
                mailbox,
                mode: FlagMode::Replace,
                flags: Flags::FLAGGED.union(Flags::DELETED),
                keywords: vec!["blue".into()],
                uids: vec![run(5, 6)],
            },
        ),
        ("expunged", Record::Expunged { account, mailbox, uids: vec![run(1, u32::MAX)] }),
        ("chunk", Record::Chunk { packed: false }),
        ("chunk", Record::Chunk { packed: true }),
        (
            "put",
            Record::Put {
                space: 2,
                pairs: vec![(b"k".to_vec(), Some(b"v".to_vec())), (b"gone".to_vec(), None)],
            },
        ),
        ("lost", Record::Lost { first: Lsn(77), count: 3 }),
        ("moved", moved(account, mailbox)),
        ("piece", Record::Piece),
        (
            "based",
            Record::Based(Base {
                lsn: Lsn(1 << 40),
                segment: SegmentId(70_000),
                offset: 8192,
                pieces: vec![ChunkRef { location, body_bytes: 4096 }],
            }),
        ),
        ("retention-set", Record::RetentionSet { millis: 7 * 86_400_000 }),
        ("hold-set", Record::HoldSet { account, held: true }),
        ("forgot", forgot(account, mailbox)),
        ("undeleted", undeleted(account, mailbox)),
        ("shown", shown(account, mailbox)),
    ]
}

fn forgot(account: AccountId, mailbox: MailboxId) -> Record {
    let graves = vec![(mailbox, vec![run(1, 3), run(9, 9)]), (MailboxId(1), vec![run(5, 5)])];
    Record::Forgot(Forgot { account, graves })
}

fn undeleted(account: AccountId, mailbox: MailboxId) -> Record {
    Record::Undeleted(Undeleted {
        account,
        created: vec![new(8, "again", Some(SpecialUse::Sent))],
        from: mailbox,
        to: MailboxId(8),
        first_uid: Uid(1),
        uids: vec![run(1, 3), run(7, 7)],
    })
}

fn shown(account: AccountId, mailbox: MailboxId) -> Record {
    Record::Shown(Shown {
        account,
        created: vec![new(9, "Restored", None), new(10, "Restored/INBOX", None)],
        from: mailbox,
        to: MailboxId(10),
        keywords: vec!["blue".into()],
        messages: vec![(Uid(3), Flags(1 << 8)), (Uid(7), Flags::SEEN)],
    })
}

fn moved(account: AccountId, mailbox: MailboxId) -> Record {
    let cold = SegmentId(SegmentId::FIRST_COLD.0 + 3);
    let one = Move {
        from: Location { segment: SegmentId(12), eighths: 99_999 },
        to: Location { segment: cold, eighths: 512 },
        record_bytes: 777,
        chunks: vec![ChunkRef {
            location: Location { segment: cold, eighths: 640 },
            body_bytes: 4096,
        }],
        references: vec![
            Reference { account, mailbox, uid: Uid(42) },
            Reference { account, mailbox: MailboxId(4), uid: Uid(1) },
        ],
    };
    Record::Moved(Moved { copied_bytes: 8192, moves: vec![one] })
}

#[test]
fn records_are_read_and_written_as_they_ever_were() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden");
    for (name, record) in records() {
        let version = record.version();
        let file = folder.join(format!("{:02}-{name}-v{version}.hex", record.kind()));
        let meta = record.encode();
        if std::env::var("GOLDEN").is_ok_and(|wish| wish == "write") && !file.exists() {
            std::fs::write(&file, to_hex(&meta)).expect("writes");
        }
        let golden = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}; GOLDEN=write makes it", file.display()));
        let golden = from_hex(&golden);
        assert_eq!(to_hex(&meta), to_hex(&golden), "{name} is written differently now");
        let read = Record::decode(record.kind(), version, &golden);
        assert_eq!(read.as_ref(), Ok(&record), "{name} is read differently now");
        for end in 0..golden.len() {
            assert!(Record::decode(record.kind(), version, &golden[..end]).is_err(), "{name} cut");
        }
        let longer = [&golden[..], &[0]].concat();
        assert!(Record::decode(record.kind(), version, &longer).is_err(), "{name} with more");
        let newer = match name {
            "delivered" => 5,
            "chunk" | "copied" => 3,
            _ => 2,
        };
        assert!(Record::decode(record.kind(), newer, &golden).is_err(), "a newer version");
    }
    assert!(Record::decode(200, 1, &[]).is_err(), "a kind of the future");
}

/// What compressed it may change; what comes out may not.
#[test]
fn a_packed_body_is_unpacked_as_it_ever_was() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/packed-body.hex");
    let body = "Subject: words\r\n\r\nThe same words, and the same words again.\r\n".repeat(9);
    if std::env::var("GOLDEN").is_ok_and(|wish| wish == "write") && !file.exists() {
        let packed = Packer::new(1).expect("memory").pack(body.as_bytes(), 90).expect("packs");
        std::fs::write(&file, to_hex(&packed)).expect("writes");
    }
    let packed = from_hex(&std::fs::read_to_string(&file).expect("the golden body"));
    let unpacked = Unpacker::new().expect("memory").unpack(&packed).expect("unpacks");
    assert_eq!(String::from_utf8(unpacked).expect("text"), body);
    assert_eq!(packed[..4], u32::try_from(body.len()).expect("short").to_le_bytes());
}

/// A store that compresses, killed: words in one record and in chunks, of which one
/// does not shrink.
#[test]
fn a_segment_with_packed_bodies_opens_for_ever() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/segment-packed.hex");
    if std::env::var("GOLDEN").is_ok_and(|wish| wish == "write") && !file.exists() {
        let sim = Sim::new(1);
        let options = Options { zstd_level: 1, ..small_segments() };
        on_sim_unclosed(&sim, options, |store, _| async move {
            with_accounts(&store).await;
            for bytes in packed_bodies() {
                let mut one = delivery(vec![placement(ALICE, INBOX)], 1, 0);
                one.body = Body::Whole(bytes.into());
                store.deliver(one).await.expect("delivers");
            }
        });
        let used = |bytes: &[u8]| bytes.iter().filter(|byte| **byte != 0).count();
        let files = sim.files().into_iter().filter_map(|file| sim.contents(&file.name));
        let log = files.max_by_key(|bytes| used(bytes)).expect("a log");
        std::fs::write(&file, to_sparse_hex(&log)).expect("writes");
    }
    let text = std::fs::read_to_string(&file).expect("the golden segment");
    let sim = Sim::new(1);
    sim.put_file("log-00000001", from_sparse_hex(&text, 64 << 10));
    on_sim(&sim, small_segments(), |store| async move {
        let prefix = b"Delivered-To: 1\r\n";
        for (uid, body) in (1..).map(Uid).zip(packed_bodies()) {
            let read = store.read(ALICE, INBOX, uid, 0..u64::MAX).await.expect("reads");
            assert!(read == [&prefix[..], &body].concat(), "{uid:?}");
        }
        assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
    });
}

fn packed_bodies() -> [Vec<u8>; 2] {
    let words = |count: usize| b"Words are easy to compress.\r\n".repeat(count);
    let mixed = [words(300), body(5, 8_192).to_vec(), words(50)].concat();
    [words(20), mixed]
}

/// A whole segment of version 1, as a store that was killed has left it: two accounts, five
/// messages of which one was moved and one expunged, a large one in chunks, a key. Zeroes at its
/// end are cut off.
#[test]
fn a_segment_of_version_one_opens_for_ever() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/segment-v1.hex");
    if std::env::var("GOLDEN").is_ok_and(|wish| wish == "write") && !file.exists() {
        std::fs::write(&file, to_sparse_hex(&a_segment())).expect("writes");
    }
    let text = std::fs::read_to_string(&file).expect("the golden segment");
    let bytes = from_sparse_hex(&text, 64 << 10);
    let sim = Sim::new(1);
    sim.put_file("log-00000001", bytes);
    holds_what_it_held(&sim);
}

/// The same store closed in order by the version that knew no compaction: superblock, checkpoint,
/// log. Its checkpoint does not say what is live, so the log alone is read; it is all there.
#[test]
fn a_closed_store_of_version_one_opens_for_ever() {
    let setbacks = holds_what_it_held(&stored("store-v1"));
    assert!(setbacks.len() == 1 && setbacks[0].contains("of version 1"), "{setbacks:?}");
}

#[test]
fn a_closed_store_of_version_two_opens_for_ever() {
    make_if_wished("store-v2", |sim| on_sim(sim, small_segments(), fill));
    assert_eq!(holds_what_it_held(&stored("store-v2")), Vec::<String>::new());
}

/// The same store with a retention of ten years, closed by the version that came to remember: what
/// was moved and expunged lies in graves of its checkpoint.
#[test]
fn a_closed_store_that_remembers_opens_for_ever() {
    let ten_years = Duration::from_secs(3652 * 86_400);
    let options = Options { retention: ten_years, ..small_segments() };
    let fill = |store: Store<Sim>| async move {
        fill(store.clone()).await;
        store.set_hold(ALICE, true).await.expect("held");
    };
    make_if_wished("store-v2-past", |sim| on_sim(sim, options.clone(), fill));
    let sim = stored("store-v2-past");
    on_sim(&sim, options.clone(), |store| async move {
        assert_eq!(store.recovery().setbacks, Vec::<String>::new());
        let all = Undelete { since: UnixMillis(0), mailbox: None, uids: None };
        let (buried, _) = store.buried(ALICE, &all, 9).expect("a list");
        assert_eq!(buried.iter().map(|one| one.uid.0).collect::<Vec<_>>(), [3]);
        assert!(store.is_held(ALICE) && !store.is_held(BOB));
        let read = store.read_buried(ALICE, INBOX, Uid(3), 0..u64::MAX).await.expect("reads");
        assert!(read == message(ALICE, 3, 200));
    });
    let opened = stored("store-v2-past");
    assert_eq!(looked_at(&opened, options), Vec::<String>::new());
}

/// A store of checkpoints of version 3, opened and closed twice: rows that did not change are in
/// the first checkpoint alone, to which the second one refers. It remembers: there are graves, a
/// message that came back, an account on hold, and a tree that shows the past.
#[test]
fn a_closed_store_of_version_three_opens_for_ever() {
    let options = || Options { retention: Duration::from_secs(3652 * 86_400), ..small_segments() };
    make_if_wished("store-v3", |sim| {
        on_sim(sim, options(), |store| async move {
            fill(store.clone()).await;
            fill_many(store).await;
        });
        on_sim(sim, options(), fill_more);
    });
    let name = |sim: &Sim, last: bool| {
        let names = sim.files().into_iter().map(|file| file.name);
        let mut names: Vec<_> = names.filter(|name| name.starts_with("checkpoint-")).collect();
        names.sort();
        assert_eq!(names.len(), 2);
        names.swap_remove(usize::from(last))
    };
    assert_eq!(looked_at(&stored("store-v3"), options()), Vec::<String>::new());
    on_sim(&stored("store-v3"), options(), holds_more);
    // Without either of the two, the index comes from the first one, or from the log alone.
    for last in [true, false] {
        let sim = stored("store-v3");
        sim.put_file(&name(&sim, last), vec![0; 4096]);
        let setbacks = looked_at(&sim, options());
        assert!(!setbacks.is_empty(), "the second checkpoint refers to the first");
        let sim = stored("store-v3");
        sim.put_file(&name(&sim, last), vec![0; 4096]);
        on_sim(&sim, options(), holds_more);
    }
}

/// So many rows that the next checkpoint leaves them where they are.
async fn fill_many(store: Store<Sim>) {
    let (many, _) = store.create_mailbox(ALICE, "many", None).await.expect("made");
    store.copy(ALICE, INBOX, &[Uid(1)], many).await.expect("copies");
    for _ in 0..8 {
        let all = store.uids(ALICE, many).expect("uids");
        store.copy(ALICE, many, &all, many).await.expect("copies");
    }
}

async fn fill_more(store: Store<Sim>) {
    for number in [5, 6] {
        let one = delivery(vec![placement(BOB, INBOX)], number, 300);
        store.deliver(one).await.expect("delivers");
    }
    store.device().sleep(Duration::from_millis(5)).await;
    let then = store.device().now();
    store.device().sleep(Duration::from_millis(5)).await;
    store.expunge(BOB, INBOX, &[Uid(2), Uid(3)]).await.expect("expunges");
    let uids = Some(vec![run(2, 2)]);
    let wanted = Undelete { since: UnixMillis(0), mailbox: None, uids };
    store.undelete(BOB, &wanted, false).await.expect("comes back");
    let past = store.as_of(BOB, then).await.expect("remembered");
    store.show(&past, "Restored", false).await.expect("shown");
    store.set_hold(BOB, true).await.expect("held");
}

async fn holds_more(store: Store<Sim>) {
    assert_eq!(store.uids(BOB, INBOX).expect("bob"), [Uid(1), Uid(4)]);
    let read = store.read(BOB, INBOX, Uid(4), 0..u64::MAX).await.expect("is back");
    assert!(read == message(BOB, 5, 300));
    let shown = store.mailbox_named(BOB, "Restored/INBOX").expect("the tree");
    assert!(shown.read_only);
    assert_eq!(store.uids(BOB, shown.id).expect("as it was"), [Uid(1), Uid(2), Uid(3)]);
    let all = Undelete { since: UnixMillis(0), mailbox: None, uids: None };
    let (buried, _) = store.buried(BOB, &all, 9).expect("a list");
    assert_eq!(buried.iter().map(|one| one.uid.0).collect::<Vec<_>>(), [3]);
    let read = store.read_buried(BOB, INBOX, Uid(3), 0..u64::MAX).await.expect("reads");
    assert!(read == message(BOB, 6, 300));
    assert!(store.is_held(BOB) && !store.is_held(ALICE));
    let many = store.mailbox_named(ALICE, "many").expect("made").id;
    assert_eq!(store.uids(ALICE, many).expect("uids"), (1..=256).map(Uid).collect::<Vec<_>>());
    assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
}

/// `GOLDEN=write` makes a store that is not there yet.
fn make_if_wished(name: &str, make: impl FnOnce(&Sim)) {
    let folder = golden_folder(name);
    if std::env::var("GOLDEN").is_ok_and(|wish| wish == "write") && !folder.exists() {
        std::fs::create_dir(&folder).expect("a folder");
        let sim = Sim::new(1);
        make(&sim);
        for file in sim.files() {
            let bytes = sim.contents(&file.name).expect("there");
            let name = format!("{}.{}.hex", file.name, file.bytes);
            std::fs::write(folder.join(name), to_sparse_hex(&bytes)).expect("writes");
        }
    }
}

fn golden_folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn stored(name: &str) -> Sim {
    let sim = Sim::new(1);
    for file in std::fs::read_dir(golden_folder(name)).expect("the golden store") {
        let path = file.expect("a file").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        let (name, length) = stem.rsplit_once('.').expect("a length");
        let text = std::fs::read_to_string(&path).expect("text");
        sim.put_file(name, from_sparse_hex(&text, length.parse().expect("a length")));
    }
    sim
}

/// Looks at everything; which checkpoints could not be used.
fn holds_what_it_held(sim: &Sim) -> Vec<String> {
    looked_at(sim, small_segments())
}

fn looked_at(sim: &Sim, options: Options) -> Vec<String> {
    on_sim(sim, options, |store| async move {
        let recovery = store.recovery();
        assert_eq!((recovery.lost_records, &recovery.damage), (0, &vec![]));
        let setbacks = recovery.setbacks.clone();
        assert_eq!(store.uids(ALICE, INBOX).expect("alice"), [Uid(1), Uid(4)]);
        let other = store.mailbox_named(ALICE, "other/box").expect("made").id;
        assert_eq!(store.uids(ALICE, other).expect("moved"), [Uid(1)]);
        let expected = [(INBOX, 1, 1, 200), (INBOX, 4, 4, 9_000), (other, 1, 2, 200)];
        for (mailbox, uid, number, length) in expected {
            let read = store.read(ALICE, mailbox, Uid(uid), 0..u64::MAX).await.expect("reads");
            assert!(read == message(ALICE, number, length), "message {number}");
        }
        assert_eq!(store.summary(BOB, INBOX, Uid(1)).await.expect("summary"), "summary of 1");
        assert_eq!(store.get(Space(3), b"key").expect("there"), "value");
        assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
        setbacks
    })
}

fn a_segment() -> Vec<u8> {
    let sim = Sim::new(1);
    on_sim_unclosed(&sim, small_segments(), |store, _| fill(store));
    let used = |bytes: &[u8]| bytes.iter().filter(|byte| **byte != 0).count();
    let files = sim.files().into_iter().filter_map(|file| sim.contents(&file.name));
    files.max_by_key(|bytes| used(bytes)).expect("a log")
}

async fn fill(store: Store<Sim>) {
    with_accounts(&store).await;
    let (other, _) = store.create_mailbox(ALICE, "other/box", None).await.expect("made");
    let both = vec![placement(ALICE, INBOX), placement(BOB, INBOX)];
    store.deliver(delivery(both, 1, 200)).await.expect("delivers");
    for (number, length) in [(2, 200), (3, 200), (4, 9_000)] {
        let one = delivery(vec![placement(ALICE, INBOX)], number, length);
        store.deliver(one).await.expect("delivers");
    }
    store.move_messages(ALICE, INBOX, &[Uid(2)], other).await.expect("moves");
    store.expunge(ALICE, INBOX, &[Uid(3)]).await.expect("expunges");
    store.put(Space(3), vec![("key".into(), Some("value".into()))]).await.expect("puts");
}

fn small_segments() -> Options {
    Options { segment_bytes: 64 << 10, ..Options::for_tests() }
}

/// Lines of offset and bytes; lines of zeroes alone are left out.
fn to_sparse_hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).enumerate().filter(|(_, line)| line.iter().any(|b| *b != 0));
    lines.map(|(number, line)| format!("{:06x}: {}", number * 32, to_hex(line))).collect()
}

fn from_sparse_hex(text: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for line in text.lines() {
        let (offset, line) = line.split_once(": ").expect("an offset");
        let offset = usize::from_str_radix(offset, 16).expect("hex");
        let line = from_hex(line);
        bytes[offset..offset + line.len()].copy_from_slice(&line);
    }
    bytes
}

fn to_hex(bytes: &[u8]) -> String {
    let lines = bytes
        .chunks(32)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

fn from_hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect()
}
