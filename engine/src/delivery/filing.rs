//! On a home shard: what each account's scripts say to a message, and the records that come of it.
//!
//! All mailboxes that get the message as it came share one record, hence its body; a copy with
//! another header is a record of its own. Mail to accounts without a script passes here at the
//! price of two look-ups.
//!
//! A body that was streamed in is in the log, and not at hand. Scripts see its beginning. Fields
//! that a script adds on top go beside the body, as far as there is room; other changes of its
//! header are left out of what is filed, and are made in what is redirected, which is read back.

use super::payload::Payload;
use super::{Collected, Envelope, Filed, Mailbox, Outcome, Redirect, Stamp, To, notes};
use crate::core::give_way;
use crate::filter::own::MODELS_MADE_MAX;
use crate::filter::senders::{Decision, Place};
use crate::quarantine::Reason;
use crate::quarantine::note::Note;
use crate::shard::{Disk, Shard};
use crate::sieve::plan::{Filing, Seen, Target, plan};
use crate::sieve::{self, Plan, marks};
use bytes::Bytes;
use protocols::imap::flags::FlagList;
use protocols::message::received::delivered_to;
use protocols::message::summary::Summary;
use protocols::sieve::Edited;
use std::sync::Arc;
use std::time::Duration;
use storage::{
    AccountId, Body, Delivery, Durable, Error, Flags, MailboxId, MailboxInfo, PLACEMENTS_MAX,
    Placed, Placement, Room, SpecialUse, Store, UnixMillis,
};

/// A failing script's owner is told so often at the most.
const TOLD_EVERY: Duration = Duration::from_secs(86_400);

/// What a home shard is given of a message, beside its body.
#[derive(Debug)]
pub(super) struct Parcel {
    pub to: Vec<To>,
    pub envelope: Arc<Envelope>,
    pub internal_date: UnixMillis,
    pub summary: Vec<u8>,
    /// Fields that go beside the body, as `Delivered-To` does.
    pub beside: String,
    /// The message as far as it is at hand: all of it, or its beginning.
    pub head: Bytes,
    pub octets: u64,
    /// What was kept for it here.
    pub room: Option<Room>,
}

/// One mailbox that gets the message.
struct Wanted {
    /// Whose, among the recipients.
    owner: usize,
    placement: Placement,
    header: Edited,
    /// With it, its owner has all of the message.
    is_last: bool,
}

/// What became of a [`Wanted`].
struct Put {
    owner: usize,
    /// Octets beside the body.
    prefix_bytes: usize,
    outcome: Result<(Placed, Durable), Error>,
}

/// Files the message for everybody; one outcome for each, in their order.
pub(super) async fn file(shard: &Shard, mut parcel: Parcel, body: Body) -> Vec<Outcome> {
    let store = shard.store.within(parcel.room.take());
    let decided = decisions(shard, &parcel).await;
    let mut plans = plans(shard, &parcel, &decided, matches!(body, Body::Streamed(_))).await;
    let mut failed: Vec<Option<Error>> = vec![None; plans.len()];
    let mut wanted = Vec::with_capacity(plans.len());
    let mut lends = vec![false; plans.len()];
    for (owner, plan) in plans.iter_mut().enumerate() {
        let is_streamed = matches!(body, Body::Streamed(_));
        if is_streamed && plan.filings.is_empty() && !plan.redirects.is_empty() {
            lends[owner] = true;
            plan.filings = Plan::keep().filings;
        }
        let to = &parcel.to[owner];
        let Decision { place, why, .. } = &decided[owner];
        let place = *place;
        if let Place::Quarantine(reason) = place {
            match keep_back(shard, to, &parcel, reason).await {
                Ok(placement) => {
                    wanted.push(Wanted { owner, placement, header: None, is_last: true })
                }
                Err(error) => failed[owner] = Some(error),
            }
            continue;
        }
        let is_junk = place == Place::Junk;
        for filing in std::mem::take(&mut plan.filings) {
            let account = to.home.account;
            let target = match &parcel.envelope.collected {
                Some(collected) if !is_junk => collected.target(filing.target),
                Some(_) | None => filing.target,
            };
            let mailbox = match lends[owner] {
                true => MailboxId::INBOX,
                false => mailbox(shard, account, &target, is_junk).await,
            };
            // No mailbox gets a message twice (RFC 5228 section 2.10.3), such as INBOX in
            // place of several.
            let mut own = wanted.iter().rev().take_while(|one: &&Wanted| one.owner == owner);
            if own.any(|one| one.placement.mailbox == mailbox) {
                continue;
            }
            let mut prefix = (delivered_to(&to.home.address) + &parcel.beside).into_bytes();
            if prefix.len() + why.len() <= Stamp::BESIDE_BYTES_MAX {
                prefix.extend_from_slice(why.as_bytes());
            }
            let placement = placement(account, mailbox, prefix, &filing.flags);
            wanted.push(Wanted { owner, placement, header: filing.header, is_last: false });
        }
        if plan.redirects.is_empty() {
            let from = wanted.iter().rposition(|one| one.owner != owner).map_or(0, |at| at + 1);
            note_last(&mut wanted[from..]);
        }
    }
    // What is also sent to others is known only once that is done.
    let is_sent = plans.iter().any(|plan| !plan.redirects.is_empty());
    let collected = parcel.envelope.collected.as_ref();
    let collected = collected.filter(|collected| !is_sent && !collected.pairs.is_empty());
    let mark = collected.cloned();
    let puts = match body {
        Body::Whole(body) => put_whole(&store, &parcel, body, wanted, mark).await,
        streamed => put_streamed(&store, &parcel, streamed, wanted, mark).await,
    };
    let mut by_owner: Vec<Vec<_>> = plans.iter().map(|_| Vec::new()).collect();
    puts.into_iter().for_each(|put| by_owner[put.owner].push(put));
    let mut outcomes = Vec::with_capacity(plans.len());
    for ((owner, plan), puts) in plans.into_iter().enumerate().zip(by_owner) {
        if let Some(error) = failed[owner].take() {
            outcomes.push(Err(error));
            continue;
        }
        if let Place::Quarantine(reason) = decided[owner].place
            && puts.iter().any(|put| put.outcome.is_ok())
        {
            let (id, account) = (&parcel.envelope.id, &parcel.to[owner].home.address);
            tracing::info!(id, account, reason = reason.name(), "quarantined");
            shard.metrics.quarantine.kept(reason);
        }
        outcomes.push(conclude(shard, &parcel, &parcel.to[owner], plan, puts, lends[owner]).await);
    }
    outcomes
}

/// Of all that one owner gets: which is the last, if all of it is in one record.
fn note_last(wanted: &mut [Wanted]) {
    let Some((last, others)) = wanted.split_last_mut() else { return };
    let is_same = |other: &Wanted| match (&other.header, &last.header) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (Some(_), None) | (None, Some(_)) => false,
    };
    last.is_last = others.iter().all(is_same);
}

/// Where it goes for each recipient, once for all that follows.
async fn decisions(shard: &Shard, parcel: &Parcel) -> Vec<Decision> {
    let filing = &parcel.envelope.judged.filing;
    let mut models_left = MODELS_MADE_MAX;
    let mut decided = Vec::with_capacity(parcel.to.len());
    for to in &parcel.to {
        decided.push(filing.decide(shard, to.home.account, &mut models_left).await);
    }
    decided
}

/// Into quarantine, with a note of why and since when; with no flags, since nobody has it
/// before it is released.
async fn keep_back(
    shard: &Shard,
    to: &To,
    parcel: &Parcel,
    reason: Reason,
) -> Result<Placement, Error> {
    let account = to.home.account;
    let mailbox = shard.store.make_quarantine(account).await?;
    let note = Note { reason, since: super::unix_millis().0 };
    let prefix = delivered_to(&to.home.address) + &parcel.beside + &note.field();
    Ok(placement(account, mailbox, prefix.into_bytes(), &[]))
}

/// What is to be done, for each recipient. What is kept back no script sees.
async fn plans(
    shard: &Shard,
    parcel: &Parcel,
    decided: &[Decision],
    is_streamed: bool,
) -> Vec<Plan> {
    let has_scripts = |to: &To| parcel.envelope.scripts && sieve::applies(shard, &to.home);
    let mut seen: Option<Seen> = None;
    let mut plans = Vec::with_capacity(parcel.to.len());
    for (to, decision) in parcel.to.iter().zip(decided) {
        if !has_scripts(to) || matches!(decision.place, Place::Quarantine(_)) {
            plans.push(Plan::keep());
            continue;
        }
        if seen.is_some() {
            give_way().await;
        }
        let seen = seen.get_or_insert_with(|| parcel.seen(is_streamed));
        let mut plan = plan(shard, to, &parcel.envelope, decision, seen);
        // What can't be refused in the session is sent back, or kept if nobody can be told; a body
        // that was streamed in is not at hand for that, so it has to be kept now.
        if is_streamed && plan.reject.is_some() && !parcel.envelope.alone {
            tracing::info!(target: crate::NOTICE, id = parcel.envelope.id, account = to.home.address, "not rejected but kept: too large, and others get it by the same answer");
            plan = Plan { error: plan.error, ..Plan::keep() };
        }
        plans.push(plan);
    }
    if let Some(collected) = &parcel.envelope.collected {
        plans.iter_mut().for_each(|plan| collected.adapt(plan));
    }
    plans
}

impl Collected {
    /// Nobody can be told no, and what comes may be years old: it is kept rather than rejected, and
    /// not replied to. What no script says anything about is as it was there.
    fn adapt(&self, plan: &mut Plan) {
        plan.reply = None;
        if plan.reject.is_some() {
            *plan = Plan { error: plan.error.take(), ..Plan::keep() };
        }
        for filing in &mut plan.filings {
            if filing.target != Target::Keep {
                continue;
            }
            filing.flags.extend(self.flags.iter().cloned());
        }
    }

    /// Where it goes that is no junk.
    fn target(&self, target: Target) -> Target {
        match (target, self.mailbox.clone()) {
            (Target::Keep, Some(Mailbox { name, special_use })) => {
                Target::Mailbox { name, create: true, special_use }
            }
            (target, _) => target,
        }
    }
}

impl Parcel {
    fn seen(&self, is_streamed: bool) -> Seen {
        if !is_streamed {
            let summary = Summary::decode(&self.summary);
            let summary = summary.unwrap_or_else(|_| Summary::compute(&self.head));
            return Seen { raw: self.head.clone(), summary, octets: self.octets };
        }
        let raw = Bytes::from([self.beside.as_bytes(), &self.head].concat());
        let octets = self.octets + self.beside.len() as u64;
        Seen { summary: Summary::compute(&raw), raw, octets }
    }

    /// Of the header as it came.
    fn header_bytes(&self) -> usize {
        let bytes = Summary::decode(&self.summary).map_or(0, |summary| summary.header_bytes());
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// The message with another header.
    fn edited(&self, body: &Bytes, header: &Arc<[u8]>) -> Bytes {
        let rest = body.get(self.header_bytes()..).unwrap_or_default();
        Bytes::from([header, rest].concat())
    }
}

fn placement(
    account: AccountId,
    mailbox: MailboxId,
    prefix: Vec<u8>,
    flags: &[String],
) -> Placement {
    let mut list = FlagList::default();
    for flag in flags {
        list.add(flag.as_bytes());
    }
    list.keywords.truncate(Flags::KEYWORDS_MAX);
    let (flags, keywords) = (Flags(list.system.0), list.keywords);
    Placement { account, mailbox, prefix, flags, keywords }
}

/// Where a filing goes; INBOX if that is nowhere.
async fn mailbox(shard: &Shard, account: AccountId, target: &Target, is_junk: bool) -> MailboxId {
    let store = &shard.store;
    let used_for = |wanted: SpecialUse| {
        let mailboxes = store.mailboxes(account).unwrap_or_default();
        let is = |info: &&MailboxInfo| info.special_use == Some(wanted) && !info.read_only;
        mailboxes.iter().find(is).map(|info| info.id)
    };
    // Who has no mailbox for junk sees it among the rest, with our results on top.
    let keep = || if is_junk { used_for(SpecialUse::Junk) } else { None };
    let Target::Mailbox { name, create, special_use } = target else {
        return keep().unwrap_or(MailboxId::INBOX);
    };
    let special_use = special_use.as_deref().and_then(sieve::special_use);
    if let Some(found) = special_use.and_then(used_for) {
        return found;
    }
    match store.mailbox_named(account, name) {
        Ok(info) if !info.read_only => return info.id,
        Ok(_) => {}
        Err(_) if *create => match store.create_mailbox(account, name, special_use).await {
            Ok((id, _durable)) => {
                // Many mail programs show nothing else.
                let _ = store.subscribe(account, name, true).await;
                return id;
            }
            // Another message may have made it meanwhile.
            Err(error) => match store.mailbox_named(account, name) {
                Ok(info) if !info.read_only => return info.id,
                Ok(_) | Err(_) => tracing::debug!(%error, name, "mailbox of a script not made"),
            },
        },
        Err(_) => {}
    }
    keep().unwrap_or(MailboxId::INBOX)
}

/// As few records as hold all placements, and one for each header that differs. The last one says
/// that the message was collected, if it was.
async fn put_whole(
    store: &Store<Disk>,
    parcel: &Parcel,
    body: Bytes,
    wanted: Vec<Wanted>,
    mark: Option<Arc<Collected>>,
) -> Vec<Put> {
    let (edited, as_it_came): (Vec<Wanted>, Vec<Wanted>) =
        wanted.into_iter().partition(|wanted| wanted.header.is_some());
    let mut puts = Vec::with_capacity(as_it_came.len() + edited.len());
    let mut left = as_it_came.into_iter().peekable();
    while left.peek().is_some() {
        let some: Vec<Wanted> = left.by_ref().take(PLACEMENTS_MAX).collect();
        let body = Body::Whole(body.clone());
        let mark = mark.clone().filter(|_| left.peek().is_none() && edited.is_empty());
        puts.extend(record(store, parcel, parcel.summary.clone(), body, some, mark).await);
    }
    let mut left = edited;
    while let Some(header) = left.first().and_then(|wanted| wanted.header.clone()) {
        let is_same = |wanted: &Wanted| {
            wanted.header.as_ref().is_some_and(|other| Arc::ptr_eq(other, &header))
        };
        let (same, others) = left.into_iter().partition(is_same);
        left = others;
        let body = parcel.edited(&body, &header);
        let summary = Summary::compute(&body).encode();
        let mark = mark.clone().filter(|_| left.is_empty());
        puts.extend(record(store, parcel, summary, Body::Whole(body), same, mark).await);
    }
    puts
}

async fn put_streamed(
    store: &Store<Disk>,
    parcel: &Parcel,
    body: Body,
    mut wanted: Vec<Wanted>,
    mark: Option<Arc<Collected>>,
) -> Vec<Put> {
    for one in &mut wanted {
        let Some(header) = one.header.take() else { continue };
        let added = added_on_top(&header, parcel);
        let room = Stamp::BESIDE_BYTES_MAX.saturating_sub(one.placement.prefix.len());
        match added {
            Some(added) if added.len() <= room => one.placement.prefix.extend_from_slice(added),
            Some(_) | None => {
                tracing::info!(
                    id = parcel.envelope.id,
                    "a large message is filed with the header as it came"
                );
            }
        }
    }
    // There is one record, since the body is in the log once.
    if wanted.len() > PLACEMENTS_MAX {
        tracing::warn!(
            id = parcel.envelope.id,
            "too many mailboxes for a large message: one for each account"
        );
        wanted.dedup_by_key(|wanted| wanted.owner);
        wanted.truncate(PLACEMENTS_MAX);
    }
    if wanted.is_empty() {
        return Vec::new();
    }
    record(store, parcel, parcel.summary.clone(), body, wanted, mark).await
}

/// What a script has put in front of the header, if it has done nothing else to it.
fn added_on_top<'h>(header: &'h [u8], parcel: &Parcel) -> Option<&'h [u8]> {
    let before = parcel.head.get(..parcel.header_bytes())?;
    let added = header.strip_suffix(before)?;
    // What goes beside the body was part of what the script saw.
    added.strip_suffix(parcel.beside.as_bytes())
}

/// One record, for those who have room for it.
async fn record(
    store: &Store<Disk>,
    parcel: &Parcel,
    summary: Vec<u8>,
    body: Body,
    wanted: Vec<Wanted>,
    mark: Option<Arc<Collected>>,
) -> Vec<Put> {
    let whose: Vec<(usize, usize)> =
        wanted.iter().map(|wanted| (wanted.owner, wanted.placement.prefix.len())).collect();
    let once = parcel.envelope.once.as_ref();
    let marks: Vec<_> = wanted
        .iter()
        .map(|one| Some(once?.mark(one.placement.account)).filter(|_| one.is_last))
        .collect();
    let put = |((owner, prefix_bytes), outcome)| Put { owner, prefix_bytes, outcome };
    let placements = wanted.into_iter().map(|wanted| wanted.placement).collect();
    let internal_date = parcel.internal_date;
    let delivery = Delivery { placements, internal_date, summary, body };
    let delivered = match (mark, once) {
        (Some(mark), _) => store.deliver_and_put(delivery, mark.space, mark.pairs.clone()).await,
        (None, Some(once)) => store.deliver_and_mark(delivery, once.space, marks).await,
        (None, None) => store.deliver_where_possible(delivery).await,
    };
    match delivered {
        Ok(outcomes) => whose.into_iter().zip(outcomes).map(put).collect(),
        Err(error) => whose.into_iter().map(|whose| put((whose, Err(error.clone())))).collect(),
    }
}

/// What became of it for one recipient; then the owner is told of an error.
async fn conclude(
    shard: &Shard,
    parcel: &Parcel,
    to: &To,
    plan: Plan,
    puts: Vec<Put>,
    lends: bool,
) -> Outcome {
    let mut durable = None;
    let mut placed = None;
    let mut failed = None;
    let mut places = Vec::with_capacity(puts.len());
    for put in puts {
        match put.outcome {
            Ok((place, receipt)) => {
                crate::reports::reader::arrived(shard, to, place);
                places.push((place.mailbox, place.uid));
                durable = Some(receipt);
                placed = placed.or(Some((place, put.prefix_bytes as u64)));
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match (durable, failed) {
        (None, Some(error)) => return Err(error),
        (Some(_), Some(error)) => {
            tracing::warn!(id = parcel.envelope.id, account = to.home.address, %error, "not in all mailboxes that the script names");
        }
        (Some(_) | None, None) => {}
    }
    if let Some(error) = &plan.error {
        tell_owner(shard, to, error, crate::operations::unix_now()).await;
    }
    if durable.is_none() && plan.reject.is_none() && plan.redirects.is_empty() {
        durable = Some(shard.store.discard()?);
    }
    // A header that is not at hand as a whole can't be replaced.
    let is_whole = parcel.header_bytes() <= parcel.head.len();
    let redirects = plan.redirects.into_iter();
    let redirects = redirects.map(|(to, header)| (to, header.filter(|_| is_whole)));
    let redirect = |(address, header): (protocols::Address, Edited)| Redirect {
        to: address,
        payload: match placed.filter(|_| parcel.head.len() as u64 != parcel.octets) {
            None => Payload::Whole(match &header {
                Some(header) => parcel.edited(&parcel.head, header),
                None => parcel.head.clone(),
            }),
            // Behind what is beside the body there, which may be more than of this copy.
            Some((Placed { mailbox, uid, .. }, prefix_bytes)) => {
                let (head, from) = match &header {
                    Some(header) => (
                        Bytes::copy_from_slice(header),
                        prefix_bytes + parcel.header_bytes() as u64,
                    ),
                    None => (Bytes::from(parcel.beside.clone()), prefix_bytes),
                };
                Payload::Stored { mailbox, uid, head, from }
            }
        },
    };
    let lent = placed.zip(durable).filter(|_| lends);
    Ok(Filed {
        durable: durable.filter(|_| !lends),
        has_copy: placed.is_some() && !lends,
        places,
        rejected: plan.reject,
        redirects: redirects.map(redirect).collect(),
        reply: plan.reply,
        lent: lent.map(|((placed, _), durable)| (placed.mailbox, placed.uid, durable)),
        marks: plan.marks,
    })
}

/// RFC 5228 section 2.10.6: by a message of ours, once a day at the most.
async fn tell_owner(shard: &Shard, to: &To, error: &str, now: u64) {
    let account = to.home.account;
    let told = marks::Mark { kind: marks::Kind::Told, key: [0; 32], period: TOLD_EVERY };
    if marks::is_set(shard, account, told.kind, &told.key, now) {
        return;
    }
    let note = notes::script_failed(shard, &to.home.address, error);
    let inbox = Filing { target: Target::Keep, flags: Vec::new(), header: None };
    let done = async {
        let _durable = put_note(shard, to, inbox, note).await?;
        marks::set(shard, account, &[told], now).await
    };
    if let Err(error) = done.await {
        tracing::warn!(account = to.home.address, %error, "the owner of a failing script is not told");
    }
}

/// A message of ours to the owner of an account, past all scripts.
pub(crate) async fn put_into_inbox(
    shard: &Shard,
    to: &To,
    message: Vec<u8>,
) -> Result<Durable, Error> {
    let inbox = Filing { target: Target::Keep, flags: Vec::new(), header: None };
    put_note(shard, to, inbox, message).await
}

/// Puts a message of ours into a mailbox of the account, past its scripts.
pub(super) async fn put_note(
    shard: &Shard,
    to: &To,
    filing: Filing,
    message: Vec<u8>,
) -> Result<Durable, Error> {
    let account = to.home.account;
    let mailbox = mailbox(shard, account, &filing.target, false).await;
    let delivery = Delivery {
        placements: vec![placement(account, mailbox, Vec::new(), &filing.flags)],
        internal_date: super::unix_millis(),
        summary: Summary::compute(&message).encode(),
        body: Body::Whole(Bytes::from(message)),
    };
    shard.store.deliver(delivery).await.map(|(_, durable)| durable)
}
