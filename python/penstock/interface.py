"""Which interface an application speaks, ASGI or WSGI: told by `--interface`, or by how the application is called.

An ASGI application is a coroutine function, or takes three arguments; a WSGI application takes two. What could be
either is refused with the flag that decides: guessing wrong would show only with the first request.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

from .errors import AppImportError

Interface = Literal["asgi", "wsgi"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def interface_of(app: Callable[..., Any], wanted: str = "auto") -> Interface:
    """The interface to serve `app` with. Raises `AppImportError` if nothing tells."""
    if wanted in ("asgi", "wsgi"):
        return wanted
    if _is_coroutine_function(app):
        return "asgi"
    needed, most = _arguments(app)
    if needed == 3 or (needed < 2 and most == 3):
        return "asgi"
    if needed == 2 or (needed < 2 and most == 2):
        return "wsgi"
    raise AppImportError(f"{_name(app)} {_why_undecided(needed, most)}: say which with --interface asgi or wsgi")


def _is_coroutine_function(app: Any) -> bool:
    while isinstance(app, functools.partial):
        app = app.func
    if inspect.iscoroutinefunction(app):
        return True
    # A class is called to make an object; its __call__ is the object's.
    return not inspect.isclass(app) and inspect.iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004


def _arguments(app: Any) -> tuple[int, float]:
    """How many positional arguments it needs, and how many it takes at most; (0, 0) if it does not say."""
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return 0, 0
    positional = [each for each in parameters if each.kind in _POSITIONAL]
    is_open = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters)
    needed = sum(each.default is each.empty for each in positional)
    return needed, float("inf") if is_open else len(positional)


def _why_undecided(needed: int, most: float) -> str:
    if most == 1:
        return (
            "takes one argument, as ASGI 2 applications did: ASGI 3 takes scope, receive and send (asgiref's "
            "guarantee_single_callable makes one of the other), WSGI environ and start_response"
        )
    if most == 0:
        return "does not tell what arguments it takes"
    if most == float("inf"):
        return "takes any number of arguments: it could be an ASGI or a WSGI application"
    return f"takes {needed} arguments, where ASGI has three and WSGI two"


def _name(app: Any) -> str:
    return getattr(app, "__qualname__", None) or f"an object of type {type(app).__name__}"
