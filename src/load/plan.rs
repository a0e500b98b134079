//! What a load is to be: whom to ask for what, how often and for how long. Checked before anything is opened.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::LoadError;
use crate::protocol::tls;

/// When requests are made.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// The next one as soon as one is answered.
    Closed,
    /// This many a second in all, divided among the targets as their connections are.
    PerSecond(f64),
}

/// How often, by how many connections, and for how long: what every load has.
#[derive(Clone, PartialEq, Debug)]
pub struct Schedule {
    pub address: SocketAddr,
    pub connections: usize,
    /// Requests that one connection may have unanswered.
    pub pipeline: usize,
    pub pace: Pace,
    /// Sleep until a request is due instead of spinning: for a load that shares its processor with others.
    pub sleeps: bool,
    /// Before measuring begins; answers of this time are only counted.
    pub warm_up: Duration,
    pub duration: Duration,
    /// An answer that takes longer is an error; so long, too, does the run wait for the last ones.
    pub answer_timeout: Duration,
}

impl Schedule {
    pub const MAX_CONNECTIONS: usize = 65_536;
    pub const MAX_PIPELINE: usize = 1_024;

    fn check(&self) -> Result<(), LoadError> {
        let (connections, most) = (self.connections, Self::MAX_CONNECTIONS);
        if connections == 0 || connections > most {
            return problem(format!("{connections} connections; expected 1 to {most}"));
        }
        if self.pipeline == 0 || self.pipeline > Self::MAX_PIPELINE {
            return problem(format!("pipeline of {}; expected 1 to {}", self.pipeline, Self::MAX_PIPELINE));
        }
        if let Pace::PerSecond(rate) = self.pace
            && !(rate > 0.0 && rate <= 10e6)
        {
            return problem(format!("{rate} requests a second; expected more than 0, at most 10 million"));
        }
        if self.duration.is_zero() || self.answer_timeout.is_zero() {
            return problem("duration and answer_timeout must be longer than 0".to_owned());
        }
        Ok(())
    }
}

fn problem(text: String) -> Result<(), LoadError> {
    Err(LoadError::Plan(text))
}

/// A message that a server is to send back, with what frames it.
#[derive(Clone, Debug)]
pub struct EchoPlan {
    pub schedule: Schedule,
    pub message: Vec<u8>,
    /// None is plain TCP.
    pub tls: Option<tls::Client>,
}

impl EchoPlan {
    pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

    pub(super) fn check(&self) -> Result<(), LoadError> {
        let (bytes, most) = (self.message.len(), Self::MAX_MESSAGE_BYTES);
        if bytes == 0 || bytes > most {
            return problem(format!("a message of {bytes} bytes; expected 1 to {most}"));
        }
        self.schedule.check()
    }
}

/// Datagrams that a server is to send back; the schedule's connections are sockets, and its pipeline those on their way.
#[derive(Clone, PartialEq, Debug)]
pub struct DatagramPlan {
    pub schedule: Schedule,
    /// Of each datagram, its number of 8 bytes included.
    pub bytes: usize,
    /// What a socket sends at once leaves as one where it can (GSO); else each datagram is a packet of its own.
    pub gso: bool,
}

impl DatagramPlan {
    /// What an IPv4 packet has room for.
    pub const MAX_BYTES: usize = 65_507;

    pub(super) fn check(&self) -> Result<(), LoadError> {
        let (least, most) = (super::udp::NUMBER_BYTES, Self::MAX_BYTES);
        if !(least..=most).contains(&self.bytes) {
            return problem(format!("datagrams of {} bytes; expected {least} to {most}", self.bytes));
        }
        self.schedule.check()
    }
}

/// One thing to ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    pub path: String,
    /// Its share of the connections, beside the other targets' weights.
    pub weight: u32,
    /// POST a body of this many bytes; 0 is a GET.
    pub body_bytes: usize,
}

/// What requests have beyond their target's path.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RequestParts {
    /// None is GET, or POST where there is a body.
    pub method: Option<String>,
    /// What the Host header says; None is the address.
    pub host: Option<String>,
    pub headers: Vec<(String, String)>,
    /// Posted in place of the target's own.
    pub body: Option<Vec<u8>>,
}

impl RequestParts {
    /// Headers that say where a request ends are not for others to write.
    const OURS: [&str; 3] = ["host", "content-length", "transfer-encoding"];

    fn check(&self) -> Result<(), String> {
        if let Some(method) = &self.method
            && (!is_token(method) || ["HEAD", "CONNECT"].contains(&method.as_str()))
        {
            return Err(format!("method {method:?}; expected one whose answers have bodies, such as GET"));
        }
        for (name, value) in &self.headers {
            if !is_token(name) || Self::OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
                return Err(format!("header {name:?}; expected a token that is none of {}", Self::OURS.join(", ")));
            }
            if !is_field_value(value) {
                return Err(format!("header {name} is {value:?}; expected visible characters, spaces and tabs"));
            }
        }
        match &self.host {
            Some(host) if !is_field_value(host) => Err(format!("host {host:?}; expected a name or an address")),
            _ => Ok(()),
        }
    }
}

fn is_token(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(token)
}

fn is_field_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

/// What to ask of whom, for how long.
#[derive(Clone, Debug)]
pub struct HttpPlan {
    pub address: SocketAddr,
    /// None is plain HTTP.
    pub tls: Option<tls::Client>,
    pub targets: Vec<Target>,
    pub parts: RequestParts,
    /// An answer with another status is an error.
    pub statuses: RangeInclusive<u16>,
    pub connections: usize,
    /// Requests that one connection may have unanswered.
    pub pipeline: usize,
    pub pace: Pace,
    /// Sleep until a request is due instead of spinning.
    pub sleeps: bool,
    /// Before measuring begins; answers of this time are only counted.
    pub warm_up: Duration,
    pub duration: Duration,
    /// An answer that takes longer is an error; so long, too, does the run wait for the last ones.
    pub answer_timeout: Duration,
}

impl HttpPlan {
    pub const MAX_BODY_BYTES: usize = 64 << 20;

    /// One GET, 64 connections, closed loop, three seconds.
    pub fn get(address: SocketAddr, path: &str) -> Self {
        HttpPlan {
            address,
            tls: None,
            targets: vec![Target { path: path.to_owned(), weight: 1, body_bytes: 0 }],
            parts: RequestParts::default(),
            statuses: 200..=200,
            connections: 64,
            pipeline: 1,
            pace: Pace::Closed,
            sleeps: false,
            warm_up: Duration::ZERO,
            duration: Duration::from_secs(3),
            answer_timeout: Duration::from_secs(10),
        }
    }

    pub(super) fn schedule(&self) -> Schedule {
        Schedule {
            address: self.address,
            connections: self.connections,
            pipeline: self.pipeline,
            pace: self.pace,
            sleeps: self.sleeps,
            warm_up: self.warm_up,
            duration: self.duration,
            answer_timeout: self.answer_timeout,
        }
    }

    pub(super) fn check(&self) -> Result<(), LoadError> {
        let (targets, connections) = (self.targets.len(), self.connections);
        if targets == 0 || connections < targets {
            return problem(format!("{connections} connections for {targets} targets; expected one each"));
        }
        self.schedule().check()?;
        if let Err(text) = self.parts.check() {
            return problem(text);
        }
        if self.parts.body.as_ref().is_some_and(|body| body.len() > Self::MAX_BODY_BYTES) {
            return problem(format!("a body of more than {} bytes", Self::MAX_BODY_BYTES));
        }
        for Target { path, weight, body_bytes } in &self.targets {
            if !path.starts_with('/') || path.bytes().any(|byte| !byte.is_ascii_graphic()) {
                return problem(format!("path {path:?}; expected / and visible ASCII"));
            }
            if *weight == 0 || *body_bytes > Self::MAX_BODY_BYTES {
                let most = Self::MAX_BODY_BYTES;
                return problem(format!(
                    "{path} has weight {weight}, body {body_bytes}; expected 1 or more, at most {most}"
                ));
            }
        }
        Ok(())
    }

    /// How many connections each target gets: by weight, at least one, all of them.
    pub(super) fn shares(&self) -> Vec<usize> {
        let weights: u64 = self.targets.iter().map(|target| u64::from(target.weight)).sum();
        let exact = |weight: u32| self.connections as f64 * f64::from(weight) / weights as f64;
        let mut shares: Vec<usize> = self.targets.iter().map(|target| (exact(target.weight) as usize).max(1)).collect();
        let lack = |shares: &[usize], i: usize| exact(self.targets[i].weight) - shares[i] as f64;
        loop {
            let given: usize = shares.iter().sum();
            let by_lack = |a: &usize, b: &usize| lack(&shares, *a).total_cmp(&lack(&shares, *b));
            if given < self.connections {
                let neediest = (0..shares.len()).max_by(by_lack).expect("there is a target");
                shares[neediest] += 1;
            } else if given > self.connections {
                let richest = (0..shares.len()).filter(|i| shares[*i] > 1).min_by(by_lack);
                shares[richest.expect("there is a connection for each target")] -= 1;
            } else {
                return shares;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(connections: usize, weights: &[u32]) -> HttpPlan {
        let target = |weight: &u32| Target { path: "/".to_owned(), weight: *weight, body_bytes: 0 };
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        HttpPlan { connections, targets: weights.iter().map(target).collect(), ..HttpPlan::get(address, "/") }
    }

    #[test]
    fn connections_are_shared_by_weight_and_none_is_left_over() {
        assert_eq!(plan(64, &[1, 63]).shares(), [1, 63]);
        assert_eq!(plan(10, &[1, 1, 1]).shares().iter().sum::<usize>(), 10);
        assert_eq!(plan(7, &[5, 2]).shares(), [5, 2]);
    }

    #[test]
    fn the_lightest_target_still_gets_a_connection() {
        assert_eq!(plan(4, &[1_000_000, 1, 1]).shares(), [2, 1, 1]);
    }

    #[test]
    fn what_would_change_where_a_request_ends_is_refused() {
        let parts = |method: &str, name: &str, value: &str| RequestParts {
            method: Some(method.to_owned()),
            headers: vec![(name.to_owned(), value.to_owned())],
            ..RequestParts::default()
        };
        let check = |parts| HttpPlan { parts, ..plan(4, &[1]) }.check();
        check(parts("PUT", "X-Name", "a value\twith space")).unwrap();
        for (method, name, value) in [
            ("HEAD", "X", "1"),
            ("GET /", "X", "1"),
            ("", "X", "1"),
            ("GET", "Content-Length", "1"),
            ("GET", "transfer-encoding", "chunked"),
            ("GET", "X: 1\r\nY", "1"),
            ("GET", "X", "1\r\nContent-Length: 5"),
            ("GET", "X", "1\0"),
        ] {
            let refused = check(parts(method, name, value));
            assert!(matches!(refused, Err(LoadError::Plan(_))), "{method:?} {name:?} {value:?} was taken");
        }
    }

    #[test]
    fn a_plan_that_cannot_be_made_says_what_was_expected() {
        let good = plan(4, &[1, 1]);
        let path = Target { path: "no slash".to_owned(), weight: 1, body_bytes: 0 };
        let refused = [
            (HttpPlan { targets: Vec::new(), ..good.clone() }, "expected one each"),
            (HttpPlan { connections: 1, ..good.clone() }, "expected one each"),
            (HttpPlan { pipeline: 0, ..good.clone() }, "expected 1 to 1024"),
            (HttpPlan { pace: Pace::PerSecond(f64::NAN), ..good.clone() }, "expected more than 0"),
            (HttpPlan { pace: Pace::PerSecond(0.0), ..good.clone() }, "expected more than 0"),
            (HttpPlan { duration: Duration::ZERO, ..good.clone() }, "longer than 0"),
            (HttpPlan { targets: vec![path], ..good.clone() }, "visible ASCII"),
            (plan(4, &[1, 0]), "expected 1 or more"),
        ];
        for (plan, expected) in refused {
            let text = plan.check().expect_err(expected).to_string();
            assert!(text.contains(expected), "{text:?} lacks {expected:?}");
        }
        good.check().unwrap();
    }
}
