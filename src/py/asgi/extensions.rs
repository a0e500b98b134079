//! What the messages of ASGI's extensions carry: files to be sent by path or descriptor, and links for early hints.
//!
//! Files are opened and looked at before anything of the response is changed, so whatever is wrong with one reaches the
//! application as an error that it can still answer otherwise.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::cycle::{Message, Piece};
use super::names;
use crate::py::file_position::Position;
use crate::server::http::FileBody;

pub const PATHSEND: &str = "http.response.pathsend";
pub const ZEROCOPYSEND: &str = "http.response.zerocopysend";
pub const TRAILERS: &str = "http.response.trailers";
pub const EARLY_HINT: &str = "http.response.early_hint";

/// The file that `http.response.pathsend` names. The specification asks for an absolute path; a relative one is taken
/// from the working directory, as `open` would, because Starlette's FileResponse passes on whatever it was given.
pub fn path_piece<'a>(message: &Message<'a>) -> PyResult<Piece<'a>> {
    let py = message.py();
    let given = message.get(names::path(py))?.ok_or_else(|| missing(PATHSEND, "path"))?;
    let path = path_of(&given)?;
    // Detached: the disk may take its time.
    let opened = py.detach(|| FileBody::open(&path));
    opened.map(Piece::File).map_err(|error| os_error(&error, Some(&given)))
}

/// As the file system encodes it, whatever bytes it is made of.
fn path_of(given: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    let encoded = given.py().import(intern!(given.py(), "os"))?.call_method1(intern!(given.py(), "fsencode"), (given,));
    let encoded = encoded
        .map_err(|_| PyTypeError::new_err(format!("{PATHSEND}: path must be a string, not {}", type_name(given))))?;
    let bytes = encoded.cast_into::<PyBytes>()?;
    if bytes.as_bytes().contains(&0) {
        return Err(PyValueError::new_err(format!("{PATHSEND}: path holds a NUL character")));
    }
    Ok(OsStr::from_bytes(bytes.as_bytes()).into())
}

/// The part of an open file that `http.response.zerocopysend` names. Without an offset it begins at the file's position,
/// which is moved behind it.
pub fn file_piece<'a>(message: &Message<'a>) -> PyResult<Piece<'a>> {
    let py = message.py();
    let file = message.get(names::file(py))?.ok_or_else(|| missing(ZEROCOPYSEND, "file"))?;
    let fd: RawFd = match file.extract() {
        Ok(fd) => fd,
        Err(_) => file.call_method0(intern!(py, "fileno")).and_then(|fd| fd.extract()).map_err(|_| {
            PyTypeError::new_err(format!(
                "{ZEROCOPYSEND}: file must be a descriptor or have one (fileno()), not {}",
                type_name(&file)
            ))
        })?,
    };
    if fd < 0 {
        return Err(PyValueError::new_err(format!("{ZEROCOPYSEND}: file is closed (its descriptor is {fd})")));
    }
    let count = number("count", message.get(names::count(py))?)?;
    let given_offset = number("offset", message.get(names::offset(py))?)?;
    let position = Position { file: &file, fd };
    let offset = given_offset.map_or_else(|| position.get(), Ok)?;
    // SAFETY: borrowed for this call, in which it is duplicated; a wrong number is an error of that.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let body = py.detach(|| FileBody::duplicate(borrowed, offset, count)).map_err(|error| os_error(&error, None))?;
    if given_offset.is_none() {
        position.set(offset + body.bytes() as u64)?;
    }
    Ok(Piece::File(body))
}

fn number(key: &str, value: Option<Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    let Some(value) = value.filter(|value| !value.is_none()) else { return Ok(None) };
    value.extract().map(Some).map_err(|_| {
        PyValueError::new_err(format!("{ZEROCOPYSEND}: {key} must be a whole number from 0, not {value:?}"))
    })
}

/// The values of the Link headers of `http.response.early_hint`.
pub fn links<'a>(message: &Message<'a>) -> PyResult<Vec<Bound<'a, PyBytes>>> {
    let links = message.get(names::links(message.py()))?.ok_or_else(|| missing(EARLY_HINT, "links"))?;
    let wrong = |what: &Bound<'_, PyAny>| {
        PyTypeError::new_err(format!("{EARLY_HINT}: links must be bytes, one for each, not {}", type_name(what)))
    };
    if links.is_instance_of::<PyBytes>() {
        // Iterating it would yield numbers.
        return Err(wrong(&links));
    }
    links.try_iter()?.map(|link| link?.cast_into::<PyBytes>().map_err(|error| wrong(&error.into_inner()))).collect()
}

/// Python's own class for an error of the system's, with the file's name if there is one.
fn os_error(error: &io::Error, path: Option<&Bound<'_, PyAny>>) -> PyErr {
    match (error.raw_os_error(), path) {
        (Some(errno), Some(path)) => PyOSError::new_err((errno, message_of(errno), path.clone().unbind())),
        (Some(errno), None) => PyOSError::new_err((errno, message_of(errno))),
        (None, _) => PyValueError::new_err(format!("a file cannot be sent: {error}")),
    }
}

/// What the system calls an error, without its number.
fn message_of(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    text.rsplit_once(" (os error").map_or(text.clone(), |(message, _)| message.to_owned())
}

fn missing(kind: &str, key: &str) -> PyErr {
    PyValueError::new_err(format!("{kind} must have the key {key:?}"))
}

fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "something else".to_owned(), |name| name.to_string())
}
