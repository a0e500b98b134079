//! From `penstock.protocol`'s objects to a framing, and from a frame's bytes to what a handler is shown.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyInt, PyList, PyMemoryView, PyString, PyTuple};

use crate::protocol::framing::resp::{self, arguments};
use crate::protocol::framing::{Delimited, Endian, FrameError, Framing, InvalidLayout, LengthPrefixed, Resp, Varint};
use crate::py::errors;

/// What frames are to Python.
pub enum Shape {
    /// A bytes object.
    Bytes,
    /// A list of bytes objects: a request's arguments.
    Arguments,
    /// What the user's own protocol makes of the bytes: made by this, one for each connection.
    Python(Py<PyAny>),
}

/// The framing that a protocol object asks for by its `native` description, a tuple of a name and settings; an object
/// without one is a factory of protocols in Python.
pub fn framing_of(protocol: &Bound<'_, PyAny>) -> PyResult<(Framing, Shape)> {
    let Ok(native) = protocol.getattr("native") else {
        return Ok((Framing::Raw, Shape::Python(protocol.clone().unbind())));
    };
    let native = native.cast_into::<PyTuple>()?;
    let name: String = native.get_item(0)?.extract()?;
    let settings = native.get_item(1)?.cast_into::<PyDict>()?;
    let number = |key: &str| -> PyResult<usize> { wanted(&settings, key)?.extract() };
    let framing = match name.as_str() {
        "raw" => Framing::Raw,
        "fixed" => Framing::Fixed(number("frame_bytes")?),
        "varint" => Framing::Varint(Varint { max_frame_bytes: number("max_frame_bytes")? }),
        "line" => Framing::Delimited(Delimited::lines(number("max_frame_bytes")?)),
        "delimiter" => {
            let delimiter: Vec<u8> = wanted(&settings, "delimiter")?.extract()?;
            let delimited = Delimited::by(&delimiter, number("max_frame_bytes")?);
            Framing::Delimited(delimited.ok_or_else(|| PyValueError::new_err("a delimiter has 1 to 16 bytes"))?)
        }
        "length" => Framing::LengthPrefixed(length_prefixed(&settings).map_err(|error| match error {
            Layout::Invalid(InvalidLayout(text)) => PyValueError::new_err(text),
            Layout::Python(error) => error,
        })?),
        "resp" => {
            let resp = Resp {
                max_frame_bytes: number("max_frame_bytes")?,
                max_arguments: wanted(&settings, "max_arguments")?.extract()?,
            };
            return Ok((Framing::Resp(resp), Shape::Arguments));
        }
        other => return Err(PyValueError::new_err(format!("there is no framing {other:?}"))),
    };
    Ok((framing, Shape::Bytes))
}

enum Layout {
    Invalid(InvalidLayout),
    Python(PyErr),
}

impl From<InvalidLayout> for Layout {
    fn from(error: InvalidLayout) -> Self {
        Layout::Invalid(error)
    }
}

impl From<PyErr> for Layout {
    fn from(error: PyErr) -> Self {
        Layout::Python(error)
    }
}

fn length_prefixed(settings: &Bound<'_, PyDict>) -> Result<LengthPrefixed, Layout> {
    let number = |key: &str| -> PyResult<usize> { wanted(settings, key)?.extract() };
    let little: bool = wanted(settings, "little_endian")?.extract()?;
    let layout = LengthPrefixed::new(number("header_bytes")?, number("max_frame_bytes")?)?
        .endian(if little { Endian::Little } else { Endian::Big })
        .counts_header(wanted(settings, "counts_header")?.extract()?)
        .adjust(wanted(settings, "adjust")?.extract()?)
        .offset(number("offset")?)?;
    Ok(layout.strip(wanted(settings, "strip")?.extract()?)?)
}

fn wanted<'py>(settings: &Bound<'py, PyDict>, key: &str) -> PyResult<Bound<'py, PyAny>> {
    settings.get_item(key)?.ok_or_else(|| PyValueError::new_err(format!("a framing's description has no {key}")))
}

/// A frame as its handler is shown it.
#[inline]
pub fn to_object<'py>(py: Python<'py>, shape: &Shape, frame: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match shape {
        Shape::Arguments => {
            let list = PyList::empty(py);
            for range in arguments(frame) {
                list.append(PyBytes::new(py, &frame[range]))?;
            }
            Ok(list.into_any())
        }
        Shape::Bytes | Shape::Python(_) => Ok(PyBytes::new(py, frame).into_any()),
    }
}

/// Look at the bytes of a bytes, bytearray or memoryview.
pub fn with_bytes<R>(data: &Bound<'_, PyAny>, look: impl FnOnce(&[u8]) -> PyResult<R>) -> PyResult<R> {
    if let Ok(bytes) = data.cast::<PyBytes>() {
        return look(bytes.as_bytes());
    }
    if let Ok(bytes) = data.cast::<PyByteArray>() {
        // A copy, because a slice of it could change under us.
        return look(&bytes.to_vec());
    }
    if data.is_instance_of::<PyMemoryView>() {
        let bytes = data.call_method0("tobytes")?;
        return look(bytes.cast::<PyBytes>()?.as_bytes());
    }
    Err(PyTypeError::new_err(format!("a frame is bytes, bytearray or memoryview, not {}", data.get_type().name()?)))
}

/// Write a reply of RESP: bytes is a bulk string, str a simple one, an exception an error, None the null.
pub fn write_resp(value: &Bound<'_, PyAny>, out: &mut Vec<u8>, depth: usize) -> PyResult<()> {
    const MAX_DEPTH: usize = 8;
    if let Ok(bytes) = value.cast::<PyBytes>() {
        resp::write_bulk(out, bytes.as_bytes());
    } else if let Ok(text) = value.cast::<PyString>() {
        resp::write_simple(out, text.to_str()?.as_bytes()).map_err(|error| frame_error(value.py(), &error))?;
    } else if value.is_none() {
        resp::write_null(out);
    } else if value.is_instance_of::<PyBool>() {
        resp::write_integer(out, i64::from(value.is_truthy()?));
    } else if value.is_instance_of::<PyInt>() {
        resp::write_integer(out, value.extract()?);
    } else if value.is_instance_of::<pyo3::exceptions::PyException>() {
        let text = value.str()?;
        resp::write_error(out, text.to_str()?.as_bytes()).map_err(|error| frame_error(value.py(), &error))?;
    } else if depth < MAX_DEPTH && (value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>()) {
        resp::write_array_head(out, value.len()?);
        for item in value.try_iter()? {
            write_resp(&item?, out, depth + 1)?;
        }
    } else {
        let kind = value.get_type();
        return Err(PyTypeError::new_err(format!(
            "a reply is bytes, str, int, None, an exception, or a list of those up to {MAX_DEPTH} deep, not {}",
            kind.name()?
        )));
    }
    Ok(())
}

pub fn frame_error(py: Python<'_>, error: &FrameError) -> PyErr {
    errors::raise(py, "FrameError", (error.to_string(), error.kind.name()))
}
