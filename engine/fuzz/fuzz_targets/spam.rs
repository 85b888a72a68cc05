//! Is it wanted? Hostile messages, and rule files that nobody has looked at.
//!
//! An input is a message, and perhaps, behind a line `%%`, a rule file that is added to
//! the built-in rules.
//!
//! Checked besides panics: a score is a number, what is written into the message is well-formed
//! fields within their room, forged verdicts are gone after the first look, and a message has the
//! same tokens and the same fingerprint each time.
#![no_main]

use engine::auth::verdict::{Method, Outcome};
use engine::filter::classifier::{Class, Classifier};
use engine::filter::rules::Rules;
use engine::filter::settings::Spam;
use engine::filter::tokens::fingerprint;
use engine::filter::verdict::{Verdict, disarm};
use engine::filter::{Envelope, judge};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::sync::LazyLock;

static RULES: LazyLock<Rules> =
    LazyLock::new(|| Rules::read(None, &BTreeMap::new()).expect("the built-in rules are fine"));

fuzz_target!(|data: &[u8]| {
    let mark = data.windows(4).position(|window| window == b"\n%%\n");
    let (message, own) = match mark {
        Some(at) => (&data[..at], std::str::from_utf8(&data[at + 4..]).ok()),
        None => (data, None),
    };
    let own = own.and_then(|text| Rules::read(Some(text), &BTreeMap::new()).ok());
    if let Some(rules) = &own {
        let _ = rules.check_examples();
    }
    let mut message = message.to_vec();
    disarm(&mut message);
    assert_eq!(disarm(&mut message), 0, "a forged verdict that came back");
    let recipients = ["bob@b.test".to_owned()];
    let auth = [(Method::Spf, Outcome::Fail)];
    let mail_from = "x@a.test";
    let envelope = Envelope { mail_from, recipients: &recipients, auth: &auth, unix_seconds: 1 };
    let found = judge(own.as_ref().unwrap_or(&RULES), &message, &envelope);
    assert_eq!(found, judge(own.as_ref().unwrap_or(&RULES), &message, &envelope));
    assert_eq!(fingerprint(&message), fingerprint(&message));
    let mut classifier = Classifier::default();
    for slot in classifier.learn(&found.tokens, Class::Spam) {
        assert!(slot.weight.is_finite() && slot.doubt > 0.0);
    }
    let verdict = Verdict::new(found.hits, &Spam::default());
    assert!(verdict.score.is_finite());
    for room in [usize::MAX, 1000, 100, 0] {
        let fields = verdict.fields(room);
        assert!(fields.len() <= room);
        for line in fields.split_inclusive("\r\n") {
            let inner = line.strip_suffix("\r\n").expect("each line has its end");
            assert!(inner.starts_with("X-Spam-") || inner.starts_with('\t'), "{fields:?}");
            assert!(!inner.contains(['\r', '\n', '\0']));
        }
    }
});
