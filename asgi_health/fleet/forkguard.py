"""What a load left behind that forked workers cannot use or must not share.

Only the forking thread lives on in a child, and a child shares its parent's open files: their
offsets, their connections (fork(2)). Formats of `fd`, `fdinfo`, `task`, `net/tcp`: proc(5).
Without /proc only the threads are compared.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

__all__ = ["ForkGuard", "Kind", "Leftover", "report"]

Kind: TypeAlias = Literal["thread", "native thread", "executor", "descriptor", "child process"]
_Key: TypeAlias = tuple[Literal["child", "descriptor", "task"], int, str]

_PROC = Path("/proc/self")
_REST = "the rest of the load"
_ENDING_S = 0.05
# Made to be shared, or without a position and a content of their own.
_HARMLESS = ("/memfd:", "/dev/shm/", "/dev/null", "/dev/tty", "/dev/pts/")  # noqa: S108 - only named


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """One thing that is still there after the load; `owner` is the part that made it."""

    kind: Kind
    what: str
    owner: str

    @property
    def sentence(self) -> str:
        """For a person."""
        return f"{self.kind} {self.what}, left by {self.owner}"


class ForkGuard:
    """Compares threads, descriptors and child processes before and after a load.

    Used by the loading thread. A look takes some microseconds for each open descriptor.
    """

    def __init__(self) -> None:
        self._before: set[_Key] = set()
        self._owners: dict[_Key, str] = {}

    def begin(self) -> None:
        """Note what is there before the load.

        Raises:
            OSError: no descriptor is free to look with.
        """
        self._before, self._owners = _present(), {}

    def look(self, label: str) -> None:
        """Say that `label` made whatever is new since the last look."""
        try:
            present = _present()
        except OSError:  # no descriptor is free to look with: the next look sees it all
            return
        # A number that was free in between may be used again: what is gone is forgotten.
        self._before &= present
        self._owners = {key: self._owners.get(key, label) for key in present - self._before}

    def end(self) -> tuple[Leftover, ...]:
        """Look a last time and return what is left; waits up to 50 ms for threads that end."""
        self.look(_REST)
        limit_s = time.monotonic() + _ENDING_S
        # A thread that was joined is a task of the kernel a moment longer.
        while self._has_native_threads() and time.monotonic() < limit_s:
            time.sleep(0.001)
            self.look(_REST)
        found = (_leftover(key, owner) for key, owner in sorted(self._owners.items()))
        return tuple(dict.fromkeys(one for one in found if one is not None))

    def _has_native_threads(self) -> bool:
        tasks = {number for what, number, _ in self._owners if what == "task"}
        return not tasks <= _threads().keys()


def report(leftovers: Sequence[Leftover], log: logging.Logger) -> None:
    """Log one warning that names every leftover; nothing when there are none."""
    if leftovers:
        log.warning(
            "the load left what forked workers cannot use or must not share:\n%s\n"
            "make it at the first use instead, or set WARM_BOOT=0 so that each worker loads",
            "\n".join(f"- {leftover.sentence}" for leftover in leftovers),
        )


def _present() -> set[_Key]:
    """What is there now."""
    if not _PROC.is_dir():
        return {("task", number, "") for number in _threads()}
    present: set[_Key] = set()
    for task in _names("task"):
        present.add(("task", int(task), ""))
        present.update(("child", int(pid), "") for pid in _read(f"task/{task}/children").split())
    for name in _names("fd"):
        try:
            target = os.readlink(f"{_PROC}/fd/{name}")  # noqa: PTH115 - thrice as fast as Path's
        except OSError:  # closed since, as the one that listed them
            continue
        # A file that is removed while it is open stays the same one.
        present.add(("descriptor", int(name), target.removesuffix(" (deleted)")))
    return present


def _names(folder: str) -> list[str]:
    with os.scandir(_PROC / folder) as entries:
        return [entry.name for entry in entries]


def _read(name: str) -> str:
    """A file of /proc/self; empty when it is gone or the kernel does not have it."""
    try:
        return (_PROC / name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _threads() -> dict[int, threading.Thread]:
    return {thread.native_id: thread for thread in threading.enumerate() if thread.native_id}


def _leftover(key: _Key, owner: str) -> Leftover | None:
    """What a key stands for; None when it is harmless or has ended by now."""
    what, number, target = key
    if what == "task":
        kind, text = _task(number)
        return Leftover(kind=kind, what=text, owner=owner)
    if what == "child":
        name, _, state = _read(f"../{number}/stat").partition("(")[2].rpartition(")")
        is_running = state.split()[:1] not in ([], ["Z"])
        text = f'{number}, "{name}"'
        return Leftover(kind="child process", what=text, owner=owner) if is_running else None
    readable = _descriptor(number, target)
    if readable is None:
        return None
    return Leftover(kind="descriptor", what=f"{number}, {readable}", owner=owner)


def _task(number: int) -> tuple[Kind, str]:
    thread = _threads().get(number)
    if thread is None:
        return "native thread", f'{number}, "{_read(f"task/{number}/comm").strip()}"'
    # The standard library keeps its executors' threads there, under any name that the user chose.
    workers = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", ())
    if thread in workers or thread.name.startswith("ThreadPoolExecutor-"):
        return "executor", f'"{thread.name.rpartition("_")[0] or thread.name}"'
    return "thread", f'"{thread.name}"'


def _descriptor(number: int, target: str) -> str | None:
    """What an open descriptor is; None when several processes may share it."""
    if target.startswith("socket:["):
        return _socket(target.removeprefix("socket:[").removesuffix("]"))
    if not target.startswith("/"):
        return target.removeprefix("anon_inode:").strip("[]")
    fields = _read(f"fdinfo/{number}").split()
    flags = int(fields[fields.index("flags:") + 1], 8) if "flags:" in fields else os.O_RDONLY
    is_writing = flags & (os.O_WRONLY | os.O_RDWR)
    # Appends of several processes do not overwrite each other (open(2)): a log file is shared well.
    if target.startswith(_HARMLESS) or not is_writing or flags & os.O_APPEND:
        return None
    return f"{target}, open for writing"


def _socket(inode: str) -> str:
    """A socket and its peer, from the kernel's tables.

    An object made of the descriptor would set it non-blocking under `socket.setdefaulttimeout`.
    """
    for row in (_read("net/tcp") + _read("net/tcp6")).splitlines():
        line = row.split()
        if line[9] == inode and not line[2].endswith(":0000"):
            return f"socket connected to {_address(line[2])}"
    return "socket"


def _address(text: str) -> str:
    """`0100007F:1538` as 127.0.0.1:5432: words of four bytes in the machine's order."""
    host, _, port = text.partition(":")
    raw = bytes.fromhex(host)
    words = (raw[start : start + 4] for start in range(0, len(raw), 4))
    packed = b"".join(word if sys.byteorder == "big" else word[::-1] for word in words)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return f"{socket.inet_ntop(family, packed)}:{int(port, 16)}"
