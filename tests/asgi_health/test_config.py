"""Each setting is validated when it is built; the sentence says found, allowed, what to change."""

import math
from typing import Any

import pytest
from server_side import SECRET

from asgi_health import CorsPolicy, HealthConfig, Warmup
from asgi_health.errors import ConfigurationError


def refusal(**options: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        HealthConfig(**options)
    assert isinstance(caught.value, ValueError)
    sentence = str(caught.value)
    assert "; allowed: " in sentence
    assert sentence.rstrip("'").endswith((".", ")")), sentence
    return sentence


def test_the_defaults_are_the_documented_ones() -> None:
    config = HealthConfig()
    assert (config.live_paths, config.ready_paths, config.startup_paths, config.status_path) == (
        ("/livez",),
        ("/readyz",),
        ("/startupz",),
        "/statusz",
    )
    assert (config.hold_s, config.hold_limit, config.boot_deadline_s) == (55.0, 512, 240.0)
    assert (config.failed_linger_s, config.drain_s, config.retry_after_s) == (60.0, 0.0, 1)
    assert (config.token, config.details_loopback, config.cors, config.warmup) == (
        None,
        False,
        None,
        None,
    )


@pytest.mark.parametrize(
    "option", ["live_paths", "ready_paths", "startup_paths", "status_path", "metrics_path"]
)
@pytest.mark.parametrize(
    "path", ["", "/", "health", "/health/", "/health?x", "/health#x", "/he alth", "/he%20alth"]
)
def test_a_path_that_cannot_be_matched_exactly_is_refused(option: str, path: str) -> None:
    sentence = refusal(**{option: path if option.endswith("_path") else (path,)})
    assert f"{option} is {path!r}" in sentence
    assert "Write for example '/" in sentence


def test_one_path_cannot_ask_two_questions() -> None:
    sentence = refusal(live_paths=("/livez", "/health"), ready_paths=("/readyz", "/health"))
    assert "ready_paths is '/health'" in sentence
    assert "Remove it here or from live_paths" in sentence


def test_one_path_cannot_be_named_twice_in_one_option() -> None:
    assert "Remove it here or from ready_paths" in refusal(ready_paths=("/readyz", "/readyz"))


@pytest.mark.parametrize("option", ["live_paths", "startup_paths"])
@pytest.mark.parametrize("path", ["/statusz", "/statusz/events", "/metrics"])
def test_the_page_its_events_and_the_metrics_overlap_with_nothing(option: str, path: str) -> None:
    first = {"live_paths": "/livez", "startup_paths": "/startupz"}[option]
    assert "Remove it here or from" in refusal(**{option: (first, path)})


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"ready_paths": ("/livez/loop",)}, "/livez/loop"),
        ({"startup_paths": ("/readyz/fleet",)}, "/readyz/fleet"),
        ({"status_path": "/readyz/boot"}, "/readyz/boot"),
        ({"live_paths": ("/livez", "/readyz/accepting")}, "/readyz/accepting"),
    ],
)
def test_a_path_cannot_hide_a_single_check(options: dict[str, Any], path: str) -> None:
    assert path in refusal(**options)


def test_a_path_below_the_first_ready_path_that_names_no_check_is_fine() -> None:
    config = HealthConfig(ready_paths=("/api/health", "/api/health/ready"))
    assert config.ready_paths[1] == "/api/health/ready"


@pytest.mark.parametrize("option", ["live_paths", "ready_paths"])
def test_a_platform_needs_a_live_and_a_ready_path(option: str) -> None:
    assert "one path or more" in refusal(**{option: ()})


def test_the_startup_path_and_the_page_may_be_left_out() -> None:
    config = HealthConfig(startup_paths=(), status_path=None, metrics_path=None)
    assert (config.startup_paths, config.status_path, config.metrics_path) == ((), None, None)


@pytest.mark.parametrize(
    ("option", "least"),
    [
        ("hold_s", 0),
        ("hold_limit", 0),
        ("boot_deadline_s", 0.001),
        ("failed_linger_s", 0),
        ("drain_s", 0),
        ("retry_after_s", 1),
    ],
)
def test_numbers_have_a_least_value_and_must_be_finite(option: str, least: float) -> None:
    assert getattr(HealthConfig(**{option: least}), option) == least
    for wrong in (least - 0.01, -1, math.nan, math.inf, -math.inf, "5", None):
        sentence = refusal(**{option: wrong})
        assert f"{option} is {wrong!r}" in sentence
        assert f"a number from {least:g} on" in sentence


def test_a_short_token_is_refused_and_not_repeated() -> None:
    sentence = refusal(token="x" * 31)
    assert "token is '<31 characters>'; allowed: at least 32 visible ASCII characters" in sentence
    assert "secrets.token_urlsafe" in sentence
    assert "xxx" not in sentence


@pytest.mark.parametrize("flaw", [" ", "\n", "\t", "\x00", "ü", "\x7f"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_repeated(flaw: str) -> None:
    sentence = refusal(token=SECRET + flaw)
    assert "token" in sentence
    assert SECRET not in sentence


def test_the_token_is_in_no_representation() -> None:
    config = HealthConfig(token=SECRET)
    assert config.token == SECRET
    assert SECRET not in repr(config)
    assert SECRET not in str(config)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        HealthConfig().hold_s = 1.0  # type: ignore[misc]


def test_the_environment_gives_every_documented_value() -> None:
    config = HealthConfig.from_environ(
        {
            "HEALTH_TOKEN": SECRET,
            "HEALTH_DETAILS_LOOPBACK": "yes",
            "HOLD_S": "2.5",
            "HOLD_LIMIT": "7",
            "BOOT_DEADLINE_S": "9",
            "FAILED_LINGER_S": "0",
            "DRAIN_S": "4",
            "UNRELATED": "x",
        }
    )
    assert config == HealthConfig(
        token=SECRET,
        details_loopback=True,
        hold_s=2.5,
        hold_limit=7,
        boot_deadline_s=9,
        failed_linger_s=0,
        drain_s=4,
    )


def test_an_empty_environment_gives_the_defaults() -> None:
    names = ("HEALTH_TOKEN", "HEALTH_DETAILS_LOOPBACK", "HOLD_S", "HOLD_LIMIT")
    assert HealthConfig.from_environ(dict.fromkeys(names, "")) == HealthConfig()
    assert HealthConfig.from_environ({}) == HealthConfig()


def test_overrides_win_and_their_name_in_the_environment_is_not_read() -> None:
    cors, warmup = CorsPolicy(), Warmup("/livez")
    config = HealthConfig.from_environ(
        {"HOLD_S": "not a number"}, hold_s=1.0, cors=cors, warmup=warmup
    )
    assert (config.hold_s, config.cors, config.warmup) == (1.0, cors, warmup)


@pytest.mark.parametrize("raw", ["1", "true", "YES", "On"])
def test_words_for_yes(raw: str) -> None:
    assert HealthConfig.from_environ({"HEALTH_DETAILS_LOOPBACK": raw}).details_loopback is True


@pytest.mark.parametrize("raw", ["0", "false", "NO", "Off"])
def test_words_for_no(raw: str) -> None:
    assert HealthConfig.from_environ({"HEALTH_DETAILS_LOOPBACK": raw}).details_loopback is False


@pytest.mark.parametrize(
    ("name", "raw", "allowed"),
    [
        ("HEALTH_DETAILS_LOOPBACK", "maybe", "1, true, yes, on, 0, false, no or off"),
        ("HOLD_S", "soon", "a number"),
        ("HOLD_LIMIT", "1.5", "a whole number"),
        ("BOOT_DEADLINE_S", "4m", "a number"),
        ("FAILED_LINGER_S", "-", "a number"),
        ("DRAIN_S", "5s", "a number"),
    ],
)
def test_an_unreadable_environment_value_is_named(name: str, raw: str, allowed: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HealthConfig.from_environ({name: raw})
    expected = f"{name} is {raw!r}; allowed: {allowed}. Correct the environment variable."
    assert str(caught.value) == expected


@pytest.mark.parametrize("raw", ["-1", "nan", "inf"])
def test_an_environment_value_out_of_range_is_refused(raw: str) -> None:
    with pytest.raises(ConfigurationError, match="hold_s is"):
        HealthConfig.from_environ({"HOLD_S": raw})


def test_a_short_token_from_the_environment_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        HealthConfig.from_environ({"HEALTH_TOKEN": "hunter2"})
    assert "hunter2" not in str(caught.value)
