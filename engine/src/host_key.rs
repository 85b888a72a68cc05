//! Keys of this host for what it signs for itself: links of digests, rewritten senders. Each is
//! made once, when it is first needed, and is kept in the directory's key space (`q:NAME`): durable
//! before anything is signed with it, on every core, and in every backup. A key is for one purpose,
//! and is never shown.

use crate::operations::{Fault, change, pair};
use crate::shard::Shard;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::rc::Rc;

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostKey(pub(crate) [u8; 32]);

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostKey")
    }
}

impl TryFrom<String> for HostKey {
    type Error = &'static str;

    fn try_from(text: String) -> Result<HostKey, &'static str> {
        let octets = URL_SAFE_NO_PAD.decode(text).map_err(|_| "no base64")?;
        octets.try_into().map(HostKey).map_err(|_| "not 32 octets")
    }
}

impl From<HostKey> for String {
    fn from(key: HostKey) -> String {
        URL_SAFE_NO_PAD.encode(key.0)
    }
}

impl HostKey {
    fn make() -> Result<HostKey, Fault> {
        let mut octets = [0; 32];
        getrandom::fill(&mut octets).map_err(|error| format!("no random numbers: {error}"))?;
        Ok(HostKey(octets))
    }

    /// For HMAC-SHA-256.
    pub fn signing(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

/// On shard 0: the key of that name, made where there is none yet. It is durable, and
/// every core has it.
pub async fn key(shard: &Rc<Shard>, name: &'static str) -> Result<HostKey, Fault> {
    let known = |shard: &Shard| shard.directory.borrow().host_key(name).cloned();
    if let Some(key) = known(shard) {
        return Ok(key);
    }
    let _turn = shard.directory_turn.lock().await;
    if let Some(key) = known(shard) {
        return Ok(key);
    }
    let key = HostKey::make()?;
    change(shard, vec![pair("q:", name, Some(&key))]).await?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::HostKey;

    #[test]
    fn a_key_is_written_and_read_and_never_shown() {
        let key = HostKey::make().unwrap();
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<HostKey>(&text).unwrap(), key);
        assert_eq!(format!("{key:?}"), "HostKey");
        assert!(serde_json::from_str::<HostKey>("\"short\"").is_err());
    }
}
