"""`--otel`: spans of requests, as a collector gets them over OTLP."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest
from conftest import HELLO_APP, Server, clean_environment
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from waiting import wait_until

Serve = Callable[..., Server]

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"traceparent: 00-{TRACE}-{PARENT}-01\r\n"

APP = """
from opentelemetry import trace

tracer = trace.get_tracer("the application")

async def app(scope, receive, send):
    if scope["path"] == "/raise":
        raise LookupError("nothing there")
    with tracer.start_as_current_span("work"):
        pass
    status = 503 if scope["path"] == "/busy" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""

WSGI = """
from opentelemetry import trace

tracer = trace.get_tracer("the application")

def pieces():
    with tracer.start_as_current_span("piece"):
        pass
    yield b"a"
    raise_it()
    yield b"b"

def raise_it():
    pass

def app(environ, start_response):
    if environ["PATH_INFO"] == "/raise":
        raise LookupError("nothing there")
    start_response("200 OK", [("content-length", "2")])
    return pieces() if environ["PATH_INFO"] == "/pieces" else [b"ok"]
"""


class Collector:
    """What an OTLP collector is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest()
                request.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
                for resource in request.resource_spans:
                    collector.resources.append(attributes(resource.resource))
                    for scope in resource.scope_spans:
                        collector.spans.extend(scope.spans)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def env(self, **more: str) -> dict[str, str]:
        address = f"http://127.0.0.1:{self.server.server_address[1]}"
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": address,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_SERVICE_NAME": "shop",
            **more,
        }

    def wait_for(self, count: int) -> list[Span]:
        wait_until(lambda: len(self.spans) >= count, f"{count} spans")
        return sorted(self.spans, key=lambda span: span.start_time_unix_nano)


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


@pytest.fixture
def collector() -> Generator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with collector.server:
        yield collector
        collector.server.shutdown()
        thread.join()


def ask(server: Server, target: str, headers: str = "") -> bytes:
    return server.exchange(f"GET {target} HTTP/1.1\r\nhost: shop:8080\r\n{headers}connection: close\r\n\r\n".encode())


@pytest.mark.parametrize("more", [(), ("--workers", "1"), ("--reactors", "2")])
def test_a_request_is_a_span_in_its_clients_trace_with_the_applications_spans_in_it(
    serve: Serve, collector: Collector, more: tuple[str, ...]
):
    server = serve(APP, "--lifespan", "off", *more, env=collector.env())
    ask(server, "/cart?item=7&sig=abc", f"{TRACEPARENT}user-agent: test\r\n")
    request, work = collector.wait_for(2)
    assert (request.name, request.kind) == ("GET", Span.SPAN_KIND_SERVER)
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert (work.name, work.trace_id, work.parent_span_id) == ("work", request.trace_id, request.span_id)
    assert request.start_time_unix_nano <= work.start_time_unix_nano
    assert work.end_time_unix_nano <= request.end_time_unix_nano
    assert attributes(request) == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "url.path": "/cart",
        "url.query": "item=7&sig=REDACTED",
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "user_agent.original": "test",
        "server.address": "shop",
        "server.port": 8080,
        "http.response.status_code": 200,
    }
    assert collector.resources[0]["service.name"] == "shop"


def test_what_went_wrong_is_said(serve: Serve, collector: Collector):
    server = serve(APP, "--lifespan", "off", env=collector.env())
    assert ask(server, "/busy").startswith(b"HTTP/1.1 503 ")
    assert ask(server, "/raise").startswith(b"HTTP/1.1 500 ")
    server.exchange(b"BREW / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    busy, _, raised, brewed, _ = collector.wait_for(5)
    assert attributes(busy)["http.response.status_code"] == 503
    assert busy.status.code == Status.STATUS_CODE_ERROR
    assert attributes(raised)["http.response.status_code"] == 500
    assert attributes(raised)["error.type"] == "LookupError"
    assert raised.status.code == Status.STATUS_CODE_ERROR
    assert [event.name for event in raised.events] == ["exception"]
    assert brewed.name == "HTTP"
    assert attributes(brewed)["http.request.method"] == "_OTHER"
    assert attributes(brewed)["http.request.method_original"] == "BREW"
    assert brewed.status.code == Status.STATUS_CODE_UNSET


def test_a_framework_that_knows_the_route_names_the_span(serve: Serve, collector: Collector):
    server = serve(
        """
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route

        async def item(request):
            return PlainTextResponse("ok")

        app = Starlette(routes=[Route("/items/{id}", item)])
        """,
        env=collector.env(),
    )
    ask(server, "/items/7")
    (span,) = collector.wait_for(1)
    assert span.name == "GET /items/{id}"
    assert attributes(span)["http.route"] == "/items/{id}"


def test_wsgi_is_traced_until_its_body_has_been_made(serve: Serve, collector: Collector):
    server = serve(WSGI, env=collector.env())
    ask(server, "/one", TRACEPARENT)
    assert ask(server, "/pieces").endswith(b"\r\n\r\nab")
    ask(server, "/raise")
    one, pieces, piece, raised = collector.wait_for(4)
    assert (one.trace_id.hex(), one.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(one)["url.path"] == "/one"
    assert attributes(one)["server.address"] == "shop"
    assert attributes(one)["http.response.status_code"] == 200
    assert (piece.name, piece.parent_span_id) == ("piece", pieces.span_id)
    assert piece.end_time_unix_nano <= pieces.end_time_unix_nano
    assert raised.status.code == Status.STATUS_CODE_ERROR
    assert [event.name for event in raised.events] == ["exception"]


def test_what_the_client_says_is_not_sampled_is_not(serve: Serve, collector: Collector):
    server = serve(APP, "--lifespan", "off", env=collector.env())
    ask(server, "/unsampled", f"traceparent: 00-{TRACE}-{PARENT}-00\r\n")
    ask(server, "/nonsense", "traceparent: 00-xyz\r\n")
    spans = collector.wait_for(2)
    assert [attributes(span).get("url.path") for span in spans] == ["/nonsense", None]
    assert spans[0].parent_span_id == b""


def test_spans_of_the_last_requests_are_not_lost_at_a_stop(serve: Serve, collector: Collector):
    server = serve(APP, "--lifespan", "off", env=collector.env(OTEL_BSP_SCHEDULE_DELAY="600000"))
    ask(server, "/last")
    assert collector.spans == []
    server.stop()
    assert [span.name for span in collector.spans] == ["work", "GET"]


def test_a_collector_that_is_not_there_holds_up_neither_requests_nor_a_stop(serve: Serve, taken_port: int):
    # Somebody listens and never answers.
    server = serve(
        APP, "--otel", "--lifespan", "off", env={"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{taken_port}"}
    )
    assert ask(server, "/").startswith(b"HTTP/1.1 200 ")
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        (("--no-otel",), {}),
        ((), {"OTEL_SDK_DISABLED": "true"}),
        ((), {"OTEL_TRACES_EXPORTER": "none"}),
        ((), {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}),
    ],
)
def test_who_does_not_want_it_pays_nothing(
    serve: Serve, collector: Collector, arguments: tuple[str, ...], env: dict[str, str]
):
    source = """
    import sys
    async def app(scope, receive, send):
        body = str([name for name in sys.modules if name.startswith("opentelemetry")]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
    """
    server = serve(source, "--lifespan", "off", *arguments, env=collector.env(**env))
    answer = ask(server, "/")
    assert "opentelemetry.trace" not in answer.decode(), "it is not even imported"
    assert collector.spans == []


def test_an_application_that_has_set_a_provider_keeps_it(serve: Serve, collector: Collector):
    source = """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    provider = TracerProvider()
    exporter = ConsoleSpanExporter(formatter=lambda span: "told: " + span.name + chr(10))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
    """
    server = serve(source, "--otel", "--lifespan", "off", env=collector.env())
    ask(server, "/")
    server.wait_for_log("told: GET")
    server.stop()
    assert collector.spans == []


def test_without_the_sdk_otel_says_what_to_install(write_app: Any):
    directory = write_app(HELLO_APP)
    blocked = (
        "import sys; sys.modules['opentelemetry.sdk'] = None; "
        "from penstock.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    for more in ([], ["--workers", "1"]):
        told = subprocess.run(
            [sys.executable, "-c", blocked, "serve", "--otel", "--port", "0", *more, "main:app"],
            cwd=directory,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert told.returncode == 2
        assert told.stderr.endswith(
            "penstock: error: --otel: needs OpenTelemetry's SDK and an exporter: pip install 'penstock[otel]'\n"
        )


@pytest.mark.parametrize("more", [[], ["--workers", "1"]])
def test_an_exporter_that_is_none_ends_the_start(penstock: Any, write_app: Any, more: list[str]):
    write_app(HELLO_APP)
    env = {"OTEL_TRACES_EXPORTER": "carrier-pigeon"}
    told = penstock("serve", "--otel", "--port", "0", *more, "main:app", env=env)
    assert told.returncode == 2
    assert "OpenTelemetry has no exporter 'carrier-pigeon'" in told.stderr
