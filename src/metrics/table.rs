//! The table of metrics: what each is called outside, what it means, and where it is found. Exposition, the pages for
//! people and the reference (docs/metrics.md) come from it, so that they cannot disagree.
//!
//! Names are Prometheus' own way: a prefix, base units, `_total` for what only grows.

use super::{Counter, Histogram, Level, ReactorCounters, TICK_NS};

pub const PREFIX: &str = "penstock_";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        }
    }
}

/// Where a number is in a shard.
pub type CounterOf = fn(&ReactorCounters) -> &Counter;
pub type LevelOf = fn(&ReactorCounters) -> &Level;
pub type HistogramOf = fn(&ReactorCounters) -> &Histogram;

/// What of a worker is not in its shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OfWorker {
    /// 1, with its process and how far it is as labels.
    Info,
    ResidentBytes,
    CpuSeconds,
}

/// What of the whole server is in no shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OfServer {
    /// 1, with the version as a label.
    Build,
    StartTime,
    /// Workers by how far they are.
    Workers,
    /// Requests for metrics.
    Scrapes,
}

#[derive(Clone, Copy)]
pub enum Source {
    Count(CounterOf),
    /// Counted in nanoseconds, shown in seconds.
    Seconds(CounterOf),
    /// One metric, told apart by a label.
    CountBy(&'static str, &'static [(&'static str, CounterOf)]),
    Statuses,
    Level(LevelOf),
    /// The ends of the buckets that are shown, in what the histogram counts in.
    Durations(HistogramOf, &'static [u64]),
    Sizes(HistogramOf, &'static [u64]),
    Worker(OfWorker),
    Server(OfServer),
}

/// A metric, or several that a label tells apart.
pub struct Family {
    /// Without the prefix, and without a counter's `_total`.
    pub name: &'static str,
    pub kind: Kind,
    /// The unit, as the end of the name has it; empty for a plain count.
    pub unit: &'static str,
    pub group: &'static str,
    pub help: &'static str,
    pub source: Source,
}

impl Family {
    /// Labels beside `worker`.
    pub fn labels(&self) -> &'static [&'static str] {
        match self.source {
            Source::CountBy("reason", _) => &["reason"],
            Source::CountBy(..) => &["result"],
            Source::Statuses => &["code"],
            Source::Durations(..) | Source::Sizes(..) => &["le"],
            Source::Worker(OfWorker::Info) => &["pid", "generation", "state"],
            Source::Server(OfServer::Build) => &["version"],
            Source::Server(OfServer::Workers) => &["state"],
            _ => &[],
        }
    }

    pub fn is_of_each_worker(&self) -> bool {
        !matches!(self.source, Source::Server(_))
    }
}

const US: u64 = 1_000 / TICK_NS;
const MS: u64 = 1_000 * US;
const S: u64 = 1_000 * MS;

/// From 50 us to 10 s: a request.
const OF_REQUESTS: &[u64] = &[
    50 * US,
    100 * US,
    250 * US,
    500 * US,
    MS,
    MS * 5 / 2,
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    S,
    S * 5 / 2,
    5 * S,
    10 * S,
];
/// From 10 us to 1 s: what a loop does, and waits for.
const OF_TURNS: &[u64] = &[
    10 * US,
    25 * US,
    50 * US,
    100 * US,
    250 * US,
    500 * US,
    MS,
    MS * 5 / 2,
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    S,
];
const OF_BATCHES: &[u64] = &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000];

const SERVER: &str = "Server and workers";
const CONNECTIONS: &str = "Connections";
const DATAGRAMS: &str = "Datagrams";
const REQUESTS: &str = "HTTP requests";
const STREAMS: &str = "Streams of frames";
const LOOP: &str = "Event loop";
const PYTHON: &str = "Python";
const WSGI: &str = "WSGI threads";
const STATIC: &str = "Static files";

macro_rules! families {
    ($($name:literal $kind:ident $unit:literal $group:ident $help:literal = $source:expr;)*) => {
        pub const FAMILIES: &[Family] = &[$(Family {
            name: $name, kind: Kind::$kind, unit: $unit, group: $group, help: $help, source: $source,
        }),*];
    };
}

use Source::{Count, CountBy, Durations, Seconds, Server, Sizes, Worker};

families! {
    "build" Info "" SERVER "The version that serves." = Server(OfServer::Build);
    "start_time_seconds" Gauge "seconds" SERVER "When the server began, in seconds since 1970." = Server(OfServer::StartTime);
    "workers" Gauge "" SERVER "Workers, by how far they are." = Server(OfServer::Workers);
    "scrapes" Counter "" SERVER "Requests for these metrics." = Server(OfServer::Scrapes);
    "worker" Info "" SERVER "Each worker: its process, its generation (a reload makes a new one), how far it is." =
        Worker(OfWorker::Info);
    "worker_starts" Counter "" SERVER "Processes that have been this worker, one after the other." = Count(|of| &of.starts);
    "worker_resident_memory_bytes" Gauge "bytes" SERVER "Resident memory of the worker's process." =
        Worker(OfWorker::ResidentBytes);
    "worker_cpu_seconds" Counter "seconds" SERVER "Processor time of the worker's present process, user and system." =
        Worker(OfWorker::CpuSeconds);

    "connections_open" Gauge "" CONNECTIONS "Open connections." = Source::Level(|of| &of.connections);
    "connections_lingering" Gauge "" CONNECTIONS
        "Of the open ones, those that have said everything and wait for the peer to notice." =
        Source::Level(|of| &of.lingering);
    "connections_accepted" Counter "" CONNECTIONS "Connections accepted." = Count(|of| &of.connections_accepted);
    "connections_handed_over" Counter "" CONNECTIONS "Connections that another event loop accepted and handed over." =
        Count(|of| &of.connections_handed_over);
    "connections_closed" Counter "" CONNECTIONS
        "Connections closed: in good order (finished), after too long a silence (idle), because the peer did not take what \
         was sent (stalled), cut off by the server or the application (aborted), reset or vanished (failed)." =
        CountBy("reason", &[
            ("finished", |of| &of.connections_finished),
            ("idle", |of| &of.connections_silent),
            ("stalled", |of| &of.connections_stalled),
            ("aborted", |of| &of.connections_aborted),
            ("failed", |of| &of.connections_failed),
        ]);
    "connections_refused" Counter "" CONNECTIONS
        "Connections turned away: for want of descriptors, by a limit, for a wrong PROXY header, or because no event loop \
         was left (orphaned)." =
        CountBy("reason", &[
            ("descriptors", |of| &of.connections_refused),
            ("limit", |of| &of.connections_over_limit),
            ("proxy_header", |of| &of.proxy_headers_refused),
            ("orphaned", |of| &of.connections_orphaned),
        ]);
    "connections_expired" Counter "" CONNECTIONS "Connections closed by a deadline, whichever." =
        Count(|of| &of.connections_expired);
    "connections_upgraded" Counter "" CONNECTIONS "Connections that another protocol took over by Upgrade." =
        Count(|of| &of.connections_upgraded);
    "accept_failures" Counter "" CONNECTIONS "Accepts that failed for want of descriptors or memory." =
        Count(|of| &of.accept_failures);
    "received_bytes" Counter "bytes" CONNECTIONS "Bytes received." = Count(|of| &of.bytes_received);
    "sent_bytes" Counter "bytes" CONNECTIONS "Bytes sent." = Count(|of| &of.bytes_sent);
    "sends_blocked" Counter "" CONNECTIONS "Sends that the kernel could not take whole: the peer reads slowly." =
        Count(|of| &of.sends_blocked);

    "datagrams_received" Counter "" DATAGRAMS "Datagrams received." = Count(|of| &of.datagrams_received);
    "datagrams_sent" Counter "" DATAGRAMS "Datagrams sent." = Count(|of| &of.datagrams_sent);
    "datagrams_lost" Counter "" DATAGRAMS
        "Datagrams that came and reached no handler: the kernel's buffer was full (buffer), there was no room for another \
         peer (peers), they were longer than is taken (too_long)." =
        CountBy("reason", &[
            ("buffer", |of| &of.datagrams_dropped),
            ("peers", |of| &of.datagrams_refused),
            ("too_long", |of| &of.datagrams_too_long),
        ]);
    "datagrams_failed" Counter "" DATAGRAMS "Datagrams that the kernel or the network refused to send." =
        Count(|of| &of.datagrams_failed);
    "datagram_pauses" Counter "" DATAGRAMS
        "Pauses in which a busy socket was left alone, so that one look found more (gather_s)." =
        Count(|of| &of.datagram_pauses);
    "datagram_peers_forgotten" Counter "" DATAGRAMS
        "Peers whose session ended by itself: silent for too long (idle), or others needed their places (evicted)." =
        CountBy("reason", &[
            ("idle", |of| &of.datagram_peers_idled_out),
            ("evicted", |of| &of.datagram_peers_evicted),
        ]);

    "http_requests" Counter "" REQUESTS "Requests whose head was whole and in order." = Count(|of| &of.requests);
    "http_responses" Counter "" REQUESTS "Responses by status, refusals included." = Source::Statuses;
    "http_requests_in_progress" Gauge "" REQUESTS "Requests whose response is not complete." =
        Source::Level(|of| &of.in_progress);
    "http_request_duration_seconds" Histogram "seconds" REQUESTS
        "From a request's head being there to its whole response having been given to the kernel, or queued for a peer that \
         reads slowly." =
        Durations(|of| &of.request_ns, OF_REQUESTS);
    "http_requests_refused" Counter "" REQUESTS
        "Requests that the server refused by itself (docs/limits.md), by why." =
        CountBy("reason", &[
            ("malformed", |of| &of.requests_malformed),
            ("head_too_large", |of| &of.heads_too_large),
            ("target_too_long", |of| &of.targets_too_long),
            ("body_too_large", |of| &of.bodies_too_large),
            ("trailers_too_large", |of| &of.trailers_too_large),
            ("head_timeout", |of| &of.heads_timed_out),
            ("body_timeout", |of| &of.bodies_timed_out),
            ("over_limit", |of| &of.requests_over_limit),
        ]);
    "http_native_answers" Counter "" REQUESTS "Requests answered without the application: files, health, redirects." =
        Count(|of| &of.native_answers);
    "log_lines_dropped" Counter "" REQUESTS "Lines of the access log lost because the log could not keep up." =
        Count(|of| &of.log_lines_dropped);

    "stream_frames_received" Counter "" STREAMS "Frames that were handed to the application." =
        Count(|of| &of.frames_received);
    "stream_frames_sent" Counter "" STREAMS "Frames that the application sent, each member of a group counted." =
        Count(|of| &of.frames_sent);
    "stream_pings_answered" Counter "" STREAMS "Heartbeats of peers that were answered without the application." =
        Count(|of| &of.pings_answered);
    "stream_frames_refused" Counter "" STREAMS
        "What came and is no frame: longer than it may be, malformed, or cut off by the end of its connection." =
        CountBy("reason", &[
            ("too_long", |of| &of.frames_too_long),
            ("malformed", |of| &of.frames_malformed),
            ("truncated", |of| &of.frames_truncated),
        ]);

    "loop_turns" Counter "" LOOP "Turns of the event loop." = Count(|of| &of.turns);
    "loop_completions" Counter "" LOOP "Completions that the kernel told." = Count(|of| &of.completions);
    "loop_stale_completions" Counter "" LOOP "Completions that arrived for a connection closed since." =
        Count(|of| &of.stale_completions);
    "loop_busy_seconds" Counter "seconds" LOOP
        "Time between two waits for the kernel. Its rate is the share of one core that the loop is at work, waits for the \
         interpreter included." =
        Seconds(|of| &of.busy_ns);
    "loop_waiting_seconds" Counter "seconds" LOOP "Time waiting for the kernel." = Seconds(|of| &of.waiting_ns);
    "loop_turn_duration_seconds" Histogram "seconds" LOOP "From the end of one wait to the beginning of the next." =
        Durations(|of| &of.turn_ns, OF_TURNS);
    "loop_lag_seconds" Histogram "seconds" LOOP
        "How late a timer is called, tried four times a second: what every callback waits for on top." =
        Durations(|of| &of.lag_ns, OF_TURNS);
    "loop_events_waiting" Gauge "" LOOP "Events that wait for Python, when the loop looked last." =
        Source::Level(|of| &of.events_waiting);
    "loop_deadlines" Gauge "" LOOP "Connections that hang in the timer wheel." = Source::Level(|of| &of.timers);
    "loop_asyncio_timers" Gauge "" LOOP "Timers of asyncio." = Source::Level(|of| &of.asyncio_timers);
    "loop_spare_buffers" Gauge "" LOOP "Output buffers kept for the next connection that needs one." =
        Source::Level(|of| &of.spare_buffers);

    "handler_errors" Counter "" PYTHON "Requests and frames whose handler raised, or broke its protocol." =
        Count(|of| &of.handler_errors);
    "python_batch_events" Histogram "" PYTHON "Events that Python handled in one go, with the interpreter had once." =
        Sizes(|of| &of.batch, OF_BATCHES);
    "python_gil_wait_seconds" Histogram "seconds" PYTHON "From the loop's wanting the interpreter to its having it." =
        Durations(|of| &of.gil_wait_ns, OF_TURNS);
    "python_gil_hold_seconds" Histogram "seconds" PYTHON "From the loop's having the interpreter to its going back to wait: handlers, callbacks and timers, \
         with what they lend out in between." =
        Durations(|of| &of.gil_hold_ns, OF_TURNS);
    "python_budget_exhausted" Counter "" PYTHON
        "Batches that took longer than their budget (500 us), and left the rest for the next turn." =
        Count(|of| &of.budget_exhausted);
    "python_slow_callbacks" Counter "" PYTHON "Times that Python kept the loop for longer than --slow-callback." =
        Count(|of| &of.slow_callbacks);

    "wsgi_threads" Gauge "" WSGI "Threads that call the application." = Source::Level(|of| &of.wsgi_threads);
    "wsgi_threads_busy" Gauge "" WSGI "Of those, the ones at work." = Source::Level(|of| &of.wsgi_busy);
    "wsgi_requests_queued" Gauge "" WSGI "Requests that wait for a thread." = Source::Level(|of| &of.wsgi_queued);
    "wsgi_requests_queued_max" Gauge "" WSGI "The most that ever waited at once." = Source::Level(|of| &of.wsgi_most_queued);
    "wsgi_requests_taken" Counter "" WSGI "Requests that a thread took." = Count(|of| &of.wsgi_taken);
    "wsgi_queue_seconds" Counter "seconds" WSGI "Time that these waited for a thread, in all." =
        Seconds(|of| &of.wsgi_waited_ns);
    "wsgi_requests_rejected" Counter "" WSGI "Requests answered 503 because the queue was full." =
        Count(|of| &of.requests_not_queued);

    "static_lookups" Counter "" STATIC "Names looked up, by whether the cache had them." =
        CountBy("result", &[("hit", |of| &of.static_hits), ("miss", |of| &of.static_misses)]);
    "static_cache_bytes" Gauge "bytes" STATIC "Bytes that the cache holds." = Source::Level(|of| &of.static_cached_bytes);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Sums of others that are shown, or the same by another name.
    const SUMS: [&str; 4] = ["connections_closed", "responses", "connections_idled_out", "writes_timed_out"];
    /// Shown in seconds.
    const IN_NS: [&str; 3] = ["busy_ns", "waiting_ns", "wsgi_waited_ns"];

    fn places() -> HashSet<usize> {
        let shard = ReactorCounters::default();
        let start = std::ptr::from_ref(&shard) as usize;
        let mut places = HashSet::new();
        let mut note = |at: usize| assert!(places.insert(at - start), "one number is shown twice");
        for family in FAMILIES {
            match family.source {
                Count(of) | Seconds(of) => note(std::ptr::from_ref(of(&shard)) as usize),
                CountBy(_, all) => all.iter().for_each(|(_, of)| note(std::ptr::from_ref(of(&shard)) as usize)),
                Source::Level(of) => note(std::ptr::from_ref(of(&shard)) as usize),
                Durations(of, _) | Sizes(of, _) => note(std::ptr::from_ref(of(&shard)) as usize),
                Source::Statuses | Worker(_) | Server(_) => {}
            }
        }
        places
    }

    #[test]
    fn every_number_of_a_shard_is_shown_once() {
        let shard = ReactorCounters::default();
        let histograms = 6;
        let numbers = shard.snapshot().len() + shard.levels().len() + histograms - SUMS.len();
        assert_eq!(places().len(), numbers);
        assert!(IN_NS.iter().all(|name| shard.snapshot().iter().any(|(counter, _, _)| counter == name)));
    }

    #[test]
    fn names_follow_the_conventions_and_are_told_once() {
        let mut seen = HashSet::new();
        for family in FAMILIES {
            let name = family.name;
            assert!(seen.insert(name), "{name} twice");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(name.ends_with(family.unit), "{name} ends with its unit");
            assert!(!name.ends_with("_total") && !name.ends_with("_info"), "{name}: the suffix is the format's to add");
            assert!(family.help.ends_with('.') && !family.help.contains("  ") && family.help.len() > 8, "{name}");
        }
    }
}
