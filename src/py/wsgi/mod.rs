//! WSGI (PEP 3333) over the HTTP server's events: a request is handed to a thread of a bounded pool, and its response back.
//!
//! The path of one request: `desk` (the loop's side, detached) makes a `job` of it and leaves it in the `pool`; a thread
//! takes it, `environ` builds the dictionary, the application is called, and `response` sends what it returns: through
//! the pool to the desk, which writes it. `input` is the request's body, `conversation` what both sides still say to each
//! other while bodies are on their way. A long body goes to a file first (`spool`), so that no thread waits for a client.

mod conversation;
mod desk;
mod environ;
mod file_wrapper;
mod input;
mod job;
mod pool;
mod response;
mod spool;

use std::sync::{Arc, OnceLock};

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

pub use desk::Desk;
pub use file_wrapper::FileWrapper;
pub use input::WsgiInput;
pub use response::StartResponse;

use super::access_log::AccessLogPlan;
use super::asgi::tells_of_disconnect;
use super::config::ServerConfig;
use super::http_server::{HttpServerPlan, ListenerAddress};
use super::owners;
use super::task::{copy_context, current_context, in_context};
use crate::core::mailbox::MailSender;
use crate::reactor::Mail;
use crate::server::http::HttpServer;
use conversation::Conversation;
use environ::{EnvironBuilder, Surroundings};
use input::Source;
use job::Job;
use pool::{Failure, Message, Pool, Worker};
use response::Outcome;

/// A WSGI application attached to a reactor, and the pool of threads that call it.
#[pyclass(frozen, module = "penstock._core")]
pub struct WsgiServer {
    app: Py<PyAny>,
    /// Called as `report(message, exception or None)`; logs.
    report: Py<PyAny>,
    /// Called when a drained server has nothing more to do.
    on_quiet: Py<PyAny>,
    http: HttpServerPlan,
    listeners: Vec<ListenerAddress>,
    surroundings: Surroundings,
    /// What every request's context is a copy of.
    context: Py<PyAny>,
    threads: usize,
    queue_limit: usize,
    spool_limit_bytes: u64,
    /// Once it is attached.
    pool: OnceLock<Arc<Pool>>,
}

#[pymethods]
impl WsgiServer {
    /// `config`: a `penstock.ServerConfig`. `listeners`: for each, in the order they are added, its scheme and its
    /// `(host, port)`. `errors`: `wsgi.errors`. `access_log`: a
    /// `penstock.logs.AccessLogPlan`, or `None`.
    #[new]
    #[pyo3(signature = (app, config, *, listeners, errors, report, on_quiet, multithread, multiprocess, access_log=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        app: Py<PyAny>,
        config: ServerConfig,
        listeners: Vec<ListenerAddress>,
        errors: Py<PyAny>,
        report: Py<PyAny>,
        on_quiet: Py<PyAny>,
        multithread: bool,
        multiprocess: bool,
        access_log: Option<AccessLogPlan>,
    ) -> PyResult<Self> {
        let file_wrapper = py.get_type::<FileWrapper>().into_any().unbind();
        Ok(WsgiServer {
            app,
            report,
            on_quiet,
            http: HttpServerPlan::new(py, &config, &listeners, access_log)?,
            listeners,
            surroundings: Surroundings {
                root_path: config.root_path.clone(),
                errors,
                file_wrapper,
                multithread,
                multiprocess,
            },
            context: current_context(py)?.unbind(),
            threads: config.threads,
            queue_limit: config.limit_queue,
            spool_limit_bytes: config.limit_spool_size,
            pool: OnceLock::new(),
        })
    }

    /// Serve requests on this thread until `close`, or for as long as the loop lasts. The server must be attached.
    fn run_thread(&self, py: Python<'_>) -> PyResult<()> {
        let pool = self.pool()?.clone();
        let mut thread = Thread {
            server: self,
            environs: EnvironBuilder::new(py, &self.listeners, &self.surroundings)?,
            empty_input: Py::new(py, WsgiInput::new(None, Vec::new(), None))?,
            worker: Worker::default(),
            pool,
        };
        thread.pool.enter();
        let served = thread.serve(py);
        thread.pool.leave();
        served
    }

    /// Let the threads go, each when it has nothing to do any more.
    fn close(&self) -> PyResult<()> {
        self.pool()?.close();
        Ok(())
    }

    /// The pool as it is now: its threads, those of them that run the application, the requests that wait for one, the
    /// most that ever did; and since it began: requests taken, answered 503 because the queue was full, and the seconds
    /// that they waited in all. From any thread.
    fn figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let figures = self.pool()?.figures();
        let named = PyDict::new(py);
        named.set_item("threads", figures.threads)?;
        named.set_item("busy", figures.busy)?;
        named.set_item("queued", figures.queued)?;
        named.set_item("most_queued", figures.most_queued)?;
        named.set_item("taken", figures.taken)?;
        named.set_item("rejected", figures.rejected)?;
        named.set_item("waited_s", figures.waited.as_secs_f64())?;
        Ok(named)
    }
}

impl WsgiServer {
    fn pool(&self) -> PyResult<&Arc<Pool>> {
        self.pool.get().ok_or_else(|| PyRuntimeError::new_err("the WSGI server is not attached to a reactor"))
    }

    /// What the loop needs to serve it. `mail` wakes the loop.
    pub fn attach(&self, py: Python<'_>, mail: MailSender<Mail>) -> PyResult<(HttpServer, Desk)> {
        let http = self.http.make(py, &self.report)?;
        let pool = Arc::new(Pool::new(mail, self.threads, self.queue_limit));
        self.pool.set(pool.clone()).map_err(|_| PyRuntimeError::new_err("the WSGI server is attached already"))?;
        Ok((http, Desk::new(pool, self.spool_limit_bytes)))
    }

    pub fn tell_quiet(&self, py: Python<'_>) -> PyResult<()> {
        self.on_quiet.call0(py).map(drop)
    }

    fn report(&self, py: Python<'_>, message: &str, error: Option<PyErr>) -> PyResult<()> {
        self.report.call1(py, (message, error.map(|error| error.into_value(py)))).map(drop)
    }
}

/// One thread of the pool, while it serves.
struct Thread<'a> {
    server: &'a WsgiServer,
    pool: Arc<Pool>,
    environs: EnvironBuilder,
    /// `wsgi.input` of requests without a body. It is the same for all: there is nothing in it that could be changed.
    empty_input: Py<WsgiInput>,
    worker: Worker,
}

impl Thread<'_> {
    fn serve(&mut self, py: Python<'_>) -> PyResult<()> {
        loop {
            while let Some(job) = self.pool.take(&mut self.worker) {
                self.run(py, job)?;
                self.do_chores(py)?;
            }
            self.do_chores(py)?;
            if !py.detach(|| self.pool.wait()) {
                return Ok(());
            }
        }
    }

    /// What the loop left for somebody who is attached.
    fn do_chores(&mut self, py: Python<'_>) -> PyResult<()> {
        owners::release(py, &mut self.pool.take_released());
        if self.worker.has_complaints {
            self.pool.take_complaints().iter().try_for_each(|text| self.server.report(py, text, None))?;
        }
        Ok(())
    }

    /// One request, from its environ to the application's last word. An error is one of reporting errors.
    fn run(&mut self, py: Python<'_>, mut job: Box<Job>) -> PyResult<()> {
        let conversation = (!job.is_body_whole).then(|| Arc::new(Conversation::new(job.token)));
        let input = self.input(py, &mut job, conversation.clone())?;
        let environ = match self.environs.build(py, &job, input.as_any()) {
            Ok(environ) => environ,
            Err(error) => return self.see_failure(py, error, Outcome::Failed(Failure::Unanswered(job.token))),
        };
        let response = Bound::new(py, StartResponse::new(self.pool.clone(), job, conversation))?;
        let context = copy_context(py, &self.server.context)?;
        let served = in_context(py, &context, || {
            let start_response = response.getattr(intern!(py, "start_response"))?;
            let result = self.server.app.bind(py).call1((environ, start_response))?;
            response.get().respond(&result, &mut self.worker)
        });
        input.get().end(py);
        let outcome = response.get().end(served.is_err())?;
        match served {
            Ok(()) => Ok(()),
            Err(error) => self.see_failure(py, error, outcome),
        }
    }

    fn input<'py>(
        &self,
        py: Python<'py>,
        job: &mut Job,
        conversation: Option<Arc<Conversation>>,
    ) -> PyResult<Bound<'py, WsgiInput>> {
        let (spooled, body) = (job.spooled.take(), std::mem::take(&mut job.body));
        if spooled.is_none() && body.is_empty() && conversation.is_none() {
            return Ok(self.empty_input.bind(py).clone());
        }
        let rest = conversation.map(|conversation| Source { pool: self.pool.clone(), conversation });
        Bound::new(py, WsgiInput::new(spooled, body, rest))
    }

    fn see_failure(&self, py: Python<'_>, error: PyErr, outcome: Outcome) -> PyResult<()> {
        if tells_of_disconnect(py, &error) {
            return Ok(());
        }
        if let Outcome::Failed(failure) = outcome {
            self.pool.send(Message::Fail(failure));
        }
        self.server.report(py, "Exception in WSGI application", Some(error))
    }
}
