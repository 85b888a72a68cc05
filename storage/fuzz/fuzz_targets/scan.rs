//! Recovery's search for records among damaged bytes: headers are made to verify wherever they
//! could stand, so that lengths, positions and numbers are the fuzzer's choice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::Lsn;
use storage::format::{RECORD_HEADER_BYTES, RecordHeader, SegmentId};
use storage::log::{Expected, find_records};

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    let mut like = [0; RECORD_HEADER_BYTES];
    let header = RecordHeader {
        kind: 1,
        version: 1,
        meta_bytes: 0,
        body_bytes: 0,
        segment: SegmentId(7),
        lsn: Lsn(1),
        shard: 0,
        run_low: 1,
        meta_checksum: 0,
        body_checksum: 0,
        salt: 0,
    };
    header.encode_into(&mut like);
    for start in (0..bytes.len().saturating_sub(RECORD_HEADER_BYTES - 1)).step_by(8) {
        let place = &mut bytes[start..start + RECORD_HEADER_BYTES];
        if place[0] == like[0] {
            place[..2].copy_from_slice(&like[..2]);
            let checksum = crc32fast::hash(&place[..RECORD_HEADER_BYTES - 4]);
            place[RECORD_HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        }
    }
    let expected = Expected {
        shard: 0,
        segment: SegmentId(7),
        run_low: 0,
        salt: 0,
        from: Lsn(0),
        below: Lsn(u64::MAX),
    };
    let found = find_records(&bytes, 0, expected);
    let mut end = 0;
    for record in &found {
        assert!(record.offset >= end, "records overlap");
        end = record.offset + record.header.record_bytes() as usize;
        assert!(end <= bytes.len(), "a record reaches past the end");
    }
    assert!(found.windows(2).all(|pair| pair[0].header.lsn < pair[1].header.lsn));
});
