//! A spool takes a request's body to a file as it comes in, so that no thread of the application waits for a client.
//!
//! The file has no name, and one holder at a time: the desk, which has the bytes; the thread that writes them, because a
//! disk may be waited for; the desk again; and in the end whoever reads `wsgi.input`. What a disk does not take comes back,
//! and the body is streamed from there. It knows no Python.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::pool::{Message, Pool};
use crate::core::Token;

/// A disk that takes nothing is told to the log this often.
const TELL_TROUBLE_EVERY: Duration = Duration::from_secs(60);

/// What all spooled bodies of a loop may have on the disk at once.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: u64,
    used_bytes: AtomicU64,
}

impl Budget {
    fn take(&self, bytes: u64) -> bool {
        // One thread takes, the loop's; others only give back.
        let fits = self.used_bytes.load(Ordering::Relaxed).saturating_add(bytes) <= self.limit_bytes;
        if fits {
            self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        fits
    }
}

/// The part of a body that is in a file. Its room in the budget is free again when it is dropped.
#[derive(Debug)]
pub struct SpooledBody {
    /// None until the first piece is written.
    file: Option<File>,
    /// Written, every one of them.
    bytes: u64,
    /// Of the budget; what is being written is among them.
    taken_bytes: u64,
    budget: Arc<Budget>,
}

impl SpooledBody {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Append up to `count` bytes from `offset` to `to`. May wait for the disk.
    pub fn read_at(&self, offset: u64, count: usize, to: &mut Vec<u8>) -> io::Result<usize> {
        let Some(file) = &self.file else { return Ok(0) };
        let count = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX).min(count);
        let before = to.len();
        to.resize(before + count, 0);
        let read = file.read_exact_at(&mut to[before..], offset);
        if read.is_err() {
            to.truncate(before);
        }
        read.map(|()| count)
    }

    fn append(&mut self, bytes: &[u8], directory: &Path) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(unnamed_file(directory)?);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        // A piece that was written in part is written again, over it, or not at all.
        io::Seek::seek(file, io::SeekFrom::Start(self.bytes))?;
        file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

impl Drop for SpooledBody {
    fn drop(&mut self) {
        self.budget.used_bytes.fetch_sub(self.taken_bytes, Ordering::Relaxed);
    }
}

/// A piece on its way to the file, and back.
#[derive(Debug)]
pub struct Piece {
    pub token: Token,
    pub body: SpooledBody,
    /// What is not written: all of it on the way, all or nothing on the way back.
    pub bytes: Vec<u8>,
    pub written: io::Result<()>,
}

/// The loop's end of the thread that writes. It starts with the first body that needs it.
pub struct Spooler {
    pool: Arc<Pool>,
    budget: Arc<Budget>,
    directory: PathBuf,
    thread: Option<Sender<Errand>>,
    trouble_told_at: Option<Instant>,
}

enum Errand {
    Write(Piece),
    /// Let it go: freeing a file may take its time.
    Drop(SpooledBody),
}

impl Spooler {
    /// `limit_bytes` of all bodies together; 0 spools none.
    pub fn new(pool: Arc<Pool>, limit_bytes: u64) -> Self {
        let budget = Arc::new(Budget { limit_bytes, used_bytes: AtomicU64::new(0) });
        Spooler { pool, budget, directory: std::env::temp_dir(), thread: None, trouble_told_at: None }
    }

    /// Whether bodies are spooled at all.
    pub fn is_on(&self) -> bool {
        self.budget.limit_bytes > 0
    }

    pub fn begin(&self) -> SpooledBody {
        SpooledBody { file: None, bytes: 0, taken_bytes: 0, budget: self.budget.clone() }
    }

    /// Have bytes written behind those of `body`; a message tells when they are. They come back at once if there is no
    /// room for them.
    pub fn write(&mut self, token: Token, mut body: SpooledBody, bytes: Vec<u8>) -> Result<(), (SpooledBody, Vec<u8>)> {
        if !self.budget.take(bytes.len() as u64) {
            return Err((body, bytes));
        }
        body.taken_bytes += bytes.len() as u64;
        match self.give(Errand::Write(Piece { token, body, bytes, written: Ok(()) })) {
            Err(Errand::Write(piece)) => Err((piece.body, piece.bytes)),
            Err(Errand::Drop(_)) | Ok(()) => Ok(()),
        }
    }

    pub fn discard(&mut self, body: SpooledBody) {
        if body.file.is_some() {
            let _ = self.give(Errand::Drop(body));
        }
    }

    /// What to tell the log of a disk that did not take a piece, unless it was told lately.
    pub fn trouble(&mut self, error: &io::Error, now: Instant) -> Option<String> {
        if self.trouble_told_at.is_some_and(|at| now.saturating_duration_since(at) < TELL_TROUBLE_EVERY) {
            return None;
        }
        self.trouble_told_at = Some(now);
        let directory = self.directory.display();
        Some(format!("Cannot keep a request's body in {directory} (TMPDIR), so threads wait for clients: {error}"))
    }

    fn give(&mut self, errand: Errand) -> Result<(), Errand> {
        let thread = match &self.thread {
            Some(thread) => thread,
            None => match start(self.pool.clone(), self.directory.clone()) {
                Ok(thread) => self.thread.insert(thread),
                Err(_) => return Err(errand),
            },
        };
        thread.send(errand).map_err(|refused| refused.0)
    }
}

/// It ends when the loop's end of it is dropped.
fn start(pool: Arc<Pool>, directory: PathBuf) -> io::Result<Sender<Errand>> {
    let (sender, errands) = channel();
    let builder = std::thread::Builder::new().name("penstock-spool".into());
    builder.spawn(move || run(&errands, &directory, |piece| pool.send(Message::Spooled(piece))))?;
    Ok(sender)
}

fn run(errands: &Receiver<Errand>, directory: &Path, done: impl Fn(Piece)) {
    for errand in errands {
        match errand {
            Errand::Write(mut piece) => {
                piece.written = piece.body.append(&piece.bytes, directory);
                if piece.written.is_ok() {
                    piece.bytes.clear();
                }
                done(piece);
            }
            Errand::Drop(body) => drop(body),
        }
    }
}

/// A file for its holder alone, gone when that closes it, however the process ends (open(2), O_TMPFILE).
fn unnamed_file(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    #[cfg(target_os = "linux")]
    match options.clone().custom_flags(libc::O_TMPFILE).open(directory) {
        // File systems that have none, and kernels that do not know it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {}
        opened => return opened,
    }
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = directory.join(format!("penstock-body-{}-{number}", std::process::id()));
    let file = options.create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(limit_bytes: u64) -> SpooledBody {
        let budget = Arc::new(Budget { limit_bytes, used_bytes: AtomicU64::new(0) });
        SpooledBody { file: None, bytes: 0, taken_bytes: 0, budget }
    }

    fn write(body: SpooledBody, bytes: &[u8], directory: &Path) -> Piece {
        let (sender, errands) = channel();
        let piece = Piece { token: Token::new(1, 1), body, bytes: bytes.to_vec(), written: Ok(()) };
        assert!(sender.send(Errand::Write(piece)).is_ok());
        drop(sender);
        let back = std::cell::RefCell::new(None);
        run(&errands, directory, |piece| drop(back.replace(Some(piece))));
        back.into_inner().unwrap()
    }

    #[test]
    fn pieces_are_read_as_one_body() {
        let first = write(body(100), b"one", &std::env::temp_dir());
        assert!(first.written.is_ok() && first.bytes.is_empty());
        let second = write(first.body, b"two", &std::env::temp_dir());
        let mut read = b"zero".to_vec();
        assert_eq!(second.body.read_at(1, 100, &mut read).unwrap(), 5);
        assert_eq!(read, b"zeronetwo");
        assert_eq!(second.body.read_at(6, 100, &mut read).unwrap(), 0);
    }

    #[test]
    fn what_is_not_written_comes_back_and_what_was_can_be_read() {
        let written = write(body(100), b"one", &std::env::temp_dir());
        let nowhere = write(body(100), b"two", Path::new("/no/such/directory"));
        assert_eq!((nowhere.written.unwrap_err().kind(), &nowhere.bytes[..]), (io::ErrorKind::NotFound, &b"two"[..]));
        let mut read = Vec::new();
        assert_eq!(nowhere.body.read_at(0, 100, &mut read).unwrap(), 0);
        assert_eq!(written.body.read_at(0, 2, &mut read).unwrap(), 2);
        assert_eq!(read, b"on");
    }

    #[test]
    fn room_is_taken_once_and_given_back() {
        let mut first = body(10);
        let budget = first.budget.clone();
        assert!(budget.take(7));
        first.taken_bytes = 7;
        assert!(!budget.take(4));
        drop(first);
        assert!(budget.take(10));
    }

    #[test]
    fn a_spooled_file_has_no_name() {
        let directory = std::env::temp_dir().join(format!("penstock-spool-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let piece = write(body(100), b"one", &directory);
        assert!(piece.written.is_ok());
        std::fs::remove_dir(&directory).unwrap();
    }
}
