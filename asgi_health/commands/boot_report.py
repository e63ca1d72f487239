"""`boot-report`: load an application without a server and print what took how long."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from asgi_health.boot import describe, load_in_place
from asgi_health.report import AppCost, BootReport
from asgi_health.target import Target

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Load and print; 0 loaded, 1 the load failed, 3 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m asgi_health boot-report", exit_on_error=False)
    parser.add_argument(
        "application", metavar="MODULE:NAME", help="a gate, or any application or load function"
    )
    try:
        options = parser.parse_args(arguments)
    except (argparse.ArgumentError, SystemExit) as error:
        return 0 if isinstance(error, SystemExit) and error.code == 0 else 3
    sys.path.insert(0, "")
    try:
        _, recorder = load_in_place(_target(options.application))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the edge of another's code: told to the person who asked
        failure = describe(error)
        sys.stderr.write(
            f"{failure.traceback}\nthe load failed: {failure.code}: {failure.message}\n"
        )
        return 1
    sys.stdout.write(_table(recorder.report()))
    return 0


def _target(name: str) -> Target:
    """The target behind a gate, so that the slow half is measured; the name itself otherwise."""
    module_name, _, attribute = name.partition(":")
    found: Any = getattr(import_module(module_name), attribute, None) if attribute else None
    return found.target if getattr(found, "is_health_gate", False) else name


def _table(report: BootReport) -> str:
    lines = [
        f"loaded in {report.total_s:.3f} s, {report.cpu_share:.0%} of it computing",
        "",
        "step",
    ]
    lines += [_row(step.name, step.duration_s or 0.0) for step in report.steps]
    if report.modules:
        lines += ["", "slowest modules, by own time"]
        lines += [_row(name, seconds) for name, seconds in report.modules]
    if report.apps:
        lines += ["", "slowest apps: import, models, ready()"]
        lines += [_row(_app(app), app.total_s) for app in report.apps]
    return "\n".join(lines) + "\n"


def _row(name: str, seconds: float) -> str:
    return f"  {name:<60} {1000 * seconds:>10.1f} ms"


def _app(app: AppCost) -> str:
    parts = (app.import_s, app.models_s, app.ready_s)
    return f"{app.label:<30}" + "".join(f"{1000 * seconds:>9.1f}" for seconds in parts)
