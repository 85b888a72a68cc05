//! Judges what a store shows against what its clients were told.
//!
//! The acknowledged operations are done in the order of their LSNs; each *maybe* is tried at every
//! moment at which it can have landed, and not at all. One of these histories must end in exactly
//! what is seen, else something acknowledged was lost, something came from nowhere, or an operation
//! was done by half. A delivery to several accounts must have landed for all or for none.
//!
//! Afterwards the journal starts anew from what was seen, which is then known exactly.

use super::journal::{Fate, Issued, Journal};
use super::model::{Group, Impossible, World};
use super::observation::Observation;
use super::operation::{Operation, Outcome};
use super::{counts, matching};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What is wrong, for a person to read.
pub type Violation = String;

/// Whether some byte of the disk was spoiled before the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rot {
    None,
    /// May cost one letter.
    OneByte,
}

/// A bound on histories under consideration, each of which holds a group's world: so many maybes at
/// once are a fault of the workload, and the case fails rather than to eat the memory.
const HISTORIES_MAX: usize = 10_000;

/// An outcome of one group that agrees with what is seen.
struct Explanation {
    world: World,
    /// Index into `Journal::issued`, and whether it landed, for operations on several groups.
    shared: BTreeMap<usize, bool>,
    maybes_landed: u64,
    maybes_lost: u64,
}

/// Judges, and makes what is seen the journal's new base.
pub fn judge(journal: &mut Journal, seen: Observation, rot: Rot) -> Result<(), Violation> {
    if let Some(complaint) = journal.complaints.first() {
        return Err(complaint.clone());
    }
    check_lsns(journal)?;
    counts::check(journal, &seen, rot)?;
    let mut spoiled = BTreeSet::new();
    let mut choices = Vec::new();
    for group in groups(journal, &seen) {
        choices.push(explain(journal, group, &seen, rot, &mut spoiled)?);
    }
    if spoiled.len() > 1 {
        return Err(format!("one spoiled byte cost several letters: {spoiled:?}"));
    }
    let mut assigned = BTreeMap::new();
    let mut chosen = Vec::new();
    if !agree(&choices, &mut assigned, &mut chosen) {
        return Err("a delivery landed for some of its accounts and not for others".to_owned());
    }
    let mut base = World::default();
    for explanation in chosen {
        base.accounts.extend(explanation.world.accounts.clone());
        base.pairs.extend(explanation.world.pairs.clone());
        journal.tally.maybes_landed += explanation.maybes_landed;
        journal.tally.maybes_lost += explanation.maybes_lost;
    }
    journal.rebase(base);
    remember(journal, seen)
}

/// Positions in the log only grow, and no two operations share one.
fn check_lsns(journal: &Journal) -> Result<(), Violation> {
    let mut taken = BTreeSet::new();
    for entry in &journal.issued {
        let Fate::Acknowledged(outcome) = &entry.fate else { continue };
        if outcome.lsn <= entry.lsn_floor || !taken.insert(outcome.lsn) {
            return Err(format!(
                "{:?} landed at LSN {}, which was taken (acknowledged before: {})",
                entry.operation, outcome.lsn.0, entry.lsn_floor.0
            ));
        }
    }
    Ok(())
}

fn groups(journal: &Journal, seen: &Observation) -> BTreeSet<Group> {
    let touched = journal.issued.iter().flat_map(|entry| entry.operation.groups());
    let known = journal.base.accounts.keys().chain(seen.accounts.keys());
    touched.chain(known.copied().map(Group::Account)).chain([Group::Keys]).collect()
}

/// All outcomes of one group that agree with what is seen; at least one, or a violation.
fn explain(
    journal: &Journal,
    group: Group,
    seen: &Observation,
    rot: Rot,
    spoiled: &mut BTreeSet<u32>,
) -> Result<Vec<Explanation>, Violation> {
    let mut histories = Histories::of(journal, group);
    if rot == Rot::None {
        histories.leave_out_unseen(seen);
    }
    let ends = histories.all(journal.base.part(group))?;
    let mut explanations: Vec<Explanation> = Vec::new();
    let mut differences = Vec::new();
    for end in &ends {
        // To the other groups it is the same by which way what is shared with them has landed; and
        // worlds that agree with what is seen are alike.
        let shared = histories.shared(end);
        if explanations.iter().any(|explanation| explanation.shared == shared) {
            continue;
        }
        match matching::resolve(group, &end.world, seen, rot) {
            Ok(resolved) => {
                spoiled.extend(resolved.spoiled);
                let landed = histories.landed(end).len();
                explanations.push(Explanation {
                    world: resolved.world,
                    shared,
                    maybes_landed: landed as u64,
                    maybes_lost: (end.landed.len() - landed) as u64,
                });
            }
            Err(difference) => differences.push((histories.landed(end), difference)),
        }
    }
    if explanations.is_empty() {
        let shown: Vec<String> = differences
            .iter()
            .take(4)
            .map(|(landed, difference)| {
                format!("  had {landed:?} of the maybes landed: {difference}")
            })
            .collect();
        return Err(format!(
            "{group:?}: none of {} possible histories ends in what is seen:\n{}\n{}",
            ends.len(),
            shown.join("\n"),
            histories.tell()
        ));
    }
    Ok(explanations)
}

/// Picks an explanation for each group so that shared operations agree.
fn agree<'e>(
    choices: &'e [Vec<Explanation>],
    assigned: &mut BTreeMap<usize, bool>,
    chosen: &mut Vec<&'e Explanation>,
) -> bool {
    let Some((first, rest)) = choices.split_first() else { return true };
    for explanation in first {
        let contradicts = |(operation, landed): (&usize, &bool)| {
            assigned.get(operation).is_some_and(|other| other != landed)
        };
        if explanation.shared.iter().any(contradicts) {
            continue;
        }
        let mut extended = assigned.clone();
        extended.extend(explanation.shared.iter().map(|(operation, landed)| (*operation, *landed)));
        chosen.push(explanation);
        if agree(rest, &mut extended, chosen) {
            return true;
        }
        chosen.pop();
    }
    false
}

/// Everything seen is known from now on, to clients too.
fn remember(journal: &mut Journal, seen: Observation) -> Result<(), Violation> {
    for (account, seen_account) in &seen.accounts {
        for mailbox in seen_account.mailboxes.values() {
            let info = &mailbox.info;
            journal.known_mailboxes.insert((*account, info.id));
            journal.note_name(*account, &info.name, info.uid_validity, info.id);
            for (uid, message) in &mailbox.messages {
                journal.note_uid((*account, info.id, info.uid_validity), *uid, message.number);
            }
        }
    }
    journal.last = Some(Rc::new(seen));
    journal.complaints.first().cloned().map_or(Ok(()), Err)
}

/// One way in which things can have gone.
#[derive(Clone)]
struct History {
    world: World,
    /// Which maybes have landed, by their place among the group's.
    landed: Vec<bool>,
}

/// The operations of one group.
struct Histories<'j> {
    group: Group,
    /// By LSN.
    acknowledged: Vec<(&'j Issued, &'j Outcome)>,
    maybes: Vec<Maybe<'j>>,
}

struct Maybe<'j> {
    index: usize,
    issued: &'j Issued,
    left: u64,
    /// It landed after so many of the acknowledged ones, at the least and at the most.
    after_min: usize,
    after_max: usize,
    /// Had it landed, it would be seen.
    is_out: bool,
}

impl<'j> Histories<'j> {
    fn of(journal: &'j Journal, group: Group) -> Histories<'j> {
        let mut acknowledged = Vec::new();
        let mut open = Vec::new();
        for (index, entry) in journal.issued.iter().enumerate() {
            if !entry.operation.groups().contains(&group) {
                continue;
            }
            match &entry.fate {
                Fate::Acknowledged(outcome) => acknowledged.push((entry, outcome)),
                Fate::UnderWay => open.push((index, entry, u64::MAX)),
                Fate::Left { at } => open.push((index, entry, *at)),
                Fate::Refused => {}
            }
        }
        acknowledged.sort_by_key(|(_, outcome)| outcome.lsn);
        let place = |(index, issued, left): (usize, &'j Issued, u64)| {
            let before = |(other, _): &(&Issued, &Outcome)| other.answered < issued.issued;
            let after = |(other, _): &(&Issued, &Outcome)| other.issued > left;
            let after_min = acknowledged.iter().rposition(before).map_or(0, |last| last + 1);
            let after_max = acknowledged.iter().position(after).unwrap_or(acknowledged.len());
            Maybe { index, issued, left, after_min, after_max, is_out: false }
        };
        let maybes = open.into_iter().map(place).collect();
        Histories { group, acknowledged, maybes }
    }

    /// A delivery that nobody heard of is touched by no client. So, unless a mailbox or the account
    /// has gone, it is seen if it has landed: of those that are not, no history has to be tried.
    fn leave_out_unseen(&mut self, seen: &Observation) {
        let Group::Account(account) = self.group else { return };
        let takes_away = |operation: &Operation| {
            matches!(operation, Operation::DeleteMailbox { .. } | Operation::RemoveAccount { .. })
        };
        let acknowledged = self.acknowledged.iter().map(|(entry, _)| &entry.operation);
        let mut all = acknowledged.chain(self.maybes.iter().map(|maybe| &maybe.issued.operation));
        if all.any(|operation| takes_away(operation)) {
            return;
        }
        let mailboxes =
            seen.accounts.get(&account).into_iter().flat_map(|one| one.mailboxes.values());
        let messages = mailboxes.flat_map(|mailbox| mailbox.messages.values());
        let letters: BTreeSet<u32> = messages.map(|message| message.number).collect();
        for maybe in &mut self.maybes {
            if let Operation::Deliver { letter, .. } = &*maybe.issued.operation {
                maybe.is_out = !letters.contains(&letter.number);
            }
        }
    }

    /// Every state in which things can have ended.
    fn all(&self, base: World) -> Result<Vec<History>, Violation> {
        let mut histories = vec![History { world: base, landed: vec![false; self.maybes.len()] }];
        for (number, (entry, outcome)) in self.acknowledged.iter().enumerate() {
            self.branch(&mut histories, number)?;
            let mut refused = Vec::new();
            histories.retain_mut(|history| {
                let done = history.world.apply(self.group, &entry.operation, Some(outcome));
                done.map_err(|why| refused.push(why)).is_ok()
            });
            if histories.is_empty() {
                return Err(format!(
                    "{:?}: {:?} was acknowledged with {:?}, which cannot be: {}\n{}",
                    self.group,
                    entry.operation,
                    outcome,
                    refused.join("; "),
                    self.tell()
                ));
            }
        }
        self.branch(&mut histories, self.acknowledged.len())?;
        Ok(histories)
    }

    /// Adds the histories in which maybes land now, after `number` acknowledged operations. A maybe
    /// that could have landed earlier, and with the same effect, has been tried there.
    fn branch(&self, histories: &mut Vec<History>, number: usize) -> Result<(), Violation> {
        let known = histories.len();
        // Only those in which the same has landed can be the same.
        let mut alike: BTreeMap<Vec<bool>, Vec<usize>> = BTreeMap::new();
        for (place, history) in histories.iter().enumerate() {
            alike.entry(history.landed.clone()).or_default().push(place);
        }
        let mut next = 0;
        while next < histories.len() {
            for (place, maybe) in self.maybes.iter().enumerate() {
                if self.may_land(&histories[next], place, maybe, number, next >= known) {
                    let mut history = histories[next].clone();
                    history.landed[place] = true;
                    let done: Result<(), Impossible> =
                        history.world.apply(self.group, &maybe.issued.operation, None);
                    let others = alike.entry(history.landed.clone()).or_default();
                    let is_same = |other: &usize| histories[*other].world == history.world;
                    if done.is_ok() && !others.iter().any(is_same) {
                        others.push(histories.len());
                        histories.push(history);
                    }
                }
            }
            next += 1;
            if histories.len() > HISTORIES_MAX {
                return Err(format!(
                    "{:?}: more than {HISTORIES_MAX} possible histories, too many to judge\n{}",
                    self.group,
                    self.tell()
                ));
            }
        }
        Ok(())
    }

    fn may_land(
        &self,
        history: &History,
        place: usize,
        maybe: &Maybe<'_>,
        number: usize,
        is_fresh: bool,
    ) -> bool {
        if maybe.is_out
            || history.landed[place]
            || number < maybe.after_min
            || number > maybe.after_max
        {
            return false;
        }
        let mut landed = self.maybes.iter().zip(&history.landed).filter(|(_, landed)| **landed);
        if landed.any(|(other, _)| other.issued.issued > maybe.left) {
            return false;
        }
        let previous = number.checked_sub(1).and_then(|n| self.acknowledged.get(n));
        is_fresh
            || number == maybe.after_min
            || previous
                .is_none_or(|(entry, _)| !entry.operation.commutes_with(&maybe.issued.operation))
    }

    fn shared(&self, end: &History) -> BTreeMap<usize, bool> {
        let is_shared =
            |(maybe, _): &(&Maybe<'_>, &bool)| maybe.issued.operation.groups().len() > 1;
        let pairs = self.maybes.iter().zip(&end.landed).filter(is_shared);
        pairs.map(|(maybe, landed)| (maybe.index, *landed)).collect()
    }

    fn landed(&self, end: &History) -> Vec<usize> {
        let landed = self.maybes.iter().zip(&end.landed).filter(|(_, landed)| **landed);
        landed.map(|(maybe, _)| maybe.index).collect()
    }

    /// For the report.
    fn tell(&self) -> String {
        let mut lines = Vec::new();
        for (entry, outcome) in &self.acknowledged {
            let Issued { issued, answered, operation, .. } = entry;
            lines.push(format!(
                "  {issued}..{answered} LSN {}: {operation:?} -> {:?}",
                outcome.lsn.0, outcome.told
            ));
        }
        for maybe in &self.maybes {
            let Issued { issued, operation, .. } = maybe.issued;
            lines.push(format!("  {issued}.. maybe {}: {operation:?}", maybe.index));
        }
        lines.join("\n")
    }
}
