//! What a message costs before it reaches the store: the SMTP dialogue, and its summary.
//! `cargo bench -p kura-benches --bench parse`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kura_benches::{mime_message, plain_message};
use protocols::message::summary::Summary;
use protocols::smtp::session::{Answer, Config, Event, Role, Smtp};
use protocols::{Machine, Outbox, Step, Tick};
use std::hint::black_box;
use std::sync::Arc;

fn summaries(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("summary");
    let messages = [
        ("plain 4 KiB", plain_message(4 << 10, 1)),
        ("plain 1 MiB", plain_message(1 << 20, 1)),
        ("mime 4 KiB", mime_message(2 << 10, 2, 1)),
        ("mime 1 MiB", mime_message(1 << 20, 5, 1)),
    ];
    for (name, message) in &messages {
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_with_input(BenchmarkId::new("compute", name), message, |b, message| {
            b.iter(|| Summary::compute(black_box(message)));
        });
    }
    let encoded = Summary::compute(&messages[3].1).encode();
    group.throughput(Throughput::Bytes(encoded.len() as u64));
    group.bench_function("decode, 5 attachments", |b| {
        b.iter(|| Summary::decode(black_box(&encoded)));
    });
    group.finish();
}

/// One transaction through the machine, all commands and the message in pieces of 16 KiB.
fn transaction(smtp: &mut Smtp<()>, script: &[&[u8]], output: &mut Outbox) -> usize {
    let (now, mut octets) = (Tick(0), 0);
    for piece in script.iter().flat_map(|part| part.chunks(16 << 10)) {
        let mut input = piece;
        loop {
            match smtp.step(now, &mut input, output) {
                Step::NeedInput => break,
                Step::Event(event) => match event {
                    Event::Mail(_, _, ticket)
                    | Event::Recipient(_, _, ticket)
                    | Event::Client(_, ticket)
                    | Event::Data(ticket) => smtp.answer_command(ticket, Ok(()), output),
                    Event::Body(body) => octets += body.len(),
                    Event::End(ticket) => {
                        let answer = Answer::Accepted((), "taken".to_owned());
                        smtp.answer_end(ticket, vec![answer], output);
                    }
                    Event::Reset
                    | Event::Login(..)
                    | Event::ScramKeys(..)
                    | Event::Proved(..)
                    | Event::Disproved(..) => {}
                },
                Step::StartTls | Step::Close => return octets,
            }
        }
    }
    output.clear();
    octets
}

fn dialogues(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("smtp transaction");
    for bytes in [4 << 10, 100 << 10] {
        let message = plain_message(bytes, 1);
        let script: [&[u8]; 4] = [
            b"MAIL FROM:<sender@example.net>\r\nRCPT TO:<alice@example.test>\r\n",
            b"DATA\r\n",
            &message,
            b".\r\n",
        ];
        let config = Arc::new(Config {
            hostname: "mx.example.test".to_owned(),
            postmaster_domain: "example.test".to_owned(),
            role: Role::Mx,
            message_octets_max: 50 << 20,
            recipients_max: 1000,
            tls_available: false,
            plaintext_auth: false,
            future_release: None,
            xclient: false,
        });
        let mut smtp = Smtp::new(config, false);
        let mut output = Outbox::new();
        transaction(&mut smtp, &[b"EHLO client.example.net\r\n"], &mut output);
        assert_eq!(transaction(&mut smtp, &script, &mut output), message.len());
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |b| {
            b.iter(|| transaction(&mut smtp, black_box(&script), &mut output));
        });
    }
    group.finish();
}

criterion_group!(benches, summaries, dialogues);
criterion_main!(benches);
