"""Where the CPU of a request goes, before and after: Django's stock ASGI handler, and ours.

A sampling profile in-process: every few milliseconds of CPU, the function that runs. In C, that is
the Python function that called it.
"""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Self

from bench_handoff_cpu import ask  # also names the settings
from harness import options, publish

SECONDS = 4.0
INTERVAL_S = 0.001
WAITING = {"select", "wait", "_run", "get", "acquire", "_worker", "_run_once", "_look_often"}
"""Functions in which a thread that does nothing stands."""

GROUPS = (
    ("this package", ("/asgi_health/",)),
    ("asgiref", ("/asgiref/",)),
    (
        "event loop, tasks, contexts, threads",
        (
            "/asyncio/",
            "/concurrent/",
            "/threading.py",
            "/selectors.py",
            "/contextvars",
            "/queue.py",
        ),
    ),
    ("Django: hops of middlewares", ("/django/utils/deprecation.py",)),
    ("Django: middlewares", ("/middleware", "/corsheaders/", "/csrf.py")),
    (
        "Django: signals and connections",
        ("/django/dispatch/", "/django/db/", "/django/core/cache/"),
    ),
    ("Django: handler", ("/django/core/handlers/",)),
    ("Django: request and response", ("/django/http/", "/django/utils/")),
    ("Django: URLs, the view, everything else", ("",)),
)


def group_of(frame: FrameType) -> str:
    path = frame.f_code.co_filename
    return next(name for name, parts in GROUPS if any(part in path for part in parts))


class Sampler:
    """Counts, every few milliseconds of CPU, the function of each thread that does something."""

    def __init__(self) -> None:
        self.groups: Counter[str] = Counter()
        self.functions: Counter[str] = Counter()

    def __enter__(self) -> Self:
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _sample(self, _number: int, interrupted: FrameType | None) -> None:
        main = sys._getframe().f_code  # noqa: SLF001 - the documented way to a frame
        running = [
            interrupted if frame.f_code is main else frame
            for frame in sys._current_frames().values()  # noqa: SLF001 - as documented
        ]
        busy = [frame for frame in running if frame and frame.f_code.co_name not in WAITING]
        for frame in busy:
            self.groups[group_of(frame)] += 1 / len(busy)
            if group_of(frame) == "this package":
                where = Path(frame.f_code.co_filename).name
                self.functions[f"{where} {frame.f_code.co_qualname}"] += 1 / len(busy)


async def profile(handler: Callable, path: str, sampler: Sampler) -> float:
    """Serve for a while; CPU microseconds a request."""
    for _ in range(50):
        await ask(handler, path)
    count, begun_s, end_s = 0, time.process_time(), time.monotonic() + SECONDS
    with sampler:
        while time.monotonic() < end_s:
            await ask(handler, path)
            count += 1
    return 1e6 * (time.process_time() - begun_s) / count


def main() -> None:
    found = options(__doc__)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "usual_settings")
    import django  # noqa: PLC0415 - after the settings

    django.setup()
    from django.core.handlers.asgi import ASGIHandler  # noqa: PLC0415 - after the settings

    from asgi_health.adapters.django.handler import Handler  # noqa: PLC0415 - after the settings

    made = [
        (path, handler(), Sampler(), [])
        for path in ("/async/", "/sync/")
        for handler in (ASGIHandler, Handler)
    ]
    for _ in range(found.rounds):
        for path, handler, sampler, cpu_us in made:
            cpu_us.append(asyncio.run(profile(handler, path, sampler)))

    def cell(sampler: Sampler, cpu_us: list[float], name: str | None) -> str:
        share = 1.0 if name is None else sampler.groups[name] / sampler.groups.total()
        return f"{share * sum(cpu_us) / len(cpu_us):.0f} µs"

    rows = [
        (name or "all", *(cell(sampler, cpu_us, name) for _, _, sampler, cpu_us in made))
        for name in (*(name for name, _ in GROUPS), None)
    ]
    publish(
        "bench_handoff_profile",
        title="Hand-off, where the CPU goes",
        how="In-process, eight usual middlewares; CPU of a request in the functions themselves, "
        "without what they call in Python.",
        head=("in", "async view, stock", "async view, ours", "sync view, stock", "sync view, ours"),
        rows=rows,
        found=found,
    )
    for path, handler, sampler, _ in made:
        if isinstance(handler, Handler):
            print(f"\n{path}: this package, most first")
            for name, samples in sampler.functions.most_common(12):
                print(f"  {100 * samples / sampler.groups.total():5.1f} %  {name}")


if __name__ == "__main__":
    main()
