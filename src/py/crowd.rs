//! `Crowd`: very many connections of one process, for `penstock bench connections`. It works detached.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::load::{histogram, latencies, raised, resolve, seconds};
use crate::load::LoadError;
use crate::load::crowd::{self, CrowdPlan, Far, Question, Tally};
use crate::load::http::ErrorKind;

#[pyclass(frozen, module = "penstock._core")]
pub struct Crowd {
    /// None once it is closed. Held by whoever is at work with it.
    crowd: Mutex<Option<crowd::Crowd>>,
    address: std::net::SocketAddr,
}

#[pymethods]
impl Crowd {
    #[new]
    #[pyo3(signature = (host, port, *, sources, connections, answer_timeout_s = 10.0))]
    fn new(host: &str, port: u16, sources: Vec<String>, connections: usize, answer_timeout_s: f64) -> PyResult<Self> {
        let address = resolve(host, port)?;
        let sources = sources.iter().map(|source| source.parse::<IpAddr>()).collect::<Result<Vec<_>, _>>();
        let plan = CrowdPlan {
            address,
            sources: sources.map_err(|error| PyValueError::new_err(format!("sources: {error}")))?,
            connections,
            answer_timeout: seconds("answer_timeout_s", answer_timeout_s)?,
        };
        Ok(Crowd { crowd: Mutex::new(Some(crowd::Crowd::new(plan).map_err(raised)?)), address })
    }

    /// Connections that are open.
    #[getter]
    fn connections(&self) -> PyResult<usize> {
        Ok(self.enter()?.as_ref().map_or(0, crowd::Crowd::open_connections))
    }

    /// Open all of them; the last of each batch asks, so that no backlog overflows. `question` is a path to GET, or what
    /// to send and what is to come back. `progress(open, answered, lost)` is called about ten times a second.
    #[pyo3(signature = (question, progress = None))]
    fn open<'py>(
        &self,
        py: Python<'py>,
        question: &Bound<'py, PyAny>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let mut question = self.question(question)?;
        self.run(py, progress, |crowd, watch| crowd.open(&mut question, watch))
    }

    /// Ask every one, `at_a_time`, and wait for the last answer.
    #[pyo3(signature = (question, at_a_time = 64, progress = None))]
    fn ask_all<'py>(
        &self,
        py: Python<'py>,
        question: &Bound<'py, PyAny>,
        at_a_time: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let mut question = self.question(question)?;
        self.run(py, progress, |crowd, watch| crowd.ask_all(&mut question, at_a_time, watch))
    }

    /// Wait until the server has said `answer` to every one.
    #[pyo3(signature = (answer, progress = None))]
    fn expect<'py>(
        &self,
        py: Python<'py>,
        answer: Vec<u8>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let mut question = Question::Bytes { ask: Vec::new(), answer };
        self.run(py, progress, |crowd, watch| crowd.expect(&mut question, watch))
    }

    /// Hold them until the descriptor `control` is readable, asking each once in `interval_s`, if that is given.
    #[pyo3(signature = (control, question, interval_s = None, progress = None))]
    fn hold<'py>(
        &self,
        py: Python<'py>,
        control: RawFd,
        question: &Bound<'py, PyAny>,
        interval_s: Option<f64>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let mut question = self.question(question)?;
        let interval = interval_s.map(|interval_s| seconds("interval_s", interval_s)).transpose()?;
        let interval = interval.map(|interval| interval.max(Duration::from_millis(1)));
        self.run(py, progress, |crowd, watch| crowd.hold(control, &mut question, interval, watch))
    }

    /// Close all, with a reset.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let crowd = self.enter()?.take();
        py.detach(|| crowd.map(crowd::Crowd::close));
        Ok(())
    }
}

impl Crowd {
    fn enter(&self) -> PyResult<MutexGuard<'_, Option<crowd::Crowd>>> {
        self.crowd.try_lock().map_err(|_| PyRuntimeError::new_err("another thread is at work with this crowd"))
    }

    fn question(&self, asked: &Bound<'_, PyAny>) -> PyResult<Question> {
        if let Ok(path) = asked.extract::<&str>() {
            return Question::get(self.address, path).map_err(raised);
        }
        let (ask, answer): (Vec<u8>, Vec<u8>) = asked.extract()?;
        if ask.is_empty() || answer.is_empty() {
            return Err(PyValueError::new_err("a question and its answer: expected at least a byte of each"));
        }
        Ok(Question::Bytes { ask, answer })
    }

    fn run<'py>(
        &self,
        py: Python<'py>,
        progress: Option<Py<PyAny>>,
        act: impl FnOnce(&mut crowd::Crowd, crowd::Watch<'_>) -> Result<Tally, LoadError> + Send,
    ) -> PyResult<Bound<'py, PyDict>> {
        let mut entered = self.enter()?;
        let crowd = entered.as_mut().ok_or_else(|| PyRuntimeError::new_err("the crowd is closed"))?;
        let mut told = Ok(());
        let outcome = py.detach(|| {
            act(crowd, &mut |far| {
                told = Python::attach(|py| tell(py, progress.as_ref(), far));
                told.is_err()
            })
        });
        told?;
        report(py, &outcome.map_err(raised)?)
    }
}

fn tell(py: Python<'_>, progress: Option<&Py<PyAny>>, far: Far) -> PyResult<()> {
    py.check_signals()?;
    match progress {
        Some(progress) => progress.call1(py, (far.open, far.answered, far.lost)).map(drop),
        None => Ok(()),
    }
}

fn report<'py>(py: Python<'py>, tally: &Tally) -> PyResult<Bound<'py, PyDict>> {
    let lost = PyDict::new(py);
    for kind in ErrorKind::ALL {
        if tally.lost.count(kind) > 0 {
            lost.set_item(kind.name(), tally.lost.count(kind))?;
        }
    }
    let dict = PyDict::new(py);
    dict.set_item("open", tally.open)?;
    dict.set_item("asked", tally.asked)?;
    dict.set_item("answered", tally.answered)?;
    dict.set_item("lost", lost)?;
    dict.set_item("first_lost", tally.lost.first.as_deref())?;
    dict.set_item("elapsed_s", tally.elapsed.as_secs_f64())?;
    dict.set_item("latency_us", latencies(py, &tally.latencies)?)?;
    dict.set_item("histogram_us", histogram(py, &tally.latencies)?)?;
    Ok(dict)
}
