//! The main reactor accepts, on a thread of its own, and hands each connection to the sub reactor with the fewest.
//!
//! It owns its listeners' descriptors and, between accepting and handing over, the connection's. Orders reach it through
//! its mailbox, and each is answered when it is done. Out of descriptors it does what every event loop does: the listener
//! rests.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::SubReactorHandle;
use crate::core::buffer::Lease;
use crate::core::mailbox::MailSender;
use crate::core::poller::{Poller, Readiness};
use crate::core::{CloseReason, EventLoop, Hold, Io, Service, Shard, Token};

/// Called once, on the main reactor's thread, when no sub reactor is left to hand a connection to. From then on
/// connections are accepted and closed at once.
pub type Deserted = Box<dyn FnOnce() + Send>;

/// Why an order to a main reactor was not carried out.
#[derive(Debug)]
pub enum MainReactorError {
    /// The kernel refused.
    Refused(io::Error),
    /// Another listener has this number.
    NumberTaken(u16),
    /// No listener has this number.
    NoSuchListener(u16),
    /// Its thread has ended.
    Gone,
}

impl fmt::Display for MainReactorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MainReactorError::Refused(error) => write!(f, "cannot accept from the listener: {error}"),
            MainReactorError::NumberTaken(number) => {
                write!(f, "there is a listener of number {number} already; give each its own")
            }
            MainReactorError::NoSuchListener(number) => write!(f, "there is no listener of number {number}"),
            MainReactorError::Gone => f.write_str("the main reactor has stopped"),
        }
    }
}

impl std::error::Error for MainReactorError {}

type Answer = SyncSender<Result<(), MainReactorError>>;

enum Order {
    AddListener { fd: OwnedFd, number: u16, answer: Answer },
    RemoveListener { number: u16, hold: Hold, answer: Answer },
    Stop { hold: Hold },
}

/// Accepts for the sub reactors it was given. Dropping it stops it.
pub struct MainReactor {
    orders: MailSender<Order>,
    counters: Shard,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl MainReactor {
    /// Start the thread. `open` makes its poller there.
    pub fn start(
        open: impl FnOnce() -> io::Result<Box<dyn Poller>> + Send + 'static,
        sub_reactors: Vec<SubReactorHandle>,
        deserted: Deserted,
    ) -> io::Result<Self> {
        Self::start_counting_in(Shard::alone(), open, sub_reactors, deserted)
    }

    /// The same, with counters that somebody else can see.
    pub fn start_counting_in(
        shard: Shard,
        open: impl FnOnce() -> io::Result<Box<dyn Poller>> + Send + 'static,
        sub_reactors: Vec<SubReactorHandle>,
        deserted: Deserted,
    ) -> io::Result<Self> {
        assert!(!sub_reactors.is_empty(), "a main reactor hands over to at least one sub reactor");
        let (tell, told) = sync_channel(1);
        let thread = std::thread::Builder::new().name("penstock-main".into()).spawn(move || {
            let acceptor = Acceptor::new(sub_reactors, deserted);
            let mut event_loop = EventLoop::counting_in(open()?, acceptor, shard)?;
            // Whoever starts it waits for this.
            let _ = tell.send((event_loop.mail_sender(), event_loop.io.counters.clone()));
            run(&mut event_loop)
        })?;
        match told.recv() {
            Ok((orders, counters)) => Ok(MainReactor { orders, counters, thread: Some(thread) }),
            Err(_) => match thread.join() {
                Ok(Err(error)) => Err(error),
                Ok(Ok(())) | Err(_) => Err(io::Error::other("the main reactor's thread panicked while it started")),
            },
        }
    }

    /// Accept from a listening, non-blocking socket. Its connections are handed over with `number`.
    pub fn add_listener(&self, fd: OwnedFd, number: u16) -> Result<(), MainReactorError> {
        self.order(|answer| Order::AddListener { fd, number, answer })
    }

    /// Accept no more from this listener and close its descriptor. On return every connection that peers believe
    /// accepted has been handed over.
    pub fn remove_listener(&self, number: u16, hold: Hold) -> Result<(), MainReactorError> {
        self.order(|answer| Order::RemoveListener { number, hold, answer })
    }

    fn order(&self, order: impl FnOnce(Answer) -> Order) -> Result<(), MainReactorError> {
        let (answer, answered) = sync_channel(1);
        self.orders.send(order(answer)).map_err(|_| MainReactorError::Gone)?;
        answered.recv().unwrap_or(Err(MainReactorError::Gone))
    }

    pub fn counters(&self) -> &Shard {
        &self.counters
    }

    /// Remove every listener, as `remove_listener` does, and end the thread; an error if it had ended by one before.
    pub fn stop(mut self, hold: Hold) -> io::Result<()> {
        self.join(hold)
    }

    fn join(&mut self, hold: Hold) -> io::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        // It is refused only if the thread has ended already.
        let _ = self.orders.send(Order::Stop { hold });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the main reactor's thread panicked")))
    }
}

impl Drop for MainReactor {
    fn drop(&mut self) {
        let _ = self.join(Hold::Shared);
    }
}

/// Turn until told to stop, and then until the listeners have been seen off: what was accepted meanwhile is handed over.
fn run(event_loop: &mut EventLoop<Acceptor>) -> io::Result<()> {
    while !event_loop.service.is_stopping || event_loop.io.has_leaving_listeners() {
        event_loop.turn(None)?;
        answer_removed(event_loop);
    }
    Ok(())
}

/// Only when a removed listener has been seen off is the order done.
fn answer_removed(event_loop: &mut EventLoop<Acceptor>) {
    let EventLoop { io, service, .. } = event_loop;
    let Acceptor { removed, listeners, .. } = service;
    removed.retain(|(token, answer)| {
        let is_there = io.fd(*token).is_some();
        if !is_there {
            listeners.retain(|(listener, _)| listener != token);
            let _ = answer.send(Ok(()));
        }
        is_there
    });
}

/// The main reactor's service: connections pass through it and never become its own.
struct Acceptor {
    /// Those that are known to be alive.
    sub_reactors: Vec<SubReactorHandle>,
    /// Where to begin looking, so that equals take turns.
    next: usize,
    listeners: Vec<(Token, u16)>,
    removed: Vec<(Token, Answer)>,
    deserted: Option<Deserted>,
    is_stopping: bool,
}

impl Acceptor {
    fn new(sub_reactors: Vec<SubReactorHandle>, deserted: Deserted) -> Self {
        Acceptor {
            sub_reactors,
            next: 0,
            listeners: Vec::new(),
            removed: Vec::new(),
            deserted: Some(deserted),
            is_stopping: false,
        }
    }

    /// The sub reactor with the fewest connections; of equals the one whose turn it is. `None` if none is left.
    fn least_loaded(&self) -> Option<usize> {
        let count = self.sub_reactors.len();
        (0..count).map(|step| (self.next + step) % count).min_by_key(|&at| self.sub_reactors[at].connections())
    }

    /// Hand a connection to a sub reactor that is alive; gives it back when none is.
    fn hand_over(&mut self, mut fd: OwnedFd, number: u16) -> Result<(), OwnedFd> {
        while let Some(at) = self.least_loaded() {
            match self.sub_reactors[at].hand_over(fd, number) {
                Ok(()) => {
                    self.next = (at + 1) % self.sub_reactors.len();
                    return Ok(());
                }
                Err(refused) => {
                    fd = refused;
                    self.sub_reactors.swap_remove(at);
                    self.next = 0;
                }
            }
        }
        Err(fd)
    }

    fn add_listener(&mut self, io: &mut Io<()>, fd: OwnedFd, number: u16) -> Result<(), MainReactorError> {
        if self.listeners.iter().any(|&(_, taken)| taken == number) {
            return Err(MainReactorError::NumberTaken(number));
        }
        let token = io.add_listener(fd).map_err(MainReactorError::Refused)?;
        self.listeners.push((token, number));
        Ok(())
    }

    fn remove_listener(&mut self, io: &mut Io<()>, number: u16, hold: Hold, answer: Answer) {
        match self.listeners.iter().find(|&&(_, known)| known == number) {
            Some(&(token, _)) => {
                io.remove_listener(token, hold);
                self.removed.push((token, answer));
            }
            None => {
                let _ = answer.send(Err(MainReactorError::NoSuchListener(number)));
            }
        }
    }
}

impl Service for Acceptor {
    type Connection = ();
    type Mail = Order;

    fn accepted(&mut self, io: &mut Io<()>, listener: Token, fd: OwnedFd) {
        let number = self.listeners.iter().find(|(token, _)| *token == listener).map(|&(_, number)| number);
        let number = number.expect("a listener keeps its number until it has been seen off");
        // What nobody takes is closed once that is counted and told, not before.
        if let Err(_orphan) = self.hand_over(fd, number) {
            io.counters.connections_orphaned.add(1);
            if let Some(deserted) = self.deserted.take() {
                deserted();
            }
        }
    }

    fn mail(&mut self, io: &mut Io<()>, mail: Order) {
        match mail {
            Order::AddListener { fd, number, answer } => {
                // Whoever gave the order may have gone.
                let _ = answer.send(self.add_listener(io, fd, number));
            }
            Order::RemoveListener { number, hold, answer } => self.remove_listener(io, number, hold, answer),
            Order::Stop { hold } => {
                for &(token, _) in &self.listeners {
                    io.remove_listener(token, hold);
                }
                self.is_stopping = true;
            }
        }
    }

    fn settle(&mut self, _: &mut Io<()>) -> bool {
        true
    }

    // It adds no connection and watches nothing, so it is told nothing of either.
    fn received(&mut self, _: &mut Io<()>, _: Token, _: Lease) {}
    fn ended(&mut self, _: &mut Io<()>, _: Token) {}
    fn drained(&mut self, _: &mut Io<()>, _: Token) {}
    fn expired(&mut self, _: &mut Io<()>, _: Token) {}
    fn closed(&mut self, _: &mut Io<()>, _: Token, (): (), _: CloseReason) {}
    fn ready(&mut self, _: &mut Io<()>, _: Token, _: Readiness) {}
}
