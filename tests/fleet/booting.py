"""A fleet that is still loading, and what one can see of its processes from outside."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers.harness import LIMIT_S, Client, Load, Server, until

__all__ = [
    "HELLO",
    "UnixClient",
    "children",
    "connections",
    "cpu_ticks",
    "descriptors",
    "hold_gil",
    "responder_of",
    "state_of",
]

HELLO = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"


class UnixClient(Client):
    """A client of a server that listens on a path."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT_S)
        self.socket.connect(str(path))
        self._file = self.socket.makefile("rb")


def children(pid: int) -> set[int]:
    """The processes that a process has started and not reaped, zombies included."""
    found: set[int] = set()
    with suppress(FileNotFoundError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def responder_of(server: Server, *, but: int = 0) -> int:
    """The process that answers while the master loads; `but` is one that was killed."""
    pids: set[int] = until(lambda: children(server.process.pid) - {but}, "a responder")
    (pid,) = pids
    return pid


def state_of(pid: int) -> str:
    """`R`, `S`, `T`, `Z` of proc(5); empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def cpu_ticks(pid: int) -> int:
    """What a process has computed, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def descriptors(pid: int) -> list[str]:
    """What a process has open, as `readlink` names it; sockets and pipes without their number."""
    names: list[str] = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            names.append(str(fd.readlink()).partition("[")[0])
    return sorted(names)


def hold_gil(load: Load) -> None:
    """Have the import call into C and keep the GIL; until it does.

    What a process waits for in the kernel: syscall of proc(5).
    """
    waits = Path(f"/proc/{load.pid}/syscall")
    before = waits.read_text()
    load.order("hold-gil-firmly")
    until(
        lambda: waits.read_text() not in {before, "running\n"} and state_of(load.pid) == "S",
        "the C call",
    )


@contextmanager
def connections(server: Server, count: int) -> Iterator[list[Client]]:
    """So many new connections."""
    clients = [server.connect() for _ in range(count)]
    try:
        yield clients
    finally:
        for client in clients:
            client.close()
