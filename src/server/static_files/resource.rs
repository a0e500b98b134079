//! A Resource is a file as it is answered with: itself, and the encoded copies that lie beside it.
//!
//! Everything that does not depend on the request is made when the file is loaded: validators, header lines, the bytes of
//! a small one. A representation never changes; a changed file becomes a new one.

use std::fmt::Write;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Stat};

use super::coding::Coding;
use super::conditional::Validators;
use crate::server::http::{HeaderLines, NativePiece};

/// A file that was changed this recently may have been changed again within the same tick of its clock.
const UNSETTLED: Duration = Duration::from_secs(2);

/// What tells that a file is still the one that was looked at, and unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    device: u64,
    inode: u64,
    pub bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, u64),
    /// Of the inode: it moves even when the time of modification was set back.
    changed: (i64, u64),
}

impl Fingerprint {
    /// `None` for anything but a regular file.
    pub fn of(status: &Stat) -> Option<Self> {
        (FileType::from_raw_mode(status.st_mode) == FileType::RegularFile).then_some(Fingerprint {
            device: status.st_dev,
            inode: status.st_ino,
            bytes: u64::try_from(status.st_size).ok()?,
            modified: (status.st_mtime, status.st_mtime_nsec),
            changed: (status.st_ctime, status.st_ctime_nsec),
        })
    }

    /// Strong: time and size. The inode is left out, because servers that hold copies of one file should agree.
    fn etag(&self, coding: Option<Coding>) -> String {
        let nanoseconds = i128::from(self.modified.0) * 1_000_000_000 + i128::from(self.modified.1);
        let (dash, coding) = coding.map_or(("", ""), |coding| ("-", coding.name()));
        format!("\"{nanoseconds:x}-{:x}{dash}{coding}\"", self.bytes)
    }

    /// As Last-Modified tells it: whole seconds, and never later than now (RFC 9110 section 8.8.2.1).
    fn modified_s(&self, now: SystemTime) -> u64 {
        u64::try_from(self.modified.0).unwrap_or(0).min(since_1970(now).as_secs())
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let changed = Duration::new(u64::try_from(self.changed.0).unwrap_or(0), self.changed.1 as u32);
        since_1970(now).checked_sub(changed).is_some_and(|age| age >= UNSETTLED)
    }
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[derive(Debug)]
pub enum Content {
    Bytes(Arc<[u8]>),
    /// Too large to be kept in memory: sent from the file.
    File(Arc<OwnedFd>),
}

#[derive(Debug)]
pub struct Representation {
    pub fingerprint: Fingerprint,
    pub content: Content,
    pub coding: Option<Coding>,
    /// The fingerprint tells of every change since it was taken.
    pub is_settled: bool,
    etag: String,
    modified_s: u64,
    /// The validators' lines, those of every full or partial answer, and Content-Type's.
    lines: Arc<[u8]>,
    validator_bytes: usize,
    common_bytes: usize,
}

/// What all representations of one file have in common.
#[derive(Clone, Copy, Debug)]
pub struct Traits<'a> {
    pub content_type: &'a str,
    pub cache_control: Option<&'a str>,
    /// Whether the answer depends on Accept-Encoding.
    pub varies: bool,
}

impl Representation {
    pub fn new(fingerprint: Fingerprint, content: Content, coding: Option<Coding>, traits: Traits<'_>) -> Self {
        let now = SystemTime::now();
        let (etag, modified_s) = (fingerprint.etag(coding), fingerprint.modified_s(now));
        let modified = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(modified_s.min(MAX_DATE_S)));
        let mut lines = format!("etag: {etag}\r\nlast-modified: {modified}\r\n");
        // Writing to a String cannot fail.
        if let Some(cache_control) = traits.cache_control {
            let _ = write!(lines, "cache-control: {cache_control}\r\n");
        }
        if traits.varies {
            lines.push_str("vary: accept-encoding\r\n");
        }
        let validator_bytes = lines.len();
        lines.push_str("accept-ranges: bytes\r\nx-content-type-options: nosniff\r\n");
        if let Some(coding) = coding {
            let _ = write!(lines, "content-encoding: {}\r\n", coding.name());
        }
        let common_bytes = lines.len();
        let _ = write!(lines, "content-type: {}\r\n", traits.content_type);
        Representation {
            fingerprint,
            content,
            coding,
            is_settled: fingerprint.is_settled(now),
            etag,
            modified_s,
            lines: lines.into_bytes().into(),
            validator_bytes,
            common_bytes,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.fingerprint.bytes
    }

    pub fn validators(&self) -> Validators<'_> {
        Validators { etag: self.etag.as_bytes(), modified_s: self.modified_s }
    }

    /// The lines of a 304.
    pub fn validator_lines(&self) -> HeaderLines {
        HeaderLines { shared: self.lines.clone(), shared_bytes: self.validator_bytes, own: Vec::new() }
    }

    /// The lines of a 206 with a Content-Type of its own, and others.
    pub fn common_lines(&self, own: Vec<u8>) -> HeaderLines {
        HeaderLines { shared: self.lines.clone(), shared_bytes: self.common_bytes, own }
    }

    /// All lines, and others.
    pub fn all_lines(&self, own: Vec<u8>) -> HeaderLines {
        HeaderLines { shared: self.lines.clone(), shared_bytes: self.lines.len(), own }
    }

    /// The line that tells the content's type.
    pub fn content_type_line(&self) -> &[u8] {
        &self.lines[self.common_bytes..]
    }

    /// A part of the content.
    pub fn piece(&self, range: Range<u64>) -> NativePiece {
        // On the 64-bit machines this is for, a file's size fits.
        let (start, end) = (range.start as usize, range.end as usize);
        match &self.content {
            Content::Bytes(bytes) => NativePiece::Shared(bytes.clone(), start..end),
            Content::File(file) => NativePiece::File { file: file.clone(), offset: range.start, bytes: end - start },
        }
    }

    /// Whether the open file was changed since it was loaded. (Bytes in memory are as they were.)
    pub fn has_changed(&self) -> bool {
        match &self.content {
            Content::Bytes(_) => false,
            Content::File(file) => {
                status(file).ok().and_then(|status| Fingerprint::of(&status)) != Some(self.fingerprint)
            }
        }
    }
}

/// The last second of the year 9999, the latest that an HTTP date can tell.
const MAX_DATE_S: u64 = 253_402_300_799;

pub fn status(file: &OwnedFd) -> io::Result<Stat> {
    Ok(rustix::fs::fstat(file)?)
}

#[derive(Debug)]
pub struct Resource {
    pub plain: Arc<Representation>,
    /// The encoded copies beside it, one a coding at most.
    pub coded: Vec<Arc<Representation>>,
}

impl Resource {
    pub fn representations(&self) -> impl Iterator<Item = &Arc<Representation>> {
        std::iter::once(&self.plain).chain(&self.coded)
    }

    pub fn of_coding(&self, coding: Option<Coding>) -> Option<&Arc<Representation>> {
        self.representations().find(|representation| representation.coding == coding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(modified: (i64, u64), bytes: u64) -> Fingerprint {
        Fingerprint { device: 1, inode: 2, bytes, modified, changed: modified }
    }

    #[test]
    fn a_tag_differs_with_time_size_and_coding_and_not_with_the_inode() {
        let one = fingerprint((784_111_777, 5), 10);
        assert_eq!(one.etag(None), Fingerprint { inode: 3, device: 9, ..one }.etag(None));
        let tags = [
            one.etag(None),
            one.etag(Some(Coding::Gzip)),
            one.etag(Some(Coding::Brotli)),
            fingerprint((784_111_777, 6), 10).etag(None),
            fingerprint((784_111_777, 5), 11).etag(None),
            fingerprint((-1, 5), 10).etag(None),
        ];
        for (at, tag) in tags.iter().enumerate() {
            assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 2);
            assert!(!tags[..at].contains(tag), "{tag}");
        }
    }

    #[test]
    fn a_time_in_the_future_is_told_as_now() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(fingerprint((5000, 0), 1).modified_s(now), 1000);
        assert_eq!(fingerprint((500, 0), 1).modified_s(now), 500);
        assert_eq!(fingerprint((-500, 0), 1).modified_s(now), 0);
    }

    #[test]
    fn what_was_changed_a_moment_ago_is_not_settled() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        assert!(fingerprint((998, 0), 1).is_settled(now));
        assert!(!fingerprint((998, 1), 1).is_settled(now));
        assert!(!fingerprint((2000, 0), 1).is_settled(now));
    }
}
