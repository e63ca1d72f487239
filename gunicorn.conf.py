"""Gunicorn's configuration: values from `project.env`, and the hooks of the fleet.

Gunicorn reads this file by itself when it starts in this folder. Options on its command line win.
"""

from asgi_health.adapters.gunicorn import (
    Hooks,
    listen_address,
    loopback_addresses,
    trusted_proxies,
)
from asgi_health.fleet.config import FleetConfig
from project.env import current
from project.logs import gunicorn_config

_env = current()

# Debug pages are for this machine only, whatever Host a neighbour sends.
bind = loopback_addresses(_env.port) if _env.debug else listen_address(_env.port)
workers = _env.web_concurrency
worker_class = "asgi_health.adapters.uvicorn.Worker"
# Routers keep idle connections for up to 60 s: ours must live longer, or they meet a closed one.
keepalive = 75
graceful_timeout = _env.graceful_s
# Listening on [::], the server sees an IPv4 peer as ::ffff:a.b.c.d: both spellings are trusted.
forwarded_allow_ips = trusted_proxies(",".join(_env.forwarded_allow_ips))
logconfig_dict = gunicorn_config(_env)
# A runtime control channel in the home folder, shared by every server of the user: not wanted.
control_socket_disable = True

hooks = Hooks(
    FleetConfig(
        warm_boot=_env.warm_boot,
        drain_s=_env.drain_s,
        ready_workers_min=_env.ready_workers_min,
        crash_window_s=_env.crash_window_s,
        crash_limit=_env.crash_limit,
        on_crash_loop=_env.on_crash_loop,
        worker_rss_limit_mib=_env.worker_rss_limit_mib,
        loop_lag_warn_s=_env.loop_lag_warn_s,
        pin_workers=_env.pin_workers,
    )
)
on_starting = hooks.on_starting
when_ready = hooks.when_ready
on_reload = hooks.on_reload
nworkers_changed = hooks.nworkers_changed
pre_fork = hooks.pre_fork
post_fork = hooks.post_fork
post_worker_init = hooks.post_worker_init
worker_exit = hooks.worker_exit
child_exit = hooks.child_exit
