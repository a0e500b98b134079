"""Socket options: named, typed, bounded; set before the socket is used; a refusal is told at start, and by name."""

from __future__ import annotations

import dataclasses
import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest

from penstock import ConfigError, ServerConfig, SocketOptionRefused, SocketOptions, _core, listener
from penstock.socket_options import KNOWN, KnownOption, Number, SocketKind, get_option

# A value that every Linux grants to anybody, for each option; other than what the system has, where that can be.
HARMLESS: dict[str, Any] = {
    "reuse_address": True,
    "reuse_port": True,
    "keep_alive": True,
    "keep_alive_idle_s": 37,
    "keep_alive_interval_s": 11,
    "keep_alive_probes": 5,
    "linger_s": 0,
    "send_buffer_bytes": 20_000,
    "receive_buffer_bytes": 20_000,
    "no_delay": True,
    "cork": True,
    "quick_ack": False,
    "defer_accept_s": 4,
    "fast_open_queue": 0,
    "fast_open_connect": True,
    "user_timeout_ms": 12_345,
    "not_sent_low_water_bytes": 16_384,
    "busy_poll_us": 0,
    "congestion": "reno",
    "type_of_service": 0x10,
    "v6_only": True,
    "incoming_cpu": 0,
    "bind_address_no_port": True,
    "free_bind": True,
    "bind_to_device": "lo",
    "broadcast": True,
}
# The kernel grants more than was asked: buffers are doubled, time is rounded up to retransmissions.
ROUNDED = ("send_buffer_bytes", "receive_buffer_bytes", "defer_accept_s")


def new_socket(kind: SocketKind, *, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    family = socket.AF_UNIX if kind.value.startswith("Unix") else family
    is_datagram = kind in (SocketKind.UDP, SocketKind.UNIX_DATAGRAM)
    return socket.socket(family, socket.SOCK_DGRAM if is_datagram else socket.SOCK_STREAM)


def only(field: str, value: Any) -> SocketOptions:
    return SocketOptions(**{field: value})


@pytest.mark.parametrize("known", KNOWN.values(), ids=lambda known: known.field)
def test_an_option_is_what_was_asked_wherever_it_applies(known: KnownOption):
    for kind in known.where:
        with new_socket(kind, family=socket.AF_INET6 if known.field == "v6_only" else socket.AF_INET) as sock:
            only(known.field, HARMLESS[known.field]).set_on(sock, kind)
            got, asked = get_option(sock, known.field), HARMLESS[known.field]
            assert got >= asked if known.field in ROUNDED else got == asked, kind


@pytest.mark.parametrize("known", KNOWN.values(), ids=lambda known: known.field)
def test_an_option_is_refused_by_name_where_it_has_no_meaning(known: KnownOption):
    for kind in set(SocketKind) - set(known.where):
        with new_socket(kind) as sock, pytest.raises(SocketOptionRefused, match=f"has no meaning for a {kind.value}"):
            only(known.field, HARMLESS[known.field]).set_on(sock, kind)


@pytest.mark.parametrize("known", KNOWN.values(), ids=lambda known: known.field)
def test_values_of_another_type_or_out_of_bounds_are_refused(known: KnownOption):
    wrong: list[Any] = [b"x", 1.5, ""]
    if isinstance(known.kind, Number):
        wrong += [known.kind.minimum - 1, known.kind.maximum + 1, True, "1"]
    else:
        wrong += [1, "x" * 16]
    for value in wrong:
        with pytest.raises(ConfigError, match=rf"socket option {known.field} \({known.name}\): expected .*, got "):
            only(known.field, value)


def test_every_option_says_what_it_does_and_when_to_use_it():
    declared = {name: (level, kind, effect) for level, name, kind, effect in _core.socket_option_table()}
    assert {known.name for known in KNOWN.values()} <= declared.keys()
    for known in KNOWN.values():
        assert known.when.endswith(".")
        assert known.where
        assert known.manual.endswith(")")
        assert declared[known.name][2].endswith(".")


def test_options_cannot_be_changed_and_none_are_given_by_default():
    options = SocketOptions()
    assert options.given() == []
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.no_delay = True  # type: ignore[misc]


def test_defaults_fill_what_was_left_open():
    filled = SocketOptions(no_delay=False).or_else(no_delay=True, cork=True)
    assert filled.given() == [("TCP_NODELAY", False), ("TCP_CORK", True)]


def test_a_buffer_beyond_the_system_s_limit_is_granted_or_refused_and_never_lessened():
    options = SocketOptions(receive_buffer_bytes=(1 << 30) - 1)
    with new_socket(SocketKind.UDP) as sock:
        refused: SocketOptionRefused | None = None
        try:
            options.set_on(sock, SocketKind.UDP)
        except SocketOptionRefused as error:
            refused = error
        if refused is None:
            assert get_option(sock, "receive_buffer_bytes") >= (1 << 30) - 1
        else:
            assert "net.core.rmem_max; raise that limit" in str(refused)


def test_an_unknown_algorithm_is_refused_with_those_there_are():
    with new_socket(SocketKind.TCP_LISTENER) as sock, pytest.raises(SocketOptionRefused) as refused:
        SocketOptions(congestion="no-such").set_on(sock, SocketKind.TCP_LISTENER)
    assert refused.value.option == "congestion"
    assert "asked to be 'no-such': no such file or directory; choose one of those there are: " in str(refused.value)
    assert "reno" in str(refused.value)


def test_an_unknown_interface_is_refused_with_those_there_are():
    with new_socket(SocketKind.UDP) as sock, pytest.raises(SocketOptionRefused) as refused:
        SocketOptions(bind_to_device="no-such0").set_on(sock, SocketKind.UDP)
    assert "lo" in str(refused.value).rpartition("choose an interface of")[2] or "cap_net" in str(refused.value).lower()


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOPROTOOPT, "this kernel or this socket does not have it: leave the option out"),
        (errno.EPERM, "grant CAP_NET_ADMIN, or leave the option out"),
        (errno.EINVAL, r"see socket\(7\), or leave the option out"),
    ],
)
def test_a_refusal_by_the_kernel_says_what_to_do(monkeypatch: pytest.MonkeyPatch, number: int, advice: str):
    def refuse(fd: int, name: str, value: object) -> None:
        raise OSError(number, "as the kernel puts it")

    monkeypatch.setattr(_core, "set_socket_option", refuse)
    expected = rf"busy_poll_us \(SO_BUSY_POLL\), asked to be 50: as the kernel puts it; {advice}"
    with new_socket(SocketKind.UDP) as sock, pytest.raises(SocketOptionRefused, match=expected):
        SocketOptions(busy_poll_us=50).set_on(sock, SocketKind.UDP)


def test_options_are_written_by_either_name():
    options = SocketOptions.parse(
        ["receive-buffer-bytes=65536", "TCP_NODELAY=off", "keep_alive=yes", "congestion=reno"]
    )
    assert options == SocketOptions(receive_buffer_bytes=65_536, no_delay=False, keep_alive=True, congestion="reno")


@pytest.mark.parametrize("text", ["nagle=off", "no-delay", "=1", ""])
def test_what_is_no_option_is_refused_with_the_names(text: str):
    with pytest.raises(ConfigError, match="expected name=value with a name of reuse-address, "):
        SocketOptions.parse([text])


@pytest.mark.parametrize("text", ["no-delay=maybe", "linger-s=soon", "linger-s=-1", "congestion="])
def test_what_is_no_value_is_refused_with_what_was_expected(text: str):
    with pytest.raises(ConfigError, match=r"socket option .*: expected .*, got "):
        SocketOptions.parse([text])


def test_a_listener_has_the_options_it_was_configured_with():
    config = ServerConfig(port=0, socket_option=("keep-alive=on", "TCP_KEEPIDLE=37"))
    (opened,) = listener.open_listeners(config)
    with opened:
        assert get_option(opened, "keep_alive") is True
        assert get_option(opened, "keep_alive_idle_s") == 37


def test_a_server_keeps_the_low_water_mark_it_was_given(serve: Callable[..., Any]):
    source = """
        import penstock.socket_options as known, socket
        async def app(scope, receive, send):
            text = str(known._core.get_socket_option(int(scope["path"][1:]), "TCP_NOTSENT_LOWAT")).encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": text})
    """
    server = serve(source, "--socket-option", "not-sent-low-water-bytes=131072", "--lifespan", "off")
    answers = [server.get(f"/{fd}") for fd in range(3, 16)]
    assert any(answer.endswith(b"131072") for answer in answers)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("congestion=no-such", "socket option congestion (TCP_CONGESTION)"),
        ("broadcast=on", "it has no meaning for a TCP listener socket, but for UDP"),
        ("no-delay=off", "an HTTP server has it on, always"),
        ("nagle=off", "expected name=value with a name of"),
    ],
)
def test_a_server_does_not_start_without_an_option_it_was_asked_for(
    penstock: Callable[..., Any], write_app: Callable[..., Any], option: str, complaint: str
):
    write_app()
    done = penstock("serve", "--port", "0", "--socket-option", option, "main:app")
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
