"""One boot: the first error kept, logged once and clean; a late load refused; the deadline."""

import asyncio
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from server_side import LIMIT_S, GatedLoad, Lifespan, hello, limited, served, settle

from asgi_health import HealthGate, LoadedApp
from asgi_health.boot import describe, load_in_place
from asgi_health.errors import LoadError

BROKEN_MODULES = {
    "raises": ("raise OSError('no disk')", "boot.error", "OSError: no disk"),
    "missing": ("import no_such_module", "boot.import_error", "No module named 'no_such_module'"),
    "syntax": ("def broken(:\n", "boot.import_error", "SyntaxError"),
    "exit": ("import sys; sys.exit(4)", "boot.error", "SystemExit: 4"),
    "interrupt": ("raise KeyboardInterrupt('x')", "boot.error", "KeyboardInterrupt: x"),
    "stop": ("raise StopIteration('x')", "boot.error", "StopIteration: x"),
    "generator": ("raise GeneratorExit", "boot.error", "GeneratorExit"),
    "cancelled": ("import asyncio; raise asyncio.CancelledError", "boot.error", "CancelledError"),
    "recursion": ("def f(): f()\nf()", "boot.error", "RecursionError"),
    "group": ("raise ExceptionGroup('many', [OSError(1)])", "boot.error", "ExceptionGroup"),
    "named": (
        (
            "from asgi_health.errors import LoadError\n"
            "class E(LoadError):\n    code = 'env.invalid'\n"
            "raise E('SECRET_KEY is missing')"
        ),
        "env.invalid",
        "SECRET_KEY is missing",
    ),
    "mute": (
        "class E(Exception):\n    def __str__(self): raise OSError('not yet')\nraise E",
        "boot.error",
        "E: ",
    ),
    "chained": (
        (
            "try:\n    import no_such_module\nexcept ImportError as e:\n"
            "    raise ValueError('first') from e"
        ),
        "boot.error",
        "ValueError: first",
    ),
}


async def late_refusal(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    """The line that the load's thread makes the loop write when it comes in late."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            for record in caplog.records:
                if "ended after the boot was over; it is refused" in record.getMessage():
                    return record
            await asyncio.sleep(0)


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Any:
    """The error records of the package so far."""
    caplog.set_level(logging.DEBUG)
    return lambda: [r for r in caplog.records if r.levelno >= logging.ERROR]


@pytest.mark.parametrize("name", BROKEN_MODULES)
async def test_whatever_an_import_raises_fails_the_boot_and_is_logged_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: Any
) -> None:
    source, code, message = BROKEN_MODULES[name]
    module = f"broken_{name}_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{module}_inner.py").write_text(source)
    (tmp_path / f"{module}.py").write_text(f"import {module}_inner\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    async with served(f"{module}:app", failed_linger_s=30) as booted:
        await booted.until("failed")
        failure = booted.gate.lifecycle.failure
        assert failure.code == code
        assert message in failure.message
        [record] = errors()
        assert record.getMessage() == f"boot failed: {code}: {failure.message}"
        assert record.code == code
        logged = logging.Formatter().formatException(record.exc_info)
        for text in (logged, failure.traceback):
            assert f"{module}_inner" in text
            assert "importlib" not in text
            assert "asgi_health/report.py" not in text
            assert "asgi_health/boot.py" not in text
    assert len(errors()) == 1


async def test_an_error_that_a_load_function_raises_keeps_its_frames(errors: Any) -> None:
    def deeper() -> Any:
        raise OSError("no disk")

    def load() -> Any:
        return deeper()

    async with served(load, failed_linger_s=30) as booted:
        await booted.until("failed")
        traceback = booted.gate.lifecycle.failure.traceback
        assert "in load\n" in traceback
        assert "in deeper\n" in traceback
        assert traceback.rstrip().endswith("OSError: no disk")


async def test_a_load_that_hangs_fails_at_the_deadline_with_stacks_and_its_step(
    errors: Any, caplog: pytest.LogCaptureFixture
) -> None:
    target = GatedLoad()
    async with served(target, boot_deadline_s=0.05) as booted:
        await limited(booted.exits.happened.wait())
        failure = booted.gate.lifecycle.failure
        assert failure.code == "boot.deadline"
        assert "not loaded within 0.05 s; the last step was 'load'" in failure.message
        [record] = errors()
        assert "server_side.py" in record.getMessage()
        assert "in __call__" in record.getMessage()
        assert booted.exits.codes == [3]
        target.opened.set()
        await limited(asyncio.to_thread(target.left.wait, 20))
        await settle()
        await late_refusal(caplog)
        assert booted.gate.lifecycle.phase == "failed"
        assert booted.gate._app is None


@pytest.mark.parametrize("error", [None, OSError("late")])
async def test_a_load_that_comes_in_after_the_stop_is_refused_with_one_line(
    error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    target = GatedLoad(error=error)
    async with served(target) as booted:
        await target.has_been_entered()
        await booted.lifespan.shutdown()
        target.opened.set()
        record = await late_refusal(caplog)
        assert record.levelno == logging.WARNING
        assert caplog.records == [record]


def test_a_load_that_ends_after_its_loop_was_closed_ends_quietly() -> None:
    target = GatedLoad()
    threads: list[threading.Thread] = []

    async def run() -> None:
        gate = HealthGate(target)
        server = Lifespan(gate, state={})
        await server.startup()
        await target.has_been_entered()
        threads.extend(t for t in threading.enumerate() if t.name == "asgi_health load")
        await server.shutdown()

    asyncio.run(run())
    target.opened.set()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()


async def test_the_load_runs_on_a_daemon_thread_of_its_own_name() -> None:
    seen: list[threading.Thread] = []

    def load() -> Any:
        seen.append(threading.current_thread())
        return hello

    async with served(load) as booted:
        await booted.until("ready")
        [thread] = seen
        assert thread.daemon
        assert thread is not threading.main_thread()
        assert thread.name == "asgi_health load"


async def test_the_switch_interval_is_short_while_loading_and_restored_after() -> None:
    before = sys.getswitchinterval()
    target = GatedLoad()
    async with served(target) as booted:
        await target.has_been_entered()
        assert sys.getswitchinterval() < before
        target.opened.set()
        await booted.until("ready")
        assert sys.getswitchinterval() == before


async def test_a_switch_interval_that_the_application_sets_is_left_alone() -> None:
    before = sys.getswitchinterval()

    def load() -> Any:
        sys.setswitchinterval(0.02)
        return hello

    try:
        async with served(load) as booted:
            await booted.until("ready")
            assert sys.getswitchinterval() == pytest.approx(0.02)
    finally:
        sys.setswitchinterval(before)


async def test_the_report_can_be_read_while_the_boot_runs() -> None:
    target = GatedLoad(LoadedApp(hello, lifespan=False))
    async with served(target) as booted:
        await target.has_been_entered()
        live = booted.gate.vitals.boot.recorder.report()
        assert [(s.name, s.duration_s is None) for s in live.steps] == [
            ("import", False),
            ("load", True),
        ]
        assert live.cpu_s == 0
        target.opened.set()
        await booted.until("ready")
        done = booted.gate.vitals.boot.recorder.report()
        assert all(s.duration_s is not None for s in done.steps)
        assert booted.gate.vitals.boot.recorder.report().total_s == done.total_s


async def test_steps_tell_where_the_time_went() -> None:
    from asgi_health import Warmup  # noqa: PLC0415 - only here
    from asgi_health.boot import step  # noqa: PLC0415

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await hello(scope, receive, send)

    def load() -> Any:
        with step("mine"):
            pass
        return app

    async with served(load, warmup=Warmup("/")) as booted:
        await booted.until("ready")
        report = booted.gate.vitals.boot.recorder.report()
        names = [s.name for s in report.steps]
        assert names == ["import", "load", "mine", "lifespan startup", "warm-up"]


def test_loading_in_place_gives_the_application_and_the_report() -> None:
    loaded, recorder = load_in_place(lambda: hello)
    assert loaded.app is hello
    assert [s.name for s in recorder.report().steps] == ["import", "load"]


def test_loading_in_place_raises_what_the_load_raises() -> None:
    with pytest.raises(OSError, match="no"):
        load_in_place(GatedLoadError())


class GatedLoadError:
    def __call__(self) -> Any:
        raise OSError("no")


def test_a_failure_of_an_error_that_was_never_raised_is_described_too() -> None:
    failure = describe(LoadError("never raised"))
    assert (failure.code, failure.message) == ("boot.error", "never raised")
    assert "never raised" in failure.traceback


def test_a_circle_of_causes_is_described_in_finite_time() -> None:
    first, second = OSError("a"), OSError("b")
    first.__cause__, second.__cause__ = second, first
    assert describe(first).message == "OSError: a"
