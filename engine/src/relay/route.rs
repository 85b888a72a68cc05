//! Where a message goes next: through a smart host, or to the recipient's domain.

use super::settings::SmartHost;
use crate::directory::canonical_domain;
use crate::queue::message::{Envelope, Recipient};

/// Messages with the same route share connections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Route {
    /// By its number in the config file. What is asked of TLS there is the operator's to say,
    /// but for REQUIRETLS.
    SmartHost(usize, Need),
    /// In A-labels, or an address literal.
    Domain(String, Need),
}

/// What a message asks of its way (RFC 8689); others' policies come besides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    #[default]
    Usual,
    /// REQUIRETLS: encrypted to a server whose name and certificate are proved, and which
    /// promises the same.
    RequireTls,
    /// `TLS-Required: No`: arriving counts more than anybody's policy.
    TlsOptional,
}

/// Of one of the envelope's recipients.
pub fn route_of(smart_hosts: &[SmartHost], envelope: &Envelope, recipient: &Recipient) -> Route {
    let sender = envelope.sender.as_ref().and_then(|sender| sender.rsplit_once('@'));
    let sender_domain = sender.map_or("", |(_, domain)| domain);
    route(smart_hosts, sender_domain, recipient.domain(), envelope.need())
}

/// Whether it goes on without REQUIRETLS rather than to be lost (RFC 8689 section 5): what we tell
/// of a message, which has nothing of its body. What others have written comes from the null path,
/// too, but then it has the account that has sent it, passes it on, or answers by it.
pub fn yields(envelope: &Envelope) -> bool {
    envelope.require_tls && envelope.sender.is_none() && envelope.account.is_none()
}

impl Route {
    pub fn need(&self) -> Need {
        match self {
            Route::Domain(_, need) | Route::SmartHost(_, need) => *need,
        }
    }

    /// The same destination, where nothing is asked of the way.
    pub fn unprotected(self) -> Route {
        match self {
            Route::Domain(domain, _) => Route::Domain(domain, Need::Usual),
            Route::SmartHost(number, _) => Route::SmartHost(number, Need::Usual),
        }
    }
}

fn route(
    smart_hosts: &[SmartHost],
    sender_domain: &str,
    recipient_domain: &str,
    need: Need,
) -> Route {
    let fitting = |host: &SmartHost| host.fits(sender_domain, recipient_domain);
    match smart_hosts.iter().position(fitting) {
        Some(number) if need == Need::RequireTls => Route::SmartHost(number, need),
        Some(number) => Route::SmartHost(number, Need::Usual),
        None => {
            let canonical = canonical_domain(recipient_domain);
            Route::Domain(canonical.unwrap_or_else(|| recipient_domain.to_lowercase()), need)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_go_by_the_protected_way_first_and_only_our_own_notices_by_another() {
        use protocols::smtp::RecipientParams;
        let of = |sender: Option<&str>, account: Option<&str>, require_tls| {
            let recipient = Recipient::new("a@x.test".to_owned(), &RecipientParams::default());
            let envelope = Envelope {
                id: "0.1".into(),
                sender: sender.map(str::to_owned),
                account: account.map(str::to_owned),
                require_tls,
                ..Envelope::default()
            };
            (route_of(&[], &envelope, &recipient), yields(&envelope))
        };
        let domain = |need| Route::Domain("x.test".into(), need);
        let (usual, protected) = (domain(Need::Usual), domain(Need::RequireTls));
        assert_eq!(of(Some("b@y.test"), Some("b@y.test"), true), (protected.clone(), false));
        // Submitted, forwarded, redirected; a vacation's answer.
        assert_eq!(of(None, Some("b@y.test"), true), (protected.clone(), false));
        assert_eq!(of(None, None, true), (protected.clone(), true));
        assert_eq!(of(None, None, false), (usual.clone(), false));
        assert_eq!(protected.unprotected(), usual);
    }

    #[test]
    fn the_first_smart_host_that_fits_is_taken() {
        let hosts: Vec<SmartHost> =
            ["host = 'a.test'\nrecipients = ['x.test']", "host = 'b.test'\nsenders = ['s.test']"]
                .iter()
                .map(|text| toml::from_str(text).unwrap())
                .collect();
        let of = |sender, recipient| route(&hosts, sender, recipient, Need::Usual);
        assert_eq!(of("s.test", "x.test"), Route::SmartHost(0, Need::Usual));
        assert_eq!(of("s.test", "y.test"), Route::SmartHost(1, Need::Usual));
        let domain = |name: &str| Route::Domain(name.into(), Need::Usual);
        assert_eq!(of("t.test", "Bücher.test"), domain("xn--bcher-kva.test"));
        assert_eq!(of("t.test", "[192.0.2.1]"), domain("[192.0.2.1]"));
    }
}
