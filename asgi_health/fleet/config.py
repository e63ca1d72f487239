"""What may be set about the workers of one instance, validated when it is built."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from asgi_health.environ import Table, parse_flag, read_environ
from asgi_health.errors import ConfigurationError

__all__ = ["FleetConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """The configuration of one server and its workers.

    Args:
        warm_boot: load once before the workers are forked; otherwise each worker loads.
        drain_s: seconds that a stopping server goes on accepting while readiness says draining, so
            that balancers notice; a second signal ends them.
        ready_workers_min: workers that must be ready before the instance is.
        crash_window_s: seconds; a worker that dies within them of its start makes the next one
            wait, and deaths are counted in them.
        crash_limit: deaths within the window from which on readiness says `fleet.crash_loop`; 2 or
            more.
        on_crash_loop: go on serving with the workers that are left, or exit the server.
        worker_rss_limit_mib: a worker that occupies more memory is replaced; 0 sets no limit.
        loop_lag_warn_s: seconds that an event loop may be blocked before its stack is logged; 0
            never logs it.

        pin_workers: keep each worker on one core, Linux only. For a machine whose cores are the
            server's alone: beside other programs, the kernel finds a better place.

    Raises:
        ConfigurationError: a value cannot work; the sentence names it.
    """

    warm_boot: bool = True
    drain_s: float = 0.0
    ready_workers_min: int = 1
    crash_window_s: float = 60.0
    crash_limit: int = 5
    on_crash_loop: Literal["serve", "exit"] = "serve"
    worker_rss_limit_mib: int = 0
    loop_lag_warn_s: float = 1.0
    pin_workers: bool = False

    def __post_init__(self) -> None:
        for option, least in _WHOLE_FROM.items():
            value = getattr(self, option)
            if not (isinstance(value, int) and value >= least):
                raise _refusal(option, value, f"a whole number from {least} on")
        for option in ("drain_s", "loop_lag_warn_s"):
            value = getattr(self, option)
            if not (_is_finite(value) and value >= 0):
                raise _refusal(option, value, "a number from 0 on")
        if not (_is_finite(self.crash_window_s) and self.crash_window_s > 0):
            raise _refusal("crash_window_s", self.crash_window_s, "a number above 0")
        if self.on_crash_loop not in {"serve", "exit"}:
            raise _refusal("on_crash_loop", self.on_crash_loop, "serve or exit")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], /, **overrides: Any) -> "FleetConfig":
        """Read the documented names (`WARM_BOOT`, …) from a mapping such as `os.environ`.

        `overrides` win over the mapping. An empty value counts as absent.

        Raises:
            ConfigurationError: a value cannot be read, or cannot work.
        """
        return cls(**(read_environ(environ, _ENVIRONMENT, skip=overrides) | overrides))


_WHOLE_FROM = {"ready_workers_min": 1, "crash_limit": 2, "worker_rss_limit_mib": 0}

_ENVIRONMENT: Table = {
    "WARM_BOOT": ("warm_boot", parse_flag),
    "DRAIN_S": ("drain_s", float),
    "READY_WORKERS_MIN": ("ready_workers_min", int),
    "CRASH_WINDOW_S": ("crash_window_s", float),
    "CRASH_LIMIT": ("crash_limit", int),
    "ON_CRASH_LOOP": ("on_crash_loop", str),
    "WORKER_RSS_LIMIT_MIB": ("worker_rss_limit_mib", int),
    "LOOP_LAG_WARN_S": ("loop_lag_warn_s", float),
    "PIN_WORKERS": ("pin_workers", parse_flag),
}


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _refusal(option: str, found: object, allowed: str) -> ConfigurationError:
    return ConfigurationError(
        option=option,
        found=found,
        allowed=allowed,
        change="See FleetConfig for its unit and default.",
    )
