"""Runs a module of CPython's own asyncio tests with `penstock.EventLoop` in the place of the selector loop.

    python tests/python/asyncio_suite.py test_events [PATTERN ...]

A pattern picks tests as unittest's -k does; with a `!` before it, it leaves them out. Everything else is the module's
own: what runs here is what CPython asks of its own loops.
"""

from __future__ import annotations

import asyncio
import fnmatch
import importlib
import sys
import unittest
from collections.abc import Iterator
from typing import Any

from penstock import EventLoop


class SelectorEventLoop(EventLoop):
    """Takes a selector, as the class that it stands for does, and has no use for it."""

    made = 0

    def __init__(self, selector: Any = None) -> None:
        if selector is not None:
            selector.close()
        super().__init__()
        SelectorEventLoop.made += 1


def tests_of(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from tests_of(each)
        else:
            yield each


def is_wanted(test: unittest.TestCase, patterns: list[str]) -> bool:
    picks = [pattern for pattern in patterns if not pattern.startswith("!")]
    drops = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    name = test.id()
    picked = not picks or any(fnmatch.fnmatchcase(name, f"*{pattern}*") for pattern in picks)
    return picked and not any(fnmatch.fnmatchcase(name, f"*{pattern}*") for pattern in drops)


def main(module: str, *patterns: str) -> int:
    policy: Any = asyncio.DefaultEventLoopPolicy
    policy._loop_factory = SelectorEventLoop
    stand_in: Any = asyncio
    stand_in.SelectorEventLoop = SelectorEventLoop
    loaded = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(f"test.test_asyncio.{module}"))
    wanted = [test for test in tests_of(loaded) if is_wanted(test, list(patterns))]
    result = unittest.TextTestRunner(verbosity=2, stream=sys.stderr).run(unittest.TestSuite(wanted))
    print(f"{result.testsRun} tests ran, on {SelectorEventLoop.made} loops")
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
