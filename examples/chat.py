"""A chat with rooms, for `nc 127.0.0.1 9001`: `/join ROOM`, `/name NAME`, and whatever else is said to the room.

python examples/chat.py --port 9001
"""

import argparse
from dataclasses import dataclass

import penstock
from penstock import CloseReason, Connection, Group
from penstock.protocol import Line


@dataclass
class Member:
    name: str
    room: str


rooms: dict[str, Group] = {}


def join(connection: Connection, room: str) -> None:
    member: Member = connection.state
    if member.room in rooms:
        rooms[member.room].discard(connection)
        rooms[member.room].send(f"* {member.name} left".encode())
    member.room = room
    group = rooms.setdefault(room, server.group())
    group.add(connection)
    group.send(f"* {member.name} joined {room}".encode())


def on_connect(connection: Connection) -> None:
    address = connection.peer
    connection.state = Member(f"guest-{address[1]}" if isinstance(address, tuple) else "guest", "")
    join(connection, "lobby")


def on_message(connection: Connection, line: bytes) -> None:
    member: Member = connection.state
    command, _, rest = line.partition(b" ")
    if command == b"/join" and rest:
        join(connection, rest.decode(errors="replace"))
    elif command == b"/name" and rest:
        member.name = rest.decode(errors="replace")
        connection.send(f"* you are {member.name}".encode())
    else:
        rooms[member.room].send(member.name.encode() + b": " + line, exclude=connection)


def on_close(connection: Connection, reason: CloseReason) -> None:
    member: Member = connection.state
    rooms[member.room].send(f"* {member.name} left ({reason.value})".encode())


server = penstock.TCPServer(
    on_message,
    protocol=Line(max_frame_bytes=1000),
    on_connect=on_connect,
    on_close=on_close,
    heartbeat=penstock.Heartbeat(interval_s=60, timeout_s=600, ping=b"* are you there?\n"),
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9001)
    server.run(f"127.0.0.1:{parser.parse_args().port}")
