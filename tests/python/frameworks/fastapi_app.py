"""FastAPI's documented features, one path each."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

from fastapi import (
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
    UploadFile,
    status,
)
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, StreamingResponse
from fastapi.security import OAuth2PasswordBearer
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.middleware.base import RequestResponseEndpoint

from .journal import note, told


class Item(BaseModel):
    name: str = Field(max_length=10)
    price: float
    tags: list[str] = []


class Unlucky(Exception):
    pass


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    note("start-up")
    yield
    note("shutdown")


app = FastAPI(title="Features", lifespan=lifespan)
app.mount("/static", StaticFiles(directory="static"))
bearer = OAuth2PasswordBearer(tokenUrl="token")


@app.middleware("http")
async def noting(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    response.headers["x-noted"] = request.url.path
    return response


@app.exception_handler(Unlucky)
async def unlucky(_: Request, __: Unlucky) -> JSONResponse:
    return JSONResponse({"detail": "bad luck"}, 409)


async def session() -> AsyncIterator[str]:
    note("the session opens")
    try:
        yield "session"
    except Unlucky:
        note("the session rolls back")
        raise
    finally:
        note("the session closes")


Session = Annotated[str, Depends(session)]


@app.get("/items/{number}")
async def read(
    number: int,
    q: Annotated[str | None, Query(min_length=2)] = None,
    taste: Annotated[str | None, Cookie()] = None,
    x_tokens: Annotated[list[str] | None, Header()] = None,
) -> dict[str, Any]:
    return {"number": number, "q": q, "taste": taste, "tokens": x_tokens}


@app.post("/items", status_code=status.HTTP_201_CREATED, response_model=Item)
def create(item: Item, session: Session) -> Any:
    """In a thread, with a dependency that is torn down after it."""
    note(f"created with a {session}")
    return item.model_dump() | {"secret": "left out by the response's model"}


@app.get("/unlucky")
async def fail(_: Session) -> None:
    raise Unlucky


@app.get("/fails")
async def fails() -> None:
    raise RuntimeError("of the application's own")


@app.get("/refuses")
async def refuses() -> None:
    raise HTTPException(403, {"why": "because"}, {"x-why": "because"})


@app.get("/me")
async def me(token: Annotated[str, Depends(bearer)]) -> str:
    return token


@app.post("/form")
async def form(word: Annotated[str, Form()], number: Annotated[int, Form()]) -> dict[str, Any]:
    return {"word": word, "number": number}


@app.post("/upload")
async def upload(files: list[UploadFile], small: Annotated[bytes, File()]) -> dict[str, Any]:
    digests = [(each.filename, each.size, hashlib.sha256(await each.read()).hexdigest()) for each in files]
    return {"files": digests, "small": small.decode()}


@app.get("/background")
async def background(tasks: BackgroundTasks) -> str:
    async def later(number: int) -> None:
        await asyncio.sleep(0.01)
        note(f"later: {number}")

    for number in range(3):
        tasks.add_task(later, number)
    return "answered"


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(10):
            yield b"%d " % number * 1000
            await asyncio.sleep(0)

    return StreamingResponse(pieces(), media_type="application/octet-stream")


@app.get("/events")
async def events() -> StreamingResponse:
    async def endless() -> AsyncIterator[str]:
        note("the events begin")
        try:
            for number in range(100_000):
                yield f"data: {number}\n\n"
                await asyncio.sleep(0.01)
        finally:
            note("the events end")

    return StreamingResponse(endless(), media_type="text/event-stream")


@app.get("/away")
async def away() -> RedirectResponse:
    return RedirectResponse("/items/1")


@app.get("/file")
async def file() -> FileResponse:
    return FileResponse("file.bin")


@app.get("/cookies")
async def cookies(response: Response) -> str:
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return "set"


@app.get("/journal")
async def journal() -> Response:
    return Response(told(), media_type="text/plain")
