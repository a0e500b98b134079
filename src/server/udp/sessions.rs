//! Sessions are the peers of one endpoint: who they are, what went each way, when they were heard last. Bounded.
//!
//! A session that ends leaves its slot only when whoever was told of it has taken note (`bury`): events on their way
//! still name it.

use std::collections::HashMap;
use std::time::Duration;

use crate::core::Token;
use crate::core::slab::Slab;
use crate::core::timer::{Links, TICK, TimerLink, TimerWheel};
use crate::net::datagram::PeerAddress;

/// How peers are remembered.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionLimits {
    /// A peer that was silent for this long is forgotten.
    pub idle_timeout: Duration,
    pub max_peers: usize,
    /// When there are so many: forget one that was not heard of lately (true), or refuse the newcomer (false).
    pub evicts: bool,
    /// To a peer that has not been verified, at most so many bytes go for each that came (RFC 9000 section 8.1).
    pub amplification: Option<u32>,
}

/// Why a peer is known no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEnd {
    /// It was silent for too long.
    Idle,
    /// Another needed its place.
    Evicted,
    /// Somebody asked for it.
    Closed,
}

pub struct Session {
    pub peer: PeerAddress,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub is_verified: bool,
    has_ended: bool,
    /// Heard of since the clock's hand last passed.
    is_recent: bool,
    timer: TimerLink,
}

impl Links for Slab<Session> {
    fn link(&mut self, index: u32) -> &mut TimerLink {
        &mut self.at_mut(index).expect("only present sessions hang in the wheel").timer
    }
}

/// What became of a datagram's sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    Known(Token),
    /// For its sake another may have been forgotten.
    New {
        token: Token,
        evicted: Option<Token>,
    },
    /// There is no room.
    Refused,
}

pub struct Sessions {
    limits: SessionLimits,
    slab: Slab<Session>,
    by_address: HashMap<PeerAddress, Token>,
    wheel: TimerWheel,
    hand: u32,
    due: Vec<u32>,
}

impl Sessions {
    pub fn new(limits: SessionLimits) -> Self {
        let (slab, by_address, wheel) = (Slab::default(), HashMap::new(), TimerWheel::default());
        Sessions { limits, slab, by_address, wheel, hand: 0, due: Vec::new() }
    }

    /// Peers known.
    pub fn len(&self) -> usize {
        self.by_address.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    /// A peer known, even if its session has ended and not been buried.
    pub fn get(&self, token: Token) -> Option<&Session> {
        self.slab.get(token)
    }

    /// A peer whose session goes on.
    pub fn open(&mut self, token: Token) -> Option<&mut Session> {
        self.slab.get_mut(token).filter(|session| !session.has_ended)
    }

    /// Find a datagram's sender, or make room for it. `elapsed` is the reactor's time.
    pub fn hear(&mut self, peer: PeerAddress, elapsed: Duration) -> Heard {
        if let Some(&token) = self.by_address.get(&peer) {
            self.touch(token, elapsed);
            return Heard::Known(token);
        }
        let mut evicted = None;
        if self.by_address.len() >= self.limits.max_peers {
            evicted = self.limits.evicts.then(|| self.evict()).flatten();
            if evicted.is_none() {
                return Heard::Refused;
            }
        }
        Heard::New { token: self.add(peer, elapsed), evicted }
    }

    /// A peer that is there from the beginning, such as a connected socket's. It is not counted nor forgotten.
    pub fn add_permanent(&mut self, peer: PeerAddress) -> Token {
        let session = Session { is_verified: true, ..Session::of(peer) };
        self.slab.insert(session)
    }

    fn add(&mut self, peer: PeerAddress, elapsed: Duration) -> Token {
        let token = self.slab.insert(Session::of(peer.clone()));
        self.by_address.insert(peer, token);
        self.touch(token, elapsed);
        token
    }

    fn touch(&mut self, token: Token, elapsed: Duration) {
        if let Some(session) = self.slab.get_mut(token) {
            session.is_recent = true;
        }
        let due = TimerWheel::tick_after(elapsed.saturating_add(self.limits.idle_timeout));
        self.wheel.set(&mut self.slab, token.index, due);
    }

    /// End a session. False if it had ended.
    pub fn end(&mut self, token: Token) -> bool {
        let Some(session) = self.slab.get_mut(token).filter(|session| !session.has_ended) else { return false };
        session.has_ended = true;
        self.by_address.remove(&session.peer);
        self.wheel.unlink(&mut self.slab, token.index);
        true
    }

    /// Those that were told of its end know it no more: its slot is free.
    pub fn bury(&mut self, token: Token) {
        if self.slab.get(token).is_some_and(|session| session.has_ended) {
            self.slab.remove(token);
        }
    }

    /// Choose one that was not heard of since the hand last passed. `None`: every one of a round was.
    fn evict(&mut self) -> Option<Token> {
        // Twice round: the first may only take the marks away.
        let slots = self.slab.touched();
        for _ in 0..2 * slots {
            self.hand = (self.hand + 1) % slots;
            let Some(token) = self.slab.token_at(self.hand) else { continue };
            let Some(session) = self.open(token) else { continue };
            if !std::mem::take(&mut session.is_recent) {
                self.end(token);
                return Some(token);
            }
        }
        None
    }

    /// End the sessions that have been silent for too long, and tell which.
    pub fn sweep(&mut self, elapsed: Duration, mut ended: impl FnMut(Token)) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.sweep(&mut self.slab, TimerWheel::tick_at(elapsed), &mut due);
        for index in due.drain(..) {
            if let Some(token) = self.slab.token_at(index)
                && self.end(token)
            {
                ended(token);
            }
        }
        self.due = due;
    }

    /// How long until a sweep may find something.
    pub fn next_sweep(&self, elapsed: Duration) -> Option<Duration> {
        self.wheel.next_tick().map(|tick| (TICK * tick).saturating_sub(elapsed))
    }

    pub fn amplification(&self) -> Option<u32> {
        self.limits.amplification
    }
}

impl Session {
    fn of(peer: PeerAddress) -> Self {
        Session {
            peer,
            received_bytes: 0,
            sent_bytes: 0,
            is_verified: false,
            has_ended: false,
            is_recent: true,
            timer: TimerLink::default(),
        }
    }

    /// Bytes that may go to this peer now.
    pub fn allowance(&self, amplification: Option<u32>) -> u64 {
        match amplification.filter(|_| !self.is_verified) {
            Some(factor) => self.received_bytes.saturating_mul(factor.into()).saturating_sub(self.sent_bytes),
            None => u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::SocketAddress;

    const START: Duration = Duration::from_secs(100);

    fn sessions(max_peers: usize, evicts: bool) -> Sessions {
        Sessions::new(SessionLimits {
            idle_timeout: Duration::from_secs(10),
            max_peers,
            evicts,
            amplification: Some(3),
        })
    }

    fn peer(port: u16) -> PeerAddress {
        PeerAddress::from(format!("192.0.2.1:{port}").parse::<SocketAddress>().unwrap())
    }

    fn new(sessions: &mut Sessions, port: u16) -> Token {
        match sessions.hear(peer(port), START) {
            Heard::New { token, .. } => token,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_peer_is_one_session_until_it_is_silent_for_too_long() {
        let mut sessions = sessions(10, false);
        let token = new(&mut sessions, 1);
        assert_eq!(sessions.hear(peer(1), START + Duration::from_secs(9)), Heard::Known(token));
        let mut ended = Vec::new();
        sessions.sweep(START + Duration::from_secs(18), |token| ended.push(token));
        assert_eq!((ended.len(), sessions.len()), (0, 1));
        sessions.sweep(START + Duration::from_millis(19_200), |token| ended.push(token));
        assert_eq!((&ended[..], sessions.len()), (&[token][..], 0));
    }

    #[test]
    fn a_slot_is_not_used_again_before_its_session_is_buried() {
        let mut sessions = sessions(1, true);
        let first = new(&mut sessions, 1);
        let Heard::New { token: second, evicted } = sessions.hear(peer(2), START) else { panic!() };
        assert_eq!(evicted, Some(first));
        assert_ne!(first.index, second.index);
        assert_eq!(sessions.get(first).map(|session| &session.peer), Some(&peer(1)));
        sessions.bury(first);
        assert!(sessions.get(first).is_none());
        assert_eq!(new(&mut self::sessions(1, true), 1).index, first.index);
    }

    #[test]
    fn a_full_table_refuses_or_forgets_the_one_that_was_not_heard_of() {
        let mut full = sessions(2, false);
        new(&mut full, 1);
        new(&mut full, 2);
        assert_eq!(full.hear(peer(3), START), Heard::Refused);
        let mut evicting = sessions(3, true);
        let tokens = [1, 2, 3].map(|port| new(&mut evicting, port));
        // All are recent: the hand takes the marks away and comes round to the first.
        let Heard::New { evicted: Some(first), .. } = evicting.hear(peer(4), START) else { panic!() };
        assert!(tokens.contains(&first));
        for port in [1, 2, 3].into_iter().filter(|&port| tokens[usize::from(port) - 1] != first) {
            assert!(matches!(evicting.hear(peer(port), START), Heard::Known(_)));
        }
        assert_eq!(evicting.len(), 3);
    }

    #[test]
    fn who_is_not_verified_is_sent_a_multiple_of_what_it_sent() {
        let mut sessions = sessions(10, false);
        let token = new(&mut sessions, 1);
        let session = sessions.open(token).unwrap();
        session.received_bytes = 100;
        session.sent_bytes = 250;
        assert_eq!((session.allowance(Some(3)), session.allowance(None)), (50, u64::MAX));
        session.sent_bytes = 400;
        assert_eq!(session.allowance(Some(3)), 0);
        session.is_verified = true;
        assert_eq!(session.allowance(Some(3)), u64::MAX);
    }

    #[test]
    fn an_ended_session_is_not_open_and_ends_once() {
        let mut sessions = sessions(10, false);
        let token = new(&mut sessions, 1);
        assert!(sessions.end(token) && !sessions.end(token));
        assert!(sessions.open(token).is_none() && sessions.get(token).is_some());
        assert!(matches!(sessions.hear(peer(1), START), Heard::New { .. }), "it begins anew");
    }
}
