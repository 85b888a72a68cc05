//! `[scan.attachments]`: kinds of dangerous attachments, and what follows from each.

use super::Finding;
use crate::scan::settings::Action;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A program, by its bytes or its name; shortcuts, installers and disk images too.
    Executable,
    /// What a click lets the system's interpreters run, by its name.
    Script,
    /// A program or script that is called like a document: `invoice.pdf.exe`.
    DoubleExtension,
    /// A name with letters that turn the direction of writing around, so that `exe` is shown as
    /// `cod.exe` backwards.
    TurnedName,
    /// A document with macros.
    Macros,
    /// An archive or document that can't be looked into without a password.
    Encrypted,
    /// An archive that is made to unpack without end.
    Bomb,
    /// An archive of a kind that is not looked into, or more than the limits allow.
    Unseen,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::Executable,
        Kind::Script,
        Kind::DoubleExtension,
        Kind::TurnedName,
        Kind::Macros,
        Kind::Encrypted,
        Kind::Bomb,
        Kind::Unseen,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Executable => "executable",
            Kind::Script => "script",
            Kind::DoubleExtension => "double_extension",
            Kind::TurnedName => "turned_name",
            Kind::Macros => "macros",
            Kind::Encrypted => "encrypted",
            Kind::Bomb => "bomb",
            Kind::Unseen => "unseen",
        }
    }

    /// In words that the sender understands.
    pub fn words(self) -> &'static str {
        match self {
            Kind::Executable => "a program",
            Kind::Script => "a script",
            Kind::DoubleExtension => "a program that is called like a document",
            Kind::TurnedName => "a file whose name is not what it looks like",
            Kind::Macros => "a document with macros",
            Kind::Encrypted => "an encrypted archive",
            Kind::Bomb => "an archive that unpacks without end",
            Kind::Unseen => "an archive that can't be looked into",
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Attachments {
    /// Whether attachments are looked at.
    pub enabled: bool,
    /// So much of a message is kept while it arrives, to be looked into; of a larger one names
    /// alone are known.
    pub attachment_bytes_max: u64,
    /// Kind by kind, what follows: `macros = "reject"`. Where nothing is said, mail is marked
    /// and no more: what harms one host's users is another's daily work, so an operator has to
    /// ask for refusals.
    pub actions: BTreeMap<Kind, Action>,
}

impl Default for Attachments {
    fn default() -> Self {
        Attachments {
            enabled: true,
            attachment_bytes_max: 16 << 20,
            actions: Kind::ALL.iter().map(|&kind| (kind, Action::Mark)).collect(),
        }
    }
}

impl Attachments {
    pub fn action(&self, finding: &Finding) -> Action {
        self.actions.get(&finding.kind).copied().unwrap_or(Action::Mark)
    }

    pub fn check(&self) -> Result<(), (&'static str, String)> {
        for (kind, action) in &self.actions {
            if *action == Action::Defer {
                let what = format!(
                    "scan.attachments.actions.{} = \"defer\": the sender would try again for days, with the same end; \
                     use one of mark, junk, quarantine, reject",
                    kind.name()
                );
                return Err(("scan.attachments.actions", what));
            }
        }
        let bytes = self.attachment_bytes_max;
        if !(1 << 16..=1 << 30).contains(&bytes) {
            let key = "scan.attachments.attachment_bytes_max";
            let what = format!("{key} = {bytes} is out of range; use {} to {}", 1 << 16, 1 << 30);
            return Err((key, what));
        }
        Ok(())
    }
}
