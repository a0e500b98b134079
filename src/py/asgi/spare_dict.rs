//! A SpareDict is a dictionary that every scope holds one of, and that no two requests may share: `extensions`, `asgi`.
//!
//! Building it anew costs more than the rest of a small scope. So it stands in the templates that scopes are copies of, and
//! stays there for the next request if by then no request holds it and nothing in it was changed; otherwise it is let go,
//! and a new one takes its place.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

pub enum Value {
    Text(&'static str),
    /// A dictionary of the request's own, too.
    Empty,
}

pub struct SpareDict {
    name: Py<PyString>,
    contents: &'static [(&'static str, Value)],
    dict: Py<PyDict>,
    /// What the dictionary holds, in its order, while it is as it was made.
    entries: Vec<(Py<PyString>, Py<PyAny>)>,
}

impl SpareDict {
    /// Under `name` in all the `templates` there are.
    pub fn new(
        name: &Bound<'_, PyString>,
        contents: &'static [(&'static str, Value)],
        templates: &[Py<PyDict>],
    ) -> PyResult<Self> {
        let (py, name) = (name.py(), name.clone().unbind());
        let mut spare = SpareDict { name, contents, dict: PyDict::new(py).unbind(), entries: Vec::new() };
        spare.make_anew(py, templates)?;
        Ok(spare)
    }

    /// See to it that what the same templates hold is no request's.
    #[inline]
    pub fn free(&mut self, py: Python<'_>, templates: &[Py<PyDict>]) -> PyResult<()> {
        if self.is_as_new(py, templates.len()) { Ok(()) } else { self.make_anew(py, templates) }
    }

    #[cold]
    fn make_anew(&mut self, py: Python<'_>, templates: &[Py<PyDict>]) -> PyResult<()> {
        let dict = PyDict::new(py);
        let mut entries = Vec::with_capacity(self.contents.len());
        for (name, value) in self.contents {
            let value = match value {
                Value::Text(text) => PyString::intern(py, text).into_any(),
                Value::Empty => PyDict::new(py).into_any(),
            };
            let name = PyString::intern(py, name);
            dict.set_item(&name, &value)?;
            entries.push((name.unbind(), value.unbind()));
        }
        templates.iter().try_for_each(|template| template.bind(py).set_item(&self.name, &dict))?;
        (self.dict, self.entries) = (dict.unbind(), entries);
        Ok(())
    }

    fn is_as_new(&self, py: Python<'_>, templates: usize) -> bool {
        let dict = self.dict.bind(py);
        // The templates hold it, and this.
        if references(dict) != templates + 1 || dict.len() != self.entries.len() {
            return false;
        }
        let (mut position, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        self.entries.iter().all(|(name, made)| {
            // SAFETY: attached; nothing changes the dictionary, which lends the two references.
            let found = unsafe { ffi::PyDict_Next(dict.as_ptr(), &mut position, &mut key, &mut value) } != 0;
            found && key == name.as_ptr() && value == made.as_ptr() && is_untouched(made.bind(py))
        })
    }
}

/// Text cannot be changed; a dictionary is held by the one that it is in, and by its `entries`, and is empty.
fn is_untouched(value: &Bound<'_, PyAny>) -> bool {
    value.cast_exact::<PyDict>().map_or(true, |dict| dict.is_empty() && references(dict) == 2)
}

fn references(dict: &Bound<'_, PyDict>) -> usize {
    // SAFETY: attached, and the object is alive.
    unsafe { ffi::Py_REFCNT(dict.as_ptr()) as usize }
}
