//! The scanner and the summary together: real shapes, any cut, junk, bombs.

use super::*;
use crate::message::scanner::limits;

const NESTED: &[u8] = b"From: Ann <a@b>\r\nDate: Mon, 7 Feb 1994 23:52:25 -0800\r\nSubject: hi\r\n\
MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"out\"\r\n\r\npreamble\r\n\
--out\r\nContent-Type: multipart/alternative; boundary=out-in\r\n\r\n\
--out-in\r\n\r\nplain one\r\nplain two\r\n--out-in\r\nContent-Type: text/html\r\n\r\n<p>\r\n--out-in--\r\nepilogue\r\n\
--out  \r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\nTo: c@d\r\nContent-Type: multipart/mixed; boundary=deep\r\n\r\n\
--deep\r\n\r\nX\r\n--deep--\r\n\
--out\r\nContent-Type: image/png; name=x.png\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--out--\r\nrest\r\n";

fn bytes(raw: &[u8], span: Span) -> &[u8] {
    &raw[span.start as usize..span.end as usize]
}

fn scan_in_pieces(raw: &[u8], cuts: impl Iterator<Item = usize>) -> Summary {
    let mut scanner = Scanner::new();
    let mut from = 0;
    for cut in cuts {
        scanner.push(&raw[from..cut]);
        from = cut;
    }
    scanner.push(&raw[from..]);
    scanner.finish()
}

#[test]
fn parts_are_found_by_their_imap_numbers() {
    let summary = Summary::compute(NESTED);
    let body = |path: &[u32]| {
        let part = &summary.parts[summary.part(path).unwrap()];
        String::from_utf8(bytes(NESTED, part.body).to_vec()).unwrap()
    };
    assert_eq!(body(&[1, 1]), "plain one\r\nplain two");
    assert_eq!(body(&[1, 2]), "<p>");
    assert!(body(&[2]).starts_with("Subject: inner\r\n") && body(&[2]).ends_with("--deep--"));
    assert_eq!(body(&[2, 1]), "X");
    assert_eq!(body(&[3]), "AAAA");
    for missing in [&[0][..], &[4], &[1, 3], &[1, 1, 1], &[2, 2], &[3, 2], &[3, 1], &[u32::MAX]] {
        assert_eq!(summary.part(missing), None, "{missing:?}");
    }
    let text = &summary.parts[summary.part(&[1, 1]).unwrap()];
    assert_eq!(text.lines, 1);
    let inner = &summary.parts[summary.part(&[2]).unwrap() + 1];
    assert_eq!(inner.envelope.as_ref().unwrap().subject.as_deref(), Some(&b"inner"[..]));
    assert_eq!(summary.envelope().unwrap().subject.as_deref(), Some(&b"hi"[..]));
    assert_eq!(summary.sent.unwrap().offset_minutes, -480);
}

#[test]
fn a_body_that_is_not_multipart_is_part_one_of_itself() {
    let raw = b"Subject: x\r\n\r\none\r\ntwo\r\n";
    let summary = Summary::compute(raw);
    assert_eq!(summary.part(&[1]), Some(0));
    assert_eq!(summary.part(&[1, 1]), None);
    assert_eq!(bytes(raw, summary.parts[0].body), b"one\r\ntwo\r\n");
    assert_eq!(summary.parts[0].lines, 2);
    let message = b"Content-Type: message/rfc822\r\n\r\nSubject: y\r\n\r\nbody";
    let summary = Summary::compute(message);
    assert_eq!(summary.part(&[1]), Some(0));
    assert_eq!(bytes(message, summary.parts[summary.part(&[1, 1]).unwrap()].body), b"body");
}

#[test]
fn any_cut_gives_the_same_summary() {
    let whole = Summary::compute(NESTED);
    for cut in 0..=NESTED.len() {
        assert_eq!(scan_in_pieces(NESTED, [cut].into_iter()), whole, "cut at {cut}");
    }
    for step in [1, 2, 3, 7, 64] {
        assert_eq!(scan_in_pieces(NESTED, (0..NESTED.len()).step_by(step)), whole, "by {step}");
    }
    let bare: Vec<u8> = NESTED.iter().copied().filter(|byte| *byte != b'\r').collect();
    let whole = Summary::compute(&bare);
    assert_eq!(whole.parts.len(), 8);
    for cut in 0..=bare.len() {
        assert_eq!(scan_in_pieces(&bare, [cut].into_iter()), whole, "bare LF, cut at {cut}");
    }
}

#[test]
fn the_binary_form_comes_back_and_junk_is_refused_without_panic() {
    let summary = Summary::compute(NESTED);
    let encoded = summary.encode();
    assert_eq!(Summary::decode(&encoded), Ok(summary));
    for end in 0..encoded.len() {
        assert!(Summary::decode(&encoded[..end]).is_err(), "cut at {end}");
    }
    let mut seed = 1_u64;
    for _ in 0..20_000 {
        let mut bad = encoded.clone();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (seed >> 33) as usize % bad.len();
        bad[at] = (seed >> 20) as u8;
        if let Ok(summary) = Summary::decode(&bad) {
            assert_eq!(Summary::decode(&summary.encode()), Ok(summary.clone()));
            let _ = summary.part(&[1, 1]);
        }
    }
}

#[test]
fn odd_messages_have_a_summary_too() {
    for raw in [
        &b""[..],
        b"\r\n",
        b"\n",
        b"no header at all",
        b"Content-Type: multipart/mixed; boundary=x",
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n",
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x",
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x--",
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n--x\r\n--x--\r\n",
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: message/rfc822\r\n--x--",
        b"Content-Type: message/rfc822\r\n",
        b"Content-Type: multipart/mixed\r\n\r\n--x\r\n",
        b"Content-Type: multipart/mixed; boundary=\"\"\r\n\r\n--\r\n",
        b"Subject: \0\xff\r\n\r\n\0",
    ] {
        let summary = Summary::compute(raw);
        let end = u32::try_from(raw.len()).unwrap();
        assert_eq!(summary.parts[0].body.end, end, "{raw:?}");
        assert_eq!(Summary::decode(&summary.encode()), Ok(summary), "{raw:?}");
    }
}

#[test]
fn part_bombs_are_bounded() {
    let mut many = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n".to_vec();
    for _ in 0..10_000 {
        many.extend_from_slice(b"--x\r\n\r\nhello\r\n");
    }
    many.extend_from_slice(b"--x--\r\nepilogue");
    let summary = Summary::compute(&many);
    assert_eq!(summary.parts.len(), limits::PARTS_MAX + 1);
    let rest = summary.parts.last().unwrap();
    assert!(bytes(&many, rest.body).ends_with(b"--x\r\n\r\nhello"));
    assert_eq!(summary.children(0).count(), limits::PARTS_MAX);

    for declared in ["message/rfc822", "multipart/mixed; boundary=b"] {
        let mut deep = Vec::new();
        for level in 0..1000 {
            let header = format!("Content-Type: {declared}{level}\r\n\r\n--b{level}\r\n");
            deep.extend_from_slice(header.replace("rfc822", "rfc822; x=").as_bytes());
        }
        let summary = Summary::compute(&deep);
        assert!(summary.parts.len() <= limits::DEPTH_MAX + 1, "{declared}");
        assert_eq!(Summary::decode(&summary.encode()), Ok(summary));
    }
}

#[test]
fn header_bombs_are_bounded() {
    let mut raw = Vec::new();
    for _ in 0..20_000 {
        raw.extend_from_slice(b"To: a@b, c@d, e@f\r\nContent-Description: x\r\n");
    }
    raw.extend_from_slice(b"\r\nbody");
    let summary = Summary::compute(&raw);
    assert_eq!(bytes(&raw, summary.parts[0].body), b"body");
    assert!(summary.encode().len() < 2 * limits::TEXT_BYTES_MAX);
    let line = vec![b'x'; 4 << 20];
    assert!(Summary::compute(&line).encode().len() < 4096);
}

#[test]
fn spoiled_messages_scan_the_same_in_any_pieces() {
    let mut seed = 3_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    for round in 0..4000 {
        let mut raw = NESTED.to_vec();
        for _ in 0..=random() % 6 {
            let at = random() % raw.len();
            match random() % 4 {
                0 => raw[at] = b"-\r\n: \0ob"[random() % 8],
                1 => drop(raw.drain(at..(at + random() % 9).min(raw.len()))),
                2 => {
                    let from = random() % raw.len();
                    let piece = raw[from..(from + random() % 40).min(raw.len())].to_vec();
                    raw.splice(at..at, piece);
                }
                _ => raw.truncate(at.max(20)),
            }
        }
        let whole = Summary::compute(&raw);
        for part in &whole.parts {
            assert!(part.header.end <= part.body.start && part.body.start <= part.body.end);
            assert!(part.body.end as usize <= raw.len(), "round {round}");
        }
        let head = b"Received: by host.test\r\n\twith ESMTP\r\nAuthentication-Results: host.test; none\r\n";
        let behind = Summary::compute(&[head.as_slice(), &raw].concat());
        assert_eq!(whole.clone().behind(head.len()), behind, "round {round}");
        let step = 1 + random() % 30;
        assert_eq!(scan_in_pieces(&raw, (0..raw.len()).step_by(step)), whole, "round {round}");
        assert_eq!(Summary::decode(&whole.encode()), Ok(whole), "round {round}");
    }
}
