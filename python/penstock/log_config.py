"""`--log-config`: Python's logging set up from a file, as `logging.config` understands it.

A file made for uvicorn or gunicorn means Penstock's loggers by those servers' names: it is taken so, unless it has
Penstock's names, too.
"""

from __future__ import annotations

import configparser
import json
import logging.config
from pathlib import Path
from typing import Any

from .errors import ConfigError

# Each logger of another server, and ours; and the classes of its formatters.
_LOGGERS = {
    "uvicorn": "penstock",
    "uvicorn.error": "penstock.error",
    "uvicorn.access": "penstock.access",
    "gunicorn": "penstock",
    "gunicorn.error": "penstock.error",
    "gunicorn.access": "penstock.access",
}
_CLASSES = {
    "uvicorn.logging.DefaultFormatter": "penstock.logs.LevelFormatter",
    "uvicorn.logging.ColourizedFormatter": "penstock.logs.LevelFormatter",
    "uvicorn.logging.AccessFormatter": "penstock.logs.AccessFormatter",
}


def apply(path: str) -> None:
    """Set up logging as the file says. Raises `ConfigError`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"--log-config: cannot read {path}: {(reason or str(error)).lower()}") from None
    suffix = Path(path).suffix.lower()
    try:
        if suffix == ".json":
            _apply_dict(json.loads(text), path)
        elif suffix in (".yaml", ".yml"):
            _apply_dict(_parse_yaml(text), path)
        else:
            _apply_ini(text)
    except ConfigError:
        raise
    except Exception as error:
        # logging.config tells what is wrong in the cause, if there is one.
        told = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(f"--log-config: {path}: {str(error) + ': ' if error.__cause__ else ''}{told}") from None


def _parse_yaml(text: str) -> object:
    try:
        import yaml
    except ImportError:
        raise ConfigError("--log-config: a YAML file needs PyYAML: pip install 'penstock[standard]'") from None
    return yaml.safe_load(text)


def _apply_dict(found: Any, path: str) -> None:
    if not isinstance(found, dict):
        raise ConfigError(f"--log-config: expected a mapping in {path}, got {type(found).__name__}")
    loggers: dict[str, Any] = found.get("loggers") or {}
    found["loggers"] = {_renamed(name, loggers): value for name, value in loggers.items()}
    for formatter in (found.get("formatters") or {}).values():
        for key in ("()", "class"):
            if isinstance(formatter, dict) and formatter.get(key) in _CLASSES:
                formatter["()"] = _CLASSES[formatter.pop(key)]
    found.setdefault("disable_existing_loggers", False)
    logging.config.dictConfig(found)


def _apply_ini(text: str) -> None:
    found = configparser.RawConfigParser()
    found.read_string(text)
    sections = [name for name in found.sections() if name.startswith("logger_") and found.has_option(name, "qualname")]
    names = {found.get(name, "qualname") for name in sections}
    for section in sections:
        found.set(section, "qualname", _renamed(found.get(section, "qualname"), names))
    for section in found.sections():
        if section.startswith("formatter_") and found.get(section, "class", fallback="") in _CLASSES:
            found.set(section, "class", _CLASSES[found.get(section, "class")])
    logging.config.fileConfig(found, disable_existing_loggers=False)


def _renamed(name: str, present: Any) -> str:
    ours = _LOGGERS.get(name, name)
    return name if ours in present else ours
