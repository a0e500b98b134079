"""Every server that is measured, and the command that starts it on a port. A new peer is one entry in `all_servers`.

All run one worker, log nothing, and keep idle connections for ten minutes: what is compared is the same service.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from peers import Peers

HERE = Path(__file__).resolve().parent
KEEP_ALIVE_S = 600
# What the works about files ask for: name and bytes.
FILES = {"1k": 1 << 10, "100k": 100 << 10, "100m": 100 << 20}
# Applications that are programs of their own, and no web server's.
UDP_ECHO = "examples/udp_echo.py"
RESP = "examples/resp_server.py"
# More than any work opens; the servers' own defaults would refuse the idle work.
MOST_CONNECTIONS = 19_000

NGINX_CONF = """\
{user}daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.err crit;
events {{ worker_connections {most_connections}; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout {keep_alive_s}s; default_type text/plain;
  sendfile on; tcp_nopush on; open_file_cache max=1000 inactive=60s;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location = / {{ return 200 "Hello, World!"; }}
    location /files/ {{ root {directory}; }}
  }}
}}
"""


@dataclass(frozen=True)
class Launch:
    """What starts a server."""

    argv: list[str]
    environment: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Server:
    """One server with one application. `launch` takes a free port and a directory of the server's own."""

    name: str
    launch: Callable[[int, Path], Launch]
    # Why it cannot be measured here; None if it can.
    missing: str | None = None
    # What tells that it is ready: a GET answered with 200, a connection, or a datagram that comes back.
    speaks: Literal["http", "tcp", "udp"] = "http"


class Servers:
    """The servers of this machine: Penstock from its own environment, the others if they are installed."""

    def __init__(self, peers: Peers) -> None:
        self.peers = peers
        self.penstock_command = Path(sys.executable).parent / "penstock"
        self.nginx_command = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

    def get(self, name: str, app: str) -> Server:
        """The server called `name`, to run `app` (module:attribute) where it runs applications."""
        if app == UDP_ECHO:
            return {"penstock": self._penstock_udp, "uvloop": self._uvloop_udp}[name](name)
        if app == RESP:
            return {"penstock": self._penstock_resp, "redis": self._redis}[name](name)
        make = {
            "penstock": self._penstock,
            "penstock-logged": self._penstock_logged,
            "nginx": self._nginx,
            "uvicorn": self._uvicorn,
            "granian": self._granian_asgi,
            "granian-rsgi": self._granian_rsgi,
            "granian-wsgi": self._granian_wsgi,
            "gunicorn": self._gunicorn,
            "socketify": self._socketify,
            "penstock-stream": self._penstock_stream,
            "uvloop": self._uvloop,
            "bare loop": self._bare_loop,
        }
        return make[name](name, app)

    def versions(self) -> dict[str, str]:
        found = self.peers.versions()
        if self.nginx_command:
            told = subprocess.run([self.nginx_command, "-v"], capture_output=True, text=True).stderr
            version = re.search(r"nginx/(\S+)", told)
            found["nginx"] = version[1] if version else told.strip()
        if redis := shutil.which("redis-server"):
            told = subprocess.run([redis, "--version"], capture_output=True, text=True).stdout
            version = re.search(r"v=(\S+)", told)
            found["redis"] = version[1] if version else told.strip()
        return dict(sorted(found.items()))

    def _penstock(self, name: str, app: str) -> Server:
        def options(directory: Path) -> list[str]:
            files = [f"--static=/files={make_files(directory)}"] if app == "files" else []
            return [*files, "--no-access-log", "apps:asgi" if app == "files" else app]

        return self.penstock(name, options, self._frameworks_of_peers(app))

    def _penstock_logged(self, name: str, app: str) -> Server:
        return self.penstock(name, lambda directory: ["--access-logfile", str(directory / "access.log"), app])

    def penstock(
        self, name: str, options: Callable[[Path], list[str]], environment: dict[str, str] | None = None
    ) -> Server:
        """Penstock with options of one's own, which may name files in the server's directory."""

        def launch(port: int, directory: Path) -> Launch:
            common = ["--app-dir", str(HERE), "--port", str(port), "--timeout-keep-alive", str(KEEP_ALIVE_S)]
            return Launch([str(self.penstock_command), "serve", *common, *options(directory)], environment or {})

        missing = None if self.penstock_command.exists() else f"no {self.penstock_command}: run make build"
        return Server(name, launch, missing)

    def _penstock_udp(self, name: str) -> Server:
        def launch(port: int, directory: Path) -> Launch:
            return Launch([sys.executable, str(HERE.parent / UDP_ECHO), "--port", str(port)])

        return Server(name, launch, speaks="udp")

    def _penstock_resp(self, name: str) -> Server:
        def launch(port: int, directory: Path) -> Launch:
            return Launch([sys.executable, str(HERE.parent / RESP), "--port", str(port)])

        return Server(name, launch, speaks="tcp")

    def _redis(self, name: str) -> Server:
        command = shutil.which("redis-server")

        def launch(port: int, directory: Path) -> Launch:
            in_memory = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
            return Launch([str(command), "--port", str(port), *in_memory])

        missing = None if command else "redis-server is not installed: apt-get install redis-server"
        return Server(name, launch, missing, speaks="tcp")

    def _uvloop_udp(self, name: str) -> Server:
        def launch(port: int, directory: Path) -> Launch:
            return Launch([str(self.peers.python), str(HERE / "uvloop_udp.py"), str(port)])

        missing = None if "uvloop" in self.peers.versions() else "uvloop is not installed"
        return Server(name, launch, missing, speaks="udp")

    def _frameworks_of_peers(self, app: str) -> dict[str, str]:
        site_packages = self.peers.site_packages() if app.startswith("framework_apps:") else None
        return {"PYTHONPATH": str(site_packages)} if site_packages else {}

    def _nginx(self, name: str, app: str) -> Server:
        def launch(port: int, directory: Path) -> Launch:
            configuration = directory / "nginx.conf"
            make_files(directory)
            configuration.write_text(
                NGINX_CONF.format(
                    # Else its workers would be somebody who cannot enter our directories.
                    user="user root;\n" if os.geteuid() == 0 else "",
                    directory=directory,
                    port=port,
                    most_connections=MOST_CONNECTIONS,
                    keep_alive_s=KEEP_ALIVE_S,
                )
            )
            return Launch([str(self.nginx_command), "-c", str(configuration), "-e", str(directory / "nginx.err")])

        return Server(name, launch, None if self.nginx_command else "nginx is not installed")

    def _uvicorn(self, name: str, app: str) -> Server:
        options = ["--no-access-log", "--log-level", "warning", "--timeout-keep-alive", str(KEEP_ALIVE_S)]
        return self._peer(name, "uvicorn", lambda port: ["--app-dir", str(HERE), "--port", str(port), *options, app])

    def _granian_asgi(self, name: str, app: str) -> Server:
        return self._granian(name, "asgi", app)

    def _granian_rsgi(self, name: str, app: str) -> Server:
        return self._granian(name, "rsgi", "apps:rsgi")

    def _granian(self, name: str, interface: str, app: str) -> Server:
        options = ["--interface", interface, "--working-dir", str(HERE), "--no-access-log", "--log-level", "error"]
        options += ["--backpressure", str(MOST_CONNECTIONS)]
        return self._peer(name, "granian", lambda port: [*options, "--port", str(port), app])

    def _granian_wsgi(self, name: str, app: str) -> Server:
        return self._granian(name, "wsgi", app)

    def _gunicorn(self, name: str, app: str) -> Server:
        options = ["--chdir", str(HERE), "--worker-class", "gthread", "--threads", "4", "--log-level", "critical"]
        options += ["--keep-alive", str(KEEP_ALIVE_S)]
        return self._peer(name, "gunicorn", lambda port: [*options, "--bind", f"127.0.0.1:{port}", app])

    def _socketify(self, name: str, app: str) -> Server:
        def launch(port: int, directory: Path) -> Launch:
            return Launch([str(self.peers.python), str(HERE / "socketify_server.py"), str(port)])

        return Server(name, launch, None if "socketify" in self.peers.versions() else "socketify is not installed")

    def _penstock_stream(self, name: str, app: str) -> Server:
        return self._stream(name, "penstock", Path(sys.executable), app)

    def _uvloop(self, name: str, app: str) -> Server:
        missing = None if "uvloop" in self.peers.versions() else "uvloop is not installed"
        return self._stream(name, "uvloop", self.peers.python, app, missing)

    def _bare_loop(self, name: str, app: str) -> Server:
        """No peer, but what is under all: see bare_loop.rs."""

        def launch(port: int, directory: Path) -> Launch:
            program = directory / "bare_loop"
            compiler = ["rustc", "-O", "--edition", "2024", "-o", str(program), str(HERE / "bare_loop.rs")]
            subprocess.run(compiler, check=True)
            return Launch([str(program), "broadcast" if app == "broadcast" else "echo", str(port)])

        return Server(name, launch, None if shutil.which("rustc") else "rustc is not installed", speaks="tcp")

    def _stream(self, name: str, kind: str, python: Path, app: str, missing: str | None = None) -> Server:
        def launch(port: int, directory: Path) -> Launch:
            return Launch([str(python), str(HERE / "stream_apps.py"), kind, app, str(port)])

        return Server(name, launch, missing, speaks="tcp")

    def _peer(self, name: str, command: str, arguments: Callable[[int], list[str]]) -> Server:
        path = self.peers.bin / command

        def launch(port: int, directory: Path) -> Launch:
            return Launch([str(path), *arguments(port)])

        return Server(name, launch, None if path.exists() else f"{command} is not installed")


def make_files(directory: Path) -> Path:
    """A directory with `FILES` for a server that serves files."""
    files = directory / "files"
    files.mkdir(exist_ok=True)
    for name, size in FILES.items():
        with (files / name).open("wb") as file:
            file.truncate(size)
    return files
