"""What the benchmarks share: servers as processes, a heavy application, a load client, tables and
results.
"""

import argparse
import json
import os
import platform
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp

ROOT = Path(__file__).resolve().parent.parent
APPS = Path(__file__).resolve().parent / "apps"
RESULTS = ROOT / "var" / "benchmarks"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
LIMIT_S = 120.0

sys.path.insert(0, str(ROOT))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Rounds to count, and whether to write the document."""

    rounds: int
    write_docs: bool


def options(description: str) -> Options:
    """Read the command line that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds, after one warm-up")
    parser.add_argument("--write-docs", action="store_true", help="refresh docs/benchmarks.md")
    found = parser.parse_args()
    return Options(rounds=found.rounds, write_docs=found.write_docs)


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(
    *arguments: str, folder: Path, wait_for: str | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run `python -m ARGUMENTS` on a free port (`{port}` in the arguments) until the block ends."""
    port = free_port()
    process = start(*arguments, folder=folder, port=port)
    try:
        if wait_for is not None:
            until_200(port, wait_for)
        yield process, port
    finally:
        stop(process)


def start(
    *arguments: str, folder: Path, port: int, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `python -m ARGUMENTS` in a session of its own."""
    command = [sys.executable, "-m", *(word.format(port=port) for word in arguments)]
    paths = os.pathsep.join([str(ROOT), str(APPS), str(folder)])
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ask(port: int, path: str, *, timeout_s: float = 10.0) -> int | None:
    """The status of one GET on a new connection; None when nothing listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            head = connection.recv(64)
    except OSError:
        return None
    return int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/1.1 ") else None


def until_200(port: int, path: str, *, pause_s: float = 0.002) -> float:
    """Ask until 200; monotonic seconds of the moment."""
    end_s = time.monotonic() + LIMIT_S
    while time.monotonic() < end_s:
        if ask(port, path) == 200:
            return time.monotonic()
        time.sleep(pause_s)
    raise TimeoutError(f"no 200 from {path} within {LIMIT_S:g} s")


@contextmanager
def heavy_project(*, modules: int = 600) -> Iterator[Path]:
    """A folder with `heavy.py`, whose import computes for seconds: classes, regular expressions,
    large literals.
    """
    folder = Path(mkdtemp(prefix="heavy-"))
    try:
        package = folder / "heavy_parts"
        package.mkdir()
        (package / "__init__.py").write_text("")
        for number in range(modules):
            (package / f"part{number}.py").write_text(_part(number))
        imports = "".join(f"import heavy_parts.part{number}\n" for number in range(modules))
        (folder / "heavy.py").write_text(imports + _APPLICATION)
        (folder / "three_lines.py").write_text(_APPLICATION)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def heavy_site(*, modules: int = 600, wait_s: float = 0.0) -> Iterator[Path]:
    """A new Django project whose URLs import the heavy parts (or wait), and what `init` writes.

    `/hello/` says hello; nothing in it needs a database.
    """
    with heavy_project(modules=modules) as folder:
        for command in (
            ("django", "startproject", "mysite", str(folder)),
            ("asgi_health", "init", "mysite.settings", "--directory", str(folder)),
        ):
            made = start(*command, folder=folder, port=0)
            if made.wait() != 0:
                raise RuntimeError(f"python -m {' '.join(command)} failed")
        (folder / "mysite" / "urls.py").write_text(_URLS.format(wait_s=wait_s))
        yield folder


def start_fleet(
    folder: Path, *, port: int, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start two plain Uvicorn workers under Gunicorn, with the files that `init` wrote."""
    command = ("gunicorn", "-k", "uvicorn.workers.UvicornWorker", "health_asgi:app", "-w", "2")
    more = {"PORT": str(port), "READY_WORKERS_MIN": "2", **(environment or {})}
    return start(*command, folder=folder, port=port, environment=more)


def workers_of(pid: int, *, count: int) -> list[int]:
    """The workers of a Gunicorn server; waits until its other children have ended."""
    end_s = time.monotonic() + LIMIT_S
    while time.monotonic() < end_s:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if len(found) == count:
            return [int(child) for child in found]
        time.sleep(0.05)
    raise TimeoutError(f"never {count} workers")


def pss_mib(pids: Sequence[int]) -> float:
    """Memory of some processes, what they share counted once."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def probe_series(port: int, *, count: int, interval_s: float = 0.004) -> list[float]:
    """Milliseconds of `/livez` on `count` new connections, one each `interval_s`.

    A probe that is late does not delay the next one's schedule.
    """
    taken = []
    next_s = time.monotonic()
    for _ in range(count):
        next_s = max(next_s + interval_s, time.monotonic())
        time.sleep(max(0.0, next_s - time.monotonic()))
        begun_s = time.perf_counter()
        if ask(port, "/livez") != 200:
            raise RuntimeError("a probe was not answered with 200")
        taken.append(1000 * (time.perf_counter() - begun_s))
    return taken


_URLS = """\
import time

import heavy
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

time.sleep({wait_s})
urlpatterns = [path("hello/", csrf_exempt(lambda request: HttpResponse("hello")))]
"""


def _part(number: int) -> str:
    classes = "\n\n".join(
        f"@dataclass(frozen=True, slots=True)\nclass Record{number}x{i}:\n"
        + "\n".join(f"    field{j}: int = {j}" for j in range(6))
        for i in range(6)
    )
    patterns = "\n".join(
        f"PATTERN{i} = re.compile("
        f"r'^(?P<a{i}>[a-z]{{1,{number % 7 + 2}}}|\\d+{number}{i})(?:-(?P<b>\\w+))*[{i}x-z]?$')"
        for i in range(8)
    )
    table = {f"key-{number}-{i}": [i, str(i), {"nested": i * number}] for i in range(480)}
    head = "import re\nfrom dataclasses import dataclass\n\n"
    return f"{head}{classes}\n\n{patterns}\nTABLE = {table!r}\n"


_APPLICATION = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError(scope["type"])
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and of those that it started and reaped, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:13]) / os.sysconf("SC_CLK_TCK")


def load(port: int, path: str, *, seconds: float, connections: int = 16) -> int:
    """Requests answered with 200 in `seconds`, over kept connections, one request in flight on
    each.
    """
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    buffers: dict[socket.socket, bytes] = {}
    with selectors.DefaultSelector() as selector:
        for _ in range(connections):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(request)
            selector.register(connection, selectors.EVENT_READ)
            buffers[connection] = b""
        answered, end_s = 0, time.monotonic() + seconds
        while time.monotonic() < end_s:
            for key, _ in selector.select(1.0):
                connection = key.fileobj
                buffers[connection] += connection.recv(65536)
                if _is_whole(buffers[connection]):
                    answered += 1
                    buffers[connection] = b""
                    connection.sendall(request)
    for connection in buffers:
        connection.close()
    return answered


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"unexpected answer: {answer[:80]!r}")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return len(body) >= int(length)


def alternate(rounds: int, measures: Sequence[Callable[[], float]]) -> list[list[float]]:
    """One warm-up, then every measure once a round; in each round in the other order."""
    for measure in measures:
        measure()
    taken: list[list[float]] = [[] for _ in measures]
    for number in range(rounds):
        order = range(len(measures)) if number % 2 == 0 else reversed(range(len(measures)))
        for index in order:
            taken[index].append(measures[index]())
    return taken


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of all lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def ratio(ours: Sequence[float], peers: Sequence[float]) -> float:
    """The median of the ratios, round by round."""
    return statistics.median(a / b for a, b in zip(ours, peers, strict=True))


def publish(
    name: str,
    *,
    title: str,
    how: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    found: Options,
) -> None:
    """Print the table, write JSON, and refresh the section in the document when asked to."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(tz=UTC).strftime("%Y-%m-%d")
    record = {
        "title": title,
        "how": how,
        "head": list(head),
        "rows": [list(row) for row in rows],
        "date": stamp,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    table = [head, ["---"] * len(head), *rows]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    print(f"\n{title}\n\n" + "\n".join(lines), flush=True)
    if found.write_docs:
        command = f"`python benchmarks/{name}.py --rounds {found.rounds}`"
        note = f"{how} Rounds: {found.rounds}. {stamp}, {machine()}. {command}"
        _replace_section(name, "\n".join([f"### {title}", "", *lines, "", note]))


def machine() -> str:
    """What it ran on, in a few words."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("django", "uvicorn", "gunicorn"))
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {packages}"


def _replace_section(name: str, text: str) -> None:
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    document = DOCUMENT.read_text()
    if begin not in document:
        document += f"\n{begin}\n{end}\n"
    before, _, rest = document.partition(begin)
    DOCUMENT.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")
