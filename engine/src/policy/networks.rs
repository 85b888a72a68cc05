//! Which networks are let in, and which are kept out: those of the config file, and of files as
//! they are published for countries.
//!
//! A file has a network or an address a line (`203.0.113.0/24`, `2001:db8::1`); what follows `#` or
//! `;` is a comment. Networks are kept as ranges that neither touch nor overlap, in order, so a
//! whole country costs a few hundred kilobytes, shared by all cores, and a search by halves.

use crate::auth::settings::Network;
use crate::config::{Config, ConfigError};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// Of one file: all that is routed takes less.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Whom the operator lets in and keeps out.
#[derive(Debug, Default)]
pub struct Fences {
    /// `auth.trusted_networks`, `policy.allow` and its files.
    pub allowed: Networks,
    /// `policy.deny` and its files.
    pub denied: Networks,
}

/// What `[policy]` lists, with what is in its files, as it stands there.
#[derive(Debug, Default)]
pub struct Lists {
    pub allow: Vec<Network>,
    pub deny: Vec<Network>,
}

impl Lists {
    pub fn read(config: &Config) -> Result<Lists, ConfigError> {
        let policy = &config.policy;
        let (mut allow, mut deny) = (policy.allow.clone(), policy.deny.clone());
        config.at("policy.allow_files", read(&policy.allow_files, &mut allow))?;
        config.at("policy.deny_files", read(&policy.deny_files, &mut deny))?;
        Ok(Lists { allow, deny })
    }
}

impl Fences {
    pub fn of(config: &Config, lists: &Lists) -> Fences {
        let allowed = config.auth.trusted_networks.iter().chain(&lists.allow);
        Fences { allowed: Networks::of(allowed), denied: Networks::of(&lists.deny) }
    }
}

/// Adds what is in the files.
fn read(files: &[PathBuf], networks: &mut Vec<Network>) -> Result<(), ConfigError> {
    for path in files {
        let unreadable =
            |error: std::io::Error| ConfigError(format!("can't read {}: {error}", path.display()));
        let file = File::open(path).map_err(unreadable)?;
        let lines = BufReader::new(file.take(FILE_BYTES_MAX + 1));
        let mut octets = 0;
        for (number, line) in (1..).zip(lines.lines()) {
            let line = line.map_err(unreadable)?;
            octets += line.len() as u64 + 1;
            if octets > FILE_BYTES_MAX {
                let most = FILE_BYTES_MAX >> 20;
                let path = path.display();
                return Err(ConfigError(format!("{path} has more than {most} MiB of networks")));
            }
            networks.extend(network(path, number, &line)?);
        }
    }
    Ok(())
}

fn network(path: &Path, number: u64, line: &str) -> Result<Option<Network>, ConfigError> {
    let text = line.split(['#', ';']).next().unwrap_or_default().trim();
    if text.is_empty() {
        return Ok(None);
    }
    let read = Network::try_from(text.to_owned());
    read.map(Some).map_err(|fault| ConfigError(format!("{}:{number}: {fault}", path.display())))
}

/// A set of addresses. IPv4 addresses in IPv6's clothes are IPv4 addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Networks {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Networks {
    pub fn of<'n>(networks: impl IntoIterator<Item = &'n Network>) -> Networks {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network.ends() {
                (IpAddr::V4(first), IpAddr::V4(last), _) => {
                    v4.push((first.to_bits(), last.to_bits()));
                }
                (IpAddr::V6(first), IpAddr::V6(last), _) => {
                    v6.push((first.to_bits(), last.to_bits()));
                }
                (IpAddr::V4(_), IpAddr::V6(_), _) | (IpAddr::V6(_), IpAddr::V4(_), _) => {}
            }
        }
        Networks {
            v4: merged(v4, |last| last.checked_add(1)),
            v6: merged(v6, |last| last.checked_add(1)),
        }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => is_in(&self.v4, address.to_bits()),
            IpAddr::V6(address) => is_in(&self.v6, address.to_bits()),
        }
    }
}

/// The network of so many bits that an address is in, by its first address. IPv4 addresses in
/// IPv6's clothes are IPv4 addresses.
pub fn prefix(address: IpAddr, bits_v4: u32, bits_v6: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(u32::BITS.saturating_sub(bits_v4)).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(u128::BITS.saturating_sub(bits_v6)).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

/// In order, and each as large as can be.
fn merged<N: Ord + Copy>(mut ranges: Vec<(N, N)>, next: impl Fn(N) -> Option<N>) -> Vec<(N, N)> {
    ranges.sort_unstable();
    let mut all: Vec<(N, N)> = Vec::new();
    for (first, last) in ranges {
        match all.last_mut() {
            Some((_, end)) if next(*end).is_none_or(|next| first <= next) => *end = last.max(*end),
            Some(_) | None => all.push((first, last)),
        }
    }
    all.shrink_to_fit();
    all
}

fn is_in<N: Ord + Copy>(ranges: &[(N, N)], address: N) -> bool {
    let behind = ranges.partition_point(|(first, _)| *first <= address);
    behind.checked_sub(1).is_some_and(|at| address <= ranges[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(all: &[&str]) -> Vec<Network> {
        all.iter().map(|one| Network::try_from((*one).to_owned()).unwrap()).collect()
    }

    #[test]
    fn a_network_is_named_by_its_first_address() {
        for (address, bits, first) in [
            ("192.0.2.77", (24, 64), "192.0.2.0"),
            ("::ffff:192.0.2.77", (24, 64), "192.0.2.0"),
            ("192.0.2.77", (32, 0), "192.0.2.77"),
            ("192.0.2.77", (0, 128), "0.0.0.0"),
            ("2001:db8:1:2:3::4", (24, 64), "2001:db8:1:2::"),
            ("2001:db8:1:2:3::4", (24, 48), "2001:db8:1::"),
            ("2001:db8::1", (0, 128), "2001:db8::1"),
            ("2001:db8::1", (32, 0), "::"),
        ] {
            let found = prefix(address.parse().unwrap(), bits.0, bits.1);
            assert_eq!(found, first.parse::<IpAddr>().unwrap(), "{address} {bits:?}");
        }
    }

    #[test]
    fn what_is_in_a_set_is_in_one_of_its_networks() {
        let all = networks(&[
            "10.0.0.0/8",
            "10.1.0.0/16",
            "11.0.0.0/8",
            "192.0.2.7",
            "0.0.0.0/32",
            "255.255.255.0/24",
            "2001:db8::/32",
            "2001:db9::/32",
            "::1",
            "ffff::/16",
        ]);
        let set = Networks::of(&all);
        assert_eq!((set.v4.len(), set.v6.len()), (4, 3));
        for address in [
            "9.255.255.255",
            "10.0.0.0",
            "10.1.2.3",
            "11.255.255.255",
            "12.0.0.0",
            "192.0.2.6",
            "192.0.2.7",
            "192.0.2.8",
            "0.0.0.0",
            "0.0.0.1",
            "255.255.255.255",
            "::ffff:10.0.0.1",
            "::ffff:12.0.0.1",
            "2001:db7::",
            "2001:db8::5",
            "2001:db9:ffff::",
            "2001:dba::",
            "::",
            "::1",
            "::2",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            let address: IpAddr = address.parse().unwrap();
            let one_by_one = all.iter().any(|network| network.contains(address));
            assert_eq!(set.contains(address), one_by_one, "{address}");
        }
        assert!(!Networks::default().contains(IpAddr::from([10, 0, 0, 1])));
        let everything = Networks::of(&networks(&["0.0.0.0/0", "::/0", "1.2.3.4"]));
        assert_eq!((everything.v4.len(), everything.v6.len()), (1, 1));
    }

    #[test]
    fn a_file_is_read_with_its_comments_and_a_wrong_line_is_named() {
        let read = |line: &str| network(Path::new("xx.zone"), 7, line).map_err(|error| error.0);
        assert_eq!(read("  203.0.113.0/24 ; SBL1"), Ok(networks(&["203.0.113.0/24"]).pop()));
        for nothing in ["", "# all of xx", "   ", ";"] {
            assert_eq!(read(nothing), Ok(None));
        }
        let fault = read("203.0.113.0/33").unwrap_err();
        assert!(fault.starts_with("xx.zone:7: "), "{fault}");
    }
}
