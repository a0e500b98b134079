//! `Reactor`: a sub reactor as Python sees it, and the turn of its event loop.
//!
//! `select` is what asyncio's loop calls in place of a selector's: it turns the reactor, runs the batch of
//! Python-bound events of each turn, and comes back only when asyncio itself has something to do. So asyncio's machinery
//! costs nothing for a request that never suspends, and everything asyncio can do works beside it.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyKeyError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::asgi::AsgiServer;
use super::datagram::{self, Endpoints};
use super::guarded::Guarded;
use super::owners;
use super::scoreboard::{Scoreboard, shard_of};
use super::service::PyService;
use super::stall_watch::StallWatch;
use super::tcp::StreamServer;
use super::wsgi::{Desk, WsgiServer};
use crate::core::mailbox::MailSender;
use crate::core::poller::{self, PollerKind, Readiness};
use crate::core::wide_sockets::UNSENT_BYTES;
use crate::core::{EventLoop, Hold, Shard, Token};
use crate::metrics::ReactorCounters;
use crate::net::Listener;
use crate::net::options::{Bytes, NO_DELAY, NOT_SENT_LOW_WATER};
use crate::reactor::fair_share::{ACCEPTS_PER_TURN, FairShare};
use crate::reactor::scoreboard::Reporter;
use crate::reactor::{Mail, SubReactorHandle};
use crate::server::http::{HttpEvent, HttpServer};
use crate::server::tcp::Streams;
use crate::server::udp::UdpService;

/// asyncio's names (selectors.EVENT_READ, EVENT_WRITE).
const EVENT_READ: u8 = 1;
const EVENT_WRITE: u8 = 2;

/// How long the attached phase may run before the loop flushes what it produced and looks at the poller again.
/// Without it a batch of slow handlers would delay the first one's answer by their sum.
pub(super) const ATTACHED_BUDGET: Duration = Duration::from_micros(500);

/// How long native answers alone may keep the loop from Python, which has signals to handle.
const DETACHED_AT_MOST: Duration = Duration::from_millis(20);

pub(super) struct Inner {
    pub event_loop: EventLoop<PyService>,
    watches: HashMap<RawFd, Token>,
    pub asgi: Option<Py<AsgiServer>>,
    wsgi: Option<Py<WsgiServer>>,
    /// By the number of their endpoint.
    pub stream_servers: HashMap<u16, Py<StreamServer>>,
    pub endpoints: Endpoints,
    /// Since when the interpreter has been had; only while durations are measured.
    attached_at: Option<Instant>,
}

#[pyclass(frozen, weakref, module = "penstock._core")]
pub struct Reactor {
    pub(super) inner: Guarded<Option<Inner>>,
    mail: MailSender<Mail>,
    /// Somebody wants `select` to come back.
    woken: AtomicBool,
    handle: SubReactorHandle,
    counters: Shard,
    watch: StallWatch,
}

/// What a main reactor needs of this one, good for any thread.
#[pyclass(frozen, module = "penstock._core")]
pub struct ReactorHandle(pub(super) SubReactorHandle);

#[pymethods]
impl ReactorHandle {
    /// Connections that the reactor has, or that are on their way to it.
    #[getter]
    fn connections(&self) -> usize {
        self.0.connections()
    }
}

/// A listener of our own: the descriptor is duplicated, and its caller keeps the other.
pub(super) fn listener_of(fd: RawFd) -> PyResult<OwnedFd> {
    // SAFETY: borrowed for this call only; a wrong number is an OSError of dup.
    let own: OwnedFd = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
    let own = Listener::from_fd(own)?;
    if !own.address().is_unix() {
        // Accepted sockets inherit these, which saves system calls for each.
        NO_DELAY.set(&own, true)?;
        // Unless its maker has chosen.
        if NOT_SENT_LOW_WATER.get(&own)? == Bytes(0) {
            NOT_SENT_LOW_WATER.set(&own, Bytes(UNSENT_BYTES))?;
        }
    }
    Ok(own.into_fd())
}

/// What Python's `last` means.
pub(super) fn hold(last: bool) -> Hold {
    if last { Hold::Last } else { Hold::Shared }
}

/// A reactor's counters, by name.
pub(super) fn counters_as_dict<'py>(py: Python<'py>, counters: &ReactorCounters) -> PyResult<Bound<'py, PyDict>> {
    let values = PyDict::new(py);
    for (name, _, value) in counters.snapshot() {
        values.set_item(name, value)?;
    }
    Ok(values)
}

/// Lets a detached closure carry what it points to; the caller stays on its thread and holds the guard.
struct Carried<T>(T);
// SAFETY: `detach` runs its closure on the calling thread, so nothing is sent anywhere.
unsafe impl<T> Send for Carried<T> {}

impl Reactor {
    /// Go inside; an error if the loop is closed, or at work in another thread.
    #[inline]
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut Inner) -> R) -> PyResult<R> {
        match self.inner.enter()?.as_mut() {
            Some(inner) => Ok(act(inner)),
            None => Err(PyRuntimeError::new_err("the event loop is closed")),
        }
    }

    /// Turns, detached, until one has something for Python or `timeout` has passed. The owners they let go of are released
    /// once attached again. Tells when that was, if durations are measured.
    fn turn(&self, py: Python<'_>, timeout: Option<Duration>) -> PyResult<Option<Instant>> {
        let mut entered = self.inner.enter()?;
        let inner = entered.as_mut().ok_or_else(|| PyRuntimeError::new_err("the event loop is closed"))?;
        if let Some(since) = inner.attached_at.take() {
            self.counters.gil_hold_ns.record_duration(since.elapsed());
        }
        self.watch.left();
        let carried = Carried(&mut inner.event_loop);
        let woken = &self.woken;
        let wanted_at = py.detach(move || {
            let whole = carried;
            match whole.0.service.desk {
                None => turn_while_native(whole.0, timeout, woken),
                Some(_) => turn_for_threads(whole.0, timeout, woken),
            }
            .map(|()| whole.0.io.measures.then(Instant::now))
        })?;
        if let Some(wanted_at) = wanted_at {
            let now = Instant::now();
            self.counters.gil_wait_ns.record_duration(now.saturating_duration_since(wanted_at));
            inner.attached_at = Some(now);
        }
        self.watch.entered();
        if let Some(reporter) = &inner.event_loop.service.reporter {
            reporter.work();
        }
        let attached_at = inner.attached_at;
        let mut released = std::mem::take(inner.event_loop.io.take_released());
        drop(entered);
        if released.is_empty() {
            return Ok(attached_at);
        }
        // A released object's finalizer may run any Python, so not while inside.
        owners::release(py, &mut released);
        Ok(None)
    }

    /// Handle the next event of the streams. False if there is none.
    fn run_stream_event(&self, py: Python<'_>) -> PyResult<bool> {
        let mut entered = self.inner.enter()?;
        let Some(inner) = entered.as_mut() else { return Ok(false) };
        let EventLoop { io, service, .. } = &mut inner.event_loop;
        let Some(event) = service.streams.next_event() else { return Ok(false) };
        let number = service.streams.endpoint_of(io, &event);
        let server = number.and_then(|number| inner.stream_servers.get(&number)).map(|server| server.clone_ref(py));
        drop(entered);
        if let Some(server) = server {
            StreamServer::handle(server.bind(py), event)?;
        }
        Ok(true)
    }

    /// Run the events of this turn, within the budget. Returns whether some are left. `now`, if somebody has looked.
    fn run_batch(&self, py: Python<'_>, now: Option<Instant>) -> PyResult<bool> {
        let mut ran = 0;
        let outcome = datagram::run(self, py, &mut ran).and_then(|()| {
            let now = now.filter(|_| ran == 0);
            self.run_events(py, now.unwrap_or_else(Instant::now), &mut ran)
        });
        if ran > 0 {
            self.counters.batch.record(ran);
        }
        outcome
    }

    fn run_events(&self, py: Python<'_>, began: Instant, ran: &mut u64) -> PyResult<bool> {
        let outcome = self.run_events_until(py, began, ran);
        let asgi = self.with(|inner| inner.asgi.as_ref().map(|asgi| asgi.clone_ref(py)));
        match asgi {
            Ok(Some(asgi)) => {
                let ended = asgi.get().end_batch(py);
                outcome.and_then(|left| ended.map(|()| left))
            }
            Ok(None) | Err(_) => outcome,
        }
    }

    fn run_events_until(&self, py: Python<'_>, began: Instant, ran: &mut u64) -> PyResult<bool> {
        while self.run_stream_event(py)? {
            *ran += 1;
            if began.elapsed() >= ATTACHED_BUDGET {
                break;
            }
        }
        loop {
            let mut entered = self.inner.enter()?;
            let Some(inner) = entered.as_mut() else { return Ok(false) };
            let service = &mut inner.event_loop.service;
            let Some(event) = service.next_event() else { return Ok(service.has_events()) };
            let asgi = inner.asgi.as_ref().map(|asgi| asgi.clone_ref(py));
            let wsgi = inner.wsgi.as_ref().map(|wsgi| wsgi.clone_ref(py));
            drop(entered);
            *ran += 1;
            if let Some(asgi) = asgi {
                AsgiServer::handle(asgi.bind(py), event)?;
            } else if let (Some(wsgi), HttpEvent::Quiet) = (wsgi, event) {
                wsgi.get().tell_quiet(py)?;
            }
            if began.elapsed() >= ATTACHED_BUDGET {
                return self.with(|inner| {
                    let left = inner.event_loop.service.has_events();
                    if left {
                        inner.event_loop.io.counters.budget_exhausted.add(1);
                    }
                    left
                });
            }
        }
    }

    fn take_ready<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        let mut entered = self.inner.enter()?;
        let Some(inner) = entered.as_mut() else { return Ok(None) };
        if inner.event_loop.service.ready.is_empty() {
            return Ok(None);
        }
        let ready: Vec<(RawFd, u8)> = (inner.event_loop.service.ready.drain(..))
            .filter_map(|(token, readiness)| Some((inner.event_loop.io.fd(token)?, mask(readiness))))
            .collect();
        drop(entered);
        PyList::new(py, ready).map(Some)
    }
}

/// Turn until there is something that only Python can do. Native answers need no interpreter, and are not to wait for one
/// that another thread keeps busy.
fn turn_while_native(
    event_loop: &mut EventLoop<PyService>,
    timeout: Option<Duration>,
    woken: &AtomicBool,
) -> std::io::Result<()> {
    if !event_loop.service.http.as_ref().is_some_and(HttpServer::has_responders) {
        return event_loop.turn(timeout);
    }
    let (began, limit) = (Instant::now(), timeout.unwrap_or(Duration::MAX));
    let mut answers = event_loop.io.counters.native_answers.get();
    event_loop.turn(timeout)?;
    let at_most = limit.min(began.elapsed().saturating_add(DETACHED_AT_MOST));
    loop {
        let answered = event_loop.io.counters.native_answers.get();
        // A turn that answered nothing was ended by the timeout, by a signal, or by what asyncio will know.
        let left = at_most.saturating_sub(began.elapsed());
        if is_python_wanted(event_loop, woken) || answered == answers || left.is_zero() {
            return Ok(());
        }
        answers = answered;
        event_loop.turn(Some(left))?;
    }
}

/// Turn for the threads of a WSGI application, which need nothing of this one's interpreter: until Python is wanted here.
fn turn_for_threads(
    event_loop: &mut EventLoop<PyService>,
    timeout: Option<Duration>,
    woken: &AtomicBool,
) -> std::io::Result<()> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        // What was left since the last turn, before sleeping.
        event_loop.service.serve_threads(&mut event_loop.io);
        if is_python_wanted(event_loop, woken) {
            return event_loop.turn(Some(Duration::ZERO));
        }
        let now = Instant::now();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
        let look = event_loop.service.desk.as_ref().and_then(|desk| desk.may_sleep(now));
        let completions = event_loop.io.counters.completions.get();
        event_loop.turn(left.into_iter().chain(look).min())?;
        event_loop.service.serve_threads(&mut event_loop.io);
        // What ended a turn without a completion may have been a signal, which only Python can handle.
        let may_be_a_signal = event_loop.io.counters.completions.get() == completions && look.is_none();
        if is_python_wanted(event_loop, woken) || may_be_a_signal || left.is_some_and(|left| left.is_zero()) {
            return Ok(());
        }
    }
}

fn is_python_wanted(event_loop: &mut EventLoop<PyService>, woken: &AtomicBool) -> bool {
    event_loop.service.has_events()
        || !event_loop.service.ready.is_empty()
        || !event_loop.io.take_released().is_empty()
        || woken.load(Ordering::Relaxed)
}

fn mask(readiness: Readiness) -> u8 {
    u8::from(readiness.readable) * EVENT_READ + u8::from(readiness.writable) * EVENT_WRITE
}

#[pymethods]
impl Reactor {
    #[new]
    #[pyo3(signature = (poller = "auto", scoreboard = None, slot = 0))]
    fn new(poller: &str, scoreboard: Option<&Scoreboard>, slot: usize) -> PyResult<Self> {
        let kind: PollerKind = poller.parse().map_err(PyValueError::new_err)?;
        let service = PyService {
            http: None,
            desk: None,
            streams: Streams::default(),
            udp: UdpService::default(),
            listeners: Vec::new(),
            ready: Vec::new(),
            reporter: None,
            fair_share: None,
        };
        let counters = shard_of(scoreboard, slot)?;
        let event_loop = EventLoop::counting_in(poller::open(kind)?, service, counters)?;
        let (mail, counters) = (event_loop.mail_sender(), event_loop.io.counters.clone());
        let handle = SubReactorHandle::of(&event_loop);
        let inner = Inner {
            event_loop,
            watches: HashMap::new(),
            asgi: None,
            wsgi: None,
            stream_servers: HashMap::new(),
            endpoints: HashMap::new(),
            attached_at: None,
        };
        let (woken, watch) = (AtomicBool::new(false), StallWatch::default());
        Ok(Reactor { inner: Guarded::new(Some(inner)), mail, woken, handle, counters, watch })
    }

    /// For a main reactor, which hands connections over to this one. From any thread.
    fn handle(&self) -> ReactorHandle {
        ReactorHandle(self.handle.clone())
    }

    /// Which way of waiting for the kernel is in use.
    #[getter]
    fn poller(&self) -> PyResult<&'static str> {
        self.with(|inner| inner.event_loop.io.poller_name())
    }

    /// Be told by `select` when a descriptor is readable (1), writable (2), or either (3).
    fn watch(&self, fd: RawFd, events: u8) -> PyResult<()> {
        let interest = Readiness { readable: events & EVENT_READ != 0, writable: events & EVENT_WRITE != 0 };
        self.with(|inner| {
            match inner.watches.get(&fd) {
                Some(&token) => inner.event_loop.io.rewatch(token, interest)?,
                None => {
                    inner.watches.insert(fd, inner.event_loop.io.watch(fd, interest)?);
                }
            }
            Ok(())
        })?
    }

    fn unwatch(&self, fd: RawFd) -> PyResult<()> {
        self.with(|inner| match inner.watches.remove(&fd) {
            Some(token) => {
                inner.event_loop.io.unwatch(token);
                Ok(())
            }
            None => Err(PyKeyError::new_err(format!("descriptor {fd} is not watched"))),
        })?
    }

    /// Turn the reactor until asyncio has something to do: a ready callback, a timer, a watched descriptor; or until
    /// `timeout` seconds have passed (`None`: no limit). Returns the ready descriptors as `(fd, events)`.
    #[pyo3(signature = (timeout, ready_callbacks, timers))]
    fn select<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<f64>,
        ready_callbacks: &Bound<'py, PyAny>,
        timers: &Bound<'py, PyList>,
    ) -> PyResult<Bound<'py, PyList>> {
        let deadline = timeout.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0)));
        let mut events_left = self.with(|inner| inner.event_loop.service.has_events())?;
        let timers_before = timers_fingerprint(timers);
        self.counters.asyncio_timers.set(timers.len() as u64);
        loop {
            let wait = match deadline {
                _ if events_left => Some(Duration::ZERO),
                Some(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
                None => None,
            };
            let attached_at = self.turn(py, wait)?;
            events_left = self.run_batch(py, attached_at)?;
            py.check_signals()?;
            if let Some(ready) = self.take_ready(py)? {
                return Ok(ready);
            }
            let asked_back = self.woken.load(Ordering::Relaxed) && self.woken.swap(false, Ordering::AcqRel);
            if asked_back
                || ready_callbacks.len()? > 0
                || timers_fingerprint(timers) != timers_before
                || deadline.is_some_and(|deadline| Instant::now() >= deadline)
            {
                return Ok(PyList::empty(py));
            }
        }
    }

    /// Make `select` come back. From any thread.
    fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.mail.wake();
    }

    /// Serve HTTP with this application on every listener added from now on.
    fn attach_asgi(&self, py: Python<'_>, asgi: Py<AsgiServer>) -> PyResult<()> {
        let mut http = asgi.get().make_http_server(py)?;
        self.with(|inner| {
            http.attach(&mut inner.event_loop.io)?;
            inner.event_loop.service.http = Some(http);
            inner.asgi = Some(asgi);
            Ok(())
        })?
    }

    /// Serve HTTP with this WSGI application, on its own threads, on every listener added from now on.
    fn attach_wsgi(&self, py: Python<'_>, wsgi: Py<WsgiServer>) -> PyResult<()> {
        let (mut http, desk) = wsgi.get().attach(py, self.mail.clone())?;
        self.with(|inner| {
            http.attach(&mut inner.event_loop.io)?;
            inner.event_loop.service.http = Some(http);
            inner.event_loop.service.desk = Some(desk);
            inner.wsgi = Some(wsgi);
            Ok(())
        })?
    }

    /// Accept connections from a listening socket. The descriptor is duplicated: the caller keeps its own. The first
    /// added has the number 0 in the application's list of listeners, the next one 1.
    fn add_listener(&self, fd: RawFd) -> PyResult<()> {
        let own = listener_of(fd)?;
        self.with(|inner| {
            let EventLoop { io, service, .. } = &mut inner.event_loop;
            let token = io.add_listener(own)?;
            service.listeners.push((token, service.listeners.len() as u16));
            Ok(())
        })?
    }

    /// Stop accepting: close this reactor's descriptors of its listeners, once what waits at them has been taken, with
    /// the next turn.
    ///
    /// The kernel has let those clients in already; closing alone would reset them. For a listener that others hold
    /// too, they are as well served here. As the `last` one who holds them the reactor lets nobody new in from now on,
    /// and takes its time (a tenth of a second or two) for those whose handshake is under way.
    #[pyo3(signature = (last = false))]
    fn remove_listeners(&self, last: bool) -> PyResult<()> {
        self.with(|inner| {
            let EventLoop { io, service, .. } = &mut inner.event_loop;
            if let Some(share) = service.fair_share.take() {
                share.leave(io);
            }
            service.listeners.iter().for_each(|&(token, _)| io.remove_listener(token, hold(last)));
        })
    }

    /// Stop accepting: close this reactor's descriptors of its listeners, which other processes hold, too. Who waits there
    /// is theirs.
    fn leave_listeners(&self) -> PyResult<()> {
        self.with(|inner| {
            let EventLoop { io, service, .. } = &mut inner.event_loop;
            if let Some(share) = service.fair_share.take() {
                share.leave(io);
            }
            service.listeners.iter().for_each(|&(token, _)| io.leave_listener(token));
        })
    }

    /// Tell of this reactor in a slot of the scoreboard, from now on. With `shares`, leave connections to the other workers
    /// that are ready while this one has more than its share.
    fn report_to(&self, scoreboard: &Scoreboard, slot: usize, shares: bool) -> PyResult<()> {
        let reporter = Reporter { board: scoreboard.0.clone(), slot: scoreboard.check(slot)? };
        self.with(|inner| {
            let EventLoop { io, service, .. } = &mut inner.event_loop;
            if shares {
                io.limit_accepts(ACCEPTS_PER_TURN);
                service.fair_share = Some(FairShare::new(io, reporter.clone())?);
            }
            service.reporter = Some(reporter);
            Ok(())
        })?
    }

    /// Close idle connections now, and the others after the response they wait for. What was handed over by now is among
    /// them. With `patience`, idle ones stay as long as they might have been kept alive, and have one more answer.
    #[pyo3(signature = (patience = false))]
    fn drain(&self, patience: bool) -> PyResult<()> {
        self.with(|inner| {
            inner.event_loop.take_mail();
            let EventLoop { io, service, .. } = &mut inner.event_loop;
            if let Some(http) = &mut service.http {
                http.drain(io, patience);
            }
        })
    }

    /// Measure durations, and tell levels, from now on: at the cost of a few looks at the clock for each turn.
    fn measure(&self) -> PyResult<()> {
        self.with(|inner| inner.event_loop.io.measures = true)
    }

    /// A timer was called so late.
    fn note_lag(&self, late_s: f64) {
        self.counters.lag_ns.record_duration(Duration::try_from_secs_f64(late_s).unwrap_or_default());
    }

    /// Wait until Python has been at work in this loop for so long without a break, and tell for how long: once for each
    /// such time. `None` after `stop_watching`. For a thread that watches the loop's.
    fn wait_for_stall(&self, py: Python<'_>, threshold_s: f64) -> PyResult<Option<f64>> {
        let threshold = Duration::try_from_secs_f64(threshold_s).map_err(|_| PyValueError::new_err("threshold_s"))?;
        let stalled = py.detach(|| self.watch.wait_for_stall(threshold));
        if stalled.is_some() {
            self.counters.slow_callbacks.add(1);
        }
        Ok(stalled.map(|stalled| stalled.as_secs_f64()))
    }

    /// Wait until what `wait_for_stall` told of is over, and tell how long it took. `None` after `stop_watching`.
    fn wait_for_end_of_stall(&self, py: Python<'_>) -> Option<f64> {
        py.detach(|| self.watch.wait_for_end()).map(|took| took.as_secs_f64())
    }

    /// Whether what `wait_for_stall` told of goes on.
    #[getter]
    fn is_stalled(&self) -> bool {
        self.watch.goes_on()
    }

    /// Let go of who waits for a stall, for good.
    fn stop_watching(&self) {
        self.watch.stop();
    }

    /// Open connections.
    #[getter]
    fn connections(&self) -> PyResult<usize> {
        self.with(|inner| inner.event_loop.io.connections())
    }

    /// Requests whose response is not complete.
    #[getter]
    fn requests_in_progress(&self) -> PyResult<usize> {
        self.with(|inner| inner.event_loop.service.http.as_ref().map_or(0, |http| http.requests_in_progress()))
    }

    /// This reactor's counters, by name. From any thread.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        counters_as_dict(py, &self.counters)
    }

    /// Close every connection and descriptor of the reactor. Idempotent.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let inner = self.inner.enter()?.take();
        if let Some(mut inner) = inner {
            let asgi = inner.asgi.take();
            let desk = inner.event_loop.service.desk.take();
            let stream_servers = std::mem::take(&mut inner.stream_servers);
            let endpoints = std::mem::take(&mut inner.endpoints);
            let mut objects = inner.event_loop.service.streams.take_objects(&mut inner.event_loop.io);
            let mut released = inner.event_loop.shut_down();
            released.extend(desk.into_iter().flat_map(Desk::shut_down));
            drop((inner, endpoints));
            owners::release(py, &mut released);
            objects.drain(..).for_each(|object| super::tcp::release_object(py, object));
            if let Some(asgi) = asgi {
                asgi.get().forget_requests(py);
            }
            for server in stream_servers.values() {
                server.get().forget();
            }
        }
        Ok(())
    }
}

/// Changes whenever the loop's next timer may have changed: the heap's size and its first entry.
fn timers_fingerprint(timers: &Bound<'_, PyList>) -> (usize, usize) {
    (timers.len(), timers.get_item(0).map_or(0, |first| first.as_ptr() as usize))
}
