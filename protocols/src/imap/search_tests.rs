//! Keys are read as clients send them, and decide by no more than they need.

use super::*;

const RAW: &[u8] = b"From: =?utf-8?q?J=C3=B6rg?= <joerg@example.org>\r\nTo: a@b\r\n\
Subject: =?utf-8?b?R3LDvMOfZQ==?=\r\nDate: Mon, 7 Feb 1994 23:52:25 -0800\r\nX-Spam: no\r\n\
Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nCaf=E9\r\n";

fn read(text: &str) -> Parsed<SearchCommand> {
    read_search(&mut Lexer::new(text.as_bytes()))
}

/// The verdict with everything loaded, and the levels asked for on the way.
fn decide(text: &str) -> (bool, Vec<Level>) {
    let mut command = read(text).unwrap();
    command.key.resolve(10, 100);
    let summary = Summary::compute(RAW);
    let header = HeaderText::of(RAW);
    let texts: Vec<String> = text_sources(&summary)
        .flat_map(|source| {
            let span = source.span.start as usize..source.span.end as usize;
            source_texts(&summary, source, &RAW[span])
        })
        .collect();
    let keywords = ["$Junk".to_owned()];
    let looked = Looked::default();
    let mut message = Candidate {
        sequence: 3,
        uid: 30,
        flags: FlagBits(FlagBits::SEEN.0 | keyword_bit(0).0),
        keywords: &keywords,
        recent: false,
        internal_day: Day::from_civil(2026, 1, 2).unwrap(),
        bytes: 500,
        summary: None,
        header: None,
        text: None,
        looked: &looked,
    };
    let mut levels = Vec::new();
    loop {
        match command.key.decide(&message) {
            Verdict::Yes => return (true, levels),
            Verdict::No => return (false, levels),
            Verdict::Needs(level) => {
                assert!(!levels.contains(&level), "{level:?} asked for twice by {text}");
                levels.push(level);
                match level {
                    Level::Summary => message.summary = Some(&summary),
                    Level::Header => message.header = Some(&header),
                    Level::Text => message.text = Some(&texts),
                    Level::Pause => panic!("so little text needs no pause"),
                }
            }
        }
    }
}

#[test]
fn keys_decide_with_no_more_than_they_need() {
    for (text, expected, levels) in [
        ("ALL", true, vec![]),
        ("SEEN UNDELETED", true, vec![]),
        ("1:3 UID 30:40 NOT 4", true, vec![]),
        ("NEW", false, vec![]),
        ("KEYWORD $junk UNKEYWORD other", true, vec![]),
        ("UNSEEN TEXT never-loaded", false, vec![]),
        ("OR SEEN BODY never-loaded", true, vec![]),
        ("LARGER 499 SMALLER 501", true, vec![]),
        ("ON 2-Jan-2026", true, vec![]),
        (
            "SENTON 7-Feb-1994 SENTSINCE 7-Feb-1994 NOT SENTBEFORE 7-Feb-1994",
            true,
            vec![Level::Summary],
        ),
        ("FROM JÖRG", true, vec![Level::Summary]),
        ("FROM joerg@example.org SUBJECT grü", true, vec![Level::Summary]),
        ("HEADER X-Spam \"\"", true, vec![Level::Header]),
        ("HEADER X-Absent \"\"", false, vec![Level::Header]),
        ("BODY CAFÉ", true, vec![Level::Text]),
        ("TEXT grüße", true, vec![Level::Header]),
        ("TEXT café", true, vec![Level::Header, Level::Text]),
        ("(OR (FROM nobody) (NOT DELETED))", true, vec![]),
    ] {
        assert_eq!(decide(text), (expected, levels), "{text}");
    }
}

#[test]
fn what_is_not_a_search_is_refused() {
    let deep = "(".repeat(1000) + "ALL" + &")".repeat(1000);
    let nots = "NOT ".repeat(1000) + "ALL";
    for bad in [
        "",
        "FROM",
        "NOPE",
        "SINCE yesterday",
        "()",
        "(ALL",
        "NOT",
        "OR ALL",
        "UID a",
        "RETURN (MIN ALL",
        "RETURN (SAVE) ALL",
        &deep,
        &nots,
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
    assert!(read("CHARSET KOI8-R ALL").unwrap().bad_charset);
    assert!(!read("CHARSET utf-8 ALL").unwrap().bad_charset);
    assert_eq!(decide("11"), (false, vec![]));
}

#[test]
fn results_are_written_old_and_extended() {
    let result = |options, found: &[u32]| {
        let mut out = Vec::new();
        write_result(&mut out, b"a1", true, options, found);
        String::from_utf8(out).unwrap()
    };
    let options = read("RETURN (MIN MAX COUNT ALL) ALL").unwrap().options;
    assert_eq!(result(None, &[2, 3]), "* SEARCH 2 3\r\n");
    assert_eq!(result(None, &[]), "* SEARCH\r\n");
    assert_eq!(
        result(options, &[2, 3, 9]),
        "* ESEARCH (TAG \"a1\") UID MIN 2 MAX 9 COUNT 3 ALL 2:3,9\r\n"
    );
    assert_eq!(result(options, &[]), "* ESEARCH (TAG \"a1\") UID COUNT 0\r\n");
}

#[test]
fn much_text_is_looked_through_in_steps_and_only_once() {
    let mut command = read(&["NOT BODY zq"; 100].join(" ")).unwrap();
    command.key.resolve(10, 100);
    let texts = ["x".repeat(300 * 1024)];
    let looked = Looked::default();
    let summary = Summary::compute(RAW);
    let message = Candidate {
        sequence: 3,
        uid: 30,
        flags: FlagBits(0),
        keywords: &[],
        recent: false,
        internal_day: Day::from_civil(2026, 1, 2).unwrap(),
        bytes: 500,
        summary: Some(&summary),
        header: None,
        text: Some(&texts),
        looked: &looked,
    };
    let mut pauses = 0;
    while command.key.decide(&message) == Verdict::Needs(Level::Pause) {
        pauses += 1;
        // Two texts of 300 KiB are more than is looked through at once.
        assert_eq!(looked.answers.borrow().len(), 2 * pauses);
        looked.rested();
    }
    assert_eq!(pauses, 49);
    assert_eq!(command.key.decide(&message), Verdict::Yes);
}

#[test]
fn nothing_is_looked_for_behind_a_no() {
    let mut command = read("BODY zq BODY x NOT (BODY y BODY z) OR BODY x BODY y").unwrap();
    command.key.resolve(10, 100);
    let looked = Looked::default();
    let message = Candidate {
        sequence: 3,
        uid: 30,
        flags: FlagBits(0),
        keywords: &[],
        recent: false,
        internal_day: Day::from_civil(2026, 1, 2).unwrap(),
        bytes: 500,
        summary: None,
        header: None,
        text: Some(&["x".to_owned()]),
        looked: &looked,
    };
    assert_eq!(command.key.decide(&message), Verdict::No);
    assert_eq!(looked.answers.borrow().len(), 1);
}
