//! The thread that writes: it lets lines gather for a moment, takes them all, and writes them in one piece.
//!
//! Gathering is what makes a log cheap: a wake-up and a write a request would cost more than the request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::sink::LogSink;

/// How long lines may gather, and how many bytes of them are written before that.
const GATHER: Duration = Duration::from_millis(20);
const GATHER_BYTES: usize = 256 * 1024;
/// Bytes of lines that may wait for a sink that does not keep up; what comes then is lost.
const MAX_WAITING_BYTES: usize = 1024 * 1024;
/// At the end a sink that takes nothing any more is waited for so long.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Logs that can be opened anew.
static LOGS: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// Have every access log of this process go on with a new file, after the old one was renamed.
pub fn reopen_access_logs() {
    let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    logs.retain(|log| log.strong_count() > 0);
    for log in logs.iter().filter_map(Weak::upgrade) {
        log.enter().reopen = true;
        log.told.notify_all();
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    told: Condvar,
    lost: AtomicU64,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    reopen: bool,
    closing: bool,
    ended: bool,
    last_error: Option<String>,
}

impl State {
    fn has_waited_long_enough(&self) -> bool {
        self.lines.len() >= GATHER_BYTES || self.closing || self.reopen
    }
}

impl Shared {
    fn enter(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct LogWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    pub fn start(sink: impl LogSink + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        LOGS.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&shared));
        let own = shared.clone();
        let builder = std::thread::Builder::new().name("penstock-access-log".into());
        let thread = builder.spawn(move || Writing { shared: own, sink, torn: false }.run())?;
        Ok(LogWriter { shared, thread: Some(thread) })
    }

    /// Take `count` lines, or lose them. Never waits for the sink.
    pub fn take(&self, lines: &mut Vec<u8>, count: u64) {
        let mut state = self.shared.enter();
        let (before, after) = (state.lines.len(), state.lines.len() + lines.len());
        if after > MAX_WAITING_BYTES {
            self.shared.lost.fetch_add(count, Ordering::Relaxed);
        } else {
            state.lines.extend_from_slice(lines);
            if before == 0 || (before < GATHER_BYTES && after >= GATHER_BYTES) {
                self.shared.told.notify_all();
            }
        }
        drop(state);
        lines.clear();
    }

    /// Lines lost since the last time.
    pub fn take_lost(&self) -> u64 {
        if self.shared.lost.load(Ordering::Relaxed) == 0 { 0 } else { self.shared.lost.swap(0, Ordering::Acquire) }
    }

    pub fn last_error(&self) -> Option<String> {
        self.shared.enter().last_error.take()
    }
}

impl Drop for LogWriter {
    /// What was logged is written before the server is gone, unless nobody takes it.
    fn drop(&mut self) {
        let mut state = self.shared.enter();
        state.closing = true;
        self.shared.told.notify_all();
        let waited = self.shared.told.wait_timeout_while(state, LAST_WORDS, |state| !state.ended);
        let has_ended = waited.unwrap_or_else(PoisonError::into_inner).0.ended;
        if let (Some(thread), true) = (self.thread.take(), has_ended) {
            let _ = thread.join();
        }
    }
}

/// The thread's own side.
struct Writing<S> {
    shared: Arc<Shared>,
    sink: S,
    /// The last line that was written is not whole.
    torn: bool,
}

impl<S: LogSink> Writing<S> {
    fn run(mut self) {
        let mut lines = Vec::new();
        loop {
            let (reopen, closing) = self.await_lines(&mut lines);
            if reopen && let Err(error) = self.sink.reopen() {
                self.note(error);
            }
            if !lines.is_empty() {
                self.write(&mut lines);
            } else if closing {
                break;
            }
        }
        drop(self.sink);
        self.shared.enter().ended = true;
        self.shared.told.notify_all();
    }

    /// Swap what has gathered for the empty `lines`.
    fn await_lines(&self, lines: &mut Vec<u8>) -> (bool, bool) {
        let nothing = |state: &mut State| state.lines.is_empty() && !state.closing && !state.reopen;
        let state = self.shared.told.wait_while(self.shared.enter(), nothing).unwrap_or_else(PoisonError::into_inner);
        let gathering = |state: &mut State| !state.has_waited_long_enough();
        let waited = self.shared.told.wait_timeout_while(state, GATHER, gathering);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        std::mem::swap(&mut state.lines, lines);
        (std::mem::take(&mut state.reopen), state.closing)
    }

    fn write(&mut self, lines: &mut Vec<u8>) {
        if self.torn {
            lines.insert(0, b'\n');
        }
        match self.sink.write_lines(lines) {
            Ok(()) => self.torn = false,
            Err((written, error)) => {
                let lost = lines[written..].iter().filter(|&&byte| byte == b'\n').count();
                // First the reason: whoever learns of the loss asks for it at once, and tells it only now and then.
                self.note(error);
                self.shared.lost.fetch_add(lost as u64 - u64::from(self.torn && written == 0), Ordering::Release);
                self.torn = if written == 0 { self.torn } else { lines[written - 1] != b'\n' };
            }
        }
        lines.clear();
    }

    fn note(&self, error: std::io::Error) {
        self.shared.enter().last_error = Some(error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::mpsc::{Receiver, channel};

    #[test]
    fn a_log_that_cannot_keep_up_loses_lines_and_counts_them_and_never_blocks() {
        struct Stuck(Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (release, stuck) = channel();
        let writer = LogWriter::start(Stuck(stuck)).unwrap();
        for _ in 0..40 {
            writer.take(&mut b"0123456789abcde\n".repeat(4096), 4096);
        }
        // At most one piece is with the sink, and the rest waits.
        let lost = writer.take_lost();
        assert!(lost >= (40 - 16 - 16) * 4096, "{lost} lost");
        assert_eq!(writer.take_lost(), 0);
        drop(release);
    }

    #[test]
    fn whoever_learns_that_lines_were_lost_can_say_why() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let writer = LogWriter::start(Full).unwrap();
        for _ in 0..500 {
            writer.take(&mut b"0123456789abcde\n".repeat(GATHER_BYTES / 16), 1);
            while writer.take_lost() == 0 {
                std::hint::spin_loop();
            }
            assert!(writer.last_error().is_some());
        }
    }

    #[test]
    fn a_full_disk_loses_lines_and_leaves_those_that_follow_whole() {
        #[derive(Clone, Default)]
        struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);
        impl Write for Disk {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let (held, room) = &mut *self.0.lock().unwrap();
                if *room == 0 {
                    return Err(std::io::ErrorKind::StorageFull.into());
                }
                let taken = bytes.len().min(*room);
                held.extend_from_slice(&bytes[..taken]);
                *room -= taken;
                Ok(taken)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let disk = Disk::default();
        disk.0.lock().unwrap().1 = 10;
        let mut writing = Writing { shared: Arc::default(), sink: disk.clone(), torn: false };
        writing.write(&mut b"line 1\nline 2\nline 3\n".to_vec());
        writing.write(&mut b"line 4\n".to_vec());
        assert_eq!(writing.shared.lost.swap(0, Ordering::Relaxed), 3);
        assert!(writing.shared.enter().last_error.is_some());
        disk.0.lock().unwrap().1 = 100;
        writing.write(&mut b"line 5\n".to_vec());
        writing.write(&mut b"line 6\n".to_vec());
        assert_eq!(writing.shared.lost.load(Ordering::Relaxed), 0);
        assert_eq!(disk.0.lock().unwrap().0, b"line 1\nlin\nline 5\nline 6\n");
    }
}
