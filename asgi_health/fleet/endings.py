"""Why a worker died: looked up before the server reaps it, told afterwards.

The server's own `waitpid` throws the details away. `waitid` with WNOWAIT reads them and leaves the
child to be reaped.
"""

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from asgi_health.fleet.brake import DeathKind

__all__ = ["Ending", "Endings", "MemoryEvents", "Reason", "death_kind", "reason_of"]

_RECENT_MAX = 10
_UNSPENT_S = 10.0
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_OUT_OF_MEMORY = "out of memory (SIGKILL by the kernel)"
_UNKNOWN = "unknown: ended while nobody looked"


class Reason(StrEnum):
    """Why a worker ended, in few words: for counts."""

    ASKED = "asked"
    BLOCKED = "blocked"
    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"
    """By a signal that anybody may send: SIGKILL, SIGTERM."""
    SIGNAL = "signal"
    """Any other, as of a crash in C code."""
    ERROR = "error"
    """An exit code other than 0."""
    EXIT = "exit"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How one worker ended.

    Args:
        pid: process id.
        generation: of the worker, as its server counts.
        at: seconds since the epoch.
        reason: in words.
        signal: the name of the signal that ended it; None when none did.
        exit_code: None when a signal ended it, or nobody knows.
        out_of_memory: whether the kernel killed it for want of memory.
        last_words: what it left behind, as a traceback.
    """

    pid: int
    generation: int = 0
    at: float
    reason: str
    signal: str | None = None
    exit_code: int | None = None
    out_of_memory: bool = False
    last_words: str = ""

    def as_json(self) -> dict[str, Any]:
        """The ending in plain types, milliseconds kept."""
        return asdict(self) | {"at": round(self.at, 3)}


class MemoryEvents:
    """The kernel's count of processes that it killed in this process's cgroup for want of memory.

    Where there is no such count (no Linux, no cgroup), no death is one of these.
    """

    def __init__(
        self,
        root: Path = _CGROUPS,
        *,
        own: Path = _OWN_CGROUP,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to count.

        Args:
            root: where cgroups are mounted, version 2 or 1.
            own: the file that says which is this process's.
            clock: monotonic seconds.
        """
        self._file = next((path for path in _counters(root, own) if path.is_file()), None)
        self._clock = clock
        self._seen = self._read()
        self._unspent = 0
        self._unspent_until_s = 0.0

    def explains_a_kill(self) -> bool:
        """Whether the count rose since the last look, by more than the kills explained by it.

        Two workers killed together die one after the other, so that what is left of a rise explains
        a kill up to ten seconds later.
        """
        now, count = self._clock(), self._read()
        if now > self._unspent_until_s:
            self._unspent = 0
        if count > self._seen:
            self._unspent += count - self._seen
            self._unspent_until_s = now + _UNSPENT_S
        self._seen = count
        if not self._unspent:
            return False
        self._unspent -= 1
        return True

    def _read(self) -> int:
        if self._file is None:
            return 0
        try:
            lines = self._file.read_text().splitlines()
        except OSError:
            return self._seen
        counts = [line.removeprefix("oom_kill ") for line in lines if line.startswith("oom_kill ")]
        return int(counts[0]) if counts and counts[0].isdigit() else 0


def _counters(root: Path, own: Path) -> list[Path]:
    """Where the count may stand: the own cgroup, then the root, which is the own in a container."""
    inside: dict[str, str] = {}
    try:
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            inside |= dict.fromkeys(controllers.split(","), path.lstrip("/"))
    except (OSError, ValueError):
        pass
    return [
        root / inside.get("", "") / "memory.events",
        root / "memory.events",
        root / "memory" / inside.get("memory", "") / "memory.oom_control",
        root / "memory" / "memory.oom_control",
    ]


class Endings:
    """Collects endings in the master; the last ten stay in `recent`, the newest last."""

    def __init__(
        self, *, memory: MemoryEvents | None = None, now: Callable[[], float] = time.time
    ) -> None:
        """Begin to look; `now` gives seconds since the epoch."""
        self.recent: deque[Ending] = deque(maxlen=_RECENT_MAX)
        self._memory = MemoryEvents() if memory is None else memory
        self._now = now
        self._notes: dict[int, Ending] = {}

    def watch(self, pids: Iterable[int]) -> list[Ending]:
        """Note those of our children `pids` that have ended, and reap none; what is new.

        For a handler of SIGCHLD, before the server reaps. Does not block.
        """
        new: list[Ending] = []
        for pid in pids:
            if pid in self._notes:
                continue
            try:
                result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:  # reaped already; nobody will ever know
                continue
            if result is not None:
                note = self._note(pid, code=result.si_code, status=result.si_status)
                self._notes[pid] = note
                new.append(note)
        return new

    def conclude(
        self,
        pid: int,
        *,
        generation: int,
        asked: bool,
        aborted: bool = False,
        last_words: str = "",
    ) -> Ending:
        """Tell how a child ended that the server has reaped, and forget it.

        Args:
            pid: of the child.
            generation: of the worker.
            asked: whether the master had told it to leave.
            aborted: whether the server ended it because it did not answer.
            last_words: what it left behind.
        """
        note = self._notes.pop(pid, None) or Ending(pid=pid, at=self._now(), reason=_UNKNOWN)
        reason = _asked(note) if asked else note.reason
        if aborted:
            reason = f"blocked for too long; {note.reason}"
        ending = replace(note, generation=generation, reason=reason, last_words=last_words)
        self.recent.append(ending)
        return ending

    def _note(self, pid: int, *, code: int, status: int) -> Ending:
        at = self._now()
        if code == os.CLD_EXITED:
            return Ending(pid=pid, at=at, reason=f"exit code {status}", exit_code=status)
        name = _signal_name(status)
        if status == signal.SIGKILL and self._memory.explains_a_kill():
            return Ending(pid=pid, at=at, reason=_OUT_OF_MEMORY, signal=name, out_of_memory=True)
        return Ending(pid=pid, at=at, reason=f"killed by {name}", signal=name)


def death_kind(ending: Ending, *, asked: bool) -> DeathKind:
    """What the ending says of the worker.

    Out of memory is the worker's own doing, so a crash. A death that nobody saw gets the benefit of
    the doubt that a kill gets.
    """
    if asked or ending.exit_code == 0:
        return DeathKind.CLEAN
    if ending.out_of_memory or ending.exit_code is not None:
        return DeathKind.CRASH
    return DeathKind.KILLED if ending.signal in {None, "SIGKILL", "SIGTERM"} else DeathKind.CRASH


def reason_of(ending: Ending, *, asked: bool, aborted: bool) -> Reason:
    """The ending in one word; `asked` and `aborted` as in `Endings.conclude`."""
    signals = {"SIGKILL": Reason.KILLED, "SIGTERM": Reason.KILLED, None: Reason.UNKNOWN}
    of_exit = Reason.EXIT if ending.exit_code == 0 else Reason.ERROR
    of_itself = (
        of_exit if ending.exit_code is not None else signals.get(ending.signal, Reason.SIGNAL)
    )
    found = {
        Reason.BLOCKED: aborted,
        Reason.OUT_OF_MEMORY: ending.out_of_memory,
        Reason.ASKED: asked,
    }
    return next((reason for reason, holds in found.items() if holds), of_itself)


def _asked(note: Ending) -> str:
    expected = note.exit_code == 0 or note.signal == "SIGTERM" or note.reason == _UNKNOWN
    return "asked to leave" if expected else f"asked to leave; {note.reason}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name of its own
        return f"signal {number}"
