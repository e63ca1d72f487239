"""Two workers of a heavy Django project: loaded once and forked, against one load each.

Gunicorn with the files that `init` wrote: probes during the boot, time to ready, memory, and the
time until Django answers again after SIGKILL of all workers.
"""

import os
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from harness import (
    ask,
    free_port,
    heavy_site,
    options,
    probe_series,
    pss_mib,
    publish,
    quantile,
    ratio,
    start_fleet,
    stop,
    until_200,
    workers_of,
)

PROBES = 400
PATH = "/hello/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One boot of one arrangement that nobody asks anything but whether it is ready."""

    boot_s: float
    memory_mib: float
    recovery_s: float
    refused: int


def measure(folder: Path, *, warm: bool) -> Run:
    port = free_port()
    begun_s = time.monotonic()
    server = start_fleet(folder, port=port, environment={"WARM_BOOT": str(int(warm))})
    try:
        boot_s = until_200(port, "/readyz", pause_s=0.02) - begun_s
        until_200(port, PATH)
        workers = workers_of(server.pid, count=2)
        memory_mib = pss_mib([server.pid, *workers])
        recovery_s, refused = recover(port, workers)
    finally:
        stop(server)
    return Run(boot_s=boot_s, memory_mib=memory_mib, recovery_s=recovery_s, refused=refused)


def probe(folder: Path) -> list[float]:
    """Milliseconds of each probe of a warm boot."""
    port = free_port()
    server = start_fleet(folder, port=port, environment={"WARM_BOOT": "1"})
    try:
        until_200(port, "/livez")
        probes_ms = probe_series(port, count=PROBES)
        if ask(port, "/readyz") != 503:
            sys.exit("the boot was over before the probes were: make the heavy project heavier")
    finally:
        stop(server)
    return probes_ms


def recover(port: int, workers: list[int]) -> tuple[float, int]:
    """Seconds from the kill of all workers to the next answer of Django; connections refused."""
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    killed_s, refused = time.monotonic(), 0
    while (status := ask(port, PATH, timeout_s=60.0)) != 200:
        refused += status is None
        time.sleep(0.001)
    return time.monotonic() - killed_s, refused


def main() -> None:
    found = options(__doc__)
    probed: list[list[float]] = []
    warm: list[Run] = []
    cold: list[Run] = []
    with heavy_site() as folder:
        measure(folder, warm=True)
        for _ in range(found.rounds):
            probed.append(probe(folder))
            warm.append(measure(folder, warm=True))
            cold.append(measure(folder, warm=False))
    p50, p99 = (
        statistics.median(quantile(series, share) for series in probed) for share in (0.5, 0.99)
    )

    def row(name: str, unit: str, figure: str, bar: str) -> tuple[str, ...]:
        ours, peer = ([getattr(run, figure) for run in runs] for runs in (warm, cold))
        shown = (f"{statistics.median(values):.2f} {unit}" for values in (ours, peer))
        return (name, *shown, f"{ratio(ours, peer):.3f} ×", bar)

    publish(
        "bench_fleet",
        title="Two workers: one load and forks, against one load each",
        how="A Django project with 600 heavy modules, `gunicorn -w 2` with plain Uvicorn workers. "
        f"Probes: `/livez`, a new connection each 4 ms, {PROBES} times during boots of their own. "
        "Recovery: SIGKILL of all workers until Django's next 200; "
        f"connections refused meanwhile: {sum(run.refused for run in warm)}. "
        "Memory: PSS of master and workers.",
        head=("what", "one load, forked", "one load a worker", "ratio", "bar"),
        rows=(
            ("probe while booting, p50", f"{p50:.2f} ms", "", "", "≤ 1 ms"),
            ("probe while booting, p99", f"{p99:.2f} ms", "", "", "≤ 5 ms"),
            row("boot: exec to ready", "s", "boot_s", "≤ 0.9 ×"),
            row("memory", "MiB", "memory_mib", "≤ 0.6 ×"),
            row("recovery", "s", "recovery_s", "≤ 0.25 s, ≤ 0.05 ×"),
        ),
        found=found,
    )


if __name__ == "__main__":
    main()
