//! Latencies of one point, and what is said of them.

use std::time::Duration;

#[derive(Debug, Clone, Default)]
pub(super) struct Samples {
    /// Microseconds.
    times: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quantiles {
    pub(super) best: f64,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
}

impl Samples {
    pub(super) fn add(&mut self, taken: Duration) {
        self.times.push(taken.as_secs_f64() * 1e6);
    }

    pub(super) fn merge(&mut self, other: Samples) {
        self.times.extend(other.times);
    }

    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    /// Of one stream that does one after the other.
    pub(super) fn mb_per_second(&self, bytes: u64) -> f64 {
        // Bytes a microsecond are millions of bytes a second.
        self.times.len() as f64 * bytes as f64 / self.times.iter().sum::<f64>().max(1e-9)
    }

    pub(super) fn quantiles(&mut self) -> Quantiles {
        self.times.sort_by(f64::total_cmp);
        let last = self.times.len().saturating_sub(1);
        let at = |share: f64| {
            let index = ((self.times.len() as f64 * share) as usize).min(last);
            super::round(self.times.get(index).copied().unwrap_or(0.0))
        };
        Quantiles { best: at(0.0), p50: at(0.5), p99: at(0.99), p999: at(0.999) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_rates_come_from_all_streams() {
        let mut samples = Samples::default();
        let mut other = Samples::default();
        for micros in (1..=1000).rev() {
            let half = if micros % 2 == 0 { &mut samples } else { &mut other };
            half.add(Duration::from_micros(micros));
        }
        samples.merge(other);
        let expected = Quantiles { best: 1.0, p50: 501.0, p99: 991.0, p999: 1000.0 };
        assert_eq!(samples.quantiles(), expected);
        assert!((samples.mb_per_second(1000) - 1000.0 * 1000.0 / 500_500.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_measured_is_never_zero() {
        assert_eq!(Samples::default().quantiles().p50, 0.1);
    }
}
