"""Compare what two runs of Django's tests wrote: the stock handler's and ours."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["MIN_SERVED", "Comparison", "Run", "compare", "module_of", "read"]

MIN_SERVED = 0.9
"""The part of a module's client requests that has to enter the handler."""

ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
COUNTERS = ("requests", "served", "calls")


@dataclass(slots=True, kw_only=True)
class Run:
    """What one run did."""

    failed: dict[str, str] = field(default_factory=dict)
    """Test (or subtest) and the first line of its reason."""
    done: set[str] = field(default_factory=set)
    """Tests that ran to their end without being skipped, whatever came of them."""
    skipped: dict[str, str] = field(default_factory=dict)
    tests: Counter[str] = field(default_factory=Counter)
    """By module; so are the next three."""
    requests: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    running: str | None = None
    """The test that had begun when the run was ended."""
    finished: bool = False


def read(path: Path) -> Run:
    """The run that the runner wrote to a file; one that never began is not finished."""
    lines = path.read_text().splitlines() if path.exists() else []
    return run_of(json.loads(line) for line in lines)


def run_of(events: Iterable[dict]) -> Run:
    run, before = Run(), dict.fromkeys(COUNTERS, 0)
    for event in events:
        if "started" in event:
            run.running = event["started"]
            run.done.add(run.running)
            run.tests[module_of(run.running)] += 1
        elif "outcome" in event:
            _add_outcome(run, ADDRESS.sub("0x", event["test"]), event)
        elif "stopped" in event:
            run.running = None
            for name in COUNTERS:
                spent = event["counts"][name] - before[name]
                getattr(run, name)[module_of(event["stopped"])] += spent
            before = event["counts"]
        elif "finished" in event:
            run.finished = True
    return run


def _add_outcome(run: Run, test: str, event: dict) -> None:
    if event["outcome"] == "failed":
        run.failed[test] = event["reason"]
    elif event["outcome"] == "skipped":
        run.skipped[test] = event["reason"]
        run.done.discard(test)


def module_of(test: str) -> str:
    """`asgi` of `asgi.tests.X.test_y`, of `setUpClass (asgi.tests.X)`, of a failed import of it."""
    test = test.partition(" (")[2] if test.startswith(("setUp", "tearDown")) else test
    return test.removeprefix("unittest.loader._FailedTest.").split(".")[0].rstrip(")")


@dataclass(slots=True, kw_only=True)
class Comparison:
    """Ours against stock."""

    stock: Run
    ours: Run

    @property
    def modules(self) -> list[str]:
        failing = {module_of(test) for test in [*self.stock.failed, *self.ours.failed]}
        return sorted({*self.stock.tests, *self.ours.tests} | failing)

    @property
    def only_ours(self) -> dict[str, str]:
        return {
            test: reason
            for test, reason in sorted(self.ours.failed.items())
            if test not in self.stock.failed
        }

    @property
    def only_stock(self) -> dict[str, str]:
        return {
            test: reason
            for test, reason in sorted(self.stock.failed.items())
            if test not in self.ours.failed
        }

    @property
    def not_done(self) -> list[str]:
        """Tests that ran with stock and did not with ours: no failure, yet no success."""
        return sorted(self.stock.done - self.ours.done)

    def problems(self) -> Iterator[str]:
        """Why the comparison fails; nothing if it does not."""
        for name, run in (("stock", self.stock), ("ours", self.ours)):
            if not run.finished:
                where = f"in {run.running}" if run.running else "outside of a test"
                yield f"{name}: the run was not finished; it ended {where}"
        if not self.stock.done:
            yield "no test ran"
        for module in self.modules:
            made, served = self.ours.requests[module], self.ours.served[module]
            if served < made * MIN_SERVED:
                yield f"{module}: {served} of {made} client requests entered our handler"
        if self.only_ours:
            yield f"{len(self.only_ours)} fail with ours only"
        if self.not_done:
            yield f"{len(self.not_done)} ran with stock and not with ours"

    def report(self) -> str:
        lines = [
            *self._table(),
            *_listed("Fail with ours only", self.only_ours),
            *_listed("Fail with stock only", self.only_stock),
            *_listed(
                "Fail with both handlers",
                {
                    test: reason
                    for test, reason in sorted(self.ours.failed.items())
                    if test in self.stock.failed
                },
            ),
            *_listed("Ran with stock, not with ours", dict.fromkeys(self.not_done, "")),
            *self._skips(),
        ]
        return "\n".join(lines)

    def _table(self) -> Iterator[str]:
        yield (
            f"{'module':<20}{'tests':>7}{'requests':>10}{'by ours':>9}{'calls':>7}"
            f"{'failures: stock':>17}{'ours':>6}{'difference':>12}"
        )
        failed_stock = Counter(module_of(test) for test in self.stock.failed)
        failed_ours = Counter(module_of(test) for test in self.ours.failed)
        more = Counter(module_of(test) for test in self.only_ours)
        less = Counter(module_of(test) for test in self.only_stock)
        total = [0] * 8
        for module in self.modules:
            row = [
                self.ours.tests[module], self.ours.requests[module], self.ours.served[module],
                self.ours.calls[module], failed_stock[module], failed_ours[module],
                more[module], less[module],
            ]  # fmt: skip
            total = [sum(pair) for pair in zip(total, row, strict=True)]
            yield _row(module, row)
        yield _row("all", total)

    def _skips(self) -> Iterator[str]:
        reasons = Counter(reason for reason in self.ours.skipped.values())
        if reasons:
            yield f"\nSkipped with ours: {len(self.ours.skipped)}"
            yield from (f"  {count:>4}  {reason[:110]}" for reason, count in reasons.most_common())


def compare(stock: Path, ours: Path) -> Comparison:
    return Comparison(stock=read(stock), ours=read(ours))


def _row(name: str, row: list[int]) -> str:
    tests, requests, served, calls, stock, ours, more, less = row
    difference = " ".join(
        part for part in (f"+{more}" * bool(more), f"-{less}" * bool(less)) if part
    )
    return (
        f"{name:<20}{tests:>7}{requests:>10}{served:>9}{calls:>7}"
        f"{stock:>17}{ours:>6}{difference or '0':>12}"
    )


def _listed(title: str, tests: dict[str, str]) -> Iterator[str]:
    if tests:
        yield f"\n{title}: {len(tests)}"
        yield from (f"  {test}\n      {reason[:160]}".rstrip() for test, reason in tests.items())
