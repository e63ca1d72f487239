"""The same Django project for each way of serving: stock ASGI, ours, WSGI."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "usual_settings")

import django

django.setup(set_prefix=False)

from django.core.asgi import get_asgi_application as get_stock_application  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402

from asgi_health import HealthGate  # noqa: E402
from asgi_health.adapters.django import get_asgi_application, pacing  # noqa: E402

if os.environ.get("BENCH_FIXED_PACE"):  # as many threads at once as there may be, whatever they do
    pacing._LEAST = 1_000_000  # noqa: SLF001 - for comparison only

stock = get_stock_application()
ours = get_asgi_application()
wsgi = get_wsgi_application()
gated = HealthGate("usual_servers:ours")  # the hooks of the fleet serve nothing else
