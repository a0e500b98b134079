//! The Range header (RFC 9110 section 14): which bytes of a representation are asked for. A function of bytes.

use std::ops::Range;

/// More ranges than this in one request are refused. PDF readers, who ask for the most, ask for a handful.
const MAX_RANGES: usize = 32;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ranges {
    /// The header is of another unit or malformed, and counts as absent.
    Ignored,
    /// None of what is asked for is there; or it is so much, or so often the same, that only an attacker asks for it
    /// (RFC 9110 section 14.2 lets a server refuse that).
    Unsatisfiable,
    /// In the order asked for, none empty, each within the representation. At least one.
    Some(Vec<Range<u64>>),
}

/// What `value`, a Range header's, asks for of a representation of `size` bytes.
pub fn select(value: &[u8], size: u64) -> Ranges {
    let Some((unit, set)) = split_at_byte(value, b'=') else { return Ranges::Ignored };
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return Ranges::Ignored;
    }
    let (mut ranges, mut count, mut bytes) = (Vec::new(), 0, 0_u64);
    for spec in set.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|spec| !spec.is_empty()) {
        let Some(range) = resolve(spec, size) else { return Ranges::Ignored };
        count += 1;
        if count > MAX_RANGES {
            return Ranges::Unsatisfiable;
        }
        if !range.is_empty() {
            bytes = bytes.saturating_add(range.end - range.start);
            ranges.push(range);
        }
    }
    match (count, ranges.is_empty()) {
        (0, _) => Ranges::Ignored,
        // Ranges that together exceed the whole overlap.
        (_, true) => Ranges::Unsatisfiable,
        _ if bytes > size => Ranges::Unsatisfiable,
        _ => Ranges::Some(ranges),
    }
}

/// One range, cut to the size; an empty one cannot be satisfied, and `None` is malformed.
fn resolve(spec: &[u8], size: u64) -> Option<Range<u64>> {
    let (first, last) = split_at_byte(spec, b'-')?;
    match (first, last) {
        (b"", b"") => None,
        (b"", suffix) => Some(size.saturating_sub(number(suffix)?)..size),
        (first, b"") => Some(number(first)?.min(size)..size),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| first.min(size)..last.saturating_add(1).min(size))
        }
    }
}

/// Digits alone. One too large for 64 bits is beyond every file's end.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

fn split_at_byte(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(separator, bytes)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// From the first to before the last, of each.
    fn some(ranges: &[(u64, u64)]) -> Ranges {
        Ranges::Some(ranges.iter().map(|&(start, end)| start..end).collect())
    }

    #[test]
    fn ranges_are_cut_to_what_is_there() {
        for (value, expected) in [
            ("bytes=0-0", some(&[(0, 1)])),
            ("bytes=0-", some(&[(0, 100)])),
            ("bytes=90-200", some(&[(90, 100)])),
            ("bytes=-10", some(&[(90, 100)])),
            ("bytes=-1000", some(&[(0, 100)])),
            ("BYTES=5-9", some(&[(5, 10)])),
            ("bytes=0-1, 5-6 ,,-2", some(&[(0, 2), (5, 7), (98, 100)])),
            ("bytes=50-60,10-20", some(&[(50, 61), (10, 21)])),
            ("bytes=0-1,200-300", some(&[(0, 2)])),
            ("bytes=0-18446744073709551615", some(&[(0, 100)])),
            ("bytes=0-99999999999999999999999999", some(&[(0, 100)])),
        ] {
            assert_eq!(select(value.as_bytes(), 100), expected, "{value}");
        }
    }

    #[test]
    fn what_is_not_there_cannot_be_satisfied() {
        for value in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=200-300,400-500", "bytes=99999999999999999999-"]
        {
            assert_eq!(select(value.as_bytes(), 100), Ranges::Unsatisfiable, "{value}");
        }
        for value in ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0"] {
            assert_eq!(select(value.as_bytes(), 0), Ranges::Unsatisfiable, "{value} of nothing");
        }
    }

    #[test]
    fn a_malformed_header_counts_as_absent() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=2-1",
            "bytes=0-1,x",
            "bytes=1--2",
            "bytes=+1-2",
            "bytes= 1 - 2",
            "items=0-1",
            "bytes 0-1",
            "bytes=0-1;2-3",
            "bytes=0-\u{661}",
        ] {
            assert_eq!(select(value.as_bytes(), 100), Ranges::Ignored, "{value}");
        }
    }

    #[test]
    fn overlaps_and_crowds_are_refused() {
        assert_eq!(select(b"bytes=0-,0-", 100), Ranges::Unsatisfiable);
        assert_eq!(select(b"bytes=0-60,40-", 100), Ranges::Unsatisfiable);
        let many = |count| format!("bytes={}", (0..count).map(|n| format!("{n}-{n}")).collect::<Vec<_>>().join(","));
        assert!(matches!(select(many(MAX_RANGES).as_bytes(), 100), Ranges::Some(ranges) if ranges.len() == MAX_RANGES));
        assert_eq!(select(many(MAX_RANGES + 1).as_bytes(), 100), Ranges::Unsatisfiable);
        let beyond = format!("bytes=0-0{}", ",500-600".repeat(MAX_RANGES));
        assert_eq!(select(beyond.as_bytes(), 100), Ranges::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn ranges_stay_within_the_representation(value in "bytes=[0-9,\\- ]{0,40}", size: u64) {
            if let Ranges::Some(ranges) = select(value.as_bytes(), size) {
                prop_assert!(!ranges.is_empty() && ranges.len() <= MAX_RANGES);
                prop_assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size));
                prop_assert!(ranges.iter().map(|range| u128::from(range.end - range.start)).sum::<u128>() <= size.into());
            }
        }
    }
}
