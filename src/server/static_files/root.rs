//! A Root is a directory that is served, and the only way to what is in it: no name, link or race leads out.
//!
//! The kernel sees to that (`openat2` with RESOLVE_BENEATH, since Linux 5.6), relative to a descriptor that the root owns:
//! links inside the directory work, links that leave it (among them all absolute ones) do not. Where there is no openat2
//! each segment is opened by itself and links are not followed at all.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How often a lookup that a rename disturbed is tried again.
const MAX_TRIES: usize = 8;

/// Whether a call may wait for the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effort {
    /// Only what the kernel has in memory; else `io::ErrorKind::WouldBlock`. Where the kernel cannot tell, it waits.
    InMemory,
    Wait,
}

/// How names are kept inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Confinement {
    /// By openat2; `in_memory`: it can also refuse to wait (RESOLVE_CACHED, since Linux 5.12).
    Kernel { in_memory: bool },
    /// By opening each segment by itself.
    Walk,
}

impl Confinement {
    /// What this kernel, or what filters its system calls, allows.
    fn probe(directory: BorrowedFd<'_>) -> Self {
        let possible = |resolve| match rustix::fs::openat2(directory, ".", OFlags::PATH, Mode::empty(), resolve) {
            Ok(_) => true,
            Err(errno) => errno == Errno::AGAIN,
        };
        match () {
            () if possible(BENEATH | ResolveFlags::CACHED) => Confinement::Kernel { in_memory: true },
            () if possible(BENEATH) => Confinement::Kernel { in_memory: false },
            () => Confinement::Walk,
        }
    }
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
/// Opening a pipe would wait for its other end, and a terminal could become ours: neither does, and neither is served.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    directory: OwnedFd,
    /// Device and inode.
    identity: (u64, u64),
    confinement: Confinement,
}

impl Root {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let status = rustix::fs::fstat(&directory)?;
        let confinement = Confinement::probe(directory.as_fd());
        Ok(Root { path: path.to_owned(), directory, identity: (status.st_dev, status.st_ino), confinement })
    }

    pub fn confinement(&self) -> Confinement {
        self.confinement
    }

    /// The directory that is at the root's path by now, if it is another: deployments replace whole directories.
    pub fn replacement(&self) -> Option<Root> {
        let status = rustix::fs::stat(&self.path).ok()?;
        if (status.st_dev, status.st_ino) == self.identity {
            return None;
        }
        // Not a directory, or gone again: what is held goes on being served.
        Root::open(&self.path).ok()
    }

    /// Open what `name` (of `path::name_below`) names, to be read, whatever it is.
    pub fn open_below(&self, name: &[u8], effort: Effort) -> io::Result<OwnedFd> {
        self.resolve(name, READ, effort)
    }

    /// A descriptor of what `name` names, only to be looked at: opening it so has no effect, not even on a device.
    pub fn look_below(&self, name: &[u8]) -> io::Result<OwnedFd> {
        self.resolve(name, OFlags::PATH | OFlags::CLOEXEC, Effort::Wait)
    }

    fn resolve(&self, name: &[u8], flags: OFlags, effort: Effort) -> io::Result<OwnedFd> {
        let name = if name.is_empty() { b"." } else { name };
        let Confinement::Kernel { in_memory } = self.confinement else {
            return walk(self.directory.as_fd(), name, flags);
        };
        let in_memory = in_memory && effort == Effort::InMemory;
        let resolve = if in_memory { BENEATH | ResolveFlags::CACHED } else { BENEATH };
        for _ in 0..MAX_TRIES {
            match rustix::fs::openat2(&self.directory, name, flags, Mode::empty(), resolve) {
                Err(Errno::INTR) => {}
                // Something was renamed meanwhile, and the kernel cannot be sure.
                Err(Errno::AGAIN) if !in_memory => {}
                outcome => return Ok(outcome?),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Open `name` segment by segment. Links are refused (as ELOOP): where they lead cannot be watched.
fn walk(root: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let (name, wants_directory) = match name.strip_suffix(b"/") {
        Some(stripped) => (stripped, OFlags::DIRECTORY),
        None => (name, OFlags::empty()),
    };
    let mut segments = name.split(|&byte| byte == b'/').peekable();
    let mut at: Option<OwnedFd> = None;
    while let Some(segment) = segments.next() {
        if segment == b".." {
            return Err(Errno::XDEV.into());
        }
        let is_last = segments.peek().is_none();
        let flags = if is_last { flags | OFlags::NOFOLLOW | wants_directory } else { step };
        let directory = at.as_ref().map_or(root, AsFd::as_fd);
        let opened = rustix::fs::openat(directory, segment, flags, Mode::empty())?;
        // O_PATH opens a link itself, where O_NOFOLLOW alone would refuse it.
        if is_last && flags.contains(OFlags::PATH) && file_type(&opened)? == rustix::fs::FileType::Symlink {
            return Err(Errno::LOOP.into());
        }
        at = Some(opened);
    }
    at.ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn file_type(fd: &OwnedFd) -> io::Result<rustix::fs::FileType> {
    Ok(rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

#[cfg(test)]
impl Root {
    /// As on a kernel without openat2.
    pub fn without_openat2(path: &Path) -> Self {
        Root { confinement: Confinement::Walk, ..Root::open(path).unwrap() }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::server::static_files::testing::Directory;

    /// `served` beside `outside`, with links of all kinds.
    fn directory() -> (Directory, PathBuf) {
        let directory = Directory::new();
        let served = directory.path().join("served");
        fs::create_dir_all(served.join("sub/deep")).unwrap();
        fs::write(directory.path().join("outside"), "secret").unwrap();
        fs::write(served.join("file"), "inside").unwrap();
        fs::write(served.join("sub/file"), "inside").unwrap();
        symlink("file", served.join("link")).unwrap();
        symlink("../sub/file", served.join("sub/up")).unwrap();
        symlink("sub", served.join("linked-directory")).unwrap();
        symlink("../outside", served.join("out")).unwrap();
        symlink("../../../../../../../../etc/passwd", served.join("sub/far")).unwrap();
        symlink(directory.path().join("outside"), served.join("absolute")).unwrap();
        symlink(served.join("file"), served.join("absolute-inside")).unwrap();
        symlink("..", served.join("parent")).unwrap();
        symlink("/proc/self/cwd/Cargo.toml", served.join("magic")).unwrap();
        symlink("loop", served.join("loop")).unwrap();
        (directory, served)
    }

    fn read(root: &Root, name: &str) -> Option<String> {
        let mut text = String::new();
        fs::File::from(root.open_below(name.as_bytes(), Effort::Wait).ok()?).read_to_string(&mut text).ok()?;
        Some(text)
    }

    #[test]
    fn the_kernel_keeps_names_inside_and_follows_links_that_stay() {
        let (_directory, served) = directory();
        let root = Root::open(&served).unwrap();
        assert!(matches!(root.confinement(), Confinement::Kernel { .. }), "the tests need Linux 5.6");
        for name in ["file", "sub/file", "link", "sub/up", "linked-directory/file"] {
            assert_eq!(read(&root, name).as_deref(), Some("inside"), "{name}");
        }
        leads_nowhere_outside(&root);
    }

    #[test]
    fn without_openat2_no_link_is_followed() {
        let (_directory, served) = directory();
        let root = Root::without_openat2(&served);
        for name in ["file", "sub/file"] {
            assert_eq!(read(&root, name).as_deref(), Some("inside"), "{name}");
        }
        for name in ["link", "sub/up", "linked-directory/file"] {
            assert_eq!(read(&root, name), None, "{name}");
        }
        assert!(root.open_below(b"sub/", Effort::Wait).is_ok());
        assert!(root.look_below(b"link").is_err());
        assert!(root.open_below(b"file/", Effort::Wait).is_err());
        leads_nowhere_outside(&root);
    }

    fn leads_nowhere_outside(root: &Root) {
        for name in [
            "out",
            "sub/far",
            "absolute",
            "absolute-inside",
            "parent/outside",
            "magic",
            "loop",
            "../outside",
            "sub/../../outside",
            "/etc/passwd",
            "file/x",
            "absent",
        ] {
            assert_eq!(read(root, name), None, "{name}");
            assert!(root.look_below(name.as_bytes()).is_err(), "{name}");
        }
    }

    #[test]
    fn a_segment_that_becomes_a_link_while_it_is_looked_up_leads_nowhere() {
        let (directory, served) = directory();
        let root = Root::open(&served).unwrap();
        fs::create_dir(directory.path().join("other")).unwrap();
        fs::write(directory.path().join("other/file"), "secret").unwrap();
        symlink("../other", served.join("evil")).unwrap();
        let (stop, served) = (std::sync::atomic::AtomicBool::new(false), &served);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(CWD, served.join("sub"), CWD, served.join("evil"), flags).unwrap();
                }
            });
            for _ in 0..5000 {
                assert_ne!(read(&root, "sub/file").as_deref(), Some("secret"));
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn a_directory_that_was_replaced_is_noticed_and_one_that_is_gone_is_kept() {
        let (directory, served) = directory();
        let root = Root::open(&served).unwrap();
        assert!(root.replacement().is_none());
        fs::rename(&served, directory.path().join("old")).unwrap();
        assert!(root.replacement().is_none());
        assert_eq!(read(&root, "file").as_deref(), Some("inside"));
        fs::create_dir(&served).unwrap();
        fs::write(served.join("file"), "new").unwrap();
        assert_eq!(read(&root.replacement().unwrap(), "file").as_deref(), Some("new"));
    }
}
