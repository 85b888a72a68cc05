//! Every dialogue of `tests/transcripts`, played against its machine.

use crate::worlds::{folder, imap, imap_client, managesieve, pop3, pop3_client, smtp, smtp_client};
use kura_tests::transcript::Transcript;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// All of a folder, so that one run shows every dialogue that fails.
fn play_all(name: &str, play: impl Fn(&Transcript)) {
    let transcripts = Transcript::read_all(&folder(name));
    let fails =
        |transcript: &&Transcript| catch_unwind(AssertUnwindSafe(|| play(transcript))).is_err();
    let failed: Vec<_> = transcripts.iter().filter(fails).map(|failed| &failed.path).collect();
    assert!(failed.is_empty(), "failed: {failed:#?}");
}

#[test]
fn smtp_dialogues() {
    play_all("smtp", |transcript| transcript.play(|| smtp(transcript)));
}

#[test]
fn lmtp_dialogues() {
    play_all("lmtp", |transcript| transcript.play(|| smtp(transcript)));
}

#[test]
fn pop3_dialogues() {
    play_all("pop3", |transcript| transcript.play(|| pop3(transcript)));
}

/// The machine alone; dialogues with a store under it are in `imap_transcripts.rs`.
#[test]
fn imap_machine_dialogues() {
    play_all("imap_machine", |transcript| transcript.play(|| imap(transcript)));
}

#[test]
fn managesieve_dialogues() {
    play_all("managesieve", |transcript| transcript.play(|| managesieve(transcript)));
}

#[test]
fn smtp_client_dialogues() {
    play_all("smtp_client", |transcript| transcript.play(|| smtp_client(transcript)));
}

#[test]
fn pop3_client_dialogues() {
    play_all("pop3_client", |transcript| transcript.play(|| pop3_client(transcript)));
}

#[test]
fn imap_client_dialogues() {
    play_all("imap_client", |transcript| transcript.play(|| imap_client(transcript)));
}
