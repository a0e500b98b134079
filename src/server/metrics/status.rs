//! The same numbers as JSON, for the pages and for `penstock top`: totals, and each worker's.

use std::io::Write;

use super::view::{Seen, View};
use crate::metrics::table::{FAMILIES, Family, OfServer, OfWorker, Source};
use crate::metrics::{Snapshot, TICK_NS};
use crate::reactor::scoreboard::State;

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

/// The server, all metrics in all, and who the workers are.
pub fn status(view: &View) -> Vec<u8> {
    let workers = view.look();
    let all: Vec<&Seen<'_>> = workers.iter().collect();
    let mut json = Json::default();
    json.object(|json| {
        json.text("version", view.version);
        json.number("pid", f64::from(std::process::id()));
        json.number("started_unix_s", view.started_unix_s);
        json.number("uptime_s", view.uptime_s());
        json.texts("listeners", &view.listeners);
        json.key("metrics");
        metrics(json, view, &all, |_| true);
        json.array("workers", all.iter().filter(|worker| worker.state != State::Free), |json, worker| {
            identity(json, worker);
        });
    });
    json.done()
}

/// Each worker with its metrics of these groups.
pub fn by_worker(view: &View, groups: &[&str]) -> Vec<u8> {
    let workers = view.look();
    let mut json = Json::default();
    json.object(|json| {
        json.number("uptime_s", view.uptime_s());
        json.array("workers", workers.iter(), |json, worker| {
            identity(json, worker);
            json.key("metrics");
            let is_wanted = |family: &Family| groups.contains(&family.group) && family.is_of_each_worker();
            metrics(json, view, &[worker], is_wanted);
        });
    });
    json.done()
}

fn identity(json: &mut Json, worker: &Seen<'_>) {
    json.text("worker", worker.label);
    json.number("pid", worker.pid as f64);
    json.number("generation", worker.generation as f64);
    json.text("state", worker.state.name());
    json.number("connections", worker.shard.connections.get() as f64);
    json.number("in_progress", worker.shard.in_progress.get() as f64);
    json.number("responses", worker.shard.responses.get() as f64);
    json.number("busy_seconds", worker.shard.busy_ns.get() as f64 / 1e9);
    if let Some(process) = worker.process {
        json.number("resident_bytes", process.resident_bytes as f64);
        json.number("cpu_seconds", process.cpu_s);
    }
}

/// The metrics of these workers, added up.
fn metrics(json: &mut Json, view: &View, of: &[&Seen<'_>], is_wanted: impl Fn(&Family) -> bool) {
    json.object(|json| {
        for family in FAMILIES.iter().filter(|family| is_wanted(family)) {
            metric(json, view, of, family);
        }
    });
}

fn metric(json: &mut Json, view: &View, workers: &[&Seen<'_>], family: &Family) {
    let name = family.name;
    match family.source {
        Source::Count(of) => json.number(name, sum(workers, |worker| of(worker.shard).get())),
        Source::Seconds(of) => json.number(name, sum(workers, |worker| of(worker.shard).get()) / 1e9),
        Source::Level(of) => json.number(name, sum(workers, |worker| of(worker.shard).get())),
        Source::CountBy(_, all) => {
            json.key(name);
            json.object(|json| {
                for (value, of) in all {
                    json.number(value, sum(workers, |worker| of(worker.shard).get()));
                }
            });
        }
        Source::Statuses => {
            let mut counts = std::collections::BTreeMap::<u16, u64>::new();
            for (status, count) in workers.iter().flat_map(|worker| worker.shard.statuses.seen()) {
                *counts.entry(status).or_default() += count;
            }
            json.key(name);
            json.object(|json| {
                counts.iter().for_each(|(status, &count)| json.number(&status.to_string(), count as f64))
            });
        }
        Source::Durations(of, _) => {
            let all = added(workers.iter().map(|worker| of(worker.shard).snapshot()));
            histogram(json, name, &all, 1e9 / TICK_NS as f64, 1e9);
        }
        Source::Sizes(of, _) => {
            let all = added(workers.iter().map(|worker| of(worker.shard).snapshot()));
            histogram(json, name, &all, 1.0, 1.0);
        }
        Source::Worker(OfWorker::ResidentBytes) => {
            json.number(name, sum(workers, |worker| worker.process.map_or(0, |process| process.resident_bytes)));
        }
        Source::Worker(OfWorker::CpuSeconds) => {
            json.number(name, workers.iter().filter_map(|worker| Some(worker.process?.cpu_s)).sum());
        }
        Source::Server(OfServer::Scrapes) => {
            json.number(name, view.scrapes.load(std::sync::atomic::Ordering::Relaxed) as f64);
        }
        Source::Server(OfServer::Workers) => {
            json.number(name, sum(workers, |worker| u64::from(worker.state == State::Ready)));
        }
        // Told beside the metrics.
        Source::Server(OfServer::Build | OfServer::StartTime) | Source::Worker(OfWorker::Info) => {}
    }
}

fn sum(workers: &[&Seen<'_>], of: impl Fn(&Seen<'_>) -> u64) -> f64 {
    workers.iter().map(|worker| of(worker)).sum::<u64>() as f64
}

fn added(snapshots: impl Iterator<Item = Snapshot>) -> Snapshot {
    let mut all = Snapshot::default();
    snapshots.for_each(|each| all.add(&each));
    all
}

/// With quantiles since the start; and how many values were of each size that occurred, for those of a shorter time.
fn histogram(json: &mut Json, name: &str, all: &Snapshot, per_unit: f64, per_unit_of_sum: f64) {
    json.key(name);
    json.object(|json| {
        json.number("count", all.count() as f64);
        json.number("sum", all.sum as f64 / per_unit_of_sum);
        for (name, share) in QUANTILES {
            json.number(name, all.quantile(share) / per_unit);
        }
        json.key("buckets");
        json.pairs(all.filled().map(|(end, count)| ((end != u64::MAX).then(|| end as f64 / per_unit), count)));
    });
}

/// JSON as it is written: whoever writes sees to it that a value follows each key.
#[derive(Default)]
struct Json {
    out: Vec<u8>,
    has_member: bool,
}

// Writing to a Vec cannot fail.
impl Json {
    fn done(mut self) -> Vec<u8> {
        self.out.push(b'\n');
        self.out
    }

    fn separate(&mut self) {
        if self.has_member {
            self.out.push(b',');
        }
        self.has_member = true;
    }

    fn key(&mut self, name: &str) {
        self.separate();
        self.string(name);
        self.out.push(b':');
    }

    fn object(&mut self, write: impl FnOnce(&mut Self)) {
        self.out.push(b'{');
        self.has_member = false;
        write(self);
        self.out.push(b'}');
        self.has_member = true;
    }

    fn array<T>(&mut self, name: &str, all: impl Iterator<Item = T>, write: impl Fn(&mut Self, T)) {
        self.key(name);
        self.out.push(b'[');
        self.has_member = false;
        for each in all {
            self.separate();
            self.object(|json| write(json, each));
        }
        self.out.push(b']');
        self.has_member = true;
    }

    fn pairs(&mut self, all: impl Iterator<Item = (Option<f64>, u64)>) {
        self.out.push(b'[');
        for (at, (first, second)) in all.enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let _ = match first {
                Some(first) => write!(self.out, "{comma}[{first},{second}]"),
                None => write!(self.out, "{comma}[null,{second}]"),
            };
        }
        self.out.push(b']');
    }

    fn number(&mut self, name: &str, value: f64) {
        self.key(name);
        // Counts are whole up to 2^53, and are written without a point.
        let _ = write!(self.out, "{value}");
    }

    fn text(&mut self, name: &str, value: &str) {
        self.key(name);
        self.string(value);
    }

    fn texts(&mut self, name: &str, all: &[String]) {
        self.key(name);
        self.out.push(b'[');
        for (at, each) in all.iter().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            self.string(each);
        }
        self.out.push(b']');
    }

    fn string(&mut self, text: &str) {
        self.out.push(b'"');
        for character in text.chars() {
            let _ = match character {
                '"' | '\\' => write!(self.out, "\\{character}"),
                // Of a socket's path; and what a browser might take for markup.
                '\0'..='\x1f' | '<' | '\u{2028}' | '\u{2029}' => write!(self.out, "\\u{:04x}", u32::from(character)),
                _ => write!(self.out, "{character}"),
            };
        }
        self.out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::reactor::scoreboard::Scoreboard;

    #[test]
    fn a_path_cannot_break_out_of_its_string() {
        let view = View::new(Arc::new(Scoreboard::new(1).unwrap()), &[], vec!["unix:/a\"\\\n</script>\u{2028}".into()]);
        let json = String::from_utf8(status(&view)).unwrap();
        assert!(json.contains(r#""listeners":["unix:/a\"\\\u000a\u003c/script>\u2028"]"#), "{json}");
    }

    #[test]
    fn workers_are_added_up_and_told_apart() {
        let board = Arc::new(Scoreboard::new(2).unwrap());
        for slot in [0, 1] {
            board.claim(slot, 0, 1);
            board.shard(slot).statuses.add(204);
            board.shard(slot).batch.record(5);
            board.shard(slot).connections_silent.add(2);
        }
        let view = View::new(board, &[], Vec::new());
        let json = String::from_utf8(status(&view)).unwrap();
        assert!(json.contains(r#""http_responses":{"204":2}"#), "{json}");
        assert!(json.contains(r#""idle":4"#) && json.contains(r#""buckets":[[5,2]]"#), "{json}");
        let rows = String::from_utf8(by_worker(&view, &["Connections"])).unwrap();
        assert_eq!(rows.matches(r#""idle":2"#).count(), 2, "{rows}");
        assert!(!rows.contains("http_responses"));
    }
}
