"""One core for each worker: its threads then give the interpreter's lock to each other cheaply."""

import logging
import os
from collections import Counter
from collections.abc import Iterable

__all__ = ["choose_core", "pin_to"]

_log = logging.getLogger("asgi_health.fleet")


def choose_core(taken: Iterable[int | None]) -> int | None:
    """The core with the fewest workers, of those that this process may use.

    Args:
        taken: the core of each worker that lives.

    Returns:
        None where processes cannot be pinned (outside Linux), or when there is one core.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    workers = Counter(taken)
    return min(cores, key=lambda core: workers[core]) if len(cores) > 1 else None


def pin_to(core: int) -> None:
    """Keep this process, and the threads that it starts from now on, on one core."""
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:  # the container has lost the core since the master looked
        _log.warning("the worker is not pinned to core %d: %s", core, error)
