//! A FileBody is a file, or a part of one, on its way into a response: read at once if it is small, else a range that
//! the kernel sends by itself.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::output::Body;

/// Up to here reading costs less than the system calls of a sendfile. It also bounds the descriptors that a response
/// can hold: those whose ranges fill its output up to the high watermark.
const READ_UP_TO_BYTES: u64 = 16 * 1024;

#[derive(Debug)]
pub enum FileBody {
    Read(Vec<u8>),
    Range { file: Arc<OwnedFd>, offset: u64, bytes: usize },
}

impl FileBody {
    /// The whole of the regular file at `path`. May wait for the disk.
    pub fn open(path: &Path) -> io::Result<Self> {
        // O_NONBLOCK: opening a pipe would wait for its writer; what is no regular file is refused below.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        Self::of(OpenOptions::new().read(true).custom_flags(flags).open(path)?, 0, None)
    }

    /// From `offset`, `count` bytes or all that there are, of somebody else's open file. May wait for the disk.
    pub fn duplicate(file: BorrowedFd<'_>, offset: u64, count: Option<u64>) -> io::Result<Self> {
        Self::of(file.try_clone_to_owned()?.into(), offset, count)
    }

    fn of(file: File, offset: u64, count: Option<u64>) -> io::Result<Self> {
        let status = file.metadata()?;
        if status.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::EISDIR));
        }
        if !status.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a regular file is expected, not a device or pipe",
            ));
        }
        let there = status.len().saturating_sub(offset);
        let bytes = count.map_or(there, |count| count.min(there));
        if bytes <= READ_UP_TO_BYTES {
            return read(&file, offset, bytes as usize).map(FileBody::Read);
        }
        Ok(FileBody::Range { file: Arc::new(file.into()), offset, bytes: bytes as usize })
    }

    pub fn bytes(&self) -> usize {
        match self {
            FileBody::Read(bytes) => bytes.len(),
            FileBody::Range { bytes, .. } => *bytes,
        }
    }

    pub fn as_body(&self) -> Body<'_> {
        match self {
            FileBody::Read(bytes) => Body::Copied(bytes),
            FileBody::Range { file, offset, bytes } => {
                Body::File { file: file.clone(), offset: *offset, bytes: *bytes }
            }
        }
    }
}

/// `bytes` from `offset`, or as many as there are by now.
fn read(file: &File, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let (mut buffer, mut filled) = (vec![0; bytes], 0);
    while filled < bytes {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::{AsFd, FromRawFd};

    use super::*;

    fn file_of(bytes: usize) -> File {
        // SAFETY: the name is a C string; the descriptor is new, and nobody else's.
        let mut file = unsafe { File::from_raw_fd(libc::memfd_create(c"body".as_ptr(), libc::MFD_CLOEXEC)) };
        file.write_all(&vec![b'x'; bytes]).unwrap();
        file
    }

    #[test]
    fn a_small_file_is_read_and_a_large_one_is_a_range() {
        let small = file_of(10);
        assert!(matches!(FileBody::duplicate(small.as_fd(), 3, None), Ok(FileBody::Read(read)) if read == b"xxxxxxx"));
        let large = file_of(100_000);
        let whole = FileBody::duplicate(large.as_fd(), 0, None).unwrap();
        assert!(matches!(whole, FileBody::Range { offset: 0, bytes: 100_000, .. }));
        let part = FileBody::duplicate(large.as_fd(), 50_000, Some(20_000)).unwrap();
        assert!(matches!(part, FileBody::Range { offset: 50_000, bytes: 20_000, .. }));
    }

    #[test]
    fn a_range_beyond_the_end_is_what_there_is() {
        let file = file_of(10);
        assert_eq!(FileBody::duplicate(file.as_fd(), 8, Some(u64::MAX)).unwrap().bytes(), 2);
        assert_eq!(FileBody::duplicate(file.as_fd(), u64::MAX, None).unwrap().bytes(), 0);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let directory = FileBody::open(Path::new("/")).unwrap_err();
        assert_eq!(directory.raw_os_error(), Some(libc::EISDIR));
        assert_eq!(FileBody::open(Path::new("/dev/null")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(FileBody::open(Path::new("/no/such/file")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let (reader, _writer) = io::pipe().unwrap();
        assert_eq!(FileBody::duplicate(reader.as_fd(), 0, None).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
