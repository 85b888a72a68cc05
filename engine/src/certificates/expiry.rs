//! When certificates expire: in the metrics, and in the log while there is time.

use super::{DAYS_LEFT_WARNED, list};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(86_400);

/// Prometheus text. What can't be read is in the log.
pub fn metrics_text(text: &mut String, data_dir: &Path) {
    let name = "kura_certificate_expires_seconds";
    let _ =
        writeln!(text, "# HELP {name} When a certificate expires, Unix time\n# TYPE {name} gauge");
    for one in list(data_dir).map_or(Vec::new(), |listed| listed.good) {
        let _ = writeln!(text, "{name}{{name=\"{}\"}} {}", one.name, one.not_after_unix);
    }
}

/// Looks once a day, until the server stops.
pub async fn watch(data_dir: PathBuf) {
    loop {
        let dir = data_dir.clone();
        let listed = tokio::task::spawn_blocking(move || list(&dir)).await;
        match listed {
            Ok(Ok(listed)) => {
                for error in listed.bad {
                    tracing::error!(%error, "a certificate can't be read");
                }
                for one in listed.good.iter().filter(|one| one.days_left < DAYS_LEFT_WARNED) {
                    let (certificate, days) = (&one.name, one.days_left);
                    if days < 0 {
                        tracing::error!(certificate, "a certificate has expired: renew it");
                    } else {
                        tracing::warn!(certificate, days, "a certificate expires soon: renew it");
                    }
                }
            }
            Ok(Err(error)) => tracing::error!(%error, "certificates can't be read"),
            // The server stops.
            Err(_) => return,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
