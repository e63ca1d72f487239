"""For a Gunicorn configuration file: values, and the hooks that make the workers one instance."""

from asgi_health.adapters.gunicorn.hooks import Hooks
from asgi_health.adapters.gunicorn.values import (
    listen_address,
    loopback_addresses,
    trusted_proxies,
)

__all__ = ["Hooks", "listen_address", "loopback_addresses", "trusted_proxies"]
