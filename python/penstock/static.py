"""Directories that are served without the application: what a mount is, and how a person writes one.

The data plane reads the fields of `StaticMount` by their names (src/py/asgi/config.rs) and does the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .errors import ConfigError

SYNTAX = "/PREFIX=DIR, then any of ,max-age=SECONDS ,immutable ,listing ,hidden ,fallthrough ,cache-control=VALUE"

_MAX_AGE_S = 1 << 31


@dataclass(frozen=True, kw_only=True)
class StaticMount:
    """The files below `directory`, at the paths below `prefix`.

    Raises `ConfigError` for a prefix that is none, or a Cache-Control that no header can carry.
    """

    # Begins with a slash and, unless it is the slash alone, does not end with one.
    prefix: str
    directory: str
    # The value of Cache-Control; None sends none.
    cache_control: str | None = None
    # List directories that have no index.html.
    listing: bool = False
    # Serve names that begin with a dot.
    hidden: bool = False
    # What is not there is the application's to answer, and so is every method but GET and HEAD.
    fallthrough: bool = False

    def __post_init__(self) -> None:
        if not _is_prefix(self.prefix):
            raise ConfigError(f"--static: expected a prefix such as /assets, in plain ASCII, got {self.prefix!r}")
        if not self.directory or "\0" in self.directory:
            raise ConfigError(f"--static {self.prefix}: expected a directory, got {self.directory!r}")
        if self.cache_control is not None and not _is_header_value(self.cache_control):
            raise ConfigError(
                f"--static {self.prefix}: expected a Cache-Control of printable ASCII, got {self.cache_control!r}"
            )

    @classmethod
    def parse(cls, text: str) -> StaticMount:
        """The mount that `text` describes. Raises `ValueError` if it is not of the form of `SYNTAX`."""
        prefix, equals, rest = text.strip().partition("=")
        directory, _, options = rest.partition(",")
        if not equals or not directory:
            raise ValueError(text)
        prefix = prefix.rstrip("/") or prefix[:1]
        return _with_options(cls(prefix=prefix, directory=directory), options, text)

    def __str__(self) -> str:
        switches = [name for name in _SWITCHES if getattr(self, name)]
        cache_control = [f"cache-control={self.cache_control}"] if self.cache_control is not None else []
        return ",".join([f"{self.prefix}={self.directory}", *switches, *cache_control])


_SWITCHES = ("listing", "hidden", "fallthrough")


def _with_options(mount: StaticMount, options: str, text: str) -> StaticMount:
    """`mount` as `options`, separated by commas, would have it."""
    directives: list[str] = []
    while options:
        option, _, options = options.partition(",")
        name, equals, value = option.strip().partition("=")
        if name in _SWITCHES and not equals:
            mount = replace(mount, **{name: True})
        elif name == "immutable" and not equals:
            directives.append("immutable")
        elif name == "max-age" and value.isascii() and value.isdigit() and int(value) <= _MAX_AGE_S:
            directives.insert(0, f"max-age={int(value)}")
        elif name == "cache-control" and value and not directives:
            # The rest of the text: a value of Cache-Control has commas of its own.
            return replace(mount, cache_control=f"{value},{options}" if options else value)
        else:
            raise ValueError(text)
    return replace(mount, cache_control=", ".join(["public", *directives])) if directives else mount


def mounts_from(given: Iterable[StaticMount | str]) -> tuple[StaticMount, ...]:
    """Mounts however a program writes them: as such, or as text."""
    return tuple(StaticMount.parse(each) if isinstance(each, str) else each for each in given)


def refuse_repetition(mounts: Iterable[StaticMount]) -> None:
    seen: set[str] = set()
    for mount in mounts:
        if mount.prefix in seen:
            raise ConfigError(f"--static {mount.prefix} was given twice: a prefix has one directory")
        seen.add(mount.prefix)


def resolve(mounts: Iterable[StaticMount | str]) -> tuple[StaticMount, ...]:
    """The mounts with absolute directories that are there. Raises `ConfigError` for one that is not."""
    return tuple(map(_resolved, mounts_from(mounts)))


def _resolved(mount: StaticMount) -> StaticMount:
    directory = os.path.abspath(os.path.expanduser(mount.directory))
    try:
        os.listdir(directory)
    except OSError as error:
        raise ConfigError(
            f"--static {mount.prefix}: expected a readable directory, got {mount.directory!r} ({error.strerror})"
        ) from None
    return replace(mount, directory=directory)


def _is_prefix(prefix: str) -> bool:
    if prefix == "/":
        return True
    segments = prefix.split("/")
    is_plain = prefix.isascii() and prefix.isprintable() and not set(prefix) & set(' %?#\\"<>')
    return (
        is_plain
        and len(segments) > 1
        and segments[0] == ""
        and all(segment not in ("", ".", "..") for segment in segments[1:])
    )


def _is_header_value(value: str) -> bool:
    return bool(value) and value.isascii() and value.isprintable() and value == value.strip()
