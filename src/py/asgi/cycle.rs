//! An HttpCycle is one request as its application sees it: what `receive` and `send` are bound to.
//!
//! It holds no bytes and no connection, only the token of one: whatever the application does with it after the
//! connection is gone reaches nobody else.

use pyo3::create_exception;
use pyo3::exceptions::{PyConnectionError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyList, PyMemoryView, PyString};

use super::extensions::{self, EARLY_HINT, PATHSEND, TRAILERS, ZEROCOPYSEND};
use super::reply::{Awaited, Reply};
use super::{AsgiServer, names};
use crate::core::event_loop::HIGH_WATERMARK_BYTES;
use crate::core::{Io, Token};
use crate::protocol::http1::ResponseError;
use crate::py::guarded::Guarded;
use crate::py::owners;
use crate::py::task::set_result_unless_done;
use crate::server::Connection;
use crate::server::http::{Body, FileBody, HttpServer, RespondError, Take};

create_exception!(
    penstock._core,
    ClientDisconnected,
    PyConnectionError,
    "The client has gone away: nothing more can be sent. An OSError, as ASGI's spec_version 2.4 asks."
);

/// A body of at least this many bytes is sent from the object that holds it; a smaller one is cheaper to copy.
pub const BORROW_FROM_BYTES: usize = 16 * 1024;

#[pyclass(frozen, module = "penstock._core")]
pub struct HttpCycle {
    server: Py<AsgiServer>,
    pub(super) token: Token,
    state: Guarded<State>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// What suspended calls of `receive` wait on; several, if the application has several tasks.
    receive_waiters: Vec<Py<PyAny>>,
    /// What suspended calls of `send` wait on.
    send_waiters: Vec<Py<PyAny>>,
    /// Its task, once it has been suspended.
    task: Option<Py<PyAny>>,
    disconnected: bool,
    /// `receive` has given `http.disconnect`: whether it goes on is the application's choice.
    told_disconnected: bool,
}

/// How far the application is with its response.
#[derive(Default)]
enum Phase {
    #[default]
    Unstarted,
    /// `http.response.start` was sent; its head leaves with the first piece of the body.
    Started { status: u16, headers: Option<Py<PyAny>>, trailers: bool },
    Body {
        /// `http.response.trailers` will follow the last piece.
        trailers: bool,
    },
    /// The body is complete, and its trailers are to come.
    Trailers,
    /// The response is complete, or the application has ended. The connection may have gone on to its next request,
    /// which has the same token: nothing of this one may touch it from now on.
    Complete,
}

/// How far it was when its coroutine ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    Unstarted,
    Unfinished,
    Complete,
    /// The connection is gone.
    Disconnected,
    /// The peer sends no more, the application was told so, and left it at that.
    Abandoned,
}

/// What a waiting `receive` or `send` finds when it looks.
pub(super) enum Look {
    Ready(Py<PyAny>),
    Wait(Py<PyAny>),
}

impl HttpCycle {
    pub(super) fn new(server: Py<AsgiServer>, token: Token) -> Self {
        HttpCycle { server, token, state: Guarded::new(State::default()) }
    }

    pub(super) fn server(&self, py: Python<'_>) -> Py<AsgiServer> {
        self.server.clone_ref(py)
    }

    pub(super) fn set_task(&self, task: Py<PyAny>) -> PyResult<()> {
        self.state.enter()?.task = Some(task);
        Ok(())
    }

    pub(super) fn task(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.enter().ok()?.task.as_ref().map(|task| task.clone_ref(py))
    }

    /// The application has ended. Returns how far it got, and whether it had been suspended.
    pub(super) fn end(&self, py: Python<'_>) -> PyResult<(Ending, bool)> {
        let mut state = self.state.enter()?;
        let (task, phase) = (state.task.take(), std::mem::replace(&mut state.phase, Phase::Complete));
        let waiters = (std::mem::take(&mut state.receive_waiters), std::mem::take(&mut state.send_waiters));
        let ending = match phase {
            Phase::Complete => Ending::Complete,
            _ if state.disconnected => Ending::Disconnected,
            _ if state.told_disconnected => Ending::Abandoned,
            Phase::Unstarted | Phase::Started { .. } => Ending::Unstarted,
            Phase::Body { .. } | Phase::Trailers => Ending::Unfinished,
        };
        drop(state);
        wake(py, waiters.0)?;
        wake(py, waiters.1)?;
        if ending != Ending::Complete && !self.is_connected(py)? {
            return Ok((Ending::Disconnected, task.is_some()));
        }
        Ok((ending, task.is_some()))
    }

    fn is_connected(&self, py: Python<'_>) -> PyResult<bool> {
        self.with_http(py, |http, io| http.is_connected(io, self.token))
    }

    fn with_http<R>(
        &self,
        _py: Python<'_>,
        act: impl FnOnce(&mut HttpServer, &mut Io<Connection>) -> R,
    ) -> PyResult<R> {
        self.server.get().reactor.get().with(|inner| {
            let event_loop = &mut inner.event_loop;
            match &mut event_loop.service.http {
                Some(http) => Ok(act(http, &mut event_loop.io)),
                None => Err(PyRuntimeError::new_err("the server is gone")),
            }
        })?
    }

    pub(super) fn wake_receive(&self, py: Python<'_>) -> PyResult<()> {
        let waiters = std::mem::take(&mut self.state.enter()?.receive_waiters);
        wake(py, waiters)
    }

    pub(super) fn wake_send(&self, py: Python<'_>) -> PyResult<()> {
        let waiters = std::mem::take(&mut self.state.enter()?.send_waiters);
        wake(py, waiters)
    }

    /// The peer is gone, or sends no more. Whoever waits is woken, and finds out by looking.
    pub(super) fn disconnected(&self, py: Python<'_>, cancel: bool) -> PyResult<()> {
        let gone = !self.is_connected(py)?;
        let task = {
            let mut state = self.state.enter()?;
            state.disconnected |= gone;
            (cancel && !matches!(state.phase, Phase::Complete))
                .then(|| state.task.as_ref().map(|task| task.clone_ref(py)))
        };
        self.wake_receive(py)?;
        if gone {
            self.wake_send(py)?;
        }
        match task.flatten() {
            Some(task) => task.bind(py).call_method0(names::cancel(py)).map(drop),
            None => Ok(()),
        }
    }

    /// See whether what is awaited is there; otherwise a future that will be woken.
    pub(super) fn look(slf: &Bound<'_, Self>, what: Awaited) -> PyResult<Look> {
        match what {
            Awaited::Message => slf.get().look_for_message(slf.py()),
            Awaited::Room => slf.get().look_for_room(slf.py()),
        }
    }

    fn look_for_message(&self, py: Python<'_>) -> PyResult<Look> {
        if self.is_complete()? {
            return Ok(Look::Ready(self.disconnect_message(py)?));
        }
        let taken =
            self.with_http(py, |http, io| http.take_body(io, self.token, |data, more| (body_bytes(py, data), more)))?;
        match taken {
            Take::Taken((body, more)) => Ok(Look::Ready(request_message(py, body, more)?)),
            Take::Disconnected => Ok(Look::Ready(self.disconnect_message(py)?)),
            Take::Wait => {
                let future = self.server.get().new_future(py)?.unbind();
                add_waiter(py, &mut self.state.enter()?.receive_waiters, &future)?;
                Ok(Look::Wait(future))
            }
        }
    }

    fn disconnect_message(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.state.enter()?.told_disconnected = true;
        let message = PyDict::new(py);
        message.set_item(names::kind(py), names::http_disconnect(py))?;
        Ok(message.into_any().unbind())
    }

    fn is_complete(&self) -> PyResult<bool> {
        Ok(matches!(self.state.enter()?.phase, Phase::Complete))
    }

    fn look_for_room(&self, py: Python<'_>) -> PyResult<Look> {
        if self.is_complete()? {
            return Ok(Look::Ready(py.None()));
        }
        let queued =
            self.with_http(py, |http, io| http.is_connected(io, self.token).then(|| io.queued_bytes(self.token)))?;
        match queued {
            None => Err(disconnected_error()),
            Some(queued) if queued <= HIGH_WATERMARK_BYTES => Ok(Look::Ready(py.None())),
            Some(_) => {
                self.with_http(py, |_, io| io.want_drained(self.token))?;
                let future = self.server.get().new_future(py)?.unbind();
                add_waiter(py, &mut self.state.enter()?.send_waiters, &future)?;
                Ok(Look::Wait(future))
            }
        }
    }

    fn start(&self, message: &Message<'_>) -> PyResult<Py<Reply>> {
        let py = message.py();
        let status = message.get(names::status(py))?.ok_or_else(|| missing("http.response.start", "status"))?;
        let status: u16 = status.extract().map_err(|_| {
            PyTypeError::new_err(format!(
                "http.response.start: status must be an integer from 100 to 999, not {status:?}"
            ))
        })?;
        let headers = message.get(names::headers(py))?.map(Bound::unbind);
        let trailers = message.is_larger_than(3) && message.get_bool(names::trailers(py))?;
        let mut state = self.state.enter()?;
        match state.phase {
            Phase::Unstarted => state.phase = Phase::Started { status, headers, trailers },
            _ => return Err(PyRuntimeError::new_err("http.response.start was sent before: a response starts once")),
        }
        Reply::done(py)
    }

    fn body(slf: &Bound<'_, Self>, message: &Message<'_>) -> PyResult<Py<Reply>> {
        let py = slf.py();
        let more = message.get_bool(names::more_body(py))?;
        let piece = Piece::of(message.get(names::body(py))?)?;
        Self::send_piece(slf, "http.response.body", &piece, more)
    }

    /// The next piece of the body, behind the head if it is the first.
    fn send_piece(slf: &Bound<'_, Self>, kind: &str, piece: &Piece<'_>, more: bool) -> PyResult<Py<Reply>> {
        let (py, this) = (slf.py(), slf.get());
        let phase = std::mem::take(&mut this.state.enter()?.phase);
        let trailers = match phase {
            Phase::Unstarted => {
                return Err(PyRuntimeError::new_err(format!("{kind} was sent before http.response.start")));
            }
            Phase::Complete | Phase::Trailers => {
                let is_complete = matches!(phase, Phase::Complete);
                this.state.enter()?.phase = phase;
                let what = if is_complete { "response" } else { "body" };
                return Err(PyRuntimeError::new_err(format!("{kind} was sent after the {what} was complete")));
            }
            Phase::Body { trailers } => trailers,
            Phase::Started { status, headers, trailers } => {
                this.write_head(py, (status, headers, trailers), piece.len(), !more)?;
                trailers
            }
        };
        this.state.enter()?.phase = match trailers {
            _ if more => Phase::Body { trailers },
            true => Phase::Trailers,
            false => Phase::Complete,
        };
        let queued = this.with_http(py, |http, io| http.send_body(io, this.token, piece.as_body(), more))?;
        match queued {
            Ok(queued) if more && queued > HIGH_WATERMARK_BYTES => {
                Reply::waiting(py, slf.clone().unbind(), Awaited::Room)
            }
            Ok(_) => {
                if !more && !trailers {
                    this.wake_receive(py)?;
                }
                Reply::done(py)
            }
            Err(RespondError::Disconnected) => Err(disconnected_error()),
            Err(RespondError::Invalid(error)) => {
                this.state.enter()?.phase = Phase::Body { trailers };
                Err(invalid(&error))
            }
        }
    }

    /// What belongs to an extension of the specification.
    fn send_extension(slf: &Bound<'_, Self>, kind: &str, message: &Message<'_>) -> PyResult<Option<Py<Reply>>> {
        match kind {
            PATHSEND => {
                let piece = extensions::path_piece(message)?;
                Self::send_piece(slf, kind, &piece, false).map(Some)
            }
            ZEROCOPYSEND => {
                slf.get().check_body_can_be_sent(kind)?;
                let piece = extensions::file_piece(message)?;
                let more = message.get_bool(names::more_body(slf.py()))?;
                Self::send_piece(slf, kind, &piece, more).map(Some)
            }
            TRAILERS => slf.get().send_trailers(message).map(Some),
            EARLY_HINT => Self::send_early_hint(slf, message).map(Some),
            _ => Ok(None),
        }
    }

    /// Before a file's position is moved.
    fn check_body_can_be_sent(&self, kind: &str) -> PyResult<()> {
        match self.state.enter()?.phase {
            Phase::Started { .. } | Phase::Body { .. } => Ok(()),
            _ => Err(PyRuntimeError::new_err(format!(
                "{kind} must be sent after http.response.start, and before the body is complete"
            ))),
        }
    }

    fn send_trailers(&self, message: &Message<'_>) -> PyResult<Py<Reply>> {
        let py = message.py();
        let more = message.get_bool(names::more_trailers(py))?;
        let headers = Headers::of(py, message.get(names::headers(py))?.map(Bound::unbind))?;
        if !matches!(self.state.enter()?.phase, Phase::Trailers) {
            return Err(PyRuntimeError::new_err(
                "http.response.trailers was sent without trailers=True in http.response.start, or before the body was \
                 complete, or after the trailers were",
            ));
        }
        let sent = self.with_http(py, |http, io| http.send_trailers(io, self.token, headers.iter(), more))?;
        match sent {
            Ok(()) if more => {}
            Ok(()) => {
                self.state.enter()?.phase = Phase::Complete;
                self.wake_receive(py)?;
            }
            Err(RespondError::Disconnected) => return Err(disconnected_error()),
            Err(RespondError::Invalid(error)) => return Err(invalid(&error)),
        }
        Reply::done(py)
    }

    /// 103 Early Hints, ahead of the response. Too late once the response's head has left: then it means nothing.
    fn send_early_hint(slf: &Bound<'_, Self>, message: &Message<'_>) -> PyResult<Py<Reply>> {
        let (py, this) = (slf.py(), slf.get());
        let links = extensions::links(message)?;
        if this.is_complete()? {
            return Reply::done(py);
        }
        let sent = this.with_http(py, |http, io| {
            http.send_interim(io, this.token, 103, |head| {
                links.iter().try_for_each(|link| head.header(b"link", link.as_bytes()))
            })
        })?;
        match sent {
            Ok(queued) if queued > HIGH_WATERMARK_BYTES => Reply::waiting(py, slf.clone().unbind(), Awaited::Room),
            Ok(_) => Reply::done(py),
            Err(RespondError::Disconnected) => Err(disconnected_error()),
            Err(RespondError::Invalid(error)) => Err(invalid(&error)),
        }
    }

    fn write_head(
        &self,
        py: Python<'_>,
        (status, headers, trailers): (u16, Option<Py<PyAny>>, bool),
        body_bytes: usize,
        whole: bool,
    ) -> PyResult<()> {
        let headers = Headers::of(py, headers)?;
        let written = self.with_http(py, |http, io| {
            if trailers {
                http.announce_trailers(io, self.token);
            }
            http.start_response::<ResponseError>(io, self.token, status, body_bytes, whole, |head| {
                headers.iter().try_for_each(|(name, value)| head.header(name, value))
            })
        })?;
        written.map_err(|error| invalid(&error))
    }
}

#[pymethods]
impl HttpCycle {
    /// The next message of this request: `http.request`, then `http.disconnect`.
    fn receive(slf: &Bound<'_, Self>) -> PyResult<Py<Reply>> {
        // Nothing is taken before it is awaited: a call that is cancelled before its first step must lose no bytes.
        Reply::waiting(slf.py(), slf.clone().unbind(), Awaited::Message)
    }

    /// Send a message of the response: `http.response.start`, then `http.response.body`.
    fn send(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>) -> PyResult<Py<Reply>> {
        let py = slf.py();
        let message = Message(message);
        let kind = message.get(names::kind(py))?.ok_or_else(|| missing("a message to send()", "type"))?;
        if kind.is(names::response_body(py)) {
            return Self::body(slf, &message);
        }
        if kind.is(names::response_start(py)) {
            return slf.get().start(&message);
        }
        match kind.cast::<PyString>()?.to_str()? {
            "http.response.body" => Self::body(slf, &message),
            "http.response.start" => slf.get().start(&message),
            other => Self::send_extension(slf, other, &message)?.ok_or_else(|| {
                PyValueError::new_err(format!(
                    "send() takes http.response.start and http.response.body for an HTTP request, and the messages of \
                     the extensions in the scope, not {other:?}"
                ))
            }),
        }
    }
}

/// Let those who wait look again.
fn wake(py: Python<'_>, waiters: Vec<Py<PyAny>>) -> PyResult<()> {
    waiters.iter().try_for_each(|waiter| set_result_unless_done(py, waiter))
}

/// Add one who waits, in place of those who were cancelled meanwhile.
fn add_waiter(py: Python<'_>, waiters: &mut Vec<Py<PyAny>>, future: &Py<PyAny>) -> PyResult<()> {
    let mut over = Vec::new();
    for waiter in waiters.iter() {
        over.push(waiter.bind(py).call_method0(names::done(py))?.is_truthy()?);
    }
    let mut over = over.into_iter();
    waiters.retain(|_| !over.next().unwrap_or(false));
    waiters.push(future.clone_ref(py));
    Ok(())
}

/// A message from the application: a dictionary, nearly always.
pub(super) struct Message<'a>(&'a Bound<'a, PyAny>);

impl<'a> Message<'a> {
    pub(super) fn py(&self) -> Python<'a> {
        self.0.py()
    }

    /// Whether it can hold keys that few messages have.
    fn is_larger_than(&self, keys: usize) -> bool {
        self.0.cast_exact::<PyDict>().map_or(true, |dict| dict.len() > keys)
    }

    /// False if it is missing.
    fn get_bool(&self, name: &Bound<'a, PyString>) -> PyResult<bool> {
        self.get(name)?.map_or(Ok(false), |value| value.is_truthy())
    }

    pub(super) fn get(&self, name: &Bound<'a, PyString>) -> PyResult<Option<Bound<'a, PyAny>>> {
        match self.0.cast_exact::<PyDict>() {
            Ok(dict) => dict.get_item(name),
            Err(_) if self.0.contains(name)? => self.0.get_item(name).map(Some),
            Err(_) => Ok(None),
        }
    }
}

/// A piece of the response's body, out of whatever object holds bytes.
pub(super) enum Piece<'a> {
    Empty,
    Bytes(Bound<'a, PyBytes>),
    File(FileBody),
}

impl<'a> Piece<'a> {
    fn of(body: Option<Bound<'a, PyAny>>) -> PyResult<Self> {
        let Some(body) = body else { return Ok(Piece::Empty) };
        match body.cast_into::<PyBytes>() {
            Ok(bytes) => Ok(Piece::Bytes(bytes)),
            Err(error) => {
                let body = error.into_inner();
                if body.is_instance_of::<PyByteArray>() || body.is_instance_of::<PyMemoryView>() {
                    // They can change or go while the bytes wait to leave, so they are copied.
                    let py = body.py();
                    return Ok(Piece::Bytes(py.get_type::<PyBytes>().call1((body,))?.cast_into()?));
                }
                Err(PyTypeError::new_err(format!(
                    "http.response.body: body must be bytes, not {}",
                    body.get_type().name()?
                )))
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Piece::Empty => 0,
            Piece::Bytes(bytes) => bytes.as_bytes().len(),
            Piece::File(file) => file.bytes(),
        }
    }

    /// For `send_body`: large ones from where they are, held by a reference of the output's own.
    fn as_body(&self) -> Body<'_> {
        match self {
            Piece::Bytes(bytes) if bytes.as_bytes().len() >= BORROW_FROM_BYTES => {
                Body::Borrowed(bytes.as_bytes(), owners::keep(bytes.clone().into_any()))
            }
            Piece::Bytes(bytes) => Body::Copied(bytes.as_bytes()),
            Piece::File(file) => file.as_body(),
            Piece::Empty => Body::Copied(&[]),
        }
    }
}

/// The application's headers: a list or tuple of pairs of bytes, so that writing them runs no Python.
struct Headers<'py>(Option<Bound<'py, PyAny>>);

impl<'py> Headers<'py> {
    /// Take them as they are if they are lists, tuples and bytes; make such a list of any other iterables.
    fn of(py: Python<'py>, headers: Option<Py<PyAny>>) -> PyResult<Self> {
        let Some(headers) = headers.map(|headers| headers.into_bound(py)) else { return Ok(Headers(None)) };
        if (0..len(&headers).unwrap_or(0)).all(|at| item(&headers, at).and_then(pair).is_some())
            && len(&headers).is_some()
        {
            return Ok(Headers(Some(headers)));
        }
        let plain = PyList::empty(py);
        for header in headers.try_iter()? {
            let header = header?;
            let fields: Vec<Bound<'_, PyAny>> = header.try_iter()?.collect::<PyResult<_>>()?;
            match <[_; 2]>::try_from(fields) {
                Ok([name, value]) => plain.append((header_bytes(name)?, header_bytes(value)?))?,
                Err(fields) => {
                    let message = format!("a response's header is a pair (name, value), not {} items", fields.len());
                    return Err(PyValueError::new_err(message));
                }
            }
        }
        Ok(Headers(Some(plain.into_any())))
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let count = self.0.as_ref().and_then(len).unwrap_or(0);
        (0..count).filter_map(|at| self.0.as_ref().and_then(|headers| item(headers, at)).and_then(pair))
    }
}

fn header_bytes(field: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyBytes>> {
    field.cast_into::<PyBytes>().map_err(|error| {
        let field = error.into_inner();
        PyTypeError::new_err(format!("a response's header names and values must be bytes, not {field:?}"))
    })
}

/// The length of an exact list or tuple.
fn len(sequence: &Bound<'_, PyAny>) -> Option<usize> {
    let sequence = sequence.as_ptr();
    // SAFETY: attached; each length is read only from an object of its exact type.
    unsafe {
        if ffi::PyList_CheckExact(sequence) != 0 {
            Some(ffi::PyList_GET_SIZE(sequence) as usize)
        } else if ffi::PyTuple_CheckExact(sequence) != 0 {
            Some(ffi::PyTuple_GET_SIZE(sequence) as usize)
        } else {
            None
        }
    }
}

/// An item of an exact list or tuple, borrowed from it.
fn item<'a>(sequence: &'a Bound<'_, PyAny>, at: usize) -> Option<Borrowed<'a, 'a, PyAny>> {
    if at >= len(sequence)? {
        return None;
    }
    // SAFETY: the type and the bound were checked; the sequence, which nobody can change while this thread is attached
    // and runs no Python, keeps its item alive.
    unsafe {
        let found = if ffi::PyList_CheckExact(sequence.as_ptr()) != 0 {
            ffi::PyList_GET_ITEM(sequence.as_ptr(), at as ffi::Py_ssize_t)
        } else {
            ffi::PyTuple_GET_ITEM(sequence.as_ptr(), at as ffi::Py_ssize_t)
        };
        Some(Borrowed::from_ptr(sequence.py(), found))
    }
}

/// Name and value, of an exact list or tuple of two bytes objects.
fn pair<'a>(header: Borrowed<'a, 'a, PyAny>) -> Option<(&'a [u8], &'a [u8])> {
    if len(&header)? != 2 {
        return None;
    }
    let bytes_at = |at| {
        let field = item(&header, at)?;
        // SAFETY: attached; checked to be bytes, which the pair keeps alive and nobody can change.
        unsafe {
            (ffi::PyBytes_Check(field.as_ptr()) != 0).then(|| {
                let (start, len) = (ffi::PyBytes_AS_STRING(field.as_ptr()), ffi::Py_SIZE(field.as_ptr()));
                std::slice::from_raw_parts(start.cast::<u8>(), len as usize)
            })
        }
    };
    Some((bytes_at(0)?, bytes_at(1)?))
}

/// The body's bytes as an object; made while inside the reactor, which is sound because bytes start no collection.
fn body_bytes(py: Python<'_>, data: &[u8]) -> Py<PyBytes> {
    PyBytes::new(py, data).unbind()
}

fn request_message(py: Python<'_>, body: Py<PyBytes>, more: bool) -> PyResult<Py<PyAny>> {
    let message = PyDict::new(py);
    message.set_item(names::kind(py), names::http_request(py))?;
    message.set_item(names::body(py), body)?;
    message.set_item(names::more_body(py), more)?;
    Ok(message.into_any().unbind())
}

fn missing(what: &str, key: &str) -> PyErr {
    PyValueError::new_err(format!("{what} must have the key {key:?}"))
}

fn invalid(error: &ResponseError) -> PyErr {
    PyRuntimeError::new_err(error.to_string())
}

fn disconnected_error() -> PyErr {
    ClientDisconnected::new_err("the client has gone away: nothing more can be sent")
}
