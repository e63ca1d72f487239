"""Real forks: a child works and says over a pipe what it saw; it never outlives its test."""

import contextlib
import faulthandler
import json
import os
import select
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from server_side import LIMIT_S

Say = Callable[[Any], None]


class Child:
    """A forked process that runs `work`; what that returns, and says before, is plain JSON."""

    def __init__(self, work: Callable[[Say], Any]) -> None:
        reading, writing = os.pipe()
        with warnings.catch_warnings():  # a test runner's own threads are no business of the child
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _run(work, writing)
        self._leads = _join_group(self.pid)
        os.close(writing)
        self._reading, self._unread, self._is_over = reading, b"", False

    def hears(self) -> Any:
        """The next thing that the child says; None when it has ended without another word."""
        poll = select.poll()  # select() knows only small numbers of descriptors
        poll.register(self._reading, select.POLLIN)
        while b"\n" not in self._unread:
            if not poll.poll(LIMIT_S * 1000):
                raise AssertionError("the child says nothing")
            data = os.read(self._reading, 1 << 16)
            if not data:
                return None
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        kind, value = json.loads(line)
        if kind == "raised":
            raise AssertionError(value)
        return value

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def ends(self) -> int:
        """Wait for its end; its exit code, below 0 for a signal."""
        while self.hears() is not None:
            pass
        return self.reap()

    def reap(self) -> int:
        self._is_over = True
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        if self._leads:  # its own children must not outlive the test either
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        if not self._is_over:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                self.reap()
        os.close(self._reading)


class _Depth:
    """How many forks lie between this process and the test's."""

    now = 0


def _join_group(pid: int) -> bool:
    """Put a child of the test's process into a group of its own, from both sides of the fork."""
    if _Depth.now == 0:
        with contextlib.suppress(OSError):  # it has ended already
            os.setpgid(pid, pid)
    return _Depth.now == 0


def _run(work: Callable[[Say], Any], writing: int) -> None:
    def tell(kind: str, value: Any) -> None:
        os.write(writing, json.dumps([kind, value]).encode() + b"\n")

    code = 1
    try:
        _join_group(os.getpid())
        _Depth.now += 1
        faulthandler.disable()  # a child that shall die by a signal says nothing of it
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        value = work(lambda said: tell("said", said))
        if value is not None:
            tell("said", value)
        code = 0
    except BaseException:  # noqa: BLE001 - a child must never run on into the tests
        tell("raised", traceback.format_exc())
    finally:
        os._exit(code)


@contextlib.contextmanager
def forked(work: Callable[[Say], Any]) -> Iterator[Child]:
    """A child, killed at the end if it has not ended."""
    child = Child(work)
    try:
        yield child
    finally:
        child.close()


def done_by_a_child(work: Callable[[Say], Any]) -> Any:
    """What a child says of its work; it has ended then."""
    with forked(work) as child:
        value = child.hears()
        assert child.ends() == 0
        return value
