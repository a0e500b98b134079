//! A TimerWheel knows when connections are due. It owns no connection: its lists run through their slots.
//!
//! It is for deadlines that almost never come (idle, header, write time-outs), so it is coarse and lazy: moving a
//! deadline later is one store, and a sweep puts the connection where it now belongs. asyncio's timers, which
//! must fire in exact order, live in asyncio's own heap.

use std::time::Duration;

/// One tick; a deadline is met up to this much late, never early.
pub const TICK: Duration = Duration::from_millis(100);
const BUCKETS: usize = 512;
const NONE: u32 = u32::MAX;
const NEVER: u32 = u32::MAX;

/// A connection's place in the wheel: 16 bytes of its slot.
#[derive(Clone, Copy, Debug)]
pub struct TimerLink {
    next: u32,
    previous: u32,
    /// When the connection is due.
    deadline: u32,
    /// The tick whose bucket it hangs in, at or before the deadline; `NEVER` when it hangs in none.
    linked: u32,
}

impl Default for TimerLink {
    fn default() -> Self {
        TimerLink { next: NONE, previous: NONE, deadline: NEVER, linked: NEVER }
    }
}

/// Where the links are: the reactor's slab.
pub trait Links {
    /// The link of the tenant at `index`, which must exist.
    fn link(&mut self, index: u32) -> &mut TimerLink;
}

pub struct TimerWheel {
    heads: [u32; BUCKETS],
    /// Ticks up to and including this one have been swept.
    swept: u32,
    linked: usize,
}

impl Default for TimerWheel {
    fn default() -> Self {
        TimerWheel { heads: [NONE; BUCKETS], swept: 0, linked: 0 }
    }
}

impl TimerWheel {
    /// Connections that hang in it, due or not any more.
    pub fn len(&self) -> usize {
        self.linked
    }

    pub fn is_empty(&self) -> bool {
        self.linked == 0
    }

    /// The tick at `elapsed` since the loop began, rounded up: no deadline is early.
    pub fn tick_after(elapsed: Duration) -> u32 {
        nanoseconds(elapsed).div_ceil(nanoseconds(TICK)).min(u64::from(NEVER - 1)) as u32
    }

    /// The last tick that has passed at `elapsed`.
    pub fn tick_at(elapsed: Duration) -> u32 {
        (nanoseconds(elapsed) / nanoseconds(TICK)).min(u64::from(NEVER - 1)) as u32
    }

    /// The connection at `index` is due at `deadline` (a tick), in place of what was asked before.
    pub fn set(&mut self, links: &mut impl Links, index: u32, deadline: u32) {
        let deadline = deadline.max(self.swept + 1);
        let link = links.link(index);
        link.deadline = deadline;
        if link.linked > deadline {
            self.unlink(links, index);
            self.link(links, index, deadline);
        }
    }

    /// When the connection at `index` is due, if it is.
    pub fn deadline(&self, links: &mut impl Links, index: u32) -> Option<u32> {
        Some(links.link(index).deadline).filter(|&deadline| deadline != NEVER)
    }

    /// The connection is not due any more. Its place is given up at the next sweep that finds it.
    pub fn clear(&mut self, links: &mut impl Links, index: u32) {
        links.link(index).deadline = NEVER;
    }

    /// The connection leaves its slot: nothing may point to it any more.
    pub fn unlink(&mut self, links: &mut impl Links, index: u32) {
        let TimerLink { next, previous, linked, .. } = *links.link(index);
        if linked == NEVER {
            return;
        }
        match previous {
            NONE => self.heads[linked as usize % BUCKETS] = next,
            previous => links.link(previous).next = next,
        }
        if next != NONE {
            links.link(next).previous = previous;
        }
        let link = links.link(index);
        (link.next, link.previous, link.linked) = (NONE, NONE, NEVER);
        self.linked -= 1;
    }

    fn link(&mut self, links: &mut impl Links, index: u32, tick: u32) {
        // Farther than one turn of the wheel: hang it in the last bucket before the sweep comes round.
        let tick = tick.min(self.swept + BUCKETS as u32 - 1);
        let head = &mut self.heads[tick as usize % BUCKETS];
        let next = std::mem::replace(head, index);
        if next != NONE {
            links.link(next).previous = index;
        }
        let link = links.link(index);
        (link.next, link.previous, link.linked) = (next, NONE, tick);
        self.linked += 1;
    }

    /// Add the connections due by the tick `now` to `due`, each once, and take them off the wheel.
    pub fn sweep(&mut self, links: &mut impl Links, now: u32, due: &mut Vec<u32>) {
        if self.linked == 0 {
            self.swept = self.swept.max(now);
        }
        while self.swept < now {
            self.swept += 1;
            let mut at = self.heads[self.swept as usize % BUCKETS];
            while at != NONE {
                let TimerLink { next, deadline, .. } = *links.link(at);
                self.unlink(links, at);
                if deadline <= self.swept {
                    links.link(at).deadline = NEVER;
                    due.push(at);
                } else if deadline != NEVER {
                    self.link(links, at, deadline);
                }
                at = next;
            }
        }
    }

    /// The next tick whose bucket holds anything, or `None` when all are empty.
    pub fn next_tick(&self) -> Option<u32> {
        if self.linked == 0 {
            return None;
        }
        (self.swept + 1..=self.swept + BUCKETS as u32).find(|&tick| self.heads[tick as usize % BUCKETS] != NONE)
    }
}

/// In one word, which holds 584 years, so that dividing is cheap.
const fn nanoseconds(elapsed: Duration) -> u64 {
    elapsed.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Links for Vec<TimerLink> {
        fn link(&mut self, index: u32) -> &mut TimerLink {
            &mut self[index as usize]
        }
    }

    fn wheel_of(count: usize) -> (TimerWheel, Vec<TimerLink>) {
        (TimerWheel::default(), vec![TimerLink::default(); count])
    }

    fn sweep(wheel: &mut TimerWheel, links: &mut Vec<TimerLink>, now: u32) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.sweep(links, now, &mut due);
        due.sort_unstable();
        due
    }

    #[test]
    fn each_deadline_is_met_once_and_not_early() {
        let (mut wheel, mut links) = wheel_of(3);
        for (index, deadline) in [(0, 5), (1, 5), (2, 9)] {
            wheel.set(&mut links, index, deadline);
        }
        assert!(sweep(&mut wheel, &mut links, 4).is_empty());
        assert_eq!(wheel.next_tick(), Some(5));
        assert_eq!(sweep(&mut wheel, &mut links, 6), [0, 1]);
        assert_eq!(sweep(&mut wheel, &mut links, 100), [2]);
        assert_eq!(wheel.next_tick(), None);
    }

    #[test]
    fn a_deadline_moved_later_is_not_met_at_its_old_time() {
        let (mut wheel, mut links) = wheel_of(1);
        wheel.set(&mut links, 0, 5);
        wheel.set(&mut links, 0, 50);
        assert!(sweep(&mut wheel, &mut links, 49).is_empty());
        assert_eq!(sweep(&mut wheel, &mut links, 50), [0]);
    }

    #[test]
    fn a_deadline_moved_earlier_is_met_at_its_new_time() {
        let (mut wheel, mut links) = wheel_of(1);
        wheel.set(&mut links, 0, 6000);
        wheel.set(&mut links, 0, 3);
        assert_eq!(sweep(&mut wheel, &mut links, 3), [0]);
    }

    #[test]
    fn a_cleared_or_unlinked_deadline_is_never_met() {
        let (mut wheel, mut links) = wheel_of(2);
        wheel.set(&mut links, 0, 5);
        wheel.set(&mut links, 1, 5);
        wheel.clear(&mut links, 0);
        wheel.unlink(&mut links, 1);
        assert!(sweep(&mut wheel, &mut links, 2000).is_empty());
        assert_eq!(wheel.linked, 0);
    }

    #[test]
    fn deadlines_beyond_one_turn_of_the_wheel_wait_their_time() {
        let (mut wheel, mut links) = wheel_of(1);
        let deadline = 3 * BUCKETS as u32 + 7;
        wheel.set(&mut links, 0, deadline);
        assert!(sweep(&mut wheel, &mut links, deadline - 1).is_empty());
        assert_eq!(sweep(&mut wheel, &mut links, deadline), [0]);
    }

    #[test]
    fn idle_connections_cost_a_wake_a_tick_and_a_look_a_round_at_the_most() {
        const CONNECTIONS: usize = 15_000;
        const MINUTES_10: u32 = 6000;
        let (mut wheel, mut links) = wheel_of(CONNECTIONS);
        // They come over a minute, in no order, and each is due ten minutes later.
        for index in 0..CONNECTIONS as u32 {
            sweep(&mut wheel, &mut links, index / 25);
            wheel.set(&mut links, index, index / 25 + MINUTES_10);
        }
        let (begin, mut now, mut wakes, mut due) = (599, 599, 0_u32, 0);
        while let Some(next) = wheel.next_tick() {
            assert!(next > now, "the loop would spin");
            now = next;
            wakes += 1;
            due += sweep(&mut wheel, &mut links, now).len();
        }
        assert_eq!((due, now), (CONNECTIONS, 599 + MINUTES_10));
        assert!(wakes <= now - begin, "{wakes} wakes in {} ticks", now - begin);
        let rounds = (MINUTES_10 + 600).div_ceil(BUCKETS as u32 - 1);
        assert!(wakes <= rounds * 600, "{wakes} wakes for what opened within 600 ticks");
    }
}
