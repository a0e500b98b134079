"""A small Redis: strings in memory, for redis-cli and redis-benchmark.

python examples/resp_server.py --port 6380
redis-benchmark -p 6380 -t set,get -P 16 -q
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import penstock
from penstock import Connection
from penstock.protocol import Resp

values: dict[bytes, bytes] = {}
expiries: dict[bytes, float] = {}


class Wrong(Exception):
    """An answer that begins with what kind of error it is."""


def get(command: list[bytes]) -> Any:
    _, key = command
    if expiries and expiries.get(key, 1e300) <= time.monotonic():
        del values[key], expiries[key]
    return values.get(key)


def set_(command: list[bytes]) -> Any:
    values[command[1]] = command[2]
    if len(command) > 3:
        _, key, _, option, amount = command
        seconds = {b"EX": 1.0, b"PX": 1e-3}[option.upper()]
        expiries[key] = time.monotonic() + int(amount) * seconds
    elif expiries:
        expiries.pop(command[1], None)
    return "OK"


def delete(command: list[bytes]) -> Any:
    return sum(values.pop(key, None) is not None for key in command[1:])


def increase(command: list[bytes]) -> Any:
    _, key = command
    number = int(values.get(key, b"0")) + 1
    values[key] = b"%d" % number
    return number


def ping(command: list[bytes]) -> Any:
    return command[1] if len(command) > 1 else "PONG"


COMMANDS: dict[bytes, Callable[[list[bytes]], Any]] = {
    b"GET": get,
    b"SET": set_,
    b"DEL": delete,
    b"INCR": increase,
    b"PING": ping,
    b"ECHO": lambda command: command[1],
    b"EXISTS": lambda command: sum(key in values for key in command[1:]),
    b"DBSIZE": lambda command: len(values),
    b"CONFIG": lambda command: [],
    b"COMMAND": lambda command: [],
}


def answer(command: list[bytes]) -> Any:
    if not command:
        return Wrong("ERR an empty command")
    act = COMMANDS.get(command[0]) or COMMANDS.get(command[0].upper())
    if act is None:
        return Wrong(f"ERR unknown command {command[0]!r}")
    try:
        return act(command)
    except (IndexError, KeyError, ValueError):
        return Wrong(f"ERR wrong arguments for {command[0].decode(errors='replace')}")


def on_messages(connection: Connection, commands: list[list[bytes]]) -> None:
    connection.send_many([answer(command) for command in commands])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=6380)
    server = penstock.TCPServer(on_messages=on_messages, protocol=Resp(max_frame_bytes=1 << 24))
    server.run(f"127.0.0.1:{parser.parse_args().port}")
