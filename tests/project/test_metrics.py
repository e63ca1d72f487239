"""Requests are counted by method, route and status; a worker tells what it has in use."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from asgi_health.adapters.django.pools import pool_figures
from project.env import ROOT

SCRIPT = """
import sys
from asgi_health.adapters.prometheus import Multiprocess
from project.metrics import RequestMetrics
shared = Multiprocess()
requests = RequestMetrics(shared)
assert not shared.folder.path.exists()
{statements}
print(shared.expose(), end="")
"""


@pytest.fixture
def told(tmp_path: Path) -> Iterator[object]:
    """What is told after statements, in a process of its own."""

    def run(statements: str) -> dict[str, float]:
        made = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(statements=statements)],
            cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True,
            timeout=60, check=True,
        )  # fmt: skip
        families = text_string_to_metric_families(made.stdout + "# EOF\n")
        return {
            f"{sample.name}{sorted(sample.labels.values())}": sample.value
            for family in families
            for sample in family.samples
        }

    yield run
    assert list(tmp_path.iterdir()) == []


def test_requests_are_counted_by_method_route_and_status(told) -> None:
    found = told(
        "for status in (200, 200, 404):\n"
        "    requests.observe('GET', '/api/projects/<int:pk>', status, 0.02)\n"
        "requests.observe('POST', 'unmatched', 499, 30.0)\n"
    )
    totals = {name: value for name, value in found.items() if name.startswith("http_requests_t")}
    assert totals == {
        "http_requests_total['/api/projects/<int:pk>', '200', 'GET']": 2,
        "http_requests_total['/api/projects/<int:pk>', '404', 'GET']": 1,
        "http_requests_total['499', 'POST', 'unmatched']": 1,
    }
    bucket = "http_request_duration_seconds_bucket['/api/projects/<int:pk>', '{}', '200', 'GET']"
    assert (found[bucket.format("0.01")], found[bucket.format("0.025")]) == (0, 2)
    assert found["http_request_duration_seconds_bucket['+Inf', '499', 'POST', 'unmatched']"] == 1
    assert found["http_request_duration_seconds_bucket['10.0', '499', 'POST', 'unmatched']"] == 0


def test_counts_stay_right_when_the_file_grows(told) -> None:
    found = told(
        "for _ in range(3):\n"
        "    for number in range(300):\n"
        "        requests.observe('GET', f'/{number}', 200, 0.01 * number)\n"
    )
    totals = [value for name, value in found.items() if name.startswith("http_requests_total")]
    assert totals == [3] * 300
    spent_s = found["http_request_duration_seconds_sum['/299', '200', 'GET']"]
    assert spent_s == pytest.approx(3 * 2.99)


@pytest.mark.parametrize("taken", ["*", "*.db"])
def test_counts_go_on_when_a_cleaner_takes_the_files(told, taken: str) -> None:
    found = told(
        "from pathlib import Path\n"
        "requests.observe('GET', '/', 200, 0.02)\n"
        f"for path in shared.folder.path.glob({taken!r}): path.unlink()\n"
        "requests.observe('GET', '/', 200, 0.02)\n"
        "shared.join()\n"  # as a worker does every second
        "requests.observe('GET', '/', 200, 0.02)\n"
    )
    assert found["http_requests_total['/', '200', 'GET']"] == 3
    assert found["http_request_duration_seconds_count['/', '200', 'GET']"] == 3


def test_a_forked_process_counts_in_files_of_its_own(told) -> None:
    found = told(
        "import os\n"
        "requests.observe('GET', '/', 200, 0.1)\n"
        "if (pid := os.fork()) == 0:\n"
        "    requests.observe('GET', '/', 200, 0.1)\n"
        "    os._exit(len(list(requests._shared.folder.path.glob('*.db'))))\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4\n"
        "requests.observe('GET', '/', 200, 0.1)\n"
    )
    assert found["http_requests_total['/', '200', 'GET']"] == 3


def test_after_a_failure_the_disk_is_left_alone_for_a_while(told) -> None:
    found = told(
        "import asgi_health.fleet.folder as folder\n"
        "from unittest.mock import patch\n"
        "full = OSError('no space')\n"
        "with patch.object(folder.InstanceFolder, 'join', side_effect=full) as join:\n"
        "    for _ in range(3): requests.observe('GET', '/', 200, 0.1)\n"
        "assert join.call_count == 1\n"
        "requests._again_s = 0.0\n"
        "requests.observe('GET', '/', 200, 0.1)\n"
    )
    assert found["http_requests_total['/', '200', 'GET']"] == 1


FULL = """
mount -t tmpfs -o size=256k none "$1" || exit 77
TMPDIR="$1" exec "$2" -c '
import os, pathlib
from asgi_health.adapters.prometheus import Multiprocess
from project.metrics import RequestMetrics
shared = Multiprocess()
requests = RequestMetrics(shared)
shared.join()
requests.observe("GET", "/first", 200, 0.1)
folder = pathlib.Path(os.environ["TMPDIR"])
try:
    (folder / "rest").write_bytes(bytes(1 << 20))
except OSError:
    pass
for number in range(3000):
    requests.observe("GET", f"/{number}", 200, 0.1)
requests.observe("GET", "/first", 200, 0.1)
print(shared.expose().count("http_requests_total"))
'
"""


def test_a_full_disk_ends_no_worker_and_fails_no_request(tmp_path: Path) -> None:
    made = subprocess.run(
        ["unshare", "-rm", "sh", "-c", FULL, "sh", str(tmp_path), sys.executable],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if made.returncode == 77 or "unshare" in made.stderr:
        pytest.skip(f"no disk of its own can be had here: {made.stderr}")
    assert (made.returncode, made.stderr.count("are not counted")) == (0, 1), made.stderr
    assert int(made.stdout) > 1


def test_a_pool_is_never_opened_for_the_sake_of_its_figures(monkeypatch) -> None:
    from django.db.backends.postgresql import base  # noqa: PLC0415 - only where psycopg is

    class Pool:
        def get_stats(self) -> dict[str, int]:
            return {"pool_size": 3, "pool_available": 1}

    monkeypatch.setattr(base.DatabaseWrapper, "_connection_pools", {})
    assert pool_figures() == {}
    monkeypatch.setattr(base.DatabaseWrapper, "_connection_pools", {"default": Pool()})
    assert pool_figures() == {"default": {"pool_size": 3, "pool_available": 1}}
