"""What the gate adds to a request after ready: in-process CPU, against what a served request
costs.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from harness import cpu_s, heavy_project, load, options, publish, server

from asgi_health import HealthConfig, HealthGate
from asgi_health.phase import UNSETTLED

CALLS = 100_000
App = Callable[[Any, Any, Any], Awaitable[None]]


async def application(scope: Any, receive: Any, send: Any) -> None:
    """What the gate hands over to: nothing, so that only the gate is measured."""


async def receive() -> dict[str, Any]:
    return {"type": "lifespan.startup"}


async def send(message: dict[str, Any]) -> None:
    """Throw the message away."""


async def ready_gate() -> HealthGate:
    gate = HealthGate(application, config=HealthConfig())
    startup = asyncio.ensure_future(gate({"type": "lifespan", "state": {}}, _once(), send))
    await gate.lifecycle.left(UNSETTLED)
    startup.cancel()
    return gate


def _once() -> Callable[[], Awaitable[dict[str, Any]]]:
    messages = [{"type": "lifespan.startup"}]

    async def receive_once() -> dict[str, Any]:
        if messages:
            return messages.pop()
        return await asyncio.Event().wait() and {}

    return receive_once


async def cpu_us(app: App) -> float:
    headers = [(b"host", b"localhost"), (b"accept", b"*/*"), (b"user-agent", b"benchmark")]
    scope = {
        "type": "http",
        "path": "/api/projects",
        "root_path": "",
        "method": "GET",
        "headers": headers,
    }
    begun_s = time.process_time()
    for _ in range(CALLS):
        await app(scope, receive, send)
    return 1e6 * (time.process_time() - begun_s) / CALLS


async def overhead_us(rounds: int) -> list[float]:
    gate = await ready_gate()
    await cpu_us(gate)
    return [await cpu_us(gate) - await cpu_us(application) for _ in range(rounds)]


def served_us(app: str, rounds: int) -> float:
    """Server CPU a request, microseconds."""
    taken = []
    arguments = ("uvicorn", app, "--port", "{port}", "--log-level", "critical", "--no-access-log")
    with (
        heavy_project(modules=1) as folder,
        server(*arguments, folder=folder, wait_for="/") as (process, port),
    ):
        for _ in range(rounds):
            before_s = cpu_s(process.pid)
            answered = load(port, "/", seconds=2.0)
            taken.append(1e6 * (cpu_s(process.pid) - before_s) / answered)
    return statistics.median(taken)


def main() -> None:
    found = options(__doc__)
    added = statistics.median(asyncio.run(overhead_us(found.rounds)))
    rows = []
    for name, app, bar in (
        ("Django, stock handler, eight usual middlewares", "django_stock:app", "≤ 1 %"),
        ("three-line application", "three_lines:app", "none: nobody serves that"),
    ):
        served = served_us(app, found.rounds)
        rows.append((name, f"{served:.0f} µs", f"{added:.2f} µs", f"{added / served:.2%}", bar))
    publish(
        "bench_gate_overhead",
        title="Gate overhead",
        how=f"{CALLS:,} calls in-process, gate minus bare application; served by uvicorn.",
        head=("request to", "server CPU a request", "the gate adds", "share", "bar"),
        rows=rows,
        found=found,
    )


if __name__ == "__main__":
    main()
