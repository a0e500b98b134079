//! Where an open file is read next: a file object knows it better than its descriptor, of which it reads ahead.

use std::io;
use std::os::fd::RawFd;

use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;

pub struct Position<'a, 'py> {
    pub file: &'a Bound<'py, PyAny>,
    pub fd: RawFd,
}

impl Position<'_, '_> {
    fn is_object(&self) -> PyResult<bool> {
        self.file.hasattr(intern!(self.file.py(), "tell"))
    }

    pub fn get(&self) -> PyResult<u64> {
        if self.is_object()? {
            return self.file.call_method0(intern!(self.file.py(), "tell"))?.extract();
        }
        self.seek(0, libc::SEEK_CUR)
    }

    pub fn set(&self, offset: u64) -> PyResult<()> {
        if self.is_object()? {
            return self.file.call_method1(intern!(self.file.py(), "seek"), (offset,)).map(drop);
        }
        self.seek(offset as libc::off_t, libc::SEEK_SET).map(drop)
    }

    fn seek(&self, offset: libc::off_t, whence: i32) -> PyResult<u64> {
        // SAFETY: no pointers are passed; a wrong number is an error.
        let position = unsafe { libc::lseek(self.fd, offset, whence) };
        u64::try_from(position).map_err(|_| {
            let error = io::Error::last_os_error();
            PyOSError::new_err((error.raw_os_error(), error.to_string()))
        })
    }
}
