//! What one core does in a second of the work that mail makes: checksums, compression, TLS records,
//! and the hashes and signatures of DKIM.
//!
//! TLS and DKIM are measured with `ring`, which is rustls's provider here.

use super::files::Random;
use crate::figures::Cpu;
use ring::rand::SystemRandom;
use ring::signature::{self, Ed25519KeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey};
use ring::{aead, digest};
use std::hint::black_box;
use std::time::{Duration, Instant};

const MAIL_BYTES: usize = 1 << 20;
/// The largest TLS record (RFC 8446 section 5.1).
const RECORD_BYTES: usize = 16 << 10;
/// The header block that a DKIM signature covers, about.
const SIGNED_BYTES: usize = 1 << 10;
/// A key for this measurement; it protects nothing.
const RSA_KEY: &[u8] = include_bytes!("rsa2048.der");
const TASKS: u32 = 10;

pub(super) fn measure(budget: Duration) -> Result<Cpu, String> {
    let each = budget / TASKS;
    let mail = made_up_mail(MAIL_BYTES);
    let compress = |level| {
        zstd::bulk::compress(&mail, level).map_err(|error| format!("zstd -{level}: {error}"))
    };
    let (packed1, packed3) = (compress(1)?, compress(3)?);
    let ratio = |packed: &[u8]| round2(mail.len() as f64 / packed.len() as f64);
    let megabytes = |bytes: usize, rate: f64| super::round(rate * bytes as f64 / 1e6);
    let (sign, verify) = rsa(each)?;
    Ok(Cpu {
        crc32_mb_per_second: megabytes(MAIL_BYTES, rate(each, || crc32fast::hash(&mail))),
        zstd1_mb_per_second: megabytes(MAIL_BYTES, rate(each, || compress(1))),
        zstd1_ratio: ratio(&packed1),
        zstd3_mb_per_second: megabytes(MAIL_BYTES, rate(each, || compress(3))),
        zstd3_ratio: ratio(&packed3),
        unzstd_mb_per_second: megabytes(
            MAIL_BYTES,
            rate(each, || zstd::bulk::decompress(&packed3, MAIL_BYTES)),
        ),
        aes128_gcm_mb_per_second: megabytes(RECORD_BYTES, seal(&aead::AES_128_GCM, each)?),
        aes256_gcm_mb_per_second: megabytes(RECORD_BYTES, seal(&aead::AES_256_GCM, each)?),
        sha256_mb_per_second: megabytes(
            MAIL_BYTES,
            rate(each, || digest::digest(&digest::SHA256, &mail)),
        ),
        rsa2048_sign_per_second: sign,
        rsa2048_verify_per_second: verify,
        ed25519_verify_per_second: ed25519(each)?,
    })
}

/// How often `work` is done in a second, by doing it for about `budget`, and twice at least.
fn rate<T>(budget: Duration, mut work: impl FnMut() -> T) -> f64 {
    let (start, mut count) = (Instant::now(), 0_u32);
    while count < 2 || start.elapsed() < budget {
        black_box(work());
        count += 1;
    }
    f64::from(count) / start.elapsed().as_secs_f64().max(1e-9)
}

fn seal(algorithm: &'static aead::Algorithm, budget: Duration) -> Result<f64, String> {
    let bytes = vec![7; algorithm.key_len()];
    let key = aead::UnboundKey::new(algorithm, &bytes).map_err(|error| error.to_string())?;
    let key = aead::LessSafeKey::new(key);
    let mut record = vec![0; RECORD_BYTES];
    Ok(rate(budget, || {
        // One nonce for all: this data is no secret.
        let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
        key.seal_in_place_separate_tag(nonce, aead::Aad::empty(), &mut record).is_ok()
    }))
}

fn rsa(budget: Duration) -> Result<(f64, f64), String> {
    let key = RsaKeyPair::from_der(RSA_KEY).map_err(|error| error.to_string())?;
    let (message, random) = ([7; SIGNED_BYTES], SystemRandom::new());
    let mut made = vec![0; key.public().modulus_len()];
    let mut sign = || key.sign(&signature::RSA_PKCS1_SHA256, &random, &message, &mut made);
    sign().map_err(|error| error.to_string())?;
    let signs = rate(budget, sign);
    let public =
        UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, key.public().as_ref());
    let verifies = rate(budget, || public.verify(&message, &made).is_ok());
    Ok((super::round(signs), super::round(verifies)))
}

fn ed25519(budget: Duration) -> Result<f64, String> {
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).map_err(|error| error.to_string())?;
    let message = [7; SIGNED_BYTES];
    let made = key.sign(&message);
    let public = UnparsedPublicKey::new(&signature::ED25519, key.public_key().as_ref());
    Ok(super::round(rate(budget, || public.verify(&message, made.as_ref()).is_ok())))
}

/// Half text of words that come as often as in a language, half base64 of noise, as an attachment.
fn made_up_mail(bytes: usize) -> Vec<u8> {
    const SYLLABLES: [&str; 16] = [
        "ka", "to", "mer", "in", "sol", "ve", "ran", "di", "lu", "pes", "o", "ti", "nor", "ga",
        "es", "y",
    ];
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut random = Random::new(42);
    let words: Vec<String> = (0..4000)
        .map(|_| (0..=random.below(3)).map(|_| SYLLABLES[random.below(16) as usize]).collect())
        .collect();
    let mut mail = Vec::with_capacity(bytes + 100);
    let mut column = 0;
    while mail.len() < bytes / 2 {
        // The first words come most often: about the law that languages follow.
        let bound = 1 + random.below(words.len() as u64);
        let word = &words[random.below(bound) as usize];
        mail.extend_from_slice(word.as_bytes());
        column += word.len() + 1;
        mail.extend_from_slice(if column > 70 { b"\r\n" } else { b" " });
        column = if column > 70 { 0 } else { column };
    }
    while mail.len() < bytes {
        mail.extend((0..76).map(|_| ALPHABET[random.below(64) as usize]));
        mail.extend_from_slice(b"\r\n");
    }
    mail.truncate(bytes);
    mail
}

fn round2(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_is_measured_in_little_time() {
        let cpu = measure(Duration::from_millis(50)).unwrap();
        assert!(cpu.figures().iter().all(|figure| figure.is_finite() && *figure > 0.0), "{cpu:?}");
    }

    #[test]
    fn made_up_mail_compresses_like_mail() {
        // base64 of noise gives 1.3, text some 2 to 3.
        let mail = made_up_mail(MAIL_BYTES);
        let packed = zstd::bulk::compress(&mail, 3).unwrap();
        let ratio = mail.len() as f64 / packed.len() as f64;
        assert!((1.4..2.5).contains(&ratio), "{ratio}");
    }
}
