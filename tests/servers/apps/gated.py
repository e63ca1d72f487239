"""The gate in front of an application, configured by the test's environment."""

import os

from asgi_health import CorsPolicy, HealthConfig, HealthGate

_ORIGIN = os.environ.get("CORS_ORIGIN")

app = HealthGate(
    os.environ.get("TARGET", "slow:app"),
    config=HealthConfig.from_environ(
        os.environ,
        live_paths=("/livez", "/health", "/healthz", "/api/health/live"),
        ready_paths=("/readyz", "/api/health", "/api/health/ready"),
        cors=None if _ORIGIN is None else CorsPolicy(origins=(_ORIGIN,)),
    ),
)
