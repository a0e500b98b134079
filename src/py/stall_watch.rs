//! A StallWatch lets another thread notice that Python has been at work in a loop for too long. Unwatched it costs a load.
//!
//! The loop's thread tells when it takes the interpreter and when it lets go; the watcher sleeps without it, and looks four
//! times within the threshold, so that it wakes whoever has to look at the stack while the stack is still that.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

pub struct StallWatch {
    born: Instant,
    is_watched: AtomicBool,
    /// In nanoseconds since `born`; 0 while Python is not at work.
    since_ns: AtomicU64,
    /// What `wait_for_stall` has told of.
    told_ns: AtomicU64,
    stopped: Mutex<bool>,
    stopping: Condvar,
}

impl Default for StallWatch {
    fn default() -> Self {
        StallWatch {
            born: Instant::now(),
            is_watched: AtomicBool::new(false),
            since_ns: AtomicU64::new(0),
            told_ns: AtomicU64::new(0),
            stopped: Mutex::new(false),
            stopping: Condvar::new(),
        }
    }
}

impl StallWatch {
    /// The loop's thread: Python is at work.
    #[inline]
    pub fn entered(&self) {
        if self.is_watched.load(Ordering::Relaxed) {
            self.since_ns.store(self.now_ns(), Ordering::Relaxed);
        }
    }

    /// The loop's thread: and not any more.
    #[inline]
    pub fn left(&self) {
        if self.is_watched.load(Ordering::Relaxed) {
            self.since_ns.store(0, Ordering::Relaxed);
        }
    }

    fn now_ns(&self) -> u64 {
        (self.born.elapsed().as_nanos() as u64).max(1)
    }

    pub fn stop(&self) {
        *self.stopped.lock().expect("nobody panics while holding it") = true;
        self.stopping.notify_all();
    }

    /// Sleep; true once it is stopped.
    fn rests(&self, for_: Duration) -> bool {
        let stopped = self.stopped.lock().expect("nobody panics while holding it");
        let waited = self.stopping.wait_timeout_while(stopped, for_, |stopped| !*stopped);
        *waited.expect("nobody panics while holding it").0
    }

    pub fn wait_for_stall(&self, threshold: Duration) -> Option<Duration> {
        self.is_watched.store(true, Ordering::Relaxed);
        let pause = (threshold / 4).max(Duration::from_millis(1));
        while !self.rests(pause) {
            let since = self.since_ns.load(Ordering::Relaxed);
            let stalled = Duration::from_nanos(self.now_ns().saturating_sub(since));
            if since != 0 && since != self.told_ns.load(Ordering::Relaxed) && stalled >= threshold {
                self.told_ns.store(since, Ordering::Relaxed);
                return Some(stalled);
            }
        }
        None
    }

    /// Whether the stall that was told of last goes on.
    pub fn goes_on(&self) -> bool {
        self.since_ns.load(Ordering::Relaxed) == self.told_ns.load(Ordering::Relaxed)
    }

    pub fn wait_for_end(&self) -> Option<Duration> {
        let since = self.told_ns.load(Ordering::Relaxed);
        while !self.rests(Duration::from_millis(1)) {
            if !self.goes_on() {
                return Some(Duration::from_nanos(self.now_ns().saturating_sub(since)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_told_once_and_its_end_as_well() {
        let watch = StallWatch::default();
        watch.is_watched.store(true, Ordering::Relaxed);
        watch.entered();
        let threshold = Duration::from_millis(5);
        assert!(watch.wait_for_stall(threshold).unwrap() >= threshold);
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| watch.wait_for_end());
            watch.left();
            assert!(ended.join().unwrap().unwrap() >= threshold);
            let second = scope.spawn(|| watch.wait_for_stall(threshold));
            watch.stop();
            assert_eq!(second.join().unwrap(), None);
        });
    }
}
