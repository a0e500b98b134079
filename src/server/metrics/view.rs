//! What there is to show: the workers' shards, and what the kernel says of their processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::core::Shard;
use crate::reactor::scoreboard::{Scoreboard, State, Word};

/// A server, as whoever shows its metrics has it.
pub struct View {
    pub board: Arc<Scoreboard>,
    /// What each slot is called.
    labels: Vec<String>,
    pub version: &'static str,
    pub listeners: Vec<String>,
    started: Instant,
    pub started_unix_s: f64,
    /// Requests for metrics.
    pub scrapes: AtomicU64,
}

/// One worker, at one moment.
pub struct Seen<'a> {
    pub label: &'a str,
    pub shard: &'a Shard,
    pub state: State,
    pub pid: u64,
    pub generation: u64,
    /// Of its process; of several workers in one process the first has it.
    pub process: Option<ProcessFigures>,
}

#[derive(Clone, Copy, Debug)]
pub struct ProcessFigures {
    pub resident_bytes: u64,
    pub cpu_s: f64,
}

impl View {
    /// `names` of slots, in their order; the others are called by their number.
    pub fn new(board: Arc<Scoreboard>, names: &[String], listeners: Vec<String>) -> Self {
        let labels = (0..board.slots()).map(|slot| names.get(slot).cloned().unwrap_or_else(|| slot.to_string()));
        View {
            labels: labels.collect(),
            board,
            version: env!("CARGO_PKG_VERSION"),
            listeners,
            started: Instant::now(),
            started_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            scrapes: AtomicU64::new(0),
        }
    }

    pub fn uptime_s(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    pub fn count_scrape(&self) {
        self.scrapes.fetch_add(1, Ordering::Relaxed);
    }

    /// The workers that there are, or have been.
    pub fn look(&self) -> Vec<Seen<'_>> {
        let mut seen: Vec<Seen<'_>> = Vec::new();
        for slot in self.board.used() {
            let (state, pid) = (self.board.state(slot), self.board.get(slot, Word::Pid));
            let is_first = state != State::Free && seen.iter().all(|other| other.pid != pid);
            seen.push(Seen {
                label: &self.labels[slot],
                shard: self.board.shard(slot),
                state,
                pid,
                generation: self.board.get(slot, Word::Generation),
                process: if is_first { process_figures(pid) } else { None },
            });
        }
        seen
    }
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Free => "gone",
            State::Starting => "starting",
            State::Ready => "ready",
            State::Draining => "draining",
        }
    }
}

/// From /proc/PID/stat; `None` for a process that is gone, or where there is no such file.
fn process_figures(pid: u64) -> Option<ProcessFigures> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the command's name, which may hold anything, the fields begin with the third.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(ProcessFigures {
        resident_bytes: number(24)? * rustix::param::page_size() as u64,
        cpu_s: (number(14)? + number(15)?) as f64 / rustix::param::clock_ticks_per_second() as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_figures_and_one_that_is_gone_has_none() {
        let own = process_figures(u64::from(std::process::id())).unwrap();
        assert!(own.resident_bytes > 100_000 && own.cpu_s >= 0.0, "{own:?}");
        assert!(process_figures(u64::MAX).is_none());
    }

    #[test]
    fn a_process_of_several_workers_is_told_of_once() {
        let board = Arc::new(Scoreboard::new(4).unwrap());
        for slot in [0, 1] {
            board.claim(slot, u64::from(std::process::id()), 1);
        }
        board.claim(3, u64::MAX, 1);
        board.release(3);
        let view = View::new(board, &["0".into(), "main".into()], Vec::new());
        let seen = view.look();
        assert_eq!(seen.iter().map(|each| each.label).collect::<Vec<_>>(), ["0", "main", "3"]);
        assert_eq!(seen.iter().map(|each| each.process.is_some()).collect::<Vec<_>>(), [true, false, false]);
    }
}
