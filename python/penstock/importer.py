"""Turns `module:attribute` into the application, or into one clear line about why there is none.

What goes wrong while a user's module runs is the user's own: its traceback is shown, without the frames of the
import machinery. What goes wrong before (no such module, no such attribute, a typing slip) needs no traceback, only
the nearest name that exists.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from .errors import AppImportError

Application = Callable[..., Any]

# What an application is called when nobody says: tried in this order.
DEFAULT_ATTRIBUTES = ("app", "application")
_MAX_NAMES_LISTED = 8
_MISSING = object()

logger = logging.getLogger("penstock.error")


def add_app_dir(app_dir: str) -> None:
    """Put the application's directory first in the module search path; doing so twice changes nothing."""
    directory = os.path.abspath(app_dir)
    if not os.path.isdir(directory):
        raise AppImportError(f"--app-dir: expected a directory, got {app_dir!r}, which is none")
    if sys.path[:1] != [directory]:
        sys.path.insert(0, directory)


def load_app(spec: str | Application, *, factory: bool = False) -> Application:
    """The application that `spec` names (`module:attribute.attribute`, or `module` alone) or already is.

    With `factory`, what is found is called without arguments and its result is the application. Raises
    `AppImportError`; what the user's code raises with `SystemExit` or `KeyboardInterrupt` passes through.
    """
    found, called = _resolve(spec) if isinstance(spec, str) else (spec, _name_of(spec))
    if factory:
        found = _make(found, called)
    if not callable(found):
        raise AppImportError(f"{called} is not an application: expected a callable, got {_kind_of(found)}")
    if not factory:
        _refuse_uncalled_factory(found, called)
    return found


def load_object(spec: str) -> Any:
    """What `module:attribute` names. Raises `AppImportError`."""
    return _resolve(spec)[0]


def _resolve(spec: str) -> tuple[Any, str]:
    module_name, colon, attribute_path = spec.partition(":")
    _check_spelling(spec, module_name, colon, attribute_path)
    module = _import_module(module_name)
    if not colon:
        attribute_path = _default_attribute(module)
        logger.info("%s names no attribute: using %s:%s", spec, module_name, attribute_path)
    return _attribute(module, attribute_path), f"{module_name}:{attribute_path}"


def _check_spelling(spec: str, module_name: str, colon: str, attribute_path: str) -> None:
    expected = f"expected module:attribute, such as main:app, got {spec!r}"
    if "/" in module_name or os.sep in module_name or module_name.endswith(".py"):
        dotted = module_name.removesuffix(".py").strip("./").replace(os.sep, ".").replace("/", ".")
        raise AppImportError(f"{expected}: a module is named with dots, try {dotted}{colon}{attribute_path}")
    if attribute_path.endswith("()"):
        raise AppImportError(f"{expected}: to call a factory, name it without () and add --factory")
    parts = module_name.split(".") + (attribute_path.split(".") if colon else [])
    if not all(part.isidentifier() for part in parts):
        raise AppImportError(expected)


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except SyntaxError as error:
        where = f"{error.filename}:{error.lineno}"
        line = f": {error.text.strip()}" if error.text else ""
        raise AppImportError(f"syntax error in {where}: {error.msg}{line}") from None
    except Exception as error:
        details = users_traceback(error)
        if details is None and isinstance(error, ImportError):
            raise AppImportError(_missing_module(name, error)) from None
        raise AppImportError(
            f"importing {name} raised {type(error).__name__}{_first_line(error)}", details=details
        ) from None


def _missing_module(name: str, error: ImportError) -> str:
    """No frame of the user's ran: `name` itself, or a package that it lies in, does not exist."""
    missing = error.name or name
    parent, _, leaf = missing.rpartition(".")
    if not isinstance(error, ModuleNotFoundError):
        return f"cannot import {name}{_first_line(error)}"
    if parent and not hasattr(sys.modules.get(parent), "__path__"):
        return f"no module named {missing}: {parent} is a module, not a package; an attribute goes after a colon"
    where = f"in package {parent}" if parent else f"in {sys.path[0] or '.'}"
    hint = _did_you_mean(leaf, _modules_beside(parent))
    return f"no module named {missing} {where}{hint or '; is --app-dir right?'}"


def _modules_beside(parent: str) -> list[str]:
    """The modules and packages that a user may have meant: those of the package, or of the search path's first."""
    directories: Iterable[str] = sys.modules[parent].__path__ if parent else [sys.path[0] or "."]
    names: list[str] = []
    for directory in directories:
        try:
            entries = list(os.scandir(directory))
        except OSError:
            continue
        names += [entry.name.removesuffix(".py") for entry in entries if entry.name.endswith(".py") or entry.is_dir()]
    return [name for name in names if name.isidentifier() and not name.startswith("__")]


def _default_attribute(module: ModuleType) -> str:
    for attribute in DEFAULT_ATTRIBUTES:
        if hasattr(module, attribute):
            return attribute
    raise AppImportError(
        f"{module.__name__} has neither {' nor '.join(DEFAULT_ATTRIBUTES)}: name the application's attribute, "
        f"as in {module.__name__}:NAME{_callables_listed(module)}"
    )


def _attribute(module: ModuleType, path: str) -> Any:
    found: Any = module
    called = module.__name__
    for name in path.split("."):
        try:
            following = getattr(found, name, _MISSING)
        except Exception as error:
            raise AppImportError(
                f"reading {name} of {called} raised {type(error).__name__}{_first_line(error)}",
                details=users_traceback(error),
            ) from None
        if following is _MISSING:
            hint = _did_you_mean(name, [other for other in dir(found) if not other.startswith("__")])
            raise AppImportError(f"{called} has no attribute {name}{hint or _callables_listed(found)}")
        called += f"{':' if found is module else '.'}{name}"
        found = following
    return found


def _make(factory: Any, called: str) -> Any:
    if not callable(factory):
        raise AppImportError(f"--factory: expected {called} to be a function, got {_kind_of(factory)}")
    needed = _required_arguments(factory)
    if needed:
        raise AppImportError(f"--factory: {called} must take no arguments, but needs {', '.join(needed)}")
    try:
        return factory()
    except Exception as error:
        raise AppImportError(
            f"factory {called} raised {type(error).__name__}{_first_line(error)}", details=users_traceback(error)
        ) from None


def _refuse_uncalled_factory(app: Application, called: str) -> None:
    """A plain function without parameters cannot serve a request, but can make what does."""
    if inspect.isfunction(app) and not inspect.signature(app).parameters:
        raise AppImportError(f"{called} takes no arguments: if it makes the application, add --factory")


def _required_arguments(function: Any) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []  # A builtin that does not say.
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in optional]


def users_traceback(error: BaseException) -> str | None:
    """The traceback as the user's own code knows it, or None if none of that code ran."""
    told = traceback.TracebackException.from_exception(error)
    if not _keep_users_frames(told):
        return None
    return "".join(told.format()).rstrip()


def _keep_users_frames(told: traceback.TracebackException) -> bool:
    for chained in (told.__cause__, told.__context__):
        if chained is not None:
            _keep_users_frames(chained)
    told.stack[:] = [frame for frame in told.stack if not _is_machinery(frame.filename)]
    return len(told.stack) > 0


def _is_machinery(filename: str) -> bool:
    return filename in (__file__, importlib.__file__) or filename.startswith("<frozen importlib")


def _did_you_mean(name: str, candidates: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, sorted(set(candidates)), n=3)
    return f"; did you mean {' or '.join(nearest)}?" if nearest else ""


def _callables_listed(holder: Any) -> str:
    """The callables that were made in this module (or are attributes of this object), as a hint."""
    own = [
        name
        for name, value in inspect.getmembers(holder, callable)
        if not name.startswith("_")
        and (not inspect.ismodule(holder) or getattr(value, "__module__", None) == holder.__name__)
    ]
    if not own:
        return ""
    more = f" and {len(own) - _MAX_NAMES_LISTED} more" if len(own) > _MAX_NAMES_LISTED else ""
    return f"; its callables are {', '.join(own[:_MAX_NAMES_LISTED])}{more}"


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f": {lines[0]}" if lines and lines[0] else ""


def _name_of(app: Any) -> str:
    return getattr(app, "__qualname__", None) or repr(app)


def _kind_of(value: Any) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
