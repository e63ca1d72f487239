"""Which path asks which question: a dictionary made once from the configuration."""

from collections.abc import Mapping
from typing import NamedTuple

from asgi_health.config import HealthConfig
from asgi_health.probes import check_names
from asgi_health.query import Kind

__all__ = ["METRICS", "PAGE", "PAGE_EVENTS", "Route", "Routes", "build_routes"]

METRICS = "metrics"
PAGE = "page"
PAGE_EVENTS = "page events"


class Route(NamedTuple):
    """What a path means: a probe's question with an optional single check, or a page."""

    kind: Kind | str
    check: str | None = None


class Routes(NamedTuple):
    """All paths of the gate.

    Args:
        exact: every path with and without its trailing slash.
        checks: what the path of a single check starts with, and the question it belongs to.
    """

    exact: Mapping[str, Route]
    checks: Mapping[str, Kind]

    def unknown_check(self, path: str) -> Route | None:
        """The route of a path below one of `checks`; None when it names no single check."""
        prefix = next(prefix for prefix in self.checks if path.startswith(prefix))
        name = path.removeprefix(prefix).removesuffix("/")
        return Route(self.checks[prefix], name) if name and "/" not in name else None


def build_routes(config: HealthConfig) -> Routes:
    """The routes of a configuration."""
    exact: dict[str, Route] = {}
    for kind, paths in (
        (Kind.LIVE, config.live_paths),
        (Kind.READY, config.ready_paths),
        (Kind.STARTUP, config.startup_paths),
    ):
        exact |= dict.fromkeys(paths, Route(kind))
    groups = ((Kind.LIVE, config.live_paths[0]), (Kind.READY, config.ready_paths[0]))
    for kind, path in groups:
        exact |= {f"{path}/{name}": Route(kind, name) for name in check_names(kind, has_fleet=True)}
    if config.status_path is not None:
        exact |= {
            config.status_path: Route(PAGE),
            config.status_path + "/events": Route(PAGE_EVENTS),
        }
    if config.metrics_path is not None:
        exact[config.metrics_path] = Route(METRICS)
    exact |= {path + "/": route for path, route in exact.items()}
    return Routes(exact=exact, checks={path + "/": kind for kind, path in groups})
