//! Metrics as Prometheus reads them: its text format 0.0.4, or OpenMetrics 1.0, whichever the client prefers.

use std::io::Write;

use super::view::{Seen, View};
use crate::metrics::table::{FAMILIES, Family, Kind, OfServer, OfWorker, PREFIX, Source};
use crate::metrics::{Histogram, TICK_NS};
use crate::reactor::scoreboard::State;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Text,
    OpenMetrics,
}

impl Format {
    pub const ALL: [Format; 2] = [Format::Text, Format::OpenMetrics];

    pub fn content_type(self) -> &'static [u8] {
        match self {
            Format::Text => b"text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => b"application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What an Accept header prefers; the text format if it does not say (RFC 9110 section 12.5.1).
    pub fn accepted(accept: Option<&[u8]>) -> Self {
        let mut best = (0.0, Format::Text);
        for range in accept.unwrap_or_default().split(|&byte| byte == b',') {
            let Some((format, weight)) = offer(range) else { continue };
            // Of equals OpenMetrics: whoever names it can read it.
            if weight > best.0 || weight == best.0 && weight > 0.0 && format == Format::OpenMetrics {
                best = (weight, format);
            }
        }
        best.1
    }
}

/// The format that a media range is about, and its weight.
fn offer(range: &[u8]) -> Option<(Format, f32)> {
    let range = std::str::from_utf8(range).ok()?;
    let mut parts = range.split(';').map(str::trim);
    let format = match parts.next()?.to_ascii_lowercase().as_str() {
        "application/openmetrics-text" => Format::OpenMetrics,
        "text/plain" | "text/*" | "*/*" => Format::Text,
        _ => return None,
    };
    let mut weight = 1.0;
    for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => weight = value.trim().parse().unwrap_or(0.0),
            "version" if format == Format::OpenMetrics && value.trim_matches('"') != "1.0.0" => return None,
            _ => {}
        }
    }
    Some((format, weight))
}

/// Everything, with what the application has of its own (in the same format, without an end).
pub fn write(out: &mut Vec<u8>, view: &View, format: Format, app: &[u8]) {
    let workers = view.look();
    for family in FAMILIES {
        Writer { out, family, format }.write(view, &workers);
    }
    out.extend_from_slice(app);
    if format == Format::OpenMetrics {
        out.extend_from_slice(b"# EOF\n");
    }
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    family: &'a Family,
    format: Format,
}

// Writing to a Vec cannot fail.
impl Writer<'_> {
    fn write(&mut self, view: &View, workers: &[Seen<'_>]) {
        self.head();
        match self.family.source {
            Source::Server(which) => self.server(which, view, workers),
            _ => workers.iter().for_each(|worker| self.worker(worker)),
        }
    }

    fn head(&mut self) {
        let Family { name, kind, unit, help, .. } = *self.family;
        let (suffix, kind) = match (self.format, kind) {
            (Format::OpenMetrics, _) => ("", kind),
            (Format::Text, Kind::Counter) => ("_total", kind),
            // The text format knows no infos.
            (Format::Text, Kind::Info) => ("_info", Kind::Gauge),
            (Format::Text, _) => ("", kind),
        };
        let name = format!("{PREFIX}{name}{suffix}");
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {}", kind.name());
        if self.format == Format::OpenMetrics && !unit.is_empty() {
            let _ = writeln!(self.out, "# UNIT {name} {unit}");
        }
    }

    /// A sample; `labels` are as they stand between the braces.
    fn sample(&mut self, suffix: &str, labels: &str, value: impl std::fmt::Display) {
        let kind = match self.family.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            _ => "",
        };
        let _ = match labels {
            "" => writeln!(self.out, "{PREFIX}{}{kind}{suffix} {value}", self.family.name),
            _ => writeln!(self.out, "{PREFIX}{}{kind}{suffix}{{{labels}}} {value}", self.family.name),
        };
    }

    fn server(&mut self, which: OfServer, view: &View, workers: &[Seen<'_>]) {
        match which {
            OfServer::Build => self.sample("", &format!("version=\"{}\"", view.version), 1),
            OfServer::StartTime => self.sample("", "", view.started_unix_s),
            OfServer::Scrapes => self.sample("", "", view.scrapes.load(std::sync::atomic::Ordering::Relaxed)),
            OfServer::Workers => {
                for state in [State::Starting, State::Ready, State::Draining] {
                    let count = workers.iter().filter(|worker| worker.state == state).count();
                    self.sample("", &format!("state=\"{}\"", state.name()), count);
                }
            }
        }
    }

    fn worker(&mut self, worker: &Seen<'_>) {
        let (shard, own) = (&**worker.shard, format!("worker=\"{}\"", worker.label));
        match self.family.source {
            Source::Count(of) => self.sample("", &own, of(shard).get()),
            Source::Seconds(of) => self.sample("", &own, seconds(of(shard).get())),
            Source::Level(of) => self.sample("", &own, of(shard).get()),
            Source::CountBy(label, all) => {
                for (value, of) in all {
                    self.sample("", &format!("{own},{label}=\"{value}\""), of(shard).get());
                }
            }
            Source::Statuses => {
                for (status, count) in shard.statuses.seen() {
                    self.sample("", &format!("{own},code=\"{status}\""), count);
                }
            }
            Source::Durations(of, ends) => {
                self.histogram(of(shard), ends, &own, |value| seconds(value * TICK_NS), seconds)
            }
            Source::Sizes(of, ends) => self.histogram(of(shard), ends, &own, |value| value as f64, |sum| sum as f64),
            Source::Worker(OfWorker::Info) if worker.state != State::Free => {
                let (pid, generation, state) = (worker.pid, worker.generation, worker.state.name());
                let labels = format!("{own},pid=\"{pid}\",generation=\"{generation}\",state=\"{state}\"");
                self.sample("", &labels, 1);
            }
            Source::Worker(which) => {
                if let Some(process) = worker.process {
                    match which {
                        OfWorker::ResidentBytes => self.sample("", &own, process.resident_bytes),
                        OfWorker::CpuSeconds => self.sample("", &own, process.cpu_s),
                        OfWorker::Info => {}
                    }
                }
            }
            Source::Server(_) => {}
        }
    }

    fn histogram(
        &mut self,
        histogram: &Histogram,
        ends: &[u64],
        own: &str,
        shown: impl Fn(u64) -> f64,
        shown_sum: impl Fn(u64) -> f64,
    ) {
        let snapshot = histogram.snapshot();
        for (&end, count) in ends.iter().zip(snapshot.cumulative(ends)) {
            // As Go and Python write it, so that both formats name the same series.
            self.sample("_bucket", &format!("{own},le=\"{:?}\"", Decimal(shown(end))), count);
        }
        let count = snapshot.count();
        self.sample("_bucket", &format!("{own},le=\"+Inf\""), count);
        self.sample("_sum", own, shown_sum(snapshot.sum));
        self.sample("_count", own, count);
    }
}

/// A number with a decimal point and without an exponent.
struct Decimal(f64);

impl std::fmt::Debug for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.fract() == 0.0 { write!(f, "{:.1}", self.0) } else { write!(f, "{}", self.0) }
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::reactor::scoreboard::Scoreboard;

    fn view() -> View {
        let board = Arc::new(Scoreboard::new(3).unwrap());
        board.claim(1, u64::from(std::process::id()), 4);
        board.set_state(1, State::Ready);
        board.shard(1).statuses.add(200);
        board.shard(1).statuses.add(999);
        board.shard(1).request_ns.record_duration(Duration::from_micros(250));
        board.shard(1).request_ns.record_duration(Duration::from_micros(251));
        View::new(board, &[], Vec::new())
    }

    fn text(format: Format) -> String {
        let mut out = Vec::new();
        write(&mut out, &view(), format, b"");
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_formats_differ_in_names_types_and_their_end_alone() {
        let (plain, open) = (text(Format::Text), text(Format::OpenMetrics));
        for line in [
            "penstock_http_responses_total{worker=\"1\",code=\"200\"} 1\n",
            "penstock_http_responses_total{worker=\"1\",code=\"0\"} 1\n",
            "penstock_http_request_duration_seconds_bucket{worker=\"1\",le=\"0.00025\"} 1\n",
            "penstock_http_request_duration_seconds_bucket{worker=\"1\",le=\"1.0\"} 2\n",
            "penstock_http_request_duration_seconds_sum{worker=\"1\"} 0.000501\n",
            "penstock_http_request_duration_seconds_count{worker=\"1\"} 2\n",
            "generation=\"4\",state=\"ready\"} 1\n",
            "penstock_workers{state=\"ready\"} 1\n",
            "penstock_python_batch_events_bucket{worker=\"1\",le=\"20.0\"} 0\n",
        ] {
            assert!(plain.contains(line) && open.contains(line), "{line}\n{plain}");
        }
        assert!(plain.contains("# TYPE penstock_http_requests_total counter\n") && !plain.contains("# EOF"));
        assert!(plain.contains("# TYPE penstock_build_info gauge\n"));
        assert!(open.contains("# TYPE penstock_http_requests counter\n") && open.ends_with("# EOF\n"));
        assert!(open.contains("# UNIT penstock_http_request_duration_seconds seconds\n"));
        assert!(!plain.contains("worker=\"0\""), "nobody has been that worker");
    }

    #[test]
    fn no_text_of_ours_needs_escaping() {
        assert!(FAMILIES.iter().all(|family| !family.help.contains(['"', '\\', '\n'])));
    }

    #[test]
    fn the_format_is_what_accept_prefers() {
        let cases: &[(Option<&str>, Format)] = &[
            (None, Format::Text),
            (Some("*/*"), Format::Text),
            (Some("text/html,*/*;q=0.8"), Format::Text),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some("application/openmetrics-text; version=\"1.0.0\"; charset=utf-8"), Format::OpenMetrics),
            (Some("application/openmetrics-text;version=0.0.1;q=0.9,text/plain;version=0.0.4;q=0.5"), Format::Text),
            (Some("text/plain;q=0.5, APPLICATION/OpenMetrics-Text;version=1.0.0;q=0.75"), Format::OpenMetrics),
            (Some("application/openmetrics-text;version=1.0.0;q=0.3,text/plain;q=0.5"), Format::Text),
            (Some("application/openmetrics-text;q=0"), Format::Text),
            (Some("text/plain, application/openmetrics-text"), Format::OpenMetrics),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                     application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,*/*;q=0.2",
                ),
                Format::OpenMetrics,
            ),
            (Some(",;=q=,application/openmetrics-text;q=x"), Format::Text),
        ];
        for &(accept, format) in cases {
            assert_eq!(Format::accepted(accept.map(str::as_bytes)), format, "{accept:?}");
        }
        assert_eq!(Format::accepted(Some(b"\xff\xfe,text/plain")), Format::Text);
    }
}
