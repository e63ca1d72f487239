"""The one CORS policy: exact origins, `Vary` always, nothing for strangers."""

import pytest

from asgi_health import CorsPolicy
from asgi_health.errors import ConfigurationError

ORIGIN = b"https://app.example"
POLICY = CorsPolicy(origins=("https://app.example", "http://localhost:3000"))


@pytest.mark.parametrize(
    "origin",
    [
        None,
        b"",
        b"null",
        b"*",
        b"https://evil.example",
        b"https://app.example.evil",
        b"https://app.example/",
        b"HTTPS://APP.EXAMPLE",
        b"http://app.example",
        b"https://app.example:443",
        b"https://app.example\r\nset-cookie: a=b",
        b"\xff\xfe",
    ],
)
def test_a_stranger_gets_vary_and_nothing_else(origin: bytes | None) -> None:
    assert POLICY.answer_headers(origin) == ((b"vary", b"Origin"),)
    assert POLICY.preflight_headers(origin) == ((b"vary", b"Origin"),)


def test_a_known_origin_is_named_and_may_read_the_exposed_headers() -> None:
    assert POLICY.answer_headers(ORIGIN) == (
        (b"vary", b"Origin"),
        (b"access-control-allow-origin", ORIGIN),
        (b"access-control-expose-headers", b"Retry-After"),
    )


def test_credentials_are_allowed_only_when_the_policy_says_so() -> None:
    open_policy = CorsPolicy(origins=("https://app.example",), allow_credentials=True)
    credentials = (b"access-control-allow-credentials", b"true")
    assert credentials in open_policy.answer_headers(ORIGIN)
    assert credentials in open_policy.preflight_headers(ORIGIN)
    assert credentials not in POLICY.answer_headers(ORIGIN)
    assert credentials not in POLICY.preflight_headers(ORIGIN)


def test_a_preflight_lists_methods_headers_and_age() -> None:
    policy = CorsPolicy(
        origins=("https://app.example",),
        allow_methods=("GET", "POST"),
        allow_headers=("range",),
        max_age_s=60,
    )
    assert policy.preflight_headers(ORIGIN) == (
        (b"vary", b"Origin"),
        (b"access-control-allow-origin", ORIGIN),
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", b"range"),
        (b"access-control-max-age", b"60"),
    )


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "app.example",
        "https://",
        "://app.example",
        "https://*.example",
        "https://app.example/",
        "https://App.example",
        "https://user@app.example",
        "https://app.example?x",
        "https://app.example#x",
        "https://app .example",
        "https://app.example\n",
        "",
    ],
)
def test_an_origin_that_is_not_exact_is_refused_with_a_sentence(origin: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CorsPolicy(origins=(origin,))
    sentence = str(caught.value)
    assert repr(origin) in sentence
    assert "allowed: scheme://host[:port]" in sentence
    assert "Name each origin exactly" in sentence


def test_a_negative_age_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_age_s is -1; allowed: 0 or more"):
        CorsPolicy(max_age_s=-1)


@pytest.mark.parametrize("option", ["allow_methods", "allow_headers", "expose_headers"])
@pytest.mark.parametrize("value", ["x\r\nset-cookie: a=b", "grün", "two words", ""])
def test_a_header_that_cannot_be_sent_is_refused_when_the_policy_is_built(
    option: str, value: str
) -> None:
    with pytest.raises(ConfigurationError, match=option):
        CorsPolicy(**{option: (value,)})
