use super::{glance as glance_with, inspect as inspect_with, *};
use std::io::Write;

fn glance(message: &[u8]) -> Report {
    glance_with(message, &Summary::compute(message))
}

fn inspect(message: &[u8]) -> Report {
    inspect_with(message, &Summary::compute(message))
}

/// A program, as far as anybody looks.
fn program() -> Vec<u8> {
    let mut bytes = vec![0; 256];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[0x3c] = 0x80;
    bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
    bytes
}

struct Packed<'b> {
    name: &'b str,
    content: &'b [u8],
    method: u16,
    flags: u16,
}

fn stored<'b>(name: &'b str, content: &'b [u8]) -> Packed<'b> {
    Packed { name, content, method: 0, flags: 0 }
}

fn deflated<'b>(name: &'b str, content: &'b [u8]) -> Packed<'b> {
    Packed { name, content, method: 8, flags: 0 }
}

fn zip(entries: &[Packed]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for Packed { name, content, method, flags } in entries {
        let data = if *method == 8 {
            let mut encoder =
                flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        } else {
            content.to_vec()
        };
        let (packed, unpacked) =
            ((data.len() as u32).to_le_bytes(), (content.len() as u32).to_le_bytes());
        let length = (name.len() as u16).to_le_bytes();
        let (flags, method) = (flags.to_le_bytes(), method.to_le_bytes());
        let common: Vec<u8> =
            [&[20, 0], &flags[..], &method, &[0; 8], &packed, &unpacked, &length, &[0; 2]].concat();
        let offset = (out.len() as u32).to_le_bytes();
        out.extend_from_slice(&[b"PK\x03\x04", &common[..], name.as_bytes(), &data].concat());
        directory.extend_from_slice(
            &[b"PK\x01\x02".as_slice(), &[20, 0], &common[..], &[0; 10], &offset, name.as_bytes()]
                .concat(),
        );
    }
    let (size, offset) = ((directory.len() as u32).to_le_bytes(), (out.len() as u32).to_le_bytes());
    let count = (entries.len() as u16).to_le_bytes();
    out.extend_from_slice(&directory);
    out.extend_from_slice(
        &[b"PK\x05\x06", &[0; 4][..], &count, &count, &size, &offset, &[0; 2]].concat(),
    );
    out
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in entries {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = b'0';
        header[257..262].copy_from_slice(b"ustar");
        out.extend_from_slice(&header);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn message(name: &str, content: &[u8]) -> Vec<u8> {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(content);
    let lines: Vec<&str> =
        text.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!(
        "From: a@a.test\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nhello\r\n--b\r\n\
         Content-Type: application/octet-stream\r\nContent-Disposition: attachment; filename=\"{name}\"\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{}\r\n--b--\r\n",
        lines.join("\r\n")
    )
    .into_bytes()
}

fn kinds(message: &[u8]) -> Vec<Kind> {
    let mut kinds: Vec<Kind> =
        inspect(message).findings.iter().map(|finding| finding.kind).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

#[test]
fn what_is_packed_is_found_and_what_is_harmless_is_left_alone() {
    use Kind::{Bomb, DoubleExtension, Encrypted, Executable, Macros, Script, Unseen};
    let program = program();
    let compound = |stream: &str| {
        let wide: Vec<u8> = stream.encode_utf16().flat_map(u16::to_le_bytes).collect();
        [b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".as_slice(), &[0; 2000], &wide, &[0; 100]].concat()
    };
    let inner = zip(&[deflated("readme.txt", b"hello"), deflated("data", &program)]);
    let mut deep = zip(&[stored("a.txt", b"a")]);
    for _ in 0..limits::DEPTH_MAX {
        deep = zip(&[stored("next.zip", &deep)]);
    }
    let cases: Vec<(&str, Vec<u8>, &[Kind])> = vec![
        (
            "a.txt",
            b"MZ is how this text begins, and it is long enough to look like a program to nobody"
                .to_vec(),
            &[],
        ),
        ("photo.jpg", program.clone(), &[Executable]),
        ("a.zip", zip(&[deflated("a.txt", b"hello"), stored("b/c.pdf", b"%PDF-1.4")]), &[]),
        ("a.zip", zip(&[]), &[]),
        ("a.zip", zip(&[deflated("invoice.pdf.exe", b"x")]), &[Executable, DoubleExtension]),
        ("a.zip", zip(&[stored("run.js", b"x")]), &[Script]),
        ("a.zip", zip(&[deflated("data", &program)]), &[Executable]),
        ("a.zip", zip(&[stored("data", &program)]), &[Executable]),
        ("a.zip", zip(&[deflated("inner.zip", &inner)]), &[Executable]),
        ("a.zip", [b"padding".repeat(3).as_slice(), &inner].concat(), &[Executable]),
        ("a.zip", zip(&[Packed { flags: 1, ..stored("secret.txt", b"x") }]), &[Encrypted]),
        ("a.zip", zip(&[Packed { method: 12, ..stored("a.txt", b"x") }]), &[Unseen]),
        (
            "a.docx",
            zip(&[stored("word/document.xml", b"x"), stored("word/vbaProject.bin", b"x")]),
            &[Macros],
        ),
        ("a.docx", zip(&[deflated("word/embeddings/x.bin", &compound("_VBA_PROJECT"))]), &[Macros]),
        ("a.doc", compound("_VBA_PROJECT_CUR"), &[Macros]),
        ("a.docx", compound("EncryptedPackage"), &[Encrypted]),
        ("a.doc", compound("WordDocument"), &[]),
        ("a.tgz", gzip(&tar(&[("a.txt", b"x"), ("bin/tool", &program)])), &[Executable]),
        ("a.tar", tar(&[("a.txt", b"x"), ("setup.exe", b"x")]), &[Executable]),
        ("a.js.gz", gzip(b"x"), &[Script]),
        ("a.rar", b"Rar!\x1a\x07\x01\0".to_vec(), &[Unseen]),
        ("deep.zip", deep, &[Bomb]),
    ];
    for (name, content, expected) in cases {
        assert_eq!(kinds(&message(name, &content)), expected, "{name} {:?}", content.get(..40));
    }
}

#[test]
fn bombs_are_told_in_little_time_and_memory() {
    let zeroes = vec![0; 120 << 20];
    // One file of zeroes; one that is a zip file only after much unpacking; entries that
    // share their bytes.
    let plain = zip(&[deflated("zeroes", &zeroes)]);
    assert_eq!(kinds(&message("a.zip", &plain)), [Kind::Bomb]);
    let nested =
        zip(&[deflated("a.zip", &[b"PK\x03\x04".as_slice(), &zeroes[..70 << 20]].concat())]);
    assert_eq!(kinds(&message("b.zip", &nested)), [Kind::Bomb]);
    assert_eq!(kinds(&message("c.gz", &gzip(&zeroes))), [Kind::Bomb]);
    let mut shared = zip(&[stored("a", &[7; 2000]), stored("b", &[7; 2000])]);
    let second = memchr::memmem::rfind(&shared, b"PK\x01\x02").unwrap();
    shared[second + 42..second + 46].fill(0);
    let twice = second - 47;
    let directory = shared[twice..second].to_vec();
    let end = memchr::memmem::rfind(&shared, b"PK\x05\x06").unwrap();
    for _ in 0..9 {
        shared.splice(end..end, directory.iter().copied());
    }
    let end = memchr::memmem::rfind(&shared, b"PK\x05\x06").unwrap();
    let size = (end - twice) as u32;
    shared[end + 12..end + 16].copy_from_slice(&size.to_le_bytes());
    assert_eq!(kinds(&message("d.zip", &shared)), [Kind::Bomb]);
}

#[test]
fn names_as_long_as_an_archive_cost_no_more_than_others() {
    // Local headers that overlap, each with a name of 64 KiB of what is no UTF-8.
    let header = [b"PK\x03\x04".as_slice(), &[0x80; 22], &[0xff; 2]].concat();
    let overlapping = header.repeat(45_000 / header.len());
    let start = std::time::Instant::now();
    assert_eq!(glance(&message("a.zip", &overlapping)).brief().unwrap(), "attachments=unseen");
    let glanced = start.elapsed();
    assert!(glanced < std::time::Duration::from_millis(100), "{glanced:?}");
    // An archive of many files in a folder whose name is megabytes long.
    let mut inner = tar(&[("a.txt", b"")]);
    inner.truncate(512);
    let inner = inner.repeat(15_000);
    let mut outer = tar(&[("long", &b"x".repeat(4 << 20)), ("inner.tar", &inner)]);
    outer[156] = b'L';
    let start = std::time::Instant::now();
    assert_eq!(inspect(&message("a.tar", &outer)), Report::default());
    assert!(start.elapsed() < std::time::Duration::from_secs(2), "{:?}", start.elapsed());
    let name = inside(&"ä/".repeat(1000), &"ö".repeat(1000));
    assert!(name.len() <= limits::PATH_BYTES_MAX && name.ends_with('ö'));
}

#[test]
fn what_a_listing_says_of_sizes_hides_nothing() {
    let mut none = zip(&[deflated("data", &program())]);
    let entry = memchr::memmem::rfind(&none, b"PK\x01\x02").unwrap();
    none[entry + 24..entry + 28].fill(0);
    assert_eq!(kinds(&message("a.zip", &none)), [Kind::Executable]);
    let mut large = tar(&[("a.txt", b"x"), ("setup.exe", b"x")]);
    large[124] = 0x80;
    assert_eq!(kinds(&message("a.tar", &large)), [Kind::Unseen]);
    let mut extended = tar(&[("a", b"20 path=b/setup.exe\n"), ("b.txt", b"x")]);
    extended[156] = b'x';
    assert_eq!(kinds(&message("a.tar", &extended)), [Kind::Executable]);
}

#[test]
fn a_glance_unpacks_nothing_and_says_that_there_is_something() {
    let packed = message("a.zip", &zip(&[deflated("data", &program())]));
    assert_eq!(glance(&packed), Report { findings: Vec::new(), is_partial: true });
    let named = glance(&message("a.zip", &zip(&[deflated("a.exe", b"x")])));
    assert_eq!(named.brief().as_deref(), Some("attachments=executable"));
    let plain = glance(&message("a.pdf", b"%PDF"));
    assert_eq!(plain, Report::default());
    assert_eq!(plain.brief(), None);
}

#[test]
fn a_glance_reads_long_texts_and_leaves_other_long_parts() {
    let long = vec![b'x'; limits::GLANCED_BYTES_MAX + 1];
    let part = |header: &str, body: &[u8]| {
        [
            b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n",
            header.as_bytes(),
            b"\r\n\r\n",
            body,
            b"\r\n--b--\r\n",
        ]
        .concat()
    };
    let text = part("Content-Type: text/plain", &long);
    assert_eq!((glance(&text), inspect(&text)), Default::default());
    let uuencoded = [long.as_slice(), b"\r\nbegin 644 a.exe\r\n"].concat();
    assert_eq!(
        glance(&part("Content-Type: text/plain", &uuencoded)).brief().unwrap(),
        "attachments=executable"
    );
    // What only says that it is a text, and what is saved under a name.
    let program = [program(), long.clone()].concat();
    for header in
        ["Content-Type: text/plain", "Content-Type: text/plain; name=x", "Content-Type: image/png"]
    {
        let hidden = part(header, &program);
        assert_eq!(glance(&hidden), Report { findings: Vec::new(), is_partial: true }, "{header}");
        assert_eq!(kinds(&hidden), [Kind::Executable], "{header}");
    }
    let attached = part("Content-Type: text/plain\r\nContent-Disposition: attachment", &long);
    assert!(glance(&attached).is_partial && inspect(&attached).findings.is_empty());
}

#[test]
fn messages_in_messages_are_looked_into_up_to_a_depth() {
    let mut inner = message("a.bin", &program());
    for _ in 0..3 {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(&inner);
        inner = format!(
            "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n{text}\r\n"
        )
        .into_bytes();
    }
    assert_eq!(kinds(&inner), [Kind::Executable]);
    let plain =
        [b"Content-Type: message/rfc822\r\n\r\n".as_slice(), &message("a.scr", b"x")].concat();
    assert_eq!(kinds(&plain), [Kind::Executable]);
}

#[test]
fn a_name_behind_more_text_than_a_summary_keeps_is_seen() {
    let mut text = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n".to_vec();
    for _ in 0..200 {
        text.extend_from_slice(b"--b\r\nContent-Type: text/plain\r\nContent-Description: ");
        text.extend_from_slice(&[b'x'; 1900]);
        text.extend_from_slice(b"\r\n\r\nx\r\n");
    }
    text.extend_from_slice(
        b"--b\r\nContent-Disposition: attachment; filename=a.exe\r\n\r\nx\r\n--b--\r\n",
    );
    assert_eq!(kinds(&text), [Kind::Executable]);
    let many = [
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n".to_vec(),
        b"--b\r\n\r\nx\r\n".repeat(10_000),
    ]
    .concat();
    assert_eq!(kinds(&many), [Kind::Unseen]);
}

#[test]
fn the_worst_of_all_findings_decides() {
    let both = message("a.zip", &zip(&[stored("a.js", b"x"), stored("b.exe", b"x")]));
    let report = inspect(&both);
    let usual = Attachments::default();
    assert_eq!(report.worst(&usual).unwrap().0, Action::Mark);
    let actions = [(Kind::Executable, Action::Reject), (Kind::Script, Action::Junk)].into();
    let rules = Attachments { actions, ..usual };
    let (action, finding) = report.worst(&rules).unwrap();
    assert_eq!((action, finding.kind), (Action::Reject, Kind::Executable));
    assert_eq!(finding.name, "a.zip/b.exe");
    assert_eq!(inspect(b"Subject: x\r\n\r\nhello").worst(&rules), None);
}

#[test]
fn nothing_is_refused_until_somebody_asks_for_it() {
    let rules = Attachments::default();
    for kind in Kind::ALL {
        let finding = Finding { kind, name: String::new() };
        assert_eq!(rules.action(&finding), Action::Mark);
        let unsaid = Attachments { actions: Default::default(), ..Attachments::default() };
        assert_eq!(unsaid.action(&finding), Action::Mark);
    }
}
