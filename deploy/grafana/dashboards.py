"""Write Grafana's dashboards: `python deploy/grafana/dashboards.py`, into the folder of this file.

The tables below are what to edit; the JSON beside is made from them, and a test compares both.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
WIDTH, HEIGHT = 24, 8
SOURCE = {"type": "prometheus", "uid": "${source}"}
JOB = 'job="$job"'
INSTANCE = 'job="$job", instance=~"$instance"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture: queries in PromQL by their legend, a unit of Grafana's, columns of 24."""

    title: str
    about: str
    queries: dict[str, str]
    unit: str = "short"
    width: int = 12
    kind: str = "timeseries"


SERVICE = (
    Panel(
        title="Requests a second",
        about="By status class.",
        queries={
            f"{first}xx": f'sum(rate(http_requests_total{{{JOB}, status=~"{first}.."}}[5m]))'
            for first in "2345"
        },
        unit="reqps",
    ),
    Panel(
        title="Failing requests",
        about="Share of answers with 5xx. Alert: RequestsFail above 5 %.",
        queries={"failing": f"videoplanet:http_errors:ratio5m{{{JOB}}}"},
        unit="percentunit",
    ),
    Panel(
        title="Time to the last byte",
        about="Alert: RequestsSlow when the 95th percentile is above 1 s.",
        queries={
            f"p{share}": f"histogram_quantile(0.{share}, "
            f"sum by (le) (rate(http_request_duration_seconds_bucket{{{JOB}}}[5m])))"
            for share in ("50", "95", "99")
        },
        unit="s",
    ),
    Panel(
        title="Slowest routes",
        about="95th percentile of the ten slowest.",
        queries={
            "{{method}} {{route}}": "topk(10, histogram_quantile(0.95, sum by (le, method, route) "
            f"(rate(http_request_duration_seconds_bucket{{{JOB}}}[5m]))))"
        },
        unit="s",
    ),
    Panel(
        title="Busiest routes",
        about="The ten with the most requests.",
        queries={
            "{{method}} {{route}}": "topk(10, sum by (method, route) "
            f"(rate(http_requests_total{{{JOB}}}[5m])))"
        },
        unit="reqps",
    ),
    Panel(
        title="Failures by route",
        about="Answers with 5xx.",
        queries={
            "{{method}} {{route}} {{status}}": "topk(10, sum by (method, route, status) "
            f'(rate(http_requests_total{{{JOB}, status=~"5.."}}[5m])))'
        },
        unit="reqps",
    ),
)
INSTANCES = (
    Panel(
        title="Ready",
        about="Alert: InstanceNotReady after six minutes.",
        queries={"{{instance}}": f"asgi_health_ready{{{INSTANCE}}}"},
        width=6,
        kind="stat",
    ),
    Panel(
        title="Last boot",
        about="What the boot of the process that answers took.",
        queries={"{{instance}}": f"asgi_health_boot_seconds{{{INSTANCE}}}"},
        unit="s",
        width=6,
        kind="stat",
    ),
    Panel(
        title="Boot by step",
        about="Where the time of the last boot went.",
        queries={"{{step}}": f"asgi_health_boot_step_seconds{{{INSTANCE}}}"},
        unit="s",
        kind="bargauge",
    ),
    Panel(
        title="Workers by phase",
        about="Of all instances that are chosen.",
        queries={"{{phase}}": f"sum by (phase) (asgi_health_workers{{{INSTANCE}}})"},
    ),
    Panel(
        title="Workers that ended",
        about="In ten minutes, by reason. Alert: WorkersCrash.",
        queries={
            "{{instance}} {{reason}}": "sum by (instance, reason) "
            f"(increase(asgi_health_worker_restarts_total{{{INSTANCE}}}[10m]))"
        },
    ),
    Panel(
        title="Memory",
        about="Resident, of each worker. Alert: MemoryGrows.",
        queries={"{{instance}} {{worker}}": f"asgi_health_worker_rss_bytes{{{INSTANCE}}}"},
        unit="bytes",
    ),
    Panel(
        title="Lag of the event loops",
        about="How late each loop was at worst. Alert: EventLoopBlocked above 1 s.",
        queries={"{{instance}} {{worker}}": f"asgi_health_worker_loop_lag_seconds{{{INSTANCE}}}"},
        unit="s",
    ),
    Panel(
        title="Requests in flight",
        about="Of each worker.",
        queries={"{{instance}} {{worker}}": f"asgi_health_worker_requests_in_flight{{{INSTANCE}}}"},
    ),
    Panel(
        title="Early requests",
        about="Held until the boot is over, and how that ended. Alert: EarlyRequestsLost.",
        queries={
            "held now": f"sum(asgi_health_requests_held{{{INSTANCE}}})",
            "{{outcome}}": "sum by (outcome) "
            f"(increase(asgi_health_held_requests_total{{{INSTANCE}}}[10m]))",
        },
    ),
    Panel(
        title="Threads for Django",
        about="Alert: RequestsWaitForThreads.",
        queries={
            "in use": f"sum(django_handoff_threads_in_use{{{INSTANCE}}})",
            "waiting": f"sum(django_handoff_requests_waiting{{{INSTANCE}}})",
            "limit": f"sum(django_handoff_threads_limit{{{INSTANCE}}})",
        },
    ),
    Panel(
        title="Connections to the database",
        about="With PostgreSQL. Alert: RequestsWaitForTheDatabase.",
        queries={
            "open": f"sum(database_pool_connections{{{INSTANCE}}})",
            "idle": f"sum(database_pool_connections_idle{{{INSTANCE}}})",
            "waiting": f"sum(database_pool_requests_waiting{{{INSTANCE}}})",
            "limit": f"sum(database_pool_connections_limit{{{INSTANCE}}})",
        },
    ),
)
DASHBOARDS = {
    "service.json": ("videoplanet-service", "VideoPlanet: service", SERVICE),
    "instances.json": ("videoplanet-instances", "VideoPlanet: instances", INSTANCES),
}


def dashboard(uid: str, title: str, panels: tuple[Panel, ...]) -> dict[str, Any]:
    """One dashboard in Grafana's form (schema 39, Grafana 10 and later)."""
    placed, x, y = [], 0, 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > WIDTH:
            x, y = 0, y + HEIGHT
        place = {"x": x, "y": y, "w": panel.width, "h": HEIGHT}
        placed.append(_panel(number, panel, place))
        x += panel.width
    return {
        "uid": uid,
        "title": title,
        "tags": ["videoplanet"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_source(), _variable("job"), _variable("instance")]},
        "panels": placed,
    }


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend}
            | {"datasource": SOURCE, "instant": panel.kind != "timeseries"}
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}


def _variable(name: str) -> dict[str, Any]:
    of_job = '{job="$job"}' if name == "instance" else ""
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": f"label_values(asgi_health_ready{of_job}, {name})", "refId": name},
        "refresh": 2,
        "multi": name == "instance",
        "includeAll": name == "instance",
    }


def texts() -> dict[str, str]:
    """Every dashboard's JSON by the name of its file."""
    return {
        name: json.dumps(dashboard(*parts), indent=1, ensure_ascii=False) + "\n"
        for name, parts in DASHBOARDS.items()
    }


def main() -> None:
    """Write all of them."""
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
