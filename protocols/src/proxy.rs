//! The PROXY protocol, version 2: what a load balancer writes in front of a connection to
//! say whose it is.
//!
//! From the specification of HAProxy ("The PROXY protocol", section 2.2): twelve octets that no
//! other protocol begins with, a version and a command, a family and a transport, the length of
//! what follows (u16), and there the addresses; behind them extensions, which are skipped. Version
//! 1, which is text, is not read. Pure: how many octets are still needed is the only thing that is
//! kept, and that by the caller.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
pub const START_BYTES: usize = 16;
/// Addresses take 36 octets at most (216 between Unix sockets), extensions are a few hundred:
/// certificates' names and the like.
pub const HEADER_BYTES_MAX: usize = 4096;

/// A header that is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// A connection of the balancer itself, such as a check whether we are here; or of somebody
    /// whose address it can't say.
    Own,
    /// One that it passes on, of this client.
    Proxied(SocketAddr),
}

/// What has come so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// The header has so many octets at least.
    Needs(usize),
    /// It is complete, and takes so many octets: behind them the client speaks.
    Done(Header, usize),
}

/// Why it is no header that we take. What the sender has to mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It begins in another way.
    Signature,
    Version,
    Command,
    /// Neither TCP over IPv4 nor over IPv6.
    Family,
    /// It says less than an address takes.
    Short,
    Long,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Fault::Signature => "it does not begin with a PROXY protocol header of version 2",
            Fault::Version => "its header is of another version than 2",
            Fault::Command => "its header is neither LOCAL nor PROXY",
            Fault::Family => "its header is of another kind than TCP over IPv4 or IPv6",
            Fault::Short => "its header is too short for its addresses",
            Fault::Long => "its header is too long",
        })
    }
}

/// Reads the beginning of a connection. A fault shows as soon as it is there, so nobody waits
/// for the rest of it.
pub fn read(input: &[u8]) -> Result<Read, Fault> {
    if input.iter().zip(SIGNATURE).any(|(octet, expected)| octet != expected) {
        return Err(Fault::Signature);
    }
    let Some((version_and_command, rest)) = input.get(12..).and_then(<[u8]>::split_first) else {
        return Ok(Read::Needs(START_BYTES));
    };
    if version_and_command >> 4 != 2 {
        return Err(Fault::Version);
    }
    let is_own = match version_and_command & 15 {
        0 => true,
        1 => false,
        _ => return Err(Fault::Command),
    };
    let Some(([family, length @ ..], rest)) = rest.split_first_chunk::<3>() else {
        return Ok(Read::Needs(START_BYTES));
    };
    let length = usize::from(u16::from_be_bytes(*length));
    let whole = START_BYTES.saturating_add(length);
    if whole > HEADER_BYTES_MAX {
        return Err(Fault::Long);
    }
    let addresses = match family {
        // A connection of its own: what else stands there says nothing. UNSPEC: it does not know.
        _ if is_own => 0,
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        _ => return Err(Fault::Family),
    };
    if length < addresses {
        return Err(Fault::Short);
    }
    let Some(body) = rest.get(..length) else { return Ok(Read::Needs(whole)) };
    let client = match (addresses, body) {
        (12, [a, b, c, d, _, _, _, _, port @ ..]) => {
            port_of(port).map(|port| SocketAddr::new(Ipv4Addr::new(*a, *b, *c, *d).into(), port))
        }
        (36, body) => body.split_first_chunk::<16>().and_then(|(source, rest)| {
            let port = rest.get(16..).and_then(port_of)?;
            // An IPv4 address in IPv6's clothes is an IPv4 address.
            Some(SocketAddr::new(IpAddr::from(Ipv6Addr::from(*source)).to_canonical(), port))
        }),
        _ => None,
    };
    Ok(Read::Done(client.map_or(Header::Own, Header::Proxied), whole))
}

fn port_of(octets: &[u8]) -> Option<u16> {
    octets.first_chunk::<2>().map(|port| u16::from_be_bytes(*port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[version_and_command, family], &length, body].concat()
    }

    const FOUR: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0x30, 0x39, 0, 25];

    fn six(source: &str) -> Vec<u8> {
        let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        [&octets(source)[..], &octets("2001:db8::25"), &[0x30, 0x39, 0, 25]].concat()
    }

    #[test]
    fn clients_are_read_and_what_follows_is_theirs() {
        for (family, body, client) in [
            (0x11, FOUR.to_vec(), "192.0.2.1:12345"),
            (0x11, [&FOUR[..], b"\x03\0\x04abcd"].concat(), "192.0.2.1:12345"),
            (0x21, six("2001:db8::1"), "[2001:db8::1]:12345"),
            (0x21, six("::ffff:192.0.2.1"), "192.0.2.1:12345"),
        ] {
            let bytes = header(0x21, family, &body);
            let expected = Read::Done(Header::Proxied(client.parse().unwrap()), bytes.len());
            assert_eq!(read(&bytes), Ok(expected));
            assert_eq!(read(&[&bytes[..], b"EHLO x\r\n"].concat()), Ok(expected));
        }
    }

    #[test]
    fn a_balancers_own_connections_are_its_own() {
        for bytes in [
            header(0x20, 0x00, b""),
            header(0x20, 0x11, &FOUR),
            header(0x20, 0x31, b"whatever"),
            header(0x21, 0x00, b""),
            header(0x21, 0x00, b"something"),
        ] {
            assert_eq!(read(&bytes), Ok(Read::Done(Header::Own, bytes.len())), "{bytes:?}");
        }
    }

    #[test]
    fn cuts_do_not_matter() {
        let bytes = header(0x21, 0x11, &FOUR);
        for end in 0..bytes.len() {
            let needed = if end < START_BYTES { START_BYTES } else { bytes.len() };
            assert_eq!(read(&bytes[..end]), Ok(Read::Needs(needed)), "{end}");
        }
    }

    #[test]
    fn faults_show_as_soon_as_they_are_there() {
        let start = |more: &[u8]| [&SIGNATURE[..], more].concat();
        for (bytes, fault) in [
            (b"EHLO".to_vec(), Fault::Signature),
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 1 25\r\n".to_vec(), Fault::Signature),
            (b"\r\n\r\n\0\r\nQUIX".to_vec(), Fault::Signature),
            (start(&[0x11]), Fault::Version),
            (start(&[0x22]), Fault::Command),
            (start(&[0x21, 0x12, 0, 12]), Fault::Family),
            (start(&[0x21, 0x31, 0, 216]), Fault::Family),
            (start(&[0x21, 0x11, 0, 11]), Fault::Short),
            (start(&[0x21, 0x21, 0, 35]), Fault::Short),
            (start(&[0x21, 0x11, 0xff, 0xff]), Fault::Long),
            (start(&[0x20, 0x00, 0x10, 0x00]), Fault::Long),
        ] {
            assert_eq!(read(&bytes), Err(fault), "{bytes:?}");
            assert_eq!(read(&[&bytes[..], &[7; 99]].concat()), Err(fault), "more changes nothing");
        }
    }
}
