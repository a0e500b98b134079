//! The application's own metrics: asked for when somebody scrapes, and supplied by whoever can make the application tell.
//!
//! The server's side ([`AppDesk`]) never waits: a scrape is answered when the text arrives, or without it when it does not
//! come in time. The application's side ([`AppBell`]) is good for any thread.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::exposition::Format;
use crate::core::Token;
use crate::core::mailbox::{MailSender, Mailbox};

/// A scrape waits this long for the application, then is answered without it.
const PATIENCE: Duration = Duration::from_secs(2);

type Text = Arc<[u8]>;

#[derive(Default)]
struct Asked {
    formats: Vec<Format>,
    is_closed: bool,
}

/// Where the application's side hears what is wanted, and leaves it.
#[derive(Clone)]
pub struct AppBell {
    asked: Arc<(Mutex<Asked>, Condvar)>,
    supply: MailSender<(Format, Text)>,
}

impl AppBell {
    /// Wait until a text is wanted, and in which format; `None` once closed.
    pub fn wait(&self) -> Option<Format> {
        let (asked, told) = &*self.asked;
        let asked = asked.lock().expect("nobody panics while holding it");
        let waiting = |asked: &mut Asked| asked.formats.is_empty() && !asked.is_closed;
        let mut asked = told.wait_while(asked, waiting).expect("nobody panics while holding it");
        if asked.is_closed { None } else { asked.formats.pop() }
    }

    /// What is wanted, without waiting.
    pub fn take(&self) -> Option<Format> {
        self.asked.0.lock().expect("nobody panics while holding it").formats.pop()
    }

    pub fn supply(&self, format: Format, text: &[u8]) {
        // It is refused only by a server that is gone.
        let _ = self.supply.send((format, text.into()));
    }

    pub fn close(&self) {
        self.asked.0.lock().expect("nobody panics while holding it").is_closed = true;
        self.asked.1.notify_all();
    }
}

pub struct AppDesk {
    asked: Arc<(Mutex<Asked>, Condvar)>,
    mailbox: Mailbox<(Format, Text)>,
    waiting: Vec<(Token, Format, Instant)>,
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

    /// What there is for this scrape. `None`: it waits, from now on.
    pub fn text_for(&mut self, token: Token, format: Format, now: Instant) -> Option<Option<Text>> {
        if let Some(arrived) = self.arrived.remove(&token) {
            return Some(arrived);
        }
        self.waiting.push((token, format, now));
        let mut asked = self.asked.0.lock().expect("nobody panics while holding it");
        if !asked.formats.contains(&format) {
            asked.formats.push(format);
            self.asked.1.notify_one();
        }
        None
    }

    /// Scrapes that can be answered now.
    pub fn take_answerable(&mut self, now: Instant) -> Vec<Token> {
        self.mailbox.heard();
        // Those who had something waiting here and never came for it are gone.
        self.arrived.clear();
        while let Some((format, text)) = self.mailbox.take() {
            self.give(|waiting| waiting.1 == format, &Some(text));
        }
        self.give(|waiting| now.saturating_duration_since(waiting.2) >= PATIENCE, &None);
        self.arrived.keys().copied().collect()
    }

    fn give(&mut self, to: impl Fn(&(Token, Format, Instant)) -> bool, text: &Option<Text>) {
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
        for (index, format) in [(1, Format::Text), (2, Format::Text), (3, Format::OpenMetrics)] {
            assert!(desk.text_for(token(index), format, now).is_none());
        }
        assert_eq!(bell.wait(), Some(Format::OpenMetrics));
        assert_eq!(bell.take(), Some(Format::Text), "asked once for both");
        bell.supply(Format::Text, b"up 1\n");
        let mut answerable = desk.take_answerable(now);
        answerable.sort_by_key(|token| token.index);
        assert_eq!(answerable, [token(1), token(2)]);
        assert_eq!(desk.text_for(token(1), Format::Text, now).unwrap().as_deref(), Some(&b"up 1\n"[..]));
        assert_eq!(desk.patience(now), Some(PATIENCE));
        let later = now + PATIENCE;
        assert_eq!(desk.take_answerable(later), [token(3)]);
        assert_eq!(desk.text_for(token(3), Format::OpenMetrics, later), Some(None));
        assert_eq!(desk.patience(later), None);
        bell.close();
        assert_eq!(bell.wait(), None);
    }
}
