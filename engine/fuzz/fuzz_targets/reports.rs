//! What strangers send as reports: the mail around them, archives, XML and JSON.
//!
//! The input is a mail; a file, as it could be attached; XML; JSON. Each is given to
//! its own reader.
//!
//! Checked besides panics, time and memory: what is kept is bounded, its texts are lines, it is
//! found again in its stored form, and what is kept of the sums is what the sums say.
#![no_main]

use bytes::Bytes;
use engine::reports::digest::{About, Digest, FAILURES_MAX, SOURCES_MAX, TEXT_BYTES_MAX};
use engine::reports::{feedback, figures, mail, tlsrpt, unpack};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let found = mail::read(data, "mx.a.test");
    assert!(found.digests.is_empty() || !found.reporter.is_empty());
    found.digests.iter().for_each(check);
    if let Ok(file) = unpack::unpack(data) {
        assert!(file.len() <= unpack::UNPACKED_BYTES_MAX);
    }
    if let Ok(digest) = feedback::read(data) {
        check(&digest);
    }
    if let Ok(digests) = tlsrpt::read(data) {
        digests.iter().for_each(check);
    }
});

fn check(digest: &Digest) {
    let line = |text: &str| {
        assert!(text.len() <= TEXT_BYTES_MAX && !text.contains(|c: char| c.is_control()), "{text:?}");
    };
    line(&digest.domain);
    line(&digest.organization);
    line(&digest.id);
    assert!(!digest.domain.is_empty() && !digest.id.is_empty() && digest.begin <= digest.end);
    match &digest.about {
        About::Dmarc(dmarc) => {
            assert!(dmarc.sources.len() <= SOURCES_MAX);
            let sum = dmarc.sources.iter().fold(dmarc.more, |sum, one| sum.saturating_add(one.messages));
            assert_eq!(sum, dmarc.failed, "messages that failed are lost");
            for source in &dmarc.sources {
                line(&source.from);
                line(&source.disposition);
                source.passed_for.iter().for_each(|domain| line(domain));
            }
        }
        About::Tls(tls) => {
            assert!(tls.failures.len() <= FAILURES_MAX);
            tls.failures.iter().for_each(|failure| [&failure.what, &failure.host, &failure.code].into_iter().for_each(|text| line(text)));
        }
    }
    let stored = serde_json::to_vec(digest).expect("a digest has a stored form");
    assert_eq!(serde_json::from_slice::<Digest>(&stored).ok().as_ref(), Some(digest));
    let pairs = [(figures::key(digest, "big.test"), Bytes::from(stored))];
    assert_eq!(figures::list(&pairs, 0).as_array().map(Vec::len), Some(1));
    figures::show(&pairs, &digest.domain, 0);
}
