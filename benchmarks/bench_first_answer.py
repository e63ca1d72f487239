"""Exec to the first 200 of /livez during a heavy boot, against a three-line application under the
same server.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from harness import (
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
        *(
            "gunicorn",
            "{app}",
            "-k",
            "asgi_health.adapters.uvicorn.Worker",
            "-b",
            "127.0.0.1:{{port}}",
        ),
        *("--log-level", "critical"),
    ),
}


def first_answer(server: str, app: str, folder: Path) -> Callable[[], float]:
    arguments = [word.format(app=app) for word in SERVERS[server]]

    def measure() -> float:
        port = free_port()
        begun_s = time.monotonic()
        process = start(*arguments, folder=folder, port=port)
        try:
            return until_200(port, "/livez") - begun_s
        finally:
            stop(process)

    return measure


def main() -> None:
    found = options(__doc__)
    rows = []
    with heavy_project() as folder:
        for name in SERVERS:
            ours, peer = alternate(
                found.rounds,
                [
                    first_answer(name, "gated:heavy", folder),
                    first_answer(name, "three_lines:app", folder),
                ],
            )
            rows.append(
                (
                    name,
                    f"{statistics.median(ours):.3f} s",
                    f"{statistics.median(peer):.3f} s",
                    f"{ratio(ours, peer):.2f} ×",
                    "≤ 1.15 ×",
                )
            )
    publish(
        "bench_first_answer",
        title="First answer",
        how="Exec to the first 200 of `/livez`; ours loads 600 heavy modules behind it.",
        head=("server", "gate, heavy boot", "three-line application", "ratio", "bar"),
        rows=rows,
        found=found,
    )


if __name__ == "__main__":
    main()
