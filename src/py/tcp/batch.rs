//! What the events of a turn ask for: frames cut and handed to handlers, coroutines stepped, ends told.
//!
//! Nothing of the reactor is borrowed while Python runs: a handler may do anything to its connection, or to another's.

use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::connection::{StreamConnection, ending_object};
use super::frames::{Shape, frame_error, to_object};
use super::server::{Delivery, StreamServer, take_object};
use super::wait::Awaited;
use crate::core::Token;
use crate::core::buffer::Lease;
use crate::protocol::framing::FrameErrorKind;
use crate::py::errors;
use crate::py::task::{self, CurrentSpare, Step};
use crate::server::tcp::{Ending, Input, StreamEvent};

/// What is to be done after a handler was called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    /// It is suspended, or it raised and the connection is closed.
    Stop,
}

type Connection<'py> = Bound<'py, StreamConnection>;

impl StreamServer {
    /// Do what one event asks for.
    pub fn handle(slf: &Bound<'_, Self>, event: StreamEvent) -> PyResult<()> {
        match event {
            StreamEvent::Connected(token) => Self::connected(slf, token),
            StreamEvent::Received(token, lease) => Self::received(slf, token, Some(lease)),
            StreamEvent::Held(token) => Self::received(slf, token, None),
            StreamEvent::Ended(token) => {
                let object = Self::object_of(slf, token)?;
                Self::look_for_end(slf, &object)?;
                Self::keep_if_wanted(slf, object)
            }
            StreamEvent::Drained(token) => {
                let object = Self::object_of(slf, token)?;
                object.get().wake(slf.py(), Awaited::Room)?;
                drop(object);
                Self::received(slf, token, None)
            }
            StreamEvent::Closed { token, object, ending, .. } => Self::closed(slf, token, object, ending),
        }
    }

    fn connected(slf: &Bound<'_, Self>, token: Token) -> PyResult<()> {
        let (py, server) = (slf.py(), slf.get());
        if slf.get().with(|_, io| io.is_closing(token))? {
            return Ok(());
        }
        let object = Self::object_of(slf, token)?;
        if let Some(on_connect) = &server.on_connect
            && Self::call(slf, &object, || call1(py, on_connect, object.as_any()), false)? == Then::Stop
        {
            return Self::keep_if_wanted(slf, object);
        }
        if let Delivery::Pulled(handler) = &server.delivery {
            Self::keep(slf, &object)?;
            server.with(|streams, io| streams.set_busy(io, token, true))?;
            Self::call(slf, &object, || call1(py, handler, object.as_any()), true)?;
        }
        Self::keep_if_wanted(slf, object)
    }

    /// Frames have arrived, or may go on.
    fn received(slf: &Bound<'_, Self>, token: Token, lease: Option<Lease>) -> PyResult<()> {
        let input = slf.get().with(|streams, io| streams.take_input(io, token, lease))?;
        let object = Self::object_of(slf, token)?;
        if let Some(input) = input {
            Self::run_input(slf, &object, input)?;
        } else if !object.get().state.enter()?.frames.is_empty() && !Self::is_held_back(slf, token)? {
            Self::run_cut_frames(slf, &object)?;
        }
        Self::look_for_end(slf, &object)?;
        Self::keep_if_wanted(slf, object)
    }

    fn is_held_back(slf: &Bound<'_, Self>, token: Token) -> PyResult<bool> {
        slf.get().with(|streams, io| streams.is_held_back(io, token))
    }

    fn run_input(slf: &Bound<'_, Self>, object: &Connection<'_>, mut input: Input) -> PyResult<()> {
        let (server, token) = (slf.get(), object.get().token);
        let outcome = match &server.delivery {
            Delivery::Each(on_message) if !matches!(server.shape, Shape::Python(_)) => {
                Self::run_each(slf, object, &mut input, on_message)
            }
            _ => Self::run_all(slf, object, &mut input),
        };
        server.with(|streams, io| streams.give_back(io, token, input))?;
        outcome
    }

    /// The hot path: one object and one call a frame.
    fn run_each(
        slf: &Bound<'_, Self>,
        object: &Connection<'_>,
        input: &mut Input,
        on_message: &Py<PyAny>,
    ) -> PyResult<()> {
        let (py, server, token) = (slf.py(), slf.get(), object.get().token);
        let mut frames = 0;
        loop {
            let frame = match input.next(&server.framing, server.beats.as_ref()) {
                Ok(Some(frame)) => to_object(py, &server.shape, frame)?,
                Ok(None) => break,
                Err(error) => {
                    Self::refuse(slf, object, error.kind, frame_error(py, &error))?;
                    break;
                }
            };
            frames += 1;
            let then = Self::call(slf, object, || call2(py, on_message, object.as_any(), &frame), false)?;
            if then == Then::Stop || Self::is_held_back(slf, token)? {
                break;
            }
        }
        server.with(|streams, _| streams.count_frames(server.number, frames))
    }

    /// Cut everything, then hand it over.
    fn run_all(slf: &Bound<'_, Self>, object: &Connection<'_>, input: &mut Input) -> PyResult<()> {
        Self::cut_all(slf, object, input)?;
        Self::run_cut_frames(slf, object)
    }

    /// Hand over the frames that were cut.
    fn run_cut_frames(slf: &Bound<'_, Self>, object: &Connection<'_>) -> PyResult<()> {
        let (py, server, token) = (slf.py(), slf.get(), object.get().token);
        match &server.delivery {
            Delivery::Each(on_message) => loop {
                let Some(frame) = object.get().state.enter()?.frames.pop_front() else { break };
                let frame = frame.into_bound(py);
                let then = Self::call(slf, object, || call2(py, on_message, object.as_any(), &frame), false)?;
                if then == Then::Stop || Self::is_held_back(slf, token)? {
                    break;
                }
            },
            Delivery::Batch(on_messages) => {
                let frames = std::mem::take(&mut object.get().state.enter()?.frames);
                if !frames.is_empty() {
                    let frames = PyList::new(py, frames)?.into_any();
                    Self::call(slf, object, || call2(py, on_messages, object.as_any(), &frames), false)?;
                }
            }
            Delivery::Pulled(_) => {
                if !object.get().state.enter()?.frames.is_empty() {
                    // Enough, until they are taken.
                    server.with(|streams, io| streams.set_busy(io, token, true))?;
                }
                object.get().wake(py, Awaited::Frame)?;
            }
        }
        Self::tell_error(slf, object)
    }

    /// Cut every whole frame into the connection's queue. What is wrong with the stream waits behind them.
    fn cut_all(slf: &Bound<'_, Self>, object: &Connection<'_>, input: &mut Input) -> PyResult<()> {
        let (py, server) = (slf.py(), slf.get());
        let mut frames = Vec::new();
        let mut wrong = None;
        loop {
            match input.next(&server.framing, server.beats.as_ref()) {
                Ok(Some(bytes)) if matches!(server.shape, Shape::Python(_)) => {
                    let chunk = pyo3::types::PyBytes::new(py, bytes);
                    if let Err(error) = Self::feed(object, &chunk, &mut frames) {
                        wrong = Some((FrameErrorKind::Malformed, error));
                        break;
                    }
                }
                Ok(Some(bytes)) => frames.push(to_object(py, &server.shape, bytes)?.unbind()),
                Ok(None) => break,
                Err(error) => {
                    wrong = Some((error.kind, frame_error(py, &error)));
                    break;
                }
            }
        }
        server.with(|streams, _| streams.count_frames(server.number, frames.len() as u64))?;
        let mut state = object.get().state.enter()?;
        state.frames.extend(frames);
        drop(state);
        if let Some((kind, error)) = wrong {
            server.with(|streams, _| streams.count_frame_error(server.number, kind))?;
            object.get().state.enter()?.error = Some(error.into_value(py).into_any());
        }
        Ok(())
    }

    /// The user's protocol cuts for itself.
    fn feed(object: &Connection<'_>, chunk: &Bound<'_, PyAny>, frames: &mut Vec<Py<PyAny>>) -> PyResult<()> {
        let protocol = StreamConnection::protocol(object)?;
        for frame in protocol.bind(object.py()).call_method1("feed", (chunk,))?.try_iter()? {
            frames.push(frame?.unbind());
        }
        Ok(())
    }

    /// For a connection whose frames are pulled: cut what is held; from now on more is wanted.
    pub(super) fn refill(slf: &Bound<'_, Self>, object: &Connection<'_>) -> PyResult<()> {
        let (server, token) = (slf.get(), object.get().token);
        let input = server.with(|streams, io| {
            streams.want_more(io, token);
            streams.take_input(io, token, None)
        })?;
        if let Some(mut input) = input {
            let cut = Self::cut_all(slf, object, &mut input);
            server.with(|streams, io| streams.give_back(io, token, input))?;
            cut?;
        }
        Self::look_for_end(slf, object)
    }

    /// A stream that cannot go on: its error is told, and the connection closed. One that is pulled raises it there.
    fn tell_error(slf: &Bound<'_, Self>, object: &Connection<'_>) -> PyResult<()> {
        let (py, server) = (slf.py(), slf.get());
        if server.is_pulled() {
            return Ok(());
        }
        let mut state = object.get().state.enter()?;
        if !state.frames.is_empty() {
            return Ok(());
        }
        let error = state.error.take();
        drop(state);
        match error {
            Some(error) => Self::close_for(slf, object, PyErr::from_value(error.into_bound(py)), Ending::BadFrame),
            None => Ok(()),
        }
    }

    fn refuse(slf: &Bound<'_, Self>, object: &Connection<'_>, kind: FrameErrorKind, error: PyErr) -> PyResult<()> {
        slf.get().with(|streams, _| streams.count_frame_error(slf.get().number, kind))?;
        Self::close_for(slf, object, error, Ending::BadFrame)
    }

    fn close_for(slf: &Bound<'_, Self>, object: &Connection<'_>, error: PyErr, ending: Ending) -> PyResult<()> {
        let (py, server, token) = (slf.py(), slf.get(), object.get().token);
        let value = error.into_value(py);
        if let Some(on_error) = &server.on_error {
            let told = call2(py, on_error, object.as_any(), value.bind(py).as_any());
            if let Err(error) = told {
                Self::report_error(slf, "Exception in on_error", error)?;
            }
        } else if ending == Ending::HandlerFailed {
            server.report.call1(py, ("Exception in a connection's handler", value))?;
        }
        // After the handler, so that what it sends still leaves.
        server.with(|streams, io| streams.close(io, token, ending))
    }

    fn report_error(slf: &Bound<'_, Self>, what: &str, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        if !error.is_instance_of::<PyException>(py) {
            return Err(error);
        }
        slf.get().report.call1(py, (what, error.into_value(py))).map(drop)
    }

    /// The peer sends no more, and everything before that has been handled.
    fn look_for_end(slf: &Bound<'_, Self>, object: &Connection<'_>) -> PyResult<()> {
        let (py, server, token) = (slf.py(), slf.get(), object.get().token);
        let has_ended = server.with(|streams, io| streams.has_ended(io, token) && !io.is_closing(token))?;
        if !has_ended || !object.get().state.enter()?.frames.is_empty() {
            return Ok(());
        }
        let left = server.with(|streams, io| streams.drop_rest(io, token))?;
        if let Some(error) = server.framing.truncated(left) {
            let raised = frame_error(py, &error);
            if !server.is_pulled() {
                return Self::refuse(slf, object, error.kind, raised);
            }
            server.with(|streams, _| streams.count_frame_error(server.number, error.kind))?;
            object.get().state.enter()?.error = Some(raised.into_value(py).into_any());
        }
        if server.is_pulled() {
            // The handler sees the end, and may still send.
            return object.get().wake(py, Awaited::Frame);
        }
        server.with(|streams, io| streams.close(io, token, Ending::PeerClosed))
    }

    fn closed(slf: &Bound<'_, Self>, token: Token, object: usize, ending: Ending) -> PyResult<()> {
        let (py, server) = (slf.py(), slf.get());
        let object = match take_object(py, object) {
            Some(object) => object,
            None => Bound::new(py, StreamConnection::new(slf.clone().unbind(), token))?,
        };
        object.get().closed(py, ending)?;
        let Some(on_close) = &server.on_close else { return Ok(()) };
        let reason = ending_object(py, ending)?;
        Self::call(slf, &object, || call2(py, on_close, object.as_any(), reason.bind(py)), false).map(drop)
    }

    /// Call a handler. One that returns a coroutine is stepped here, and goes on as a task if it is suspended; meanwhile
    /// the connection's frames are held.
    fn call<'py>(
        slf: &Bound<'py, Self>,
        object: &Connection<'py>,
        call: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
        is_whole: bool,
    ) -> PyResult<Then> {
        let py = slf.py();
        match call() {
            Ok(returned) if returned.is_none() => {
                if is_whole {
                    Self::handler_ended(slf, object)?;
                }
                Ok(Then::GoOn)
            }
            // SAFETY: attached; only the object's type is looked at.
            Ok(returned) if unsafe { ffi::PyCoro_CheckExact(returned.as_ptr()) } != 0 => {
                Self::step(slf, object, returned, is_whole)
            }
            Ok(_) if !is_whole => Ok(Then::GoOn),
            Ok(returned) => {
                let text = format!("a handler is `async def handler(connection)`: this one returned {returned:?}");
                Self::handler_failed(slf, object, PyTypeError::new_err(text))?;
                Ok(Then::Stop)
            }
            Err(error) if error.is_instance_of::<PyException>(py) => {
                Self::handler_failed(slf, object, error)?;
                Ok(Then::Stop)
            }
            Err(error) => Err(error),
        }
    }

    fn step<'py>(
        slf: &Bound<'py, Self>,
        object: &Connection<'py>,
        coroutine: Bound<'py, PyAny>,
        is_whole: bool,
    ) -> PyResult<Then> {
        let (py, server) = (slf.py(), slf.get());
        let context = task::copy_context(py, &server.context)?;
        let supply = server.state.enter()?.spares.take(py);
        let mut current = supply.enter(py)?;
        match current.run_first_step(py, &context, || Ok(coroutine)) {
            Step::Returned => {
                Self::leave(server, py, current)?;
                if is_whole {
                    Self::handler_ended(slf, object)?;
                }
                Ok(Then::GoOn)
            }
            Step::Raised(error) => {
                Self::leave(server, py, current)?;
                if !error.is_instance_of::<PyException>(py) && !task::is_cancelled_error(py, &error) {
                    return Err(error);
                }
                Self::handler_failed(slf, object, error)?;
                Ok(Then::Stop)
            }
            Step::Suspended { coroutine, pending } => {
                let spare = current.leave(py)?;
                let token = object.get().token;
                let number = {
                    let mut state = server.state.enter()?;
                    state.next_task += 1;
                    let number = state.next_task;
                    state.suspended.insert((token, number), spare.task.clone_ref(py));
                    number
                };
                if !is_whole {
                    server.with(|streams, io| streams.set_busy(io, token, true))?;
                }
                object.get().state.enter()?.task = Some(spare.task.clone_ref(py));
                Self::keep(slf, object)?;
                let ending =
                    HandlerEnding { server: slf.clone().unbind(), object: object.clone().unbind(), number, is_whole };
                spare.adopt(py, coroutine, pending, context.unbind(), Box::new(ending))?;
                Ok(Then::Stop)
            }
        }
    }

    fn leave(server: &StreamServer, py: Python<'_>, current: CurrentSpare) -> PyResult<()> {
        if let Some(spare) = current.leave_for_another(py)? {
            server.state.enter()?.spares.give(spare);
        }
        Ok(())
    }

    /// A whole connection's handler has returned: so is the connection done.
    fn handler_ended(slf: &Bound<'_, Self>, object: &Connection<'_>) -> PyResult<()> {
        let token = object.get().token;
        slf.get().with(|streams, io| {
            let ending = if streams.peer_has_ended(io, token) { Ending::PeerClosed } else { Ending::Closed };
            streams.close(io, token, ending);
        })
    }

    fn handler_failed(slf: &Bound<'_, Self>, object: &Connection<'_>, error: PyErr) -> PyResult<()> {
        let (py, server, token) = (slf.py(), slf.get(), object.get().token);
        if task::is_cancelled_error(py, &error) {
            return server.with(|streams, io| streams.close(io, token, Ending::Stopped));
        }
        if errors::is(py, &error, "FrameError") {
            // What only a handler can see is wrong with a frame.
            return Self::refuse(slf, object, FrameErrorKind::Malformed, error);
        }
        server.with(|streams, io| {
            io.counters.handler_errors.add(1);
            streams.count_handler_error(server.number);
        })?;
        Self::close_for(slf, object, error, Ending::HandlerFailed)
    }
}

/// A handler that had been suspended has ended: its connection's frames go on.
struct HandlerEnding {
    server: Py<StreamServer>,
    object: Py<StreamConnection>,
    number: u64,
    /// It is the connection's handler, not that of one of its frames.
    is_whole: bool,
}

impl task::Ending for HandlerEnding {
    fn ended(self: Box<Self>, py: Python<'_>, error: Option<PyErr>) -> PyResult<()> {
        let (slf, object) = (self.server.bind(py), self.object.bind(py));
        let token = object.get().token;
        let gone = slf.get().state.enter()?.suspended.remove(&(token, self.number));
        drop(gone);
        let task = object.get().state.enter()?.task.take();
        drop(task);
        match error {
            None if self.is_whole => StreamServer::handler_ended(slf, object),
            None => slf.get().with(|streams, io| match streams.is_stopping(slf.get().number) {
                true => streams.close(io, token, Ending::Stopped),
                false => streams.set_busy(io, token, false),
            }),
            Some(error) if error.is_instance_of::<PyException>(py) || task::is_cancelled_error(py, &error) => {
                StreamServer::handler_failed(slf, object, error)
            }
            Some(error) => Err(error),
        }
    }
}

#[inline]
fn call1<'py>(py: Python<'py>, callable: &Py<PyAny>, first: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let arguments = [first.as_ptr()];
    // SAFETY: attached; one live argument; returns a new reference or null with an exception.
    unsafe {
        let result = ffi::PyObject_Vectorcall(callable.as_ptr(), arguments.as_ptr(), 1, std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, result)
    }
}

#[inline]
fn call2<'py>(
    py: Python<'py>,
    callable: &Py<PyAny>,
    first: &Bound<'py, PyAny>,
    second: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let arguments = [first.as_ptr(), second.as_ptr()];
    // SAFETY: attached; two live arguments; returns a new reference or null with an exception.
    unsafe {
        let result = ffi::PyObject_Vectorcall(callable.as_ptr(), arguments.as_ptr(), 2, std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, result)
    }
}
