//! `wsgi.file_wrapper`: a file as a response's body. A regular one is sent by the kernel; any other is read.

use std::os::fd::{BorrowedFd, RawFd};

use pyo3::exceptions::PyStopIteration;
use pyo3::intern;
use pyo3::prelude::*;

use crate::py::file_position::Position;
use crate::server::http::FileBody;

#[pyclass(frozen, module = "penstock._core")]
pub struct FileWrapper {
    filelike: Py<PyAny>,
    blksize: isize,
}

#[pymethods]
impl FileWrapper {
    #[new]
    #[pyo3(signature = (filelike, blksize = 8192))]
    fn new(filelike: Py<PyAny>, blksize: isize) -> Self {
        FileWrapper { filelike, blksize }
    }

    /// As the reference implementation names it (wsgiref.util.FileWrapper), and the next one.
    #[getter]
    fn filelike(&self, py: Python<'_>) -> Py<PyAny> {
        self.filelike.clone_ref(py)
    }

    #[getter]
    fn blksize(&self) -> isize {
        self.blksize
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let block = self.filelike.bind(py).call_method1(intern!(py, "read"), (self.blksize,))?;
        if block.is_truthy()? { Ok(block) } else { Err(PyStopIteration::new_err(())) }
    }

    /// Close the file, if it can be closed.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match self.filelike.bind(py).getattr_opt(intern!(py, "close"))? {
            Some(close) => close.call0().map(drop),
            None => Ok(()),
        }
    }
}

impl FileWrapper {
    /// What the kernel can send of it: from the file's position, `count` bytes or all that there are. `None`: it is to
    /// be read instead, because it has no descriptor, or not that of a regular file.
    pub fn file_body(&self, py: Python<'_>, count: Option<u64>) -> Option<FileBody> {
        let file = self.filelike.bind(py);
        let fd: RawFd = file.call_method0(intern!(py, "fileno")).ok()?.extract().ok()?;
        if fd < 0 {
            return None;
        }
        let offset = Position { file, fd }.get().ok()?;
        // SAFETY: borrowed for this call, in which it is duplicated; a wrong number is an error of that.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        py.detach(|| FileBody::duplicate(borrowed, offset, count)).ok()
    }
}
