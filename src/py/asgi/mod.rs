//! ASGI 3 over the HTTP server's events: a request becomes a scope, a coroutine and one step of it, right here.
//!
//! The path of one request: `handle` takes the event, `scope` builds the dictionary, `task` steps the application in a
//! spare asyncio Task, `cycle` is what `receive` and `send` do, `reply` is what they return to be awaited.

mod cycle;
mod extensions;
pub(super) mod names;
mod reply;
mod scope;
mod spare_dict;

use std::collections::HashMap;
use std::ptr;

use pyo3::PyTypeInfo;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

pub use cycle::{BORROW_FROM_BYTES, ClientDisconnected, HttpCycle};

use super::access_log::AccessLogPlan;
use super::config::ServerConfig;
use super::guarded::Guarded;
use super::http_server::{HttpServerPlan, ListenerAddress};
use super::reactor::Reactor;
use super::task::{self, CurrentSpare, SpareTasks, Step};
use crate::core::Token;
use crate::server::http::{HttpEvent, HttpServer};
use cycle::Ending;
use scope::ScopeBuilder;

/// Slots that the binding does not offer are filled in once, before the first object of a type exists.
pub fn prepare_types(py: Python<'_>) -> PyResult<()> {
    reply::prepare_type(py);
    Ok(())
}

/// An ASGI application attached to a reactor.
#[pyclass(frozen, module = "penstock._core")]
pub struct AsgiServer {
    reactor: Py<Reactor>,
    app: Py<PyAny>,
    /// `loop.create_future`.
    create_future: Py<PyAny>,
    /// Called as `report(message, exception or None)`; logs.
    report: Py<PyAny>,
    /// Called when a drained server has nothing more to do.
    on_quiet: Py<PyAny>,
    cancel_on_disconnect: bool,
    http: HttpServerPlan,
    /// What every request's context is a copy of.
    context: Py<PyAny>,
    methods: Methods,
    state: Guarded<State>,
}

struct State {
    scopes: ScopeBuilder,
    spares: SpareTasks,
    /// The current task of the requests of this batch.
    current: Option<CurrentSpare>,
    /// Requests whose application is suspended, to be told of their connection's events.
    suspended: HashMap<Token, Py<HttpCycle>>,
    /// Requests that were answered while their application went on, and whose connection has gone on to another; by
    /// address.
    afterwards: HashMap<usize, Py<HttpCycle>>,
}

impl State {
    fn add_suspended(&mut self, cycle: Py<HttpCycle>) {
        if let Some(former) = self.suspended.insert(cycle.get().token, cycle) {
            self.afterwards.insert(address(former.get()), former);
        }
    }

    fn remove_suspended(&mut self, cycle: &HttpCycle) -> Option<Py<HttpCycle>> {
        let is_it = self.suspended.get(&cycle.token).is_some_and(|present| std::ptr::eq(present.get(), cycle));
        if is_it { self.suspended.remove(&cycle.token) } else { self.afterwards.remove(&address(cycle)) }
    }
}

fn address(cycle: &HttpCycle) -> usize {
    std::ptr::from_ref(cycle) as usize
}

#[pymethods]
impl AsgiServer {
    /// `config`: a `penstock.ServerConfig`. `listeners`: for each, in the order they are added, its scheme and its `(host, port)` for the scope.
    /// `state`: the lifespan's state, copied into every scope, or `None`. `access_log`: a
    /// `penstock.logs.AccessLogPlan`, or `None`.
    #[new]
    #[pyo3(signature = (reactor, app, event_loop, config, *, listeners, report, on_quiet, state=None, access_log=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        reactor: Py<Reactor>,
        app: Py<PyAny>,
        event_loop: &Bound<'_, PyAny>,
        config: ServerConfig,
        listeners: Vec<ListenerAddress>,
        report: Py<PyAny>,
        on_quiet: Py<PyAny>,
        state: Option<Bound<'_, PyDict>>,
        access_log: Option<AccessLogPlan>,
    ) -> PyResult<Self> {
        Ok(AsgiServer {
            reactor,
            app,
            create_future: event_loop.getattr("create_future")?.unbind(),
            report,
            on_quiet,
            cancel_on_disconnect: config.cancel_on_disconnect,
            http: HttpServerPlan::new(py, &config, &listeners, access_log)?,
            context: task::current_context(py)?.unbind(),
            methods: Methods { receive: Method::of(names::receive(py))?, send: Method::of(names::send(py))? },
            state: Guarded::new(State {
                scopes: ScopeBuilder::new(py, &listeners, &config.root_path, state)?,
                spares: SpareTasks::new(event_loop)?,
                current: None,
                suspended: HashMap::new(),
                afterwards: HashMap::new(),
            }),
        })
    }

    /// The tasks of requests whose application is suspended, answered or not.
    fn suspended_tasks(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        let state = self.state.enter()?;
        let both = state.suspended.values().chain(state.afterwards.values());
        let cycles: Vec<_> = both.map(|cycle| cycle.clone_ref(py)).collect();
        drop(state);
        Ok(cycles.iter().filter_map(|cycle| cycle.get().task(py)).collect())
    }
}

/// `ClientDisconnected` itself, or what a framework made of it (Starlette: `except OSError: raise ClientDisconnect`).
/// Any other error that was raised while handling it is the application's own, and is reported.
pub fn tells_of_disconnect(py: Python<'_>, error: &PyErr) -> bool {
    if error.is_instance_of::<ClientDisconnected>(py) {
        return true;
    }
    let translated = error.get_type(py).name().is_ok_and(|name| name.to_string_lossy().contains("Disconnect"));
    let handled = error.value(py).getattr(intern!(py, "__context__"));
    translated && handled.is_ok_and(|handled| handled.is_instance_of::<ClientDisconnected>())
}

impl AsgiServer {
    pub fn make_http_server(&self, py: Python<'_>) -> PyResult<HttpServer> {
        self.http.make(py, &self.report)
    }

    /// Do what one event of a batch asks for. After the last one of it comes `end_batch`.
    pub fn handle(slf: &Bound<'_, Self>, event: HttpEvent) -> PyResult<()> {
        if !matches!(event, HttpEvent::Request(_)) {
            slf.get().leave_task(slf.py())?;
        }
        match event {
            HttpEvent::Request(token) => Self::run_request(slf, token),
            HttpEvent::Body(token) => slf.get().tell_suspended(slf.py(), token, |cycle, py| cycle.wake_receive(py)),
            HttpEvent::Drained(token) => slf.get().tell_suspended(slf.py(), token, |cycle, py| cycle.wake_send(py)),
            HttpEvent::Disconnected(token) => {
                let cancel = slf.get().cancel_on_disconnect;
                slf.get().tell_suspended(slf.py(), token, |cycle, py| cycle.disconnected(py, cancel))
            }
            HttpEvent::LogTrouble => slf.get().report_log_trouble(slf.py()),
            HttpEvent::Quiet => slf.get().on_quiet.call0(slf.py()).map(drop),
        }
    }

    /// Requests of a batch have one task for all, unless they need one of their own: entering it for each would cost as
    /// much as building a scope does.
    pub fn end_batch(&self, py: Python<'_>) -> PyResult<()> {
        self.leave_task(py)
    }

    /// What is reported, or told to others, is so by no request's task.
    fn leave_task(&self, py: Python<'_>) -> PyResult<()> {
        let Some(current) = self.state.enter()?.current.take() else { return Ok(()) };
        let spare = current.leave(py)?;
        self.state.enter()?.spares.give(spare);
        Ok(())
    }

    /// A task to step a request as: that of the one before, or another.
    fn current_task(&self, py: Python<'_>) -> PyResult<CurrentSpare> {
        let mut state = self.state.enter()?;
        if let Some(current) = state.current.take() {
            return Ok(current);
        }
        let supply = state.spares.take(py);
        drop(state);
        supply.enter(py)
    }

    fn tell_suspended(
        &self,
        py: Python<'_>,
        token: Token,
        tell: impl FnOnce(&HttpCycle, Python<'_>) -> PyResult<()>,
    ) -> PyResult<()> {
        let cycle = self.state.enter()?.suspended.get(&token).map(|cycle| cycle.clone_ref(py));
        cycle.map_or(Ok(()), |cycle| tell(cycle.get(), py))
    }

    /// Build the scope, call the application, and step what it returns once.
    fn run_request(slf: &Bound<'_, Self>, token: Token) -> PyResult<()> {
        let (py, server) = (slf.py(), slf.get());
        let Some(scope) = server.build_scope(py, token)? else { return Ok(()) };
        let cycle = Bound::new(py, HttpCycle::new(slf.clone().unbind(), token))?;
        let context = task::copy_context(py, &server.context)?;
        let (receive, send) = (server.methods.receive.bound_to(&cycle)?, server.methods.send.bound_to(&cycle)?);
        let call = || steppable(call3(py, &server.app, scope.as_any(), &receive, &send)?);
        let mut current = server.current_task(py)?;
        let error = match current.run_first_step(py, &context, call) {
            Step::Returned => None,
            Step::Raised(error) => Some(error),
            Step::Suspended { coroutine, pending } => {
                let spare = current.leave(py)?;
                server.state.enter()?.add_suspended(cycle.clone().unbind());
                cycle.get().set_task(spare.task.clone_ref(py))?;
                let ending = Box::new(RequestEnding(cycle.unbind()));
                return spare.adopt(py, coroutine, pending, context.unbind(), ending);
            }
        };
        if error.is_none() && current.is_as_new(py) {
            server.state.enter()?.current = Some(current);
        } else if let Some(spare) = current.leave_for_another(py)? {
            server.state.enter()?.spares.give(spare);
        }
        server.finish(py, cycle.get(), error)
    }

    /// `None` when the connection was closed before its turn came.
    fn build_scope<'py>(&self, py: Python<'py>, token: Token) -> PyResult<Option<Bound<'py, PyDict>>> {
        let found = self.reactor.get().with(|inner| {
            let event_loop = &mut inner.event_loop;
            let http = event_loop.service.http.as_mut()?;
            let peer = http.peer(&mut event_loop.io, token);
            let listener = http.listener(&mut event_loop.io, token);
            let local = http.local_address(&mut event_loop.io, token);
            let request = http.request(&mut event_loop.io, token)?;
            // SAFETY: outlives the guard, because building a scope can start a collection, whose finalizers may need
            // the reactor. The request's bytes stay: only a turn moves them, and no turn happens within a batch.
            Some((unsafe { request.outlive() }, peer, listener, local))
        })?;
        match found {
            Some((request, peer, listener, local)) => {
                self.state.enter()?.scopes.build(py, &request, peer, listener, local).map(Some)
            }
            None => Ok(None),
        }
    }

    /// The application's coroutine has ended: see that the request has, too.
    fn finish(&self, py: Python<'_>, cycle: &HttpCycle, error: Option<PyErr>) -> PyResult<()> {
        let (ending, was_suspended) = cycle.end(py)?;
        if was_suspended {
            let gone = self.state.enter()?.remove_suspended(cycle);
            drop(gone);
        }
        let (message, exception) = match (error, ending) {
            (None, Ending::Complete | Ending::Disconnected) => return Ok(()),
            (None, Ending::Abandoned) => return self.abandon(cycle),
            (Some(error), _) if !error.is_instance_of::<pyo3::exceptions::PyException>(py) => {
                return self.finish_interrupted(py, cycle, ending, error);
            }
            (Some(error), Ending::Disconnected) if tells_of_disconnect(py, &error) => return Ok(()),
            (Some(error), _) => ("Exception in ASGI application", Some(error)),
            (None, Ending::Unstarted) => ("ASGI application returned without starting its response", None),
            (None, Ending::Unfinished) => ("ASGI application returned without completing its response", None),
        };
        self.fail(cycle, ending)?;
        self.leave_task(py)?;
        let exception = exception.map(|error| error.into_value(py));
        self.report.call1(py, (message, exception)).map(drop)
    }

    /// Cancelled, or the process is being interrupted: no fault of the application's.
    fn finish_interrupted(&self, py: Python<'_>, cycle: &HttpCycle, ending: Ending, error: PyErr) -> PyResult<()> {
        if !matches!(ending, Ending::Complete | Ending::Disconnected) {
            self.fail(cycle, ending)?;
        }
        if task::is_cancelled_error(py, &error) { Ok(()) } else { Err(error) }
    }

    fn abandon(&self, cycle: &HttpCycle) -> PyResult<()> {
        self.reactor.get().with(|inner| {
            let event_loop = &mut inner.event_loop;
            if let Some(http) = &mut event_loop.service.http {
                http.abandon(&mut event_loop.io, cycle.token);
            }
        })
    }

    fn fail(&self, cycle: &HttpCycle, ending: Ending) -> PyResult<()> {
        self.reactor.get().with(|inner| {
            let event_loop = &mut inner.event_loop;
            event_loop.io.counters.handler_errors.add(1);
            if let (Some(http), false) = (&mut event_loop.service.http, ending == Ending::Complete) {
                http.fail(&mut event_loop.io, cycle.token);
            }
        })
    }

    fn report_log_trouble(&self, py: Python<'_>) -> PyResult<()> {
        let trouble = self
            .reactor
            .get()
            .with(|inner| inner.event_loop.service.http.as_mut().and_then(HttpServer::take_log_trouble))?;
        trouble.map_or(Ok(()), |trouble| self.report.call1(py, (trouble, py.None())).map(drop))
    }

    fn new_future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.create_future.bind(py).call0()
    }

    /// The loop is closed: let go of what referred to it.
    pub fn forget_requests(&self, py: Python<'_>) {
        // Closed by an application, from within a batch.
        let _ = self.leave_task(py);
        if let Ok(mut state) = self.state.enter() {
            let suspended = (std::mem::take(&mut state.suspended), std::mem::take(&mut state.afterwards));
            let spares = state.spares.take_all();
            drop(state);
            drop(suspended);
            for spare in spares {
                let _ = spare.discard(py);
            }
        }
    }
}

/// What a request's application is given beside the scope.
struct Methods {
    receive: Method,
    send: Method,
}

/// A method of `HttpCycle`, looked up once for all its objects.
struct Method(Py<PyAny>);

impl Method {
    fn of(name: &Bound<'_, PyString>) -> PyResult<Self> {
        Ok(Method(HttpCycle::type_object(name.py()).getattr(name)?.unbind()))
    }

    /// As `cycle.name` is.
    fn bound_to<'py>(&self, cycle: &Bound<'py, HttpCycle>) -> PyResult<Bound<'py, PyAny>> {
        let (py, descriptor) = (cycle.py(), self.0.as_ptr());
        // SAFETY: attached; a method of a type is a descriptor, whose `tp_descr_get` takes an object of that type, and
        // returns a new reference or null with an exception.
        unsafe {
            let get = (*ffi::Py_TYPE(descriptor)).tp_descr_get.expect("a method is a descriptor");
            Bound::from_owned_ptr_or_err(py, get(descriptor, cycle.as_ptr(), ffi::Py_TYPE(cycle.as_ptr()).cast()))
        }
    }
}

/// An application's coroutine that had been suspended ends its request.
struct RequestEnding(Py<HttpCycle>);

impl task::Ending for RequestEnding {
    fn ended(self: Box<Self>, py: Python<'_>, error: Option<PyErr>) -> PyResult<()> {
        let cycle = self.0.get();
        cycle.server(py).get().finish(py, cycle, error)
    }
}

/// A native coroutine can be stepped as it is; another awaitable through its iterator.
fn steppable(returned: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached; only the object's type is looked at.
    if unsafe { ffi::PyCoro_CheckExact(returned.as_ptr()) } != 0 {
        return Ok(returned);
    }
    let py = returned.py();
    returned.call_method0(names::await_(py)).map_err(|_| {
        PyTypeError::new_err(format!(
            "an ASGI application must be `async def app(scope, receive, send)`: this one returned {} instead of a \
             coroutine",
            returned.repr().map_or_else(|_| "something else".to_owned(), |text| text.to_string())
        ))
    })
}

fn call3<'py>(
    py: Python<'py>,
    callable: &Py<PyAny>,
    first: &Bound<'py, PyAny>,
    second: &Bound<'py, PyAny>,
    third: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let arguments = [first.as_ptr(), second.as_ptr(), third.as_ptr()];
    // SAFETY: attached; three live arguments; returns a new reference or null with an exception.
    unsafe {
        let result = ffi::PyObject_Vectorcall(callable.as_ptr(), arguments.as_ptr(), 3, ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, result)
    }
}
