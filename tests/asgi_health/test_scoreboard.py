"""The shared table: torn writes, killed writers, dead rows, links and orphans change no answer."""

import fcntl
import os
import random
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_health.fleet import scoreboard
from asgi_health.fleet.scoreboard import ROWS, Scoreboard, WorkerRow, is_alive, process_start
from asgi_health.phase import Phase

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the table needs flock")


def row(**changes: Any) -> WorkerRow:
    """A row of this very process."""
    values: dict[str, Any] = {
        "pid": os.getpid(),
        "start": process_start(os.getpid()),
        "phase": Phase.LOADING,
        "accepting": True,
        "started_at": 1.5,
        "ready_at": 0.0,
        "updated_s": 2.5,
        "rss_bytes": 4096,
    }
    return WorkerRow(**(values | changes))


@pytest.fixture
def board(tmp_path: Path) -> Any:
    made = Scoreboard(tmp_path / "table")
    yield made
    made.close()


def dead_process() -> tuple[int, int]:
    """The id and start of a process that has ended and was waited for."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        found = process.pid, process_start(process.pid)
        process.communicate(b"\n")
    return found


def test_a_new_table_is_empty_private_and_of_fixed_size(board: Scoreboard) -> None:
    assert board.rows() == []
    assert board.path.stat().st_mode & 0o777 == 0o600
    assert board.path.stat().st_size == ROWS * 256 + (ROWS + 1) * 64
    assert all(board.read(index) is None for index in range(ROWS))


def test_what_one_process_writes_another_reads(board: Scoreboard) -> None:
    other = Scoreboard(board.path)
    board.write(0, row())
    board.write(63, row(phase=Phase.READY))
    assert other.rows() == [(0, row()), (63, row(phase=Phase.READY))]
    board.write(0, None)
    assert other.read(0) is None
    other.close()


rows = st.builds(
    WorkerRow,
    pid=st.integers(1, 2**63),
    start=st.integers(0, 2**63),
    phase=st.sampled_from(Phase),
    accepting=st.booleans(),
    started_at=st.floats(allow_nan=False),
    ready_at=st.floats(allow_nan=False),
    updated_s=st.floats(allow_nan=False),
    rss_bytes=st.integers(0, 2**63),
    generation=st.integers(0, 2**32 - 1),
    in_flight=st.integers(0, 2**32 - 1),
    served=st.integers(0, 2**63),
    loop_lag_s=st.floats(allow_nan=False),
    leaving=st.booleans(),
)


@given(written=st.lists(st.none() | rows, max_size=6))
def test_the_last_write_is_what_is_read(
    written: list[WorkerRow | None], tmp_path_factory: Any
) -> None:
    table = Scoreboard(tmp_path_factory.mktemp("board") / "table")
    try:
        for one in written:
            table.write(5, one)
        assert table.read(5) == (written[-1] if written else None)
        assert table.read(4) is table.read(6) is None
    finally:
        table.close()


@pytest.mark.parametrize("seed", range(40))
def test_a_torn_write_leaves_the_last_good_slot(board: Scoreboard, seed: int) -> None:
    chance = random.Random(seed)
    generations = chance.randrange(2, 6)
    for generation in range(generations):
        board.write(3, row(rss_bytes=generation))
    newest = (generations - 1) % 2
    start = 3 * 256 + newest * 128
    for _ in range(chance.randrange(1, 8)):
        position = start + chance.randrange(83)
        board._map[position] = (board._map[position] + chance.randrange(1, 256)) % 256
    assert board.read(3) in (row(rss_bytes=generations - 2), row(rss_bytes=generations - 1))
    board.write(3, row(rss_bytes=99))
    assert board.read(3) == row(rss_bytes=99)


def test_a_half_written_slot_leaves_the_last_good_one(board: Scoreboard) -> None:
    board.write(0, row(rss_bytes=1))
    good = bytes(board._map[0:128])
    board.write(0, row(rss_bytes=2))
    whole = bytes(board._map[128:216])
    for cut in range(88):
        board._map[0:128] = good
        board._map[128:216] = whole[:cut] + bytes(88 - cut)
        assert board.read(0) in (row(rss_bytes=1), row(rss_bytes=2))
        if cut < 50:
            assert board.read(0) == row(rss_bytes=1)


def test_a_row_with_two_broken_slots_is_free_and_can_be_written(board: Scoreboard) -> None:
    board.write(0, row())
    board.write(0, row())
    board._map[0:256] = bytes(random.Random(1).randrange(256) for _ in range(256))
    assert board.read(0) is None
    board.write(0, row(rss_bytes=7))
    assert board.read(0) == row(rss_bytes=7)


@given(garbage=st.binary(min_size=256, max_size=256))
def test_no_garbage_whatever_makes_a_reader_raise(garbage: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("board") / "table"
    path.write_bytes(garbage * 64)
    table = Scoreboard(path)
    try:
        assert table.rows() == []
    finally:
        table.close()


KILLER = """
import os, signal, sys
from pathlib import Path
from asgi_health.phase import Phase
from asgi_health.fleet.scoreboard import Scoreboard, WorkerRow, process_start

board = Scoreboard(Path(sys.argv[1]))

def consistent(row):
    return row is None or row.rss_bytes == row.start * 3 == row.updated_s * 3

for kill in range(150):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0
        while True:
            count += 1
            board.write(0, WorkerRow(
                pid=os.getpid(), start=count, phase=Phase.READY, accepting=True, started_at=0.0,
                ready_at=0.0, updated_s=float(count), rss_bytes=count * 3))
            if count == 3:
                os.write(writing, b"x")
    os.read(reading, 1)
    for _ in range(kill * 3):
        row = board.read(0)
        assert consistent(row), row
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    row = board.read(0)
    assert row is not None and row.pid == child and consistent(row), row
    assert board.rows() == []
    os.close(reading), os.close(writing)
print("survived")
"""


def test_writers_killed_in_the_middle_of_writes_corrupt_nothing(tmp_path: Path) -> None:
    root = str(Path(scoreboard.__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path / "table")],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert (run.stdout, run.stderr) == ("survived\n", "")


def test_rows_of_dead_processes_are_ignored(board: Scoreboard) -> None:
    pid, start = dead_process()
    board.write(0, row(pid=pid, start=start))
    board.write(1, row())
    assert board.rows() == [(1, row())]


def test_a_process_with_the_same_id_as_a_dead_one_is_another(board: Scoreboard) -> None:
    board.write(0, row(start=process_start(os.getpid()) + 1))
    assert board.rows() == []
    assert is_alive(os.getpid(), process_start(os.getpid()))
    assert not is_alive(os.getpid(), process_start(os.getpid()) + 1)


def test_a_process_that_nobody_has_waited_for_yet_counts_as_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        start = process_start(process.pid)
        assert is_alive(process.pid, start)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, not reaped
        assert not is_alive(process.pid, start)


def test_a_process_of_another_user_counts_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, signum: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert is_alive(1, 2)


def test_where_start_times_are_unknown_the_id_decides() -> None:
    assert process_start(2**31 - 1) == 0


def test_the_lock_excludes_other_opens_of_the_table(board: Scoreboard) -> None:
    other = Scoreboard(board.path)
    with board.locked(), pytest.raises(BlockingIOError):
        fcntl.flock(other._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with other.locked():
        pass
    other.close()


def test_the_lock_is_released_after_an_error(board: Scoreboard) -> None:
    with pytest.raises(OSError, match="no"), board.locked():
        raise OSError("no")
    other = Scoreboard(board.path)
    fcntl.flock(other._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    other.close()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0


@pytest.mark.parametrize("obstacle", ["link", "dangling link", "folder", "another user", "full"])
def test_a_table_that_cannot_be_trusted_or_had_is_refused_without_leaking_descriptors(
    obstacle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, victim = tmp_path / "table", tmp_path / "victim"
    if obstacle == "link":
        victim.write_text("precious")
        path.symlink_to(victim)
    elif obstacle == "dangling link":
        path.symlink_to(victim)
    elif obstacle == "folder":
        path.mkdir()
    elif obstacle == "another user":
        uid = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: uid)
    else:

        def no_space(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", no_space, raising=False)
    before = open_descriptors()
    with pytest.raises(OSError, match=r".+"):
        Scoreboard(path)
    assert open_descriptors() == before
    assert not victim.exists() or victim.read_text() == "precious"


def test_the_table_of_an_instance_is_named_after_its_parent_and_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first = Scoreboard.of_instance(parent_pid=os.getpid())
    second = Scoreboard.of_instance(parent_pid=os.getpid())
    other = Scoreboard.of_instance(parent_pid=os.getppid())
    assert first.path == second.path != other.path
    assert first.path.parent == tmp_path
    for made in (first, second, other):
        made.close()


def test_tables_of_dead_parents_are_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    uid = os.geteuid()
    pid, start = dead_process()
    host = f"{zlib.crc32(os.uname().nodename.encode()):08x}"
    here, since = os.getpid(), process_start(os.getpid())
    ours = f"asgi-health-{uid}-{host}"
    orphans = [f"{ours}-{pid}-{start}.board", f"{ours}-{here}-1.board"]
    kept = [
        f"{ours}-{here}-{since}.board",
        f"asgi-health-{uid + 1}-{host}-{pid}-{start}.board",
        f"asgi-health-{uid}-another0-{pid}-{start}.board",
        f"{ours}-x-{start}.board",
        f"{ours}-{pid}.board",
        "asgi-health.board",
        "other.txt",
    ]
    for name in orphans + kept:
        (tmp_path / name).write_bytes(b"")
    Scoreboard.of_instance(parent_pid=here).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_removing_a_table_does_not_remove_the_one_that_took_its_name(board: Scoreboard) -> None:
    board.path.unlink()
    successor = Scoreboard(board.path)
    assert board.is_removed
    assert not successor.is_removed
    board.remove()
    assert successor.path.exists()
    assert not successor.is_removed
    successor.remove()
    assert successor.is_removed
    successor.remove()
    successor.close()
