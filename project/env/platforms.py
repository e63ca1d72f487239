"""What a hosting platform tells a process about itself, and the defaults that follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["Platform", "detect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What a host of applications sets by itself, and what follows from it."""

    name: str
    marker: str
    proxies: str
    address_header: str = ""
    request_id_header: str = "x-request-id"
    hold_s: str = "55"
    graceful_s: str = "25"
    drain_s: str = "5"


_PRIVATE: Final = "10.0.0.0/8,172.16.0.0/12,fd00::/8"
_PLATFORMS: Final = (
    Platform(
        name="Railway",
        marker="RAILWAY_",
        proxies="100.64.0.0/10",
        address_header="X-Real-IP",
        request_id_header="x-railway-request-id",
        drain_s="2",
    ),
    Platform(
        name="Heroku",
        marker="DYNO",
        proxies=_PRIVATE,
        hold_s="25",
        graceful_s="20",
        drain_s="3",
    ),
    Platform(name="Render", marker="RENDER_", proxies=_PRIVATE, drain_s="0"),
    Platform(name="Fly", marker="FLY_", proxies=_PRIVATE, address_header="Fly-Client-IP"),
)
_ANYWHERE: Final = Platform(name="", marker="", proxies="127.0.0.1,::1")


def detect(environ: Mapping[str, str]) -> Platform:
    """Return the platform whose variables are set, or the neutral one."""
    for platform in _PLATFORMS:
        if any(name.startswith(platform.marker) for name in environ):
            return platform
    return _ANYWHERE
