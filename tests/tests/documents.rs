//! `protocols/RFC.md` and `protocols/ATTACKS.md` name files and tests: they exist.

use protocols::sasl::{Credentials, Mechanism};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What stands between backticks and looks like a file, with the function that it names.
fn references(text: &str) -> Vec<(&str, Option<&str>)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let reference = |quoted: &'_ str| -> Option<(usize, Option<usize>)> {
        let (path, function) = match quoted.split_once(": ") {
            Some((path, _)) => (path, Some(path.len() + 2)),
            None => (quoted, None),
        };
        let file = [".rs", ".txt", ".py", ".md"].iter().any(|end| path.ends_with(end))
            || path == "protocols/fuzz/run";
        (file && !path.contains(' ')).then_some((path.len(), function))
    };
    quoted
        .filter_map(|quoted| {
            let (length, function) = reference(quoted)?;
            Some((&quoted[..length], function.map(|at| &quoted[at..])))
        })
        .collect()
}

/// Gives how many references there are, so that a change of style does not pass as success.
fn check(document: &str) -> usize {
    let text = std::fs::read_to_string(root().join(document)).unwrap();
    let references = references(&text);
    let mut missing = Vec::new();
    for (path, function) in &references {
        let places = [root().join(path), root().join("protocols/src").join(path)];
        match (places.iter().find_map(|place| std::fs::read_to_string(place).ok()), function) {
            (None, _) => missing.push((*path).to_owned()),
            (Some(code), Some(function)) if !is_defined(&code, function) => {
                missing.push(format!("{path}: {function}"));
            }
            (Some(_), Some(_) | None) => {}
        }
    }
    assert!(missing.is_empty(), "{document} names what is not there: {missing:#?}");
    references.len()
}

fn is_defined(code: &str, function: &str) -> bool {
    ["fn ", "def "].iter().any(|keyword| code.contains(&format!("{keyword}{function}(")))
}

#[test]
fn the_table_of_standards_names_files_that_exist() {
    assert!(check("protocols/RFC.md") > 60);
}

#[test]
fn the_table_of_attacks_names_tests_that_exist() {
    assert!(check("protocols/ATTACKS.md") > 60);
}

#[test]
fn references_are_found() {
    let text = "| `a/b.rs: c`, `d.txt` | `LF . LF` | [`smtp::Answer`] | `1:2` |";
    assert_eq!(references(text), [("a/b.rs", Some("c")), ("d.txt", None)]);
}

#[test]
fn secrets_are_not_shown() {
    let credentials = Credentials { user: "ann".into(), password: b"hunter2".to_vec() };
    let keys = kura_tests::subjects::scram_keys();
    let shown = format!("{credentials:?} {keys:?} {credentials:#?} {keys:#?}");
    assert!(shown.contains("ann"));
    for secret in ["hunter2", "104, 117", "password", "stored_key", "server_key", "salt"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    let (mut exchange, _) = protocols::sasl::Exchange::start(Mechanism::Plain);
    let progress = exchange.respond(b"\0ann\0hunter2");
    assert!(!format!("{progress:?}").contains("hunter2"));
}

/// A file that is not named there would not be compiled, and its tests would never run.
#[test]
fn every_test_file_is_part_of_the_program() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let main = std::fs::read_to_string(folder.join("main.rs")).unwrap();
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    for file in files {
        let name = file.to_str().unwrap().trim_end_matches(".rs");
        assert!(name == "main" || main.contains(&format!("mod {name};")), "{name}");
    }
}
