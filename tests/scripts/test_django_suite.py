"""scripts/django-suite runs nothing unknown, and its comparison overlooks nothing."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import django
import pytest

from project.env import ROOT
from tests.django_suite.compare import Comparison, compare, module_of, run_of

SUITE = ROOT / "tests" / "django_suite"


def test_the_pinned_django_has_the_hash_of_the_product_lock() -> None:
    locked = (ROOT / "requirements.lock").read_text()
    version = re.search(r"^django==(\S+)", locked, re.MULTILINE)
    listed = (SUITE / "sdists.lock").read_text()
    line = version and re.search(
        rf"^([0-9a-f]{{64}})  django-{re.escape(version[1])}\.tar\.gz$", listed, re.MULTILINE
    )

    assert version, "requirements.lock pins no Django"
    assert line, f"no line for Django {version[1]} in sdists.lock"
    assert f"sha256:{line[1]}" in locked


# The comparison


def events(*tests: tuple[str, str], requests: int = 0, served: int = 0) -> list[dict[str, Any]]:
    """A finished run: tests with their outcomes; the client requests are made in the first one."""
    told: list[dict[str, Any]] = []
    counts = {"requests": requests, "served": served, "calls": served}
    for test, outcome in tests:
        told += [
            {"started": test},
            {"test": test, "outcome": outcome, "reason": f"{outcome} here"},
            {"stopped": test, "counts": counts},
        ]
    return [*told, {"finished": len(tests)}]


def judged(stock: list[dict[str, Any]], ours: list[dict[str, Any]]) -> Comparison:
    return Comparison(stock=run_of(stock), ours=run_of(ours))


def test_equal_failures_are_no_problem() -> None:
    run = events(("asgi.A.a", "failed"), ("asgi.A.b", "passed"), requests=10, served=10)

    result = judged(run, run)

    assert list(result.problems()) == []
    assert "Fail with both handlers: 1" in result.report()
    assert re.search(r"^asgi +2 +10 +10 +10 +1 +1 +0$", result.report(), re.MULTILINE)


def test_a_failure_with_ours_only_is_a_problem_though_stock_fails_as_many() -> None:
    result = judged(
        events(("asgi.A.a", "failed"), ("asgi.A.b", "passed")),
        events(("asgi.A.a", "passed"), ("asgi.A.b", "failed")),
    )

    assert list(result.problems()) == ["1 fail with ours only"]
    assert result.only_ours == {"asgi.A.b": "failed here"}
    assert result.only_stock == {"asgi.A.a": "failed here"}
    assert re.search(r"^asgi .* \+1 -1$", result.report(), re.MULTILINE)


def test_a_failure_with_stock_only_is_told_and_no_problem() -> None:
    result = judged(events(("asgi.A.a", "failed")), events(("asgi.A.a", "passed")))

    assert list(result.problems()) == []
    assert "Fail with stock only: 1\n  asgi.A.a\n      failed here" in result.report()


@pytest.mark.parametrize(("served", "is_enough"), [(90, True), (89, False)])
def test_nine_of_ten_requests_have_to_enter_the_handler(served: int, *, is_enough: bool) -> None:
    run = events(("cache.C.a", "passed"), requests=100, served=served)

    problems = list(judged(run, run).problems())

    told = [f"cache: {served} of 100 client requests entered our handler"]
    assert problems == ([] if is_enough else told)


def test_requests_are_counted_for_the_module_that_made_them() -> None:
    second = events(("cache.C.a", "passed"), requests=7, served=6)

    run = run_of([*events(("asgi.A.a", "passed"), requests=4, served=4)[:-1], *second])

    assert (run.requests, run.served) == ({"asgi": 4, "cache": 3}, {"asgi": 4, "cache": 2})


def test_a_test_that_only_stock_runs_is_a_problem() -> None:
    result = judged(
        events(("asgi.A.a", "passed"), ("asgi.A.b", "passed"), ("asgi.A.c", "skipped")),
        events(("asgi.A.a", "skipped"), ("asgi.A.c", "skipped")),
    )

    assert list(result.problems()) == ["2 ran with stock and not with ours"]
    assert result.not_done == ["asgi.A.a", "asgi.A.b"]


def test_a_run_that_ended_early_names_the_test_it_was_in() -> None:
    whole = events(("asgi.A.a", "passed"))

    assert list(judged(whole, [*whole[:-1], {"started": "asgi.A.hung"}]).problems()) == [
        "ours: the run was not finished; it ended in asgi.A.hung"
    ]


def test_runs_that_never_began_are_problems(tmp_path: Path) -> None:
    (tmp_path / "ours.jsonl").write_text(json.dumps({"finished": 0}) + "\n")

    assert list(compare(tmp_path / "stock.jsonl", tmp_path / "ours.jsonl").problems()) == [
        "stock: the run was not finished; it ended outside of a test",
        "no test ran",
    ]


def test_addresses_in_the_names_of_subtests_make_no_difference() -> None:
    result = judged(
        events(("asgi.A.a (view=<f at 0x7f0011223344>)", "failed")),
        events(("asgi.A.a (view=<f at 0x7faabbccddee>)", "failed")),
    )

    assert (result.only_ours, result.only_stock) == ({}, {})


@pytest.mark.parametrize(
    "test",
    [
        "asgi.tests.A.a", "setUpClass (asgi.tests.A)", "tearDownModule (asgi)",
        "unittest.loader._FailedTest.asgi.tests",
    ],
)  # fmt: skip
def test_every_kind_of_name_has_its_module(test: str) -> None:
    assert module_of(test) == "asgi"


# The script


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the script needs of the repository, with the environment that the tests run in."""
    made = Path(sys.prefix) / ".made-for-dev"
    lock = hashlib.sha256((ROOT / "requirements-dev.lock").read_bytes()).hexdigest()
    if not made.exists() or made.read_text().strip() != lock:  # scripts/setup would make it anew
        pytest.skip("this environment was not made by scripts/setup from today's lock file")
    for name in (
        "scripts/setup", "scripts/django-suite", "tests/django_suite/sdists.lock",
        "requirements.lock", "requirements-dev.lock",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def run_script(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [copy / "scripts" / "django-suite", *arguments], env=os.environ | {"PYTHON": ""},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_distribution_with_another_hash_is_not_unpacked(copy: Path) -> None:
    version = django.__version__
    cache = copy / "var" / "django-suite"
    cache.mkdir(parents=True)
    (cache / f"django-{version}.tar.gz").write_bytes(b"something else")

    made = run_script(copy)

    assert made.returncode == 1
    assert f"django-{version}.tar.gz is not the file that tests/django_suite/sdists.lock" in (
        made.stderr
    )
    assert [path.name for path in cache.iterdir()] == [f"django-{version}.tar.gz"]


def test_a_version_without_a_hash_is_refused(copy: Path) -> None:
    made = run_script(copy, "--django", "1.11")

    assert made.returncode == 1
    assert "sdists.lock has no hash for Django 1.11" in made.stderr


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["--django"]])
def test_a_wrong_call_is_explained(arguments: list[str]) -> None:
    made = run_script(ROOT, *arguments)

    assert (made.returncode, made.stdout) == (2, "")
    assert "scripts/django-suite" in made.stderr
