"""`--log-config`: Python's own logging configuration, of our loggers or of those that other servers have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import HELLO_APP, Server
from waiting import wait_until

Serve = Callable[..., Server]

HANDLER = {"class": "logging.FileHandler", "filename": "out.log", "formatter": "f"}


def dict_config(logger: str, formatter: dict[str, str]) -> str:
    return json.dumps(
        {
            "version": 1,
            "formatters": {"f": formatter},
            "handlers": {"h": HANDLER},
            "loggers": {logger: {"handlers": ["h"], "level": "INFO", "propagate": False}},
        }
    )


UVICORN = {"()": "uvicorn.logging.DefaultFormatter", "fmt": "<%(levelprefix)s> %(message)s", "use_colors": ""}
INI = """
[loggers]
keys=root,server
[handlers]
keys=h
[formatters]
keys=f
[logger_root]
handlers=
[logger_server]
qualname=gunicorn.error
handlers=h
level=INFO
propagate=0
[handler_h]
class=FileHandler
args=('out.log',)
formatter=f
[formatter_f]
format=%(name)s|%(levelname)s|%(message)s
"""
YAML = """
version: 1
formatters: {f: {format: "%(name)s|%(message)s"}}
handlers: {h: {class: logging.FileHandler, filename: out.log, formatter: f}}
loggers: {penstock: {handlers: [h], level: INFO}}
"""


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("c.json", dict_config("penstock.error", {"format": "%(name)s|%(message)s"}), "penstock.error|Started server"),
        ("c.json", dict_config("uvicorn", {"format": "%(name)s|%(message)s"}), "penstock.error|Started server"),
        ("c.json", dict_config("uvicorn.error", UVICORN), "<INFO:    > Started server"),
        ("c.yaml", YAML, "penstock.error|Started server"),
        ("c.ini", INI, "penstock.error|INFO|Started server"),
    ],
)
def test_the_server_s_words_go_where_the_file_says(serve: Serve, tmp_path: Path, name: str, content: str, line: str):
    (tmp_path / name).write_text(content, encoding="utf-8")
    server = serve(HELLO_APP, "--uds", "a.sock", "--log-config", name, ready=False)
    wait_for_line(tmp_path / "out.log", line)
    server.stop()


def wait_for_line(path: Path, line: str) -> None:
    def written() -> str:
        return path.read_text(encoding="utf-8") if path.exists() else ""

    wait_until(lambda: line in written(), lambda: written() or f"no {path}")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("c.json", "[]", "--log-config: expected a mapping in c.json, got list"),
        ("c.json", "{", "--log-config: c.json: Expecting property name"),
        ("c.json", '{"version": 2}', "--log-config: c.json: Unsupported version: 2"),
        ("c.yaml", "a: [", "--log-config: c.yaml: while parsing"),
        ("c.ini", "[loggers]\nkeys=root", "--log-config: c.ini: "),
        ("c.ini", "nothing", "--log-config: c.ini: File contains no section headers"),
    ],
)
def test_a_file_that_cannot_be_used_is_answered_in_one_line(
    penstock: Callable[..., object], tmp_path: Path, name: str, content: str, complaint: str
):
    (tmp_path / name).write_text(content, encoding="utf-8")
    done = penstock("serve", "--log-config", name, "main:app")
    lines: list[str] = vars(done)["stderr"].splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"penstock: error: {complaint}"), lines


def test_the_error_log_can_be_a_file_that_is_rotated(serve: Serve, tmp_path: Path):
    path = tmp_path / "error.log"
    server = serve(HELLO_APP, "--uds", "a.sock", "--error-logfile", str(path), ready=False)
    wait_for_line(path, "running on unix:")
    path.rename(tmp_path / "error.log.1")
    server.stop()
    assert "[INFO] Shutting down" in path.read_text(encoding="utf-8")
    assert server.log == ""
