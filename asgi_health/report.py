"""What a boot spent its time on: steps, modules by own time, Django apps.

The recorder times each executed module by wrapping the import system's loaders while a boot runs,
on the loading thread only; a wrapped execution costs about two microseconds.
"""

import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.machinery import ExtensionFileLoader, SourceFileLoader, SourcelessFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

__all__ = [
    "AppCost",
    "BootReport",
    "Recorder",
    "Step",
    "add_app_cost",
    "clean_traceback",
    "step",
]

_SLOWEST = 10
_LOADERS: tuple[Any, ...] = (SourceFileLoader, SourcelessFileLoader, ExtensionFileLoader)
_recorder: ContextVar["Recorder | None"] = ContextVar("asgi_health_recorder", default=None)
_patching = threading.Lock()
_NOT_APPLICATION = ("<frozen importlib", str(Path(__file__).parent) + os.sep, importlib.__file__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One part of a boot.

    `start_s` counts from the start of the load; `duration_s` is None while it runs.
    """

    name: str
    start_s: float
    duration_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AppCost:
    """What one Django app cost, in seconds: its own import, its models, its `ready()`."""

    label: str
    import_s: float = 0.0
    models_s: float = 0.0
    ready_s: float = 0.0

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.import_s + self.models_s + self.ready_s

    @property
    def part(self) -> str:
        """The app and which parts of it were timed: `app "shop": ready()`."""
        costs = {"import": self.import_s, "models": self.models_s, "ready()": self.ready_s}
        timed = ", ".join(name for name, cost_s in costs.items() if cost_s)
        return f'app "{self.label}": {timed}'


@dataclass(frozen=True, slots=True, kw_only=True)
class BootReport:
    """What one boot spent its time on; also readable while the boot runs.

    Args:
        total_s: wall seconds since the load began, until it ended or until now.
        cpu_s: CPU seconds of the loading thread; 0 until the load has ended.
        cpu_share: `cpu_s` over the load's wall seconds, 0 to 1: near 1 means computing, near 0
            means waiting.
        steps: in order of their start; steps may contain each other.
        modules: the ten slowest modules by own time (without what they import), in seconds.
        apps: the ten slowest Django apps.
    """

    total_s: float
    cpu_s: float
    cpu_share: float
    steps: tuple[Step, ...]
    modules: tuple[tuple[str, float], ...]
    apps: tuple[AppCost, ...]

    def as_json(self) -> dict[str, Any]:
        """The report in plain types, milliseconds kept."""
        return {
            "total_s": round(self.total_s, 3),
            "cpu_s": round(self.cpu_s, 3),
            "cpu_share": round(self.cpu_share, 3),
            "steps": [
                {
                    "name": step.name,
                    "start_s": round(step.start_s, 3),
                    "duration_s": None if step.duration_s is None else round(step.duration_s, 3),
                }
                for step in self.steps
            ],
            "slowest_modules": [
                {"name": name, "own_s": round(own_s, 4)} for name, own_s in self.modules
            ],
            "slowest_apps": [
                {
                    "name": app.label,
                    "s": round(app.total_s, 4),
                    "import_s": round(app.import_s, 4),
                    "models_s": round(app.models_s, 4),
                    "ready_s": round(app.ready_s, 4),
                }
                for app in self.apps
            ],
        }


class Recorder:
    """Collects the report of one boot.

    Written by the loading thread, read by any.

    Args:
        observer: called on the loading thread with the name of each step and each part of a Django
            app when it has ended, also when it raised; None: nobody watches.
        on_step: called on the loading thread when a step has begun.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        observer: Callable[[str], None] | None = None,
        *,
        on_step: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observe = observer or _nobody
        self._on_step = on_step
        self._clock = clock
        self._origin_s = clock()
        self._ended_s: float | None = None
        self._load_s = 0.0
        self._cpu_s = 0.0
        self._steps: list[Step] = []
        self._modules: dict[str, float] = {}
        self._apps: dict[str, AppCost] = {}
        self._nested_s: list[float] = []

    @property
    def latest_step(self) -> str | None:
        """The innermost step that runs now, else the last one that ran."""
        running = (step.name for step in reversed(self._steps) if step.duration_s is None)
        return next(running, self._steps[-1].name if self._steps else None)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record a step around the block, also when it raises."""
        index, start_s = len(self._steps), self._clock() - self._origin_s
        self._steps.append(Step(name=name, start_s=start_s, duration_s=None))
        if self._on_step is not None:
            self._on_step()
        try:
            yield
        finally:
            duration_s = self._clock() - self._origin_s - start_s
            self._steps[index] = Step(name=name, start_s=start_s, duration_s=duration_s)
            self._observe(name)

    def add_app(self, cost: AppCost) -> None:
        """Add to what a Django app cost."""
        before = self._apps.get(cost.label, AppCost(label=cost.label))
        self._apps[cost.label] = AppCost(
            label=cost.label,
            import_s=before.import_s + cost.import_s,
            models_s=before.models_s + cost.models_s,
            ready_s=before.ready_s + cost.ready_s,
        )
        self._observe(cost.part)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the load in the block: its CPU share and its imports on this thread."""
        token = _recorder.set(self)
        start_s, cpu_start_s = self._clock(), time.thread_time()
        try:
            with self._timing_imports():
                yield
        finally:
            self._load_s = self._clock() - start_s
            self._cpu_s = time.thread_time() - cpu_start_s
            _recorder.reset(token)

    def end(self) -> None:
        """The boot is over; the total stands from now on."""
        self._ended_s = self._ended_s or self._clock()

    def continued(self) -> "Recorder":
        """A recorder of the same boot that goes on now, for instance in a forked process."""
        other = Recorder(clock=self._clock)
        load_s = (self._ended_s or self._clock()) - self._origin_s
        other._origin_s = self._clock() - load_s
        other._load_s, other._cpu_s = self._load_s, self._cpu_s
        other._steps = list(self._steps)
        other._modules, other._apps = self._modules, self._apps
        return other

    def report(self) -> BootReport:
        """The report as it stands now."""
        until_s = self._clock() if self._ended_s is None else self._ended_s
        return BootReport(
            total_s=until_s - self._origin_s,
            cpu_s=self._cpu_s,
            cpu_share=min(1.0, self._cpu_s / self._load_s) if self._load_s else 0.0,
            steps=tuple(self._steps),
            modules=_slowest(self._modules),
            apps=_slowest_apps(self._apps),
        )

    def _timing_imports(self) -> AbstractContextManager[None]:
        """Wrap the loaders, unless another boot in this process has them wrapped already."""
        return self._wrapped_loaders() if _patching.acquire(blocking=False) else nullcontext()

    @contextmanager
    def _wrapped_loaders(self) -> Iterator[None]:
        thread = threading.get_ident()
        inherited = [loader for loader in _LOADERS if "exec_module" not in vars(loader)]
        originals = {loader: loader.exec_module for loader in _LOADERS}
        wrappers = {loader: self._timed(original, thread) for loader, original in originals.items()}
        for loader, wrapper in wrappers.items():
            loader.exec_module = wrapper
        try:
            yield
        finally:
            for loader, original in originals.items():
                if loader.exec_module is not wrappers[loader]:
                    continue  # the application has put its own over ours
                if loader in inherited:
                    del loader.exec_module
                else:
                    loader.exec_module = original
            _patching.release()

    def _timed(
        self, original: Callable[[Any, ModuleType], None], thread: int
    ) -> Callable[[Any, ModuleType], None]:
        nested_s, modules, clock = self._nested_s, self._modules, self._clock

        def exec_module(loader: Any, module: ModuleType) -> None:
            if threading.get_ident() != thread:
                original(loader, module)
                return
            nested_s.append(0.0)
            start_s = clock()
            try:
                original(loader, module)
            finally:
                whole_s = clock() - start_s
                modules[module.__name__] = whole_s - nested_s.pop()
                if nested_s:
                    nested_s[-1] += whole_s

        return exec_module


def step(name: str) -> AbstractContextManager[None]:
    """Record a step of the boot that runs on this thread; outside a boot it does nothing."""
    recorder = _recorder.get()
    return nullcontext() if recorder is None else recorder.step(name)


def add_app_cost(cost: AppCost) -> None:
    """Add to what a Django app cost, in the boot that runs on this thread, if one does."""
    recorder = _recorder.get()
    if recorder is not None:
        recorder.add_app(cost)


def clean_traceback(error: BaseException) -> None:
    """Leave in an error, its causes and its contexts the frames of the application only.

    Python hides its own import frames while nothing stands between them; our timing does. An error
    that no application frame leads to keeps all of its frames.
    """
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            current.__traceback__ = _application_frames(current.__traceback__)
            pending += [current.__cause__, current.__context__]


def _application_frames(traceback: TracebackType | None) -> TracebackType | None:
    frames, walked = [], traceback
    while walked is not None:
        if not walked.tb_frame.f_code.co_filename.startswith(_NOT_APPLICATION):
            frames.append(walked)
        walked = walked.tb_next
    following = None
    for frame in reversed(frames):
        frame.tb_next, following = following, frame
    return following or traceback


def _nobody(_label: str) -> None:
    """No observer was given."""


def _slowest(seconds: dict[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(seconds.copy().items(), key=lambda item: item[1], reverse=True)[:_SLOWEST])


def _slowest_apps(apps: dict[str, AppCost]) -> tuple[AppCost, ...]:
    ordered = sorted(apps.copy().values(), key=lambda app: app.total_s, reverse=True)
    return tuple(ordered[:_SLOWEST])
