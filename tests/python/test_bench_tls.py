"""`penstock bench` over TLS: against Python's, nginx's and OpenSSL's servers, and against ones that break off."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from programs import need
from tls import Certificates, answer, certificates, requests, server

from penstock.bench import BenchError, Found, HttpLoad, Target, TcpLoad, run, run_tcp
from penstock.bench.beside import TOOLS
from penstock.bench.echo import Endpoint
from penstock.bench.trust import Trust
from penstock.errors import ConfigError

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def trust(made: Certificates) -> Trust:
    return Trust(cacert=made.authority)


def bench(port: int, trust: Trust, *, path: str = "/", host: str = "127.0.0.1", **how: Any) -> Found:
    """A short load over a few connections."""
    few = {"connections": 3, "duration_s": 0.1, "warm_up_s": 0.0}
    return run(HttpLoad(target=Target.of(f"https://{host}:{port}{path}"), trust=trust, **{**few, **how}))


def hello(connection: socket.socket) -> None:
    for _ in requests(connection):
        connection.sendall(answer(b"hello"))


def answer_once(connection: ssl.SSLSocket) -> None:
    next(requests(connection))
    connection.sendall(answer(b"", b"Connection: close"))
    with contextlib.suppress(ssl.SSLError):  # who has left already hears no farewell
        connection.unwrap()


# --- what goes well


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_answers_are_counted_and_what_was_agreed_on_is_told(made: Certificates, trust: Trust, version: ssl.TLSVersion):
    seen: list[tuple[str | None, str | None, bool | None]] = []
    context = made.context()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])

    def serve(connection: ssl.SSLSocket) -> None:
        seen.append((connection.version(), connection.selected_alpn_protocol(), connection.session_reused))
        hello(connection)

    with server(context, serve) as port:
        found = bench(port, trust)
    assert (found.figures.errors, found.body_mean) == (0, 5)
    assert found.figures.answers > 0
    assert found.tls is not None
    assert seen == [(version.name.replace("_", "."), "http/1.1", False)] * 3
    assert found.tls.sessions == 3
    assert found.tls.version == {"TLSv1_2": "TLS 1.2", "TLSv1_3": "TLS 1.3"}[version.name]
    assert found.tls.cipher_suite.startswith("TLS_")


@pytest.mark.parametrize("how", [{}, {"pipeline": 8}, {"rate": 100.0}, {"body": b"x" * 1_000_000}])
def test_what_was_posted_comes_back_whole(made: Certificates, trust: Trust, how: dict[str, Any]):
    def serve(connection: socket.socket) -> None:
        for body in requests(connection):
            connection.sendall(answer(body or b"nothing"))

    with server(made.context(), serve) as port:
        found = bench(port, trust, **how)
    assert (found.figures.errors, found.body_mean) == (0, len(how.get("body", b"nothing")))
    assert found.figures.answers > 0


def test_an_answer_may_be_cut_over_records_anyhow(made: Certificates, trust: Trust):
    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in requests(connection):
            whole = answer(b"hello")
            for at in range(0, len(whole), 3):
                connection.sendall(whole[at : at + 3])

    with server(made.context(), serve) as port:
        found = bench(port, trust, pipeline=2)
    assert found.figures.errors == 0
    assert found.figures.answers > 0


def test_the_client_says_when_it_will_send_no_more(made: Certificates, trust: Trust):
    ends: list[str] = []
    ended = threading.Semaphore(0)

    def serve(connection: socket.socket) -> None:
        try:
            hello(connection)
            ends.append("in good order")
        except OSError as error:
            ends.append(repr(error))
        finally:
            ended.release()

    with server(made.context(), serve) as port:
        assert bench(port, trust).figures.errors == 0
        for _ in range(3):
            assert ended.acquire(timeout=20)
    assert ends == ["in good order"] * 3


def test_every_connection_that_is_opened_again_has_a_session_of_its_own(made: Certificates, trust: Trust):
    reused: set[bool | None] = set()

    def serve(connection: ssl.SSLSocket) -> None:
        reused.add(connection.session_reused)
        answer_once(connection)

    with server(made.context(), serve) as port:
        found = bench(port, trust)
    assert found.figures.errors == 0
    assert found.reconnects > 0
    assert found.tls is not None
    assert found.tls.sessions == 3 + found.reconnects
    assert reused == {False}


def test_a_name_is_told_to_the_server_and_asked_of_its_certificate(made: Certificates, trust: Trust):
    names: set[str | None] = set()
    context = made.context()
    context.sni_callback = lambda _connection, name, _context: names.add(name)
    with server(context, hello) as port:
        assert bench(port, trust, host="localhost").figures.errors == 0
        assert bench(port, trust).figures.errors == 0
    assert names == {"localhost", None}


def test_echoes_over_tls_are_counted(made: Certificates, trust: Trust):
    def serve(connection: socket.socket) -> None:
        while received := connection.recv(65_536):
            connection.sendall(received)

    with server(made.context(), serve) as port:
        endpoint = Endpoint.of(f"127.0.0.1:{port}")
        load = TcpLoad(endpoint=endpoint, tls=True, trust=trust, size=100_000, duration_s=0.15, warm_up_s=0)
        found = run_tcp(load)
    assert (found.figures.errors, found.body_mean) == (0, 100_000)
    assert found.figures.answers > 0
    assert found.tls is not None


# --- whom it trusts


def test_an_authority_that_nobody_knows_is_refused_with_what_to_do(made: Certificates, tmp_path: Path):
    with server(made.context(), hello) as port:
        with pytest.raises(
            BenchError, match=r"made 0, then the handshake failed: nobody that is trusted .*--cacert FILE"
        ):
            bench(port, Trust(cacert=certificates(tmp_path).authority))
        assert bench(port, Trust(insecure=True)).figures.errors == 0


def test_a_certificate_for_somebody_else_is_refused(tmp_path: Path):
    other = certificates(tmp_path, "elsewhere.test")
    with (
        server(other.context(), hello) as port,
        pytest.raises(BenchError, match=r"expected a certificate for 127.0.0.1, got one for .*elsewhere\.test"),
    ):
        bench(port, Trust(cacert=other.authority))


def test_the_machine_s_own_authorities_are_trusted(made: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "authorities").mkdir()
    (tmp_path / "authorities" / "one.pem").write_bytes(made.authority.read_bytes())
    (tmp_path / "authorities" / "none.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with server(made.context(), hello) as port:
        monkeypatch.setenv("SSL_CERT_FILE", str(made.authority))
        assert bench(port, Trust()).figures.errors == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing"))
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "authorities"))
        assert bench(port, Trust()).figures.errors == 0
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "nothing"))
        with pytest.raises(ConfigError, match=r"expected certificates of authorities in .*found none: install them"):
            bench(port, Trust())


def self_made(directory: Path) -> Certificates:
    """As everybody makes one for a test: an authority and a server in one."""
    made = Certificates(directory / "own.pem", directory / "own.pem", directory / "own.key")
    command = [need("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    files = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", made.key, "-out", made.chain]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return made


def test_a_self_made_certificate_is_trusted_if_it_is_named(tmp_path: Path):
    made = self_made(tmp_path)
    with server(made.context(), hello) as port:
        assert bench(port, Trust(cacert=made.chain)).figures.errors == 0


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "No such file"), (b"no certificate", "found none in"), (b"x" * (1 << 20) + b"x", "expected at most")],
)
def test_a_file_without_certificates_is_refused(tmp_path: Path, content: bytes | None, complaint: str):
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"--cacert: .*{complaint}"):
        Trust(cacert=file).authorities()


# --- what goes wrong


def close(_connection: socket.socket) -> None:
    pass


def babble(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    connection.recv(65_536)


def say_nothing(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


@pytest.mark.parametrize(
    ("serve", "timeout_s", "complaint"),
    [
        (close, 10.0, "is it a port for TLS"),
        (babble, 10.0, 'got an answer that begins with "HTTP/1.1 400 Bad": is it a plain port'),
        (say_nothing, 0.3, "it took longer than 0.3 s: is it a port for TLS"),
    ],
)
def test_a_plain_port_is_told_to_be_one(serve: Callable[[socket.socket], None], timeout_s: float, complaint: str):
    with server(None, serve) as port, pytest.raises(BenchError, match="expected 3 TLS sessions") as caught:
        bench(port, Trust(insecure=True), answer_timeout_s=timeout_s)
    assert complaint in str(caught.value) or (serve is close and "reset" in str(caught.value))


def test_a_server_that_speaks_first_is_refused(made: Certificates, trust: Trust):
    context = made.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def serve(connection: socket.socket) -> None:
        connection.sendall(answer(b"unasked"))
        connection.recv(1)

    with server(context, serve) as port:
        found = None
        try:
            found = bench(port, trust)
        except BenchError as error:
            # It came together with the handshake's last words.
            assert "spoke before it was asked" in str(error)  # noqa: PT017
    assert found is None or found.figures.errors > 0


def test_handshakes_that_fail_later_are_counted_as_connecting(made: Certificates, trust: Trust):
    """Each connection answers once and closes; from the tenth on nobody has a session."""
    context, count = made.context(), iter(range(1 << 30))

    def serve(connection: socket.socket) -> None:
        if next(count) > 10:
            return
        with context.wrap_socket(connection, server_side=True) as secured:
            answer_once(secured)

    with server(None, serve) as port, pytest.raises(BenchError, match=r"every connection to .* was lost"):
        bench(port, trust, duration_s=30.0, answer_timeout_s=2.0)


def test_a_failed_handshake_among_good_ones_is_told(made: Certificates, trust: Trust):
    context, count = made.context(), iter(range(1 << 30))

    def serve(connection: socket.socket) -> None:
        number = next(count)
        if number > 3 and number % 3 == 0:
            return
        with context.wrap_socket(connection, server_side=True) as secured:
            answer_once(secured)

    with server(None, serve) as port:
        found = bench(port, trust, duration_s=0.5)
    assert found.figures.answers > 0
    assert found.errors_by_kind.keys() == {"connect"}
    assert found.first_error is not None
    assert "connecting again failed: the TLS handshake failed: " in found.first_error


@contextmanager
def by_hand(
    made: Certificates, close_with: Callable[[socket.socket, ssl.SSLObject, ssl.MemoryBIO], None]
) -> Generator[int]:
    """A server that has its records in hand: it answers the first request by what `close_with` sends, and closes."""

    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        secured = made.context().wrap_bio(came, goes, server_side=True)
        received, is_agreed = b"", False
        while b"\r\n\r\n" not in received:
            try:
                if not is_agreed:
                    secured.do_handshake()
                    is_agreed = True
                if not (piece := secured.read(65_536)):
                    return  # its close_notify
                received += piece
            except ssl.SSLWantReadError:
                connection.sendall(goes.read())
                if not (piece := connection.recv(65_536)):
                    return
                came.write(piece)
        close_with(connection, secured, goes)

    with server(None, serve) as port:
        yield port


def within_a_record(connection: socket.socket, secured: ssl.SSLObject, goes: ssl.MemoryBIO) -> None:
    secured.write(answer(b"hello"))
    connection.sendall(goes.read()[:-4])


def within_an_answer(connection: socket.socket, secured: ssl.SSLObject, goes: ssl.MemoryBIO) -> None:
    secured.write(answer(b"hello")[:-1])
    with pytest.raises(ssl.SSLWantReadError):
        secured.unwrap()  # close_notify, and no more
    connection.sendall(goes.read())


def within_nothing(connection: socket.socket, secured: ssl.SSLObject, goes: ssl.MemoryBIO) -> None:
    secured.write(answer(b"hello")[:-1])
    connection.sendall(goes.read())  # and no close_notify: the end of the bytes is one as well


def garbled(connection: socket.socket, secured: ssl.SSLObject, goes: ssl.MemoryBIO) -> None:
    secured.write(answer(b"hello"))
    sealed = bytearray(goes.read())
    sealed[-1] ^= 1
    connection.sendall(sealed)
    connection.recv(1)


@pytest.mark.parametrize(
    ("close_with", "kind", "first"),
    [
        (within_a_record, "closed", "the server closed within a TLS record"),
        (within_an_answer, "closed", "the server closed before the whole answer"),
        (within_nothing, "closed", "the server closed before the whole answer"),
        (garbled, "broken", "cannot decrypt peer's message"),
    ],
)
def test_a_server_that_breaks_off_is_told_by_where(
    made: Certificates, trust: Trust, close_with: Callable[..., None], kind: str, first: str
):
    with by_hand(made, close_with) as port:
        found = bench(port, trust)
    assert found.figures.answers == 0
    assert found.errors_by_kind[kind] > 0
    assert found.first_error == first


# --- other servers, and the command


@pytest.fixture
def nginx(made: Certificates, tmp_path: Path) -> Generator[int]:
    program = need("nginx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    (tmp_path / "large").write_bytes(b"x" * 3_000_000)
    paths = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; error_log stderr; pid {tmp_path}/pid; events {{ }}\n"
        f"http {{ access_log off; {paths} keepalive_requests 1000000; server {{ listen 127.0.0.1:{port} ssl;\n"
        f"ssl_certificate {made.chain}; ssl_certificate_key {made.key}; root {tmp_path};\n"
        'location = / { return 200 "hello"; } location = /few { keepalive_timeout 0; return 200 "hello"; } } }\n',
        encoding="utf-8",
    )
    command = [program, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port, process)
            yield port
        finally:
            process.terminate()


def wait_for(port: int, process: subprocess.Popen[Any]) -> None:
    for _ in range(4000):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            assert process.poll() is None
            threading.Event().wait(0.005)
            continue
        return
    raise AssertionError(f"nobody listens at port {port}")


@pytest.mark.timeout(400)  # nginx may have to be installed first.
@pytest.mark.parametrize(("path", "size"), [("/", 5), ("/large", 3_000_000), ("/few", 5)])
def test_nginx_is_loaded(nginx: int, trust: Trust, path: str, size: int):
    found = bench(nginx, trust, path=path)
    assert (found.figures.errors, found.body_mean) == (0, size)
    assert found.figures.answers > 0


@pytest.mark.timeout(400)
def test_openssl_s_server_echoes_what_reads_the_same_backwards(made: Certificates, trust: Trust):
    """`s_server -rev` sends each line back reversed; a line of one letter is its own echo."""
    program = need("openssl")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [program, "s_server", "-rev", "-accept", f"127.0.0.1:{port}", "-cert_chain", made.chain]
    command += ["-cert", made.chain, "-key", made.key, "-quiet"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_for(port, process)
            endpoint = Endpoint.of(f"127.0.0.1:{port}")
            how = {"frame": "line", "size": 1, "connections": 1, "duration_s": 0.15, "warm_up_s": 0.0}
            found = run_tcp(TcpLoad(endpoint=endpoint, tls=True, trust=trust, **how))
        finally:
            process.kill()
    assert found.figures.errors == 0
    assert found.figures.answers > 0


@pytest.mark.timeout(400)
@pytest.mark.parametrize("tool", TOOLS)
def test_another_tool_is_given_the_same_load_over_tls(penstock: Run, made: Certificates, tool: str):
    need(tool)

    def serve(connection: socket.socket) -> None:
        for _ in requests(connection):
            threading.Event().wait(0.005)  # it is about what the tool says, not about how fast it is
            connection.sendall(answer(b"hello", b"Connection: keep-alive"))  # ab speaks HTTP/1.0

    with server(made.context(), serve) as port:
        found = beside(penstock, f"https://localhost:{port}/", made, tool)
    assert (found["tls"]["sessions"], found["left_out"]) == (2, [])
    [other] = found["beside"]
    assert (other["tool"], other["errors"]) == (tool, 0)
    assert other["answers"] > 0


def beside(penstock: Run, url: str, made: Certificates, tool: str) -> dict[str, Any]:
    common = ["--json", "--duration", "0.3", "--warm-up", "0", "--connections", "2", "--cacert", str(made.authority)]
    done = penstock("bench", "http", url, *common, "--beside", tool)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_the_command_s_report_has_a_line_for_it(penstock: Run, made: Certificates):
    def serve(connection: socket.socket) -> None:
        while received := connection.recv(65_536):
            connection.sendall(received)

    short = ["-d", "0.15", "--warm-up", "0", "-c", "2"]
    with server(made.context(), serve) as port:
        done = penstock("bench", "tcp", f"localhost:{port}", "--tls", "--cacert", str(made.authority), *short)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"tcp localhost:{port} over TLS, messages of 64 bytes" in done.stdout
        assert "TLS        TLS 1.3, TLS_AES_256_GCM_SHA384, 2 sessions" in done.stdout
        refused = penstock("bench", "tcp", f"localhost:{port}", "--tls", *short)
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert "name who has with --cacert FILE, or take any with --insecure" in line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["tcp", "127.0.0.1:9", "--insecure"], "--cacert and --insecure are for TLS: say --tls, or leave them out"),
        (["tcp", "127.0.0.1:9", "--tls", "-k", "--cacert", "x"], "--cacert and --insecure both say whom to trust"),
    ],
)
def test_options_that_cannot_be_are_refused(penstock: Run, arguments: list[str], complaint: str):
    done = penstock("bench", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
