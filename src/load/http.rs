//! An HTTP/1.1 load: requests of a few targets, each with its share of the connections.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use super::LoadError;
pub use super::plan::{HttpPlan, Pace, RequestParts, Target};
pub use super::report::{ErrorKind, Errors, LoadReport, TargetReport, TlsReport};
use super::response::{KnownHead, ResponseReader};
pub use super::run::Progress;
use super::run::{Answer, Dialogue, LanePlan, Malformed, run_lanes};

/// Make the load and wait for its end.
pub fn run(plan: &HttpPlan) -> Result<LoadReport, LoadError> {
    run_until(plan, &mut |_| false)
}

/// As [`run`], telling `watch` about ten times a second how far it is, and ending at once if that says so.
pub fn run_until(plan: &HttpPlan, watch: &mut dyn FnMut(Progress) -> bool) -> Result<LoadReport, LoadError> {
    plan.check()?;
    let lane = |(target, connections): (&Target, usize)| LanePlan {
        name: target.path.clone(),
        connections,
        dialogue: Requests {
            request: request_bytes(plan, target),
            known: KnownHead::default(),
            statuses: plan.statuses.clone(),
        },
    };
    let lanes = plan.targets.iter().zip(plan.shares()).map(lane).collect();
    run_lanes(&plan.schedule(), plan.tls.as_ref(), lanes, watch)
}

/// GETs of one path, with responses of status 200.
pub(super) fn get(address: SocketAddr, path: &str) -> Result<Requests, LoadError> {
    let plan = HttpPlan::get(address, path);
    plan.check()?;
    let request = request_bytes(&plan, &plan.targets[0]);
    Ok(Requests { request, known: KnownHead::default(), statuses: plan.statuses })
}

/// One target's requests, and the responses to them.
pub struct Requests {
    request: Vec<u8>,
    known: KnownHead,
    statuses: RangeInclusive<u16>,
}

impl Dialogue for Requests {
    type Reader = ResponseReader;

    fn request(&self) -> &[u8] {
        &self.request
    }

    fn read(&mut self, reader: &mut ResponseReader, bytes: &[u8]) -> Result<(usize, Option<Answer>), Malformed> {
        reader.read(bytes, &mut self.known)
    }

    fn objection(&self, answer: &Answer) -> Option<(ErrorKind, String)> {
        if self.statuses.contains(&answer.status) {
            return None;
        }
        let (least, most) = (self.statuses.start(), self.statuses.end());
        let expected = if least == most { least.to_string() } else { format!("{least} to {most}") };
        Some((ErrorKind::Status, format!("status {}, expected {expected}", answer.status)))
    }
}

fn request_bytes(plan: &HttpPlan, target: &Target) -> Vec<u8> {
    let parts = &plan.parts;
    let own_body = (target.body_bytes > 0).then(|| vec![b'x'; target.body_bytes]);
    let body = parts.body.as_ref().or(own_body.as_ref());
    let method = parts.method.as_deref().unwrap_or(if body.is_some() { "POST" } else { "GET" });
    let host = parts.host.clone().unwrap_or_else(|| plan.address.to_string());
    let mut request = format!("{method} {} HTTP/1.1\r\nHost: {host}\r\n", target.path).into_bytes();
    let mut header = |name: &str, value: &str| request.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    parts.headers.iter().for_each(|(name, value)| header(name, value));
    if let Some(body) = body {
        if !parts.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            header("Content-Type", "application/octet-stream");
        }
        header("Content-Length", &body.len().to_string());
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body.map_or(&[], Vec::as_slice));
    request
}
