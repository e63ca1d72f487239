"""The master's care for its responder: races that no kill from outside can hit at will."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from server_side import LIMIT_S

from asgi_health import HealthGate
from asgi_health.fleet.warm import WarmBoot

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the responder needs epoll")


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The children that were forked; those to be short-lived are dead before anybody knows them.

    `forked.append(-1)` before a fork makes its child such a one.
    """
    pids: list[int] = []
    fork = os.fork

    def watched() -> int:
        is_doomed = bool(pids) and pids[-1] == -1
        pid = fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        if is_doomed:
            pids.pop()
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # SIGCHLD comes here, within the fork
        pids.insert(0, pid)
        return pid

    monkeypatch.setattr(os, "fork", watched)
    yield pids
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ChildProcessError, ProcessLookupError):
            continue


@pytest.fixture
def boot() -> Iterator[WarmBoot]:
    nothing: Callable[..., Any] = lambda *_: None  # noqa: E731 - a stand-in
    gate = HealthGate("nothing:loaded")
    listeners: Any = ["one"]  # the child of these tests never looks at them
    board: Any = None
    made = WarmBoot(
        gate, board=board, listeners=listeners, takers=1, on_stop=nothing, prepare=nothing
    )
    yield made
    made._control.close()
    made._theirs.close()
    made._handover.close_entrance()
    made._handover.close()


def is_alive(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


@pytest.mark.parametrize("doomed", [1, 2])
def test_a_responder_that_ends_before_its_number_is_known_is_replaced_once(
    doomed: int, boot: WarmBoot, forked: list[int]
) -> None:
    boot._fork_responder()
    first = boot._pid
    with boot._signals():
        forked.extend([-1] * doomed)
        os.kill(first, signal.SIGKILL)
        end_s = time.monotonic() + LIMIT_S
        while boot._restarts < 1 + doomed and time.monotonic() < end_s:
            pass  # the signal comes when the kernel sends it
        assert boot._restarts == 1 + doomed
        assert len(forked) == 2 + doomed
        assert boot._pid == forked[0]
        assert is_alive(boot._pid)
        assert [pid for pid in forked[1:] if _is_known(pid)] == []


def _is_known(pid: int) -> bool:
    """Whether it is a child of ours that nobody has buried."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def test_a_responder_that_ended_before_anybody_listened_is_replaced(
    boot: WarmBoot, forked: list[int]
) -> None:
    forked.append(-1)
    boot._fork_responder()
    with boot._signals():
        boot._look_after_responder()
        assert is_alive(boot._pid)
    assert len(forked) == 2


def test_four_ends_are_enough(
    boot: WarmBoot, forked: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    forked.extend([-1] * 4)
    boot._fork_responder()
    with boot._signals():
        boot._look_after_responder()
        assert boot._pid == 0
    assert len(forked) == 4
    assert "nobody answers until ready" in caplog.text
