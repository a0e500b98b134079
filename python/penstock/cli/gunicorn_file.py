"""`-c gunicorn.conf.py`: a file of Python, whose variables are settings by gunicorn's names or by ours.

It is run as gunicorn runs it. What is no setting in it (imports, helpers of the file's own) is left alone, but told:
it may be a slip.
"""

from __future__ import annotations

import difflib
import importlib
import runpy
import types
from collections.abc import Mapping
from typing import Any

from ..config import SETTINGS
from ..errors import ConfigError
from .foreign import BY_VARIABLE, HOOKS
from .options import Choices


def read(path: str) -> Choices:
    """The settings of the file, or of the module that `python:NAME` names. What is wrong is among its errors."""
    choices = Choices()
    try:
        variables = _run(path)
    except ConfigError as error:
        choices.errors.append(error)
        return choices
    strangers: list[str] = []
    for name, value in variables.items():
        if not _take(choices, name, value, f"{name} in {path}") and _looks_like_a_setting(name, value):
            strangers.append(name + _hint(name))
    if strangers:
        choices.notes.append(f"{path} has what is no setting: {', '.join(strangers)}")
    return choices


def _take(choices: Choices, name: str, value: Any, called: str) -> bool:
    """Whether there is such a setting."""
    if name == "wsgi_app":
        choices.app = value
    elif name in HOOKS:
        if value is not None:
            choices.notes.append(f"{called} has no effect: {HOOKS[name]}")
    elif name in BY_VARIABLE:
        known = BY_VARIABLE[name]
        # False and None are how a Python file leaves something out.
        if value is not None and not (known.setting is None and value in (False, "", [])):
            choices.take(known, called, value)
    elif name in SETTINGS:
        if value is not None:
            choices.read(name, called, value)
    else:
        return False
    return True


def _run(path: str) -> Mapping[str, Any]:
    try:
        if path.startswith("python:"):
            return vars(importlib.import_module(path.removeprefix("python:")))
        return runpy.run_path(path.removeprefix("file:"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"--config: cannot read {path}: {reason}") from None
    except SyntaxError as error:
        line = f": {error.text.strip()}" if error.text else ""
        raise ConfigError(f"--config: syntax error in {error.filename}:{error.lineno}: {error.msg}{line}") from None
    except Exception as error:
        from ..importer import users_traceback

        told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ConfigError(f"--config: {path} raised {told}", details=users_traceback(error)) from None


def _looks_like_a_setting(name: str, value: object) -> bool:
    is_code = isinstance(value, types.ModuleType | type) or callable(value)
    return not (name.startswith("_") or is_code)


def _hint(name: str) -> str:
    nearest = difflib.get_close_matches(name, [*SETTINGS, *BY_VARIABLE, *HOOKS, "wsgi_app"], n=1, cutoff=0.75)
    return f" (did you mean {nearest[0]}?)" if nearest else ""
