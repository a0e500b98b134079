"""Which interface an application speaks is told by how it is called, and never guessed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flask
import pytest
from conftest import Server
from django.core.handlers.wsgi import WSGIHandler
from fastapi import FastAPI
from starlette.applications import Starlette

from penstock.errors import AppImportError
from penstock.interface import interface_of


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


def asgi_returning_awaitable(scope: Any, receive: Any, send: Any) -> Any: ...


def wsgi(environ: Any, start_response: Any) -> Any: ...


def wsgi_with_options(environ: Any, start_response: Any, prefix: str = "") -> Any: ...


@functools.wraps(wsgi)
def wrapped(*args: Any, **kwargs: Any) -> Any: ...


class AsgiObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class WsgiObject:
    def __call__(self, environ: Any, start_response: Any) -> Any: ...


class WsgiClass:
    """An application whose instances are its responses, as PEP 3333 shows one."""

    def __init__(self, environ: Any, start_response: Any) -> None: ...

    def __iter__(self) -> Any: ...


class Asgi2:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize(
    "app",
    [
        asgi,
        asgi_returning_awaitable,
        AsgiObject(),
        functools.partial(asgi),
        functools.partial(AsgiObject()),
        FastAPI(),
        Starlette(),
    ],
)
def test_coroutines_and_three_arguments_are_asgi(app: Callable[..., Any]) -> None:
    assert interface_of(app) == "asgi"


@pytest.mark.parametrize(
    "app",
    [
        wsgi,
        wsgi_with_options,
        wrapped,
        WsgiObject(),
        WsgiClass,
        functools.partial(asgi_returning_awaitable, None),
        flask.Flask(__name__),
        WSGIHandler.__call__.__get__(object()),
        lambda environ, start_response: [],
    ],
)
def test_two_arguments_are_wsgi(app: Callable[..., Any]) -> None:
    assert interface_of(app) == "wsgi"


@pytest.mark.parametrize(
    ("app", "why"),
    [
        (Asgi2, "as ASGI 2 applications did"),
        (lambda *args: None, "takes any number of arguments"),
        (lambda a, b, c, d: None, "takes 4 arguments, where ASGI has three and WSGI two"),
        (type, "does not tell what arguments it takes"),
    ],
)
def test_what_could_be_either_is_refused_with_the_flag_that_decides(app: Callable[..., Any], why: str) -> None:
    with pytest.raises(AppImportError, match=why) as raised:
        interface_of(app)
    assert "--interface asgi or wsgi" in str(raised.value)
    assert interface_of(app, "wsgi") == "wsgi"
    assert interface_of(app, "asgi") == "asgi"


def test_a_server_leaves_with_one_line_when_it_cannot_tell(penstock: Callable[..., Any], write_app: Any) -> None:
    write_app("app = lambda *args: None")
    ended = penstock("serve", "--port", "0", "main:app")
    assert ended.returncode != 0
    assert "--interface" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_served_application_is_found_out(serve: Callable[..., Server]) -> None:
    server = serve(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [environ['SERVER_PROTOCOL'].encode()]\n"
    )
    assert server.get().endswith(b"\r\n\r\nHTTP/1.1")
