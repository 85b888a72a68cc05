//! Golden bytes of each record kind: what an old store holds must be readable for ever, and what we
//! write must not change by accident. `GOLDEN=write` makes the missing files; existing ones are never
//! overwritten: a changed kind gets a new version and a new file.

use std::path::PathBuf;
use storage::format::{
    ChunkRef, Delivered, Location, NewMailbox, PlacedRecord, Record, SegmentId, UidRange,
};
use storage::{AccountId, FlagMode, Flags, Lsn, MailboxId, Quota, SpecialUse, Uid, UnixMillis};

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
    };
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
        (
            "copied",
            Record::Copied {
                account,
                from: mailbox,
                to: MailboxId(4),
                moved: true,
                first_uid: Uid(9),
                uids: vec![run(1, 3), run(7, 7)],
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
        ("chunk", Record::Chunk),
        (
            "put",
            Record::Put {
                space: 2,
                pairs: vec![(b"k".to_vec(), Some(b"v".to_vec())), (b"gone".to_vec(), None)],
            },
        ),
        ("lost", Record::Lost { first: Lsn(77), count: 3 }),
    ]
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
        assert!(Record::decode(record.kind(), version + 1, &golden).is_err(), "a newer version");
    }
    assert!(Record::decode(200, 1, &[]).is_err(), "a kind of the future");
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
