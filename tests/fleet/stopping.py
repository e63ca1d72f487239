"""What tests of a stop ask and check again and again."""

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from tests.fleet.conftest import ready_pids
from tests.servers.harness import Client, Server, until

__all__ = [
    "FORCED",
    "LONG_S",
    "assert_ended_well",
    "begin_drain",
    "connections_to_all",
    "pid_of",
]

LONG_S = "3600"
"""A time that no test waits for."""

FORCED = re.compile(r"SIGKILL|WORKER TIMEOUT|Traceback|never retrieved")


def assert_ended_well(server: Server) -> None:
    """The exit code is 0, no process is left, none had to be killed."""
    try:
        code = server.wait_ended()
    except subprocess.TimeoutExpired:
        pytest.fail(f"the server has not ended; the log:\n{server.log}")
    assert code == 0, server.log
    assert not FORCED.search(server.log), server.log


def begin_drain(server: Server, number: signal.Signals = signal.SIGTERM) -> None:
    """Tell the master, and wait until the instance says so."""
    server.tell(number)
    until(lambda: server.ask("/readyz").text.strip() == "draining", "the drain")


def pid_of(client: Client) -> int:
    """Which worker has this connection."""
    client.request("/hello")
    answer = client.answer()
    assert answer.status == 200, answer.text
    pid: int = answer.json["pid"]
    return pid


@contextmanager
def connections_to_all(server: Server) -> Iterator[dict[int, Client]]:
    """One open connection to each worker, by the worker's pid; all of them say ready."""
    with ExitStack() as stack:
        found: dict[int, Client] = {}

        def has_all() -> bool:
            client = server.connect()
            pid = pid_of(client)
            if pid in found:
                client.close()
            else:
                found[pid] = stack.enter_context(client)
            return set(found) == ready_pids(server)

        until(has_all, "a connection to every worker")
        for client in found.values():  # each remembers the verdict for a moment
            until(partial(_says_ready, client), "every worker to say ready")
        yield found


def _says_ready(client: Client) -> bool:
    client.request("/readyz")
    return client.answer().status == 200
