//! A SocketAddress is where a socket is bound or connected: IPv4, IPv6 or Unix. A RawAddress is the kernel's form.

use std::ffi::{CString, OsStr};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;
use std::{fmt, io, mem, ptr};

/// The address of a stream socket. 32 bytes; only Unix names are on the heap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SocketAddress {
    V4(SocketAddrV4),
    /// With its scope id, which a link-local address needs.
    V6(SocketAddrV6),
    Unix(UnixAddress),
}

/// The three kinds of Unix addresses (unix(7)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnixAddress {
    /// Of a socket that was never bound, as clients are.
    Unnamed,
    /// A file. Not empty, without a NUL, and at most [`UnixAddress::MAX_BYTES`] long.
    Path(Box<Path>),
    /// A name that vanishes with its socket (Linux). Any bytes.
    Abstract(Box<[u8]>),
}

impl UnixAddress {
    /// What `sun_path` holds besides the NUL that ends a path or begins an abstract name.
    pub const MAX_BYTES: usize = mem::size_of::<libc::sockaddr_un>() - SUN_PATH_OFFSET - 1;

    pub fn path(path: impl AsRef<Path>) -> Result<Self, AddressError> {
        let path = path.as_ref();
        let bytes = path.as_os_str().as_bytes();
        if bytes.is_empty() || bytes.contains(&0) {
            return Err(AddressError::new(bytes, "a socket's path must not be empty nor hold a NUL"));
        }
        Self::check_length(bytes)?;
        Ok(UnixAddress::Path(path.into()))
    }

    pub fn abstract_name(name: &[u8]) -> Result<Self, AddressError> {
        Self::check_length(name)?;
        Ok(UnixAddress::Abstract(name.into()))
    }

    fn check_length(name: &[u8]) -> Result<(), AddressError> {
        if name.len() > Self::MAX_BYTES {
            return Err(AddressError::new(name, "a Unix socket's name may have 107 bytes at most; use a shorter one"));
        }
        Ok(())
    }
}

/// Why a text or a name is not an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    given: String,
    reason: &'static str,
}

impl AddressError {
    fn new(given: &[u8], reason: &'static str) -> Self {
        AddressError { given: given.escape_ascii().to_string(), reason }
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "\"{}\" is not a socket address: {}", self.given, self.reason)
    }
}

impl std::error::Error for AddressError {}

impl From<AddressError> for io::Error {
    fn from(error: AddressError) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

impl fmt::Display for SocketAddress {
    /// `127.0.0.1:80`, `[::1]:80`, `[fe80::1%2]:80`, `unix:/path`, `unix:@abstract`, and `unix:` when unnamed.
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketAddress::V4(address) => address.fmt(to),
            SocketAddress::V6(address) => address.fmt(to),
            SocketAddress::Unix(UnixAddress::Unnamed) => to.write_str("unix:"),
            SocketAddress::Unix(UnixAddress::Path(path)) => write!(to, "unix:{}", path.display()),
            SocketAddress::Unix(UnixAddress::Abstract(name)) => write!(to, "unix:@{}", name.escape_ascii()),
        }
    }
}

impl FromStr for SocketAddress {
    type Err = AddressError;

    /// What `Display` writes, and an interface's name as IPv6 scope (`[fe80::1%eth0]:80`). Names of hosts are not
    /// resolved here.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(name) = text.strip_prefix("unix:@") {
            return UnixAddress::abstract_name(name.as_bytes()).map(SocketAddress::Unix);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return UnixAddress::path(path).map(SocketAddress::Unix);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(address.into());
        }
        parse_with_interface(text).ok_or_else(|| {
            AddressError::new(text.as_bytes(), "expected 127.0.0.1:80, [::1]:80, unix:/path or unix:@name")
        })
    }
}

/// `[fe80::1%eth0]:80`.
fn parse_with_interface(text: &str) -> Option<SocketAddress> {
    let (ip, rest) = text.strip_prefix('[')?.split_once('%')?;
    let (interface, port) = rest.split_once("]:")?;
    let name = CString::new(interface).ok()?;
    // SAFETY: the name is a C string.
    let scope_id = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())??;
    (scope_id != 0).then_some(SocketAddress::V6(SocketAddrV6::new(ip.parse().ok()?, port, 0, scope_id)))
}

impl From<SocketAddr> for SocketAddress {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => SocketAddress::V4(address),
            SocketAddr::V6(address) => SocketAddress::V6(address),
        }
    }
}

impl SocketAddress {
    /// The port of an IP address.
    pub fn port(&self) -> Option<u16> {
        match self {
            SocketAddress::V4(address) => Some(address.port()),
            SocketAddress::V6(address) => Some(address.port()),
            SocketAddress::Unix(_) => None,
        }
    }

    /// Every address of this machine: as a listener's, `0.0.0.0` or `[::]`.
    pub fn is_unspecified(&self) -> bool {
        match self {
            SocketAddress::V4(address) => address.ip().is_unspecified(),
            SocketAddress::V6(address) => address.ip().is_unspecified(),
            SocketAddress::Unix(_) => false,
        }
    }

    pub fn is_unix(&self) -> bool {
        matches!(self, SocketAddress::Unix(_))
    }

    pub(super) fn family(&self) -> libc::c_int {
        match self {
            SocketAddress::V4(_) => libc::AF_INET,
            SocketAddress::V6(_) => libc::AF_INET6,
            SocketAddress::Unix(_) => libc::AF_UNIX,
        }
    }
}

const SUN_PATH_OFFSET: usize = mem::offset_of!(libc::sockaddr_un, sun_path);

/// A `sockaddr_storage` and how much of it is filled, for the kernel to read or to fill.
#[derive(Clone, Copy)]
pub struct RawAddress {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl RawAddress {
    /// Room for any address.
    pub fn empty() -> Self {
        // SAFETY: a sockaddr_storage is plain data, for which zeroes are a value.
        let storage = unsafe { mem::zeroed() };
        RawAddress { storage, length: mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t }
    }

    /// What a call has filled: so many bytes of it.
    pub(super) fn from_storage(storage: libc::sockaddr_storage, length: libc::socklen_t) -> Self {
        RawAddress { storage, length }
    }

    pub fn as_ptr(&self) -> *const libc::sockaddr {
        ptr::from_ref(&self.storage).cast()
    }

    pub fn length(&self) -> libc::socklen_t {
        self.length
    }

    /// For a call that fills the address and its length.
    pub fn as_mut_ptrs(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        (ptr::from_mut(&mut self.storage).cast(), &mut self.length)
    }

    fn holding<T: Copy>(address: T, length: usize) -> Self {
        const { assert!(mem::size_of::<T>() <= mem::size_of::<libc::sockaddr_storage>()) };
        const { assert!(mem::align_of::<T>() <= mem::align_of::<libc::sockaddr_storage>()) };
        let mut raw = RawAddress::empty();
        // SAFETY: the storage has room for T, and T's alignment or more, as asserted above.
        unsafe { ptr::from_mut(&mut raw.storage).cast::<T>().write(address) };
        raw.length = length as libc::socklen_t;
        raw
    }

    /// The storage read as the address of a family, if that much of it is filled.
    fn read<T: Copy>(&self) -> Option<T> {
        const { assert!(mem::size_of::<T>() <= mem::size_of::<libc::sockaddr_storage>()) };
        const { assert!(mem::align_of::<T>() <= mem::align_of::<libc::sockaddr_storage>()) };
        // SAFETY: the storage is as large and as aligned as T, and sockaddr types are plain data.
        (self.length as usize >= mem::size_of::<T>()).then(|| unsafe { *ptr::from_ref(&self.storage).cast::<T>() })
    }

    fn from_v4(address: &SocketAddrV4) -> Self {
        // SAFETY: a sockaddr_in is plain data, for which zeroes are a value.
        let mut raw: libc::sockaddr_in = unsafe { mem::zeroed() };
        raw.sin_family = libc::AF_INET as libc::sa_family_t;
        raw.sin_port = address.port().to_be();
        raw.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
        Self::holding(raw, mem::size_of_val(&raw))
    }

    fn from_v6(address: &SocketAddrV6) -> Self {
        // SAFETY: a sockaddr_in6 is plain data, for which zeroes are a value.
        let mut raw: libc::sockaddr_in6 = unsafe { mem::zeroed() };
        raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        raw.sin6_port = address.port().to_be();
        raw.sin6_addr.s6_addr = address.ip().octets();
        raw.sin6_flowinfo = address.flowinfo();
        raw.sin6_scope_id = address.scope_id();
        Self::holding(raw, mem::size_of_val(&raw))
    }

    fn from_unix(address: &UnixAddress) -> io::Result<Self> {
        // A path is followed by a NUL, an abstract name preceded by one; zeroes are there already.
        let (name, at, length) = match address {
            UnixAddress::Unnamed => (&[][..], 0, 0),
            UnixAddress::Path(path) => (path.as_os_str().as_bytes(), 0, path.as_os_str().len() + 1),
            UnixAddress::Abstract(name) => (&name[..], 1, name.len() + 1),
        };
        UnixAddress::check_length(name)?;
        // SAFETY: a sockaddr_un is plain data, for which zeroes are a value.
        let mut raw: libc::sockaddr_un = unsafe { mem::zeroed() };
        raw.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (to, byte) in raw.sun_path[at..].iter_mut().zip(name) {
            *to = byte.cast_signed() as libc::c_char;
        }
        Ok(Self::holding(raw, SUN_PATH_OFFSET + length))
    }

    fn to_unix(self) -> UnixAddress {
        let used = (self.length as usize).saturating_sub(SUN_PATH_OFFSET).min(UnixAddress::MAX_BYTES + 1);
        let whole = RawAddress { length: mem::size_of::<libc::sockaddr_un>() as libc::socklen_t, ..self };
        let raw: libc::sockaddr_un = whole.read().expect("the length was set to fit");
        let name: Vec<u8> = raw.sun_path[..used].iter().map(|byte| byte.to_ne_bytes()[0]).collect();
        match name.as_slice() {
            [] => UnixAddress::Unnamed,
            [0, name @ ..] => UnixAddress::Abstract(name.into()),
            path => {
                let path = path.split(|&byte| byte == 0).next().unwrap_or_default();
                UnixAddress::Path(Path::new(OsStr::from_bytes(path)).into())
            }
        }
    }
}

impl TryFrom<&SocketAddress> for RawAddress {
    type Error = io::Error;

    /// Fails for a Unix name that does not fit.
    fn try_from(address: &SocketAddress) -> io::Result<Self> {
        match address {
            SocketAddress::V4(address) => Ok(Self::from_v4(address)),
            SocketAddress::V6(address) => Ok(Self::from_v6(address)),
            SocketAddress::Unix(address) => Self::from_unix(address),
        }
    }
}

impl TryFrom<RawAddress> for SocketAddress {
    type Error = io::Error;

    /// Fails for a family other than the three.
    fn try_from(raw: RawAddress) -> io::Result<Self> {
        let family = libc::c_int::from(raw.storage.ss_family);
        let v4 = || raw.read::<libc::sockaddr_in>().filter(|_| family == libc::AF_INET);
        let v6 = || raw.read::<libc::sockaddr_in6>().filter(|_| family == libc::AF_INET6);
        if let Some(raw) = v4() {
            let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            return Ok(SocketAddress::V4(SocketAddrV4::new(ip, u16::from_be(raw.sin_port))));
        }
        if let Some(raw) = v6() {
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            let (port, flow) = (u16::from_be(raw.sin6_port), raw.sin6_flowinfo);
            return Ok(SocketAddress::V6(SocketAddrV6::new(ip, port, flow, raw.sin6_scope_id)));
        }
        if family == libc::AF_UNIX {
            return Ok(SocketAddress::Unix(raw.to_unix()));
        }
        let message = format!("a socket of address family {family}; expected IPv4, IPv6 or Unix");
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> SocketAddress {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn an_address_is_written_as_it_is_read() {
        for text in
            ["127.0.0.1:80", "0.0.0.0:0", "[::1]:8000", "[fe80::1%7]:1", "unix:/run/app.sock", "unix:rel", "unix:@x"]
        {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(SocketAddress::Unix(UnixAddress::Unnamed).to_string(), "unix:");
    }

    #[test]
    fn an_address_survives_the_kernel_s_form() {
        for text in ["127.0.0.1:80", "[2001:db8::1]:65535", "[fe80::1%7]:1", "unix:/run/app.sock", "unix:@x"] {
            let address = parse(text);
            let raw = RawAddress::try_from(&address).unwrap();
            assert_eq!(SocketAddress::try_from(raw).unwrap(), address, "{text}");
        }
        let names = [UnixAddress::Unnamed, UnixAddress::Abstract([0, 255, 0].into()), UnixAddress::Abstract([].into())];
        for address in names.map(SocketAddress::Unix) {
            let raw = RawAddress::try_from(&address).unwrap();
            assert_eq!(SocketAddress::try_from(raw).unwrap(), address);
        }
    }

    #[test]
    fn an_interface_s_name_is_a_scope() {
        let SocketAddress::V6(address) = parse("[fe80::1%lo]:80") else { panic!("an IPv6 address") };
        assert_ne!(address.scope_id(), 0);
        assert!("[fe80::1%no-such-interface]:80".parse::<SocketAddress>().is_err());
        assert!("[fe80::1%lo]:+80".parse::<SocketAddress>().is_err());
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_was_expected() {
        for text in ["", "localhost:80", "127.0.0.1", "::1:80:", "[::1]", "127.0.0.1:65536", "unix:", "unix:a\0b"] {
            let error = text.parse::<SocketAddress>().unwrap_err().to_string();
            assert!(error.contains("is not a socket address: "), "{error}");
        }
    }

    #[test]
    fn a_unix_name_fits_or_is_refused() {
        assert_eq!(UnixAddress::MAX_BYTES, 107);
        for (bytes, fits) in [(UnixAddress::MAX_BYTES, true), (UnixAddress::MAX_BYTES + 1, false)] {
            assert_eq!(UnixAddress::path("x".repeat(bytes)).is_ok(), fits);
            assert_eq!(UnixAddress::abstract_name(&vec![b'x'; bytes]).is_ok(), fits);
            let unchecked = SocketAddress::Unix(UnixAddress::Path(Path::new(&"x".repeat(bytes)).into()));
            assert_eq!(RawAddress::try_from(&unchecked).is_ok(), fits);
        }
    }

    #[test]
    fn an_address_is_compact() {
        assert!(mem::size_of::<SocketAddress>() <= 32, "{}", mem::size_of::<SocketAddress>());
    }

    #[test]
    fn an_unknown_family_is_an_error() {
        assert!(SocketAddress::try_from(RawAddress::empty()).is_err());
    }
}
