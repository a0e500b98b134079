//! `MetricsServer`: the metrics' own server as Python sees it, on a thread of its own or turned by whoever has a loop already.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::guarded::Guarded;
use super::reactor::listener_of;
use super::scoreboard::Scoreboard;
use crate::core::mailbox::MailSender;
use crate::core::poller::{self, PollerKind};
use crate::core::{EventLoop, background};
use crate::metrics::table::{FAMILIES, Kind, PREFIX};
use crate::reactor::Mail;
use crate::server::metrics::{AppBell, AppDesk, Format, MetricsPages, MetricsService, View, Wanted};

enum Place {
    Here(Box<EventLoop<MetricsService>>),
    OnItsThread { mail: MailSender<Mail>, stopping: Arc<AtomicBool>, thread: JoinHandle<()> },
}

/// Shows the metrics of the workers of a scoreboard.
#[pyclass(frozen, module = "penstock._core")]
pub struct MetricsServer {
    place: Guarded<Option<Place>>,
    bell: AppBell,
}

impl MetricsServer {
    fn here<R>(&self, act: impl FnOnce(&mut EventLoop<MetricsService>) -> R) -> PyResult<R> {
        match self.place.enter()?.as_mut() {
            Some(Place::Here(event_loop)) => Ok(act(event_loop)),
            Some(Place::OnItsThread { .. }) => Err(PyRuntimeError::new_err("the metrics have a thread of their own")),
            None => Err(PyRuntimeError::new_err("the metrics' server has stopped")),
        }
    }
}

#[pymethods]
impl MetricsServer {
    /// `names`: what the first slots are called. `listeners`: what the server listens at. `config`: its settings, as JSON.
    /// `expects_app`: somebody supplies the application's own metrics.
    #[new]
    #[pyo3(signature = (scoreboard, *, names, listeners, config, expects_app = false))]
    fn new(
        scoreboard: &Scoreboard,
        names: Vec<String>,
        listeners: Vec<String>,
        config: Vec<u8>,
        expects_app: bool,
    ) -> PyResult<Self> {
        let (desk, bell) = AppDesk::new()?;
        let view = View::new(scoreboard.0.clone(), &names, listeners);
        let service = MetricsService::new(MetricsPages::new(view, config, desk, expects_app));
        // epoll: its descriptor can be waited for by another loop, and its loop go to another thread.
        let mut event_loop = EventLoop::new(poller::open(PollerKind::Epoll)?, service)?;
        event_loop.service.attach(&mut event_loop.io)?;
        Ok(MetricsServer { place: Guarded::new(Some(Place::Here(Box::new(event_loop)))), bell })
    }

    /// Accept from a listening socket; the descriptor is duplicated. Before `start`.
    fn add_listener(&self, fd: RawFd) -> PyResult<()> {
        let own = listener_of(fd)?;
        self.here(|event_loop| event_loop.io.add_listener(own).map(drop))?.map_err(PyErr::from)
    }

    /// Turn on a thread of its own, which knows no Python, until `stop`.
    fn start(&self) -> PyResult<()> {
        let mut place = self.place.enter()?;
        let Some(Place::Here(mut event_loop)) = place.take() else {
            return Err(PyRuntimeError::new_err("the metrics' server has been started, or stopped"));
        };
        let (mail, stopping) = (event_loop.mail_sender(), Arc::new(AtomicBool::new(false)));
        let stop = stopping.clone();
        let turn = move || {
            background::give_way();
            while !stop.load(Ordering::Acquire) {
                let patience = event_loop.service.patience(event_loop.io.clock());
                // It fails only if the kernel has no memory for it: the next one may go well, and takes its time.
                if event_loop.turn(patience).is_err() {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
            }
        };
        let thread = std::thread::Builder::new().name("penstock-metrics".into()).spawn(turn)?;
        *place = Some(Place::OnItsThread { mail, stopping, thread });
        Ok(())
    }

    /// Readable when `turn` has something to do.
    fn fileno(&self) -> PyResult<RawFd> {
        self.here(|event_loop| event_loop.poll_fd())?.ok_or_else(|| PyOSError::new_err("there is no such descriptor"))
    }

    /// Do what there is to do, without waiting.
    fn turn(&self, py: Python<'_>) -> PyResult<()> {
        self.here(|event_loop| event_loop.turn(Some(std::time::Duration::ZERO)))??;
        py.check_signals()
    }

    /// In a forked child, whose server it is not: close its descriptors.
    fn abandon(&self) -> PyResult<()> {
        if let Some(Place::Here(event_loop)) = self.place.enter()?.take() {
            event_loop.abandon();
        }
        Ok(())
    }

    /// Wait until something is wanted that only Python can tell; `None` once stopped. From any thread. The application's
    /// metrics are "text" or "openmetrics", connections are "?" and a query as [`Survey`](super::survey::Survey) takes it.
    fn wait_for_wanted(&self, py: Python<'_>) -> Option<String> {
        py.detach(|| self.bell.wait()).map(name_of)
    }

    /// The same without waiting: `None` if nothing is wanted.
    fn take_wanted(&self) -> Option<String> {
        self.bell.take().map(name_of)
    }

    /// What was wanted, by the same name: the application's metrics in this format, without an end of their own, or
    /// connections as JSON.
    fn supply(&self, wanted: &str, text: &Bound<'_, PyBytes>) -> PyResult<()> {
        self.bell.supply(wanted_of(wanted)?, text.as_bytes());
        Ok(())
    }

    /// Close its listeners and connections. Idempotent.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        self.bell.close();
        let place = self.place.enter()?.take();
        if let Some(Place::OnItsThread { mail, stopping, thread }) = place {
            stopping.store(true, Ordering::Release);
            mail.wake();
            // A panic there has been told by its hook.
            let _ = py.detach(|| thread.join());
        }
        Ok(())
    }
}

fn name_of(wanted: Wanted) -> String {
    match wanted {
        Wanted::App(Format::Text) => "text".to_owned(),
        Wanted::App(Format::OpenMetrics) => "openmetrics".to_owned(),
        Wanted::Connections(query) => format!("?{query}"),
    }
}

fn wanted_of(name: &str) -> PyResult<Wanted> {
    match (name, name.strip_prefix('?')) {
        ("text", _) => Ok(Wanted::App(Format::Text)),
        ("openmetrics", _) => Ok(Wanted::App(Format::OpenMetrics)),
        (_, Some(query)) => Ok(Wanted::Connections(super::survey::query_of(query)?)),
        _ => Err(PyValueError::new_err(format!("expected text, openmetrics or ? and a query, got {name:?}"))),
    }
}

/// Every metric: its name, kind, unit, labels, group and meaning.
#[pyfunction]
#[allow(clippy::type_complexity)]
pub fn metrics_table() -> Vec<(String, &'static str, &'static str, Vec<&'static str>, &'static str, &'static str)> {
    let row = |family: &crate::metrics::table::Family| {
        let suffix = match family.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            _ => "",
        };
        let worker = family.is_of_each_worker().then_some("worker");
        let labels = worker.into_iter().chain(family.labels().iter().copied()).collect();
        let name = format!("{PREFIX}{}{suffix}", family.name);
        (name, family.kind.name(), family.unit, labels, family.group, family.help)
    };
    FAMILIES.iter().map(row).collect()
}
