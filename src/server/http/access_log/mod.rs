//! The access log: one line a request, in a form that was compiled once, written by a thread of its own.
//!
//! What a line says of the request is put down when its head is there, into a buffer of the exchange's; what it says of
//! the response is put in between when that ends. A turn's lines go to the writer in one piece. A log that cannot keep up
//! loses lines, which are counted, and never holds up a turn.

mod format;
mod sink;
mod writer;

use std::io::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use format::{FormatError, LogFormat};
pub use sink::{LogSink, NamedSink, SharedSink};
pub use writer::reopen_access_logs;

use super::connection::PeerAddress;
use super::exchange::RequestView;
use crate::core::wall_clock::LocalClock;
use format::Outcome;
use writer::LogWriter;

/// That lines are being lost is told no more often.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What the log will say of a request, as far as it is known; kept in its exchange.
#[derive(Default)]
pub struct LogRecord {
    /// The parts of the line that concern the request, one after the other, and where each of those that concern the
    /// response belongs between them.
    text: Vec<u8>,
    cuts: Vec<usize>,
    begun_at: Option<Instant>,
    /// The head of the response, if the line wants headers of it.
    pub response_head: Vec<u8>,
}

impl LogRecord {
    pub fn clear(&mut self) {
        self.text.clear();
        self.cuts.clear();
        self.response_head.clear();
        self.begun_at = None;
    }

    /// Nothing is known yet of the request.
    pub fn is_empty(&self) -> bool {
        self.cuts.is_empty() && self.text.is_empty()
    }
}

pub struct AccessLog {
    format: LogFormat,
    lines: Vec<u8>,
    count: u64,
    writer: LogWriter,
    clock: LocalClock,
    /// The time of this turn, once a line has asked for it.
    now: Option<Duration>,
    told_at: Option<Instant>,
}

impl AccessLog {
    /// Lines go to `sink`, on a thread of its own.
    pub fn new(format: LogFormat, sink: impl LogSink + 'static) -> std::io::Result<Self> {
        Ok(AccessLog {
            format,
            lines: Vec::new(),
            count: 0,
            writer: LogWriter::start(sink)?,
            clock: LocalClock::default(),
            now: None,
            told_at: None,
        })
    }

    /// Put down what the line says of the request; `None` is one that could not be understood.
    pub fn begin(&self, record: &mut LogRecord, request: Option<&RequestView<'_>>, peer: PeerAddress, now: Instant) {
        record.clear();
        record.begun_at = self.format.wants_duration.then_some(now);
        self.format.put_request(&mut record.text, &mut record.cuts, request, peer);
    }

    /// Whether the line wants headers of the response, and so its head.
    pub fn wants_response_headers(&self) -> bool {
        self.format.wants_response_headers
    }

    /// The request is over. `body_bytes` have been sent, or are about to be.
    pub fn line(&mut self, record: &LogRecord, status: u16, body_bytes: u64) {
        self.count += 1;
        let time = if self.format.wants_time { self.time() } else { Duration::ZERO };
        let outcome = Outcome {
            status,
            body_bytes,
            head: &record.response_head,
            duration: record.begun_at.map_or(Duration::ZERO, |begun_at| begun_at.elapsed()),
            unix_time: time,
            clock: &mut self.clock,
        };
        self.format.put_line(&mut self.lines, &record.text, &record.cuts, outcome);
    }

    fn time(&mut self) -> Duration {
        *self.now.get_or_insert_with(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// Hand this turn's lines to the writer; how many have been lost since the last time.
    pub fn flush(&mut self) -> u64 {
        self.now = None;
        if !self.lines.is_empty() {
            self.writer.take(&mut self.lines, std::mem::take(&mut self.count));
        }
        self.writer.take_lost()
    }

    /// Why lines were lost, now and then.
    pub fn trouble(&mut self, now: Instant) -> Option<String> {
        if self.told_at.is_some_and(|at| now.duration_since(at) < TOLD_EVERY) {
            return None;
        }
        self.told_at = Some(now);
        let why = self.writer.last_error().unwrap_or_else(|| "it is not read, or written, quickly enough".into());
        Some(format!("Lines of the access log are lost: {why}"))
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Printable text as it is; what could steer a terminal or fake a line is escaped.
fn put_printable(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&byte| byte == b'"' || byte == b'\\' || !(0x20..0x7f).contains(&byte)) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            // Writing to a Vec cannot fail.
            byte => drop(write!(out, "\\x{byte:02x}")),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// A JSON string; bytes that are no UTF-8 become the characters of these numbers.
fn put_json(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let is_plain = |&byte: &u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
    match std::str::from_utf8(text) {
        // Nearly every text.
        _ if text.iter().all(is_plain) => out.extend_from_slice(text),
        Ok(text) => text.chars().for_each(|character| put_json_character(out, character)),
        Err(_) => text.iter().for_each(|&byte| put_json_character(out, byte.into())),
    }
    out.push(b'"');
}

fn put_json_character(out: &mut Vec<u8>, character: char) {
    match character {
        '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
        '\0'..='\x1f' | '\x7f'..='\u{9f}' => drop(write!(out, "\\u{:04x}", character as u32)),
        _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}
