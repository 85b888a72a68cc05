//! From the bytes of one command to a [`Command`]. RFC 3501 section 9 and the extensions' grammars.
//!
//! The grammar stands beside each reader. Unknown commands and malformed arguments are faults of
//! the client's: a tagged BAD, or an untagged one when not even the tag can be read.

use super::command::{Append, Command, StatusItem, StoreFlags, StoreMode};
use super::flags::FlagList;
use super::lexer::{Fault, Lexer, Parsed, is_atom_byte};
use super::list::{ListCommand, SpecialUse};
use super::mailbox::decode_utf7;
use super::{fetch, search};
use crate::message::date::read_imap_instant;

/// Longest tag that is taken: every reply repeats it.
pub const TAG_BYTES_MAX: usize = 64;

/// `tag = 1*<any ASTRING-CHAR except "+">`
pub fn tag<'c>(lexer: &mut Lexer<'c>) -> Parsed<&'c [u8]> {
    let tag = lexer.run(|byte| (is_atom_byte(byte) || byte == b']') && byte != b'+');
    if tag.is_empty() || tag.len() > TAG_BYTES_MAX {
        return Err(Fault("no tag"));
    }
    lexer.space().map_err(|_| Fault("no command"))?;
    Ok(tag)
}

/// Reads everything behind the tag.
pub fn command(lexer: &mut Lexer<'_>) -> Parsed<Command> {
    let verb = lexer.atom()?.to_ascii_uppercase();
    let command = match verb.as_slice() {
        b"CAPABILITY" => Command::Capability,
        b"NOOP" => Command::Noop,
        b"LOGOUT" => Command::Logout,
        b"STARTTLS" => Command::StartTls,
        b"NAMESPACE" => Command::Namespace,
        b"IDLE" => Command::Idle,
        b"CHECK" => Command::Check,
        b"CLOSE" => Command::Close,
        b"UNSELECT" => Command::Unselect,
        b"EXPUNGE" => Command::Expunge,
        with_arguments => {
            lexer.space().map_err(|_| Fault("unknown command, or one without its arguments"))?;
            if with_arguments == b"UID" {
                let verb = lexer.atom()?.to_ascii_uppercase();
                lexer.space().map_err(|_| Fault("expected arguments"))?;
                message_command(&verb, true, lexer)?
            } else {
                arguments(with_arguments, lexer)?
            }
        }
    };
    lexer.end()?;
    Ok(command)
}

fn arguments(verb: &[u8], lexer: &mut Lexer<'_>) -> Parsed<Command> {
    Ok(match verb {
        b"ID" => id(lexer)?,
        b"AUTHENTICATE" => authenticate(lexer)?,
        b"LOGIN" => {
            let user = lexer.astring()?.into_owned();
            lexer.space()?;
            Command::Login { user, password: lexer.astring()?.into_owned() }
        }
        b"ENABLE" => enable(lexer)?,
        b"SELECT" => Command::Select { mailbox: lexer.mailbox()?, read_only: false },
        b"EXAMINE" => Command::Select { mailbox: lexer.mailbox()?, read_only: true },
        b"CREATE" => create(lexer)?,
        b"DELETE" => Command::Delete(lexer.mailbox()?),
        b"RENAME" => {
            let from = lexer.mailbox()?;
            lexer.space()?;
            Command::Rename { from, to: lexer.mailbox()? }
        }
        b"SUBSCRIBE" => Command::Subscribe { mailbox: lexer.mailbox()?, subscribe: true },
        b"UNSUBSCRIBE" => Command::Subscribe { mailbox: lexer.mailbox()?, subscribe: false },
        b"LIST" => Command::List(list(lexer)?),
        b"LSUB" => Command::List(lsub(lexer)?),
        b"STATUS" => {
            let mailbox = lexer.mailbox()?;
            lexer.space()?;
            Command::Status { mailbox, items: status_items(lexer)? }
        }
        b"APPEND" => return Err(Fault("APPEND wants its message as a literal")),
        b"GETQUOTA" => Command::GetQuota { root: lexer.astring()?.into_owned() },
        b"GETQUOTAROOT" => Command::GetQuotaRoot(lexer.mailbox()?),
        b"SETQUOTA" => {
            lexer.astring()?;
            lexer.space()?;
            lexer.list(|lexer| lexer.atom().map(drop))?;
            Command::SetQuota
        }
        other => message_command(other, false, lexer)?,
    })
}

/// Commands that exist with UIDs and with message numbers.
fn message_command(verb: &[u8], by_uid: bool, lexer: &mut Lexer<'_>) -> Parsed<Command> {
    Ok(match verb {
        b"SEARCH" => Command::Search { by_uid, search: search::read_search(lexer)? },
        b"FETCH" => {
            let set = lexer.sequence_set()?;
            lexer.space()?;
            Command::Fetch { by_uid, set, items: fetch::read_items(lexer)? }
        }
        b"STORE" => {
            let set = lexer.sequence_set()?;
            lexer.space()?;
            Command::Store { by_uid, set, store: store_flags(lexer)? }
        }
        b"COPY" | b"MOVE" => {
            let set = lexer.sequence_set()?;
            lexer.space()?;
            let to = lexer.mailbox()?;
            if verb == b"COPY" {
                Command::Copy { by_uid, set, to }
            } else {
                Command::Move { by_uid, set, to }
            }
        }
        b"EXPUNGE" if by_uid => Command::UidExpunge(lexer.sequence_set()?),
        _ => return Err(Fault("unknown command")),
    })
}

/// `id = "ID" SP ("(" [string SP nstring …] ")" / NIL)`, RFC 2971. What it says is not kept.
fn id(lexer: &mut Lexer<'_>) -> Parsed<Command> {
    if !lexer.keyword("NIL") {
        lexer.list(|lexer| {
            lexer.string()?;
            lexer.space()?;
            lexer.nstring().map(drop)
        })?;
    }
    Ok(Command::Id)
}

/// `"AUTHENTICATE" SP auth-type [SP initial-resp]`, RFC 4959; the response is still in base64.
fn authenticate(lexer: &mut Lexer<'_>) -> Parsed<Command> {
    let mechanism = String::from_utf8_lossy(lexer.atom()?).to_ascii_uppercase();
    let mut initial = None;
    if lexer.take(b' ') {
        initial = Some(lexer.run(|byte| byte.is_ascii_graphic()).to_vec());
    }
    Ok(Command::Authenticate { mechanism, initial })
}

fn enable(lexer: &mut Lexer<'_>) -> Parsed<Command> {
    let mut capabilities = Vec::new();
    loop {
        capabilities.push(String::from_utf8_lossy(lexer.atom()?).to_ascii_uppercase());
        if !lexer.take(b' ') {
            return Ok(Command::Enable(capabilities));
        }
    }
}

/// `"CREATE" SP mailbox [SP "(" "USE" SP "(" use-attr ")" ")"]`, RFC 6154. A separator at the end
/// only announces children (RFC 3501 section 6.3.3).
fn create(lexer: &mut Lexer<'_>) -> Parsed<Command> {
    let name = lexer.astring()?;
    let name = name.strip_suffix(b"/").unwrap_or(&name);
    let mailbox = super::mailbox::MailboxName::from_wire(name);
    let mut special_use = None;
    if lexer.take(b' ') {
        lexer.expect(b'(', "expected parameters")?;
        if !lexer.keyword("USE") {
            return Err(Fault("unknown CREATE parameter"));
        }
        lexer.space()?;
        for name in lexer.list(Lexer::flag)? {
            let known = SpecialUse::from_name(name);
            special_use = Some(known.ok_or(Fault("unknown special use"))?);
        }
        lexer.expect(b')', "expected the end of the parameters")?;
    }
    Ok(Command::Create { mailbox, special_use })
}

/// A reference or pattern; what is not modified UTF-7 can match nothing.
fn pattern(lexer: &mut Lexer<'_>) -> Parsed<String> {
    let text = match lexer.peek() {
        Some(b'"' | b'{') => lexer.string()?.into_owned(),
        Some(_) | None => {
            let list_byte = |byte| is_atom_byte(byte) || b"%*]".contains(&byte) || byte >= 0x80;
            let text = lexer.run(list_byte).to_vec();
            if text.is_empty() {
                return Err(Fault("expected a pattern"));
            }
            text
        }
    };
    if text.len() > super::mailbox::NAME_BYTES_MAX {
        return Err(Fault("the pattern is too long"));
    }
    Ok(decode_utf7(&text).unwrap_or_else(|| "\u{fffd}".into()))
}

fn lsub(lexer: &mut Lexer<'_>) -> Parsed<ListCommand> {
    let reference = pattern(lexer)?;
    lexer.space()?;
    let patterns = vec![pattern(lexer)?];
    within_limits(ListCommand { lsub: true, reference, patterns, ..ListCommand::default() })
}

/// `"LIST" [SP "(" options ")"] SP reference SP (pattern / "(" patterns ")") [SP "RETURN" SP "(" … ")"]`,
/// RFC 5258 section 6.
fn list(lexer: &mut Lexer<'_>) -> Parsed<ListCommand> {
    let mut list = ListCommand::default();
    if lexer.peek() == Some(b'(') {
        for option in lexer.list(Lexer::atom)? {
            match option.to_ascii_uppercase().as_slice() {
                b"SUBSCRIBED" => list.select_subscribed = true,
                b"SPECIAL-USE" => list.select_special_use = true,
                b"RECURSIVEMATCH" => list.recursive_match = true,
                b"REMOTE" => {}
                _ => return Err(Fault("unknown LIST selection option")),
            }
        }
        if list.recursive_match && !list.select_subscribed {
            return Err(Fault("RECURSIVEMATCH wants another selection option"));
        }
        lexer.space()?;
    }
    list.reference = pattern(lexer)?;
    lexer.space()?;
    list.patterns = match lexer.peek() {
        Some(b'(') => lexer.list(pattern)?,
        Some(_) | None => vec![pattern(lexer)?],
    };
    if lexer.take(b' ') {
        if !lexer.keyword("RETURN") {
            return Err(Fault("expected RETURN"));
        }
        lexer.space()?;
        lexer.list(|lexer| return_option(lexer, &mut list))?;
    }
    within_limits(list)
}

fn within_limits(list: ListCommand) -> Parsed<ListCommand> {
    match list.within_limits() {
        true => Ok(list),
        false => Err(Fault("too many patterns, or too long ones")),
    }
}

fn return_option(lexer: &mut Lexer<'_>, list: &mut ListCommand) -> Parsed<()> {
    match lexer.atom()?.to_ascii_uppercase().as_slice() {
        b"SUBSCRIBED" => list.return_subscribed = true,
        b"CHILDREN" => list.return_children = true,
        b"SPECIAL-USE" => list.return_special_use = true,
        b"STATUS" => {
            lexer.space()?;
            list.return_status = Some(status_items(lexer)?);
        }
        _ => return Err(Fault("unknown LIST return option")),
    }
    Ok(())
}

fn status_items(lexer: &mut Lexer<'_>) -> Parsed<Vec<StatusItem>> {
    let items = lexer.list(|lexer| {
        let name = lexer.atom()?;
        let mut known = StatusItem::ALL.iter();
        let item = known.find(|(_, text)| name.eq_ignore_ascii_case(text.as_bytes()));
        item.map(|(item, _)| *item).ok_or(Fault("unknown STATUS item"))
    })?;
    if items.is_empty() { Err(Fault("no STATUS items")) } else { Ok(items) }
}

/// `["+" / "-"] "FLAGS" [".SILENT"] SP (flag-list / flag *(SP flag))`
fn store_flags(lexer: &mut Lexer<'_>) -> Parsed<StoreFlags> {
    let name = lexer.run(|byte| is_atom_byte(byte) && byte != b'(').to_ascii_uppercase();
    let (mode, silent) = match name.as_slice() {
        b"FLAGS" => (StoreMode::Replace, false),
        b"FLAGS.SILENT" => (StoreMode::Replace, true),
        b"+FLAGS" => (StoreMode::Add, false),
        b"+FLAGS.SILENT" => (StoreMode::Add, true),
        b"-FLAGS" => (StoreMode::Remove, false),
        b"-FLAGS.SILENT" => (StoreMode::Remove, true),
        _ => return Err(Fault("unknown STORE item")),
    };
    lexer.space()?;
    Ok(StoreFlags { mode, silent, flags: lexer.flags(true)? })
}

/// What stands in front of a literal of an APPEND.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendPrefix {
    /// The literal is the mailbox name.
    Mailbox,
    /// The literal is the message.
    Message(Append),
}

/// `"APPEND" SP mailbox [SP flag-list] [SP date-time] SP literal`, up to the literal. `None` when
/// the command is another one.
pub fn append_prefix(lexer: &mut Lexer<'_>) -> Parsed<Option<AppendPrefix>> {
    if !lexer.keyword("APPEND") {
        return Ok(None);
    }
    lexer.space()?;
    if lexer.rest().is_empty() {
        return Ok(Some(AppendPrefix::Mailbox));
    }
    let mailbox = lexer.mailbox()?;
    lexer.space()?;
    let mut flags = FlagList::default();
    if lexer.peek() == Some(b'(') {
        flags = lexer.flags(false)?;
        lexer.space()?;
    }
    let mut unix_millis = None;
    if lexer.peek() == Some(b'"') {
        let date = lexer.string()?;
        unix_millis = Some(read_imap_instant(&date).ok_or(Fault("malformed date-time"))?);
        lexer.space()?;
    }
    if !lexer.rest().is_empty() {
        return Err(Fault("malformed APPEND"));
    }
    Ok(Some(AppendPrefix::Message(Append { mailbox, flags, unix_millis })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Parsed<Command> {
        let mut lexer = Lexer::new(text.as_bytes());
        tag(&mut lexer)?;
        command(&mut lexer)
    }

    #[test]
    fn commands_as_clients_send_them_are_read() {
        for text in [
            "a NOOP",
            "A001 login user@example.test \"pass word\"",
            "a AUTHENTICATE PLAIN AGEAYg==",
            "a AUTHENTICATE plain =",
            "a ID NIL",
            "a ID (\"name\" \"Thunderbird\" \"version\" NIL)",
            "a ENABLE CONDSTORE UTF8=ACCEPT",
            "a LIST \"\" \"*\"",
            "a LIST \"\" %",
            "a LIST (SUBSCRIBED) \"\" \"*\" RETURN (CHILDREN STATUS (MESSAGES UNSEEN))",
            "a LIST \"\" (\"INBOX\" \"Sent/%\") RETURN (SPECIAL-USE)",
            "a LIST (SUBSCRIBED RECURSIVEMATCH) \"\" *",
            "a LSUB \"\" \"*\"",
            "a CREATE foo/",
            "a CREATE Sent (USE (\\Sent))",
            "a STATUS INBOX (MESSAGES UIDNEXT SIZE)",
            "a UID FETCH 1:* (FLAGS)",
            "a UID FETCH 1 (UID BODY.PEEK[HEADER.FIELDS (From To Cc)] BODY.PEEK[1]<0.512>)",
            "a FETCH 1,3:5 ALL",
            "a STORE 1 +FLAGS.SILENT (\\Deleted)",
            "a STORE 1 FLAGS \\Seen $Junk",
            "a UID STORE 1:* -FLAGS ()",
            "a UID SEARCH RETURN (MIN MAX COUNT) UNDELETED",
            "a UID MOVE 1 Trash",
            "a COPY 1 {5}\r\nTrash",
            "a UID EXPUNGE 1:2",
            "a GETQUOTAROOT INBOX",
            "a SETQUOTA \"\" (STORAGE 512)",
            "a RENAME \"a b\" c",
        ] {
            assert!(read(text).is_ok(), "{text}: {:?}", read(text));
        }
    }

    #[test]
    fn malformed_commands_are_faults() {
        for text in [
            "",
            " ",
            "a",
            "a ",
            "+ NOOP",
            "a NOPE",
            "a NOPE x",
            "a NOOP x",
            "a LOGIN user",
            "a LOGIN user pass more",
            "a SELECT",
            "a FETCH 0 FLAGS",
            "a FETCH 1",
            "a STORE 1 FLAGS",
            "a STORE 1 FLAGS (\\Nope)",
            "a EXPUNGE 1",
            "a UID NOOP",
            "a LIST \"\"",
            "a LIST (RECURSIVEMATCH) \"\" *",
            "a STATUS INBOX ()",
            "a APPEND INBOX \"text\"",
            "a CREATE x (USE (\\Nope))",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_append_is_read_up_to_its_literal() {
        let prefix = |text: &str| append_prefix(&mut Lexer::new(text.as_bytes()));
        assert_eq!(prefix("append "), Ok(Some(AppendPrefix::Mailbox)));
        assert_eq!(prefix("NOOP"), Ok(None));
        let full = prefix("APPEND inbox (\\Seen) \" 7-Feb-1994 21:52:25 -0800\" ");
        let Ok(Some(AppendPrefix::Message(append))) = full else { panic!("{full:?}") };
        assert_eq!(append.mailbox.unwrap().as_str(), "INBOX");
        assert_eq!(append.unix_millis, Some(760_686_745_000));
        assert!(prefix("APPEND INBOX (\\Seen) x ").is_err());
        assert!(prefix("APPEND INBOX \"yesterday\" ").is_err());
    }
}
