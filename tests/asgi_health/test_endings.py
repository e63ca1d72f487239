"""How real children ended, read before they are reaped; the kernel's count from made-up files."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server_side import LIMIT_S

from asgi_health.fleet.brake import DeathKind
from asgi_health.fleet.endings import Ending, Endings, MemoryEvents, death_kind, reason_of

EXITS_WITH_3 = "raise SystemExit(3)"
LEAVES = "pass"
WAITS = "import sys; print(flush=True); sys.stdin.read()"
NOWHERE = Path("/nonexistent")

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Python children, and ends them after the test."""
    children: list[subprocess.Popen[str]] = []

    def start(code: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-I", "-S", "-c", code]
        pipe = subprocess.PIPE
        child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate(timeout=LIMIT_S)


def no_memory_events() -> MemoryEvents:
    return MemoryEvents(NOWHERE, own=NOWHERE)


def endings(memory: MemoryEvents | None = None) -> Endings:
    return Endings(memory=memory or no_memory_events(), now=lambda: 1700000000.25)


def await_end(pid: int) -> None:
    """Wait, without reaping, for the end of a child."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def killed(start: Start, number: int) -> "subprocess.Popen[str]":
    """A child that a signal has ended, unreaped."""
    child = start(WAITS)
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(number)
    await_end(child.pid)
    return child


def watched(start: Start, ends: Endings, *, code: str = "", number: int = 0) -> int:
    """The pid of a child that has ended, been noted and been reaped."""
    child = killed(start, number) if number else start(code)
    await_end(child.pid)
    ends.watch([child.pid])
    child.wait(LIMIT_S)
    return child.pid


def test_an_exit_code_is_told(start: Start) -> None:
    ends = endings()
    pid = watched(start, ends, code=EXITS_WITH_3)
    ending = ends.conclude(pid, generation=7, asked=False, last_words="Traceback")
    assert ending == Ending(
        pid=pid,
        generation=7,
        at=1700000000.25,
        reason="exit code 3",
        signal=None,
        exit_code=3,
        out_of_memory=False,
        last_words="Traceback",
    )
    assert death_kind(ending, asked=False) is DeathKind.CRASH


@pytest.mark.parametrize(
    ("number", "name", "kind"),
    [
        (signal.SIGSEGV, "SIGSEGV", DeathKind.CRASH),
        (signal.SIGABRT, "SIGABRT", DeathKind.CRASH),
        (signal.SIGKILL, "SIGKILL", DeathKind.KILLED),
        (signal.SIGTERM, "SIGTERM", DeathKind.KILLED),
        (signal.SIGRTMIN + 5, f"signal {signal.SIGRTMIN + 5}", DeathKind.CRASH),
    ],
)
def test_a_signal_is_told_by_name(start: Start, number: int, name: str, kind: DeathKind) -> None:
    ends = endings()
    pid = watched(start, ends, number=number)
    ending = ends.conclude(pid, generation=1, asked=False)
    assert (ending.reason, ending.signal, ending.exit_code) == (f"killed by {name}", name, None)
    assert not ending.out_of_memory
    assert death_kind(ending, asked=False) is kind


def test_looking_reaps_nobody(start: Start) -> None:
    ends = endings()
    child = start(EXITS_WITH_3)
    await_end(child.pid)
    ends.watch([child.pid])
    ends.watch([child.pid])
    assert os.waitpid(child.pid, 0) == (child.pid, 3 << 8)


def test_a_child_that_still_runs_is_noted_when_it_has_ended(start: Start) -> None:
    ends = endings()
    child = start(WAITS)
    ends.watch([child.pid])
    child.communicate("", timeout=LIMIT_S)
    unseen = ends.conclude(child.pid, generation=1, asked=False)
    assert unseen.reason == "unknown: ended while nobody looked"

    child = start(WAITS)
    ends.watch([child.pid])
    assert child.stdin is not None
    child.stdin.close()
    child.stdin = None
    await_end(child.pid)
    ends.watch([child.pid])
    assert ends.conclude(child.pid, generation=1, asked=False).reason == "exit code 0"


def test_one_look_notes_all_that_have_ended_and_skips_who_is_reaped(start: Start) -> None:
    ends = endings()
    reaped, first, second = start(LEAVES), start(EXITS_WITH_3), start(LEAVES)
    reaped.wait(LIMIT_S)
    await_end(first.pid)
    await_end(second.pid)
    ends.watch([reaped.pid, first.pid, second.pid])
    reasons = [
        ends.conclude(child.pid, generation=1, asked=False).reason
        for child in (reaped, first, second)
    ]
    assert reasons == ["unknown: ended while nobody looked", "exit code 3", "exit code 0"]


def test_a_death_that_nobody_saw_gets_the_benefit_of_the_doubt() -> None:
    ending = endings().conclude(1, generation=1, asked=False)
    assert (ending.signal, ending.exit_code, ending.at) == (None, None, 1700000000.25)
    assert death_kind(ending, asked=False) is DeathKind.KILLED


def test_who_was_asked_to_leave_and_not_seen_has_left() -> None:
    assert endings().conclude(1, generation=1, asked=True).reason == "asked to leave"


def test_a_conclusion_forgets_the_process(start: Start) -> None:
    ends = endings()
    pid = watched(start, ends, code=EXITS_WITH_3)
    ends.conclude(pid, generation=1, asked=False)
    assert ends.conclude(pid, generation=1, asked=False).reason.startswith("unknown")


@pytest.mark.parametrize(
    ("code", "number", "reason"),
    [
        (LEAVES, 0, "asked to leave"),
        ("", signal.SIGTERM, "asked to leave"),
        (EXITS_WITH_3, 0, "asked to leave; exit code 3"),
        ("", signal.SIGKILL, "asked to leave; killed by SIGKILL"),
    ],
)
def test_who_was_asked_to_leave_ends_cleanly_and_how_is_told_when_it_is_odd(
    start: Start, code: str, number: int, reason: str
) -> None:
    ends = endings()
    pid = watched(start, ends, code=code, number=number)
    ending = ends.conclude(pid, generation=1, asked=True)
    assert ending.reason == reason
    assert death_kind(ending, asked=True) is DeathKind.CLEAN


def test_a_worker_that_leaves_by_itself_with_code_zero_ends_cleanly(start: Start) -> None:
    ends = endings()
    ending = ends.conclude(watched(start, ends, code=LEAVES), generation=1, asked=False)
    assert death_kind(ending, asked=False) is DeathKind.CLEAN


def test_the_last_ten_endings_are_kept() -> None:
    ends = endings()
    for generation in range(12):
        ends.conclude(1, generation=generation, asked=True)
    assert [ending.generation for ending in ends.recent] == list(range(2, 12))


def test_an_ending_in_json_has_plain_types() -> None:
    ending = Ending(
        pid=4,
        generation=2,
        at=1700000000.123456,
        reason="killed by SIGKILL",
        signal="SIGKILL",
        exit_code=None,
        out_of_memory=False,
        last_words="",
    )
    assert json.loads(json.dumps(ending.as_json())) == {
        "pid": 4,
        "generation": 2,
        "at": 1700000000.123,
        "reason": "killed by SIGKILL",
        "signal": "SIGKILL",
        "exit_code": None,
        "out_of_memory": False,
        "last_words": "",
    }


class Cgroup:
    """A tree of cgroups with one count in it, and a clock."""

    def __init__(self, root: Path, *, counter: str, own: str = "0::/\n") -> None:
        self._root = root
        self._counter = root / counter
        self._counter.parent.mkdir(parents=True, exist_ok=True)
        self._own = root / "proc-self-cgroup"
        self._own.write_text(own)
        self.now = 50.0
        self.count(0)

    def count(self, kills: int) -> None:
        self._counter.write_text(f"low 0\noom 9\noom_kill {kills}\noom_group_kill 0\n")

    def events(self) -> MemoryEvents:
        return MemoryEvents(self._root, own=self._own, clock=lambda: self.now)

    def remove(self) -> None:
        self._counter.unlink()


@pytest.mark.parametrize(
    ("counter", "own"),
    [
        ("memory.events", "0::/\n"),
        ("memory.events", "0::/gone/away\n"),
        ("system.slice/web:1.service/memory.events", "0::/system.slice/web:1.service\n"),
        ("memory/memory.oom_control", "4:memory:/\n0::/\n"),
        ("memory/memory.oom_control", "no such format\n"),
        ("memory/memory.oom_control", "4:memory:/gone/away\n"),
        ("memory/pod/one/memory.oom_control", "5:cpu,memory:/pod/one\n0::/\n"),
    ],
)
def test_the_count_is_found_where_either_version_keeps_it(
    tmp_path: Path, counter: str, own: str
) -> None:
    group = Cgroup(tmp_path, counter=counter, own=own)
    group.count(3)
    events = group.events()
    assert not events.explains_a_kill()
    group.count(4)
    assert events.explains_a_kill()
    assert not events.explains_a_kill()


def test_the_own_cgroup_comes_before_the_root(tmp_path: Path) -> None:
    root = Cgroup(tmp_path, counter="memory.events")
    group = Cgroup(tmp_path, counter="web/memory.events", own="0::/web\n")
    events = group.events()
    root.count(1)
    assert not events.explains_a_kill()


def test_two_that_are_killed_together_are_both_explained(tmp_path: Path) -> None:
    group = Cgroup(tmp_path, counter="memory.events")
    events = group.events()
    group.count(2)
    assert events.explains_a_kill()
    group.now += 9.0
    assert events.explains_a_kill()
    assert not events.explains_a_kill()


def test_a_kill_long_afterwards_is_not_explained(tmp_path: Path) -> None:
    group = Cgroup(tmp_path, counter="memory.events")
    events = group.events()
    group.count(2)
    assert events.explains_a_kill()
    group.now += 10.1
    assert not events.explains_a_kill()


def test_without_files_no_kill_is_explained(tmp_path: Path) -> None:
    assert not MemoryEvents(tmp_path, own=tmp_path / "none").explains_a_kill()


def test_a_count_that_goes_away_or_falls_explains_nothing(tmp_path: Path) -> None:
    group = Cgroup(tmp_path, counter="memory.events")
    group.count(5)
    events = group.events()
    group.remove()
    assert not events.explains_a_kill()
    group.count(2)
    assert not events.explains_a_kill()
    group.count(3)
    assert events.explains_a_kill()


def test_the_files_of_this_machine_can_be_read() -> None:
    assert MemoryEvents().explains_a_kill() in {True, False}


def test_a_kill_while_the_count_rose_is_out_of_memory_and_a_crash(
    start: Start, tmp_path: Path
) -> None:
    group = Cgroup(tmp_path, counter="memory.events")
    ends = endings(group.events())
    group.count(1)
    segfault = ends.conclude(watched(start, ends, number=signal.SIGSEGV), generation=1, asked=False)
    assert not segfault.out_of_memory
    child = killed(start, signal.SIGKILL)
    ends.watch([child.pid])
    ends.watch([child.pid])
    ending = ends.conclude(child.pid, generation=1, asked=False)
    assert ending.out_of_memory
    assert ending.signal == "SIGKILL"
    assert ending.reason == "out of memory (SIGKILL by the kernel)"
    assert death_kind(ending, asked=False) is DeathKind.CRASH


@pytest.mark.parametrize(
    ("how", "more", "reason"),
    [
        ({"exit_code": 0}, {}, "exit"),
        ({"exit_code": 7}, {}, "error"),
        ({"signal": "SIGKILL"}, {}, "killed"),
        ({"signal": "SIGTERM"}, {}, "killed"),
        ({"signal": "SIGSEGV"}, {}, "signal"),
        ({"signal": "SIGKILL", "out_of_memory": True}, {}, "out_of_memory"),
        ({"signal": "SIGKILL"}, {"aborted": True}, "blocked"),
        ({"exit_code": 0}, {"asked": True}, "asked"),
        ({}, {}, "unknown"),
    ],
)
def test_an_ending_is_one_word_for_counts(how: dict, more: dict, reason: str) -> None:
    ending = Ending(pid=1, at=0.0, reason="", **how)
    assert reason_of(ending, **({"asked": False, "aborted": False} | more)) == reason
