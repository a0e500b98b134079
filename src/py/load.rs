//! `run_http_load`: the load generator, for benchmarks written in Python. It runs detached: the interpreter is free.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use pyo3::exceptions::{PyConnectionError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::load::LoadError;
use crate::load::http::{
    ErrorKind, HttpPlan, LoadReport, Pace, Progress, RequestParts, Target, TargetReport, run_until,
};
use crate::load::latency::Latencies;
use crate::load::tcp::{self, EchoPlan, Schedule};
use crate::load::udp::{self, DatagramPlan};
use crate::protocol::tls::{Client, Trust};

/// Load the HTTP server at `host:port` and tell what it answered.
///
/// `targets` are `(path, weight, body_bytes)`: the connections are shared by weight, and a target with a body is
/// POSTed to. Without `rate` the loop is closed: each connection asks again once it was answered (`pipeline`
/// requests at a time); with it, that many requests a second are due in all, and each latency counts from then.
/// `sleeps` lets it sleep until a request is
/// due, for a load that shares its processor; else it spins, so that no wake-up's delay counts as the server's.
/// `method`, `host_header`, `headers` and `body` are every request's; an answer is good if its status is within
/// `statuses`. `progress(elapsed_s, answers, errors)` is called about ten times a second.
/// `tls` is the server's name and the certificates (DER) of the authorities that are trusted, or None for anybody's.
/// Times are in seconds, latencies in microseconds. Raises ValueError for an impossible plan and ConnectionError
/// when there is no server; requests that fail are counted by kind.
#[pyfunction]
#[pyo3(signature = (
    host, port, *, targets, connections = 64, pipeline = 1, rate = None, duration_s = 3.0, warm_up_s = 0.0,
    answer_timeout_s = 10.0, method = None, host_header = None, headers = Vec::new(), body = None,
    statuses = (200, 200), sleeps = false, tls = None, progress = None
))]
#[allow(clippy::too_many_arguments)] // they are keywords in Python
pub fn run_http_load<'py>(
    py: Python<'py>,
    host: &str,
    port: u16,
    targets: Vec<(String, u32, usize)>,
    connections: usize,
    pipeline: usize,
    rate: Option<f64>,
    duration_s: f64,
    warm_up_s: f64,
    answer_timeout_s: f64,
    method: Option<String>,
    host_header: Option<String>,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    statuses: (u16, u16),
    sleeps: bool,
    tls: Option<(String, Option<Vec<Vec<u8>>>)>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let target = |(path, weight, body_bytes)| Target { path, weight, body_bytes };
    let plan = HttpPlan {
        address: resolve(host, port)?,
        tls: client(tls, &[b"http/1.1"])?,
        targets: targets.into_iter().map(target).collect(),
        parts: RequestParts { method, host: host_header, headers, body },
        statuses: statuses.0..=statuses.1,
        connections,
        pipeline,
        pace: rate.map_or(Pace::Closed, Pace::PerSecond),
        sleeps,
        warm_up: seconds("warm_up_s", warm_up_s)?,
        duration: seconds("duration_s", duration_s)?,
        answer_timeout: seconds("answer_timeout_s", answer_timeout_s)?,
    };
    watched(py, progress.as_ref(), |watch| run_until(&plan, watch))
}

/// Load the TCP server at `host:port`, which is to send each `message` back, byte for byte. The rest is as in
/// `run_http_load`.
#[pyfunction]
#[pyo3(signature = (
    host, port, *, message, connections = 64, pipeline = 1, rate = None, duration_s = 3.0, warm_up_s = 0.0,
    answer_timeout_s = 10.0, tls = None, progress = None
))]
#[allow(clippy::too_many_arguments)] // they are keywords in Python
pub fn run_tcp_load<'py>(
    py: Python<'py>,
    host: &str,
    port: u16,
    message: Vec<u8>,
    connections: usize,
    pipeline: usize,
    rate: Option<f64>,
    duration_s: f64,
    warm_up_s: f64,
    answer_timeout_s: f64,
    tls: Option<(String, Option<Vec<Vec<u8>>>)>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let schedule = schedule(host, port, connections, pipeline, rate, (warm_up_s, duration_s, answer_timeout_s))?;
    let plan = EchoPlan { schedule, message, tls: client(tls, &[])? };
    watched(py, progress.as_ref(), |watch| tcp::run_until(&plan, watch))
}

/// Load the UDP server at `host:port`, which is to send each datagram of `size` bytes back. The rest is as in
/// `run_http_load`, of sockets; a datagram that has not come back within the timeout is lost, and counts as timed out.
/// With `gso` what a socket sends at once leaves as one where it can; else each is a packet.
#[pyfunction]
#[pyo3(signature = (
    host, port, *, size = 64, connections = 16, pipeline = 1, gso = false, rate = None, duration_s = 3.0,
    warm_up_s = 0.0, answer_timeout_s = 1.0, progress = None
))]
#[allow(clippy::too_many_arguments)] // they are keywords in Python
pub fn run_udp_load<'py>(
    py: Python<'py>,
    host: &str,
    port: u16,
    size: usize,
    connections: usize,
    pipeline: usize,
    gso: bool,
    rate: Option<f64>,
    duration_s: f64,
    warm_up_s: f64,
    answer_timeout_s: f64,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let schedule = schedule(host, port, connections, pipeline, rate, (warm_up_s, duration_s, answer_timeout_s))?;
    let plan = DatagramPlan { schedule, bytes: size, gso };
    watched(py, progress.as_ref(), |watch| udp::run_until(&plan, watch))
}

/// `times_s` are the warm-up, the measured time and the answer timeout.
fn schedule(
    host: &str,
    port: u16,
    connections: usize,
    pipeline: usize,
    rate: Option<f64>,
    times_s: (f64, f64, f64),
) -> PyResult<Schedule> {
    Ok(Schedule {
        address: resolve(host, port)?,
        connections,
        pipeline,
        pace: rate.map_or(Pace::Closed, Pace::PerSecond),
        sleeps: false,
        warm_up: seconds("warm_up_s", times_s.0)?,
        duration: seconds("duration_s", times_s.1)?,
        answer_timeout: seconds("answer_timeout_s", times_s.2)?,
    })
}

/// Of a server's name and its trusted authorities.
fn client(tls: Option<(String, Option<Vec<Vec<u8>>>)>, alpn: &[&[u8]]) -> PyResult<Option<Client>> {
    let Some((name, authorities)) = tls else { return Ok(None) };
    let trust = authorities.map_or(Trust::Anybody, Trust::Authorities);
    Client::new(&name, &trust, alpn).map(Some).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Make a load with the interpreter free, but for telling how far it is.
fn watched<'py>(
    py: Python<'py>,
    progress: Option<&Py<PyAny>>,
    load: impl FnOnce(&mut dyn FnMut(Progress) -> bool) -> Result<LoadReport, LoadError> + Send,
) -> PyResult<Bound<'py, PyDict>> {
    let mut told = Ok(());
    let outcome = py.detach(|| {
        load(&mut |far| {
            told = Python::attach(|py| tell(py, progress, far));
            told.is_err()
        })
    });
    told?;
    report(py, &outcome.map_err(raised)?)
}

/// Run the signal handlers that are due, and say how far the load is.
fn tell(py: Python<'_>, progress: Option<&Py<PyAny>>, far: Progress) -> PyResult<()> {
    py.check_signals()?;
    match progress {
        Some(progress) => progress.call1(py, (far.elapsed.as_secs_f64(), far.answers, far.errors)).map(drop),
        None => Ok(()),
    }
}

pub(super) fn resolve(host: &str, port: u16) -> PyResult<SocketAddr> {
    let mut found = (host, port).to_socket_addrs()?;
    found.next().ok_or_else(|| PyValueError::new_err(format!("{host} has no address")))
}

pub(super) fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|error| PyValueError::new_err(format!("{name} is {value}, expected seconds: {error}")))
}

pub(super) fn raised(error: LoadError) -> PyErr {
    let text = error.to_string();
    match error {
        LoadError::Plan(_) => PyValueError::new_err(text),
        LoadError::Connect { .. } | LoadError::Handshake { .. } | LoadError::ServerGone { .. } => {
            PyConnectionError::new_err(text)
        }
        LoadError::Kernel { .. } | LoadError::Interrupted => PyOSError::new_err(text),
    }
}

fn report<'py>(py: Python<'py>, report: &LoadReport) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("duration_s", report.duration.as_secs_f64())?;
    dict.set_item("answers", report.answers())?;
    dict.set_item("answers_in_time", report.answers_in_time())?;
    dict.set_item("errors", report.errors())?;
    dict.set_item("reconnects", report.reconnects)?;
    dict.set_item("rate", report.rate())?;
    let all = report.latencies();
    dict.set_item("latency_us", latencies(py, &all)?)?;
    dict.set_item("histogram_us", histogram(py, &all)?)?;
    let tls = report.tls.as_ref().map(|tls| (tls.agreed.version, &tls.agreed.cipher_suite, tls.sessions));
    dict.set_item("tls", tls)?;
    let targets = report.targets.iter().map(|target| target_report(py, target)).collect::<PyResult<Vec<_>>>()?;
    dict.set_item("targets", PyList::new(py, targets)?)?;
    Ok(dict)
}

fn target_report<'py>(py: Python<'py>, target: &TargetReport) -> PyResult<Bound<'py, PyDict>> {
    let errors = PyDict::new(py);
    for kind in ErrorKind::ALL {
        errors.set_item(kind.name(), target.errors.count(kind))?;
    }
    let dict = PyDict::new(py);
    dict.set_item("name", &target.name)?;
    dict.set_item("connections", target.connections)?;
    dict.set_item("answers", target.answers)?;
    dict.set_item("body_bytes", target.body_bytes)?;
    dict.set_item("errors", errors)?;
    dict.set_item("first_error", target.errors.first.as_deref())?;
    dict.set_item("fewest_on_one", target.fewest_on_one)?;
    dict.set_item("most_on_one", target.most_on_one)?;
    dict.set_item("latency_us", latencies(py, &target.latencies)?)?;
    Ok(dict)
}

pub(super) fn histogram<'py>(py: Python<'py>, latencies: &Latencies) -> PyResult<Bound<'py, PyList>> {
    let buckets = latencies.buckets().into_iter().map(|(limit, count)| (limit.as_nanos() as f64 / 1e3, count));
    PyList::new(py, buckets.collect::<Vec<_>>())
}

pub(super) fn latencies<'py>(py: Python<'py>, latencies: &Latencies) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let microseconds = |latency: Duration| latency.as_nanos() as f64 / 1e3;
    dict.set_item("count", latencies.count())?;
    dict.set_item("mean", microseconds(latencies.mean()))?;
    for (name, percent) in
        [("p50", 50.0), ("p75", 75.0), ("p90", 90.0), ("p99", 99.0), ("p99_9", 99.9), ("p99_99", 99.99)]
    {
        dict.set_item(name, microseconds(latencies.percentile(percent)))?;
    }
    dict.set_item("max", microseconds(latencies.max()))?;
    Ok(dict)
}
