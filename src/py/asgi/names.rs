//! Strings that every request uses: interned once, compared by identity, their hashes known.

macro_rules! names {
    ($($name:ident = $text:literal),* $(,)?) => {
        $(
            #[allow(non_snake_case)]
            #[inline]
            pub fn $name(py: pyo3::Python<'_>) -> &pyo3::Bound<'_, pyo3::types::PyString> {
                pyo3::intern!(py, $text)
            }
        )*
    };
}

names! {
    kind = "type",
    status = "status",
    headers = "headers",
    body = "body",
    more_body = "more_body",
    method = "method",
    path = "path",
    raw_path = "raw_path",
    query_string = "query_string",
    client = "client",
    http_version = "http_version",
    state = "state",
    http_request = "http.request",
    http_disconnect = "http.disconnect",
    response_start = "http.response.start",
    response_body = "http.response.body",
    asgi = "asgi",
    extensions = "extensions",
    scheme = "scheme",
    server = "server",
    trailers = "trailers",
    more_trailers = "more_trailers",
    links = "links",
    file = "file",
    offset = "offset",
    count = "count",
    receive = "receive",
    send = "send",
    set_result = "set_result",
    done = "done",
    cancel = "cancel",
    throw = "throw",
    await_ = "__await__",
    blocking = "_asyncio_future_blocking",
}
