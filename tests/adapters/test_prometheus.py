"""Counts of all processes in one scrape, exact however many of them are killed."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from asgi_health.adapters.prometheus import archive, multiprocess
from asgi_health.fleet.folder import InstanceFolder, Process, end_instance, name_instance
from asgi_health.fleet.scoreboard import instance_path

ROOT = Path(multiprocess.__file__).parents[3]
GIVEN = "PROMETHEUS_MULTIPROC_DIR"
INSTANCE = "ASGI_HEALTH_INSTANCE"


class Counting:
    """A process of prometheus_side.py."""

    def __init__(self, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("prometheus_side.py"))],
            env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = ""

    def ask(self, order: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> None:
        """Let it end by itself, unless it was killed."""
        with self.process as process:
            if process.stdin is not None and not process.stdin.closed:
                self.log = process.communicate(timeout=30)[1]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Counting]]:
    """Start a worker of the instance whose master is this process."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv(GIVEN, raising=False)
    env = {"TMPDIR": str(tmp_path), INSTANCE: str(Process.current())}
    started: list[Counting] = []

    def begin(**more: str) -> Counting:
        started.append(Counting(env | more))
        return started[-1]

    yield begin
    for one in started:
        one.kill()


def values(text: str) -> dict[tuple[str, str], float]:
    """All samples by name and bucket, read by prometheus_client's own strict parser."""
    families = list(text_string_to_metric_families(text + "# EOF\n"))
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in families
        for sample in family.samples
    }


def jobs(text: str) -> int:
    return int(values(text).get(("jobs_total", ""), 0))


def files(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).glob("*.db"))


def test_one_scrape_has_the_counts_of_all_and_is_well_formed(start) -> None:
    first, second = start(), start()
    first.ask("count 3")
    second.ask("count 4")
    text = first.ask("expose")
    told = values(text)
    assert told["jobs_total", ""] == 7
    assert told["job_seconds_count", ""] == told["job_seconds_bucket", "+Inf"] == 7
    assert (told["job_seconds_bucket", "1.0"], told["job_seconds_bucket", "2.0"]) == (0, 7)
    assert told["job_seconds_sum", ""] == 10.5
    assert told["in_use", ""] == 2
    assert values(second.ask("expose")) == told
    assert "EOF" not in text


def test_the_dead_keep_their_counts_and_leave_no_files(start) -> None:
    survivor = start()
    folder = survivor.ask("join")
    for number in range(1, 13):
        dies = start()
        dies.ask("count 5")
        dies.kill()
        told = values(survivor.ask("expose"))
        assert told["jobs_total", ""] == told["job_seconds_count", ""] == 5 * number
        assert told["job_seconds_sum", ""] == 7.5 * number
        assert told.get(("in_use", ""), 0) == 0
        assert len(files(folder)) <= 2  # the two archives
    assert [name.partition("_")[0] for name in files(folder)] == ["counter", "histogram"]


def test_a_worker_that_starts_folds_the_dead_without_a_scrape(start) -> None:
    for _ in range(4):
        dies = start()
        dies.ask("join")
        dies.ask("count 2")
        dies.kill()
    last = start()
    folder = last.ask("join")
    assert all("archive" in name for name in files(folder))
    assert jobs(last.ask("expose")) == 8


def test_scrapes_at_the_same_time_as_deaths_see_no_count_fall_and_none_twice(start) -> None:
    scrapers = [start() for _ in range(3)]
    for scraper in scrapers:
        scraper.ask("join")
    known, is_over = [0], [False]

    def watch(scraper: Counting) -> list[tuple[int, int, int]]:
        """What was certain before, what was told, what could be at most after."""
        seen = []
        while not is_over[0]:
            before = known[0]
            seen.append((before, jobs(scraper.ask("expose")), known[0] + 10))
        return seen

    with ThreadPoolExecutor(3) as pool:
        watched = [pool.submit(watch, scraper) for scraper in scrapers]
        try:
            for _ in range(12):
                dies = start()
                dies.ask("count 10")
                known[0] += 10
                dies.kill()
        finally:
            is_over[0] = True
        for one in watched:
            seen = one.result()
            told = [now for _, now, _ in seen]
            assert told == sorted(told)
            assert all(least <= now <= most for least, now, most in seen)
    assert jobs(scrapers[0].ask("expose")) == 120


class Killed(BaseException):
    """Stands for the end of the process that folds."""


@pytest.mark.parametrize("step", range(9))
def test_who_is_killed_while_folding_loses_and_doubles_nothing(
    start, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Every change of a file is a step; the process ends before one of them."""
    scraper = start()
    folder = Path(scraper.ask("join"))
    for count in (2, 3):  # the second time, there is an archive already
        dies = start()
        dies.ask(f"count {count}")
        if count == 2:
            dies.kill()
            scraper.ask("expose")
    dies.kill()
    steps = [step]
    for method in ("unlink", "replace"):
        monkeypatch.setattr(Path, method, _dying(getattr(Path, method), steps))
    found = [path for path in folder.glob("*.db") if multiprocess._is_dead(path.name)]
    with suppress(Killed):
        archive.Archive(folder).fold(found)
    monkeypatch.undo()
    for _ in range(2):
        told = values(scraper.ask("expose"))
        assert told["jobs_total", ""] == told["job_seconds_count", ""] == 5
    assert len(files(str(folder))) == 2


def _dying(original: Callable[..., Any], steps: list[int]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        steps[0] -= 1
        if steps[0] < 0:
            raise Killed
        return original(*arguments, **options)

    return call


def test_a_file_that_was_made_a_moment_ago_breaks_no_scrape(start) -> None:
    worker = start()
    worker.ask("count 1")
    folder = Path(worker.ask("join"))
    (folder / f"counter_{Process.current()}.db").touch()
    assert jobs(worker.ask("expose")) == 1


def test_a_forked_process_counts_for_itself(start) -> None:
    worker = start()
    worker.ask("count 1")
    assert worker.ask("fork") == 0
    assert jobs(worker.ask("expose")) == 2


def test_a_process_that_ends_closes_what_it_has_opened(start) -> None:
    worker = start(PYTHONWARNINGS="default")
    worker.ask("count 1")
    worker.ask("fork")
    worker.ask("expose")
    worker.end()
    assert (worker.process.returncode, worker.log) == (0, "")


# A folder that somebody clears: systemd-tmpfiles removes what is old, file by file.


def remove(folder: Path, pattern: str) -> None:
    """As a cleaner does."""
    assert [*folder.glob(pattern)]
    for path in folder.glob(pattern):
        path.unlink()


def test_counts_go_on_when_the_whole_folder_is_gone(start) -> None:
    first, second, dead = start(), start(), start()
    first.ask("count 3")
    second.ask("count 4")
    dead.ask("count 5")
    dead.kill()
    assert jobs(second.ask("expose")) == 12
    folder = Path(first.ask("join"))
    shutil.rmtree(folder)
    first.ask("count-on 1")
    second.ask("count-on 1")
    second.ask("join")
    told = values(first.ask("expose"))
    assert told["jobs_total", ""] == 9  # what the dead had counted is lost
    assert (told["job_seconds_count", ""], told["in_use", ""]) == (7, 2)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    first.ask("count-on 1")
    second.kill()
    assert jobs(first.ask("expose")) == 10
    assert jobs(start().ask("expose")) == 10


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        (".owners", 12),
        (".member-*", 12),
        (".lock", 12),
        (".*", 12),
        ("*_[0-9]*-*.db", 12),
        ("counter_[0-9]*", 12),
        ("gauge_*", 12),
        ("archive.json", 7),
        ("*_archive-*.db", 7),
        ("*", 7),
    ],
)
@pytest.mark.parametrize("is_chosen", [False, True])
def test_counts_go_on_when_a_part_of_the_folder_is_gone(
    start, tmp_path: Path, pattern: str, left: int, *, is_chosen: bool
) -> None:
    env = {GIVEN: str(tmp_path / "chosen")} if is_chosen else {}
    first, second, dead = start(**env), start(**env), start(**env)
    first.ask("count 3")
    second.ask("count 4")
    dead.ask("count 5")
    dead.kill()
    assert jobs(second.ask("expose")) == 12
    remove(Path(first.ask("join")), pattern)
    second.ask("join")
    assert jobs(first.ask("expose")) == left
    comes = start(**env)
    comes.ask("count 2")
    assert values(comes.ask("expose"))["in_use", ""] == 3
    first.ask("count-on 1")
    comes.kill()
    second.kill()
    for _ in range(2):
        assert jobs(first.ask("expose")) == left + 3


def test_who_joins_first_after_a_cleaner_removes_nothing_of_the_living(start) -> None:
    living = start()
    living.ask("count 3")
    folder = Path(living.ask("join"))
    remove(folder, ".*")
    assert jobs(start().ask("expose")) == 3


def test_a_cleared_folder_is_told_of_once(start) -> None:
    worker = start()
    worker.ask("count 1")
    shutil.rmtree(worker.ask("join"))
    for _ in range(3):
        worker.ask("expose")
    worker.end()
    assert worker.log.count("somebody has cleared") == 1


def test_a_scrape_at_the_moment_of_the_clearing_is_answered(start) -> None:
    worker = start()
    worker.ask("count 3")
    folder = Path(worker.ask("join"))

    def clear() -> None:
        for path in folder.glob("*"):
            path.unlink(missing_ok=True)

    with ThreadPoolExecutor(1) as pool:
        for number in range(1, 60):
            cleared = pool.submit(clear)
            worker.ask("expose")
            cleared.result()
            worker.ask("count 1")
            assert jobs(worker.ask("expose")) == 3 + number


# The folder.


def test_the_folder_is_private_and_goes_with_the_instance(start, tmp_path: Path) -> None:
    worker = start()
    folder = Path(worker.ask("join"))
    assert folder == instance_path(*Process.current(), suffix=".metrics")
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    worker.ask("leave")
    assert folder.exists()  # its master lives
    end_instance()
    assert not folder.exists()


def test_only_the_master_that_named_the_instance_ends_it(
    start, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(start().ask("join"))
    end_instance(Process(os.getppid(), 1))  # as in a worker that has inherited the call
    assert folder.exists()
    monkeypatch.setenv(INSTANCE, "")
    registered: list[Any] = []
    monkeypatch.setattr("atexit.register", lambda *call: registered.append(call))
    name_instance()
    assert os.environ[INSTANCE] == str(Process.current())
    ((call, *arguments),) = registered
    call(*arguments)
    assert not folder.exists()


def test_a_process_alone_has_a_folder_of_its_own_and_removes_it(start) -> None:
    alone = start(**{INSTANCE: ""})
    folder = Path(alone.ask("join"))
    assert str(alone.process.pid) in folder.name
    alone.ask("count 1")
    alone.end()
    assert not folder.exists()


def test_what_a_dead_instance_left_is_removed_at_the_next_start(start) -> None:
    gone = start(**{INSTANCE: ""})
    left = Path(gone.ask("join"))
    gone.kill()
    assert left.exists()
    here = Path(start().ask("join"))
    assert not left.exists()
    assert here.exists()


def test_a_folder_that_a_person_chose_is_emptied_once_and_kept(start, tmp_path: Path) -> None:
    given = tmp_path / "chosen"
    given.mkdir()
    for name in ("counter_1.db", "notes.txt"):
        (given / name).write_text("of before")
    env = {GIVEN: str(given)}
    first = start(**env)
    assert first.ask("join") == str(given)
    first.ask("count 1")
    assert not (given / "counter_1.db").exists()
    second = start(**env)
    second.ask("count 1")
    assert jobs(second.ask("expose")) == 2
    for one in (first, second):
        one.end()
    end_instance()
    assert (given / "notes.txt").exists()


def test_a_second_instance_in_a_chosen_folder_wipes_nothing_while_the_first_lives(
    start, tmp_path: Path
) -> None:
    env = {GIVEN: str(tmp_path / "chosen")}
    first = start(**env)
    first.ask("count 1")
    assert jobs(first.ask("expose")) == 1
    other = start(**env, **{INSTANCE: ""})
    assert jobs(other.ask("expose")) == 1


def test_a_chosen_folder_may_have_any_name(start, tmp_path: Path) -> None:
    given = tmp_path / "of-our.metrics"
    assert start(**{GIVEN: str(given)}).ask("join") == str(given)


COMERS_AND_GOERS = """
import sys
from pathlib import Path
from asgi_health.fleet.folder import InstanceFolder, Process

folder = InstanceFolder(Path(sys.argv[1]), owner=Process.current())
mine = folder.path / f"counter_{folder.owner}.db"
for _ in range(200):
    folder.join()
    mine.touch()
    with folder.locked(exclusive=False):
        mine.unlink()
    folder.leave()
"""


def test_who_comes_while_the_last_one_leaves_finds_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "asgi-health-shared.metrics"
    env = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), INSTANCE: ""}
    command = [sys.executable, "-c", COMERS_AND_GOERS, str(folder)]
    comers = [
        subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    told = [comer.communicate(timeout=60)[1] for comer in comers]
    assert told == [""] * 4
    assert list(tmp_path.iterdir()) == []


def test_an_instance_inside_of_another_has_a_folder_of_its_own(start) -> None:
    outer = Path(start().ask("join"))
    inner = start(**{GIVEN: str(outer), INSTANCE: str(Process(os.getppid(), 1))})
    assert Path(inner.ask("join")) != outer


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_folder_where_others_may_write_or_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = InstanceFolder.find(given=None)
    folder.path.mkdir()
    folder.path.chmod(mode)
    with pytest.raises(PermissionError, match="others may write"):
        folder.join()
