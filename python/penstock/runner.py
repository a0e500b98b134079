"""`penstock.run`: the server from inside a program, with the settings of `ServerConfig` as keyword arguments."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Iterable
from typing import Any, Concatenate, ParamSpec

from .config import ServerConfig
from .errors import ConfigError

Settings = ParamSpec("Settings")
Runner = Callable[["str | Callable[..., Any]", ServerConfig], None]


def _with_settings_of(
    config: Callable[Settings, ServerConfig],
) -> Callable[[Runner], Callable[Concatenate[str | Callable[..., Any], Settings], None]]:
    """Give a function of an application and a config the config's own keyword arguments instead, types included."""

    def decorate(runner: Runner) -> Callable[Concatenate[str | Callable[..., Any], Settings], None]:
        def run(app: str | Callable[..., Any], /, *args: Settings.args, **kwargs: Settings.kwargs) -> None:
            runner(app, config(*args, **kwargs))

        functools.update_wrapper(run, runner)
        first = next(iter(inspect.signature(runner).parameters.values()))
        settings = inspect.signature(config).parameters.values()
        # What help() and editors show: the settings by name instead of *args and **kwargs.
        vars(run)["__signature__"] = inspect.Signature([first, *settings], return_annotation="None")
        return run

    return decorate


def prepare(app: str | Callable[..., Any], config: ServerConfig) -> ServerConfig:
    """Set up the working directory, logging and the module search path; the config with what has been looked up."""
    from . import env_file, importer, logs, static, tracing

    if config.chdir is not None:
        _change_directory(config.chdir)
    if config.env_file is not None:
        env_file.load(config.env_file, os.environ)
    config = dataclasses.replace(config, static=static.resolve(config.static))
    logs.configure(
        level=config.log_level,
        access_log=config.access_log,
        use_colors=config.use_colors,
        error_logfile=config.error_logfile,
        log_config=config.log_config,
    )
    if config.access_log:
        logs.check_access_logfile(config.access_logfile)
    tracing.check(config)
    if isinstance(app, str):
        importer.add_app_dir(config.app_dir)
    return config


def _change_directory(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise ConfigError(f"--chdir: cannot go to {path}: {(error.strerror or str(error)).lower()}") from None


def start(app: str | Callable[..., Any], config: ServerConfig, *, notes: Iterable[str] = ()) -> None:
    """Serve until stopped. `notes` are logged first."""
    from . import logs

    config = prepare(app, config)
    for note in notes:
        logs.error_logger.warning("%s", note)
    if config.reload:
        from .reload import serve_reloading

        serve_reloading(app, config)
    else:
        from .server import serve

        serve(app, config)


@_with_settings_of(ServerConfig)
def run(app: str | Callable[..., Any], config: ServerConfig) -> None:
    """Serve an ASGI or WSGI application, `"module:attribute"` or the callable itself, until Ctrl-C or SIGTERM.

    Every setting of `ServerConfig` is a keyword argument: `penstock.run(app, host="::", port=8080)`. The environment
    is not read. Raises `PenstockError` for what a user can put right: `ConfigError`, `AppImportError`,
    `AddressError`, `StartupError`.
    """
    start(app, config)
