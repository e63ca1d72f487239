"""The rules, routes and dashboards in deploy/ are valid, and know the metrics that there are."""

import json
import re
import runpy
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from project.env import ROOT
from tests.servers.harness import until

DEPLOY = ROOT / "deploy"
OF_ALL_INSTANCES = ("RequestsFail", "RequestsSlow")
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARDS = runpy.run_path(str(DEPLOY / "grafana" / "dashboards.py"))
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)
needs_amtool = pytest.mark.skipif(
    shutil.which("amtool") is None,
    reason="amtool is not installed (Debian: prometheus-alertmanager)",
)


def output_of(*command: str) -> str:
    """What a tool says that is content with what it sees."""
    made = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout


@needs_promtool
def test_prometheus_takes_its_configuration_and_rules() -> None:
    output_of("promtool", "check", "config", "--syntax-only", "deploy/prometheus/prometheus.yml")
    assert "rules found" in output_of("promtool", "check", "rules", str(RULES))


@needs_promtool
def test_each_alert_comes_when_it_should_and_not_before() -> None:
    assert "SUCCESS" in output_of("promtool", "test", "rules", "deploy/prometheus/rules.test.yml")


@needs_amtool
def test_alertmanager_takes_its_configuration() -> None:
    output_of("amtool", "check-config", "deploy/alertmanager/alertmanager.yml")


@needs_amtool
@pytest.mark.parametrize(("severity", "receiver"), [("page", "pager"), ("ticket", "tickets")])
def test_what_pages_and_what_can_wait_go_to_different_places(severity: str, receiver: str) -> None:
    routes = ("amtool", "config", "routes", "test")
    file = "--config.file=deploy/alertmanager/alertmanager.yml"
    assert output_of(*routes, file, f"severity={severity}").strip() == receiver


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[str]:
    """The address of one that has our configuration."""
    program = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if program is None:
        pytest.skip("there is no Alertmanager (Debian: prometheus-alertmanager)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            program,
            f"--config.file={DEPLOY / 'alertmanager' / 'alertmanager.yml'}",
            f"--storage.path={tmp_path}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    until(lambda: asked(f"{address}/api/v2/status"), "Alertmanager")
    yield address
    process.terminate()
    process.wait(30)


def asked(address: str, told: Any = None) -> Any:
    """What Alertmanager answers; None while it starts."""
    body = None if told is None else json.dumps(told).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or "true")
    except URLError:
        return None


def silenced(address: str, *firing: str) -> set[str]:
    """Which of these alerts are told to nobody; each as `name` or `name@instance`."""
    told = []
    for alert in firing:
        name, _, instance = alert.partition("@")
        labels = {"alertname": name, "job": "videoplanet", "severity": "page"}
        told.append({"labels": labels | ({"instance": instance} if instance else {})})
    assert asked(f"{address}/api/v2/alerts", told)

    def found() -> list[dict[str, Any]] | None:
        known: list[dict[str, Any]] = asked(f"{address}/api/v2/alerts")
        return known if len(known) == len(firing) else None

    return {
        "@".join(
            alert["labels"][key] for key in ("alertname", "instance") if key in alert["labels"]
        )
        for alert in until(found, "all alerts")
        if alert["status"]["inhibitedBy"]
    }


def test_an_instance_that_is_down_silences_its_own_alerts_and_no_other(alertmanager: str) -> None:
    others = [alert for alert in alerts() if alert not in {"InstanceDown", *OF_ALL_INSTANCES}]
    firing = [f"{alert}@{instance}" for alert in others for instance in ("a:8000", "b:8000")]
    quiet = silenced(alertmanager, "InstanceDown@a:8000", *firing, *OF_ALL_INSTANCES)
    # WorkersCrash silences InstanceNotReady, of b as well.
    assert quiet == {f"{alert}@a:8000" for alert in others} | {"InstanceNotReady@b:8000"}


def test_the_alerts_of_all_instances_have_no_instance_and_the_others_have() -> None:
    """As promtool compares them: Alertmanager looks at this label."""
    tests = (DEPLOY / "prometheus" / "rules.test.yml").read_text()
    for alert in alerts():
        told = re.findall(rf"alertname: {alert}\n +exp_alerts:\n +- exp_labels: (.*)", tests)
        assert told
        assert all(("instance:" in labels) is (alert not in OF_ALL_INSTANCES) for labels in told)


def alerts() -> list[str]:
    return re.findall(r"- alert: (\w+)", RULES.read_text())


def test_each_alert_is_tested_and_has_a_section_in_the_runbook() -> None:
    tests = (DEPLOY / "prometheus" / "rules.test.yml").read_text()
    runbook = (ROOT / "docs" / "runbook.md").read_text()

    assert len(alerts()) >= 10
    for alert in alerts():
        assert f"alertname: {alert}\n        exp_alerts" in tests
        assert f"{{eval_time: 100m, alertname: {alert}}}" in tests
        assert f"docs/runbook.md#{alert.lower()}\n" in RULES.read_text()
        assert f"\n## {alert}\n" in runbook
    assert re.findall(r"^## (\w+)$", runbook, re.MULTILINE) == alerts()


def test_the_dashboards_are_those_of_the_script() -> None:
    made = DASHBOARDS["texts"]()
    assert set(made) == {path.name for path in (DEPLOY / "grafana").glob("*.json")}
    for name, text in made.items():
        assert (DEPLOY / "grafana" / name).read_text(encoding="utf-8") == text


def unknown_keys(given: Any, kept: Any, place: str = "") -> Iterator[str]:
    """What of the first is missing or another in the second."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            yield from unknown_keys(value, kept.get(key), f"{place}.{key}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, pair in enumerate(zip(given, kept, strict=True)):
            yield from unknown_keys(*pair, f"{place}[{number}]")
    elif given != kept:
        yield place


def through_the_model(dashboard: dict[str, Any]) -> Any:
    """What Grafana's own model keeps of it."""
    register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))


def test_grafana_knows_each_key_of_the_dashboards() -> None:
    for text in DASHBOARDS["texts"]().values():
        made = json.loads(text)
        assert list(unknown_keys(made, through_the_model(made))) == []


def test_a_key_that_grafana_does_not_know_is_noticed() -> None:
    made = json.loads(next(iter(DASHBOARDS["texts"]().values())))
    made["panels"][0]["fieldConfig"]["defaults"]["units"] = "s"

    assert list(unknown_keys(made, through_the_model(made))) == [
        ".panels[0].fieldConfig.defaults.units"
    ]


def panels() -> Iterator[dict[str, Any]]:
    for text in DASHBOARDS["texts"]().values():
        yield from json.loads(text)["panels"]


def test_no_panel_lies_over_another_and_each_has_something_to_show() -> None:
    for text in DASHBOARDS["texts"]().values():
        covered: set[tuple[int, int]] = set()
        for panel in json.loads(text)["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & covered
            assert max(x for x, _ in cells) < 24
            covered |= cells
            assert panel["targets"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


@needs_promtool
def test_prometheus_understands_every_query_of_the_dashboards(tmp_path) -> None:
    rules = [
        {"record": f"dashboards:{number}", "expr": expression}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    output_of("promtool", "check", "rules", str(file))


def metrics_in(text: str) -> set[str]:
    prefixes = "http_request|asgi_health_|django_handoff_|database_pool_"
    return set(re.findall(rf"(?<![\w:])(?:{prefixes})\w+", text))


def test_rules_and_dashboards_ask_only_for_metrics_that_are_documented() -> None:
    """And what is documented is told: see test_metrics_served.py, test_product_postgres.py."""
    documented = metrics_in((ROOT / "docs" / "operations.md").read_text())
    asked = set().union(*map(metrics_in, [RULES.read_text(), *expressions()]))

    assert asked
    assert {re.sub(r"_(bucket|total)$", "", name) for name in asked} - {
        re.sub(r"_total$", "", name) for name in documented
    } == set()
