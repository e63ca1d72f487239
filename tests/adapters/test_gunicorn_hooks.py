"""What the hooks do that needs more workers than a test can start."""

import pytest

pytest.importorskip("gunicorn")

from asgi_health.adapters.gunicorn import hooks
from asgi_health.fleet.config import FleetConfig
from asgi_health.fleet.master import Master


class Arbiter:
    """As Gunicorn's: whoever sets the number is told by the hook."""

    def __init__(self, told: hooks.Hooks, *, workers: int) -> None:
        self._hooks, self._workers = told, workers

    @property
    def num_workers(self) -> int:
        return self._workers

    @num_workers.setter
    def num_workers(self, value: int) -> None:
        old, self._workers = self._workers, value
        self._hooks.nworkers_changed(self, value, old)


def test_ttin_beyond_the_table_changes_nothing_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    master = Master(FleetConfig(), is_warm=True)
    monkeypatch.setattr(hooks._Process, "master", master)
    server = Arbiter(hooks.Hooks(FleetConfig()), workers=255)
    for _ in range(3):
        server.num_workers += 1
    assert server.num_workers == master.board.workers_wanted == 256
    assert [record.getMessage() for record in caplog.records] == [
        "257 workers are wanted, allowed are 256"
    ] * 2
    master.board.workers.close()
