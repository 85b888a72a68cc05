//! The openspf.org suite for RFC 7208, all of it, through the resolver that production uses.

use engine::auth::settings::Dns;
use engine::auth::{dns, spf};
use kura_tests::names::{self, Entry, Zone, wire_name, wire_text};
use std::net::IpAddr;
use yaml_rust2::{Yaml, YamlLoader};

const SUITE: &str = include_str!("../corpus/spf/rfc7208-tests.yml");

#[test]
fn every_test_of_the_suite_has_one_of_the_results_that_it_allows() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut ran, mut wrong) = (0, Vec::new());
    for scenario in YamlLoader::load_from_str(SUITE).unwrap() {
        let server = names::serve(zone(&scenario["zonedata"]));
        let config = Dns { servers: vec![server], timeout_seconds: 2, ..Dns::default() };
        let _inside = runtime.enter();
        let resolver = dns::resolver(&config).unwrap();
        for (name, test) in scenario["tests"].as_hash().unwrap() {
            let text = |key: &str| scalar(&test[key]);
            let peer: IpAddr = text("host").parse().unwrap();
            let (helo, sender) = (text("helo"), text("mailfrom"));
            let outcome = runtime.block_on(async {
                if sender.is_empty() {
                    spf::helo(&resolver, peer, &helo).await
                } else {
                    spf::mail_from(&resolver, peer, &helo, &sender).await
                }
            });
            let allowed: Vec<String> = match &test["result"] {
                Yaml::Array(several) => several.iter().map(scalar).collect(),
                one => vec![scalar(one)],
            };
            ran += 1;
            if !allowed.iter().any(|result| result == outcome.name()) {
                let section = scenario["description"].as_str().unwrap_or_default();
                let name = scalar(name);
                wrong.push(format!("{section}, {name}: {}, not {allowed:?}", outcome.name()));
            }
        }
    }
    assert_eq!(ran, 203, "the suite has been cut");
    assert!(wrong.is_empty(), "{} of {ran}:\n{}", wrong.len(), wrong.join("\n"));
}

fn scalar(value: &Yaml) -> String {
    match value {
        Yaml::String(text) | Yaml::Real(text) => text.clone(),
        Yaml::Integer(number) => number.to_string(),
        _ => String::new(),
    }
}

/// The suite writes octets as letters below U+0100.
fn octets(text: &str) -> Vec<u8> {
    text.chars().map(|letter| u8::try_from(u32::from(letter)).unwrap()).collect()
}

fn zone(data: &Yaml) -> Zone {
    let mut zone = Zone::new();
    for (name, entries) in data.as_hash().unwrap() {
        let mut entry = Entry::default();
        let entries = entries.as_vec().unwrap();
        // Records of the old type SPF stand for TXT, unless the test says what TXT has.
        let has_text = entries.iter().any(|entry| !entry["TXT"].is_badvalue());
        for record in entries {
            if record.as_str() == Some("TIMEOUT") {
                entry.is_broken = true;
                continue;
            }
            for (kind, value) in record.as_hash().unwrap() {
                match kind.as_str().unwrap() {
                    "TXT" if value.as_str() == Some("NONE") => {}
                    "SPF" if has_text => {}
                    "SPF" | "TXT" => entry.records.push((names::TXT, wire_text(&strings(value)))),
                    "A" => {
                        let IpAddr::V4(address) = scalar(value).parse().unwrap() else { panic!() };
                        entry.records.push((names::A, address.octets().to_vec()));
                    }
                    "AAAA" => {
                        let IpAddr::V6(address) = scalar(value).parse().unwrap() else { panic!() };
                        entry.records.push((names::AAAA, address.octets().to_vec()));
                    }
                    "MX" => {
                        let preference = u16::try_from(value[0].as_i64().unwrap()).unwrap();
                        let mut data = preference.to_be_bytes().to_vec();
                        data.extend(wire_name(&octets(&scalar(&value[1]))));
                        entry.records.push((names::MX, data));
                    }
                    "PTR" => {
                        entry.records.push((names::PTR, wire_name(&octets(&scalar(value)))));
                    }
                    "CNAME" => {
                        entry.records.push((names::CNAME, wire_name(&octets(&scalar(value)))));
                    }
                    other => panic!("a record of type {other}"),
                }
            }
        }
        zone.insert(octets(&scalar(name).to_lowercase()), entry);
    }
    zone
}

fn strings(value: &Yaml) -> Vec<Vec<u8>> {
    match value {
        Yaml::Array(several) => several.iter().map(|one| octets(&scalar(one))).collect(),
        one => vec![octets(&scalar(one))],
    }
}
