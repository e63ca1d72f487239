"""Moments between two steps, each brought about on purpose."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_health.adapters.uvicorn.server import FleetServer
from tests.fleet.conftest import CONF, ready_pids
from tests.fleet.stopping import assert_ended_well
from tests.servers.conftest import Run
from tests.servers.harness import Loads, until

EARLY = {
    "before the hook": "def post_fork(server, worker):\n    tell(worker)\n"
    "    hooks.post_fork(server, worker)\n",
    "after the hook": "def post_fork(server, worker):\n    hooks.post_fork(server, worker)\n"
    "    tell(worker)\n",
    "before the server": "def post_worker_init(worker):\n    hooks.post_worker_init(worker)\n"
    "    tell(worker)\n",
}
TELL = """
def tell(worker):
    import signal
    if worker.age <= 2:
        os.kill(os.getpid(), signal.SIGTERM)

"""


@pytest.mark.parametrize("moment", EARLY)
def test_a_worker_that_is_told_to_stop_before_its_server_listens_hears_it_later(
    moment: str, worker_class: str, run: Run, loads: Loads, tmp_path: Path
) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    text = (CONF / "gunicorn.conf.py").read_text(encoding="utf-8")
    (folder / "gunicorn.conf.py").write_text(text + TELL + EARLY[moment], encoding="utf-8")
    server = run(
        ("gunicorn", "gated:app"), env={"WORKER_CLASS": worker_class}, directory=folder, workers=2
    )
    load = loads.next()
    with server.connect() as client:
        client.request("/hello")
        server.wait_held(1)
        load.release()
        assert client.answer().status == 200
    server.wait_for_log(r"worker \d+ ended: asked to leave", count=2)
    until(lambda: len(ready_pids(server)) == 2, "two new workers")
    server.tell(signal.SIGTERM)
    assert_ended_well(server)
    assert "was sent SIGTERM" not in server.log


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.mark.parametrize("ticks", range(5))
async def test_a_connection_that_is_accepted_in_the_tick_of_the_stop_is_served(
    ticks: int, listener: socket.socket
) -> None:
    """asyncio's own server drops it; a connection that was not accepted is for the others."""
    made = asyncio.Event()

    class Served(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.set()
            transport.close()

    loop = asyncio.get_running_loop()
    own = socket.socket(fileno=os.dup(listener.fileno()))  # as a worker has it
    server = FleetServer.__new__(FleetServer)
    server.servers = [await loop.create_server(Served, sock=own)]
    with socket.create_connection(listener.getsockname()) as client:
        for _ in range(ticks):
            await asyncio.sleep(0)
        await server._stop_accepting()
        for _ in range(3):  # what was accepted is given to the server by now
            await asyncio.sleep(0)
        if not made.is_set():
            listener.settimeout(0.0)
            taken, address = listener.accept()
            taken.close()
            assert address == client.getsockname()
