//! `kura bench smtp` without the rest of Kura: for loading other servers.
//! `cargo run --release --example bench_smtp -- --help`

use clap::Parser;
use engine::bench::smtp::{self, Options};
use std::process::ExitCode;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let options = Arguments::parse().options;
    let json = options.json;
    match smtp::run(options) {
        Ok(report) if json => match serde_json::to_string(&report) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("kura: {error}");
                return ExitCode::FAILURE;
            }
        },
        Ok(report) => println!("{report}"),
        Err(error) => {
            eprintln!("kura: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
