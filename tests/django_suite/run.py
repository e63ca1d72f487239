"""Run Django's tests over stock ASGIHandler and over ours, and compare: see scripts/django-suite.

Exit code: 0 when ours fails nothing that stock passes and served what it was to serve, else 1.
"""

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.django_suite.compare import compare

__all__ = ["main"]

STOCK = "django.core.handlers.asgi:ASGIHandler"
MODULES = [
    "asgi", "handlers", "async", "middleware", "signals", "requests_tests", "sessions_tests",
    "csrf_tests", "messages_tests", "staticfiles_tests", "test_client", "test_client_regress",
    "file_uploads", "view_tests", "i18n", "cache", "db_utils", "auth_tests",
]  # fmt: skip
OPTIONAL = [
    "PIL", "argon2", "bcrypt", "docutils", "jinja2", "numpy", "pylibmc", "pymemcache",
    "redis", "selenium", "tblib", "yaml",
]  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]
KILL_GRACE_S = 10


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    options.results = options.results.resolve()
    options.results.mkdir(parents=True, exist_ok=True)
    missing = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
    print(f"Not installed, so tests that need them are skipped: {', '.join(missing) or 'nothing'}")
    handlers = {"stock": STOCK, "ours": options.handler}
    if options.jobs == 2:
        _run(handlers, options)
    else:
        for name, handler in handlers.items():
            _run({name: handler}, options)
    result = compare(options.results / "stock.jsonl", options.results / "ours.jsonl")
    print(result.report())
    problems = list(result.problems())
    for problem in problems:
        print(f"FAILED  {problem}")
    print(f"\nOutput of the runs: {options.results}" if problems else "\nok")
    return 1 if problems else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tests", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--handler", required=True)
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=1)
    parser.add_argument("--limit-s", type=float, default=1800)
    parser.add_argument("--test-limit-s", type=float, default=180)
    parser.add_argument("--elsewhere", action="store_true")
    parser.add_argument("--path", type=Path, default=None)
    parser.add_argument("labels", nargs="*", default=MODULES)
    return parser.parse_args()


def _run(handlers: dict[str, str], options: argparse.Namespace) -> None:
    """Run the tests over these handlers side by side; nothing is left running afterwards."""
    start_s = time.monotonic()
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, handler in handlers.items():
            processes[name] = _start(name, handler, options)
        for name, process in processes.items():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, start_s + options.limit_s - time.monotonic()))
            print(f"{name}: {handlers[name]}, {time.monotonic() - start_s:.0f} s", flush=True)
    finally:
        for process in processes.values():
            _end(process)


def _start(name: str, handler: str, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    results = options.results / f"{name}.jsonl"
    results.unlink(missing_ok=True)
    python_path = [ROOT, options.path, os.environ.get("SUITE_PATH")]
    environ = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    environ |= {
        "PYTHONPATH": os.pathsep.join(str(path) for path in python_path if path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HANDOFF": "force",  # never the stock behaviour, whatever the version of Django
        "SUITE_HANDLER": handler,
        "SUITE_RESULTS": str(results),
        "SUITE_TEST_LIMIT_S": str(options.test_limit_s),
        "SUITE_ELSEWHERE": "1" if options.elsewhere else "0",
    }
    command = [
        sys.executable, "runtests.py", "--settings=tests.django_suite.settings", "--parallel=1",
        "--noinput", *options.labels,
    ]  # fmt: skip
    with (options.results / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            command, cwd=options.tests, env=environ, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(KILL_GRACE_S)


if __name__ == "__main__":
    sys.exit(main())
