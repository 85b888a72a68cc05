//! A user's settings, in the three forms that mail programs read: Mozilla's autoconfig, Microsoft's
//! Autodiscover (MS-OXDSCLI, "POX"), Apple's configuration profile. What listens is offered, TLS
//! from the first octet first.

use crate::config::Config;
use sha2::{Digest, Sha256};
use std::net::SocketAddr;

/// What a mail program is to connect to.
#[derive(Debug, Clone)]
pub struct Servers {
    pub hostname: String,
    list: Vec<Server>,
}

#[derive(Debug, Clone, Copy)]
struct Server {
    protocol: Protocol,
    port: u16,
    /// From the first octet; otherwise by STARTTLS.
    is_implicit: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Imap,
    Pop3,
    Smtp,
}

impl Servers {
    pub fn of(config: &Config) -> Servers {
        let listen = &config.listen;
        let each = [
            (Protocol::Imap, &listen.imaps, true),
            (Protocol::Imap, &listen.imap, false),
            (Protocol::Pop3, &listen.pop3s, true),
            (Protocol::Pop3, &listen.pop3, false),
            (Protocol::Smtp, &listen.submissions, true),
            (Protocol::Smtp, &listen.submission, false),
        ];
        let server = |(protocol, addresses, is_implicit): (_, &Vec<SocketAddr>, _)| {
            let port = addresses.first()?.port();
            Some(Server { protocol, port, is_implicit })
        };
        let list = each.into_iter().filter_map(server).collect();
        Servers { hostname: config.hostname.to_lowercase(), list }
    }

    fn first(&self, protocol: Protocol) -> Option<&Server> {
        self.list.iter().find(|server| server.protocol == protocol)
    }

    pub fn autoconfig(&self, domain: &str) -> String {
        let server = |server: &Server| {
            let (element, kind) = match server.protocol {
                Protocol::Imap => ("incomingServer", "imap"),
                Protocol::Pop3 => ("incomingServer", "pop3"),
                Protocol::Smtp => ("outgoingServer", "smtp"),
            };
            let security = if server.is_implicit { "SSL" } else { "STARTTLS" };
            format!(
                "    <{element} type=\"{kind}\">\n      <hostname>{}</hostname>\n      <port>{}</port>\n      \
                 <socketType>{security}</socketType>\n      <username>%EMAILADDRESS%</username>\n      \
                 <authentication>password-cleartext</authentication>\n    </{element}>\n",
                escaped(&self.hostname),
                server.port
            )
        };
        let domain = escaped(domain);
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<clientConfig version=\"1.1\">\n  \
             <emailProvider id=\"{domain}\">\n    <domain>{domain}</domain>\n    \
             <displayName>{domain}</displayName>\n    <displayShortName>{domain}</displayShortName>\n\
             {}  </emailProvider>\n</clientConfig>\n",
            self.list.iter().map(server).collect::<String>()
        )
    }

    pub fn autodiscover(&self, address: &str) -> String {
        let server = |protocol| {
            let server = self.first(protocol)?;
            let kind = match protocol {
                Protocol::Imap => "IMAP",
                Protocol::Pop3 => "POP3",
                Protocol::Smtp => "SMTP",
            };
            let security = if server.is_implicit { "SSL" } else { "TLS" };
            Some(format!(
                "      <Protocol>\n        <Type>{kind}</Type>\n        <Server>{}</Server>\n        \
                 <Port>{}</Port>\n        <LoginName>{}</LoginName>\n        <DomainRequired>off</DomainRequired>\n        \
                 <SPA>off</SPA>\n        <SSL>on</SSL>\n        <Encryption>{security}</Encryption>\n        \
                 <AuthRequired>on</AuthRequired>\n      </Protocol>\n",
                escaped(&self.hostname),
                server.port,
                escaped(address)
            ))
        };
        let protocols: String = [Protocol::Imap, Protocol::Pop3, Protocol::Smtp]
            .into_iter()
            .filter_map(server)
            .collect();
        format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
             <Autodiscover xmlns=\"http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006\">\n  \
             <Response xmlns=\"http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a\">\n    \
             <Account>\n      <AccountType>email</AccountType>\n      <Action>settings</Action>\n\
             {protocols}    </Account>\n  </Response>\n</Autodiscover>\n"
        )
    }

    /// Unsigned: the device says so, and its user agrees.
    pub fn apple_profile(&self, address: &str, domain: &str) -> String {
        let (address, domain) = (escaped(address), escaped(domain));
        let host = escaped(&self.hostname);
        let incoming = self.first(Protocol::Imap).or_else(|| self.first(Protocol::Pop3));
        let kind = match incoming.map(|server| server.protocol) {
            Some(Protocol::Pop3) => "EmailTypePOP",
            _ => "EmailTypeIMAP",
        };
        let server = |prefix: &str, server: Option<&Server>| {
            let Some(server) = server else { return String::new() };
            format!(
                "        <key>{prefix}MailServerHostName</key><string>{host}</string>\n        \
                 <key>{prefix}MailServerPortNumber</key><integer>{}</integer>\n        \
                 <key>{prefix}MailServerUseSSL</key><true/>\n        \
                 <key>{prefix}MailServerUsername</key><string>{address}</string>\n        \
                 <key>{prefix}MailServerAuthentication</key><string>EmailAuthPassword</string>\n",
                server.port
            )
        };
        let (inner, outer) =
            (uuid(&format!("account {address}")), uuid(&format!("profile {address}")));
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
             <plist version=\"1.0\">\n  <dict>\n    <key>PayloadContent</key>\n    <array>\n      <dict>\n        \
             <key>EmailAccountDescription</key><string>{domain}</string>\n        \
             <key>EmailAccountType</key><string>{kind}</string>\n        \
             <key>EmailAddress</key><string>{address}</string>\n\
             {}{}        \
             <key>OutgoingPasswordSameAsIncomingPassword</key><true/>\n        \
             <key>PayloadType</key><string>com.apple.mail.managed</string>\n        \
             <key>PayloadIdentifier</key><string>{host}.mail.{inner}</string>\n        \
             <key>PayloadUUID</key><string>{inner}</string>\n        \
             <key>PayloadDisplayName</key><string>{address}</string>\n        \
             <key>PayloadVersion</key><integer>1</integer>\n      </dict>\n    </array>\n    \
             <key>PayloadType</key><string>Configuration</string>\n    \
             <key>PayloadIdentifier</key><string>{host}.{outer}</string>\n    \
             <key>PayloadUUID</key><string>{outer}</string>\n    \
             <key>PayloadDisplayName</key><string>Mail of {domain}</string>\n    \
             <key>PayloadVersion</key><integer>1</integer>\n  </dict>\n</plist>\n",
            server("Incoming", incoming),
            server("Outgoing", self.first(Protocol::Smtp)),
        )
    }
}

/// The same for the same text: a profile that is fetched again replaces the one of before. RFC
/// 9562, version 8.
fn uuid(text: &str) -> String {
    let hash = Sha256::digest(text);
    let mut octets = [0; 16];
    octets.copy_from_slice(&hash[..16]);
    octets[6] = octets[6] & 0x0f | 0x80;
    octets[8] = octets[8] & 0x3f | 0x80;
    let hex: String = octets.iter().map(|octet| format!("{octet:02X}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_a_text_and_identifiers_stay() {
        assert_eq!(escaped("a&b<c>'\""), "a&amp;b&lt;c&gt;&apos;&quot;");
        let one = uuid("x");
        assert_eq!((one.len(), one.as_bytes()[14]), (36, b'8'));
        assert_eq!(one, uuid("x"));
        assert_ne!(one, uuid("y"));
    }
}
