"""The access log: gunicorn's atoms, JSON, files that are rotated, disks that are full, readers that do not read."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from datetime import datetime
from pathlib import Path

import pytest
from conftest import HELLO_APP, PENSTOCK, Server, clean_environment
from waiting import wait_until

from penstock import ConfigError, ServerConfig, _core
from penstock.config import LOG_FORMATS, SETTINGS

Serve = Callable[..., Server]

WAIT_S = 20


def lines_of(path: Path, count: int) -> list[str]:
    """The file's lines, once there are so many."""

    def written() -> str:
        return path.read_text(encoding="utf-8") if path.exists() else ""

    wait_until(lambda: len(written().splitlines()) >= count, lambda: written() or f"no {path}")
    return written().splitlines()


def logged(server: Server, path: Path, *requests: bytes) -> list[str]:
    before = len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0
    for request in requests:
        server.exchange(request)
    return lines_of(path, before + len(requests))[before:]


def get(target: str = "/", **headers: str) -> bytes:
    lines = {"host": "h", "connection": "close"} | {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"GET {target} HTTP/1.1\r\n{head}\r\n".encode()


def test_a_file_has_combined_lines(serve: Serve, tmp_path: Path):
    path = tmp_path / "access.log"
    server = serve(HELLO_APP, "--access-logfile", str(path))
    [first, second] = logged(server, path, get("/a?b=1", referer="/r", user_agent="me"), b"nonsense\r\n\r\n")
    found = re.fullmatch(r'127\.0\.0\.1 - - \[(.*)\] "GET /a\?b=1 HTTP/1.1" 200 6 "/r" "me"', first)
    assert found is not None, first
    told = datetime.strptime(found[1], "%d/%b/%Y:%H:%M:%S %z")
    assert abs(told.timestamp() - time.time()) < WAIT_S
    assert re.fullmatch(r'127\.0\.0\.1 - - \[.*\] "-" 400 \d+ "-" "-"', second), second
    assert "HTTP/1.1" not in server.log, "the lines are in the file, and nowhere else"


ATOMS = (
    "%(h)s|%(l)s|%(u)s|%(r)s|%(m)s|%(U)s|%(q)s|%(H)s|%(s)s|%(b)s|%(B)s|%(f)s|%(a)s|%(T)s|%({x-a}i)s|%({X-None}i)s|"
    "%({Content-Type}o)s|%({x-none}o)s|%({REQUEST_METHOD}e)s|%({HTTP_X_A}e)s|%({wsgi.url_scheme}e)s|100%%"
)

WSGI_APP = """
def app(environ, start_response):
    start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]
"""
ASGI_APP = """
async def app(scope, receive, send):
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})
"""
AUTHORIZED = {"authorization": "Basic dXNlcjpwYXNz", "x_a": "1", "user_agent": "m/1", "referer": "/from"}


@pytest.fixture
def gunicorn_line(tmp_path: Path) -> Generator[Callable[[bytes], str]]:
    """What gunicorn itself logs of a request, with these atoms."""
    (tmp_path / "wsgi.py").write_text(WSGI_APP, encoding="utf-8")
    path = tmp_path / "gunicorn.log"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options = ["-b", f"fd://{listener.fileno()}", "--access-logfile", str(path), "--access-logformat", ATOMS]
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options, "--no-control-socket", "--log-level", "error", "wsgi:app"],
            cwd=tmp_path,
            env=clean_environment(),
            pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,
        )

        def ask(request: bytes) -> str:
            with socket.create_connection(listener.getsockname(), timeout=WAIT_S) as connection:
                connection.sendall(request)
                while connection.recv(4096):
                    pass
            return lines_of(path, 1)[0]

        try:
            yield ask
        finally:
            process.terminate()
            process.wait(WAIT_S)


def test_a_template_says_what_gunicorn_itself_says(serve: Serve, tmp_path: Path, gunicorn_line: Callable[[bytes], str]):
    path, request = tmp_path / "access.log", get("/a%20b?c=d&e", **AUTHORIZED)
    server = serve(ASGI_APP, "--access-logfile", str(path), "--access-logformat", ATOMS)
    [line] = logged(server, path, request)
    assert line == gunicorn_line(request)
    assert line.startswith(
        "127.0.0.1|-|user|GET /a%20b?c=d&e HTTP/1.1|GET|/a b|c=d&e|HTTP/1.1|404|5|5|/from|m/1|0|1|-|"
    )


def test_times_are_told_in_every_unit(serve: Serve, tmp_path: Path):
    source = """
    import asyncio
    async def app(scope, receive, send):
        await asyncio.sleep(0.05)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
    """
    path = tmp_path / "access.log"
    server = serve(source, "--access-logfile", str(path), "--access-logformat", "%(T)s %(M)s %(D)s %(L)s %(p)s")
    [line] = logged(server, path, get())
    seconds, milliseconds, microseconds, decimal, pid = line.split()
    assert 50_000 <= int(microseconds) < WAIT_S * 1_000_000
    assert (int(seconds), int(milliseconds)) == (int(microseconds) // 1_000_000, int(microseconds) // 1000)
    assert decimal == f"{int(microseconds) / 1e6:.6f}"
    assert pid == f"<{server.process.pid}>"


def test_json_has_a_document_a_line_whatever_the_client_sends(serve: Serve, tmp_path: Path):
    path = tmp_path / "access.log"
    server = serve(HELLO_APP, "--access-logfile", str(path), "--access-logformat", "json")
    strange = get("/a%20?q=%22", user_agent='ü"\\\tb')
    [first, second] = [json.loads(line) for line in logged(server, path, strange, b"\x00\r\n\r\n")]
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert 0 <= first.pop("duration_us") < WAIT_S * 1_000_000
    assert 0 < first.pop("port") < 65536
    assert first == {
        "client": "127.0.0.1",
        "method": "GET",
        "path": "/a%20",
        "query": "q=%22",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 6,
        "host": "h",
        "referer": None,
        "user_agent": 'ü"\\\tb',
    }
    assert (second["method"], second["status"], second["user_agent"]) == (None, 400, None)


def test_standard_output_can_be_told_its_form_and_its_colours(serve: Serve):
    server = serve(HELLO_APP, "--access-logfile", "-", "--access-logformat", "%(m)s %(s)s")
    server.get()
    server.wait_for_log("GET 200\n")
    server = serve(HELLO_APP, "--use-colors")
    server.get()
    server.wait_for_log('\x1b[1mGET / HTTP/1.1\x1b[0m" \x1b[32m200 OK\x1b[0m\n')
    server.wait_for_log("\x1b[32mINFO\x1b[0m:     Started server process")


def test_a_log_that_was_renamed_goes_on_in_a_new_file(serve: Serve, tmp_path: Path):
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    server = serve(HELLO_APP, "--access-logfile", str(path), "--access-logformat", "%(U)s")
    assert logged(server, path, get("/1"), get("/2")) == ["/1", "/2"]
    path.rename(old)
    server.signal(signal.SIGUSR1)
    assert lines_of(path, 0) == []
    assert logged(server, path, get("/3")) == ["/3"]
    server.get("/4")
    server.stop()
    assert path.read_text(encoding="utf-8") == "/3\n/4\n", "what was logged is written before the server is gone"
    assert old.read_text(encoding="utf-8") == "/1\n/2\n"


def test_a_full_disk_costs_lines_and_a_word_and_nothing_else(serve: Serve):
    server = serve(HELLO_APP, "--access-logfile", "/dev/full")
    deadline = time.monotonic() + WAIT_S
    while "Lines of the access log are lost: No space left on device" not in server.log:
        assert server.get().endswith(b"hello\n")
        assert time.monotonic() < deadline, server.log
    for _ in range(20):
        assert server.get().endswith(b"hello\n")
    assert server.log.count("Lines of the access log are lost") == 1, "told once, not for every line"


def test_a_reader_of_standard_output_that_does_not_read_holds_nobody_up(tmp_path: Path):
    (tmp_path / "main.py").write_text(HELLO_APP, encoding="utf-8")
    process = subprocess.Popen(
        [*PENSTOCK, "serve", "--uds", "a.sock", "main:app"],
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        while "running on" not in (line := process.stderr.readline()):
            assert line
        target = "/" + "x" * 4000
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(WAIT_S)
            connection.connect(str(tmp_path / "a.sock"))
            received = connection.makefile("rb")
            # Of each the log has a line of 4 KB: far more than the pipe and the writer hold.
            for _ in range(600):
                connection.sendall(f"GET {target} HTTP/1.1\r\nhost: h\r\n\r\n".encode())
                while (line := received.readline()) != b"hello\n":
                    assert line
        process.terminate()
        assert process.wait(WAIT_S) == 0, "it leaves, although nobody takes the last lines"
    finally:
        process.kill()
        process.communicate()


def test_a_handler_that_the_application_has_given_gets_records(serve: Serve, tmp_path: Path):
    source = f"""
    import logging
    handler = logging.FileHandler({str(tmp_path / "records.log")!r})
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
    logging.getLogger("penstock.access").addHandler(handler)
    logging.getLogger("penstock.access").removeHandler(logging.getLogger("penstock.access").handlers[0])
    async def app(scope, receive, send):
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body"}})
    """
    server = serve(source)
    server.get('/a?b="c"')
    server.exchange(b"nonsense\r\n\r\n")
    [first, second] = lines_of(tmp_path / "records.log", 2)
    assert re.fullmatch(r'penstock\.access INFO 127\.0\.0\.1:\d+ - "GET /a\?b=\\"c\\" HTTP/1\.1" 200', first), first
    assert re.fullmatch(r'penstock\.access INFO 127\.0\.0\.1:\d+ - "- - HTTP/-" 400', second), second


@pytest.mark.parametrize("arguments", [["--access-logfile", "a.log"], ["--access-logformat", "json"]])
def test_a_log_and_no_log_contradict_each_other(
    penstock: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str]
):
    done = penstock("serve", *arguments, "--no-access-log", "main:app")
    assert done.returncode == 2
    assert done.stderr == (
        f"penstock: error: {arguments[0]} asks for an access log and --no-access-log for none: give one of them\n"
    )


def test_a_file_that_cannot_be_written_is_answered_in_one_line(
    penstock: Callable[..., subprocess.CompletedProcess[str]],
):
    done = penstock("serve", "--access-logfile", "no/a.log", "main:app")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("penstock: error: --access-logfile: cannot write no/a.log: no such file")


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        *((name, True) for name in LOG_FORMATS),
        ("%(h)s", True),
        (ATOMS, True),
        ("%(x)s", False),
        ("%({}i)s", False),
        ("%({a}x)s", False),
        ("%(h)d", False),
        ("%(h)s 100%", False),
    ],
)
def test_config_and_binary_agree_on_what_a_format_is(text: str, is_one: bool):
    assert SETTINGS["access_logformat"].kind.accepts(text) is is_one
    if text == "auto":
        return  # The server's own word for one of the others.
    try:
        _core.check_access_log_format(text)
    except ValueError:
        assert not is_one
    else:
        assert is_one


def test_a_text_without_atoms_is_a_slip():
    with pytest.raises(ConfigError, match="--access-logformat: expected auto, uvicorn, common, combined, json, or a"):
        ServerConfig(access_logformat="josn")
