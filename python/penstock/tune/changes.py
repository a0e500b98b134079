"""What is written, what was there before, and how it is put back: the only module here that changes the machine.

What was there is in a state file before anything is written, so that a crash in between can be undone too. Each change
stands alone: one that the kernel refuses is told, with its reason, and the others are made. Undoing leaves alone what
somebody else has set meanwhile.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PenstockError
from .machine import path_below
from .parameter import Advice, canonical

VERSION = 1

_REASONS = {
    errno.EROFS: "it is read-only here, as in a container: set it on the host",
    errno.EACCES: "not allowed, even to root, as in a container: set it on the host",
    errno.EPERM: "not allowed, even to root, as in a container: set it on the host",
    errno.EINVAL: "the kernel does not take this value",
    errno.ENOENT: "it is not there, or needs a module that is not loaded",
    errno.EBUSY: "the kernel is busy with it: try again",
}


class TuneError(PenstockError):
    """Settings could not be applied or undone."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One file, what it says, and what it is to say."""

    name: str
    place: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a change. `error` says why it was not made; `left_alone`, that it was not ours to make."""

    change: Change
    now: str | None
    error: str | None = None
    left_alone: bool = False


@dataclass(frozen=True)
class Memory:
    """The state file: what was there before, of one boot."""

    path: Path

    def load(self, boot_id: str) -> tuple[Change, ...]:
        """What was changed since this boot; the kernel itself has undone what was before it."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise TuneError(f"{self.path}: expected a state file, got: {_told(error)}") from error
        return _changes_from(self.path, text, boot_id)

    def save(self, boot_id: str, changes: Iterable[Change]) -> None:
        """All or nothing, and on the disk. Without changes the file goes away."""
        kept = [vars(change) for change in changes]
        try:
            if not kept:
                self.path.unlink(missing_ok=True)
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"version": VERSION, "boot": boot_id, "changes": kept}, indent=2)
            _replace(self.path, text + "\n")
        except OSError as error:
            raise TuneError(
                f"{self.path}: cannot keep what was there before ({_told(error)}): say where with --state"
            ) from error


def changes_for(advice: Iterable[Advice]) -> tuple[Change, ...]:
    """What of the advice is written to a file, and is due."""
    return tuple(
        Change(name=each.name, place=each.place, before=each.now, after=each.wanted)
        for each in advice
        if each.is_due and each.can_be_written and each.now is not None
    )


def apply(changes: Iterable[Change], *, root: Path, memory: Memory, boot_id: str) -> tuple[Outcome, ...]:
    """Make the changes, remembering first. Raises `TuneError` if they cannot be remembered: then nothing was made."""
    made = {change.place: change for change in memory.load(boot_id)}
    wanted = [_as_first_found(change, made) for change in changes]
    memory.save(boot_id, _merged(made, wanted))
    outcomes = tuple(_write(root, change, change.after) for change in wanted)
    # As the kernel has it now: it rounds some values, and undoing compares with what is there.
    kept = (_replaced(outcome) for outcome in outcomes if outcome.error is None)
    memory.save(boot_id, _merged(made, kept))
    return outcomes


def undo(*, root: Path, memory: Memory, boot_id: str) -> tuple[Outcome, ...]:
    """Put back what was there, the last change first. What could not be put back stays remembered."""
    outcomes = tuple(_put_back(root, change) for change in reversed(memory.load(boot_id)))
    memory.save(boot_id, reversed([outcome.change for outcome in outcomes if outcome.error is not None]))
    return outcomes


def _as_first_found(change: Change, made: Mapping[str, Change]) -> Change:
    """Applying twice is undone to what was there before the first time."""
    first = made.get(change.place)
    return change if first is None else Change(**{**vars(change), "before": first.before})


def _merged(made: Mapping[str, Change], more: Iterable[Change]) -> Iterator[Change]:
    return iter((dict(made) | {change.place: change for change in more}).values())


def _replaced(outcome: Outcome) -> Change:
    return Change(**{**vars(outcome.change), "after": outcome.now or outcome.change.after})


def _put_back(root: Path, change: Change) -> Outcome:
    now = _read(root, change.place)
    if now == change.before:
        return Outcome(change=change, now=now)
    if now != canonical(change.place, change.after):
        return Outcome(change=change, now=now, left_alone=True)
    return _write(root, change, change.before)


def _write(root: Path, change: Change, value: str) -> Outcome:
    try:
        # In one write, as the kernel wants it, and never making a file that is not there.
        descriptor = os.open(path_below(root, change.place), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(descriptor, f"{value}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        return Outcome(change=change, now=_read(root, change.place), error=_told(error))
    return Outcome(change=change, now=_read(root, change.place))


def _read(root: Path, place: str) -> str | None:
    try:
        return canonical(place, path_below(root, place).read_text(encoding="utf-8"))
    except OSError:
        return None


def _told(error: OSError) -> str:
    return _REASONS.get(error.errno or 0, error.strerror or str(error))


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _changes_from(path: Path, text: str, boot_id: str) -> tuple[Change, ...]:
    try:
        kept: Any = json.loads(text)
        if kept["version"] != VERSION:
            raise ValueError
        changes = tuple(Change(**each) for each in kept["changes"])
        if not all(isinstance(value, str) for change in changes for value in vars(change).values()):
            raise ValueError
        return changes if kept["boot"] == boot_id else ()
    except (ValueError, TypeError, KeyError):
        raise TuneError(
            f"{path}: expected what penstock tune --apply had written, got something else; move it away to go on"
        ) from None
