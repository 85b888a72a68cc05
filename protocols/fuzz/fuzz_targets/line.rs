//! The framing of lines, beside a plain one that looks at all the octets at once.
#![no_main]

use fuzzing::random::Random;
use libfuzzer_sys::fuzz_target;
use protocols::wire::line::{Framed, LineFault, LineReader};

const LINE_OCTETS_MAX: usize = 24;

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Line(Vec<u8>),
    Fault(LineFault),
}

fn read(data: &[u8], mut random: Option<Random>) -> Vec<Seen> {
    let mut reader = LineReader::new();
    let mut seen = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let longest = random.as_mut().map_or(rest.len(), |random| 1 + random.below(7));
        let (mut input, tail) = rest.split_at(longest.min(rest.len()));
        rest = tail;
        loop {
            match reader.next(&mut input, LINE_OCTETS_MAX) {
                Framed::Incomplete => break,
                Framed::Line(line) => seen.push(Seen::Line(line.to_vec())),
                Framed::Fault(fault) => seen.push(Seen::Fault(fault)),
            }
        }
        assert!(input.is_empty());
        assert!(reader.retained_bytes() <= 2 * LINE_OCTETS_MAX);
    }
    seen
}

/// The same by the book: split at CRLF, then look at each line.
fn by_the_book(data: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut rest = data;
    while let Some(end) = rest.windows(2).position(|octets| octets == b"\r\n") {
        let line = &rest[..end];
        rest = &rest[end + 2..];
        let at = |octet: u8| line.iter().position(|other| *other == octet);
        let too_long =
            (line.len() > LINE_OCTETS_MAX).then_some((LINE_OCTETS_MAX, LineFault::TooLong));
        let faults = [
            at(b'\r').map(|at| (at, LineFault::BareCr)),
            at(b'\n').map(|at| (at, LineFault::BareLf)),
            at(0).map(|at| (at, LineFault::Nul)),
            too_long,
        ];
        let first = faults.into_iter().flatten().min_by_key(|(at, _)| *at);
        let Some((at, fault)) = first else {
            seen.push(Seen::Line(line.to_vec()));
            continue;
        };
        seen.push(Seen::Fault(fault));
        // A CR is found out by the octet after it; what comes after a fault may be hopeless.
        let after = line.get(at + 1..).unwrap_or_default();
        seen.extend(
            after.iter().filter(|octet| **octet == b'\n').map(|_| Seen::Fault(LineFault::Hopeless)),
        );
    }
    seen
}

fuzz_target!(|data: &[u8]| {
    let [seed, data @ ..] = data else { return };
    let once = read(data, None);
    assert_eq!(read(data, Some(Random::new(u64::from(*seed)))), once, "cuts matter");
    let expected = by_the_book(data);
    // The end may be a line that goes on, of which a fault is known already.
    assert!(once.len() >= expected.len());
    assert_eq!(once[..expected.len()], expected);
    assert!(once[expected.len()..].iter().all(|seen| matches!(seen, Seen::Fault(_))));
});
