"""Starlette's documented features, one route each."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator

from starlette.applications import Starlette
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from .journal import note, told


async def echo(request: Request) -> Response:
    return JSONResponse(
        {
            "method": request.method,
            "path": request.url.path,
            "query": request.query_params.multi_items(),
            "parameter": request.path_params.get("name"),
            "cookies": request.cookies,
            "accept": request.headers.getlist("accept"),
            "client": request.client.host if request.client else None,
            "body": (await request.body()).decode("latin-1"),
            "url": str(request.url_for("echo", name="a b")).replace(f":{request.url.port}", ""),
        }
    )


def threaded(request: Request) -> Response:
    """Not a coroutine: it runs in anyio's threads."""
    return PlainTextResponse("from a thread")


async def upload(request: Request) -> Response:
    async with request.form() as form:
        fields = [
            (name, value)
            if isinstance(value, str)
            else (name, value.filename, value.content_type, value.size, hashlib.sha256(await value.read()).hexdigest())
            for name, value in form.multi_items()
        ]
    return JSONResponse(fields)


async def digest(request: Request) -> Response:
    """The body as it comes."""
    seen, length = hashlib.sha256(), 0
    try:
        async for piece in request.stream():
            seen.update(piece)
            length += len(piece)
    except ClientDisconnect:
        note("the client left in the middle of its body")
        raise
    return JSONResponse({"sha256": seen.hexdigest(), "bytes": length})


async def stream(request: Request) -> Response:
    async def numbers() -> AsyncIterator[str]:
        for number in range(20):
            yield f"{number}\n"
            await asyncio.sleep(0)
        note("the stream is whole")

    return StreamingResponse(numbers(), media_type="text/plain")


async def sync_stream(request: Request) -> Response:
    return StreamingResponse((f"{number}\n" for number in range(5)), media_type="text/plain")


async def broken_stream(request: Request) -> Response:
    async def numbers() -> AsyncIterator[str]:
        yield "0\n"
        await asyncio.sleep(0)
        raise RuntimeError("in the middle")

    return StreamingResponse(numbers(), media_type="text/plain")


async def events(request: Request) -> Response:
    async def endless() -> AsyncIterator[bytes]:
        note("the events begin")
        try:
            for number in range(100_000):
                yield f"id: {number}\ndata: tick\n\n".encode()
                await asyncio.sleep(0.01)
        finally:
            note("the events end")

    return StreamingResponse(endless(), media_type="text/event-stream")


async def background(request: Request) -> Response:
    async def later(what: str) -> None:
        await asyncio.sleep(0.01)
        note(f"later: {what}")

    def in_a_thread() -> None:
        note("later: in a thread")

    tasks = BackgroundTasks([BackgroundTask(later, "one"), BackgroundTask(in_a_thread), BackgroundTask(later, "two")])
    return PlainTextResponse("answered", background=tasks)


async def count(request: Request) -> Response:
    request.session["count"] = request.session.get("count", 0) + 1
    return PlainTextResponse(str(request.session["count"]))


async def forget(request: Request) -> Response:
    request.session.clear()
    return PlainTextResponse("forgotten")


async def cookies(request: Request) -> Response:
    response = PlainTextResponse("set")
    response.set_cookie("a", "1", max_age=60, httponly=True)
    response.set_cookie("b", "2", path="/b", samesite="strict")
    response.delete_cookie("c")
    return response


async def fails(request: Request) -> Response:
    raise RuntimeError("of the application's own")


async def refuses(request: Request) -> Response:
    raise HTTPException(418, "short and stout", headers={"x-pot": "tea"})


async def shared(request: Request) -> Response:
    return PlainTextResponse(request.state.shared)


async def journal(request: Request) -> Response:
    return PlainTextResponse(told())


async def teapot(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return HTMLResponse(f"<h1>{error.detail}</h1>", error.status_code, error.headers)


class Timed(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        note(f"in: {request.url.path}")
        response = await call_next(request)
        response.headers["x-timed"] = "yes"
        note(f"out: {request.url.path} {response.status_code}")
        return response


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncGenerator[dict[str, str]]:
    note("start-up")
    yield {"shared": "made at start-up"}
    note("shutdown")


def routes() -> list[Route | Mount]:
    return [
        Route("/echo/{name}", echo, name="echo", methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
        Route("/threaded", threaded),
        Route("/upload", upload, methods=["POST"]),
        Route("/digest", digest, methods=["POST"]),
        Route("/stream", stream),
        Route("/sync-stream", sync_stream),
        Route("/broken-stream", broken_stream),
        Route("/events", events),
        Route("/background", background),
        Route("/count", count),
        Route("/forget", forget),
        Route("/cookies", cookies),
        Route("/fails", fails),
        Route("/refuses", refuses),
        Route("/shared", shared),
        Route("/away", lambda request: RedirectResponse("/echo/there?x=1")),
        Route("/nothing", lambda request: Response(status_code=204)),
        Route("/file", lambda request: FileResponse("file.bin", filename="näme.bin")),
        Mount("/static", StaticFiles(directory="static", html=True)),
    ]


app = Starlette(
    routes=[
        *routes(),
        Route("/journal", journal),
        Mount(
            "/wrapped",
            routes=routes(),
            middleware=[
                Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1"]),
                Middleware(CORSMiddleware, allow_origins=["https://other.example"], allow_methods=["PUT"]),
                Middleware(GZipMiddleware, minimum_size=10),
                Middleware(Timed),
            ],
        ),
    ],
    middleware=[Middleware(SessionMiddleware, secret_key="of the test alone")],
    exception_handlers={418: teapot},
    lifespan=lifespan,
)
