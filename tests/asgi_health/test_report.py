"""The boot report: steps, own time of modules, and an import system left as it was found."""

import importlib
import os
import sys
import threading
from importlib.machinery import ExtensionFileLoader, SourceFileLoader, SourcelessFileLoader
from pathlib import Path
from typing import Any

import pytest
from server_side import LIMIT_S

from asgi_health.boot import load_in_place
from asgi_health.report import AppCost, Recorder, add_app_cost, clean_traceback, step

LOADERS = (SourceFileLoader, SourcelessFileLoader, ExtensionFileLoader)


class FakeClock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now_s = 10.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable folder."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def import_system_is_left_as_it_was_found() -> Any:
    before = [(loader.exec_module, "exec_module" in vars(loader)) for loader in LOADERS]
    yield
    after = [(loader.exec_module, "exec_module" in vars(loader)) for loader in LOADERS]
    assert after == before


def fresh(folder: Path, source: str, *, suffix: str = "") -> str:
    name = f"timed_{abs(hash(str(folder)))}{suffix}"
    (folder / f"{name}.py").write_text(source)
    return name


def test_steps_have_a_start_and_a_duration_and_may_contain_each_other() -> None:
    clock = FakeClock()
    recorder = Recorder(clock=clock)
    clock.now_s += 1
    with recorder.step("outer"):
        clock.now_s += 2
        with recorder.step("inner"):
            clock.now_s += 4
            assert recorder.latest_step == "inner"
        assert recorder.latest_step == "outer"
        clock.now_s += 8
    clock.now_s += 16
    recorder.end()
    clock.now_s += 32
    recorder.end()
    report = recorder.report()
    assert [(s.name, s.start_s, s.duration_s) for s in report.steps] == [
        ("outer", 1.0, 14.0),
        ("inner", 3.0, 4.0),
    ]
    assert report.total_s == 31.0
    assert recorder.latest_step == "inner"


def test_a_step_that_raises_is_recorded_all_the_same() -> None:
    clock = FakeClock()
    recorder = Recorder(clock=clock)

    def fail() -> None:
        with recorder.step("broken"):
            clock.now_s += 3
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        fail()
    assert recorder.report().steps[0].duration_s == 3.0


def test_an_observer_hears_of_each_part_when_it_has_ended() -> None:
    heard: list[str] = []
    recorder = Recorder(heard.append)

    def fail() -> None:
        with recorder.step("outer"):
            with recorder.step("inner"):
                assert heard == []
            recorder.add_app(AppCost(label="shop", import_s=1.0))
            recorder.add_app(AppCost(label="shop", models_s=1.0))
            recorder.add_app(AppCost(label="shop", ready_s=1.0))
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        fail()
    parts = ["import", "models", "ready()"]
    assert heard == ["inner", *(f'app "shop": {part}' for part in parts), "outer"]


def test_an_observer_finds_the_part_recorded_already() -> None:
    seen: list[Any] = []
    recorder = Recorder(lambda _label: seen.append(recorder.report()))
    with recorder.step("one"):
        pass
    recorder.add_app(AppCost(label="shop", ready_s=2.0))
    assert seen[0].steps[0].duration_s is not None
    assert seen[1].apps == (AppCost(label="shop", ready_s=2.0),)


def test_a_load_in_place_records_in_the_recorder_of_its_caller() -> None:
    heard: list[str] = []
    recorder = Recorder(heard.append)

    def load() -> Any:
        add_app_cost(AppCost(label="shop", ready_s=1.0))
        return lambda scope, receive, send: None

    _, used = load_in_place(load, recorder=recorder)
    assert used is recorder
    assert heard == ["import", 'app "shop": ready()', "load"]


def loaded_recorder(clock: FakeClock) -> Recorder:
    """A load of six seconds that has ended."""
    recorder = Recorder(clock=clock)
    clock.now_s += 1
    with recorder.step("load"):
        clock.now_s += 5
    recorder.add_app(AppCost(label="shop", ready_s=2.0))
    recorder.end()
    return recorder


def test_a_continued_boot_goes_on_where_the_load_ended_however_long_that_is_ago() -> None:
    clock = FakeClock()
    recorder = loaded_recorder(clock)
    clock.now_s += 3600
    other = recorder.continued()
    assert other.report().total_s == 6.0
    with other.step("warm-up"):
        clock.now_s += 2
    other.end()
    report = other.report()
    assert [(s.name, s.start_s, s.duration_s) for s in report.steps] == [
        ("load", 1.0, 5.0),
        ("warm-up", 6.0, 2.0),
    ]
    assert report.total_s == 8.0
    assert report.apps == (AppCost(label="shop", ready_s=2.0),)


def test_a_continued_boot_leaves_the_report_of_the_load_as_it_was() -> None:
    clock = FakeClock()
    recorder = loaded_recorder(clock)
    before = recorder.report()
    first, second = recorder.continued(), recorder.continued()
    for other in (first, second):
        with other.step("warm-up"):
            clock.now_s += 2
    assert recorder.report() == before
    assert [step.name for step in second.report().steps] == ["load", "warm-up"]


def test_a_continued_boot_keeps_the_share_of_computing_of_its_load() -> None:
    recorder = Recorder()
    with recorder.recording():
        sum(range(10000))
    recorder.end()
    before, after = recorder.report(), recorder.continued().report()
    assert (after.cpu_s, after.cpu_share) == (before.cpu_s, before.cpu_share)
    assert after.cpu_s > 0


def test_whoever_asked_hears_of_each_step_that_has_begun() -> None:
    begun: list[str | None] = []
    recorder = Recorder(on_step=lambda: begun.append(recorder.latest_step))
    with recorder.step("outer"), recorder.step("inner"):
        assert begun == ["outer", "inner"]
    assert begun == ["outer", "inner"]


def test_before_the_first_step_there_is_no_latest_one() -> None:
    assert Recorder().latest_step is None


def test_a_running_report_counts_until_now() -> None:
    clock = FakeClock()
    recorder = Recorder(clock=clock)
    clock.now_s += 5
    assert recorder.report().total_s == 5.0
    with recorder.step("running"):
        assert recorder.report().as_json()["steps"] == [
            {"name": "running", "start_s": 5.0, "duration_s": None}
        ]


def test_outside_a_boot_steps_and_app_costs_do_nothing() -> None:
    with step("nothing"):
        add_app_cost(AppCost(label="app", import_s=1.0))


def test_own_time_of_a_module_leaves_out_what_it_imports(folder: Path) -> None:
    clock = FakeClock()
    inner = fresh(folder, "import sys; sys.fake_clock.now_s += 4", suffix="_inner")
    outer = fresh(
        folder,
        f"import sys; sys.fake_clock.now_s += 1\nimport {inner}\nsys.fake_clock.now_s += 2",
    )
    recorder = Recorder(clock=clock)
    sys.fake_clock = clock  # type: ignore[attr-defined]
    try:
        with recorder.recording():
            importlib.import_module(outer)
    finally:
        del sys.fake_clock  # type: ignore[attr-defined]
    assert dict(recorder.report().modules) == {inner: 4.0, outer: 3.0}
    assert recorder.report().modules[0] == (inner, 4.0)
    slowest = recorder.report().as_json()["slowest_modules"]
    assert slowest == [{"name": inner, "own_s": 4.0}, {"name": outer, "own_s": 3.0}]


def test_a_module_that_raises_is_timed_and_its_parents_stay_right(folder: Path) -> None:
    clock = FakeClock()
    inner = fresh(folder, "import sys; sys.fake_clock.now_s += 4; 1/0", suffix="_inner")
    outer = fresh(
        folder,
        f"import sys\ntry:\n    import {inner}\nexcept ZeroDivisionError:\n    pass\n"
        "sys.fake_clock.now_s += 1",
    )
    recorder = Recorder(clock=clock)
    sys.fake_clock = clock  # type: ignore[attr-defined]
    try:
        with recorder.recording():
            importlib.import_module(outer)
    finally:
        del sys.fake_clock  # type: ignore[attr-defined]
    assert dict(recorder.report().modules) == {inner: 4.0, outer: 1.0}


def test_the_ten_slowest_are_kept() -> None:
    recorder = Recorder()
    for number in range(30):
        recorder.add_app(AppCost(label=f"app{number}", import_s=float(number)))
        recorder.add_app(AppCost(label=f"app{number}", models_s=1.0, ready_s=2.0))
    apps = recorder.report().apps
    assert [app.label for app in apps] == [f"app{n}" for n in range(29, 19, -1)]
    assert apps[0] == AppCost(label="app29", import_s=29.0, models_s=1.0, ready_s=2.0)
    assert recorder.report().as_json()["slowest_apps"][0] == {
        "name": "app29",
        "s": 32.0,
        "import_s": 29.0,
        "models_s": 1.0,
        "ready_s": 2.0,
    }


def test_the_loaders_are_wrapped_only_while_recording() -> None:
    before = SourceFileLoader.exec_module
    with Recorder().recording():
        assert SourceFileLoader.exec_module is not before
    assert SourceFileLoader.exec_module is before


def test_the_loaders_are_restored_after_an_error(folder: Path) -> None:
    name = fresh(folder, "1/0")
    with pytest.raises(ZeroDivisionError), Recorder().recording():
        importlib.import_module(name)


@pytest.mark.parametrize("ends_first", ["first", "second"])
def test_two_boots_at_once_both_load_and_the_loaders_are_restored(
    folder: Path, ends_first: str
) -> None:
    names = [fresh(folder, "x = 1", suffix=f"_{n}") for n in range(2)]
    entered = [threading.Event(), threading.Event()]
    may_end = [threading.Event(), threading.Event()]
    recorders = [Recorder(), Recorder()]

    def boot(number: int) -> None:
        with recorders[number].recording():
            entered[number].set()
            assert may_end[number].wait(LIMIT_S)
            importlib.import_module(names[number])

    threads = [threading.Thread(target=boot, args=(n,)) for n in range(2)]
    for number, thread in enumerate(threads):
        thread.start()
        assert entered[number].wait(LIMIT_S)
    order = [0, 1] if ends_first == "first" else [1, 0]
    for number in order:
        may_end[number].set()
        threads[number].join(LIMIT_S)
    assert all(name in sys.modules for name in names)
    assert names[0] in dict(recorders[0].report().modules)
    assert recorders[1].report().modules == ()


def test_imports_of_other_threads_are_not_counted(folder: Path) -> None:
    name = fresh(folder, "x = 1")
    recorder = Recorder()
    with recorder.recording():
        thread = threading.Thread(target=importlib.import_module, args=(name,))
        thread.start()
        thread.join(LIMIT_S)
    assert name in sys.modules
    assert recorder.report().modules == ()


def test_a_wrapper_that_the_application_put_over_ours_stays(folder: Path) -> None:
    before = SourceFileLoader.exec_module
    try:
        with Recorder().recording():
            ours = SourceFileLoader.exec_module

            def theirs(loader: Any, module: Any) -> None:
                ours(loader, module)

            SourceFileLoader.exec_module = theirs  # type: ignore[method-assign]
        assert SourceFileLoader.exec_module is theirs
        name = fresh(folder, "x = 1")
        assert importlib.import_module(name).x == 1
    finally:
        if "exec_module" in vars(SourceFileLoader):
            del SourceFileLoader.exec_module
        assert SourceFileLoader.exec_module is before


def test_the_share_of_computing_is_between_nothing_and_all() -> None:
    recorder = Recorder()
    with recorder.recording():
        sum(range(10000))
    assert 0 < recorder.report().cpu_share <= 1


def test_import_frames_are_taken_out_of_the_error_its_cause_and_its_context(folder: Path) -> None:
    inner = fresh(folder, "raise OSError('inner')", suffix="_inner")
    outer = fresh(
        folder,
        f"try:\n    import {inner}\nexcept OSError:\n    raise ValueError('outer')\n",
    )
    with pytest.raises(ValueError, match="outer") as caught, Recorder().recording():
        importlib.import_module(outer)
    error = caught.value
    clean_traceback(error)
    for one in (error, error.__context__):
        files, walked = [], one.__traceback__
        while walked:
            files.append(walked.tb_frame.f_code.co_filename)
            walked = walked.tb_next
        assert files
        machinery = ("importlib", f"asgi_health{os.sep}report.py")
        assert not [f for f in files if any(part in f and "tests" not in f for part in machinery)]
