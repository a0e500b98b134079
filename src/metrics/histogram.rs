//! A Histogram counts values by their first two decimal digits: any value is known to a tenth or better.
//!
//! Buckets end at round decimal numbers (0.25 ms, 5 ms), so that the few that are shown to Prometheus are sums of whole
//! ones, and exact. A bucket holds what is above the one before and at most its end. Recording finds the bucket by a
//! logarithm and a division, a few nanoseconds; no lock, no allocation, one writer.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Counter;

/// Values up to here have a bucket each.
const EXACT: u64 = 100;
/// Two-digit buckets of each further power of ten.
const PER_DECADE: usize = 90;
const DECADES: usize = 7;
/// And one for what is beyond.
const BUCKETS: usize = EXACT as usize + PER_DECADE * DECADES + 1;
const POWERS: [u64; DECADES + 1] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];

/// What a duration's histogram counts in: 100 ns, so that it reaches from there to 100 s.
pub const TICK_NS: u64 = 100;

#[derive(Debug)]
#[repr(C)]
pub struct Histogram {
    sum: Counter,
    buckets: [Counter; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { sum: Counter::default(), buckets: std::array::from_fn(|_| Counter::default()) }
    }
}

/// The bucket that holds `value`.
fn bucket_of(value: u64) -> usize {
    let below = value.saturating_sub(1);
    if below < EXACT {
        return below as usize;
    }
    let decade = below.ilog10() as usize - 1;
    if decade > DECADES {
        return BUCKETS - 1;
    }
    EXACT as usize + (decade - 1) * PER_DECADE + (below / POWERS[decade]) as usize - 10
}

/// The largest value that the bucket holds.
fn end_of(bucket: usize) -> u64 {
    match bucket.checked_sub(EXACT as usize) {
        None => bucket as u64 + 1,
        Some(above) => (above % PER_DECADE + 11) as u64 * POWERS[above / PER_DECADE + 1],
    }
}

impl Histogram {
    /// Only by its one writer.
    pub fn record(&self, value: u64) {
        self.buckets[bucket_of(value)].add(1);
        self.sum.add(value);
    }

    /// A duration, in a histogram of durations.
    pub fn record_duration(&self, took: Duration) {
        let ns = took.as_nanos() as u64;
        self.buckets[bucket_of(ns.div_ceil(TICK_NS))].add(1);
        self.sum.add(ns);
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            sum: self.sum.get(),
            buckets: self.buckets.iter().map(|bucket| bucket.0.load(Ordering::Relaxed)).collect(),
        }
    }
}

/// What a histogram, or several added up, held at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Of the values; of durations in nanoseconds.
    pub sum: u64,
    buckets: Vec<u64>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Snapshot { sum: 0, buckets: vec![0; BUCKETS] }
    }
}

impl Snapshot {
    pub fn add(&mut self, other: &Snapshot) {
        self.sum += other.sum;
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, theirs)| *mine += theirs);
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// For each of these ends of buckets, in ascending order, how many values were at most so large.
    pub fn cumulative<'a>(&'a self, ends: &'a [u64]) -> impl Iterator<Item = u64> + 'a {
        let (mut at, mut count) = (0, 0);
        ends.iter().map(move |&end| {
            debug_assert_eq!(end_of(bucket_of(end)), end, "{end} ends no bucket");
            let upto = bucket_of(end) + 1;
            count += self.buckets[at..upto].iter().sum::<u64>();
            at = upto;
            count
        })
    }

    /// Buckets that hold anything: the largest value each could hold, and how many. The last has no end: `u64::MAX`.
    pub fn filled(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let counted = self.buckets.iter().enumerate().filter(|&(_, &count)| count > 0);
        counted.map(|(at, &count)| (if at == BUCKETS - 1 { u64::MAX } else { end_of(at) }, count))
    }

    /// The value that a share of all (0 to 1) did not exceed, between the ends of its bucket by proportion; 0 if none.
    pub fn quantile(&self, share: f64) -> f64 {
        let wanted = share * self.count() as f64;
        let mut before = 0.0;
        for (at, &count) in self.buckets.iter().enumerate().filter(|&(_, &count)| count > 0) {
            let here = count as f64;
            if before + here >= wanted {
                let end = end_of(at.min(BUCKETS - 2)) as f64;
                let start = if at == 0 { 0.0 } else { end_of(at - 1) as f64 };
                return start + (end - start).max(0.0) * ((wanted - before) / here).clamp(0.0, 1.0);
            }
            before += here;
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_a_bucket_that_ends_within_a_tenth_of_it() {
        let mut value = 1;
        while value < 1_000_000_000 {
            for near in [value - 1, value, value + 1] {
                let bucket = bucket_of(near);
                let (end, start) = (end_of(bucket), if bucket == 0 { 0 } else { end_of(bucket - 1) });
                assert!(near <= end && (near > start || near == 0), "{near} in {start}..={end}");
                assert!((end - start) * 10 <= near.max(10), "{near} in {start}..={end}");
            }
            value = value * 21 / 20 + 1;
        }
        assert_eq!(bucket_of(1_000_000_000), BUCKETS - 2);
        assert_eq!([bucket_of(1_000_000_001), bucket_of(u64::MAX)], [BUCKETS - 1; 2]);
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for bucket in 0..BUCKETS - 1 {
            assert_eq!(bucket_of(end_of(bucket)), bucket);
            assert_eq!(bucket_of(end_of(bucket) + 1), bucket + 1);
        }
    }

    #[test]
    fn a_limit_counts_what_is_at_most_as_large_and_nothing_else() {
        let histogram = Histogram::default();
        for ns in [0, 1, 99_999, 100_000, 100_001, 250_000, 250_001, 5_000_000_000, 900_000_000_000] {
            histogram.record_duration(Duration::from_nanos(ns));
        }
        let ends = [1_000, 2_500, 100_000_000];
        assert_eq!(histogram.snapshot().cumulative(&ends).collect::<Vec<_>>(), [4, 6, 8]);
        assert_eq!(histogram.snapshot().count(), 9);
        assert_eq!(histogram.snapshot().filled().last(), Some((u64::MAX, 1)));
    }

    #[test]
    fn quantiles_are_right_to_a_tenth_over_seven_decades() {
        for scale in [1_000, 100_000, 10_000_000] {
            let histogram = Histogram::default();
            (1..=10_000).for_each(|rank| histogram.record_duration(Duration::from_nanos(rank * scale)));
            let mut both = Snapshot::default();
            both.add(&histogram.snapshot());
            both.add(&histogram.snapshot());
            for share in [0.5, 0.9, 0.99, 0.999] {
                let (found, exact) = (both.quantile(share) * TICK_NS as f64, share * 1e4 * scale as f64);
                assert!((found / exact - 1.0).abs() < 0.1, "{share}: {found}, expected {exact}");
            }
        }
        assert_eq!(Snapshot::default().quantile(0.99), 0.0);
    }
}
