"""Gunicorn's configuration: values only, all of them from `project.env`.

Gunicorn reads this file by itself when it starts in this folder. Options on its command line win.
"""

from asgi_health.adapters.gunicorn import listen_address, loopback_addresses, trusted_proxies
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
