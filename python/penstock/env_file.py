"""`--env-file`: variables from a file into the environment, which goes before it."""

from __future__ import annotations

from collections.abc import MutableMapping

from .errors import ConfigError


def load(path: str, environment: MutableMapping[str, str]) -> None:
    """Add what the file has and the environment has not. Raises `ConfigError`."""
    try:
        from dotenv import dotenv_values
    except ImportError:
        raise ConfigError("--env-file needs python-dotenv: pip install 'penstock[standard]'") from None
    try:
        with open(path, encoding="utf-8") as file:
            values = dotenv_values(stream=file)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"--env-file: cannot read {path}: {(reason or str(error)).lower()}") from None
    for name, value in values.items():
        if value is not None:
            environment.setdefault(name, value)
