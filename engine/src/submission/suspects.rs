//! An account that somebody else seems to send from: its operator is told, once, and what it sends
//! waits, until the operator releases its mail, or gives it a new password.

use super::hijack::{Suspicion, Watch};
use super::settings::Action;
use super::{Usage, known};
use crate::directory::Reached;
use crate::metrics::count;
use crate::operations::unix_now;
use crate::queue::{self, Word, notices};
use crate::shard::Shard;
use crate::when::time_text;
use protocols::message::date::field_text;
use std::rc::Rc;
use storage::{AccountId, Uid};

/// That a message is held, and for which suspicion of its account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspected {
    pub why: String,
    pub number: u32,
}

/// On the account's home shard: notes what it does by `note`, which tells whether it is suspected
/// from now on. Why its messages are to be held, if they are.
pub(super) async fn watch(
    shard: &Rc<Shard>,
    account: AccountId,
    address: &str,
    note: impl FnOnce(&mut Usage) -> bool,
) -> Option<Suspected> {
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
    let action = shard.config.submission.hijack.action;
    let is_held = action == Action::Hold;
    // Again where something else follows by now.
    if suspicion.told != Some(action) {
        let told = |usage: &mut Usage| {
            let suspicion = usage.watch.suspicion.as_mut();
            suspicion.is_some_and(|one| one.told.replace(action) != Some(action))
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
    let Suspicion { why, number, .. } = suspicion;
    is_held.then(|| Suspected { why: format!("{why}: somebody else may have sent it"), number })
}

async fn tell_postmaster(
    shard: &Rc<Shard>,
    account: AccountId,
    address: &str,
    suspicion: &Suspicion,
    is_held: bool,
) {
    let to = postmaster(shard, account, address);
    let consequence = match is_held {
        true => "What it sends from now on is taken, and waits in the queue.",
        false => "What it sends goes out all the same ([submission.hijack] action = \"tell\").",
    };
    let text = format!(
        "{address} {}, since {}.\r\n\r\n\
         Somebody else may have its password. {consequence}\r\n\r\n\
         What waits of it:\r\n    kura queue list --suspected --account {address}\r\n\
         If it was not its owner, take that away and give the account a new password:\r\n    \
         kura queue remove --suspected --account {address}\r\n    kura account passwd {address}\r\n\
         If it was, let it go; as much is usual for this account from then on:\r\n    \
         kura queue release --suspected --account {address}\r\n",
        suspicion.why,
        time_text(suspicion.since * 1000),
    );
    let subject = format!("Somebody else may be sending as {address}");
    let sent = send(shard, &to, &subject, &text).await;
    if let Err(error) = &sent {
        tracing::warn!(account = address, to, %error, "its postmaster is not told yet");
        // With the next message.
        shard.submitting.with(shard, account, |usage| {
            usage.watch.suspicion.iter_mut().for_each(|one| one.told = None);
        });
    }
    if let Err(error) = shard.submitting.write(shard, account).await {
        tracing::debug!(account = address, %error, "that its postmaster was told is not recorded");
    }
}

/// Who answers for an account: its domain's postmaster, or the first there is who is somebody else.
fn postmaster(shard: &Shard, account: AccountId, address: &str) -> String {
    let directory = shard.directory.borrow();
    let own = address.rsplit_once('@').map(|(_, domain)| domain);
    // Whoever has the account's password would read it, and take it away.
    let is_somebody = |reached: &Reached| {
        reached.homes.iter().any(|home| home.account != account) || !reached.outside.is_empty()
    };
    let domain = directory.postmaster_domain(own, is_somebody);
    format!("postmaster@{}", domain.unwrap_or(&shard.config.hostname))
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

/// Nobody looks any more; on the account's home shard, where it is at hand.
pub(super) fn drop_suspicion(shard: &Shard, account: AccountId) {
    shard.submitting.with(shard, account, |usage| {
        if usage.watch.suspicion.is_some() {
            usage.watch.trust(unix_now(), false);
        }
    });
}

/// Ends the suspicion of an account, and tells what it was; on its home shard. `is_usual`: its
/// owner has sent all that.
pub async fn trust(
    shard: &Rc<Shard>,
    account: AccountId,
    address: &str,
    is_usual: bool,
) -> Result<Option<Suspicion>, storage::Error> {
    let watch = known(shard, account).watch;
    if watch == Watch::default() || (is_usual && watch.suspicion.is_none()) {
        return Ok(None);
    }
    let trust = |usage: &mut Usage| usage.watch.trust(unix_now(), is_usual);
    let suspicion = shard.submitting.with(shard, account, trust);
    shard.submitting.write(shard, account).await?;
    if suspicion.is_some() {
        tracing::info!(target: crate::NOTICE, account = address, "nobody else is suspected to send from this account any more");
    }
    Ok(suspicion)
}

/// The owner of an account hears that its mail was kept back, and why.
pub async fn tell_owner(
    shard: &Rc<Shard>,
    address: &str,
    suspicion: &Suspicion,
) -> Result<(), storage::Error> {
    let text = format!(
        "Messages of yours were kept back since {}, because this account\r\n{}.\r\n\r\n\
         They are on their way now. If you have not sent them, somebody else knows your password: tell your postmaster,\r\n\
         and have it changed.\r\n",
        time_text(suspicion.since * 1000),
        suspicion.why,
    );
    send(shard, address, "Your messages were kept back, and are on their way now", &text).await
}

/// A message of `user` is on hold now for suspicion `number`. If the operator has let that
/// suspicion's mail go since it was asked about, he has not seen this one.
pub fn look_again(shard: &Rc<Shard>, user: &str, number: u32, uid: Uid) {
    let known = shard.directory.borrow().login(user).map(|(_, one)| (one.id(), one.shard));
    let Some((account, home)) = known else { return };
    let shard = Rc::clone(shard);
    let look = async move {
        let was_owner = move |shard: Rc<Shard>| async move {
            super::known(&shard, account).watch.owner_was == number
        };
        if shard.mesh.ask(home, was_owner).await.is_ok_and(|was| was)
            && let Err(fault) = queue::command(&shard, uid, Word::Release).await
        {
            tracing::warn!(
                uid = uid.0,
                fault,
                "a message stays on hold though its account's were released"
            );
        }
    };
    glommio::spawn_local(look).detach();
}
