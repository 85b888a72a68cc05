//! The meta part of every kind of record: junk is refused, and what is read is
//! written back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::format::{BatchHeader, Record, RecordHeader, SegmentHeader};

fuzz_target!(|data: &[u8]| {
    // Headers as they lie there: nearly all of them must fail their checksum.
    let _ = (BatchHeader::decode(data), SegmentHeader::decode(data), RecordHeader::decode(data));
    let [kind, version, meta @ ..] = data else { return };
    let Ok(record) = Record::decode(*kind, *version, meta) else { return };
    let mut written = record.encode();
    // A delivery's summary follows the fields that are encoded here.
    if let Record::Delivered(delivered) = &record {
        written.extend_from_slice(&meta[meta.len() - delivered.summary_bytes as usize..]);
    }
    let again = Record::decode(record.kind(), record.version(), &written);
    assert_eq!(again.as_ref(), Ok(&record), "what was read is written otherwise");
});
