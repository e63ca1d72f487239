"""The state machine: every event in every phase, and who is woken."""

import asyncio
import itertools

import pytest
from server_side import limited, settle

from asgi_health.errors import IllegalTransition
from asgi_health.phase import TRANSITIONS, UNSETTLED, Event, Failure, Lifecycle, Phase

FAILURE = Failure(code="boot.error", message="first", traceback="Traceback …")

# Written by hand, on purpose not derived from TRANSITIONS: "-" is illegal.
#            load       loaded   fail      drain       stop
EXPECTED = """
starting     loading    -        failed    draining    -
loading      -          ready    failed    draining    -
ready        -          -        -         draining    -
draining     -          -        -         -           stopped
stopped      -          -        -         -           -
failed       -          -        -         -           stopped
"""
EVENTS = ["load", "loaded", "fail", "drain", "stop"]
CASES = [
    (row.split()[0], event, row.split()[1 + column])
    for row in EXPECTED.strip().splitlines()
    for column, event in enumerate(EVENTS)
]

# How to get a process into each phase.
ROAD = {
    "starting": [],
    "loading": ["load"],
    "ready": ["load", "loaded"],
    "draining": ["drain"],
    "stopped": ["drain", "stop"],
    "failed": ["load", "fail"],
}


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def happen(lifecycle: Lifecycle, event: str) -> Phase:
    failure = FAILURE if event == "fail" else None
    return lifecycle.advance(Event(event), failure=failure)


def lifecycle_in(phase: str, clock: FakeClock | None = None) -> Lifecycle:
    lifecycle = Lifecycle(clock=clock or FakeClock())
    for event in ROAD[phase]:
        happen(lifecycle, event)
    assert lifecycle.phase == phase
    return lifecycle


def test_the_table_covers_every_phase_and_every_event() -> None:
    pairs = {(phase, event) for phase, event, _ in CASES}
    assert pairs == set(itertools.product(map(str, Phase), map(str, Event)))


@pytest.mark.parametrize(("phase", "event", "expected"), CASES)
def test_every_event_in_every_phase_does_what_the_table_says(
    phase: str, event: str, expected: str
) -> None:
    lifecycle = lifecycle_in(phase)
    entered = dict(lifecycle.entered_s)
    if expected == "-":
        assert not lifecycle.can(Event(event))
        with pytest.raises(IllegalTransition) as caught:
            happen(lifecycle, event)
        assert (caught.value.phase, caught.value.event) == (phase, event)
        assert lifecycle.phase == phase
        assert lifecycle.entered_s == entered
    else:
        assert lifecycle.can(Event(event))
        assert happen(lifecycle, event) == expected
        assert lifecycle.phase == expected
        assert set(lifecycle.entered_s) == {*entered, Phase(expected)}


def test_the_table_of_transitions_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[Phase.STOPPED, Event.LOAD] = Phase.LOADING  # type: ignore[index]


def test_the_sentence_of_an_illegal_transition_says_found_and_what_to_do() -> None:
    with pytest.raises(IllegalTransition, match=r"'stop' in phase 'ready'.*Ask Lifecycle\.can"):
        lifecycle_in("ready").advance(Event.STOP)


def test_each_phase_keeps_the_time_at_which_it_was_entered() -> None:
    lifecycle = Lifecycle(clock=FakeClock())
    for event in ("load", "loaded", "drain", "stop"):
        happen(lifecycle, event)
    assert lifecycle.entered_s == {
        "starting": 101.0,
        "loading": 102.0,
        "ready": 103.0,
        "draining": 104.0,
        "stopped": 105.0,
    }


@pytest.mark.parametrize("phase", ROAD)
def test_only_a_process_that_passed_ready_was_ready(phase: str) -> None:
    assert lifecycle_in(phase).was_ready is (phase == "ready")


def test_a_process_that_was_ready_stays_so_for_ever() -> None:
    lifecycle = lifecycle_in("ready")
    happen(lifecycle, "drain")
    assert lifecycle.was_ready
    happen(lifecycle, "stop")
    assert lifecycle.was_ready


def test_the_failure_is_kept_after_the_stop() -> None:
    lifecycle = lifecycle_in("failed")
    assert lifecycle.failure is FAILURE
    happen(lifecycle, "stop")
    assert lifecycle.failure is FAILURE


def test_a_second_failure_is_illegal_and_leaves_the_first() -> None:
    lifecycle = lifecycle_in("failed")
    second = Failure(code="boot.error", message="second", traceback="")
    with pytest.raises(IllegalTransition):
        lifecycle.advance(Event.FAIL, failure=second)
    assert lifecycle.failure is FAILURE


def test_a_failed_boot_needs_its_failure() -> None:
    lifecycle = lifecycle_in("loading")
    with pytest.raises(ValueError, match="FAIL"):
        lifecycle.advance(Event.FAIL)
    assert lifecycle.phase == "loading"


def test_no_other_event_takes_a_failure() -> None:
    lifecycle = lifecycle_in("loading")
    with pytest.raises(ValueError, match="FAIL"):
        lifecycle.advance(Event.LOADED, failure=FAILURE)
    assert lifecycle.phase == "loading"


@pytest.mark.parametrize("phase", ROAD)
def test_a_forked_process_begins_anew_whatever_its_parent_had_come_to(phase: str) -> None:
    lifecycle = lifecycle_in(phase)
    lifecycle.restart()
    assert lifecycle.phase == "starting"
    assert lifecycle.failure is None
    assert not lifecycle.was_ready
    assert set(lifecycle.entered_s) == {"starting"}
    assert happen(lifecycle, "load") == "loading"
    assert lifecycle.entered_s["loading"] - lifecycle.entered_s["starting"] == 1.0


async def test_whoever_waits_is_woken_in_the_order_of_asking() -> None:
    lifecycle = lifecycle_in("starting")
    woken: list[int] = []

    async def wait(number: int) -> None:
        await lifecycle.left(UNSETTLED)
        woken.append(number)

    tasks = []
    for number in range(50):
        tasks.append(asyncio.create_task(wait(number)))
        await settle(1)
    happen(lifecycle, "load")
    await settle()
    assert woken == []
    happen(lifecycle, "loaded")
    await limited(asyncio.gather(*tasks))
    assert woken == list(range(50))


@pytest.mark.parametrize(("event", "phase"), [("loaded", "ready"), ("fail", "failed")])
async def test_a_waiter_learns_the_phase_that_ended_its_waiting(event: str, phase: str) -> None:
    lifecycle = lifecycle_in("loading")
    waiting = lifecycle.left(UNSETTLED)
    happen(lifecycle, event)
    assert await limited(waiting) == phase


async def test_who_asks_too_late_has_the_answer_at_once() -> None:
    assert lifecycle_in("ready").left(UNSETTLED).result() == "ready"


async def test_a_waiter_keeps_the_first_phase_although_more_follow() -> None:
    lifecycle = lifecycle_in("loading")
    waiting = lifecycle.left(UNSETTLED)
    happen(lifecycle, "loaded")
    happen(lifecycle, "drain")
    assert await limited(waiting) == "ready"


async def test_a_cancelled_waiter_is_forgotten() -> None:
    lifecycle = lifecycle_in("loading")
    waiting, other = lifecycle.left(UNSETTLED), lifecycle.left(UNSETTLED)
    waiting.cancel()
    await settle()
    assert list(lifecycle._waiters) == [other]
    happen(lifecycle, "loaded")
    assert waiting.cancelled()
    assert await limited(other) == "ready"
    await settle()
    assert not lifecycle._waiters


async def test_a_waiter_cancelled_in_the_same_turn_breaks_no_transition() -> None:
    lifecycle = lifecycle_in("loading")
    lifecycle.left(UNSETTLED).cancel()
    assert happen(lifecycle, "loaded") == "ready"
