//! Where a message goes next: through a smart host, or to the recipient's domain.

use super::settings::SmartHost;
use crate::directory::canonical_domain;

/// Messages with the same route share connections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Route {
    /// By its number in the config file.
    SmartHost(usize),
    /// In A-labels, or an address literal.
    Domain(String),
}

pub fn route(smart_hosts: &[SmartHost], sender_domain: &str, recipient_domain: &str) -> Route {
    let fitting = |host: &SmartHost| host.fits(sender_domain, recipient_domain);
    match smart_hosts.iter().position(fitting) {
        Some(number) => Route::SmartHost(number),
        None => {
            let canonical = canonical_domain(recipient_domain);
            Route::Domain(canonical.unwrap_or_else(|| recipient_domain.to_lowercase()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_smart_host_that_fits_is_taken() {
        let hosts: Vec<SmartHost> =
            ["host = 'a.test'\nrecipients = ['x.test']", "host = 'b.test'\nsenders = ['s.test']"]
                .iter()
                .map(|text| toml::from_str(text).unwrap())
                .collect();
        assert_eq!(route(&hosts, "s.test", "x.test"), Route::SmartHost(0));
        assert_eq!(route(&hosts, "s.test", "y.test"), Route::SmartHost(1));
        assert_eq!(
            route(&hosts, "t.test", "Bücher.test"),
            Route::Domain("xn--bcher-kva.test".into())
        );
        assert_eq!(route(&hosts, "t.test", "[192.0.2.1]"), Route::Domain("[192.0.2.1]".into()));
    }
}
