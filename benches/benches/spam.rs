//! What the spam filter costs: a message as a whole, from its octets to one account's verdict, and
//! stage by stage. The goal for all of it, with authentication and the rest of the pipeline: 1.5 ms
//! of CPU for a message of 20 KiB.
//! `cargo bench -p kura-benches --bench spam`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::filter::classifier::{Class, Classifier};
use engine::filter::evaluate::visible_text;
use engine::filter::learning::{self, Lesson};
use engine::filter::mail::Mail;
use engine::filter::own::{self, Own, Scored};
use engine::filter::rules::Rules;
use engine::filter::settings::Spam;
use engine::filter::tokens::Tokens;
use engine::filter::verdict::Verdict;
use engine::filter::{Envelope, facts, judge};
use std::collections::BTreeMap;
use std::hint::black_box;

const ENVELOPE: Envelope<'static> =
    Envelope { mail_from: "a@a.test", recipients: &[], auth: &[], unix_seconds: 0 };

/// Which tokens accounts' own classifiers look at.
const KEY: u64 = 7;

const WORDS: [&str; 24] = [
    "the", "meeting", "on", "Thursday", "will", "be", "about", "your", "account", "and", "a",
    "$100", "offer", "which", "you", "have", "received", "because", "million", "people", "click",
    "here", "list", "remove",
];

/// Text that looks like a letter, as HTML beside plain text, with a link in each paragraph;
/// another one for another seed. Every second word is one of a hundred thousand: more different
/// ones than people write.
fn letter(bytes: usize, seed: usize) -> Vec<u8> {
    let mut text = String::new();
    let mut number = seed;
    while text.len() < bytes / 2 {
        number =
            number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(WORDS[(number >> 33) % WORDS.len()]);
        if number >> 63 == 1 {
            let syllables = (number >> 40) % 4096;
            text.extend([12, 8, 4, 0].map(|at| char::from(b'a' + (syllables >> at) as u8 % 16)));
        }
        text.push_str(match (number >> 50) % 16 {
            0 => ".\r\n\r\n",
            1 | 2 => ",\r\n",
            _ => " ",
        });
    }
    let html = text.replace("\r\n\r\n", "</p>\r\n<p><a href=\"http://www.a.test/x?y=1\">more</a> ");
    format!(
        "From: Ann <ann@a.test>\r\nTo: bob@b.test\r\nSubject: Minutes\r\nDate: Thu, 26 Nov 2026 10:00:00 +0100\r\n\
         Message-ID: <1@a.test>\r\nContent-Type: multipart/alternative; boundary=x\r\n\r\n--x\r\nContent-Type: text/plain\r\n\r\n\
         {text}\r\n--x\r\nContent-Type: text/html\r\n\r\n<html><p>{html}</p></html>\r\n--x--\r\n"
    )
    .into_bytes()
}

/// Words that many patterns begin with, in an order that no automaton has seen before: each byte is
/// matched against every place in a pattern.
fn near_matches(bytes: usize) -> String {
    const WORDS: [&str; 14] = [
        "late president ",
        "your assistance ",
        "foreign account ",
        "transfer ",
        "be removed ",
        "remove ",
        "unsubscrib ",
        "you received this ",
        "compliance ",
        "earn ",
        "$100 ",
        "btc ",
        "access ",
        "k",
    ];
    let (mut text, mut number) = (String::new(), 1_u64);
    while text.len() < bytes {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.push_str(WORDS[(number >> 33) as usize % WORDS.len()]);
    }
    text
}

/// What tries to cost much.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let with = |head: &str, body: String| {
        format!("Subject: x\r\nContent-Type: {head}\r\n\r\n{body}").into_bytes()
    };
    vec![
        ("tags", with("text/html", "<a href=http://a.test/ style='font-size:9px'>b".repeat(4000))),
        ("open quotes", with("text/html", "<a href='".repeat(20_000))),
        ("entities", with("text/html", "&#x41;&".repeat(25_000))),
        ("addresses", with("text/plain", "http://a.test/ ".repeat(15_000))),
        ("near matches", with("text/plain", near_matches(180_000))),
        ("near matches, 4 KiB", with("text/plain", near_matches(4000))),
        ("fields", "X-Bomb: =?utf-8?q?=41?=\r\n".repeat(8000).into_bytes()),
        (
            "parts",
            with(
                "multipart/mixed; boundary=x",
                "--x\r\nContent-Type: text/html\r\n\r\n<b>\r\n".repeat(5000),
            ),
        ),
    ]
}

fn stages(criterion: &mut Criterion) {
    let rules = Rules::read(None, &BTreeMap::new()).expect("the built-in rules are fine");
    let message = letter(20 << 10, 7);
    let mail = Mail::read(&message);
    let text = visible_text(&mail);
    let counted = facts::count(&mail, &text, &ENVELOPE);
    let hits = rules.evaluate(&mail, &text, &counted, &[]);
    let tokens = Tokens::of(&mail, &text, &hits, &counted);
    let mut classifier = shared(&rules);
    let lessons = lessons(&rules, &classifier);
    let own = Own::of_lessons(&lessons, &classifier);
    let scored = Scored::new(1.0, classifier.margin(&tokens), &tokens, KEY);
    let mut group = criterion.benchmark_group("spam stage, 20 KiB");
    group.bench_function("decode", |b| b.iter(|| Mail::read(black_box(&message))));
    group.bench_function("text", |b| b.iter(|| visible_text(black_box(&mail))));
    group.bench_function("facts", |b| b.iter(|| facts::count(&mail, black_box(&text), &ENVELOPE)));
    group.bench_function("rules", |b| {
        b.iter(|| rules.evaluate(&mail, black_box(&text), &counted, &[]))
    });
    group.bench_function("tokens", |b| {
        b.iter(|| Tokens::of(&mail, black_box(&text), &hits, &counted))
    });
    group.bench_function("classifier", |b| b.iter(|| classifier.margin(black_box(&tokens))));
    group.bench_function("own model", |b| b.iter(|| scored.points_of(black_box(&own))));
    group.bench_function("own model worked out", |b| {
        b.iter(|| Own::of_lessons(black_box(&lessons), &classifier));
    });
    group.bench_function("learn", |b| b.iter(|| classifier.learn(black_box(&tokens), Class::Spam)));
    group.finish();
}

/// So many letters, both kinds in turn.
fn sorted(rules: &Rules, seed: usize, count: usize) -> impl Iterator<Item = Lesson> + '_ {
    (0..count).map(move |number| {
        let class = if number.is_multiple_of(2) { Class::Wanted } else { Class::Spam };
        learning::lesson(rules, &letter(4 << 10, seed + number), class)
    })
}

/// What judges everybody's mail, once it has learned some.
fn shared(rules: &Rules) -> Classifier {
    let mut shared = Classifier::default();
    for lesson in sorted(rules, 1000, 200) {
        shared.learn(&lesson.tokens, lesson.class);
    }
    shared
}

/// What one account has sorted: 16 messages of either kind.
fn lessons(rules: &Rules, shared: &Classifier) -> Vec<own::Lesson> {
    sorted(rules, 100, 32).map(|lesson| own::Lesson::of(&lesson, shared, KEY)).collect()
}

/// What the engine does for a message, and for one account that gets it.
fn filed(rules: &Rules, shared: &Classifier, own: &Own, message: &[u8]) -> f64 {
    let found = judge(rules, message, &ENVELOPE).judged_by(shared);
    let verdict = Verdict::new(found.hits, &Spam::default());
    let scored = Scored::new(verdict.score, found.margin, &found.tokens, KEY);
    scored.score + scored.points_of(own)
}

fn whole(criterion: &mut Criterion) {
    let rules = Rules::read(None, &BTreeMap::new()).expect("the built-in rules are fine");
    let shared = shared(&rules);
    let own = Own::of_lessons(&lessons(&rules, &shared), &shared);
    let filed = |message: &[u8]| filed(&rules, &shared, &own, message);
    let mut group = criterion.benchmark_group("spam verdict");
    for bytes in [4 << 10, 20 << 10, 100 << 10] {
        let message = letter(bytes, 7);
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |b| {
            b.iter(|| filed(black_box(&message)));
        });
    }
    for (name, message) in hostile() {
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(BenchmarkId::new("hostile", name), |b| {
            b.iter(|| filed(black_box(&message)));
        });
    }
    group.finish();
}

criterion_group!(benches, stages, whole);
criterion_main!(benches);
