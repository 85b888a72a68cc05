//! Logins: what all protocols' machines ask about them, answered once for all.
//!
//! | the machine asks | answered by |
//! |---|---|
//! | is this password right? | [`Shard::verify_password`] |
//! | what are this user's keys? | [`scram_keys`] |
//! | a proof is right: who is it? | [`proved`] |
//! | a proof is wrong | [`disproved`] |
//!
//! All but the keys come to one result. POP3 and IMAP need the account behind it, since they go to
//! the core that owns it ([`welcome`]); SMTP stays where it is and needs the name alone.

use super::Next;
use crate::hex;
use crate::metrics::{Service, count};
use crate::passwords;
use crate::shard::{LoggedIn, LoginError, Origin, Shard};
use crate::wire::Peer;
use protocols::sasl::{LoginOutcome, ScramKeys};

/// The keys of a user, as the machines take them, and a nonce for this exchange. A user who does
/// not exist has made-up keys.
pub(super) fn scram_keys(shard: &Shard, user: &str) -> (ScramKeys, String) {
    let (keys, _) = shard.scram_keys(user);
    let keys = ScramKeys {
        salt: keys.salt.to_vec(),
        iterations: keys.iterations,
        stored_key: keys.stored_key,
        server_key: keys.server_key,
    };
    (keys, nonce())
}

/// 128 random bits, printable.
fn nonce() -> String {
    hex::text(passwords::random::<16>())
}

/// Who has proved to know the password of `user`.
pub(super) fn proved(shard: &Shard, user: &str) -> Result<LoggedIn, LoginError> {
    match shard.scram_keys(user) {
        (_, Some(login)) => {
            count(&shard.metrics.logins);
            Ok(login)
        }
        // Removed since the exchange began.
        (_, None) => Err(LoginError::Wrong),
    }
}

/// Counted, reported and late, as a wrong password is.
pub(super) async fn disproved(shard: &Shard, user: &str, origin: Origin) -> LoginError {
    shard.login_failed(user, origin).await;
    LoginError::Wrong
}

/// Reports a login, and where the session goes on: on the core that owns the account.
pub(super) fn welcome(shard: &Shard, login: &LoggedIn, peer: Peer, service: Service) -> Next {
    tracing::info!(user = login.address, peer = %peer.address, service = service.name(), "logged in");
    if login.home == shard.id { Next::Continue } else { Next::MoveTo(login.home) }
}

/// As SMTP and POP3 are told.
pub(super) fn outcome(error: LoginError) -> LoginOutcome {
    match error {
        LoginError::Wrong => LoginOutcome::Wrong,
        LoginError::Busy => LoginOutcome::Busy,
    }
}
