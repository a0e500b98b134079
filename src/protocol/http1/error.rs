//! What can be wrong with a request: a status to answer with, and a sentence for the peer and the log.

use std::fmt;

/// Why a request is refused. The connection cannot go on after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpError {
    pub status: u16,
    /// One sentence: what was expected or what came. Safe to show to the peer.
    pub reason: &'static str,
}

impl fmt::Display for HttpError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.status, self.reason)
    }
}

impl std::error::Error for HttpError {}

/// Every refusal of this module, declared once.
macro_rules! refusals {
    ($($name:ident = $status:literal, $reason:literal;)*) => {
        impl HttpError {
            $(pub const $name: HttpError = HttpError { status: $status, reason: $reason };)*

            /// All of them, for tables and tests.
            pub const ALL: &'static [HttpError] = &[$(HttpError::$name),*];
        }
    };
}

refusals! {
    BARE_LF = 400, "A line of the head ends with a line feed alone; lines end with CR LF.";
    BARE_CR = 400, "The head holds a carriage return that no line feed follows.";
    NUL = 400, "The head holds a NUL byte; is this HTTP, or TLS sent to a plain-text port?";
    EMPTY_LINES = 400, "Too many empty lines precede the request line.";
    INCOMPLETE_HEAD = 400, "The head does not end with one empty line.";
    HEAD_TOO_LARGE = 431, "The request's head is larger than this server accepts.";
    TOO_MANY_HEADERS = 431, "The request has more header lines than this server accepts.";
    TARGET_TOO_LONG = 414, "The request's target is longer than this server accepts.";

    BAD_METHOD = 400, "The request's method is not a token.";
    METHOD_TOO_LONG = 501, "The request's method is longer than any this server knows.";
    BAD_TARGET = 400, "The request line must be a method, a target and a version, each after one single space.";
    BAD_TARGET_BYTE = 400, "The request's target holds a byte that must be percent-encoded.";
    BAD_TARGET_FORM = 400, "The request's target must begin with '/' or be an http or https URI.";
    BAD_AUTHORITY = 400, "The host in the request's target is not a valid host and port.";
    NO_TUNNELS = 501, "This server is no proxy: it opens no tunnels.";
    ASTERISK_WITHOUT_OPTIONS = 400, "The target '*' belongs to the method OPTIONS alone.";
    NO_VERSION = 400, "The request line does not end with an HTTP version.";
    UNSUPPORTED_VERSION = 505, "This server speaks HTTP/1.0 and HTTP/1.1 here.";

    FOLDED_HEADER = 400, "A header line begins with white space; folded headers are obsolete.";
    SPACE_BEFORE_COLON = 400, "White space stands between a header's name and its colon.";
    EMPTY_HEADER_NAME = 400, "A header line has no name before its colon.";
    NO_COLON = 400, "A header line has no colon.";
    BAD_HEADER_NAME = 400, "A header's name is not a token.";
    BAD_HEADER_VALUE = 400, "A header's value holds a control character.";

    NO_HOST = 400, "An HTTP/1.1 request must have a Host header.";
    REPEATED_HOST = 400, "The request has more than one Host header.";
    BAD_HOST = 400, "The Host header is not a valid host and port.";
    BAD_CONTENT_LENGTH = 400, "Content-Length must be one decimal number without a sign.";
    REPEATED_CONTENT_LENGTH = 400, "The request has more than one Content-Length header.";
    CONTENT_TOO_LARGE = 413, "The request's body is larger than this server accepts.";
    LENGTH_AND_CODING = 400, "The request has both Content-Length and Transfer-Encoding.";
    REPEATED_TRANSFER_ENCODING = 400, "The request has more than one Transfer-Encoding header.";
    BAD_TRANSFER_ENCODING = 400, "The last transfer coding of a request must be chunked, once.";
    UNKNOWN_TRANSFER_ENCODING = 501, "The only transfer coding this server knows is chunked.";
    CODING_IN_1_0 = 400, "HTTP/1.0 has no Transfer-Encoding.";
    BODY_TIMEOUT = 408, "The request's body did not arrive, or too slowly.";
    OVERLOADED = 503, "The server has as many requests in progress as it takes; try again soon.";
    TOO_MANY_CONNECTIONS = 503, "The server has as many connections as it takes; try again soon.";
    APPLICATION_FAILED = 500, "The application failed to answer this request.";
    HEAD_TIMEOUT = 408, "The request's head did not arrive in time.";
    UNKNOWN_EXPECTATION = 417, "The only expectation this server knows is 100-continue.";

    BAD_CHUNK_SIZE = 400, "A chunk's size must be 1 to 16 hexadecimal digits.";
    BAD_CHUNK_EXTENSION = 400, "A chunk's extension holds a control character, or does not end with CR LF.";
    CHUNK_EXTENSIONS_TOO_LARGE = 400, "The chunk extensions outweigh the data they come with.";
    BAD_CHUNK_END = 400, "A chunk's data must be followed by CR LF.";
    BAD_TRAILER = 400, "A trailer must be a token, a colon and a value, and end with CR LF.";
    TRAILERS_TOO_LARGE = 431, "The request's trailers are larger than this server accepts.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_a_client_or_server_error_with_a_sentence_of_its_own() {
        for (at, error) in HttpError::ALL.iter().enumerate() {
            assert!((400..600).contains(&error.status), "{error}");
            assert!(error.reason.ends_with(['.', '?']) && error.reason.is_ascii(), "{error}");
            assert!(!HttpError::ALL[..at].iter().any(|other| other.reason == error.reason), "{error}");
        }
    }
}
