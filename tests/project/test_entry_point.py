"""`import project.asgi` loads nothing that would delay the first answer of a probe."""

import json
import subprocess
import sys

from project.env import ROOT

OURS = {
    "project",
    "project.asgi",
    "project.context",
    "project.cors",
    "project.flood",
    "project.logs",
    "project.redaction",
}
SLOW = {"argparse", "email", "http", "multiprocessing", "sqlite3", "unittest", "xml", "zoneinfo"}
"""Of the standard library, but nothing that an entry point needs."""

_SCRIPT = """
import json, sys
before = set(sys.modules)
import project.asgi
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def imported_by_the_entry_point() -> set[str]:
    made = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return set(json.loads(made.stdout))


def test_the_entry_point_imports_only_what_is_allowed() -> None:
    modules = imported_by_the_entry_point()

    foreign = {
        name
        for name in modules
        if name.partition(".")[0] not in {"asgi_health", "project", *sys.stdlib_module_names}
    }
    other = {
        name
        for name in modules
        if name.startswith("project") and name not in OURS
        if not (name == "project.env" or name.startswith("project.env."))
    }
    assert foreign == set()
    assert other == set()
    assert modules >= OURS


def test_the_entry_point_imports_no_slow_part_of_the_standard_library() -> None:
    assert {name.partition(".")[0] for name in imported_by_the_entry_point()} & SLOW == set()


_PATHS = """
import json
from project.asgi import app
config = app.config
print(json.dumps([config.live_paths, config.ready_paths, config.startup_paths,
                  config.status_path, config.metrics_path]))
"""


def test_the_gate_answers_on_the_paths_that_monitors_and_the_front_page_know() -> None:
    made = subprocess.run(
        [sys.executable, "-c", _PATHS],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip

    assert json.loads(made.stdout) == [
        ["/livez", "/health", "/healthz", "/api/health/live"],
        ["/readyz", "/api/health", "/api/health/ready"],
        ["/startupz"],
        "/statusz",
        "/metrics",
    ]


def test_the_entry_point_works_from_any_folder(tmp_path) -> None:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import project.asgi"

    made = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip

    assert (made.returncode, made.stderr) == (0, "")
