//! Where lines go: a file that can be opened anew, or a descriptor that was there already.

use std::fs::File;
use std::io::{ErrorKind, Result, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// A write of at most so many bytes to a pipe is not mixed with another process's (pipe(7), PIPE_BUF).
const PIPE_PIECE_BYTES: usize = 4096;
/// Held while lines are written to a descriptor that several logs of this process may share.
static WRITING: Mutex<()> = Mutex::new(());

/// Takes whole lines, on the writer's thread, and may take its time.
pub trait LogSink: Send {
    /// Write all; otherwise how much was written before what error.
    fn write_lines(&mut self, lines: &[u8]) -> std::result::Result<(), (usize, std::io::Error)>;

    /// The file has been renamed: go on with a new one of its name.
    fn reopen(&mut self) -> Result<()> {
        Ok(())
    }
}

impl<W: Write + Send> LogSink for W {
    fn write_lines(&mut self, lines: &[u8]) -> std::result::Result<(), (usize, std::io::Error)> {
        write_all(self, lines)
    }
}

/// A file that lines are appended to.
pub struct NamedSink {
    path: PathBuf,
    file: File,
}

impl NamedSink {
    pub fn open(path: &Path) -> Result<Self> {
        Ok(NamedSink { path: path.to_owned(), file: open(path)? })
    }
}

impl LogSink for NamedSink {
    fn write_lines(&mut self, lines: &[u8]) -> std::result::Result<(), (usize, std::io::Error)> {
        write_all(&mut self.file, lines)
    }

    fn reopen(&mut self) -> Result<()> {
        self.file = open(&self.path)?;
        Ok(())
    }
}

fn open(path: &Path) -> Result<File> {
    File::options().append(true).create(true).mode(0o640).open(path)
}

/// A descriptor that others may write to as well, such as standard output.
pub struct SharedSink {
    file: File,
    is_pipe: bool,
}

impl SharedSink {
    pub fn new(fd: OwnedFd) -> Self {
        let file = File::from(fd);
        let is_pipe = file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
        SharedSink { file, is_pipe }
    }
}

impl LogSink for SharedSink {
    fn write_lines(&mut self, lines: &[u8]) -> std::result::Result<(), (usize, std::io::Error)> {
        let _whole_lines = WRITING.lock();
        if !self.is_pipe {
            return write_all(&mut self.file, lines);
        }
        let mut written = 0;
        while written < lines.len() {
            let piece = whole_lines(&lines[written..], PIPE_PIECE_BYTES);
            write_all(&mut self.file, piece).map_err(|(part, error)| (written + part, error))?;
            written += piece.len();
        }
        Ok(())
    }
}

/// As many lines from the start as fit into `max_bytes`; at least one.
fn whole_lines(lines: &[u8], max_bytes: usize) -> &[u8] {
    let within = &lines[..lines.len().min(max_bytes)];
    let end = within.iter().rposition(|&byte| byte == b'\n').or_else(|| lines.iter().position(|&byte| byte == b'\n'));
    &lines[..end.map_or(lines.len(), |end| end + 1)]
}

fn write_all(to: &mut impl Write, bytes: &[u8]) -> std::result::Result<(), (usize, std::io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match to.write(&bytes[written..]) {
            Ok(0) => return Err((written, ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody has made the shared descriptor non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_given_whole_lines() {
        assert_eq!(whole_lines(b"one\ntwo\nthree\n", 9), b"one\ntwo\n");
        assert_eq!(whole_lines(b"one\ntwo\n", 100), b"one\ntwo\n");
        assert_eq!(whole_lines(b"a line that is too long\nb\n", 4), b"a line that is too long\n");
    }
}
