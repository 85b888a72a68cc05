//! An account that somebody else seems to send from: its operator is told, once, and what it sends waits, until the operator
//! releases its mail, or gives it a new password.

use super::hijack::Suspicion;
use super::settings::Action;
use super::{Usage, known};
use crate::directory::Resolution;
use crate::metrics::count;
use crate::operations::unix_now;
use crate::queue::notices;
use crate::shard::Shard;
use crate::when::time_text;
use protocols::message::date::field_text;
use std::rc::Rc;
use storage::AccountId;

/// Domains that are asked for a postmaster.
const POSTMASTERS_TRIED_MAX: usize = 16;

/// On the account's home shard: notes what it does by `note`, which tells whether it is suspected from now on. Why its messages
/// are to be held, if they are.
pub(super) async fn watch(
    shard: &Rc<Shard>,
    account: AccountId,
    address: &str,
    note: impl FnOnce(&mut Usage) -> bool,
) -> Option<String> {
    let (is_new, suspicion) =
        shard.submitting.with(shard, account, |usage| (note(usage), usage.watch.suspicion.clone()));
    let suspicion = suspicion?;
    if is_new {
        count(&shard.metrics.submission.suspected[suspicion.rule as usize]);
        tracing::warn!(
            account = address,
            rule = suspicion.rule.name(),
            why = suspicion.why,
            "somebody else may be sending from this account: look at `kura queue list --account`, then give it a new \
             password, or release its mail"
        );
        // Not to be forgotten while its mail is held.
        if let Err(error) = shard.submitting.write(shard, account).await {
            tracing::warn!(account = address, %error, "that an account is suspected is not recorded");
        }
    }
    let is_held = shard.config.submission.hijack.action == Action::Hold;
    if !suspicion.is_told {
        let told = |usage: &mut Usage| {
            let suspicion = usage.watch.suspicion.as_mut();
            suspicion.is_some_and(|one| !std::mem::replace(&mut one.is_told, true))
        };
        // One of those who come here at once does it; nobody waits for it.
        if shard.submitting.with(shard, account, told) {
            let (shard, address) = (Rc::clone(shard), address.to_owned());
            let suspicion = suspicion.clone();
            glommio::spawn_local(async move {
                tell_postmaster(&shard, account, &address, &suspicion, is_held).await;
            })
            .detach();
        }
    }
    is_held.then(|| format!("{}: somebody else may have sent it", suspicion.why))
}

async fn tell_postmaster(
    shard: &Rc<Shard>,
    account: AccountId,
    address: &str,
    suspicion: &Suspicion,
    is_held: bool,
) {
    let to = postmaster(shard, address);
    let consequence = match is_held {
        true => "What it sends from now on is taken, and waits in the queue.",
        false => "What it sends goes out all the same ([submission.hijack] action = \"tell\").",
    };
    let text = format!(
        "{address} {}, since {}.\r\n\r\n\
         Somebody else may have its password. {consequence}\r\n\r\n\
         What it has sent:\r\n    kura queue list --account {address}\r\n\
         If it was not its owner, take that away and give the account a new password:\r\n    \
         kura queue remove --account {address}\r\n    kura account passwd {address}\r\n\
         If it was, let it go; as much is usual for this account from then on:\r\n    \
         kura queue release --account {address}\r\n",
        suspicion.why,
        time_text(suspicion.since * 1000),
    );
    let subject = format!("Somebody else may be sending as {address}");
    let sent = send(shard, &to, &subject, &text).await;
    if let Err(error) = &sent {
        tracing::warn!(account = address, to, %error, "its postmaster is not told yet");
        // With the next message.
        shard.submitting.with(shard, account, |usage| {
            usage.watch.suspicion.iter_mut().for_each(|one| one.is_told = false);
        });
    }
    if let Err(error) = shard.submitting.write(shard, account).await {
        tracing::debug!(account = address, %error, "that its postmaster was told is not recorded");
    }
}

/// Who answers for an account: its domain's postmaster, or the first there is.
fn postmaster(shard: &Shard, address: &str) -> String {
    let directory = shard.directory.borrow();
    let own = address.rsplit_once('@').map(|(_, domain)| domain.to_owned());
    let others = directory.domains().map(|(domain, _)| domain.clone());
    let mut names = own
        .into_iter()
        .chain(others.take(POSTMASTERS_TRIED_MAX))
        .map(|domain| format!("postmaster@{domain}"));
    let is_somebody = |name: &String| matches!(directory.resolve(name), Resolution::Local(_));
    names.find(is_somebody).unwrap_or_else(|| format!("postmaster@{}", shard.config.hostname))
}

async fn send(
    shard: &Rc<Shard>,
    to: &str,
    subject: &str,
    text: &str,
) -> Result<(), storage::Error> {
    let (id, hostname) = (shard.next_id(), &shard.config.hostname);
    let date = field_text(unix_now() * 1000);
    let message = format!(
        "From: Mail Delivery System <postmaster@{hostname}>\r\nTo: {to}\r\nSubject: {subject}\r\nDate: {date}\r\n\
         Message-ID: <{id}@{hostname}>\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n{text}"
    );
    notices::send(shard, id.clone(), to, false, message.into_bytes()).await.map(drop)
}

/// Why an account is suspected, if it is; on its home shard.
pub fn suspicion(shard: &Shard, account: AccountId) -> Option<Suspicion> {
    known(shard, account).watch.suspicion
}

/// Ends the suspicion of an account; on its home shard. `is_usual`: its owner has sent all that. Whether there was one.
pub async fn trust(
    shard: &Rc<Shard>,
    account: AccountId,
    address: &str,
    is_usual: bool,
) -> Result<bool, storage::Error> {
    if known(shard, account) == Usage::default() {
        return Ok(false);
    }
    let trust = |usage: &mut Usage| usage.watch.trust(unix_now(), is_usual);
    let Some(suspicion) = shard.submitting.with(shard, account, trust) else { return Ok(false) };
    shard.submitting.write(shard, account).await?;
    tracing::info!(target: crate::NOTICE, account = address, "nobody else is suspected to send from this account any more");
    if is_usual && shard.config.submission.hijack.action == Action::Hold {
        let text = format!(
            "Messages of yours were kept back since {}, because this account\r\n{}.\r\n\r\n\
             They are on their way now. If you have not sent them, somebody else knows your password: tell your postmaster,\r\n\
             and have it changed.\r\n",
            time_text(suspicion.since * 1000),
            suspicion.why,
        );
        send(shard, address, "Your messages were kept back, and are on their way now", &text)
            .await?;
    }
    Ok(true)
}
