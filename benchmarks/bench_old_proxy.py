"""Requests a second and median latency: ours, against a proxy in front of threaded WSGI.

The layout that this replaces: an aiohttp proxy that opens a client session for every request, and
behind it Gunicorn with two gthread workers of two threads. Ours: Gunicorn with two Uvicorn workers.
"""

import statistics

from harness import alternate, options, publish, ratio
from serving import (
    CONNECTIONS,
    FAIR,
    GTHREAD,
    SECONDS,
    UVICORN,
    gunicorn,
    loaded,
    served,
    usual_site,
)

WAYS = {
    "ours": gunicorn("usual_servers:ours", *UVICORN),
    "behind": gunicorn("usual_servers:wsgi", *GTHREAD),
    "old": ("old_proxy", "{port}", "{port_of[behind]}"),
}
PATHS = (
    ("/sync/", "synchronous view"),
    ("/people/", "page with a template, 50 rows"),
)


def main() -> None:
    found = options(__doc__)
    rows = []
    with usual_site() as site, served(site, WAYS, ready="/sync/") as running:
        for path, what in PATHS:
            latencies: dict[str, list[float]] = {"ours": [], "old": []}

            def run(name: str, path: str = path, kept: dict = latencies) -> float:
                seen = loaded(running[name], path, site)
                if seen.p50_ms is not None:
                    kept[name].append(seen.p50_ms)
                return seen.requests_s

            ours, old = alternate(found.rounds, [lambda: run("ours"), lambda: run("old")])
            rows.append(
                (
                    what,
                    *(f"{statistics.median(values):,.0f}/s" for values in (old, ours)),
                    f"{ratio(ours, old):.1f} ×",
                    *(
                        f"{statistics.median(latencies[name][1:]):.1f} ms"
                        if latencies[name]
                        else ""
                        for name in ("old", "ours")
                    ),
                    "≥ 2 ×; p50 lower",
                )
            )
    publish(
        "bench_old_proxy",
        title="Against the proxied layout",
        how="Old: an aiohttp proxy with a client session a request, in front of Gunicorn's "
        "gthread, two workers with two threads. Ours: two Uvicorn workers, no proxy. "
        f"{CONNECTIONS} kept connections for {SECONDS:g} s; {FAIR}.",
        head=("request", "old", "ours", "over old", "p50 old", "p50 ours", "bar"),
        rows=rows,
        found=found,
    )


if __name__ == "__main__":
    main()
