//! How long a peer that brings no mail is listened to: strikes, idling, and what we put off.

use super::*;

#[test]
fn a_browser_is_sent_away() {
    for verb in ["GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE", "PATCH", "post"] {
        let mut peer = Peer::fresh(Role::Mx);
        let request = format!("{verb} / HTTP/1.1\r\nHost: x\r\n\r\nEHLO c\r\nMAIL FROM:<a@b>\r\n");
        assert_eq!(peer.say(&request), "421 4.7.0 This is a mail server, goodbye\r\n");
        assert!(peer.closed && peer.events.is_empty());
    }
}

#[test]
fn idling_is_limited_in_each_of_its_forms() {
    for line in [
        "NOOP\r\n",
        "RSET\r\n",
        "VRFY x\r\n",
        "HELP\r\n",
        "EHLO c\r\n",
        "HELO c\r\n",
        "EHLO c\r\nMAIL FROM:<a@c.test>\r\n",
        "MAIL FROM:<refused@c.test>\r\n",
        "MAIL FROM:<a@c.test>\r\nRSET\r\n",
    ] {
        let mut peer = Peer::ready(Role::Mx);
        let replies = peer.say(&line.repeat(300));
        assert!(replies.ends_with("\r\n421 4.7.0 Too many errors, goodbye\r\n"), "{line:?}");
        assert!(peer.closed);
    }
}

#[test]
fn messages_are_not_idling() {
    let mut peer = Peer::ready(Role::Mx);
    let transaction = "MAIL FROM:<a@c.test>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\nx\r\n.\r\n";
    let codes = peer.codes(&transaction.repeat(300));
    assert_eq!(codes, ["250", "250", "354", "250"].repeat(300));
}

#[test]
fn faults_are_strikes_and_enough_of_them_end_the_session() {
    let mut peer = Peer::ready(Role::Mx);
    let codes = peer.codes(&"WHAT\r\n".repeat(30));
    assert_eq!(codes, [vec!["500"; 19], vec!["421"]].concat());
    assert!(peer.closed);
    // So does guessing recipients.
    let mut peer = Peer::ready(Role::Mx);
    peer.say("MAIL FROM:<a@c.test>\r\n");
    let codes = peer.codes(&"RCPT TO:<nobody@mx.test>\r\n".repeat(30));
    assert_eq!(codes, [vec!["550"; 19], vec!["421"]].concat());
}

/// However much of it is pipelined: the peer could not know.
#[test]
fn what_we_put_off_is_no_fault_of_the_peers() {
    let whole = "MAIL FROM:<full@c.test>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\n";
    let mut peer = Peer::ready(Role::Mx);
    for _ in 0..3 {
        let codes = peer.codes(&whole.repeat(80));
        assert_eq!(codes, ["452", "503", "503"].repeat(80));
        let taken = "MAIL FROM:<a@c.test>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\nx\r\n.\r\n";
        assert_eq!(peer.codes(taken), ["250", "250", "354", "250"]);
    }
    let with_reset = "MAIL FROM:<full@c.test>\r\nRSET\r\n";
    assert_eq!(peer.codes(&with_reset.repeat(300)), ["452", "250"].repeat(300));
    // All recipients, the message, and its chunks.
    let mut peer = Peer::ready(Role::Mx);
    let later = "MAIL FROM:<a@c.test>\r\nRCPT TO:<later@mx.test>\r\nDATA\r\nRSET\r\n";
    assert_eq!(peer.codes(&later.repeat(50)), ["250", "451", "554", "250"].repeat(50));
    peer.is_full = true;
    let chunks = "MAIL FROM:<a@c.test>\r\nRCPT TO:<b@mx.test>\r\n".to_owned()
        + &"BDAT 2\r\n\r\n".repeat(100);
    let expected = [vec!["250", "250", "452"], vec!["503"; 99]].concat();
    for _ in 0..3 {
        assert_eq!(peer.codes(&chunks), expected);
    }
    // It is for the transaction that was put off alone.
    peer.say("RSET\r\n");
    let codes = peer.codes(&"RCPT TO:<b@mx.test>\r\n".repeat(30));
    assert_eq!(codes, [vec!["503"; 19], vec!["421"]].concat());
}

#[test]
fn who_goes_on_while_nothing_is_taken_is_sent_away_in_the_end() {
    let whole = "MAIL FROM:<a@c.test>\r\nRCPT TO:<b@mx.test>\r\n";
    let data = format!("{whole}DATA\r\n");
    let chunks = format!("{whole}{}", "BDAT 2\r\n\r\n".repeat(3));
    let recipients =
        "MAIL FROM:<a@c.test>\r\n".to_owned() + &"RCPT TO:<later@mx.test>\r\n".repeat(1000);
    for line in [
        "MAIL FROM:<full@c.test>\r\n",
        "MAIL FROM:<full@c.test>\r\nRSET\r\n",
        &data,
        &chunks,
        &recipients,
    ] {
        let mut peer = Peer::ready(Role::Mx);
        peer.is_full = true;
        let replies = peer.say(&line.repeat(1001));
        assert!(replies.ends_with("\r\n421 4.3.2 No mail is taken now, come again later\r\n"));
        assert!(peer.closed);
    }
}
