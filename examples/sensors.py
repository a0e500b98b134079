"""A binary protocol with a heartbeat: sensors send readings, and are pinged when they are silent.

A packet is a type byte, a length of two bytes and a body: 1 a reading (sensor u32, value f64), 2 ping, 3 pong, 4 the
mean of a sensor's readings, as an answer to each.

    python examples/sensors.py --port 9002 --interval 30 --timeout 90
"""

import argparse
import struct

import penstock
from penstock import Connection, Heartbeat
from penstock.protocol import LengthPrefixed

READING, PING, PONG, MEAN = 1, 2, 3, 4
HEAD, BODY = struct.Struct("!BH"), struct.Struct("!Id")

# Sums and counts by sensor.
readings: dict[int, tuple[float, int]] = {}


def packet(kind: int, body: bytes = b"") -> bytes:
    return HEAD.pack(kind, len(body)) + body


def on_message(connection: Connection, frame: bytes) -> None:
    kind, _ = HEAD.unpack_from(frame)
    if kind == READING and len(frame) == HEAD.size + BODY.size:
        sensor, value = BODY.unpack_from(frame, HEAD.size)
        total, count = readings.get(sensor, (0.0, 0))
        readings[sensor] = total, count = total + value, count + 1
        connection.send(packet(MEAN, BODY.pack(sensor, total / count)))
    elif kind == PING:
        connection.send(packet(PONG))
    elif kind != PONG:
        raise penstock.FrameError(f"a packet of type {kind} and {len(frame)} bytes, expected a reading, ping or pong")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9002)
    parser.add_argument("--interval", type=float, default=30)
    parser.add_argument("--timeout", type=float, default=90)
    options = parser.parse_args()
    penstock.TCPServer(
        on_message,
        # The type is before the length; with an offset, frames are whole packets.
        protocol=LengthPrefixed(offset=1, header_bytes=2, max_frame_bytes=1024),
        heartbeat=Heartbeat(interval_s=options.interval, timeout_s=options.timeout, ping=packet(PING)),
    ).run(f"127.0.0.1:{options.port}")
