//! What scanners answer, and what is attached: hostile servers and hostile messages.
//!
//! The input is a scanner's reply, and a message; and, behind a line `%%`, a file that is
//! attached to one.
//!
//! Checked besides panics and time: what is written into a message is one well-formed field, what
//! the sender is told is one line, a glance finds nothing that a look into everything does not, and
//! a name is found whatever the file holds.
#![no_main]

use engine::scan::attachments::{Kind, Report, glance, inspect, inspect_names};
use engine::scan::clamd::{Reply, reply, version};
use engine::scan::outbreak::fingerprint::fingerprints;
use engine::scan::settings::{Action, Scan};
use engine::scan::verdict::{Findings, Outcome, Verdict, Version};
use libfuzzer_sys::fuzz_target;
use protocols::message::summary::Summary;

fuzz_target!(|data: &[u8]| {
    let outcome = match reply(data) {
        Reply::Clean => Outcome::Clean,
        Reply::Found(name) => Outcome::Found(name),
        Reply::TooLarge => Outcome::TooLarge,
        Reply::Fault(why) => Outcome::Unknown(why),
    };
    let version = version(data).unwrap_or_else(Version::default);
    check(Some(Verdict::new(outcome, version)), Report::default());

    let found = look(data);
    check(None, found);
    assert!(fingerprints(data).len() <= 64);
    check(None, inspect_names(&Summary::compute(data)));

    let file = match data.windows(4).position(|window| window == b"\n%%\n") {
        Some(at) => &data[at + 4..],
        None => data,
    };
    let head = b"Content-Disposition: attachment; filename=\"a.exe\"\r\nContent-Type: application/x-any\r\n\r\n";
    let found = look(&[head, file].concat());
    assert!(found.findings.iter().any(|finding| finding.kind == Kind::Executable));
});

fn look(message: &[u8]) -> Report {
    let summary = Summary::compute(message);
    let (first, all) = (glance(message, &summary), inspect(message, &summary));
    for finding in &first.findings {
        let known = |other: &&engine::scan::attachments::Finding| other.kind == finding.kind;
        assert!(all.findings.iter().any(|other| known(&other)), "{finding:?} is gone at a second look");
    }
    all
}

fn check(clamav: Option<Verdict>, attachments: Report) {
    let findings = Findings { clamav, attachments, outbreak: None };
    let field = findings.field("mx.b.test");
    assert!(field.is_empty() || well_formed(&field), "{field:?}");
    // As hard as can be, so that each finding has words.
    let mut rules = Scan::default();
    rules.attachments.actions.values_mut().for_each(|action| *action = Action::Reject);
    let (_, words) = findings.action(&rules);
    assert!(!words.contains(|c: char| c.is_control()), "{words:?}");
}

/// One field: each line but the first is a fold, and nothing ends it early.
fn well_formed(field: &str) -> bool {
    let Some(lines) = field.strip_suffix("\r\n") else { return false };
    let mut lines = lines.split("\r\n");
    let first = lines.next().unwrap_or_default();
    first.contains(": ")
        && lines.all(|line| line.starts_with('\t') && !line.trim().is_empty())
        && !field.replace("\r\n", "").contains(['\r', '\n', '\0'])
}
