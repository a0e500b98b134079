"""socketify's own handler, which is no ASGI application: python socketify_server.py PORT."""

from __future__ import annotations

import sys
from typing import Any

from socketify import App  # pyright: ignore[reportMissingImports]: installed among the peers only


def hello(response: Any, request: Any) -> None:
    response.write_header("content-type", "text/plain").end("Hello, World!")


def main() -> None:
    app = App()
    app.get("/", hello)
    app.listen(int(sys.argv[1]), lambda config: None)
    app.run()


if __name__ == "__main__":
    main()
