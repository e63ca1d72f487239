"""What logs, metrics and traces add to a request of the product: in-process CPU.

Three applications in one process, asked in turns; a small receiver takes the traces. The share is
of what the server computes for such a request over a socket.
"""

import asyncio
import copy
import json
import os
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

from bench_handoff_cpu import ask
from harness import cpu_s, free_port, load, options, publish, stop, until_200
from harness import start as start_server
from serving import Site, product_site

from asgi_health.lifespan import InnerLifespan

PATH = "/api/ping"
COUNT, TURNS = 250, 40
"""Requests a turn, turns a round: short, so that what else the machine does meets all alike."""

TRACED = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
SHOWN = {
    "logs and metrics": "≤ 3 %",
    "the same, with an access line for every request": "",
    "logs, metrics, and traces of 10 %": "≤ 10 %",
}
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
    settings.MIDDLEWARE.remove("project.tracing.requests.trace_requests")
    untraced = copy.copy(traced)
    untraced._app = with_static_files(get_asgi_application())  # noqa: SLF001
    talkative = copy.copy(untraced)
    talkative._access_log = AccessLog(lines_per_s=1_000_000)  # noqa: SLF001
    settings.MIDDLEWARE.remove("project.middleware.note_request")
    bare = with_static_files(get_asgi_application())
    return product, [bare, untraced, talkative, traced]


async def measure(turns: int) -> list[list[float]]:
    """CPU µs a request, of each application in each turn."""
    product, apps = applications()
    life = InnerLifespan(product, state={})
    await life.startup()
    taken: list[list[float]] = [[] for _ in apps]
    for turn in range(-1, turns):  # the first one warms up
        order = range(len(apps)) if turn % 2 else reversed(range(len(apps)))
        for index in order:
            begun_s = time.process_time()
            for _ in range(COUNT):
                if await ask(apps[index], PATH) != 200:
                    raise RuntimeError(f"{PATH} was not answered with 200")
            if turn >= 0:
                taken[index].append(1e6 * (time.process_time() - begun_s) / COUNT)
    await life.shutdown()
    return taken


def measured(site: Site, turns: int) -> list[list[float]]:
    """The same, in a process of its own."""
    with receiver() as address:
        more = TRACED | {"OTEL_EXPORTER_OTLP_ENDPOINT": address}
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
            *arguments, folder=Path(folder), port=port, environment=site.environment
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
        bare, *ways = measured(site, found.rounds * TURNS)
        served = served_us(site, found.rounds)
    rows = []
    for (what, bar), way in zip(SHOWN.items(), ways, strict=True):
        added = statistics.median(a - b for a, b in zip(way, bare, strict=True))
        rows.append((what, f"{added:.1f} µs", f"{added / served:.1%}", bar))
    publish(
        "bench_telemetry_cost",
        title="Cost of telemetry",
        how=f"In-process CPU a request of `{PATH}` against the same without any of it "
        f"({statistics.median(bare):.0f} µs), {TURNS} turns of {COUNT} a round; the share "
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
