"""A process that counts, told what to do on its standard input; an answer is a line of JSON."""

import atexit
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path


def _tell_of_open_files() -> None:
    open_files = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
    if left := [path for path in open_files if ".db" in path]:
        print("left open:", *left, file=sys.stderr)


atexit.register(_tell_of_open_files)  # the first to be registered is the last to be called

from asgi_health.adapters.prometheus import Multiprocess  # noqa: E402


def main() -> None:
    shared = Multiprocess()
    from prometheus_client import Counter, Gauge, Histogram  # noqa: PLC0415 - after Multiprocess

    counter = Counter("jobs", 'Jobs: "all"\\\n.', ("kind",), registry=None)
    histogram = Histogram("job_seconds", "Time.", ("kind",), registry=None, buckets=(1.0, 2.0))
    gauge = Gauge("in_use", "Now.", ("what",), registry=None, multiprocess_mode="livesum")

    def join() -> str:
        shared.join()
        return str(shared.folder.path)

    def count(times: str) -> None:
        shared.join()
        for _ in range(int(times)):
            counter.labels("a").inc()
            histogram.labels("a").observe(1.5)
        gauge.labels("a").set(1)

    def count_on(times: str) -> None:
        for _ in range(int(times)):
            counter.labels("a").inc()

    orders: dict[str, Callable[..., object]] = {
        "join": join,
        "count": count,
        "count-on": count_on,
        "expose": shared.expose,
        "fork": lambda: _fork(counter),
        "leave": shared.leave,
    }
    for line in sys.stdin:
        order, *arguments = line.split()
        print(json.dumps(orders[order](*arguments)), flush=True)


def _fork(counter: object) -> int:
    """A child that counts one and ends; its exit code."""
    pid = os.fork()
    if pid == 0:
        counter.labels("a").inc()  # type: ignore[attr-defined]
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


main()
