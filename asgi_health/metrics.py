"""What a process knows of its instance, as OpenMetrics text.

Source: https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md
"""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from asgi_health import __version__
from asgi_health.phase import Phase
from asgi_health.vitals import lag_s

if TYPE_CHECKING:
    from asgi_health.fleet.scoreboard import WorkerRow

__all__ = ["CONTENT_TYPE", "END", "Family", "Figures", "Sample", "families_of", "render"]

CONTENT_TYPE = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
END = "# EOF\n"

_STEPS_MAX = 32


class Sample(NamedTuple):
    """One value of a family and the labels that tell it from the others."""

    value: float
    labels: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Samples of one name.

    Args:
        name: without `_total` or `_info`, which are added.
        kind: `gauge`, `counter` or `info`.
        text: for people.
        samples: each with other labels.
        unit: the last word of the name, when it is a unit.
    """

    name: str
    kind: str
    text: str
    samples: Sequence[Sample]
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What there is to tell.

    Args:
        phase: of the instance.
        ready: whether a request would be served.
        release: what is running; None: not named.
        boot: the report of the boot in plain types; None before it began.
        workers: the rows of all living workers by their number.
        restarts: workers that ended while the instance served, by reason.
        held_now: requests held in all processes.
        held: how the holding of requests ended, by outcome.
        scrape_errors: scrapes whose answer lacked the application's part.
    """

    phase: Phase
    ready: bool
    release: str | None
    boot: Mapping[str, Any] | None
    workers: Sequence[tuple[int, "WorkerRow"]]
    restarts: Mapping[str, int]
    held_now: int
    held: Mapping[str, int]
    scrape_errors: int


def render(families: Iterable[Family]) -> str:
    """The families as text, without its end (`END`)."""
    return "".join(line for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    name = family.name
    yield f"# TYPE {name} {family.kind}\n"
    if family.unit:
        yield f"# UNIT {name} {family.unit}\n"
    yield f"# HELP {name} {_escaped(family.text)}\n"
    suffix = {"counter": "_total", "info": "_info"}.get(family.kind, "")
    for value, labels in family.samples:
        pairs = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        yield f"{name}{suffix}{f'{{{pairs}}}' if pairs else ''} {_number(value)}\n"


def _escaped(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate has no bytes
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'+' if value > 0 else '-'}Inf"
    return repr(value if not isinstance(value, bool) else int(value))


def families_of(figures: Figures) -> list[Family]:
    """All that the gate tells of the whole instance; nothing empty."""
    families = [*_state(figures), *_boot(figures), *_workers(figures), *_requests(figures)]
    return [family for family in families if family.samples]


def _state(figures: Figures) -> Iterator[Family]:
    versions = {
        "version": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "release": figures.release or "",
    }
    yield _info("build", "What is running.", versions)
    yield _gauge(
        "phase",
        "1 for the phase that the instance is in.",
        [Sample(phase is figures.phase, {"phase": phase.value}) for phase in Phase],
    )
    yield _gauge("ready", "Whether a request would be served.", [Sample(figures.ready)])


def _boot(figures: Figures) -> Iterator[Family]:
    boot = figures.boot
    if boot is None:
        return
    yield _gauge(
        "boot_seconds",
        "What the boot of the process that answers took, or takes until now.",
        [Sample(boot["total_s"])],
    )
    spent_s = _top_level(boot["steps"], until_s=boot["total_s"])
    yield _gauge(
        "boot_step_seconds",
        "What each step of it took; steps inside of others are left out.",
        [Sample(value, {"step": step}) for step, value in spent_s.items()],
    )


def _top_level(steps: Iterable[Mapping[str, Any]], *, until_s: float) -> dict[str, float]:
    """Seconds of the steps that no other contains; those of one name together."""
    spent_s: dict[str, float] = {}
    covered_s = -1.0
    for step in steps:
        start_s, duration_s = step["start_s"], step["duration_s"]
        end_s = max(until_s, start_s) if duration_s is None else start_s + duration_s
        # What is told is rounded: a step of no length may stand at the end of the one around it.
        if start_s < covered_s or end_s <= covered_s:
            continue
        covered_s = end_s
        if step["name"] in spent_s or len(spent_s) < _STEPS_MAX:
            spent_s[step["name"]] = round(spent_s.get(step["name"], 0.0) + end_s - start_s, 3)
    return spent_s


def _workers(figures: Figures) -> Iterator[Family]:
    rows = [(_by(worker=str(index)), row) for index, row in figures.workers]
    # Only a server of ours tells its load: for others nothing is said.
    told = [(number, row) for number, row in rows if row.generation]
    phases = [row.phase for _, row in rows]
    yield _gauge(
        "workers",
        "Living workers by what they are doing.",
        [Sample(phases.count(phase), {"phase": phase.value}) for phase in Phase],
    )
    yield _counter(
        "worker_restarts",
        "Workers that ended while the instance served, by reason.",
        [Sample(count, _by(reason=reason)) for reason, count in figures.restarts.items()],
    )
    yield _gauge(
        "worker_boot_seconds",
        "From the start of each worker until it was ready.",
        [
            Sample(round(row.ready_at - row.started_at, 3), number)
            for number, row in rows
            if row.ready_at
        ],
    )
    yield _gauge(
        "worker_rss_bytes",
        "Resident memory of each worker.",
        [Sample(row.rss_bytes, number) for number, row in rows if row.rss_bytes],
    )
    yield _gauge(
        "worker_loop_lag_seconds",
        "How late each worker's event loop was at worst in its last second, or how late it is.",
        [Sample(round(lag_s(row), 6), number) for number, row in told],
    )
    yield _gauge(
        "worker_requests_in_flight",
        "Requests that each worker is answering.",
        [Sample(row.in_flight, number) for number, row in told],
    )


def _requests(figures: Figures) -> Iterator[Family]:
    yield _gauge(
        "requests_held",
        "Early requests that wait for the end of the boot.",
        [Sample(figures.held_now)],
    )
    yield _counter(
        "held_requests",
        "Early requests that wait no longer, by how that ended.",
        [Sample(count, _by(outcome=outcome)) for outcome, count in figures.held.items()],
    )
    yield _counter(
        "scrape_errors",
        "Scrapes whose answer lacked what the application tells.",
        [Sample(figures.scrape_errors)],
    )


def _by(**labels: str) -> dict[str, str]:
    return labels


def _gauge(name: str, text: str, samples: Sequence[Sample]) -> Family:
    return _family("gauge", name, text, samples)


def _counter(name: str, text: str, samples: Sequence[Sample]) -> Family:
    return _family("counter", name, text, samples)


def _info(name: str, text: str, labels: Mapping[str, str]) -> Family:
    return _family("info", name, text, [Sample(1, labels)])


def _family(kind: str, name: str, text: str, samples: Sequence[Sample]) -> Family:
    last = name.rpartition("_")[2]
    unit = last if last in {"seconds", "bytes"} else ""
    return Family(name=f"asgi_health_{name}", kind=kind, text=text, samples=samples, unit=unit)
