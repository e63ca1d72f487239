"""Metrics while the workers' master loads: the process that answers meanwhile tells them."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.servers.harness import Loads, Server, until
from tests.servers.metrics_side import scraped

HELD = 'asgi_health_held_requests_total{{outcome="{}"}}'


def phase(told: dict[str, float]) -> str:
    (name,) = [name for name in told if name.startswith("asgi_health_phase{") and told[name]]
    return name.split('"')[1]


@pytest.mark.parametrize("warm", ["1", "0"])
def test_a_scrape_while_loading_tells_how_far_it_is(fleet, loads: Loads, warm: str) -> None:
    server: Server = fleet(env={"WARM_BOOT": warm})
    imports = [loads.next() for _ in range(1 if warm == "1" else 2)]
    told = scraped(server)
    assert (phase(told), told["asgi_health_ready"]) == ("loading", 0)
    assert told["asgi_health_boot_seconds"] > 0
    assert told['asgi_health_boot_step_seconds{step="import"}'] >= 0
    assert told['asgi_health_workers{phase="ready"}'] == 0
    for load in imports:
        load.release()
    server.wait_ready()
    told = scraped(server)
    assert (phase(told), told["asgi_health_ready"]) == ("ready", 1)
    assert told['asgi_health_workers{phase="ready"}'] == 2


def test_a_failed_load_is_told(fleet, loads: Loads) -> None:
    server: Server = fleet(env={"FAILED_LINGER_S": "30"})
    loads.next().order("raise no")
    until(lambda: phase(scraped(server)) == "failed", "the failure")
    assert scraped(server)["asgi_health_ready"] == 0


def test_a_draining_instance_is_told_of(fleet, loads: Loads) -> None:
    server: Server = fleet(env={"DRAIN_S": "30"})
    loads.release()
    server.wait_ready()
    server.tell(signal.SIGTERM)
    until(lambda: phase(scraped(server)) == "draining", "the drain")
    assert scraped(server)["asgi_health_ready"] == 0


def test_what_was_held_while_loading_is_counted_on_by_the_workers(fleet, loads: Loads) -> None:
    server: Server = fleet(env={"HOLD_LIMIT": "2"})
    load = loads.next()
    with ThreadPoolExecutor(3) as pool:
        held = [pool.submit(server.ask, "/hello") for _ in range(2)]
        until(lambda: scraped(server)["asgi_health_requests_held"] == 2, "two held requests")
        assert server.ask("/hello").status == 503
        assert scraped(server)[HELD.format("refused")] == 1
        load.release()
        assert [one.result().status for one in held] == [200, 200]
    server.wait_ready()
    for _ in range(8):  # whichever worker answers
        told = scraped(server)
        assert told["asgi_health_requests_held"] == 0
        assert told[HELD.format("refused")] == 1
        assert told[HELD.format("settled")] <= 2
