//! What one reactor counts: a shard. Its thread alone writes it; any thread, and the supervisor, may read.
//!
//! A single writer needs no locked instruction: a load and a store, both relaxed, cost what a plain add costs. A shard is
//! words and nothing else, so that it can lie in memory that processes share and outlive its writer. What the words are
//! called outside, and what they mean there, is one table ([`table`]).

mod histogram;
pub mod table;

pub use histogram::{Histogram, Snapshot, TICK_NS};

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

#[derive(Default, Debug)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Only on the reactor's thread.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How much of something there is just now, told anew by its one writer.
#[derive(Default, Debug)]
#[repr(transparent)]
pub struct Level(AtomicU64);

impl Level {
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many of something there are. Any thread may change it.
#[derive(Default, Debug)]
pub struct Gauge(AtomicUsize);

impl Gauge {
    pub fn add(&self, count: usize) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn subtract(&self, count: usize) {
        let before = self.0.fetch_sub(count, Ordering::Relaxed);
        debug_assert!(before >= count, "a gauge fell below zero");
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

const STATUSES: usize = 600;

/// Responses by status.
#[derive(Debug)]
#[repr(transparent)]
pub struct Statuses([Counter; STATUSES]);

impl Default for Statuses {
    fn default() -> Self {
        Statuses(std::array::from_fn(|_| Counter::default()))
    }
}

impl Statuses {
    /// Only on the reactor's thread. What HTTP knows no status for counts as 0.
    pub fn add(&self, status: u16) {
        self.0[if usize::from(status) < STATUSES { usize::from(status) } else { 0 }].add(1);
    }

    /// Those that occurred.
    pub fn seen(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        (0..).zip(&self.0).map(|(status, counter)| (status, counter.get())).filter(|&(_, count)| count > 0)
    }
}

macro_rules! shard {
    (
        counters { $($(#[doc = $help:literal])+ $name:ident),* $(,)? }
        levels { $($(#[doc = $level_help:literal])+ $level:ident),* $(,)? }
        histograms { $($(#[doc = $histogram_help:literal])+ $histogram:ident),* $(,)? }
    ) => {
        /// One shard, written by one reactor.
        #[derive(Default, Debug)]
        #[repr(C, align(64))]
        pub struct ReactorCounters {
            $($(#[doc = $help])+ pub $name: Counter,)*
            $($(#[doc = $level_help])+ pub $level: Level,)*
            /// Responses by status.
            pub statuses: Statuses,
            $($(#[doc = $histogram_help])+ pub $histogram: Histogram,)*
        }

        impl ReactorCounters {
            /// Name, meaning and value of each counter.
            pub fn snapshot(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($help),+).trim_ascii(), self.$name.get())),*]
            }

            /// Name and value of each level.
            pub fn levels(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($level), self.$level.get())),*]
            }

            /// Whoever had these is gone; what was counted stays counted.
            pub fn clear_levels(&self) {
                $(self.$level.set(0);)*
            }
        }
    };
}

shard! {
    counters {
        /// Turns of the loop.
        turns,
        /// Completions that the poller told.
        completions,
        /// Completions that arrived for a connection closed since.
        stale_completions,
        /// Connections accepted.
        connections_accepted,
        /// Connections closed, for whatever reason.
        connections_closed,
        /// Of those, in good order, by either side.
        connections_finished,
        /// Of those, because of silence that was too long.
        connections_silent,
        /// Of those, because the peer did not take what was sent.
        connections_stalled,
        /// Of those, cut off by the server or the application.
        connections_aborted,
        /// Of those, because the peer reset them or vanished.
        connections_failed,
        /// Connections closed by a deadline.
        connections_expired,
        /// Connections refused because the process was out of descriptors.
        connections_refused,
        /// Accepts that failed for want of descriptors or memory.
        accept_failures,
        /// Connections handed over to this reactor by another.
        connections_handed_over,
        /// Accepted connections closed because no sub reactor was left to take them.
        connections_orphaned,
        /// Bytes received.
        bytes_received,
        /// Bytes sent.
        bytes_sent,
        /// Sends that the kernel could not take whole.
        sends_blocked,
        /// Datagrams received.
        datagrams_received,
        /// Datagrams sent.
        datagrams_sent,
        /// Datagrams that the kernel dropped because a socket's receive buffer was full.
        datagrams_dropped,
        /// Datagrams thrown away because there was no room for another peer.
        datagrams_refused,
        /// Datagrams longer than an endpoint takes.
        datagrams_too_long,
        /// Datagrams that the kernel or the network refused to send.
        datagrams_failed,
        /// Pauses in which more datagrams were let come together.
        datagram_pauses,
        /// Peers forgotten because they were silent for too long.
        datagram_peers_idled_out,
        /// Peers forgotten because others needed their places.
        datagram_peers_evicted,
        /// Requests whose head was complete.
        requests,
        /// Malformed requests, answered with 400, 417, 501 or 505.
        requests_malformed,
        /// Requests whose head has too many bytes or header lines, answered with 431.
        heads_too_large,
        /// Requests whose target is too long, answered with 414.
        targets_too_long,
        /// Requests whose body is too large, answered with 413.
        bodies_too_large,
        /// Requests whose trailers are too large, answered with 431.
        trailers_too_large,
        /// Requests whose head took too long, answered with 408.
        heads_timed_out,
        /// Requests whose body took too long or came too slowly, answered with 408.
        bodies_timed_out,
        /// Requests beyond the limit of those in progress, answered with 503.
        requests_over_limit,
        /// Of those, requests to a WSGI application whose threads were all busy, and their queue full.
        requests_not_queued,
        /// Connections beyond a limit, answered with 503.
        connections_over_limit,
        /// Connections closed because they were idle for too long.
        connections_idled_out,
        /// Connections cut off because the peer did not read its response, or too slowly.
        writes_timed_out,
        /// Responses completed.
        responses,
        /// Requests that the server answered by itself: files, redirects and the like.
        native_answers,
        /// Connections that another protocol took over by Upgrade.
        connections_upgraded,
        /// Connections closed because they had to announce their client by the PROXY protocol, and did not, did so wrongly,
        /// or may not.
        proxy_headers_refused,
        /// Frames of streams that were handed to the application.
        frames_received,
        /// Frames that it sent.
        frames_sent,
        /// Pings that were answered without the application.
        pings_answered,
        /// Frames longer than they may be.
        frames_too_long,
        /// Bytes that are no frame.
        frames_malformed,
        /// Frames that ended with their connection.
        frames_truncated,
        /// Requests and frames whose handler raised or broke its protocol.
        handler_errors,
        /// Times the attached phase ran out of its budget and left work for the next turn.
        budget_exhausted,
        /// Access-log lines dropped because the log could not keep up.
        log_lines_dropped,
        /// Nanoseconds at work, from the end of one wait for the kernel to the beginning of the next.
        busy_ns,
        /// Nanoseconds waiting for the kernel.
        waiting_ns,
        /// Handlers' turns that took longer than the slow-callback threshold; counted by the watchdog.
        slow_callbacks,
        /// Times that a worker process took this place.
        starts,
        /// Requests that a WSGI thread has taken.
        wsgi_taken,
        /// Nanoseconds that these had waited for it.
        wsgi_waited_ns,
        /// Static files found in the cache.
        static_hits,
        /// Static files that had to be looked for.
        static_misses,
    }
    levels {
        /// Open connections.
        connections,
        /// Of those, the ones that have said everything and wait for the peer to notice.
        lingering,
        /// Requests whose response is not complete.
        in_progress,
        /// Events that wait for Python.
        events_waiting,
        /// Connections that hang in the timer wheel.
        timers,
        /// Timers of asyncio.
        asyncio_timers,
        /// Buffers kept for the next connection that needs one.
        spare_buffers,
        /// Threads of the WSGI pool.
        wsgi_threads,
        /// Of those, running the application.
        wsgi_busy,
        /// Requests that wait for one of them.
        wsgi_queued,
        /// The most that ever did.
        wsgi_most_queued,
        /// Bytes of static files in the cache.
        static_cached_bytes,
    }
    histograms {
        /// From a request's head being whole to its response having been given to the kernel.
        request_ns,
        /// From the end of one wait for the kernel to the beginning of the next.
        turn_ns,
        /// How late a timer was that should have been called.
        lag_ns,
        /// Events of one batch.
        batch,
        /// From wanting the interpreter to having it.
        gil_wait_ns,
        /// From having the interpreter to giving it up.
        gil_hold_ns,
    }
}
