//! What protects the way to a mail host: its own records (DANE), its domain's policy (MTA-STS),
//! what the message asks (RFC 8689). DANE goes before MTA-STS (RFC 8461 section 2).
//!
//! | the host has | what is asked of the session | and under REQUIRETLS |
//! |---|---|---|
//! | usable TLSA records | TLS, and a certificate that they tell of | the same |
//! | TLSA records without use | TLS, with any certificate | a certificate valid for its name |
//! | a policy in force that names it | TLS, and a certificate valid for its name | the same |
//! | a policy in force that does not | nothing: it is passed over | the same |
//! | a policy on trial | whatever is offered; what would fail is logged | a certificate valid for its name |
//! | neither | whatever is offered | such a certificate, if DNS proves that it is the domain's host |
//!
//! `TLS-Required: No` makes each of them the last.

use super::dane::Dane;
use super::route::Need;
use protocols::wire::remote::Tls;
use std::sync::Arc;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Protection {
    #[default]
    Opportunistic,
    Dane(Arc<Dane>),
    /// TLSA records of which none is of use (RFC 7672 section 2.2).
    Encrypted,
    /// MTA-STS, `enforce`.
    Sts,
    /// MTA-STS, `testing`.
    StsOnTrial,
    /// Nothing is to be sent to it, for this reason.
    Barred(String),
}

/// Whose certificate is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Believed {
    Anybody,
    /// Valid for the host's name.
    Valid,
    Dane(Arc<Dane>),
}

/// How a session to a host is to be secured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    pub tls: Tls,
    pub believed: Believed,
    /// If that fails, once more with anybody, and in the clear at last.
    pub may_do_without: bool,
    /// For the log and operators.
    pub words: &'static str,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoWay {
    pub is_permanent: bool,
    pub status: &'static str,
    pub why: String,
}

impl Protection {
    /// `is_named`: that the host is the domain's is proved, or its policy says so.
    pub fn way(&self, need: Need, is_named: bool) -> Result<Way, NoWay> {
        let way = |tls, believed, words| Ok(Way { tls, believed, may_do_without: false, words });
        let opportunistic = |believed, words| {
            Ok(Way { tls: Tls::WhenOffered, believed, may_do_without: true, words })
        };
        match (self, need) {
            (_, Need::TlsOptional) => opportunistic(
                Believed::Anybody,
                "no policy, as the message asks (TLS-Required: No)",
            ),
            (Protection::Dane(dane), _) => {
                way(Tls::Required, Believed::Dane(Arc::clone(dane)), "DANE")
            }
            (Protection::Sts, _) => way(Tls::Required, Believed::Valid, "MTA-STS"),
            (Protection::Barred(why), _) => {
                Err(NoWay { is_permanent: false, status: "4.7.0", why: why.clone() })
            }
            (_, Need::RequireTls) if is_named => {
                way(Tls::Required, Believed::Valid, "REQUIRETLS, with a valid certificate")
            }
            (_, Need::RequireTls) => Err(NoWay {
                is_permanent: true,
                status: "5.7.30",
                why:
                    "REQUIRETLS: neither DNSSEC nor MTA-STS proves that it is a host of the domain"
                        .to_owned(),
            }),
            (Protection::Encrypted, Need::Usual) => way(
                Tls::Required,
                Believed::Anybody,
                "DANE without usable records: any certificate",
            ),
            (Protection::StsOnTrial, Need::Usual) => {
                opportunistic(Believed::Valid, "MTA-STS on trial (testing)")
            }
            (Protection::Opportunistic, Need::Usual) => {
                opportunistic(Believed::Anybody, "no policy: opportunistic TLS")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protection_asks_what_it_is_there_for() {
        use Need::{RequireTls, TlsOptional, Usual};
        let barred = Protection::Barred("why".into());
        // Whether TLS is required, and a certificate has to be valid; `None`: nothing is sent.
        for (protection, need, is_named, expected) in [
            (&Protection::Opportunistic, Usual, true, Some((false, false))),
            (&Protection::Encrypted, Usual, true, Some((true, false))),
            (&Protection::Sts, Usual, true, Some((true, true))),
            (&Protection::StsOnTrial, Usual, true, Some((false, true))),
            (&barred, Usual, true, None),
            (&Protection::Opportunistic, RequireTls, true, Some((true, true))),
            (&Protection::Opportunistic, RequireTls, false, None),
            (&Protection::Encrypted, RequireTls, true, Some((true, true))),
            (&Protection::StsOnTrial, RequireTls, true, Some((true, true))),
            (&Protection::Sts, RequireTls, true, Some((true, true))),
            (&barred, RequireTls, true, None),
            (&barred, TlsOptional, false, Some((false, false))),
            (&Protection::Sts, TlsOptional, true, Some((false, false))),
        ] {
            let way = protection.way(need, is_named).ok();
            let asked =
                way.as_ref().map(|it| (it.tls == Tls::Required, it.believed == Believed::Valid));
            assert_eq!(asked, expected, "{protection:?} {need:?} {is_named}");
            assert!(way.is_none_or(|it| it.may_do_without == (it.tls == Tls::WhenOffered)));
        }
        let no = Protection::Opportunistic.way(RequireTls, false).unwrap_err();
        assert_eq!((no.is_permanent, no.status), (true, "5.7.30"));
        assert!(!barred.way(Usual, true).unwrap_err().is_permanent);
    }
}
