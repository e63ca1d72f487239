"""Requests a second of /livez and /readyz after ready, against a three-line application under the
same server.
"""

import statistics
from collections.abc import Callable

from harness import (
    alternate,
    cpu_s,
    heavy_project,
    load,
    options,
    publish,
    ratio,
    server,
    until_200,
)

SECONDS = 2.0


def main() -> None:
    found = options(__doc__)
    arguments = ("--port", "{port}", "--log-level", "critical", "--no-access-log")
    cpu: dict[str, list[float]] = {}
    with (
        heavy_project(modules=1) as folder,
        server("uvicorn", "gated:light", *arguments, folder=folder, wait_for="/readyz") as (
            gated,
            gated_port,
        ),
        server("uvicorn", "three_lines:app", *arguments, folder=folder) as (plain, plain_port),
    ):
        until_200(plain_port, "/")
        targets = [
            ("gate, /livez", gated.pid, gated_port, "/livez"),
            ("gate, /readyz", gated.pid, gated_port, "/readyz"),
            ("three-line application", plain.pid, plain_port, "/livez"),
        ]

        def requests_a_second(name: str, pid: int, port: int, path: str) -> Callable[[], float]:
            def measure() -> float:
                before_s = cpu_s(pid)
                answered = load(port, path, seconds=SECONDS)
                cpu.setdefault(name, []).append(1e6 * (cpu_s(pid) - before_s) / answered)
                return answered / SECONDS

            return measure

        taken = alternate(found.rounds, [requests_a_second(*target) for target in targets])
    rows = [
        (
            name,
            f"{statistics.median(values):,.0f} /s",
            f"{statistics.median(cpu[name]):.0f} µs",
            f"{ratio(values, taken[-1]):.2f} ×",
            "" if values is taken[-1] else "≥ 0.95 ×",
        )
        for (name, *_), values in zip(targets, taken, strict=True)
    ]
    publish(
        "bench_probe_cost",
        title="Probe cost",
        how=f"16 kept connections from another process for {SECONDS:g} s, uvicorn, no access log.",
        head=("what", "requests", "server CPU a request", "ratio of requests", "bar"),
        rows=rows,
        found=found,
    )


if __name__ == "__main__":
    main()
