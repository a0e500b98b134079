//! The access log, as Python asks for it.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::server::http::{self, AccessLog, FormatError, LogFormat, NamedSink, SharedSink};

/// `penstock.logs.AccessLogPlan`: what each line looks like, and where it goes: to a file of this name, or a descriptor.
#[derive(FromPyObject)]
pub struct AccessLogPlan {
    format: String,
    path: Option<PathBuf>,
    fd: i32,
}

impl AccessLogPlan {
    pub fn compile(&self) -> PyResult<LogFormat> {
        LogFormat::compile(&self.format).map_err(invalid)
    }

    pub fn open(&self, format: LogFormat) -> PyResult<AccessLog> {
        if let Some(path) = &self.path {
            return Ok(AccessLog::new(format, NamedSink::open(path)?)?);
        }
        // SAFETY: borrowed for the duplication only; a wrong number is an error of dup.
        let own = unsafe { BorrowedFd::borrow_raw(self.fd) }.try_clone_to_owned()?;
        Ok(AccessLog::new(format, SharedSink::new(own))?)
    }
}

fn invalid(error: FormatError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// Raise ValueError if `format` cannot be that of an access log.
#[pyfunction]
pub fn check_access_log_format(format: &str) -> PyResult<()> {
    LogFormat::compile(format).map(drop).map_err(invalid)
}

/// Have every access log of this process that goes to a file of a name open it anew.
#[pyfunction]
pub fn reopen_access_logs(py: Python<'_>) {
    py.detach(http::reopen_access_logs);
}
