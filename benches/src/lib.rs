//! Workloads that the criterion benches share.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A plain message of about `bytes` bytes, the same one for the same arguments.
#[must_use]
pub fn plain_message(bytes: usize, seed: u64) -> Vec<u8> {
    let mut message = header(seed, "text/plain; charset=utf-8");
    message.extend_from_slice(b"Content-Transfer-Encoding: 7bit\r\n\r\n");
    text(&mut message, bytes, seed);
    message
}

/// A message with a text in two forms and attachments, as mail programs write them.
#[must_use]
pub fn mime_message(bytes: usize, attachments: usize, seed: u64) -> Vec<u8> {
    let mut message = header(seed, "multipart/mixed; boundary=\"outer\"");
    message.extend_from_slice(
        b"\r\n--outer\r\nContent-Type: multipart/alternative; boundary=inner\r\n\r\n\
        --inner\r\nContent-Type: text/plain\r\n\r\nText.\r\n\
        --inner\r\nContent-Type: text/html\r\n\r\n<p>Text.</p>\r\n--inner--\r\n",
    );
    for number in 0..attachments {
        let head = format!(
            "--outer\r\nContent-Type: application/octet-stream; name=\"file{number}.bin\"\r\n\
            Content-Disposition: attachment; filename=\"file{number}.bin\"\r\n\
            Content-Transfer-Encoding: base64\r\n\r\n"
        );
        message.extend_from_slice(head.as_bytes());
        let until = message.len() + bytes / attachments.max(1);
        text(&mut message, until, seed);
    }
    message.extend_from_slice(b"--outer--\r\n");
    message
}

fn header(seed: u64, content_type: &str) -> Vec<u8> {
    format!(
        "Received: from mail.example.net (mail.example.net [192.0.2.1])\r\n\
        \tby mx.example.test with ESMTPS id {seed:x}\r\n\
        \tfor <alice@example.test>; Tue, 24 Nov 2026 23:55:00 +0000\r\n\
        Date: Tue, 24 Nov 2026 23:55:00 +0000\r\n\
        From: \"Sender, Some\" <sender@example.net>\r\n\
        To: Alice <alice@example.test>, Bob <bob@example.test>\r\n\
        Subject: =?utf-8?q?A_message_about_=E8=94=B5?=\r\n\
        Message-ID: <{seed:x}@example.net>\r\n\
        References: <a@example.net> <b@example.net>\r\n\
        MIME-Version: 1.0\r\n\
        Content-Type: {content_type}\r\n"
    )
    .into_bytes()
}

/// Lines of base64 until the message has `until` bytes.
fn text(message: &mut Vec<u8>, until: usize, seed: u64) {
    let mut state = seed | 1;
    while message.len() < until {
        for _ in 0..76 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            message.push(ALPHABET[(state >> 32) as usize % 64]);
        }
        message.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_about_as_large_as_asked_and_the_same_each_time() {
        for bytes in [2_000, 4_096, 100_000] {
            for message in [plain_message(bytes, 1), mime_message(bytes, 3, 1)] {
                assert!(message.len() >= bytes && message.len() < bytes + 2_000);
                assert!(message.ends_with(b"\r\n"));
            }
        }
        assert_eq!(mime_message(4_096, 2, 7), mime_message(4_096, 2, 7));
    }
}
