//! A report as a mail: some words, and the file. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocols::message::date::field_text;

/// Characters of base64 on one line (RFC 2045 section 6.8).
const LINE: usize = 76;
/// Of a boundary's 70 characters (RFC 2046 section 5.1.1), for what tells one letter from another.
const BOUNDARY_NAME: usize = 50;

#[derive(Debug, Clone)]
pub struct Letter<'l> {
    pub organization: &'l str,
    pub from: &'l str,
    pub to: &'l str,
    pub subject: &'l str,
    pub message_id: &'l str,
    /// Further fields of the header, each with its end of line.
    pub fields: &'l str,
    /// Of `multipart/report` (RFC 6522); without it, `multipart/mixed`.
    pub report_type: Option<&'l str>,
    /// Unix seconds.
    pub now: u64,
    pub words: &'l str,
    pub file_name: &'l str,
    /// Such as `application/gzip`.
    pub file_type: &'l str,
    pub file: &'l [u8],
}

impl Letter<'_> {
    pub fn text(&self) -> Vec<u8> {
        let name = self.message_id.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let boundary = format!("kura-report-{}", &name[..name.len().min(BOUNDARY_NAME)]);
        let kind = match self.report_type {
            Some(of) => format!("multipart/report; report-type=\"{of}\""),
            None => "multipart/mixed".to_owned(),
        };
        let mut text = format!(
            "From: {name} <{from}>\r\n\
             To: <{to}>\r\n\
             Subject: {subject}\r\n\
             Date: {date}\r\n\
             Message-ID: <{id}>\r\n\
             {fields}Auto-Submitted: auto-generated\r\n\
             MIME-Version: 1.0\r\n\
             Content-Type: {kind};\r\n\tboundary=\"{boundary}\"\r\n\
             \r\n\
             --{boundary}\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: 8bit\r\n\
             \r\n\
             {words}\r\n\
             --{boundary}\r\n\
             Content-Type: {file_kind};\r\n\tname=\"{file}\"\r\n\
             Content-Transfer-Encoding: base64\r\n\
             Content-Disposition: attachment;\r\n\tfilename=\"{file}\"\r\n\
             \r\n",
            name = phrase(self.organization),
            from = self.from,
            to = self.to,
            subject = folded(self.subject),
            date = field_text(self.now * 1000),
            id = self.message_id,
            words = self.words,
            fields = self.fields,
            file_kind = self.file_type,
            file = self.file_name,
        )
        .into_bytes();
        let encoded = STANDARD.encode(self.file);
        for line in encoded.as_bytes().chunks(LINE) {
            text.extend_from_slice(line);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        text
    }
}

/// A name in front of an address: quoted, or encoded (RFC 2047) if it is not ASCII.
fn phrase(name: &str) -> String {
    if name.is_ascii() {
        return format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
    }
    // An encoded word has 75 characters at the most, and ends between letters.
    let mut words: Vec<String> = Vec::new();
    let mut piece = String::new();
    for letter in name.chars() {
        if piece.len() + letter.len_utf8() > 42 {
            words.push(std::mem::take(&mut piece));
        }
        piece.push(letter);
    }
    words.push(piece);
    let words: Vec<String> =
        words.iter().map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word))).collect();
    words.join("\r\n ")
}

/// In lines that every program can take, at the blanks that are there.
fn folded(text: &str) -> String {
    let mut line = "Subject: ".len();
    let mut out = String::with_capacity(text.len() + 8);
    for (index, word) in text.split(' ').enumerate() {
        if index > 0 {
            let is_long = line + 1 + word.len() > 78;
            out.push_str(if is_long { "\r\n " } else { " " });
            line = if is_long { 1 } else { line + 1 };
        }
        out.push_str(word);
        line += word.len();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocols::message::Summary;
    use protocols::message::field::unfold;

    #[test]
    fn the_file_comes_out_as_it_went_in() {
        let file: Vec<u8> = (0..1000_u32).map(|number| number as u8).collect();
        let subject = "Report Domain: a-long-name.example.org Submitter: mx.b.test Report-ID: <1.2.a@mx.b.test>";
        let letter = Letter {
            organization: "B \"Sons\"",
            from: "postmaster@b.test",
            to: "d@a.test",
            subject,
            message_id: "0.1@mx.b.test",
            fields: "",
            report_type: None,
            now: 760_000_000,
            words: "Words.\r\n",
            file_name: "a!b!1!2.xml.gz",
            file_type: "application/gzip",
            file: &file,
        };
        let text = letter.text();
        let summary = Summary::compute(&text);
        assert_eq!(summary.parts.len(), 3);
        let body = summary.parts[2].body;
        let body: Vec<u8> = text[body.start as usize..body.end as usize]
            .iter()
            .copied()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        assert_eq!(STANDARD.decode(body).unwrap(), file);
        assert_eq!(summary.parts[2].content.parameter("name"), Some(&b"a!b!1!2.xml.gz"[..]));
        let head = String::from_utf8(text[..600].to_vec()).unwrap();
        assert!(
            head.starts_with("From: \"B \\\"Sons\\\"\" <postmaster@b.test>\r\nTo: <d@a.test>\r\n")
        );
        assert!(head.contains("\r\nAuto-Submitted: auto-generated\r\n"));
        let typed = Letter {
            fields: "TLS-Required: No\r\n",
            report_type: Some("tlsrpt"),
            ..letter.clone()
        };
        let typed = String::from_utf8(typed.text()[..600].to_vec()).unwrap();
        assert!(typed.contains("\r\nTLS-Required: No\r\nAuto-Submitted: "));
        assert!(typed.contains(
            "\r\nContent-Type: multipart/report; report-type=\"tlsrpt\";\r\n\tboundary="
        ));
        assert!(head.lines().all(|line| line.len() <= 78), "{head}");
        let folded = folded(subject);
        assert!(folded.contains("\r\n "));
        assert_eq!(unfold(folded.as_bytes()), subject.as_bytes());
        assert_eq!(phrase("Bücher"), "=?utf-8?B?QsO8Y2hlcg==?=");
    }
}
