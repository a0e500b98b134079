//! A StreamGroup sends one frame to many connections: encoded once, held once, and queued for each as a reference.
//!
//! It holds tokens, not connections: one that is gone drops out by itself.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::connection::StreamConnection;
use super::frames::{Shape, frame_error, with_bytes, write_resp};
use super::server::StreamServer;
use crate::core::Token;
use crate::py::guarded::Guarded;
use crate::py::owners;
use crate::server::tcp::StreamError;

#[pyclass(frozen, module = "penstock._core")]
pub struct StreamGroup {
    server: Py<StreamServer>,
    members: Guarded<Members>,
}

#[derive(Default)]
struct Members {
    tokens: Vec<Token>,
    /// Where a token is, by its index alone: of a million members each byte is a megabyte. The generation is looked at in
    /// `tokens`.
    places: HashMap<u32, u32>,
    /// How many there were when those that are gone were last looked for.
    pruned: usize,
}

impl Members {
    fn place(&self, token: Token) -> Option<usize> {
        let place = *self.places.get(&token.index)? as usize;
        (self.tokens[place] == token).then_some(place)
    }

    fn add(&mut self, token: Token) {
        match self.places.entry(token.index) {
            Entry::Vacant(place) => {
                place.insert(self.tokens.len() as u32);
                self.tokens.push(token);
            }
            // The same one, or its successor: who had the slot before is gone.
            Entry::Occupied(place) => self.tokens[*place.get() as usize] = token,
        }
    }

    fn remove(&mut self, token: Token) {
        if let Some(place) = self.place(token) {
            self.places.remove(&token.index);
            self.tokens.swap_remove(place);
            if let Some(moved) = self.tokens.get(place) {
                self.places.insert(moved.index, place as u32);
            }
        }
    }

    fn retain(&mut self, mut is_there: impl FnMut(Token) -> bool) {
        let gone: Vec<_> = self.tokens.iter().copied().filter(|&token| !is_there(token)).collect();
        gone.into_iter().for_each(|token| self.remove(token));
        self.pruned = self.tokens.len();
    }
}

impl StreamGroup {
    pub(super) fn new(server: Py<StreamServer>) -> Self {
        StreamGroup { server, members: Guarded::new(Members::default()) }
    }

    fn token_of(&self, connection: &Bound<'_, StreamConnection>) -> PyResult<Token> {
        if connection.get().server.as_ptr() != self.server.as_ptr() {
            return Err(PyValueError::new_err("a group holds connections of the server, and reactor, that made it"));
        }
        Ok(connection.get().token)
    }

    fn encode<'py>(&self, frame: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let (py, server) = (frame.py(), self.server.get());
        let mut wire = Vec::new();
        match &server.shape {
            Shape::Arguments => write_resp(frame, &mut wire, 0)?,
            Shape::Bytes => with_bytes(frame, |bytes| {
                server.framing.encode(bytes, &mut wire).map_err(|error| frame_error(py, &error))
            })?,
            // A protocol of the frame's own: none of the connections' has seen it.
            Shape::Python(factory) => {
                let encoded = factory.call0(py)?.call_method1(py, "encode", (frame,))?.into_bound(py);
                with_bytes(&encoded, |bytes| {
                    wire.extend_from_slice(bytes);
                    Ok(())
                })?;
            }
        }
        Ok(PyBytes::new(py, &wire))
    }
}

#[pymethods]
impl StreamGroup {
    fn add(&self, connection: &Bound<'_, StreamConnection>) -> PyResult<()> {
        let token = self.token_of(connection)?;
        let mut members = self.members.enter()?;
        if members.tokens.len() >= 64 + 2 * members.pruned {
            self.server.get().with(|_, io| members.retain(|token| io.stream(token).is_some()))?;
        }
        members.add(token);
        Ok(())
    }

    fn discard(&self, connection: &Bound<'_, StreamConnection>) -> PyResult<()> {
        let token = self.token_of(connection)?;
        self.members.enter()?.remove(token);
        Ok(())
    }

    /// Send a frame to every member but `exclude`; returns to how many. A peer that has left too much unread is cut off.
    #[pyo3(signature = (frame, exclude = None))]
    fn send(&self, frame: &Bound<'_, PyAny>, exclude: Option<&Bound<'_, StreamConnection>>) -> PyResult<usize> {
        let py = frame.py();
        let wire = self.encode(frame)?;
        let exclude = exclude.map(|connection| connection.get().token);
        let mut released = Vec::new();
        let mut members = self.members.enter()?;
        let mut gone = false;
        let sent = self.server.get().with(|streams, io| {
            let mut sent = 0;
            for &token in members.tokens.iter().filter(|&&token| Some(token) != exclude) {
                let owner = owners::keep(wire.clone().into_any());
                // SAFETY: the owner keeps the bytes object, which never changes, until it is released.
                match unsafe { streams.send_shared(io, token, wire.as_bytes(), owner, true) } {
                    Ok(_) => sent += 1,
                    Err((error, owner)) => {
                        released.push(owner);
                        gone |= error == StreamError::Closed;
                    }
                }
            }
            if gone {
                members.retain(|token| io.stream(token).is_some());
            }
            sent
        })?;
        drop(members);
        owners::release(py, &mut released);
        Ok(sent)
    }

    fn __len__(&self) -> PyResult<usize> {
        let mut members = self.members.enter()?;
        self.server.get().with(|_, io| members.retain(|token| io.stream(token).is_some()))?;
        Ok(members.tokens.len())
    }

    fn __contains__(&self, connection: &Bound<'_, StreamConnection>) -> PyResult<bool> {
        Ok(self.members.enter()?.place(connection.get().token).is_some())
    }
}
