//! `kura store restore`: a whole host from a backup, or one account as it was.

use super::directory::Common;
use super::{Outcome, Where, backup, remembering};
use crate::config::ConfigError;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct RestoreOptions {
    /// A host, from the backups there: a directory, or s3://BUCKET/PATH. --dir is the
    /// new data directory.
    #[arg(
        long,
        value_name = "PLACE",
        required_unless_present = "account",
        conflicts_with = "account"
    )]
    from: Option<String>,
    /// Which backup, by its name; without it the newest.
    #[arg(long, value_name = "NAME", requires = "from")]
    backup: Option<String>,
    /// Reads and verifies the backup, and writes nothing.
    #[arg(long, requires = "from")]
    check: bool,
    /// Lists the backups there, oldest first.
    #[arg(long, requires = "from", conflicts_with_all = ["backup", "check"])]
    list: bool,
    /// An account, from what this store remembers.
    #[arg(long, value_name = "ADDRESS", requires = "at")]
    account: Option<String>,
    /// As it was then: 2h ago, 3d, or like 2026-11-25T16:22:03Z.
    #[arg(long, value_name = "TIME", requires = "account", conflicts_with = "from")]
    at: Option<String>,
    /// Writes the account to this directory, which is made, as one Maildir for each mailbox;
    /// nothing in the account is changed.
    #[arg(long, value_name = "DIR", requires = "at")]
    export: Option<PathBuf>,
    /// Shows it even where the account's quota has no room.
    #[arg(long, requires = "at", conflicts_with = "export")]
    over_quota: bool,
    /// Of an account on hold that had the address before, and was removed; of several, the one with
    /// this number (`kura account hold list`).
    #[arg(long, value_name = "NUMBER", num_args = 0..=1, require_equals = true, requires = "export")]
    removed: Option<Option<u32>>,
    #[command(flatten)]
    place: Where,
    /// Prints JSON, and no progress.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: RestoreOptions) -> Result<Outcome, ConfigError> {
    let RestoreOptions {
        from,
        backup,
        check,
        list,
        account,
        at,
        export,
        over_quota,
        removed,
        place,
        json,
    } = options;
    match (from, account.zip(at)) {
        (Some(from), _) if list => backup::list(&from, json),
        (Some(from), _) => backup::restore(&backup::Restore { place, from, backup, check, json }),
        (None, Some((account, at))) => {
            let common = Common { place, json };
            remembering::restore(remembering::RestoreAt {
                account,
                at,
                export,
                over_quota,
                removed,
                common,
            })
        }
        (None, None) => {
            Err(ConfigError("say --from PLACE, or --account ADDRESS --at TIME".to_owned()))
        }
    }
}
