"""A broker for MQTT 3.1.1 clients: connect, subscribe (with + and #), publish at QoS 0 and 1, retained messages, wills.

    python examples/mqtt_broker.py --port 1883

What a broker for the world has beyond this: sessions that outlive connections, QoS 2, authentication.
"""

import argparse
from dataclasses import dataclass, field

import penstock
from penstock import CloseReason, Connection, FrameError

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 1, 2, 3, 4, 8, 9, 10, 11
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14
MAX_PACKET_BYTES = 1 << 20

Packet = tuple[int, int, bytes]


class Mqtt:
    """Type and flags, a length of up to four bytes of seven bits, a body."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[Packet]:
        self.rest += data
        packets: list[Packet] = []
        while (head := self._head()) is not None:
            start, length = head
            if len(self.rest) < start + length:
                break
            packets.append((self.rest[0] >> 4, self.rest[0] & 15, self.rest[start : start + length]))
            self.rest = self.rest[start + length :]
        return packets

    def _head(self) -> tuple[int, int] | None:
        length = 0
        for at, byte in enumerate(self.rest[1:5]):
            length |= (byte & 127) << (7 * at)
            if byte < 128:
                if length > MAX_PACKET_BYTES:
                    raise FrameError(f"a packet of {length} bytes, expected at most {MAX_PACKET_BYTES}", "too_long")
                return 2 + at, length
        if len(self.rest) >= 5:
            raise FrameError("a packet whose length does not end")
        return None

    def encode(self, packet: Packet) -> bytes:
        kind, flags, body = packet
        head, length = bytearray([kind << 4 | flags]), len(body)
        while length > 127:
            head.append(length & 127 | 128)
            length >>= 7
        head.append(length)
        return bytes(head) + body


def string(text: bytes) -> bytes:
    return len(text).to_bytes(2, "big") + text


def take_string(body: bytes, at: int) -> tuple[bytes, int]:
    end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    if end > len(body) or at + 2 > len(body):
        raise FrameError("a string that goes beyond its packet")
    return body[at + 2 : end], end


@dataclass
class Session:
    client: bytes
    will: tuple[bytes, bytes, bool] | None = None
    filters: set[bytes] = field(default_factory=set[bytes])


subscribers: dict[bytes, set[Connection]] = {}
sessions: dict[bytes, Connection] = {}
retained: dict[bytes, bytes] = {}


def matches(pattern: bytes, topic: bytes) -> bool:
    wanted, levels = pattern.split(b"/"), topic.split(b"/")
    for at, level in enumerate(wanted):
        if level == b"#":
            return True
        if at >= len(levels) or level not in (b"+", levels[at]):
            return False
    return len(wanted) == len(levels)


def publish(topic: bytes, payload: bytes, retain: bool) -> None:
    if retain:
        retained[topic] = payload
        if not payload:
            del retained[topic]
    packet = (PUBLISH, 0, string(topic) + payload)
    reached = {each for pattern, them in subscribers.items() if matches(pattern, topic) for each in them}
    for connection in reached:
        try:
            connection.send(packet)
        except penstock.SendBufferFull:
            connection.abort()  # It does not read: the others are not to wait for it.
        except penstock.ConnectionClosed:
            pass  # It leaves the subscribers with its on_close.


def on_connect_packet(connection: Connection, body: bytes) -> None:
    name, at = take_string(body, 0)
    if name != b"MQTT" or body[at] != 4:
        connection.send((CONNACK, 0, b"\0\1"))
        raise FrameError("expected MQTT 3.1.1")
    flags = body[at + 1]
    client, at = take_string(body, at + 4)
    session = Session(client or b"anonymous-%d" % id(connection))
    if flags & 4:
        topic, at = take_string(body, at)
        message, at = take_string(body, at)
        session.will = (topic, message, bool(flags & 32))
    if (former := sessions.get(session.client)) is not None:
        former.close()
    sessions[session.client] = connection
    connection.state = session
    connection.send((CONNACK, 0, b"\0\0"))


def on_publish(connection: Connection, flags: int, body: bytes) -> None:
    topic, at = take_string(body, 0)
    quality = flags >> 1 & 3
    if quality > 1:
        raise FrameError("QoS 2, expected at most 1")
    if quality == 1:
        connection.send((PUBACK, 0, body[at : at + 2]))
        at += 2
    publish(topic, body[at:], bool(flags & 1))


def on_subscribe(connection: Connection, body: bytes) -> None:
    at, granted, patterns = 2, b"", []
    while at < len(body):
        pattern, at = take_string(body, at)
        at, granted = at + 1, granted + b"\0"
        patterns.append(pattern)
        connection.state.filters.add(pattern)
        subscribers.setdefault(pattern, set()).add(connection)
    connection.send((SUBACK, 0, body[:2] + granted))
    for topic, payload in retained.items():
        if any(matches(pattern, topic) for pattern in patterns):
            connection.send((PUBLISH, 1, string(topic) + payload))


def forget(connection: Connection, pattern: bytes) -> None:
    connection.state.filters.discard(pattern)
    if (them := subscribers.get(pattern)) is not None:
        them.discard(connection)
        if not them:
            del subscribers[pattern]


def on_message(connection: Connection, packet: Packet) -> None:
    kind, flags, body = packet
    if (connection.state is None) != (kind == CONNECT):
        raise FrameError("expected CONNECT first, and once")
    if kind == CONNECT:
        on_connect_packet(connection, body)
    elif kind == PUBLISH:
        on_publish(connection, flags, body)
    elif kind == SUBSCRIBE:
        on_subscribe(connection, body)
    elif kind == UNSUBSCRIBE:
        at = 2
        while at < len(body):
            pattern, at = take_string(body, at)
            forget(connection, pattern)
        connection.send((UNSUBACK, 0, body[:2]))
    elif kind == PINGREQ:
        connection.send((PINGRESP, 0, b""))
    elif kind == DISCONNECT:
        connection.state.will = None
        connection.close()


def on_close(connection: Connection, reason: CloseReason) -> None:
    session: Session | None = connection.state
    if session is None:
        return
    for pattern in list(session.filters):
        forget(connection, pattern)
    if sessions.get(session.client) is connection:
        del sessions[session.client]
    if session.will is not None:
        publish(*session.will)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=1883)
    server = penstock.TCPServer(on_message, protocol=Mqtt, on_close=on_close)
    server.run(f"127.0.0.1:{parser.parse_args().port}")
