"""The examples of protocols do what they say, with the clients that the world has for them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import PENSTOCK, clean_environment
from programs import need

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TIMEOUT_S = 20.0


@contextmanager
def running(*command: str) -> Generator[str]:
    """A server's address, once it has told it; at the end it must leave by itself, with status 0."""
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=clean_environment(), cwd=EXAMPLES
    )
    assert process.stderr is not None
    log: list[str] = []
    try:
        for line in process.stderr:
            log.append(line)
            if found := re.search(r"running on (\S+)", line):
                break
        else:
            raise AssertionError("".join(log))
        # Nobody is to block on a full pipe.
        reader = threading.Thread(target=lambda: log.extend(process.stderr or ()))
        reader.start()
        yield found[1].removeprefix("tcp://")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0, "".join(log)
        reader.join(TIMEOUT_S)
        assert "Traceback" not in "".join(log), "".join(log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()


@contextmanager
def example(name: str, *arguments: str) -> Generator[tuple[str, int]]:
    with running(sys.executable, str(EXAMPLES / name), "--port", "0", *arguments) as address:
        host, _, port = address.rpartition(":")
        yield host, int(port)


def connect(address: Any) -> socket.socket:
    return socket.create_connection(address, timeout=TIMEOUT_S)


@pytest.mark.parametrize("size", [1, 1024, 10240, 1_000_000])
def test_the_echo_server_sends_back_arbitrary_bytes(size: int):
    data = os.urandom(size)
    with example("echo_server.py") as address, connect(address) as peer:
        sender = threading.Thread(target=peer.sendall, args=(data,))
        sender.start()
        received = b""
        while len(received) < size:
            received += peer.recv(1 << 16)
        sender.join()
        assert received == data


def test_the_echo_client_shows_what_came_back():
    with example("echo_server.py") as (host, port):
        told = subprocess.run(
            [sys.executable, str(EXAMPLES / "echo_client.py"), f"{host}:{port}"],
            capture_output=True, text=True, timeout=TIMEOUT_S, env=clean_environment(), check=True,
        )  # fmt: skip
        assert told.stdout == "line 0\nline 1\nline 2\n"


def test_the_chat_tells_a_room_and_nobody_else():
    with example("chat.py") as address:
        peers = [connect(address) for _ in range(3)]
        a, b, c = (peer.makefile("rw", encoding="utf-8", newline="\n") for peer in peers)

        def say(who: Any, text: str) -> None:
            who.write(text + "\n")
            who.flush()

        def until(who: Any, text: str) -> None:
            assert any(text in line for line in who), text

        for each, name in ((a, "ada"), (b, "bob"), (c, "cyd")):
            say(each, f"/name {name}")
            until(each, f"you are {name}")
        say(c, "/join quiet")
        until(c, "cyd joined quiet")
        until(a, "cyd left")
        say(a, "hello")
        until(b, "ada: hello")
        say(c, "is anybody here")
        say(c, "/name sea")
        assert "sea" in c.readline(), "nothing of the lobby came"
        say(b, "answer")
        assert a.readline() == "bob: answer\n"
        for each in (a, b, c, *peers):
            each.close()


def test_sensors_are_answered_pinged_and_let_go():
    with (
        example("sensors.py", "--interval", "0.3", "--timeout", "0.9") as address,
        connect(address) as sensor,
        connect(address) as silent,
        connect(address) as wrong,
    ):
        for value, mean in ((10.0, 10.0), (20.0, 15.0)):
            sensor.sendall(struct.pack("!BHId", 1, 12, 7, value))
            assert struct.unpack("!BHId", sensor.recv(15)) == (4, 12, 7, mean)
        wrong.sendall(struct.pack("!BH", 9, 0))
        assert wrong.recv(100) == b""
        sensor.sendall(struct.pack("!BH", 2, 0))
        assert sensor.recv(3) == struct.pack("!BH", 3, 0)
        received = b""
        while piece := silent.recv(100):
            received += piece
        assert received == struct.pack("!BH", 2, 0), "one ping, and then the end"


def test_the_unix_server_answers_in_capitals(tmp_path: Path):
    path = str(tmp_path / "upper.sock")
    with running(sys.executable, str(EXAMPLES / "unix_server.py"), path), socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(TIMEOUT_S)
        peer.connect(path)
        peer.sendall(b"hello\nworld\n")
        assert peer.makefile("rb").readlines(10)[:2] == [b"HELLO\n", b"WORLD\n"]
    assert not os.path.exists(path)


def test_a_real_mqtt_client_connects_subscribes_and_publishes():
    mqtt = pytest.importorskip("paho.mqtt.client")
    got: list[tuple[str, bytes, bool]] = []
    ready, arrived = threading.Event(), threading.Event()

    def client(name: str) -> Any:
        made = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name)
        made.connect(*address)
        return made

    with example("mqtt_broker.py") as address:
        listener = client("listener")

        def on_message(_: Any, __: Any, message: Any) -> None:
            got.append((message.topic, message.payload, bool(message.retain)))
            if len(got) == 4:
                arrived.set()

        listener.on_message = on_message
        listener.on_subscribe = lambda *_: ready.set()
        talker = client("talker")
        talker.loop_start()
        talker.publish("house/kitchen/kept", b"retained", qos=1, retain=True).wait_for_publish(TIMEOUT_S)
        listener.subscribe([("house/+/temperature", 0), ("alarm/#", 1), ("house/kitchen/kept", 0)])
        listener.loop_start()
        assert ready.wait(TIMEOUT_S)
        dying = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="dying")
        dying.will_set("alarm/dying", b"gone")
        dying.connect(*address)
        talker.publish("house/hall/temperature", b"21", qos=1).wait_for_publish(TIMEOUT_S)
        talker.publish("house/hall/humidity", b"nobody asked", qos=1).wait_for_publish(TIMEOUT_S)
        talker.publish("alarm/fire/hall", b"x" * 100_000, qos=1).wait_for_publish(TIMEOUT_S)
        # Without a good-bye, so that its will is published.
        dying.socket().shutdown(socket.SHUT_RDWR)
        assert arrived.wait(TIMEOUT_S), got
        assert sorted(topic for topic, _, _ in got) == [
            "alarm/dying", "alarm/fire/hall", "house/hall/temperature", "house/kitchen/kept",
        ]  # fmt: skip
        assert ("house/kitchen/kept", b"retained", True) in got
        for each in (listener, talker):
            each.disconnect()
            each.loop_stop()
    assert len((EXAMPLES / "mqtt_broker.py").read_text().splitlines()) <= 200


def test_redis_cli_and_redis_benchmark_talk_to_the_resp_server():
    cli, benchmark = need("redis-cli"), shutil.which("redis-benchmark")
    with example("resp_server.py") as (host, port):

        def ask(*words: str) -> str:
            command = [cli, "-h", host, "-p", str(port), *words]
            return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout.strip()

        assert ask("ping") == "PONG"
        assert ask("set", "key", "a value\r\n") == "OK"
        assert ask("get", "key") == "a value"
        assert ask("incr", "counter") == "1"
        assert ask("del", "key", "counter", "none") == "2"
        assert ask("get", "key") == ""
        assert "unknown command" in ask("nonsense")
        assert ask("set", "brief", "x", "px", "1") == "OK"
        time.sleep(0.005)
        assert ask("get", "brief") == ""
        assert benchmark is not None
        command = [benchmark, "-h", host, "-p", str(port), "-t", "set,get", "-n", "5000", "-P", "16", "-q"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout
        assert "GET" in told
        assert "SET" in told
        assert "rror" not in told


@pytest.mark.parametrize("reactors", [1, 3])
def test_the_command_serves_a_module_s_server_on_several_addresses(
    reactors: int, write_app: Callable[..., Path], tmp_path: Path
):
    directory = write_app(
        """
        import threading
        import penstock
        from penstock.protocol import Line

        def on_message(connection, frame):
            if frame == b"thread":
                connection.send(threading.current_thread().name.encode())
            elif frame == b"join":
                group.add(connection)
                connection.send(b"joined")
            else:
                group.send(frame)

        server = penstock.TCPServer(on_message, protocol=Line())
        group = server.group()
        """
    )
    unix = tmp_path / "second.sock"
    command = [*PENSTOCK, "tcp", "--app-dir", str(directory), "-b", "127.0.0.1:0", "-b", f"unix:{unix}"]
    with running(*command, "--reactors", str(reactors), "main:server") as address:
        host, _, port = address.rpartition(":")
        peers = [connect((host, int(port))) for _ in range(2 * reactors)]
        files = [peer.makefile("rwb") for peer in peers]
        names: set[bytes] = set()
        for each in files:
            each.write(b"thread\njoin\n")
            each.flush()
            names.add(each.readline())
            assert each.readline() == b"joined\n"
        assert len(names) == reactors
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(TIMEOUT_S)
            peer.connect(str(unix))
            peer.sendall(b"to all\n")
            for each in files:
                assert each.readline() == b"to all\n", "whichever reactor has it"
        for each in (*files, *peers):
            each.close()


def test_the_command_tells_what_is_wrong(write_app: Callable[..., Path], penstock: Callable[..., Any]):
    write_app("server = 7\n")
    told = penstock("tcp", "main:server")
    assert (told.returncode, told.stderr) == (
        4, "penstock: error: main:server: expected a penstock.TCPServer, got int\n",
    )  # fmt: skip
    told = penstock("tcp", "main:server", "-b", "nonsense")
    assert told.returncode == 4
