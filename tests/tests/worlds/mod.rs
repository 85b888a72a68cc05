//! The subject that a transcript's facts ask for.
#![allow(dead_code)] // each test binary uses its part

use kura_tests::subjects::{ImapSubject, ManageSieveSubject, Pop3Subject, SmtpSubject};
use kura_tests::transcript::Transcript;
use protocols::smtp::Role;
use std::path::{Path, PathBuf};

pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts").join(name)
}

fn is_tls(transcript: &Transcript) -> bool {
    match transcript.fact("tls") {
        Some("yes") => true,
        Some("no") | None => false,
        Some(other) => panic!("{}: tls: {other}", transcript.path.display()),
    }
}

pub fn smtp(transcript: &Transcript) -> SmtpSubject {
    let role = match transcript.fact("role") {
        Some("mx") => Role::Mx,
        Some("submission") => Role::Submission,
        Some("lmtp") => Role::Lmtp,
        other => panic!("{}: role: {other:?}", transcript.path.display()),
    };
    SmtpSubject::new(role, is_tls(transcript), false)
}

pub fn pop3(transcript: &Transcript) -> Pop3Subject {
    Pop3Subject::new(is_tls(transcript), false)
}

pub fn imap(transcript: &Transcript) -> ImapSubject {
    ImapSubject::new(is_tls(transcript), false)
}

pub fn managesieve(transcript: &Transcript) -> ManageSieveSubject {
    ManageSieveSubject::new(is_tls(transcript), false)
}
