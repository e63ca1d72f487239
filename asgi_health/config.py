"""What a user of the package may set, validated when it is built."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asgi_health.cors import CorsPolicy
from asgi_health.environ import Table, parse_flag, read_environ
from asgi_health.errors import ConfigurationError
from asgi_health.probes import check_names
from asgi_health.query import Kind

if TYPE_CHECKING:  # the first answer needs no warm-up
    from asgi_health.warmup import Warmup

__all__ = ["TOKEN_LENGTH_MIN", "HealthConfig"]

TOKEN_LENGTH_MIN = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    """The configuration of one gate.

    Paths are matched exactly and case-sensitively, with one optional trailing slash. The first live
    and the first ready path also serve single checks, as `/readyz/{check}`.

    Args:
        live_paths: is the process alive? 200 from the first moment, 503 only when the boot has
            failed.
        ready_paths: may traffic come? 200 when a real request would succeed.
        startup_paths: has the boot finished? 200 from ready on, for ever.
        status_path: the page for people, with its event stream below `/events`; None switches it
            off.
        metrics_path: figures of the whole instance as OpenMetrics; None switches it off.
        token: whoever sends it as `Authorization: Bearer` sees details; at least 32 characters;
            None: nobody.
        details_loopback: whether a direct request from this machine sees details without a token.
        hold_s: seconds that an early request is held before it gets 503; 0 holds nothing.
        hold_limit: early requests held at once; the next one gets 503 immediately.
        boot_deadline_s: seconds after which a boot counts as failed.
        failed_linger_s: seconds that a failed process goes on answering probes before it exits with
            3.
        drain_s: seconds that a stopping process goes on accepting while readiness says draining,
            so that balancers notice; a second signal ends them.
        retry_after_s: whole seconds in `Retry-After` of each 503.
        warmup: the request to send before ready, unless the load function names one; None sends
            none.
        cors: the policy for the gate's own answers; None adds no CORS header and holds preflights
            like any request.
        handoff: for `HealthGate.for_django`: `auto`, `stock` (Django's own handler) or `force`
            (ours, also with a version of Django that it was not tested with).
        handoff_threads: for `HealthGate.for_django`: requests that may run synchronous code at the
            same time; more wait.
        release: what is running, for example a commit; shown among the details.
        title: the name of the service on the status page.

    Raises:
        ConfigurationError: a value cannot work; the sentence names it.
    """

    live_paths: tuple[str, ...] = ("/livez",)
    ready_paths: tuple[str, ...] = ("/readyz",)
    startup_paths: tuple[str, ...] = ("/startupz",)
    status_path: str | None = "/statusz"
    metrics_path: str | None = "/metrics"
    token: str | None = field(default=None, repr=False)
    details_loopback: bool = False
    hold_s: float = 55.0
    hold_limit: int = 512
    boot_deadline_s: float = 240.0
    failed_linger_s: float = 60.0
    drain_s: float = 0.0
    retry_after_s: int = 1
    warmup: "Warmup | None" = None
    cors: CorsPolicy | None = None
    handoff: str = "auto"
    handoff_threads: int = 32
    release: str | None = None
    title: str = "Service"

    def __post_init__(self) -> None:
        self._check_paths()
        self._check_numbers()
        self._check_token()
        if self.handoff not in _HANDOFFS:
            raise ConfigurationError(
                option="handoff",
                found=self.handoff,
                allowed=", ".join(_HANDOFFS),
                change="Take one of them, or leave it out.",
            )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], /, **overrides: Any) -> "HealthConfig":
        """Read the documented names (`HEALTH_TOKEN`, …) from a mapping such as `os.environ`.

        `overrides` win over the mapping. An empty value counts as absent.

        Raises:
            ConfigurationError: a value cannot be read, or cannot work.
        """
        return cls(**(read_environ(environ, _ENVIRONMENT, skip=overrides) | overrides))

    def _check_token(self) -> None:
        if self.token is None:
            return
        found = None
        if len(self.token) < TOKEN_LENGTH_MIN:
            found = f"<{len(self.token)} characters>"
        elif not all("!" <= character <= "~" for character in self.token):
            found = "<a space, a line end or a letter beyond ASCII among its characters>"
        if found is not None:
            raise ConfigurationError(
                option="token",
                found=found,
                allowed=f"at least {TOKEN_LENGTH_MIN} visible ASCII characters",
                change="Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            )

    def _check_paths(self) -> None:
        owners = self._paths_of_checks()
        for option, paths in self._paths_by_option():
            for path in paths:
                _check_path(option, path)
                if path in owners:
                    raise ConfigurationError(
                        option=option,
                        found=path,
                        allowed="paths that no other option names",
                        change=f"Remove it here or from {owners[path]}.",
                    )
                owners[path] = option
        for option in ("live_paths", "ready_paths"):
            if not getattr(self, option):
                raise ConfigurationError(
                    option=option,
                    found=(),
                    allowed="one path or more",
                    change="A platform needs it.",
                )

    def _paths_of_checks(self) -> dict[str, str]:
        """The paths of single checks, below the first live and the first ready path."""
        return {
            f"{path}/{name}": f"the single checks below {path}"
            for kind, paths in ((Kind.LIVE, self.live_paths), (Kind.READY, self.ready_paths))
            for path in paths[:1]
            for name in check_names(kind, has_fleet=True)
        }

    def _paths_by_option(self) -> list[tuple[str, tuple[str, ...]]]:
        page = () if self.status_path is None else (self.status_path, self.status_path + "/events")
        return [
            ("live_paths", self.live_paths),
            ("ready_paths", self.ready_paths),
            ("startup_paths", self.startup_paths),
            ("status_path", page),
            ("metrics_path", () if self.metrics_path is None else (self.metrics_path,)),
        ]

    def _check_numbers(self) -> None:
        for option, least in _LEAST.items():
            value = getattr(self, option)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= least):
                raise ConfigurationError(
                    option=option,
                    found=value,
                    allowed=f"a number from {least:g} on",
                    change="See HealthConfig for its unit and default.",
                )


_LEAST = {
    "hold_s": 0,
    "hold_limit": 0,
    "boot_deadline_s": 0.001,
    "failed_linger_s": 0,
    "drain_s": 0,
    "retry_after_s": 1,
    "handoff_threads": 1,
}
_HANDOFFS = ("auto", "stock", "force")


def _check_path(option: str, path: str) -> None:
    if (
        path.startswith("/")
        and len(path) > 1
        and not path.endswith("/")
        and not set(path) & set("?# %")
    ):
        return
    raise ConfigurationError(
        option=option,
        found=path,
        allowed="a path that starts with a slash and ends without one, unescaped, without query",
        change=f"Write for example '/{path.strip('/ ') or 'readyz'}'.",
    )


_ENVIRONMENT: Table = {
    "HEALTH_TOKEN": ("token", str),
    "HEALTH_DETAILS_LOOPBACK": ("details_loopback", parse_flag),
    "HOLD_S": ("hold_s", float),
    "HOLD_LIMIT": ("hold_limit", int),
    "BOOT_DEADLINE_S": ("boot_deadline_s", float),
    "FAILED_LINGER_S": ("failed_linger_s", float),
    "DRAIN_S": ("drain_s", float),
    "HANDOFF": ("handoff", str),
    "HANDOFF_THREADS": ("handoff_threads", int),
}
