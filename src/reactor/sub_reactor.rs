//! A sub reactor serves connections: an event loop on one thread, and nobody else touches what is in it.
//!
//! Other threads have a [`SubReactorHandle`] of it: its mailbox, and how many connections it has. The count is kept such
//! that whoever hands over in a burst sees what it has done: a connection on its way counts already.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::Mail;
use crate::core::mailbox::MailSender;
use crate::core::{EventLoop, Service, Shard};
use crate::metrics::{Gauge, ReactorCounters};

/// A place in a sub reactor's count for a connection that has been sent and not yet arrived.
///
/// Dropped when it has arrived (and is counted for itself), or when it never will.
pub struct OnItsWay(Arc<Gauge>);

impl OnItsWay {
    fn to(load: &Arc<Gauge>) -> Self {
        load.add(1);
        OnItsWay(load.clone())
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.subtract(1);
    }
}

/// What others need of a sub reactor. Clones are handles of the same one.
#[derive(Clone)]
pub struct SubReactorHandle {
    mail: MailSender<Mail>,
    load: Arc<Gauge>,
}

impl SubReactorHandle {
    pub fn of<S: Service<Mail = Mail>>(event_loop: &EventLoop<S>) -> Self {
        SubReactorHandle { mail: event_loop.mail_sender(), load: event_loop.io.load().clone() }
    }

    /// Connections that it has or that are on their way to it.
    pub fn connections(&self) -> usize {
        self.load.get()
    }

    /// Hand a connection over; gives it back when the reactor is gone.
    pub fn hand_over(&self, fd: OwnedFd, listener: u16) -> Result<(), OwnedFd> {
        let mail = Mail::Connection { fd, listener, on_its_way: OnItsWay::to(&self.load) };
        self.mail.send(mail).map_err(|Mail::Connection { fd, .. }| fd)
    }
}

/// An event loop on a thread of its own. Dropping it stops it.
pub struct SubReactor {
    handle: SubReactorHandle,
    counters: Shard,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl SubReactor {
    /// Start a thread, make the event loop on it (a poller may belong to the thread that opened it), and turn.
    pub fn start<S: Service<Mail = Mail> + 'static>(
        name: &str,
        make: impl FnOnce() -> io::Result<EventLoop<S>> + Send + 'static,
    ) -> io::Result<Self> {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = stopping.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let mut event_loop = make()?;
            // Whoever starts it waits for this.
            let _ = tell.send((SubReactorHandle::of(&event_loop), event_loop.io.counters.clone()));
            while !stop.load(Ordering::Acquire) {
                event_loop.turn(None)?;
            }
            Ok(())
        })?;
        match told.recv() {
            Ok((handle, counters)) => Ok(SubReactor { handle, counters, stopping, thread: Some(thread) }),
            Err(_) => Err(failure_of(thread)),
        }
    }

    pub fn handle(&self) -> &SubReactorHandle {
        &self.handle
    }

    pub fn counters(&self) -> &ReactorCounters {
        &self.counters
    }

    /// End its thread, and with it every connection it has; an error if it had ended by one before.
    pub fn stop(mut self) -> io::Result<()> {
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.stopping.store(true, Ordering::Release);
        self.handle.mail.wake();
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the sub reactor's thread panicked")))
    }
}

impl Drop for SubReactor {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

/// Why a thread ended before it was ready.
fn failure_of(thread: JoinHandle<io::Result<()>>) -> io::Error {
    match thread.join() {
        Ok(Err(error)) => error,
        Ok(Ok(())) | Err(_) => io::Error::other("the reactor's thread panicked while it started"),
    }
}
