//! What it costs to look for dangerous attachments and for outbreaks, and to key a
//! verdict; clamd aside.
//! `cargo bench -p kura-benches --bench scan`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::scan::attachments::{glance, inspect};
use engine::scan::cache;
use engine::scan::clamd::reply;
use engine::scan::outbreak::fingerprint::fingerprints;
use engine::scan::outbreak::table::{Sighting, Table};
use kura_benches::{mime_message, plain_message};
use protocols::message::Summary;
use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, Instant};

fn messages(criterion: &mut Criterion) {
    let messages = [
        ("plain 4 KiB", plain_message(4 << 10, 1)),
        ("plain 20 KiB", plain_message(20 << 10, 1)),
        ("mime 20 KiB", mime_message(10 << 10, 2, 1)),
        ("mime 1 MiB", mime_message(1 << 20, 5, 1)),
    ];
    let mut group = criterion.benchmark_group("scan");
    for (name, message) in &messages {
        let summary = Summary::compute(message);
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_with_input(BenchmarkId::new("glance", name), message, |b, message| {
            b.iter(|| glance(black_box(message), &summary));
        });
        group.bench_with_input(BenchmarkId::new("inspect", name), message, |b, message| {
            b.iter(|| inspect(black_box(message), &summary));
        });
        group.bench_with_input(BenchmarkId::new("fingerprints", name), message, |b, message| {
            b.iter(|| fingerprints(black_box(message)));
        });
        group.bench_with_input(BenchmarkId::new("cache key", name), message, |b, message| {
            b.iter(|| cache::key(black_box(message)));
        });
    }
    group.finish();
}

fn small_things(criterion: &mut Criterion) {
    criterion.bench_function("scan/reply", |b| {
        b.iter(|| reply(black_box(b"stream: Eicar-Test-Signature FOUND\0")));
    });
    let mut table = Table::new(400_000, Duration::from_secs(3600), Instant::now());
    let mut number = 0;
    criterion.bench_function("scan/count a message", |b| {
        b.iter(|| {
            number += 6;
            let sighting = Sighting {
                fingerprints: (number..number + 6).collect(),
                peer: IpAddr::from([192, 0, 2, 1]),
                sender: "sender.test".to_owned(),
                recipients: 1,
            };
            table.count(black_box(&sighting), Instant::now())
        });
    });
}

criterion_group!(benches, messages, small_things);
criterion_main!(benches);
