//! `wsgi.input`: a request's body as a file to read. What has not arrived is waited for by the thread that reads, detached.

use std::sync::Arc;

use memchr::memchr;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::conversation::{Conversation, Incoming};
use super::pool::{Message, Pool};
use super::spool::SpooledBody;
use crate::py::asgi::ClientDisconnected;
use crate::py::guarded::{Entered, Guarded};

/// So much at least is read from a file at once.
const FILE_READ_BYTES: usize = 64 * 1024;

#[pyclass(frozen, module = "penstock._core")]
pub struct WsgiInput {
    state: Guarded<State>,
}

struct State {
    /// What comes first, if it was too long for memory, and how much of it has been read.
    spooled: Option<SpooledBody>,
    spooled_at: u64,
    bytes: Vec<u8>,
    /// Those before this one have been read.
    at: usize,
    /// What comes behind the spooled ones.
    tail: Vec<u8>,
    /// Where the rest comes from, until there is none.
    source: Option<Source>,
}

/// Of what has not arrived.
pub struct Source {
    pub pool: Arc<Pool>,
    pub conversation: Arc<Conversation>,
}

impl WsgiInput {
    /// The beginning of a body in a file, what arrived behind it, and where the rest comes from: each if there is one.
    pub fn new(spooled: Option<SpooledBody>, tail: Vec<u8>, source: Option<Source>) -> Self {
        let (bytes, tail) = if spooled.is_some() { (Vec::new(), tail) } else { (tail, Vec::new()) };
        WsgiInput { state: Guarded::new(State { spooled, spooled_at: 0, bytes, at: 0, tail, source }) }
    }

    fn enter(&self) -> PyResult<Entered<'_, State>> {
        self.state.enter().map_err(|_| PyRuntimeError::new_err("wsgi.input is being read by another thread"))
    }

    /// The request is over: whoever kept its input reads no further, and nothing of the connection's next request.
    pub fn end(&self, py: Python<'_>) {
        if let Ok(mut state) = self.state.enter() {
            state.source = None;
            if let Some(spooled) = state.spooled.take() {
                py.detach(|| drop(spooled));
            }
        }
    }
}

impl State {
    fn unread(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// Get more, at least `wanted` bytes if they are in the file. False: there is none.
    fn fill(&mut self, py: Python<'_>, wanted: usize) -> PyResult<bool> {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
        if self.spooled.is_some() {
            self.fill_from_file(py, wanted)?;
            return Ok(true);
        }
        let Some(Source { pool, conversation }) = &self.source else { return Ok(false) };
        let bytes = &mut self.bytes;
        let incoming = py.detach(|| {
            pool.send(Message::Read(conversation.clone()));
            conversation.wait_for_body(bytes)
        });
        match incoming {
            Incoming::More => {}
            Incoming::End => self.source = None,
            Incoming::Disconnected => {
                return Err(ClientDisconnected::new_err("the client went away before its request was whole"));
            }
        }
        Ok(true)
    }

    fn fill_from_file(&mut self, py: Python<'_>, wanted: usize) -> PyResult<()> {
        let Some(spooled) = &self.spooled else { return Ok(()) };
        let bytes = &mut self.bytes;
        let read = py.detach(|| spooled.read_at(self.spooled_at, wanted.max(FILE_READ_BYTES), bytes))?;
        self.spooled_at += read as u64;
        if self.spooled_at == spooled.bytes() {
            let emptied = self.spooled.take();
            py.detach(|| drop(emptied));
            self.bytes.append(&mut self.tail);
        }
        Ok(())
    }

    fn take<'py>(&mut self, py: Python<'py>, count: usize) -> Bound<'py, PyBytes> {
        let taken = PyBytes::new(py, &self.bytes[self.at..self.at + count]);
        self.at += count;
        taken
    }

    fn read<'py>(&mut self, py: Python<'py>, limit: Option<usize>) -> PyResult<Bound<'py, PyBytes>> {
        let limit = limit.unwrap_or(usize::MAX);
        while self.unread().len() < limit && self.fill(py, limit - self.unread().len())? {}
        let count = self.unread().len().min(limit);
        Ok(self.take(py, count))
    }

    fn read_line<'py>(&mut self, py: Python<'py>, limit: Option<usize>) -> PyResult<Bound<'py, PyBytes>> {
        let limit = limit.unwrap_or(usize::MAX);
        let mut searched = 0;
        loop {
            let unread = self.unread();
            if let Some(offset) = memchr(b'\n', &unread[searched..]) {
                let count = (searched + offset + 1).min(limit);
                return Ok(self.take(py, count));
            }
            searched = unread.len();
            if searched >= limit || !self.fill(py, 0)? {
                let count = self.unread().len().min(limit);
                return Ok(self.take(py, count));
            }
        }
    }
}

/// None, and any number below 0, is no limit.
fn limit_of(size: Option<isize>) -> Option<usize> {
    size.and_then(|size| usize::try_from(size).ok())
}

#[pymethods]
impl WsgiInput {
    /// At most `size` bytes, fewer only at the body's end; all there are without a size.
    #[pyo3(signature = (size = None))]
    fn read<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.enter()?.read(py, limit_of(size))
    }

    /// A line with its newline, or at most `size` bytes of it.
    #[pyo3(signature = (size = None))]
    fn readline<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.enter()?.read_line(py, limit_of(size))
    }

    /// The lines that are left; with a `hint`, until they are that many bytes.
    #[pyo3(signature = (hint = None))]
    fn readlines<'py>(&self, py: Python<'py>, hint: Option<isize>) -> PyResult<Bound<'py, PyList>> {
        let enough = limit_of(hint).filter(|&hint| hint > 0).unwrap_or(usize::MAX);
        let (lines, mut bytes) = (PyList::empty(py), 0);
        while bytes < enough {
            let line = self.enter()?.read_line(py, None)?;
            if line.as_bytes().is_empty() {
                break;
            }
            bytes += line.as_bytes().len();
            lines.append(line)?;
        }
        Ok(lines)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let line = self.enter()?.read_line(py, None)?;
        if line.as_bytes().is_empty() { Err(PyStopIteration::new_err(())) } else { Ok(line) }
    }
}
