"""CPU of one request in-process: Django's stock ASGI handler, ours, and Django's WSGI handler.

Eight usual middlewares; an asynchronous and a synchronous view that say hello.
"""

import asyncio
import io
import os
import statistics
import sys
import time
from collections.abc import Callable

from harness import APPS, alternate, options, publish, ratio

sys.path.insert(0, str(APPS))
os.environ["DJANGO_SETTINGS_MODULE"] = "usual_settings"

COUNT = {"stock": 300, "ours": 2000, "wsgi": 2000}
WARM_UP = 50


async def ask(handler: Callable, path: str) -> int:
    """One GET; its status."""
    messages = [{"type": "http.request", "body": b"", "more_body": False}]
    never = asyncio.Event()
    statuses = []

    async def receive() -> dict:
        if not messages:
            await never.wait()
        return messages.pop()

    async def send(message: dict) -> None:
        statuses.append(message.get("status"))

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"accept", b"*/*")],
        "client": ("127.0.0.1", 50000),
        "server": ("localhost", 80),
    }
    await handler(scope, receive, send)
    return statuses[0]


def measure_asgi(handler: Callable, path: str, count: int) -> Callable[[], float]:
    async def run() -> float:
        for _ in range(WARM_UP):
            if await ask(handler, path) != 200:
                raise RuntimeError(f"{path} was not answered with 200")
        begun_s = time.process_time()
        for _ in range(count):
            await ask(handler, path)
        return 1e6 * (time.process_time() - begun_s) / count

    return lambda: asyncio.run(run())


def measure_wsgi(handler: Callable, path: str, count: int) -> Callable[[], float]:
    def ask_once() -> None:
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "SCRIPT_NAME": "",
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "localhost",
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": sys.stderr,
            "wsgi.url_scheme": "http",
            "wsgi.version": (1, 0),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        response = handler(environ, lambda _status, _headers: None)
        b"".join(response)
        response.close()

    def run() -> float:
        for _ in range(WARM_UP):
            ask_once()
        begun_s = time.process_time()
        for _ in range(count):
            ask_once()
        return 1e6 * (time.process_time() - begun_s) / count

    return run


def main() -> None:
    found = options(__doc__)
    import django  # noqa: PLC0415 - after the settings

    django.setup()
    from django.core.handlers.asgi import ASGIHandler  # noqa: PLC0415 - after the settings
    from django.core.handlers.wsgi import WSGIHandler  # noqa: PLC0415 - after the settings

    from asgi_health.adapters.django.handler import Handler  # noqa: PLC0415 - after the settings

    rows = []
    for path, view in (("/async/", "asynchronous view"), ("/sync/", "synchronous view")):
        stock, ours, wsgi = alternate(
            found.rounds,
            [
                measure_asgi(ASGIHandler(), path, COUNT["stock"]),
                measure_asgi(Handler(), path, COUNT["ours"]),
                measure_wsgi(WSGIHandler(), path, COUNT["wsgi"]),
            ],
        )
        rows.append(
            (
                view,
                *(f"{statistics.median(values):.0f} µs" for values in (stock, ours, wsgi)),
                f"{ratio(stock, ours):.1f} ×",
                "≥ 4 ×",
            )
        )
    publish(
        "bench_handoff_cpu",
        title="Hand-off, CPU",
        how="In-process, eight usual middlewares, CPU of all threads a request.",
        head=("request", "stock ASGI", "ours", "WSGI", "stock over ours", "bar"),
        rows=rows,
        found=found,
    )


if __name__ == "__main__":
    main()
