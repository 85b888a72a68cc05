//! Completions, response codes, and the untagged responses that are more than a line of text.
//! RFC 3501 section 7.1, RFC 4315, RFC 5530, RFC 7889, RFC 9208.

use super::command::StatusItem;
use super::encode::{self, push};
use super::sequence;

/// How a command ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    Ok(Option<Code>, &'static str),
    No(Option<Code>, &'static str),
    Bad(&'static str),
}

impl Completion {
    pub const DONE: Completion = Completion::Ok(None, "Done");

    /// Writes the tagged line.
    pub fn write(&self, out: &mut Vec<u8>, tag: &[u8]) {
        let (word, code, text) = match self {
            Completion::Ok(code, text) => ("OK", code.as_ref(), text),
            Completion::No(code, text) => ("NO", code.as_ref(), text),
            Completion::Bad(text) => ("BAD", None, text),
        };
        out.extend_from_slice(tag);
        push(out, format_args!(" {word} "));
        if let Some(code) = code {
            code.write(out);
            out.push(b' ');
        }
        push(out, format_args!("{text}\r\n"));
    }
}

/// The machine-readable part of a completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    AlreadyExists,
    AppendUid {
        uid_validity: u32,
        uid: u32,
    },
    AuthenticationFailed,
    BadCharset,
    Cannot,
    /// The store has a message that it can't read.
    Corruption,
    /// Pairs of source and destination UID, by source.
    CopyUid {
        uid_validity: u32,
        pairs: Vec<(u32, u32)>,
    },
    ExpungeIssued,
    InUse,
    Limit,
    NonExistent,
    NoPermission,
    OverQuota,
    PrivacyRequired,
    ReadOnly,
    ReadWrite,
    ServerBug,
    TooBig,
    TryCreate,
    Unavailable,
    UseAttribute,
}

impl Code {
    fn write(&self, out: &mut Vec<u8>) {
        let word = match self {
            Code::AlreadyExists => "ALREADYEXISTS",
            Code::AppendUid { uid_validity, uid } => {
                push(out, format_args!("[APPENDUID {uid_validity} {uid}]"));
                return;
            }
            Code::CopyUid { uid_validity, pairs } => {
                let from = sequence::runs(pairs.iter().map(|(from, _)| *from));
                let to = sequence::runs(pairs.iter().map(|(_, to)| *to));
                let (from, to) = (sequence::text(&from), sequence::text(&to));
                push(out, format_args!("[COPYUID {uid_validity} {from} {to}]"));
                return;
            }
            Code::AuthenticationFailed => "AUTHENTICATIONFAILED",
            Code::BadCharset => "BADCHARSET (UTF-8 US-ASCII)",
            Code::Cannot => "CANNOT",
            Code::Corruption => "CORRUPTION",
            Code::ExpungeIssued => "EXPUNGEISSUED",
            Code::InUse => "INUSE",
            Code::Limit => "LIMIT",
            Code::NonExistent => "NONEXISTENT",
            Code::NoPermission => "NOPERM",
            Code::OverQuota => "OVERQUOTA",
            Code::PrivacyRequired => "PRIVACYREQUIRED",
            Code::ReadOnly => "READ-ONLY",
            Code::ReadWrite => "READ-WRITE",
            Code::ServerBug => "SERVERBUG",
            Code::TooBig => "TOOBIG",
            Code::TryCreate => "TRYCREATE",
            Code::Unavailable => "UNAVAILABLE",
            Code::UseAttribute => "USEATTR",
        };
        push(out, format_args!("[{word}]"));
    }
}

/// What STATUS can be asked of one mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusValues {
    pub messages: u32,
    pub recent: u32,
    pub uid_next: u32,
    pub uid_validity: u32,
    pub unseen: u32,
    pub deleted: u32,
    pub bytes: u64,
    pub append_bytes_max: u64,
}

/// `* STATUS name (MESSAGES n …)`
pub fn status(out: &mut Vec<u8>, name: &str, items: &[StatusItem], values: &StatusValues) {
    out.extend_from_slice(b"* STATUS ");
    encode::mailbox(out, name);
    for (index, item) in items.iter().enumerate() {
        let value = match item {
            StatusItem::Messages => u64::from(values.messages),
            StatusItem::Recent => u64::from(values.recent),
            StatusItem::UidNext => u64::from(values.uid_next),
            StatusItem::UidValidity => u64::from(values.uid_validity),
            StatusItem::Unseen => u64::from(values.unseen),
            StatusItem::Deleted => u64::from(values.deleted),
            StatusItem::Size => values.bytes,
            StatusItem::AppendLimit => values.append_bytes_max,
        };
        let before = if index == 0 { " (" } else { " " };
        push(out, format_args!("{before}{} {value}", item.name()));
    }
    out.extend_from_slice(b")\r\n");
}

/// Usage and limit of one resource: KiB of storage, or messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaResource {
    pub name: &'static str,
    pub usage: u64,
    pub limit: u64,
}

/// RFC 9208 section 5.1. The one quota root is called ``.
pub fn quota(out: &mut Vec<u8>, resources: &[QuotaResource]) {
    out.extend_from_slice(b"* QUOTA \"\" (");
    for (index, resource) in resources.iter().enumerate() {
        let before = if index == 0 { "" } else { " " };
        let QuotaResource { name, usage, limit } = resource;
        push(out, format_args!("{before}{name} {usage} {limit}"));
    }
    out.extend_from_slice(b")\r\n");
}

/// RFC 9208 section 5.2.
pub fn quota_root(out: &mut Vec<u8>, mailbox: &str) {
    out.extend_from_slice(b"* QUOTAROOT ");
    encode::mailbox(out, mailbox);
    out.extend_from_slice(b" \"\"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_carry_their_codes() {
        let written = |completion: Completion| {
            let mut out = Vec::new();
            completion.write(&mut out, b"a1");
            String::from_utf8(out).unwrap()
        };
        let pairs = vec![(1, 11), (2, 12), (5, 13)];
        assert_eq!(
            written(Completion::Ok(Some(Code::CopyUid { uid_validity: 9, pairs }), "Copied")),
            "a1 OK [COPYUID 9 1:2,5 11:13] Copied\r\n"
        );
        assert_eq!(written(Completion::Bad("What?")), "a1 BAD What?\r\n");
    }

    #[test]
    fn status_answers_what_was_asked_in_order() {
        let mut out = Vec::new();
        let values = StatusValues { messages: 3, bytes: 99, ..StatusValues::default() };
        status(&mut out, "a b", &[StatusItem::Size, StatusItem::Messages], &values);
        assert_eq!(out, b"* STATUS \"a b\" (SIZE 99 MESSAGES 3)\r\n");
    }
}
