"""Sends back whatever arrives: `python examples/echo_server.py --port 9000`, then `python examples/echo_client.py`."""

import argparse

import penstock


def on_message(connection: penstock.Connection, data: bytes) -> None:
    connection.send(data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9000)
    penstock.TCPServer(on_message).run(f"127.0.0.1:{parser.parse_args().port}")
