"""An application's start-up and shutdown: when each runs, in which task, and what a failure of either does."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Server
from threaded_server import TIMEOUT_S, ThreadedServer, read_response, respond, threaded_server

from penstock import StartupError

Serve = Callable[..., Server]
GET = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"


async def run_lifespan(receive: Any, send: Any, events: list[Any]) -> None:
    for phase in ("startup", "shutdown"):
        message = await receive()
        assert message == {"type": f"lifespan.{phase}"}
        events.append((phase, asyncio.current_task()))
        await send({"type": f"lifespan.{phase}.complete"})


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_one_task_runs_start_up_before_the_first_request_and_shutdown_after_the_last(mode: str) -> None:
    events: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            assert scope["asgi"]["version"] == "3.0"
            return await run_lifespan(receive, send, events)
        events.append(("request", asyncio.current_task()))
        await asyncio.sleep(0.05)
        events.append(("response", asyncio.current_task()))
        return await respond(send, b"x")

    server = ThreadedServer(app, lifespan=mode).start()
    with server.connect() as connection:
        connection.sendall(GET)
        while not any(name == "request" for name, _ in events):
            pass
        server.loop.call_soon_threadsafe(server.worker.stop)
        assert read_response(connection)[2] == b"x"
    server.stop()
    assert [name for name, _ in events] == ["startup", "request", "response", "shutdown"]
    assert events[0][1] is events[3][1]
    assert events[0][1].get_name() == "lifespan"
    assert events[1][1] is not events[0][1]


def test_the_state_is_copied_into_every_scope() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            scope["state"].update(shared=[], number=1)
            return await run_lifespan(receive, send, [])
        seen.append(dict(scope["state"]))
        scope["state"]["number"] += 1
        scope["state"]["shared"].append(len(seen))
        return await respond(send)

    with threaded_server(app, lifespan="on") as server:
        for _ in range(3):
            server.get()
    assert [state["number"] for state in seen] == [1, 1, 1]
    # A shallow copy, as the specification says: what the application put there is one object.
    assert seen[0]["shared"] == [1, 2, 3]


@pytest.mark.parametrize("how", ["raise", "return", "assert"])
def test_an_application_without_a_lifespan_is_served_all_the_same(how: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if how == "return":
                return
            if how == "raise":
                raise KeyError("path")
            assert scope["type"] == "http"
        await respond(send, b"fine")

    with threaded_server(app, lifespan="auto") as server:
        assert server.get().endswith(b"fine")
        assert "Traceback" not in server.log


def test_off_never_asks() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["type"])
        await respond(send)

    asked: list[str] = []
    with threaded_server(app, lifespan="off") as server:
        server.get()
    assert asked == ["http"]


def test_on_refuses_an_application_that_has_none() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("of the application")

    with pytest.raises(StartupError, match="--lifespan on"):
        ThreadedServer(app, lifespan="on").start()


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize(("message", "says"), [("no database", ": no database$"), ("", "failed$"), (None, "failed$")])
def test_a_failed_start_up_gives_its_reason(mode: str, message: str | None, says: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        reason = {} if message is None else {"message": message}
        await send({"type": "lifespan.startup.failed", **reason})

    with pytest.raises(StartupError, match=says):
        ThreadedServer(app, lifespan=mode).start()


def test_a_framework_that_sends_its_traceback_ends_with_one_clear_line_and_status_three(
    penstock: Callable[..., subprocess.CompletedProcess[str]], write_app: Any
) -> None:
    write_app(
        """
        import contextlib
        from starlette.applications import Starlette

        @contextlib.asynccontextmanager
        async def lifespan(app):
            raise ConnectionRefusedError("no database at db:5432")
            yield

        app = Starlette(lifespan=lifespan)
        """
    )
    ended = penstock("serve", "--port", "0", "main:app")
    assert ended.returncode == 3
    lines = ended.stderr.splitlines()
    assert lines[-1] == ("penstock: error: application startup failed: ConnectionRefusedError: no database at db:5432")
    assert any('main.py", line' in line for line in lines), "where it was raised is shown above"


@pytest.mark.parametrize("how", ["failed", "raise"])
def test_a_shutdown_that_fails_is_logged_and_the_server_leaves(how: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if how == "raise":
            raise ValueError("cannot close")
        await send({"type": "lifespan.shutdown.failed", "message": "cannot close"})

    with threaded_server(app, lifespan="on") as server:
        pass
    server.wait_for_log("cannot close")
    assert "Application shutdown complete" not in server.log
    server.wait_for_log("Finished server process")


def test_a_lifespan_that_ends_while_requests_are_served_is_logged_and_they_go_on() -> None:
    go_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await go_on.wait()
            raise ValueError("a background task of the application's")
        go_on.set()
        await asyncio.sleep(0.02)
        await respond(send, b"fine")

    with threaded_server(app, lifespan="on") as server:
        assert server.get().endswith(b"fine")
        server.wait_for_log("ValueError: a background task of the application's")


@pytest.mark.parametrize("message", [{"type": "lifespan.complete"}, {"type": "http.response.start"}, {}])
def test_a_wrong_message_is_a_clear_error_in_the_application(message: Any) -> None:
    errors: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        try:
            await send(message)
        except Exception as error:
            errors.append(error)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    with threaded_server(app, lifespan="on"):
        pass
    assert isinstance(errors[0], RuntimeError if message else KeyError)


def test_what_start_up_opens_in_a_task_group_is_closed_in_the_same_task() -> None:
    """A cancel scope may only be left by the task that entered it: anyio says so loudly."""
    import anyio

    ended = threading.Event()

    async def background() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            return await respond(send, b"fine")
        await receive()
        async with anyio.create_task_group() as group:
            group.start_soon(background)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            group.cancel_scope.cancel()
        await send({"type": "lifespan.shutdown.complete"})
        return None

    with threaded_server(app, lifespan="on") as server:
        assert server.get().endswith(b"fine")
    assert ended.wait(TIMEOUT_S)
    server.wait_for_log("Application shutdown complete")


HANGING_APP = """
import asyncio
async def app(scope, receive, send):
    await receive()
    if {start_up}:
        print("starting", flush=True)
        await asyncio.sleep(60)
    await send({{"type": "lifespan.startup.complete"}})
    await receive()
    print("closing", flush=True)
    await asyncio.sleep(60)
"""


def test_a_start_up_that_hangs_can_be_interrupted(serve: Serve) -> None:
    server = serve(HANGING_APP.format(start_up=True), ready=False)
    server.wait_for_log("starting")
    server.signal(signal.SIGINT)
    assert server.wait() == 0
    assert "Traceback" not in server.log


def test_a_shutdown_that_hangs_can_be_hurried(serve: Serve) -> None:
    server = serve(HANGING_APP.format(start_up=False))
    server.signal(signal.SIGINT)
    server.wait_for_log("closing")
    server.signal(signal.SIGINT)
    assert server.wait() == 0
    server.wait_for_log("before the application's shutdown has ended")
    assert "Traceback" not in server.log


def test_contexts_that_start_up_changed_are_not_those_of_requests() -> None:
    import contextvars

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            variable.set("of the lifespan")
            with contextlib.suppress(asyncio.CancelledError):
                return await run_lifespan(receive, send, [])
        seen.append(variable.get())
        return await respond(send)

    with threaded_server(app, lifespan="on") as server:
        server.get()
    assert seen == ["unset"]
