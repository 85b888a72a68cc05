//! `[scan.again]` of the config file.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Again {
    /// Mail that was received in so many days is scanned once more when there are new
    /// signatures. 0: none is.
    pub days: u64,
    /// So often a scanner is asked which signatures it has, in seconds.
    pub look_seconds: u64,
    /// Of each core's time, so much may pass while one message is being scanned: the rest is for
    /// mail that comes in.
    pub share_percent: u64,
}

impl Default for Again {
    fn default() -> Self {
        Again { days: 7, look_seconds: 60, share_percent: 20 }
    }
}

impl Again {
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        for (key, value, least, most) in [
            ("scan.again.days", self.days, 0, 365),
            ("scan.again.look_seconds", self.look_seconds, 1, 86_400),
            ("scan.again.share_percent", self.share_percent, 1, 100),
        ] {
            if !(least..=most).contains(&value) {
                let what = format!("{key} = {value} is out of range; use {least} to {most}");
                return Err((key, what));
            }
        }
        Ok(())
    }
}
