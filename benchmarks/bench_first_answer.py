"""Exec to the first 200 of /livez while loading, against a three-line application, same server."""

import os
import secrets
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from harness import (
    ROOT,
    alternate,
    free_port,
    heavy_project,
    options,
    publish,
    ratio,
    start,
    stop,
    until_200,
)

SERVERS = {
    "uvicorn": ("uvicorn", "{app}", "--port", "{{port}}", "--log-level", "critical"),
    "gunicorn, 1 worker": (
        *("gunicorn", "{app}", "-k", "asgi_health.adapters.uvicorn.Worker"),
        *("-b", "127.0.0.1:{{port}}", "--log-level", "critical"),
    ),
}
PRODUCT = {"ENV_FILE": os.devnull, "SECRET_KEY": secrets.token_urlsafe(64), "DEBUG": "0"}
NOTHING: Mapping[str, str] = MappingProxyType({})


def first_answer(
    server: str, app: str, folder: Path, environment: Mapping[str, str] = NOTHING
) -> Callable[[], float]:
    arguments = [word.format(app=app) for word in SERVERS[server]]

    def measure() -> float:
        port = free_port()
        begun_s = time.monotonic()
        process = start(*arguments, folder=folder, port=port, environment=environment)
        try:
            return until_200(port, "/livez") - begun_s
        finally:
            stop(process)

    return measure


def row(server: str, what: str, ours: list[float], peer: list[float]) -> tuple[str, ...]:
    return (
        server,
        what,
        f"{statistics.median(ours):.3f} s",
        f"{statistics.median(peer):.3f} s",
        f"{ratio(ours, peer):.2f} ×",
        "≤ 1.15 ×",
    )


def main() -> None:
    found = options(__doc__)
    rows = []
    with heavy_project() as folder:
        for server in SERVERS:
            peer = first_answer(server, "three_lines:app", folder)
            for what, ours in (
                ("gate, heavy boot", first_answer(server, "gated:heavy", folder)),
                ("this product", first_answer(server, "project.asgi:app", ROOT, PRODUCT)),
            ):
                rows.append(row(server, what, *alternate(found.rounds, [ours, peer])))
    publish(
        "bench_first_answer",
        title="First answer",
        how="Exec to the first 200 of `/livez`; the heavy boot loads 600 modules behind it.",
        head=("server", "what", "ours", "three-line application", "ratio", "bar"),
        rows=rows,
        found=found,
    )


if __name__ == "__main__":
    main()
