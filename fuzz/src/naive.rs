//! HTTP/1.1 read the plain way: whole lines, whole bodies, no state, no speed. What Penstock reads is held against it.
//!
//! It is written from RFC 9112 and not from Penstock's parser, so that both would have to be wrong in the same way.

/// A message's lines up to its empty line, and how many bytes that is. `None`: the empty line is not there.
pub fn head_lines(bytes: &[u8]) -> Option<(Vec<&[u8]>, usize)> {
    let (mut lines, mut at) = (Vec::new(), 0);
    loop {
        let length = bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
        let line = &bytes[at..at + length];
        at += length + 2;
        if line.is_empty() {
            return Some((lines, at));
        }
        lines.push(line);
    }
}

/// A header line's name and value, if it is one by the letter.
pub fn header(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    let is_field = |&byte: &u8| byte == b'\t' || byte == b' ' || byte > b' ' && byte != 0x7f;
    (is_token(name) && value.iter().all(is_field)).then_some((name, value))
}

pub fn is_token(bytes: &[u8]) -> bool {
    let is_mark = |byte| b"!#$%&'*+-.^_`|~".contains(&byte);
    !bytes.is_empty() && bytes.iter().all(|&byte| byte.is_ascii_alphanumeric() || is_mark(byte))
}

/// Every value of a header, in any case.
pub fn values<'a>(lines: &[&'a [u8]], name: &str) -> Vec<&'a [u8]> {
    let fields = lines.iter().filter_map(|line| header(line));
    fields.filter(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value).collect()
}

/// What a chunked body is, as far as it goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunked {
    /// Its data, and how many bytes it took.
    Whole(Vec<u8>, usize),
    /// Nothing is wrong so far, and this is the data so far.
    Partial(Vec<u8>),
    Bad,
}

/// Decode a chunked body of which all that will ever come is there.
pub fn chunked(bytes: &[u8]) -> Chunked {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let (size, next) = match chunk_size(&bytes[at..]) {
            Line::Bad => return Chunked::Bad,
            Line::Partial => return Chunked::Partial(data),
            Line::Whole(size, length) => (size, at + length),
        };
        if size == 0 {
            return match trailers(&bytes[next..]) {
                Line::Bad => Chunked::Bad,
                Line::Partial => Chunked::Partial(data),
                Line::Whole(_, length) => Chunked::Whole(data, next + length),
            };
        }
        let there = usize::try_from(size).unwrap_or(usize::MAX).min(bytes.len() - next);
        data.extend_from_slice(&bytes[next..next + there]);
        match &bytes[next + there..] {
            [] | [b'\r'] => return Chunked::Partial(data),
            [b'\r', b'\n', ..] => at = next + there + 2,
            _ => return Chunked::Bad,
        }
    }
}

enum Line {
    /// The number it tells, and how many bytes it takes.
    Whole(u64, usize),
    Partial,
    Bad,
}

fn chunk_size(bytes: &[u8]) -> Line {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits > 16 {
        return Line::Bad;
    }
    let rest = &bytes[digits..];
    if rest.is_empty() {
        return Line::Partial;
    }
    if digits == 0 || !matches!(rest[0], b';' | b'\r') {
        return Line::Bad;
    }
    let is_extension = |&byte: &u8| byte == b'\t' || byte >= b' ' && byte != 0x7f;
    let extension = rest.iter().take_while(|byte| is_extension(byte)).count();
    match &rest[extension..] {
        [] | [b'\r'] => Line::Partial,
        [b'\r', b'\n', ..] => {
            let text = std::str::from_utf8(&bytes[..digits]).expect("hexadecimal digits");
            Line::Whole(u64::from_str_radix(text, 16).expect("at most 16 of them"), digits + extension + 2)
        }
        _ => Line::Bad,
    }
}

fn trailers(bytes: &[u8]) -> Line {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        match rest {
            [] | [b'\r'] => return Line::Partial,
            [b'\r', b'\n', ..] => return Line::Whole(0, at + 2),
            _ => {}
        }
        let name = rest.iter().take_while(|&&byte| is_token(&[byte])).count();
        if name == rest.len() {
            return Line::Partial;
        }
        if name == 0 || rest[name] != b':' {
            return Line::Bad;
        }
        let is_field = |&byte: &u8| byte == b'\t' || byte >= b' ' && byte != 0x7f;
        let line = name + 1 + rest[name + 1..].iter().take_while(|byte| is_field(byte)).count();
        match &rest[line..] {
            [] | [b'\r'] => return Line::Partial,
            [b'\r', b'\n', ..] => at += line + 2,
            _ => return Line::Bad,
        }
    }
}
