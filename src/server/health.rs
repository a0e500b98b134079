//! Health: one path answered by the reactor itself, so it tells of the reactor: that it turns, and takes connections.
//!
//! An application that waits (for a database, for its pool of threads) or that keeps the interpreter busy in another
//! thread does not delay the answer; one that blocks the event loop does, as it delays everything else.

use std::sync::Arc;
use std::time::Instant;

use super::http::{HeaderLines, NativeAnswer, NativeBody, NativePiece, NativeResponse, RequestView, Responder};
use crate::core::Token;

const LINES: &[u8] = b"content-type: text/plain; charset=utf-8\r\ncache-control: no-store\r\n";
const BODY: &[u8] = b"ok\n";

pub struct Health {
    path: Box<[u8]>,
    lines: Arc<[u8]>,
    body: Arc<[u8]>,
}

impl Health {
    pub fn at(path: &str) -> Self {
        Health { path: path.as_bytes().into(), lines: LINES.into(), body: BODY.into() }
    }
}

impl Responder for Health {
    fn claims(&self, path: &[u8]) -> bool {
        *path == *self.path
    }

    fn respond(&mut self, _: Token, _: &RequestView<'_>, _: Instant) -> NativeAnswer {
        NativeAnswer::Response(NativeResponse {
            status: 200,
            lines: HeaderLines { shared: self.lines.clone(), shared_bytes: self.lines.len(), own: Vec::new() },
            body: NativeBody::One(NativePiece::Shared(self.body.clone(), 0..self.body.len())),
        })
    }
}
