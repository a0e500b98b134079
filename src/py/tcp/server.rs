//! A StreamServer is one endpoint of a reactor: its framing, its handlers, its listeners. A client's, too: what differs
//! is who makes the connections.

use std::collections::{HashMap, HashSet};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::connection::StreamConnection;
use super::frames::{Shape, framing_of};
use super::group::StreamGroup;
use super::wait::Awaited;
use crate::core::Token;
use crate::core::event_loop::Hold;
use crate::protocol::framing::Framing;
use crate::py::guarded::Guarded;
use crate::py::reactor::{Reactor, listener_of};
use crate::py::service::STREAM_LISTENERS;
use crate::py::task::{self, SpareTasks};
use crate::server::tcp::{Beats, Ending, Endpoint, Heartbeat, StreamIo, StreamSettings, Streams};

/// How frames reach the user.
pub enum Delivery {
    /// `on_message(connection, frame)`, for each.
    Each(Py<PyAny>),
    /// `on_messages(connection, frames)`: all that one turn brought.
    Batch(Py<PyAny>),
    /// `handler(connection)`, which receives them itself.
    Pulled(Py<PyAny>),
}

#[pyclass(frozen, weakref, module = "penstock._core")]
pub struct StreamServer {
    pub(super) reactor: Py<Reactor>,
    pub(super) number: u16,
    pub(super) framing: Framing,
    /// Frames that are not the handlers'.
    pub(super) beats: Option<Beats>,
    pub(super) shape: Shape,
    pub(super) delivery: Delivery,
    pub(super) on_connect: Option<Py<PyAny>>,
    pub(super) on_close: Option<Py<PyAny>>,
    pub(super) on_error: Option<Py<PyAny>>,
    /// Called as `report(message, exception)`; logs.
    pub(super) report: Py<PyAny>,
    create_future: Py<PyAny>,
    /// What every handler's context is a copy of.
    pub(super) context: Py<PyAny>,
    pub(super) state: Guarded<State>,
}

pub struct State {
    pub(super) spares: SpareTasks,
    listeners: Vec<Token>,
    /// Suspended handlers' tasks, by the connection's token; the number tells several of one apart.
    pub(super) suspended: HashMap<(Token, u64), Py<PyAny>>,
    pub(super) next_task: u64,
}

impl StreamServer {
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut Streams, &mut StreamIo) -> R) -> PyResult<R> {
        self.reactor.get().with(|inner| act(&mut inner.event_loop.service.streams, &mut inner.event_loop.io))
    }

    pub(super) fn new_future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.create_future.bind(py).call0()
    }

    pub(super) fn is_pulled(&self) -> bool {
        matches!(self.delivery, Delivery::Pulled(_))
    }

    /// The connection's object: the one it has, or a new one, which lasts only if `keep` is asked for.
    pub(super) fn object_of<'py>(slf: &Bound<'py, Self>, token: Token) -> PyResult<Bound<'py, StreamConnection>> {
        let py = slf.py();
        let present = slf.get().with(|_, io| io.stream(token).map_or(0, |connection| connection.object))?;
        if present != 0 {
            // SAFETY: `keep` put a strong reference there, which is taken out only when the connection closes or by
            // `let_go`, on this thread.
            return Ok(unsafe {
                Bound::from_borrowed_ptr(py, present as *mut pyo3::ffi::PyObject).cast_into_unchecked()
            });
        }
        Bound::new(py, StreamConnection::new(slf.clone().unbind(), token))
    }

    /// The connection keeps this object from now on.
    pub(super) fn keep(slf: &Bound<'_, Self>, object: &Bound<'_, StreamConnection>) -> PyResult<()> {
        let token = object.get().token;
        let is_kept = slf.get().with(|_, io| match io.stream(token) {
            Some(connection) if connection.object == 0 => {
                connection.object = object.clone().into_ptr() as usize;
                true
            }
            _ => false,
        })?;
        if is_kept {
            object.get().remember_peer(slf.py());
        }
        Ok(())
    }

    /// At the end of a batch: keep an object that is wanted, let go of one that is not any more.
    pub(super) fn keep_if_wanted(slf: &Bound<'_, Self>, object: Bound<'_, StreamConnection>) -> PyResult<()> {
        let token = object.get().token;
        let is_kept = slf.get().with(|_, io| io.stream(token).is_some_and(|connection| connection.object != 0))?;
        let is_wanted = slf.get().is_pulled() || StreamConnection::is_wanted(&object, 1 + isize::from(is_kept))?;
        match (is_kept, is_wanted) {
            (false, true) => Self::keep(slf, &object),
            (true, false) => {
                let kept = slf
                    .get()
                    .with(|_, io| io.stream(token).map_or(0, |connection| std::mem::take(&mut connection.object)))?;
                release_object(slf.py(), kept);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The objects of connections whose handlers are suspended.
    fn at_work<'py>(&self, py: Python<'py>) -> PyResult<HashMap<Token, Bound<'py, StreamConnection>>> {
        let tokens: HashSet<Token> = self.state.enter()?.suspended.keys().map(|&(token, _)| token).collect();
        self.with(|_, io| {
            let kept = |token: Token| Some((token, io.stream(token)?.object)).filter(|&(_, object)| object != 0);
            let objects = tokens.into_iter().filter_map(kept);
            // SAFETY: `keep` put a strong reference there, which nothing takes out meanwhile.
            let bound = |object: usize| unsafe {
                Bound::from_borrowed_ptr(py, object as *mut pyo3::ffi::PyObject).cast_into_unchecked()
            };
            objects.map(|(token, object)| (token, bound(object))).collect()
        })
    }

    /// The loop is closed: let go of what referred to it.
    pub fn forget(&self) {
        if let Ok(mut state) = self.state.enter() {
            let (suspended, spares) = (std::mem::take(&mut state.suspended), state.spares.take_all());
            drop(state);
            drop((suspended, spares));
        }
    }
}

/// A slot's reference to a connection's object, as an object again.
pub fn take_object(py: Python<'_>, object: usize) -> Option<Bound<'_, StreamConnection>> {
    // SAFETY: `keep` made it of a strong reference, and whoever took it out of the slot passes it here once.
    (object != 0)
        .then(|| unsafe { Bound::from_owned_ptr(py, object as *mut pyo3::ffi::PyObject).cast_into_unchecked() })
}

pub fn release_object(py: Python<'_>, object: usize) {
    drop(take_object(py, object));
}

fn some<'py>(options: &Bound<'py, PyDict>, key: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(options.get_item(key)?.filter(|value| !value.is_none()))
}

fn delivery_of(handlers: &Bound<'_, PyDict>) -> PyResult<Delivery> {
    let named = |key: &str| some(handlers, key).map(|found| found.map(Bound::unbind));
    match (named("on_message")?, named("on_messages")?, named("handler")?) {
        (Some(each), None, None) => Ok(Delivery::Each(each)),
        (None, Some(batch), None) => Ok(Delivery::Batch(batch)),
        (None, None, Some(pulled)) => Ok(Delivery::Pulled(pulled)),
        _ => Err(PyValueError::new_err("give one of on_message, on_messages and handler: who receives the frames")),
    }
}

fn settings_of(
    settings: &Bound<'_, PyDict>,
    framing: &Framing,
    tell_connected: bool,
    tell_closed: bool,
) -> PyResult<StreamSettings> {
    let wanted = |key: &str| {
        settings.get_item(key)?.ok_or_else(|| PyValueError::new_err(format!("a stream's settings lack {key}")))
    };
    let seconds = |value: f64| {
        Duration::try_from_secs_f64(value).map_err(|_| PyValueError::new_err(format!("{value} is no time in seconds")))
    };
    let heartbeat = match some(settings, "heartbeat")? {
        None => None,
        Some(given) => {
            let (interval, timeout, ping, pong): (f64, f64, Option<Vec<u8>>, Option<Vec<u8>>) = given.extract()?;
            let (ping, pong) = (ping.map(Arc::<[u8]>::from), pong.map(Arc::<[u8]>::from));
            let beats = match (&ping, pong) {
                (Some(ping), Some(pong)) => Some(Beats::new(framing, ping.clone(), pong).ok_or_else(|| {
                    PyValueError::new_err("heartbeat: expected ping and pong to be one whole frame each, of a protocol that Penstock cuts itself")
                })?),
                _ => None,
            };
            Some(Heartbeat { interval: seconds(interval)?, timeout: seconds(timeout)?, ping, beats })
        }
    };
    Ok(StreamSettings {
        max_held_bytes: wanted("max_held_bytes")?.extract()?,
        max_unsent_bytes: wanted("max_unsent_bytes")?.extract()?,
        write_timeout: seconds(wanted("write_timeout_s")?.extract()?)?,
        max_connections: wanted("max_connections")?.extract()?,
        heartbeat,
        tell_connected,
        tell_closed,
    })
}

// An interpreter's allocator aligns no further.
const _: () = assert!(align_of::<StreamServer>() <= 16);

#[pymethods]
impl StreamServer {
    /// `protocol`: one of `penstock.protocol`'s, or a factory of protocols in Python. `handlers`: `on_message`,
    /// `on_messages` or `handler`; `on_connect`, `on_close`, `on_error`. `settings`: bounds and heartbeat, by name.
    #[new]
    #[pyo3(signature = (reactor, event_loop, protocol, handlers, settings, report))]
    fn new(
        py: Python<'_>,
        reactor: Py<Reactor>,
        event_loop: &Bound<'_, PyAny>,
        protocol: &Bound<'_, PyAny>,
        handlers: &Bound<'_, PyDict>,
        settings: &Bound<'_, PyDict>,
        report: Py<PyAny>,
    ) -> PyResult<Py<Self>> {
        let (framing, shape) = framing_of(protocol)?;
        let delivery = delivery_of(handlers)?;
        let named = |key: &str| some(handlers, key).map(|found| found.map(Bound::unbind));
        let (on_connect, on_close, on_error) = (named("on_connect")?, named("on_close")?, named("on_error")?);
        let is_pulled = matches!(delivery, Delivery::Pulled(_));
        let settings = settings_of(settings, &framing, is_pulled || on_connect.is_some(), on_close.is_some())?;
        let beats = settings.heartbeat.as_ref().and_then(|heartbeat| heartbeat.beats.clone());
        let endpoint = Endpoint { framing: framing.clone(), settings, counts: Default::default(), is_stopping: false };
        let number = reactor.get().with(|inner| inner.event_loop.service.streams.add_endpoint(endpoint))?;
        let number =
            number.ok_or_else(|| PyRuntimeError::new_err("an event loop has at most 256 servers and clients"))?;
        let state = State {
            spares: SpareTasks::new(event_loop)?,
            listeners: Vec::new(),
            suspended: HashMap::new(),
            next_task: 0,
        };
        let server = StreamServer {
            reactor: reactor.clone_ref(py),
            number,
            framing,
            beats,
            shape,
            delivery,
            on_connect,
            on_close,
            on_error,
            report,
            create_future: event_loop.getattr("create_future")?.unbind(),
            context: task::current_context(py)?.unbind(),
            state: Guarded::new(state),
        };
        let server = Py::new(py, server)?;
        reactor.get().with(|inner| inner.stream_servers.insert(number, server.clone_ref(py)))?;
        Ok(server)
    }

    /// The number that a main reactor hands this server's connections over with.
    #[getter]
    fn listener_number(&self) -> u16 {
        STREAM_LISTENERS + self.number
    }

    /// Accept connections from a listening socket. The descriptor is duplicated: the caller keeps its own.
    fn add_listener(&self, fd: RawFd) -> PyResult<()> {
        let own = listener_of(fd)?;
        let token = self.reactor.get().with(|inner| -> std::io::Result<Token> {
            let token = inner.event_loop.io.add_listener(own)?;
            inner.event_loop.service.listeners.push((token, STREAM_LISTENERS + self.number));
            Ok(token)
        })??;
        self.state.enter()?.listeners.push(token);
        Ok(())
    }

    /// Accept no more; who waits at the listeners is let in still, with the next turn.
    fn remove_listeners(&self) -> PyResult<()> {
        let listeners = std::mem::take(&mut self.state.enter()?.listeners);
        self.with(|_, io| listeners.iter().for_each(|&token| io.remove_listener(token, Hold::Shared)))
    }

    /// Take a connected socket, which is the reactor's from now on: the descriptor is duplicated.
    fn adopt(slf: &Bound<'_, Self>, fd: RawFd) -> PyResult<Py<StreamConnection>> {
        // SAFETY: borrowed for this call only; a wrong number is an OSError of dup.
        let own: OwnedFd = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
        let number = slf.get().number;
        let token = slf.get().with(|streams, io| streams.add(io, own, number))?;
        let token = token.ok_or_else(|| PyRuntimeError::new_err("the server takes no more connections"))?;
        let object = Self::object_of(slf, token)?;
        Self::keep(slf, &object)?;
        Ok(object.unbind())
    }

    /// A set of connections that frames can be sent to at once.
    fn group(slf: &Bound<'_, Self>) -> PyResult<Py<StreamGroup>> {
        Py::new(slf.py(), StreamGroup::new(slf.clone().unbind()))
    }

    /// Take no more, and close every connection once what was sent has left: when its handler has ended, if it has one
    /// at work. Whoever receives sees the end of the stream.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        self.remove_listeners()?;
        let at_work = self.at_work(py)?;
        self.with(|streams, io| streams.stop(io, self.number, Ending::Stopped, |token| at_work.contains_key(&token)))?;
        at_work.values().try_for_each(|object| object.get().wake(py, Awaited::Frame))
    }

    /// Cut off what has not closed.
    fn abort_all(&self) -> PyResult<()> {
        self.with(|streams, io| streams.abort_endpoint(io, self.number, Ending::Stopped))
    }

    /// It has no connection any more, and gets none: its place is another's.
    fn detach(slf: &Bound<'_, Self>) -> PyResult<()> {
        let server = slf.get();
        let removed = server.reactor.get().with(|inner| {
            let is_it = inner.stream_servers.get(&server.number).is_some_and(|present| present.is(slf));
            let has_connections = inner.event_loop.service.streams.has_connections(server.number);
            (is_it && !has_connections).then(|| {
                inner.event_loop.service.streams.remove_endpoint(server.number);
                inner.stream_servers.remove(&server.number)
            })
        })?;
        drop(removed);
        server.forget();
        Ok(())
    }

    /// Open connections.
    #[getter]
    fn connections(&self) -> PyResult<u64> {
        self.with(|streams, _| streams.endpoint(self.number).map_or(0, |endpoint| endpoint.counts.connections))
    }

    /// The tasks of handlers that are suspended.
    fn suspended_tasks(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        Ok(self.state.enter()?.suspended.values().map(|task| task.clone_ref(py)).collect())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let (Delivery::Each(handler) | Delivery::Batch(handler) | Delivery::Pulled(handler)) = &self.delivery;
        visit.call(handler)?;
        if let Shape::Python(factory) = &self.shape {
            visit.call(factory)?;
        }
        for each in [&self.on_connect, &self.on_close, &self.on_error] {
            visit.call(each)?;
        }
        Ok(())
    }

    /// What has been counted, by name.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts =
            self.with(|streams, _| streams.endpoint(self.number).map(|endpoint| endpoint.counts.snapshot()))?;
        let values = PyDict::new(py);
        for (name, value) in counts.into_iter().flatten() {
            values.set_item(name, value)?;
        }
        Ok(values)
    }
}
