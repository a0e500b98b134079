"""UDP echo: every datagram goes back to whoever sent it.

python examples/udp_echo.py --port 7000
echo hello | nc -u -w1 127.0.0.1 7000
"""

import argparse

import penstock


def on_datagram(peer: penstock.Peer, datagram: bytes) -> bytes:
    return datagram


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7000)
    arguments = parser.parse_args()
    penstock.UDPServer(on_datagram).run((arguments.host, arguments.port))
