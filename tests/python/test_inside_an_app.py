"""What applications do inside their handlers works as on any asyncio loop: tasks, contexts, threads, clients, drivers.

A handler's first step runs in the reactor's own turn, in a task that may serve many requests; from its first
suspension it is a task like any other. Each test here looks for a difference between the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import anyio
import anyio.to_thread
import httpx
import pytest
import sniffio
from threaded_server import TIMEOUT_S, ThreadedServer, read_body, read_head, read_response, respond, threaded_server
from waiting import wait_until

Handler = Callable[[Any, Any, Any], Awaitable[Any]]
GET = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"

# Where a handler looks: in its first step, and after its first suspension.
STEPS = pytest.mark.parametrize("suspend", [False, True], ids=["first step", "suspended"])


def answer_of(handler: Handler, *, times: int = 1, suspend: bool = False, **settings: Any) -> list[bytes]:
    """What each of `times` requests on one connection is answered with: the handler's result, or its error."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if suspend:
            await asyncio.sleep(0)
        await respond(send, str(await handler(scope, receive, send)).encode())

    with threaded_server(app, **settings) as server, server.connect() as connection:
        answers: list[bytes] = []
        for _ in range(times):
            connection.sendall(GET)
            status, _, body = read_response(connection)
            assert status == 200, server.log
            answers.append(body)
        return answers


# ---- tasks --------------------------------------------------------------------------------------------------------


@STEPS
def test_there_is_a_current_task_on_the_running_loop(suspend: bool) -> None:
    async def handler(*_: Any) -> str:
        task = asyncio.current_task()
        assert isinstance(task, asyncio.Task)
        assert not task.done()
        assert task.get_loop() is asyncio.get_running_loop()
        await asyncio.sleep(0)
        return str(asyncio.current_task() is task)

    assert answer_of(handler, suspend=suspend, times=3) == [b"True"] * 3


@STEPS
def test_asyncio_timeout_ends_what_takes_too_long_and_leaves_what_does_not(suspend: bool) -> None:
    async def handler(*_: Any) -> str:
        async with asyncio.timeout(TIMEOUT_S):
            pass
        for delay in (0.01, 0, -1):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(delay):
                    await asyncio.sleep(TIMEOUT_S)
        task = asyncio.current_task()
        assert task is not None
        return str(task.cancelling())

    assert answer_of(handler, suspend=suspend, times=2) == [b"0"] * 2


@STEPS
def test_task_groups_wait_for_their_tasks_and_cancel_them_when_one_fails(suspend: bool) -> None:
    async def handler(*_: Any) -> str:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0.001 * n, n)) for n in range(3)]
        sleeping: list[asyncio.Task[None]] = []
        with pytest.raises(ExceptionGroup):
            await fail_beside_a_sleeping_one(sleeping)
        assert sleeping[0].cancelled()
        return ",".join(str(task.result()) for task in tasks)

    async def fail_beside_a_sleeping_one(sleeping: list[asyncio.Task[None]]) -> None:
        async with asyncio.TaskGroup() as group:
            sleeping.append(group.create_task(asyncio.sleep(TIMEOUT_S)))
            group.create_task(asyncio.to_thread(lambda: 1 // 0))

    assert answer_of(handler, suspend=suspend) == [b"0,1,2"]


@STEPS
def test_what_a_bare_yield_lets_go_first_goes_first(suspend: bool) -> None:
    async def handler(*_: Any) -> str:
        order: list[str] = []

        async def child() -> None:
            order.append("child")

        task = asyncio.create_task(child())
        asyncio.get_running_loop().call_soon(order.append, "callback")
        order.append("before")
        await asyncio.sleep(0)
        order.append("after")
        await task
        return " ".join(order)

    assert answer_of(handler, suspend=suspend, times=3) == [b"before child callback after"] * 3


def test_a_task_may_outlive_its_request() -> None:
    done = threading.Event()
    tasks: set[Any] = set()

    async def handler(*_: Any) -> str:
        async def outlive() -> None:
            await asyncio.sleep(0.05)
            done.set()

        tasks.add(asyncio.create_task(outlive()))
        return "answered"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, (await handler()).encode())

    with threaded_server(app) as server:
        server.get()
        assert not done.is_set()
        assert done.wait(TIMEOUT_S)


@STEPS
def test_a_task_that_cancels_itself_is_cancelled_where_it_next_waits(suspend: bool) -> None:
    where: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/good":
            return await respond(send, b"fine")
        if suspend:
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        where.append("still running")
        try:
            await asyncio.sleep(TIMEOUT_S)
        except asyncio.CancelledError:
            where.append("cancelled")
            raise
        return None

    with threaded_server(app) as server:
        assert server.get().startswith(b"HTTP/1.1 500 ")
        # The next request must not inherit the cancellation.
        for _ in range(3):
            assert server.get("/good").endswith(b"fine")
    assert where == ["still running", "cancelled"]


@STEPS
def test_a_cancellation_that_was_taken_back_leaves_no_mark_on_the_next_request(suspend: bool) -> None:
    async def handler(scope: Any, receive: Any, send: Any) -> str:
        task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        task.uncancel()
        await asyncio.sleep(0)
        return f"{before} {task.cancelling()}"

    assert answer_of(handler, suspend=suspend, times=4) == [b"0 0"] * 4


def test_a_cancelled_first_step_that_never_waits_answers_all_the_same() -> None:
    async def handler(*_: Any) -> str:
        task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        task.cancel()
        return str(before)

    assert answer_of(handler, times=4) == [b"0"] * 4


@STEPS
def test_callbacks_on_the_current_task_run_once_when_their_own_request_ends(suspend: bool) -> None:
    called: list[tuple[int, bool]] = []
    turn = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal turn
        turn += 1
        if suspend:
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda task, turn=turn: called.append((turn, task.done())))
        await respond(send)

    with threaded_server(app) as server, server.connect() as connection:
        for _ in range(3):
            connection.sendall(GET)
            read_response(connection)
            server.call(lambda: None)
        wait_until(lambda: len(called) >= 3, lambda: repr(called))
    assert called == [(1, True), (2, True), (3, True)]


@STEPS
def test_a_name_given_to_the_task_is_not_the_next_ones(suspend: bool) -> None:
    async def handler(*_: Any) -> str:
        task = asyncio.current_task()
        assert task is not None
        before = task.get_name()
        task.set_name("mine")
        return f"{before != 'mine'} {task.get_name()}"

    assert answer_of(handler, suspend=suspend, times=3) == [b"True mine"] * 3


@STEPS
def test_a_task_that_was_captured_can_be_awaited_elsewhere(suspend: bool) -> None:
    captured: list[asyncio.Task[Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/first":
            if suspend:
                await asyncio.sleep(0)
            task = asyncio.current_task()
            assert task is not None
            captured.append(task)
            await respond(send, b"first")
        else:
            await asyncio.wait(captured, timeout=TIMEOUT_S)
            await respond(send, f"{captured[0].done()} {captured[0] is asyncio.current_task()}".encode())

    with threaded_server(app) as server:
        server.get("/first")
        assert server.get("/second").endswith(b"True False")


def test_all_tasks_shows_suspended_requests_and_no_spare_ones() -> None:
    waiting = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal waiting
        if scope["path"] == "/wait":
            waiting += 1
            await receive()
            await receive()
        else:
            await respond(send, b"x")

    with threaded_server(app) as server, contextlib.ExitStack() as stack:
        for _ in range(20):
            server.get()
        before = server.call(lambda: len(asyncio.all_tasks()))
        for _ in range(5):
            stack.enter_context(server.connect()).sendall(GET.replace(b"/ ", b"/wait "))
        wait_until(lambda: waiting == 5)
        tasks = server.call(lambda: [repr(task) for task in asyncio.all_tasks()])
    assert len(tasks) == before + 5
    assert sum("app" in task for task in tasks) >= 5, tasks
    assert not any("coro=<spare" in task for task in tasks), tasks


def test_a_suspended_request_can_be_looked_at() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.2)
        await respond(send, b"x")

    def look() -> list[Any]:
        found: list[Any] = [(task, task.get_coro()) for task in asyncio.all_tasks()]
        return [(task.get_stack(), each.__qualname__) for task, each in found if "app" in each.__qualname__]

    with threaded_server(app) as server, server.connect() as connection:
        connection.sendall(GET)
        found = wait_until(lambda: server.call(look))
        assert found[0][0][0].f_code is app.__code__
        assert read_response(connection)[2] == b"x"


# ---- contexts -----------------------------------------------------------------------------------------------------

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@STEPS
def test_what_one_request_sets_in_its_context_no_other_ever_sees(suspend: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if suspend:
            await asyncio.sleep(0)
        seen = [VARIABLE.get()]
        VARIABLE.set(scope["path"])
        await read_body(receive)
        for pause in (0, 0.001):
            await asyncio.sleep(pause)
            seen.append(VARIABLE.get())
        seen.append(await asyncio.create_task(read_variable()))
        seen.append(await asyncio.to_thread(VARIABLE.get))
        await respond(send, " ".join(seen).encode())

    async def read_variable() -> str:
        VARIABLE.set(VARIABLE.get() + "/child")
        await asyncio.sleep(0)
        return VARIABLE.get()

    async def main(url: str) -> list[tuple[str, str]]:
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
            paths = [f"/{n}" for n in range(60)]
            answers = await asyncio.gather(*(client.post(url + path, content=b"x" * 1000) for path in paths))
            return [(path, answer.text) for path, answer in zip(paths, answers, strict=True)]

    with threaded_server(app) as server:
        for path, text in asyncio.run(main(server.url)):
            assert text == f"unset {path} {path} {path}/child {path}"


def test_a_context_is_not_kept_when_the_spare_task_is_used_again() -> None:
    async def handler(*_: Any) -> str:
        before = VARIABLE.get()
        VARIABLE.set("changed in the first step")
        return before

    assert answer_of(handler, times=5) == [b"unset"] * 5


def test_a_token_of_a_context_can_be_reset_after_a_suspension() -> None:
    async def handler(*_: Any) -> str:
        token = VARIABLE.set("inner")
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        VARIABLE.reset(token)  # Only within the very context that it was set in.
        return VARIABLE.get()

    assert answer_of(handler, times=2) == [b"unset"] * 2


# ---- anyio --------------------------------------------------------------------------------------------------------


@STEPS
def test_anyio_finds_its_backend_and_its_scopes_work(suspend: bool) -> None:
    async def handler(*_: Any) -> str:
        assert sniffio.current_async_library() == "asyncio"
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep(TIMEOUT_S)
        assert scope.cancelled_caught
        with anyio.move_on_after(0) as scope:
            await anyio.sleep(TIMEOUT_S)
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            await anyio.sleep(TIMEOUT_S)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep(TIMEOUT_S)
        assert scope.cancelled_caught
        finished: list[int] = []

        async def work(n: int) -> None:
            await anyio.sleep(0.001 * n)
            finished.append(n)

        async with anyio.create_task_group() as group:
            for n in (3, 1, 2):
                group.start_soon(work, n)
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, TIMEOUT_S)
            group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
        return str(finished)

    assert answer_of(handler, suspend=suspend, times=2) == [b"[1, 2, 3]"] * 2


def test_the_worker_threads_of_anyio_outlive_requests() -> None:
    """They belong to the root task; were that the request's, each request would start threads of its own."""

    async def handler(*_: Any) -> str:
        return str(await anyio.to_thread.run_sync(threading.get_ident))

    assert len(set(answer_of(handler, times=10))) == 1


def test_threads_call_back_into_the_loop() -> None:
    import anyio.from_thread

    async def handler(*_: Any) -> str:
        loop = asyncio.get_running_loop()

        def blocking() -> str:
            first = anyio.from_thread.run(asyncio.sleep, 0, "a")
            return first + asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "b"), loop).result(TIMEOUT_S)

        return await anyio.to_thread.run_sync(blocking)

    assert answer_of(handler, times=2) == [b"ab"] * 2


# ---- clients, drivers, processes ----------------------------------------------------------------------------------


async def _ask_with_httpx(url: str) -> str:
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        return (await client.post(url, content=b"asked with httpx")).text


async def _ask_with_aiohttp(url: str) -> str:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url, data=b"asked with httpx") as answer:
        return await answer.text()


@pytest.mark.parametrize("ask", [_ask_with_httpx, _ask_with_aiohttp])
@pytest.mark.parametrize("whom", ["itself", "another"])
def test_a_handler_asks_another_server_or_its_own(ask: Callable[[str], Awaitable[str]], whom: str) -> None:
    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, await read_body(receive))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/echo":
            return await echo(scope, receive, send)
        answers = await asyncio.gather(*(ask(f"{url}/echo") for _ in range(5)))
        return await respond(send, ",".join(answers).encode())

    with threaded_server(app) as server, threaded_server(echo) as other:
        url = server.url if whom == "itself" else other.url
        assert server.get().endswith(b",".join([b"asked with httpx"] * 5))


def test_a_session_that_start_up_opened_serves_every_request() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            async with aiohttp.ClientSession() as session:
                scope["state"]["session"] = session
                await send({"type": "lifespan.startup.complete"})
                await receive()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["path"] == "/inner":
            await respond(send, b"inner")
        else:
            async with scope["state"]["session"].get(f"http://127.0.0.1:{scope['server'][1]}/inner") as answer:
                await respond(send, await answer.read())

    with threaded_server(app, lifespan="on") as server:
        for _ in range(5):
            assert server.get().endswith(b"inner")


def test_a_database_in_a_file(tmp_path: Path) -> None:
    import aiosqlite

    async def handler(*_: Any) -> str:
        async with aiosqlite.connect(tmp_path / "database") as database:
            await database.execute("create table if not exists visits (number integer)")
            await database.execute("insert into visits select count(*) from visits")
            await database.commit()
            async with database.execute("select number from visits order by number") as rows:
                return str([row[0] async for row in rows])

    assert answer_of(handler, times=3)[-1] == b"[0, 1, 2]"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Path]:
    """A directory with the socket of a PostgreSQL server of its own."""
    initdb, binary = shutil.which("initdb"), shutil.which("postgres")
    if initdb is None or binary is None:
        pytest.skip("no PostgreSQL here: its initdb and postgres are not on the path")
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        # PostgreSQL refuses to run as root.
        user = {"user": "nobody"} if os.getuid() == 0 else {}
        if user:
            shutil.chown(directory, "nobody")
        options = {"cwd": directory, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **user}
        made = subprocess.run(
            [initdb, "-D", "data", "-A", "trust", "-U", "test", "--no-sync"],
            check=False,
            stderr=subprocess.PIPE,
            **options,
        )
        if made.returncode != 0:
            pytest.skip(f"initdb does not work here: {made.stderr.decode().strip()[-200:]}")
        server = subprocess.Popen(
            [binary, "-D", "data", "-k", name, "-c", "listen_addresses=", "-c", "fsync=off"],
            stderr=subprocess.DEVNULL,
            **options,
        )
        try:
            deadline = time.monotonic() + TIMEOUT_S
            while not (directory / ".s.PGSQL.5432").exists() and time.monotonic() < deadline:
                assert server.poll() is None, "postgres ended"
                time.sleep(0.01)
            yield directory
        finally:
            server.terminate()
            server.wait(TIMEOUT_S)


def test_asyncpg_queries_postgresql(postgres: Path) -> None:
    asyncpg = pytest.importorskip("asyncpg")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection = await asyncpg.connect(host=str(postgres), user="test", database="postgres")
        try:
            async with connection.transaction():
                numbers = [row["n"] async for row in connection.cursor("select n from generate_series(1, 500) n")]
            slow = await connection.fetchval("select 7 from pg_sleep(0.01)")
            with pytest.raises(TimeoutError):
                await connection.execute("select pg_sleep(20)", timeout=0.02)
        finally:
            await connection.close()
        await respond(send, f"{sum(numbers)} {slow}".encode())

    with threaded_server(app) as server:
        assert server.get().endswith(b"125250 7"), server.log


def test_psycopg_queries_postgresql(postgres: Path) -> None:
    psycopg = pytest.importorskip("psycopg")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with await psycopg.AsyncConnection.connect(f"host={postgres} user=test dbname=postgres") as connection:
            cursor = await connection.execute("select sum(n) from generate_series(1, %s) n", [500])
            total = (await cursor.fetchone())[0]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.execute("select pg_sleep(20)"), 0.05)
        await respond(send, str(total).encode())

    with threaded_server(app) as server:
        assert server.get().endswith(b"125250"), server.log


def test_a_handler_runs_a_process() -> None:
    async def handler(*_: Any) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "print(input() * 2)",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        out, nothing = await process.communicate(b"twice\n")
        assert nothing is None
        return f"{out.decode().strip()} {process.returncode}"

    assert answer_of(handler, times=2) == [b"twicetwice 0"] * 2


# ---- Starlette ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def starlette(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedServer]:
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.requests import Request
    from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Mount, Route

    file = tmp_path_factory.mktemp("files") / "file.bin"
    file.write_bytes(bytes(range(256)) * 2000)

    class Tagging(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            response = await call_next(request)
            response.headers["x-tagged"] = "yes"
            return response

    async def numbers(request: Request) -> Response:
        async def generate() -> AsyncIterator[bytes]:
            for n in range(100):
                yield b"%d\n" % n
                if n % 10 == 0:
                    await asyncio.sleep(0)

        return StreamingResponse(generate())

    async def events(request: Request) -> Response:
        async def generate() -> AsyncIterator[str]:
            try:
                n = 0
                while True:
                    yield f"data: {n}\n\n"
                    n += 1
                    await asyncio.sleep(0.005)
            finally:
                app.state.ended.append("events")

        return StreamingResponse(generate(), media_type="text/event-stream")

    async def later(request: Request) -> Response:
        async def work() -> None:
            await asyncio.sleep(0.02)
            app.state.ended.append("background")

        return PlainTextResponse("now", background=BackgroundTask(work))

    async def upload(request: Request) -> Response:
        async with request.form() as form:
            upload: Any = form["file"]
            data = await upload.read()
            return JSONResponse({"name": upload.filename, "size": len(data), "text": form["text"]})

    def blocking(request: Request) -> Response:
        return PlainTextResponse(str(threading.get_ident()))

    async def echo(request: Request) -> Response:
        return Response(b"".join([piece async for piece in request.stream()]))

    async def send_file(request: Request) -> Response:
        return FileResponse(file)

    async def fail(request: Request) -> Response:
        raise ZeroDivisionError("of a route")

    async def wait(request: Request) -> Response:
        while not await request.is_disconnected():
            await asyncio.sleep(0.002)
        app.state.ended.append("disconnected")
        return Response()

    handlers: list[Any] = [numbers, events, later, blocking, send_file, fail, wait]
    routes = [Route(f"/{each.__name__}", each) for each in handlers]
    routes += [Route(f"/{each.__name__}", each, methods=["POST"]) for each in (upload, echo)]
    app = Starlette(routes=[*routes, Mount("/tagged", routes=routes, middleware=[Middleware(Tagging)])])
    app.state.ended = []
    with threaded_server(app, lifespan="on") as server:
        vars(server)["ended"] = app.state.ended
        yield server


PREFIXES = pytest.mark.parametrize("prefix", ["", "/tagged"], ids=["plain", "within a middleware"])


def ended(server: ThreadedServer) -> list[str]:
    return vars(server)["ended"]


@PREFIXES
def test_starlette_streams_files_uploads_and_threads(starlette: ThreadedServer, prefix: str) -> None:
    with httpx.Client(base_url=starlette.url + prefix, timeout=TIMEOUT_S) as client:
        assert client.get("/numbers").text == "".join(f"{n}\n" for n in range(100))
        assert client.get("/send_file").content == bytes(range(256)) * 2000
        part = client.get("/send_file", headers={"range": "bytes=1000-1009"})
        assert (part.status_code, part.content) == (206, (bytes(range(256)) * 5)[1000:1010])
        answer = client.post("/upload", files={"file": ("name.txt", b"x" * 300_000)}, data={"text": "field"})
        assert answer.json() == {"name": "name.txt", "size": 300_000, "text": "field"}
        body = os.urandom(500_000)
        assert client.post("/echo", content=body).content == body
        assert client.post("/echo", content=iter([b"chunked ", b"pieces"])).content == b"chunked pieces"
        assert client.get("/numbers").headers.get("x-tagged") == ("yes" if prefix else None)
        assert client.get("/fail").status_code == 500
        assert client.get("/numbers").status_code == 200
    starlette.wait_for_log("ZeroDivisionError: of a route")


def test_starlettes_sync_endpoints_share_their_worker_threads(starlette: ThreadedServer) -> None:
    with httpx.Client(base_url=starlette.url, timeout=TIMEOUT_S) as client:
        assert len({client.get("/blocking").text for _ in range(10)}) == 1


@PREFIXES
def test_a_background_task_runs_after_the_response_and_the_connection_goes_on(
    starlette: ThreadedServer, prefix: str
) -> None:
    ended(starlette).clear()
    with httpx.Client(base_url=starlette.url + prefix, timeout=TIMEOUT_S) as client:
        assert client.get("/later").text == "now"
        for n in range(20):
            body = b"the next request's own %d" % n
            assert client.post("/echo", content=body).content == body
        wait_until(lambda: "background" in ended(starlette))


@PREFIXES
def test_server_sent_events_end_with_their_listener(starlette: ThreadedServer, prefix: str) -> None:
    ended(starlette).clear()
    before = starlette.log.count("Exception in ASGI application")
    with starlette.connect() as connection:
        connection.sendall(GET.replace(b"/ ", f"{prefix}/events ".encode()))
        assert read_head(connection)[1]["content-type"].startswith("text/event-stream")
        received = b""
        while b"data: 3" not in received:
            received += connection.recv(1000)
    wait_until(lambda: "events" in ended(starlette))
    assert starlette.log.count("Exception in ASGI application") == before, starlette.log


def test_a_handler_learns_that_its_client_has_left(starlette: ThreadedServer) -> None:
    ended(starlette).clear()
    with starlette.connect() as connection:
        connection.sendall(GET.replace(b"/ ", b"/wait "))
        wait_until(lambda: starlette.call(lambda: starlette.loop.reactor.requests_in_progress))
    wait_until(lambda: "disconnected" in ended(starlette))


# ---- FastAPI ------------------------------------------------------------------------------------------------------


def test_fastapi_injects_dependencies_and_validates_sync_and_async() -> None:
    from fastapi import Depends, FastAPI, HTTPException
    from pydantic import BaseModel

    app = FastAPI()
    closed: list[str] = []

    async def session() -> AsyncIterator[str]:
        try:
            yield "session"
        finally:
            await asyncio.sleep(0)
            closed.append("session")

    def sync_session() -> Iterator[str]:
        try:
            yield "sync session"
        finally:
            closed.append("sync session")

    class Item(BaseModel):
        name: str
        price: float

    async def add(
        item: Item, one: Annotated[str, Depends(session)], other: Annotated[str, Depends(sync_session)]
    ) -> dict[str, Any]:
        return {"name": item.name, "total": item.price * 2, "with": [one, other]}

    def read(number: int) -> dict[str, int]:
        if number > 10:
            raise HTTPException(404, "no such item")
        return {"number": number}

    # Annotations of local names cannot be resolved from their text.
    add.__annotations__ |= {
        "item": Item,
        "one": Annotated[str, Depends(session)],
        "other": Annotated[str, Depends(sync_session)],
    }
    app.post("/items")(add)
    app.get("/items/{number}")(read)
    with threaded_server(app, lifespan="on") as server, httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as client:
        for _ in range(3):
            answer = client.post("/items", json={"name": "penstock", "price": 1.5})
            assert answer.json() == {"name": "penstock", "total": 3.0, "with": ["session", "sync session"]}
        assert client.post("/items", json={"name": "x"}).status_code == 422
        assert client.get("/items/7").json() == {"number": 7}
        assert client.get("/items/70").json() == {"detail": "no such item"}
        assert client.get("/openapi.json").status_code == 200
    # A thread closes one of them, maybe after the other of the next request.
    assert closed.count("session") == closed.count("sync session") >= 3
