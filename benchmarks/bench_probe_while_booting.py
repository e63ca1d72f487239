"""Time of /livez on a new connection every 4 ms while a heavy import runs on a thread of the same
process.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import (
    ask,
    heavy_project,
    options,
    probe_series,
    publish,
    quantile,
    server,
    until_200,
)

COUNT = 400


@contextmanager
def booting(app: str, folder: Path) -> Iterator[int]:
    arguments = ("uvicorn", app, "--port", "{port}", "--log-level", "critical")
    with server(*arguments, folder=folder, wait_for="/livez") as (_, port):
        yield port


def measure(app: str, folder: Path) -> list[float]:
    with booting(app, folder) as port:
        taken = probe_series(port, count=COUNT)
        if app == "gated:heavy" and ask(port, "/readyz") != 503:
            sys.exit("the boot was over before the probes were: make the heavy project heavier")
    return taken


def boot_s(app: str, folder: Path) -> float:
    with booting(app, folder) as port:
        begun_s = time.monotonic()
        return until_200(port, "/readyz", pause_s=0.1) - begun_s


def main() -> None:
    found = options(__doc__)
    rows = []
    with heavy_project() as folder:
        measure("gated:heavy", folder)
        for app, name, bar in (
            ("gated:heavy", "gate, heavy boot", "p50 ≤ 8 ms, p99 ≤ 60 ms"),
            ("three_lines:app", "three-line application, no boot", "the machine's own"),
        ):
            rounds = [measure(app, folder) for _ in range(found.rounds)]
            rows.append(
                (
                    name,
                    *(
                        f"{statistics.median(quantile(taken, share) for taken in rounds):.2f} ms"
                        for share in (0.5, 0.99, 1.0)
                    ),
                    bar,
                )
            )
        boot = statistics.median(boot_s("gated:heavy", folder) for _ in range(found.rounds))
    publish(
        "bench_probe_while_booting",
        title="Probe while booting, in a thread",
        how=f"`/livez`, a new connection each 4 ms, {COUNT} times, during a boot of {boot:.1f} s.",
        head=("what", "p50", "p99", "max", "bar"),
        rows=rows,
        found=found,
    )


if __name__ == "__main__":
    main()
