"""The entry point of every server: `project.asgi:app`.

Nothing slow may be imported here, directly or indirectly: the gate answers probes while it loads
Django behind them. A test compares the imported modules with an allow-list.
"""

from asgi_health import HealthConfig, HealthGate
from project import logs
from project.cors import cors_policy
from project.env import current

__all__ = ["app"]

_env = current()
logs.configure(_env)

app = HealthGate(
    "project.django_app:load",
    config=HealthConfig(
        live_paths=("/livez", "/health", "/healthz", "/api/health/live"),
        ready_paths=("/readyz", "/api/health", "/api/health/ready"),
        startup_paths=("/startupz",),
        status_path="/statusz",
        metrics_path="/metrics",
        token=_env.health_token,
        details_loopback=_env.health_details_loopback,
        hold_s=_env.hold_s,
        hold_limit=_env.hold_limit,
        boot_deadline_s=_env.boot_deadline_s,
        failed_linger_s=_env.failed_linger_s,
        drain_s=_env.drain_s,
        cors=cors_policy(_env),
        release=_env.release,
        title="VideoPlanet",
    ),
)
