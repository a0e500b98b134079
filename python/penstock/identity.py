"""Who a process is: its user and groups, its umask, and the file that tells its number.

What needs more rights than the application shall have (low ports, sockets in /run) is done before `become`.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Generator

from .config import ServerConfig
from .errors import ConfigError


def is_asked(config: ServerConfig) -> bool:
    """Whether this process is to become another user or group."""
    return config.user is not None or config.group is not None


def check(config: ServerConfig) -> None:
    """Raises `ConfigError` for a user or group that there is not, or that this process cannot become."""
    user, group = _user(config), _group(config)
    if not is_asked(config) or os.geteuid() == 0:
        return
    wanted = (user.pw_uid if user else os.getuid(), group if group is not None else os.getgid())
    if wanted != (os.getuid(), os.getgid()):
        raise ConfigError(
            f"{'--user' if user else '--group'}: only root can become another: start as root, or without it"
        )


def give(path: str, config: ServerConfig) -> None:
    """Have a file or directory belong to whom this process, or its workers, will be."""
    user, group = _user(config), _group_to_be(config)
    if os.geteuid() == 0 and is_asked(config):
        os.chown(path, user.pw_uid if user else -1, group if group is not None else -1)


def become(config: ServerConfig) -> None:
    """For good: there is no way back."""
    if config.umask is not None:
        os.umask(config.umask)
    if not is_asked(config):
        return
    user, group = _user(config), _group_to_be(config)
    if os.geteuid() == 0 and group is not None:
        # Root's own groups must not stay.
        os.initgroups(user.pw_name, group) if user else os.setgroups([group])
        os.setgid(group)
    if user is not None:
        os.setuid(user.pw_uid)
        os.environ.update(HOME=user.pw_dir, USER=user.pw_name, LOGNAME=user.pw_name)


def _user(config: ServerConfig) -> pwd.struct_passwd | None:
    if config.user is None:
        return None
    with contextlib.suppress(KeyError, OverflowError):
        return pwd.getpwuid(int(config.user)) if config.user.isdigit() else pwd.getpwnam(config.user)
    raise ConfigError(f"--user: expected a user of this machine, got {config.user!r}: see getent passwd")


def _group(config: ServerConfig) -> int | None:
    if config.group is None:
        return None
    with contextlib.suppress(KeyError, OverflowError):
        return (grp.getgrgid(int(config.group)) if config.group.isdigit() else grp.getgrnam(config.group)).gr_gid
    raise ConfigError(f"--group: expected a group of this machine, got {config.group!r}: see getent group")


def _group_to_be(config: ServerConfig) -> int | None:
    """The one that is asked for, or else the user's own."""
    group, user = _group(config), _user(config)
    return user.pw_gid if group is None and user is not None else group


@contextlib.contextmanager
def pid_file(path: str | None, *, instead_of: int | None = None) -> Generator[None]:
    """A file with this process's number while the block runs. One that names another living process is refused, unless
    that is the one to take over from (`instead_of`)."""
    if path is None:
        yield
        return
    path = os.path.abspath(path)
    other = _pid_in(path)
    if other not in (None, os.getpid(), instead_of) and _is_alive(other):
        raise ConfigError(f"--pid: {path} is that of process {other}, which runs: stop it, or choose another file")
    try:
        # Whole or not at all, for those who read it at any time.
        with open(f"{path}.{os.getpid()}", "w") as file:
            file.write(f"{os.getpid()}\n")
        os.replace(f"{path}.{os.getpid()}", path)
    except OSError as error:
        raise ConfigError(f"--pid: cannot write {path}: {(error.strerror or str(error)).lower()}") from None
    owner = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == owner and _pid_in(path) == owner:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _pid_in(path: str) -> int | None:
    try:
        with open(path) as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return None


def _is_alive(pid: int | None) -> bool:
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # Somebody else's, and alive.
    return True
