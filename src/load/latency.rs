//! Latencies of one run, to three significant digits in bounded memory.
//!
//! An HdrHistogram in nanoseconds: recording costs a few of them, and whatever takes longer than the bound counts
//! as the bound.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest latency told apart.
const MAX_NS: u64 = 600_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Latencies(Histogram::new_with_max(MAX_NS, SIGNIFICANT_DIGITS).expect("the bounds are constants that fit"))
    }
}

impl Latencies {
    pub fn record_ns(&mut self, latency_ns: u64) {
        self.0.saturating_record(latency_ns);
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The least latency that `percent` of all did not exceed; zero when there were none.
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(percent / 100.0).min(self.0.max()))
    }

    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }

    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.0.mean() as u64)
    }

    /// How many took at most so long, and longer than the bucket before: buckets that double, from a microsecond to
    /// the longest.
    pub fn buckets(&self) -> Vec<(Duration, u64)> {
        let doubling = self.0.iter_log(1_000, 2.0);
        doubling.map(|at| (Duration::from_nanos(at.value_iterated_to() + 1), at.count_since_last_iteration())).collect()
    }

    pub fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("every histogram here has the same bounds");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_keep_three_digits_from_a_microsecond_to_a_minute() {
        for scale in [100, 100_000, 6_000_000] {
            let mut latencies = Latencies::default();
            (1..=10_000).for_each(|rank| latencies.record_ns(rank * scale));
            for (percent, rank) in [(50.0, 5_000), (90.0, 9_000), (99.0, 9_900), (99.9, 9_990)] {
                let (found, exact) = (latencies.percentile(percent).as_nanos() as f64, (rank * scale) as f64);
                assert!((found / exact - 1.0).abs() < 0.001, "p{percent}: {found}, expected {exact}");
            }
        }
    }

    #[test]
    fn what_exceeds_the_bound_counts_as_the_bound_and_is_not_lost() {
        let mut latencies = Latencies::default();
        latencies.record_ns(u64::MAX);
        assert_eq!(latencies.count(), 1);
        assert!(latencies.max() >= Duration::from_nanos(MAX_NS));
    }

    #[test]
    fn buckets_double_and_hold_every_latency() {
        let mut latencies = Latencies::default();
        [300, 1_500, 1_700, 90_000, 5_000_000].into_iter().for_each(|ns| latencies.record_ns(ns));
        let buckets = latencies.buckets();
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 5);
        let microseconds = |at: usize| buckets[at].0.as_nanos() / 1_000;
        assert_eq!((microseconds(0), microseconds(1), microseconds(2)), (1, 2, 4));
        assert_eq!((buckets[0].1, buckets[1].1, buckets[2].1), (1, 2, 0));
        assert!(buckets.last().unwrap().0 >= Duration::from_millis(5));
    }

    #[test]
    fn no_latency_at_all_is_zero_everywhere() {
        let none = Latencies::default();
        assert_eq!((none.percentile(99.0), none.max(), none.mean()), Default::default());
    }
}
