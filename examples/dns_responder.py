"""A DNS responder: it answers for the names of one small zone, and for no others.

    python examples/dns_responder.py --port 5300
    dig @127.0.0.1 -p 5300 www.example.test

It reads one question of at most 512 bytes, follows no pointers, and answers nothing that is itself an answer, so that
two responders cannot be made to talk to each other. An answer has at most 512 bytes (RFC 1035 section 4.2.1); what
would be longer says that it was cut.
"""

from __future__ import annotations

import argparse
import ipaddress
import struct

import penstock

A, TXT, AAAA, ANY, IN = 1, 16, 28, 255, 1
OK, FORMAT_ERROR, NAME_ERROR, NOT_IMPLEMENTED, REFUSED = 0, 1, 3, 4, 5
ANSWER, AUTHORITATIVE, CUT, RECURSION_WANTED = 0x8000, 0x0400, 0x0200, 0x0100
HEADER = struct.Struct("!6H")
MAX_BYTES = 512
TTL_S = 60

ORIGIN = "example.test"


def address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def text(value: str) -> bytes:
    return bytes([len(value)]) + value.encode()


ZONE: dict[str, list[tuple[int, bytes]]] = {
    "example.test": [(A, address("192.0.2.1")), (TXT, text("served by Penstock"))],
    "www.example.test": [(A, address("192.0.2.1")), (A, address("192.0.2.2")), (AAAA, address("2001:db8::1"))],
    "many.example.test": [(A, address(f"198.51.100.{number}")) for number in range(100)],
}


class Malformed(Exception):
    """Not a question."""


def read_name(message: bytes, at: int) -> tuple[str, int]:
    """The name at an offset, and where what follows it begins. At most 255 bytes of labels of at most 63 each."""
    labels: list[str] = []
    end = min(len(message), at + 255)
    while at < end:
        length = message[at]
        if length == 0:
            return ".".join(labels).lower(), at + 1
        if length > 63 or at + 1 + length >= end:
            break
        labels.append(message[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    raise Malformed


def on_datagram(peer: penstock.Peer, query: bytes) -> bytes | None:
    if len(query) < HEADER.size or query[2] & 0x80:
        return None
    identity, flags, questions, _, _, _ = HEADER.unpack_from(query)
    flags &= RECURSION_WANTED | 0x7800
    if flags & 0x7800:
        return HEADER.pack(identity, ANSWER | flags | NOT_IMPLEMENTED, 0, 0, 0, 0)
    try:
        if questions != 1 or len(query) > MAX_BYTES:
            raise Malformed
        name, end = read_name(query, HEADER.size)
        kind, family = struct.unpack_from("!2H", query, end)
    except (Malformed, struct.error):
        return HEADER.pack(identity, ANSWER | flags | FORMAT_ERROR, 0, 0, 0, 0)
    question = query[HEADER.size : end + 4]
    if family != IN or not (name == ORIGIN or name.endswith("." + ORIGIN)):
        return HEADER.pack(identity, ANSWER | flags | REFUSED, 1, 0, 0, 0) + question
    records = ZONE.get(name)
    if records is None:
        return HEADER.pack(identity, ANSWER | AUTHORITATIVE | flags | NAME_ERROR, 1, 0, 0, 0) + question
    # 0xc00c points at the question's name.
    found = [
        struct.pack("!3HIH", 0xC00C, each, IN, TTL_S, len(data)) + data for each, data in records if kind in (each, ANY)
    ]
    room, count = MAX_BYTES - HEADER.size - len(question), 0
    while count < len(found) and len(found[count]) <= room:
        room -= len(found[count])
        count += 1
    cut = CUT if count < len(found) else 0
    head = HEADER.pack(identity, ANSWER | AUTHORITATIVE | cut | flags | OK, 1, count, 0, 0)
    return head + question + b"".join(found[:count])


server = penstock.UDPServer(on_datagram, max_datagram_bytes=4096)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5300)
    arguments = parser.parse_args()
    server.run((arguments.host, arguments.port))
