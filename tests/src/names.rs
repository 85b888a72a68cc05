//! A name server small enough to read: UDP on loopback, records from a table.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};

pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const PTR: u16 = 12;
pub const MX: u16 = 15;
pub const TXT: u16 = 16;
pub const AAAA: u16 = 28;

const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;

/// What one name has.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// Type and data, as on the wire.
    pub records: Vec<(u16, Vec<u8>)>,
    /// Questions about types that are not there fail, rather than being answered "no such record".
    pub is_broken: bool,
}

/// By name, lower case, without the final dot.
pub type Zone = HashMap<Vec<u8>, Entry>;

/// Serves `zone` for as long as the process lives.
pub fn serve(zone: Zone) -> SocketAddr {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a free port on loopback");
    let address = socket.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        let mut question = [0; 4096];
        while let Ok((octets, asker)) = socket.recv_from(&mut question) {
            if let Some(answer) = answer(&zone, &question[..octets]) {
                let _ = socket.send_to(&answer, asker);
            }
        }
    });
    address
}

/// `name` on the wire.
pub fn wire_name(name: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split(|&byte| byte == b'.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).expect("a label of at most 63 octets"));
        wire.extend_from_slice(label);
    }
    wire.push(0);
    wire
}

/// Character strings, as a TXT record has them.
pub fn wire_text(strings: &[Vec<u8>]) -> Vec<u8> {
    let mut wire = Vec::new();
    if strings.iter().all(Vec::is_empty) {
        // A record without any string is illegal (RFC 1035 section 3.3.14).
        wire.push(0);
    }
    for string in strings {
        for piece in string.chunks(255) {
            wire.push(u8::try_from(piece.len()).expect("at most 255"));
            wire.extend_from_slice(piece);
        }
    }
    wire
}

fn answer(zone: &Zone, question: &[u8]) -> Option<Vec<u8>> {
    let (mut at, mut name) = (12, Vec::new());
    loop {
        let octets = usize::from(*question.get(at)?);
        at += 1;
        if octets == 0 {
            break;
        }
        if !name.is_empty() {
            name.push(b'.');
        }
        name.extend(question.get(at..at + octets)?.to_ascii_lowercase());
        at += octets;
    }
    let kind = u16::from_be_bytes(question.get(at..at + 2)?.try_into().ok()?);
    let asked = question.get(12..at + 4)?;
    let mut found = Vec::new();
    let mut code = NO_ERROR;
    for _ in 0..8 {
        let Some(entry) = zone.get(&name) else {
            code = NO_SUCH_NAME;
            break;
        };
        let of = |wanted: u16| entry.records.iter().filter(move |(known, _)| *known == wanted);
        found.extend(of(kind).map(|(kind, data)| (name.clone(), *kind, data.clone())));
        let Some((_, alias)) = of(CNAME).next().filter(|_| kind != CNAME) else {
            if entry.is_broken && found.is_empty() {
                code = SERVER_FAILURE;
            }
            break;
        };
        found.push((name, CNAME, alias.clone()));
        name = read_name(alias);
    }
    if !found.is_empty() {
        code = NO_ERROR;
    }
    let count = u16::try_from(found.len()).ok()?;
    let mut wire = question.get(..2)?.to_vec();
    wire.extend([0x85, 0x80 | code, 0, 1]);
    wire.extend(count.to_be_bytes());
    wire.extend([0, 0, 0, 0]);
    wire.extend_from_slice(asked);
    for (name, kind, data) in found {
        wire.extend(wire_name(&name));
        wire.extend(kind.to_be_bytes());
        wire.extend([0, 1, 0, 0, 0, 60]);
        wire.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        wire.extend(data);
    }
    Some(wire)
}

fn read_name(wire: &[u8]) -> Vec<u8> {
    let (mut rest, mut name) = (wire, Vec::new());
    while let Some((&octets, behind)) = rest.split_first().filter(|(octets, _)| **octets > 0) {
        let (label, more) = behind.split_at(usize::from(octets));
        if !name.is_empty() {
            name.push(b'.');
        }
        name.extend(label.to_ascii_lowercase());
        rest = more;
    }
    name
}
