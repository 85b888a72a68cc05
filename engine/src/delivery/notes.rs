//! The messages that we write ourselves: that a script fails, and that somebody refuses a message.

use super::unix_millis;
use crate::shard::Shard;
use protocols::Address;
use protocols::message::date::field_text;
use protocols::message::field;
use std::fmt::Write;

/// Octets of the refused message's header that go with its report.
const HEADER_BYTES_MAX: usize = 16 << 10;

pub(crate) fn head(shard: &Shard, to: &str, subject: &str, submitted: &str) -> String {
    let (hostname, id) = (&shard.config.hostname, shard.next_id());
    let date = field_text(unix_millis().0);
    format!(
        "Return-Path: <>\r\nFrom: Mail Delivery System <postmaster@{hostname}>\r\nTo: {to}\r\n\
         Subject: {subject}\r\nDate: {date}\r\nMessage-ID: <{id}@{hostname}>\r\n\
         Auto-Submitted: {submitted}\r\nMIME-Version: 1.0\r\n"
    )
}

/// To the owner of a script that failed: RFC 5228 section 2.10.6.
pub(super) fn script_failed(shard: &Shard, owner: &str, error: &str) -> Vec<u8> {
    let mut message = head(shard, owner, "Your mail filter has failed", "auto-generated");
    message.push_str(
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n",
    );
    message.push_str(
        "Your Sieve script could not be carried out on a message that came in. The message was\r\n\
         kept as if there were no script of yours. What went wrong:\r\n\r\n",
    );
    for line in error.lines() {
        let _ = write!(message, "    {}\r\n", visible(line));
    }
    message.push_str("\r\nYou are told of this once a day at the most.\r\n");
    message.into_bytes()
}

/// To the sender of a message that one of its recipients refuses: RFC 5429 section 2.1, RFC 3464.
/// `refused` is the message, or its beginning.
pub(super) fn rejection(
    shard: &Shard,
    sender: &Address,
    recipient: &Address,
    text: &str,
    refused: &[u8],
) -> Vec<u8> {
    let hostname = &shard.config.hostname;
    let boundary = format!("kura-{}", shard.next_id());
    let mut message = head(
        shard,
        &sender.to_string(),
        "Your message was refused by its recipient",
        "auto-replied (rejected)",
    );
    let _ = write!(
        message,
        "Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\r\n\
         --{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
         {recipient} refuses your message:\r\n\r\n"
    );
    for line in text.lines() {
        let _ = write!(message, "    {}\r\n", visible(line));
    }
    let _ = write!(
        message,
        "\r\n--{boundary}\r\nContent-Type: message/delivery-status\r\n\r\n\
         Reporting-MTA: dns; {hostname}\r\n\r\n\
         Final-Recipient: rfc822; {recipient}\r\nAction: failed\r\nStatus: 5.7.1\r\n\r\n\
         --{boundary}\r\nContent-Type: text/rfc822-headers\r\n\r\n"
    );
    let mut message = message.into_bytes();
    message.extend_from_slice(header(refused));
    message.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    message
}

/// Whole lines of the header, without the blank line.
fn header(message: &[u8]) -> &[u8] {
    let header = field::header(message);
    if header.len() <= HEADER_BYTES_MAX {
        return header;
    }
    let cut = &header[..HEADER_BYTES_MAX];
    let line_end = cut.windows(2).rposition(|window| window == b"\r\n");
    &cut[..line_end.map_or(0, |end| end + 2)]
}

/// A line of somebody's text, cut to what a line may hold.
pub(crate) fn visible(line: &str) -> String {
    const CHARACTERS_MAX: usize = 240;
    line.chars().filter(|c| !c.is_control()).take(CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_cut_at_its_end_or_at_the_end_of_a_line() {
        assert_eq!(header(b"A: b\r\n\r\nbody"), b"A: b\r\n");
        assert_eq!(header(b"A: b"), b"A: b");
        assert_eq!(header(b""), b"");
        let long = "A: b\r\n".repeat(10_000) + "\r\n";
        let cut = header(long.as_bytes());
        assert!(cut.len() <= HEADER_BYTES_MAX && cut.len() > HEADER_BYTES_MAX - 6);
        assert!(cut.ends_with(b"\r\n"));
        assert_eq!(visible("a\r\tb"), "ab");
    }
}
