"""What a load leaves behind is found, named and attributed; what is harmless is not."""

import _thread
import asyncio
import logging
import os
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from server_side import LIMIT_S

from asgi_health.boot import load_in_place
from asgi_health.fleet.forkguard import ForkGuard, Leftover, report
from asgi_health.report import Recorder, step

LOG = logging.getLogger("asgi_health.test_forkguard")
MODULE = """
import threading

may_end = threading.Event()
thread = threading.Thread(target=may_end.wait, name="flusher", daemon=True)
thread.start()

async def app(scope, receive, send):
    pass
"""


@pytest.fixture
def guard() -> ForkGuard:
    """One that has begun."""
    guard = ForkGuard()
    guard.begin()
    return guard


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Ends what a test leaves behind."""
    with ExitStack() as stack:
        yield stack


def thread_of(opened: ExitStack, name: str) -> Callable[[], None]:
    """Start a thread; the call ends it."""
    may_end = threading.Event()
    thread = threading.Thread(target=may_end.wait, name=name, daemon=True)
    thread.start()

    def end() -> None:
        may_end.set()
        thread.join(LIMIT_S)

    opened.callback(end)
    return end


def kinds(leftovers: tuple[Leftover, ...]) -> list[str]:
    return [leftover.kind for leftover in leftovers]


def test_a_load_that_leaves_nothing_is_said_to_leave_nothing(guard: ForkGuard) -> None:
    guard.look("app")
    assert guard.end() == ()


def test_a_thread_started_at_import_is_attributed_to_the_import(
    guard: ForkGuard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "starts_a_thread.py").write_text(MODULE)
    load_in_place("starts_a_thread:app", recorder=Recorder(guard.look))
    leftovers = guard.end()
    sys.modules["starts_a_thread"].may_end.set()
    sys.modules.pop("starts_a_thread").thread.join(LIMIT_S)
    assert leftovers == (Leftover(kind="thread", what='"flusher"', owner="import"),)
    assert leftovers[0].sentence == 'thread "flusher", left by import'


def test_what_a_nested_step_made_belongs_to_the_inner_one(
    guard: ForkGuard, opened: ExitStack
) -> None:
    def load() -> Any:
        with step("outer"):
            with step("inner"):
                thread_of(opened, "of the inner")
            thread_of(opened, "of the outer")
        thread_of(opened, "of the load")
        return lambda scope, receive, send: None

    load_in_place(load, recorder=Recorder(guard.look))
    thread_of(opened, "later")
    owners = {leftover.what: leftover.owner for leftover in guard.end()}
    assert owners == {
        '"of the inner"': "inner",
        '"of the outer"': "outer",
        '"of the load"': "load",
        '"later"': "the rest of the load",
    }


@pytest.mark.parametrize("prefix", ["", "reports"])
def test_a_used_executor_is_one_leftover_whatever_its_name(
    guard: ForkGuard, opened: ExitStack, prefix: str
) -> None:
    together = threading.Barrier(2)
    executor = opened.enter_context(ThreadPoolExecutor(2, thread_name_prefix=prefix))
    for future in [executor.submit(together.wait, LIMIT_S) for _ in range(2)]:
        future.result(LIMIT_S)
    guard.look("app")
    (leftover,) = guard.end()
    assert (leftover.kind, leftover.owner) == ("executor", "app")
    assert leftover.what.startswith(f'"{prefix or "ThreadPoolExecutor-"}')


def test_an_executor_that_was_never_used_or_was_shut_down_is_harmless(guard: ForkGuard) -> None:
    unused = ThreadPoolExecutor()
    with ThreadPoolExecutor() as ended:
        ended.submit(int).result(LIMIT_S)
        guard.look("app")
    assert guard.end() == ()
    unused.shutdown()


def test_a_thread_named_as_an_executors_is_one(guard: ForkGuard, opened: ExitStack) -> None:
    thread_of(opened, "ThreadPoolExecutor-7_0")  # of a library's own copy of the class
    assert guard.end() == (
        Leftover(kind="executor", what='"ThreadPoolExecutor-7"', owner="the rest of the load"),
    )


def native_thread() -> Callable[[], None]:
    """Start a thread that the module `threading` does not know; the call ends it."""
    started, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def run() -> None:
        started.set()
        may_end.wait(LIMIT_S)
        ended.set()

    def end() -> None:
        may_end.set()
        assert ended.wait(LIMIT_S)

    _thread.start_new_thread(run, ())
    assert started.wait(LIMIT_S)
    return end


def test_a_thread_that_python_does_not_know_is_native(guard: ForkGuard) -> None:
    end = native_thread()
    guard.look("app")
    leftovers = guard.end()
    end()
    assert [(one.kind, one.owner) for one in leftovers] == [("native thread", "app")]


def test_a_native_thread_that_is_ending_is_waited_for(
    guard: ForkGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, sleep = native_thread(), time.sleep

    def ending(seconds: float) -> None:
        end()
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", ending)
    assert guard.end() == ()


def test_threads_that_have_just_been_joined_are_not_reported(
    guard: ForkGuard, opened: ExitStack
) -> None:
    for _ in range(100):
        end = thread_of(opened, "short")
        guard.look("app")
        end()
        assert guard.end() == ()


def test_an_event_loop_is_named_by_its_descriptors(guard: ForkGuard) -> None:
    loop = asyncio.SelectorEventLoop()
    guard.look("app")
    leftovers = guard.end()
    loop.close()
    assert {leftover.owner for leftover in leftovers} == {"app"}
    names = sorted(leftover.what.partition(", ")[2] for leftover in leftovers)
    assert names == ["eventpoll", "socket", "socket"]


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_a_connection_is_named_with_its_peer(
    guard: ForkGuard, opened: ExitStack, family: int, host: str
) -> None:
    server = opened.enter_context(socket.socket(family))
    try:
        server.bind((host, 0))
    except OSError:
        pytest.skip(f"no {host} here")
    server.listen()
    client = opened.enter_context(socket.socket(family))
    client.settimeout(LIMIT_S)
    client.connect(server.getsockname())
    guard.look("app")
    port = server.getsockname()[1]
    assert [leftover.what for leftover in guard.end()] == [
        f"{server.fileno()}, socket",
        f"{client.fileno()}, socket connected to {host}:{port}",
    ]


def test_looking_does_not_change_how_a_socket_blocks(guard: ForkGuard, opened: ExitStack) -> None:
    made = opened.enter_context(socket.socket())
    opened.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
    socket.setdefaulttimeout(5.0)
    assert kinds(guard.end()) == ["descriptor"]
    assert os.get_blocking(made.fileno())


@pytest.mark.parametrize("mode", ["w", "r+", "x"])
def test_a_file_open_for_writing_is_reported(guard: ForkGuard, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "state"
    if mode == "r+":
        path.touch()
    with path.open(mode) as file:
        guard.look("app")
        (leftover,) = guard.end()
        assert leftover.sentence == (
            f"descriptor {file.fileno()}, {path}, open for writing, left by app"
        )


def test_a_pipe_is_reported_with_both_ends(guard: ForkGuard) -> None:
    ends = os.pipe()
    leftovers = guard.end()
    for end in ends:
        os.close(end)
    assert [one.what.partition(":")[0] for one in leftovers] == [f"{end}, pipe" for end in ends]


def test_a_log_file_and_what_is_only_read_are_harmless(
    guard: ForkGuard, opened: ExitStack, tmp_path: Path
) -> None:
    handler = logging.FileHandler(tmp_path / "app.log")
    opened.callback(handler.close)
    opened.enter_context((tmp_path / "read").open("a+"))
    opened.enter_context((tmp_path / "read").open())
    opened.callback(os.close, os.open(os.devnull, os.O_RDWR))
    opened.callback(os.close, os.open("/dev/urandom", os.O_RDONLY))
    opened.callback(os.close, os.memfd_create("shared"))
    opened.callback(os.close, os.open(tmp_path, os.O_RDONLY))
    guard.look("app")
    assert guard.end() == ()


def test_what_is_closed_again_before_the_end_is_not_reported(
    guard: ForkGuard, opened: ExitStack
) -> None:
    with socket.socket(), select.epoll():
        end = thread_of(opened, "short")
        guard.look("app")
    end()
    guard.look("later app")
    assert guard.end() == ()


def test_what_was_there_before_the_load_is_not_reported(opened: ExitStack, tmp_path: Path) -> None:
    opened.enter_context(socket.socket())
    path = tmp_path / "unlinked"
    opened.enter_context(path.open("w"))
    thread_of(opened, "before")
    guard = ForkGuard()
    guard.begin()
    path.unlink()  # its name as the kernel tells it changes
    guard.look("app")
    assert guard.end() == ()


def test_a_reused_number_belongs_to_the_one_who_used_it_last(
    guard: ForkGuard, tmp_path: Path
) -> None:
    first = os.open(tmp_path / "first", os.O_WRONLY | os.O_CREAT)
    guard.look("first app")
    os.close(first)
    second = os.open(tmp_path / "second", os.O_WRONLY | os.O_CREAT)
    guard.look("second app")
    leftovers = guard.end()
    os.close(second)
    assert second == first
    assert [one.owner for one in leftovers] == ["second app"]
    assert str(tmp_path / "second") in leftovers[0].what


def test_a_number_that_was_in_use_before_the_load_may_be_used_by_it(tmp_path: Path) -> None:
    old = os.open(tmp_path / "state", os.O_WRONLY | os.O_CREAT)
    guard = ForkGuard()
    guard.begin()
    os.close(old)
    guard.look("closes")
    new = os.open(tmp_path / "state", os.O_WRONLY)
    guard.look("opens")
    leftovers = guard.end()
    os.close(new)
    assert new == old
    assert [one.owner for one in leftovers] == ["opens"]


def test_a_child_process_is_reported_while_it_runs(guard: ForkGuard) -> None:
    waits = [sys.executable, "-c", "input()"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE, text=True) as child:
        guard.look("app")
        leftovers = guard.end()
        child.communicate("\n", timeout=LIMIT_S)
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        pytest.skip("this kernel does not list children")
    processes = [one.sentence for one in leftovers if one.kind == "child process"]
    assert len(processes) == 1
    assert processes[0].startswith(f'child process {child.pid}, "')
    assert guard.end() == ()


def test_a_child_that_has_ended_and_waits_to_be_collected_is_harmless(guard: ForkGuard) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    leftovers = guard.end()
    child.wait(LIMIT_S)
    assert leftovers == ()


def test_a_look_without_a_free_descriptor_forgets_nothing(
    guard: ForkGuard, opened: ExitStack
) -> None:
    opened.enter_context(socket.socket())
    guard.look("app")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        guard.look("blind")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [one.owner for one in guard.end()] == ["app"]


def test_without_proc_the_threads_are_compared(
    monkeypatch: pytest.MonkeyPatch, opened: ExitStack, tmp_path: Path
) -> None:
    monkeypatch.setattr("asgi_health.fleet.forkguard._PROC", tmp_path / "none")
    guard = ForkGuard()
    guard.begin()
    opened.enter_context(socket.socket())
    thread_of(opened, "flusher")
    guard.look("app")
    assert guard.end() == (Leftover(kind="thread", what='"flusher"', owner="app"),)


def test_the_report_is_one_warning_that_names_each_and_the_way_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    leftovers = [Leftover(kind="thread", what=f'"{name}"', owner="app") for name in "ab"]
    report(leftovers, log=LOG)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    lines = record.getMessage().splitlines()
    assert lines[1:3] == ['- thread "a", left by app', '- thread "b", left by app']
    assert "WARM_BOOT=0" in lines[3]


def test_nothing_left_is_nothing_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    report((), log=LOG)
    assert caplog.records == []
