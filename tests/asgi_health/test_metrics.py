"""Metrics: the text byte for byte, what it tells in each phase, and the application's part."""

import asyncio
import math
import os
import threading
from typing import Any

import pytest
from server_side import (
    LIMIT_S,
    SECRET,
    Exchange,
    GatedLoad,
    get,
    hello,
    http_scope,
    limited,
    served,
)

from asgi_health import HealthConfig, HealthGate, LoadedApp
from asgi_health.fleet.config import FleetConfig
from asgi_health.fleet.masterboard import Masterboard
from asgi_health.fleet.scoreboard import RESPONDER, WorkerRow, process_start
from asgi_health.fleet.seat import Seat
from asgi_health.hold import Outcome
from asgi_health.metrics import Family, Figures, Sample, families_of, render
from asgi_health.phase import Phase
from asgi_health.scrape import Scrape

BEARER = (b"authorization", b"Bearer " + SECRET.encode())
MORE = "# TYPE more gauge\nmore 1\n"


def family(*samples: Sample, **fields: Any) -> Family:
    return Family(**({"name": "x", "kind": "gauge", "text": "X.", "samples": samples} | fields))


def figures(**fields: Any) -> Figures:
    nothing: dict[str, Any] = {
        "phase": Phase.READY, "ready": True, "release": None, "boot": None, "workers": (),
        "restarts": {}, "held_now": 0, "held": {}, "scrape_errors": 0,
    }  # fmt: skip
    return Figures(**(nothing | fields))


def text_of(**fields: Any) -> list[str]:
    return render(families_of(figures(**fields))).splitlines()


def values(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


# The text.


def test_a_family_is_its_type_its_unit_its_help_and_its_samples() -> None:
    made = family(
        Sample(1.5, {"worker": "0"}), Sample(2, {"worker": "1", "a": "b"}),
        name="lag_seconds", unit="seconds", text="How late.",
    )  # fmt: skip
    assert render([made]) == (
        "# TYPE lag_seconds gauge\n"
        "# UNIT lag_seconds seconds\n"
        "# HELP lag_seconds How late.\n"
        'lag_seconds{worker="0"} 1.5\n'
        'lag_seconds{worker="1",a="b"} 2\n'
    )


@pytest.mark.parametrize(
    ("kind", "line"), [("gauge", "x 1"), ("counter", "x_total 1"), ("info", "x_info 1")]
)
def test_the_name_of_a_sample_says_its_kind(kind: str, line: str) -> None:
    assert render([family(Sample(1), kind=kind)]).splitlines()[-1] == line


@pytest.mark.parametrize(
    ("label", "escaped"),
    [
        ("plain", "plain"),
        ('"', r"\""),
        ("\\", r"\\"),
        ("\n", r"\n"),
        ("\\n", r"\\n"),
        ('a"} 1\nfake 2', r"a\"} 1\nfake 2"),
        ("한국어", "한국어"),
        ("\ud800", "?"),
        ("\r\t\x00", "\r\t\x00"),
    ],
)
def test_no_label_and_no_help_breaks_out_of_its_place(label: str, escaped: str) -> None:
    made = render([family(Sample(1, {"a": label}), text=label)])
    assert made == f'# TYPE x gauge\n# HELP x {escaped}\nx{{a="{escaped}"}} 1\n'


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"), (True, "1"), (False, "0"), (0.1, "0.1"), (1e-7, "1e-07"), (2**53, str(2**53)),
        (math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN"),
    ],
)  # fmt: skip
def test_numbers_are_written_whole(value: float, written: str) -> None:
    assert render([family(Sample(value))]).splitlines()[-1] == f"x {written}"


# What is told.


def row(**fields: Any) -> WorkerRow:
    known: dict[str, Any] = {
        "pid": 7, "start": 1, "phase": Phase.READY, "accepting": True, "started_at": 100.0,
        "ready_at": 102.5, "updated_s": math.inf, "rss_bytes": 4096, "generation": 3,
        "in_flight": 5, "loop_lag_s": 0.25,
    }  # fmt: skip
    return WorkerRow(**(known | fields))


def test_exactly_one_phase_is_the_current_one() -> None:
    for phase in Phase:
        told = [line for line in text_of(phase=phase) if line.startswith("asgi_health_phase{")]
        assert len(told) == len(Phase)
        assert [line for line in told if line.endswith(" 1")] == [
            f'asgi_health_phase{{phase="{phase}"}} 1'
        ]


def test_a_worker_is_told_by_the_number_of_its_row_and_not_by_its_pid() -> None:
    lines = text_of(workers=[(4, row(pid=4711)), (9, row(phase=Phase.LOADING, ready_at=0.0))])
    assert {
        'asgi_health_workers{phase="ready"} 1',
        'asgi_health_workers{phase="loading"} 1',
        'asgi_health_workers{phase="failed"} 0',
        'asgi_health_worker_rss_bytes{worker="4"} 4096',
        'asgi_health_worker_loop_lag_seconds{worker="4"} 0.25',
        'asgi_health_worker_requests_in_flight{worker="9"} 5',
        'asgi_health_worker_boot_seconds{worker="4"} 2.5',
    } <= set(lines)
    assert "4711" not in "".join(lines)
    assert 'asgi_health_worker_boot_seconds{worker="9"}' not in "".join(lines)


def test_nothing_is_made_up_for_servers_that_do_not_tell_their_load() -> None:
    text = "\n".join(text_of(workers=[(0, row(generation=0))]))
    assert "in_flight" not in text
    assert "loop_lag" not in text
    assert "worker_rss_bytes" in text


def test_steps_inside_of_others_are_left_out_and_one_name_is_told_once() -> None:
    def step(name: str, start_s: float, duration_s: float | None) -> dict[str, Any]:
        return {"name": name, "start_s": start_s, "duration_s": duration_s}

    steps = [
        step("import", 0.0, 1.0),
        step("load", 1.0, 2.0),
        step("settings", 1.0, 0.5),
        step("middleware", 2.5, 0.5),
        step("last", 3.0, 0.0),
        step("again", 3.0, 1.0),
        step("again", 4.0, 0.5),
        step("warm-up", 5.0, None),
        step("inside", 5.5, None),
    ]
    told = values("\n".join(text_of(boot={"total_s": 6.25, "steps": steps})))
    assert {name: value for name, value in told.items() if "step" in name} == {
        'asgi_health_boot_step_seconds{step="import"}': 1.0,
        'asgi_health_boot_step_seconds{step="load"}': 2.0,
        'asgi_health_boot_step_seconds{step="again"}': 1.5,
        'asgi_health_boot_step_seconds{step="warm-up"}': 1.25,
    }
    assert told["asgi_health_boot_seconds"] == 6.25


def test_an_application_with_a_thousand_steps_makes_no_thousand_series() -> None:
    steps = [{"name": f"s{i}", "start_s": float(i), "duration_s": 1.0} for i in range(1000)]
    told = text_of(boot={"total_s": 1000.0, "steps": steps})
    assert len([line for line in told if line.startswith("asgi_health_boot_step_seconds{")]) == 32


def test_the_release_is_whatever_somebody_calls_it() -> None:
    (line,) = [line for line in text_of(release='a"\n') if "build_info" in line]
    assert r'release="a\"\n"' in line


def test_no_name_is_told_twice() -> None:
    lines = text_of(
        boot={"total_s": 1.0, "steps": [{"name": "a", "start_s": 0.0, "duration_s": 1.0}]},
        workers=[(0, row())], restarts={"killed": 1}, held={"settled": 1},
    )  # fmt: skip
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    samples = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    assert len(set(families)) == len(families)
    assert len(set(samples)) == len(samples)


# Over ASGI.


@pytest.mark.parametrize("phase", ["starting", "loading", "ready", "failed", "draining"])
async def test_metrics_are_answered_in_every_phase(phase: str, stay_starting: Any) -> None:
    if phase == "starting":
        stay_starting()
    loaded = LoadedApp(hello, lifespan=False, metrics=lambda: MORE)
    target = GatedLoad(loaded, error=OSError("no") if phase == "failed" else None)
    async with served(target, token=SECRET, failed_linger_s=30, release="abc") as booted:
        if phase != "starting":
            await target.has_been_entered()
        if phase in {"ready", "failed", "draining"}:
            target.opened.set()
            await booted.until("ready", "failed")
        if phase == "draining":
            booted.gate._drain()
        answer = await get(booted.gate, "/metrics", headers=[BEARER])
        head = await get(booted.gate, "/metrics", headers=[BEARER], method="HEAD")
        told = values(answer.body.decode())
        assert answer.status == head.status == 200
        assert answer.headers[b"content-type"] == (
            b"application/openmetrics-text; version=1.0.0; charset=utf-8"
        )
        assert answer.headers[b"cache-control"] == b"no-store"
        assert int(answer.headers[b"content-length"]) == len(answer.body)
        assert told[f'asgi_health_phase{{phase="{phase}"}}'] == 1
        assert told["asgi_health_ready"] == (phase == "ready")
        assert told[f'asgi_health_workers{{phase="{phase}"}}'] == 1
        assert ("more" in told) is (phase in {"ready", "draining"})
        assert answer.body.count(b"# EOF") == 1
        assert answer.body.endswith(b"\n# EOF\n")
        target.opened.set()


async def test_a_process_alone_tells_what_it_has_held() -> None:
    target = GatedLoad()
    async with served(target, token=SECRET, hold_limit=1) as booted:
        await target.has_been_entered()
        held = Exchange(booted.gate, http_scope("/early"))
        await limited(held.receiving.wait())
        await get(booted.gate, "/one-too-many")
        during = values((await get(booted.gate, "/metrics", headers=[BEARER])).body.decode())
        target.opened.set()
        await held.end()
        after = values((await get(booted.gate, "/metrics", headers=[BEARER])).body.decode())
    assert during["asgi_health_requests_held"] == 1
    assert during['asgi_health_held_requests_total{outcome="refused"}'] == 1
    assert during['asgi_health_held_requests_total{outcome="settled"}'] == 0
    assert after["asgi_health_requests_held"] == 0
    assert after['asgi_health_held_requests_total{outcome="settled"}'] == 1


# The application's part.


class Part:
    """An application's part that waits until the test lets it go on."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.calls.append(threading.get_ident())
        self.entered.set()
        assert self.opened.wait(LIMIT_S)
        return MORE + "# EOF\n"


class FakeBoot:
    def __init__(self, metrics: Any) -> None:
        self.metrics, self.recorder = metrics, None


def scrape_of(metrics: Any, *, limit_s: float = LIMIT_S) -> Scrape:
    gate = HealthGate(lambda: hello, config=HealthConfig())
    gate.vitals.boot = FakeBoot(metrics)  # type: ignore[assignment]
    return Scrape(gate.vitals, limit_s=limit_s)


async def test_scrapes_at_the_same_time_share_one_run_off_the_loop() -> None:
    part = Part()
    scrape = scrape_of(part)
    asked = [asyncio.create_task(scrape.answer()) for _ in range(20)]
    assert await limited(asyncio.to_thread(part.entered.wait, LIMIT_S))
    part.opened.set()
    answers = await limited(asyncio.gather(*asked))
    assert len(part.calls) == 1
    assert part.calls[0] != threading.get_ident()
    assert all(answer.body.endswith(b"more 1\n# EOF\n") for answer in answers)
    await limited(scrape.answer())
    assert len(part.calls) == 2


async def test_a_scrape_whose_client_leaves_takes_nothing_from_the_others() -> None:
    part = Part()
    scrape = scrape_of(part)
    leaves, stays = (asyncio.create_task(scrape.answer()) for _ in range(2))
    assert await limited(asyncio.to_thread(part.entered.wait, LIMIT_S))
    leaves.cancel()
    await asyncio.wait({leaves})
    part.opened.set()
    assert b"more 1" in (await limited(stays)).body


async def test_a_part_that_takes_too_long_is_left_out_counted_and_run_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    part = Part()
    scrape = scrape_of(part, limit_s=0.01)
    bodies = [(await limited(scrape.answer())).body.decode() for _ in range(3)]
    assert [values(body)["asgi_health_scrape_errors_total"] for body in bodies] == [1, 2, 3]
    assert all("more" not in body for body in bodies)
    assert len(part.calls) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    part.opened.set()


async def test_a_part_that_raises_is_left_out_counted_and_logged_until_it_works_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[Exception | None] = [OSError("no"), OSError("no"), None, OSError("again")]

    def part() -> str:
        error = errors.pop(0)
        if error is not None:
            raise error
        return MORE

    scrape = scrape_of(part)
    bodies = [(await limited(scrape.answer())).body.decode() for _ in range(4)]
    assert ["more 1" in body for body in bodies] == [False, False, True, False]
    assert values(bodies[-1])["asgi_health_scrape_errors_total"] == 3
    assert all(body.endswith("# EOF\n") for body in bodies)
    assert len([record for record in caplog.records if record.exc_info]) == 2


# The whole instance.


@pytest.fixture
def board() -> Any:
    made = Masterboard(FleetConfig(), is_warm=True)
    yield made
    made.workers.close()


def gate_in(board: Masterboard, index: int) -> HealthGate:
    gate = HealthGate(lambda: hello, config=HealthConfig())
    gate.vitals.join(Seat(board, index=index))
    return gate


def told_by(gate: HealthGate) -> dict[str, float]:
    return values(render(families_of(gate.vitals.figures())))


def test_counts_of_all_workers_and_of_the_dead_are_one_sum(board: Masterboard) -> None:
    responder = HealthGate(lambda: hello, config=HealthConfig())
    responder.vitals.count_on(board.workers, board.workers.tallies.take(RESPONDER))
    responder.hold.count(Outcome.EXPIRED)
    first, second = gate_in(board, 0), gate_in(board, 1)
    for gate in (first, first, second):
        gate.hold.count(Outcome.SETTLED)
    second.vitals.count_scrape_error()
    successor = gate_in(board, 0)  # the first has died
    successor.hold.count(Outcome.SETTLED)
    for gate in (second, successor):
        told = told_by(gate)
        assert told['asgi_health_held_requests_total{outcome="settled"}'] == 4
        assert told['asgi_health_held_requests_total{outcome="expired"}'] == 1
        assert told["asgi_health_scrape_errors_total"] == 1


def test_what_a_dead_worker_held_is_held_no_more(board: Masterboard) -> None:
    mine, gone = gate_in(board, 0), gate_in(board, 1)
    mine.hold.now, gone.hold.now = 2, 3
    living = row(pid=os.getppid(), start=process_start(os.getppid()))
    board.workers.write(1, living)
    assert told_by(mine)["asgi_health_requests_held"] == 5
    board.workers.write(1, row(pid=living.pid, start=living.start + 1))
    assert told_by(mine)["asgi_health_requests_held"] == 2
    gate_in(board, 1)
    assert board.workers.tallies.read(1, "held_now") == 0


def test_restarts_are_told_by_reason_also_before_the_first(board: Masterboard) -> None:
    gate = gate_in(board, 0)
    before = told_by(gate)
    board.tell({"restarts": 3, "restarts_by_reason": {"killed": 2, "blocked": 1}})
    after = told_by(gate)
    name = 'asgi_health_worker_restarts_total{{reason="{}"}}'
    assert [before[name.format(reason)] for reason in ("killed", "asked")] == [0, 0]
    assert [after[name.format(reason)] for reason in ("killed", "blocked", "asked")] == [2, 1, 0]
