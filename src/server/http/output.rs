//! Responses to bytes: an application's head and body into the connection's output, and what follows the last of it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::access_log::AccessLog;
use super::error_page;
use super::exchange::{Answer, Exchange, Stage};
use super::service::{HttpEvent, HttpIo, HttpServer};
use crate::core::Token;
use crate::core::buffer::Owner;
use crate::core::event_loop::{HIGH_WATERMARK_BYTES, LOW_WATERMARK_BYTES};
use crate::protocol::http1::{
    BodyWriter, HttpError, ResponseContext, ResponseError, ResponseFraming, ResponseHead, write_trailer,
};

/// A piece of a response's body.
pub enum Body<'a> {
    /// To be copied into the output.
    Copied(&'a [u8]),
    /// To be sent from where it is; the owner keeps it there.
    Borrowed(&'a [u8], Owner),
    /// A range of a regular file, to be sent by the kernel.
    File { file: Arc<OwnedFd>, offset: u64, bytes: usize },
}

/// What follows a piece of the body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    More,
    Trailers,
    Nothing,
}

impl Then {
    fn write(self, writer: BodyWriter, out: &mut Vec<u8>) -> Result<(), ResponseError> {
        match self {
            Then::More => Ok(()),
            Then::Trailers => writer.finish_data(out),
            Then::Nothing => writer.finish(out),
        }
    }
}

#[derive(Debug)]
pub enum RespondError {
    /// The peer is gone: nothing can be sent.
    Disconnected,
    /// The application broke the rules of a response; the message says how.
    Invalid(ResponseError),
}

impl HttpServer {
    /// Begin the response, with the first piece of its body. `whole`: it is the only piece.
    ///
    /// `write_headers` adds the application's headers; its error, or one of the response itself, leaves nothing
    /// written.
    pub fn start_response<E: From<ResponseError>>(
        &mut self,
        io: &mut HttpIo,
        token: Token,
        status: u16,
        body_bytes: usize,
        whole: bool,
        write_headers: impl FnOnce(&mut ResponseHead<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if (100..200).contains(&status) {
            // The client would wait for the response still, and take the next one for it.
            return Err(ResponseError::InterimStatus(status).into());
        }
        let date = self.date(io.now());
        let (server, draining) = (self.settings.server_header, self.draining);
        let lines = &self.settings.header_lines[..];
        let Some(exchange) = io.http(token).and_then(|connection| connection.active.as_deref_mut()) else {
            return Ok(());
        };
        let context = ResponseContext {
            request_is_head: exchange.is_head,
            request_minor: exchange.head.minor_version,
            keep_alive_wanted: exchange.keep_alive && !draining && exchange.may_be_followed(whole),
            // Trailers need the chunked coding, even behind a body that is there in one piece.
            whole_body_bytes: (whole && !exchange.sends_trailers()).then_some(body_bytes as u64),
            date: date.as_ref(),
            server: server.map(str::as_bytes),
            lines,
        };
        let is_head_logged = self.access_log.as_ref().is_some_and(AccessLog::wants_response_headers);
        let mut logged_head = Vec::new();
        let framing = io.append_with(token, |out| -> Result<(ResponseFraming, bool), E> {
            let start = out.len();
            let mut head = ResponseHead::start(out, status);
            write_headers(&mut head)?;
            let is_event_stream = head.is_event_stream();
            let framing = head.finish(context)?;
            if is_head_logged {
                logged_head.extend_from_slice(&out[start..]);
            }
            Ok((framing, is_event_stream))
        });
        let Some((framing, is_event_stream)) = framing.transpose()? else { return Ok(()) };
        let Some(exchange) = io.http(token).and_then(|connection| connection.active.as_deref_mut()) else {
            return Ok(());
        };
        exchange.answer = Answer::Started;
        exchange.status = status;
        exchange.keep_alive = framing.keep_alive;
        exchange.is_subscription = is_event_stream && exchange.is_get && !whole;
        exchange.writer = BodyWriter::new(framing.body);
        exchange.log.response_head = logged_head;
        Ok(())
    }

    /// Send a piece of the body of a response that has begun; how many bytes wait to leave now.
    pub fn send_body(
        &mut self,
        io: &mut HttpIo,
        token: Token,
        body: Body<'_>,
        more: bool,
    ) -> Result<usize, RespondError> {
        self.write_body(io, token, body, more)?;
        self.answer_natively(io);
        Ok(io.queued_bytes(token))
    }

    pub(super) fn write_body(
        &mut self,
        io: &mut HttpIo,
        token: Token,
        body: Body<'_>,
        more: bool,
    ) -> Result<(), RespondError> {
        let Some(exchange) = io.http(token).and_then(|connection| connection.active.as_deref_mut()) else {
            return Err(give_back(io, body, RespondError::Disconnected));
        };
        let mut writer = exchange.writer;
        // Whoever subscribes while the server drains would keep it, and be cut off in the end.
        let ends_here = more && self.draining && exchange.is_subscription;
        // Nobody asks anything else on its connection.
        exchange.keep_alive &= !ends_here;
        let then = match exchange.trailers_follow {
            _ if ends_here => Then::Nothing,
            _ if more => Then::More,
            true => Then::Trailers,
            false => Then::Nothing,
        };
        let written = match body {
            Body::Copied(bytes) => io.append_with(token, |out| {
                writer.write(out, bytes)?;
                then.write(writer, out)
            }),
            // SAFETY: whoever made the Body promised that the owner keeps the bytes.
            Body::Borrowed(bytes, owner) => unsafe { send_borrowed(io, token, &mut writer, bytes, owner, then) },
            Body::File { file, offset, bytes } => send_file(io, token, &mut writer, (file, offset, bytes), then),
        };
        match written {
            None => return Err(RespondError::Disconnected),
            Some(Err(error)) => return Err(RespondError::Invalid(error)),
            Some(Ok(())) => {}
        }
        if let Some(exchange) = io.http(token).and_then(|connection| connection.active.as_deref_mut()) {
            exchange.writer = writer;
        }
        if then == Then::Nothing {
            self.finish(io, token);
        }
        if ends_here {
            self.events.push_back(HttpEvent::Disconnected(token));
        }
        Ok(())
    }

    /// End the subscriptions to events, each in good order: EventSource comes again, and whoever serves then has it. The
    /// application is told as of a client that left.
    pub(super) fn end_subscriptions(&mut self, io: &mut HttpIo) {
        for token in io.connection_tokens() {
            let exchange = io.http(token).and_then(|connection| connection.active.as_deref_mut());
            if exchange.is_some_and(|exchange| exchange.is_subscription && exchange.answer == Answer::Started) {
                // It is draining, so that this piece is the last.
                let _ = self.write_body(io, token, Body::Copied(&[]), true);
            }
        }
    }

    /// The application will send trailers when its body is complete. Before the response starts.
    pub fn announce_trailers(&mut self, io: &mut HttpIo, token: Token) {
        if let Some(exchange) = io.http(token).and_then(|connection| connection.active.as_deref_mut()) {
            exchange.trailers_follow = true;
        }
    }

    /// Send trailers behind a body that is complete. They are checked, and left out if the client did not ask for
    /// trailers or the body is not chunked. Without `more`, the response is complete.
    pub fn send_trailers<'a>(
        &mut self,
        io: &mut HttpIo,
        token: Token,
        mut lines: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        more: bool,
    ) -> Result<(), RespondError> {
        let Some(exchange) = io.http(token).and_then(|connection| connection.active.as_deref_mut()) else {
            return Err(RespondError::Disconnected);
        };
        let (writer, wanted) = (exchange.writer, exchange.sends_trailers());
        let written = io.append_with(token, |out| {
            let start = out.len();
            let checked = lines.try_for_each(|(name, value)| write_trailer(out, name, value));
            if checked.is_err() || !wanted || !writer.takes_trailers() {
                out.truncate(start);
            }
            checked.map(|()| {
                if more {
                } else {
                    writer.end_trailers(out)
                }
            })
        });
        match written {
            None => return Err(RespondError::Disconnected),
            Some(Err(error)) => return Err(RespondError::Invalid(error)),
            Some(Ok(())) if more => return Ok(()),
            Some(Ok(())) => {}
        }
        self.finish(io, token);
        self.answer_natively(io);
        Ok(())
    }

    /// Send an interim response (1xx) ahead of the response; how many bytes wait to leave now. It is left out if the
    /// response has begun, or the client speaks HTTP/1.0, which knows none (RFC 9110 section 15.2).
    pub fn send_interim(
        &mut self,
        io: &mut HttpIo,
        token: Token,
        status: u16,
        write_headers: impl FnOnce(&mut ResponseHead<'_>) -> Result<(), ResponseError>,
    ) -> Result<usize, RespondError> {
        let context = ResponseContext { lines: b"", ..self.context(None) };
        let Some(exchange) = io.http(token).and_then(|connection| connection.active.as_deref_mut()) else {
            return Err(RespondError::Disconnected);
        };
        let taken = exchange.answer == Answer::Unstarted && exchange.head.minor_version > 0;
        let written = io.append_with(token, |out| {
            let mut head = ResponseHead::start(out, status);
            write_headers(&mut head)?;
            // A head that is dropped leaves nothing written.
            if taken { head.finish(context).map(drop) } else { Ok(()) }
        });
        match written {
            None => Err(RespondError::Disconnected),
            Some(Err(error)) => Err(RespondError::Invalid(error)),
            Some(Ok(())) => Ok(io.queued_bytes(token)),
        }
    }

    /// The application failed: 500 if it had not begun to answer, and the connection goes on if it can. Else the
    /// response is cut short, visibly: a peer must not take it for whole.
    pub fn fail(&mut self, io: &mut HttpIo, token: Token) {
        let Some(exchange) = io.http(token).and_then(|connection| connection.active.as_deref_mut()) else { return };
        match exchange.answer {
            Answer::Unstarted => self.answer_with_page(io, token, HttpError::APPLICATION_FAILED, &[]),
            Answer::Started | Answer::Complete => io.abort(token),
        }
        self.answer_natively(io);
    }

    /// The application leaves its request unanswered, because nobody reads the answer.
    pub fn abandon(&mut self, io: &mut HttpIo, token: Token) {
        if io.http(token).is_some() {
            io.abort(token);
        }
    }

    /// Answer a request with a page of the server's own. `lines`: further header lines, in wire form.
    pub(super) fn answer_with_page(&mut self, io: &mut HttpIo, token: Token, error: HttpError, lines: &[u8]) {
        let Some(exchange) = io.http(token).and_then(|connection| connection.active.as_deref_mut()) else { return };
        let style = exchange.page_style();
        let page = error_page::body(error, style);
        let begun = self.start_response::<ResponseError>(io, token, error.status, page.len(), true, |head| {
            head.prepared(lines);
            error_page::write_headers(head, error.status, style)
        });
        debug_assert!(begun.is_ok(), "a page of our own is a valid response");
        let _ = self.write_body(io, token, Body::Copied(&page), false);
    }

    /// The response is complete: log it, and go on with the connection.
    fn finish(&mut self, io: &mut HttpIo, token: Token) {
        let Some(exchange) = io.http(token).and_then(|connection| connection.active.as_deref_mut()) else { return };
        exchange.answer = Answer::Complete;
        let (status, began) = (exchange.status, exchange.began.take());
        self.in_progress -= 1;
        if let Some(log) = &mut self.access_log {
            log.line(&exchange.log, exchange.status, exchange.writer.sent_bytes());
        }
        // A response that began before the draining has promised that a request may follow: one may be on its way.
        let (over, stage) = (!exchange.keep_alive || !exchange.can_be_read_out(), exchange.stage);
        if stage != Stage::Whole {
            exchange.body_lease = None;
            exchange.body.clear();
        }
        io.counters.responses.add(1);
        io.counters.statuses.add(status);
        self.answered.extend(began);
        if over {
            io.close(token);
            let exchange = self.take_active(io, token);
            exchange.into_iter().for_each(|exchange| self.keep_spare(exchange));
        } else if stage == Stage::Whole {
            self.follow(io, token);
        } else {
            // The rest of the request's body is read and thrown away, within bounds: then the next request begins.
            io.resume(token);
        }
    }

    /// Request and response are over: on to the next request of the connection.
    pub(super) fn follow(&mut self, io: &mut HttpIo, token: Token) {
        let Some(mut exchange) = self.take_active(io, token) else { return };
        exchange.next();
        if io.queued_bytes(token) > HIGH_WATERMARK_BYTES {
            // A peer that asks and does not read: its answers must not pile up here.
            exchange.held_back = true;
            io.pause(token);
            io.want_drained(token);
            return self.put_back(io, token, exchange);
        }
        self.go_on(io, token, exchange);
    }

    /// The output is low again: an application may send on, or the next request may begin.
    pub fn drained(&mut self, io: &mut HttpIo, token: Token) {
        let Some(connection) = io.http(token) else { return };
        match connection.active.take_if(|exchange| exchange.held_back) {
            Some(mut exchange) => {
                exchange.held_back = false;
                self.go_on(io, token, exchange);
                self.answer_natively(io);
            }
            None => self.events.push_back(HttpEvent::Drained(token)),
        }
    }

    fn go_on(&mut self, io: &mut HttpIo, token: Token, mut exchange: Box<Exchange>) {
        let peer_ended = exchange.peer_ended;
        if let Err(error) = self.advance(io, token, &mut exchange) {
            self.put_back(io, token, exchange);
            return self.refuse(io, token, error);
        }
        if exchange.stage != Stage::Head {
            if exchange.pending().len() <= LOW_WATERMARK_BYTES {
                io.resume(token);
            }
            return self.put_back(io, token, exchange);
        }
        if peer_ended {
            io.close(token);
            return self.keep_spare(exchange);
        }
        io.resume(token);
        if exchange.raw.is_empty() {
            self.enter(io, token, None);
            self.keep_spare(exchange);
        } else {
            self.enter(io, token, Some(Stage::Head));
            self.put_back(io, token, exchange);
        }
    }
}

/// Send bytes from where they are. The owner is given back when they cannot leave.
///
/// # Safety
/// As `Io::append_borrowed`.
unsafe fn send_borrowed(
    io: &mut HttpIo,
    token: Token,
    writer: &mut BodyWriter,
    bytes: &[u8],
    owner: Owner,
    then: Then,
) -> Option<Result<(), ResponseError>> {
    let wanted = io.append_with(token, |out| writer.begin_piece(out, bytes.len()));
    match wanted {
        // SAFETY: the caller's promise.
        Some(Ok(true)) => unsafe { io.append_borrowed(token, bytes, owner) },
        _ => io.take_released().push(owner),
    }
    end_piece(io, token, *writer, wanted?, then)
}

/// Send a range of a file, its bytes unseen.
fn send_file(
    io: &mut HttpIo,
    token: Token,
    writer: &mut BodyWriter,
    (file, offset, bytes): (Arc<OwnedFd>, u64, usize),
    then: Then,
) -> Option<Result<(), ResponseError>> {
    let wanted = io.append_with(token, |out| writer.begin_piece(out, bytes))?;
    if let Ok(true) = wanted {
        io.append_file(token, file, offset, bytes);
    }
    end_piece(io, token, *writer, wanted, then)
}

/// A piece that began (or was not wanted, or refused) has been queued.
fn end_piece(
    io: &mut HttpIo,
    token: Token,
    writer: BodyWriter,
    began: Result<bool, ResponseError>,
    then: Then,
) -> Option<Result<(), ResponseError>> {
    let began = match began {
        Ok(began) => began,
        Err(error) => return Some(Err(error)),
    };
    io.append_with(token, |out| {
        if began {
            writer.end_piece(out);
        }
        then.write(writer, out)
    })
}

/// A body that was not sent: its owner, if any, is released.
fn give_back(io: &mut HttpIo, body: Body<'_>, error: RespondError) -> RespondError {
    if let Body::Borrowed(_, owner) = body {
        io.take_released().push(owner);
    }
    error
}
