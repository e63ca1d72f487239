"""How many threads to lend: requests a second of synchronous views for several limits.

Gunicorn with two Uvicorn workers, 128 kept connections. One view computes, the other waits 10 ms,
as for a database.
"""

import statistics
from dataclasses import replace

from harness import options, pss_mib, publish, workers_of
from serving import SECONDS, UVICORN, gunicorn, loaded, served, usual_site

LIMITS = (1, 2, 4, 8, 16, 32, 64, 128)
CONNECTIONS = 128
PATHS = ("/sync/", "/waits/")


def main() -> None:
    found = options(__doc__)
    seen: dict[tuple[int, str], list[float]] = {}
    p50_ms: dict[tuple[int, str], list[float]] = {}
    memory_mib: dict[int, float] = {}
    with usual_site() as site:
        for number in range(found.rounds):
            for limit in LIMITS if number % 2 == 0 else reversed(LIMITS):
                limited = replace(
                    site, environment={**site.environment, "HANDOFF_THREADS": str(limit)}
                )
                ways = {"ours": gunicorn("usual_servers:ours", *UVICORN)}
                with served(limited, ways, ready="/sync/") as running:
                    port = running["ours"].port
                    for path in PATHS:
                        taken = loaded(port, path, site, connections=CONNECTIONS)
                        seen.setdefault((limit, path), []).append(taken.requests_s)
                        p50_ms.setdefault((limit, path), []).append(taken.p50_ms or 0.0)
                    memory_mib[limit] = pss_mib(workers_of(running["ours"].pid, count=2))

    def figures(limit: int, path: str) -> tuple[str, str]:
        requests_s = statistics.median(seen[limit, path])
        return (f"{requests_s:,.0f}/s", f"{statistics.median(p50_ms[limit, path]):.0f} ms")

    publish(
        "bench_handoff_threads",
        title="How many threads to lend",
        how="Gunicorn, two workers; HANDOFF_THREADS is each worker's limit. "
        f"{CONNECTIONS} kept connections for {SECONDS:g} s. Memory: PSS of both workers.",
        head=("threads", "computes", "p50", "waits 10 ms", "p50", "memory"),
        rows=[
            (
                str(limit),
                *figures(limit, "/sync/"),
                *figures(limit, "/waits/"),
                f"{memory_mib[limit]:.0f} MiB",
            )
            for limit in LIMITS
        ],
        found=found,
    )


if __name__ == "__main__":
    main()
