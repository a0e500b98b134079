//! What a line looks like: a template of gunicorn's atoms, or a form that has a name, compiled into parts.

use std::fmt;
use std::io::Write;
use std::time::Duration;

use super::{put_json, put_printable};
use crate::core::wall_clock::LocalClock;
use crate::protocol::http1::reason_phrase;
use crate::server::http::connection::PeerAddress;
use crate::server::http::exchange::RequestView;

const COMMON: &str = r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s"#;
const COMBINED: &str = r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FormatError {
    UnknownAtom(String),
    /// A `%` that begins no `%(atom)s` and is not doubled.
    StrayPercent,
}

impl fmt::Display for FormatError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAtom(atom) => write!(to, "%({atom})s is none of the atoms of an access log"),
            Self::StrayPercent => to.write_str("a % begins an atom, as in %(r)s, or is doubled"),
        }
    }
}

impl std::error::Error for FormatError {}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Literal(Box<[u8]>),
    Request(RequestAtom),
    Response(ResponseAtom),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum RequestAtom {
    /// Address and port, as in `127.0.0.1:52000`.
    Client,
    Host,
    Port,
    User,
    RequestLine,
    Method,
    Target,
    Path,
    DecodedPath,
    Query,
    Protocol,
    Version,
    Scheme,
    Header(String),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum ResponseAtom {
    Status,
    /// `200 OK`, and the same in its colour.
    StatusPhrase,
    ColouredStatus,
    Bytes,
    BytesOrDash,
    Header(String),
    Time,
    TimeInJson,
    Seconds,
    Milliseconds,
    Microseconds,
    DecimalSeconds,
}

/// How a request ended.
pub(super) struct Outcome<'a> {
    pub status: u16,
    pub body_bytes: u64,
    pub head: &'a [u8],
    pub duration: Duration,
    pub unix_time: Duration,
    pub clock: &'a mut LocalClock,
}

#[derive(Clone, Debug)]
pub struct LogFormat {
    parts: Vec<Part>,
    is_json: bool,
    pub(super) wants_time: bool,
    pub(super) wants_duration: bool,
    pub(super) wants_response_headers: bool,
}

impl LogFormat {
    /// The form of this name (`uvicorn`, `uvicorn-coloured`, `common`, `combined`, `json`, `fields`), or a template.
    pub fn compile(text: &str) -> Result<Self, FormatError> {
        match text {
            "uvicorn" => Ok(Self::uvicorn()),
            "uvicorn-coloured" => Ok(Self::uvicorn_in_colours()),
            "common" => Self::template(COMMON),
            "combined" => Self::template(COMBINED),
            "json" => Ok(Self::json()),
            "fields" => Ok(Self::fields()),
            template => Self::template(template),
        }
    }

    pub fn uvicorn() -> Self {
        use {Part::Request, RequestAtom as R, ResponseAtom as A};
        let parts = vec![literal("INFO:     "), Request(R::Client), literal(" - \""), Request(R::RequestLine)];
        Self::of(parts.into_iter().chain([literal("\" "), Part::Response(A::StatusPhrase), literal("\n")]), false)
    }

    pub fn uvicorn_in_colours() -> Self {
        use {Part::Request, RequestAtom as R, ResponseAtom as A};
        let parts = vec![
            literal("\x1b[32mINFO\x1b[0m:     "),
            Request(R::Client),
            literal(" - \"\x1b[1m"),
            Request(R::RequestLine),
        ];
        Self::of(
            parts.into_iter().chain([literal("\x1b[0m\" "), Part::Response(A::ColouredStatus), literal("\n")]),
            false,
        )
    }

    /// For a reader that makes something of them: client, method, target, version and status, between tabs.
    fn fields() -> Self {
        use {Part::Request, RequestAtom as R};
        let tab = || literal("\t");
        let parts = vec![Request(R::Client), tab(), Request(R::Method), tab(), Request(R::Target), tab()];
        Self::of(
            parts.into_iter().chain([Request(R::Version), tab(), Part::Response(ResponseAtom::Status), literal("\n")]),
            false,
        )
    }

    fn json() -> Self {
        use {Part::Request, Part::Response, RequestAtom as R, ResponseAtom as A};
        let header = |name: &str| Request(R::Header(name.into()));
        let members = [
            ("time", Response(A::TimeInJson)),
            ("client", Request(R::Host)),
            ("port", Request(R::Port)),
            ("method", Request(R::Method)),
            ("path", Request(R::Path)),
            ("query", Request(R::Query)),
            ("protocol", Request(R::Protocol)),
            ("status", Response(A::Status)),
            ("bytes", Response(A::Bytes)),
            ("duration_us", Response(A::Microseconds)),
            ("host", header("host")),
            ("referer", header("referer")),
            ("user_agent", header("user-agent")),
        ];
        let mut parts = Vec::new();
        for (name, part) in members {
            let opening = if parts.is_empty() { "{" } else { "," };
            parts.extend([literal(&format!("{opening}\"{name}\":")), part]);
        }
        parts.push(literal("}\n"));
        Self::of(parts, true)
    }

    fn template(text: &str) -> Result<Self, FormatError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            parts.push(literal(&rest[..at]));
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                parts.push(literal("%"));
                rest = after;
                continue;
            }
            let (atom, after) =
                rest.strip_prefix('(').and_then(|rest| rest.split_once(")s")).ok_or(FormatError::StrayPercent)?;
            parts.push(part(atom).ok_or_else(|| FormatError::UnknownAtom(atom.into()))?);
            rest = after;
        }
        parts.push(literal(rest));
        parts.push(literal("\n"));
        Ok(Self::of(parts, false))
    }

    fn of(parts: impl IntoIterator<Item = Part>, is_json: bool) -> Self {
        let parts = joined(parts);
        let any = |wanted: fn(&ResponseAtom) -> bool| {
            parts.iter().any(|part| matches!(part, Part::Response(atom) if wanted(atom)))
        };
        LogFormat {
            wants_time: any(|atom| matches!(atom, ResponseAtom::Time | ResponseAtom::TimeInJson)),
            wants_duration: any(|atom| {
                use ResponseAtom as A;
                matches!(atom, A::Seconds | A::Milliseconds | A::Microseconds | A::DecimalSeconds)
            }),
            wants_response_headers: any(|atom| matches!(atom, ResponseAtom::Header(_))),
            parts,
            is_json,
        }
    }

    /// The parts that concern the request; `cuts` is where the others belong.
    pub(super) fn put_request(
        &self,
        text: &mut Vec<u8>,
        cuts: &mut Vec<usize>,
        request: Option<&RequestView<'_>>,
        peer: PeerAddress,
    ) {
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.extend_from_slice(literal),
                Part::Request(atom) => self.put_request_atom(text, atom, request, peer),
                Part::Response(_) => cuts.push(text.len()),
            }
        }
    }

    /// The whole line, of what `put_request` made and how the request ended.
    pub(super) fn put_line(&self, out: &mut Vec<u8>, text: &[u8], cuts: &[usize], mut outcome: Outcome<'_>) {
        let responses = self.parts.iter().filter_map(|part| match part {
            Part::Response(atom) => Some(atom),
            _ => None,
        });
        let mut from = 0;
        for (atom, &cut) in responses.zip(cuts) {
            out.extend_from_slice(&text[from..cut]);
            self.put_response_atom(out, atom, &mut outcome);
            from = cut;
        }
        out.extend_from_slice(&text[from..]);
    }

    fn put_request_atom(
        &self,
        out: &mut Vec<u8>,
        atom: &RequestAtom,
        request: Option<&RequestView<'_>>,
        peer: PeerAddress,
    ) {
        let forwarded = request.and_then(|request| request.forwarded);
        let named = forwarded.and_then(|forwarded| forwarded.client.as_ref());
        match atom {
            RequestAtom::Client => match named {
                Some((host, port)) => {
                    put_printable(out, host.as_bytes());
                    put_port(out, *port);
                }
                None => put_peer(out, peer),
            },
            RequestAtom::Host => {
                let mut host = Vec::new();
                match (named, peer.internet()) {
                    (Some((host, _)), _) => return self.put_text(out, Some(host.as_bytes())),
                    (None, Some((ip, _))) => drop(write!(host, "{ip}")),
                    (None, None) => return self.put_text(out, None),
                }
                self.put_text(out, Some(&host));
            }
            RequestAtom::Port => {
                let port = named.map(|&(_, port)| port).or(peer.internet().map(|(_, port)| port));
                match port.filter(|&port| port != 0) {
                    Some(port) => put_number(out, port.into()),
                    None => self.put_text_or(out, None, b"null"),
                }
            }
            RequestAtom::RequestLine => match request {
                Some(request) => put_request_line(out, request),
                None => out.push(b'-'),
            },
            RequestAtom::User => self.put_text(out, request.and_then(user).as_deref()),
            RequestAtom::Method => self.put_text(out, request.map(|request| request.head.method.of(request.bytes))),
            RequestAtom::Target => self.put_text(out, request.map(|request| request.head.target.of(request.bytes))),
            RequestAtom::Path => self.put_text(out, request.map(|request| request.head.path.of(request.bytes))),
            RequestAtom::DecodedPath => {
                let path = request.map(|request| percent_decoded(request.head.path.of(request.bytes)));
                self.put_text(out, path.as_deref());
            }
            // gunicorn has nothing here where there is no query.
            RequestAtom::Query => {
                self.put_text_or(out, request.map(|request| request.head.query.of(request.bytes)), b"null");
            }
            RequestAtom::Protocol => self.put_text(out, request.map(protocol)),
            RequestAtom::Version => out.extend_from_slice(request.map_or(b"-", |request| &protocol(request)[5..])),
            RequestAtom::Scheme => {
                let told = forwarded.and_then(|forwarded| forwarded.scheme);
                self.put_text(out, Some(told.unwrap_or("http").as_bytes()));
            }
            RequestAtom::Header(name) => {
                self.put_text(out, request.and_then(|request| request.head.header(request.bytes, name)));
            }
        }
    }

    fn put_response_atom(&self, out: &mut Vec<u8>, atom: &ResponseAtom, outcome: &mut Outcome<'_>) {
        let status = outcome.status;
        match atom {
            ResponseAtom::Status => put_number(out, status.into()),
            ResponseAtom::StatusPhrase => put_status(out, status),
            ResponseAtom::ColouredStatus => {
                // Writing to a Vec cannot fail.
                let _ = write!(out, "\x1b[{}m", colour(status));
                put_status(out, status);
                out.extend_from_slice(b"\x1b[0m");
            }
            ResponseAtom::Bytes => put_number(out, outcome.body_bytes),
            ResponseAtom::BytesOrDash if outcome.body_bytes == 0 => out.push(b'-'),
            ResponseAtom::BytesOrDash => put_number(out, outcome.body_bytes),
            ResponseAtom::Header(name) => self.put_text(out, header_of(outcome.head, name)),
            ResponseAtom::Time => {
                out.push(b'[');
                out.extend_from_slice(outcome.clock.common_log_time(outcome.unix_time));
                out.push(b']');
            }
            ResponseAtom::TimeInJson => {
                out.push(b'"');
                out.extend_from_slice(outcome.clock.rfc3339_seconds(outcome.unix_time));
                let _ = write!(out, ".{:03}", outcome.unix_time.subsec_millis());
                out.extend_from_slice(outcome.clock.rfc3339_offset());
                out.push(b'"');
            }
            ResponseAtom::Seconds => put_number(out, outcome.duration.as_secs()),
            ResponseAtom::Milliseconds => put_number(out, outcome.duration.as_millis() as u64),
            ResponseAtom::Microseconds => put_number(out, outcome.duration.as_micros() as u64),
            ResponseAtom::DecimalSeconds => {
                let _ = write!(out, "{}.{:06}", outcome.duration.as_secs(), outcome.duration.subsec_micros());
            }
        }
    }

    fn put_text(&self, out: &mut Vec<u8>, text: Option<&[u8]>) {
        match text {
            Some(text) if self.is_json => put_json(out, text),
            Some(text) => put_printable(out, text),
            None => out.extend_from_slice(if self.is_json { b"null" } else { b"-" }),
        }
    }

    /// The same, but nothing instead of a dash.
    fn put_text_or(&self, out: &mut Vec<u8>, text: Option<&[u8]>, in_json: &[u8]) {
        match text {
            None if self.is_json => out.extend_from_slice(in_json),
            None => {}
            text => self.put_text(out, text),
        }
    }
}

fn literal(text: &str) -> Part {
    Part::Literal(text.as_bytes().into())
}

/// Literals side by side are one.
fn joined(parts: impl IntoIterator<Item = Part>) -> Vec<Part> {
    let mut joined: Vec<Part> = Vec::new();
    for part in parts {
        match (joined.last_mut(), part) {
            (_, Part::Literal(text)) if text.is_empty() => {}
            (Some(Part::Literal(before)), Part::Literal(text)) => *before = [&before[..], &text[..]].concat().into(),
            (_, part) => joined.push(part),
        }
    }
    joined
}

fn part(atom: &str) -> Option<Part> {
    use {Part::Request, Part::Response, RequestAtom as R, ResponseAtom as A};
    if let Some((name, kind)) = atom.strip_prefix('{').and_then(|rest| rest.rsplit_once('}')) {
        return match kind {
            _ if name.is_empty() => None,
            "i" => Some(Request(R::Header(name.to_ascii_lowercase()))),
            "o" => Some(Response(A::Header(name.to_ascii_lowercase()))),
            "e" => Some(variable(name)),
            _ => None,
        };
    }
    Some(match atom {
        "h" => Request(R::Host),
        "l" => literal("-"),
        "u" => Request(R::User),
        "t" => Response(A::Time),
        "r" => Request(R::RequestLine),
        "m" => Request(R::Method),
        "U" => Request(R::DecodedPath),
        "q" => Request(R::Query),
        "H" => Request(R::Protocol),
        "s" => Response(A::Status),
        "B" => Response(A::Bytes),
        "b" => Response(A::BytesOrDash),
        "f" => Request(R::Header("referer".into())),
        "a" => Request(R::Header("user-agent".into())),
        "T" => Response(A::Seconds),
        "M" => Response(A::Milliseconds),
        "D" => Response(A::Microseconds),
        "L" => Response(A::DecimalSeconds),
        "p" => literal(&format!("<{}>", std::process::id())),
        _ => return None,
    })
}

/// `%{variable}e`: one of a request's CGI variables (RFC 3875 section 4.1), or else one of the process's environment.
fn variable(name: &str) -> Part {
    use {Part::Request, RequestAtom as R};
    let upper = name.to_ascii_uppercase();
    match upper.as_str() {
        "REQUEST_METHOD" => Request(R::Method),
        "PATH_INFO" => Request(R::DecodedPath),
        "RAW_URI" | "REQUEST_URI" => Request(R::Target),
        "QUERY_STRING" => Request(R::Query),
        "SERVER_PROTOCOL" => Request(R::Protocol),
        "REMOTE_ADDR" => Request(R::Host),
        "REMOTE_PORT" => Request(R::Port),
        "REMOTE_USER" => Request(R::User),
        "WSGI.URL_SCHEME" => Request(R::Scheme),
        "CONTENT_TYPE" | "CONTENT_LENGTH" => Request(R::Header(upper.to_ascii_lowercase().replace('_', "-"))),
        _ => match upper.strip_prefix("HTTP_") {
            Some(header) => Request(R::Header(header.to_ascii_lowercase().replace('_', "-"))),
            None => {
                let mut value = Vec::new();
                put_printable(&mut value, std::env::var(name).as_deref().unwrap_or("-").as_bytes());
                Part::Literal(value.into())
            }
        },
    }
}

fn put_request_line(out: &mut Vec<u8>, request: &RequestView<'_>) {
    put_printable(out, request.head.method.of(request.bytes));
    out.push(b' ');
    put_printable(out, request.head.target.of(request.bytes));
    out.push(b' ');
    out.extend_from_slice(protocol(request));
}

fn protocol(request: &RequestView<'_>) -> &'static [u8] {
    if request.head.minor_version == 0 { b"HTTP/1.0" } else { b"HTTP/1.1" }
}

/// RFC 3986 section 2.1; a `%` that is followed by no two digits stays.
fn percent_decoded(path: &[u8]) -> Vec<u8> {
    let digit = |at: usize| path.get(at).and_then(|&byte| (byte as char).to_digit(16));
    let mut decoded = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        let escaped = if byte == b'%' { digit(at + 1).zip(digit(at + 2)) } else { None };
        decoded.push(escaped.map_or(byte, |(high, low)| (high << 4 | low) as u8));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    decoded
}

/// Of `authorization: Basic`, what stands before the colon (RFC 7617 section 2).
fn user(request: &RequestView<'_>) -> Option<Vec<u8>> {
    let value = request.head.header(request.bytes, "authorization")?;
    let (scheme, credentials) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = decode_base64(credentials.trim_ascii())?;
    let end = decoded.iter().position(|&byte| byte == b':').unwrap_or(decoded.len());
    Some(decoded[..end].to_vec())
}

/// RFC 4648 section 4, padded or not.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for &byte in text.iter().take_while(|&&byte| byte != b'=') {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(decoded)
}

/// A header of a response's head in wire form.
fn header_of<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|&byte| byte == b'\n').skip(1).find_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        line[..colon].eq_ignore_ascii_case(name.as_bytes()).then(|| line[colon + 1..].trim_ascii())
    })
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn put_port(out: &mut Vec<u8>, port: u16) {
    out.push(b':');
    put_number(out, port.into());
}

fn put_peer(out: &mut Vec<u8>, peer: PeerAddress) {
    let PeerAddress::V4(ip, port) = peer else {
        // Writing to a Vec cannot fail.
        return drop(write!(out, "{peer}"));
    };
    // Nearly every peer, by hand: the formatter takes as long as all the rest of a line.
    for (index, octet) in ip.octets().into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        put_number(out, octet.into());
    }
    put_port(out, port);
}

fn put_status(out: &mut Vec<u8>, status: u16) {
    put_number(out, status.into());
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
}

fn colour(status: u16) -> u8 {
    match status {
        100..=199 => 37,
        200..=299 => 32,
        300..=399 => 33,
        400..=499 => 31,
        _ => 91,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http1::forwarded::Forwarded;
    use crate::protocol::http1::{HeadScanner, Limits, RequestHead};

    const REQUEST: &[u8] = b"GET /a%20b?c=\"d\" HTTP/1.1\r\nHost: h\r\nReferer: /r\r\nUser-Agent: me \\ \xc3\xbc\r\n\
        Authorization: Basic dXNlcjpwYXNz\r\nX-Id: 7\r\n\r\n";
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nx-b:  2 \r\n\r\n";

    fn line(format: &str, request: &[u8], forwarded: Option<&Forwarded>) -> String {
        let limits = Limits::default();
        let mut head = RequestHead::default();
        let end = HeadScanner::default().find_end(request, &limits).unwrap();
        let understood = end.map(|end| {
            head.parse(&request[..end], &limits).unwrap();
            RequestView { bytes: &request[..end], head: &head, forwarded }
        });
        let format = LogFormat::compile(format).unwrap();
        let (mut text, mut cuts, mut out) = (Vec::new(), Vec::new(), Vec::new());
        let peer = PeerAddress::V4([127, 0, 0, 1].into(), 4242);
        format.put_request(&mut text, &mut cuts, understood.as_ref(), peer);
        let outcome = Outcome {
            status: 404,
            body_bytes: 13,
            head: HEAD,
            duration: Duration::from_micros(2_345_678),
            unix_time: Duration::from_millis(1_000_000_000_042),
            clock: &mut LocalClock::default(),
        };
        format.put_line(&mut out, &text, &cuts, outcome);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_atom_says_what_gunicorn_s_does() {
        let cases = [
            ("h", "127.0.0.1"),
            ("l", "-"),
            ("u", "user"),
            ("r", "GET /a%20b?c=\\\"d\\\" HTTP/1.1"),
            ("m", "GET"),
            ("U", "/a b"),
            ("q", "c=\\\"d\\\""),
            ("H", "HTTP/1.1"),
            ("s", "404"),
            ("B", "13"),
            ("b", "13"),
            ("f", "/r"),
            ("a", "me \\\\ \\xc3\\xbc"),
            ("T", "2"),
            ("M", "2345"),
            ("D", "2345678"),
            ("L", "2.345678"),
            ("{X-ID}i", "7"),
            ("{x-none}i", "-"),
            ("{Content-Type}o", "text/plain"),
            ("{x-b}o", "2"),
            ("{x-none}o", "-"),
            ("{HTTP_X_ID}e", "7"),
            ("{REMOTE_PORT}e", "4242"),
            ("{wsgi.url_scheme}e", "http"),
            ("{PENSTOCK_NO_SUCH_VARIABLE}e", "-"),
        ];
        for (atom, expected) in cases {
            assert_eq!(line(&format!("<%({atom})s>%%"), REQUEST, None), format!("<{expected}>%\n"), "{atom}");
        }
        assert_eq!(line("%(p)s", REQUEST, None), format!("<{}>\n", std::process::id()));
        let time = line("%(t)s", REQUEST, None);
        assert!(time.starts_with('[') && time.contains("/Sep/2001:") && time.len() == 29, "{time}");
    }

    #[test]
    fn the_forms_that_have_a_name() {
        assert_eq!(
            line("uvicorn", REQUEST, None),
            "INFO:     127.0.0.1:4242 - \"GET /a%20b?c=\\\"d\\\" HTTP/1.1\" 404 Not Found\n"
        );
        assert_eq!(
            line("uvicorn-coloured", b"GET / HTTP/1.0\r\n\r\n", None),
            "\x1b[32mINFO\x1b[0m:     127.0.0.1:4242 - \"\x1b[1mGET / HTTP/1.0\x1b[0m\" \x1b[31m404 Not Found\x1b[0m\n"
        );
        assert_eq!(line("fields", REQUEST, None), "127.0.0.1:4242\tGET\t/a%20b?c=\\\"d\\\"\t1.1\t404\n");
        let combined = line("combined", REQUEST, None);
        assert!(
            combined.starts_with("127.0.0.1 - user [") && combined.ends_with(" 404 13 \"/r\" \"me \\\\ \\xc3\\xbc\"\n")
        );
        let json = line("json", REQUEST, None);
        let rest = json.split_once(",\"client\"").unwrap().1;
        assert_eq!(
            rest,
            ":\"127.0.0.1\",\"port\":4242,\"method\":\"GET\",\"path\":\"/a%20b\",\"query\":\"c=\\\"d\\\"\",\
             \"protocol\":\"HTTP/1.1\",\"status\":404,\"bytes\":13,\"duration_us\":2345678,\"host\":\"h\",\
             \"referer\":\"/r\",\"user_agent\":\"me \\\\ ü\"}\n"
        );
    }

    #[test]
    fn what_was_not_understood_leaves_dashes() {
        assert_eq!(line("uvicorn", b"nonsense", None), "INFO:     127.0.0.1:4242 - \"-\" 404 Not Found\n");
        assert_eq!(line("%(m)s %(U)s %(H)s %(u)s|%(q)s|", b"nonsense", None), "- - - -||\n");
        let json = line("json", b"nonsense", None);
        assert!(
            json.contains("\"method\":null,\"path\":null,\"query\":null,\"protocol\":null,\"status\":404"),
            "{json}"
        );
    }

    #[test]
    fn the_client_that_a_proxy_names_is_the_client_and_cannot_fake_a_line() {
        let forwarded = Forwarded { client: Some(("\n1.2.3.4".into(), 0)), scheme: Some("https") };
        let told = line("uvicorn", b"GET / HTTP/1.0\r\n\r\n", Some(&forwarded));
        assert_eq!(told, "INFO:     \\x0a1.2.3.4:0 - \"GET / HTTP/1.0\" 404 Not Found\n");
        let told = line("%(h)s %({wsgi.url_scheme}e)s", b"GET / HTTP/1.0\r\n\r\n", Some(&forwarded));
        assert_eq!(told, "\\x0a1.2.3.4 https\n");
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for (text, error) in [
            ("%(x)s", FormatError::UnknownAtom("x".into())),
            ("%({}i)s", FormatError::UnknownAtom("{}i".into())),
            ("%({a}x)s", FormatError::UnknownAtom("{a}x".into())),
            ("100%", FormatError::StrayPercent),
            ("%(h", FormatError::StrayPercent),
            ("%h", FormatError::StrayPercent),
        ] {
            assert_eq!(LogFormat::compile(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn a_path_is_decoded_once_and_cannot_fake_a_line() {
        assert_eq!(percent_decoded(b"/a%2520%zz%4"), b"/a%20%zz%4");
        assert_eq!(line("%(U)s", b"GET /%0a%22 HTTP/1.0\r\n\r\n", None), "/\\x0a\\\"\n");
    }

    #[test]
    fn base64_is_read_with_and_without_padding() {
        for (text, bytes) in [(&b"dTo="[..], &b"u:"[..]), (b"dTo", b"u:"), (b"", b""), (b"dXNlcjpw", b"user:p")] {
            assert_eq!(decode_base64(text).as_deref(), Some(bytes));
        }
        assert_eq!(decode_base64(b"d!"), None);
    }
}
