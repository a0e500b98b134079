"""The application's own metrics: what it has counted with `prometheus_client`, to be shown beside the server's.

In a process that serves alone they are in the client's registry. Over several processes each keeps its own, so the
client's multi-process mode is used: the supervisor names a directory (`PROMETHEUS_MULTIPROC_DIR`, unless its user has)
before there are workers, each writes its values there, and whoever scrapes reads them all. What a dead worker had
counted is added up into one file, so that the directory does not grow with every worker that is replaced; except with
`--user`, where the supervisor, which has more rights, writes nothing in what is the user's, and reads it with care.

Nothing here imports the client unless the application, or a worker's file, shows that it is in use.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from . import identity, logs
from .config import ServerConfig

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
# Says that the directory was made here: a successor, which inherits the environment, makes its own.
_MADE = "PENSTOCK_MADE_MULTIPROC_DIR"
# Values that add up, over all processes there ever were.
_ADDED = ("counter", "histogram", "summary")
# Of one file of another user's; each value in it takes about a hundred bytes.
_MOST_BYTES = 64 << 20
# The server's own names; and what ends an OpenMetrics text.
_NOT_THE_APPS = re.compile(rb"^(?:(?:# (?:HELP|TYPE|UNIT) )?penstock_|# EOF)[^\n]*\n?", re.MULTILINE)


def are_possible() -> bool:
    """Whether there is a client that the application might count with."""
    return "prometheus_client" in sys.modules or importlib.util.find_spec("prometheus_client") is not None


def collect(wanted: str) -> bytes:
    """What the application has counted, as "text" or "openmetrics". A failure of its own is logged, and then nothing is
    shown."""
    try:
        registry = _registry()
        if registry is None:
            return b""
        if wanted == "openmetrics":
            from prometheus_client.openmetrics.exposition import generate_latest
        else:
            from prometheus_client import generate_latest
        return _NOT_THE_APPS.sub(b"", generate_latest(registry))
    except Exception:
        logs.error_logger.exception("The application's own metrics cannot be shown")
        return b""


def _registry() -> Any:
    """Where to collect from; `None` if nobody has counted."""
    directory = os.environ.get(_DIRECTORY)
    if directory is not None:
        if not any(Path(directory).glob("*.db")):
            return None
        from prometheus_client import CollectorRegistry
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        place = _followed(directory)
        if _is_ours(place):
            MultiProcessCollector(registry, str(place))
        else:
            registry.register(_OfAnotherUser(place))
        return registry
    client = sys.modules.get("prometheus_client")
    return None if client is None else client.REGISTRY


def _followed(directory: str) -> Path:
    """Through links of our own, and of nobody else's."""
    place = Path(directory)
    return place.resolve() if _is_ours(place) else place


def _is_ours(place: Path) -> bool:
    """Not by what a link leads to: a directory's owner may put one in its place."""
    return place.lstat().st_uid == os.geteuid()


class _OfAnotherUser:
    """Collects from a directory whose owner has fewer rights than we do: it decides what a name there leads to. So what
    is read are copies, of plain files of its own, each bounded, and opened so that nothing makes us wait."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> list[Any]:
        from prometheus_client.multiprocess import MultiProcessCollector

        place = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with tempfile.TemporaryDirectory(prefix="penstock-metrics-") as scratch:
                names = sorted(name for name in os.listdir(place) if name.endswith(".db"))
                copies = [_copy(place, name, Path(scratch)) for name in names]
                found = [str(copy) for copy in copies if copy is not None]
                return list(MultiProcessCollector.merge(found, accumulate=True))
        finally:
            os.close(place)


def _copy(place: int, name: str, into: Path) -> Path | None:
    """None if it is anything but a plain file of the directory's owner."""
    owner = os.fstat(place).st_uid
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != owner or status.st_size > _MOST_BYTES:
            return None
        copy = into / name
        copy.write_bytes(file.read(_MOST_BYTES))
    return copy


@contextlib.contextmanager
def shared_by_workers(config: ServerConfig) -> Generator[None]:
    """Have the workers that are forked within the block keep their values where they can be collected."""
    given = os.environ.get(_DIRECTORY)
    if not are_possible() or (given is not None and given != os.environ.get(_MADE)):
        yield
        return
    directory = tempfile.mkdtemp(prefix="penstock-metrics-")
    identity.give(directory, config)
    os.environ[_DIRECTORY] = os.environ[_MADE] = directory
    try:
        yield
    finally:
        for name in (_DIRECTORY, _MADE):
            os.environ.pop(name, None)
        shutil.rmtree(directory, ignore_errors=True)


def bury(pid: int) -> None:
    """A worker is gone: its live gauges go, what it has counted stays."""
    directory = os.environ.get(_DIRECTORY)
    if directory is None or not any(Path(directory).glob(f"*_{pid}.db")):
        return
    try:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid, directory)
        # Not with another user's rights: in a directory of its own it decides what a name there leads to.
        if directory == os.environ.get(_MADE) and _is_ours(Path(directory)):
            for kind in _ADDED:
                _add_up(Path(directory), kind, pid)
    except Exception:
        logs.error_logger.exception("What worker [%d] had counted cannot be put with the others'", pid)


def _add_up(directory: Path, kind: str, pid: int) -> None:
    from prometheus_client.mmap_dict import MmapedDict

    theirs = directory / f"{kind}_{pid}.db"
    if not theirs.exists():
        return
    everybody = MmapedDict(str(directory / f"{kind}_gone.db"))
    try:
        for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(theirs)):
            everybody.write_value(key, everybody.read_value(key)[0] + value, timestamp)
    finally:
        everybody.close()
    theirs.unlink()
