"""How many threads to lend: requests a second, with a fixed number of them and with a paced one.

Gunicorn with two Uvicorn workers. One view says hello, one renders a page with 50 rows of the
database, one waits 10 ms as for another service.
"""

import statistics
from dataclasses import replace

from harness import options, pss_mib, publish, workers_of
from serving import FAIR, SECONDS, UVICORN, gunicorn, loaded, served, usual_site

LIMITS = (
    ("fixed", 1),
    ("fixed", 2),
    ("fixed", 8),
    ("fixed", 32),
    ("paced", 8),
    ("paced", 32),
    ("paced", 128),
)
CONNECTIONS = 64
PATHS = ("/sync/", "/people/", "/waits/")


def main() -> None:
    found = options(__doc__)
    seen: dict[tuple[tuple[str, int], str], list[float]] = {}
    memory_mib: dict[tuple[str, int], float] = {}
    with usual_site() as site:
        for number in range(found.rounds):
            for limit in LIMITS if number % 2 == 0 else reversed(LIMITS):
                kind, count = limit
                more = {"HANDOFF_THREADS": str(count)}
                more |= {"BENCH_FIXED_PACE": "1"} if kind == "fixed" else {}
                limited = replace(site, environment={**site.environment, **more})
                ways = {"ours": gunicorn("usual_servers:ours", *UVICORN)}
                with served(limited, ways, ready="/sync/") as running:
                    for path in PATHS:
                        taken = loaded(running["ours"], path, site, connections=CONNECTIONS)
                        seen.setdefault((limit, path), []).append(taken.requests_s)
                    memory_mib[limit] = pss_mib(workers_of(running["ours"].pid, count=2))

    publish(
        "bench_handoff_threads",
        title="How many threads to lend",
        how="Gunicorn, two workers, SQLite; the number is HANDOFF_THREADS, each worker's limit. "
        f"{CONNECTIONS} kept connections for {SECONDS:g} s; {FAIR}. Memory: PSS of both workers.",
        head=("threads", "hello", "page, 50 rows", "waits 10 ms", "memory"),
        rows=[
            (
                f"{kind}, {count}",
                *(f"{statistics.median(seen[(kind, count), path]):,.0f}/s" for path in PATHS),
                f"{memory_mib[kind, count]:.0f} MiB",
            )
            for kind, count in LIMITS
        ],
        found=found,
    )


if __name__ == "__main__":
    main()
