//! Preconditions (RFC 9110 section 13): whether a request is to be answered with the representation it would get.

use std::time::UNIX_EPOCH;

use super::fields::Fields;

/// What identifies a representation.
#[derive(Clone, Copy, Debug)]
pub struct Validators<'a> {
    /// Strong, with its quotes.
    pub etag: &'a [u8],
    /// Seconds since 1970, as in Last-Modified.
    pub modified_s: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Send,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// In the order of RFC 9110 section 13.2.2, for GET and HEAD.
pub fn evaluate(fields: &Fields<'_>, validators: Validators<'_>) -> Verdict {
    if !fields.if_match.is_absent() {
        let matches = |line| any_tag(line, |tag| !tag.is_weak && tag.opaque == validators.etag);
        if !fields.if_match.lines().any(matches) {
            return Verdict::Failed;
        }
    } else if let Some(date) = fields.if_unmodified_since.and_then(parse_date)
        && validators.modified_s > date
    {
        return Verdict::Failed;
    }
    if !fields.if_none_match.is_absent() {
        // The weak comparison: what was changed without our knowing is none of its business.
        let matches = |line| any_tag(line, |tag| tag.opaque == validators.etag);
        if fields.if_none_match.lines().any(matches) {
            return Verdict::NotModified;
        }
    } else if let Some(date) = fields.if_modified_since.and_then(parse_date)
        && validators.modified_s <= date
    {
        return Verdict::NotModified;
    }
    Verdict::Send
}

/// Whether a range may be answered with a range: If-Range (section 13.1.5) is absent, or names what there is now.
pub fn range_is_current(fields: &Fields<'_>, validators: Validators<'_>) -> bool {
    match fields.if_range {
        None => true,
        Some(value) if value.first() == Some(&b'"') => value == validators.etag,
        Some(value) if value.starts_with(b"W/") => false,
        Some(value) => parse_date(value) == Some(validators.modified_s),
    }
}

struct Tag<'a> {
    is_weak: bool,
    /// With its quotes.
    opaque: &'a [u8],
}

/// Whether `accept` takes any of a list of entity tags; `*` is taken for every one. What is malformed ends the list.
fn any_tag<'a>(list: &'a [u8], accept: impl Fn(Tag<'a>) -> bool) -> bool {
    if list.trim_ascii() == b"*" {
        return true;
    }
    let mut rest = list;
    loop {
        rest = rest.trim_ascii_start();
        if let Some(after) = rest.strip_prefix(b",") {
            rest = after;
            continue;
        }
        let (is_weak, quoted) = rest.strip_prefix(b"W/").map_or((false, rest), |after| (true, after));
        let Some(end) = quoted.strip_prefix(b"\"").and_then(|inside| memchr::memchr(b'"', inside)) else {
            return false;
        };
        let (opaque, after) = quoted.split_at(end + 2);
        if accept(Tag { is_weak, opaque }) {
            return true;
        }
        rest = after;
    }
}

/// An HTTP date in seconds since 1970; `None` for what is none, which then counts as absent.
fn parse_date(value: &[u8]) -> Option<u64> {
    let date = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "\"5f-9\"";
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const VALIDATORS: Validators<'_> = Validators { etag: ETAG.as_bytes(), modified_s: 784_111_777 };

    fn fields<'a>(lines: &'a [(&'a str, &'a str)]) -> Fields<'a> {
        Fields::of(lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    fn verdict(lines: &[(&str, &str)]) -> Verdict {
        evaluate(&fields(lines), VALIDATORS)
    }

    #[test]
    fn a_copy_that_is_current_is_not_sent_again() {
        for tags in [ETAG, "W/\"5f-9\"", "*", "\"other\", \"5f-9\"", "\"a,b\",\"5f-9\"", ", ,\"5f-9\"", " * "] {
            assert_eq!(verdict(&[("if-none-match", tags)]), Verdict::NotModified, "{tags}");
        }
        for tags in ["\"other\"", "", "5f-9", "\"5f-9", "\"5F-9\"", "w/\"5f-9\"", "junk, \"5f-9\"", "\"*\"", "**"] {
            assert_eq!(verdict(&[("if-none-match", tags)]), Verdict::Send, "{tags}");
        }
        for (date, expected) in [(DATE, Verdict::NotModified), (LATER, Verdict::NotModified), (EARLIER, Verdict::Send)]
        {
            assert_eq!(verdict(&[("if-modified-since", date)]), expected, "{date}");
        }
        assert_eq!(verdict(&[("if-none-match", "\"a\""), ("if-none-match", ETAG)]), Verdict::NotModified);
    }

    #[test]
    fn tags_go_before_dates() {
        assert_eq!(verdict(&[("if-none-match", "\"other\""), ("if-modified-since", LATER)]), Verdict::Send);
        assert_eq!(verdict(&[("if-match", ETAG), ("if-unmodified-since", EARLIER)]), Verdict::Send);
    }

    #[test]
    fn a_precondition_that_fails_goes_before_everything() {
        assert_eq!(verdict(&[("if-match", "\"other\""), ("if-none-match", ETAG)]), Verdict::Failed);
        assert_eq!(verdict(&[("if-match", "W/\"5f-9\"")]), Verdict::Failed, "strong comparison");
        assert_eq!(verdict(&[("if-match", "*")]), Verdict::Send);
        assert_eq!(verdict(&[("if-match", ETAG), ("if-none-match", ETAG)]), Verdict::NotModified);
        assert_eq!(verdict(&[("if-unmodified-since", EARLIER)]), Verdict::Failed);
        assert_eq!(verdict(&[("if-unmodified-since", DATE)]), Verdict::Send);
    }

    #[test]
    fn a_date_that_is_none_counts_as_absent() {
        for date in ["", "yesterday", "1994-11-06", "Sun, 06 Nov 1994 08:49:37 +0000", "Thu, 01 Jan 1969 00:00:00 GMT"]
        {
            assert_eq!(verdict(&[("if-modified-since", date), ("if-unmodified-since", date)]), Verdict::Send, "{date}");
        }
        // The obsolete forms are dates all the same.
        for date in ["Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(verdict(&[("if-modified-since", date)]), Verdict::NotModified, "{date}");
        }
    }

    #[test]
    fn a_range_of_what_has_changed_is_not_a_range_any_more() {
        let current = |value| range_is_current(&fields(&[("if-range", value)]), VALIDATORS);
        assert!(current(ETAG) && current(DATE) && range_is_current(&fields(&[]), VALIDATORS));
        for value in ["\"other\"", "W/\"5f-9\"", EARLIER, LATER, "", "junk", "*"] {
            assert!(!current(value), "{value}");
        }
    }
}
