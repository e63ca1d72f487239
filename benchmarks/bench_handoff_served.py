"""Requests a second over sockets: Django under stock ASGI, under ours, and under threaded WSGI.

Gunicorn with two workers: Uvicorn's for both ASGI ones, gthread with two threads for WSGI. wrk (or
a Python client) with kept connections in another process.
"""

import statistics
from contextlib import AbstractContextManager
from functools import partial

from harness import APPS, Options, alternate, options, publish, ratio
from serving import (
    CONNECTIONS,
    FAIR,
    GTHREAD,
    SECONDS,
    UVICORN,
    Site,
    gunicorn,
    loaded,
    postgres,
    product_site,
    served,
    usual_site,
)

WAYS = {
    "stock": gunicorn("usual_servers:stock", *UVICORN),
    "ours": gunicorn("usual_servers:ours", *UVICORN),
    "wsgi": gunicorn("usual_servers:wsgi", *GTHREAD),
    "pinned": gunicorn("usual_servers:gated", *UVICORN, conf=APPS / "pinned_conf.py"),
}
TRIVIAL, REAL = "≥ 3 ×; ≥ 1.0 ×", "≥ 2 ×; ≥ 1.0 ×"
Paths = tuple[tuple[str, str, str], ...]
HELLO: Paths = (
    ("/async/", "asynchronous view", TRIVIAL),
    ("/sync/", "synchronous view", TRIVIAL),
)
PAGES: Paths = (
    ("/people/", "page with a template, 50 rows", REAL),
    ("/admin/auth/user/", "admin's list, 100 rows", REAL),
)
PING: Paths = (("/api/ping", "VideoPlanet's ping", TRIVIAL),)
LIST: Paths = (("/api/projects?page_size=50", "VideoPlanet's list of projects, 50 rows", REAL),)


def rows_of(
    made: AbstractContextManager[Site],
    paths: Paths,
    *,
    database: str,
    ready: str,
    found: Options,
) -> list[tuple[str, ...]]:
    """One row of the table for each path."""
    rows = []
    with made as site, served(site, WAYS, ready=ready) as running:
        for path, what, bar in paths:
            ways = [
                lambda server=running[name], path=path: loaded(server, path, site).requests_s
                for name in WAYS
            ]
            stock, ours, wsgi, pinned = alternate(found.rounds, ways)
            rows.append(
                (
                    what,
                    database,
                    *(
                        f"{statistics.median(values):,.0f}/s"
                        for values in (stock, ours, wsgi, pinned)
                    ),
                    f"{ratio(ours, stock):.1f} ×",
                    f"{ratio(ours, wsgi):.2f} ×",
                    f"{ratio(pinned, stock):.1f} ×",
                    f"{ratio(pinned, wsgi):.2f} ×",
                    bar,
                )
            )
    return rows


def main() -> None:
    found = options(__doc__)
    usual = partial(rows_of, ready="/sync/", found=found)
    product = partial(rows_of, ready="/api/ping", found=found)
    with postgres() as server:
        rows = [
            *usual(usual_site(), HELLO, database=""),
            *product(product_site(), PING, database=""),
            *usual(usual_site(), PAGES, database="SQLite"),
            *usual(usual_site(server), PAGES, database="PostgreSQL, kept connections"),
            *product(product_site(), LIST, database="SQLite"),
            *product(product_site(server), LIST, database="PostgreSQL, pool"),
        ]
    publish(
        "bench_handoff_served",
        title="Hand-off, served",
        how="Gunicorn, two workers each; WSGI: gthread with two threads a worker. The same "
        "settings for all three; the database runs on the same cores. "
        "Pinned: ours with the gate, the fleet and PIN_WORKERS=1. "
        f"{CONNECTIONS} kept connections for {SECONDS:g} s; {FAIR}.",
        head=(
            "request",
            "database",
            "stock ASGI",
            "ours",
            "gthread WSGI",
            "pinned",
            "over stock",
            "over WSGI",
            "pinned over stock",
            "pinned over WSGI",
            "bar",
        ),
        rows=rows,
        found=found,
    )


if __name__ == "__main__":
    main()
