//! Times and what is said of them.

use std::time::Duration;

/// Times of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        Times(times.into_iter().collect())
    }
}

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn extend(&mut self, others: &Times) {
        self.0.extend_from_slice(&others.0);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that this share of them does not exceed; zero when there are none.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a position among far fewer than 2^52 times"
        )]
        let position = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
        sorted.get(position).copied().unwrap_or_default()
    }

    pub(crate) fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    pub(crate) fn longest(&self) -> Duration {
        self.quantile(1.0)
    }
}

/// The median; zero when there are none.
pub(crate) fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// In milliseconds, as a table shows it.
pub(crate) fn milliseconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}

/// A number of bytes as kB with one decimal.
pub(crate) fn kilo(bytes: u64) -> String {
    format!("{}.{}", bytes / 1_000, bytes % 1_000 / 100)
}

/// A number of bytes as MB with one decimal.
pub(crate) fn mega(bytes: u64) -> String {
    format!("{}.{}", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}

/// The difference of two times, which may be below zero.
pub(crate) fn difference(longer: Duration, shorter: Duration) -> String {
    format!("{:.2}", (longer.as_secs_f64() - shorter.as_secs_f64()) * 1e3)
}

/// How many times as long.
pub(crate) fn ratio(time: Duration, base: Duration) -> String {
    format!("{:.1}×", time.as_secs_f64() / base.as_secs_f64().max(f64::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let mut times = Times::default();
        assert_eq!(times.median(), Duration::ZERO);
        for milliseconds in [5, 1, 4, 2, 3] {
            times.add(Duration::from_millis(milliseconds));
        }
        let quantiles = [0.0, 0.5, 0.99, 1.0].map(|share| times.quantile(share).as_millis());
        assert_eq!(quantiles, [1, 3, 5, 5]);
    }
}
