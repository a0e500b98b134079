//! Socket options, each declared once: its name, level, type and effect. An option owns nothing; it is a constant.
//!
//! `options::NO_DELAY.set(&socket, true)?` reads like the call it is. [`ALL`] is the same declarations as a table, through
//! which an option can be set by its name.

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;
use std::{io, mem, ptr};

use libc::c_int;

use super::error::{checked, during};

/// One option, and the type of its value.
pub struct SocketOption<T> {
    level: c_int,
    number: c_int,
    name: &'static str,
    value: PhantomData<fn(T) -> T>,
}

/// A value by itself, for those who know an option by its name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Switch(bool),
    Number(i64),
    Name(String),
}

/// One option's line in the table.
#[derive(Clone, Copy, Debug)]
pub struct OptionInfo {
    /// As in the manual: `TCP_NODELAY`.
    pub name: &'static str,
    /// As in the manual: `IPPROTO_TCP`.
    pub level: &'static str,
    /// Of the value: `on or off`, `bytes`, `seconds`, ...
    pub value: &'static str,
    pub effect: &'static str,
    setter: fn(BorrowedFd<'_>, &Value) -> io::Result<()>,
    getter: fn(BorrowedFd<'_>) -> io::Result<Value>,
}

impl OptionInfo {
    pub fn named(name: &str) -> Option<&'static OptionInfo> {
        ALL.iter().find(|info| info.name == name)
    }

    /// Set it; a value of another kind than the option's is refused as the kernel refuses it.
    pub fn set(&self, socket: impl AsFd, value: &Value) -> io::Result<()> {
        (self.setter)(socket.as_fd(), value)
    }

    pub fn get(&self, socket: impl AsFd) -> io::Result<Value> {
        (self.getter)(socket.as_fd())
    }
}

/// A value that an option may have, and the kernel's form of it.
pub trait OptionValue: Sized {
    /// Plain data, for which any bytes are a value.
    type Raw: Copy;
    /// What it is, and in which unit.
    const KIND: &'static str;
    /// `None` if the kernel's form cannot hold it.
    fn to_raw(&self) -> Option<Self::Raw>;
    fn from_raw(raw: Self::Raw) -> Self;
    /// `None` if the value is of another kind, or out of range.
    fn from_value(value: &Value) -> Option<Self>;
    fn to_value(&self) -> Value;
}

impl OptionValue for bool {
    type Raw = c_int;
    const KIND: &'static str = "on or off";
    fn to_raw(&self) -> Option<c_int> {
        Some(c_int::from(*self))
    }
    fn from_raw(raw: c_int) -> Self {
        raw != 0
    }
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Switch(value) = value { Some(*value) } else { None }
    }
    fn to_value(&self) -> Value {
        Value::Switch(*self)
    }
}

/// Values that the kernel has as an `int`.
macro_rules! integers {
    ($($(#[$doc:meta])* $name:ident($inner:ty) is $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub $inner);

        impl OptionValue for $name {
            type Raw = c_int;
            const KIND: &'static str = $kind;
            fn to_raw(&self) -> Option<c_int> {
                c_int::try_from(self.0).ok()
            }
            fn from_raw(raw: c_int) -> Self {
                $name(raw.try_into().unwrap_or_default())
            }
            fn from_value(value: &Value) -> Option<Self> {
                if let Value::Number(value) = value { (*value).try_into().ok().map($name) } else { None }
            }
            fn to_value(&self) -> Value {
                Value::Number(self.0.into())
            }
        }
    )*};
}

integers! {
    Bytes(u32) is "bytes";
    Count(u32) is "count";
    Seconds(u32) is "seconds";
    Milliseconds(u32) is "milliseconds";
    Microseconds(u32) is "microseconds";
    /// A processor's number, or -1 when there is none yet.
    Processor(i32) is "processor";
    /// An `errno`; 0 is none.
    ErrorNumber(i32) is "errno";
}

/// What `close` does with data that has not left: `None` sends it in the background, a time waits that long for it
/// (whole seconds), and zero drops it and resets the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linger(pub Option<Duration>);

impl OptionValue for Linger {
    type Raw = libc::linger;
    const KIND: &'static str = "off or seconds";
    fn to_raw(&self) -> Option<libc::linger> {
        let l_linger = c_int::try_from(self.0.unwrap_or_default().as_secs()).ok()?;
        Some(libc::linger { l_onoff: c_int::from(self.0.is_some()), l_linger })
    }
    fn from_raw(raw: libc::linger) -> Self {
        Linger((raw.l_onoff != 0).then(|| Duration::from_secs(u64::try_from(raw.l_linger).unwrap_or_default())))
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Switch(false) => Some(Linger(None)),
            Value::Number(seconds) => Some(Linger(Some(Duration::from_secs((*seconds).try_into().ok()?)))),
            Value::Switch(true) | Value::Name(_) => None,
        }
    }
    fn to_value(&self) -> Value {
        self.0.map_or(Value::Switch(false), |time| Value::Number(time.as_secs().cast_signed()))
    }
}

/// A short name, as the kernel has it: of a network interface, of an algorithm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(pub String);

/// With the NUL that ends it (IFNAMSIZ, TCP_CA_NAME_MAX).
const NAME_BYTES: usize = 16;

impl OptionValue for Name {
    type Raw = [u8; NAME_BYTES];
    const KIND: &'static str = "name";
    fn to_raw(&self) -> Option<[u8; NAME_BYTES]> {
        let mut raw = [0; NAME_BYTES];
        let fits = self.0.len() < NAME_BYTES && !self.0.as_bytes().contains(&0);
        fits.then(|| raw[..self.0.len()].copy_from_slice(self.0.as_bytes()))?;
        Some(raw)
    }
    fn from_raw(raw: [u8; NAME_BYTES]) -> Self {
        let end = raw.iter().position(|&byte| byte == 0).unwrap_or(NAME_BYTES);
        Name(String::from_utf8_lossy(&raw[..end]).into_owned())
    }
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Name(name) = value { Some(Name(name.clone())) } else { None }
    }
    fn to_value(&self) -> Value {
        Value::Name(self.0.clone())
    }
}

impl<T: OptionValue> SocketOption<T> {
    pub const fn name(&self) -> &'static str {
        self.name
    }

    pub fn set(&self, socket: impl AsFd, value: T) -> io::Result<()> {
        let out_of_range = || io::Error::new(io::ErrorKind::InvalidInput, "the value is larger than the kernel takes");
        let raw = value.to_raw().ok_or_else(out_of_range).map_err(|error| during("setsockopt", self.name, error))?;
        let size = mem::size_of::<T::Raw>() as libc::socklen_t;
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: the descriptor is open, and the value is `size` readable bytes.
        let outcome = unsafe { libc::setsockopt(fd, self.level, self.number, ptr::from_ref(&raw).cast(), size) };
        checked(outcome).map(drop).map_err(|error| during("setsockopt", self.name, error))
    }

    pub fn get(&self, socket: impl AsFd) -> io::Result<T> {
        let mut raw = mem::MaybeUninit::<T::Raw>::zeroed();
        let mut size = mem::size_of::<T::Raw>() as libc::socklen_t;
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: the descriptor is open, and the value is `size` writable bytes.
        let outcome = unsafe { libc::getsockopt(fd, self.level, self.number, raw.as_mut_ptr().cast(), &mut size) };
        checked(outcome).map_err(|error| during("getsockopt", self.name, error))?;
        // SAFETY: zeroed, then filled in part or in whole; any bytes are a value of Raw, by OptionValue.
        Ok(T::from_raw(unsafe { raw.assume_init() }))
    }
}

/// Declare the options: the constant, the type of its value, the level and the number; its doc comment is the effect.
macro_rules! options {
    ($($(#[doc = $effect:literal])+ $constant:ident: $value:ty = $level:ident $number:ident;)*) => {
        $(
            $(#[doc = $effect])+
            pub const $constant: SocketOption<$value> = SocketOption {
                level: libc::$level,
                number: libc::$number,
                name: stringify!($number),
                value: PhantomData,
            };
        )*

        /// Every option that is declared here, in order.
        pub const ALL: &[OptionInfo] = &[$(
            OptionInfo {
                name: stringify!($number),
                level: stringify!($level),
                value: <$value as OptionValue>::KIND,
                effect: concat!($($effect),+).trim_ascii(),
                setter: |socket, value| {
                    let wrong = || io::Error::from_raw_os_error(libc::EINVAL);
                    let value = <$value>::from_value(value).ok_or_else(wrong);
                    $constant.set(socket, value.map_err(|error| during("setsockopt", stringify!($number), error))?)
                },
                getter: |socket| Ok($constant.get(socket)?.to_value()),
            },
        )*];
    };
}

options! {
    /// Bind although connections of an earlier listener are still in TIME_WAIT.
    REUSE_ADDRESS: bool = SOL_SOCKET SO_REUSEADDR;
    /// Let several listeners of one user have the same port; the kernel spreads connections over them.
    REUSE_PORT: bool = SOL_SOCKET SO_REUSEPORT;
    /// Probe a silent peer, so that one that has vanished is noticed.
    KEEP_ALIVE: bool = SOL_SOCKET SO_KEEPALIVE;
    /// Silence before the first keep-alive probe.
    KEEP_ALIVE_IDLE: Seconds = IPPROTO_TCP TCP_KEEPIDLE;
    /// Time between keep-alive probes.
    KEEP_ALIVE_INTERVAL: Seconds = IPPROTO_TCP TCP_KEEPINTVL;
    /// Unanswered keep-alive probes after which the connection is broken.
    KEEP_ALIVE_PROBES: Count = IPPROTO_TCP TCP_KEEPCNT;
    /// What close does with data that has not left.
    LINGER: Linger = SOL_SOCKET SO_LINGER;
    /// Room for data that was sent and not acknowledged; the kernel doubles what is set, and tells the double.
    SEND_BUFFER: Bytes = SOL_SOCKET SO_SNDBUF;
    /// Room for data that was received and not read; the kernel doubles what is set, and tells the double.
    RECEIVE_BUFFER: Bytes = SOL_SOCKET SO_RCVBUF;
    /// Read only: the socket is listening.
    LISTENING: bool = SOL_SOCKET SO_ACCEPTCONN;
    /// Read only: the error met since this was last read, which clears it.
    ERROR: ErrorNumber = SOL_SOCKET SO_ERROR;
    /// The processor that received last; set on a listener of a shared port, the one it prefers.
    INCOMING_CPU: Processor = SOL_SOCKET SO_INCOMING_CPU;
    /// Send small segments at once instead of gathering them (Nagle's algorithm).
    NO_DELAY: bool = IPPROTO_TCP TCP_NODELAY;
    /// Hold back partial segments until this is turned off, or for 200 ms.
    CORK: bool = IPPROTO_TCP TCP_CORK;
    /// Acknowledge at once, until the kernel goes back to delaying by itself.
    QUICK_ACK: bool = IPPROTO_TCP TCP_QUICKACK;
    /// Wake the listener when data has arrived, or when this time is over (rounded up to retransmissions).
    DEFER_ACCEPT: Seconds = IPPROTO_TCP TCP_DEFER_ACCEPT;
    /// Connections that may wait on a listener with data sent in their first segment.
    FAST_OPEN: Count = IPPROTO_TCP TCP_FASTOPEN;
    /// How long sent data may stay unacknowledged before the connection is broken; 0 is the system's default.
    USER_TIMEOUT: Milliseconds = IPPROTO_TCP TCP_USER_TIMEOUT;
    /// The socket is writable while less than this has not been sent; keeps waiting data out of the kernel.
    NOT_SENT_LOW_WATER: Bytes = IPPROTO_TCP TCP_NOTSENT_LOWAT;
    /// An IPv6 socket does not take IPv4.
    V6_ONLY: bool = IPPROTO_IPV6 IPV6_V6ONLY;
    /// Send the first data with the connection's first segment, once the server has given a cookie.
    FAST_OPEN_CONNECT: bool = IPPROTO_TCP TCP_FASTOPEN_CONNECT;
    /// How long a read may look at the network card's queue itself before it waits for an interrupt.
    BUSY_POLL: Microseconds = SOL_SOCKET SO_BUSY_POLL;
    /// The algorithm that decides how fast to send, of those the kernel has.
    CONGESTION: Name = IPPROTO_TCP TCP_CONGESTION;
    /// The type-of-service byte of IPv4 packets: six bits of DSCP above two of ECN.
    TYPE_OF_SERVICE: Count = IPPROTO_IP IP_TOS;
    /// The traffic class of IPv6 packets: what IP_TOS is for IPv4.
    TRAFFIC_CLASS: Count = IPPROTO_IPV6 IPV6_TCLASS;
    /// With bind to port 0: choose the port when connecting, so that it is shared by connections to several servers.
    BIND_ADDRESS_NO_PORT: bool = IPPROTO_IP IP_BIND_ADDRESS_NO_PORT;
    /// Bind to an address that this machine does not have, or not yet.
    FREE_BIND: bool = IPPROTO_IP IP_FREEBIND;
    /// Send and receive through this network interface alone.
    BIND_TO_DEVICE: Name = SOL_SOCKET SO_BINDTODEVICE;
    /// Let datagrams be sent to a broadcast address.
    BROADCAST: bool = SOL_SOCKET SO_BROADCAST;
    /// Like SO_SNDBUF beyond net.core.wmem_max; needs CAP_NET_ADMIN.
    SEND_BUFFER_FORCE: Bytes = SOL_SOCKET SO_SNDBUFFORCE;
    /// Like SO_RCVBUF beyond net.core.rmem_max; needs CAP_NET_ADMIN.
    RECEIVE_BUFFER_FORCE: Bytes = SOL_SOCKET SO_RCVBUFFORCE;
    /// Read only: the family of the socket's addresses.
    DOMAIN: Count = SOL_SOCKET SO_DOMAIN;
    /// Read only: streams or datagrams, by the number that `socket` was given.
    TYPE: Count = SOL_SOCKET SO_TYPE;
    /// Tell with each datagram how many were lost before it for want of room.
    TELL_DROPS: bool = SOL_SOCKET SO_RXQ_OVFL;
    /// Tell with each IPv4 datagram to which address of this machine it was sent.
    PACKET_INFO: bool = IPPROTO_IP IP_PKTINFO;
    /// Tell with each IPv6 datagram to which address of this machine it was sent.
    PACKET_INFO_V6: bool = IPPROTO_IPV6 IPV6_RECVPKTINFO;
    /// Receive datagrams of one peer that came together as one, with the size of each (GRO).
    UDP_GRO: bool = IPPROTO_UDP UDP_GRO;
    /// Send what is longer as datagrams of this size (GSO); 0 sends it whole.
    UDP_SEGMENT: Bytes = IPPROTO_UDP UDP_SEGMENT;
    /// How many routers a multicast datagram may pass; 0 keeps it on this machine.
    MULTICAST_TTL: Count = IPPROTO_IP IP_MULTICAST_TTL;
    /// Receive one's own multicast datagrams, too.
    MULTICAST_LOOP: bool = IPPROTO_IP IP_MULTICAST_LOOP;
    /// How many routers an IPv6 multicast datagram may pass.
    MULTICAST_HOPS: Count = IPPROTO_IPV6 IPV6_MULTICAST_HOPS;
    /// Receive one's own IPv6 multicast datagrams, too.
    MULTICAST_LOOP_V6: bool = IPPROTO_IPV6 IPV6_MULTICAST_LOOP;
    /// The number of the interface through which IPv6 multicast datagrams leave.
    MULTICAST_INTERFACE_V6: Count = IPPROTO_IPV6 IPV6_MULTICAST_IF;
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::super::errno_of;
    use super::*;

    fn stream() -> (TcpStream, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (TcpStream::connect(listener.local_addr().unwrap()).unwrap(), listener)
    }

    #[test]
    fn switches_stay_as_they_are_set() {
        let (stream, _listener) = stream();
        for option in [REUSE_ADDRESS, REUSE_PORT, KEEP_ALIVE, NO_DELAY, CORK] {
            for value in [true, false] {
                option.set(&stream, value).unwrap();
                assert_eq!(option.get(&stream).unwrap(), value, "{}", option.name());
            }
        }
    }

    #[test]
    fn timers_and_counts_stay_as_they_are_set() {
        let (stream, listener) = stream();
        for option in [KEEP_ALIVE_IDLE, KEEP_ALIVE_INTERVAL] {
            option.set(&stream, Seconds(37)).unwrap();
            assert_eq!(option.get(&stream).unwrap(), Seconds(37), "{}", option.name());
        }
        KEEP_ALIVE_PROBES.set(&stream, Count(5)).unwrap();
        USER_TIMEOUT.set(&stream, Milliseconds(12_345)).unwrap();
        NOT_SENT_LOW_WATER.set(&stream, Bytes(16_384)).unwrap();
        FAST_OPEN.set(&listener, Count(9)).unwrap();
        assert_eq!(KEEP_ALIVE_PROBES.get(&stream).unwrap(), Count(5));
        assert_eq!(USER_TIMEOUT.get(&stream).unwrap(), Milliseconds(12_345));
        assert_eq!(NOT_SENT_LOW_WATER.get(&stream).unwrap(), Bytes(16_384));
        assert_eq!(FAST_OPEN.get(&listener).unwrap(), Count(9));
    }

    #[test]
    fn the_kernel_rounds_but_does_not_lessen() {
        let (stream, listener) = stream();
        for option in [SEND_BUFFER, RECEIVE_BUFFER] {
            option.set(&stream, Bytes(20_000)).unwrap();
            assert!(option.get(&stream).unwrap() >= Bytes(20_000), "{}", option.name());
        }
        DEFER_ACCEPT.set(&listener, Seconds(4)).unwrap();
        assert!(DEFER_ACCEPT.get(&listener).unwrap() >= Seconds(4));
    }

    #[test]
    fn lingering_is_off_or_a_time() {
        let (stream, _listener) = stream();
        for value in [None, Some(Duration::ZERO), Some(Duration::from_secs(3))] {
            LINGER.set(&stream, Linger(value)).unwrap();
            assert_eq!(LINGER.get(&stream).unwrap(), Linger(value));
        }
    }

    #[test]
    fn a_listener_says_that_it_listens_and_a_stream_does_not() {
        let (stream, listener) = stream();
        assert!(LISTENING.get(&listener).unwrap() && !LISTENING.get(&stream).unwrap());
        assert!(LISTENING.set(&stream, true).is_err());
    }

    #[test]
    fn acknowledgements_processors_and_families_can_be_chosen() {
        let (stream, _listener) = stream();
        QUICK_ACK.set(&stream, true).unwrap();
        assert!(QUICK_ACK.get(&stream).unwrap());
        INCOMING_CPU.set(&stream, Processor(0)).unwrap();
        assert!(INCOMING_CPU.get(&stream).unwrap() >= Processor(-1));
        let v6 = TcpListener::bind("[::1]:0").unwrap();
        assert!(V6_ONLY.set(&v6, true).is_err(), "a bound socket's families are fixed");
    }

    #[test]
    fn an_error_names_the_option_and_keeps_its_number() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = NO_DELAY.set(&file, true).unwrap_err();
        assert!(error.to_string().starts_with("setsockopt TCP_NODELAY: "), "{error}");
        assert_eq!(errno_of(&error), Some(libc::ENOTSOCK));
        assert_eq!(KEEP_ALIVE.get(&file).map_err(|error| errno_of(&error)), Err(Some(libc::ENOTSOCK)));
        let (stream, _listener) = stream();
        let too_large = SEND_BUFFER.set(&stream, Bytes(u32::MAX)).unwrap_err();
        assert_eq!(too_large.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn names_and_microseconds_stay_as_they_are_set() {
        let (stream, _listener) = stream();
        CONGESTION.set(&stream, Name("reno".into())).unwrap();
        assert_eq!(CONGESTION.get(&stream).unwrap(), Name("reno".into()));
        TYPE_OF_SERVICE.set(&stream, Count(0x10)).unwrap();
        assert_eq!(TYPE_OF_SERVICE.get(&stream).unwrap(), Count(0x10));
        let too_long = CONGESTION.set(&stream, Name("x".repeat(NAME_BYTES))).unwrap_err();
        assert_eq!(too_long.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(BUSY_POLL.get(&stream).unwrap(), Microseconds(0));
    }

    #[test]
    fn an_option_is_found_by_its_name_and_takes_values_of_its_kind_alone() {
        let (stream, _listener) = stream();
        let no_delay = OptionInfo::named("TCP_NODELAY").unwrap();
        no_delay.set(&stream, &Value::Switch(true)).unwrap();
        assert_eq!(no_delay.get(&stream).unwrap(), Value::Switch(true));
        let linger = OptionInfo::named("SO_LINGER").unwrap();
        for value in [Value::Number(3), Value::Switch(false)] {
            linger.set(&stream, &value).unwrap();
            assert_eq!(linger.get(&stream).unwrap(), value);
        }
        for (name, value) in [
            ("TCP_NODELAY", Value::Number(1)),
            ("SO_SNDBUF", Value::Number(-1)),
            ("SO_SNDBUF", Value::Switch(true)),
            ("SO_LINGER", Value::Switch(true)),
            ("TCP_CONGESTION", Value::Number(1)),
        ] {
            let error = OptionInfo::named(name).unwrap().set(&stream, &value).unwrap_err();
            assert_eq!(errno_of(&error), Some(libc::EINVAL), "{name} {value:?}");
        }
        assert!(OptionInfo::named("SO_NO_SUCH").is_none());
    }

    #[test]
    fn the_table_says_what_every_option_does() {
        for (at, info) in ALL.iter().enumerate() {
            assert!(info.effect.ends_with('.') && !info.effect.starts_with(' '), "{info:?}");
            assert!(!ALL[..at].iter().any(|other| other.name == info.name), "{info:?}");
        }
        let no_delay = ALL.iter().find(|info| info.name == NO_DELAY.name()).unwrap();
        assert_eq!((no_delay.level, no_delay.value), ("IPPROTO_TCP", "on or off"));
    }
}
