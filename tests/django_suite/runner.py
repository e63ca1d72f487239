"""Run Django's tests over the bridge and write what happened to each, a line of JSON an event.

In the environment: SUITE_HANDLER, the handler as module:Class; SUITE_RESULTS, the file to write;
SUITE_TEST_LIMIT_S, the seconds after which a hung test ends the process with all stacks;
SUITE_ELSEWHERE=1, no synchronous code above the handler.
"""

import faulthandler
import json
import os
import unittest
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.test.runner import DiscoverRunner
from django.utils.module_loading import import_string

from tests.django_suite.bridge import COUNTS, install

__all__ = ["RecordingResult", "Runner"]


class Runner(DiscoverRunner):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        handler_class = import_string(os.environ["SUITE_HANDLER"].replace(":", "."))
        install(handler_class, elsewhere=os.environ.get("SUITE_ELSEWHERE") == "1")

    def get_resultclass(self) -> type[unittest.TextTestResult]:
        return RecordingResult

    def run_suite(self, suite: unittest.TestSuite, **kwargs: Any) -> Any:
        result = super().run_suite(suite, **kwargs)
        _write({"finished": result.testsRun})
        return result


class RecordingResult(unittest.TextTestResult):
    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        _write({"started": test.id()})
        faulthandler.dump_traceback_later(float(os.environ["SUITE_TEST_LIMIT_S"]), exit=True)
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()
        _write({"stopped": test.id(), "counts": asdict(COUNTS)})

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().addSuccess(test)
        _outcome(test, "passed")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        _outcome(test, "failed", _reason(err))

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        _outcome(test, "failed", _reason(err))

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        super().addSubTest(test, subtest, err)
        if err is not None:
            _outcome(subtest, "failed", _reason(err))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        _outcome(test, "skipped", reason)

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addExpectedFailure(test, err)
        _outcome(test, "passed")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().addUnexpectedSuccess(test)
        _outcome(test, "failed", "passes against expectation")


def _outcome(test: Any, outcome: str, reason: str = "") -> None:
    _write({"test": test.id(), "outcome": outcome, "reason": reason})


def _reason(err: Any) -> str:
    lines = str(err[1]).strip().splitlines()
    return f"{err[0].__name__}: {lines[0][:200] if lines else ''}"


def _write(event: dict[str, Any]) -> None:
    with Path(os.environ["SUITE_RESULTS"]).open("a") as results:
        results.write(json.dumps(event) + "\n")
