"""The slow half: Django, loaded behind the gate while it answers probes."""

from functools import partial

from asgi_health import LoadedApp
from asgi_health.adapters.django.loader import (
    close_connections,
    handoff_details,
    load_django,
    warmup_for,
)
from asgi_health.adapters.prometheus import Multiprocess
from asgi_health.boot import step
from project.access_log import AccessLog
from project.edge import Edge
from project.env import current
from project.metrics import RequestMetrics
from project.peers import Peers
from project.security_headers import security_headers
from project.tracing import import_tracing, is_wanted, trace_worker
from project.worker_figures import worker_figures
from project.worker_life import WorkerLife

__all__ = ["load"]


def load() -> LoadedApp:
    """Build the application that users reach.

    Raises:
        InvalidEnvironment: before anything of Django is imported, with every problem.
        Exception: whatever the settings, an app, the URLconf or a middleware raises.
    """
    with step("environment"):
        current().check()
    env = current()
    trace = None
    if is_wanted(env):
        with step("traces"):
            trace = import_tracing(env)
    django = load_django("project.settings", handoff=env.handoff, threads=env.handoff_threads)
    with step("static files"):
        from project.static_files import ROUTES, with_static_files  # noqa: PLC0415 - needs Django's settings

        served = with_static_files(django)
    with step("metrics"):
        shared = Multiprocess()
        requests = RequestMetrics(shared)
    edge = Edge(
        served,
        peers=Peers(
            env.forwarded_allow_ips,
            address_header=env.client_address_header,
            id_header=env.request_id_header,
        ),
        access_log=AccessLog(lines_per_s=env.access_log_lines_per_s),
        observe=requests.observe,
        trace=trace,
        headers=security_headers(env),
        folders=ROUTES,
    )
    # The ping passes every middleware and needs no dependency.
    warmup = warmup_for("/api/ping", statuses=frozenset({200}))
    details = handoff_details(django)
    # The first to begin is the last to end: what the others do at their end is traced.
    tracing = [partial(trace_worker, env)] if is_wanted(env) else []
    return LoadedApp(
        WorkerLife(edge, [*tracing, worker_figures(shared, details)]),
        warmup=warmup,
        websocket=False,  # Django's handler has none
        before_fork=close_connections,
        details=details,
        metrics=shared.expose,
    )
