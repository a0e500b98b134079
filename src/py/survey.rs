//! `Survey`: the connections of one reactor that somebody asked to see, found in steps between its turns.

use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::guarded::Guarded;
use super::reactor::Reactor;
use crate::server::survey::{self, Query, Row};

/// What one step may take of the loop's time: what an application's small handler takes.
const BUDGET: Duration = Duration::from_micros(200);

#[pyclass(frozen, module = "penstock._core")]
pub struct Survey {
    reactor: Py<Reactor>,
    inner: Guarded<survey::Survey>,
}

pub(super) fn query_of(text: &str) -> PyResult<Query> {
    text.parse().map_err(|wrong: survey::InvalidQuery| PyValueError::new_err(wrong.reason()))
}

/// A query as all write it that ask for the same. ValueError for what is none.
#[pyfunction]
pub fn survey_query(text: &str) -> PyResult<String> {
    query_of(text).map(|query| query.to_string())
}

#[pymethods]
impl Survey {
    #[new]
    fn new(reactor: Py<Reactor>, query: &str) -> PyResult<Self> {
        Ok(Survey { reactor, inner: Guarded::new(survey::Survey::new(query_of(query)?)) })
    }

    /// Look at further connections, for a bounded time; `None` while there are more. In the reactor's thread.
    fn step<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let mut survey = self.inner.enter()?;
        let rows = self.reactor.get().with(|inner| {
            let io = &inner.event_loop.io;
            survey.step(io, BUDGET).then(|| survey.rows(io))
        })?;
        let Some(rows) = rows else { return Ok(None) };
        let found = PyDict::new(py);
        found.set_item("open", survey.open)?;
        found.set_item("matched", survey.matched)?;
        let rows: Vec<_> = rows.iter().map(|row| as_dict(py, row)).collect::<PyResult<_>>()?;
        found.set_item("rows", PyList::new(py, rows)?)?;
        Ok(Some(found))
    }
}

fn as_dict<'py>(py: Python<'py>, row: &Row) -> PyResult<Bound<'py, PyDict>> {
    let told = PyDict::new(py);
    told.set_item("rank", row.rank)?;
    told.set_item("peer", row.peer.internet().map_or_else(|| "unix".to_owned(), |_| row.peer.to_string()))?;
    told.set_item("protocol", row.protocol)?;
    told.set_item("state", row.phase.name())?;
    told.set_item("asks", row.asks.as_deref())?;
    told.set_item("age_s", row.age.as_secs())?;
    told.set_item("queued_bytes", row.queued_bytes)?;
    told.set_item("held_bytes", row.held_bytes)?;
    let figures = row.figures.as_ref();
    told.set_item("idle_s", figures.map(|figures| figures.idle.as_secs_f64()))?;
    told.set_item("received_bytes", figures.map(|figures| figures.received_bytes))?;
    told.set_item("sent_bytes", figures.map(|figures| figures.acknowledged_bytes))?;
    told.set_item("round_trip_s", figures.map(|figures| figures.round_trip.as_secs_f64()))?;
    Ok(told)
}
