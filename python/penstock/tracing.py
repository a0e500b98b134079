"""Spans of OpenTelemetry: one for each request, a child of what the client's `traceparent` names, with what the
conventions for HTTP servers want (https://opentelemetry.io/docs/specs/semconv/http/http-spans/).

The application is wrapped, once, when tracing is on: a server that does not trace never comes here. What the
application makes of its own (spans of its database, say) is in the request's span, since that is the current one while
the application runs.

An application that has set a provider keeps it. Otherwise there is one made from OpenTelemetry's own variables
(OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER and the rest), in each process after the fork: its
thread would not survive one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import __version__, logs
from .config import ServerConfig
from .errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

# Any of these says that somebody wants what is traced.
_ASKING = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
_FLUSH_S = 5.0

# RFC 9110, section 9, and PATCH (RFC 5789): others are anybody's, and would be a name for a span each.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
# What the conventions want hidden in a query: signatures that are keys to what they sign.
_SIGNATURES = re.compile(r"((?:^|&)(?:AWSAccessKeyId|Signature|sig|X-Goog-Signature)=)[^&]*")

App = Callable[..., Any]


def is_on(config: ServerConfig) -> bool:
    """As `--otel` says; without it whether OpenTelemetry's variables ask for it and its SDK is installed."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or config.otel is False:
        return False
    if config.otel:
        return True
    return any(os.environ.get(name) for name in _ASKING) and _exporter_names() != [] and _is_installed()


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.sdk.trace") is not None
    except ModuleNotFoundError:
        return False


def check(config: ServerConfig) -> None:
    """Raises `ConfigError` for a trace that cannot be had."""
    if config.otel and not _is_installed():
        raise ConfigError("--otel: needs OpenTelemetry's SDK and an exporter: pip install 'penstock[otel]'")


@contextlib.contextmanager
def exporting(config: ServerConfig) -> Generator[None]:
    """Spans go where the environment says while the block runs; the last at its end, within five seconds."""
    provider = _make_provider() if is_on(config) else None
    try:
        yield
    finally:
        if provider is not None:
            # A collector that does not answer keeps no server from leaving.
            last = threading.Thread(target=provider.shutdown, name="penstock-last-spans", daemon=True)
            last.start()
            last.join(_FLUSH_S)


def _make_provider() -> Any:
    """`None` if the application has set one."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    provider = TracerProvider()
    for name in _exporter_names():
        provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    trace.set_tracer_provider(provider)
    return provider


def _exporter_names() -> list[str]:
    asked = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    return [name for each in asked.split(",") if (name := each.strip()) not in ("", "none")]


def _exporter(name: str) -> SpanExporter:
    """By the names that OTEL_TRACES_EXPORTER has; of OTLP's protocols the one asked for, or else what is installed."""
    from importlib.metadata import entry_points

    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    of_protocol = {"http/protobuf": ["otlp_proto_http"], "grpc": ["otlp_proto_grpc"]}
    names = of_protocol.get(protocol or "", ["otlp_proto_http", "otlp_proto_grpc"]) if name == "otlp" else [name]
    for each in names:
        for found in entry_points(group="opentelemetry_traces_exporter", name=each):
            return found.load()()
    raise ConfigError(
        f"OpenTelemetry has no exporter {name!r} ({' or '.join(names)}): pip install 'penstock[otel]', or set "
        "OTEL_TRACES_EXPORTER to one that is installed"
    )


def traced(app: App, interface: str, config: ServerConfig) -> App:
    """The application, with a span around each request if tracing is on."""
    if not is_on(config):
        return app
    logs.error_logger.debug("Requests are traced")
    return _traced_asgi(app) if interface == "asgi" else _traced_wsgi(app)


# ---- ASGI


def _traced_asgi(app: App) -> App:
    begin = _beginner()

    async def traced_app(scope: dict[str, Any], receive: App, send: App) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request = _Request(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
            scheme=scope["scheme"],
            version=scope["http_version"],
            headers=headers,
            client=scope.get("client"),
            server=scope.get("server"),
        )
        with begin(request) as span:
            if not span.is_recording():
                await app(scope, receive, send)
                return

            has_begun = False

            async def told(message: dict[str, Any]) -> None:
                nonlocal has_begun
                if message["type"] == "http.response.start":
                    has_begun = True
                    _answered(span, message["status"])
                await send(message)

            try:
                await app(scope, receive, told)
            except Exception as error:
                # The server answers 500 if it still can.
                if not has_begun:
                    span.set_attribute("http.response.status_code", 500)
                span.set_attribute("error.type", type(error).__qualname__)
                raise
            finally:
                # Starlette and those built on it say which route it was.
                _note_route(span, scope["method"], getattr(scope.get("route"), "path", None))

    return traced_app


# ---- WSGI


def _traced_wsgi(app: App) -> App:
    begin = _beginner()

    def traced_app(environ: dict[str, Any], start_response: App) -> Iterable[bytes]:
        names = {name: name[5:].replace("_", "-").lower() for name in environ if name.startswith("HTTP_")}
        port = environ.get("REMOTE_PORT")
        request = _Request(
            method=environ["REQUEST_METHOD"],
            path=environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""),
            query=environ.get("QUERY_STRING", ""),
            scheme=environ["wsgi.url_scheme"],
            version=environ.get("SERVER_PROTOCOL", "HTTP/1.1").removeprefix("HTTP/"),
            headers={shown: environ[name] for name, shown in names.items()},
            client=(environ["REMOTE_ADDR"], int(port or 0)) if environ.get("REMOTE_ADDR") else None,
            server=(environ["SERVER_NAME"], int(environ["SERVER_PORT"] or 0)),
        )
        whole = contextlib.ExitStack()
        span = whole.enter_context(begin(request))

        def told(status: str, headers: Any, *more: Any) -> Any:
            _answered(span, int(status[:3]))
            return start_response(status, headers, *more)

        with contextlib.ExitStack() as until_returned:
            until_returned.push(whole)
            body = app(environ, told)
            if isinstance(body, list | tuple) or type(body) is environ.get("wsgi.file_wrapper"):
                return body
            # It is made while it is sent: the span lasts until then, and its exceptions are the span's.
            until_returned.pop_all()
        return _TracedBody(body, whole)

    return traced_app


class _TracedBody:
    """A response's body that ends its span."""

    def __init__(self, body: Iterable[bytes], span: contextlib.ExitStack) -> None:
        self._body, self._pieces, self._span = body, iter(body), span

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            raise
        except BaseException as error:
            self._span.__exit__(type(error), error, error.__traceback__)
            raise

    def close(self) -> None:
        try:
            if hasattr(self._body, "close"):
                self._body.close()  # type: ignore[attr-defined]
        finally:
            self._span.close()


# ---- what a span says


class _Request:
    """A request, as its span tells of it."""

    __slots__ = ("client", "headers", "method", "path", "query", "scheme", "server", "version")

    def __init__(
        self,
        *,
        method: str,
        path: str,
        query: str,
        scheme: str,
        version: str,
        headers: Mapping[str, str],
        client: tuple[str, int] | None,
        server: tuple[str, int | None] | None,
    ) -> None:
        self.method, self.path, self.query, self.scheme, self.version = method, path, query, scheme, version
        self.headers, self.client, self.server = headers, client, server

    @property
    def name(self) -> str:
        return self.method if self.method in _METHODS else "HTTP"

    def attributes(self) -> dict[str, str | int]:
        said: dict[str, str | int] = {
            "http.request.method": self.method if self.method in _METHODS else "_OTHER",
            "url.scheme": self.scheme,
            "url.path": self.path,
            "network.protocol.version": self.version,
        }
        if self.method not in _METHODS:
            said["http.request.method_original"] = self.method
        if self.query:
            said["url.query"] = _SIGNATURES.sub(r"\1REDACTED", self.query)
        if self.client:
            said["client.address"] = self.client[0]
        if agent := self.headers.get("user-agent"):
            said["user_agent.original"] = agent
        host, port = self._asked_for()
        if host:
            said["server.address"] = host
            if port:
                said["server.port"] = port
        return said

    def _asked_for(self) -> tuple[str | None, int | None]:
        """By the Host header; without one it is where the request arrived."""
        host, colon, port = self.headers.get("host", "").rpartition(":")
        if colon and port.isascii() and port.isdigit() and (not host.count(":") or host.endswith("]")):
            return host, int(port)
        if whole := self.headers.get("host"):
            return whole, {"http": 80, "https": 443}.get(self.scheme)
        return self.server if self.server else (None, None)


def _beginner() -> Callable[[_Request], contextlib.AbstractContextManager[Span]]:
    """What begins a request's span and makes it the current one, until the block ends."""
    from opentelemetry import propagate, trace

    tracer = trace.get_tracer("penstock", __version__)

    def begin(request: _Request) -> contextlib.AbstractContextManager[Span]:
        # By default the W3C's traceparent, tracestate and baggage; OTEL_PROPAGATORS names others.
        return tracer.start_as_current_span(
            request.name,
            context=propagate.extract(request.headers),
            kind=trace.SpanKind.SERVER,
            attributes=request.attributes(),
            set_status_on_exception=True,
        )

    return begin


def _answered(span: Span, status: int) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)


def _note_route(span: Span, method: str, route: str | None) -> None:
    if isinstance(route, str):
        span.set_attribute("http.route", route)
        span.update_name(f"{method if method in _METHODS else 'HTTP'} {route}")
