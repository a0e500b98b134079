//! An echo server over the bare poller contract, to measure one backend against another.
//!
//!     cargo run --release --no-default-features --features io-uring --example poller_echo -- epoll 9000
//!
//! It shows the smallest reactor there is: wait, note what happened, send once a turn for each connection that
//! has something to send, recycle.

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::{env, io, process};

use penstock::core::buffer::{BufferPool, Owner, SegmentQueue};
use penstock::core::poller::{self, Completion, Poller, SendOutcome};
use penstock::core::token::Token;

const LISTENER: Token = Token::new(u32::MAX, 0);
/// A connection that has this much to send is received from no more until half of it has left.
const HIGH_WATERMARK_BYTES: usize = 1 << 20;

struct Connection {
    fd: OwnedFd,
    /// Boxed: what is in flight must not move.
    output: Box<SegmentQueue>,
    is_blocked: bool,
    is_paused: bool,
    has_ended: bool,
    is_dirty: bool,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

struct Server {
    poller: Box<dyn Poller>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    dirty: Vec<Token>,
    pool: BufferPool,
    released: Vec<Owner>,
}

impl Server {
    fn new(poller: Box<dyn Poller>) -> Self {
        let (pool, released) = (BufferPool::default(), Vec::new());
        Server { poller, slots: Vec::new(), free: Vec::new(), dirty: Vec::new(), pool, released }
    }

    fn run(&mut self, listener: &TcpListener) -> io::Result<()> {
        self.poller.accept(LISTENER, listener.as_raw_fd())?;
        let mut completions = Vec::new();
        loop {
            self.poller.wait(None, &mut completions)?;
            for completion in completions.drain(..) {
                self.note(completion)?;
            }
            self.flush();
            self.poller.recycle();
        }
    }

    fn note(&mut self, completion: Completion) -> io::Result<()> {
        match completion {
            Completion::Accepted { fd, .. } => self.add(fd)?,
            Completion::AcceptFailed { errno, .. } => return Err(io::Error::from_raw_os_error(errno)),
            Completion::Received { token, lease } => {
                if let Some(connection) = connection(&mut self.slots, token) {
                    // SAFETY: recycle comes at the turn's end.
                    connection.output.push_copy(&mut self.pool, unsafe { lease.as_slice() });
                    mark(&mut self.dirty, token, connection);
                }
            }
            Completion::Ended { token } => {
                if let Some(connection) = connection(&mut self.slots, token) {
                    connection.has_ended = true;
                    mark(&mut self.dirty, token, connection);
                }
            }
            Completion::Sent { token, bytes } => {
                if let Some(connection) = connection(&mut self.slots, token) {
                    connection.output.advance(bytes, &mut self.pool, &mut self.released);
                    connection.is_blocked = false;
                    mark(&mut self.dirty, token, connection);
                }
            }
            Completion::Failed { token, .. } => self.remove(token),
            Completion::Ready { .. } => {}
        }
        Ok(())
    }

    fn add(&mut self, fd: OwnedFd) -> io::Result<()> {
        let stream = TcpStream::from(fd);
        stream.set_nodelay(true)?;
        let fd = OwnedFd::from(stream);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        self.poller.receive(Token::new(index, slot.generation), fd.as_raw_fd())?;
        let output = Box::default();
        let (is_blocked, is_paused, has_ended, is_dirty) = (false, false, false, false);
        slot.connection = Some(Connection { fd, output, is_blocked, is_paused, has_ended, is_dirty });
        Ok(())
    }

    fn remove(&mut self, token: Token) {
        let slot = &mut self.slots[token.index as usize];
        if slot.generation == token.generation
            && let Some(mut connection) = slot.connection.take()
        {
            self.poller.forget(token, connection.fd.as_raw_fd());
            connection.output.clear(&mut self.pool, &mut self.released);
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(token.index);
        }
    }

    /// One send for each connection that has something to send.
    fn flush(&mut self) {
        for token in std::mem::take(&mut self.dirty) {
            let Some(connection) = connection(&mut self.slots, token) else { continue };
            connection.is_dirty = false;
            if connection.is_blocked {
                continue;
            }
            let fd = connection.fd.as_raw_fd();
            match self.poller.send(token, fd, &mut connection.output) {
                Ok(SendOutcome::Done(bytes)) => {
                    connection.output.advance(bytes, &mut self.pool, &mut self.released);
                }
                Ok(SendOutcome::Blocked(bytes)) => {
                    connection.output.advance(bytes, &mut self.pool, &mut self.released);
                    connection.is_blocked = true;
                }
                Err(_) => {
                    self.remove(token);
                    continue;
                }
            }
            let queued = connection.output.bytes();
            if connection.has_ended && queued == 0 {
                self.remove(token);
            } else if connection.is_paused && queued < HIGH_WATERMARK_BYTES / 2 {
                connection.is_paused = self.poller.receive(token, fd).is_err();
            } else if !connection.is_paused && queued > HIGH_WATERMARK_BYTES {
                self.poller.pause(token, fd);
                connection.is_paused = true;
            }
        }
    }
}

/// The connection that a token names, unless it has been removed since.
fn connection(slots: &mut [Slot], token: Token) -> Option<&mut Connection> {
    slots.get_mut(token.index as usize).filter(|slot| slot.generation == token.generation)?.connection.as_mut()
}

fn mark(dirty: &mut Vec<Token>, token: Token, connection: &mut Connection) {
    if !std::mem::replace(&mut connection.is_dirty, true) {
        dirty.push(token);
    }
}

fn serve(kind: &str, port: &str) -> Result<(), Box<dyn std::error::Error>> {
    let poller = poller::open(kind.parse()?)?;
    let listener = TcpListener::bind(("127.0.0.1", port.parse()?))?;
    listener.set_nonblocking(true)?;
    println!("{} echoes on {}", poller.name(), listener.local_addr()?);
    Ok(Server::new(poller).run(&listener)?)
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [kind, port] = &arguments[..] else {
        eprintln!("usage: poller_echo auto|epoll|io_uring PORT");
        process::exit(2);
    };
    if let Err(error) = serve(kind, port) {
        eprintln!("poller_echo: {error}");
        process::exit(1);
    }
}
