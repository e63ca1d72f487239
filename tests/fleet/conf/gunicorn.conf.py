"""What `init` writes, but for the address, in the words of the tests' environment."""

import os

from asgi_health.adapters.gunicorn import Hooks
from asgi_health.fleet.config import FleetConfig

bind = ["127.0.0.1:0"]
worker_class = os.environ.get("WORKER_CLASS", "asgi_health.adapters.uvicorn.Worker")
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
timeout = int(os.environ.get("TIMEOUT_S", "30"))
graceful_timeout = int(os.environ.get("GRACEFUL_S", "25"))
keepalive = 75
max_requests = int(os.environ.get("MAX_REQUESTS", "0"))
control_socket_disable = True
accesslog = None

hooks = Hooks(FleetConfig.from_environ(os.environ))
on_starting = hooks.on_starting
when_ready = hooks.when_ready
on_reload = hooks.on_reload
nworkers_changed = hooks.nworkers_changed
pre_fork = hooks.pre_fork
post_fork = hooks.post_fork
post_worker_init = hooks.post_worker_init
worker_exit = hooks.worker_exit
child_exit = hooks.child_exit
