"""Logging in the look that users of ASGI servers know: `INFO:     message`, coloured on a terminal.

Two loggers, `penstock.error` (what the server has to say) on stderr and `penstock.access` (a line per request) on
stdout, both below `penstock`. The root logger is never touched, and a logger that the application has given handlers
of its own keeps exactly those.

Lines of the access log are made and written by the binary, without the interpreter. If somebody has given its logger a
handler of another kind, they come through a pipe instead, and a thread makes records of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, TextIO

from .config import ServerConfig
from .errors import ConfigError

TRACE = 5
LEVELS = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
logging.addLevelName(TRACE, "TRACE")

error_logger = logging.getLogger("penstock.error")
access_logger = logging.getLogger("penstock.access")

_RESET = "\x1b[0m"
_LEVEL_COLOURS = {
    TRACE: "\x1b[34m",
    logging.DEBUG: "\x1b[36m",
    logging.INFO: "\x1b[32m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[91m",
}
_STATUS_COLOURS = {1: "\x1b[97m", 2: "\x1b[32m", 3: "\x1b[33m", 4: "\x1b[31m", 5: "\x1b[91m"}
_BOLD = "\x1b[1m"
_PREFIX_WIDTH = len("CRITICAL:")


class StandardStreamHandler(logging.Handler):
    """Writes to what `sys.stderr` or `sys.stdout` is at that moment, so that a replaced stream is honoured."""

    def __init__(self, stream_name: Literal["stderr", "stdout"]) -> None:
        super().__init__()
        self._stream_name: Literal["stderr", "stdout"] = stream_name

    @property
    def stream(self) -> TextIO | None:
        return getattr(sys, self._stream_name)  # None under pythonw and some daemons.

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.stream is not None:
                self.stream.write(self.format(record) + "\n")
                self.stream.flush()
        except Exception:
            self.handleError(record)


class LevelFormatter(logging.Formatter):
    """`INFO:     message`, with the level in its colour if asked for, or if `use_colors` is None, on a terminal.

    A format of one's own may hold `%(levelprefix)s`, as one for uvicorn's DefaultFormatter does.
    """

    default_format = "%(levelprefix)s %(message)s"

    def __init__(
        self,
        fmt: str | None = None,
        datefmt: str | None = None,
        style: Literal["%", "{", "$"] = "%",
        use_colors: bool | None = None,
    ) -> None:
        super().__init__(fmt or self.default_format, datefmt, style)
        self.coloured = is_colourful(sys.stdout) if use_colors is None else use_colors

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.__dict__["levelprefix"] = self._prefix(record)
        return super().formatMessage(record)

    def _prefix(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname}:"
        padding = " " * (_PREFIX_WIDTH - len(level))
        if self.coloured:
            level = f"{_LEVEL_COLOURS.get(record.levelno, '')}{record.levelname}{_RESET}:"
        return level + padding


class AccessFormatter(LevelFormatter):
    """`INFO:     127.0.0.1:52000 - "GET / HTTP/1.1" 200 OK`, out of a record made by `log_access`.

    A format of one's own may hold `client_addr`, `request_line` and `status_code`, too.
    """

    default_format = '%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s'

    def formatMessage(self, record: logging.LogRecord) -> str:
        args = record.args
        if not isinstance(args, tuple) or len(args) != 5:
            return f"{self._prefix(record)} {record.getMessage()}"
        client, method, path, http_version, status = args
        request, outcome = f"{method} {path} HTTP/{http_version}", _status_text(int(str(status)))
        if self.coloured:
            request = f"{_BOLD}{request}{_RESET}"
            outcome = f"{_STATUS_COLOURS.get(int(str(status)) // 100, '')}{outcome}{_RESET}"
        record.__dict__.update(client_addr=client, request_line=request, status_code=outcome)
        return super().formatMessage(record)


def log_access(client: str, method: str, path: str, http_version: str, status: int) -> None:
    """One line for one request; `path` is as the client sent it, with its query, and already printable."""
    access_logger.info('%s - "%s %s HTTP/%s" %d', client, method, path, http_version, status)


def configure(
    *,
    level: str = "info",
    access_log: bool = True,
    use_colors: bool | None = None,
    error_logfile: str | None = None,
    log_config: str | None = None,
) -> None:
    """Set up Penstock's loggers; doing so again only changes level and access log. Raises `ConfigError`."""
    if log_config is not None:
        from .log_config import apply

        apply(log_config)
    parent = logging.getLogger("penstock")
    if log_config is None or parent.level == logging.NOTSET:
        parent.setLevel(LEVELS[level])
    _attach(error_logger, lambda: _error_handler(error_logfile, use_colors))
    _attach(access_logger, lambda: _stream_handler("stdout", AccessFormatter, use_colors))
    access_logger.disabled = not access_log


def _error_handler(path: str | None, use_colors: bool | None) -> logging.Handler:
    if path is None or path == "-":
        return _stream_handler("stderr", LevelFormatter, use_colors)
    # It looks, before each line, whether the file is still the one of that name: so it may be rotated at any time.
    from logging.handlers import WatchedFileHandler

    try:
        handler = WatchedFileHandler(path, encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"--error-logfile: cannot write {path}: {reason}") from None
    handler.setFormatter(logging.Formatter("[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"))
    return handler


def _stream_handler(
    name: Literal["stderr", "stdout"], formatter: type[LevelFormatter], use_colors: bool | None
) -> logging.Handler:
    handler = StandardStreamHandler(name)
    handler.setFormatter(formatter(use_colors=is_colourful(handler.stream) if use_colors is None else use_colors))
    return handler


@dataclass(frozen=True)
class AccessLogPlan:
    """What a line of the access log looks like, by the binary's names or as a template, and where lines go."""

    format: str
    path: str | None = None
    # Without a path.
    fd: int = -1


@contextlib.contextmanager
def access_log_plan(config: ServerConfig) -> Generator[AccessLogPlan | None]:
    """The plan of an access log that is opened within the context. None: there is to be none."""
    if not config.access_log or not access_logger.isEnabledFor(logging.INFO):
        yield None
    elif config.access_logfile not in (None, "-"):
        form = "combined" if config.access_logformat == "auto" else config.access_logformat
        yield AccessLogPlan(form, path=config.access_logfile)
    elif _has_handlers_of_its_own(access_logger):
        reading, writing = os.pipe()
        _start_reading(reading)
        try:
            yield AccessLogPlan("fields", fd=writing)
        finally:
            os.close(writing)
    else:
        yield _plan_for_standard_output(config)


def _plan_for_standard_output(config: ServerConfig) -> AccessLogPlan | None:
    try:
        fd = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return None
    form = config.access_logformat
    if form in ("auto", "uvicorn"):
        coloured = is_colourful(sys.stdout) if config.use_colors is None else config.use_colors
        form = "uvicorn-coloured" if coloured else "uvicorn"
    return AccessLogPlan(form, fd=fd)


def check_access_logfile(path: str | None) -> None:
    """Raises `ConfigError` if the file cannot be written."""
    if path is None or path == "-":
        return
    try:
        with open(path, "ab"):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"--access-logfile: cannot write {path}: {reason}") from None


def _has_handlers_of_its_own(logger: logging.Logger) -> bool:
    handlers = logger.handlers or (logger.parent.handlers if logger.parent is not None else [])
    return any(not isinstance(each, StandardStreamHandler) for each in handlers)


# Threads that make records of access log lines; each ends once the server's end of its pipe is closed.
_readers: list[threading.Thread] = []
_LAST_RECORDS_S = 2.0


def _start_reading(fd: int) -> None:
    thread = threading.Thread(target=_read_lines, args=(fd,), name="penstock-access-records", daemon=True)
    _readers.append(thread)
    thread.start()


def _read_lines(fd: int) -> None:
    with open(fd, encoding="ascii", newline="\n") as lines:
        for line in lines:
            client, method, target, version, status = line.rstrip("\n").split("\t")
            log_access(client, method, target, version, int(status))


def await_last_records() -> None:
    """The servers have ended: wait a moment until their last lines have become records."""
    while _readers:
        _readers.pop().join(_LAST_RECORDS_S)


def log_banner(addresses: Iterable[str]) -> None:
    """Say where the server listens; one line an address, such as `http://127.0.0.1:8000` or `unix:/run/app.sock`."""
    for address in addresses:
        error_logger.info("Penstock running on %s (Press CTRL+C to quit)", address)


def _attach(logger: logging.Logger, make_handler: Callable[[], logging.Handler]) -> None:
    """Give the logger a handler, unless it or `penstock` has one: ours from an earlier time, or the application's."""
    if logger.handlers or (logger.parent is not None and logger.parent.handlers):
        return
    logger.addHandler(make_handler())
    logger.propagate = False


def is_colourful(stream: Any) -> bool:
    """A terminal, unless its user wants none of it (https://no-color.org)."""
    if stream is None or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(stream.isatty())


def _status_text(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
