//! `Scoreboard`: what workers tell of themselves, as their supervisor sees it.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::core::{Shard, hang_up};
use crate::reactor::scoreboard::{self, State, Word};

/// A slot for each worker, in memory that forked processes share.
#[pyclass(frozen, module = "penstock._core")]
pub struct Scoreboard(pub(super) Arc<scoreboard::Scoreboard>);

/// Where the slot's worker counts; without a scoreboard a place that nobody else sees.
pub(super) fn shard_of(scoreboard: Option<&Scoreboard>, slot: usize) -> PyResult<Shard> {
    match scoreboard {
        Some(scoreboard) => Ok(scoreboard.0.shard(scoreboard.check(slot)?).clone()),
        None => Ok(Shard::alone()),
    }
}

/// What a slot tells, by name, and as what.
const FIGURES: [(&str, Word); 7] = [
    ("pid", Word::Pid),
    ("generation", Word::Generation),
    ("ticks", Word::Ticks),
    ("connections", Word::Connections),
    ("in_progress", Word::InProgress),
    ("served", Word::Served),
    ("shut", Word::Shut),
];

impl Scoreboard {
    pub(super) fn check(&self, slot: usize) -> PyResult<usize> {
        match slot < self.0.slots() {
            true => Ok(slot),
            false => Err(PyIndexError::new_err(format!("expected a slot below {}, got {slot}", self.0.slots()))),
        }
    }
}

#[pymethods]
impl Scoreboard {
    #[new]
    fn new(slots: usize) -> PyResult<Self> {
        if !(1..=1 << 16).contains(&slots) {
            return Err(PyValueError::new_err(format!("expected from 1 to 65536 slots, got {slots}")));
        }
        Ok(Scoreboard(Arc::new(scoreboard::Scoreboard::new(slots)?)))
    }

    /// The slot is this worker's, which starts.
    fn claim(&self, slot: usize, pid: u64, generation: u64) -> PyResult<()> {
        self.0.claim(self.check(slot)?, pid, generation);
        Ok(())
    }

    /// The worker of this slot is gone.
    fn release(&self, slot: usize) -> PyResult<()> {
        self.0.release(self.check(slot)?);
        Ok(())
    }

    /// How far a worker is: "starting", "ready" or "draining".
    fn set_state(&self, slot: usize, state: &str) -> PyResult<()> {
        let state = match state {
            "starting" => State::Starting,
            "ready" => State::Ready,
            "draining" => State::Draining,
            other => return Err(PyValueError::new_err(format!("expected starting, ready or draining, got {other:?}"))),
        };
        self.0.set_state(self.check(slot)?, state);
        Ok(())
    }

    /// What the slot tells.
    fn read<'py>(&self, py: Python<'py>, slot: usize) -> PyResult<Bound<'py, PyDict>> {
        self.check(slot)?;
        let figures = PyDict::new(py);
        let state = match self.0.state(slot) {
            State::Free => "free",
            State::Starting => "starting",
            State::Ready => "ready",
            State::Draining => "draining",
        };
        figures.set_item("state", state)?;
        for (name, word) in FIGURES {
            figures.set_item(name, self.0.get(slot, word))?;
        }
        Ok(figures)
    }
}

/// End this process, at the latest `grace_s` after the other end of a stream socket has been closed.
#[pyfunction]
pub fn exit_after_hang_up(fd: RawFd, grace_s: f64, status: i32) -> PyResult<()> {
    // SAFETY: borrowed for this call only; a wrong number is an OSError of dup.
    let own = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
    let grace = Duration::try_from_secs_f64(grace_s).map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(hang_up::exit_after_hang_up(own, grace, status)?)
}
