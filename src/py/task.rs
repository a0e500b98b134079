//! Stepping an application's coroutine right here, with asyncio none the wiser.
//!
//! asyncio.timeout, TaskGroup and anyio want a real current task before the first suspension, and a Task made for every
//! request costs more than a small request does. So a reactor keeps *spare* Tasks, each wrapped around a `Trampoline`:
//! a spare is made current, and coroutines are stepped once as this task, one after another. If one has ended and nobody
//! left a mark on the spare (compared byte for byte), it serves the next request of the batch, after which it is left. If
//! one is suspended, the trampoline takes the coroutine over and yields what it waits for: the spare has become that
//! request's Task.
//!
//! asyncio's documented hooks for task implementations are used throughout: `_enter_task`, `_leave_task`,
//! `_register_task`, `_unregister_task` (docs.python.org, "Extending asyncio").

use std::ptr;

use pyo3::PyTypeInfo;
use pyo3::exceptions::{PyStopIteration, PyTypeError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};

use super::asgi::names;
use super::guarded::Guarded;

/// Spares kept for the next requests.
const MAX_SPARES: usize = 8;

pub fn current_context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached; returns a new reference or null with an exception.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

pub fn copy_context<'py>(py: Python<'py>, context: &Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached; `context` was made by PyContext_CopyCurrent.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_Copy(context.as_ptr())) }
}

pub fn is_cancelled_error(py: Python<'_>, error: &PyErr) -> bool {
    static TYPE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let cancelled =
        TYPE.get_or_try_init(py, || -> PyResult<_> { Ok(py.import("asyncio")?.getattr("CancelledError")?.unbind()) });
    cancelled.is_ok_and(|cancelled| error.matches(py, cancelled.bind(py)).unwrap_or(false))
}

/// How far one step brought a coroutine.
pub enum Step {
    Returned,
    Raised(PyErr),
    Suspended { coroutine: Py<PyAny>, pending: Py<PyAny> },
}

/// One `send(None)`: what it yielded, or `None` when the coroutine returned.
pub fn send_none(py: Python<'_>, coroutine: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
    let mut result = ptr::null_mut();
    // SAFETY: attached; `result` receives a new reference for NEXT and RETURN, and an exception is set for ERROR.
    unsafe {
        match ffi::PyIter_Send(coroutine.as_ptr(), ffi::Py_None(), &raw mut result) {
            ffi::PySendResult::PYGEN_NEXT => Ok(Some(Bound::from_owned_ptr(py, result).unbind())),
            ffi::PySendResult::PYGEN_RETURN => {
                drop(Bound::from_owned_ptr(py, result));
                Ok(None)
            }
            ffi::PySendResult::PYGEN_ERROR => Err(PyErr::fetch(py)),
        }
    }
}

/// Run `act` in a context, as Context.run does.
pub fn in_context<R>(py: Python<'_>, context: &Bound<'_, PyAny>, act: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    // SAFETY: attached; `context` is a Context object.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } < 0 {
        return Err(PyErr::fetch(py));
    }
    let result = act();
    // SAFETY: entered above, on this thread.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } < 0 {
        return Err(PyErr::fetch(py));
    }
    result
}

/// What makes spares, and what every step needs of asyncio.
pub struct SpareTasks {
    event_loop: Py<PyAny>,
    tools: Tools,
    free: Vec<Spare>,
}

struct Tools {
    task_type: Py<PyAny>,
    enter: Py<PyAny>,
    leave: Py<PyAny>,
    register: Py<PyAny>,
    unregister: Py<PyAny>,
}

impl Tools {
    fn clone_ref(&self, py: Python<'_>) -> Self {
        Tools {
            task_type: self.task_type.clone_ref(py),
            enter: self.enter.clone_ref(py),
            leave: self.leave.clone_ref(py),
            register: self.register.clone_ref(py),
            unregister: self.unregister.clone_ref(py),
        }
    }
}

impl SpareTasks {
    pub fn new(event_loop: &Bound<'_, PyAny>) -> PyResult<Self> {
        let tasks = event_loop.py().import("asyncio.tasks")?;
        let named = |name: &str| tasks.getattr(name).map(Bound::unbind);
        let tools = Tools {
            task_type: named("Task")?,
            enter: named("_enter_task")?,
            leave: named("_leave_task")?,
            register: named("_register_task")?,
            unregister: named("_unregister_task")?,
        };
        Ok(SpareTasks { event_loop: event_loop.clone().unbind(), tools, free: Vec::new() })
    }

    /// A spare, or what makes one; apart, because making one runs Python.
    pub fn take(&mut self, py: Python<'_>) -> Supply {
        match self.free.pop() {
            Some(spare) => Supply::Spare(spare),
            None => {
                let (event_loop, tools) = (self.event_loop.clone_ref(py), self.tools.clone_ref(py));
                Supply::Maker(SpareMaker { event_loop, tools })
            }
        }
    }

    /// Keep a spare for the next request. Requests begin one at a time, so there is hardly ever more than one.
    pub fn give(&mut self, spare: Spare) {
        if self.free.len() < MAX_SPARES {
            self.free.push(spare);
        }
    }

    pub fn take_all(&mut self) -> Vec<Spare> {
        std::mem::take(&mut self.free)
    }
}

pub enum Supply {
    Spare(Spare),
    Maker(SpareMaker),
}

impl Supply {
    /// Make it the loop's current task.
    pub fn enter(self, py: Python<'_>) -> PyResult<CurrentSpare> {
        match self {
            Supply::Spare(spare) => spare.enter(py),
            Supply::Maker(maker) => maker.make(py)?.enter(py),
        }
    }
}

pub struct SpareMaker {
    event_loop: Py<PyAny>,
    tools: Tools,
}

impl SpareMaker {
    fn make(self, py: Python<'_>) -> PyResult<Spare> {
        let create_future = self.event_loop.getattr(py, intern!(py, "create_future"))?;
        let state = Guarded::new(TrampolineState::default());
        let trampoline = Bound::new(py, Trampoline { create_future, state })?;
        let options = PyDict::new(py);
        options.set_item(intern!(py, "loop"), &self.event_loop)?;
        let task = self.tools.task_type.bind(py).call((&trampoline,), Some(&options))?;
        // It is nobody's task yet: not among all_tasks(), and no complaint when it is dropped.
        self.tools.unregister.bind(py).call1((&task,))?;
        task.setattr(intern!(py, "_log_destroy_pending"), false)?;
        Ok(Spare {
            task: task.unbind(),
            trampoline: trampoline.unbind(),
            event_loop: self.event_loop,
            tools: self.tools,
            before: Vec::new(),
        })
    }
}

/// A real Task that belongs to no request yet.
pub struct Spare {
    pub task: Py<PyAny>,
    trampoline: Py<Trampoline>,
    event_loop: Py<PyAny>,
    tools: Tools,
    /// The task's memory, and that of the future it is parked on, since it was entered.
    before: Vec<u8>,
}

/// A spare that is the loop's current task. It is to be left again, whatever happens.
#[must_use = "asyncio would take it for the current task for good"]
pub struct CurrentSpare(Spare);

impl CurrentSpare {
    /// Step what `call` returns, once, as this task and in this context.
    pub fn run_first_step<'py>(
        &mut self,
        py: Python<'py>,
        context: &Bound<'py, PyAny>,
        call: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
    ) -> Step {
        let step = in_context(py, context, || {
            let coroutine = call()?;
            Ok(match send_none(py, &coroutine)? {
                None => Step::Returned,
                Some(pending) => Step::Suspended { coroutine: coroutine.unbind(), pending },
            })
        });
        step.unwrap_or_else(Step::Raised)
    }

    /// Nobody left a mark: no reference, no callback, no cancellation, no name.
    pub fn is_as_new(&self, py: Python<'_>) -> bool {
        let mut rest = &self.0.before[..];
        let is_same = self.0.look_at_memory(py, |memory| match rest.split_at_checked(memory.len()) {
            Some((before, behind)) => {
                rest = behind;
                before == memory
            }
            None => false,
        });
        is_same && rest.is_empty()
    }

    pub fn leave(self, py: Python<'_>) -> PyResult<Spare> {
        call2(py, &self.0.tools.leave, &self.0.event_loop, &self.0.task).map(|()| self.0)
    }

    /// The same; `Some` if it can serve another. Else somebody may still refer to the task, and it comes to its end.
    pub fn leave_for_another(self, py: Python<'_>) -> PyResult<Option<Spare>> {
        let is_as_new = self.is_as_new(py);
        let spare = self.leave(py)?;
        if is_as_new { Ok(Some(spare)) } else { spare.discard(py).map(|()| None) }
    }
}

impl Spare {
    fn enter(mut self, py: Python<'_>) -> PyResult<CurrentSpare> {
        call2(py, &self.tools.enter, &self.event_loop, &self.task)?;
        let mut before = std::mem::take(&mut self.before);
        before.clear();
        self.look_at_memory(py, |memory| {
            before.extend_from_slice(memory);
            true
        });
        self.before = before;
        Ok(CurrentSpare(self))
    }

    /// The suspended coroutine goes on as this task, from the loop's next iteration; `ending` is told of its end.
    pub fn adopt(
        self,
        py: Python<'_>,
        coroutine: Py<PyAny>,
        pending: Py<PyAny>,
        context: Py<PyAny>,
        ending: Box<dyn Ending>,
    ) -> PyResult<()> {
        self.task.bind(py).setattr(intern!(py, "_log_destroy_pending"), true)?;
        self.tools.register.bind(py).call1((&self.task,))?;
        let adopted = Adopted { coroutine, pending: Some(pending), context, ending };
        let park = {
            let mut state = self.trampoline.get().state.enter()?;
            state.adopted = Some(adopted);
            state.park.take()
        };
        // Parked: wake it. Not yet begun: its first step is scheduled already.
        match park {
            Some(park) => set_result_unless_done(py, &park),
            None => Ok(()),
        }
    }

    /// Pieces of memory in which any use of the task would show. False as soon as `look` says so.
    fn look_at_memory(&self, py: Python<'_>, mut look: impl FnMut(&[u8]) -> bool) -> bool {
        if !look(memory_of(self.task.bind(py))) {
            return false;
        }
        match self.trampoline.get().state.enter() {
            Ok(state) => state.park.as_ref().is_none_or(|park| look(memory_of(park.bind(py)))),
            Err(_) => true,
        }
    }

    /// Let it come to its end, for the sake of whoever refers to it.
    pub fn discard(self, py: Python<'_>) -> PyResult<()> {
        let park = {
            let mut state = self.trampoline.get().state.enter()?;
            state.finished = true;
            state.park.take()
        };
        match park {
            Some(park) => set_result_unless_done(py, &park),
            None => Ok(()),
        }
    }
}

/// The object's own memory, as it is now. Equal before and after means that nothing of it was changed: its
/// reference count, its list of weak references, its callbacks, its state.
fn memory_of<'a>(object: &'a Bound<'_, PyAny>) -> &'a [u8] {
    // SAFETY: a live object of a type with a fixed size has `tp_basicsize` bytes, zeroed when it was allocated, and
    // nobody writes them while this thread is attached and runs no Python.
    unsafe {
        let size = (*ffi::Py_TYPE(object.as_ptr())).tp_basicsize as usize;
        std::slice::from_raw_parts(object.as_ptr().cast::<u8>(), size)
    }
}

pub fn set_result_unless_done(py: Python<'_>, future: &Py<PyAny>) -> PyResult<()> {
    let future = future.bind(py);
    if !future.call_method0(names::done(py))?.is_truthy()? {
        future.call_method1(names::set_result(py), (py.None(),))?;
    }
    Ok(())
}

fn call2(py: Python<'_>, callable: &Py<PyAny>, first: &Py<PyAny>, second: &Py<PyAny>) -> PyResult<()> {
    let arguments = [first.as_ptr(), second.as_ptr()];
    // SAFETY: attached; two live arguments; returns a new reference or null with an exception.
    unsafe {
        let result = ffi::PyObject_Vectorcall(callable.as_ptr(), arguments.as_ptr(), 2, ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, result).map(drop)
    }
}

/// Who is told when an adopted coroutine has ended, by what if it raised.
pub trait Ending: Send {
    fn ended(self: Box<Self>, py: Python<'_>, error: Option<PyErr>) -> PyResult<()>;
}

/// The coroutine that a spare Task runs: nothing, until it takes over a request's.
#[pyclass(frozen, module = "penstock._core")]
pub struct Trampoline {
    create_future: Py<PyAny>,
    state: Guarded<TrampolineState>,
}

#[derive(Default)]
struct TrampolineState {
    adopted: Option<Adopted>,
    /// What the task waits for while it has no request.
    park: Option<Py<PyAny>>,
    /// The task has made its first step.
    begun: bool,
    /// The next step is the last.
    finished: bool,
}

struct Adopted {
    coroutine: Py<PyAny>,
    /// What the coroutine yielded in its first step, which the task has not seen yet.
    pending: Option<Py<PyAny>>,
    context: Py<PyAny>,
    ending: Box<dyn Ending>,
}

impl Trampoline {
    /// One step of the task: `Some` is what it must wait for, `None` the end.
    fn resume(slf: &Bound<'_, Self>, thrown: Option<PyErr>) -> PyResult<Option<Py<PyAny>>> {
        let (py, this) = (slf.py(), slf.get());
        let mut entered = this.state.enter()?;
        let is_first_step = !std::mem::replace(&mut entered.begun, true);
        let Some(request) = &mut entered.adopted else {
            let finished = entered.finished;
            entered.park = None;
            drop(entered);
            return match thrown {
                Some(error) => Err(error),
                None if finished => Ok(None),
                None => this.park(py).map(Some),
            };
        };
        let pending = request.pending.take();
        let coroutine = request.coroutine.clone_ref(py);
        let context = request.context.clone_ref(py);
        drop(entered);
        if is_first_step && thrown.is_none() && pending.as_ref().is_some_and(|pending| pending.is_none(py)) {
            // A bare yield (`asyncio.sleep(0)`) lets everybody go first who was scheduled before it, and this step was
            // scheduled when the task was made: before them.
            return Ok(pending);
        }
        if let Some(pending) = pending.filter(|pending| !pending.is_none(py)) {
            // Cancelled before the task could wait for it: what the task would have done then, it does now.
            let cancelled = thrown.is_some() && pending.bind(py).call_method0(names::cancel(py))?.is_truthy()?;
            if thrown.is_none() || cancelled {
                return Ok(Some(pending));
            }
        }
        let stepped = in_context(py, context.bind(py), || match thrown {
            None => send_none(py, coroutine.bind(py)),
            Some(error) => throw(py, coroutine.bind(py), error),
        });
        match stepped {
            Ok(Some(waits_for)) => Ok(Some(waits_for)),
            Ok(None) => this.end(py, None).map(|()| None),
            Err(error) => {
                let passed_on = is_cancelled_error(py, &error).then(|| error.clone_ref(py));
                this.end(py, Some(error))?;
                passed_on.map_or(Ok(None), Err)
            }
        }
    }

    fn park(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let future = self.create_future.bind(py).call0()?;
        // How a future tells its task that it was awaited, not merely yielded.
        future.setattr(names::blocking(py), true)?;
        self.state.enter()?.park = Some(future.clone().unbind());
        Ok(future.unbind())
    }

    fn end(&self, py: Python<'_>, error: Option<PyErr>) -> PyResult<()> {
        let adopted = self.state.enter()?.adopted.take();
        match adopted {
            Some(adopted) => adopted.ending.ended(py, error),
            None => Ok(()),
        }
    }

    fn of_coroutine<'py>(slf: &Bound<'py, Self>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        let coroutine = slf.get().state.enter()?.adopted.as_ref().map(|adopted| adopted.coroutine.clone_ref(py));
        coroutine.map(|coroutine| coroutine.bind(py).getattr(name)).transpose()
    }
}

fn throw(py: Python<'_>, coroutine: &Bound<'_, PyAny>, error: PyErr) -> PyResult<Option<Py<PyAny>>> {
    match coroutine.call_method1(names::throw(py), (error.into_value(py),)) {
        Ok(waits_for) => Ok(Some(waits_for.unbind())),
        Err(end) if end.is_instance_of::<PyStopIteration>(py) => Ok(None),
        Err(error) => Err(error),
    }
}

#[pymethods]
impl Trampoline {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        Self::resume(slf, None)
    }

    fn send(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        if !value.is_none() {
            return Err(PyTypeError::new_err("only None can be sent to a task's coroutine"));
        }
        Self::resume(slf, None)?.ok_or_else(|| PyStopIteration::new_err(()))
    }

    #[pyo3(signature = (kind, value = None, traceback = None))]
    fn throw(
        slf: &Bound<'_, Self>,
        kind: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _ = traceback;
        let error = match value {
            Some(value) => PyErr::from_value(value),
            None if kind.is_instance_of::<pyo3::types::PyType>() => PyErr::from_value(kind.call0()?),
            None => PyErr::from_value(kind),
        };
        Self::resume(slf, Some(error))?.ok_or_else(|| PyStopIteration::new_err(()))
    }

    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let adopted = slf.get().state.enter()?.adopted.take();
        match adopted {
            Some(adopted) => adopted.coroutine.bind(slf.py()).call_method0(intern!(slf.py(), "close")).map(drop),
            None => Ok(()),
        }
    }

    // What inspect and asyncio's repr look at: the request's own coroutine, once there is one.

    #[getter]
    fn cr_running(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::of_coroutine(slf, "cr_running")?.map_or(Ok(false), |running| running.is_truthy())
    }

    #[getter]
    fn cr_suspended(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::of_coroutine(slf, "cr_suspended")?.map_or(Ok(true), |suspended| suspended.is_truthy())
    }

    #[getter]
    fn cr_frame<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::of_coroutine(slf, "cr_frame")
    }

    #[getter]
    fn cr_code<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::of_coroutine(slf, "cr_code")
    }

    #[getter]
    fn cr_await<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::of_coroutine(slf, "cr_await")
    }

    #[getter]
    fn __name__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Ok(Self::of_coroutine(slf, "__name__")?.unwrap_or_else(|| PyString::new(slf.py(), "spare").into_any()))
    }

    #[getter]
    fn __qualname__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Ok(Self::of_coroutine(slf, "__qualname__")?.unwrap_or_else(|| PyString::new(slf.py(), "spare").into_any()))
    }
}

/// `am_send`: a step without StopIteration.
unsafe extern "C" fn trampoline_send(
    slf: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // The interpreter is attached already; this tells the binding so.
    Python::attach(|py| {
        // SAFETY: called by the interpreter for an object of this type, with a place for the result.
        unsafe {
            let slf = Bound::from_borrowed_ptr(py, slf).cast_into_unchecked::<Trampoline>();
            let stepped = Trampoline::resume(&slf, None);
            send_result(py, stepped.map(|waits_for| waits_for.ok_or_else(|| py.None())), result)
        }
    })
}

/// Translate for `am_send`: `Ok(Ok)` yields, `Ok(Err)` returns, `Err` raises.
///
/// # Safety
/// `result` must be what the interpreter passed to `am_send`.
pub unsafe fn send_result(
    py: Python<'_>,
    outcome: PyResult<Result<Py<PyAny>, Py<PyAny>>>,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    let (object, how) = match outcome {
        Ok(Ok(yielded)) => (yielded.into_ptr(), ffi::PySendResult::PYGEN_NEXT),
        Ok(Err(returned)) => (returned.into_ptr(), ffi::PySendResult::PYGEN_RETURN),
        Err(error) => {
            error.restore(py);
            (ptr::null_mut(), ffi::PySendResult::PYGEN_ERROR)
        }
    };
    // SAFETY: a place for one reference, by the caller's word.
    unsafe { *result = object };
    how
}

/// Set `am_send`, which the binding has no word for, before the type's first object exists.
pub fn set_am_send<T: PyTypeInfo>(py: Python<'_>, send: ffi::sendfunc) {
    // SAFETY: a heap type with `__await__` has its own PyAsyncMethods; nobody else knows the type yet.
    unsafe {
        let methods = (*T::type_object_raw(py)).tp_as_async;
        assert!(!methods.is_null(), "a type with __await__ has async methods");
        (*methods).am_send = Some(send);
    }
}

pub fn prepare_type(py: Python<'_>) {
    set_am_send::<Trampoline>(py, trampoline_send);
}
