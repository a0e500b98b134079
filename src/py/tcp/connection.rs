//! A Connection as its handlers see it. It holds no bytes and no socket, only a token: once the stream is gone, whatever
//! is done with it reaches nobody else.
//!
//! An idle connection has no such object unless somebody holds it, or it holds something: see `is_wanted`.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::frames::{Shape, frame_error, with_bytes, write_resp};
use super::server::StreamServer;
use super::wait::{Awaited, Look, StreamWait};
use crate::core::Token;
use crate::core::event_loop::HIGH_WATERMARK_BYTES;
use crate::net;
use crate::py::guarded::Guarded;
use crate::py::task::set_result_unless_done;
use crate::py::{errors, owners};
use crate::server::http::PeerAddress;
use crate::server::tcp::{Ending, StreamError, StreamIo, Streams};

/// A frame of at least this many bytes is sent from the object that holds it; a smaller one is cheaper to copy.
const BORROW_FROM_BYTES: usize = 2048;

#[pyclass(frozen, weakref, name = "Connection", module = "penstock._core")]
pub struct StreamConnection {
    pub(super) server: Py<StreamServer>,
    pub(super) token: Token,
    pub(super) state: Guarded<State>,
}

#[derive(Default)]
pub struct State {
    /// The user's own.
    attributes: Option<Py<PyAny>>,
    peer: Option<Py<PyAny>>,
    /// The user's protocol, where framing is Python's.
    pub(super) protocol: Option<Py<PyAny>>,
    /// Frames that were cut and not yet taken.
    pub(super) frames: VecDeque<Py<PyAny>>,
    pub(super) receive_waiters: Vec<Py<PyAny>>,
    pub(super) room_waiters: Vec<Py<PyAny>>,
    pub(super) close_waiters: Vec<Py<PyAny>>,
    pub(super) ending: Option<Ending>,
    /// What was wrong with the stream, told once to whoever receives.
    pub(super) error: Option<Py<PyAny>>,
    /// The task of its handler, once that is suspended.
    pub(super) task: Option<Py<PyAny>>,
}

impl State {
    fn holds_something(&self) -> bool {
        self.attributes.is_some()
            || self.protocol.is_some()
            || !self.frames.is_empty()
            || !self.receive_waiters.is_empty()
            || !self.room_waiters.is_empty()
            || !self.close_waiters.is_empty()
            || self.task.is_some()
    }
}

impl StreamConnection {
    pub(super) fn new(server: Py<StreamServer>, token: Token) -> Self {
        StreamConnection { server, token, state: Guarded::new(State::default()) }
    }

    /// Whether the object must outlive the batch: it holds something, or somebody but us (`own` references) holds it.
    pub(super) fn is_wanted(slf: &Bound<'_, Self>, own: isize) -> PyResult<bool> {
        // SAFETY: attached; a live object.
        let references = unsafe { ffi::Py_REFCNT(slf.as_ptr()) };
        Ok(references > own || slf.get().state.enter()?.holds_something())
    }

    fn with<R>(&self, act: impl FnOnce(&mut Streams, &mut StreamIo) -> R) -> PyResult<R> {
        self.server.get().with(act)
    }

    /// What a wait finds.
    pub(super) fn look(slf: &Bound<'_, Self>, what: Awaited) -> PyResult<Look> {
        let (py, this) = (slf.py(), slf.get());
        match what {
            Awaited::Frame | Awaited::NextFrame => Self::look_for_frame(slf, what == Awaited::NextFrame),
            Awaited::Room => {
                let unsent = this.with(|_, io| (!io.is_closing(this.token)).then(|| io.queued_bytes(this.token)))?;
                match unsent {
                    None => Err(this.closed_error(py)),
                    Some(unsent) if unsent <= HIGH_WATERMARK_BYTES => Ok(Look::Ready(py.None())),
                    Some(_) => {
                        this.with(|_, io| io.want_drained(this.token))?;
                        this.wait(py, Awaited::Room)
                    }
                }
            }
            Awaited::Closed => match this.state.enter()?.ending {
                Some(ending) => Ok(Look::Ready(ending_object(py, ending)?)),
                None => this.wait(py, Awaited::Closed),
            },
        }
    }

    /// A future that the next event of this kind completes.
    fn wait(&self, py: Python<'_>, what: Awaited) -> PyResult<Look> {
        let future = self.server.get().new_future(py)?.unbind();
        let mut waiting = self.take_waiters(what)?;
        // Those that were cancelled wait no more.
        waiting.retain(|each| !each.bind(py).call_method0("done").is_ok_and(|done| done.is_truthy().unwrap_or(false)));
        waiting.push(future.clone_ref(py));
        self.state.enter()?.waiters(what).extend(waiting);
        Ok(Look::Wait(future))
    }

    fn take_waiters(&self, what: Awaited) -> PyResult<Vec<Py<PyAny>>> {
        Ok(std::mem::take(self.state.enter()?.waiters(what)))
    }

    /// Whoever waits for this looks again.
    pub(super) fn wake(&self, py: Python<'_>, what: Awaited) -> PyResult<()> {
        for waiter in self.take_waiters(what)? {
            set_result_unless_done(py, &waiter)?;
        }
        Ok(())
    }

    fn look_for_frame(slf: &Bound<'_, Self>, in_loop: bool) -> PyResult<Look> {
        let (py, this) = (slf.py(), slf.get());
        if let Some(frame) = this.state.enter()?.frames.pop_front() {
            return Ok(Look::Ready(frame));
        }
        // A server that stops takes no more than it has cut.
        let is_stopping = this.with(|streams, _| streams.is_stopping(this.server.get().number))?;
        if !is_stopping {
            StreamServer::refill(this.server.bind(py), slf)?;
        }
        let mut state = this.state.enter()?;
        if let Some(frame) = state.frames.pop_front() {
            return Ok(Look::Ready(frame));
        }
        let (error, has_closed) = (state.error.take(), state.ending.is_some());
        drop(state);
        if let Some(error) = error {
            return Err(PyErr::from_value(error.into_bound(py)));
        }
        let has_ended = has_closed || is_stopping || this.with(|streams, io| streams.peer_has_ended(io, this.token))?;
        match (has_ended, in_loop) {
            (false, _) => this.wait(py, Awaited::Frame),
            (true, false) => Ok(Look::Ready(py.None())),
            (true, true) => Err(PyStopAsyncIteration::new_err(())),
        }
    }

    /// The connection is gone.
    pub(super) fn closed(&self, py: Python<'_>, ending: Ending) -> PyResult<()> {
        self.state.enter()?.ending = Some(ending);
        self.wake(py, Awaited::Frame)?;
        self.wake(py, Awaited::Room)?;
        self.wake(py, Awaited::Closed)
    }

    fn closed_error(&self, py: Python<'_>) -> PyErr {
        let ending = self.state.enter().ok().and_then(|state| state.ending).map_or("closing", Ending::name);
        errors::raise(
            py,
            "ConnectionClosed",
            (format!("the connection is closed ({ending}): nothing more can be sent"),),
        )
    }

    fn raised(&self, py: Python<'_>, error: StreamError) -> PyErr {
        match error {
            StreamError::Closed => self.closed_error(py),
            StreamError::Frame(error) => frame_error(py, &error),
            StreamError::Full { unsent, most } => errors::raise(
                py,
                "SendBufferFull",
                (format!(
                    "the peer does not read: {unsent} bytes wait for it, expected at most {most} (max_unsent_bytes); \
                     await drain() before sending more"
                ),),
            ),
        }
    }

    fn send_bytes(&self, data: &Bound<'_, PyAny>, framed: bool) -> PyResult<bool> {
        let (py, token) = (data.py(), self.token);
        if let Ok(bytes) = data.cast::<PyBytes>()
            && bytes.as_bytes().len() >= BORROW_FROM_BYTES
        {
            let owner = owners::keep(data.clone());
            let shown = bytes.as_bytes();
            // SAFETY: the owner keeps the bytes object, which never changes, until it is released.
            let sent = self.with(|streams, io| unsafe {
                if framed {
                    streams.send_borrowed(io, token, shown, owner)
                } else {
                    streams.send_shared(io, token, shown, owner, false)
                }
            })?;
            return sent.map_err(|(error, owner)| {
                owners::release(py, &mut vec![owner]);
                self.raised(py, error)
            });
        }
        let send = |bytes: &[u8]| {
            self.with(
                |streams, io| {
                    if framed { streams.send(io, token, bytes) } else { streams.write(io, token, bytes) }
                },
            )
        };
        with_bytes(data, send)?.map_err(|error| self.raised(py, error))
    }

    fn send_one(slf: &Bound<'_, Self>, frame: &Bound<'_, PyAny>) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        match &this.server.get().shape {
            Shape::Bytes => this.send_bytes(frame, true),
            Shape::Arguments => {
                let mut reply = Vec::with_capacity(64);
                write_resp(frame, &mut reply, 0)?;
                this.with(|streams, io| streams.write(io, this.token, &reply))?.map_err(|error| this.raised(py, error))
            }
            Shape::Python(_) => {
                let encoded = Self::protocol(slf)?.bind(py).call_method1("encode", (frame,))?;
                this.send_bytes(&encoded, false)
            }
        }
    }

    /// The user's protocol for this connection.
    pub(super) fn protocol(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        if let Some(protocol) = &this.state.enter()?.protocol {
            return Ok(protocol.clone_ref(py));
        }
        let Shape::Python(factory) = &this.server.get().shape else {
            return Err(PyRuntimeError::new_err("this server's framing is not Python's"));
        };
        let made = factory.call0(py)?;
        this.state.enter()?.protocol = Some(made.clone_ref(py));
        // It holds what the next bytes need: so the connection keeps its object.
        StreamServer::keep(this.server.bind(py), slf)?;
        Ok(made)
    }

    /// Asked of the kernel once, when somebody wants to know or the object is made to last.
    fn peer_object(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if let Some(peer) = &self.state.enter()?.peer {
            return Ok(peer.clone_ref(py));
        }
        let fd = self.with(|_, io| io.fd(self.token))?;
        // SAFETY: the channel of this token owns the descriptor, and is not closed within this call.
        let address = fd.and_then(|fd| net::peer_address(unsafe { BorrowedFd::borrow_raw(fd) }).ok());
        let peer = match address.map(PeerAddress::from) {
            Some(PeerAddress::Unix) => "unix".into_pyobject(py)?.into_any().unbind(),
            Some(address) => match address.internet() {
                Some((ip, port)) => (ip.to_string(), port).into_pyobject(py)?.into_any().unbind(),
                None => py.None(),
            },
            None => return Ok(py.None()),
        };
        self.state.enter()?.peer = Some(peer.clone_ref(py));
        Ok(peer)
    }

    /// The object is made to last: what can only be asked while the connection lives is asked now.
    pub(super) fn remember_peer(&self, py: Python<'_>) {
        let _ = self.peer_object(py);
    }
}

impl State {
    fn waiters(&mut self, what: Awaited) -> &mut Vec<Py<PyAny>> {
        match what {
            Awaited::Frame | Awaited::NextFrame => &mut self.receive_waiters,
            Awaited::Room => &mut self.room_waiters,
            Awaited::Closed => &mut self.close_waiters,
        }
    }
}

/// `penstock.CloseReason`, by its value.
pub(super) fn ending_object(py: Python<'_>, ending: Ending) -> PyResult<Py<PyAny>> {
    Ok(py.import("penstock.streams")?.getattr("CloseReason")?.call1((ending.name(),))?.unbind())
}

/// The bytes of frames that are all bytes objects, and cheaper to copy.
fn small_frames<'a>(list: &'a Bound<'_, PyList>) -> Option<Vec<&'a [u8]>> {
    let mut frames = Vec::with_capacity(list.len());
    for at in 0..list.len() {
        // SAFETY: within bounds; the list, which nobody can change while this thread is attached and runs no Python,
        // keeps its item alive.
        let frame = unsafe { Borrowed::<PyAny>::from_ptr(list.py(), ffi::PyList_GET_ITEM(list.as_ptr(), at as _)) };
        // SAFETY: as above; a bytes object does not change.
        let bytes = unsafe {
            if ffi::PyBytes_Check(frame.as_ptr()) == 0 {
                return None;
            }
            let (start, len) = (ffi::PyBytes_AS_STRING(frame.as_ptr()), ffi::Py_SIZE(frame.as_ptr()));
            std::slice::from_raw_parts(start.cast::<u8>(), len as usize)
        };
        if bytes.len() >= BORROW_FROM_BYTES {
            return None;
        }
        frames.push(bytes);
    }
    Some(frames)
}

#[pymethods]
impl StreamConnection {
    /// Send a frame. True while the peer keeps up; False: better wait for `drain()`.
    fn send(slf: &Bound<'_, Self>, frame: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::send_one(slf, frame)
    }

    /// Send several frames; they leave together.
    fn send_many(slf: &Bound<'_, Self>, frames: &Bound<'_, PyAny>) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        if matches!(this.server.get().shape, Shape::Arguments) {
            let mut replies = Vec::with_capacity(256);
            for frame in frames.try_iter()? {
                write_resp(&frame?, &mut replies, 0)?;
            }
            let sent = this.with(|streams, io| streams.write(io, this.token, &replies))?;
            return sent.map_err(|error| this.raised(py, error));
        }
        if let (Shape::Bytes, Ok(list)) = (&this.server.get().shape, frames.cast::<PyList>())
            && let Some(frames) = small_frames(list)
        {
            // The bytes stay where they are: nothing of Python runs before they have been copied.
            let sent = this.with(|streams, io| streams.send_all(io, this.token, &frames))?;
            return sent.map_err(|error| this.raised(py, error));
        }
        let mut keeps_up = true;
        for frame in frames.try_iter()? {
            keeps_up = Self::send_one(slf, &frame?)?;
        }
        Ok(keeps_up)
    }

    /// Send bytes as they are, without a frame around them.
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.send_bytes(data, false)
    }

    /// Wait until the peer has read nearly all that was sent.
    fn drain(slf: Bound<'_, Self>) -> PyResult<Py<StreamWait>> {
        StreamWait::new(slf.py(), slf.unbind(), Awaited::Room)
    }

    /// Wait for the next frame; None at the end of the stream.
    fn receive(slf: Bound<'_, Self>) -> PyResult<Py<StreamWait>> {
        Self::check_receives(&slf)?;
        StreamWait::new(slf.py(), slf.unbind(), Awaited::Frame)
    }

    fn __aiter__(slf: Bound<'_, Self>) -> PyResult<Py<Self>> {
        Self::check_receives(&slf)?;
        Ok(slf.unbind())
    }

    fn __anext__(slf: Bound<'_, Self>) -> PyResult<Py<StreamWait>> {
        StreamWait::new(slf.py(), slf.unbind(), Awaited::NextFrame)
    }

    /// Wait until the connection is closed, and return the reason.
    fn wait_closed(slf: Bound<'_, Self>) -> PyResult<Py<StreamWait>> {
        StreamWait::new(slf.py(), slf.unbind(), Awaited::Closed)
    }

    /// Ask for no more frames; what the peer sends meanwhile waits with it, but for a bounded part.
    fn pause_reading(&self) -> PyResult<()> {
        self.with(|streams, io| streams.set_paused(io, self.token, true))
    }

    fn resume_reading(&self) -> PyResult<()> {
        self.with(|streams, io| streams.set_paused(io, self.token, false))
    }

    /// Close once what was sent has left. Frames not yet handled are dropped.
    fn close(&self) -> PyResult<()> {
        self.with(|streams, io| streams.close(io, self.token, Ending::Closed))
    }

    /// Close now; what was sent and has not left is lost, and the peer is told by a reset.
    fn abort(&self) -> PyResult<()> {
        self.with(|streams, io| streams.abort(io, self.token, Ending::Aborted))
    }

    /// Send no more, and tell the peer so once everything has left; receiving goes on.
    fn end(&self) -> PyResult<()> {
        self.with(|_, io| io.end_output(self.token))
    }

    /// Who is at the other end: (address, port), "unix", or None when nobody can say any more.
    #[getter]
    fn peer(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.peer_object(py)
    }

    /// Whatever the user wants to keep with the connection.
    #[getter]
    fn state(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.state.enter()?.attributes.as_ref().map_or_else(|| py.None(), |attributes| attributes.clone_ref(py)))
    }

    #[setter]
    fn set_state(slf: &Bound<'_, Self>, value: Py<PyAny>) -> PyResult<()> {
        let py = slf.py();
        let value = (!value.is_none(py)).then_some(value);
        let before = std::mem::replace(&mut slf.get().state.enter()?.attributes, value);
        drop(before);
        StreamServer::keep(slf.get().server.bind(py), slf)
    }

    /// Whether it is closed, or about to be.
    #[getter]
    fn is_closing(&self) -> PyResult<bool> {
        self.with(|_, io| io.is_closing(self.token))
    }

    /// Bytes that wait for the peer.
    #[getter]
    fn unsent_bytes(&self) -> PyResult<usize> {
        self.with(|_, io| io.queued_bytes(self.token))
    }

    /// Why it was closed; None while it is open.
    #[getter]
    fn reason(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let ending = self.state.enter()?.ending;
        ending.map_or_else(|| Ok(py.None()), |ending| ending_object(py, ending))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let ending = self.state.enter()?.ending;
        let peer = self.peer_object(py)?;
        Ok(format!("<Connection {} {}>", peer.bind(py).repr()?, ending.map_or("open", Ending::name)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.server)?;
        if let Ok(state) = self.state.enter() {
            visit.call(&state.attributes)?;
            visit.call(&state.protocol)?;
            visit.call(&state.error)?;
            visit.call(&state.task)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let Ok(mut state) = self.state.enter() else { return };
        let gone = (state.attributes.take(), state.protocol.take(), state.error.take(), state.task.take());
        drop(state);
        drop(gone);
    }
}

impl StreamConnection {
    fn check_receives(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().server.get().is_pulled() {
            return Ok(());
        }
        Err(PyRuntimeError::new_err("this server's frames go to on_message; to receive them here, give it a handler"))
    }
}
