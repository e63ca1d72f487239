"""What master and workers tell each other, between real processes."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from process_side import Say, done_by_a_child

from asgi_health.fleet.config import FleetConfig
from asgi_health.fleet.masterboard import Masterboard, Stage
from asgi_health.fleet.scoreboard import ROWS


@pytest.fixture
def board() -> Iterator[Masterboard]:
    made = Masterboard(FleetConfig(), is_warm=True)
    yield made
    made.workers.close()


def test_a_new_board_says_that_the_instance_serves_and_nothing_else(board: Masterboard) -> None:
    assert board.stage is Stage.SERVING
    assert not board.was_complete
    assert board.workers_wanted == 0
    assert board.notice == {}
    assert board.bulletin.read() is None
    assert board.workers.rows() == []
    assert [board.take_words(index) for index in range(ROWS)] == [""] * ROWS


def facts(board: Masterboard) -> dict[str, Any]:
    return {
        "stage": int(board.stage),
        "complete": board.was_complete,
        "wanted": board.workers_wanted,
        "notice": board.notice,
        "bulletin": board.bulletin.read(),
    }


CHANGES: dict[str, tuple[Callable[[Masterboard], Any], Any]] = {
    "stage": (lambda board: setattr(board, "stage", Stage.STOPPING), 2),
    "complete": (lambda board: setattr(board, "was_complete", True), True),
    "wanted": (lambda board: setattr(board, "workers_wanted", 300), 300),
    "notice": (lambda board: board.tell({"restarts": 3}), {"restarts": 3}),
    "bulletin": (lambda board: board.bulletin.write({"steps": []}), {"steps": []}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_one_process_says_all_others_see_and_nothing_else_changes(
    board: Masterboard, name: str
) -> None:
    change, value = CHANGES[name]
    expected = facts(board) | {name: value}

    def work(say: Say) -> None:
        change(board)

    with_none = done_by_a_child(work)
    assert with_none is None
    assert facts(board) == expected
    assert done_by_a_child(lambda say: facts(board)) == expected


@pytest.mark.parametrize("stage", list(Stage))
def test_every_stage_can_be_said_and_taken_back(board: Masterboard, stage: Stage) -> None:
    board.stage = stage
    assert board.stage is stage
    board.stage = Stage.SERVING
    assert board.stage is Stage.SERVING


def test_a_word_without_room_is_refused_and_the_old_one_stays(board: Masterboard) -> None:
    assert board.tell({"restarts": 1})
    assert not board.tell({"restarts": 2, "endings": ["x" * 70_000]})
    assert board.notice == {"restarts": 1}


def test_ten_endings_with_their_last_words_have_room(board: Masterboard) -> None:
    endings = []
    for _ in range(10):
        board.leave_words(0, 'File "/srv/app.py", line 1\n' * 200)
        endings.append({"pid": 1, "reason": "exit code 1", "last_words": board.take_words(0)})
    assert board.tell({"endings": endings})
    assert board.notice == {"endings": endings}


def test_last_words_are_heard_once(board: Masterboard) -> None:
    done_by_a_child(lambda say: board.leave_words(5, "Traceback: ValueError"))
    assert board.take_words(5) == "Traceback: ValueError"
    assert board.take_words(5) == ""


def test_each_row_has_words_of_its_own(board: Masterboard) -> None:
    for index in range(ROWS):
        board.leave_words(index, f"words of {index} " + "x" * 5000 + f" end {index}")
    for index in range(ROWS):
        assert board.take_words(index).endswith(f"x end {index}")
    assert board.notice == {}
    assert board.bulletin.read() is None


@pytest.mark.parametrize("filling", ["x", '"', "\n", "\\", "\x1b", "\0", "\u00e9", "\U0001f600"])
def test_of_long_last_words_the_end_is_kept_whatever_they_are_made_of(
    board: Masterboard, filling: str
) -> None:
    board.leave_words(0, "older")
    board.leave_words(0, "the beginning" + filling * 20_000 + "ValueError: no")
    kept = board.take_words(0)
    assert kept.endswith("ValueError: no")
    assert "beginning" not in kept
    assert len(kept) > 200


def test_last_words_beyond_ascii_are_kept_readable(board: Masterboard) -> None:
    board.leave_words(0, "ValueError: caf\u00e9")
    assert board.take_words(0) == "ValueError: caf?"
