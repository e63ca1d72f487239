"""Bind at once, answer health probes truthfully, load the application behind them, lose no request.

Importing this package loads nothing but this file; each public name is imported at its first use,
so that `python -m asgi_health probe` stays fast and an entry point pays only for what it names.
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers know the name; importing `typing` would cost a probe 7 ms
if TYPE_CHECKING:
    from asgi_health.boot import LoadedApp as LoadedApp
    from asgi_health.boot import Warmup as Warmup
    from asgi_health.config import HealthConfig as HealthConfig
    from asgi_health.cors import CorsPolicy as CorsPolicy
    from asgi_health.gate import HealthGate as HealthGate

__version__ = "0.1.0"

_HOME = {
    "CorsPolicy": "asgi_health.cors",
    "HealthConfig": "asgi_health.config",
    "HealthGate": "asgi_health.gate",
    "LoadedApp": "asgi_health.boot",
    "Warmup": "asgi_health.boot",
}
__all__ = ["CorsPolicy", "HealthConfig", "HealthGate", "LoadedApp", "Warmup", "__version__"]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
