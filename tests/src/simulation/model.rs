//! A shard as a mail user thinks of it: naive maps, no log, no disk, obviously right.
//!
//! [`World::apply`] does one operation as if it were alone. What the client was told (the
//! [`Outcome`]) has to fit; an operation that nobody heard of is applied without one, and the
//! identifiers that it gave out stay unknown until somebody looks. Limits that the workload never
//! reaches (name lengths, table sizes) are not modelled.

use super::operation::{Operation, Outcome, Target, Told, placed_uid};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use storage::{AccountId, Flags, MailboxId, MailboxInfo, Quota, SpecialUse, Uid};

pub const INBOX: &str = "INBOX";

/// One body, told apart from all others by its number.
#[derive(Debug, PartialEq, Eq)]
pub struct Letter {
    pub number: u32,
    pub body: Bytes,
}

impl Letter {
    /// Bytes that depend on the number and on every position; those of every other letter shrink.
    #[must_use]
    pub fn new(number: u32, body_bytes: usize) -> Letter {
        let mut state = number.wrapping_mul(2_654_435_761) | 1;
        let mut body = Vec::with_capacity(body_bytes + 4);
        while body.len() < body_bytes {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            let bytes = state.to_le_bytes();
            body.extend_from_slice(&if number.is_multiple_of(2) {
                bytes
            } else {
                [bytes[0], b' ', b' ', b' ']
            });
        }
        body.truncate(body_bytes);
        Letter { number, body: body.into() }
    }
}

/// A letter in one mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub letter: Rc<Letter>,
    pub prefix: Bytes,
    /// System flags.
    pub flags: Flags,
    pub keywords: BTreeSet<String>,
}

impl Message {
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.prefix.len() + self.letter.body.len()) as u64
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mailbox {
    /// Unknown while nobody has been told: identifier and UIDVALIDITY.
    pub identity: Option<(MailboxId, u32)>,
    pub special_use: Option<SpecialUse>,
    pub messages: BTreeMap<Uid, Message>,
    /// Messages whose UID nobody has been told, by letter: in which order they came makes no other
    /// world.
    pub unnumbered: Vec<Message>,
    /// The same, but they may as well have been forgotten before they could come back.
    pub unsure: Vec<Message>,
}

/// A message that was expunged from INBOX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    pub message: Message,
    /// Not before this, in Unix milliseconds.
    pub at: u64,
    /// The account is on hold.
    pub kept: bool,
    /// Nobody may have brought it back.
    pub certain: bool,
}

impl Gone {
    /// Whether it has to be there still.
    #[must_use]
    pub fn is_due(&self, now: u64, retention_millis: u64, tight: bool) -> bool {
        let is_young = !tight && retention_millis > 0 && now < self.at + retention_millis;
        self.certain && (self.kept || is_young)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub quota: Quota,
    pub mailboxes: BTreeMap<String, Rc<Mailbox>>,
    pub subscriptions: BTreeSet<String>,
    /// By the UIDs that they had in INBOX.
    pub gone: BTreeMap<Uid, Gone>,
    pub held: bool,
}

/// All that a shard holds, or the part of it that one [`Group`] names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct World {
    pub accounts: BTreeMap<AccountId, Account>,
    pub pairs: BTreeMap<(u8, Bytes), Bytes>,
}

/// What can be judged by itself: one account, or all keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    Account(AccountId),
    Keys,
}

/// Why an operation cannot have happened here.
pub type Impossible = String;

impl World {
    /// The part that `group` names.
    #[must_use]
    pub fn part(&self, group: Group) -> World {
        let mut part = World::default();
        match group {
            Group::Account(account) => {
                if let Some(found) = self.accounts.get(&account) {
                    part.accounts.insert(account, found.clone());
                }
            }
            Group::Keys => part.pairs.clone_from(&self.pairs),
        }
        part
    }

    /// Does `operation`, as far as it concerns `group`.
    pub fn apply(
        &mut self,
        group: Group,
        operation: &Operation,
        outcome: Option<&Outcome>,
    ) -> Result<(), Impossible> {
        let id = match group {
            Group::Account(id) => id,
            Group::Keys => {
                self.put(operation);
                return Ok(());
            }
        };
        match operation {
            Operation::CreateAccount { quota, .. } => {
                if self.accounts.contains_key(&id) {
                    return Err("the account is there already".to_owned());
                }
                self.accounts.insert(id, Account::new(*quota));
            }
            Operation::RemoveAccount { .. } => {
                self.accounts.remove(&id).ok_or("there is no account to remove")?;
            }
            Operation::Hold { held, .. } => {
                // It may be set, too, for an account that has just been removed.
                if let Some(account) = self.accounts.get_mut(&id) {
                    account.hold(*held);
                }
            }
            Operation::SetQuota { .. }
            | Operation::CreateMailbox { .. }
            | Operation::RenameMailbox { .. }
            | Operation::DeleteMailbox { .. }
            | Operation::Subscribe { .. }
            | Operation::Deliver { .. }
            | Operation::Copy { .. }
            | Operation::ChangeFlags { .. }
            | Operation::Expunge { .. }
            | Operation::Undelete { .. }
            | Operation::Put { .. } => {
                let account = self.accounts.get_mut(&id).ok_or("there is no such account")?;
                account.apply(id, operation, outcome.map(|outcome| &outcome.told))?;
            }
        }
        match (outcome.and_then(|outcome| outcome.mailboxes.as_ref()), self.accounts.get_mut(&id)) {
            (Some(seen), Some(account)) => account.learn_mailboxes(seen),
            (Some(_), None) | (None, _) => Ok(()),
        }
    }

    fn put(&mut self, operation: &Operation) {
        let Operation::Put { space, pairs } = operation else { return };
        for (key, value) in pairs {
            match value {
                Some(value) => self.pairs.insert((*space, key.clone()), value.clone()),
                None => self.pairs.remove(&(*space, key.clone())),
            };
        }
    }
}

impl Account {
    fn new(quota: Quota) -> Account {
        let mailboxes = BTreeMap::from([(INBOX.to_owned(), Rc::default())]);
        let (subscriptions, gone) = (BTreeSet::new(), BTreeMap::new());
        Account { quota, mailboxes, subscriptions, gone, held: false }
    }

    fn hold(&mut self, held: bool) {
        self.held = held;
        if !held {
            self.gone.values_mut().for_each(|gone| gone.kept = false);
        }
    }

    /// Messages and bytes.
    #[must_use]
    pub fn usage(&self) -> (u64, u64) {
        let all = self.mailboxes.values().flat_map(|m| m.messages.values().chain(&m.unnumbered));
        all.fold((0, 0), |(messages, bytes), message| (messages + 1, bytes + message.bytes()))
    }

    fn apply(
        &mut self,
        id: AccountId,
        operation: &Operation,
        told: Option<&Told>,
    ) -> Result<(), Impossible> {
        match operation {
            Operation::SetQuota { quota, .. } => self.quota = *quota,
            Operation::CreateMailbox { name, special_use, .. } => {
                self.create(name)?;
                self.named(name)?.special_use = *special_use;
            }
            Operation::RenameMailbox { from, to, .. } => self.rename(from, to)?,
            Operation::DeleteMailbox { name, .. } => {
                self.mailboxes.remove(name).ok_or("there is no mailbox to delete")?;
            }
            Operation::Subscribe { name, subscribed: true, .. } => {
                self.subscriptions.insert(name.clone());
            }
            Operation::Subscribe { name, subscribed: false, .. } => {
                self.subscriptions.remove(name);
            }
            Operation::Deliver { letter, targets, .. } => {
                for (number, target) in targets.iter().enumerate() {
                    if target.account == id {
                        self.deliver(letter, target, placed_uid(told, number))?;
                    }
                }
                self.check_quota()?;
            }
            Operation::Copy { from, uids, to, moved, .. } => {
                self.copy(*from, uids, *to, *moved, told)?;
                if !moved {
                    self.check_quota()?;
                }
            }
            Operation::ChangeFlags { mailbox, uids, change, .. } => {
                let mailbox = self.numbered(*mailbox)?;
                for uid in uids {
                    if let Some(message) = mailbox.messages.get_mut(uid) {
                        change.apply(message);
                    }
                }
            }
            Operation::Undelete { uids, exact, .. } => self.undelete(uids, *exact, told)?,
            Operation::Expunge { mailbox: id, uids, at, .. } => {
                let held = self.held;
                let mailbox = self.numbered(*id)?;
                let gone: Vec<Uid> = mailbox.present(uids);
                let messages = gone.iter().filter_map(|uid| mailbox.messages.remove_entry(uid));
                let messages: Vec<(Uid, Message)> = messages.collect();
                let graves = messages.into_iter().map(|(uid, message)| {
                    (uid, Gone { message, at: *at, kept: held, certain: true })
                });
                if *id == MailboxId::INBOX {
                    self.gone.extend(graves);
                }
                if let Some(Told::Expunged(expunged)) = told
                    && *expunged != gone
                {
                    return Err(format!("told {expunged:?} are gone, and it was {gone:?}"));
                }
            }
            Operation::CreateAccount { .. }
            | Operation::RemoveAccount { .. }
            | Operation::Hold { .. }
            | Operation::Put { .. } => return Err("not within an account".to_owned()),
        }
        Ok(())
    }

    fn named(&mut self, name: &str) -> Result<&mut Mailbox, Impossible> {
        let found = self.mailboxes.get_mut(name).map(Rc::make_mut);
        found.ok_or_else(|| format!("there is no mailbox named {name:?}"))
    }

    fn numbered(&mut self, id: MailboxId) -> Result<&mut Mailbox, Impossible> {
        let is_it = |m: &&mut Rc<Mailbox>| m.identity.is_some_and(|(known, _)| known == id);
        let found = self.mailboxes.values_mut().find(is_it).map(Rc::make_mut);
        found.ok_or_else(|| format!("there is no mailbox {}", id.0))
    }

    fn create(&mut self, name: &str) -> Result<(), Impossible> {
        if self.mailboxes.contains_key(name) {
            return Err(format!("a mailbox named {name:?} is there already"));
        }
        let levels = name.match_indices('/').map(|(end, _)| &name[..end]).chain([name]);
        for level in levels {
            self.mailboxes.entry(level.to_owned()).or_default();
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), Impossible> {
        if from == INBOX {
            self.create(to)?;
            let inbox = self.named(INBOX)?;
            let messages = std::mem::take(&mut inbox.messages);
            let unnumbered = std::mem::take(&mut inbox.unnumbered);
            let unsure = std::mem::take(&mut inbox.unsure);
            // Which UIDs they get is for the store to say.
            let target = self.named(to)?;
            target.unnumbered = by_letter(messages.into_values().chain(unnumbered));
            target.unsure = unsure;
            return Ok(());
        }
        let below = format!("{from}/");
        let is_concerned = |name: &&String| *name == from || name.starts_with(&below);
        let concerned: Vec<String> = self.mailboxes.keys().filter(is_concerned).cloned().collect();
        if concerned.first().is_none_or(|first| first != from) || to.starts_with(&below) {
            return Err(format!("{from:?} cannot be renamed to {to:?}"));
        }
        let taken: Vec<Rc<Mailbox>> =
            concerned.iter().filter_map(|name| self.mailboxes.remove(name)).collect();
        self.create(to)?;
        for (name, mailbox) in concerned.iter().zip(taken) {
            let new_name = format!("{to}{}", &name[from.len()..]);
            if new_name != to && self.mailboxes.contains_key(&new_name) {
                return Err(format!("a mailbox named {new_name:?} is there already"));
            }
            self.mailboxes.insert(new_name, mailbox);
        }
        Ok(())
    }

    fn deliver(
        &mut self,
        letter: &Rc<Letter>,
        target: &Target,
        uid: Option<Uid>,
    ) -> Result<(), Impossible> {
        let message = Message {
            letter: Rc::clone(letter),
            prefix: target.prefix.clone(),
            flags: target.flags,
            keywords: target.keywords.iter().cloned().collect(),
        };
        self.numbered(target.mailbox)?.add(uid, message)
    }

    fn undelete(
        &mut self,
        uids: &[Uid],
        exact: bool,
        told: Option<&Told>,
    ) -> Result<(), Impossible> {
        let wanted: BTreeSet<Uid> = uids.iter().copied().collect();
        let mut back = Vec::new();
        for uid in wanted {
            let Some(gone) = self.gone.get_mut(&uid) else { continue };
            let flags = gone.message.flags.without(Flags::DELETED);
            back.push(Message { flags, ..gone.message.clone() });
            (gone.certain, gone.kept) = (false, false);
            if exact {
                self.gone.remove(&uid);
            }
        }
        if let Some(Told::Undeleted(count)) = told
            && (*count > back.len() as u64 || (exact && *count < back.len() as u64))
        {
            return Err(format!("told {count} are back, and it was {}", back.len()));
        }
        let inbox = self.numbered(MailboxId::INBOX)?;
        let place = if exact { &mut inbox.unnumbered } else { &mut inbox.unsure };
        *place = by_letter(std::mem::take(place).into_iter().chain(back));
        Ok(())
    }

    fn copy(
        &mut self,
        from: MailboxId,
        uids: &[Uid],
        to: MailboxId,
        moved: bool,
        told: Option<&Told>,
    ) -> Result<(), Impossible> {
        let source = self.numbered(from)?;
        let present = source.present(uids);
        let copies: Vec<Message> =
            present.iter().filter_map(|uid| source.messages.get(uid).cloned()).collect();
        let new_uids: Vec<Option<Uid>> = match told {
            Some(Told::Copied(pairs)) => {
                if pairs.iter().map(|(old, _)| *old).ne(present.iter().copied()) {
                    return Err(format!("told {pairs:?} were copied, and it was {present:?}"));
                }
                pairs.iter().map(|(_, new)| Some(*new)).collect()
            }
            Some(_) | None => vec![None; present.len()],
        };
        let target = self.numbered(to)?;
        for (message, uid) in copies.into_iter().zip(new_uids) {
            target.add(uid, message)?;
        }
        if moved {
            let source = self.numbered(from)?;
            present.iter().for_each(|uid| drop(source.messages.remove(uid)));
        }
        Ok(())
    }

    /// What has just been added must be within the limits.
    fn check_quota(&self) -> Result<(), Impossible> {
        let (messages, bytes) = self.usage();
        let over = self.quota.messages_max.is_some_and(|max| messages > max)
            || self.quota.bytes_max.is_some_and(|max| bytes > max);
        if over { Err(format!("{messages} messages, {bytes} bytes: over quota")) } else { Ok(()) }
    }

    /// Takes over what a client saw right after its change: the names must be exactly these.
    fn learn_mailboxes(&mut self, seen: &[MailboxInfo]) -> Result<(), Impossible> {
        let names: BTreeSet<&String> = seen.iter().map(|info| &info.name).collect();
        if !self.mailboxes.keys().eq(names.iter().copied()) {
            let expected: Vec<_> = self.mailboxes.keys().collect();
            return Err(format!("saw mailboxes {names:?}, and they were {expected:?}"));
        }
        seen.iter().try_for_each(|info| {
            let identity = (info.id, info.uid_validity);
            let mailbox = self.named(&info.name)?;
            match mailbox.identity {
                Some(known) if known != identity => {
                    Err(format!("{:?} was {known:?}, now {identity:?}", info.name))
                }
                Some(_) | None => {
                    mailbox.identity = Some(identity);
                    Ok(())
                }
            }
        })
    }
}

impl Mailbox {
    /// Those of `uids` that are there, ascending.
    fn present(&self, uids: &[Uid]) -> Vec<Uid> {
        let wanted: BTreeSet<Uid> = uids.iter().copied().collect();
        wanted.into_iter().filter(|uid| self.messages.contains_key(uid)).collect()
    }

    fn add(&mut self, uid: Option<Uid>, message: Message) -> Result<(), Impossible> {
        let Some(uid) = uid else {
            let number = message.letter.number;
            let place = self.unnumbered.partition_point(|other| other.letter.number <= number);
            self.unnumbered.insert(place, message);
            return Ok(());
        };
        match self.messages.insert(uid, message) {
            Some(_) => Err(format!("UID {} names two messages", uid.0)),
            None => Ok(()),
        }
    }
}

/// Those of the same letter stay in their order, which is that of their UIDs.
fn by_letter(messages: impl Iterator<Item = Message>) -> Vec<Message> {
    let mut messages: Vec<Message> = messages.collect();
    messages.sort_by_key(|message| message.letter.number);
    messages
}
