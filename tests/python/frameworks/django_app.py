"""Django's documented features over ASGI, one view each; its settings are here, and it needs no database."""

# Django has no types of its own, and what is guessed from its sources is wrong in these two.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    DEBUG=False,
    INSTALLED_APPS=["django.contrib.sessions", "django.contrib.messages", "django.contrib.staticfiles"],
    LOGGING_CONFIG=None,
    MESSAGE_STORAGE="django.contrib.messages.storage.session.SessionStorage",
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.gzip.GZipMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        f"{__name__}.noting",
        f"{__name__}.noting_async",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of the test alone",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    STATIC_URL="/static/",
    STATICFILES_DIRS=["static"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
    USE_TZ=True,
)
django.setup()

from django.contrib import messages  # noqa: E402
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.exceptions import PermissionDenied  # noqa: E402
from django.core.signals import request_started  # noqa: E402
from django.http import (  # noqa: E402
    FileResponse,
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.template import engines  # noqa: E402
from django.urls import path  # noqa: E402
from django.utils.decorators import async_only_middleware, sync_only_middleware  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402
from django.views.decorators.http import require_GET  # noqa: E402

from .journal import note, told  # noqa: E402

View = Callable[[HttpRequest], Any]

WATCHED = {"/signals", "/stream", "/events"}
"""Paths whose signals are noted; of others the end may come at any time after their response."""


@sync_only_middleware
def noting(get_response: View) -> View:
    def middleware(request: HttpRequest) -> Any:
        response = get_response(request)
        response["x-sync-middleware"] = "passed"
        return response

    return middleware


@async_only_middleware
def noting_async(get_response: View) -> View:
    async def middleware(request: HttpRequest) -> Any:
        response = await get_response(request)
        if request.path in WATCHED:
            # Called when the server is done with the response, right before the signal, which does not say of what.
            response._resource_closers.append(lambda: note(f"{request.path} has finished"))
        response["x-async-middleware"] = "passed"
        return response

    return middleware


@csrf_exempt
async def echo(request: HttpRequest, name: str) -> HttpResponse:
    return JsonResponse(
        {
            "method": request.method,
            "path": request.get_full_path(),
            "query": request.GET.dict(),
            "name": name,
            "cookies": request.COOKIES,
            "client": request.META["REMOTE_ADDR"],
            "secure": request.is_secure(),
            "content-type": request.content_type,
            "body": request.body.decode("latin-1"),
            "accepts-html": request.accepts("text/html"),
        }
    )


def threaded(request: HttpRequest) -> HttpResponse:
    time.sleep(0.001)
    return HttpResponse("from a thread", content_type="text/plain")


@csrf_exempt
def upload(request: HttpRequest) -> HttpResponse:
    files = [
        (name, each.name, each.content_type, each.size, hashlib.sha256(each.read()).hexdigest(), type(each).__name__)
        for name, each in request.FILES.items()
    ]
    return JsonResponse({"fields": request.POST.dict(), "files": files})


@csrf_exempt
def read_on(request: HttpRequest) -> HttpResponse:
    """The body as a file."""
    digest, length = hashlib.sha256(), 0
    while piece := request.read(10_000):
        digest.update(piece)
        length += len(piece)
    return JsonResponse({"sha256": digest.hexdigest(), "bytes": length})


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    async def numbers() -> AsyncIterator[str]:
        for number in range(20):
            yield f"{number}\n"
            await asyncio.sleep(0)
        note("the stream is whole")

    return StreamingHttpResponse(numbers(), content_type="text/plain")


def sync_stream(request: HttpRequest) -> StreamingHttpResponse:
    def numbers() -> Iterator[str]:
        yield from (f"{number}\n" for number in range(5))

    return StreamingHttpResponse(numbers(), content_type="text/plain")


async def events(request: HttpRequest) -> StreamingHttpResponse:
    async def endless() -> AsyncIterator[bytes]:
        note("the events begin")
        try:
            for number in range(100_000):
                yield f"data: {number}\n\n".encode()
                await asyncio.sleep(0.01)
        finally:
            note("the events end")

    return StreamingHttpResponse(endless(), content_type="text/event-stream")


def count(request: HttpRequest) -> HttpResponse:
    request.session["count"] = request.session.get("count", 0) + 1
    return HttpResponse(str(request.session["count"]))


def say(request: HttpRequest) -> HttpResponse:
    messages.info(request, "well done")
    return HttpResponseRedirect("/said")


def said(request: HttpRequest) -> HttpResponse:
    return HttpResponse(", ".join(str(message) for message in messages.get_messages(request)))


FORM = '<form method="post">{% csrf_token %}<input name="word"><p>{{ word }}</p></form>'


def form(request: HttpRequest) -> HttpResponse:
    page = engines["django"].from_string(FORM)
    return HttpResponse(page.render({"word": request.POST.get("word", "")}, request))


async def fails(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("of the application's own")


def missing(request: HttpRequest) -> HttpResponse:
    raise Http404("no such thing")


def forbidden(request: HttpRequest) -> HttpResponse:
    raise PermissionDenied


def cookies(request: HttpRequest) -> HttpResponse:
    response = HttpResponse("set")
    response.set_cookie("a", "1", max_age=60)
    response.set_cookie("b", "2", httponly=True)
    return response


async def journal(request: HttpRequest) -> HttpResponse:
    return HttpResponse(told(), content_type="text/plain")


urlpatterns = [
    path("echo/<str:name>", echo),
    path("threaded", threaded),
    path("signals", threaded),
    path("upload", upload),
    path("read", read_on),
    path("stream", stream),
    path("sync-stream", sync_stream),
    path("events", events),
    path("count", count),
    path("say", say),
    path("said", said),
    path("form", form),
    path("fails", fails),
    path("missing", missing),
    path("forbidden", forbidden),
    path("cookies", cookies),
    path("only-get", require_GET(threaded)),
    path("slashed/", threaded),
    path("file", lambda request: FileResponse(open("file.bin", "rb"), as_attachment=True)),  # noqa: SIM115 (it closes it)
    path("journal", journal),
]


def starts(scope: dict[str, Any], **_: Any) -> None:
    if scope["path"] in WATCHED:
        note(f"{scope['path']} starts")


request_started.connect(starts)

# As documented for development; DEBUG, which it asks for, would put ports into error pages.
app = ASGIStaticFilesHandler(get_asgi_application())
