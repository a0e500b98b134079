//! SocketOptions are the options that somebody wants of every socket of a kind: each by its name, with its value.
//!
//! They are set right after `socket`, before `bind`, `listen` or `connect`: that is early enough for all of them, and for
//! buffers (which decide the window that TCP offers) and shared ports the only time. What is accepted inherits its
//! listener's options, except for those of [`NOT_INHERITED`].
//!
//! The kernel takes some requests without doing what was asked. Those are found out here and are errors, too.

use std::os::fd::{AsFd, BorrowedFd};
use std::{fmt, fs, io};

use super::error::errno_of;
use super::options::{self, Bytes, Count, OptionInfo, OptionValue, SocketOption, Value};

/// Options that a connection does not have from its listener: they are set on each that is accepted.
pub const NOT_INHERITED: &[&str] = &["TCP_QUICKACK"];

/// Why an option could not be had.
#[derive(Debug)]
pub struct SocketOptionError {
    pub option: &'static str,
    pub asked: Value,
    /// In the words of the kernel, or in ours where it says nothing.
    pub reason: String,
    pub errno: Option<i32>,
}

impl fmt::Display for SocketOptionError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}: {}", self.option, self.reason)
    }
}

impl std::error::Error for SocketOptionError {}

/// Options and their values, in the order in which they are set.
#[derive(Clone, Debug, Default)]
pub struct SocketOptions(Vec<(&'static OptionInfo, Value)>);

impl SocketOptions {
    /// Add one, by its name in the manual. `None` if there is none of this name.
    pub fn add(&mut self, name: &str, value: Value) -> Option<()> {
        self.0.push((OptionInfo::named(name)?, value));
        Some(())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Set all of them on a socket that is neither bound nor connected.
    pub fn set_on_new(&self, socket: impl AsFd) -> Result<(), SocketOptionError> {
        self.0.iter().try_for_each(|(option, value)| set_option(socket.as_fd(), option, value))
    }

    /// Set what an accepted connection has not inherited.
    pub fn set_on_accepted(&self, socket: impl AsFd) -> Result<(), SocketOptionError> {
        let mut own = self.0.iter().filter(|(option, _)| NOT_INHERITED.contains(&option.name));
        own.try_for_each(|(option, value)| set_option(socket.as_fd(), option, value))
    }
}

/// Set one option, and see that the kernel does what was asked.
pub fn set_option(socket: BorrowedFd<'_>, option: &'static OptionInfo, value: &Value) -> Result<(), SocketOptionError> {
    let refused = |error: &io::Error| SocketOptionError {
        option: option.name,
        asked: value.clone(),
        reason: errno_of(error).map_or_else(|| error.to_string(), |errno| bare(&io::Error::from_raw_os_error(errno))),
        errno: errno_of(error),
    };
    let ignored = |reason: String| SocketOptionError { option: option.name, asked: value.clone(), reason, errno: None };
    match (option.name, value) {
        ("IP_TOS", Value::Number(_)) => set_type_of_service(socket, value).map_err(|error| refused(&error)),
        ("SO_SNDBUF", _) => set_buffer(socket, &options::SEND_BUFFER, &options::SEND_BUFFER_FORCE, value)
            .map_err(|error| refused(&error))?
            .map_or(Ok(()), |granted| Err(ignored(capped(granted, "net.core.wmem_max")))),
        ("SO_RCVBUF", _) => set_buffer(socket, &options::RECEIVE_BUFFER, &options::RECEIVE_BUFFER_FORCE, value)
            .map_err(|error| refused(&error))?
            .map_or(Ok(()), |granted| Err(ignored(capped(granted, "net.core.rmem_max")))),
        ("TCP_FASTOPEN", Value::Number(1..)) if !fast_open_is_on() => {
            Err(ignored("the system does not accept it: net.ipv4.tcp_fastopen lacks the servers' bit, 2".into()))
        }
        _ => option.set(socket, value).map_err(|error| refused(&error)),
    }
}

/// An error without the number that Rust adds.
fn bare(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

fn capped(granted: u32, limit: &str) -> String {
    format!("the kernel gives {granted} bytes and no more, by {limit}")
}

/// The byte has a name in each family, and a socket for both has both.
fn set_type_of_service(socket: BorrowedFd<'_>, value: &Value) -> io::Result<()> {
    let wrong = || io::Error::from_raw_os_error(libc::EINVAL);
    let value = Count::from_value(value).ok_or_else(wrong)?;
    if options::DOMAIN.get(socket)? != Count(libc::AF_INET6 as u32) {
        return options::TYPE_OF_SERVICE.set(socket, value);
    }
    options::TRAFFIC_CLASS.set(socket, value)?;
    options::TYPE_OF_SERVICE.set(socket, value)
}

/// `setsockopt` silently takes as much as the system allows. `Some`: that is all there is, and less than was asked.
fn set_buffer(
    socket: BorrowedFd<'_>,
    plain: &SocketOption<Bytes>,
    force: &SocketOption<Bytes>,
    value: &Value,
) -> io::Result<Option<u32>> {
    let asked = Bytes::from_value(value).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    plain.set(socket, asked)?;
    // The kernel doubles what it is told, for its own book-keeping.
    let granted = |socket| plain.get(socket).map(|doubled| doubled.0 / 2);
    let mut got = granted(socket)?;
    if got < asked.0 && force.set(socket, asked).is_ok() {
        got = granted(socket)?;
    }
    Ok((got < asked.0).then_some(got))
}

/// Whether the system lets servers take data with a connection's first segment; yes, if it does not say.
fn fast_open_is_on() -> bool {
    const SERVERS: u32 = 2;
    let setting = fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen").ok();
    setting.and_then(|text| text.trim().parse::<u32>().ok()).is_none_or(|bits| bits & SERVERS != 0)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn options(given: &[(&str, Value)]) -> SocketOptions {
        let mut options = SocketOptions::default();
        given.iter().for_each(|(name, value)| options.add(name, value.clone()).unwrap());
        options
    }

    fn number(name: &str, value: i64) -> (&str, Value) {
        (name, Value::Number(value))
    }

    fn on(name: &str) -> (&str, Value) {
        (name, Value::Switch(true))
    }

    #[test]
    fn an_unknown_name_is_not_taken() {
        assert!(SocketOptions::default().add("TCP_NO_SUCH", Value::Switch(true)).is_none());
    }

    #[test]
    fn accepted_connections_inherit_what_is_not_set_on_each() {
        let inherited = [
            on("SO_KEEPALIVE"),
            number("TCP_KEEPIDLE", 37),
            number("TCP_KEEPINTVL", 11),
            number("TCP_KEEPCNT", 5),
            number("SO_LINGER", 0),
            on("TCP_NODELAY"),
            number("TCP_USER_TIMEOUT", 12_345),
            number("TCP_NOTSENT_LOWAT", 16_384),
            ("TCP_CONGESTION", Value::Name("reno".into())),
            number("IP_TOS", 0x10),
        ];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = options(&inherited);
        wanted.set_on_new(&listener).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        for (name, value) in inherited {
            assert_eq!(OptionInfo::named(name).unwrap().get(&accepted).unwrap(), value, "{name}");
        }
        let own = options(&[("TCP_QUICKACK", Value::Switch(false))]);
        own.set_on_accepted(&accepted).unwrap();
        assert!(!options::QUICK_ACK.get(&accepted).unwrap());
    }

    #[test]
    fn a_buffer_is_as_large_as_asked_or_refused_with_what_there_is() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        options(&[number("SO_RCVBUF", 65_536), number("SO_SNDBUF", 32_768)]).set_on_new(&socket).unwrap();
        assert!(options::RECEIVE_BUFFER.get(&socket).unwrap() >= Bytes(65_536));
        let asked = i64::from(i32::MAX / 2);
        match options(&[number("SO_RCVBUF", asked)]).set_on_new(&socket) {
            // With the capability there is no limit.
            Ok(()) => assert!(i64::from(options::RECEIVE_BUFFER.get(&socket).unwrap().0) >= asked),
            Err(error) => assert!(error.reason.contains("net.core.rmem_max"), "{error}"),
        }
    }

    #[test]
    fn a_refusal_names_the_option_and_says_why() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = options(&[on("TCP_NODELAY")]).set_on_new(&socket).unwrap_err();
        assert_eq!(error.option, "TCP_NODELAY");
        assert!(matches!(error.errno, Some(libc::EOPNOTSUPP | libc::ENOPROTOOPT)), "{error}");
        let unknown = options(&[("TCP_CONGESTION", Value::Name("no-such-one".into()))]);
        let error = unknown.set_on_new(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "TCP_CONGESTION: no such file or directory");
        let wrong_kind = options(&[number("IP_TOS", -1)]);
        assert_eq!(wrong_kind.set_on_new(&socket).unwrap_err().errno, Some(libc::EINVAL));
    }

    #[test]
    fn a_socket_of_ipv6_has_both_names_of_the_type_of_service() {
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        options(&[number("IP_TOS", 0x28)]).set_on_new(&socket).unwrap();
        assert_eq!(options::TRAFFIC_CLASS.get(&socket).unwrap(), Count(0x28));
        assert_eq!(options::TYPE_OF_SERVICE.get(&socket).unwrap(), Count(0x28));
    }
}
