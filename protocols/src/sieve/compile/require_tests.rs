//! Every word of an extension is refused without it, and taken with it. RFC 5228 section 3.2.

use super::super::capability::Capability;
use super::super::limits::Limits;
use super::compile;

/// An extension, what else the words need, and words that it brings.
const WORDS: [(&str, &str, &str); 38] = [
    ("fileinto", "", "fileinto \"x\";"),
    ("envelope", "", "if envelope \"to\" \"x\" { }"),
    ("variables", "", "set \"a\" \"b\";"),
    ("variables", "", "if string \"a\" \"b\" { }"),
    ("variables", "imap4flags", "addflag \"v\" \"a\";"),
    ("variables", "imap4flags", "if hasflag \"v\" \"a\" { }"),
    ("variables", "include", "global \"v\";"),
    ("vacation", "", "vacation \"x\";"),
    ("vacation-seconds", "vacation", "vacation :seconds 9 \"x\";"),
    ("relational", "", "if header :count \"gt\" \"x\" \"1\" { }"),
    ("relational", "", "if header :value \"gt\" \"x\" \"1\" { }"),
    ("imap4flags", "", "keep :flags \"x\";"),
    ("imap4flags", "", "setflag \"x\";"),
    ("imap4flags", "", "removeflag \"x\";"),
    ("imap4flags", "", "if hasflag \"x\" { }"),
    ("subaddress", "", "if address :detail \"to\" \"x\" { }"),
    ("subaddress", "", "if address :user \"to\" \"x\" { }"),
    ("body", "", "if body \"x\" { }"),
    ("date", "", "if date \"date\" \"year\" \"x\" { }"),
    ("date", "", "if currentdate \"year\" \"x\" { }"),
    ("index", "", "if header :index 1 \"x\" \"y\" { }"),
    ("index", "date", "if date :index 1 :last \"date\" \"year\" \"x\" { }"),
    ("copy", "", "redirect :copy \"a@b.test\";"),
    ("copy", "fileinto", "fileinto :copy \"x\";"),
    ("reject", "", "reject \"x\";"),
    ("ereject", "", "ereject \"x\";"),
    ("spamtest", "", "if spamtest \"1\" { }"),
    ("spamtestplus", "spamtest", "if spamtest :percent \"1\" { }"),
    ("virustest", "", "if virustest \"1\" { }"),
    ("mailbox", "fileinto", "fileinto :create \"x\";"),
    ("include", "", "return;"),
    ("include", "variables", "set \"global.x\" \"y\";"),
    ("special-use", "fileinto", "fileinto :specialuse \"\\\\Junk\" \"x\";"),
    ("special-use", "", "if specialuse_exists \"\\\\Junk\" { }"),
    ("duplicate", "", "if duplicate { }"),
    ("editheader", "", "deleteheader \"x\";"),
    ("environment", "", "if environment \"name\" \"x\" { }"),
    ("fcc", "vacation", "vacation :fcc \"x\" \"y\";"),
];

#[test]
fn every_word_wants_its_extension() {
    let limits = Limits::default();
    for (extension, others, words) in WORDS {
        let others = if others.is_empty() { "encoded-character" } else { others };
        let without = format!("require \"{others}\"; {words}");
        let faults = compile(without.as_bytes(), &limits).unwrap_err();
        let wanted = format!("needs `require \"{extension}\";` at the top of the script");
        assert!(faults[0].text.ends_with(&wanted), "{words}: {}", faults[0]);
        let with = format!("require [\"{others}\", \"{extension}\"]; {words}");
        assert!(compile(with.as_bytes(), &limits).is_ok(), "{words}");
    }
}

/// The rest change what strings mean, or are comparators: those have their cases.
#[test]
fn every_extension_with_words_is_among_them() {
    let listed = |name: &str| WORDS.iter().any(|(extension, ..)| *extension == name);
    let missing: Vec<&str> = Capability::names()
        .filter(|name| !listed(name) && !name.starts_with("comparator-"))
        .collect();
    assert_eq!(missing, ["encoded-character"]);
}
