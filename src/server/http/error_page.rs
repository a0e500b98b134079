//! What the server itself says when a request fails: to a browser a page, to a program JSON, to others a line.

use std::io::Write;

use crate::protocol::http1::{HttpError, ResponseContext, ResponseFraming, ResponseHead, reason_phrase};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageStyle {
    Plain,
    Html,
    Json,
}

impl PageStyle {
    /// Chosen by an Accept header: JSON or HTML where it is named, whichever comes first; a plain line otherwise.
    pub fn accepted(accept: Option<&[u8]>) -> Self {
        let types = accept.unwrap_or_default().split(|&byte| byte == b',');
        let named = types.filter_map(|range| match range.split(|&byte| byte == b';').next()?.trim_ascii() {
            kind if kind.eq_ignore_ascii_case(b"text/html") => Some(PageStyle::Html),
            kind if kind.eq_ignore_ascii_case(b"application/json") => Some(PageStyle::Json),
            _ => None,
        });
        named.into_iter().next().unwrap_or(PageStyle::Plain)
    }

    /// The same for a head that was not understood, or is not whole: by the first line that looks like an Accept header.
    /// It chooses between our own pages, so nothing hangs on its being one.
    pub fn told_in(head: &[u8]) -> Self {
        const NAME: &[u8] = b"accept:";
        let is_accept = |line: &&[u8]| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME));
        Self::accepted(head.split(|&byte| byte == b'\n').find(is_accept).map(|line| &line[NAME.len()..]))
    }

    fn content_type(self) -> &'static [u8] {
        match self {
            PageStyle::Plain => b"text/plain; charset=utf-8",
            PageStyle::Html => b"text/html; charset=utf-8",
            PageStyle::Json => b"application/json",
        }
    }
}

/// The body that tells of `error`. Its texts are our own constants, so nothing needs escaping.
pub fn body(error: HttpError, style: PageStyle) -> Vec<u8> {
    let HttpError { status, reason } = error;
    let phrase = reason_phrase(status);
    let mut page = Vec::new();
    // Writing to a Vec cannot fail.
    let _ = match style {
        PageStyle::Plain => writeln!(page, "{status} {phrase}\n{reason}"),
        PageStyle::Json => writeln!(page, r#"{{"status":{status},"error":"{phrase}","detail":"{reason}"}}"#),
        PageStyle::Html => writeln!(
            page,
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width\"><title>{status} {phrase}</title><style>:root{{color-scheme:light dark}}\
             body{{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:18vh auto;padding:0 1.5rem}}\
             h1{{font-size:1.5rem;margin:0}}b{{font:600 4rem/1 ui-monospace,monospace;opacity:.25}}</style>\
             <b>{status}</b><h1>{phrase}</h1><p>{reason}</html>"
        ),
    };
    page
}

/// Append a whole response that tells of `error`.
pub fn write(out: &mut Vec<u8>, error: HttpError, style: PageStyle, context: ResponseContext<'_>) -> ResponseFraming {
    let page = body(error, style);
    let context = ResponseContext { whole_body_bytes: Some(page.len() as u64), ..context };
    let mut head = ResponseHead::start(out, error.status);
    let written = write_headers(&mut head, error.status, style).and_then(|()| head.finish(context));
    let framing = written.expect("an HttpError has a valid status");
    if !context.request_is_head {
        out.extend_from_slice(&page);
    }
    framing
}

pub fn write_headers(
    head: &mut ResponseHead<'_>,
    status: u16,
    style: PageStyle,
) -> Result<(), crate::protocol::http1::ResponseError> {
    head.header(b"content-type", style.content_type())?;
    if status == 503 {
        head.header(b"retry-after", b"1")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_gets_a_page_a_program_json_and_others_a_line() {
        let cases: [(Option<&[u8]>, PageStyle); 6] = [
            (Some(b"text/html,application/xhtml+xml,*/*;q=0.8"), PageStyle::Html),
            (Some(b"application/json"), PageStyle::Json),
            (Some(b"Application/JSON ; q=1, text/html"), PageStyle::Json),
            (Some(b"*/*"), PageStyle::Plain),
            (Some(b""), PageStyle::Plain),
            (None, PageStyle::Plain),
        ];
        for (accept, style) in cases {
            assert_eq!(PageStyle::accepted(accept), style, "{accept:?}");
        }
    }

    #[test]
    fn a_head_that_is_not_understood_still_tells_what_its_sender_reads() {
        let cases: [(&[u8], PageStyle); 6] = [
            (b"GET / HTTP/1.1\r\nbad line\r\nACCEPT: application/json\r\n\r\n", PageStyle::Json),
            (b"GET / HTTP/1.1\nAccept:text/html", PageStyle::Html),
            (b"GET / HTTP/1.1\r\nX-Accept: text/html\r\n", PageStyle::Plain),
            (b"GET / HTTP/1.1\r\nAccept", PageStyle::Plain),
            (b"GET /Accept:text/html HTTP/1.1\r\n", PageStyle::Plain),
            (b"", PageStyle::Plain),
        ];
        for (head, style) in cases {
            assert_eq!(PageStyle::told_in(head), style, "{head:?}");
        }
    }

    #[test]
    fn no_reason_needs_escaping_in_any_style() {
        for error in HttpError::ALL {
            assert!(!error.reason.contains(['<', '&', '"', '\\']), "{error}");
        }
    }
}
