"""The cases: raw bytes that a client might send, right, doubtful and wrong.

Each is the first thing sent on a connection of its own, in one piece. What the servers make of it is recorded in
`outcomes.json`; why they differ is said in `reasons.toml`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

HOST = "Host: a"


@dataclass(frozen=True)
class Case:
    group: str
    name: str
    sent: bytes
    half_close: bool = False
    """After the bytes, the client says that it will send no more."""

    @property
    def key(self) -> str:
        return f"{self.group}: {self.name}"


def request(line: str | bytes, *headers: str | bytes, body: bytes = b"") -> bytes:
    """A request whose lines end as they should."""
    lines = [part.encode("latin-1") if isinstance(part, str) else part for part in (line, *headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(*headers: str | bytes, target: str = "/", version: str = "HTTP/1.1") -> bytes:
    return request(f"GET {target} {version}", HOST, *headers)


def post(*headers: str | bytes, body: bytes = b"") -> bytes:
    return request("POST / HTTP/1.1", HOST, *headers, body=body)


def chunked(body: bytes, *headers: str | bytes) -> bytes:
    return post("Transfer-Encoding: chunked", *headers, body=body)


GET = get()
NEXT = get(target="/next")
LAST = b"0\r\n\r\n"


def right() -> Iterator[tuple[str, bytes]]:
    yield "GET", GET
    yield "GET with a query", get(target="/a/b?c=d&e")
    yield "GET with percent-encoding", get(target="/a%20b%2Fc?%41")
    yield "HEAD", request("HEAD / HTTP/1.1", HOST)
    yield "OPTIONS *", request("OPTIONS * HTTP/1.1", HOST)
    yield "PUT with a length", request("PUT / HTTP/1.1", HOST, "Content-Length: 5", body=b"hello")
    yield "DELETE", request("DELETE / HTTP/1.1", HOST)
    yield "POST with a length", post("Content-Length: 5", body=b"hello")
    yield "POST with a length of 0", post("Content-Length: 0")
    yield "POST with neither length nor coding", post()
    yield "POST with chunks", chunked(b"5\r\nhello\r\n6\r\n world\r\n" + LAST)
    yield "no chunk but the last", chunked(LAST)
    yield "a chunk extension", chunked(b'5;a=b;c="d"\r\nhello\r\n' + LAST)
    yield "chunk sizes in capitals, with leading zeros", chunked(b"000A\r\n0123456789\r\n000\r\n\r\n")
    yield "trailers", chunked(b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")
    yield "Transfer-Encoding in capitals", post("TRANSFER-ENCODING: Chunked", body=b"5\r\nhello\r\n" + LAST)
    yield "GET with a body", get("Content-Length: 5") + b"hello"
    yield "HTTP/1.0", request("GET / HTTP/1.0")
    yield "HTTP/1.0 with keep-alive", request("GET / HTTP/1.0", "Connection: keep-alive")
    yield "HTTP/1.0 POST", request("POST / HTTP/1.0", "Content-Length: 5", body=b"hello")
    yield "Connection: close", get("Connection: close")
    yield "Connection: a list with close", get("Connection: keep-alive, close")
    yield "no space after a colon", request("GET / HTTP/1.1", "Host:a")
    yield "spaces and tabs around a value", get("Accept: \t */* \t ")
    yield "an empty value", get("X-Empty:")
    yield "bytes above 127 in a value", get(b"X-Name: caf\xc3\xa9 \xff")
    yield "a name of every allowed mark", get("!#$%&'*+-.^_`|~: x")
    yield "90 headers", get(*[f"X-{number}: {number}" for number in range(90)])
    yield "a target of 4,000 bytes", get(target="/" + "a" * 3999)
    yield "an IPv6 host with a port", request("GET / HTTP/1.1", "Host: [::1]:8000")
    yield "an empty Host", request("GET / HTTP/1.1", "Host:")
    yield "an absolute target", request("GET http://a/b?c HTTP/1.1", HOST)
    yield "an absolute target of another host", request("GET http://other/b HTTP/1.1", HOST)
    yield "an absolute target without a path", request("GET http://a HTTP/1.1", HOST)
    yield "an absolute target with a query alone", request("GET http://a?b HTTP/1.1", HOST)
    yield "an unknown method", request("FROB / HTTP/1.1", HOST)
    yield "a method with a hyphen", request("M-SEARCH / HTTP/1.1", HOST)
    yield "two slashes first", get(target="//a//b")
    yield "dot segments", get(target="/a/../b/./c")


def lengths() -> Iterator[tuple[str, bytes]]:
    values = {
        "repeated in a list": "5, 5",
        "signed +": "+5",
        "signed -": "-5",
        "hexadecimal": "0x5",
        "with a fraction": "5.0",
        "with a letter": "5a",
        "with an underscore": "1_0",
        "with a space inside": "1 0",
        "empty": "",
        "of 2^64": str(1 << 64),
        "of 2^64 + 5": str((1 << 64) + 5),
        "of 40 digits": "9" * 40,
        "quoted": '"5"',
        "with a comma": "5,",
        "of other digits": "\xb2",
        "with a tab inside": "5\t5",
        "with a vertical tab": "\x0b5",
        "with leading zeros": "0005",
    }
    for name, value in values.items():
        yield f"a length {name}", post(f"Content-Length: {value}", body=b"hello") + NEXT
    yield "two equal lengths", post("Content-Length: 5", "Content-Length: 5", body=b"hello") + NEXT
    yield "two lengths that differ", post("Content-Length: 5", "Content-Length: 6", body=b"hello") + NEXT
    yield "a length and chunks", post("Content-Length: 5", "Transfer-Encoding: chunked", body=LAST) + NEXT
    yield "chunks and a length", post("Transfer-Encoding: chunked", "Content-Length: 5", body=LAST) + NEXT
    yield "a bad length and chunks", post("Content-Length: x", "Transfer-Encoding: chunked", body=LAST) + NEXT
    yield "a length whose name has an underscore", post("Content_Length: 5") + NEXT


def codings() -> Iterator[tuple[str, bytes]]:
    values = {
        "gzip before chunked": "gzip, chunked",
        "gzip after chunked": "chunked, gzip",
        "chunked twice": "chunked, chunked",
        "identity": "identity",
        "identity before chunked": "identity, chunked",
        "x in front": "xchunked",
        "x behind": "chunkedx",
        "a parameter": "chunked;q=1",
        "quoted": '"chunked"',
        "a comma in front": ", chunked",
        "a comma behind": "chunked,",
        "a vertical tab in front": "\x0bchunked",
        "a form feed behind": "chunked\x0c",
        "empty": "",
        "a no-break space in front": "\xa0chunked",
        "an unknown one": "cow",
        "chunked, in brackets": "[chunked]",
    }
    for name, value in values.items():
        yield f"coding: {name}", post(f"Transfer-Encoding: {value}", body=LAST) + NEXT
    yield "coding: chunked in two headers", post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=LAST)
    yield (
        "coding: gzip, chunked in two headers",
        post("Transfer-Encoding: gzip", "Transfer-Encoding: chunked", body=LAST),
    )
    yield (
        "coding: chunked, identity in two headers",
        post("Transfer-Encoding: chunked", "Transfer-Encoding: identity", body=LAST),
    )
    yield "coding: a space before the colon", post("Transfer-Encoding : chunked", "Content-Length: 5", body=LAST)
    yield "coding: folded", post("Transfer-Encoding:", " chunked", body=LAST)
    yield "coding: the name has an underscore", post("Transfer_Encoding: chunked", body=b"") + NEXT
    yield "coding: in HTTP/1.0", request("POST / HTTP/1.0", HOST, "Transfer-Encoding: chunked", body=LAST)
    yield (
        "coding: in HTTP/1.0, beside a length",
        request("POST / HTTP/1.0", HOST, "Transfer-Encoding: chunked", "Content-Length: 5", body=LAST),
    )


def chunks() -> Iterator[tuple[str, bytes]]:
    hello = b"\r\nhello\r\n" + LAST
    for name, size in {
        "signed +": b"+5",
        "signed -": b"-5",
        "0x in front": b"0x5",
        "a space in front": b" 5",
        "a space behind": b"5 ",
        "a tab behind": b"5\t",
        "no digit": b"g",
        "empty": b"",
        "an underscore": b"0_5",
        "quoted": b'"5"',
        "of 17 digits, 2^64 + 5": b"10000000000000005",
        "of 16 digits, 2^64 - 1": b"ffffffffffffffff",
        "of 20 digits, zeros in front": b"00000000000000000005",
        "a semicolon alone": b"5;",
        "a space before the extension": b"5 ;a=b",
        "a bare CR in the extension": b"5;a\rb",
        "a NUL in the extension": b"5;a\0b",
        "a bare LF in the extension": b"5;a\nb",
        "a comma": b"5,5",
        "a NUL behind": b"5\0",
        "an extension of 20,000 bytes": b"5;" + b"x" * 20_000,
    }.items():
        yield f"chunk size: {name}", chunked(size + hello) + NEXT
    yield "a bare LF after the size", chunked(b"5\nhello\r\n" + LAST) + NEXT
    yield "a bare LF after the data", chunked(b"5\r\nhello\n" + LAST) + NEXT
    yield "a bare LF after the last size", chunked(b"5\r\nhello\r\n0\n\r\n") + NEXT
    yield "a bare LF at the body's end", chunked(b"5\r\nhello\r\n0\r\n\n") + NEXT
    yield "nothing after the data", chunked(b"5\r\nhello" + LAST) + NEXT
    yield "data beyond the size", chunked(b"5\r\nhello!\r\n" + LAST) + NEXT
    yield "data short of the size", chunked(b"5\r\nhell\r\n" + LAST) + NEXT
    yield "two bytes other than CR LF after the data", chunked(b"5\r\nhelloXX" + LAST) + NEXT
    for name, line in {
        "no colon": b"X",
        "a space before the colon": b"X : y",
        "no name": b": y",
        "folded": b"X: y\r\n z",
        "a NUL": b"X: \0",
        "a bare LF": b"X: y\nZ: z",
        "a bare CR": b"X: y\rz",
        "a framing header": b"Content-Length: 5",
        "a Host": b"Host: b",
        "9,000 bytes": b"X: " + b"y" * 9000,
    }.items():
        yield f"trailer: {name}", chunked(b"0\r\n" + line + b"\r\n\r\n") + NEXT


def line_ends() -> Iterator[tuple[str, bytes]]:
    yield "LF after the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n"
    yield "LF after a header", b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"
    yield "LF LF at the end", b"GET / HTTP/1.1\r\nHost: a\n\n"
    yield "CR LF LF at the end", b"GET / HTTP/1.1\r\nHost: a\r\n\n"
    yield "LF everywhere", b"GET / HTTP/1.1\nHost: a\n\n"
    yield "LF that hides a request", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\n\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
    yield "CR alone after the request line", b"GET / HTTP/1.1\rHost: a\r\n\r\n"
    yield "CR in the target", b"GET /\ra HTTP/1.1\r\nHost: a\r\n\r\n"
    yield "CR in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX\rY: z\r\n\r\n"
    yield "CR in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n"
    yield "CR that hides a header", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n"
    yield "CR CR LF after a header", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"
    yield "CR CR LF at the end", b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n"
    yield "CR alone at the end", b"GET / HTTP/1.1\r\nHost: a\r\n\rX\r\n\r\n"
    for place, sent in {
        "the method": b"G\0T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "the target": b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "the version": b"GET / HTTP/1.1\0\r\nHost: a\r\n\r\n",
        "a name": b"GET / HTTP/1.1\r\nHost: a\r\nX\0Y: z\r\n\r\n",
        "a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n",
        "the Host": b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
    }.items():
        yield f"NUL in {place}", sent
    for name, byte in {"VT": b"\x0b", "FF": b"\x0c", "DEL": b"\x7f", "ESC": b"\x1b", "BEL": b"\x07"}.items():
        yield f"{name} in a value", get(b"X: y" + byte + b"z")
        yield f"{name} in the target", b"GET /" + byte + b" HTTP/1.1\r\nHost: a\r\n\r\n"


def names() -> Iterator[tuple[str, bytes]]:
    yield "a folded header", get("X: y", " z")
    yield "a header folded with a tab", get("X: y", "\tz")
    yield "a fold that says nothing", get("X: y", " ")
    yield "white space before the first header", request("GET / HTTP/1.1", " X: y", HOST)
    yield "a folded Host", request("GET / HTTP/1.1", "Host:", " a")
    for name, line in {
        "a space before the colon": "X : y",
        "a tab before the colon": "X\t: y",
        "no name": ": y",
        "no colon": "X",
        "a space in the name": "X Y: z",
        "parentheses in the name": "X(Y): z",
        "a quote in the name": 'X"Y": z',
        "an at in the name": "X@Y: z",
        "a slash in the name": "X/Y: z",
        "a byte above 127 in the name": "X\xe9: y",
        "a comma in the name": "X,Y: z",
        "a colon first": "::X: y",
        "a DEL in the name": "X\x7f: y",
        "a space alone": " ",
        "braces in the name": "{X}: y",
    }.items():
        yield name, get(line)


def hosts() -> Iterator[tuple[str, bytes]]:
    yield "no Host in HTTP/1.1", request("GET / HTTP/1.1", "X: y")
    yield "two Hosts that differ", request("GET / HTTP/1.1", "Host: a", "Host: b")
    yield "two equal Hosts", request("GET / HTTP/1.1", "Host: a", "Host: a")
    yield "two Hosts in HTTP/1.0", request("GET / HTTP/1.0", "Host: a", "Host: b")
    yield "an absolute target, and no Host", request("GET http://a/ HTTP/1.1", "X: y")
    for value in [
        "a b",
        "a/b",
        "a@b",
        "user:password@a",
        "a:b",
        "a:1:2",
        "a, b",
        "a?b",
        "a#b",
        "[::1",
        "::1",
        "a\\b",
        "caf\xe9",
        "a:99999",
        ":80",
        "<a>",
        "a%00",
    ]:
        yield f"Host: {value}", request("GET / HTTP/1.1", f"Host: {value}")


def request_lines() -> Iterator[tuple[str, bytes]]:
    for version in [
        "HTTP/1.2",
        "HTTP/1.9",
        "HTTP/2.0",
        "HTTP/0.9",
        "HTTP/3.1",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/1.10",
        "HTTP/01.1",
        "http/1.1",
        "HTTP /1.1",
        "HTTQ/1.1",
        "HTTP/1.1x",
        "HTTP/+1.1",
        "HTTP/1,1",
        "HTTPS/1.1",
        "1.1",
        "HTTP/11",
    ]:
        yield f"version {version}", get(version=version)
    yield "a space after the version", get(version="HTTP/1.1 ")
    yield "HTTP/0.9: no version", b"GET /\r\n"
    yield "no version, with headers", b"GET /\r\nHost: a\r\n\r\n"
    yield "two spaces before the target", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"
    yield "two spaces before the version", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n"
    yield "tabs between the words", b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n"
    yield "a vertical tab between the words", b"GET\x0b/ HTTP/1.1\r\nHost: a\r\n\r\n"
    yield "a space in front", b" " + GET
    yield "no target", b"GET HTTP/1.1\r\nHost: a\r\n\r\n"
    yield "nothing but a method", b"GET\r\nHost: a\r\n\r\n"
    yield "nothing but spaces", b"   \r\nHost: a\r\n\r\n"
    yield "no method", b" / HTTP/1.1\r\nHost: a\r\n\r\n"
    for method in ["get", "Get", "G@T", "G(T)", "GE\xc9", "GET:", '"GET"', "[GET]", "G" * 40, "G" * 5000]:
        name = method if len(method) < 20 else f"of {len(method)} letters"
        yield f"method {name}", request(f"{method} / HTTP/1.1", HOST)
    for target in [
        "a",
        "*",
        "?a",
        "/a b",
        "/#a",
        "/a#b",
        "/\x80",
        "/\xc3\xa9",
        "/%",
        "/%zz",
        "/%00",
        '/"',
        "/<a>",
        "/\\",
        "/{a}",
        "/^",
        "http://",
        "http:///a",
        "http://user@a/",
        "http://a:b/",
        "https://a/b",
        "ftp://a/b",
        "HTTP://a/b",
        "a:80",
        "//",
        "/..",
        "/../../etc/passwd",
        "/%2e%2e/a",
        "/a;b=c",
        "javascript:x",
    ]:
        yield f"target {target}", get(target=target)
    yield "CONNECT with a host and a port", request("CONNECT a:443 HTTP/1.1", "Host: a:443")
    yield "CONNECT with a path", request("CONNECT / HTTP/1.1", HOST)
    yield "CONNECT without a port", request("CONNECT a HTTP/1.1", HOST)
    yield "TRACE", request("TRACE / HTTP/1.1", HOST)
    for count in [1, 2, 4, 5, 20]:
        yield f"{count} empty lines in front", b"\r\n" * count + GET
    yield "an empty line of LF in front", b"\n" + GET
    yield "a CR in front", b"\r" + GET


def sizes() -> Iterator[tuple[str, bytes]]:
    yield "a target of 8,000 bytes", get(target="/" + "a" * 7999)
    yield "a target of 9,000 bytes", get(target="/" + "a" * 8999)
    yield "a target of 70,000 bytes", get(target="/" + "a" * 69_999)
    yield "a value of 9,000 bytes", get("X: " + "y" * 9000)
    yield "a value of 40,000 bytes", get("X: " + "y" * 40_000)
    yield "a name of 9,000 bytes", get("X" * 9000 + ": y")
    yield "100 headers", get(*["X: y"] * 99)
    yield "101 headers", get(*["X: y"] * 100)
    yield "2,000 headers", get(*["X: y"] * 2000)
    yield "100,000 bytes without a line's end", b"G" * 100_000


def sequences() -> Iterator[tuple[str, bytes]]:
    yield "three requests", GET + NEXT + get(target="/third")
    yield "POST, then GET", post("Content-Length: 5", body=b"hello") + NEXT
    yield "POST with chunks, then GET", chunked(b"5\r\nhello\r\n" + LAST) + NEXT
    yield "an empty line between requests", GET + b"\r\n" + NEXT
    yield "good, bad, good", GET + b"GET / HTTP/1.1\r\n\r\n" + NEXT
    yield "good, a bare LF, good", GET + b"GET /bad HTTP/1.1\nHost: a\n\n" + NEXT
    yield "a body that is a request", post(f"Content-Length: {len(NEXT)}", body=NEXT)
    yield "a body of no length that is a request", post(body=NEXT)
    yield "bytes beyond the length", post("Content-Length: 5", body=b"hello!!") + NEXT
    yield "HEAD, then GET", request("HEAD / HTTP/1.1", HOST) + NEXT
    yield "Connection: close, then GET", get("Connection: close") + NEXT
    yield "HTTP/1.0, then GET", request("GET / HTTP/1.0", HOST) + NEXT
    yield "HTTP/1.0 with keep-alive, then GET", request("GET / HTTP/1.0", HOST, "Connection: keep-alive") + NEXT
    yield "chunks, then rubbish", chunked(LAST) + b"\x00\xff rubbish\r\n\r\n"
    yield "GET, then bytes of TLS", GET + b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    yield "GET with a length of 0, then GET", get("Content-Length: 0") + NEXT


def expectations() -> Iterator[tuple[str, bytes]]:
    yield "Expect: 100-continue, the body with it", post("Expect: 100-continue", "Content-Length: 5", body=b"hello")
    yield "Expect: 100-continue, and no body yet", post("Expect: 100-continue", "Content-Length: 5")
    yield "Expect: 100-continue without a body", get("Expect: 100-continue")
    yield "Expect: 100-Continue", post("Expect: 100-Continue", "Content-Length: 5", body=b"hello")
    yield "an unknown expectation", post("Expect: cake", "Content-Length: 5", body=b"hello")
    yield "Expect in HTTP/1.0", request("POST / HTTP/1.0", "Expect: 100-continue", "Content-Length: 5", body=b"hello")
    yield "Upgrade: h2c", get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    yield "Upgrade: something unknown", get("Connection: Upgrade", "Upgrade: cake")
    yield "Upgrade without Connection", get("Upgrade: cake")
    yield "HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield "bytes of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(1, 60))


def early_ends() -> Iterator[tuple[str, bytes]]:
    yield "nothing", b""
    yield "half a request line", b"GET /"
    yield "half a head", b"GET / HTTP/1.1\r\nHost: a\r\n"
    yield "a whole request", GET
    yield "a whole request and half of the next", GET + b"GET /next HT"
    yield "half a body", post("Content-Length: 5", body=b"hel")
    yield "half of the chunks", chunked(b"5\r\nhello\r\n")
    yield "chunks without their last empty line", chunked(b"5\r\nhello\r\n0\r\n")
    yield "half a trailer", chunked(b"0\r\nX: y")


GROUPS = {
    "right": right,
    "length": lengths,
    "coding": codings,
    "chunks": chunks,
    "line ends": line_ends,
    "headers": names,
    "host": hosts,
    "request line": request_lines,
    "size": sizes,
    "sequence": sequences,
    "expectation": expectations,
}

CASES = [Case(group, name, sent) for group, make in GROUPS.items() for name, sent in make()] + [
    Case("early end", name, sent, half_close=True) for name, sent in early_ends()
]
