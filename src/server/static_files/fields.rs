//! The header fields that choose among representations, or parts of one: found in one look through the request's head.

/// A field that is a list may come in several lines, which count as one (RFC 9110 section 5.3).
#[derive(Default, Debug)]
pub struct ListField<'a> {
    first: Option<&'a [u8]>,
    others: Vec<&'a [u8]>,
}

impl<'a> ListField<'a> {
    fn add(&mut self, value: &'a [u8]) {
        match self.first {
            None => self.first = Some(value),
            Some(_) => self.others.push(value),
        }
    }

    pub fn is_absent(&self) -> bool {
        self.first.is_none()
    }

    pub fn lines(&self) -> impl Iterator<Item = &'a [u8]> {
        self.first.into_iter().chain(self.others.iter().copied())
    }
}

/// Of the others the first line counts.
#[derive(Default, Debug)]
pub struct Fields<'a> {
    pub accept_encoding: ListField<'a>,
    pub if_match: ListField<'a>,
    pub if_none_match: ListField<'a>,
    pub if_modified_since: Option<&'a [u8]>,
    pub if_unmodified_since: Option<&'a [u8]>,
    pub if_range: Option<&'a [u8]>,
    pub range: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    /// Lengths and first letters tell nearly all other headers apart.
    pub fn of(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut fields = Fields::default();
        for (name, value) in headers {
            let is = |expected: &[u8]| name.eq_ignore_ascii_case(expected);
            match (name.len(), name.first().map_or(0, |byte| byte | 0x20)) {
                (5, b'r') if is(b"range") => set(&mut fields.range, value),
                (8, b'i') if is(b"if-range") => set(&mut fields.if_range, value),
                (8, b'i') if is(b"if-match") => fields.if_match.add(value),
                (13, b'i') if is(b"if-none-match") => fields.if_none_match.add(value),
                (15, b'a') if is(b"accept-encoding") => fields.accept_encoding.add(value),
                (17, b'i') if is(b"if-modified-since") => set(&mut fields.if_modified_since, value),
                (19, b'i') if is(b"if-unmodified-since") => set(&mut fields.if_unmodified_since, value),
                _ => {}
            }
        }
        fields
    }
}

fn set<'a>(field: &mut Option<&'a [u8]>, value: &'a [u8]) {
    field.get_or_insert(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_any_case_and_lists_in_several_lines() {
        let lines: &[(&str, &str)] = &[
            ("Host", "x"),
            ("ACCEPT-ENCODING", "br"),
            ("range", "bytes=0-1"),
            ("Range", "bytes=5-"),
            ("If-None-Match", "\"a\""),
            ("if-none-match", "\"b\""),
            ("If-Range-Not", "x"),
            ("Accept-Encoding", "gzip"),
        ];
        let fields = Fields::of(lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        assert_eq!(fields.accept_encoding.lines().collect::<Vec<_>>(), [&b"br"[..], b"gzip"]);
        assert_eq!(fields.if_none_match.lines().collect::<Vec<_>>(), [&b"\"a\""[..], b"\"b\""]);
        assert_eq!(fields.range, Some(&b"bytes=0-1"[..]));
        assert!(fields.if_match.is_absent() && fields.if_range.is_none() && fields.if_modified_since.is_none());
    }
}
