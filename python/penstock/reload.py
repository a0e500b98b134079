"""`--reload`: a server for development that starts anew when the application's files change.

The parent owns the listeners and watches the files; it never imports the application. A child serves on the listeners
that it inherits. While there is no child (it is being replaced, or the application cannot be imported) the listeners
stay open, and who connects waits: nobody is refused, and a browser that was reloaded too early shows the new page.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import functools
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from . import listener, logs
from .config import ServerConfig
from .errors import ConfigError, PenstockError

INCLUDED = ("*.py",)
# Directories and files that no application is made of; beside them, all whose name begins with a dot.
EXCLUDED = (
    *("__pycache__", "node_modules", "site-packages", "build", "dist"),
    *("*.py[cod]", "*~", "#*#", "*.sw[a-z]", "*.tmp", "4913"),
)
# A connection that will not end, such as a stream of events, must not keep the new code waiting.
_GRACE_S = 1.0
# For the application's own shutdown, on top.
_SHUTDOWN_S = 10.0
_POLL_MS = 100
_MAX_GATHERING_MS = 2000
_MAX_NAMES_TOLD = 3
_CHILD = "from penstock.reload import serve_child; serve_child({})"


def serve_reloading(app: str | Callable[..., Any], config: ServerConfig) -> None:
    """Serve until stopped, and anew after each change. Raises `PenstockError` for what no change puts right."""
    if not isinstance(app, str):
        raise ConfigError("--reload: expected the application as module:attribute, since it is imported anew each time")
    watch = _watch_function()
    files = WatchedFiles(config)
    listeners = listener.open_listeners(config)
    try:
        Reloader(app, config, listeners).run(functools.partial(_changes, watch, files, config.reload_delay_s))
    finally:
        listener.close_listeners(listeners)


def _watch_function() -> Callable[..., Iterator[set[tuple[Any, str]]]]:
    try:
        from watchfiles import watch
    except ImportError:
        raise ConfigError("--reload needs watchfiles: pip install 'penstock[standard]'") from None
    return watch


def _changes(
    watch: Callable[..., Iterator[set[tuple[Any, str]]]],
    files: WatchedFiles,
    delay_s: float,
    stop: threading.Event,
) -> Iterator[list[str]]:
    """The files of each change, when no more have changed for a while; now and then none. Ends with `stop`."""
    found = watch(
        *files.roots,
        watch_filter=lambda _, path: files.matter(path),
        debounce=max(_MAX_GATHERING_MS, int(delay_s * 1000)),
        step=int(delay_s * 1000),
        rust_timeout=_POLL_MS,
        yield_on_timeout=True,
        stop_event=stop,
        raise_interrupt=False,
    )
    try:
        for changes in found:
            yield sorted({path for _, path in changes})
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"--reload: cannot watch {', '.join(files.roots)}: {reason}; see --reload-dir") from None


class WatchedFiles:
    """Which files the application is made of, as far as one can tell."""

    def __init__(self, config: ServerConfig) -> None:
        self._included = (*INCLUDED, *config.reload_include)
        self._excluded = (*EXCLUDED, *config.reload_exclude)
        # An include that is a path is watched wherever it is.
        self._files = {os.path.abspath(each) for each in config.reload_include if os.path.isfile(each)}
        self._directories = [os.path.realpath(each) for each in config.reload_dir or (config.app_dir,)]
        for written, directory in zip(config.reload_dir, self._directories, strict=False):
            if not os.path.isdir(directory):
                raise ConfigError(f"--reload-dir: expected a directory, got {written!r}, which is none")
        self._is_environment = functools.lru_cache(4096)(lambda path: os.path.exists(os.path.join(path, "pyvenv.cfg")))

    @property
    def roots(self) -> list[str]:
        return [*self._directories, *self._files]

    def matter(self, path: str) -> bool:
        """Whether a change of this file is one of the application."""
        if path in self._files:
            return True
        root = next((each for each in self._directories if path.startswith(each.rstrip(os.sep) + os.sep)), None)
        if root is None:
            return False
        relative = Path(path).relative_to(root)
        return (
            any(_matches(relative, pattern) for pattern in self._included)
            and not any(part.startswith(".") for part in relative.parts)
            and not any(_matches(each, pattern) for each in _with_parents(relative) for pattern in self._excluded)
            and not any(self._is_environment(os.path.join(root, each)) for each in relative.parents)
        )


def _matches(path: Path, pattern: str) -> bool:
    return fnmatch.fnmatch(path.name, pattern) or fnmatch.fnmatch(str(path), pattern.removeprefix("./"))


def _with_parents(path: Path) -> Iterator[Path]:
    yield path
    yield from (each for each in path.parents if each.name)


class Reloader:
    """The parent: its child is replaced after each change, and waited for at the end."""

    def __init__(self, app: str, config: ServerConfig, listeners: list[socket.socket]) -> None:
        self._listeners = listeners
        fds = tuple(f"fd://{each.fileno()}" for each in listeners)
        defaults = ServerConfig()
        self._task = (
            app,
            dataclasses.replace(
                config,
                reload=False,
                chdir=None,
                bind=fds,
                **{name: getattr(defaults, name) for name in ("host", "port", "uds", "fd", "workers")},
                timeout_graceful_shutdown_s=min(config.timeout_graceful_shutdown_s, _GRACE_S),
            ),
        )
        self._stop = threading.Event()
        self._child: Child | None = None
        self._has_told_end = False

    def run(self, changes: Callable[[threading.Event], Iterable[list[str]]]) -> None:
        with self._stopping_on_signals():
            logs.error_logger.info("Started reloader process [%d]", os.getpid())
            try:
                for changed in changes(self._stop):
                    self._attend(changed)
            finally:
                if self._child is not None:
                    self._child.stop()
                logs.error_logger.info("Stopped reloader process [%d]", os.getpid())

    def _attend(self, changed: list[str]) -> None:
        """The watch has begun before the first child reads a file: no change is missed."""
        if self._stop.is_set():
            return
        if self._child is None:
            self._start_child()
        elif changed:
            logs.error_logger.warning("%s changed: restarting", _named(changed))
            self._child.stop()
            self._start_child()
        else:
            self._tell_of_its_end(self._child)

    def _start_child(self) -> None:
        self._has_told_end = False
        self._child = Child(self._task, [each.fileno() for each in self._listeners])

    def _tell_of_its_end(self, child: Child) -> None:
        if child.has_ended() and not self._has_told_end:
            self._has_told_end = True
            logs.error_logger.info("Waiting for a file to change")

    @contextlib.contextmanager
    def _stopping_on_signals(self) -> Generator[None]:
        def stop(number: int, _: object) -> None:
            self._stop.set()
            # A terminal has sent its interrupt to the child as well, and a second one would hurry it.
            if self._child is not None and not (number == signal.SIGINT and sys.stdin and sys.stdin.isatty()):
                self._child.interrupt()

        before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Child:
    """A process that serves. It is told what to do through a pipe, and ends when that pipe's other end is closed."""

    def __init__(self, task: tuple[str, ServerConfig], fds: list[int]) -> None:
        reading, self._writing = os.pipe()
        interpreter = [sys.executable, *subprocess._args_from_interpreter_flags()]  # pyright: ignore[reportAttributeAccessIssue]
        try:
            self._process = subprocess.Popen(
                [*interpreter, "-c", _CHILD.format(reading)], pass_fds=[*fds, reading], close_fds=True
            )
        finally:
            os.close(reading)
        self._was_interrupted = False
        with contextlib.suppress(BrokenPipeError):
            os.write(self._writing, pickle.dumps((sys.path, task)))

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def interrupt(self) -> None:
        if not self._was_interrupted:
            self._was_interrupted = True
            self._process.terminate()

    def stop(self) -> None:
        """Have it end, and wait for that; not longer than is sensible."""
        self.interrupt()
        try:
            self._process.wait(_GRACE_S + _SHUTDOWN_S)
        except subprocess.TimeoutExpired:
            logs.error_logger.warning("Killing process [%d], which does not end", self._process.pid)
            self._process.kill()
            self._process.wait()
        os.close(self._writing)


def serve_child(fd: int) -> None:
    """What the child runs."""
    # A configuration is far smaller than a pipe, and there in one piece.
    sys.path[:], (app, config) = pickle.loads(os.read(fd, 1 << 20))
    threading.Thread(target=_end_with_parent, args=(fd,), daemon=True).start()
    from .runner import start

    try:
        start(app, config)
    except PenstockError as error:
        if error.details:
            print(error.details, file=sys.stderr)
        logs.error_logger.error("%s", error)
        sys.exit(error.exit_status)


def _end_with_parent(fd: int) -> None:
    if os.read(fd, 1) == b"":
        os.kill(os.getpid(), signal.SIGTERM)


def _named(paths: list[str]) -> str:
    names = [os.path.relpath(each) for each in paths[:_MAX_NAMES_TOLD]]
    more = len(paths) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
