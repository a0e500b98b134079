//! A system call's error, with the call and its object. It owns the kernel's error, and is carried by `io::Error`.

use std::{error, fmt, io};

#[derive(Debug)]
struct CallError {
    call: &'static str,
    object: String,
    source: io::Error,
}

impl fmt::Display for CallError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.object.as_str() {
            "" => write!(to, "{}: {}", self.call, self.source),
            object => write!(to, "{} {object}: {}", self.call, self.source),
        }
    }
}

impl error::Error for CallError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Say what failed. The kind stays; the number is found again by [`errno_of`].
pub(super) fn during(call: &'static str, object: impl fmt::Display, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), CallError { call, object: object.to_string(), source })
}

/// The kernel's number of an error, whether or not it was given its context on the way.
pub fn errno_of(error: &io::Error) -> Option<i32> {
    error.raw_os_error().or_else(|| error.get_ref()?.downcast_ref::<CallError>()?.source.raw_os_error())
}

/// The outcome of a call that returns -1 and sets `errno`.
pub(super) fn checked(outcome: libc::c_int) -> io::Result<libc::c_int> {
    if outcome == -1 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_the_kind_and_the_number() {
        let bare = io::Error::from_raw_os_error(libc::EADDRINUSE);
        let error = during("bind", "127.0.0.1:80", bare);
        assert_eq!((error.kind(), errno_of(&error)), (io::ErrorKind::AddrInUse, Some(libc::EADDRINUSE)));
        assert!(error.to_string().starts_with("bind 127.0.0.1:80: Address already in use"), "{error}");
        assert_eq!(errno_of(&io::Error::other("no number")), None);
    }
}
