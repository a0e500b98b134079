"""Real frameworks as they are deployed: Django with its admin, sessions, uploads and file responses, and Flask."""

from __future__ import annotations

import contextlib
import hashlib
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from conftest import Server
from waiting import wait_until

DJANGO_APP = """
import hashlib, os, sys, threading

import django
from django.conf import settings

settings.configure(
    DEBUG=False,
    SECRET_KEY="for tests alone",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="main",
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
        "django.contrib.staticfiles",
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    STATIC_URL="/static/",
    USE_TZ=True,
)

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

from django.contrib import admin
from django.contrib.auth.models import User
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.management import call_command
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

call_command("migrate", verbosity=0)
User.objects.create_superuser("root", "root@example.com", "secret")


@csrf_exempt
def upload(request):
    file = request.FILES["file"]
    digest = hashlib.sha256()
    for chunk in file.chunks():
        digest.update(chunk)
    return HttpResponse(f"{request.POST['name']} {file.name} {digest.hexdigest()}")


def stream(request):
    return StreamingHttpResponse(f"{n}," for n in range(1000))


def visits(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(str(request.session["visits"]))


def broken(request):
    raise LookupError("on purpose")


urlpatterns = [
    path("admin/", admin.site.urls),
    path("upload", upload),
    path("stream", stream),
    path("visits", visits),
    path("broken", broken),
    path("file", lambda request: FileResponse(open("large.bin", "rb"), as_attachment=True)),
]

# As runserver does it; a deployment would use --static.
application = StaticFilesHandler(application)
application.load_middleware()
"""

FLASK_APP = """
import hashlib

import flask

app = flask.Flask(__name__)
app.secret_key = "for tests alone"


@app.get("/hello/<name>")
def hello(name):
    return {"hello": name, "root": flask.request.script_root, "scheme": flask.request.scheme}


@app.post("/upload")
def upload():
    file = flask.request.files["file"]
    return hashlib.sha256(file.read()).hexdigest()


@app.post("/echo")
def echo():
    return flask.request.get_data()


@app.get("/visits")
def visits():
    flask.session["visits"] = flask.session.get("visits", 0) + 1
    return str(flask.session["visits"])


@app.get("/file")
def file():
    return flask.send_file("large.bin", conditional=True)


@app.get("/stream")
def stream():
    @flask.stream_with_context
    def lines():
        for number in range(1000):
            yield f"{flask.request.args['prefix']}{number},"

    return flask.Response(lines())


@app.get("/broken")
def broken():
    raise LookupError("on purpose")


@app.get("/logged")
def logged():
    app.logger.error("said by the application")
    return ""
"""

LARGE = bytes(range(256)) * 4096


@pytest.fixture
def client_of(serve: Callable[..., Server], tmp_path: Path) -> Iterator[Callable[..., tuple[httpx.Client, Server]]]:
    """A client, with cookies, of a server that serves this source."""
    (tmp_path / "large.bin").write_bytes(LARGE)
    clients: list[httpx.Client] = []

    def start(source: str, app: str, *arguments: str) -> tuple[httpx.Client, Server]:
        server = serve(textwrap.dedent(source), *arguments, app=app)
        clients.append(httpx.Client(base_url=server.address, trust_env=False, timeout=20))
        return clients[-1], server

    yield start
    for client in clients:
        client.close()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_django_with_its_admin(client_of: Callable[..., tuple[httpx.Client, Server]]) -> None:
    client, server = client_of(DJANGO_APP, "main:application")

    # The admin's login, with its CSRF token and session, and what is behind it.
    redirect = client.get("/admin/")
    assert (redirect.status_code, redirect.headers["location"]) == (302, "/admin/login/?next=/admin/")
    page = client.get("/admin/login/?next=/admin/").text
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert token is not None
    assert client.post("/admin/login/", data={"username": "root", "password": "secret"}).status_code == 403
    form = {"csrfmiddlewaretoken": token[1], "username": "root", "password": "secret", "next": "/admin/"}
    assert client.post("/admin/login/", data=form).headers["location"] == "/admin/"
    assert "Site administration" in client.get("/admin/").text

    # A form posted to the database, and read back.
    page = client.get("/admin/auth/user/add/").text
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert token is not None
    form = {
        "csrfmiddlewaretoken": token[1],
        "username": "zo\u00eb",
        "password1": "correct-horse",
        "password2": "correct-horse",
        "usable_password": "true",
    }
    added = client.post("/admin/auth/user/add/", data=form)
    assert added.status_code == 302, added.text
    assert "zo\u00eb" in client.get("/admin/auth/user/?q=zo%C3%AB").text

    # Static files of the admin, by Django's own application.
    css = client.get("/static/admin/css/base.css")
    assert (css.status_code, css.headers["content-type"]) == (200, "text/css")
    assert len(css.content) == int(css.headers["content-length"]) > 10_000

    uploaded = client.post("/upload", data={"name": "x"}, files={"file": ("large.bin", LARGE)})
    assert uploaded.text == f"x large.bin {digest(LARGE)}"

    sent = client.get("/file")
    assert (sent.status_code, sent.content) == (200, LARGE)
    assert sent.headers["content-disposition"] == 'attachment; filename="large.bin"'

    streamed = client.get("/stream")
    assert streamed.headers["transfer-encoding"] == "chunked"
    assert streamed.text == "".join(f"{n}," for n in range(1000))

    assert [client.get("/visits").text for _ in range(3)] == ["1", "2", "3"]
    assert client.head("/visits").content == b""
    assert client.get("/broken").status_code == 500
    assert "Exception in WSGI application" not in server.log, "Django answers by itself"


def test_django_is_sent_by_the_kernel_and_closed(client_of: Callable[..., tuple[httpx.Client, Server]]) -> None:
    """FileResponse hands its file to wsgi.file_wrapper; whether it was closed is seen in the process's descriptors."""
    client, server = client_of(DJANGO_APP, "main:application")
    for _ in range(5):
        assert client.get("/file").content == LARGE
    # The client has the last of it before the application has closed it.
    wait_until(lambda: not _open_files(server, "large.bin"), "the file stays open")


def _open_files(server: Server, name: str) -> list[str]:
    found: list[str] = []
    for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(link.readlink()))
    return [path for path in found if path.endswith(name)]


def test_flask(client_of: Callable[..., tuple[httpx.Client, Server]]) -> None:
    client, server = client_of(FLASK_APP, "main:app", "--root-path", "/api", "--threads", "3")
    assert client.get("/hello/zo%C3%AB").json() == {"hello": "zo\u00eb", "root": "/api", "scheme": "http"}
    secure = client.get("/hello/x", headers={"x-forwarded-proto": "https"})
    assert secure.json()["scheme"] == "https"
    assert client.post("/upload", files={"file": ("large.bin", LARGE)}).text == digest(LARGE)
    assert [client.get("/visits").text for _ in range(3)] == ["1", "2", "3"]
    assert client.get("/stream?prefix=n").text == "".join(f"n{n}," for n in range(1000))
    assert client.get("/nowhere").status_code == 404
    assert client.get("/broken").status_code == 500
    server.wait_for_log("LookupError: on purpose")
    client.get("/logged")
    server.wait_for_log("said by the application")


@pytest.mark.parametrize("chunked", [False, True])
def test_flask_takes_bodies_of_any_framing(
    client_of: Callable[..., tuple[httpx.Client, Server]], chunked: bool
) -> None:
    client, _ = client_of(FLASK_APP, "main:app")
    content = (LARGE[at : at + 50_000] for at in range(0, len(LARGE), 50_000)) if chunked else LARGE
    assert client.post("/echo", content=content).content == LARGE


def test_flask_sends_files_whole_in_part_and_not_again(
    client_of: Callable[..., tuple[httpx.Client, Server]],
) -> None:
    client, _ = client_of(FLASK_APP, "main:app")
    whole = client.get("/file")
    assert (whole.status_code, whole.content) == (200, LARGE)
    part = client.get("/file", headers={"range": "bytes=1000-70999"})
    assert (part.status_code, part.content) == (206, LARGE[1000:71_000])
    assert client.get("/file", headers={"if-none-match": whole.headers["etag"]}).status_code == 304
    assert client.head("/file").headers["content-length"] == str(len(LARGE))
