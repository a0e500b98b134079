//! Making sockets: listeners, connections and pairs. Each call owns what it opens until it hands it over whole.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::{fs, io};

use libc::c_int;

use super::error::{checked, during, errno_of};
use super::inet_address::{RawAddress, SocketAddress, UnixAddress};
use super::options;

/// How a listener is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted; the kernel's `somaxconn` is the upper bound.
    pub backlog: u32,
    /// Share the port with other listeners that say so too.
    pub reuse_port: bool,
    /// Whether an IPv6 listener refuses IPv4. Stated either way, since systems differ in their default.
    pub v6_only: bool,
    /// The mode of a Unix socket's file, set before the first connection is possible. `None`: as the umask has it.
    pub unix_mode: Option<u32>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions { backlog: 2048, reuse_port: false, v6_only: true, unix_mode: None }
    }
}

/// A listening socket, and the file it made if it is a Unix one.
///
/// Dropping it closes the descriptor and leaves the file: other processes may have inherited the socket. Whoever is
/// the last calls [`Listener::remove_file`].
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    address: SocketAddress,
    file: Option<FileIdentity>,
}

/// Tells a file from another one of the same name: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileIdentity(u64, u64);

impl FileIdentity {
    fn of(metadata: &fs::Metadata) -> Self {
        FileIdentity(metadata.dev(), metadata.ino())
    }
}

impl Listener {
    /// Listen at `address`; port 0 lets the kernel choose ([`Listener::address`] says what).
    ///
    /// A Unix socket's file is replaced only if it is a socket at which nobody listens any more.
    pub fn bind(address: &SocketAddress, options: &ListenOptions) -> io::Result<Self> {
        let fd = new_socket(address)?;
        match address {
            SocketAddress::Unix(UnixAddress::Path(path)) => bind_file(&fd, address, path, options)?,
            SocketAddress::Unix(_) => bind(&fd, address)?,
            SocketAddress::V4(_) | SocketAddress::V6(_) => bind_port(&fd, address, options)?,
        }
        let backlog = c_int::try_from(options.backlog).unwrap_or(c_int::MAX);
        // SAFETY: the descriptor is open.
        checked(unsafe { libc::listen(fd.as_raw_fd(), backlog) })
            .map_err(|error| during("listen at", address, error))?;
        Self::from_listening(fd)
    }

    /// Take over a socket that somebody else bound (`--fd`, socket activation). It is listening, or it is refused.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        if !options::LISTENING.get(&fd)? {
            let message =
                format!("descriptor {} is not listening; expected a bound and listening socket", fd.as_raw_fd());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        add_flags(&fd, libc::F_GETFL, libc::F_SETFL, libc::O_NONBLOCK)?;
        add_flags(&fd, libc::F_GETFD, libc::F_SETFD, libc::FD_CLOEXEC)?;
        Ok(Listener { file: None, ..Self::from_listening(fd)? })
    }

    fn from_listening(fd: OwnedFd) -> io::Result<Self> {
        let address = local_address(&fd)?;
        let file = match &address {
            SocketAddress::Unix(UnixAddress::Path(path)) => fs::symlink_metadata(path).ok(),
            _ => None,
        };
        Ok(Listener { file: file.as_ref().map(FileIdentity::of), fd, address })
    }

    /// Where it listens: with the port that the kernel chose.
    pub fn address(&self) -> &SocketAddress {
        &self.address
    }

    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Remove the file that `bind` made, unless another one has taken its place, or another process did.
    pub fn remove_file(&self) -> io::Result<()> {
        let (SocketAddress::Unix(UnixAddress::Path(path)), Some(file)) = (&self.address, self.file) else {
            return Ok(());
        };
        remove_if_same(path, file)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn bind_port(fd: &OwnedFd, address: &SocketAddress, options: &ListenOptions) -> io::Result<()> {
    options::REUSE_ADDRESS.set(fd, true)?;
    if options.reuse_port {
        options::REUSE_PORT.set(fd, true)?;
    }
    if matches!(address, SocketAddress::V6(_)) {
        options::V6_ONLY.set(fd, options.v6_only)?;
    }
    bind(fd, address)
}

fn bind_file(fd: &OwnedFd, address: &SocketAddress, path: &Path, options: &ListenOptions) -> io::Result<()> {
    match bind(fd, address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale_socket(path, address)?;
            bind(fd, address)?;
        }
        outcome => outcome?,
    }
    // Until `listen`, connections are refused whatever the mode.
    let Some(mode) = options.unix_mode else { return Ok(()) };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| during("chmod", path.display(), error))
}

/// Make way at `path` if what is there is a socket that refuses connections; otherwise say why not.
fn remove_stale_socket(path: &Path, address: &SocketAddress) -> io::Result<()> {
    let in_use = |reason: &str| {
        during("bind", format_args!("{address} ({reason})"), io::Error::from_raw_os_error(libc::EADDRINUSE))
    };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(during("lstat", path.display(), error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(in_use("a file that is no socket is there, and is not removed; choose another path"));
    }
    match connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A full backlog is somebody's, too.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
        _ => return Err(in_use("somebody is listening there already")),
    }
    remove_if_same(path, FileIdentity::of(&metadata))
}

fn remove_if_same(path: &Path, file: FileIdentity) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if FileIdentity::of(&metadata) == file => {
            fs::remove_file(path).map_err(|error| during("unlink", path.display(), error))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(during("lstat", path.display(), error)),
    }
}

/// Whether a connection is there, or on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectProgress {
    Connected,
    /// Writable when decided; [`take_error`] then says how.
    InProgress,
}

/// Begin to connect, without waiting.
pub fn connect(address: &SocketAddress) -> io::Result<(OwnedFd, ConnectProgress)> {
    begin_to_connect(new_socket(address)?, address)
}

fn begin_to_connect(fd: OwnedFd, address: &SocketAddress) -> io::Result<(OwnedFd, ConnectProgress)> {
    let raw = RawAddress::try_from(address)?;
    // SAFETY: the descriptor is open, and the address is as long as it says.
    match checked(unsafe { libc::connect(fd.as_raw_fd(), raw.as_ptr(), raw.length()) }) {
        Ok(_) => Ok((fd, ConnectProgress::Connected)),
        // A call that a signal interrupted goes on by itself, as connect(2) has it.
        Err(error) if matches!(errno_of(&error), Some(libc::EINPROGRESS | libc::EINTR)) => {
            Ok((fd, ConnectProgress::InProgress))
        }
        Err(error) => Err(during("connect to", address, error)),
    }
}

/// Begin to connect from an address of this machine, without waiting. The port is chosen when the destination is known, so
/// that connections to several of them share it.
pub fn connect_from(source: IpAddr, address: &SocketAddress) -> io::Result<(OwnedFd, ConnectProgress)> {
    let source = SocketAddress::from(SocketAddr::new(source, 0));
    let fd = new_socket(address)?;
    options::BIND_ADDRESS_NO_PORT.set(&fd, true)?;
    bind(&fd, &source)?;
    begin_to_connect(fd, address)
}

/// A connection that waits at a listener, if one does: non-blocking, and not inherited by children.
pub fn accept(listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let (listener, no_address) = (listener.as_fd().as_raw_fd(), std::ptr::null_mut());
    // SAFETY: the descriptor is open, and no address is asked for.
    let outcome =
        unsafe { libc::accept4(listener, no_address, std::ptr::null_mut(), libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) };
    match checked(outcome) {
        // SAFETY: the descriptor is new, and nobody else's.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(during("accept", "", error)),
    }
}

/// The address a socket is bound to.
pub fn local_address(socket: impl AsFd) -> io::Result<SocketAddress> {
    address_by("getsockname", libc::getsockname, socket.as_fd())
}

/// The address a socket is connected to.
pub fn peer_address(socket: impl AsFd) -> io::Result<SocketAddress> {
    address_by("getpeername", libc::getpeername, socket.as_fd())
}

type AddressCall = unsafe extern "C" fn(c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> c_int;

fn address_by(name: &'static str, call: AddressCall, socket: BorrowedFd<'_>) -> io::Result<SocketAddress> {
    let mut raw = RawAddress::empty();
    let (address, length) = raw.as_mut_ptrs();
    // SAFETY: the descriptor is open; the address has room for any, and its length says so.
    checked(unsafe { call(socket.as_raw_fd(), address, length) }).map_err(|error| during(name, "", error))?;
    raw.try_into()
}

/// Tell the peer that no more will be sent. Receiving goes on.
pub fn shutdown_write(socket: impl AsFd) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    let outcome = unsafe { libc::shutdown(socket.as_fd().as_raw_fd(), libc::SHUT_WR) };
    checked(outcome).map(drop).map_err(|error| during("shutdown", "", error))
}

/// The error that a socket has met since it was last asked (`SO_ERROR`), if any.
pub fn take_error(socket: impl AsFd) -> io::Result<Option<io::Error>> {
    let options::ErrorNumber(number) = options::ERROR.get(socket)?;
    Ok((number != 0).then(|| io::Error::from_raw_os_error(number)))
}

/// Two connected Unix stream sockets.
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: the array has room for the two.
    let outcome = unsafe { libc::socketpair(libc::AF_UNIX, STREAM, 0, fds.as_mut_ptr()) };
    checked(outcome).map_err(|error| during("socketpair", "", error))?;
    // SAFETY: the call opened both, and nobody else knows them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

const STREAM: c_int = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;

fn new_socket(address: &SocketAddress) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let fd = checked(unsafe { libc::socket(address.family(), STREAM, 0) })
        .map_err(|error| during("socket for", address, error))?;
    // SAFETY: the call opened it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bind(fd: &OwnedFd, address: &SocketAddress) -> io::Result<()> {
    let raw = RawAddress::try_from(address)?;
    // SAFETY: the descriptor is open, and the address is as long as it says.
    let outcome = unsafe { libc::bind(fd.as_raw_fd(), raw.as_ptr(), raw.length()) };
    checked(outcome).map(drop).map_err(|error| during("bind", address, error))
}

fn add_flags(fd: &OwnedFd, get: c_int, set: c_int, flags: c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open; these commands take no pointer.
    let present = checked(unsafe { libc::fcntl(fd.as_raw_fd(), get) }).map_err(|error| during("fcntl", "", error))?;
    // SAFETY: as above.
    let outcome = unsafe { libc::fcntl(fd.as_raw_fd(), set, present | flags) };
    checked(outcome).map(drop).map_err(|error| during("fcntl", "", error))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A directory of the test's own, removed with what is in it.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name = format!("penstock-net-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Directory(path)
        }

        fn socket(&self) -> (PathBuf, SocketAddress) {
            let path = self.0.join("socket");
            (path.clone(), SocketAddress::Unix(UnixAddress::path(&path).unwrap()))
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn listen(address: &SocketAddress) -> io::Result<Listener> {
        Listener::bind(address, &ListenOptions::default())
    }

    fn address(text: &str) -> SocketAddress {
        text.parse().unwrap()
    }

    /// Wait until the descriptor can do one of `events`.
    fn wait_for(fd: impl AsFd, events: i16) {
        let mut poll = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events, revents: 0 };
        // SAFETY: one pollfd, as told.
        let ready = unsafe { libc::poll(&mut poll, 1, 10_000) };
        assert_eq!(ready, 1, "nothing within ten seconds");
    }

    /// Accept with the kernel's call, as the poller does.
    fn accept(listener: &Listener) -> OwnedFd {
        wait_for(listener, libc::POLLIN);
        let fd = listener.as_fd().as_raw_fd();
        // SAFETY: the descriptor is open; no address is asked for.
        let fd = checked(unsafe { libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), 0) }).unwrap();
        // SAFETY: the call opened it.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    /// Connect, accept, and send a byte each way.
    fn talk(listener: &Listener) -> (OwnedFd, OwnedFd) {
        let (client, _) = connect(listener.address()).unwrap();
        let server = accept(listener);
        wait_for(&client, libc::POLLOUT);
        assert!(take_error(&client).unwrap().is_none());
        for (from, to) in [(&client, &server), (&server, &client)] {
            let byte = [b'x'; 1];
            File::from(from.try_clone().unwrap()).write_all(&byte).unwrap();
            wait_for(to, libc::POLLIN);
            let mut got = [0; 1];
            File::from(to.try_clone().unwrap()).read_exact(&mut got).unwrap();
            assert_eq!(got, byte);
        }
        (client, server)
    }

    fn errno<T: std::fmt::Debug>(outcome: io::Result<T>) -> Option<i32> {
        errno_of(&outcome.unwrap_err())
    }

    #[test]
    fn a_listener_of_every_family_takes_connections() {
        let directory = Directory::new();
        let abstract_name = format!("unix:@penstock-test-{}", std::process::id());
        for address in [address("127.0.0.1:0"), address("[::1]:0"), directory.socket().1, address(&abstract_name)] {
            let listener = listen(&address).unwrap_or_else(|error| panic!("{error}"));
            assert_ne!(listener.address().port(), Some(0));
            assert_eq!(listener.address().is_unix(), address.is_unix());
            let (client, server) = talk(&listener);
            assert_eq!(&local_address(&server).unwrap(), listener.address());
            assert_eq!(peer_address(&server).unwrap(), local_address(&client).unwrap());
            assert_eq!(&peer_address(&client).unwrap(), listener.address());
        }
    }

    #[test]
    fn sockets_are_non_blocking_and_closed_on_exec() {
        let listener = listen(&address("127.0.0.1:0")).unwrap();
        let (client, _) = connect(listener.address()).unwrap();
        let (left, right) = socket_pair().unwrap();
        for fd in [listener.as_fd(), client.as_fd(), left.as_fd(), right.as_fd()] {
            assert_eq!(flags_of(fd), (true, true));
        }
    }

    /// Whether a descriptor is non-blocking, and whether it is closed on exec.
    fn flags_of(fd: impl AsFd) -> (bool, bool) {
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: the descriptor is open; these commands take no pointer.
        let (status, own) = unsafe { (libc::fcntl(fd, libc::F_GETFL), libc::fcntl(fd, libc::F_GETFD)) };
        (status & libc::O_NONBLOCK != 0, own & libc::FD_CLOEXEC != 0)
    }

    #[test]
    fn a_port_can_be_bound_again_while_its_old_connections_time_out() {
        let listener = listen(&address("127.0.0.1:0")).unwrap();
        let (client, server) = talk(&listener);
        let address = listener.address().clone();
        drop(listener);
        // The server's side closes first, so TIME_WAIT is at its port.
        shutdown_write(&server).unwrap();
        wait_for(&client, libc::POLLIN);
        drop(client);
        wait_for(&server, libc::POLLIN);
        drop(server);
        listen(&address).unwrap_or_else(|error| panic!("{error}"));
    }

    #[test]
    fn a_taken_address_is_in_use_and_says_which() {
        let abstract_name = format!("unix:@penstock-taken-{}", std::process::id());
        for address in ["127.0.0.1:0", "[::1]:0", &abstract_name].map(address) {
            let first = listen(&address).unwrap();
            let error = listen(first.address()).unwrap_err();
            assert_eq!((error.kind(), errno_of(&error)), (io::ErrorKind::AddrInUse, Some(libc::EADDRINUSE)));
            assert!(error.to_string().starts_with(&format!("bind {}: ", first.address())), "{error}");
        }
    }

    #[test]
    fn a_port_is_shared_when_every_listener_says_so() {
        let shared = ListenOptions { reuse_port: true, ..ListenOptions::default() };
        let first = Listener::bind(&address("127.0.0.1:0"), &shared).unwrap();
        let second = Listener::bind(first.address(), &shared).unwrap();
        assert_eq!(first.address(), second.address());
        assert_eq!(errno(listen(first.address())), Some(libc::EADDRINUSE));
    }

    #[test]
    fn an_ipv6_listener_takes_ipv4_only_when_told_to() {
        let both = ListenOptions { v6_only: false, ..ListenOptions::default() };
        for (options, takes_ipv4) in [(ListenOptions::default(), false), (both, true)] {
            let listener = Listener::bind(&address("[::]:0"), &options).unwrap();
            assert_eq!(options::V6_ONLY.get(&listener).unwrap(), !takes_ipv4);
            if takes_ipv4 {
                let port = listener.address().port().unwrap();
                TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
                let SocketAddress::V6(peer) = peer_address(accept(&listener)).unwrap() else { panic!("mapped") };
                assert_eq!(peer.ip().to_ipv4_mapped(), Some([127, 0, 0, 1].into()));
            }
        }
    }

    #[test]
    fn a_live_unix_listener_is_not_replaced() {
        let directory = Directory::new();
        let (path, address) = directory.socket();
        let listener = listen(&address).unwrap();
        let error = listen(&address).unwrap_err();
        assert_eq!(errno_of(&error), Some(libc::EADDRINUSE));
        assert!(error.to_string().contains("somebody is listening there already"), "{error}");
        UnixStream::connect(path).expect("the first listener is untouched");
        drop(listener);
    }

    #[test]
    fn a_unix_listener_whose_backlog_is_full_is_not_replaced() {
        let directory = Directory::new();
        let (_, address) = directory.socket();
        let _listener = Listener::bind(&address, &ListenOptions { backlog: 0, ..ListenOptions::default() }).unwrap();
        let mut waiting = Vec::new();
        let full = loop {
            match connect(&address) {
                Ok(connection) => waiting.push(connection),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(errno(listen(&address)), Some(libc::EADDRINUSE));
    }

    #[test]
    fn a_stale_unix_socket_is_replaced() {
        let directory = Directory::new();
        let (path, address) = directory.socket();
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "closing leaves the file");
        talk(&listen(&address).unwrap());
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_removed() {
        let directory = Directory::new();
        let (path, address) = directory.socket();
        fs::write(&path, "precious").unwrap();
        let error = listen(&address).unwrap_err();
        assert_eq!(errno_of(&error), Some(libc::EADDRINUSE));
        assert!(error.to_string().contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        assert_eq!(errno(listen(&address)), Some(libc::EADDRINUSE));
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn a_unix_socket_has_the_mode_it_was_given() {
        let directory = Directory::new();
        let (path, address) = directory.socket();
        let options = ListenOptions { unix_mode: Some(0o620), ..ListenOptions::default() };
        let _listener = Listener::bind(&address, &options).unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o620);
    }

    #[test]
    fn a_listener_removes_its_own_file_and_no_other() {
        let directory = Directory::new();
        let (path, address) = directory.socket();
        let first = listen(&address).unwrap();
        first.remove_file().unwrap();
        assert!(!path.exists());
        first.remove_file().expect("what is gone is gone");
        let second = listen(&address).unwrap();
        first.remove_file().unwrap();
        assert!(path.exists(), "the second listener's file");
        second.remove_file().unwrap();
        listen(&self::address("127.0.0.1:0")).unwrap().remove_file().expect("nothing to remove");
    }

    #[test]
    fn an_inherited_listener_is_taken_over_and_anything_else_is_refused() {
        let inherited = TcpListener::bind("127.0.0.1:0").unwrap();
        let expected = SocketAddress::from(inherited.local_addr().unwrap());
        // SAFETY: the call opens a copy, which has no flags of its own, as an inherited descriptor has none.
        let copy = unsafe { OwnedFd::from_raw_fd(checked(libc::dup(inherited.as_raw_fd())).unwrap()) };
        assert_eq!(flags_of(&copy), (false, false));
        let listener = Listener::from_fd(copy).unwrap();
        assert_eq!(flags_of(&listener), (true, true));
        assert_eq!(listener.address(), &expected);
        talk(&listener);
        let (stream, _other) = socket_pair().unwrap();
        assert!(Listener::from_fd(stream).unwrap_err().to_string().contains("is not listening"));
        let file = File::open("/dev/null").unwrap();
        assert_eq!(errno(Listener::from_fd(file.into())), Some(libc::ENOTSOCK));
    }

    #[test]
    fn a_refused_connection_is_told_at_once_or_by_its_error() {
        let any = address("127.0.0.1:0");
        let bound = new_socket(&any).unwrap();
        bind(&bound, &any).unwrap();
        let outcome = connect(&local_address(&bound).unwrap()).map(|(fd, progress)| {
            assert_eq!(progress, ConnectProgress::InProgress);
            wait_for(&fd, libc::POLLOUT);
            assert!(peer_address(&fd).is_err());
            take_error(&fd).unwrap().expect("refused")
        });
        let error = outcome.unwrap_or_else(|error| error);
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let directory = Directory::new();
        let error = connect(&directory.socket().1).unwrap_err();
        assert_eq!(errno_of(&error), Some(libc::ENOENT));
        assert!(error.to_string().starts_with("connect to unix:/"), "{error}");
    }

    #[test]
    fn a_half_closed_pair_still_talks_the_other_way() {
        let (left, right) = socket_pair().unwrap();
        shutdown_write(&left).unwrap();
        let (mut left, mut right) = (File::from(left), File::from(right));
        assert_eq!(right.read(&mut [0; 1]).unwrap(), 0, "the end");
        right.write_all(b"still here").unwrap();
        let mut got = [0; 10];
        left.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"still here");
        assert_eq!(peer_address(&left).unwrap(), SocketAddress::Unix(UnixAddress::Unnamed));
    }

    #[test]
    fn calls_on_what_is_no_socket_say_so() {
        let file = File::open("/dev/null").unwrap();
        for outcome in [local_address(&file).map(drop), peer_address(&file).map(drop), shutdown_write(&file)] {
            assert_eq!(errno(outcome), Some(libc::ENOTSOCK));
        }
        assert_eq!(errno(take_error(&file).map(drop)), Some(libc::ENOTSOCK));
    }
}
