"""Gunicorn's configuration: the hooks of the fleet, with each worker on a core of its own."""

from asgi_health.adapters.gunicorn import Hooks
from asgi_health.fleet.config import FleetConfig

hooks = Hooks(FleetConfig(pin_workers=True))
on_starting = hooks.on_starting
when_ready = hooks.when_ready
pre_fork = hooks.pre_fork
post_fork = hooks.post_fork
post_worker_init = hooks.post_worker_init
worker_exit = hooks.worker_exit
child_exit = hooks.child_exit
control_socket_disable = True
