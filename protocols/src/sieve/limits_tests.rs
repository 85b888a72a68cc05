//! What hostile scripts cost: each bomb ends within what a run may cost, with the message kept.

use super::*;
use crate::Address;
use crate::message::Summary;

/// Has nothing but scripts whose names are their places.
pub(super) struct Nothing(pub(super) Vec<Script>);

impl World for Nothing {
    fn script(&self, include: &Include) -> Result<&Script, Missing> {
        let place = include.name.parse().ok();
        place.and_then(|place: usize| self.0.get(place)).ok_or(Missing::NotFound)
    }

    fn mailbox_exists(&self, _: &str) -> bool {
        false
    }

    fn special_use_exists(&self, _: Option<&str>, _: &str) -> bool {
        false
    }

    fn is_duplicate(&self, _: &[u8; 32]) -> bool {
        false
    }

    fn unix_seconds(&self) -> i64 {
        0
    }

    fn is_own_address(&self, _: &str) -> bool {
        false
    }

    fn spam_percent(&self) -> Option<u8> {
        None
    }

    fn virus(&self) -> Option<u8> {
        None
    }

    fn environment(&self, _: &str) -> Option<String> {
        None
    }
}

fn outcome(script: &str, message: &str) -> Outcome {
    outcome_with(script, message, Vec::new())
}

fn outcome_with(script: &str, message: &str, included: Vec<Script>) -> Outcome {
    let limits = Limits::default();
    let script = Script::compile(script.as_bytes(), &limits).unwrap();
    let summary = Summary::compute(message.as_bytes());
    let recipient = Address::parse(b"ann@here.test").unwrap();
    let mail = Mail {
        raw: message.as_bytes(),
        summary: &summary,
        octets: message.len() as u64,
        sender: None,
        recipient: &recipient,
    };
    run(&script, &mail, &Nothing(included), &limits)
}

/// As many as fit a script.
fn repeated(head: &str, part: &str) -> String {
    let limits = Limits::default();
    let room = (limits.script_bytes_max - head.len()) / part.len();
    format!("{head}{}", part.repeat(room.min(limits.commands_max / 2 - 10)))
}

#[test]
fn no_bomb_costs_more_than_a_run_may() {
    let long = format!("X: {}\r\nSubject: x\r\n\r\n{}", "a".repeat(200_000), "a".repeat(2_000_000));
    let many = format!("{}\r\n", "X: a\r\n".repeat(30_000));
    for (script, message) in [
        (repeated("", "if header :matches \"x\" \"*a*a*a*b\" { }\n"), &long),
        (repeated("", "if header [\"x\", \"x\", \"x\"] [\"b\", \"c\"] { }\n"), &many),
        (repeated("require \"body\";", "if body :raw :matches \"*a*b\" { }\n"), &long),
        (repeated("require \"body\";", "if body :contains \"b\" { }\n"), &long),
        (repeated("require \"editheader\";", "deleteheader :matches \"x\" \"*a*b\";\n"), &many),
    ] {
        let outcome = outcome(&script, message);
        let text = outcome.error.unwrap().to_string();
        assert!(text.contains("costs too much"), "{text}");
        assert_eq!(outcome.actions, [Action::Keep { flags: Vec::new(), header: None }]);
        assert!(outcome.work <= Limits::default().work_max);
    }
}

#[test]
fn variables_that_double_themselves_stay_small() {
    let head = "require [\"variables\", \"fileinto\"]; set \"a\" \"x\";";
    let doubled = "set \"a\" \"${a}${a}\";".repeat(100);
    let script = format!("{head}{doubled}fileinto \"${{a}}${{a}}\";");
    let outcome = outcome(&script, "\r\n");
    let [Action::FileInto { mailbox, .. }] = outcome.actions.as_slice() else { panic!() };
    assert_eq!(mailbox.len(), 2 * Limits::default().variable_bytes_max);
}

/// A header that is not looked at as a whole still leaves as a whole.
#[test]
fn nothing_of_a_long_header_is_lost_by_an_edit() {
    let many = format!("{}Last: z\r\n\r\n", "X: a\r\n".repeat(5000));
    let outcome = outcome("require \"editheader\"; addheader \"A\" \"b\";", &many);
    let [Action::Keep { header: Some(header), .. }] = outcome.actions.as_slice() else { panic!() };
    assert_eq!(header.as_ref(), format!("A: b\r\n{many}").as_bytes());
}

/// The deepest scripts, including one another as deep as they may, run on a small stack.
#[test]
fn the_deepest_scripts_fit_a_small_stack() {
    let limits = Limits::default();
    let levels = limits.nesting_max - 1;
    let script = move |next: usize| {
        format!(
            "require \"include\"; if {}true {{ }} {}include \"{next}\";{}",
            "not ".repeat(levels),
            "if true {".repeat(levels),
            "}".repeat(levels)
        )
    };
    let run = move || {
        let compiled = |place| Script::compile(script(place + 1).as_bytes(), &limits).unwrap();
        let included = (0..=limits.include_depth_max).map(compiled).collect();
        outcome_with(&script(0), "\r\n", included)
    };
    let thread = std::thread::Builder::new().stack_size(512 << 10);
    let outcome = thread.spawn(run).unwrap().join().unwrap();
    assert_eq!(
        outcome.error.unwrap().to_string(),
        "in \"7\", line 1, column 435: scripts include one another too deep"
    );
}
