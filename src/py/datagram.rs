//! `DatagramEndpoint`: a datagram socket of a reactor as Python sees it, and `DatagramPeer`, somebody at its other end.
//!
//! What arrived in a turn is handed over at one attach: an inbox is taken out of the service, its events are run, and it
//! is given back. For each datagram there is one `bytes`, and one call; a peer's object is made when it is first heard
//! of, and its address when somebody asks. What a handler returns is the answer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyException, PyOSError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBytes;

use super::guarded::Guarded;
use super::reactor::{ATTACHED_BUDGET, Reactor};
use crate::core::Token;
use crate::net::datagram::{PeerAddress, set_membership, set_multicast};
use crate::net::{SocketAddress, UnixAddress, local_address};
use crate::server::udp::{EndpointId, EndpointSettings, Event, Inbox, PeerEnd, SendRefused, SessionLimits};

/// Datagrams between two looks at the clock.
const BETWEEN_LOOKS: u64 = 16;
/// Tags of peers that are in no table begin here; those of the others are tokens, whose generations stay far below.
const FIRST_FREE_TAG: u64 = 1 << 63;

/// The endpoints of a reactor, by their number in its service.
pub(super) type Endpoints = HashMap<EndpointId, Py<DatagramEndpoint>>;

#[pyclass(frozen, weakref, module = "penstock._core")]
pub struct DatagramEndpoint {
    reactor: Py<Reactor>,
    id: EndpointId,
    handlers: Handlers,
    settings: EndpointSettings,
    /// By their sessions' index.
    peers: Guarded<Vec<Option<Py<DatagramPeer>>>>,
    next_tag: Guarded<u64>,
    is_paused: AtomicBool,
    is_closed: AtomicBool,
}

struct Handlers {
    on_datagram: Py<PyAny>,
    on_open: Option<Py<PyAny>>,
    on_close: Option<Py<PyAny>>,
    on_error: Py<PyAny>,
    on_coroutine: Py<PyAny>,
    on_drained: Py<PyAny>,
    on_gone: Py<PyAny>,
}

/// Run what waits for endpoints' owners, within the budget, and count it.
pub(super) fn run(reactor: &Reactor, py: Python<'_>, ran: &mut u64) -> PyResult<()> {
    if !reactor.with(|inner| inner.event_loop.service.udp.has_events())? {
        return Ok(());
    }
    let began = Instant::now();
    loop {
        let taken = reactor.with(|inner| {
            let (id, inbox) = inner.event_loop.service.udp.take_inbox()?;
            Some((id, inbox, inner.endpoints.get(&id).map(|endpoint| endpoint.clone_ref(py))))
        })?;
        let Some((id, mut inbox, endpoint)) = taken else { return Ok(()) };
        let outcome = match endpoint {
            Some(endpoint) => DatagramEndpoint::run(endpoint.bind(py), &mut inbox, began, ran),
            None => Ok(()),
        };
        let is_over = reactor.with(|inner| {
            let udp = &mut inner.event_loop.service.udp;
            udp.give_back(id, inbox);
            if began.elapsed() >= ATTACHED_BUDGET && udp.has_events() {
                inner.event_loop.io.counters.budget_exhausted.add(1);
            }
            began.elapsed() >= ATTACHED_BUDGET
        })?;
        outcome?;
        if is_over {
            return Ok(());
        }
    }
}

impl DatagramEndpoint {
    /// Run an inbox's events, until the budget is used up or somebody pauses.
    fn run(slf: &Bound<'_, Self>, inbox: &mut Inbox, began: Instant, ran: &mut u64) -> PyResult<()> {
        let this = slf.get();
        while !this.is_paused.load(Ordering::Relaxed) {
            let Some(event) = inbox.next_event() else { return Ok(()) };
            match event {
                Event::Datagram { peer, start, bytes } if !this.is_closed.load(Ordering::Relaxed) => {
                    let datagram = PyBytes::new(slf.py(), inbox.bytes(start, bytes));
                    Self::hand_over(slf, peer, &datagram)?;
                }
                Event::Datagram { .. } => {}
                event => Self::tell(slf, event)?,
            }
            *ran += 1;
            if ran.is_multiple_of(BETWEEN_LOOKS) && began.elapsed() >= ATTACHED_BUDGET {
                return Ok(());
            }
        }
        Ok(())
    }

    fn hand_over(slf: &Bound<'_, Self>, token: Token, datagram: &Bound<'_, PyBytes>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let Some(peer) = Self::peer_of(slf, token)? else { return Ok(()) };
        let arguments = [peer.as_ptr(), datagram.as_ptr()];
        // SAFETY: attached; two live arguments; returns a new reference or null with an exception.
        let answer = unsafe {
            let answer =
                ffi::PyObject_Vectorcall(this.handlers.on_datagram.as_ptr(), arguments.as_ptr(), 2, ptr::null_mut());
            Bound::from_owned_ptr_or_err(py, answer)
        };
        let outcome = match answer {
            Ok(answer) if answer.is_none() => return Ok(()),
            Ok(answer) => this.answer(py, &peer, answer),
            Err(error) => Err(error),
        };
        outcome.or_else(|error| this.report(py, Some(&peer), error))
    }

    /// Send what a handler returned, or let go on what it began.
    fn answer(&self, py: Python<'_>, peer: &Bound<'_, DatagramPeer>, answer: Bound<'_, PyAny>) -> PyResult<()> {
        // SAFETY: attached; only the object's type is looked at.
        if unsafe { ffi::PyCoro_CheckExact(answer.as_ptr()) } != 0 {
            return self.handlers.on_coroutine.call1(py, (peer, answer)).map(drop);
        }
        with_bytes(&answer, "a handler returns bytes to answer with, None, or a coroutine", |bytes| {
            self.send_bytes(py, peer.get(), bytes)
        })
    }

    /// An error of the network's or of a handler's. What is no `Exception` (an interrupt, an exit) goes its way.
    fn report(&self, py: Python<'_>, peer: Option<&Bound<'_, DatagramPeer>>, error: PyErr) -> PyResult<()> {
        if !error.is_instance_of::<PyException>(py) {
            return Err(error);
        }
        self.handlers.on_error.call1(py, (peer, error.into_value(py))).map(drop)
    }

    fn tell(slf: &Bound<'_, Self>, event: Event) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        match event {
            Event::Datagram { .. } => Ok(()),
            Event::TooLong { peer, bytes } => {
                let peer = Self::peer_of(slf, peer)?;
                let limit = this.settings.max_datagram_bytes;
                let text = format!("expected a datagram of at most {limit} bytes, one of {bytes} came and was dropped");
                this.report(py, peer.as_ref(), typed(py, "DatagramTooLong", text))
            }
            Event::PeerEnded { peer, end } => this.forget(py, peer, end),
            Event::Failed { peer, errno, lost } => {
                let peer = peer.map(|peer| Self::peer_of(slf, peer)).transpose()?.flatten();
                let reason = std::io::Error::from_raw_os_error(errno).to_string();
                let reason = reason.split(" (os error").next().unwrap_or_default().to_owned();
                let text = if lost > 0 { format!("{reason}; datagrams not sent: {lost}") } else { reason };
                this.report(py, peer.as_ref(), PyOSError::new_err((errno, text)))
            }
            Event::Drained => this.handlers.on_drained.call0(py).map(drop),
            Event::Gone => {
                this.is_closed.store(true, Ordering::Relaxed);
                let endpoint = this.reactor.get().with(|inner| {
                    inner.event_loop.service.udp.remove(this.id);
                    inner.endpoints.remove(&this.id)
                })?;
                let peers = std::mem::take(&mut *this.peers.enter()?);
                drop((endpoint, peers));
                this.handlers.on_gone.call0(py).map(drop)
            }
        }
    }

    /// The object of a peer of the table; made, and told of, if this is the first of it. `None`: it is gone.
    fn peer_of<'py>(slf: &Bound<'py, Self>, token: Token) -> PyResult<Option<Bound<'py, DatagramPeer>>> {
        let (py, this) = (slf.py(), slf.get());
        if let Some(Some(peer)) = this.peers.enter()?.get(token.index as usize) {
            return Ok(Some(peer.bind(py).clone()));
        }
        let address = this.reactor.get().with(|inner| {
            let endpoint = inner.event_loop.service.udp.endpoint(this.id)?;
            endpoint.sessions.get(token).map(|session| session.peer.clone())
        })?;
        let Some(address) = address else { return Ok(None) };
        let endpoint = slf.clone().unbind();
        let peer =
            DatagramPeer { endpoint, session: Some(token), tag: token.to_u64(), address, state: Guarded::new(None) };
        let peer = Bound::new(py, peer)?;
        {
            let mut peers = this.peers.enter()?;
            if peers.len() <= token.index as usize {
                peers.resize_with(token.index as usize + 1, || None);
            }
            peers[token.index as usize] = Some(peer.clone().unbind());
        }
        if let Some(on_open) = &this.handlers.on_open
            && let Err(error) = on_open.call1(py, (&peer,))
        {
            this.report(py, Some(&peer), error)?;
        }
        Ok(Some(peer))
    }

    /// A peer's session has ended: its slot is free once its owner knows.
    fn forget(&self, py: Python<'_>, token: Token, end: PeerEnd) -> PyResult<()> {
        let peer = self.peers.enter()?.get_mut(token.index as usize).and_then(Option::take);
        self.reactor.get().with(|inner| {
            if let Some(endpoint) = inner.event_loop.service.udp.endpoint(self.id) {
                endpoint.sessions.bury(token);
            }
        })?;
        let (Some(peer), Some(on_close)) = (peer, &self.handlers.on_close) else { return Ok(()) };
        let reason = match end {
            PeerEnd::Idle => "idle",
            PeerEnd::Evicted => "evicted",
            PeerEnd::Closed => "closed",
        };
        on_close.call1(py, (&peer, reason)).map(drop).or_else(|error| self.report(py, Some(peer.bind(py)), error))
    }

    fn send_bytes(&self, py: Python<'_>, peer: &DatagramPeer, datagram: &[u8]) -> PyResult<()> {
        let outcome = self.reactor.get().with(|inner| {
            let udp = &mut inner.event_loop.service.udp;
            let endpoint = udp.endpoint(self.id).ok_or(SendRefused::Closed)?;
            match peer.session {
                Some(session) => match endpoint.send(session, datagram) {
                    // Where there is no promise of sessions, a peer is but an address.
                    Err(SendRefused::PeerEnded) if self.is_forgetful() => {
                        endpoint.send_to(&peer.address, peer.tag, datagram)?;
                    }
                    outcome => outcome?,
                },
                None => endpoint.send_to(&peer.address, peer.tag, datagram)?,
            }
            udp.touch(self.id);
            Ok(())
        })?;
        outcome.map_err(|refused| refusal(py, datagram.len(), refused))
    }

    /// Whether peers are only remembered as long as that is convenient.
    fn is_forgetful(&self) -> bool {
        self.settings.sessions.evicts && self.settings.sessions.amplification.is_none()
    }

    fn with_socket<R>(&self, act: impl FnOnce(BorrowedFd<'_>) -> std::io::Result<R>) -> PyResult<R> {
        self.reactor.get().with(|inner| match inner.event_loop.service.udp.socket(self.id) {
            Some(socket) => act(socket).map_err(|error| {
                let errno = crate::net::errno_of(&error);
                PyOSError::new_err((errno, error.to_string()))
            }),
            None => Err(PyOSError::new_err((libc::EBADF, "the datagram socket is closed"))),
        })?
    }
}

fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value).map_err(|error| PyValueError::new_err(format!("{name} is {value}: {error}")))
}

/// An exception of `penstock.errors`.
fn typed(py: Python<'_>, name: &str, text: String) -> PyErr {
    static ERRORS: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let made = ERRORS
        .get_or_try_init(py, || py.import("penstock.errors").map(Bound::unbind))
        .and_then(|errors| errors.bind(py).getattr(name)?.call1((text,)));
    made.map_or_else(|error| error, PyErr::from_value)
}

fn refusal(py: Python<'_>, bytes: usize, refused: SendRefused) -> PyErr {
    match refused {
        SendRefused::TooLong { limit } => {
            let text = format!("expected a datagram of at most {limit} bytes, got {bytes}: split it");
            typed(py, "DatagramTooLong", text)
        }
        SendRefused::QueueFull { queued_bytes } => {
            let text = format!("{queued_bytes} bytes wait to be sent already: await drain(), or send less");
            typed(py, "DatagramQueueFull", text)
        }
        SendRefused::Amplified { received_bytes, sent_bytes, factor } => {
            let text = format!(
                "{bytes} bytes more would exceed {factor} times the {received_bytes} that this peer has sent ({sent_bytes} \
                 went to it): set peer.verified once it has proved that the address is its own"
            );
            typed(py, "AmplificationLimited", text)
        }
        SendRefused::Unnamed => PyOSError::new_err((
            libc::EDESTADDRREQ,
            "this peer has no address to answer to: a Unix socket must be bound to be answered",
        )),
        SendRefused::PeerEnded => typed(py, "PeerGone", "the session of this peer has ended".into()),
        SendRefused::Closed => typed(py, "PeerGone", "the datagram socket is closed".into()),
    }
}

/// Look at the bytes of an object: of `bytes` in place, of other buffers by a copy.
fn with_bytes<R>(object: &Bound<'_, PyAny>, expected: &str, act: impl FnOnce(&[u8]) -> PyResult<R>) -> PyResult<R> {
    if let Ok(bytes) = object.cast::<PyBytes>() {
        return act(bytes.as_bytes());
    }
    match PyBuffer::<u8>::get(object) {
        Ok(buffer) => act(&buffer.to_vec(object.py())?),
        Err(_) => Err(PyTypeError::new_err(format!("{expected}; got {}", object.get_type().name()?))),
    }
}

const A_DATAGRAM: &str = "a datagram is bytes, a bytearray or a memoryview";

#[pymethods]
impl DatagramEndpoint {
    #[new]
    #[pyo3(signature = (
        reactor, fd, *, on_datagram, on_open, on_close, on_error, on_coroutine, on_drained, on_gone,
        max_datagram_bytes, max_queued_bytes, gather_s, idle_timeout_s, max_peers, evicts, amplification
    ))]
    #[allow(clippy::too_many_arguments)] // They are keywords in Python, and come from a config.
    fn new(
        py: Python<'_>,
        reactor: Py<Reactor>,
        fd: RawFd,
        on_datagram: Py<PyAny>,
        on_open: Option<Py<PyAny>>,
        on_close: Option<Py<PyAny>>,
        on_error: Py<PyAny>,
        on_coroutine: Py<PyAny>,
        on_drained: Py<PyAny>,
        on_gone: Py<PyAny>,
        max_datagram_bytes: usize,
        max_queued_bytes: usize,
        gather_s: f64,
        idle_timeout_s: f64,
        max_peers: usize,
        evicts: bool,
        amplification: Option<u32>,
    ) -> PyResult<Py<Self>> {
        let idle_timeout = seconds("idle_timeout_s", idle_timeout_s)?;
        let sessions = SessionLimits { idle_timeout, max_peers, evicts, amplification };
        let gather = seconds("gather_s", gather_s)?;
        let settings = EndpointSettings { max_datagram_bytes, max_queued_bytes, gather, sessions };
        // SAFETY: borrowed for this call only; a wrong number is an OSError of dup.
        let own: OwnedFd = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
        let id = reactor.get().with(|inner| {
            let io = &mut inner.event_loop.io;
            inner.event_loop.service.udp.add(io, own, settings.clone())
        })??;
        let handlers = Handlers { on_datagram, on_open, on_close, on_error, on_coroutine, on_drained, on_gone };
        let endpoint = DatagramEndpoint {
            reactor: reactor.clone_ref(py),
            id,
            handlers,
            settings,
            peers: Guarded::new(Vec::new()),
            next_tag: Guarded::new(FIRST_FREE_TAG),
            is_paused: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        };
        let endpoint = Py::new(py, endpoint)?;
        reactor.get().with(|inner| inner.endpoints.insert(id, endpoint.clone_ref(py)))?;
        Ok(endpoint)
    }

    /// Queue a datagram for a peer; it leaves with this turn.
    fn send(&self, py: Python<'_>, datagram: &Bound<'_, PyAny>, peer: &Bound<'_, DatagramPeer>) -> PyResult<()> {
        if !ptr::eq(peer.get().endpoint.get(), self) {
            return Err(PyValueError::new_err("this peer is another socket's: send to it through that one"));
        }
        with_bytes(datagram, A_DATAGRAM, |bytes| self.send_bytes(py, peer.get(), bytes))
    }

    /// Somebody at an address (`127.0.0.1:80`, `[::1]:80`, `unix:/path`), whether it was heard of or not.
    fn peer_at(slf: &Bound<'_, Self>, address: &str) -> PyResult<DatagramPeer> {
        let address: SocketAddress =
            address.parse().map_err(|error: crate::net::AddressError| PyValueError::new_err(error.to_string()))?;
        let mut next_tag = slf.get().next_tag.enter()?;
        *next_tag += 1;
        Ok(DatagramPeer {
            endpoint: slf.clone().unbind(),
            session: None,
            tag: *next_tag,
            address: address.into(),
            state: Guarded::new(None),
        })
    }

    /// Whom the socket is connected to.
    #[getter]
    fn peer<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, DatagramPeer>>> {
        let this = slf.get();
        let token = this
            .reactor
            .get()
            .with(|inner| inner.event_loop.service.udp.endpoint(this.id).and_then(|each| each.peer))?;
        token.map_or(Ok(None), |token| Self::peer_of(slf, token))
    }

    /// Hand no more datagrams over, and receive none, until `resume`.
    fn pause(&self) -> PyResult<()> {
        self.is_paused.store(true, Ordering::Relaxed);
        self.reactor.get().with(|inner| inner.event_loop.service.udp.set_paused(self.id, true))
    }

    fn resume(&self) -> PyResult<()> {
        self.is_paused.store(false, Ordering::Relaxed);
        self.reactor.get().with(|inner| inner.event_loop.service.udp.set_paused(self.id, false))
    }

    /// Receive no more, send what is queued, and go; `on_gone` is called at the end.
    fn close(&self) -> PyResult<()> {
        self.is_closed.store(true, Ordering::Relaxed);
        self.is_paused.store(false, Ordering::Relaxed);
        self.reactor.get().with(|inner| {
            let io = &mut inner.event_loop.io;
            inner.event_loop.service.udp.close(io, self.id);
        })
    }

    /// Call `on_drained` once little is left to be sent.
    fn want_drained(&self) -> PyResult<()> {
        self.reactor.get().with(|inner| {
            let udp = &mut inner.event_loop.service.udp;
            if let Some(endpoint) = udp.endpoint(self.id) {
                endpoint.want_drained();
            }
            udp.touch(self.id);
        })
    }

    /// Bytes that wait to be sent.
    #[getter]
    fn queued_bytes(&self) -> PyResult<usize> {
        self.reactor
            .get()
            .with(|inner| inner.event_loop.service.udp.endpoint(self.id).map_or(0, |endpoint| endpoint.queued_bytes()))
    }

    /// Bytes that one datagram may have on its way out.
    #[getter]
    fn max_sent_bytes(&self) -> PyResult<usize> {
        self.reactor.get().with(|inner| {
            inner.event_loop.service.udp.endpoint(self.id).map_or(0, |endpoint| endpoint.max_sent_bytes())
        })
    }

    /// Peers known.
    #[getter]
    fn known_peers(&self) -> PyResult<usize> {
        self.reactor
            .get()
            .with(|inner| inner.event_loop.service.udp.endpoint(self.id).map_or(0, |endpoint| endpoint.sessions.len()))
    }

    /// Join a multicast group on an interface (its number; 0: the one that routing finds), or leave it.
    fn set_membership(&self, group: &str, interface: u32, joined: bool) -> PyResult<()> {
        let group: IpAddr = group.parse().ok().filter(IpAddr::is_multicast).ok_or_else(|| {
            PyValueError::new_err(format!("expected a multicast group such as 239.1.2.3, got {group:?}"))
        })?;
        self.with_socket(|socket| set_membership(socket, group, interface, joined))
    }

    /// How far multicast datagrams go, whether to this machine, too, and through which interface.
    #[pyo3(signature = (hops, looped, interface))]
    fn set_multicast(&self, hops: Option<u32>, looped: Option<bool>, interface: Option<u32>) -> PyResult<()> {
        self.with_socket(|socket| set_multicast(socket, hops, looped, interface))
    }

    /// The collector need not break a cycle here: whatever closes one through a handler is a Python object.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Handlers { on_datagram, on_open, on_close, on_error, on_coroutine, on_drained, on_gone } = &self.handlers;
        for handler in [on_datagram, on_error, on_coroutine, on_drained, on_gone] {
            visit.call(handler)?;
        }
        visit.call(on_open)?;
        visit.call(on_close)?;
        match self.peers.enter() {
            Ok(peers) => peers.iter().try_for_each(|peer| visit.call(peer)),
            Err(_) => Ok(()),
        }
    }

    /// Where it is bound, in the form of the socket module.
    #[getter]
    fn address<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let address = self.with_socket(|socket| local_address(socket))?;
        address_object(py, &address)
    }
}

/// Somebody that datagrams come from and go to.
#[pyclass(frozen, weakref, module = "penstock._core")]
pub struct DatagramPeer {
    endpoint: Py<DatagramEndpoint>,
    /// In the endpoint's table, if it is of there.
    session: Option<Token>,
    tag: u64,
    address: PeerAddress,
    state: Guarded<Option<Py<PyAny>>>,
}

impl DatagramPeer {
    fn with_session<R>(&self, act: impl FnOnce(&mut crate::server::udp::Session) -> R) -> PyResult<Option<R>> {
        let endpoint = self.endpoint.get();
        let Some(session) = self.session else { return Ok(None) };
        endpoint.reactor.get().with(|inner| {
            let endpoint = inner.event_loop.service.udp.endpoint(endpoint.id)?;
            endpoint.sessions.open(session).map(act)
        })
    }
}

#[pymethods]
impl DatagramPeer {
    /// Queue a datagram for this peer; it leaves with this turn, from the address that the peer sent to.
    fn send(&self, py: Python<'_>, datagram: &Bound<'_, PyAny>) -> PyResult<()> {
        with_bytes(datagram, A_DATAGRAM, |bytes| self.endpoint.get().send_bytes(py, self, bytes))
    }

    /// Where it is, in the form of the socket module: (host, port), with two numbers more for IPv6; of a Unix socket its
    /// path, or None.
    #[getter]
    fn address<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        address_object(py, &self.address.address)
    }

    /// The address of this machine that it sent to, where the socket is bound to all of them.
    #[getter]
    fn local_host(&self) -> Option<String> {
        self.address.local.map(|local| local.to_string())
    }

    /// Whether it is known to be where it says: then the amplification limit is no more.
    #[getter]
    fn verified(&self) -> PyResult<bool> {
        Ok(self.with_session(|session| session.is_verified)?.unwrap_or(false))
    }

    #[setter]
    fn set_verified(&self, verified: bool) -> PyResult<()> {
        self.with_session(|session| session.is_verified = verified).map(drop)
    }

    /// Whether its session goes on.
    #[getter]
    fn is_open(&self) -> PyResult<bool> {
        Ok(self.with_session(|_| ())?.is_some())
    }

    /// Bytes that came from it, in this session.
    #[getter]
    fn received_bytes(&self) -> PyResult<u64> {
        Ok(self.with_session(|session| session.received_bytes)?.unwrap_or(0))
    }

    /// Bytes that were sent to it, in this session.
    #[getter]
    fn sent_bytes(&self) -> PyResult<u64> {
        Ok(self.with_session(|session| session.sent_bytes)?.unwrap_or(0))
    }

    /// Whatever the program wants to remember of this peer.
    #[getter]
    fn state(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Ok(self.state.enter()?.as_ref().map(|state| state.clone_ref(py)))
    }

    #[setter]
    fn set_state(&self, state: Option<Py<PyAny>>) -> PyResult<()> {
        let before = std::mem::replace(&mut *self.state.enter()?, state);
        drop(before);
        Ok(())
    }

    /// End its session. What it sends later begins another.
    fn close(&self) -> PyResult<()> {
        let (endpoint, Some(session)) = (self.endpoint.get(), self.session) else { return Ok(()) };
        endpoint.reactor.get().with(|inner| inner.event_loop.service.udp.end_peer(endpoint.id, session))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.endpoint)?;
        match self.state.enter() {
            Ok(state) => visit.call(&*state),
            Err(_) => Ok(()),
        }
    }

    fn __repr__(&self) -> String {
        format!("<DatagramPeer {}>", self.address.address)
    }
}

/// An address as the socket module has it.
fn address_object<'py>(py: Python<'py>, address: &SocketAddress) -> PyResult<Bound<'py, PyAny>> {
    Ok(match address {
        SocketAddress::V4(address) => (address.ip().to_string(), address.port()).into_pyobject(py)?.into_any(),
        SocketAddress::V6(address) => {
            let parts = (address.ip().to_string(), address.port(), address.flowinfo(), address.scope_id());
            parts.into_pyobject(py)?.into_any()
        }
        SocketAddress::Unix(UnixAddress::Unnamed) => py.None().into_bound(py),
        SocketAddress::Unix(UnixAddress::Path(path)) => path.to_string_lossy().into_pyobject(py)?.into_any(),
        SocketAddress::Unix(UnixAddress::Abstract(name)) => {
            let bytes: Vec<u8> = std::iter::once(0).chain(name.iter().copied()).collect();
            PyBytes::new(py, &bytes).into_any()
        }
    })
}
