//! A request's path to a name below a directory: decoded once, strictly. A function of bytes, which knows no file system.
//!
//! What two programs could read differently (an encoded slash, a backslash, dots, bytes that are no UTF-8) is refused,
//! never repaired. The kernel keeps the result inside its directory; this keeps it unambiguous.

use memchr::memchr;

/// Linux's PATH_MAX, with its final NUL.
const MAX_NAME_BYTES: usize = 4095;
/// The one segment with a leading dot that is meant for everyone (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathError {
    /// It means nothing, or not the same to everyone; no well-behaved client sends it.
    Malformed,
    /// Nothing can be there, or it is none of the client's business.
    Absent,
}

/// The name that `path`, the part of a request's path behind its mount, asks for: relative, without a leading slash,
/// empty for the directory itself, with a trailing slash for one below it.
///
/// `scratch` holds the name if it differs from what was sent. `hidden`: names that begin with a dot may be asked for.
pub fn name_below<'a>(path: &'a [u8], hidden: bool, scratch: &'a mut Vec<u8>) -> Result<&'a [u8], PathError> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let name = match memchr(b'%', path) {
        None => path,
        Some(_) => {
            decode(path, scratch)?;
            scratch
        }
    };
    check(name, hidden)?;
    Ok(name)
}

/// Whether names that begin with a dot, such as this one, are for the operator alone.
pub fn is_hidden(segment: &[u8]) -> bool {
    segment.first() == Some(&b'.') && segment != WELL_KNOWN
}

fn decode(path: &[u8], name: &mut Vec<u8>) -> Result<(), PathError> {
    name.clear();
    let mut rest = path;
    while let Some(at) = memchr(b'%', rest) {
        name.extend_from_slice(&rest[..at]);
        let byte = match rest.get(at + 1..at + 3) {
            Some(&[high, low]) => hex_digit(high).zip(hex_digit(low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        match byte {
            None | Some(b'/') => return Err(PathError::Malformed),
            Some(byte) => name.push(byte),
        }
        rest = &rest[at + 3..];
    }
    name.extend_from_slice(rest);
    Ok(())
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

fn check(name: &[u8], hidden: bool) -> Result<(), PathError> {
    if memchr::memchr2(0, b'\\', name).is_some() || std::str::from_utf8(name).is_err() {
        return Err(PathError::Malformed);
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(PathError::Absent);
    }
    let mut outcome = Ok(());
    let mut segments = name.split(|&byte| byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"." | b".." => return Err(PathError::Malformed),
            b"" if segments.peek().is_some() => outcome = Err(PathError::Absent),
            _ if !hidden && is_hidden(segment) => outcome = Err(PathError::Absent),
            _ => {}
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(path: &str) -> Result<String, PathError> {
        let mut scratch = Vec::new();
        name_below(path.as_bytes(), false, &mut scratch).map(|name| String::from_utf8(name.to_vec()).unwrap())
    }

    #[test]
    fn a_path_is_decoded_once_and_loses_its_first_slash() {
        for (path, expected) in [
            ("/a/b.txt", "a/b.txt"),
            ("/", ""),
            ("", ""),
            ("/sub/", "sub/"),
            ("/a%20b", "a b"),
            ("/%c3%A4", "ä"),
            ("/100%25", "100%"),
            ("/%2541", "%41"),
            ("/line%0Afeed", "line\nfeed"),
            ("/a..b/...c", "a..b/...c"),
            ("/.well-known/acme-challenge/x", ".well-known/acme-challenge/x"),
        ] {
            let expected = if expected.contains("...c") { Err(PathError::Absent) } else { Ok(expected.to_owned()) };
            assert_eq!(name(path), expected, "{path}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_malformed() {
        for path in [
            "/..",
            "/../x",
            "/a/../b",
            "/a/..",
            "/.",
            "/a/./b",
            "/%2e%2e/x",
            "/%2E./x",
            "/a%2fb",
            "/a%2F..%2Fb",
            "/a\\b",
            "/a%5cb",
            "/..\\x",
            "/%00",
            "/a%00.txt",
            "/%",
            "/%4",
            "/%zz",
            "/%+1",
            "/a%",
            "/%c0%ae%c0%ae/x",
            "/%c0%af",
            "/%e0%80%af",
            "/%ff",
            "/%ed%a0%80",
            "/.git/../x",
        ] {
            assert_eq!(name(path), Err(PathError::Malformed), "{path}");
        }
    }

    #[test]
    fn dot_files_and_empty_segments_are_absent() {
        for path in ["/.git/config", "/a/.env", "/.well-known2", "/%2egit", "//a", "/a//b", "//", "/a//"] {
            assert_eq!(name(path), Err(PathError::Absent), "{path}");
        }
        assert_eq!(name_below(b"/.git/config", true, &mut Vec::new()), Ok(&b".git/config"[..]));
        assert_eq!(name_below(b"/..", true, &mut Vec::new()), Err(PathError::Malformed));
        assert_eq!(name(&format!("/{}", "a/".repeat(2048))), Err(PathError::Absent));
    }

    proptest! {
        #[test]
        fn no_name_leaves_its_directory(path in prop::collection::vec(prop_oneof![
            Just(b"/".to_vec()), Just(b"..".to_vec()), Just(b"%2e".to_vec()), Just(b"%2f".to_vec()), Just(b"\\".to_vec()),
            Just(b"%".to_vec()), Just(b"%00".to_vec()), prop::collection::vec(any::<u8>(), 0..4),
        ], 0..12), hidden: bool) {
            let path = path.concat();
            let mut scratch = Vec::new();
            if let Ok(name) = name_below(&path, hidden, &mut scratch) {
                let text = std::str::from_utf8(name).unwrap();
                prop_assert!(!text.starts_with('/') && !text.contains(['\0', '\\']));
                prop_assert!(text.split('/').all(|segment| segment != "." && segment != ".."));
                prop_assert!(!text.contains("//"));
                prop_assert!(hidden || !text.split('/').any(|segment| is_hidden(segment.as_bytes())));
            }
        }
    }
}
