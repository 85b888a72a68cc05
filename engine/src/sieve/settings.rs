//! `[sieve]` of the config file: the operator's scripts. They are read and compiled before anything
//! starts, and again at a reload; a faulty one is named with its line and column.

use crate::config::{Config, ConfigError};
use protocols::sieve::{Fault, Location, Script};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Runs before every user's script.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<PathBuf>,
    /// Runs behind it, on what it has kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<PathBuf>,
    /// What `include :global` finds, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub global: BTreeMap<String, PathBuf>,
    /// The same for the accounts of one domain: within those of all, around the user's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub domains: BTreeMap<String, OfDomain>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OfDomain {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<PathBuf>,
}

impl Settings {
    /// All files, each with a name of its own that a backup keeps it under.
    pub fn files_mut(&mut self) -> Vec<(String, &mut PathBuf)> {
        let Settings { before, after, global, domains } = self;
        let mut files: Vec<(String, &mut PathBuf)> = Vec::new();
        files.extend(before.iter_mut().map(|path| ("sieve-before.sieve".to_owned(), path)));
        files.extend(after.iter_mut().map(|path| ("sieve-after.sieve".to_owned(), path)));
        let numbered = (1..).zip(global.values_mut());
        files.extend(numbered.map(|(number, path)| (format!("sieve-global-{number}.sieve"), path)));
        for (number, of_domain) in (1..).zip(domains.values_mut()) {
            let OfDomain { before, after } = of_domain;
            let name = |place: &str| format!("sieve-domain-{number}-{place}.sieve");
            files.extend(before.iter_mut().map(|path| (name("before"), path)));
            files.extend(after.iter_mut().map(|path| (name("after"), path)));
        }
        files
    }

    /// What the types can't say.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        for domain in self.domains.keys() {
            if crate::directory::canonical_domain(domain).as_ref() != Some(domain) {
                let what =
                    format!("sieve.domains: {domain:?} is no domain in lower case (A-labels)");
                return Err(("sieve.domains", what));
            }
        }
        Ok(())
    }
}

/// The operator's scripts, compiled.
#[derive(Debug, Default)]
pub struct SystemScripts {
    all: Around,
    domains: HashMap<String, Around>,
    global: HashMap<String, Arc<Script>>,
}

#[derive(Debug, Default)]
struct Around {
    before: Option<Arc<Script>>,
    after: Option<Arc<Script>>,
}

impl Around {
    fn is_empty(&self) -> bool {
        self.before.is_none() && self.after.is_none()
    }
}

impl SystemScripts {
    pub fn load(config: &Config) -> Result<SystemScripts, ConfigError> {
        let settings = &config.sieve;
        let one = |key: &str, file: &Path| config.at(key, load(file));
        let around = |section: &str, before: &Option<PathBuf>, after: &Option<PathBuf>| {
            let one = |name: &str, file: &Option<PathBuf>| {
                file.as_deref().map(|file| one(&format!("{section}.{name}"), file)).transpose()
            };
            Ok::<_, ConfigError>(Around {
                before: one("before", before)?,
                after: one("after", after)?,
            })
        };
        let mut scripts = SystemScripts {
            all: around("sieve", &settings.before, &settings.after)?,
            ..SystemScripts::default()
        };
        for (name, file) in &settings.global {
            scripts.global.insert(name.clone(), one("sieve.global", file)?);
        }
        for (domain, of_domain) in &settings.domains {
            let section = format!("sieve.domains.{domain:?}");
            let around = around(&section, &of_domain.before, &of_domain.after)?;
            scripts.domains.insert(domain.clone(), around);
        }
        scripts.check_includes(&config.file)?;
        Ok(scripts)
    }

    /// What the operator's scripts include of the operator's has to be there.
    fn check_includes(&self, file: &Path) -> Result<(), ConfigError> {
        let around = std::iter::once(&self.all).chain(self.domains.values());
        let all = around.flat_map(|around| [&around.before, &around.after]).flatten();
        for include in all.chain(self.global.values()).flat_map(|script| script.includes()) {
            if include.location == Location::Global && !self.global.contains_key(&include.name) {
                let name = &include.name;
                return Err(ConfigError(format!(
                    "{}: a script in [sieve] includes the global script {name:?}, which is not there; add \
                     {name:?} = \"FILE\" to [sieve.global]",
                    file.display()
                )));
            }
        }
        Ok(())
    }

    /// Whether one of them looks at mail for this address.
    pub fn applies(&self, address: &str) -> bool {
        !self.all.is_empty() || self.of_domain(address).is_some_and(|around| !around.is_empty())
    }

    /// Those that run before a user's script, and behind it, in their order.
    pub fn around(&self, address: &str) -> (Vec<Arc<Script>>, Vec<Arc<Script>>) {
        let domain = self.of_domain(address);
        let before = [self.all.before.clone(), domain.and_then(|domain| domain.before.clone())];
        let after = [domain.and_then(|domain| domain.after.clone()), self.all.after.clone()];
        (before.into_iter().flatten().collect(), after.into_iter().flatten().collect())
    }

    pub fn global(&self, name: &str) -> Option<&Arc<Script>> {
        self.global.get(name)
    }

    fn of_domain(&self, address: &str) -> Option<&Around> {
        self.domains.get(address.rsplit_once('@')?.1)
    }
}

fn load(file: &Path) -> Result<Arc<Script>, ConfigError> {
    let source = std::fs::read(file).map_err(|error| {
        ConfigError(format!("can't read Sieve script {}: {error}", file.display()))
    })?;
    let script = Script::compile(&source, &super::limits())
        .map_err(|faults| ConfigError(faulty(file, &faults)))?;
    Ok(Arc::new(script))
}

/// One line: the first fault with its place, and how to see the others.
fn faulty(file: &Path, faults: &[Fault]) -> String {
    let file = file.display();
    let Some(Fault { at, text }) = faults.first() else { return format!("{file}: faulty") };
    let more = match faults.len() {
        0 | 1 => String::new(),
        many => format!(" (and {} more: kura sieve check {file})", many - 1),
    };
    format!("{file}:{}:{}: {text}{more}", at.line, at.column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str, config: &str, files: &[(&str, &str)]) -> Result<SystemScripts, String> {
        let dir = std::env::temp_dir().join(format!("kura-sieve-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for (file, text) in files {
            std::fs::write(dir.join(file), text).unwrap();
        }
        let file = dir.join("kura.toml");
        std::fs::write(&file, format!("hostname = \"a.test\"\ndata_dir = \"d\"\n{config}"))
            .unwrap();
        let loaded = Config::load(&file).and_then(|config| SystemScripts::load(&config));
        std::fs::remove_dir_all(&dir).unwrap();
        loaded.map_err(|error| error.0)
    }

    #[test]
    fn scripts_surround_the_users_from_the_widest_to_the_narrowest() {
        let config = "[sieve]\nbefore = \"b\"\nafter = \"a\"\n[sieve.domains.\"one.test\"]\nbefore = \"b1\"\nafter = \"a1\"\n";
        let files = [("b", "keep;"), ("a", "keep;"), ("b1", "stop;"), ("a1", "stop;")];
        let scripts = load("around", config, &files).unwrap();
        let (before, after) = scripts.around("ann@one.test");
        assert!(Arc::ptr_eq(&before[0], scripts.all.before.as_ref().unwrap()));
        assert!(Arc::ptr_eq(&after[1], scripts.all.after.as_ref().unwrap()));
        assert_eq!((before.len(), after.len()), (2, 2));
        let (before, after) = scripts.around("ann@two.test");
        assert_eq!((before.len(), after.len()), (1, 1));
        let scripts = load("none", "", &[]).unwrap();
        assert!(!scripts.applies("ann@one.test"));
    }

    #[test]
    fn what_is_wrong_is_said_with_file_line_and_column() {
        let said = |name: &str, config: &str, files: &[(&str, &str)]| {
            load(name, config, files).unwrap_err()
        };
        let error = said("faulty", "[sieve]\nafter = \"a\"\n", &[("a", "keep;\n  kep;\nxeep;")]);
        assert!(error.contains("/a:2:3: unknown command `kep`"), "{error}");
        assert!(error.contains("kura.toml:4: sieve.after: "), "{error}");
        assert!(error.contains("(and 1 more: kura sieve check "), "{error}");
        let error = said("missing", "[sieve]\nbefore = \"nowhere\"\n", &[]);
        assert!(error.contains("can't read") && error.contains("/nowhere"), "{error}");
        assert!(error.contains("kura.toml:4: sieve.before: "), "{error}");
        let config = "[sieve.domains.\"a.test\"]\nbefore = \"nowhere\"\n";
        let error = said("missing-of-domain", config, &[]);
        assert!(error.contains("kura.toml:4: sieve.domains.\"a.test\".before: "), "{error}");
        let include = "require \"include\"; include :global \"common\";";
        let error = said("include", "[sieve]\nbefore = \"b\"\n", &[("b", include)]);
        assert!(error.contains("\"common\"") && error.contains("[sieve.global]"), "{error}");
        let error = said("domain", "[sieve.domains.\"One.test\"]\nbefore = \"b\"\n", &[]);
        assert!(error.contains("kura.toml") && error.contains("lower case"), "{error}");
        let error = said("key", "[sieve]\nbehind = \"b\"\n", &[]);
        assert!(error.contains("kura.toml:4") && error.contains("behind"), "{error}");
    }
}
