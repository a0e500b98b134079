//! What TCP alone costs: `bare_loop echo|broadcast PORT`, made by `rustc -O`.
//!
//! A loop of epoll_wait, recv and send on 127.0.0.1 that looks at no byte and calls nobody. `echo` sends back what a
//! receive brought; `broadcast` sends it to every connection. No server can do with less: it is not a peer, but the
//! floor under all of them.

use std::env;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

/// The same as epoll_event of epoll_ctl(2), which is packed on x86-64 alone.
#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
#[derive(Clone, Copy)]
struct Event {
    events: u32,
    fd: u64,
}

const EPOLLIN: u32 = 1;
const EPOLL_CTL_ADD: i32 = 1;
const EVENTS: usize = 1024;
const RECEIVE_BYTES: usize = 64 * 1024;

unsafe extern "C" {
    fn epoll_create1(flags: i32) -> RawFd;
    fn epoll_ctl(epoll: RawFd, operation: i32, fd: RawFd, event: *mut Event) -> i32;
    fn epoll_wait(epoll: RawFd, events: *mut Event, most: i32, timeout_ms: i32) -> i32;
}

fn watch(epoll: RawFd, fd: RawFd) {
    let mut event = Event { events: EPOLLIN, fd: fd as u64 };
    // SAFETY: both descriptors are open, and the event is a local.
    assert_eq!(unsafe { epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &mut event) }, 0);
}

/// `members` are by descriptor.
fn accept_all(listener: &TcpListener, epoll: RawFd, members: &mut Vec<Option<TcpStream>>) {
    while let Ok((member, _)) = listener.accept() {
        member.set_nonblocking(true).and_then(|()| member.set_nodelay(true)).expect("a fresh socket takes its options");
        watch(epoll, member.as_raw_fd());
        let at = member.as_raw_fd() as usize;
        members.resize_with(members.len().max(at + 1), || None);
        members[at] = Some(member);
    }
}

/// What a receive brought, and nothing more: the descriptor stays ready. None: the peer has gone.
fn receive(mut member: &TcpStream, buffer: &mut [u8]) -> Option<usize> {
    match member.read(buffer) {
        Ok(0) => None,
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Some(0),
        Err(_) => None,
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().collect();
    let [_, work, port] = &arguments[..] else { panic!("expected echo|broadcast PORT") };
    let tells_all = work == "broadcast";
    let listener = TcpListener::bind(("127.0.0.1", port.parse().expect("a port")))?;
    listener.set_nonblocking(true)?;
    // SAFETY: takes no pointer.
    let epoll = unsafe { epoll_create1(0) };
    watch(epoll, listener.as_raw_fd());
    let (mut members, mut buffer) = (Vec::new(), vec![0; RECEIVE_BYTES]);
    let mut events = [Event { events: 0, fd: 0 }; EVENTS];
    loop {
        // SAFETY: the array has room for so many.
        let ready = unsafe { epoll_wait(epoll, events.as_mut_ptr(), EVENTS as i32, -1) };
        for event in &events[..usize::try_from(ready).unwrap_or(0)] {
            let fd = event.fd as RawFd;
            if fd == listener.as_raw_fd() {
                accept_all(&listener, epoll, &mut members);
                continue;
            }
            let Some(member) = members[fd as usize].as_ref() else { continue };
            let Some(received) = receive(member, &mut buffer) else {
                members[fd as usize] = None;
                continue;
            };
            // What does not fit into a socket's buffer is lost: it always fits in what is measured, or the load complains.
            let told = if tells_all { &members[..] } else { &members[fd as usize..][..1] };
            for mut member in told.iter().flatten() {
                let _ = member.write(&buffer[..received]);
            }
        }
    }
}
