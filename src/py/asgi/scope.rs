//! The scope of a request: a copy of its listener's template, and what the request itself says.
//!
//! What repeats is made once: the template, method names, header tuples, peers' addresses. The caches are small,
//! direct-mapped and hold immutable objects, so a hostile peer can make them useless but not large, and nothing of
//! one request can be changed by another. Credentials are never kept.

use std::net::IpAddr;

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use super::names;
use super::spare_dict::{SpareDict, Value};
use crate::py::request_bytes::{hash, is_credential, percent_decoded};
use crate::server::http::{LocalAddress, PeerAddress, RequestView};

const HEADER_ENTRIES: usize = 1024;
const MAX_CACHED_HEADER_BYTES: usize = 256;
const PEER_ENTRIES: usize = 64;

const ASGI: &[(&str, Value)] = &[("version", Value::Text("3.0")), ("spec_version", Value::Text("2.4"))];
/// What the server can do beyond the core specification. `http.response.debug` is not among them: the specification
/// tells servers to leave it to test clients.
const EXTENSIONS: &[(&str, Value)] = &[
    ("http.response.pathsend", Value::Empty),
    ("http.response.zerocopysend", Value::Empty),
    ("http.response.trailers", Value::Empty),
    ("http.response.early_hint", Value::Empty),
];

struct CachedHeader {
    /// The whole line as it came, name and value.
    line: Box<[u8]>,
    pair: Py<PyTuple>,
}

pub struct ScopeBuilder {
    templates: Vec<Py<PyDict>>,
    root_path: String,
    state: Option<Py<PyDict>>,
    asgi: SpareDict,
    extensions: SpareDict,
    /// The `server` of connections to a listener on every address, by the address's index.
    servers: Vec<Option<Py<PyTuple>>>,
    headers: Vec<Option<CachedHeader>>,
    peers: Vec<Option<(IpAddr, Py<PyString>)>>,
}

impl ScopeBuilder {
    pub fn new(
        py: Python<'_>,
        listeners: &[(String, Py<PyAny>)],
        root_path: &str,
        state: Option<Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let templates = listeners
            .iter()
            .map(|(scheme, server)| template(py, scheme, server, root_path))
            .collect::<PyResult<Vec<_>>>()?;
        Ok(ScopeBuilder {
            asgi: SpareDict::new(names::asgi(py), ASGI, &templates)?,
            extensions: SpareDict::new(names::extensions(py), EXTENSIONS, &templates)?,
            templates,
            root_path: root_path.to_owned(),
            state: state.map(Bound::unbind),
            servers: Vec::new(),
            headers: std::iter::repeat_with(|| None).take(HEADER_ENTRIES).collect(),
            peers: std::iter::repeat_with(|| None).take(PEER_ENTRIES).collect(),
        })
    }

    pub fn build<'py>(
        &mut self,
        py: Python<'py>,
        request: &RequestView<'_>,
        peer: PeerAddress,
        listener: u16,
        local: Option<LocalAddress>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let (head, bytes) = (request.head, request.bytes);
        self.asgi.free(py, &self.templates)?;
        self.extensions.free(py, &self.templates)?;
        let scope = copy(py, &self.templates[listener as usize])?;
        let raw_path = head.path.of(bytes);
        // What is not set is as most requests have it.
        if head.method.of(bytes) != b"GET" {
            scope.set_item(names::method(py), method(py, head.method.of(bytes)))?;
        }
        if !head.query.is_empty() {
            scope.set_item(names::query_string(py), PyBytes::new(py, head.query.of(bytes)))?;
        }
        scope.set_item(names::path(py), self.path(py, raw_path))?;
        scope.set_item(names::raw_path(py), self.raw_path(py, raw_path))?;
        scope.set_item(names::headers(py), self.headers(py, request)?)?;
        scope.set_item(names::client(py), self.client(py, peer)?)?;
        if let Some(forwarded) = request.forwarded {
            if let Some((host, port)) = &forwarded.client {
                scope.set_item(names::client(py), (&**host, *port))?;
            }
            if let Some(scheme) = forwarded.scheme {
                scope.set_item(names::scheme(py), scheme)?;
            }
        }
        if let Some(local) = local {
            scope.set_item(names::server(py), self.server(py, local)?)?;
        }
        if head.minor_version == 0 {
            scope.set_item(names::http_version(py), intern!(py, "1.0"))?;
        }
        if let Some(state) = &self.state {
            scope.set_item(names::state(py), copy(py, state)?)?;
        }
        Ok(scope)
    }

    fn path<'py>(&self, py: Python<'py>, raw: &[u8]) -> Bound<'py, PyString> {
        if self.root_path.is_empty()
            && let Some(text) = plain_ascii(raw)
        {
            return PyString::new(py, text);
        }
        let decoded = percent_decoded(raw);
        PyString::new(py, &format!("{}{}", self.root_path, String::from_utf8_lossy(&decoded)))
    }

    fn raw_path<'py>(&self, py: Python<'py>, raw: &[u8]) -> Bound<'py, PyBytes> {
        if self.root_path.is_empty() {
            return PyBytes::new(py, raw);
        }
        PyBytes::new(py, &[self.root_path.as_bytes(), raw].concat())
    }

    fn headers<'py>(&mut self, py: Python<'py>, request: &RequestView<'_>) -> PyResult<Bound<'py, PyList>> {
        let spans = &request.head.headers;
        // SAFETY: a new list of this many empty places, each filled below before anybody else sees it; on an error
        // the list is dropped with some places still null, which its deallocation allows.
        let list = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyList_New(spans.len() as ffi::Py_ssize_t))? };
        for (at, &(name, value)) in spans.iter().enumerate() {
            let pair = if name.end() < value.start() && !value.is_empty() {
                let line = &request.bytes[name.start()..value.end()];
                self.header(py, line, name.len(), value.len())?
            } else {
                // Empty, or a Host whose value was taken out of an absolute target.
                header_pair(py, name.of(request.bytes), value.of(request.bytes))?
            };
            // SAFETY: the place is empty and inside the list; the reference is given away.
            unsafe { ffi::PyList_SET_ITEM(list.as_ptr(), at as ffi::Py_ssize_t, pair.into_ptr()) };
        }
        // SAFETY: made by PyList_New.
        Ok(unsafe { list.cast_into_unchecked() })
    }

    /// The pair of one header line, `line` being from its name's first byte to its value's last.
    fn header<'py>(
        &mut self,
        py: Python<'py>,
        line: &[u8],
        name_len: usize,
        value_len: usize,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let (name, value) = (&line[..name_len], &line[line.len() - value_len..]);
        if line.len() > MAX_CACHED_HEADER_BYTES || is_credential(name) {
            return header_pair(py, name, value);
        }
        let entry = &mut self.headers[hash(line) % HEADER_ENTRIES];
        if let Some(cached) = entry
            && *cached.line == *line
        {
            return Ok(cached.pair.bind(py).clone());
        }
        let pair = header_pair(py, name, value)?;
        *entry = Some(CachedHeader { line: line.into(), pair: pair.clone().unbind() });
        Ok(pair)
    }

    fn client<'py>(&mut self, py: Python<'py>, peer: PeerAddress) -> PyResult<Bound<'py, PyAny>> {
        let Some((ip, port)) = peer.internet() else { return Ok(py.None().into_bound(py)) };
        let entry = &mut self.peers[ip_hash(ip) % PEER_ENTRIES];
        let text = match entry {
            Some((cached, text)) if *cached == ip => text.bind(py).clone(),
            _ => {
                let text = PyString::new(py, &ip.to_string());
                *entry = Some((ip, text.clone().unbind()));
                text
            }
        };
        Ok((text, port).into_pyobject(py)?.into_any())
    }

    fn server<'py>(&mut self, py: Python<'py>, local: LocalAddress) -> PyResult<Bound<'py, PyTuple>> {
        let make = || (local.ip.to_string(), local.port).into_pyobject(py);
        let Some(index) = local.index.map(usize::from) else { return make() };
        if index >= self.servers.len() {
            self.servers.resize_with(index + 1, || None);
        }
        match &self.servers[index] {
            Some(server) => Ok(server.bind(py).clone()),
            None => {
                let server = make()?;
                self.servers[index] = Some(server.clone().unbind());
                Ok(server)
            }
        }
    }
}

fn template(py: Python<'_>, scheme: &str, server: &Py<PyAny>, root_path: &str) -> PyResult<Py<PyDict>> {
    let scope = PyDict::new(py);
    scope.set_item(names::kind(py), "http")?;
    scope.set_item(names::asgi(py), py.None())?;
    scope.set_item(names::http_version(py), "1.1")?;
    scope.set_item(names::method(py), intern!(py, "GET"))?;
    scope.set_item(names::query_string(py), PyBytes::new(py, b""))?;
    scope.set_item(names::server(py), server)?;
    scope.set_item(names::scheme(py), scheme)?;
    scope.set_item("root_path", root_path)?;
    // Named here so that a copy has their places already.
    for name in [names::client(py), names::path(py), names::raw_path(py), names::headers(py), names::extensions(py)] {
        scope.set_item(name, py.None())?;
    }
    Ok(scope.unbind())
}

fn copy<'py>(py: Python<'py>, dict: &Py<PyDict>) -> PyResult<Bound<'py, PyDict>> {
    dict.bind(py).copy()
}

fn method<'py>(py: Python<'py>, method: &[u8]) -> Bound<'py, PyString> {
    match method {
        b"GET" => intern!(py, "GET").clone(),
        b"POST" => intern!(py, "POST").clone(),
        b"PUT" => intern!(py, "PUT").clone(),
        b"HEAD" => intern!(py, "HEAD").clone(),
        b"PATCH" => intern!(py, "PATCH").clone(),
        b"DELETE" => intern!(py, "DELETE").clone(),
        b"OPTIONS" => intern!(py, "OPTIONS").clone(),
        other => PyString::new(py, &String::from_utf8_lossy(other).to_ascii_uppercase()),
    }
}

fn header_pair<'py>(py: Python<'py>, name: &[u8], value: &[u8]) -> PyResult<Bound<'py, PyTuple>> {
    let lower = PyBytes::new_with(py, name.len(), |bytes| {
        bytes.copy_from_slice(name);
        bytes.make_ascii_lowercase();
        Ok(())
    })?;
    PyTuple::new(py, [lower, PyBytes::new(py, value)])
}

fn ip_hash(ip: IpAddr) -> usize {
    match ip {
        IpAddr::V4(ip) => hash(&ip.octets()),
        IpAddr::V6(ip) => hash(&ip.octets()),
    }
}

fn plain_ascii(raw: &[u8]) -> Option<&str> {
    if raw.iter().any(|&byte| byte == b'%' || byte >= 0x80) {
        return None;
    }
    std::str::from_utf8(raw).ok()
}
