//! Counters of one reactor. Its thread alone writes them; any thread may read.
//!
//! A single writer needs no locked instruction: a load and a store, both relaxed, cost what a plain add costs.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

#[derive(Default, Debug)]
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

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident),* $(,)?) => {
        /// One shard, written by one reactor.
        #[derive(Default, Debug)]
        #[repr(align(64))]
        pub struct ReactorCounters { $($(#[doc = $help])+ pub $name: Counter),* }

        impl ReactorCounters {
            /// Name, meaning and value of each.
            pub fn snapshot(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($help),+).trim_ascii(), self.$name.get())),*]
            }
        }
    };
}

counters! {
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
    /// Connections closed because the peer reset them or vanished.
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
    /// Requests whose handler raised or broke its protocol.
    handler_errors,
    /// Times the attached phase ran out of its budget and left work for the next turn.
    budget_exhausted,
    /// Access-log lines dropped because the log could not keep up.
    log_lines_dropped,
}
