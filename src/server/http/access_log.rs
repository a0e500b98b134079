//! The access log: lines are formatted where the response ends, and written by a thread of its own.
//!
//! A turn's lines go to the writer in one piece, through a bounded channel. A log that cannot keep up loses lines,
//! which are counted, and never holds up a turn.

use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use super::connection::PeerAddress;
use crate::protocol::http1::forwarded::Forwarded;
use crate::protocol::http1::reason_phrase;

/// Pieces that may wait for the writer: with one a turn, some tens of milliseconds of traffic.
const MAX_WAITING: usize = 256;
/// Held while a piece is written: reactors share a sink, and a large piece may take several writes.
static WRITING: Mutex<()> = Mutex::new(());

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessLogStyle {
    Plain,
    /// For a terminal: the level and the status in colour.
    Coloured,
}

pub struct AccessLog {
    style: AccessLogStyle,
    lines: Vec<u8>,
    count: u64,
    queue: Option<SyncSender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
}

impl AccessLog {
    /// Lines go to `sink`, on a thread of its own.
    pub fn to(mut sink: impl Write + Send + 'static, style: AccessLogStyle) -> std::io::Result<Self> {
        let (queue, lines) = sync_channel::<Vec<u8>>(MAX_WAITING);
        let writer = std::thread::Builder::new().name("penstock-access-log".into()).spawn(move || {
            // A reader that has gone away (a closed pipe) must not end the server; its lines have nowhere to go.
            while let Ok(piece) = lines.recv() {
                let _whole_lines = WRITING.lock();
                let _ = sink.write_all(&piece).and_then(|()| sink.flush());
            }
        })?;
        Ok(AccessLog { style, lines: Vec::new(), count: 0, queue: Some(queue), writer: Some(writer) })
    }

    /// `forwarded`: what a trusted proxy said of the request, whose client is then named instead of the proxy.
    pub fn line(&mut self, peer: PeerAddress, forwarded: Option<&Forwarded>, request_line: &[u8], status: u16) {
        self.count += 1;
        let (level, reason, lines) = ("INFO", reason_phrase(status), &mut self.lines);
        // Writing to a Vec cannot fail.
        let _ = match self.style {
            AccessLogStyle::Plain => write!(lines, "{level}:     ")
                .and_then(|()| write_client(lines, peer, forwarded))
                .and_then(|()| write!(lines, " - \""))
                .and_then(|()| write_printable(lines, request_line))
                .and_then(|()| writeln!(lines, "\" {status} {reason}")),
            AccessLogStyle::Coloured => write!(lines, "\x1b[32m{level}\x1b[0m:     ")
                .and_then(|()| write_client(lines, peer, forwarded))
                .and_then(|()| write!(lines, " - \"\x1b[1m"))
                .and_then(|()| write_printable(lines, request_line))
                .and_then(|()| writeln!(lines, "\x1b[0m\" \x1b[{}m{status} {reason}\x1b[0m", colour(status))),
        };
    }

    /// Hand this turn's lines to the writer; how many had to be dropped.
    pub fn flush(&mut self) -> u64 {
        if self.lines.is_empty() {
            return 0;
        }
        let (piece, count) = (std::mem::take(&mut self.lines), std::mem::take(&mut self.count));
        match self.queue.as_ref().map(|queue| queue.try_send(piece)) {
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => count,
            Some(Ok(())) => 0,
        }
    }
}

impl Drop for AccessLog {
    /// What was logged is written before the server is gone.
    fn drop(&mut self) {
        self.flush();
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn colour(status: u16) -> u8 {
    match status {
        100..=199 => 37,
        200..=299 => 32,
        300..=399 => 33,
        400..=499 => 31,
        _ => 91,
    }
}

fn write_client(out: &mut Vec<u8>, peer: PeerAddress, forwarded: Option<&Forwarded>) -> std::io::Result<()> {
    match forwarded.and_then(|forwarded| forwarded.client.as_ref()) {
        Some((host, port)) => {
            write_printable(out, host.as_bytes())?;
            write!(out, ":{port}")
        }
        None => write!(out, "{peer}"),
    }
}

/// A request line is the peer's text: bytes that could steer a terminal or fake a line are escaped.
fn write_printable(out: &mut Vec<u8>, text: &[u8]) -> std::io::Result<()> {
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x20..=0x7e => out.push(byte),
            _ => write!(out, "\\x{byte:02x}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_cannot_be_faked_by_its_peer() {
        let sink = Sink::default();
        let mut log = AccessLog::to(sink.clone(), AccessLogStyle::Plain).unwrap();
        let peer = PeerAddress::V4([127, 0, 0, 1].into(), 4242);
        log.line(peer, None, b"GET /\"\x1b[2J\n HTTP/1.1", 404);
        let forwarded = Forwarded { client: Some(("\n1.2.3.4".into(), 0)), scheme: None };
        log.line(peer, Some(&forwarded), b"GET / HTTP/1.1", 200);
        assert_eq!(log.flush(), 0);
        drop(log);
        let written = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            written,
            "INFO:     127.0.0.1:4242 - \"GET /\\\"\\x1b[2J\\x0a HTTP/1.1\" 404 Not Found\n\
                             INFO:     \\x0a1.2.3.4:0 - \"GET / HTTP/1.1\" 200 OK\n"
        );
    }

    #[test]
    fn a_log_that_cannot_keep_up_drops_and_counts_and_never_blocks() {
        struct Stuck(std::sync::mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (release, stuck) = std::sync::mpsc::channel();
        let mut log = AccessLog::to(Stuck(stuck), AccessLogStyle::Plain).unwrap();
        let dropped: u64 = (0..MAX_WAITING + 10)
            .map(|_| {
                log.line(PeerAddress::Unix, None, b"GET / HTTP/1.1", 200);
                log.flush()
            })
            .sum();
        assert!(dropped >= 9, "{dropped} dropped");
        drop(release);
    }
}
