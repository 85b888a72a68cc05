//! XCLIENT: a gateway in front of us says on whose behalf it speaks. As Postfix describes it
//! ("Postfix XCLIENT Howto").
//!
//! It is offered, and believed, only where the engine says so; the session then is as if it had
//! just been greeted, and the engine decides about the client as it does about a connection.
//! What the client has said as its hello goes before what the gateway says behind it, until
//! another client's address comes. Names are read and not believed: whoever needs one asks DNS.
//! Logins are none of a gateway's business, so `LOGIN` is not offered. TLS forgets what was said
//! in the clear, and a client that is forgotten would be taken for its gateway: so there is no
//! STARTTLS behind XCLIENT.

use super::command::Syntax;
use super::event::{Event, Role};
use super::params::xtext;
use super::reply::Enhanced;
use super::session::{Phase, Question, Smtp};
use super::transaction::Transaction;
use crate::machine::Ticket;
use crate::{Outbox, Step};
use std::net::{IpAddr, Ipv6Addr};

/// What is offered in EHLO.
pub(super) const OFFER: &[u8] = b"250-XCLIENT NAME ADDR PORT PROTO HELO REVERSE_NAME\r\n";
/// As long as a hello may be.
const HELLO_BYTES_MAX: usize = 255;

/// On whose behalf a gateway speaks, as far as it has said; a command says the one thing,
/// the next another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    pub address: Option<IpAddr>,
    /// 0: the gateway does not know.
    pub port: Option<u16>,
    /// What the client has said as its hello; `unknown`: nothing, or the gateway does not know.
    pub(super) hello: Option<String>,
}

/// The arguments of the command.
pub(super) fn parse(arguments: &[u8]) -> Result<Client, Syntax> {
    let text = std::str::from_utf8(arguments).map_err(|_| Syntax::Arguments)?;
    let (mut client, mut seen) = (Client::default(), Vec::new());
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let (name, value) = word.split_once('=').ok_or(Syntax::Arguments)?;
        let name = name.to_ascii_uppercase();
        let value = xtext(value).map_err(Syntax::Param)?;
        // `[TEMPUNAVAIL]`: its resolver is silent, or the like.
        let value = match value.to_ascii_uppercase().as_str() {
            "[UNAVAILABLE]" | "[TEMPUNAVAIL]" => None,
            _ => Some(value),
        };
        match (name.as_str(), value) {
            // Without it we would decide about the gateway.
            ("ADDR", None) => return Err(Syntax::Arguments),
            ("ADDR", Some(value)) => client.address = Some(address(&value)?),
            ("PORT", None) => client.port = Some(0),
            ("PORT", Some(value)) => {
                client.port = Some(value.parse().map_err(|_| Syntax::Arguments)?);
            }
            ("HELO", None) => client.hello = Some("unknown".to_owned()),
            ("HELO", Some(value)) if value.len() <= HELLO_BYTES_MAX => {
                // It stands in a header as one word.
                let word = value.split(' ').next().filter(|word| !word.is_empty());
                client.hello = Some(word.unwrap_or("unknown").to_owned());
            }
            ("PROTO", Some(value))
                if ["SMTP", "ESMTP"].iter().any(|one| value.eq_ignore_ascii_case(one)) => {}
            ("NAME" | "REVERSE_NAME", _) => {}
            _ => return Err(Syntax::Arguments),
        }
        if seen.contains(&name) {
            return Err(Syntax::Arguments);
        }
        seen.push(name);
    }
    if seen.is_empty() { Err(Syntax::Arguments) } else { Ok(client) }
}

fn address(value: &str) -> Result<IpAddr, Syntax> {
    let (tag, rest) = value.split_at_checked("IPV6:".len()).unwrap_or(("", value));
    let address = if tag.eq_ignore_ascii_case("IPV6:") {
        rest.parse::<Ipv6Addr>().map(IpAddr::V6)
    } else {
        value.parse()
    };
    address.map(|address| address.to_canonical()).map_err(|_| Syntax::Arguments)
}

impl<P> Smtp<P> {
    pub(super) fn xclient<'i>(
        &mut self,
        client: Client,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        if !self.config.xclient || self.config.role != Role::Mx {
            self.fault(550, Enhanced(5, 7, 0), "XCLIENT is for gateways that are known", output);
            return None;
        }
        if self.in_transaction() {
            self.out_of_order("A message is under way", output);
            return None;
        }
        if !self.may_idle(output) {
            return None;
        }
        let (address, hello) = (client.address, client.hello.clone());
        self.ask(Question::Client(address, hello), Event::Client(client, Ticket::issue()))
    }

    /// The client may speak: as if it had just connected.
    pub(super) fn begin_anew(&mut self, address: Option<IpAddr>, hello: Option<String>) {
        self.transaction = Transaction::Fresh;
        self.hello.clear();
        let is_new = address.is_some() && address != self.client;
        // Of one client a gateway may say several things, each by a command of its own.
        let said = self.clients_hello.take().filter(|_| !is_new || self.client.is_none());
        self.clients_hello = hello.or(said);
        if is_new {
            self.client = address;
            self.idle_commands = 0;
            self.put_off_commands = 0;
        }
        self.is_put_off = false;
        self.user = None;
        self.sender_named = false;
        self.smtp_utf8 = false;
        // Those before it may have been others.
        self.strikes = 0;
        self.phase = Phase::Greeting;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &str) -> Result<Client, Syntax> {
        parse(arguments.as_bytes())
    }

    #[test]
    fn attributes_are_read_in_any_case_and_order() {
        let client = read("NAME=spike.test addr=192.0.2.7 Port=40000 HELO=a.test PROTO=esmtp");
        let expected = Client {
            address: Some("192.0.2.7".parse().unwrap()),
            port: Some(40000),
            hello: Some("a.test".to_owned()),
        };
        assert_eq!(client, Ok(expected));
        let address = |arguments| read(arguments).unwrap().address.unwrap().to_string();
        assert_eq!(address("ADDR=IPV6:2001:db8::1"), "2001:db8::1");
        assert_eq!(address("ADDR=ipv6:::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(address("ADDR=2001:db8::1"), "2001:db8::1");
        assert_eq!(read("HELO=a+2Btest+20x").unwrap().hello.unwrap(), "a+test");
        let unknown = read(
            "NAME=[UNAVAILABLE] REVERSE_NAME=[TEMPUNAVAIL] HELO=[UNAVAILABLE] PORT=[UNAVAILABLE]",
        );
        let expected = Client { address: None, port: Some(0), hello: Some("unknown".to_owned()) };
        assert_eq!(unknown, Ok(expected));
    }

    #[test]
    fn what_is_not_offered_or_makes_no_sense_is_refused() {
        let long = format!("HELO={}", "a".repeat(256));
        for wrong in [
            "",
            "ADDR",
            "ADDR=",
            "ADDR=[UNAVAILABLE]",
            "ADDR=192.0.2.300",
            "ADDR=192.0.2.1 ADDR=192.0.2.2",
            "ADDR=IPV6:192.0.2.1",
            "PORT=70000",
            "PORT=-1",
            "LOGIN=ann",
            "DESTADDR=192.0.2.1",
            "PROTO=LMTP",
            "HELO=a+0D+0Ab",
            "HELO=a+2",
            "=",
            long.as_str(),
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
