//! Socket options, each declared once: its name, level, type and effect. An option owns nothing; it is a constant.
//!
//! `options::NO_DELAY.set(&socket, true)?` reads like the call it is. [`ALL`] is the same declarations as a table.

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};
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

/// One option's line in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionInfo {
    /// As in the manual: `TCP_NODELAY`.
    pub name: &'static str,
    /// As in the manual: `IPPROTO_TCP`.
    pub level: &'static str,
    /// Of the value: `on or off`, `bytes`, `seconds`, ...
    pub value: &'static str,
    pub effect: &'static str,
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
        }
    )*};
}

integers! {
    Bytes(u32) is "bytes";
    Count(u32) is "count";
    Seconds(u32) is "seconds";
    Milliseconds(u32) is "milliseconds";
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
    fn the_table_says_what_every_option_does() {
        for (at, info) in ALL.iter().enumerate() {
            assert!(info.effect.ends_with('.') && !info.effect.starts_with(' '), "{info:?}");
            assert!(!ALL[..at].iter().any(|other| other.name == info.name), "{info:?}");
        }
        let no_delay = ALL.iter().find(|info| info.name == NO_DELAY.name()).unwrap();
        assert_eq!((no_delay.level, no_delay.value), ("IPPROTO_TCP", "on or off"));
    }
}
