"""What the processes have in common that run the test suites of client libraries: see `test_suites.py`."""

from __future__ import annotations

import importlib.util
import itertools
import json
import logging
import os
import sys
import unittest
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True)
class Order:
    """What a process is to do; on its command line as JSON."""

    sources: str
    """Where the sources of the library were laid out."""
    host: str
    port: int
    tls_port: int
    ca: str
    """PEM file with the certificate to trust."""
    domain: str
    password: str
    account: str
    """Of the name of every account; numbers from 0 follow it."""
    leave_out: list[str]
    """Tests that are not run."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def given(cls) -> Order:
        """The one on the command line."""
        return cls(**json.loads(sys.argv[1]))

    def accounts(self) -> Iterator[str]:
        """Addresses of accounts that nobody has used yet: what a test leaves behind disturbs no other."""
        return (f"{self.account}{n}@{self.domain}" for n in itertools.count())


@dataclass(frozen=True)
class Outcome:
    """How a test ended: "passed", "skipped" or "failed", and why."""

    test: str
    outcome: str
    why: str


def report_to() -> TextIO:
    """Standard output, for outcomes alone: what tests print goes to standard error from now on. Logging is off."""
    logging.disable(logging.CRITICAL)
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return report


class Telling(unittest.TestResult):
    """Writes a line of JSON for each test that ends, an `Outcome`."""

    def __init__(self, report: TextIO) -> None:
        super().__init__()
        self._report = report
        self._ended = ("passed", "")

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._ended = ("passed", "")

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self._report.write(json.dumps(asdict(Outcome(test.id(), *self._ended))) + "\n")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._ended = ("skipped", reason)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._ended = ("failed", self.failures[-1][1])

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._ended = ("failed", self.errors[-1][1])


def tests_in(order: Order, folder: str, pattern: str) -> unittest.TestSuite:
    """The tests of the files in a folder of the sources, which import nothing of one another; named by folder and file."""
    top = Path(order.sources) / folder
    suite = unittest.TestSuite()
    for path in sorted(top.glob(pattern)):
        name = ".".join(path.relative_to(top.parent).with_suffix("").parts)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        for test in _flat(unittest.defaultTestLoader.loadTestsFromModule(module)):
            if test.id() not in order.leave_out:
                suite.addTest(test)
    return suite


def _flat(tests: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for each in tests:
        if isinstance(each, unittest.TestSuite):
            yield from _flat(each)
        else:
            yield each
