"""Each setting of the fleet is validated when it is built, and read by its documented name."""

import math
from typing import Any

import pytest

from asgi_health.errors import ConfigurationError
from asgi_health.fleet.config import FleetConfig


def refusal(**options: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        FleetConfig(**options)
    return str(caught.value)


def test_the_defaults_are_the_documented_ones() -> None:
    config = FleetConfig()
    assert (config.warm_boot, config.drain_s, config.ready_workers_min) == (True, 0.0, 1)
    assert (config.crash_window_s, config.crash_limit, config.on_crash_loop) == (60.0, 5, "serve")
    assert (config.worker_rss_limit_mib, config.loop_lag_warn_s) == (0, 1.0)
    assert config.pin_workers is False


@pytest.mark.parametrize(
    ("option", "least"), [("ready_workers_min", 1), ("crash_limit", 2), ("worker_rss_limit_mib", 0)]
)
def test_counts_are_whole_and_have_a_least_value(option: str, least: int) -> None:
    assert getattr(FleetConfig(**{option: least}), option) == least
    for wrong in (least - 1, least + 0.5, math.nan, math.inf, "5", None):
        assert refusal(**{option: wrong}) == (
            f"{option} is {wrong!r}; allowed: a whole number from {least} on. "
            "See FleetConfig for its unit and default."
        )


@pytest.mark.parametrize("option", ["drain_s", "loop_lag_warn_s"])
def test_seconds_may_be_zero_and_must_be_finite(option: str) -> None:
    assert getattr(FleetConfig(**{option: 0}), option) == 0
    for wrong in (-0.01, math.nan, math.inf, "5", None):
        sentence = refusal(**{option: wrong})
        assert f"{option} is {wrong!r}; allowed: a number from 0 on. See " in sentence


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, "5", None])
def test_the_window_of_crashes_cannot_be_empty(wrong: Any) -> None:
    assert FleetConfig(crash_window_s=0.1).crash_window_s == 0.1
    sentence = refusal(crash_window_s=wrong)
    assert f"crash_window_s is {wrong!r}; allowed: a number above 0. See " in sentence


def test_a_crash_loop_is_survived_or_ends_the_server_and_nothing_else() -> None:
    assert FleetConfig(on_crash_loop="exit").on_crash_loop == "exit"
    assert "on_crash_loop is 'halt'; allowed: serve or exit. See " in refusal(on_crash_loop="halt")


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        FleetConfig().crash_limit = 9  # type: ignore[misc]


def test_the_environment_gives_every_documented_value() -> None:
    config = FleetConfig.from_environ(
        {
            "WARM_BOOT": "off",
            "DRAIN_S": "2.5",
            "READY_WORKERS_MIN": "3",
            "CRASH_WINDOW_S": "30",
            "CRASH_LIMIT": "4",
            "ON_CRASH_LOOP": "exit",
            "WORKER_RSS_LIMIT_MIB": "512",
            "LOOP_LAG_WARN_S": "0",
            "PIN_WORKERS": "1",
            "UNRELATED": "x",
        }
    )
    assert config == FleetConfig(
        warm_boot=False,
        drain_s=2.5,
        ready_workers_min=3,
        crash_window_s=30,
        crash_limit=4,
        on_crash_loop="exit",
        worker_rss_limit_mib=512,
        loop_lag_warn_s=0,
        pin_workers=True,
    )


def test_empty_values_give_the_defaults() -> None:
    empty = {"WARM_BOOT": "", "DRAIN_S": "", "ON_CRASH_LOOP": ""}
    assert FleetConfig.from_environ(empty) == FleetConfig.from_environ({}) == FleetConfig()


def test_overrides_win_and_their_name_in_the_environment_is_not_read() -> None:
    assert FleetConfig.from_environ({"CRASH_LIMIT": "many"}, crash_limit=3).crash_limit == 3


@pytest.mark.parametrize(
    ("name", "raw", "allowed"),
    [
        ("WARM_BOOT", "maybe", "1, true, yes, on, 0, false, no or off"),
        ("DRAIN_S", "5s", "a number"),
        ("READY_WORKERS_MIN", "1.5", "a whole number"),
    ],
)
def test_an_unreadable_environment_value_is_named(name: str, raw: str, allowed: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        FleetConfig.from_environ({name: raw})
    expected = f"{name} is {raw!r}; allowed: {allowed}. Correct the environment variable."
    assert str(caught.value) == expected


def test_an_environment_value_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="on_crash_loop is 'halt'"):
        FleetConfig.from_environ({"ON_CRASH_LOOP": "halt"})
