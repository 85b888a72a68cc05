//! The subject that a transcript's facts ask for.

use kura_tests::laws::{Subject, Talk};
use kura_tests::subjects::{
    ImapClientSubject, ImapSubject, ManageSieveSubject, Pop3ClientSubject, Pop3Subject,
    SmtpClientFacts, SmtpClientSubject, SmtpSubject, parcel,
};
use kura_tests::transcript::Transcript;
use protocols::smtp::Role;
use std::path::{Path, PathBuf};

pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts").join(name)
}

/// How much junk a machine is given in a test.
pub const ROUNDS: u64 = 1500;

/// A law for each transcript of a folder.
pub fn every_talk<S: Subject>(
    name: &str,
    make: impl Fn(&Transcript) -> S,
    law: impl Fn(&dyn Fn() -> S, &Talk),
) {
    for transcript in Transcript::read_all(&folder(name)) {
        law(&|| make(&transcript), &transcript.talk());
    }
}

pub fn talks(name: &str) -> Vec<Talk> {
    Transcript::read_all(&folder(name)).iter().map(Transcript::talk).collect()
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
    match transcript.fact("gateway") {
        Some("yes") => SmtpSubject::for_gateway(),
        Some("with TLS") => SmtpSubject::for_gateway_with_tls(),
        _ => SmtpSubject::new(role, is_tls(transcript), false),
    }
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

fn text(transcript: &Transcript, fact: &str) -> String {
    transcript.fact(fact).unwrap_or_default().to_owned()
}

pub fn smtp_client(transcript: &Transcript) -> SmtpClientSubject {
    SmtpClientSubject::new(SmtpClientFacts {
        lmtp: transcript.fact("role") == Some("lmtp"),
        tls: text(transcript, "tls"),
        login: transcript.fact("login").map(str::to_owned),
        parcels: text(transcript, "send").split_whitespace().map(parcel).collect(),
    })
}

pub fn pop3_client(transcript: &Transcript) -> Pop3ClientSubject {
    let login = transcript.fact("login").unwrap_or("careless");
    Pop3ClientSubject::new(&text(transcript, "tls"), login)
}

pub fn imap_client(transcript: &Transcript) -> ImapClientSubject {
    let login = transcript.fact("login").unwrap_or("careless");
    ImapClientSubject::new(&text(transcript, "tls"), login, &text(transcript, "plan"))
}
