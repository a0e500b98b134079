"""Logging looks as users of ASGI servers know it, and leaves the application's own alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from penstock import logs

LOGGERS = ("penstock", "penstock.error", "penstock.access")


@pytest.fixture(autouse=True)
def fresh_loggers() -> Iterator[None]:
    """The loggers as an import leaves them, before and after."""

    def reset() -> None:
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate, logger.disabled = True, False
            logger.setLevel(logging.NOTSET)

    reset()
    yield
    reset()


def test_a_message_has_its_level_in_a_column_of_its_own(capsys: pytest.CaptureFixture[str]):
    logs.configure()
    logs.error_logger.info("started")
    logs.error_logger.critical("stopped")
    assert capsys.readouterr().err == "INFO:     started\nCRITICAL: stopped\n"


def test_a_request_is_one_line_on_stdout(capsys: pytest.CaptureFixture[str]):
    logs.configure()
    logs.log_access("127.0.0.1:52000", "GET", "/a?b=%20c", "1.1", 404)
    logs.log_access("", "GET", "/", "1.1", 799)
    out, err = capsys.readouterr()
    assert (
        out == 'INFO:     127.0.0.1:52000 - "GET /a?b=%20c HTTP/1.1" 404 Not Found\nINFO:      - "GET / HTTP/1.1" 799\n'
    )
    assert err == ""


def test_configuring_twice_prints_nothing_twice(capsys: pytest.CaptureFixture[str]):
    logs.configure()
    logs.configure(level="debug")
    logs.error_logger.debug("once")
    assert capsys.readouterr().err == "DEBUG:    once\n"


@pytest.mark.parametrize(("level", "printed"), [("trace", 3), ("debug", 2), ("info", 1), ("critical", 0)])
def test_the_level_says_what_is_printed(level: str, printed: int, capsys: pytest.CaptureFixture[str]):
    logs.configure(level=level)
    for number in (logs.TRACE, logging.DEBUG, logging.INFO):
        logs.error_logger.log(number, "x")
    assert len(capsys.readouterr().err.splitlines()) == printed


def test_the_access_log_can_be_silenced_and_restored(capsys: pytest.CaptureFixture[str]):
    logs.configure(access_log=False)
    logs.log_access("1.2.3.4:5", "GET", "/", "1.1", 200)
    assert capsys.readouterr().out == ""
    logs.configure(access_log=True)
    logs.log_access("1.2.3.4:5", "GET", "/", "1.1", 200)
    assert capsys.readouterr().out.endswith("200 OK\n")


def test_the_root_logger_is_neither_changed_nor_told(caplog: pytest.LogCaptureFixture):
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    logs.configure()
    logs.error_logger.error("not for the root")
    assert (root.handlers, root.level) == before
    assert caplog.records == []


def test_handlers_of_the_application_s_own_stay_the_only_ones(capsys: pytest.CaptureFixture[str]):
    records: list[logging.LogRecord] = []

    class Own(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logging.getLogger("penstock").addHandler(Own())
    logs.configure()
    logs.error_logger.info("mine")
    logs.log_access("1.2.3.4:5", "GET", "/", "1.1", 200)
    assert [record.name for record in records] == ["penstock.error", "penstock.access"]
    assert capsys.readouterr() == ("", "")


def test_a_traceback_follows_its_message(capsys: pytest.CaptureFixture[str]):
    logs.configure()
    try:
        raise ValueError("because")
    except ValueError:
        logs.error_logger.exception("failed")
    printed = capsys.readouterr().err
    assert printed.startswith("ERROR:    failed\nTraceback (most recent call last):\n")
    assert printed.endswith("ValueError: because\n")


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch):
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("sys.stdout", terminal)
    logs.configure()
    logs.error_logger.info("green")
    logs.log_access("1.2.3.4:5", "GET", "/", "1.1", 500)
    assert terminal.getvalue() == (
        "\x1b[32mINFO\x1b[0m:     green\n"
        '\x1b[32mINFO\x1b[0m:     1.2.3.4:5 - "\x1b[1mGET / HTTP/1.1\x1b[0m" \x1b[91m500 Internal Server Error\x1b[0m\n'
    )


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_s_user_may_want_no_colours(variable: str, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    logs.configure()
    formatter = logs.error_logger.handlers[0].formatter
    assert isinstance(formatter, logs.LevelFormatter)
    assert not formatter.coloured


def test_the_banner_says_where_to_go(capsys: pytest.CaptureFixture[str]):
    logs.configure()
    logs.log_banner(["http://127.0.0.1:8000", "unix:/run/app.sock"])
    assert capsys.readouterr().err.splitlines() == [
        "INFO:     Penstock running on http://127.0.0.1:8000 (Press CTRL+C to quit)",
        "INFO:     Penstock running on unix:/run/app.sock (Press CTRL+C to quit)",
    ]
