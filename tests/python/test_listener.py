"""Listening sockets are opened as a config asks, or refused with one line that says what to do."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import AddressError, AddressForbidden, AddressInUse, AddressUnavailable, ServerConfig
from penstock.listener import MAX_UDS_PATH_BYTES, close_listeners, describe, is_last_holder, open_listeners


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose name leaves room: the path of a Unix domain socket is bounded."""
    import shutil
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="pen"))
    yield directory
    shutil.rmtree(directory)


def refusal(config: ServerConfig) -> AddressError:
    with pytest.raises(AddressError) as caught:
        close_listeners(open_listeners(config))
    assert "\n" not in str(caught.value)
    return caught.value


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


def test_port_zero_takes_a_free_port_and_listens():
    [listener] = open_listeners(ServerConfig(port=0))
    with listener:
        host, port = listener.getsockname()
        assert port > 0
        assert describe(listener) == f"http://127.0.0.1:{port}"
        socket.create_connection((host, port), timeout=5).close()


def test_listeners_do_not_block_and_are_not_inherited():
    [listener] = open_listeners(ServerConfig(port=0))
    with listener:
        assert not listener.getblocking()
        assert not listener.get_inheritable()


def test_only_the_process_that_opened_a_listener_can_be_its_last_holder():
    [own] = open_listeners(ServerConfig(port=0))
    with own:
        assert is_last_holder([own])
        child = os.fork()
        if child == 0:
            os._exit(int(is_last_holder([own])))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        # Whoever gave it to us may hold it, too.
        [inherited] = open_listeners(ServerConfig(fd=os.dup(own.fileno())))
        with inherited:
            assert not is_last_holder([own, inherited])


@needs_ipv6
def test_an_ipv6_listener_leaves_the_ipv4_port_alone():
    # The kernel's choice is free for IPv6; another program may have it for IPv4.
    for attempt in range(8):
        [ipv6] = open_listeners(ServerConfig(host="::", port=0))
        with ipv6:
            assert ipv6.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            port = ipv6.getsockname()[1]
            assert describe(ipv6) == f"http://[::]:{port}"
            try:
                [ipv4] = open_listeners(ServerConfig(host="0.0.0.0", port=port))
            except AddressInUse:
                assert attempt < 7, "eight ports in a row were taken"
                continue
            ipv4.close()
            return


@needs_ipv6
def test_a_name_with_several_addresses_is_listened_on_at_one_port(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket, "getaddrinfo", both_families)
    listeners = open_listeners(ServerConfig(host="both", port=0))
    try:
        assert [each.family for each in listeners] == [socket.AF_INET, socket.AF_INET6]
        assert len({each.getsockname()[1] for each in listeners}) == 1
    finally:
        close_listeners(listeners)


@needs_ipv6
def test_nothing_stays_open_when_the_second_address_is_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket, "getaddrinfo", both_families)
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert isinstance(refusal(ServerConfig(host="both", port=port)), AddressInUse)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_an_address_that_this_machine_lacks_is_left_out_while_another_is_had(monkeypatch: pytest.MonkeyPatch):
    def first_is_foreign(host: str, port: int, **_: object) -> list[object]:
        return [entry("192.0.2.1", port), entry("127.0.0.1", port)]

    monkeypatch.setattr(socket, "getaddrinfo", first_is_foreign)
    [listener] = open_listeners(ServerConfig(host="some", port=0))
    with listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def entry(host: str, port: int, family: socket.AddressFamily = socket.AF_INET) -> object:
    address = (host, port) if family == socket.AF_INET else (host, port, 0, 0)
    return family, socket.SOCK_STREAM, 0, "", address


def both_families(host: str, port: int, **_: object) -> list[object]:
    return [entry("127.0.0.1", port), entry("::1", port, socket.AF_INET6), entry("127.0.0.1", port)]


def test_a_taken_port_says_how_to_find_who_has_it(taken_port: int):
    error = refusal(ServerConfig(port=taken_port))
    assert isinstance(error, AddressInUse)
    assert f"127.0.0.1:{taken_port} is already in use" in str(error)
    assert f"ss -ltnp 'sport = :{taken_port}'" in str(error)


def test_an_address_of_another_machine_is_refused():
    error = refusal(ServerConfig(host="192.0.2.1", port=0))
    assert isinstance(error, AddressUnavailable)
    assert "192.0.2.1 is not an address of this machine" in str(error)


def test_a_name_without_an_address_is_refused():
    error = refusal(ServerConfig(host="no-such-host.invalid"))
    assert isinstance(error, AddressUnavailable)
    assert "cannot find an address for 'no-such-host.invalid'" in str(error)


def test_a_privileged_port_says_what_it_takes(monkeypatch: pytest.MonkeyPatch):
    def forbidden(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", forbidden)
    error = refusal(ServerConfig(port=80))
    assert isinstance(error, AddressForbidden)
    assert "127.0.0.1:80" in str(error)
    assert "CAP_NET_BIND_SERVICE" in str(error)


def test_a_unix_socket_is_made_for_everybody_and_removed_at_close(short_path: Path):
    path = short_path / "app.sock"
    [listener] = open_listeners(ServerConfig(uds=str(path)))
    assert describe(listener) == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    close_listeners([listener])
    close_listeners([listener])
    assert not path.exists()


def test_a_unix_socket_is_removed_even_if_the_working_directory_has_changed(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(short_path)
    [listener] = open_listeners(ServerConfig(uds="app.sock"))
    monkeypatch.chdir("/")
    listener.close()
    assert not (short_path / "app.sock").exists()


def test_a_stale_socket_file_is_replaced(short_path: Path):
    path = short_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    assert path.exists()
    [listener] = open_listeners(ServerConfig(uds=str(path)))
    listener.close()
    assert not path.exists()


def test_a_socket_file_that_is_answered_is_left_alone(short_path: Path):
    config = ServerConfig(uds=str(short_path / "app.sock"))
    [first] = open_listeners(config)
    with first:
        assert isinstance(refusal(config), AddressInUse)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(config.uds or "")


def test_a_file_that_is_no_socket_is_left_alone(short_path: Path):
    path = short_path / "app.sock"
    path.write_text("precious")
    assert "is not a socket" in str(refusal(ServerConfig(uds=str(path))))
    assert path.read_text() == "precious"


def test_a_socket_file_that_has_been_replaced_is_not_removed(short_path: Path):
    path = short_path / "app.sock"
    [first] = open_listeners(ServerConfig(uds=str(path)))
    path.unlink()
    [second] = open_listeners(ServerConfig(uds=str(path)))
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def test_a_forked_child_does_not_remove_the_socket_file(short_path: Path):
    path = short_path / "app.sock"
    [listener] = open_listeners(ServerConfig(uds=str(path)))
    with listener:
        child = os.fork()
        if child == 0:
            listener.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert path.exists()
    assert not path.exists()


def test_a_path_that_is_too_long_says_by_how_much(short_path: Path):
    longest = short_path / ("x" * (MAX_UDS_PATH_BYTES - len(os.fsencode(short_path)) - 1))
    [listener] = open_listeners(ServerConfig(uds=str(longest)))
    listener.close()
    error = refusal(ServerConfig(uds=f"{longest}x"))
    assert isinstance(error, AddressUnavailable)
    assert f"at most {MAX_UDS_PATH_BYTES} bytes, got one of {MAX_UDS_PATH_BYTES + 1}" in str(error)


def test_a_socket_in_a_directory_that_is_not_there_is_refused(short_path: Path):
    assert "its directory does not exist" in str(refusal(ServerConfig(uds=str(short_path / "no" / "app.sock"))))


def test_an_inherited_listener_is_adopted_as_it_is():
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        given.listen()
        [listener] = open_listeners(ServerConfig(fd=given.fileno()))
        assert listener.fileno() == given.fileno()
        assert listener.getsockname() == given.getsockname()
        assert not listener.getblocking()
        listener.detach()


def test_a_descriptor_that_cannot_be_listened_on_is_refused_and_left_open(tmp_path: Path):
    with socket.socket() as idle, socket.socket(type=socket.SOCK_DGRAM) as datagram, open(tmp_path / "f", "w") as file:
        for fd, complaint in (
            (idle.fileno(), "is a stream socket that does not listen"),
            (datagram.fileno(), "is a socket of another type"),
            (file.fileno(), "is not a socket"),
        ):
            error = refusal(ServerConfig(fd=fd))
            assert str(error) == f"--fd: expected a listening stream socket, but descriptor {fd} {complaint}"
            os.fstat(fd)


def test_a_descriptor_that_is_not_open_is_refused():
    assert "descriptor 1000000 is not open" in str(refusal(ServerConfig(fd=1_000_000)))
