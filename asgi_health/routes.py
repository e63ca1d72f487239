"""Which path asks which question: a dictionary made once from the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass

from asgi_health.config import HealthConfig
from asgi_health.probes import check_names
from asgi_health.query import Kind

__all__ = ["PAGE", "PAGE_EVENTS", "Route", "Routes", "build_routes"]

PAGE = "page"
PAGE_EVENTS = "page events"


@dataclass(frozen=True, slots=True)
class Route:
    """What a path means: a probe's question with an optional single check, or the status page."""

    kind: Kind | str
    check: str | None = None


@dataclass(frozen=True, slots=True)
class Routes:
    """All paths of the gate.

    Args:
        exact: every path with and without its trailing slash.
        check_prefixes: what the path of a single check starts with; an unknown name below it is
            answered 404.
    """

    exact: Mapping[str, Route]
    check_prefixes: tuple[str, ...]

    def find(self, path: str) -> Route | None:
        """The meaning of a path; None when it belongs to the application."""
        route = self.exact.get(path)
        if route is None and path.startswith(self.check_prefixes):
            return self._unknown_check(path)
        return route

    def _unknown_check(self, path: str) -> Route | None:
        parent, _, name = path.removesuffix("/").rpartition("/")
        owner = self.exact.get(parent)
        return (
            None
            if owner is None or not isinstance(owner.kind, Kind) or owner.check
            else Route(owner.kind, name)
        )


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
    exact |= {path + "/": route for path, route in exact.items()}
    return Routes(exact=exact, check_prefixes=tuple(path + "/" for _, path in groups))
