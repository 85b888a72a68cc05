//! The selected mailbox as the client knows it: which message number stands for which UID.
//!
//! Invariants: UIDs ascend; a number changes its meaning only when the client has been told so by
//! an EXPUNGE; EXISTS never names fewer messages than the client counts. Four bytes a message:
//! flags are not remembered, since every change has a MODSEQ and the view knows up to which it has
//! told. RFC 3501 sections 2.3.1.2, 5.2, 7.3 and 7.4.1.

use super::encode::push;
use super::fetch::Response;
use super::flags::{FlagBits, SYSTEM_FLAGS};
use super::sequence::SequenceSet;
use std::collections::BTreeSet;

/// Entries of [`View::told`] beyond one for each message: it only spares the client a repeated
/// FETCH, so it is dropped when changes that can't be told yet pile up.
const TOLD_SPARE_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    uids: Vec<u32>,
    /// UIDs that are \Recent in this session, as inclusive ranges.
    recent: Vec<(u32, u32)>,
    keywords: Vec<String>,
    /// Everything up to here has been told.
    modseq: u64,
    /// Changes beyond `modseq` that the client has heard of: UID and MODSEQ.
    told: BTreeSet<(u32, u64)>,
    pub read_only: bool,
}

/// What a mailbox is when it is selected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selected {
    /// Ascending.
    pub uids: Vec<u32>,
    /// UIDs from here on are recent.
    pub recent_from: u32,
    pub unseen_first: Option<u32>,
    pub keywords: Vec<String>,
    /// Whether the mailbox's table has room for further keywords.
    pub keywords_open: bool,
    pub uid_validity: u32,
    pub uid_next: u32,
    pub modseq: u64,
    /// The mailbox can't be changed, however it is selected.
    pub read_only: bool,
}

/// What has happened in the mailbox since the view's MODSEQ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct News {
    /// New and changed messages, ascending.
    pub changed: Vec<Changed>,
    /// UIDs that are gone, ascending.
    pub vanished: Vec<u32>,
    pub keywords: Vec<String>,
    pub keywords_open: bool,
    /// Of the new messages, those from here on are recent.
    pub recent_from: u32,
    pub modseq: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    pub uid: u32,
    pub modseq: u64,
    pub flags: FlagBits,
}

/// Messages that a command names: inclusive ranges of positions in the view, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Targets {
    ranges: Vec<(u32, u32)>,
}

impl Targets {
    /// Positions, to be looked up by [`View::message`].
    pub fn positions(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges.iter().flat_map(|(first, last)| *first..=*last)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl View {
    /// Opens the mailbox, writing the responses to SELECT up to its completion.
    #[must_use]
    pub fn select(selected: Selected, read_only: bool, out: &mut Vec<u8>) -> View {
        let mut view = View {
            uids: selected.uids,
            recent: Vec::new(),
            keywords: selected.keywords,
            modseq: selected.modseq,
            told: BTreeSet::new(),
            read_only,
        };
        view.uids.shrink_to_fit();
        if let Some(last) = view.uids.last().filter(|last| **last >= selected.recent_from) {
            view.recent.push((selected.recent_from, *last));
        }
        view.write_flags(out, selected.keywords_open);
        push(out, format_args!("* {} EXISTS\r\n", view.uids.len()));
        push(out, format_args!("* {} RECENT\r\n", view.recent_count()));
        if let Some(sequence) = selected.unseen_first.and_then(|uid| view.sequence(uid)) {
            push(out, format_args!("* OK [UNSEEN {sequence}] First unseen\r\n"));
        }
        push(out, format_args!("* OK [UIDVALIDITY {}] UIDs valid\r\n", selected.uid_validity));
        push(out, format_args!("* OK [UIDNEXT {}] Predicted next UID\r\n", selected.uid_next));
        view
    }

    #[must_use]
    pub fn messages(&self) -> u32 {
        u32::try_from(self.uids.len()).unwrap_or(u32::MAX)
    }

    #[must_use]
    pub fn uids(&self) -> &[u32] {
        &self.uids
    }

    #[must_use]
    pub fn modseq(&self) -> u64 {
        self.modseq
    }

    #[must_use]
    pub fn keywords(&self) -> &[String] {
        &self.keywords
    }

    #[must_use]
    pub fn highest_uid(&self) -> u32 {
        self.uids.last().copied().unwrap_or(0)
    }

    #[must_use]
    pub fn is_recent(&self, uid: u32) -> bool {
        self.recent.iter().any(|(first, last)| (*first..=*last).contains(&uid))
    }

    fn recent_count(&self) -> usize {
        let from = |uid: u32| self.uids.partition_point(|known| *known < uid);
        let count =
            |(first, last): &(u32, u32)| from(last.saturating_add(1)).saturating_sub(from(*first));
        self.recent.iter().map(count).fold(0, usize::saturating_add)
    }

    /// Message number and UID at a position.
    #[must_use]
    pub fn message(&self, position: u32) -> Option<(u32, u32)> {
        let uid = *self.uids.get(usize::try_from(position).ok()?)?;
        Some((position.checked_add(1)?, uid))
    }

    /// The message number of a UID.
    #[must_use]
    pub fn sequence(&self, uid: u32) -> Option<u32> {
        let position = self.uids.binary_search(&uid).ok()?;
        u32::try_from(position).ok()?.checked_add(1)
    }

    /// Everything there is.
    #[must_use]
    pub fn all(&self) -> Targets {
        let last = self.messages().checked_sub(1);
        Targets { ranges: last.map(|last| vec![(0, last)]).unwrap_or_default() }
    }

    /// The messages of a set. `None` when it names a message number that is not in use, which is a
    /// fault of the client's; UIDs that are not there are passed over.
    #[must_use]
    pub fn resolve(&self, set: &SequenceSet, by_uid: bool) -> Option<Targets> {
        if by_uid {
            let position = |uid: u32| self.uids.partition_point(|known| *known < uid);
            let mut ranges = Vec::new();
            for (first, last) in set.resolve(self.highest_uid()) {
                let start = position(first);
                let end = match last.checked_add(1) {
                    Some(next) => position(next),
                    None => self.uids.len(),
                };
                if let Some(end) = end.checked_sub(1).filter(|end| *end >= start) {
                    ranges.push((u32::try_from(start).ok()?, u32::try_from(end).ok()?));
                }
            }
            return Some(Targets { ranges: super::sequence::merge(ranges) });
        }
        let ranges = set.resolve(self.messages());
        if ranges.last().is_some_and(|(_, last)| *last > self.messages()) {
            return None;
        }
        let positions =
            ranges.iter().map(|(first, last)| (first.saturating_sub(1), last.saturating_sub(1)));
        Some(Targets { ranges: positions.collect() })
    }

    /// The client has been told the flags of a message as of `modseq`.
    pub fn note_told(&mut self, uid: u32, modseq: u64) {
        if modseq <= self.modseq {
            return;
        }
        if self.told.len() >= self.uids.len().saturating_add(TOLD_SPARE_MAX) {
            self.told.clear();
        }
        self.told.insert((uid, modseq));
    }

    fn write_flags(&self, out: &mut Vec<u8>, keywords_open: bool) {
        let mut names: Vec<&str> = SYSTEM_FLAGS.iter().map(|(name, _)| *name).collect();
        names.extend(self.keywords.iter().map(String::as_str));
        let names = names.join(" ");
        push(out, format_args!("* FLAGS ({names})\r\n"));
        let permanent = match (self.read_only, keywords_open) {
            (true, true | false) => String::new(),
            (false, true) => format!("{names} \\*"),
            (false, false) => names,
        };
        push(out, format_args!("* OK [PERMANENTFLAGS ({permanent})] Flags kept\r\n"));
    }

    /// Tells of keywords that are new, before a response that shows one (RFC 3501 section 7.2.6).
    pub fn tell_keywords(&mut self, out: &mut Vec<u8>, keywords: &[String], open: bool) {
        if keywords != self.keywords {
            self.keywords = keywords.to_vec();
            self.write_flags(out, open);
        }
    }

    /// Tells the client what happened. EXPUNGE waits when `may_expunge` is false; what waited comes
    /// again with the next news, since the view's MODSEQ stays behind.
    pub fn tell(&mut self, out: &mut Vec<u8>, news: &News, may_expunge: bool) {
        self.tell_keywords(out, &news.keywords, news.keywords_open);
        let known = |uid: &u32| self.uids.binary_search(uid).is_ok();
        let deferred = !may_expunge && news.vanished.iter().any(known);
        if may_expunge {
            self.expunge(out, &news.vanished);
        }
        self.tell_flags(out, news);
        self.append(out, news);
        if !deferred {
            self.modseq = self.modseq.max(news.modseq);
            self.told.clear();
        }
    }

    fn expunge(&mut self, out: &mut Vec<u8>, vanished: &[u32]) {
        let mut removed = 0_u32;
        for uid in vanished {
            if let Some(sequence) = self.sequence(*uid) {
                push(out, format_args!("* {} EXPUNGE\r\n", sequence.saturating_sub(removed)));
                removed = removed.saturating_add(1);
            }
        }
        if removed > 0 {
            self.uids.retain(|uid| vanished.binary_search(uid).is_err());
        }
    }

    fn append(&mut self, out: &mut Vec<u8>, news: &News) {
        let highest = self.highest_uid();
        let before = self.uids.len();
        for changed in news.changed.iter().filter(|changed| changed.uid > highest) {
            self.uids.push(changed.uid);
            self.note_told(changed.uid, changed.modseq);
        }
        if self.uids.len() == before {
            return;
        }
        let last = self.highest_uid();
        let first = news.recent_from.max(highest.saturating_add(1));
        if first <= last {
            match self.recent.last_mut() {
                Some(range) if range.1.saturating_add(1) >= first => range.1 = last,
                Some(_) | None => self.recent.push((first, last)),
            }
        }
        push(out, format_args!("* {} EXISTS\r\n", self.uids.len()));
        push(out, format_args!("* {} RECENT\r\n", self.recent_count()));
    }

    /// Flags that others changed; of new messages the client asks by itself.
    fn tell_flags(&mut self, out: &mut Vec<u8>, news: &News) {
        for changed in &news.changed {
            let heard = self.told.contains(&(changed.uid, changed.modseq));
            let Some(sequence) = self.sequence(changed.uid).filter(|_| !heard) else { continue };
            let mut response = Response::begin(out, sequence);
            response.uid(changed.uid);
            response.flags(changed.flags, &self.keywords, self.is_recent(changed.uid));
            response.end();
            self.note_told(changed.uid, changed.modseq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let selected = Selected {
            uids: vec![2, 4, 6, 8],
            recent_from: 8,
            unseen_first: Some(4),
            keywords_open: true,
            uid_validity: 1,
            uid_next: 9,
            modseq: 10,
            ..Selected::default()
        };
        let mut out = Vec::new();
        let view = View::select(selected, false, &mut out);
        let text = String::from_utf8(out).unwrap();
        for line in ["* 4 EXISTS", "* 1 RECENT", "* OK [UNSEEN 2]", "* OK [UIDNEXT 9]"] {
            assert!(text.contains(line), "{text}");
        }
        view
    }

    fn told(view: &mut View, news: &News, may_expunge: bool) -> Vec<String> {
        let mut out = Vec::new();
        view.tell(&mut out, news, may_expunge);
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    fn changed(uid: u32, modseq: u64) -> Changed {
        Changed { uid, modseq, flags: FlagBits::SEEN }
    }

    #[test]
    fn numbers_fall_as_messages_go() {
        let mut view = view();
        let news = News { vanished: vec![2, 6, 7], modseq: 12, ..News::default() };
        assert_eq!(told(&mut view, &news, true), ["* 1 EXPUNGE", "* 2 EXPUNGE"]);
        assert_eq!(view.uids(), [4, 8]);
        assert_eq!(view.modseq(), 12);
        assert_eq!(told(&mut view, &news, true), [""; 0]);
    }

    #[test]
    fn what_may_not_be_told_yet_comes_again_and_nothing_is_told_twice() {
        let mut view = view();
        let news = News {
            changed: vec![changed(4, 11), changed(9, 12)],
            vanished: vec![2],
            recent_from: 9,
            modseq: 13,
            ..News::default()
        };
        assert_eq!(
            told(&mut view, &news, false),
            ["* 2 FETCH (UID 4 FLAGS (\\Seen))", "* 5 EXISTS", "* 2 RECENT"]
        );
        assert_eq!(view.modseq(), 10);
        assert_eq!(told(&mut view, &news, false), [""; 0]);
        assert_eq!(told(&mut view, &news, true), ["* 1 EXPUNGE"]);
        assert_eq!((view.modseq(), view.sequence(9)), (13, Some(4)));
    }

    #[test]
    fn own_changes_are_not_told_again() {
        let mut view = view();
        view.note_told(4, 11);
        let news = News { changed: vec![changed(4, 11)], modseq: 11, ..News::default() };
        assert_eq!(told(&mut view, &news, true), [""; 0]);
        let later = News { changed: vec![changed(4, 12)], modseq: 12, ..News::default() };
        assert_eq!(told(&mut view, &later, true), ["* 2 FETCH (UID 4 FLAGS (\\Seen))"]);
    }

    #[test]
    fn a_change_to_every_message_of_a_large_mailbox_is_told_once() {
        let uids: Vec<u32> = (1..=20_000).collect();
        let selected = Selected { uids, recent_from: u32::MAX, ..Selected::default() };
        let mut view = View::select(selected, false, &mut Vec::new());
        // What a FETCH of all flags told before takes no room from what a STORE tells now.
        (1..=20_000).for_each(|uid| view.note_told(uid, 0));
        (1..=20_000).for_each(|uid| view.note_told(uid, 5));
        let changed = (1..=20_000).map(|uid| changed(uid, 5)).collect();
        let news = News { changed, modseq: 5, ..News::default() };
        assert_eq!(told(&mut view, &news, true), [""; 0]);
    }

    #[test]
    fn sets_name_messages() {
        let view = view();
        let named = |text: &str, by_uid| {
            let set = SequenceSet::read(text.as_bytes()).unwrap();
            let targets = view.resolve(&set, by_uid)?;
            let uids = targets.positions().map(|at| view.message(at).unwrap().1);
            Some(uids.collect::<Vec<_>>())
        };
        assert_eq!(named("1:*", false), Some(vec![2, 4, 6, 8]));
        assert_eq!(named("5", false), None);
        assert_eq!(named("3:7", true), Some(vec![4, 6]));
        assert_eq!(named("3,5,7,100:200", true), Some(vec![]));
        assert_eq!(named("100:*", true), Some(vec![8]));
        assert_eq!(named("1:4294967295", true), Some(vec![2, 4, 6, 8]));
    }
}
