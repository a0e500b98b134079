"""A stream server on several reactors of one process: an event loop and a thread each, fed by a main reactor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import listener, logs
from .event_loop import EventLoop
from .reactor_thread import ReactorThread, first_of, run_threads

if TYPE_CHECKING:
    from .streams import TCPServer
    from .watching import Watching


async def serve_on_threads(server: TCPServer, watching: Watching, stop: asyncio.Event) -> None:
    """Serve until `stop`, or until a reactor ends; raises what ended it."""

    async def serve(loop: EventLoop, stop: asyncio.Event, tell_ready: Callable[[Any], None]) -> None:
        part = server.add_part(loop)
        tell_ready((loop.reactor.handle(), part.server.listener_number))
        await stop.wait()
        await part.stop(server.timeout_graceful_shutdown_s)

    async def accept(threads: list[ReactorThread]) -> None:
        await _accept(server, threads, watching, stop)

    try:
        await run_threads([serve] * watching.reactors, watching, stop, accept)
    finally:
        server.parts.clear()


async def _accept(server: TCPServer, threads: list[ReactorThread], watching: Watching, stop: asyncio.Event) -> None:
    # Each reactor has this one endpoint, so that the number is the same on all.
    (number,) = {each.ready.result()[1] for each in threads}
    main_reactor = watching.main_reactor([each.ready.result()[0] for each in threads])
    try:
        for position, each in enumerate(server.listeners):
            main_reactor.add_listener(each.fileno(), number + 256 * position)
        logs.log_banner(server.addresses)
        await first_of(None, stop, threads)
        logs.error_logger.info("Shutting down")
    finally:
        listener.close_listeners(server.listeners)
        main_reactor.stop()
