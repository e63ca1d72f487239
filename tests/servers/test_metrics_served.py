"""One scrape tells of all workers, and no count falls when one of them is killed."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.servers.conftest import Run
from tests.servers.harness import ROOT, Server, until
from tests.servers.metrics_side import PRODUCT, STARTS, WORKERS, Pings, pings_told, scraped

pytest.importorskip("django")
pytest.importorskip("prometheus_client")

CLIENTS = 6
ALONE = {"WEB_CONCURRENCY": "1", "READY_WORKERS_MIN": "1"}
READY = 'asgi_health_workers{phase="ready"}'


@pytest.fixture(params=STARTS.values(), ids=STARTS.keys())
def server(request: pytest.FixtureRequest, run: Run) -> Server:
    arguments, env = request.param
    made = run(arguments, env=PRODUCT | env, directory=ROOT, workers=WORKERS)
    made.wait_ready()
    return made


@pytest.fixture
def fleet(run: Run) -> Server:
    made = run(STARTS["gunicorn, one load"][0], env=PRODUCT, directory=ROOT, workers=WORKERS)
    made.wait_ready()
    return made


def pids(server: Server) -> list[int]:
    workers = server.ask("/statusz?format=json").json["workers"]
    return sorted(worker["pid"] for worker in workers if worker["phase"] == "ready")


def kill_one(server: Server) -> None:
    """Kill a worker, and wait until another has its place."""
    old = pids(server)
    os.kill(old[0], signal.SIGKILL)
    until(
        lambda: len(now := pids(server)) == WORKERS and old[0] not in now,
        f"a new worker; the log:\n{server.log}",
    )


def files(folder: Path) -> list[Path]:
    return [*folder.glob("asgi-health-*.metrics/*.db")]


def test_one_scrape_has_the_requests_of_all_workers(server: Server, tmp_path: Path) -> None:
    until(lambda: len(pids(server)) == WORKERS, "all workers")
    asked = 0

    def both_have_counted() -> bool:
        nonlocal asked
        assert server.ask("/api/ping").status == 200
        asked += 1
        return len([path for path in files(tmp_path) if path.name.startswith("counter")]) == WORKERS

    until(both_have_counted, "requests at both workers")
    until(lambda: pings_told(server) == asked, f"{asked} requests")
    for _ in range(4 * WORKERS):  # whichever worker answers
        told = scraped(server)
        assert pings_told(server) == asked
        assert told[READY] == WORKERS
    assert told["asgi_health_ready"] == 1
    assert told["django_handoff_threads_limit"] == 32 * WORKERS
    assert told['asgi_health_worker_rss_bytes{worker="0"}'] > 1_000_000
    assert told['asgi_health_worker_rss_bytes{worker="1"}'] > 1_000_000


def test_what_is_documented_is_told(fleet: Server) -> None:
    """All of it but the pools of PostgreSQL: for them see test_product_postgres.py."""
    assert fleet.ask("/api/ping").status == 200
    text = (ROOT / "docs" / "operations.md").read_text()
    table = text.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`((?:asgi_health|http|django)_\w+)`", table))

    def untold() -> set[str]:
        told = {re.sub(r"(_bucket)?({.*)?$", "", name) for name in scraped(fleet)}
        return documented - told

    assert len(documented) >= 15
    until(lambda: untold() == set(), "the figures of a worker")


def test_no_count_falls_while_workers_are_killed_under_load(server: Server, tmp_path: Path) -> None:
    kills, seen = 3, [scraped(server)]
    with Pings(server, clients=CLIENTS) as pings:
        for _ in range(kills):
            before = sum(pings.answered)
            until(lambda: sum(pings.answered) > before + 50, "load")  # noqa: B023 - used at once
            seen.append(scraped(server))
            kill_one(server)
            seen.append(scraped(server))
    answered = sum(pings.answered)
    # Of each client one request may have been in flight at each death, answered or not.
    uncertain = CLIENTS * kills + sum(pings.lost)
    until(lambda: abs(pings_told(server) - answered) <= uncertain, f"about {answered} requests")
    seen.append(scraped(server))
    for earlier, later in pairwise(seen):
        fallen = {
            name: (value, later.get(name))
            for name, value in earlier.items()
            if "_total" in name or "_count" in name or "_bucket" in name
            if later.get(name, -1) < value
        }
        assert fallen == {}
    assert len(files(tmp_path)) <= 3 * WORKERS + 2


def test_a_cleaner_of_the_temporary_folder_stops_no_counting(
    server: Server, tmp_path: Path
) -> None:
    until(lambda: len(pids(server)) == WORKERS, "all workers")
    for goal in (20, 40):
        for _ in range(20):
            assert server.ask("/api/ping").status == 200
        until(lambda: pings_told(server) == goal, f"{goal} requests")  # noqa: B023 - used at once
        [folder] = {path.parent for path in files(tmp_path)}
        shutil.rmtree(folder)
        until(lambda: pings_told(server) == goal, "what was counted before")  # noqa: B023
        assert scraped(server)["asgi_health_scrape_errors_total"] == 0
    threads = "django_handoff_threads_limit"
    until(lambda: scraped(server).get(threads) == 32 * WORKERS, "the figures of all workers")
    assert 2 <= server.log.count("somebody has cleared") <= 2 * WORKERS


def test_the_files_go_with_the_server(server: Server, tmp_path: Path) -> None:
    assert server.ask("/api/ping").status == 200
    assert files(tmp_path)
    server.tell(signal.SIGTERM)
    server.wait_ended()
    assert list(tmp_path.glob("asgi-health-*")) == []


def test_one_process_alone_counts_as_well_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    arguments = ("uvicorn", "project.asgi:app", "--port", "0")
    server = run(arguments, env=PRODUCT | ALONE, directory=ROOT)
    server.wait_ready()
    for _ in range(3):
        assert server.ask("/api/ping").status == 200
    until(lambda: pings_told(server) == 3, "three requests")
    assert scraped(server)[READY] == 1
    server.tell(signal.SIGTERM)
    server.wait_ended()
    assert list(tmp_path.glob("asgi-health-*")) == []


def test_restarts_are_told_by_reason_by_every_worker(fleet: Server) -> None:
    kill_one(fleet)
    for _ in range(4 * WORKERS):
        assert scraped(fleet)['asgi_health_worker_restarts_total{reason="killed"}'] == 1


def test_metrics_leave_nothing_in_the_master_that_workers_would_share(fleet: Server) -> None:
    assert "the load left" not in fleet.log


def test_metrics_are_for_the_authorised(run: Run) -> None:
    token = "t" * 40
    env = PRODUCT | {"HEALTH_TOKEN": token, "HEALTH_DETAILS_LOOPBACK": "0"}
    server = run(STARTS["gunicorn, one load"][0], env=env, directory=ROOT, workers=WORKERS)
    server.wait_ready()
    assert server.ask("/metrics").status == 401
    known = server.ask("/metrics", headers={"Authorization": f"Bearer {token}"})
    assert (known.status, known.headers["cache-control"]) == (200, "no-store")


def test_a_folder_that_cannot_be_written_costs_the_figures_and_no_request(
    run: Run, tmp_path: Path
) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("no folder")
    env = PRODUCT | {"PROMETHEUS_MULTIPROC_DIR": str(nowhere)}
    server = run(STARTS["gunicorn, one load"][0], env=env, directory=ROOT, workers=WORKERS)
    server.wait_ready()
    assert server.ask("/api/ping").status == 200
    told = scraped(server)
    assert told["asgi_health_scrape_errors_total"] == 1
    assert pings_told(server) == 0
    assert "requests are not counted" in server.log


# A real Prometheus.


@pytest.fixture
def query(fleet: Server, tmp_path: Path) -> Iterator[Callable[[str], list[float]]]:
    """Ask a Prometheus that scrapes the fleet."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("there is no program `prometheus` (Debian's package has that name)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(
        "scrape_configs:\n"
        "- job_name: product\n"
        "  scrape_interval: 200ms\n"
        "  scrape_timeout: 200ms\n"
        f"  static_configs: [{{targets: ['localhost:{fleet.port}']}}]\n"
    )
    process = subprocess.Popen(
        [
            program,
            f"--config.file={configuration}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def ask(expression: str) -> list[float]:
        address = f"http://127.0.0.1:{port}/api/v1/query?"
        address += urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                found: Any = json.load(answer)
        except OSError:  # it starts
            return []
        return [float(one["value"][1]) for one in found["data"]["result"]]

    yield ask
    process.terminate()
    process.wait(30)


def test_prometheus_sees_one_counter_that_only_rises(
    fleet: Server, query: Callable[[str], list[float]]
) -> None:
    name = 'http_requests_total{route="/api/ping"}'

    def ping(count: int) -> None:
        for _ in range(count):
            assert fleet.ask("/api/ping").status == 200

    ping(20)
    until(lambda: query(name) == [20.0], "Prometheus to see 20 requests", pause_s=0.1)
    kill_one(fleet)
    ping(20)
    until(lambda: query(name) == [40.0], "Prometheus to see 40 requests", pause_s=0.1)
    assert query(f"resets({name}[5m])") == [0.0]
    assert query("up") == [1.0]
    assert query('asgi_health_workers{phase="ready"}') == [WORKERS]
    assert query('asgi_health_worker_restarts_total{reason="killed"}') == [1.0]
    quantile = "histogram_quantile(0.5, http_request_duration_seconds_bucket{route='/api/ping'})"
    assert 0 < query(quantile)[0] < 10
