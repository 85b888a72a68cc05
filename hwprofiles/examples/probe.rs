//! Measures the disk under a directory, prints the profile and its knobs:
//! `cargo run --release -p kura-hwprofiles --example probe -- DIR [SECONDS]`

use std::path::Path;
use std::time::Duration;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| ".".to_owned());
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(2.0);
    let budget = Duration::from_secs_f64(seconds);
    match hwprofiles::measure(Path::new(&directory), budget) {
        Ok(profile) => {
            println!("{}", profile.to_toml());
            println!("{}", hwprofiles::show(&profile, &hwprofiles::derive(&profile)));
        }
        Err(error) => eprintln!("probe: {error}"),
    }
}
