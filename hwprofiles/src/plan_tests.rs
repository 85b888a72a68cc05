//! Plans as tables: hosts of any size, and what is said of each.

use super::*;
use crate::profile::shipped;

const GIB: u64 = 1 << 30;

fn demand(users: u64, quota_bytes: u64, mails_per_day: u64) -> Demand {
    Demand { users, quota_bytes, mails_per_day, message_bytes: 75_000, endurance_tb: None }
}

#[test]
fn what_falls_short_is_said_and_nothing_else() {
    // Profile, users, quota, mails a day, first words of what falls short.
    let cases: [(&str, u64, u64, u64, &[&str]); 9] = [
        ("small-vm", 20, GIB, 1_000, &[]),
        ("small-vm", 100, GIB, 5_000, &["disk"]),
        ("small-vm", 20, GIB, 5_000_000, &["disk", "rate", "bandwidth"]),
        ("rotating", 250, GIB, 25_000, &[]),
        ("sata-ssd", 300, GIB, 25_000, &[]),
        ("sata-ssd", 300, GIB, 3_000_000, &["disk", "device life"]),
        ("nvme-plp", 1_000, GIB, 100_000, &[]),
        ("nvme-plp", 80_000, GIB / 100, 500_000, &["sessions"]),
        ("nvme-plp", 10_000, 50 * GIB, 500_000, &["disk", "memory"]),
    ];
    for (name, users, quota, mails, expected) in cases {
        let plan = plan(&demand(users, quota, mails), &shipped(name).unwrap());
        let said: Vec<_> =
            plan.shortfalls.iter().map(|text| text.split(':').next().unwrap()).collect();
        assert_eq!(said, expected, "{name}, {users} users: {plan}");
        let text = plan.to_string();
        assert_eq!(text.contains("falls short"), !expected.is_empty(), "{text}");
    }
}

#[test]
fn the_figures_follow_from_the_constants() {
    let mut asked = demand(1_000, GIB, 86_400);
    asked.endurance_tb = Some(500.0);
    let plan = plan(&asked, &shipped("nvme-plp").unwrap());
    assert_eq!(plan.messages, 1_000 * GIB / 75_000);
    assert_eq!(plan.mean_messages_per_second, 1.0);
    assert_eq!(plan.busy_hour_messages_per_second, 3.0);
    assert_eq!(plan.peak_messages_per_second, 15.0);
    // (75,000 * 1.04 + 1,200) * 1.9 bytes written for 75,000.
    assert!((plan.write_amplification - 2.0064).abs() < 1e-9, "{}", plan.write_amplification);
    let written = 86_400.0 * 75_000.0 * 2.0064 * 365.0 / 1e12;
    assert!((plan.written_tb_per_year - written).abs() < 1e-9);
    assert!((plan.device_years.unwrap() - 500.0 / written).abs() < 1e-9);
    // 1.056 of bytes, 75 % live, 10 % free, and a week of mail.
    assert!((1.55..1.63).contains(&plan.space_amplification), "{}", plan.space_amplification);
    assert!(plan.needed_memory_bytes > 512 << 20);
}

#[test]
fn the_life_of_a_device_counts_only_where_it_is_known() {
    let asked = demand(100, GIB, 10_000);
    let without = plan(&asked, &shipped("cloud-block").unwrap());
    assert_eq!(without.device_years, None);
    assert!(without.to_string().contains("--endurance-tb"));
    let with = plan(&asked, &shipped("sata-ssd").unwrap());
    assert!(with.device_years.unwrap() > 100.0);
    let given = plan(&Demand { endurance_tb: Some(1.0), ..asked }, &shipped("sata-ssd").unwrap());
    assert!(given.device_years.unwrap() < 5.0);
}

#[test]
fn nothing_asked_is_no_division_by_zero() {
    let nothing =
        Demand { users: 0, quota_bytes: 0, mails_per_day: 0, message_bytes: 0, endurance_tb: None };
    let plan = plan(&nothing, &shipped("generic").unwrap());
    assert!(plan.write_amplification.is_finite() && plan.space_amplification.is_finite());
    assert_eq!(plan.shortfalls, [] as [String; 0]);
    assert!(!plan.to_string().contains("NaN") && !plan.to_string().contains("inf"));
}

#[test]
fn more_of_anything_never_needs_less() {
    let profile = shipped("nvme-plp").unwrap();
    let base = plan(&demand(1_000, GIB, 100_000), &profile);
    for more in
        [demand(2_000, GIB, 100_000), demand(1_000, 2 * GIB, 100_000), demand(1_000, GIB, 900_000)]
    {
        let plan = plan(&more, &profile);
        assert!(plan.needed_capacity_bytes > base.needed_capacity_bytes);
        assert!(plan.needed_memory_bytes >= base.needed_memory_bytes);
        assert!(plan.needed_cores >= base.needed_cores);
        assert!(plan.peak_messages_per_second >= base.peak_messages_per_second);
    }
}

#[test]
fn a_slow_core_counts_with_its_own_figures() {
    let asked = demand(100, GIB, 5_000_000);
    let mut profile = shipped("sata-ssd").unwrap();
    let without = plan(&asked, &profile).needed_cores;
    let cpu: crate::Cpu = toml::from_str(
        "crc32_mb_per_second = 500\nzstd1_mb_per_second = 50\nzstd1_ratio = 1.5\n\
         zstd3_mb_per_second = 30\nzstd3_ratio = 1.6\nunzstd_mb_per_second = 200\n\
         aes128_gcm_mb_per_second = 30\naes256_gcm_mb_per_second = 25\nsha256_mb_per_second = 60\n\
         rsa2048_sign_per_second = 50\nrsa2048_verify_per_second = 1500\n\
         ed25519_verify_per_second = 700",
    )
    .unwrap();
    profile.cpu = Some(cpu);
    assert!(plan(&asked, &profile).needed_cores > 2 * without);
}
