//! Patience is the clock by which answers are too late. It goes on with the load's turns, and stands still while the load
//! itself is held up: a process that was stopped, or a machine that slept, comes back to answers that lie in its sockets.

/// A load turns ten times a second at least. What a turn takes beyond this is not the server's.
const MOST_A_TURN_NS: u64 = 100_000_000;

#[derive(Default, Debug)]
pub(super) struct Patience {
    spent_ns: u64,
    turned_ns: u64,
}

impl Patience {
    /// When something is sent, or whether it is late. Judge after a wait and before `turned`: what is late then was late
    /// when the wait began, and the wait found nothing of it.
    pub fn now_ns(&self) -> u64 {
        self.spent_ns
    }

    /// A turn ended at `now_ns`. It counts with something however slow the turns are, so that nothing is waited for
    /// without an end.
    pub fn turned(&mut self, now_ns: u64) {
        self.spent_ns += now_ns.saturating_sub(self.turned_ns).min(MOST_A_TURN_NS);
        self.turned_ns = now_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_with_the_clock_while_the_load_turns() {
        let mut patience = Patience::default();
        (1..=50).for_each(|turn| patience.turned(turn * 40_000_000));
        assert_eq!(patience.now_ns(), 2_000_000_000);
    }

    #[test]
    fn a_load_that_was_stopped_for_a_minute_has_lost_no_patience_and_one_that_always_is_has_an_end() {
        let mut patience = Patience::default();
        patience.turned(1_000_000);
        patience.turned(60_001_000_000);
        assert_eq!(patience.now_ns(), 1_000_000 + MOST_A_TURN_NS);
        (2..12).for_each(|turn| patience.turned(turn * 60_001_000_000));
        assert_eq!(patience.now_ns(), 1_000_000 + 11 * MOST_A_TURN_NS);
    }
}
