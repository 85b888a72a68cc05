//! Mail text: the summary is the same however the message is cut, its binary form is its inverse,
//! every span lies within the message, and IMAP can write all of it.
#![no_main]

use fuzzing::random::Random;
use libfuzzer_sys::fuzz_target;
use protocols::imap::fetch::Response;
use protocols::message::text::{decode_field, decode_part};
use protocols::message::{Span, Summary, SummaryBuilder};

fuzz_target!(|data: &[u8]| {
    let [seed, data @ ..] = data else { return };
    // What recovery may hand over after a record that is damaged and yet verifies.
    let _ = Summary::decode(data);
    let _ = Summary::view_envelope(data);
    let summary = Summary::compute(data);
    let mut random = Random::new(u64::from(*seed));
    let mut builder = SummaryBuilder::new();
    let mut rest = data;
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at((1 + random.below(50)).min(rest.len()));
        builder.push(piece);
        rest = tail;
    }
    assert_eq!(builder.finish(), summary, "cuts matter");
    assert_eq!(Summary::decode(&summary.encode()).as_ref(), Ok(&summary), "not the inverse");
    let within =
        |span: Span| data.get(span.start as usize..span.end as usize).expect("a span within");
    for part in &summary.parts {
        let _ = within(part.header);
        let _ = decode_part(&part.content, within(part.body));
    }
    let _ = decode_field(data);
    let stored = summary.encode();
    let envelope = Summary::view_envelope(&stored).expect("what was written is read");
    assert_eq!(envelope.is_some(), summary.envelope().is_some(), "an envelope comes or goes");
    let mut output = Vec::new();
    let mut response = Response::begin(&mut output, 1);
    response.envelope(&envelope.unwrap_or_default());
    response.structure(&summary, true);
    response.end();
});
