//! What is said to other servers, beside what RFCs and our own server say to it.

use super::client::*;
use crate::sasl;
use crate::wire::remote::Trouble;

fn login(secret: Secret) -> Login {
    let nonce = "rOprNGfwEbeRWgbNEkqO".into();
    Login { user: "user".into(), secret, nonce, in_clear: false }
}

fn password() -> Login {
    login(Secret::Password("pencil".into()))
}

const SERVER_FIRST: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn final_of(exchange: &mut Exchange) -> Vec<u8> {
    match exchange.challenge(SERVER_FIRST.as_bytes()) {
        Reaction::Derive(derivation) => exchange.derived(&derivation.run()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_example_of_rfc_7677_is_reproduced() {
    let (mut exchange, first) = Exchange::start(Mechanism::ScramSha256, &password());
    assert_eq!(first.unwrap(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    let last = final_of(&mut exchange);
    let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    assert_eq!(String::from_utf8(last).unwrap(), expected);
    assert!(!exchange.may_end(), "the server has proved nothing yet");
    assert_eq!(exchange.challenge(SERVER_FINAL), Reaction::Respond(Vec::new()));
    assert!(exchange.may_end());
}

#[test]
fn a_server_that_does_not_know_the_password_is_found_out() {
    for wrong in [&b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G8="[..], b"e=other-error", b""] {
        let (mut exchange, _) = Exchange::start(Mechanism::ScramSha256, &password());
        let _ = final_of(&mut exchange);
        assert!(matches!(exchange.challenge(wrong), Reaction::Cancel(_)), "{wrong:?}");
        assert!(!exchange.may_end());
    }
}

#[test]
fn odd_first_messages_cancel() {
    for odd in [
        "",
        "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        "r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1",
        "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=2000000000",
        "r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096",
        "r=rOprNGfwEbeRWgbNEkqOx,s=!,i=4096",
        "m=x,r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    ] {
        let (mut exchange, _) = Exchange::start(Mechanism::ScramSha256, &password());
        assert!(matches!(exchange.challenge(odd.as_bytes()), Reaction::Cancel(_)), "{odd}");
    }
}

#[test]
fn our_own_server_takes_what_is_said() {
    let (mut client, first) = Exchange::start(Mechanism::Plain, &password());
    let (mut server, _) = sasl::Exchange::start(sasl::Mechanism::Plain);
    let user = sasl::Credentials { user: "user".into(), password: b"pencil".to_vec() };
    assert_eq!(server.respond(&first.unwrap()), sasl::Progress::Password(user.clone()));
    assert!(client.may_end());
    assert!(matches!(client.challenge(b""), Reaction::Cancel(_)));

    let (mut client, none) = Exchange::start(Mechanism::Login, &password());
    assert!(none.is_none() && !client.may_end());
    assert_eq!(client.challenge(b"Username:"), Reaction::Respond(b"user".to_vec()));
    assert_eq!(client.challenge(b"Password:"), Reaction::Respond(b"pencil".to_vec()));
    assert!(client.may_end());
}

#[test]
fn tokens_go_as_bearers_and_refusals_are_kept() {
    for (mechanism, expected, acknowledgement) in [
        (Mechanism::OauthBearer, "n,a=user,\x01auth=Bearer tok\x01\x01", &b"\x01"[..]),
        (Mechanism::Xoauth2, "user=user\x01auth=Bearer tok\x01\x01", b""),
    ] {
        let (mut exchange, first) = Exchange::start(mechanism, &login(Secret::Token("tok".into())));
        assert_eq!(first.unwrap(), expected.as_bytes());
        let refusal = exchange.challenge(b"{\"status\":\"invalid_token\"}\r\n");
        assert_eq!(refusal, Reaction::Respond(acknowledgement.to_vec()));
        assert_eq!(exchange.refusal(), Some("{\"status\":\"invalid_token\"}"));
        assert!(!exchange.may_end(), "{mechanism:?}");
    }
}

#[test]
fn the_best_that_is_safe_is_chosen() {
    let offered = |names: &[&str]| {
        let mut offered = Offered::default();
        names.iter().for_each(|name| offered.add(name.as_bytes()));
        offered
    };
    let all = offered(&["LOGIN", "plain", "SCRAM-SHA-256", "XOAUTH2", "GSSAPI"]);
    let choose = |offered: Offered, login: &Login, tls| offered.choose(login, tls, &Mechanism::ALL);
    let token = login(Secret::Token("tok".into()));
    assert_eq!(choose(all, &password(), true), Ok(Mechanism::ScramSha256));
    assert_eq!(choose(all, &token, true), Ok(Mechanism::Xoauth2));
    assert_eq!(choose(all, &token, false), Err(Trouble::LoginInClear));
    let weak = offered(&["LOGIN", "PLAIN"]);
    assert_eq!(choose(weak, &password(), true), Ok(Mechanism::Plain));
    assert_eq!(choose(weak, &password(), false), Err(Trouble::LoginInClear));
    let careless = Login { in_clear: true, ..password() };
    assert_eq!(choose(weak, &careless, false), Ok(Mechanism::Plain));
    assert_eq!(choose(weak, &token, true), Err(Trouble::NoLogin));
    assert_eq!(choose(offered(&["GSSAPI"]), &password(), true), Err(Trouble::NoLogin));
    assert_eq!(all.choose(&password(), false, &[Mechanism::Plain]), Err(Trouble::LoginInClear));
}

#[test]
fn secrets_are_not_shown() {
    let derivation = Derivation { password: "pencil".into(), salt: vec![1], iterations: 4096 };
    let shown = format!("{:?} {:?} {:?}", password(), derivation, derivation.run());
    assert!(!shown.contains("pencil"), "{shown}");
}
