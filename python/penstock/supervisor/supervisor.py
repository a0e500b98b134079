"""The supervisor's loop: signals, news of the workers and the clock come in; starts, messages and kills go out.

It owns the listeners, the scoreboard and the workers' processes. All that it does is done in `_act`, once a turn, from
what `plan` decides; what happens between only changes what is known.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import random
import selectors
import signal
import socket
import threading
import time
from typing import Any, NoReturn

from .. import _core, app_metrics, errors, identity, logs, systemd
from ..config import ServerConfig
from ..errors import AddressInUse, ConfigError, PenstockError
from ..metrics import SupervisedMetrics
from ..surveys import Surveys
from . import worker
from .channel import Channel
from .control import Answer, ControlSocket
from .cpus import usable_cpus
from .plan import BackOff, Stage, most_requests, plan
from .process import Process, describe_exit, fork
from .seats import Seats
from .trade import HttpTrade, Trade
from .upgrade import Inheritance, Successor

# Room for several generations at once: the ones before are still answering what they hold.
_SLOTS_PER_WORKER = 4
_SPARE_SLOTS = 16
# Between stacks going to the log and the end of whoever wrote them.
_STACKS_GRACE_S = 0.5
# What a worker may take beyond the graceful time: cancelling requests, the application's own shutdown.
_LEAVING_GRACE_S = 10.0
# How often limits and heartbeats are looked at.
_LOOK_EVERY_S = 0.5
_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCHLD,
)


class Supervisor:
    """Runs workers until it is told to stop."""

    def __init__(self, app: Any, config: ServerConfig, trade: Trade | None = None) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise ConfigError("--workers: a supervisor handles signals, and so runs in the main thread alone")
        self.app, self.config, self._trade = app, config, trade or HttpTrade()
        self.wanted = usable_cpus() if config.workers == "auto" else config.workers or 1
        self.generation = self._last_generation = 1
        self.processes: list[Process] = []
        self._slots = self.wanted * _SLOTS_PER_WORKER + _SPARE_SLOTS
        self._scoreboard = _core.Scoreboard(self._slots)
        self._private: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self._back_off = BackOff()
        self._start_not_before_s = 0.0
        self._look_at_s = 0.0
        self._stops = 0
        self._is_end_of_listeners = False
        self._successor: Successor | None = None
        self._inheritance: Inheritance | None = None
        self._life_told_s = 0.0
        self._has_started = False
        self._reload_again = self._is_telling_reload = self._upgrade_when_started = False
        self._error: PenstockError | None = None
        self._control: ControlSocket | None = None
        self._metrics: SupervisedMetrics | None = None
        self._surveys = Surveys(self._survey_workers)
        # Those who asked for what is not done yet.
        self._waiting: list[Answer] = []

    # From start to end

    def run(self) -> None:
        """Raises what kept the first workers from starting."""
        identity.check(self.config)
        self._inheritance = Inheritance.take()
        self._seats = Seats(self._trade, self.config, self._inheritance.seats if self._inheritance else None)
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            self._names = stack
            if self.config.metrics_bind is not None:
                # Before there are workers, or an application that is theirs.
                stack.enter_context(app_metrics.shared_by_workers(self.config))
            if self._inheritance is None:
                self._take_names()
            if self.config.preload:
                self.app = self._trade.load(self.app, self.config)
            # What is there by now is every worker's: the collector need not touch, and so copy, its pages.
            gc.collect()
            gc.freeze()
            self._turn_until_over()
        if self._error is not None:
            raise self._error

    def _take_names(self) -> None:
        """What others find this server by."""
        predecessor = self._inheritance.pid if self._inheritance else None
        self._names.enter_context(identity.pid_file(self.config.pid, instead_of=predecessor))
        if self.config.control is not None:
            path, takes_over = self.config.control, predecessor is not None
            self._control = ControlSocket(path, self._selector, self._control_asked, takes_over=takes_over)
        if self.config.metrics_bind is not None:
            self._show_metrics()

    def _show_metrics(self) -> None:
        """A predecessor has the place until it knows that this one is ready: then again, at the next look."""
        try:
            self._metrics = SupervisedMetrics(
                self.config, self._scoreboard, self._seats.addresses, self._trade.settings, self._surveys.ask
            )
        except AddressInUse:
            if self._inheritance is None:
                raise
        else:
            self._selector.register(self._metrics, selectors.EVENT_READ, self._metrics.turn)
            logs.error_logger.debug("Metrics are shown")

    def _close(self) -> None:
        self._seats.close()
        if self._control is not None:
            self._control.close()
        self._end_metrics()
        self._selector.close()

    def _end_metrics(self) -> None:
        if self._metrics is not None:
            self._selector.unregister(self._metrics)
            self._metrics.close()
            self._metrics = None

    def _turn_until_over(self) -> None:
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        news, wake_up = socket.socketpair()
        news.setblocking(False)
        wake_up.setblocking(False)
        former_fd = signal.set_wakeup_fd(wake_up.fileno(), warn_on_full_buffer=False)
        self._selector.register(news, selectors.EVENT_READ, lambda: self._hear_signals(news))
        self._private = [news, wake_up]
        try:
            for number in _SIGNALS:
                signal.signal(number, lambda *_: None)
            logs.error_logger.info("Started supervisor process [%d]", os.getpid())
            self._act()
            while self.processes or not self._stops:
                for key, _ in self._selector.select(self._patience()):
                    key.data()
                self._act()
            logs.error_logger.info("Finished supervisor process [%d]", os.getpid())
        finally:
            self._kill_all()
            signal.set_wakeup_fd(former_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            news.close()
            wake_up.close()

    def _kill_all(self) -> None:
        """Only if something here failed: leave nobody behind."""
        for process in self.processes:
            process.signal(signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, 0)

    # What happens

    def _hear_signals(self, news: socket.socket) -> None:
        for number in news.recv(4096):
            match number:
                case signal.SIGTERM | signal.SIGINT:
                    self.stop()
                case signal.SIGQUIT:
                    self.stop()
                    self.stop()
                case signal.SIGHUP:
                    self.reload()
                case signal.SIGUSR2:
                    self.upgrade()
                case signal.SIGUSR1:
                    for process in self.processes:
                        process.signal(signal.SIGUSR1)  # They have the access log.
                case signal.SIGTTIN:
                    self.scale(self.wanted + 1)
                case signal.SIGTTOU:
                    self.scale(max(1, self.wanted - 1))
                case _:
                    pass  # SIGCHLD: the dead are looked for in every turn.

    def _hear_worker(self, process: Process) -> None:
        for message in process.channel.receive():
            if message is None:
                self._selector.unregister(process.channel.end)
            elif "failed" in message:
                process.failure = message["failed"]
            elif "survey" in message:
                self._surveys.heard(str(process.slot), message["survey"]["number"], message["survey"]["found"])
            elif "ready" in message and process.stage is Stage.STARTING:
                process.stage, process.ready_s = Stage.READY, time.monotonic()
                process.ticked_s = process.ready_s

    # What can be asked

    def stop(self) -> None:
        """Stop gracefully; asked again, without waiting for requests under way."""
        self._stops += 1
        if self._stops == 1:
            logs.error_logger.info("Shutting down")
            self._answer_waiting({"error": "the server is stopping"})
            systemd.stopping()
            # Ours first: the last worker that leaves takes those who wait.
            self._is_end_of_listeners = self._seats.end_here
            self._seats.close()
        for process in self.processes:
            self._stop_one(process)

    def _stop_one(self, process: Process) -> None:
        was_ready, process.stage = process.stage is Stage.READY, Stage.LEAVING
        process.kill_at_s = process.kill_at_s or self._end_of_grace()
        if was_ready:
            process.channel.send(stop={"is_last": self._is_end_of_listeners})
        else:
            process.signal(signal.SIGTERM)

    def reload(self) -> None:
        """Replace all workers by new ones."""
        if self._stops:
            return
        if self._is_reloading or not self._has_started:
            # What has been started since may have read what has been changed since.
            self._reload_again = True
            return
        logs.error_logger.info("Reloading: starting %d new workers", self.wanted)
        systemd.reloading()
        self._is_telling_reload = True
        self._last_generation += 1
        self.generation = self._last_generation
        self._start_not_before_s = 0.0

    def upgrade(self) -> None:
        """Have a new supervisor take over, with the listeners."""
        if self._stops or self._successor is not None:
            logs.error_logger.warning("Not starting another supervisor while this one stops or is replaced")
            return
        if not self._has_started:
            self._upgrade_when_started = True
            return
        self._successor = Successor(self._seats.all)
        self._selector.register(self._successor.news, selectors.EVENT_READ, self._hear_successor)

    def _hear_successor(self) -> None:
        successor = self._successor
        assert successor is not None
        self._selector.unregister(successor.news)
        if successor.has_taken_over():
            logs.error_logger.info("Supervisor [%d] has taken over: leaving", successor.process.pid)
            self._leave_to_successor()
            return
        successor.process.wait()
        self._successor = None
        logs.error_logger.error("The new supervisor did not start, and this one goes on: see the log above")

    def _leave_to_successor(self) -> None:
        """As at a reload: with patience, since others serve already."""
        self._stops = 1
        self._end_metrics()
        self._seats.give_away()
        self._seats.close()
        for process in self.processes:
            if process.is_here:
                self._retire(process)

    def scale(self, wanted: int) -> str | None:
        """Have as many workers. Returns why not, if so."""
        most = self._slots // _SLOTS_PER_WORKER
        if wanted > most:
            refusal = f"not scaling to {wanted} workers: this supervisor has room for {most}"
            logs.error_logger.warning("%s", refusal)
            return refusal
        if not self._stops and wanted != self.wanted:
            logs.error_logger.info("Scaling from %d to %d workers", self.wanted, wanted)
            self.wanted = wanted
        return None

    def _control_asked(self, request: dict[str, Any], answer: Answer) -> None:
        """Each is answered when it is done."""
        match request:
            case {"do": "status"}:
                answer(self.status())
            case {"do": "connections", "query": str(query)}:
                self._answer_survey(query, answer)
            case {"do": "stop"}:
                self.stop()
                answer({})
            case _ if self._stops:
                answer({"error": "the server is stopping"})
            case {"do": "reload"}:
                self.reload()
                self._waiting.append(answer)
            case {"do": "scale", "workers": int(workers)} if workers > 0:
                refusal = self.scale(workers)
                if refusal is None:
                    self._waiting.append(answer)
                else:
                    answer({"error": refusal})
            case _:
                answer({"error": "expected status, connections, reload, scale with a number of workers, or stop"})

    def _answer_survey(self, query: str, answer: Answer) -> None:
        try:
            wanted = _core.survey_query(query)
        except ValueError as error:
            answer({"error": str(error)})
            return
        if not self._surveys.ask(wanted, answer):
            answer({"error": "too many ask for the connections at once: ask again in a while"})

    def _survey_workers(self, query: str, number: int, but: set[str]) -> list[str]:
        """Ask them of their connections; by the name that metrics have for each."""
        asked = [each for each in self.processes if each.stage is not Stage.STARTING and str(each.slot) not in but]
        for process in asked:
            process.channel.send(survey={"query": query, "number": number})
        return [str(process.slot) for process in asked]

    def _answer_waiting(self, answer: dict[str, Any]) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each(answer)

    def status(self) -> dict[str, Any]:
        """How the supervisor and its workers are, as `penstock ctl status --json` shows it."""
        return {
            "pid": os.getpid(),
            "wanted": self.wanted,
            "generation": self.generation,
            "accept": self.config.accept,
            "listeners": self._seats.addresses,
            "workers": [self._status_of(process) for process in self.processes],
        }

    def _status_of(self, process: Process) -> dict[str, Any]:
        figures = self._scoreboard.read(process.slot)
        return {
            "pid": process.pid,
            "generation": process.generation,
            "stage": process.stage.value,
            "age_s": round(time.monotonic() - process.began_s, 1),
            "connections": figures["connections"],
            "in_progress": figures["in_progress"],
            "served": figures["served"],
            "resident_mib": round(process.resident_bytes() / 2**20, 1),
        }

    # What is done about it

    @property
    def _is_reloading(self) -> bool:
        return any(process.is_here and process.generation != self.generation for process in self.processes)

    def _act(self) -> None:
        now_s = time.monotonic()
        self._bury(now_s)
        self._tell_life(now_s)
        self._surveys.look(now_s)
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + _LOOK_EVERY_S
            self._look_at_limits(now_s)
            self._look_for_hung(now_s)
            self._look_after_metrics()
        self._kill_overdue(now_s)
        if self._stops:
            return
        steps = plan(self.processes, self.wanted, self.generation)
        for process in steps.retire:
            assert isinstance(process, Process)
            self._retire(process)
        if now_s >= self._start_not_before_s:
            self._start_not_before_s = 0.0  # What is past is nothing to wake up for.
            for _ in range(steps.start):
                self._start(now_s)
        self._tell_progress(is_whole=steps.start == 0)

    def _tell_progress(self, is_whole: bool) -> None:
        ready = [process for process in self.processes if process.stage is Stage.READY]
        if not is_whole or len(ready) < self.wanted:
            return
        if not self._has_started:
            self._has_started = True
            logs.log_banner(self._seats.addresses)
            if self._inheritance is not None:
                self._take_names()
                self._inheritance.tell_ready()
            systemd.ready()
            if self._upgrade_when_started:
                self.upgrade()
        if self._reload_again and not self._is_reloading:
            self._reload_again = False
            self.reload()
        elif not self._is_reloading and len(ready) == self.wanted:
            if self._is_telling_reload:
                self._is_telling_reload = False
                systemd.ready()
            self._answer_waiting({"workers": self.wanted, "generation": self.generation})

    def _patience(self) -> float:
        """How long nothing can be to do."""
        look_at_s = min(self._look_at_s, self._life_told_s + (systemd.watchdog_interval_s() or math.inf) / 2)
        until = [look_at_s, *(process.kill_at_s for process in self.processes if process.kill_at_s)]
        if self._start_not_before_s and not self._stops:
            until.append(self._start_not_before_s)
        if self._surveys.deadline_s is not None:
            until.append(self._surveys.deadline_s)
        return max(0.0, min(until) - time.monotonic())

    # Starting

    def _start(self, now_s: float) -> None:
        taken = {process.slot for process in self.processes}
        slot = next((slot for slot in range(self._slots) if slot not in taken), None)
        if slot is None:
            self._make_room()
            return
        ours, theirs = Channel.pair()
        seat = self._free_seat()
        listeners = self._seats.of(seat)
        place = worker.Place(
            self._scoreboard, slot, self.generation, theirs, self._trade, self.app, listeners, self.config
        )
        pid = fork(lambda: self._be_worker(place, ours))
        theirs.close()
        process = Process(
            generation=self.generation,
            pid=pid,
            slot=slot,
            seat=seat,
            channel=ours,
            began_s=now_s,
            luck=random.random(),
        )
        self.processes.append(process)
        self._selector.register(ours.end, selectors.EVENT_READ, lambda: self._hear_worker(process))

    def _free_seat(self) -> int:
        """The first that no worker of this generation has that is to stay."""
        fresh = (each for each in self.processes if each.is_here and each.generation == self.generation)
        taken = {process.seat for process in fresh if process.is_due is None}
        return next(seat for seat in range(self._slots) if seat not in taken)

    def _be_worker(self, place: worker.Place, ours: Channel) -> NoReturn:
        """In the child: close what is the supervisor's alone. Never `shutdown` it: it is shared."""
        self._selector.close()
        if self._control is not None:
            self._control.close_descriptors()
        if self._metrics is not None:
            self._metrics.abandon()
        succession = [each.news for each in (self._successor, self._inheritance) if each is not None]
        for each in (*self._private, *succession, ours, *(process.channel for process in self.processes)):
            each.close()
        worker.run(place)

    # Leaving

    def _end_of_grace(self) -> float:
        return time.monotonic() + self.config.timeout_graceful_shutdown_s + _LEAVING_GRACE_S

    def _retire(self, process: Process) -> None:
        if process.is_due is not None:
            logs.error_logger.info("Retiring worker [%d]: %s", process.pid, process.is_due)
        if process.stage is Stage.STARTING:
            self._stop_one(process)
            return
        process.stage, process.kill_at_s = Stage.LEAVING, self._end_of_grace()
        is_last = self._seats.are_own and process.seat >= self.wanted and not self._seats.are_given_away
        process.channel.send(retire={"sees_off": is_last})
        if is_last:
            self._seats.give_up(process.seat)

    def _make_room(self) -> None:
        """Every slot is taken by a worker that leaves: the oldest has had the longest time for it."""
        leaving = next((process for process in self.processes if not process.is_here), None)
        assert leaving is not None, "there are more slots than workers"
        logs.error_logger.warning("Hurrying worker [%d]: too many leave at once", leaving.pid)
        leaving.signal(signal.SIGTERM)
        leaving.signal(signal.SIGTERM)

    def _bury(self, now_s: float) -> None:
        for process in list(self.processes):
            status = process.reap()
            if status is None:
                continue
            self._hear_last_words(process)
            self.processes.remove(process)
            self._surveys.gone(str(process.slot))
            self._scoreboard.release(process.slot)
            app_metrics.bury(process.pid)
            if process.is_here:
                self._mourn(process, status, now_s)

    def _hear_last_words(self, process: Process) -> None:
        key = self._selector.get_map().get(process.channel.end)
        if key is not None:
            self._hear_worker(process)
            if process.channel.end in self._selector.get_map():
                self._selector.unregister(process.channel.end)
        process.channel.close()

    def _mourn(self, process: Process, status: int, now_s: float) -> None:
        """One has died that was not told to."""
        why = describe_exit(status)
        if process.failure is not None:
            why = f"did not start: {process.failure['message']}"
        if process.stage is Stage.STARTING and not self._has_started:
            self._error = self._error or _error_of(process, why)
            if not self._stops:
                self.stop()
            return
        logs.error_logger.error("Worker [%d] %s", process.pid, why)
        if process.failure is not None and process.failure["details"]:
            logs.error_logger.error("%s", process.failure["details"])
        if process.stage is Stage.STARTING and self._is_reloading and process.generation == self.generation:
            self._give_up_reload()
            return
        delay_s = self._back_off.delay_after(process.ready_for(now_s))
        self._start_not_before_s = now_s + delay_s
        if not self._stops:
            logs.error_logger.info("Starting another worker%s", f" in {delay_s:g} s" if delay_s else "")

    def _give_up_reload(self) -> None:
        """What serves goes on."""
        former = [process for process in self.processes if process.is_here and process.generation != self.generation]
        logs.error_logger.error(
            "Reload failed: the %d workers of before go on. Put it right, and reload again", len(former)
        )
        for process in self.processes:
            if process.is_here and process.generation == self.generation:
                self._stop_one(process)
        self.generation = former[-1].generation
        self._is_telling_reload = False
        systemd.ready()  # Of the reload there is nothing more to tell than its end.
        self._answer_waiting({"error": "the new workers failed to start, and those of before go on: see the log"})

    def _kill_overdue(self, now_s: float) -> None:
        for process in self.processes:
            if process.kill_at_s is not None and now_s >= process.kill_at_s:
                if not process.is_hung:
                    logs.error_logger.warning("Killing worker [%d], which did not leave in time", process.pid)
                process.signal(signal.SIGKILL)
                process.kill_at_s = now_s + _LEAVING_GRACE_S

    # Watching

    def _look_after_metrics(self) -> None:
        if self._metrics is not None:
            self._metrics.turn()  # Deadlines of its connections.
        elif self.config.metrics_bind is not None and self._has_started and not self._stops:
            self._show_metrics()

    def _look_for_hung(self, now_s: float) -> None:
        """By heartbeat: every worker's loop comes round, busy or not. One that starts is left alone."""
        timeout_s = self.config.timeout_worker_s or math.inf
        for process in self.processes:
            if process.ready_s is None or process.is_hung:
                continue
            ticks = self._scoreboard.read(process.slot)["ticks"]
            if ticks != process.ticks:
                process.ticks, process.ticked_s = ticks, now_s
            elif now_s - process.ticked_s > timeout_s:
                self._give_up_hung(process, timeout_s, now_s)

    def _give_up_hung(self, process: Process, timeout_s: float, now_s: float) -> None:
        logs.error_logger.error(
            "Worker [%d] has stood still for %g s (--timeout-worker): killing it. Its stacks:", process.pid, timeout_s
        )
        process.is_hung = True
        process.signal(worker.STACKS_SIGNAL)
        process.kill_at_s = now_s + _STACKS_GRACE_S

    def _tell_life(self, now_s: float) -> None:
        """This loop comes round; whether the workers' do is looked at here, and systemd need not."""
        interval_s = systemd.watchdog_interval_s()
        if interval_s is not None and now_s - self._life_told_s >= interval_s / 2:
            self._life_told_s = now_s
            systemd.alive()

    def _look_at_limits(self, now_s: float) -> None:
        for process in self.processes:
            if process.stage is Stage.READY and process.is_due is None:
                process.is_due = self._reason_to_go(process, now_s)

    def _reason_to_go(self, process: Process, now_s: float) -> str | None:
        config = self.config
        if config.limit_max_requests:
            most = most_requests(config.limit_max_requests, config.limit_max_requests_jitter, process.luck)
            served = self._scoreboard.read(process.slot)["served"]
            if served >= most:
                return f"it has answered {served} requests (--limit-max-requests)"
        age_s = now_s - process.began_s
        if config.worker_lifetime_s and age_s >= config.worker_lifetime_s * (0.9 + 0.2 * process.luck):
            return f"it has lived for {age_s:.0f} s (--worker-lifetime)"
        if config.worker_max_rss:
            resident = process.resident_bytes()
            if resident > config.worker_max_rss:
                return f"its resident memory has {resident} bytes (--worker-max-rss)"
        return None


def _error_of(process: Process, why: str) -> PenstockError:
    """What kept a worker from starting, as if it had happened here."""
    if process.failure is None:
        return errors.StartupError(f"worker [{process.pid}] {why} while it started")
    kind = getattr(errors, str(process.failure["kind"]), PenstockError)
    details = process.failure["details"]
    # Its message is whole already: some kinds make it of parts.
    error = kind.__new__(kind)
    PenstockError.__init__(error, str(process.failure["message"]), details=None if details is None else str(details))
    return error
