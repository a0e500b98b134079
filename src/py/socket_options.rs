//! Socket options on their way from Python: each a name of the manual and a value.

use std::os::fd::{BorrowedFd, RawFd};

use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBool;

use crate::net::options::{self, OptionInfo, Value};
use crate::net::socket_options::set_option;
use crate::net::{SocketOptionError, SocketOptions};

/// Every option that there is: its name and level in the manual, the kind of its value, and what it does.
#[pyfunction]
pub fn socket_option_table() -> Vec<(&'static str, &'static str, &'static str, &'static str)> {
    options::ALL.iter().map(|info| (info.level, info.name, info.value, info.effect)).collect()
}

/// Set one option of a socket. Raises OSError with the reason, also where the kernel takes the value and ignores it.
#[pyfunction]
pub fn set_socket_option(fd: RawFd, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let option = OptionInfo::named(name).ok_or_else(|| unknown(name))?;
    let value = value_of(value)?;
    // SAFETY: borrowed for this call only; a wrong number is an OSError of setsockopt.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    set_option(socket, option, &value).map_err(raised)
}

/// What one option of a socket is: a bool, an int or a str; False for a time that is off. Raises OSError.
#[pyfunction]
pub fn get_socket_option(py: Python<'_>, fd: RawFd, name: &str) -> PyResult<Py<PyAny>> {
    let option = OptionInfo::named(name).ok_or_else(|| unknown(name))?;
    // SAFETY: as above.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(match option.get(socket)? {
        Value::Switch(value) => PyBool::new(py, value).to_owned().into_any().unbind(),
        Value::Number(value) => value.into_pyobject(py)?.into_any().unbind(),
        Value::Name(value) => value.into_pyobject(py)?.into_any().unbind(),
    })
}

/// The options of a `penstock.SocketOptions`, by its `given()`: pairs of a name and a value.
#[allow(dead_code)] // For the services that accept or connect.
pub fn options_of(pairs: Vec<(String, Bound<'_, PyAny>)>) -> PyResult<SocketOptions> {
    let mut options = SocketOptions::default();
    for (name, value) in pairs {
        options.add(&name, value_of(&value)?).ok_or_else(|| unknown(&name))?;
    }
    Ok(options)
}

pub fn raised(error: SocketOptionError) -> PyErr {
    PyOSError::new_err((error.errno, error.reason))
}

fn unknown(name: &str) -> PyErr {
    PyValueError::new_err(format!("there is no socket option {name:?}: see socket_option_table()"))
}

fn value_of(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    if let Ok(switch) = value.cast::<PyBool>() {
        return Ok(Value::Switch(switch.is_true()));
    }
    if let Ok(number) = value.extract::<i64>() {
        return Ok(Value::Number(number));
    }
    let name = value.extract::<String>();
    name.map(Value::Name).map_err(|_| PyTypeError::new_err("a socket option is a bool, an int or a str"))
}
