"""Logging in the look that users of ASGI servers know: `INFO:     message`, coloured on a terminal.

Two loggers, `penstock.error` (what the server has to say) on stderr and `penstock.access` (a line per request) on
stdout, both below `penstock`. The root logger is never touched, and a logger that the application has given handlers
of its own keeps exactly those.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Literal, TextIO

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
