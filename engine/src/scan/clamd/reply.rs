//! What clamd answers, read whatever it is. Pure; fuzzed with the rest
//! (`engine/fuzz/fuzz_targets/viruses.rs`).

use crate::scan::verdict::{Version, plain};

/// What a server says of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Clean,
    Found(String),
    TooLarge,
    /// It has failed, or it is no clamd.
    Fault(String),
}

/// Reads the reply to INSTREAM, such as `stream: Eicar-Test-Signature FOUND` and a NUL. Without the
/// NUL it may have been cut, and nothing cut is clean.
pub fn reply(bytes: &[u8]) -> Reply {
    let line = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let is_cut = line.len() == bytes.len();
    let line = line.trim_ascii();
    let said = line.strip_prefix(b"stream:").map(<[u8]>::trim_ascii);
    match said {
        Some(b"OK") if !is_cut => return Reply::Clean,
        Some(said) => {
            if let Some(name) = said.strip_suffix(b" FOUND") {
                let name = plain(name);
                let name = if name.is_empty() { "unnamed".to_owned() } else { name };
                return Reply::Found(name);
            }
        }
        None if line == b"INSTREAM size limit exceeded. ERROR" => return Reply::TooLarge,
        None => {}
    }
    let said = plain(line);
    Reply::Fault(if said.is_empty() { "no answer".to_owned() } else { format!("answered {said}") })
}

/// Reads the reply to VERSION: `ClamAV 1.4.6/27000/Tue Nov 24 09:00:00 2026`, or less of it.
pub fn version(bytes: &[u8]) -> Option<Version> {
    let line = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let mut parts = line.split(|&byte| byte == b'/');
    let engine = plain(parts.next()?);
    let signatures = plain(parts.next().unwrap_or_default());
    engine.starts_with("ClamAV").then_some(Version { engine, signatures })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_whatever_a_server_says() {
        let found = |name: &str| Reply::Found(name.to_owned());
        for (bytes, expected) in [
            (&b"stream: OK\0"[..], Reply::Clean),
            (b"stream: OK\n\0", Reply::Clean),
            (b"stream: Eicar-Test-Signature FOUND\0", found("Eicar-Test-Signature")),
            (
                b"stream: Eicar.UNOFFICIAL(44d88612:68) FOUND\0",
                found("Eicar.UNOFFICIAL44d88612:68"),
            ),
            (b"stream: \xff\r FOUND\0", found("unnamed")),
            (b"INSTREAM size limit exceeded. ERROR\0", Reply::TooLarge),
        ] {
            assert_eq!(reply(bytes), expected, "{bytes:?}");
        }
        for fault in [
            &b""[..],
            b"\0",
            b"\0stream: OK\0",
            b"OK\0",
            b"stream: OK",
            b"stream: OK\n",
            b"stream: \0",
            b"stream: OKAY\0",
            b"stream: FOUND\0",
            b"stream: Can't open file ERROR\0",
            b"COMMAND READ TIMED OUT\0",
            b"HTTP/1.1 400 Bad Request\r\n",
        ] {
            assert!(matches!(reply(fault), Reply::Fault(_)), "{fault:?}");
        }
    }

    #[test]
    fn a_version_has_signatures_or_none() {
        let read = |text: &str| version(text.as_bytes()).map(|v| (v.engine, v.signatures));
        let some =
            |engine: &str, signatures: &str| Some((engine.to_owned(), signatures.to_owned()));
        assert_eq!(read("ClamAV 1.4.6/27000/Tue Nov 24\0"), some("ClamAV 1.4.6", "27000"));
        assert_eq!(read("ClamAV 1.4.6\0"), some("ClamAV 1.4.6", ""));
        assert_eq!(read("UNKNOWN COMMAND\0"), None);
        assert_eq!(read(""), None);
    }
}
