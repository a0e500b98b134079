//! The FairShare of a worker that has its listeners with others: it is shut while it holds more than that.
//!
//! Its share is what the one with the fewest has, and a little. So the one with the fewest is never shut, and a
//! connection always finds somebody. A worker that reaches its share rings, and those who left connections to it look
//! again; two that reach theirs at once see each other, because each first says that it is shut, and then looks once
//! more. One that is short of descriptors is shut whatever it holds, as long as another is not, and nobody waits for it to
//! catch up. An open worker that is stuck in its application for longer than [`PATIENCE`] counts no more: better uneven
//! than waiting.

use std::io;
use std::time::Duration;

use super::scoreboard::{Reporter, State, Word};
use crate::core::bell::Ear;
use crate::core::poller::Readiness;
use crate::core::{Io, Token};

/// Connections that a worker may have above the fewest, at few connections ...
const SLACK: u64 = 4;
/// ... and the part of the fewest that it may have on top.
const SLACK_SHARE: u64 = 128;
/// How many connections one turn may accept: what is taken at once cannot be left to others.
pub const ACCEPTS_PER_TURN: usize = 8;
/// How often a shut worker looks whether the open ones still come round.
pub const PATIENCE: Duration = Duration::from_millis(100);

pub struct FairShare {
    reporter: Reporter,
    ear: Ear,
    /// The ear's channel.
    token: Token,
    is_shut: bool,
    is_full: bool,
    /// Ticks of each open worker when they were last looked at.
    seen: Vec<(usize, u64)>,
    /// Workers that are stuck, as of the last look.
    stuck: Vec<usize>,
}

impl FairShare {
    /// `io` tells through `ready` and `expired`, with the token of [`FairShare::is`], when [`FairShare::look_again`] is due.
    pub fn new<C: Default>(io: &mut Io<C>, reporter: Reporter) -> io::Result<Self> {
        let ear = reporter.board.bell().listen()?;
        let token = io.watch(ear.fd(), Readiness { readable: true, writable: false })?;
        Ok(FairShare { reporter, ear, token, is_shut: false, is_full: false, seen: Vec::new(), stuck: Vec::new() })
    }

    /// Take no more part in it. Its listeners stay as they are.
    pub fn leave<C: Default>(self, io: &mut Io<C>) {
        self.reporter.board.set(self.reporter.slot, Word::Shut, 0);
        self.reporter.board.set(self.reporter.slot, Word::Full, 0);
        io.unwatch(self.token);
    }

    pub fn is(&self, token: Token) -> bool {
        self.token == token
    }

    /// The bell has rung. `settle` follows with every turn.
    pub fn heard(&self) {
        self.ear.heard();
    }

    /// Patience is at its end: who has not come round since the last time?
    pub fn look_again<C: Default>(&mut self, io: &mut Io<C>) {
        let board = &self.reporter.board;
        let open: Vec<_> = (board.ready().filter(|&slot| slot != self.reporter.slot))
            .map(|slot| (slot, board.get(slot, Word::Ticks)))
            .collect();
        // Even ticks stand still because there is nothing to do.
        let is_stuck = |&(slot, ticks): &(usize, u64)| ticks & 1 == 1 && self.seen.contains(&(slot, ticks));
        self.stuck = open.iter().filter(|each| is_stuck(each)).map(|&(slot, _)| slot).collect();
        self.seen = open;
        if self.is_shut {
            io.set_deadline(self.token, PATIENCE);
        }
    }

    /// Before each wait: tell how many there are, and open or shut accordingly.
    pub fn settle<C: Default>(&mut self, io: &mut Io<C>, listeners: &[(Token, u16)]) {
        let mine = io.connections() as u64;
        let (board, slot) = (self.reporter.board.clone(), self.reporter.slot);
        board.set(slot, Word::Connections, mine);
        self.tell_if_full(io.is_short_of_descriptors());
        let mut is_over = self.is_over(mine);
        if is_over == self.is_shut {
            return;
        }
        board.set(slot, Word::Shut, u64::from(is_over));
        if is_over {
            // Others may have looked before they could see this one shut.
            is_over = self.is_over(mine);
            board.set(slot, Word::Shut, u64::from(is_over));
        }
        if is_over == self.is_shut {
            return;
        }
        self.is_shut = is_over;
        for &(listener, _) in listeners {
            if is_over { io.hold_listener(listener) } else { io.go_on_listening(listener) }
        }
        if is_over {
            self.seen.clear();
            self.stuck.clear();
            io.set_deadline(self.token, PATIENCE);
            if (board.ready()).any(|other| other != slot && board.get(other, Word::Shut) == 1) {
                board.bell().ring();
            }
        } else {
            io.clear_deadline(self.token);
        }
    }

    /// Everybody's share depends on who is full.
    fn tell_if_full(&mut self, is_full: bool) {
        if is_full != self.is_full {
            self.is_full = is_full;
            self.reporter.board.set(self.reporter.slot, Word::Full, u64::from(is_full));
            self.reporter.board.bell().ring();
        }
    }

    /// Whether this worker has more than its share, of those that have room, take connections and come round.
    fn is_over(&self, mine: u64) -> bool {
        let board = &self.reporter.board;
        if board.state(self.reporter.slot) != State::Ready {
            return false;
        }
        let others = (board.ready())
            .filter(|slot| *slot != self.reporter.slot && !self.stuck.contains(slot))
            .filter(|&slot| board.get(slot, Word::Full) == 0);
        let fewest = others.map(|slot| board.get(slot, Word::Connections)).min();
        fewest.is_some_and(|fewest| self.is_full || is_over(mine, fewest))
    }
}

fn is_over(mine: u64, fewest: u64) -> bool {
    mine > fewest + SLACK + fewest / SLACK_SHARE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_keeps_five_hundred_each_within_one_in_twenty() {
        let mut most = 500;
        while !is_over(most, 500) {
            most += 1;
        }
        most += ACCEPTS_PER_TURN as u64;
        assert!((most as f64) < 500.0 * 1.05, "{most}");
        assert!(!is_over(4, 0) && is_over(5, 0));
    }
}
