//! The environ of a request: a copy of its listener's template, and what the request itself says (PEP 3333).
//!
//! What repeats is made once: the template, method names, header names and values, peers' addresses. The caches are small,
//! direct-mapped and hold immutable strings, so a hostile peer can make them useless but not large. Credentials are never
//! kept. Every thread has a builder of its own.

use std::net::IpAddr;

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::job::Job;
use crate::py::http_server::ListenerAddress;
use crate::py::request_bytes::{hash, is_credential, percent_decoded};
use crate::server::http::PeerAddress;

const HEADER_ENTRIES: usize = 512;
const MAX_CACHED_HEADER_BYTES: usize = 256;
const PEER_ENTRIES: usize = 128;

/// What every environ of a server holds.
pub struct Surroundings {
    pub root_path: String,
    pub errors: Py<PyAny>,
    pub file_wrapper: Py<PyAny>,
    pub multithread: bool,
    pub multiprocess: bool,
}

struct CachedHeader {
    /// The whole line as it came, name and value.
    line: Box<[u8]>,
    key: Py<PyString>,
    value: Py<PyString>,
}

struct CachedPeer {
    address: (IpAddr, u16),
    host: Py<PyString>,
    port: Py<PyString>,
}

pub struct EnvironBuilder {
    templates: Vec<Py<PyDict>>,
    headers: Vec<Option<CachedHeader>>,
    peers: Vec<Option<CachedPeer>>,
}

impl EnvironBuilder {
    pub fn new(py: Python<'_>, listeners: &[ListenerAddress], surroundings: &Surroundings) -> PyResult<Self> {
        let templates: PyResult<_> =
            listeners.iter().map(|(scheme, server)| template(py, scheme, server.bind(py), surroundings)).collect();
        Ok(EnvironBuilder {
            templates: templates?,
            headers: std::iter::repeat_with(|| None).take(HEADER_ENTRIES).collect(),
            peers: std::iter::repeat_with(|| None).take(PEER_ENTRIES).collect(),
        })
    }

    pub fn build<'py>(
        &mut self,
        py: Python<'py>,
        job: &Job,
        input: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let (head, bytes) = (&job.head, &job.head_bytes[..]);
        let environ = self.templates[usize::from(job.listener)].bind(py).copy()?;
        let target = latin1(py, head.target.of(bytes))?;
        environ.set_item(intern!(py, "REQUEST_METHOD"), method(py, head.method.of(bytes))?)?;
        environ.set_item(intern!(py, "PATH_INFO"), path_info(py, head.path.of(bytes))?)?;
        environ.set_item(intern!(py, "QUERY_STRING"), latin1(py, head.query.of(bytes))?)?;
        environ.set_item(intern!(py, "REQUEST_URI"), &target)?;
        environ.set_item(intern!(py, "RAW_URI"), &target)?;
        environ.set_item(intern!(py, "wsgi.input"), input)?;
        if head.minor_version == 0 {
            environ.set_item(intern!(py, "SERVER_PROTOCOL"), intern!(py, "HTTP/1.0"))?;
        }
        self.set_peer(&environ, job.peer)?;
        if let Some(local) = job.local {
            environ.set_item(intern!(py, "SERVER_NAME"), local.ip.to_string())?;
            environ.set_item(intern!(py, "SERVER_PORT"), local.port.to_string())?;
        }
        if let Some(forwarded) = &job.forwarded {
            if let Some((host, port)) = &forwarded.client {
                environ.set_item(intern!(py, "REMOTE_ADDR"), &**host)?;
                environ.set_item(intern!(py, "REMOTE_PORT"), port.to_string())?;
            }
            if let Some(scheme) = forwarded.scheme {
                let scheme = if matches!(scheme, "https" | "wss") { "https" } else { "http" };
                environ.set_item(intern!(py, "wsgi.url_scheme"), scheme)?;
            }
        }
        for &(name, value) in &head.headers {
            let line = (name.end() < value.start() && !value.is_empty()).then(|| &bytes[name.start()..value.end()]);
            self.set_header(&environ, name.of(bytes), value.of(bytes), line)?;
        }
        Ok(environ)
    }

    fn set_peer(&mut self, environ: &Bound<'_, PyDict>, peer: PeerAddress) -> PyResult<()> {
        let py = environ.py();
        // A peer of a Unix domain socket has no address; the template says so.
        let Some(address) = peer.internet() else { return Ok(()) };
        let entry = &mut self.peers[usize::from(address.1) % PEER_ENTRIES];
        let cached = match entry {
            Some(cached) if cached.address == address => cached,
            _ => entry.insert(CachedPeer {
                address,
                host: PyString::new(py, &address.0.to_string()).unbind(),
                port: PyString::new(py, itoa::Buffer::new().format(address.1)).unbind(),
            }),
        };
        environ.set_item(intern!(py, "REMOTE_ADDR"), &cached.host)?;
        environ.set_item(intern!(py, "REMOTE_PORT"), &cached.port)
    }

    /// `line`: the header as it came, if its name and value lie in one piece.
    fn set_header(
        &mut self,
        environ: &Bound<'_, PyDict>,
        name: &[u8],
        value: &[u8],
        line: Option<&[u8]>,
    ) -> PyResult<()> {
        let py = environ.py();
        let line = line.filter(|line| line.len() <= MAX_CACHED_HEADER_BYTES && !is_credential(name));
        let Some(line) = line else {
            return match key(py, name) {
                Some(key) => add(environ, &key, &latin1(py, value)?),
                None => Ok(()),
            };
        };
        let entry = &mut self.headers[hash(line) % HEADER_ENTRIES];
        if let Some(cached) = entry
            && *cached.line == *line
        {
            return add(environ, cached.key.bind(py), cached.value.bind(py));
        }
        let Some(key) = key(py, name) else { return Ok(()) };
        let value = latin1(py, value)?;
        *entry = Some(CachedHeader { line: line.into(), key: key.clone().unbind(), value: value.clone().unbind() });
        add(environ, &key, &value)
    }
}

fn template(
    py: Python<'_>,
    scheme: &str,
    server: &Bound<'_, PyAny>,
    surroundings: &Surroundings,
) -> PyResult<Py<PyDict>> {
    let environ = PyDict::new(py);
    let (name, port) = match server.extract::<(String, u16)>() {
        Ok((host, port)) => (host, port.to_string()),
        // A Unix domain socket: neither may be empty.
        Err(_) => ("localhost".to_owned(), if scheme == "https" { "443" } else { "80" }.to_owned()),
    };
    environ.set_item("GATEWAY_INTERFACE", "CGI/1.1")?;
    environ.set_item("SERVER_SOFTWARE", concat!("penstock/", env!("CARGO_PKG_VERSION")))?;
    environ.set_item("SERVER_NAME", name)?;
    environ.set_item("SERVER_PORT", port)?;
    environ.set_item("SERVER_PROTOCOL", "HTTP/1.1")?;
    environ.set_item("SCRIPT_NAME", latin1(py, surroundings.root_path.as_bytes())?)?;
    environ.set_item("wsgi.version", (1, 0))?;
    environ.set_item("wsgi.url_scheme", scheme)?;
    environ.set_item("wsgi.errors", &surroundings.errors)?;
    environ.set_item("wsgi.multithread", surroundings.multithread)?;
    environ.set_item("wsgi.multiprocess", surroundings.multiprocess)?;
    environ.set_item("wsgi.run_once", false)?;
    environ.set_item("wsgi.file_wrapper", &surroundings.file_wrapper)?;
    // Reading it ends where the body does, chunked or not.
    environ.set_item("wsgi.input_terminated", true)?;
    environ.set_item("REMOTE_ADDR", "")?;
    // Named here so that a copy has their places already.
    for name in ["REMOTE_PORT", "REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "REQUEST_URI", "RAW_URI", "wsgi.input"] {
        environ.set_item(PyString::intern(py, name), "")?;
    }
    Ok(environ.unbind())
}

/// The name a header has in an environ. None for one that holds an underscore: it would be taken for another, which a
/// proxy in front may have been told to remove.
fn key<'py>(py: Python<'py>, name: &[u8]) -> Option<Bound<'py, PyString>> {
    if name.contains(&b'_') {
        return None;
    }
    if name.eq_ignore_ascii_case(b"content-type") {
        return Some(intern!(py, "CONTENT_TYPE").clone());
    }
    if name.eq_ignore_ascii_case(b"content-length") {
        return Some(intern!(py, "CONTENT_LENGTH").clone());
    }
    let mut key = String::with_capacity(name.len() + 5);
    key.push_str("HTTP_");
    key.extend(name.iter().map(|&byte| if byte == b'-' { '_' } else { byte.to_ascii_uppercase() as char }));
    Some(PyString::new(py, &key))
}

/// A header that comes again is joined to the one before, as RFC 9110 section 5.3 has it (and RFC 6265 for cookies).
fn add(environ: &Bound<'_, PyDict>, key: &Bound<'_, PyString>, value: &Bound<'_, PyString>) -> PyResult<()> {
    let py = environ.py();
    let before = environ.len();
    // SAFETY: attached; three live objects. It returns a borrowed reference, or null with an exception.
    let present = unsafe { ffi::PyDict_SetDefault(environ.as_ptr(), key.as_ptr(), value.as_ptr()) };
    if present.is_null() {
        return Err(PyErr::fetch(py));
    }
    if environ.len() > before || key.is(intern!(py, "CONTENT_LENGTH")) {
        return Ok(());
    }
    // SAFETY: the dictionary keeps it alive until it is replaced, below, after it has been read.
    let present = unsafe { Borrowed::from_ptr(py, present) };
    let separator = if key.to_str()? == "HTTP_COOKIE" { "; " } else { "," };
    let joined = format!("{}{separator}{}", present.cast::<PyString>()?.to_str()?, value.to_str()?);
    environ.set_item(key, joined)
}

/// Bytes as a native string: each byte one character, as PEP 3333 wants them.
pub fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
    // SAFETY: attached; a pointer and the length of live bytes, of one byte a character.
    unsafe {
        let made = ffi::PyUnicode_FromKindAndData(
            ffi::PyUnicode_1BYTE_KIND as i32,
            bytes.as_ptr().cast(),
            bytes.len() as ffi::Py_ssize_t,
        );
        Ok(Bound::from_owned_ptr_or_err(py, made)?.cast_into_unchecked())
    }
}

fn method<'py>(py: Python<'py>, method: &[u8]) -> PyResult<Bound<'py, PyString>> {
    Ok(match method {
        b"GET" => intern!(py, "GET").clone(),
        b"POST" => intern!(py, "POST").clone(),
        b"PUT" => intern!(py, "PUT").clone(),
        b"HEAD" => intern!(py, "HEAD").clone(),
        b"PATCH" => intern!(py, "PATCH").clone(),
        b"DELETE" => intern!(py, "DELETE").clone(),
        b"OPTIONS" => intern!(py, "OPTIONS").clone(),
        other => return latin1(py, other),
    })
}

/// The path without its escapes. `*`, which names the server and no path, is an empty one.
fn path_info<'py>(py: Python<'py>, raw: &[u8]) -> PyResult<Bound<'py, PyString>> {
    match raw {
        b"/" => Ok(intern!(py, "/").clone()),
        b"*" => Ok(intern!(py, "").clone()),
        raw if raw.contains(&b'%') => latin1(py, &percent_decoded(raw)),
        raw => latin1(py, raw),
    }
}
