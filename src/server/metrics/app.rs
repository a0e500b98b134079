//! What only others can tell: the application's own metrics, and which connections its event loops have. It is asked for when
//! somebody wants it, and supplied by whoever can make them tell.
//!
//! The server's side ([`AppDesk`]) never waits: a request is answered when the text arrives, or without it when it does not
//! come in time. The other side ([`AppBell`]) is good for any thread.

use std::collections::{HashMap, VecDeque};
use std::os::fd::RawFd;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::exposition::Format;
use crate::core::Token;
use crate::core::mailbox::{MailSender, Mailbox};
use crate::server::survey::Query;

/// A request waits this long, then is answered without.
const PATIENCE: Duration = Duration::from_secs(2);

type Text = Arc<[u8]>;

/// What is wanted; who want the same get the same.
#[derive(Clone, PartialEq, Debug)]
pub enum Wanted {
    /// The application's metrics.
    App(Format),
    /// Open connections.
    Connections(Query),
}

#[derive(Default)]
struct Asked {
    wanted: VecDeque<Wanted>,
    is_closed: bool,
}

/// Where the application's side hears what is wanted, and leaves it.
#[derive(Clone)]
pub struct AppBell {
    asked: Arc<(Mutex<Asked>, Condvar)>,
    supply: MailSender<(Wanted, Text)>,
}

impl AppBell {
    /// Wait until something is wanted; `None` once closed.
    pub fn wait(&self) -> Option<Wanted> {
        let (asked, told) = &*self.asked;
        let asked = asked.lock().expect("nobody panics while holding it");
        let waiting = |asked: &mut Asked| asked.wanted.is_empty() && !asked.is_closed;
        let mut asked = told.wait_while(asked, waiting).expect("nobody panics while holding it");
        if asked.is_closed { None } else { asked.wanted.pop_front() }
    }

    /// What is wanted, without waiting.
    pub fn take(&self) -> Option<Wanted> {
        self.asked.0.lock().expect("nobody panics while holding it").wanted.pop_front()
    }

    pub fn supply(&self, wanted: Wanted, text: &[u8]) {
        // It is refused only by a server that is gone.
        let _ = self.supply.send((wanted, text.into()));
    }

    pub fn close(&self) {
        self.asked.0.lock().expect("nobody panics while holding it").is_closed = true;
        self.asked.1.notify_all();
    }
}

pub struct AppDesk {
    asked: Arc<(Mutex<Asked>, Condvar)>,
    mailbox: Mailbox<(Wanted, Text)>,
    waiting: Vec<(Token, Wanted, Instant)>,
    /// For those who are asked again just now; `None`: it did not come in time.
    arrived: HashMap<Token, Option<Text>>,
}

impl AppDesk {
    pub fn new() -> std::io::Result<(Self, AppBell)> {
        let (asked, mailbox) = (Arc::default(), Mailbox::new()?);
        let bell = AppBell { asked: Arc::clone(&asked), supply: mailbox.sender() };
        Ok((AppDesk { asked, mailbox, waiting: Vec::new(), arrived: HashMap::new() }, bell))
    }

    pub fn fd(&self) -> RawFd {
        self.mailbox.fd()
    }

    /// What there is for this request. `None`: it waits, from now on.
    pub fn text_for(&mut self, token: Token, wanted: &Wanted, now: Instant) -> Option<Option<Text>> {
        if let Some(arrived) = self.arrived.remove(&token) {
            return Some(arrived);
        }
        self.waiting.push((token, wanted.clone(), now));
        let mut asked = self.asked.0.lock().expect("nobody panics while holding it");
        if !asked.wanted.contains(wanted) {
            asked.wanted.push_back(wanted.clone());
            self.asked.1.notify_one();
        }
        None
    }

    /// Requests that can be answered now.
    pub fn take_answerable(&mut self, now: Instant) -> Vec<Token> {
        self.mailbox.heard();
        // Those who had something waiting here and never came for it are gone.
        self.arrived.clear();
        while let Some((wanted, text)) = self.mailbox.take() {
            self.give(|waiting| waiting.1 == wanted, &Some(text));
        }
        self.give(|waiting| now.saturating_duration_since(waiting.2) >= PATIENCE, &None);
        self.arrived.keys().copied().collect()
    }

    fn give(&mut self, to: impl Fn(&(Token, Wanted, Instant)) -> bool, text: &Option<Text>) {
        for (token, _, _) in self.waiting.extract_if(.., |waiting| to(waiting)) {
            self.arrived.insert(token, text.clone());
        }
    }

    /// How long until one has waited long enough.
    pub fn patience(&self, now: Instant) -> Option<Duration> {
        let waited = self.waiting.iter().map(|waiting| now.saturating_duration_since(waiting.2)).max()?;
        Some(PATIENCE.saturating_sub(waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_gets_the_text_of_its_format_or_none_in_the_end() {
        let (mut desk, bell) = AppDesk::new().unwrap();
        let token = |index| Token { index, generation: 1 };
        let now = Instant::now();
        assert_eq!(bell.take(), None);
        let (text, opened) = (Wanted::App(Format::Text), Wanted::App(Format::OpenMetrics));
        for (index, wanted) in [(1, &text), (2, &text), (3, &opened)] {
            assert!(desk.text_for(token(index), wanted, now).is_none());
        }
        assert_eq!(bell.wait().as_ref(), Some(&text));
        assert_eq!((bell.take().as_ref(), bell.take()), (Some(&opened), None), "asked once for both");
        bell.supply(text.clone(), b"up 1\n");
        let mut answerable = desk.take_answerable(now);
        answerable.sort_by_key(|token| token.index);
        assert_eq!(answerable, [token(1), token(2)]);
        assert_eq!(desk.text_for(token(1), &text, now).unwrap().as_deref(), Some(&b"up 1\n"[..]));
        assert_eq!(desk.patience(now), Some(PATIENCE));
        let later = now + PATIENCE;
        assert_eq!(desk.take_answerable(later), [token(3)]);
        assert_eq!(desk.text_for(token(3), &opened, later), Some(None));
        assert_eq!(desk.patience(later), None);
        bell.close();
        assert_eq!(bell.wait(), None);
    }
}
