"""Workers of an instance: real forks that do with their seat what their test asks for."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from process_side import Child, Say

from asgi_health.fleet.config import FleetConfig
from asgi_health.fleet.endings import Ending
from asgi_health.fleet.master import Master
from asgi_health.fleet.seat import Load, Seat
from asgi_health.phase import Phase


def _publish(seat: Seat, phase: str) -> None:
    seat.publish(Phase(phase), accepting=not seat.joins_quietly or phase == "ready")


def _observe(seat: Seat, *load: float) -> None:
    seat.observe = lambda: Load(*load)  # type: ignore[arg-type]


def _grow(seat: Seat, mib: int) -> None:
    kept.append(b"x" * (mib << 20))


def _hear_of_leaving(seat: Seat) -> list[int]:
    """As the server does at a stop signal."""
    expected.update(seat.successors())
    return sorted(expected)


kept: list[bytes] = []
expected: set[int] = set()
ACTIONS: dict[str, Callable[..., Any]] = {
    "publish": _publish,
    "observe": _observe,
    "grow": _grow,
    "delay_s": lambda seat: seat.delay_s,
    "exit": lambda seat, code: os._exit(code),
    "hear_of_leaving": _hear_of_leaving,
    "succession": lambda seat: seat.succession(frozenset(expected)).name,
}
"""What is more than one call of a method of the seat."""


class Worker:
    """One forked worker."""

    def __init__(self, master: Master, generation: int) -> None:
        master.reserve(generation)
        self.master, self.generation = master, generation
        reading, self._writing = os.pipe()
        self.child = Child(lambda say: self._work(reading, say))
        os.close(reading)
        self.pid = self.child.pid
        self.joins_quietly = self._hears()

    def _work(self, reading: int, say: Say) -> None:
        os.close(self._writing)
        seat = self.master.seat(self.generation)
        actions = ACTIONS | {"pin": lambda _seat: self.master.pin(self.generation)}
        say([seat.joins_quietly])
        with os.fdopen(reading) as orders:
            for order in orders:
                name, *arguments = json.loads(order)
                action = actions.get(name) or (lambda seat, *a, n=name: getattr(seat, n)(*a))
                say([action(seat, *arguments)])

    def ask(self, name: str, *arguments: Any) -> Any:
        """What a method of its seat, or one of ACTIONS, returns there."""
        self.order(name, *arguments)
        return self._hears()

    def order(self, name: str, *arguments: Any) -> None:
        os.write(self._writing, json.dumps([name, *arguments]).encode() + b"\n")

    def _hears(self) -> Any:
        said = self.child.hears()
        assert said is not None, "the worker has ended"
        return said[0]

    def is_in(self, phase: str) -> "Worker":
        self.ask("publish", phase)
        return self

    def is_over(self, *, code: int | None = None, signal: int | None = None, **how: Any) -> Ending:
        """Let it end; what its master says of that."""
        if code is not None:
            self.order("exit", code)
        if signal is not None:
            self.child.signal(signal)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self.master.watch([self.pid])
        self.child.reap()
        return self.master.bury(self.pid, generation=self.generation, **how)

    def close(self) -> None:
        self.child.close()
        os.close(self._writing)


class Instance:
    """A master and its workers."""

    def __init__(self, *, is_warm: bool, wanted: int, **config: Any) -> None:
        self.master = Master(FleetConfig(**config), is_warm=is_warm)
        self.board = self.master.board
        self.board.workers_wanted = wanted
        self.workers: list[Worker] = []

    def worker(self, phase: str | None = None) -> Worker:
        """One more, with the next generation."""
        made = Worker(self.master, len(self.workers) + 1)
        self.workers.append(made)
        return made if phase is None else made.is_in(phase)


@contextlib.contextmanager
def instance(*, is_warm: bool = True, wanted: int = 2, **config: Any) -> Iterator[Instance]:
    """An instance whose workers do not outlive the test."""
    made = Instance(is_warm=is_warm, wanted=wanted, **config)
    try:
        yield made
    finally:
        for worker in made.workers:
            worker.close()
        made.board.workers.close()
