//! A Conversation is what a thread and the loop still have to say to each other about a request that is not answered in
//! one piece: body bytes on their way in, and how much of the response waits to leave.
//!
//! The thread waits here, detached; the loop only ever leaves something and goes on.

use std::sync::{Condvar, Mutex, MutexGuard};

use crate::core::Token;
use crate::core::event_loop::HIGH_WATERMARK_BYTES;

pub struct Conversation {
    pub token: Token,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Body bytes that the thread has not taken.
    incoming: Vec<u8>,
    has_ended: bool,
    /// Bytes handed to the loop, and not yet in the connection's output.
    handed_over: usize,
    /// The connection's output is above its high watermark.
    is_full: bool,
    /// The client is gone, or the server is.
    is_over: bool,
}

impl State {
    fn must_wait(&self) -> bool {
        (self.is_full || self.handed_over > HIGH_WATERMARK_BYTES) && !self.is_over
    }

    fn hand_over(&mut self, bytes: usize) -> Result<(), Disconnected> {
        if self.is_over {
            return Err(Disconnected);
        }
        self.handed_over += bytes;
        Ok(())
    }
}

/// What a thread that waits for a body finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    More,
    End,
    Disconnected,
}

#[derive(Debug)]
pub struct Disconnected;

impl Conversation {
    pub fn new(token: Token) -> Self {
        Conversation { token, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    /// The loop: bytes of the body, and whether they are its last.
    pub fn feed(&self, bytes: &[u8], more: bool) {
        let mut state = self.lock();
        state.incoming.extend_from_slice(bytes);
        state.has_ended = !more;
        self.changed.notify_all();
    }

    /// The loop: nothing more will come or go.
    pub fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    pub fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// The loop: a piece is in the connection's output, which is full now or not.
    pub fn took(&self, bytes: usize, is_full: bool) {
        let mut state = self.lock();
        state.handed_over = state.handed_over.saturating_sub(bytes);
        state.is_full = is_full;
        self.changed.notify_all();
    }

    /// The loop: there is room again.
    pub fn drained(&self) {
        self.lock().is_full = false;
        self.changed.notify_all();
    }

    /// The thread: wait for more of the body, which is appended to `to`.
    pub fn wait_for_body(&self, to: &mut Vec<u8>) -> Incoming {
        let state = self.lock();
        let waiting = |state: &mut State| state.incoming.is_empty() && !state.has_ended && !state.is_over;
        let mut state = self.changed.wait_while(state, waiting).expect("nobody panics while holding it");
        if !state.incoming.is_empty() {
            to.append(&mut state.incoming);
            return if state.has_ended { Incoming::End } else { Incoming::More };
        }
        if state.has_ended { Incoming::End } else { Incoming::Disconnected }
    }

    /// The thread: wait until another piece may be handed over, and count it.
    pub fn wait_for_room(&self, bytes: usize) -> Result<(), Disconnected> {
        let state = self.lock();
        let mut state =
            self.changed.wait_while(state, |state| state.must_wait()).expect("nobody panics while holding it");
        state.hand_over(bytes)
    }

    /// The same, if it need not wait.
    pub fn room_now(&self, bytes: usize) -> Option<Result<(), Disconnected>> {
        let mut state = self.lock();
        (!state.must_wait()).then(|| state.hand_over(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_comes_in_pieces_and_ends_with_the_last() {
        let conversation = Conversation::new(Token::new(1, 1));
        conversation.feed(b"one", true);
        let mut bytes = Vec::new();
        assert_eq!(conversation.wait_for_body(&mut bytes), Incoming::More);
        conversation.feed(b"two", false);
        assert_eq!(conversation.wait_for_body(&mut bytes), Incoming::End);
        assert_eq!(bytes, b"onetwo");
        assert_eq!(conversation.wait_for_body(&mut bytes), Incoming::End);
    }

    #[test]
    fn a_thread_that_waits_is_told_when_the_client_leaves() {
        let conversation = std::sync::Arc::new(Conversation::new(Token::new(1, 1)));
        conversation.took(0, true);
        let waiting = conversation.clone();
        let thread = std::thread::spawn(move || waiting.wait_for_room(1).is_err());
        conversation.end();
        assert!(thread.join().unwrap());
        assert_eq!(conversation.wait_for_body(&mut Vec::new()), Incoming::Disconnected);
    }

    #[test]
    fn what_the_loop_has_not_taken_is_bounded() {
        let conversation = std::sync::Arc::new(Conversation::new(Token::new(1, 1)));
        conversation.wait_for_room(HIGH_WATERMARK_BYTES + 1).unwrap();
        let waiting = conversation.clone();
        let thread = std::thread::spawn(move || waiting.wait_for_room(1).is_ok());
        conversation.took(HIGH_WATERMARK_BYTES + 1, false);
        assert!(thread.join().unwrap());
    }
}
