//! A response as its application gives it: `start_response`, `write`, and the iterable that is returned (PEP 3333).
//!
//! The head leaves with the first piece of the body. A body that is there in one piece (a list of one bytes object; a
//! first piece as long as the declared length) makes one message to the loop; others are handed over piece by piece,
//! and the thread waits while the client does not keep up.

use std::sync::Arc;

use pyo3::exceptions::{PyAssertionError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::string::PyStringData;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use super::conversation::Conversation;
use super::file_wrapper::FileWrapper;
use super::job::{BorrowedBytes, Job, ReplyBody, ReplyHead};
use super::pool::{Failure, Message, Pool, Worker};
use crate::core::Token;
use crate::protocol::http1::{is_reason, is_token, parse_length};
use crate::py::asgi::{BORROW_FROM_BYTES, ClientDisconnected};
use crate::py::guarded::{Entered, Guarded};
use crate::py::owners;

/// What `start_response` belongs to. Called, it is the `write` that `start_response` returns.
#[pyclass(frozen, module = "penstock._core")]
pub struct StartResponse {
    state: Guarded<Response>,
}

/// How far the application is with its response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Unstarted,
    /// `start_response` was called; the head leaves with the first piece of the body.
    Started,
    /// The head has left.
    Body,
    /// The body is as long as it was declared.
    Complete,
    /// The request is over, and the connection may have gone on to its next.
    Over,
}

pub struct Response {
    pool: Arc<Pool>,
    /// The request, which carries its response back; not any more once that is sent.
    job: Option<Box<Job>>,
    token: Token,
    /// Made when the response or the request's body is in pieces.
    conversation: Option<Arc<Conversation>>,
    phase: Phase,
    is_head: bool,
    /// By content-length.
    declared_bytes: Option<u64>,
    sent_bytes: u64,
}

/// How a request ended.
pub enum Outcome {
    Answered,
    Failed(Failure),
}

impl StartResponse {
    pub fn new(pool: Arc<Pool>, job: Box<Job>, conversation: Option<Arc<Conversation>>) -> Self {
        let (token, is_head) = (job.token, job.is_method(b"HEAD"));
        let state = Response {
            pool,
            job: Some(job),
            token,
            conversation,
            phase: Phase::Unstarted,
            is_head,
            declared_bytes: None,
            sent_bytes: 0,
        };
        StartResponse { state: Guarded::new(state) }
    }

    fn enter(&self) -> PyResult<Entered<'_, Response>> {
        let busy = |_| PyRuntimeError::new_err("the response is being written by another thread");
        self.state.enter().map_err(busy)
    }

    /// Send what the application returned, and `close()` it whatever happens.
    pub fn respond(&self, result: &Bound<'_, PyAny>, worker: &mut Worker) -> PyResult<()> {
        if let Some(sent) = self.enter()?.send_sequence(result, worker) {
            // A list or tuple has nothing to be closed.
            return sent;
        }
        let sent = self.send_iterable(result);
        let closed = close(result);
        sent.and(closed)
    }

    fn send_iterable(&self, result: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = result.py();
        if let Ok(wrapper) = result.cast_exact::<FileWrapper>()
            && let Some(sent) = self.enter()?.send_file(py, wrapper.get())
        {
            return sent;
        }
        let is_single = result.len().is_ok_and(|pieces| pieces == 1);
        // An iterator runs the application: nothing is held meanwhile.
        for piece in iterate(result)? {
            let piece = piece?;
            self.enter()?.send(py, bytes_of(&piece)?, is_single)?;
        }
        self.enter()?.finish(py)
    }

    /// The application is done with the request, well or not: nothing it kept reaches the connection any more.
    pub fn end(&self, failed: bool) -> PyResult<Outcome> {
        let mut response = self.enter()?;
        let phase = std::mem::replace(&mut response.phase, Phase::Over);
        response.job = None;
        Ok(match phase {
            _ if !failed => Outcome::Answered,
            Phase::Complete | Phase::Over => Outcome::Failed(Failure::Answered),
            Phase::Unstarted | Phase::Started | Phase::Body => Outcome::Failed(match response.conversation.take() {
                Some(conversation) => Failure::Answering(conversation),
                None => Failure::Unanswered(response.token),
            }),
        })
    }
}

#[pymethods]
impl StartResponse {
    /// Begin the response. Until its head has left it can be begun anew, if `exc_info` tells why.
    #[pyo3(signature = (status, headers, exc_info = None))]
    fn start_response<'py>(
        slf: &Bound<'py, Self>,
        status: &Bound<'py, PyAny>,
        headers: &Bound<'py, PyAny>,
        exc_info: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut response = slf.get().enter()?;
        match (response.phase, exc_info) {
            (Phase::Unstarted, _) | (Phase::Started, Some(_)) => {}
            (Phase::Body | Phase::Complete, Some(exc_info)) => return Err(raised(exc_info)?),
            (Phase::Over, _) => {
                return Err(PyRuntimeError::new_err("start_response was called after its request was over"));
            }
            (_, None) => {
                return Err(PyAssertionError::new_err(
                    "start_response was called before: a second call must have exc_info, the error that made the \
                     application begin anew",
                ));
            }
        }
        response.start(status, headers)?;
        Ok(slf.clone().into_any())
    }

    /// `write(data)`: send a piece of the body at once.
    fn __call__(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        self.enter()?.send(py, bytes_of(data)?, false)
    }
}

impl Response {
    fn start(&mut self, status: &Bound<'_, PyAny>, headers: &Bound<'_, PyAny>) -> PyResult<()> {
        let (number, reason) = status_of(status)?;
        let Some(job) = &mut self.job else { return Err(over()) };
        let head = &mut job.reply.head;
        head.begin(number, reason);
        self.declared_bytes = read_headers(headers, head)?;
        self.phase = Phase::Started;
        Ok(())
    }

    /// HEAD, 204 and 304 have none: what the application gives is counted by nobody.
    fn has_body(&self) -> bool {
        let status = self.job.as_ref().map_or(200, |job| job.reply.head.status);
        !(self.is_head || status == 204 || status == 304)
    }

    /// The whole response is a list or tuple of bytes: the common case. `None` if it is something else.
    fn send_sequence(&mut self, result: &Bound<'_, PyAny>, worker: &mut Worker) -> Option<PyResult<()>> {
        let pieces = Sequence::of(result)?;
        if self.phase != Phase::Started {
            return None;
        }
        Some(self.answer_with(&pieces, worker))
    }

    fn answer_with(&mut self, pieces: &Sequence<'_, '_>, worker: &mut Worker) -> PyResult<()> {
        let mut total = 0;
        for piece in pieces.iter() {
            total += bytes_of(&piece)?.as_bytes().len();
        }
        self.check_length(total as u64, true)?;
        let Some(mut job) = self.job.take() else { return Err(over()) };
        let single = pieces.single();
        job.reply.body = match &single {
            Some(piece) if total >= BORROW_FROM_BYTES => borrowed(bytes_of(piece)?),
            _ => {
                let mut copy = copy_buffer(&mut job);
                for piece in pieces.iter() {
                    copy.extend_from_slice(bytes_of(&piece)?.as_bytes());
                }
                ReplyBody::Copied(copy)
            }
        };
        self.phase = Phase::Complete;
        if let Some(conversation) = self.conversation.take() {
            conversation.end();
        }
        self.pool.answer(job, worker);
        Ok(())
    }

    /// `None`: it must be read.
    fn send_file(&mut self, py: Python<'_>, wrapper: &FileWrapper) -> Option<PyResult<()>> {
        if self.phase != Phase::Started {
            return None;
        }
        let body = wrapper.file_body(py, self.declared_bytes)?;
        Some(self.check_length(body.bytes() as u64, true).and_then(|()| {
            self.sent_bytes = body.bytes() as u64;
            self.hand_over(py, ReplyBody::File(body), false)
        }))
    }

    /// Send a piece of the body. `is_last`: there is no other.
    fn send(&mut self, py: Python<'_>, piece: &Bound<'_, PyBytes>, is_last: bool) -> PyResult<()> {
        match self.phase {
            Phase::Unstarted => {
                return Err(PyAssertionError::new_err("the body began before start_response was called"));
            }
            Phase::Over => return Err(over()),
            Phase::Started | Phase::Body | Phase::Complete => {}
        }
        let bytes = piece.as_bytes().len();
        if bytes == 0 {
            // The head waits for the first byte (PEP 3333): until then the application may begin anew.
            return Ok(());
        }
        let has_body = self.has_body();
        let sent_bytes = self.sent_bytes + bytes as u64;
        if has_body {
            self.check_length(sent_bytes, false)?;
        }
        if self.phase == Phase::Complete {
            return if has_body { Err(too_long(sent_bytes, self.sent_bytes)) } else { Ok(()) };
        }
        let is_complete =
            is_last && self.phase == Phase::Started || has_body && self.declared_bytes == Some(sent_bytes);
        if is_last {
            self.check_length(sent_bytes, true)?;
        }
        self.sent_bytes = sent_bytes;
        let body = match bytes {
            BORROW_FROM_BYTES.. => borrowed(piece),
            _ => ReplyBody::Copied(piece.as_bytes().to_vec()),
        };
        self.hand_over(py, body, !is_complete)
    }

    /// The iterable has ended.
    fn finish(&mut self, py: Python<'_>) -> PyResult<()> {
        match self.phase {
            Phase::Unstarted => {
                return Err(PyAssertionError::new_err("the application returned without calling start_response"));
            }
            Phase::Complete => return Ok(()),
            Phase::Over => return Err(over()),
            Phase::Started | Phase::Body => {}
        }
        self.check_length(self.sent_bytes, true)?;
        self.hand_over(py, ReplyBody::default(), false)
    }

    /// Give a piece to the loop, behind the head if it is the first; not before there is room for it.
    fn hand_over(&mut self, py: Python<'_>, body: ReplyBody, more: bool) -> PyResult<()> {
        let conversation = self.conversation.get_or_insert_with(|| Arc::new(Conversation::new(self.token))).clone();
        let head = match self.phase {
            Phase::Started => self.job.as_mut().map(|job| std::mem::take(&mut job.reply.head)),
            _ => None,
        };
        let bytes = body.bytes();
        let room = conversation.room_now(bytes).unwrap_or_else(|| py.detach(|| conversation.wait_for_room(bytes)));
        if room.is_err() {
            owners::release(py, &mut body.into_owner().into_iter().collect());
            return Err(ClientDisconnected::new_err("the client has gone away: nothing more can be sent"));
        }
        self.phase = if more { Phase::Body } else { Phase::Complete };
        self.pool.send(Message::Piece { conversation, head, body, more });
        Ok(())
    }

    /// Hold the body against its declared length; `whole`: nothing will follow.
    fn check_length(&self, sent_bytes: u64, whole: bool) -> PyResult<()> {
        match self.declared_bytes {
            Some(_) if !self.has_body() => Ok(()),
            Some(declared_bytes) if sent_bytes > declared_bytes => Err(too_long(sent_bytes, declared_bytes)),
            Some(declared_bytes) if whole && sent_bytes < declared_bytes => Err(PyValueError::new_err(format!(
                "the body is shorter than its content-length: {sent_bytes} bytes of {declared_bytes} declared"
            ))),
            _ => Ok(()),
        }
    }
}

fn too_long(sent_bytes: u64, declared_bytes: u64) -> PyErr {
    PyValueError::new_err(format!(
        "the body is longer than its content-length: {sent_bytes} bytes of {declared_bytes} declared"
    ))
}

fn over() -> PyErr {
    PyRuntimeError::new_err("the response is over: nothing more can be sent")
}

/// A buffer for a copy of the body, used again.
fn copy_buffer(job: &mut Job) -> Vec<u8> {
    match std::mem::take(&mut job.reply.body) {
        ReplyBody::Copied(mut bytes) => {
            bytes.clear();
            bytes
        }
        _ => Vec::new(),
    }
}

fn borrowed(piece: &Bound<'_, PyBytes>) -> ReplyBody {
    // SAFETY: bytes never change, and the reference kept as their owner keeps them alive.
    ReplyBody::Borrowed(unsafe { BorrowedBytes::new(piece.as_bytes(), owners::keep(piece.clone().into_any())) })
}

fn bytes_of<'a, 'py>(piece: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyBytes>> {
    piece.cast::<PyBytes>().map_err(|_| {
        let name = type_name(piece);
        let hint = if name == "str" { ": encode it" } else { "" };
        PyTypeError::new_err(format!("a WSGI response's body is made of bytes, not {name}{hint}"))
    })
}

fn iterate<'py>(result: &Bound<'py, PyAny>) -> PyResult<Bound<'py, pyo3::types::PyIterator>> {
    let name = type_name(result);
    let hint = match &*name {
        "str" => " (one str; put it into a list, encoded)",
        "bytes" => " (put it into a list: iterating bytes gives numbers)",
        "NoneType" => " (is there a return statement missing?)",
        "coroutine" => " (is it an ASGI application? then --interface asgi)",
        _ => return result.try_iter().map_err(|_| not_iterable(&name, "")),
    };
    Err(not_iterable(&name, hint))
}

fn not_iterable(name: &str, hint: &str) -> PyErr {
    PyTypeError::new_err(format!("a WSGI application returns an iterable of bytes objects, not {name}{hint}"))
}

fn close(result: &Bound<'_, PyAny>) -> PyResult<()> {
    match result.getattr_opt(intern!(result.py(), "close"))? {
        Some(close) => close.call0().map(drop),
        None => Ok(()),
    }
}

/// The error in an `exc_info` triple, with its traceback.
fn raised(exc_info: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let error = exc_info.get_item(1)?;
    let error = error.call_method1(intern!(exc_info.py(), "with_traceback"), (exc_info.get_item(2)?,))?;
    Ok(PyErr::from_value(error))
}

/// The number and the phrase of a status such as `404 Not Found`. The phrase means nothing to HTTP (RFC 9110 section 15),
/// but people read it, and it is the application's to choose.
fn status_of<'a>(status: &'a Bound<'_, PyAny>) -> PyResult<(u16, &'a [u8])> {
    let wrong = || {
        PyValueError::new_err(format!(
            "start_response: the status is a string such as '200 OK', not {}",
            status.repr().map_or_else(|_| type_name(status), |text| text.to_string())
        ))
    };
    let text = latin1_bytes(status).ok_or_else(wrong)?;
    match text {
        [a @ b'2'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] => {
            let number = [a, b, c].iter().fold(0, |number, &&digit| number * 10 + u16::from(digit - b'0'));
            let reason = rest.strip_prefix(b" ").or_else(|| rest.is_empty().then_some(rest)).ok_or_else(wrong)?;
            if is_reason(reason) { Ok((number, reason)) } else { Err(wrong()) }
        }
        _ => Err(wrong()),
    }
}

/// Check the headers, and copy them. Returns the declared content-length.
fn read_headers(headers: &Bound<'_, PyAny>, head: &mut ReplyHead) -> PyResult<Option<u64>> {
    let Some(pairs) = Sequence::of(headers) else {
        return Err(PyTypeError::new_err(format!(
            "start_response: the headers are a list of (name, value) tuples, not {}",
            type_name(headers)
        )));
    };
    let mut declared = None;
    for header in pairs.iter() {
        let pair = Sequence::of(&header).filter(|pair| pair.len() == 2);
        let Some(pair) = pair else {
            return Err(PyTypeError::new_err(format!(
                "start_response: a header is a tuple (name, value), not {header:?}"
            )));
        };
        let (name, value) = (pair.item(0), pair.item(1));
        let (name, value) = (header_bytes(&name)?, header_bytes(&value)?);
        check_header(name, value)?;
        if name.len() == 14 && name.eq_ignore_ascii_case(b"content-length") {
            declared = Some(content_length(value, declared)?);
        }
        head.push(name, value);
    }
    Ok(declared)
}

fn check_header(name: &[u8], value: &[u8]) -> PyResult<()> {
    if !is_token(name) {
        let message = format!("start_response: a header's name must be a token, not \"{}\"", name.escape_ascii());
        return Err(PyValueError::new_err(message));
    }
    if memchr::memchr3(b'\r', b'\n', 0, value).is_some() {
        let message =
            format!("start_response: the value of the header \"{}\" holds CR, LF or NUL", name.escape_ascii());
        return Err(PyValueError::new_err(message));
    }
    Ok(())
}

fn content_length(value: &[u8], declared: Option<u64>) -> PyResult<u64> {
    if declared.is_some() {
        return Err(PyValueError::new_err("start_response: content-length was given twice"));
    }
    parse_length(value.trim_ascii()).flatten().ok_or_else(|| {
        PyValueError::new_err(format!(
            "start_response: content-length must be one decimal number, not \"{}\"",
            value.escape_ascii()
        ))
    })
}

/// A native string's characters as bytes, one each (PEP 3333: latin-1).
fn header_bytes<'a>(text: &'a Borrowed<'_, '_, PyAny>) -> PyResult<&'a [u8]> {
    latin1_bytes(text).ok_or_else(|| {
        PyTypeError::new_err(format!(
            "start_response: header names and values are native strings (latin-1), not {text:?}"
        ))
    })
}

fn latin1_bytes<'a>(text: &'a Bound<'_, PyAny>) -> Option<&'a [u8]> {
    let text: &'a Bound<'_, PyString> = text.cast().ok()?;
    // SAFETY: attached; strings never change, and what holds this one is not changed while it is read.
    match unsafe { text.data() }.ok()? {
        PyStringData::Ucs1(bytes) => Some(bytes),
        PyStringData::Ucs2(_) | PyStringData::Ucs4(_) => None,
    }
}

fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "something else".to_owned(), |name| name.to_string())
}

/// An exact list or tuple, whose items are read without running Python.
enum Sequence<'a, 'py> {
    List(&'a Bound<'py, PyList>),
    Tuple(&'a Bound<'py, PyTuple>),
}

impl<'a, 'py> Sequence<'a, 'py> {
    fn of(object: &'a Bound<'py, PyAny>) -> Option<Self> {
        match object.cast_exact::<PyList>() {
            Ok(list) => Some(Sequence::List(list)),
            Err(_) => object.cast_exact::<PyTuple>().ok().map(Sequence::Tuple),
        }
    }

    fn len(&self) -> usize {
        match self {
            Sequence::List(list) => list.len(),
            Sequence::Tuple(tuple) => tuple.len(),
        }
    }

    /// Borrowed from the sequence. `at` must be less than its length.
    fn item(&self, at: usize) -> Borrowed<'a, 'py, PyAny> {
        assert!(at < self.len());
        // SAFETY: the bound was checked; nobody can change a list while this thread is attached and runs no Python.
        unsafe {
            match self {
                Sequence::List(list) => {
                    Borrowed::from_ptr(list.py(), ffi::PyList_GET_ITEM(list.as_ptr(), at as ffi::Py_ssize_t))
                }
                Sequence::Tuple(tuple) => {
                    Borrowed::from_ptr(tuple.py(), ffi::PyTuple_GET_ITEM(tuple.as_ptr(), at as ffi::Py_ssize_t))
                }
            }
        }
    }

    fn single(&self) -> Option<Borrowed<'a, 'py, PyAny>> {
        (self.len() == 1).then(|| self.item(0))
    }

    fn iter(&self) -> impl Iterator<Item = Borrowed<'a, 'py, PyAny>> {
        (0..self.len()).map(|at| self.item(at))
    }
}
