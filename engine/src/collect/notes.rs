//! What a user is told: why nothing comes from an outside mailbox, with the remedy, once; and that
//! messages were passed over.

use super::reason::Reason;
use super::round::Counts;
use super::source::Source;
use crate::delivery::{self, To, notes};
use crate::shard::Shard;

fn text(shard: &Shard, to: &To, subject: &str, body: &str) -> Vec<u8> {
    let mut message = notes::head(shard, &to.home.address, subject, "auto-generated");
    message.push_str(
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n",
    );
    message.push_str(body);
    message.into_bytes()
}

/// The line is folded by nobody, so it is short.
fn subject(source: &Source, what: &str) -> String {
    let name: String = source.name.chars().filter(char::is_ascii_graphic).take(60).collect();
    format!("Mail from {name} {what}")
}

pub async fn failed(shard: &Shard, to: &To, source: &Source, reason: &Reason) {
    let Source { user, host, name, .. } = source;
    let body = format!(
        "Your mail at {host} (user {user}) can't be collected:\r\n\r\n    {host} {}\r\n\r\n{}\r\n\r\n\
         Nothing is lost: what lies there stays there, and is collected once that works again. It is tried\r\n\
         on and on, and you are told of this once. The administrator of this server knows this mailbox as\r\n\
         {name:?} of {}.\r\n",
        notes::visible(&reason.why),
        wrapped(reason.kind.remedy()),
        to.home.address,
    );
    put(shard, to, source, text(shard, to, &subject(source, "does not arrive"), &body)).await;
}

pub async fn passed_over(shard: &Shard, to: &To, source: &Source, counts: &Counts) {
    let Source { user, host, octets_max, .. } = source;
    let mut body = format!("Not all of your mail at {host} (user {user}) was collected:\r\n\r\n");
    let mebibytes = octets_max / (1 << 20);
    if counts.too_large > 0 {
        let count = counts.too_large;
        body += &format!(
            "    {count} {} larger than the limit, {octets_max} bytes ({mebibytes} MiB)\r\n",
            if count == 1 { "message is" } else { "messages are" }
        );
    }
    if counts.refused > 0 {
        let count = counts.refused;
        body += &format!(
            "    {count} {} refused, since what {} may do harm\r\n",
            if count == 1 { "was" } else { "were" },
            if count == 1 { "it carries" } else { "they carry" }
        );
    }
    body += "\r\nThey lie where they are, and are not deleted. You are told of each once.\r\n";
    put(shard, to, source, text(shard, to, &subject(source, "was left where it is"), &body)).await;
}

async fn put(shard: &Shard, to: &To, source: &Source, note: Vec<u8>) {
    if let Err(error) = delivery::put_into_inbox(shard, to, note).await {
        let (account, name) = (&to.home.address, &source.name);
        tracing::warn!(account, name, %error, "a user is not told of what was not collected");
    }
}

/// In lines as they are read.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one");
        if !line.is_empty() && line.len() + word.len() > 90 {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\r\n")
}

#[cfg(test)]
mod tests {
    use super::wrapped;

    #[test]
    fn remedies_are_read_in_lines() {
        let text = wrapped(&"word ".repeat(60));
        assert!(text.split("\r\n").all(|line| line.len() <= 91 && !line.ends_with(' ')));
        assert_eq!(text.split_whitespace().count(), 60);
    }
}
