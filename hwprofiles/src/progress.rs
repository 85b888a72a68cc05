//! How a long measurement shows how far it is: a bar on a terminal, a line for each
//! phase elsewhere.

use crate::probe::Step;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

const TICKS: u64 = 1000;

/// Progress on standard error.
#[derive(Debug)]
pub struct Bar {
    /// `None`: not a terminal.
    bar: Option<ProgressBar>,
    phase: &'static str,
}

impl Bar {
    /// Named by `title`, which says what is measured.
    #[must_use]
    pub fn new(title: &str) -> Bar {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {percent:>3} % {msg}");
            let style =
                style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
            ProgressBar::new(TICKS).with_style(style).with_prefix(title.to_owned())
        });
        if bar.is_none() {
            eprintln!("{title}");
        }
        Bar { bar, phase: "" }
    }

    pub fn show(&mut self, step: Step) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(step.phase);
                bar.set_position((step.done * TICKS as f64) as u64);
            }
            None if step.phase != self.phase => {
                eprintln!("  {:3.0} % {}", step.done * 100.0, step.phase);
            }
            None => {}
        }
        self.phase = step.phase;
    }

    /// Takes the bar off the terminal.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
