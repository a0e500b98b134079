//! The Scoreboard is what worker processes tell of themselves, in memory that they and their supervisor share: a slot
//! for each, written by its worker, read by everybody.
//!
//! A slot is a row of words ([`Word`]); a new figure is a new word. What decides on connections lies in its first
//! cache line. A worker that was killed leaves its slot as it was, and the supervisor gives it free.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::Shard;
use crate::core::bell::Bell;
use crate::core::shared::{SharedRow, SharedWords};

/// What a slot's words mean. All of a slot's figures are as of its reactor's last turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// A [`State`].
    State,
    /// How often the reactor has gone to sleep or come back. Even: it waits for the kernel. Odd: it is at work.
    Ticks,
    /// Open connections.
    Connections,
    /// Requests whose response is not complete.
    InProgress,
    /// It leaves new connections to the others, since it has its share.
    Shut,
    /// Responses completed.
    Served,
    Pid,
    Generation,
    /// It has hardly any descriptors left, and so no share of what comes.
    Full,
}

/// Two cache lines: the second has room for more.
const SLOT_WORDS: usize = 16;
const _: () = assert!((Word::Full as usize) < SLOT_WORDS);

/// How far a worker is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u64)]
pub enum State {
    /// The slot is nobody's.
    #[default]
    Free,
    /// Its application starts.
    Starting,
    /// It takes connections.
    Ready,
    /// It takes no more, and answers what it has.
    Draining,
}

impl State {
    fn of(word: u64) -> Self {
        [State::Free, State::Starting, State::Ready, State::Draining].get(word as usize).copied().unwrap_or_default()
    }
}

pub struct Scoreboard {
    words: SharedWords,
    /// What each slot's workers have counted, one after the other: a worker's end loses nothing of it.
    shards: Vec<Shard>,
    slots: usize,
    /// Rung when a worker that leaves connections to the others should look again.
    bell: Bell,
}

impl Scoreboard {
    pub fn new(slots: usize) -> io::Result<Self> {
        assert!(slots > 0, "a scoreboard has at least one slot");
        let words = SharedWords::new(slots * SLOT_WORDS)?;
        Ok(Scoreboard { words, shards: SharedRow::several(slots)?, slots, bell: Bell::new()? })
    }

    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Where the worker of this slot counts.
    pub fn shard(&self, slot: usize) -> &Shard {
        &self.shards[slot]
    }

    /// Slots that have, or had, a worker.
    pub fn used(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.slots).filter(|&slot| self.shards[slot].starts.get() > 0)
    }

    fn word(&self, slot: usize, word: Word) -> &AtomicU64 {
        assert!(slot < self.slots, "slot {slot} of {}", self.slots);
        &self.words[slot * SLOT_WORDS + word as usize]
    }

    pub fn get(&self, slot: usize, word: Word) -> u64 {
        self.word(slot, word).load(Ordering::SeqCst)
    }

    /// A store that all processes see in one order with their other stores and loads of this kind.
    pub fn set(&self, slot: usize, word: Word, value: u64) {
        self.word(slot, word).store(value, Ordering::SeqCst);
    }

    pub fn state(&self, slot: usize) -> State {
        State::of(self.get(slot, Word::State))
    }

    pub fn set_state(&self, slot: usize, state: State) {
        self.set(slot, Word::State, state as u64);
        // Who counts has changed, and with it everybody's share.
        self.bell.ring();
    }

    /// A new worker's slot, with nothing of the last one's in it.
    pub fn claim(&self, slot: usize, pid: u64, generation: u64) {
        self.release(slot);
        self.set(slot, Word::Pid, pid);
        self.set(slot, Word::Generation, generation);
        self.shards[slot].starts.add(1);
        self.set_state(slot, State::Starting);
    }

    /// The worker of this slot is gone.
    pub fn release(&self, slot: usize) {
        self.set_state(slot, State::Free);
        self.shards[slot].clear_levels();
        (0..SLOT_WORDS).for_each(|at| self.words[slot * SLOT_WORDS + at].store(0, Ordering::SeqCst));
    }

    /// Slots whose workers take connections.
    pub fn ready(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.slots).filter(|&slot| self.state(slot) == State::Ready)
    }

    pub fn bell(&self) -> &Bell {
        &self.bell
    }
}

/// A worker's own slot, written by its reactor.
#[derive(Clone)]
pub struct Reporter {
    pub board: Arc<Scoreboard>,
    pub slot: usize,
}

impl Reporter {
    /// About to wait for the kernel.
    pub fn rest(&self, connections: usize, in_progress: usize, served: u64) {
        self.put(Word::Connections, connections as u64);
        self.put(Word::InProgress, in_progress as u64);
        self.put(Word::Served, served);
        self.step(0);
    }

    /// At work, on what only Python can do.
    pub fn work(&self) {
        self.step(1);
    }

    /// A plain store costs nothing, and what it tells may be seen a moment late; shares are told by [`Scoreboard::set`].
    fn put(&self, word: Word, value: u64) {
        self.board.word(self.slot, word).store(value, Ordering::Relaxed);
    }

    /// On to the next tick that is even (0) or odd (1).
    fn step(&self, parity: u64) {
        let ticks = self.board.word(self.slot, Word::Ticks);
        let now = ticks.load(Ordering::Relaxed);
        ticks.store(now.wrapping_add(if now & 1 == parity { 2 } else { 1 }), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_tell_rest_from_work_and_always_go_on() {
        let board = Arc::new(Scoreboard::new(2).unwrap());
        let reporter = Reporter { board: board.clone(), slot: 1 };
        let ticks = || board.get(1, Word::Ticks);
        let mut last = ticks();
        for (work, parity) in [(true, 1), (true, 1), (false, 0), (false, 0), (true, 1), (false, 0)] {
            if work {
                reporter.work()
            } else {
                reporter.rest(3, 2, 1)
            }
            assert!(ticks() > last && ticks() % 2 == parity);
            last = ticks();
        }
        assert_eq!([Word::Connections, Word::InProgress, Word::Served].map(|word| board.get(1, word)), [3, 2, 1]);
        assert_eq!(board.get(0, Word::Ticks), 0);
    }

    #[test]
    fn a_claimed_slot_has_nothing_of_the_last_tenant() {
        let board = Scoreboard::new(1).unwrap();
        board.claim(0, 10, 1);
        board.set(0, Word::Connections, 5);
        board.set_state(0, State::Ready);
        assert_eq!(board.ready().collect::<Vec<_>>(), [0]);
        board.claim(0, 11, 2);
        assert_eq!((board.state(0), board.get(0, Word::Connections)), (State::Starting, 0));
        assert_eq!((board.get(0, Word::Pid), board.get(0, Word::Generation)), (11, 2));
        board.release(0);
        assert_eq!((board.state(0), board.ready().count()), (State::Free, 0));
    }

    #[test]
    fn what_a_worker_has_counted_outlives_it_and_what_it_had_does_not() {
        let board = Scoreboard::new(2).unwrap();
        assert_eq!(board.used().count(), 0);
        for pid in [10, 11] {
            board.claim(1, pid, 1);
            board.shard(1).responses.add(3);
            board.shard(1).connections.set(7);
        }
        board.release(1);
        let shard = board.shard(1);
        assert_eq!((shard.responses.get(), shard.starts.get(), shard.connections.get()), (6, 2, 0));
        assert_eq!((board.used().collect::<Vec<_>>(), board.shard(0).responses.get()), (vec![1], 0));
    }
}
