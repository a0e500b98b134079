//! Loading: what is there under a name, from the file system. By turns in the reactor, where nothing may wait for the
//! disk, and in the loader's thread, which may.
//!
//! A turn asks the kernel for what it has in memory (RESOLVE_CACHED, RWF_NOWAIT); only what it has not goes to the thread,
//! and so do listings, however warm, because they look at every file of a directory.

use std::io::{self, IoSliceMut};
use std::os::fd::{OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::fs::FileType;
use rustix::io::{Errno, ReadWriteFlags};

use super::coding::Coding;
use super::listing::{self, Listing};
use super::media_type;
use super::resource::{Content, Fingerprint, Representation, Resource, Traits, status};
use super::root::{Effort, Root};
use crate::core::mailbox::{MailSender, Mailbox};

/// Up to here a file's bytes are kept in memory and copied into the output; beyond, the kernel sends them from its own.
///
/// Server CPU of a keep-alive GET over loopback, copied against sendfile: 16 KiB 11.5 against 13 us, 32 KiB 14.7 against
/// 13.3, 100 KiB 105 against 22 (2026-11-23, two virtual cores, Linux 6.18, build without LTO; wrk -t1 -c32 -d2). Below the
/// crossing the second system call costs more than the copy.
pub const SMALL_FILE_BYTES: u64 = 16 * 1024;
/// A file that is being written may be seen half; then it is looked at again.
const MAX_TRIES: usize = 3;
/// Names that may wait for the thread.
const MAX_WAITING: usize = 256;

/// A mount's directory and how it is served: what loading depends on.
#[derive(Debug)]
pub struct Site {
    pub root: Root,
    pub rules: Rules,
}

#[derive(Clone, Default, Debug)]
pub struct Rules {
    /// Where the directory is mounted, as a listing shows it.
    pub prefix: String,
    /// The value of Cache-Control.
    pub cache_control: Option<String>,
    /// Directories without an index are listed.
    pub listing: bool,
    /// Names that begin with a dot are served.
    pub hidden: bool,
}

/// What there is under a name.
#[derive(Clone, Debug)]
pub enum Loaded {
    File(Arc<Resource>),
    Listing(Arc<Listing>),
    /// A directory, asked for without its slash.
    Directory,
    Absent,
    Failed(Failure),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The server may not read it.
    Denied,
    /// Out of descriptors or memory.
    Busy,
    /// The disk, or a file that never stands still.
    Unreadable,
}

/// Look at `name`. `known` is what was found the last time, whose parts are kept if they did not change. The only error
/// is `WouldBlock`: it takes more effort.
pub fn load(site: &Site, name: &[u8], known: Option<&Resource>, effort: Effort) -> io::Result<Loaded> {
    let outcome = if name.is_empty() || name.ends_with(b"/") {
        load_directory(site, name, known, effort)
    } else {
        load_file(site, name, known, effort)
    };
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
        Err(error) => Ok(explain(&error)),
        loaded => loaded,
    }
}

fn explain(error: &io::Error) -> Loaded {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => Loaded::Failed(Failure::Denied),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Loaded::Failed(Failure::Busy),
        // Not there; a link that leads out or nowhere; a name that cannot be; a socket; a device without a driver.
        Some(libc::ENOENT | libc::ENOTDIR | libc::EXDEV | libc::ELOOP | libc::ENAMETOOLONG | libc::EINVAL)
        | Some(libc::ENXIO | libc::ENODEV) => Loaded::Absent,
        None if error.kind() == io::ErrorKind::NotFound => Loaded::Absent,
        _ => Loaded::Failed(Failure::Unreadable),
    }
}

fn load_directory(site: &Site, name: &[u8], known: Option<&Resource>, effort: Effort) -> io::Result<Loaded> {
    let index = [name, b"index.html"].concat();
    let outcome = load_file(site, &index, known, effort);
    let is_absent = match &outcome {
        Ok(Loaded::File(_)) => return outcome,
        Ok(_) => true,
        Err(error) => matches!(explain(error), Loaded::Absent),
    };
    match (is_absent, site.rules.listing, effort) {
        (false, _, _) => outcome,
        (true, false, _) => Ok(Loaded::Absent),
        (true, true, Effort::InMemory) => Err(io::ErrorKind::WouldBlock.into()),
        (true, true, Effort::Wait) => listing::load(site, name).map(|page| Loaded::Listing(Arc::new(page))),
    }
}

fn load_file(site: &Site, name: &[u8], known: Option<&Resource>, effort: Effort) -> io::Result<Loaded> {
    let file = site.root.open_below(name, effort)?;
    let status = status(&file)?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Ok(Loaded::Directory),
        _ => return Ok(Loaded::Absent),
    }
    let coded: Vec<(Coding, OwnedFd)> = Coding::ALL
        .into_iter()
        .filter_map(|coding| open_coded(site, name, coding, effort).transpose())
        .collect::<io::Result<_>>()?;
    let content_type = media_type::of_name(name);
    let traits = Traits {
        content_type: &content_type,
        cache_control: site.rules.cache_control.as_deref(),
        varies: !coded.is_empty(),
    };
    let known_varies = known.is_some_and(|known| !known.coded.is_empty());
    let known = known.filter(|_| known_varies == traits.varies);
    let known_of = |coding| known.and_then(|known| known.of_coding(coding));
    let plain = load_representation(file, None, traits, known_of(None), effort)?;
    let coded = coded
        .into_iter()
        .map(|(coding, file)| load_representation(file, Some(coding), traits, known_of(Some(coding)), effort))
        .collect::<io::Result<_>>()?;
    Ok(Loaded::File(Arc::new(Resource { plain, coded })))
}

/// The copy of a file in this coding, if there is one that can be read.
fn open_coded(site: &Site, name: &[u8], coding: Coding, effort: Effort) -> io::Result<Option<(Coding, OwnedFd)>> {
    let name = [name, coding.suffix().as_bytes()].concat();
    match site.root.open_below(&name, effort) {
        Ok(file) if Fingerprint::of(&status(&file)?).is_some() => Ok(Some((coding, file))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
        Ok(_) | Err(_) => Ok(None),
    }
}

fn load_representation(
    file: OwnedFd,
    coding: Option<Coding>,
    traits: Traits<'_>,
    known: Option<&Arc<Representation>>,
    effort: Effort,
) -> io::Result<Arc<Representation>> {
    let file = Arc::new(file);
    for _ in 0..MAX_TRIES {
        let fingerprint = Fingerprint::of(&status(&file)?).ok_or(io::ErrorKind::NotFound)?;
        if let Some(known) = known.filter(|known| known.is_settled && known.fingerprint == fingerprint) {
            return Ok(known.clone());
        }
        if fingerprint.bytes > SMALL_FILE_BYTES {
            return Ok(Arc::new(Representation::new(fingerprint, Content::File(file), coding, traits)));
        }
        let bytes = read(&file, fingerprint.bytes as usize, effort)?;
        let after = Fingerprint::of(&status(&file)?);
        if bytes.len() as u64 == fingerprint.bytes && after == Some(fingerprint) {
            return Ok(Arc::new(Representation::new(fingerprint, Content::Bytes(bytes.into()), coding, traits)));
        }
    }
    Err(io::Error::other("a file changes faster than it can be read"))
}

/// `bytes` from a file's start, or as many as there are by now.
fn read(file: &Arc<OwnedFd>, bytes: usize, effort: Effort) -> io::Result<Vec<u8>> {
    let (mut buffer, mut filled) = (vec![0; bytes], 0);
    while filled < bytes {
        let outcome = match effort {
            Effort::InMemory => read_in_memory(file, &mut buffer[filled..], filled as u64),
            Effort::Wait => read_waiting(file, &mut buffer[filled..], filled as u64),
        };
        match outcome {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

fn read_in_memory(file: &OwnedFd, into: &mut [u8], offset: u64) -> io::Result<usize> {
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(into)], offset, ReadWriteFlags::NOWAIT) {
        // A file system that cannot tell.
        Err(Errno::OPNOTSUPP) => read_waiting(file, into, offset),
        outcome => Ok(outcome?),
    }
}

fn read_waiting(file: &OwnedFd, into: &mut [u8], offset: u64) -> io::Result<usize> {
    Ok(rustix::io::pread(file, into, offset)?)
}

/// A name to be looked at with all the effort it takes.
pub struct Job {
    pub mount: usize,
    pub name: Box<[u8]>,
    pub site: Arc<Site>,
    pub known: Option<Arc<Resource>>,
}

/// What came of it.
pub struct Finished {
    pub mount: usize,
    pub name: Box<[u8]>,
    pub site: Arc<Site>,
    pub loaded: Loaded,
}

/// The thread that waits for disks, started when it is first needed. It ends when its Loader is gone and nobody waits for
/// it: a disk that hangs must not keep a server from stopping.
pub struct Loader {
    mailbox: Mailbox<Finished>,
    jobs: Option<SyncSender<Job>>,
}

impl Loader {
    pub fn new() -> io::Result<Self> {
        Ok(Loader { mailbox: Mailbox::new()?, jobs: None })
    }

    /// Becomes readable when something is finished.
    pub fn fd(&self) -> RawFd {
        self.mailbox.fd()
    }

    /// Have a job done. Given back when too many wait already, or no thread can be started.
    pub fn submit(&mut self, job: Job) -> Result<(), Job> {
        if self.jobs.is_none() {
            let (sender, jobs) = sync_channel(MAX_WAITING);
            let mail = self.mailbox.sender();
            let started = std::thread::Builder::new().name("penstock-files".into()).spawn(move || work(&jobs, &mail));
            self.jobs = started.ok().map(|_| sender);
        }
        match &self.jobs {
            Some(jobs) => jobs.try_send(job).map_err(|refused| match refused {
                std::sync::mpsc::TrySendError::Full(job) | std::sync::mpsc::TrySendError::Disconnected(job) => job,
            }),
            None => Err(job),
        }
    }

    /// Take note of the wake-up. Before taking what is finished.
    pub fn heard(&self) {
        self.mailbox.heard();
    }

    pub fn take(&self) -> Option<Finished> {
        self.mailbox.take()
    }
}

fn work(jobs: &Receiver<Job>, mail: &MailSender<Finished>) {
    while let Ok(Job { mount, name, site, known }) = jobs.recv() {
        // Whoever waits is answered, even by a bug of ours.
        let outcome = catch_unwind(AssertUnwindSafe(|| load(&site, &name, known.as_deref(), Effort::Wait)));
        let loaded = match outcome {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(_)) | Err(_) => Loaded::Failed(Failure::Unreadable),
        };
        if mail.send(Finished { mount, name, site, loaded }).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_by_whose_they_are() {
        let failure = |errno| match explain(&io::Error::from_raw_os_error(errno)) {
            Loaded::Failed(failure) => Some(failure),
            Loaded::Absent => None,
            other => panic!("{other:?}"),
        };
        for errno in [libc::ENOENT, libc::ENOTDIR, libc::EXDEV, libc::ELOOP, libc::ENAMETOOLONG, libc::ENXIO] {
            assert_eq!(failure(errno), None, "{errno}");
        }
        assert_eq!(failure(libc::EACCES), Some(Failure::Denied));
        assert_eq!(failure(libc::EMFILE), Some(Failure::Busy));
        assert_eq!(failure(libc::EIO), Some(Failure::Unreadable));
    }
}
