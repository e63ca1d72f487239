"""Requests a second of /livez and /readyz, against three lines that send the same answer."""

import statistics
from pathlib import Path

from harness import cpu_s, heavy_project, load, options, publish, server

BURSTS, BURST_S = 12, 0.2
ARGUMENTS = ("--port", "{port}", "--log-level", "critical", "--no-access-log")
PATHS = ("/livez", "/readyz")


class Tally:
    """What one server did in all bursts of a round."""

    def __init__(self, pid: int, port: int) -> None:
        self._pid, self._port = pid, port
        self.answered, self.cpu_s = 0, 0.0

    def burst(self, path: str) -> None:
        before_s = cpu_s(self._pid)
        self.answered += load(self._port, path, seconds=BURST_S)
        self.cpu_s += cpu_s(self._pid) - before_s


def one_round(path: str, folder: Path, number: int) -> tuple[Tally, Tally]:
    """Two new processes in short turns: the machine's speed drifts, and processes differ.

    Which of them is started first changes from round to round: it may keep a core for itself.
    """
    apps = ["gated:light", "same_answer:app"]
    first = number % 2
    with (
        server("uvicorn", apps[first], *ARGUMENTS, folder=folder, wait_for="/readyz") as one,
        server("uvicorn", apps[1 - first], *ARGUMENTS, folder=folder, wait_for="/readyz") as two,
    ):
        tallies = [Tally(run.pid, port) for run, port in (one, two)]
        for burst in range(BURSTS):
            for tally in tallies if burst % 2 else reversed(tallies):
                tally.burst(path)
    return tallies[first], tallies[1 - first]


def main() -> None:
    found = options(__doc__)
    rows = []
    with heavy_project(modules=1) as folder:
        one_round(PATHS[0], folder, 0)
        for path in PATHS:
            pairs = [one_round(path, folder, number) for number in range(found.rounds)]
            ours, peers = zip(*pairs, strict=True)
            rows.append(
                (
                    path,
                    *(f"{statistics.median(map(_rate, side)):,.0f} /s" for side in (ours, peers)),
                    *(f"{statistics.median(map(_cpu_us, side)):.0f} µs" for side in (ours, peers)),
                    f"{statistics.median(a.answered / b.answered for a, b in pairs):.2f} ×",
                    "≥ 0.95 ×",
                )
            )
    publish(
        "bench_probe_cost",
        title="Probe cost",
        how=f"Two uvicorn processes in turns of {BURST_S:g} s; three lines that send the same.",
        head=("path", "gate", "three lines", "gate, CPU", "three lines, CPU", "ratio", "bar"),
        rows=rows,
        found=found,
    )


def _rate(tally: Tally) -> float:
    return tally.answered / (BURSTS * BURST_S)


def _cpu_us(tally: Tally) -> float:
    return 1e6 * tally.cpu_s / tally.answered


if __name__ == "__main__":
    main()
