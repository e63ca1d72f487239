"""A gate as one worker of an instance with a master: forked, preloaded, told when to drain."""

import json
import os
import signal
import sys
from typing import Any

import pytest
from server_side import SECRET, Exits, Lifespan, get, hello, limited, settle

from asgi_health import HealthConfig, HealthGate, LoadedApp, Warmup
from asgi_health.boot import load_in_place
from asgi_health.fleet.config import FleetConfig
from asgi_health.fleet.masterboard import Masterboard, Stage
from asgi_health.fleet.scoreboard import WorkerRow, process_start
from asgi_health.fleet.seat import Seat
from asgi_health.phase import Event, Failure, Phase

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the table needs locks")

PROBES = {"/livez": 200, "/readyz": 200, "/startupz": 200}


@pytest.fixture
def board() -> Any:
    made = Masterboard(FleetConfig(), is_warm=True)
    made.workers_wanted = 2
    yield made
    made.workers.close()


def sibling(board: Masterboard, phase: Phase) -> None:
    """Another worker of the instance, which is alive: the process above this."""
    pid = os.getppid()
    row = WorkerRow(
        pid=pid,
        start=process_start(pid),
        phase=phase,
        accepting=True,
        started_at=0.0,
        ready_at=0.0,
        updated_s=0.0,
        rss_bytes=0,
        generation=1,
    )
    board.workers.write(9, row)


class Worker:
    """A gate with a seat, and the server's side of its lifespan."""

    def __init__(
        self,
        board: Masterboard,
        target: Any = lambda: hello,
        *,
        delay_s: float = 0.0,
        **config: Any,
    ) -> None:
        self.exits = Exits()
        self.gate = HealthGate(
            target, config=HealthConfig(**({"token": SECRET} | config)), exit_process=self.exits
        )
        self.seat = Seat(board, index=0, delay_s=delay_s)
        self.gate.take_seat(self.seat, drains=True)
        self.server: Lifespan

    async def starts(self) -> "Worker":
        self.server = Lifespan(self.gate, state={})
        assert await self.server.startup() == {"type": "lifespan.startup.complete"}
        return self

    async def is_in(self, phase: str) -> "Worker":
        others = frozenset(Phase) - {Phase(phase)}
        await limited(self.gate.lifecycle.left(others))
        await settle()
        return self

    async def statuses(self) -> dict[str, int]:
        self.forget_verdict()
        return {path: (await get(self.gate, path)).status for path in PROBES}

    async def stops(self) -> None:
        assert await self.server.shutdown() == {"type": "lifespan.shutdown.complete"}

    def forget_verdict(self) -> None:
        self.seat._read_s = float("-inf")


async def test_a_worker_is_listed_by_its_master_from_its_start_to_its_stop(
    board: Masterboard,
) -> None:
    worker = await (await Worker(board).starts()).is_in("ready")
    row = board.workers.read(0)
    assert row is not None
    assert (row.pid, row.phase, row.accepting) == (os.getpid(), Phase.READY, True)
    await worker.stops()
    row = board.workers.read(0)
    assert row is not None
    assert (row.phase, row.accepting) == (Phase.STOPPED, False)


async def test_a_forked_gate_begins_anew_although_its_master_has_failed(
    board: Masterboard,
) -> None:
    gate = HealthGate(lambda: hello)
    gate.lifecycle.advance(Event.LOAD)
    failure = Failure(code="boot.error", message="", traceback="")
    gate.lifecycle.advance(Event.FAIL, failure=failure)
    gate.take_seat(Seat(board, index=0), drains=True)
    server = Lifespan(gate, state={})
    await server.startup()
    await limited(gate.lifecycle.left(frozenset(Phase) - {Phase.READY}))
    assert (await get(gate, "/livez")).status == 200
    await server.shutdown()


@pytest.mark.parametrize("drains", [True, False])
async def test_a_server_that_tells_of_the_drain_keeps_its_own_signal_handlers(
    board: Masterboard,
    drains: bool,  # noqa: FBT001
) -> None:
    def handle(*_: object) -> None:
        """The server's own."""

    before = signal.signal(signal.SIGTERM, handle)
    try:
        gate = HealthGate(lambda: hello)
        gate.take_seat(Seat(board, index=0), drains=drains)
        server = Lifespan(gate, state={})
        await server.startup()
        assert (signal.getsignal(signal.SIGTERM) is handle) is drains
        await server.shutdown()
        assert signal.getsignal(signal.SIGTERM) is handle
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_the_instance_drains_and_not_the_single_worker(board: Masterboard) -> None:
    worker = Worker(board, drain_s=3600.0)
    worker.gate.lifecycle.advance(Event.LOAD)
    worker.gate.lifecycle.advance(Event.LOADED)
    assert worker.gate._stop_delay_s() == 0.0


# What a worker says of the instance.


async def test_a_leaving_worker_says_ready_while_the_instance_is(board: Masterboard) -> None:
    sibling(board, Phase.READY)
    worker = await (await Worker(board).starts()).is_in("ready")
    worker.gate.begin_drain()
    assert await worker.statuses() == PROBES
    answer = await get(worker.gate, "/readyz")
    assert (answer.body, answer.headers[b"connection"]) == (b"ok", b"close")
    facts = json.loads((await get(worker.gate, "/livez", query=b"format=json")).body)
    assert facts["phase"] == "ready"
    sibling(board, Phase.DRAINING)
    assert await worker.statuses() == PROBES | {"/readyz": 503}
    await worker.stops()


@pytest.mark.parametrize("stage", [Stage.DRAINING, Stage.STOPPING])
async def test_a_draining_instance_says_so_from_every_worker_at_once(
    board: Masterboard, stage: Stage
) -> None:
    sibling(board, Phase.READY)
    worker = await (await Worker(board).starts()).is_in("ready")
    assert await worker.statuses() == PROBES
    board.stage = stage
    for path, status in (PROBES | {"/readyz": 503}).items():
        assert (await get(worker.gate, path)).status == status
    assert (await get(worker.gate, "/readyz")).body == b"draining"
    assert (await get(worker.gate)).body == b"hello"
    facts = json.loads((await get(worker.gate, "/livez", query=b"format=json")).body)
    assert facts["phase"] == "draining"
    await worker.stops()


async def test_a_starting_worker_says_ready_while_the_instance_is(
    board: Masterboard, stay_starting: Any
) -> None:
    stay_starting()
    sibling(board, Phase.LOADING)  # so that the newcomer accepts
    worker = await Worker(board).starts()
    assert await worker.statuses() == {"/livez": 200, "/readyz": 503, "/startupz": 503}
    sibling(board, Phase.READY)
    assert await worker.statuses() == PROBES
    await worker.stops()


async def test_a_worker_whose_boot_failed_says_so_although_the_instance_is_ready(
    board: Masterboard,
) -> None:
    def load() -> Any:
        raise OSError("no")

    sibling(board, Phase.LOADING)
    worker = await (await Worker(board, load, failed_linger_s=30).starts()).is_in("failed")
    sibling(board, Phase.READY)
    assert set((await worker.statuses()).values()) == {503}
    assert (await get(worker.gate, "/readyz")).body == b"boot.error"
    await worker.stops()


async def test_restarts_and_endings_are_shown_to_the_authorised(board: Masterboard) -> None:
    worker = await (await Worker(board).starts()).is_in("ready")
    board.tell({"restarts": 4, "endings": [{"pid": 7, "reason": "killed by SIGSEGV"}]})
    bearer = (b"authorization", b"Bearer " + SECRET.encode())
    answer = await get(worker.gate, "/readyz", headers=[bearer], query=b"format=json")
    facts = json.loads(answer.body)
    assert facts["restarts"] == 4
    assert facts["endings"] == [{"pid": 7, "reason": "killed by SIGSEGV"}]
    assert [one["pid"] for one in facts["workers"]] == [os.getpid()]
    terse = await get(worker.gate, "/readyz", query=b"format=json&verbose")
    assert b"SIGSEGV" not in terse.body
    await worker.stops()


# Waiting after crashes.


async def test_a_worker_that_must_wait_answers_and_holds_but_does_not_boot(
    board: Masterboard,
) -> None:
    loads: list[str] = []
    worker = await Worker(board, lambda: loads.append("load"), delay_s=3600.0).starts()
    await settle()
    assert await worker.statuses() == {"/livez": 200, "/readyz": 503, "/startupz": 503}
    assert (loads, worker.gate.lifecycle.phase) == ([], Phase.STARTING)
    await worker.stops()
    assert worker.exits.codes == []


async def test_a_worker_that_has_waited_boots(board: Masterboard) -> None:
    worker = await (await Worker(board, delay_s=0.001).starts()).is_in("ready")
    assert worker.seat.delay_s == 0.0
    assert (await get(worker.gate)).body == b"hello"
    await worker.stops()


# Preloaded.


class Inner:
    """An application with a lifespan that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                kind = (await receive())["type"]
                self.asked.append(kind)
                await send({"type": f"{kind}.complete"})
            return
        self.asked.append(scope["path"])
        await hello(scope, receive, send)


async def test_a_preloaded_worker_starts_and_warms_up_what_is_loaded_and_loads_nothing(
    board: Masterboard,
) -> None:
    inner, loads = Inner(), []

    def load() -> LoadedApp:
        loads.append("load")
        return LoadedApp(inner, warmup=Warmup(path="/warm", statuses=frozenset({200})))

    worker = Worker(board, load)
    worker.gate.preloaded = load_in_place(worker.gate.target)
    assert loads == ["load"]
    await (await worker.starts()).is_in("ready")
    assert loads == ["load"]
    assert inner.asked == ["lifespan.startup", "/warm"]
    report = worker.gate.vitals.page()["boot"]
    assert [step["name"] for step in report["steps"]] == [
        *("import", "load", "lifespan startup", "warm-up")
    ]
    assert all(step["duration_s"] is not None for step in report["steps"])
    await worker.stops()
    assert inner.asked[-1] == "lifespan.shutdown"


async def test_a_preloaded_worker_whose_warm_up_fails_is_a_failed_boot(board: Masterboard) -> None:
    app = LoadedApp(hello, lifespan=False, warmup=Warmup(path="/warm", statuses=frozenset({204})))
    worker = Worker(board, lambda: app, failed_linger_s=0)
    worker.gate.preloaded = load_in_place(worker.gate.target)
    await worker.starts()
    await limited(worker.exits.happened.wait())
    assert worker.exits.codes == [3]
    assert worker.gate.lifecycle.phase is Phase.FAILED
    await worker.stops()


async def test_two_workers_of_one_load_have_reports_of_their_own(board: Masterboard) -> None:
    loaded = load_in_place(lambda: LoadedApp(hello, lifespan=False))
    names = []
    for _ in range(2):
        worker = Worker(board, lambda: hello, warmup=Warmup(path="/", statuses=frozenset({200})))
        worker.gate.preloaded = loaded
        await (await worker.starts()).is_in("ready")
        names.append([step["name"] for step in worker.gate.vitals.page()["boot"]["steps"]])
        await worker.stops()
    assert names == [["import", "load", "warm-up"]] * 2
    assert [step.name for step in loaded.recorder.report().steps] == ["import", "load"]
