"""Paths are matched exactly, with one optional trailing slash, case-sensitively."""

import pytest

from asgi_health import HealthConfig
from asgi_health.query import Kind
from asgi_health.routes import METRICS, PAGE, PAGE_EVENTS, Route, Routes, build_routes

CONFIG = HealthConfig(
    live_paths=("/livez", "/health", "/healthz", "/api/health/live"),
    ready_paths=("/readyz", "/api/health", "/api/health/ready"),
)
ROUTES = build_routes(CONFIG)


def find(routes: Routes, path: str) -> Route | None:
    if path in routes.exact:
        return routes.exact[path]
    return routes.unknown_check(path) if path.startswith(tuple(routes.checks)) else None


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/livez", Route(Kind.LIVE)),
        ("/health", Route(Kind.LIVE)),
        ("/healthz", Route(Kind.LIVE)),
        ("/api/health/live", Route(Kind.LIVE)),
        ("/readyz", Route(Kind.READY)),
        ("/api/health", Route(Kind.READY)),
        ("/api/health/ready", Route(Kind.READY)),
        ("/startupz", Route(Kind.STARTUP)),
        ("/statusz", Route(PAGE)),
        ("/statusz/events", Route(PAGE_EVENTS)),
        ("/metrics", Route(METRICS)),
        ("/livez/loop", Route(Kind.LIVE, "loop")),
        ("/livez/boot", Route(Kind.LIVE, "boot")),
        ("/readyz/boot", Route(Kind.READY, "boot")),
        ("/readyz/accepting", Route(Kind.READY, "accepting")),
        ("/readyz/fleet", Route(Kind.READY, "fleet")),
        ("/readyz/nothing", Route(Kind.READY, "nothing")),
    ],
)
def test_a_path_of_ours_is_found_with_and_without_its_slash(
    path: str, slash: str, route: Route
) -> None:
    assert find(ROUTES, path + slash) == route


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "//livez",
        "/livez//",
        "/readyz//",
        "/livezz",
        "/Livez",
        "/LIVEZ",
        "/healthy",
        "/healthz.html",
        "/api/healthx",
        "/api/health/boot",
        "/health/boot",
        "/readyz/boot/more",
        "/readyz/a/b",
        "/startupz/boot",
        "/statusz/other",
        "/metrics/other",
        "/livez\x00",
        "http://host/livez",
        "*",
    ],
)
def test_any_other_path_belongs_to_the_application(path: str) -> None:
    assert find(ROUTES, path) is None


def test_without_a_page_its_paths_belong_to_the_application() -> None:
    routes = build_routes(HealthConfig(status_path=None))
    assert find(routes, "/statusz") is None
    assert find(routes, "/statusz/events") is None


def test_without_metrics_their_path_belongs_to_the_application() -> None:
    assert find(build_routes(HealthConfig(metrics_path=None)), "/metrics") is None
