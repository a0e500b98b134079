//! A TCP load: a message that the server is to send back, byte for byte. What frames it is in its bytes already.

use super::LoadError;
pub use super::plan::{EchoPlan, Pace, Schedule};
pub use super::report::{ErrorKind, LoadReport};
pub use super::run::Progress;
use super::run::{Answer, Dialogue, LanePlan, Malformed, run_lanes};

/// Make the load and wait for its end, telling `watch` how far it is; it ends at once if that says so.
pub fn run_until(plan: &EchoPlan, watch: &mut dyn FnMut(Progress) -> bool) -> Result<LoadReport, LoadError> {
    plan.check()?;
    let lane = LanePlan {
        name: plan.schedule.address.to_string(),
        connections: plan.schedule.connections,
        dialogue: Echo { message: plan.message.clone() },
    };
    run_lanes(&plan.schedule, plan.tls.as_ref(), vec![lane], watch)
}

/// The message, and its echo.
struct Echo {
    message: Vec<u8>,
}

impl Dialogue for Echo {
    /// How much of the message has come back.
    type Reader = usize;

    fn request(&self) -> &[u8] {
        &self.message
    }

    fn read(&mut self, at: &mut usize, bytes: &[u8]) -> Result<(usize, Option<Answer>), Malformed> {
        let expected = &self.message[*at..];
        let taken = expected.len().min(bytes.len());
        // Compared at once; only a difference is looked for byte by byte.
        if bytes[..taken] != expected[..taken] {
            return Err(difference(*at, &bytes[..taken], &expected[..taken]));
        }
        *at += taken;
        if *at < self.message.len() {
            return Ok((taken, None));
        }
        *at = 0;
        Ok((taken, Some(Answer { status: 0, body_bytes: self.message.len() as u64, last: false })))
    }

    fn objection(&self, _: &Answer) -> Option<(ErrorKind, String)> {
        None
    }
}

pub(super) fn difference(at: usize, bytes: &[u8], expected: &[u8]) -> Malformed {
    let wrong = bytes.iter().zip(expected).position(|(came, wanted)| came != wanted).unwrap_or(0);
    let (came, wanted) = (bytes[wrong], expected[wrong]);
    Malformed(format!("byte {} of an echo is {came:#04x}, expected {wanted:#04x}", at + wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_cut_anywhere_is_the_same_echo() {
        let mut echo = Echo { message: b"0123456789".to_vec() };
        for cut in 1..10 {
            let mut at = 0;
            assert_eq!(echo.read(&mut at, &b"0123456789"[..cut]), Ok((cut, None)));
            let (taken, answer) = echo.read(&mut at, &b"01234567890123"[cut..]).unwrap();
            assert_eq!((taken, answer.map(|answer| answer.body_bytes)), (10 - cut, Some(10)));
            assert_eq!(at, 0, "the next echo begins anew");
        }
    }

    #[test]
    fn a_wrong_byte_is_told_with_its_place() {
        let mut echo = Echo { message: b"0123".to_vec() };
        let mut at = 2;
        assert_eq!(echo.read(&mut at, b"2x"), Err(Malformed("byte 3 of an echo is 0x78, expected 0x33".to_owned())));
    }
}
