"""`--reload`: new code is served soon after it was saved, and nobody who connects in between is refused."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import HELLO_APP, Server
from waiting import wait_until

import penstock as package
from penstock import ConfigError, ServerConfig
from penstock.reload import WatchedFiles

Serve = Callable[..., Server]

WAIT_S = 20
APP = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%s"})
"""


def save(directory: Path, content: str, name: str = "main.py") -> None:
    """As editors do: a new file in the old one's place."""
    fresh = directory / f".{name}.new"
    fresh.write_text(content, encoding="utf-8")
    fresh.rename(directory / name)


def answers(server: Server, body: bytes) -> bool:
    return body in server.get()


@pytest.fixture
def reloading(serve: Serve) -> Callable[..., Server]:
    return lambda *arguments, source=APP % "one": serve(source, "--reload", *arguments)


def test_saved_code_is_served_and_nobody_is_refused_meanwhile(reloading: Callable[..., Server], tmp_path: Path):
    server = reloading()
    seen: list[bytes] = []
    errors: list[OSError] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                seen.append(server.get())
            except OSError as error:
                errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for word in ("two", "three"):
            save(tmp_path, APP % word)
            wait_until(lambda word=word: any(word.encode() in each for each in seen[-5:]), lambda: server.log)
    finally:
        over.set()
        asking.join()
    assert errors == []
    assert all(b"200 OK" in each for each in seen)
    server.wait_for_log("WARNING:  main.py changed: restarting")


def test_a_syntax_error_is_one_message_and_the_next_change_puts_it_right(
    reloading: Callable[..., Server], tmp_path: Path
):
    server = reloading()
    save(tmp_path, "def app(:\n    pass\n")
    server.wait_for_log("Waiting for a file to change")
    after = server.log.split("changed: restarting")[1]
    [line] = [line for line in after.splitlines() if line.startswith("ERROR")]
    assert line == f"ERROR:    syntax error in {tmp_path}/main.py:1: invalid syntax: def app(:"
    assert "Traceback" not in server.log
    with server.connect(timeout_s=WAIT_S) as patient:
        patient.sendall(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        save(tmp_path, APP % "mended")
        assert b"200 OK" in patient.recv(4096), "who has connected in between gets the answer of the new code"


def test_an_application_that_cannot_start_is_told_and_awaited(reloading: Callable[..., Server], tmp_path: Path):
    server = reloading("--lifespan", "auto")
    save(tmp_path, "import helper\n" + APP % "two")
    server.wait_for_log("Waiting for a file to change")
    server.wait_for_log("ModuleNotFoundError")
    (tmp_path / "helper.py").touch()
    wait_until(lambda: answers(server, b"two"), lambda: server.log)


def test_an_endless_response_does_not_keep_the_new_code_waiting(reloading: Callable[..., Server], tmp_path: Path):
    source = """
    import asyncio
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"event", "more_body": True})
        await asyncio.sleep(3600)
    """
    server = reloading(source=source)
    with server.connect() as stream:
        stream.sendall(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        assert stream.recv(4096).startswith(b"HTTP/1.1 200")
        save(tmp_path, APP % "two")
        server.wait_for_log("Finished server process")
        wait_until(lambda: answers(server, b"two"), lambda: server.log)


def test_files_that_are_no_code_change_nothing(reloading: Callable[..., Server], tmp_path: Path):
    server = reloading("--reload-include", "*.html", "--reload-exclude", "generated")
    for name in (".venv", "generated", "__pycache__"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text("", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")
    # What comes after has been seen to be what the server started anew for.
    (tmp_path / "page.html").write_text("", encoding="utf-8")
    server.wait_for_log("changed: restarting")
    server.wait_for_log("WARNING:  page.html changed: restarting")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_processes_leave_together_and_the_port_is_free(reloading: Callable[..., Server], number: signal.Signals):
    server = reloading()
    server.signal(number)
    assert server.wait() == 0
    assert "Finished server process" in server.log, "the child ended in order"
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", server.port))


def test_a_killed_parent_leaves_no_child_behind(reloading: Callable[..., Server]):
    server = reloading()
    server.process.kill()
    # The child writes to the same pipe: it has ended when that does.
    assert server.wait() == -signal.SIGKILL
    server.wait_for_log("Finished server process")


def test_what_no_change_can_put_right_is_an_error(
    penstock: Callable[..., object], write_app: Callable[..., Path], taken_port: int
):
    write_app(HELLO_APP)
    for arguments, complaint in (
        (["--port", str(taken_port)], f"127.0.0.1:{taken_port} is already in use"),
        (["--reload-dir", "nowhere"], "--reload-dir: expected a directory, got 'nowhere', which is none"),
    ):
        told = vars(penstock("serve", "--reload", *arguments, "main:app"))["stderr"]
        assert f"penstock: error: {complaint}" in told


def test_a_callable_cannot_be_imported_anew():
    async def app(scope: object, receive: object, send: object) -> None: ...

    with pytest.raises(ConfigError, match="--reload: expected the application as module:attribute"):
        package.run(app, reload=True, log_level="critical")


def test_a_program_can_be_its_own_server(tmp_path: Path, serve: Serve):
    """`penstock.run("module:app", reload=True)` in a script, whose own `__main__` is not run again by the child."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "shop.py").write_text(APP % "one", encoding="utf-8")
    source = f"""
    import os, sys
    os.environ["SEEN"] = "1"
    import penstock
    penstock.run("shop:app", reload=True, uds="a.sock", app_dir={str(tmp_path / "site")!r})
    """
    import subprocess
    import sys
    import textwrap

    from conftest import clean_environment

    (tmp_path / "serve.py").write_text(textwrap.dedent(source), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "serve.py"],
        cwd=tmp_path,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = Server(process)
    try:
        server.wait_for_log("running on unix:")

        def ask() -> bytes:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(WAIT_S)
                connection.connect(str(tmp_path / "a.sock"))
                connection.sendall(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
                received = b""
                while piece := connection.recv(4096):
                    received += piece
                return received

        assert b"one" in ask()
        save(tmp_path / "site", APP % "two", "shop.py")
        wait_until(lambda: b"two" in ask(), lambda: server.log)
        server.stop()
        assert not (tmp_path / "a.sock").exists()
    finally:
        process.kill()
        server.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize(
    ("path", "matters"),
    [
        ("main.py", True),
        ("shop/views.py", True),
        ("shop/page.html", True),
        ("shop/page.css", False),
        ("main.pyc", False),
        ("shop/__pycache__/views.py", False),
        ("node_modules/a/b.py", False),
        (".git/hooks/a.py", False),
        ("shop/.hidden/a.py", False),
        ("shop/.#views.py", False),
        ("shop/views.py~", False),
        ("env/lib/python3/a.py", False),
        ("tests/a.py", False),
        ("tests/deep/a.py", False),
        ("shop/tests.py", True),
        ("../elsewhere.py", False),
        ("../extra.toml", True),
    ],
)
def test_what_an_application_is_made_of(tmp_path: Path, path: str, matters: bool):
    root = tmp_path / ".projects" / "shop"
    (root / "env").mkdir(parents=True)
    (root / "env" / "pyvenv.cfg").touch()
    extra = root.parent / "extra.toml"
    extra.touch()
    config = ServerConfig(app_dir=str(root), reload_include=["*.html", str(extra)], reload_exclude=["tests"])
    assert WatchedFiles(config).matter(os.path.normpath(root / path)) is matters


def test_health_is_answered_without_the_application(serve: Serve):
    source = """
    async def app(scope, receive, send):
        raise RuntimeError("broken")
    """
    server = serve(source, "--health", "/healthz")
    answer = server.get("/healthz")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nok\n")
    assert b"cache-control: no-store" in answer
    assert server.exchange(b"HEAD /healthz HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").endswith(b"\r\n\r\n")
    assert server.get("/healthz/").startswith(b"HTTP/1.1 500")


def test_health_is_answered_while_another_thread_keeps_the_interpreter_busy(serve: Serve):
    source = """
    import threading
    def spin():
        while True:
            sum(range(1_000_000))
    async def app(scope, receive, send):
        for _ in range(4):
            threading.Thread(target=spin, daemon=True).start()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})
    """
    server = serve(source, "--health", "/healthz")
    server.get("/")
    with server.connect() as connection:
        for _ in range(20):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n")
            assert connection.recv(4096).endswith(b"ok\n")
