"""Worker processes under a supervisor: started, watched, replaced, reloaded without losing a request.

The supervisor is one thread that owns the listening sockets and never serves. It forks its workers, and imports the
application only to preload it; so a fork finds no thread in the middle of anything, costs a few milliseconds, and takes
an application object as well as a name.

`plan` decides purely what is to be done; `supervisor` does it. `trade` is what workers serve: applications, or
protocols of one's own. `process` is one worker as its supervisor has it,
`worker` the same from inside. They talk in lines over a socket pair, and the end of that is how each learns of the
other's death. What workers tell all the time goes through the scoreboard, in shared memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..config import ServerConfig

if TYPE_CHECKING:
    from .trade import Trade


def supervise(app: Any, config: ServerConfig, trade: Trade | None = None) -> None:
    """Serve with workers until SIGINT, SIGTERM or SIGQUIT: an application, or what else their trade is.

    Raises `PenstockError`, as `server.serve` does.
    """
    from .supervisor import Supervisor

    Supervisor(app, config, trade).run()
