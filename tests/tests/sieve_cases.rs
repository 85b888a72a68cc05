//! Every case of `tests/transcripts/sieve`: compiled, run, compared.

use crate::worlds::folder;
use kura_tests::sieve_cases::Case;

/// All of them, so that one run shows every case that fails.
#[test]
fn sieve_cases() {
    let cases = Case::read_all(&folder("sieve"));
    let mut failed = Vec::new();
    for case in &cases {
        let came = case.play();
        if came != case.expected {
            failed
                .push(format!("{}\n  expected {:#?}\n  came {came:#?}", case.name, case.expected));
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} failed:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
}

/// Every extension that is announced has a case that asks for it.
#[test]
fn every_extension_has_a_case() {
    let cases = Case::read_all(&folder("sieve"));
    for extension in protocols::sieve::extensions().split(' ') {
        let quoted = format!("\"{extension}\"");
        let asked = cases.iter().any(|case| {
            case.script.contains(&quoted)
                && !case.expected.iter().any(|line| line.starts_with("fault"))
        });
        assert!(asked, "no case requires {quoted}");
    }
}

/// What comes of a script hangs on nothing but what it was given.
#[test]
fn runs_can_be_repeated() {
    for case in Case::read_all(&folder("sieve")) {
        assert_eq!(case.play(), case.play(), "{}", case.name);
    }
}

/// Nor on how the script's lines end.
#[test]
fn line_ends_do_not_matter() {
    for mut case in Case::read_all(&folder("sieve")) {
        let came = case.play();
        case.script = case.script.replace('\n', "\r\n");
        assert_eq!(case.play(), came, "{}", case.name);
    }
}

/// A script that is cut off anywhere, or has any octet replaced, compiles or is refused, and then
/// runs or is given up: it never panics.
#[test]
fn damaged_scripts_do_no_harm() {
    for mut case in Case::read_all(&folder("sieve")) {
        let whole = case.script.clone();
        for at in (0..whole.len()).filter(|at| whole.is_char_boundary(*at)) {
            case.script = whole[..at].to_owned();
            let _ = case.play();
            for junk in ["\"", "{", ";", "[", ":", "${", "*", "9"] {
                case.script = format!("{}{junk}{}", &whole[..at], &whole[at..]);
                let _ = case.play();
            }
        }
    }
}
