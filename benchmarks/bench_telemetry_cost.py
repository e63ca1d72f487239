"""What logs, metrics and traces add to a request of the product: in-process CPU.

Five applications in one process, asked in turns; a small receiver takes the traces, and what their
delivery costs is added. The share is of what the server computes for such a request over a socket.
"""

import asyncio
import copy
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench_handoff_cpu import ask
from harness import APPS, ROOT, cpu_s, free_port, load, options, publish, stop, until_200
from harness import start as start_server
from serving import Site, product_site

from asgi_health.lifespan import InnerLifespan
from asgi_health.types import Message, Receive, Scope, Send

PATH = "/api/ping"
COUNT, TURNS = 50, 120
"""Requests a turn, turns a round: short, so that what else the machine does meets all alike."""

LINES_PER_S = 100
"""ACCESS_LOG_LINES_PER_S, unless it is set."""

DELIVERED = 5000
"""Requests whose spans are delivered to see what that costs: at 10 % about one batch."""

LOGGED = {"LOG_LEVEL": "info"}
TRACED = {
    "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
    "OTEL_TRACES_SAMPLER_ARG": "0.1",
    "OTEL_BSP_SCHEDULE_DELAY": "3600000",  # delivered between the turns
}
SHOWN = {
    "logs and metrics": "≤ 3 %",
    "the same without access lines": "",
    "the same with an access line for each request": "",
    "logs, metrics, and traces of 10 %": "≤ 10 %",
    "the same, traced by the library's middleware, made asynchronous": "",
}
TRACING = (3, 4)
"""Those of the measured applications that trace."""

App = Callable[..., Awaitable[None]]


class Receiver(BaseHTTPRequestHandler):
    """Takes what comes."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def receiver() -> Iterator[str]:
    """Where traces are taken."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def applications() -> tuple[App, list[App]]:
    """The product, with its lifespan; it without all of this, and in each way that is shown."""
    from django.conf import settings  # noqa: PLC0415 - after the environment

    from asgi_health.adapters.django import get_asgi_application  # noqa: PLC0415 - the same
    from project import django_app, logs  # noqa: PLC0415 - the same
    from project.access_log import AccessLog  # noqa: PLC0415 - the same
    from project.env import current  # noqa: PLC0415 - the same
    from project.static_files import with_static_files  # noqa: PLC0415 - the same

    logs.configure(current(), stream=Path(os.devnull).open("w"))  # noqa: SIM115 - until the end
    product = django_app.load().app
    traced = product._app  # noqa: SLF001 - the edge
    untraced = copy.copy(traced)
    untraced._trace = None  # noqa: SLF001
    traced._access_log = untraced._access_log = AccessLog(lines_per_s=0)  # noqa: SLF001
    talkative = copy.copy(untraced)
    talkative._access_log = AccessLog(lines_per_s=1_000_000)  # noqa: SLF001
    settings.MIDDLEWARE.insert(1, "library_traces.LibraryTraces")
    library = copy.copy(untraced)
    library._app = with_static_files(get_asgi_application())  # noqa: SLF001
    del settings.MIDDLEWARE[:2]  # note_request as well
    bare = unnoted(untraced, with_static_files(get_asgi_application()))
    return product, [bare, untraced, talkative, traced, library]


def unnoted(edge: Any, app: App) -> App:
    """What the edge does for others than logs, metrics and traces.

    It tells the client's address to Django, and adds the headers that protect browsers.
    """
    peers, defaults = edge._peers, edge._defaults  # noqa: SLF001

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        client = peers.told(scope).client
        if client is not None:
            scope = {**scope, "client": client}

        def send_on(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = [*message["headers"]]
                message = {**message, "headers": [*headers, *defaults.lacking_in(headers)]}
            return send(message)

        await app(scope, receive, send_on)

    return serve


async def ask_often(app: App, count: int) -> float:
    """CPU µs a request."""
    begun_s = time.process_time()
    for _ in range(count):
        if await ask(app, PATH) != 200:
            raise RuntimeError(f"{PATH} was not answered with 200")
    return 1e6 * (time.process_time() - begun_s) / count


def deliver() -> float:
    """Export the spans that wait; CPU µs."""
    from opentelemetry import trace  # noqa: PLC0415 - after the environment

    begun_s = time.process_time()
    if not trace.get_tracer_provider().force_flush():
        raise RuntimeError("the spans were not delivered")
    return 1e6 * (time.process_time() - begun_s)


async def measure(turns: int) -> tuple[list[list[float]], list[float]]:
    """CPU µs a request, of each application in each turn; and of the delivery of its spans."""
    product, apps = applications()
    life = InnerLifespan(product, state={})
    await life.startup()
    taken: list[list[float]] = [[] for _ in apps]
    order = list(range(len(apps)))
    for turn in range(-3, turns):  # the first ones warm up
        random.shuffle(order)  # none of them always comes after the same one
        for index in order:
            cost_us = await ask_often(apps[index], COUNT)
            deliver()
            if turn >= 0:
                taken[index].append(cost_us)
    delivered = [0.0] * len(apps)
    for index in TRACING:
        await ask_often(apps[index], DELIVERED)
        delivered[index] = deliver() / DELIVERED
    await life.shutdown()
    return taken, delivered


def measured(site: Site, turns: int) -> tuple[list[list[float]], list[float]]:
    """The same, in a process of its own."""
    with receiver() as address:
        paths = os.pathsep.join([str(ROOT), str(APPS)])
        more = {**LOGGED, **TRACED, "OTEL_EXPORTER_OTLP_ENDPOINT": address, "PYTHONPATH": paths}
        made = subprocess.run(
            [sys.executable, __file__, "--measure", str(turns)],
            env=os.environ | site.environment | more,
            stdout=subprocess.PIPE,
            check=True,
        )
    return json.loads(made.stdout)


def served_us(site: Site, rounds: int) -> float:
    """Server CPU for one request over a socket, without traces, microseconds."""
    port, taken = free_port(), []
    arguments = ("uvicorn", "project.asgi:app", "--port", "{port}")
    with TemporaryDirectory() as folder:
        process = start_server(
            *arguments, folder=Path(folder), port=port, environment=site.environment | LOGGED
        )
        try:
            until_200(port, "/readyz")
            for _ in range(rounds):
                before_s = cpu_s(process.pid)
                answered = load(port, PATH, seconds=2.0)
                taken.append(1e6 * (cpu_s(process.pid) - before_s) / answered)
        finally:
            stop(process)
    return statistics.median(taken)


def main() -> None:
    found = options(__doc__)
    with product_site() as site:
        taken, delivered = measured(site, found.rounds * TURNS)
        served = served_us(site, found.rounds)
    silent, talkative, traced, library = (
        delivery + statistics.median(a - b for a, b in zip(way, taken[0], strict=True))
        for way, delivery in zip(taken[1:], delivered[1:], strict=True)
    )
    # Of a worker that computes all the time, only so many requests have a line.
    lines = (talkative - silent) * LINES_PER_S * served / 1e6
    added = (silent + lines, silent, talkative, traced + lines, library + lines)
    rows = [
        (what, f"{us:.1f} µs", f"{us / served:.1%}", bar)
        for (what, bar), us in zip(SHOWN.items(), added, strict=True)
    ]
    publish(
        "bench_telemetry_cost",
        title="Cost of telemetry",
        how=f"In-process CPU a request of `{PATH}` against the same with nothing at the edge but "
        "the client's address and the headers that protect browsers "
        f"({statistics.median(taken[0]):.0f} µs), {TURNS} turns of {COUNT} a round; the share "
        f"is of the {served:.0f} µs that the server computes for one over a socket.",
        head=("what", "adds", "share", "bar"),
        rows=rows,
        found=found,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
        print(json.dumps(asyncio.run(measure(int(sys.argv[2])))))
    else:
        main()
