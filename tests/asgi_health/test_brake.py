"""Who dies young makes the next one wait; kills from outside are forgiven twice."""

import pytest

from asgi_health.fleet.brake import Brake, DeathKind

CRASH, KILLED, CLEAN = DeathKind.CRASH, DeathKind.KILLED, DeathKind.CLEAN


class Fleet:
    """A brake with a clock that stands still until told, and the longest wait."""

    def __init__(self, *, window_s: float = 20.0, limit: int = 5, jitter: float = 1.0) -> None:
        self.now = 1000.0
        self.brake = Brake(
            window_s=window_s, limit=limit, clock=lambda: self.now, jitter=lambda: jitter
        )

    def die(self, kind: DeathKind = CRASH, *, after_s: float = 0.0, age_s: float = 1.0) -> float:
        """A death; what the next worker must wait."""
        self.now += after_s
        self.brake.died(started_s=self.now - age_s, kind=kind)
        return self.brake.delay_s()


def test_nobody_waits_before_a_death() -> None:
    fleet = Fleet()
    assert fleet.brake.delay_s() == 0.0
    assert fleet.brake.deaths_in_window == 0
    assert not fleet.brake.is_looping


def test_each_further_crash_doubles_the_wait_up_to_thirty_seconds() -> None:
    fleet = Fleet()
    waits = [fleet.die() for _ in range(11)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]


def test_thousands_of_crashes_still_make_a_wait_of_thirty_seconds() -> None:
    fleet = Fleet()
    assert [fleet.die() for _ in range(5000)][-1] == 30.0


@pytest.mark.parametrize(("jitter", "wait"), [(0.0, 0.1), (0.5, 0.15), (1.0, 0.2)])
def test_jitter_takes_up_to_half_of_the_wait_and_adds_nothing(jitter: float, wait: float) -> None:
    fleet = Fleet(jitter=jitter)
    fleet.die()
    assert fleet.die() == pytest.approx(wait)


def test_a_quiet_minute_after_the_wait_resets_it() -> None:
    fleet = Fleet(window_s=300.0)
    fleet.die()
    assert fleet.die() == 0.2
    fleet.now += 60.1
    assert fleet.brake.delay_s() == 0.2
    fleet.now += 0.2
    assert fleet.brake.delay_s() == 0.0
    assert fleet.die() == 0.1


def test_a_wait_is_no_quiet_time() -> None:
    fleet = Fleet()
    for _ in range(10):
        fleet.die()
    assert fleet.die(after_s=89.0) == 30.0
    assert fleet.die(after_s=91.0) == 0.1


@pytest.mark.parametrize("kind", [CRASH, KILLED])
def test_a_worker_that_lived_longer_than_the_window_is_remembered_for_nothing(
    kind: DeathKind,
) -> None:
    fleet = Fleet(window_s=20.0, limit=1)
    for _ in range(4):
        assert fleet.die(kind, after_s=1.5, age_s=20.1) == 0.0
    assert fleet.brake.deaths_in_window == 0
    assert fleet.die(CRASH, age_s=20.0) == 0.1
    assert fleet.brake.is_looping


def test_a_clean_end_never_counts() -> None:
    fleet = Fleet(limit=1)
    assert [fleet.die(CLEAN, after_s=1.5) for _ in range(9)] == [0.0] * 9
    assert not fleet.brake.is_looping


def test_the_third_kill_in_the_window_counts_and_each_one_after_it() -> None:
    fleet = Fleet()
    waits = [fleet.die(KILLED, after_s=1.5) for _ in range(5)]
    assert waits == [0.0, 0.0, 0.1, 0.2, 0.4]
    assert fleet.brake.deaths_in_window == 3


def test_kills_that_leave_the_window_are_forgiven_again() -> None:
    fleet = Fleet(window_s=20.0)
    assert [fleet.die(KILLED, after_s=10.1) for _ in range(6)] == [0.0] * 6
    assert [fleet.die(KILLED, after_s=10.0) for _ in range(2)] == [0.0, 0.1]


def test_killing_the_whole_fleet_at_once_is_one_kill() -> None:
    fleet = Fleet()
    for _ in range(2):
        fleet.now += 2.0
        assert [fleet.die(KILLED, after_s=0.1) for _ in range(8)] == [0.0] * 8
    fleet.now += 2.0
    assert [fleet.die(KILLED, after_s=0.1) for _ in range(8)] == [0.1] * 8
    assert fleet.brake.deaths_in_window == 1


def test_a_chain_of_kills_does_not_stay_one_kill_forever() -> None:
    fleet = Fleet()
    waits = [fleet.die(KILLED, after_s=0.75) for _ in range(6)]
    assert waits == [0.0, 0.0, 0.0, 0.0, 0.1, 0.1]


def test_it_is_a_loop_at_the_limit_until_a_window_passes_without_a_death() -> None:
    fleet = Fleet(window_s=20.0, limit=3)
    fleet.die()
    fleet.die(after_s=5.0)
    assert not fleet.brake.is_looping
    fleet.die(after_s=5.0)
    assert fleet.brake.is_looping
    fleet.now += 20.0
    assert fleet.brake.is_looping  # the third wait was 0.4 s
    fleet.now += 0.5
    assert not fleet.brake.is_looping


def test_a_loop_whose_waits_have_grown_is_still_one() -> None:
    fleet = Fleet(window_s=20.0, limit=3)
    for wait_s in (0.1, 0.1, 0.2, 19.0, 19.0, 19.0):
        fleet.die(after_s=wait_s)
    assert fleet.brake.deaths_in_window < 3
    assert fleet.brake.is_looping


def test_kills_and_crashes_are_told_apart() -> None:
    fleet = Fleet()
    assert fleet.die(CRASH) == 0.1
    assert fleet.die(KILLED, after_s=2.0) == 0.1
    assert fleet.die(CRASH, after_s=2.0) == 0.2
    assert fleet.brake.deaths_in_window == 2


def test_the_jitter_of_production_stays_within_its_bounds() -> None:
    brake = Brake(window_s=1e9, limit=1)
    brake.died(started_s=0.0, kind=CRASH)
    waits = {brake.delay_s() for _ in range(100)}
    assert len(waits) > 1
    assert all(0.05 <= wait <= 0.1 for wait in waits)
