//! A StreamGroup sends one frame to many connections: encoded once, held once, and queued for each as a reference.
//!
//! It holds tokens, not connections: one that is gone drops out by itself. To very many it sends in parts, each of which
//! leaves before the next is queued: a queue for each member at once would be more than all that they cost otherwise.

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

/// Members whose frames wait for one flush. Up to here frames that are sent one after the other still leave together.
const AT_ONCE: usize = 1024;

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

    /// Queue a frame for these members: what was dirty before, how many took it.
    fn queue(&self, part: &[Token], wire: &Bound<'_, PyBytes>, has_gone: &mut bool) -> PyResult<(usize, usize)> {
        let mut released = Vec::new();
        let outcome = self.server.get().with(|streams, io| {
            let (mark, mut taken) = (io.unflushed(), 0);
            for &token in part {
                let owner = owners::keep(wire.clone().into_any());
                // SAFETY: the owner keeps the bytes object, which never changes, until it is released.
                match unsafe { streams.send_shared(io, token, wire.as_bytes(), owner, true) } {
                    Ok(_) => taken += 1,
                    Err((error, owner)) => {
                        released.push(owner);
                        *has_gone |= error == StreamError::Closed;
                    }
                }
            }
            (mark, taken)
        });
        owners::release(wire.py(), &mut released);
        outcome
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
        let mut to = self.members.enter()?.tokens.clone();
        to.retain(|&token| Some(token) != exclude);
        let (mut sent, mut has_gone) = (0, false);
        let mut parts = to.chunks(AT_ONCE).peekable();
        while let Some(part) = parts.next() {
            let (mark, taken) = self.queue(part, &wire, &mut has_gone)?;
            sent += taken;
            if parts.peek().is_some() {
                self.server.get().reactor.get().flush_since(py, mark)?;
            }
        }
        if has_gone {
            let mut members = self.members.enter()?;
            self.server.get().with(|_, io| members.retain(|token| io.stream(token).is_some()))?;
        }
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
