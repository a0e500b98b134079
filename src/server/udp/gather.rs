//! A Gather decides whether a busy socket is left alone for a moment, so that the next look at it finds more.
//!
//! A look costs what some datagrams do: a turn, two system calls, an attach, and a send for each peer that is answered,
//! however many answers it takes. A server that is faster than what comes would look at every datagram alone, and spend
//! a whole processor on a stream that it could serve with half of one. Network devices hold interrupts back for the same
//! reason. It decides by what came, without a clock of its own.

use std::time::Duration;

use super::BATCH_MESSAGES;

/// Messages that a pause must promise: it costs two switches of the thread, and those that come at once wait for it.
const WORTH_MESSAGES: u32 = 8;
/// What a look after a pause must find.
const ENOUGH_MESSAGES: usize = 16;
/// Looks without a pause after one that was in vain, after many of them.
const MOST_SKIPPED: u32 = 1024;

/// What a look found.
#[derive(Clone, Copy, Default)]
pub struct Look {
    pub messages: usize,
    /// Those that came from the same sender as the one before: their answers leave together.
    pub together: usize,
    /// Some are runs of datagrams already, which have little to gain.
    pub are_joined: bool,
}

impl Look {
    /// Whether it was worth a pause. Where little came, senders wait for the answers that are held back; where each
    /// sent one, answering costs as much as ever.
    fn was_worth_it(self) -> bool {
        self.messages >= ENOUGH_MESSAGES && 2 * self.together >= self.messages
    }
}

pub struct Gather {
    pause: Duration,
    last_look: Option<Duration>,
    is_worth_it: bool,
    has_paused: bool,
    /// Looks that are not waited with, and how many they will be when the next pause is in vain.
    skipped: u32,
    to_skip: u32,
}

impl Gather {
    /// Pauses of this length; of none at all if it is zero.
    pub fn new(pause: Duration) -> Self {
        Gather { pause, last_look: None, is_worth_it: false, has_paused: false, skipped: 0, to_skip: 1 }
    }

    /// How long to wait before a look, now that something has come.
    pub fn wanted(&self) -> Option<Duration> {
        self.is_worth_it.then_some(self.pause)
    }

    /// The next look comes after a pause.
    pub fn paused(&mut self) {
        self.has_paused = true;
    }

    /// What a look in the turn that began at `elapsed` has found. As many a second will come, as it seems.
    pub fn found(&mut self, look: Look, elapsed: Duration) {
        let since = self.last_look.replace(elapsed).map(|last| elapsed.saturating_sub(last));
        self.skipped = self.skipped.saturating_sub(1);
        if std::mem::take(&mut self.has_paused) {
            self.learn(look.was_worth_it());
        }
        // Where a look comes back full, more waits already: whoever is behind never pauses.
        self.is_worth_it = !self.pause.is_zero()
            && self.skipped == 0
            && !look.are_joined
            && look.messages < BATCH_MESSAGES
            && since.is_some_and(|since| self.pause * look.messages as u32 >= since.saturating_mul(WORTH_MESSAGES));
    }

    fn learn(&mut self, was_worth_it: bool) {
        if was_worth_it {
            self.to_skip = 1;
        } else {
            self.skipped = self.to_skip;
            self.to_skip = (2 * self.to_skip).min(MOST_SKIPPED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_micros(50);

    /// Looks that find so many each, so many microseconds apart; what is wanted after them.
    fn after(pause: Duration, looks: &[(usize, u64)]) -> Option<Duration> {
        let (mut gather, mut now) = (Gather::new(pause), Duration::from_secs(7));
        for &(messages, since_us) in looks {
            now += Duration::from_micros(since_us);
            if gather.wanted().is_some() {
                gather.paused();
            }
            gather.found(Look { messages, together: messages - 1, are_joined: false }, now);
        }
        gather.wanted()
    }

    #[test]
    fn a_stream_that_brings_enough_in_a_pause_is_waited_for() {
        assert_eq!(after(PAUSE, &[(1, 0), (3, 9)]), Some(PAUSE));
        assert_eq!(after(PAUSE, &[(1, 0), (3, 9), (21, 60)]), Some(PAUSE), "the pause itself changes nothing");
    }

    #[test]
    fn a_first_datagram_a_question_at_a_time_and_a_slow_handler_are_not() {
        assert_eq!(after(PAUSE, &[(8, 0)]), None);
        assert_eq!(after(PAUSE, &[(1, 0), (1, 30), (1, 30)]), None);
        assert_eq!(after(PAUSE, &[(8, 0), (8, 800)]), None);
        assert_eq!(after(PAUSE, &[(1, 0), (3, 9), (1, 1_000_000)]), None, "and it ends with the stream");
    }

    /// Pauses among ten thousand looks at so many senders that ask one thing at a time.
    fn pauses_for(senders: usize) -> usize {
        let (mut gather, mut now, mut pauses) = (Gather::new(PAUSE), Duration::from_secs(7), 0);
        for _ in 0..10_000 {
            // A look finds two of them, and all after a pause.
            let (messages, since_us) = if gather.wanted().is_some() { (senders, 70) } else { (2, 6) };
            if gather.wanted().is_some() {
                gather.paused();
                pauses += 1;
            }
            now += Duration::from_micros(since_us);
            gather.found(Look { messages, ..Look::default() }, now);
        }
        pauses
    }

    #[test]
    fn senders_who_wait_for_their_answers_are_hardly_ever_waited_for() {
        for senders in [8, 32] {
            let pauses = pauses_for(senders);
            assert!((1..25).contains(&pauses), "{pauses} pauses for {senders}");
        }
    }

    #[test]
    fn datagrams_that_come_joined_are_not() {
        let mut gather = Gather::new(PAUSE);
        for at_us in [0, 10, 20] {
            gather.found(Look { messages: 8, together: 7, are_joined: true }, Duration::from_micros(at_us));
        }
        assert_eq!(gather.wanted(), None);
    }

    #[test]
    fn who_is_behind_or_wants_no_pause_never_waits() {
        assert_eq!(after(PAUSE, &[(64, 0), (64, 90), (64, 90)]), None);
        assert_eq!(after(Duration::ZERO, &[(1, 0), (3, 9), (3, 0)]), None);
    }
}
